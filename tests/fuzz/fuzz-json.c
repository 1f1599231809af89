// SPDX-License-Identifier: GPL-2.0-or-later
#include <json-c/json.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

/* Any bytes: refused with an error, or a document of plain C strings; and what the emitter writes of any text
 * parses to the same text. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_strings(struct json_object *object, unsigned depth) {
    if (depth > JSON_DEPTH_MAX)
        abort();
    if (json_object_is_type(object, json_type_string) &&
        strlen(json_object_get_string(object)) != (size_t) json_object_get_string_len(object))
        abort();
    if (json_object_is_type(object, json_type_array))
        for (size_t i = 0; i < json_object_array_length(object); i++)
            check_strings(json_object_array_get_idx(object, i), depth + 1);
    if (json_object_is_type(object, json_type_object)) {
        json_object_object_foreach(object, key, value) {
            if (!text_is_utf8(key, strlen(key)))
                abort();
            check_strings(value, depth + 1);
        }
    }
}

static void check_emitter(const char *text, size_t size) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *object = NULL;

    if (memchr(text, 0, size))
        return;
    emit_text_sized(&emitter, text, size);
    if (json_parse(out.data, out.size, &object, NULL) < 0)
        abort();
    if (text_is_utf8(text, size) && (strlen(json_object_get_string(object)) != size ||
                                     memcmp(json_object_get_string(object), text, size) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_json_ struct json_object *object = NULL;

    if (json_parse((const char *) data, size, &object, &error) == 0)
        check_strings(object, 0);
    else if (!error_is_set(&error))
        abort();
    check_emitter((const char *) data, size);
    return 0;
}
