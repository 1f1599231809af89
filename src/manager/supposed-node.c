// SPDX-License-Identifier: GPL-2.0-or-later
/* What if the node were otherwise, or gone? Its labels and taints as they would be, and who could not start there then: by the
 * engine's own filters. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

#define TOLD_MOST 1000

/* "KEY=VALUE,KEY2,KEY3-" as a merge patch: what ends with '-' goes. */
static int add_pairs(struct json_object *patch, const char *member, const char *text) {
    _cleanup_list_ char **pairs = NULL;
    struct json_object *object = json_object_new_object();
    int r = object ? list_split(text, ",", &pairs) : -ENOMEM;

    for (char **pair = pairs; r >= 0 && pair && *pair; pair++) {
        size_t length = strlen(*pair), key = strcspn(*pair, "=");
        bool gone = key == length && key > 1 && text_ends(*pair, "-");
        _cleanup_free_ char *name = strndup(*pair, gone ? key - 1 : key);
        if (!name)
            r = -ENOMEM;
        else
            json_object_object_add(object, name, gone ? NULL : json_object_new_string(key < length ? *pair + key + 1 : ""));
    }
    json_object_object_add(patch, member, object);
    return r;
}

static int change_settings(const struct what_if *what_if, struct node_settings *settings, struct error *error) {
    _cleanup_json_ struct json_object *patch = json_object_new_object();
    int r = patch ? 0 : -ENOMEM;

    if (r >= 0 && what_if->node_labels)
        r = add_pairs(patch, "labels", what_if->node_labels);
    if (r >= 0 && what_if->taints)
        r = add_pairs(patch, "taints", what_if->taints);
    return r < 0 ? error_errno(error, r, "supposing") : table_decode(&node_settings_table, patch, DECODE_MERGE, settings, error);
}

int supposed_node_make(struct manager *manager, const struct what_if *what_if, struct supposed_node *ret, struct error *error) {
    const char *node = manager->facts.hostname ? manager->facts.hostname : "localhost";
    struct node_settings settings = { 0 };
    int r;

    ret->asked = what_if->without_node || what_if->node_labels || what_if->taints;
    ret->gone = what_if->without_node;
    if (what_if->without_node && !text_equal(what_if->without_node, node))
        return error_set(error, ERROR_NOT_FOUND, "node", what_if->without_node);
    r = table_copy(&node_settings_table, &manager->node_settings, &settings);
    if (r >= 0)
        r = change_settings(what_if, &settings, error);
    if (r >= 0)
        r = placement_traits(manager, &settings, &ret->traits, &ret->taints);
    table_done(&node_settings_table, &settings);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "supposing") : r;
}

void supposed_node_done(struct supposed_node *node) {
    list_free(node->traits);
    list_free(node->taints);
}

static void emit_one(const struct manager *manager, const struct engine_verdict_of *verdict, struct emitter *emitter) {
    bool now = verdict->now.filter < FILTER_PASSED, then = verdict->then.filter < FILTER_PASSED;
    _cleanup_free_ char *reason = now || then ? placement_reason(manager, then ? &verdict->then : &verdict->now) : NULL;

    emit_object(emitter);
    emit_key_text(emitter, "name", verdict->name);
    emit_key_boolean(emitter, "runs", verdict->runs);
    emit_key_text(emitter, "now", now ? filter_name(verdict->now.filter) : NULL);
    emit_key_text(emitter, "then", then ? filter_name(verdict->then.filter) : NULL);
    emit_key_text(emitter, "message", reason);
    emit_object_end(emitter);
}

static void emit_message(const struct manager *manager, const struct supposed_node *node, size_t all, size_t then, size_t running,
                         struct emitter *emitter) {
    const char *name = manager->facts.hostname ? manager->facts.hostname : "localhost";
    _cleanup_free_ char *text = NULL;

    if (node->gone)
        text = text_format("%s is the only node: nobody could run, and the %zu that run would end", name, running);
    else
        text = text_format("%zu of %zu could not start on %s; what runs, runs on", then, all, name);
    emit_key_text(emitter, "message", text);
}

void supposed_node_emit(const struct manager *manager, const struct engine *engine, const struct supposed_node *node,
                        struct emitter *emitter) {
    size_t position = 0, all = 0, now = 0, then = 0, running = 0, told = 0;
    struct engine_verdict_of verdict;

    emit_key(emitter, "placement");
    if (!node->asked) {
        emit_null(emitter);
        return;
    }
    emit_object(emitter);
    emit_key(emitter, "instances");
    emit_array(emitter);
    while (engine_suppose_place(engine, node->traits, node->taints, node->gone, &position, &verdict)) {
        bool refused_now = verdict.now.filter < FILTER_PASSED, refused_then = verdict.then.filter < FILTER_PASSED;
        all++;
        now += refused_now;
        then += refused_then;
        running += verdict.runs;
        if ((refused_now || refused_then) && told++ < TOLD_MOST)
            emit_one(manager, &verdict, emitter);
    }
    emit_array_end(emitter);
    emit_key_unsigned(emitter, "refused_now", now);
    emit_key_unsigned(emitter, "refused_then", then);
    emit_message(manager, node, all, then, running, emitter);
    emit_object_end(emitter);
}
