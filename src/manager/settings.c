// SPDX-License-Identifier: GPL-2.0-or-later
/* What can be set while the daemon runs, and stays so: a record in the store that wins over the configuration. */
#include <errno.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define QUEUE_KEY "/settings/default/queue"

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
int settings_load(struct manager *manager, struct error *error) {
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

/* --- change ----------------------------------------------------------------------------------------------------------- */

static int settings_commit(struct manager *manager, const struct actor *actor, const struct queue_settings *settings,
                           struct error *error) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    _cleanup_free_ char *text = NULL, *key = NULL, *value = NULL;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct store_operation operations[2];
    int r;

    emit_object(&emitter);
    table_emit(&queue_settings_table, settings, &emitter);
    emit_object_end(&emitter);
    r = buffer_take(&buffer, &text);
    if (r >= 0)
        r = audit_build(manager, actor, "node.set", "node/queue", "ok", &key, &value);
    if (r < 0)
        return error_errno(error, r, "setting");
    operations[0] = (struct store_operation){ .type = STORE_PUT, .key = QUEUE_KEY, .value = text, .size = strlen(text) };
    operations[1] = (struct store_operation){ .type = STORE_PUT, .key = key, .value = value, .size = strlen(value) };
    FAILPOINT("settings-before-commit");
    return store_commit(manager->store, operations, ELEMENTS(operations), NULL, error);
}

/* In force before they are kept, since that is easier to take back than the record. */
static int settings_apply(struct manager *manager, const struct actor *actor, const struct queue_settings *settings,
                          const struct engine_options *rules, struct error *error) {
    struct engine_options before = *engine_options(manager->engine);
    int r = engine_configure(manager->engine, rules, clock_now());

    if (r < 0)
        return error_errno(error, r, "setting");
    r = settings_commit(manager, actor, settings, error);
    if (r < 0 && engine_configure(manager->engine, &before, clock_now()) < 0)
        log_warning("the queue's settings were not kept, and are in force until polderd starts again: out of memory");
    return r;
}

static int settings_patch(struct manager *manager, const struct actor *actor, struct json_object *patch, bool dry_run,
                          struct error *error) {
    static const char *const parts[] = { "queue", NULL };
    struct json_object *given = json_member(patch, "queue");
    struct queue_settings settings = { 0 };
    struct engine_options rules;
    int r = json_only(patch, "node", parts, error);

    if (r >= 0)
        r = table_copy(&queue_settings_table, &manager->queue_settings, &settings);
    if (r >= 0 && given)
        r = table_decode(&queue_settings_table, given, DECODE_MERGE, &settings, error);
    if (r >= 0)
        r = settings_rules(&settings, &rules, error);
    if (r >= 0 && !dry_run)
        r = settings_apply(manager, actor, &settings, &rules, error);
    if (r < 0 || dry_run) {
        table_done(&queue_settings_table, &settings);
        return r < 0 && !error_is_set(error) ? error_errno(error, r, "setting") : r;
    }
    table_done(&queue_settings_table, &manager->queue_settings);
    manager->queue_settings = settings;
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
    return audit_refusal(manager, actor, "node.set", "node/queue", r, error);
}
