// SPDX-License-Identifier: GPL-2.0-or-later
/* Creating an instance: decode, choose, validate, decide what is kept (uuid, kind, ids, addresses), commit. Everything
 * before the commit is in memory only. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "manager/internal.h"

/* Host ids of instances: ranges of 65,536 from here to the end of 31 bits, far from what distributions hand out. */
#define UID_FIRST INT64_C(1000013824)
#define UID_RANGE INT64_C(65536)
#define UID_RANGES ((INT64_C(0x7fffffff) - UID_FIRST) / UID_RANGE)
#define INVENT_TRIES 100
#define IDEMPOTENCY_KEY_MAX 128

struct idempotency {
    char *key;  /* "actor key" */
    char *uuid; /* of the instance it made, once decided */
    struct operation *operation;
};

/* --- idempotency keys ------------------------------------------------------------------------------------------------ */

void idempotency_free(struct manager *manager) {
    size_t position = 0;
    void *value;

    if (!manager->idempotency)
        return;
    while (map_next(manager->idempotency, &position, NULL, &value)) {
        struct idempotency *known = value;
        operation_unref(known->operation);
        free(known->uuid);
        free(known->key);
        free(known);
    }
    map_free(manager->idempotency);
    manager->idempotency = NULL;
}

int idempotency_remember(struct manager *manager, const char *key, const char *uuid, struct operation *operation) {
    struct idempotency *known = calloc(1, sizeof(*known));
    int r;

    if (!known)
        return -ENOMEM;
    known->key = strdup(key);
    known->uuid = strdup(uuid);
    known->operation = operation ? operation_ref(operation) : NULL;
    r = known->key && known->uuid ? map_put(manager->idempotency, known->key, known) : -ENOMEM;
    if (r < 0) {
        operation_unref(known->operation);
        free(known->key);
        free(known->uuid);
        free(known);
    }
    return r;
}

static void idempotency_forget(struct manager *manager, const char *key) {
    struct idempotency *known = map_remove(manager->idempotency, key);

    if (!known)
        return;
    operation_unref(known->operation);
    free(known->key);
    free(known->uuid);
    free(known);
}

static int nothing(struct operation *operation _unused_, void *userdata _unused_, struct error *error _unused_) {
    return 0;
}

/* The operation of an earlier request with this key: the same one, or a finished stand-in after a restart. */
static int idempotency_answer(struct manager *manager, const struct actor *actor, const struct idempotency *known,
                              struct operation **ret, char **ret_text, struct error *error) {
    struct instance *instance = map_get(manager->by_uuid, known->uuid);
    _cleanup_free_ char *object = NULL;
    const char *text;

    if (!instance)
        return error_set(error, ERROR_NOT_FOUND, "instance", known->uuid);
    text = instance_text(instance);
    *ret_text = text ? strdup(text) : NULL;
    if (known->operation) {
        *ret = operation_ref(known->operation);
        return 0;
    }
    object = text_format("instances/%s", instance->name);
    return object ? operation_start(manager->operations, "instance.create", object, actor->name, nothing, NULL, NULL, ret)
                  : -ENOMEM;
}

/* --- what is decided once --------------------------------------------------------------------------------------------- */

static int choose_name(struct manager *manager, const char *wanted, char **ret, struct error *error) {
    char invented[64];
    int r;

    if (wanted) {
        r = name_check(wanted, error);
        if (r >= 0 && map_get(manager->by_name, wanted))
            r = error_set(error, ERROR_EXISTS, "instance", wanted);
        if (r < 0)
            return r;
        *ret = strdup(wanted);
        return *ret ? 0 : error_errno(error, -ENOMEM, "naming");
    }
    for (int i = 0; i < INVENT_TRIES; i++) {
        name_invent(invented, sizeof(invented));
        if (!map_get(manager->by_name, invented)) {
            *ret = strdup(invented);
            return *ret ? 0 : error_errno(error, -ENOMEM, "naming");
        }
    }
    return error_set(error, ERROR_EXHAUSTED, "name");
}

static int choose_uid_base(struct manager *manager, int64_t *ret, struct error *error) {
    _cleanup_free_ unsigned char *used = calloc(1, (size_t) UID_RANGES);
    size_t position = 0;
    void *value;

    if (!used)
        return error_errno(error, -ENOMEM, "choosing ids");
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        const struct instance *instance = value;
        int64_t index = (instance->assigned.uid_base - UID_FIRST) / UID_RANGE;
        if (instance->assigned.uid_base >= UID_FIRST && index < UID_RANGES)
            used[index] = 1;
    }
    for (int64_t i = 0; i < UID_RANGES; i++) {
        if (!used[i]) {
            *ret = UID_FIRST + i * UID_RANGE;
            return 0;
        }
    }
    return error_set(error, ERROR_EXHAUSTED, "range of user ids");
}

static bool address_taken(const char *address, void *userdata) {
    struct manager *manager = userdata;
    size_t position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        const struct instance *instance = value;
        if (text_equal(instance->assigned.address, address))
            return true;
    }
    return false;
}

static int choose_address(struct manager *manager, struct instance *instance, struct error *error) {
    if (!manager->network || instance->assigned.kind == KIND_FAKE || text_equal(instance->spec.network, "none"))
        return 0;
    return network_allocate(manager->network, instance->assigned.uuid, address_taken, manager,
                            &instance->assigned.mac, &instance->assigned.address, error);
}

/* The subnet had to move while the instance was stopped: it gets a new address, durable before it is used. */
int instance_readdress(struct instance *instance, struct error *error) {
    struct manager *manager = instance->manager;
    struct instance_assigned *assigned = &instance->assigned;
    int r;

    if (!manager->network || !assigned->address || network_has_address(manager->network, assigned->address))
        return 0;
    free(assigned->address);
    free(assigned->mac);
    assigned->address = assigned->mac = NULL;
    r = choose_address(manager, instance, error);
    if (r >= 0)
        r = manager_commit_instance(manager, instance, &actor_daemon, "instance.readdress", false, NULL, 0, error);
    instance_touch(instance);
    return r;
}

/* The kind for `auto`, from what the image is and what the host can do, and why. */
static int choose_kind(struct manager *manager, const struct image *image, int *ret, char **ret_why,
                       struct error *error) {
    _cleanup_error_ struct error no_container = ERROR_INIT;

    if (!image)
        return error_set(error, ERROR_MISSING_FIELD, "kind");
    if (image->type != IMAGE_OCI) {
        *ret = KIND_VM;
        *ret_why = strdup("the image is a disk with its own boot loader: only a full machine starts it unmodified");
    } else if (manager_driver_available(manager, KIND_CONTAINER, &no_container) >= 0) {
        *ret = KIND_CONTAINER;
        *ret_why = strdup("an OCI image starts fastest and packs densest as a container; ask for microvm to give it a "
                          "kernel of its own");
    } else {
        *ret = KIND_MICROVM;
        *ret_why = strdup("an OCI image, and this host cannot run containers now");
    }
    return *ret_why ? 0 : error_errno(error, -ENOMEM, "choosing the kind");
}

static int suits(const struct image *image, enum kind kind, struct error *error) {
    if (!image || (image->type == IMAGE_OCI) == (kind == KIND_CONTAINER || kind == KIND_MICROVM))
        return 0;
    return error_set(error, ERROR_NOT_SUPPORTED, kind_name(kind), "this image",
                     image->type == IMAGE_OCI ? "it is an OCI image without a boot loader: use container or microvm"
                                              : "it is a disk image: use vm");
}

/* A name may stand for an OCI image and, with "-disk" behind it, for the bootable disk of the same system: a vm takes the
 * disk, so that one name starts as every kind. */
static int find_image_for(struct manager *manager, const struct instance_spec *spec, const struct image **ret,
                          struct error *error) {
    _cleanup_free_ char *disk = NULL;
    const struct image *image = NULL;
    int r = storage_image_find(manager->storage, spec->image, ret, error);

    if (spec->kind != KIND_VM || (r >= 0 && (*ret)->type != IMAGE_OCI))
        return r;
    disk = text_format("%s-disk", spec->image);
    if (!disk || storage_image_find(manager->storage, disk, &image, NULL) < 0)
        return r;
    error_clear(error);
    *ret = image;
    return 0;
}

static int choose_image(struct manager *manager, struct instance *instance, const struct image **ret,
                        struct error *error) {
    int r;

    if (text_is_empty(instance->spec.image)) {
        if (instance->spec.kind == KIND_FAKE || (instance->spec.kind == KIND_VM && instance->spec.cdrom))
            return 0;
        return error_set(error, ERROR_MISSING_FIELD, "image");
    }
    if (instance->spec.kind == KIND_FAKE)
        return 0;
    r = find_image_for(manager, &instance->spec, ret, error);
    if (r >= 0) {
        instance->assigned.image_digest = strdup((*ret)->digest);
        r = instance->assigned.image_digest ? 0 : -ENOMEM;
    }
    return r;
}

static int fits_node(struct manager *manager, const struct instance *instance, struct error *error) {
    struct engine_request request = { .id = instance->assigned.uuid, .kind = instance->assigned.kind,
                                      .cpus = instance->spec.cpus, .memory = instance->spec.memory };

    return engine_check(manager->engine, &request, error);
}

static int mounts_allowed(struct manager *manager, const struct instance_spec *spec, struct error *error) {
    _cleanup_free_ char *roots = list_join(manager->configuration.mount_roots, ", ");

    for (size_t i = 0; i < spec->mounts.count; i++) {
        const struct instance_mount *mount = (const struct instance_mount *) spec->mounts.items + i;
        bool allowed = mount->type != MOUNT_BIND;
        for (char *const *root = manager->configuration.mount_roots; root && *root && !allowed; root++) {
            size_t length = strlen(*root);
            while (length > 1 && (*root)[length - 1] == '/')
                length--;
            allowed = strncmp(mount->source, *root, length) == 0 &&
                      (length == 1 || mount->source[length] == '/' || mount->source[length] == '\0');
        }
        if (!allowed)
            return error_set(error, ERROR_NOT_ALLOWED_PATH, mount->source,
                             text_is_empty(roots) ? "none is configured" : roots);
    }
    return 0;
}

/* One authorise-and-validate step on the final spec; used by create and patch alike. */
int instance_admissible(struct manager *manager, const struct instance *instance, struct error *error) {
    int r = instance_spec_validate(&instance->spec, instance->assigned.kind, error);

    if (r >= 0)
        r = mounts_allowed(manager, &instance->spec, error);
    if (r >= 0 && !text_equal(instance->spec.network, "none") && !text_equal(instance->spec.network, "default"))
        r = error_set(error, ERROR_NOT_FOUND, "network", instance->spec.network);
    if (r >= 0 && instance->spec.publish.count > 0 && (!manager->network || text_equal(instance->spec.network, "none")))
        r = error_set(error, ERROR_NOT_SUPPORTED, "an instance without a network", "publish", "there is nothing to reach");
    return r < 0 ? r : fits_node(manager, instance, error);
}

static int decide(struct manager *manager, struct instance *instance, struct json_object *given, struct error *error) {
    struct instance_assigned *assigned = &instance->assigned;
    const struct image *image = NULL;
    char uuid[UUID_TEXT_SIZE];
    int r = instance_spec_validate(&instance->spec, instance->spec.kind, error);

    if (r >= 0)
        r = choose_image(manager, instance, &image, error);
    if (r < 0)
        return r;
    assigned->kind = instance->spec.kind;
    if (assigned->kind == KIND_AUTO)
        r = choose_kind(manager, image, &assigned->kind, &assigned->why_kind, error);
    if (r >= 0)
        r = suits(image, assigned->kind, error);
    if (r >= 0)
        r = manager_driver_available(manager, assigned->kind, error);
    if (r >= 0)
        r = choose_uid_base(manager, &assigned->uid_base, error);
    if (r < 0)
        return r;
    uuid_new(uuid);
    assigned->uuid = strdup(uuid);
    assigned->project = strdup("default");
    assigned->node = strdup(manager->facts.hostname ? manager->facts.hostname : "localhost");
    assigned->generation = 1;
    assigned->created = clock_wall();
    r = assigned->uuid && assigned->project && assigned->node ? instance_prepare(instance) : -ENOMEM;
    if (r < 0)
        return error_errno(error, r, "creating");
    instance_spec_complete(&instance->spec, assigned->kind, given, DECODE_REPLACE);
    r = instance_admissible(manager, instance, error);
    if (r >= 0)
        r = instance_process(instance, image, error);
    return r;
}

static int build(struct manager *manager, const struct instance_create *create, struct instance **ret,
                 struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    _cleanup_free_ char *name = NULL;
    int r = choose_name(manager, create->name, &name, error);

    if (r < 0)
        return r;
    r = instance_new(manager, name, &instance);
    if (r < 0)
        return error_errno(error, r, "creating");
    if (create->spec)
        r = table_decode(&instance_spec_table, create->spec, DECODE_REPLACE, &instance->spec, error);
    if (r >= 0)
        r = decide(manager, instance, create->spec, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(instance);
    return 0;
}

/* --- commit ------------------------------------------------------------------------------------------------------------ */

static int commit(struct manager *manager, struct instance *instance, const struct actor *actor, const char *key,
                  struct error *error) {
    _cleanup_free_ char *idempotency_key = key ? text_format(IDEMPOTENCY_PREFIX "%s", key) : NULL;
    struct store_operation extra = { .type = STORE_PUT, .key = idempotency_key, .value = instance->assigned.uuid,
                                     .size = strlen(instance->assigned.uuid) };
    int r = registry_add(manager, instance);

    if (r < 0)
        return error_errno(error, r, "creating");
    r = choose_address(manager, instance, error);
    if (r >= 0 && instance->assigned.image_digest)
        r = storage_image_use(manager->storage, instance->assigned.image_digest, instance->assigned.uuid);
    FAILPOINT("create-before-commit");
    if (r >= 0)
        r = manager_commit_instance(manager, instance, actor, "instance.create", true, &extra, key ? 1 : 0, error);
    FAILPOINT("create-after-commit");
    if (r < 0) {
        if (instance->assigned.image_digest)
            storage_image_unuse(manager->storage, instance->assigned.image_digest, instance->assigned.uuid);
        instance->removed = true;
        registry_remove(manager, instance);
        return r;
    }
    events_publish(manager->events, "instance.created", instance->name, NULL);
    return 0;
}

struct created {
    struct instance *instance;
    bool start;
};

static void created_free(void *userdata) {
    struct created *created = userdata;

    instance_unref(created->instance);
    free(created);
}

static int created_body(struct operation *operation, void *userdata, struct error *error) {
    struct created *created = userdata;
    struct instance *instance = created->instance;
    int r;

    if (!created->start)
        return 0;
    r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (r < 0)
        return r;
    if (instance->control.power == POWER_RUNNING && !state_is_active(instance->status.state)) {
        instance->operation = operation;
        r = run_start(instance, operation, NULL, error);
        instance->operation = NULL;
    }
    fiber_mutex_unlock(&instance->lock);
    if (r < 0)
        (void) error_subject(error, "instance", instance->name);
    return r;
}

static int begin(struct manager *manager, struct instance *instance, const struct actor *actor, bool start,
                 struct operation **ret, struct error *error) {
    struct created *created = calloc(1, sizeof(*created));
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
    int r;

    if (!created || !object) {
        free(created);
        return error_errno(error, -ENOMEM, "creating");
    }
    created->instance = instance_ref(instance);
    created->start = start;
    r = operation_start(manager->operations, "instance.create", object, actor->name, created_body, created,
                        created_free, ret);
    return r < 0 ? error_errno(error, r, "creating") : 0;
}

static int key_of(const struct actor *actor, const char *given, char **ret, struct error *error) {
    if (!given)
        return 0;
    if (strlen(given) > IDEMPOTENCY_KEY_MAX || !text_is_plain(given) || *given == '\0' || strchr(given, '/'))
        return error_set(error, ERROR_BAD_VALUE, "Idempotency-Key", "this text",
                         "use 1 to 128 printable characters without '/'");
    *ret = text_format("%s %s", actor->name, given);
    return *ret ? 0 : error_errno(error, -ENOMEM, "creating");
}

static int create_now(struct manager *manager, const struct actor *actor, const struct instance_create *create,
                      const char *key, struct operation **ret, char **ret_text, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    const char *text;
    int r = build(manager, create, &instance, error);

    if (r < 0)
        return r;
    text = instance_text(instance);
    *ret_text = text ? strdup(text) : NULL;
    if (create->dry_run)
        return 0;
    instance->control.power = create->start ? POWER_RUNNING : POWER_STOPPED;
    instance_touch(instance);
    if (key) /* a second request with this key must find it while the first is still being committed */
        (void) idempotency_remember(manager, key, instance->assigned.uuid, NULL);
    r = commit(manager, instance, actor, key, error);
    if (r >= 0)
        r = begin(manager, instance, actor, create->start, ret, error);
    if (key && r < 0)
        idempotency_forget(manager, key);
    if (key && r >= 0) {
        struct idempotency *known = map_get(manager->idempotency, key);
        if (known && !known->operation)
            known->operation = operation_ref(*ret);
    }
    free(*ret_text);
    text = instance_text(instance);
    *ret_text = text ? strdup(text) : NULL;
    return r;
}

int manager_instance_create(struct manager *manager, const struct actor *actor, const struct instance_create *create,
                            struct operation **ret, char **ret_text, struct error *error) {
    _cleanup_free_ char *key = NULL;
    const struct idempotency *known;
    int r = authorise(actor, "default", PERMISSION_CREATE, NULL, error);

    *ret_text = NULL;
    if (r >= 0)
        r = key_of(actor, create->idempotency_key, &key, error);
    if (r < 0)
        return audit_refusal(manager, actor, "instance.create", "instances", r, error);
    known = key ? map_get(manager->idempotency, key) : NULL;
    if (known)
        return idempotency_answer(manager, actor, known, ret, ret_text, error);
    r = create_now(manager, actor, create, key, ret, ret_text, error);
    return audit_refusal(manager, actor, "instance.create", create->name ? create->name : "instances", r, error);
}
