// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/report.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "guest/network.h"

#define ADDRESSES_MAX 64

static void add_text(struct json_object *object, const char *name, const char *text) {
    json_object_object_add(object, name, json_object_new_string(text));
}

static char *object_text(struct json_object *object) {
    char *text = strdup(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));

    json_object_put(object);
    return text;
}

static void add_boot_id(struct json_object *object) {
    _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    char text[64] = { 0 };

    if (fd >= 0 && read_full(fd, text, sizeof(text) - 1) > 0) {
        text[strcspn(text, "\n")] = '\0';
        add_text(object, "boot_id", text);
    }
}

static void add_addresses(struct json_object *object) {
    struct json_object *list = json_object_new_array();
    char *addresses[ADDRESSES_MAX];
    size_t count = network_addresses(addresses, ADDRESSES_MAX);

    for (size_t i = 0; i < count; i++) {
        json_object_array_add(list, json_object_new_string(addresses[i]));
        free(addresses[i]);
    }
    json_object_object_add(object, "addresses", list);
}

static void add_channels(struct json_object *object, const struct channels *channels) {
    struct json_object *list = json_object_new_array();

    for (const struct channel *channel = channels->first; channel; channel = channel_next(channel)) {
        json_object_array_add(list, json_object_new_int64(channel_id(channel)));
        if (channel_kind(channel) != CHANNEL_MAIN)
            continue;
        json_object_object_add(object, "exited", json_object_new_boolean(channel_has_ended(channel)));
        json_object_object_add(object, "output_offset",
                               json_object_new_int64((int64_t) channel_output_offset(channel)));
    }
    json_object_object_add(object, "channels", list);
}

char *report_state(const struct channels *channels, bool started) {
    struct json_object *object = json_object_new_object();
    struct utsname name;

    json_object_object_add(object, "version", json_object_new_int(GUEST_PROTOCOL_VERSION));
    json_object_object_add(object, "booted", json_object_new_boolean(true));
    json_object_object_add(object, "started", json_object_new_boolean(started));
    add_boot_id(object);
    if (uname(&name) == 0)
        add_text(object, "kernel", name.release);
    add_addresses(object);
    add_channels(object, channels);
    return object_text(object);
}

char *report_memory(void) {
    static const char *const rows[][2] = {
        { "MemTotal:", "total" },       { "MemFree:", "free" },       { "MemAvailable:", "available" },
        { "Buffers:", "buffers" },      { "Cached:", "cached" },      { "Shmem:", "shared" },
        { "SwapTotal:", "swap_total" }, { "SwapFree:", "swap_free" },
    };
    struct json_object *object = json_object_new_object();
    FILE *file = fopen("/proc/meminfo", "re");
    char name[64];
    unsigned long long kilobytes;

    while (file && fscanf(file, "%63s %llu%*[^\n]", name, &kilobytes) == 2) {
        for (size_t i = 0; i < ELEMENTS(rows); i++) {
            if (strcmp(rows[i][0], name) == 0)
                json_object_object_add(object, rows[i][1], json_object_new_int64((int64_t) kilobytes * 1024));
        }
    }
    if (file)
        fclose(file);
    return object_text(object);
}

char *report_error(const char *error) {
    struct json_object *object = json_object_new_object();

    add_text(object, "error", error);
    return object_text(object);
}
