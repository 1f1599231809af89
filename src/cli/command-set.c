// SPDX-License-Identifier: GPL-2.0-or-later
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"

struct set_options {
    const char *rename;
    char **unset, **unlabel;
    bool if_unchanged;
    const char *body; /* what is sent for each of them: no flag */
};

/* null sets a field back to its default; a map's key with null goes. */
static int emit_unset(const struct set_options *options, struct emitter *emitter, struct error *error) {
    for (char **name = options->unset; name && *name; name++) {
        const struct table *table = &instance_spec_table;
        const struct field *field = table_find(table, *name);
        for (size_t i = 0; !field && i < table->count; i++)
            if (text_equal(table->fields[i].flag, *name))
                field = &table->fields[i];
        if (!field)
            return error_set(error, ERROR_USAGE, "--unset takes the name of a flag or field");
        emit_key(emitter, field->name);
        emit_null(emitter);
    }
    return 0;
}

/* Labels that are set and labels that go are one object. */
static void emit_labels(char *const *labels, char *const *removed, struct emitter *emitter) {
    emit_key(emitter, "labels");
    emit_object(emitter);
    for (size_t i = 0; labels && labels[i]; i++) {
        _cleanup_free_ char *key = strndup(labels[i], strcspn(labels[i], "="));
        if (key && !list_has(removed, key))
            emit_key_text(emitter, key, labels[i] + strlen(key) + (labels[i][strlen(key)] == '='));
    }
    for (size_t i = 0; removed && removed[i]; i++) {
        emit_key(emitter, removed[i]);
        emit_null(emitter);
    }
    emit_object_end(emitter);
}

static int build_patch(struct invocation *invocation, struct buffer *out, struct error *error) {
    const struct set_options *options = invocation->options;
    _cleanup_list_ char **labels = options->unlabel ? STEAL_PTR(invocation->spec.labels) : NULL;
    struct emitter emitter = EMITTER_INIT(out);
    int r;

    emit_object(&emitter);
    if (options->rename)
        emit_key_text(&emitter, "name", options->rename);
    emit_key(&emitter, "spec");
    emit_object(&emitter);
    if (options->unlabel) {
        const struct table *table = &instance_spec_table;
        invocation->spec_given &= ~(UINT64_C(1) << (table_find(table, "labels") - table->fields));
        emit_labels(labels, options->unlabel, &emitter);
    }
    invocation_emit_spec(invocation, &emitter);
    r = emit_unset(options, &emitter, error);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    if (r == 0 && out->failed)
        r = error_set(error, ERROR_NO_MEMORY, "");
    return r;
}

/* The entity tag of what is there now, as a header. */
static int current_tag(struct invocation *invocation, const char *path, char **ret, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r == 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r == 0 && response.etag) {
        *ret = text_format("If-Match: %s\r\n", response.etag);
        r = *ret ? 0 : error_set(error, ERROR_NO_MEMORY, "");
    }
    return r;
}

static int set_one(struct invocation *invocation, const char *name, struct error *error) {
    const struct set_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = instance_path(name, ""), *headers = NULL;
    int r = path ? 0 : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0 && options->if_unchanged)
        r = current_tag(invocation, path, &headers, error);
    if (r == 0)
        r = change_run_headers(invocation, "PATCH", path, headers, options->body, name, &response, error);
    if (r == 0 && invocation->dry_run)
        return output_object(invocation, response.json, "name", error);
    if (r == 0 && !invocation->quiet && !invocation->no_wait)
        puts(options->rename ? options->rename : name);
    return r;
}

static int run_set(struct invocation *invocation, struct error *error) {
    struct set_options *options = invocation->options;
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    int r;

    if (invocation->spec_given == 0 && !options->rename && !options->unset && !options->unlabel)
        return error_set(error, ERROR_USAGE, "say what to set; see 'polder set --help'");
    if (options->rename && invocation->count > 1)
        return error_set(error, ERROR_USAGE, "one instance at a time is renamed");
    r = build_patch(invocation, &body, error);
    options->body = body.data;
    return r < 0 ? r : for_each_name(invocation, set_one, error);
}

static const struct flag set_flags[] = {
    { .name = "rename", .type = FLAG_TEXT, .offset = offsetof(struct set_options, rename), .value = "NAME",
      .help = "Give it another name." },
    { .name = "unset", .type = FLAG_LIST, .offset = offsetof(struct set_options, unset), .value = "FLAG",
      .help = "Back to the default, such as: --unset timeout." },
    { .name = "unlabel", .type = FLAG_LIST, .offset = offsetof(struct set_options, unlabel), .value = "KEY",
      .help = "Remove a label." },
    { .name = "if-unchanged", .type = FLAG_SWITCH, .offset = offsetof(struct set_options, if_unchanged),
      .help = "Only if nobody changes it meanwhile." },
};

const struct command command_set = {
    .name = "set", .group = GROUP_INSTANCES, .summary = "Change instances, running ones too",
    .usage = "INSTANCE...",
    .description = "Lists such as --publish replace what was there; --env and --label change one key. What cannot change "
                   "while it runs is refused and says so.",
    .examples = "  polder set web --memory 512M --cpus 2\n  polder set web --rename shop --unset timeout\n",
    .flags = set_flags, .flag_count = ELEMENTS(set_flags), .options_size = sizeof(struct set_options),
    .common = COMMON_SPEC | COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET | COMMON_OUTPUT, .minimum = 1,
    .maximum = UINT_MAX, .complete = COMPLETE_INSTANCES, .run = run_set,
};
