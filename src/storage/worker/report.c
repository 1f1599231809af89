// SPDX-License-Identifier: GPL-2.0-or-later
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

struct failure_name {
    const char *wire, *kind;
};

static const struct failure_name failure_names[FAILURE_CODE_COUNT] = {
    [FAILURE_NONE] = { "none", "internal" },
#define FAILURE_ROW(code, wire, kind) [FAILURE_##code] = { wire, kind },
#include "failures.def"
#undef FAILURE_ROW
};

static const struct failure_name *failure_name(int code) {
    if (code < 0 || code >= FAILURE_CODE_COUNT)
        code = FAILURE_INTERNAL;
    return &failure_names[code];
}

const char *failure_wire(int code) {
    return failure_name(code)->wire;
}

int fail(struct failure *failure, enum failure_code code, const char *field, const char *format, ...) {
    if (failure->code != FAILURE_NONE)
        return -EBADMSG;
    failure->code = code;
    snprintf(failure->field, sizeof(failure->field), "%s", field ? field : "");

    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof(failure->message), format, arguments);
    va_end(arguments);
    return -EBADMSG;
}

int fail_errno(struct failure *failure, int number, const char *field, const char *what) {
    enum failure_code code = FAILURE_IO;
    if (number == ENOSPC || number == EDQUOT)
        code = FAILURE_NO_SPACE;
    else if (number == EFBIG)
        code = FAILURE_LIMIT_BYTES;
    return fail(failure, code, field, "%s: %s", what, strerror(number));
}

/* Length of the well-formed UTF-8 sequence at `text`, 0 if there is none. Surrogates and overlong forms are
 * not. */
static size_t utf8_length(const unsigned char *text) {
    size_t length = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool is_overlong = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool is_outside = (text[0] == 0xed && text[1] >= 0xa0) || (text[0] == 0xf4 && text[1] >= 0x90);
    bool is_control = text[0] == 0xc2 && text[1] < 0xa0;
    return is_overlong || is_outside || is_control ? 0 : length;
}

void text_make_safe(const char *data, char *safe, size_t size) {
    size_t used = 0;
    const unsigned char *from = (const unsigned char *) data;
    while (*from && used + 5 < size) {
        size_t length = *from < 0x80 ? (*from >= 0x20 && *from != 0x7f) : utf8_length(from);
        if (length == 0) {
            used += (size_t) snprintf(safe + used, size - used, "\\x%02x", *from++);
            continue;
        }
        memcpy(safe + used, from, length);
        used += length;
        from += length;
    }
    safe[used] = 0;
}

/* One write per line, so that lines of two processes never mix (they are shorter than PIPE_BUF). */
static void print_line(struct json_object *line) {
    const char *text =
        json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    char *with_end = NULL;
    int length = asprintf(&with_end, "%s\n", text ? text : "{}");
    if (length < 0)
        return;
    for (size_t done = 0; done < (size_t) length;) {
        ssize_t n = write(STDOUT_FILENO, with_end + done, (size_t) length - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t) n;
    }
    free(with_end);
}

static void print_wrapped_take(const char *key, struct json_object *value) {
    struct json_object *line = json_object_new_object();
    json_object_object_add(line, key, value);
    print_line(line);
    json_object_put(line);
}

void report_progress(uint64_t done, uint64_t total) {
    static uint64_t last_ms; /* the rate limit of this process, nothing else */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ms = (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
    if (now_ms - last_ms < 100)
        return;
    last_ms = now_ms;

    struct json_object *progress = json_object_new_object();
    json_object_object_add(progress, "done", json_object_new_uint64(done));
    json_object_object_add(progress, "total", json_object_new_uint64(total));
    print_wrapped_take("progress", progress);
}

int report_result_take(struct json_object *result) {
    print_wrapped_take("result", result);
    return 0;
}

int report_failure(const struct failure *failure) {
    char safe[FAILURE_MESSAGE_MAX * 2];
    struct json_object *error = json_object_new_object();
    json_object_object_add(error, "code", json_object_new_string(failure_name(failure->code)->wire));
    json_object_object_add(error, "kind", json_object_new_string(failure_name(failure->code)->kind));
    text_make_safe(failure->message, safe, sizeof(safe));
    json_object_object_add(error, "message", json_object_new_string(safe));
    text_make_safe(failure->field, safe, sizeof(safe));
    json_object_object_add(error, "field", json_object_new_string(safe));
    print_wrapped_take("error", error);
    return 1;
}
