// SPDX-License-Identifier: GPL-2.0-or-later
/* What can be set while the daemon runs, and stays so: a record in the store that wins over the configuration. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define QUEUE_KEY "/settings/default/queue"
#define NODE_KEY "/settings/default/node"

/* --- names to rules -------------------------------------------------------------------------------------------------- */

static int choose(const char *field, const char *text, const char *const *names, struct error *error) {
    const char *nearest;
    _cleanup_free_ char *hint = NULL;
    int i = 0;

    for (; names[i]; i++)
        if (text_equal(names[i], text))
            return i;
    nearest = text_suggest(text, names);
    hint = nearest ? text_format("there is no such kind; did you mean %s?", nearest) : strdup("there is no such kind");
    return error_set(error, ERROR_BAD_VALUE, field, text, hint ? hint : "");
}

static int take_parameters(char *const *parameters, struct policy_parameters *ret, struct error *error) {
    int r = 0;

    for (char *const *pair = parameters; r >= 0 && pair && *pair; pair++) {
        const char *equals = strchr(*pair, '=');
        _cleanup_free_ char *name = strndup(*pair, equals ? (size_t) (equals - *pair) : strlen(*pair));
        if (!name)
            return error_errno(error, -ENOMEM, "reading the settings");
        r = equals ? policy_parameters_set(ret, name, equals + 1, error)
                   : error_set(error, ERROR_BAD_VALUE, "parameters", *pair, "give NAME=VALUE");
    }
    return r;
}

int settings_rules(const struct queue_settings *settings, struct engine_options *ret, struct error *error) {
    int r;

    engine_options_init(ret);
    r = policy_find(settings->policy ? settings->policy : "polder", &ret->policy, error);
    if (r >= 0)
        r = choose("backfill", settings->backfill ? settings->backfill : "easy", backfill_names, error);
    if (r >= 0)
        ret->backfill = (enum backfill) r;
    if (r >= 0)
        r = choose("estimates", settings->estimates ? settings->estimates : "learning", estimate_names, error);
    if (r == ESTIMATE_ACTUAL)
        r = error_set(error, ERROR_BAD_VALUE, "estimates", settings->estimates,
                      "a daemon knows what was requested, or what it predicted: requested, predicted, history or learning");
    if (r >= 0)
        ret->estimate = (enum estimate) r;
    if (r >= 0)
        r = take_parameters(settings->parameters, &ret->parameters, error);
    ret->residency = settings->residency * CLOCK_MILLISECOND;
    return r < 0 ? r : engine_options_check(ret, error);
}

/* --- load ------------------------------------------------------------------------------------------------------------- */

int settings_init(struct manager *manager, struct error *error) {
    const struct queue_settings *given = manager->configuration.queue;
    int r = given ? table_copy(&queue_settings_table, given, &manager->queue_settings)
                  : table_init(&queue_settings_table, &manager->queue_settings);

    return r < 0 ? error_errno(error, r, "reading the settings") : 0;
}

static int settings_decode(const struct store_item *item, struct queue_settings *settings, struct error *error) {
    _cleanup_json_ struct json_object *json = NULL;
    int r = json_parse(item->value, item->size, &json, error);

    return r < 0 ? r : table_decode(&queue_settings_table, json, DECODE_STORED, settings, error);
}

/* What was set by an earlier version and is nothing any more must not keep the daemon from starting. */
static int load_queue(struct manager *manager, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    struct queue_settings settings = { 0 };
    struct engine_options rules;
    struct store_item item = { 0 };
    int r = store_get(manager->store, QUEUE_KEY, &item, error);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    r = table_init(&queue_settings_table, &settings);
    if (r >= 0)
        r = settings_decode(&item, &settings, &trouble);
    if (r >= 0)
        r = settings_rules(&settings, &rules, &trouble);
    if (r >= 0)
        r = engine_configure(manager->engine, &rules, clock_now());
    if (r >= 0) {
        table_done(&queue_settings_table, &manager->queue_settings);
        manager->queue_settings = settings;
    } else {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        log_warning("the queue's settings are those of the configuration: %s", sentence ? sentence : "out of memory");
        table_done(&queue_settings_table, &settings);
    }
    free(item.key);
    free(item.value);
    return 0;
}

static int load_node(struct manager *manager, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_json_ struct json_object *json = NULL;
    struct store_item item = { 0 };
    int r = store_get(manager->store, NODE_KEY, &item, error);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    r = json_parse(item.value, item.size, &json, &trouble);
    if (r >= 0)
        r = table_decode(&node_settings_table, json, DECODE_STORED, &manager->node_settings, &trouble);
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        log_warning("the node has no labels and taints: %s", sentence ? sentence : "out of memory");
    }
    free(item.key);
    free(item.value);
    return 0;
}

int settings_load(struct manager *manager, struct error *error) {
    int r = load_queue(manager, error);

    if (r >= 0)
        r = load_node(manager, error);
    if (r >= 0 && placement_tell(manager, &manager->node_settings) < 0)
        r = error_errno(error, -ENOMEM, "reading the settings");
    return r;
}

/* --- change ----------------------------------------------------------------------------------------------------------- */

/* What a request changes, each only if it is given. */
struct change {
    struct queue_settings queue;
    struct node_settings node;
    struct engine_options rules;
    bool has_queue, has_node;
};

static void change_done(struct change *change) {
    table_done(&queue_settings_table, &change->queue);
    table_done(&node_settings_table, &change->node);
}

static int encode(const struct table *table, const void *settings, char **ret) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);

    emit_object(&emitter);
    table_emit(table, settings, &emitter);
    emit_object_end(&emitter);
    return buffer_take(&buffer, ret);
}

static const char *object_of(const struct change *change) {
    return change->has_node && !change->has_queue ? "node" : "node/queue";
}

static int settings_commit(struct manager *manager, const struct actor *actor, const struct change *change,
                           struct error *error) {
    _cleanup_free_ char *queue = NULL, *node = NULL, *key = NULL, *value = NULL;
    struct store_operation operations[3];
    size_t count = 0;
    int r = encode(&queue_settings_table, &change->queue, &queue);

    if (r >= 0)
        r = encode(&node_settings_table, &change->node, &node);
    if (r >= 0)
        r = audit_build(manager, actor, "node.set", object_of(change), "ok", &key, &value);
    if (r < 0)
        return error_errno(error, r, "setting");
    if (change->has_queue || !change->has_node)
        operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = QUEUE_KEY, .value = queue, .size = strlen(queue) };
    if (change->has_node)
        operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = NODE_KEY, .value = node, .size = strlen(node) };
    operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = key, .value = value, .size = strlen(value) };
    FAILPOINT("settings-before-commit");
    return store_commit(manager->store, operations, count, NULL, error);
}

/* Whoever the rules of that moment kept from starting is looked at again. */
static void settings_take_back(struct manager *manager, const struct engine_options *before) {
    int r = engine_configure(manager->engine, before, clock_now()), q = placement_tell(manager, &manager->node_settings);

    if (r < 0 || q < 0)
        log_warning("the node's settings were not kept, and are in force until polderd starts again: out of memory");
    admission_run(manager);
}

/* In force before they are kept, since that is easier to take back than the record. */
static int settings_apply(struct manager *manager, const struct actor *actor, const struct change *change,
                          struct error *error) {
    struct engine_options before = *engine_options(manager->engine);
    int r = engine_configure(manager->engine, &change->rules, clock_now());

    if (r >= 0 && change->has_node) {
        r = placement_tell(manager, &change->node);
        if (r < 0)
            (void) engine_configure(manager->engine, &before, clock_now());
    }
    if (r < 0)
        return error_errno(error, r, "setting");
    r = settings_commit(manager, actor, change, error);
    if (r < 0)
        settings_take_back(manager, &before);
    return r;
}

/* Labels and taints stand beside the queue in the request, and are a table of their own. */
static int decode_node(struct json_object *patch, struct node_settings *settings, bool *ret_has, struct error *error) {
    static const char *const members[] = { "labels", "taints" };
    _cleanup_json_ struct json_object *part = json_object_new_object();

    for (size_t i = 0; part && i < ELEMENTS(members); i++)
        if (json_has(patch, members[i])) {
            *ret_has = true;
            json_object_object_add(part, members[i], json_object_get(json_member(patch, members[i])));
        }
    if (!part)
        return error_errno(error, -ENOMEM, "setting");
    return table_decode(&node_settings_table, part, DECODE_MERGE, settings, error);
}

static int change_decode(struct manager *manager, struct json_object *patch, struct change *ret, struct error *error) {
    static const char *const parts[] = { "queue", "labels", "taints", NULL };
    struct json_object *given = json_member(patch, "queue");
    int r = json_only(patch, "node", parts, error);

    ret->has_queue = given;
    if (r >= 0)
        r = table_copy(&queue_settings_table, &manager->queue_settings, &ret->queue);
    if (r >= 0)
        r = table_copy(&node_settings_table, &manager->node_settings, &ret->node);
    if (r >= 0 && given)
        r = table_decode(&queue_settings_table, given, DECODE_MERGE, &ret->queue, error);
    if (r >= 0)
        r = decode_node(patch, &ret->node, &ret->has_node, error);
    if (r >= 0)
        r = settings_rules(&ret->queue, &ret->rules, error);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "setting") : r;
}

static int settings_patch(struct manager *manager, const struct actor *actor, struct json_object *patch, bool dry_run,
                          struct error *error) {
    _cleanup_(change_done) struct change change = { 0 };
    struct change before;
    int r = change_decode(manager, patch, &change, error);

    if (r >= 0 && !dry_run)
        r = settings_apply(manager, actor, &change, error);
    if (r < 0 || dry_run)
        return r;
    before = (struct change){ .queue = manager->queue_settings, .node = manager->node_settings };
    manager->queue_settings = change.queue;
    manager->node_settings = change.node;
    change = before; /* freed */
    events_publish(manager->events, "node.changed", "node", NULL);
    admission_run(manager);
    return 0;
}

int manager_node_patch(struct manager *manager, const struct actor *actor, struct json_object *patch, bool dry_run,
                       struct error *error) {
    int r = authorise(actor, "default", PERMISSION_ADMIN, "node", error);

    if (r >= 0) {
        r = fiber_mutex_lock(&manager->settings_lock, DEADLINE_NONE); /* else one of two would undo the other */
        if (r < 0)
            return error_errno(error, r, "setting");
        r = settings_patch(manager, actor, patch, dry_run, error);
        fiber_mutex_unlock(&manager->settings_lock);
    }
    return audit_refusal(manager, actor, "node.set", json_has(patch, "queue") ? "node/queue" : "node", r, error);
}
