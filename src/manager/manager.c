// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define EVENTS_KEPT 4096
#define FLUSH_DEADLINE (1 * CLOCK_SECOND) /* at the end */

const struct manager_configuration *manager_configuration(const struct manager *manager) {
    return &manager->configuration;
}

struct events *manager_events(struct manager *manager) {
    return manager->events;
}

struct operations *manager_operations(struct manager *manager) {
    return manager->operations;
}

struct storage *manager_storage(struct manager *manager) {
    return manager->storage;
}

static struct loaded_driver *loaded_driver(struct manager *manager, enum kind kind) {
    for (size_t i = 0; i < manager->driver_count; i++)
        if (manager->drivers[i].driver->kinds & (1u << kind))
            return &manager->drivers[i];
    return NULL;
}

const struct driver *manager_driver(struct manager *manager, enum kind kind, void **ret_data) {
    struct loaded_driver *loaded = loaded_driver(manager, kind);

    if (loaded && error_is_set(&loaded->unavailable))
        loaded = NULL;
    *ret_data = loaded ? loaded->data : NULL;
    return loaded ? loaded->driver : NULL;
}

int manager_driver_available(struct manager *manager, enum kind kind, struct error *error) {
    struct loaded_driver *loaded = loaded_driver(manager, kind);

    if (!loaded)
        return error_set(error, ERROR_NOT_SUPPORTED, "this node", kind_name(kind), "no driver for it is switched on");
    if (error_is_set(&loaded->unavailable)) {
        error_copy(error, &loaded->unavailable);
        return -error_number(loaded->unavailable.code);
    }
    return loaded->driver->available ? loaded->driver->available(loaded->data, kind, error) : 0;
}

static void on_exited(struct driver_instance *view, const struct driver_exit *ended) {
    run_ended(view, ended);
}

/* Says so once when it begins and once when it is over. What else the reason says is not touched. */
static void take_trouble(struct instance *instance, const char *trouble) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *object = NULL;

    if (trouble)
        (void) error_set(&error, ERROR_UNRESPONSIVE, trouble);
    if (trouble || text_equal(instance->status.reason, error_wire(ERROR_UNRESPONSIVE)))
        instance_set_reason(instance, &error);
    if (instance->status.unresponsive == (trouble != NULL))
        return;
    instance->status.unresponsive = trouble != NULL;
    object = instance_object(instance->name);
    events_publish(instance->manager->events, trouble ? "instance.unresponsive" : "instance.responsive",
                   object ? object : "instances", NULL);
    manager_mark_dirty(instance->manager, instance);
}

/* Copies what the driver knows into the status; foreign strings are capped and escaped here, once. */
static void on_changed(struct driver_instance *view) {
    struct instance *instance = view->manager_data;
    struct driver_facts facts = { 0 };
    size_t length;

    if (!instance->driver || !instance->driver->facts || instance->removed)
        return;
    instance->driver->facts(instance->driver_data, view, &facts);
    free(instance->status.hostname);
    length = facts.hostname ? strnlen(facts.hostname, 255) : 0;
    instance->status.hostname = facts.hostname ? text_escape(facts.hostname, length, false) : NULL;
    list_free(instance->status.addresses);
    instance->status.addresses = STEAL_PTR(facts.addresses);
    if (facts.pid > 0)
        instance->status.pid = facts.pid;
    free(facts.hostname);
    instance_set_vnc(instance, facts.vnc);
    take_trouble(instance, facts.trouble);
    instance_touch(instance);
}

static void load_driver(struct manager *manager, const struct driver *driver) {
    struct loaded_driver *loaded = &manager->drivers[manager->driver_count];
    _cleanup_free_ char *sentence = NULL;
    int r;

    loaded->driver = driver;
    manager->driver_count++;
    r = driver->open ? driver->open(&manager->driver_context, &loaded->data, &loaded->unavailable) : 0;
    if (r >= 0)
        return;
    if (!error_is_set(&loaded->unavailable))
        (void) error_errno(&loaded->unavailable, r, "opening the %s driver", driver->name);
    sentence = error_sentence(&loaded->unavailable, LANGUAGE_ENGLISH);
    log_warning("the %s driver cannot be used: %s", driver->name, sentence);
}

static int open_network(struct manager *manager, struct error *error) {
    const struct manager_configuration *configuration = &manager->configuration;
    struct network_options options = {
        .run_path = configuration->run_path,
        .state_path = configuration->state_path,
        .subnet = configuration->subnet,
    };

    return configuration->network ? network_new(&options, &manager->network, error) : 0;
}

static int open_storage(struct manager *manager, struct error *error) {
    const struct manager_configuration *configuration = &manager->configuration;
    struct storage_options options = {
        .state_path = configuration->state_path,
        .run_path = configuration->run_path,
        .libexec_path = configuration->libexec_path,
        .store = manager->store,
    };

    return storage_new(&options, &manager->storage, error);
}

static int open_engine(struct manager *manager, struct error *error) {
    const struct manager_configuration *configuration = &manager->configuration;
    struct engine_node node = { .cpus = manager->facts.cpus * 1000 };
    struct engine_options rules;
    uint64_t reserve = configuration->memory_reserve;
    int r;

    node.memory = manager->facts.memory > reserve ? manager->facts.memory - reserve : 0;
    memcpy(node.overcommit_cpu, configuration->overcommit_cpu, sizeof(node.overcommit_cpu));
    memcpy(node.overcommit_memory, configuration->overcommit_memory, sizeof(node.overcommit_memory));
    r = settings_rules(&manager->queue_settings, &rules, error);
    return r < 0 ? r : engine_new(&node, &rules, &manager->engine);
}

/* The daemon at the usual place has the usual name; each other one (of a test, say) a name made from its place. */
static int open_cgroups(struct manager *manager, struct error *error) {
    const char *run_path = manager->configuration.run_path;
    _cleanup_free_ char *name = NULL;
    uint32_t hash = UINT32_C(2166136261); /* FNV-1a */

    for (const char *c = run_path; *c; c++)
        hash = (hash ^ (uint8_t) *c) * UINT32_C(16777619);
    name = text_equal(run_path, "/run/polder") ? strdup("polder") : text_format("polder-%08" PRIx32, hash);
    return name ? cgroup_host_open(name, &manager->cgroups, error) : error_errno(error, -ENOMEM, "opening cgroups");
}

static int manager_open(struct manager *manager, struct error *error) {
    _cleanup_error_ struct error ignored = ERROR_INIT;
    int r = map_new(&manager->by_name);

    if (r >= 0)
        r = map_new(&manager->by_uuid);
    if (r >= 0)
        r = map_new(&manager->idempotency);
    if (r >= 0)
        r = events_new(EVENTS_KEPT, &manager->events);
    if (r >= 0)
        r = operations_new(&manager->operations);
    if (r >= 0)
        r = host_facts_read(&manager->facts);
    if (r >= 0)
        r = settings_init(manager, error);
    if (r >= 0)
        r = open_engine(manager, error);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "starting the manager");
    if (open_cgroups(manager, &ignored) < 0)
        log_warning("no control groups can be used: limits cannot be applied");
    r = open_storage(manager, error);
    return r < 0 ? r : open_network(manager, error);
}

int manager_new(const struct manager_configuration *configuration, struct store *store, struct manager **ret,
                struct error *error) {
    struct manager *manager = calloc(1, sizeof(*manager));
    int r;

    if (!manager)
        return error_errno(error, -ENOMEM, "starting the manager");
    manager->configuration = *configuration;
    manager->store = store;
    manager->started = clock_wall();
    allocation_init(&manager->allocator);
    r = manager_open(manager, error);
    if (r < 0) {
        manager_free(manager);
        return r;
    }
    manager->driver_events = (struct driver_events){ .exited = on_exited, .changed = on_changed };
    manager->driver_context = (struct driver_context){
        .storage = manager->storage,
        .network = manager->network,
        .events = &manager->driver_events,
        .run_path = configuration->run_path,
        .libexec_path = configuration->libexec_path,
        .mount_roots = configuration->mount_roots,
    };
    load_driver(manager, &container_driver);
    load_driver(manager, &qemu_driver);
    if (configuration->fake_driver)
        load_driver(manager, &fake_driver);
    *ret = manager;
    return 0;
}

/* What the host's processor can do is found out beside everything else: nothing waits for it. */
static int probe_main(void *userdata) {
    struct manager *manager = userdata;

    host_probe_kvm(&manager->facts, manager->configuration.run_path, manager->configuration.libexec_path);
    /* Its acceleration is a label. While labels are being changed those in force are not yet those that are kept. */
    if (fiber_mutex_lock(&manager->settings_lock, DEADLINE_NONE) < 0)
        return 0;
    if (placement_tell(manager, &manager->node_settings) >= 0 && manager->ready)
        admission_run(manager);
    fiber_mutex_unlock(&manager->settings_lock);
    return 0;
}

int manager_start(struct manager *manager, struct error *error) {
    int r = storage_load(manager->storage, error);

    if (r >= 0)
        r = fiber_start(&manager->probe, "probe", probe_main, manager);
    if (r >= 0)
        r = writer_start(manager);
    if (r >= 0)
        r = reaper_start(manager);
    if (r >= 0)
        r = explainer_start(manager);
    if (r >= 0)
        r = settings_load(manager, error);
    if (r >= 0)
        r = learnt_load(manager, error);
    if (r >= 0)
        r = ledger_start(manager);
    if (r >= 0)
        r = adopt_all(manager, error);
    if (r >= 0)
        r = sweeper_start(manager);
    if (r >= 0)
        r = allocation_start(manager);
    if (r >= 0)
        manager->ready = true;
    return r;
}

static void fiber_end(struct fiber *fiber) {
    if (fiber)
        fiber_cancel_join(fiber);
}

/* Operations that only wait (queued starts) are not waited for: their wish is in the store. */
void manager_stop(struct manager *manager, uint64_t deadline) {
    _cleanup_error_ struct error error = ERROR_INIT;

    manager->stopping = true;
    while (operations_busy(manager->operations) && clock_now() < deadline)
        if (fiber_sleep(20 * CLOCK_MILLISECOND) < 0)
            break;
    (void) manager_flush(manager, deadline_in(FLUSH_DEADLINE), &error);
    fiber_end(manager->reaper);
    fiber_end(manager->tidier);
    fiber_end(manager->explainer);
    fiber_end(manager->ticker);
    fiber_end(manager->scribe);
    ledger_flush(manager);
    learnt_save(manager);
    fiber_end(manager->allocator.fiber);
    fiber_end(manager->allocator.keeper);
    fiber_end(manager->sweeper);
    fiber_end(manager->probe);
    fiber_end(manager->flows.reader);
    storage_stop(manager->storage);
    fiber_end(manager->writer);
    fiber_end(manager->storekeeper); /* last: all else is done if the image store hangs */
}

static void free_instances(struct manager *manager) {
    size_t position = 0;
    void *value;

    if (!manager->by_uuid)
        return;
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        run_timer_cancel(instance);
        instance_unref(instance);
    }
}

/* What the writer has not taken. */
static void free_waiting(struct manager *manager) {
    while (manager->dirty_first) {
        struct instance *instance = manager->dirty_first;
        manager->dirty_first = instance->dirty_next;
        instance_unref(instance);
    }
    while (manager->ends_first) {
        struct instance *instance = manager->ends_first;
        manager->ends_first = instance->end.next;
        instance_unref(instance);
    }
    while (manager->unreleased_first) {
        struct instance *instance = manager->unreleased_first;
        manager->unreleased_first = instance->unreleased_next;
        instance_unref(instance);
    }
    while (manager->audit_first) {
        struct audit_row *row = manager->audit_first;
        manager->audit_first = row->next;
        free(row->key);
        free(row->value);
        free(row);
    }
    error_clear(&manager->write_error);
}

void manager_free(struct manager *manager) {
    if (!manager)
        return;
    free_waiting(manager);
    for (size_t i = 0; i < manager->driver_count; i++) {
        if (manager->drivers[i].driver->close && !error_is_set(&manager->drivers[i].unavailable))
            manager->drivers[i].driver->close(manager->drivers[i].data);
        error_clear(&manager->drivers[i].unavailable);
    }
    free_instances(manager); /* to which a driver holds on until it is closed */
    idempotency_free(manager);
    fiber_unref(manager->writer);
    fiber_unref(manager->sweeper);
    fiber_unref(manager->storekeeper);
    fiber_unref(manager->probe);
    flows_done(&manager->flows);
    fiber_unref(manager->explainer);
    fiber_unref(manager->reaper);
    fiber_unref(manager->tidier);
    fiber_unref(manager->ticker);
    fiber_unref(manager->scribe);
    table_done(&queue_settings_table, &manager->queue_settings);
    table_done(&node_settings_table, &manager->node_settings);
    allocation_done(&manager->allocator);
    optimize_done(&manager->optimize);
    placements_done(&manager->placements);
    free(manager->sorted);
    map_free(manager->by_name);
    map_free(manager->by_uuid);
    events_free(manager->events);
    operations_free(manager->operations);
    engine_free(manager->engine);
    network_free(manager->network);
    storage_free(manager->storage);
    cgroup_host_free(manager->cgroups);
    host_facts_done(&manager->facts);
    free(manager);
}
