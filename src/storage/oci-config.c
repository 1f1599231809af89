// SPDX-License-Identifier: GPL-2.0-or-later
/* What an OCI image's configuration says about how to run it: foreign, and never more than this table of members. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/text.h"
#include "model/instance.h"
#include "storage/internal.h"

#define CONFIG_TEXT_MAX 65536
#define ENVIRONMENT_MAX 4096

/* Every text is capped and free of NUL (json_parse refuses those). Arguments and variables may hold newlines and any other
 * character, as on every Unix; whoever shows them escapes them. */
static int config_list(struct json_object *config, const char *name, size_t most, char ***target, struct error *error) {
    struct json_object *list = json_member(config, name);
    size_t count = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    int r = 0;

    if (count > most)
        return error_set(error, ERROR_BAD_IMAGE, "its configuration lists too many values");
    if (list && !json_object_is_type(list, json_type_array) && !json_object_is_type(list, json_type_null))
        return error_set(error, ERROR_BAD_IMAGE, "its configuration holds something else where a list belongs");
    for (size_t i = 0; i < count && r >= 0; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        if (!json_object_is_type(item, json_type_string) || json_object_get_string_len(item) > CONFIG_TEXT_MAX)
            return error_set(error, ERROR_BAD_IMAGE, "its configuration holds a value that is no text or is too long");
        r = list_add(target, json_object_get_string(item));
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

static int config_text(struct json_object *config, const char *name, size_t most, char **target, struct error *error) {
    const char *text = json_text(config, name, NULL);

    if (!text || !*text)
        return 0;
    if (strlen(text) > most || !text_is_plain(text))
        return error_set(error, ERROR_BAD_IMAGE, "its configuration holds a text that is too long or has control characters");
    *target = strdup(text);
    return *target ? 0 : error_errno(error, -ENOMEM, "reading the configuration");
}

/* A volume is a place beneath the root and nowhere else. */
static bool path_is_inside(const char *path) {
    return path[0] == '/' && path[1] && !strstr(path, "/../") && !text_ends(path, "/..");
}

static int config_keys(struct json_object *config, const char *name, size_t most, bool paths, char ***target,
                       struct error *error) {
    struct json_object *object = json_member(config, name);
    int r = 0;

    if (!json_object_is_type(object, json_type_object))
        return 0;
    if ((size_t) json_object_object_length(object) > most)
        return error_set(error, ERROR_BAD_IMAGE, "its configuration lists too many values");
    json_object_object_foreach(object, key, value) {
        (void) value;
        if (r >= 0 && strlen(key) < 4096 && text_is_plain(key) && (!paths || path_is_inside(key)))
            r = list_add(target, key);
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

static int config_labels(struct json_object *config, char ***target, struct error *error) {
    struct json_object *object = json_member(config, "Labels");
    int r = 0;

    if (!json_object_is_type(object, json_type_object) || json_object_object_length(object) > 1000)
        return 0;
    json_object_object_foreach(object, key, value) {
        /* Labels are only shown, never obeyed: what cannot be shown is left out. */
        if (r >= 0 && json_object_is_type(value, json_type_string) && text_is_plain(key) && !strchr(key, '=') &&
            *key && strlen(key) < 256 && json_object_get_string_len(value) < 4096)
            r = list_addf(target, "%s=%s", key, json_object_get_string(value));
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

int oci_read_config(struct json_object *document, struct image *image, struct error *error) {
    struct json_object *config = json_member(document, "config");
    struct image_config *target = &image->config;
    int r = config_list(config, "Entrypoint", 1024, &target->entrypoint, error);

    r = r < 0 ? r : config_list(config, "Cmd", 1024, &target->command, error);
    r = r < 0 ? r : config_list(config, "Env", ENVIRONMENT_MAX, &target->environment, error);
    r = r < 0 ? r : config_text(config, "User", 255, &target->user, error);
    r = r < 0 ? r : config_text(config, "WorkingDir", 4095, &target->working_directory, error);
    r = r < 0 ? r : config_text(config, "StopSignal", 32, &target->stop_signal, error);
    r = r < 0 ? r : config_keys(config, "Volumes", 128, true, &target->volumes, error);
    r = r < 0 ? r : config_keys(config, "ExposedPorts", 1000, false, &target->exposed, error);
    r = r < 0 ? r : config_labels(config, &target->labels, error);
    r = r < 0 ? r : config_text(document, "architecture", 63, &image->architecture, error);
    r = r < 0 ? r : config_text(document, "os", 63, &image->os, error);
    if (r >= 0 && target->working_directory && target->working_directory[0] != '/')
        r = error_set(error, ERROR_BAD_IMAGE, "its working directory is not absolute");
    if (r >= 0 && target->stop_signal && signal_from_name(target->stop_signal) <= 0)
        r = error_set(error, ERROR_BAD_IMAGE, "its stop signal is no signal");
    if (r >= 0 && image->os && !text_equal(image->os, "linux"))
        r = error_set(error, ERROR_BAD_IMAGE, "it is not for Linux");
    return r;
}

