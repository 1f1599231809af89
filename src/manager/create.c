// SPDX-License-Identifier: GPL-2.0-or-later
/* Creating an instance: decode, choose, validate, decide what is kept (uuid, kind, ids, addresses), commit. Everything
 * before the commit is in memory only. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stddef.h>
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
#define IDEMPOTENCY_DAY (UINT64_C(86400) * CLOCK_SECOND)
#define EXPIRE_BATCH 100

/* --- idempotency keys ------------------------------------------------------------------------------------------------ */

/* One request with a key. It is there from before the commit on, so that the same request, sent a hundred times at
 * once, finds it; those wait until it is decided. In the store for a day, whatever becomes of the instance. */
struct idempotency {
    char *key;  /* "actor key" */
    char *uuid; /* of the instance it made */
    char operation[UUID_TEXT_SIZE];
    uint64_t digest;  /* of the request: a key belongs to one */
    uint64_t created; /* wall time */
    uint64_t until;   /* clock_now(): a step of the wall clock under this daemon ends no key */
    bool pending;     /* not committed yet */
    bool failed;      /* and never will be */
    struct fiber_queue decided;
    unsigned references;
};

static const struct field idempotency_fields[] = {
    { .name = "uuid", .type = FIELD_TEXT, .offset = offsetof(struct idempotency, uuid), .required = true },
    { .name = "created", .type = FIELD_TIME, .offset = offsetof(struct idempotency, created) },
    { .name = "digest", .type = FIELD_SIZE, .offset = offsetof(struct idempotency, digest) },
};
static const struct table idempotency_table = TABLE("idempotency", struct idempotency, idempotency_fields);

static void idempotency_unref(struct idempotency *known) {
    if (!known || --known->references > 0)
        return;
    free(known->uuid);
    free(known->key);
    free(known);
}

void idempotency_free(struct manager *manager) {
    size_t position = 0;
    void *value;

    if (!manager->idempotency)
        return;
    while (map_next(manager->idempotency, &position, NULL, &value))
        idempotency_unref(value);
    map_free(manager->idempotency);
    manager->idempotency = NULL;
}

/* Into the map, which holds the reference. */
static int idempotency_add(struct manager *manager, const char *key, struct idempotency *known) {
    int r;

    known->references = 1;
    known->key = strdup(key);
    r = known->key && known->uuid ? map_put(manager->idempotency, known->key, known) : -ENOMEM;
    if (r < 0)
        idempotency_unref(known);
    return r;
}

static struct idempotency *idempotency_begin(struct manager *manager, const char *key, uint64_t digest, const char *uuid) {
    struct idempotency *known = calloc(1, sizeof(*known));

    if (!known)
        return NULL;
    known->uuid = strdup(uuid);
    known->digest = digest;
    known->created = clock_wall();
    known->until = clock_now() + IDEMPOTENCY_DAY;
    known->pending = true;
    return idempotency_add(manager, key, known) < 0 ? NULL : known;
}

static void idempotency_forget(struct manager *manager, struct idempotency *known) {
    (void) map_remove(manager->idempotency, known->key);
    idempotency_unref(known);
}

static void idempotency_decide(struct manager *manager, struct idempotency *known, const struct operation *operation) {
    known->pending = false;
    known->failed = !operation;
    if (operation)
        memcpy(known->operation, operation->id, sizeof(known->operation));
    fiber_queue_wake_all(&known->decided);
    if (!operation)
        idempotency_forget(manager, known);
}

static char *idempotency_text(const struct idempotency *known) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    char *text = NULL;

    emit_object(&emitter);
    table_emit(&idempotency_table, known, &emitter);
    emit_object_end(&emitter);
    return buffer_take(&buffer, &text) < 0 ? NULL : text;
}

static bool is_over(const struct idempotency *known) {
    return !known->pending && known->until < clock_now();
}

/* What an earlier daemon wrote is as old as the wall clock says now, but not younger than new. */
static bool take_age(struct idempotency *known) {
    uint64_t now = clock_wall(), age = now > known->created ? now - known->created : 0;

    if (age > IDEMPOTENCY_DAY)
        return false;
    known->until = clock_now() + IDEMPOTENCY_DAY - age;
    return true;
}

int idempotency_load(struct manager *manager, const char *key, const char *text, size_t size) {
    _cleanup_json_ struct json_object *json = NULL;
    struct idempotency *known = calloc(1, sizeof(*known));

    if (!known)
        return -ENOMEM;
    if (json_parse(text, size, &json, NULL) < 0 ||
        table_decode(&idempotency_table, json, DECODE_STORED, known, NULL) < 0 || !take_age(known)) {
        known->references = 1;
        idempotency_unref(known);
        return 0;
    }
    return idempotency_add(manager, key, known) < 0 ? -ENOMEM : 1;
}

static struct idempotency *find_over(struct manager *manager) {
    size_t position = 0;
    void *value;

    while (map_next(manager->idempotency, &position, NULL, &value))
        if (is_over(value))
            return value;
    return NULL;
}

void idempotency_expire(struct manager *manager) {
    _cleanup_list_ char **keys = NULL;
    struct store_operation drops[EXPIRE_BATCH];
    struct idempotency *known;
    size_t count = 0;

    while (count < EXPIRE_BATCH && (known = find_over(manager))) {
        if (list_addf(&keys, IDEMPOTENCY_PREFIX "%s", known->key) < 0)
            return;
        drops[count] = (struct store_operation){ .type = STORE_DELETE, .key = keys[count] };
        count++;
        idempotency_forget(manager, known);
    }
    /* What cannot be written now is dropped at the next start. */
    if (count > 0)
        (void) store_commit(manager->store, drops, count, NULL, NULL);
}

static int nothing(struct operation *operation _unused_, void *userdata _unused_, struct error *error _unused_) {
    return 0;
}

/* The operation of an earlier request with this key: the same one, or a finished stand-in when that is forgotten. */
static int idempotency_answer(struct manager *manager, const struct actor *actor, const struct idempotency *known,
                              struct operation **ret, char **ret_text) {
    struct instance *instance = map_get(manager->by_uuid, known->uuid);
    struct operation *operation = operations_find(manager->operations, known->operation);
    _cleanup_free_ char *object = instance_object(instance ? instance->name : known->uuid);
    const char *text = instance ? instance_text(instance) : NULL;

    *ret_text = text ? strdup(text) : NULL;
    if (operation) {
        *ret = operation_ref(operation);
        return 0;
    }
    return object ? operation_start(manager->operations, "instance.create", object, actor->name, nothing, NULL, NULL, ret)
                  : -ENOMEM;
}

/* 1: answered; 0: no earlier request has this key. Fiber: waits until an earlier one is decided. */
static int idempotency_find(struct manager *manager, const struct actor *actor, const char *key, uint64_t digest,
                            struct operation **ret, char **ret_text, struct error *error) {
    struct idempotency *known;
    bool failed;
    int r;

    while (key && (known = map_get(manager->idempotency, key))) {
        if (known->digest != digest)
            return error_set(error, ERROR_BAD_VALUE, "Idempotency-Key", strchr(key, ' ') + 1,
                             "it was used for another request");
        known->references++;
        r = 0;
        while (known->pending && r >= 0)
            r = fiber_queue_wait(&known->decided, DEADLINE_NONE);
        failed = known->failed;
        if (r >= 0 && !failed)
            r = idempotency_answer(manager, actor, known, ret, ret_text);
        idempotency_unref(known);
        if (r < 0)
            return error_errno(error, r, "creating");
        if (!failed)
            return 1;
    }
    return 0;
}

/* FNV-1a over what is asked for. */
static uint64_t digest_text(uint64_t hash, const char *text) {
    for (; *text; text++)
        hash = (hash ^ (uint8_t) *text) * UINT64_C(1099511628211);
    return (hash ^ 0xff) * UINT64_C(1099511628211);
}

static uint64_t request_digest(const struct instance_create *create) {
    uint64_t hash = digest_text(UINT64_C(14695981039346656037), create->name ? create->name : "");
    const char *spec = create->spec ? json_plain(create->spec) : NULL;

    hash = digest_text(hash, create->start ? "start" : "");
    hash = digest_text(hash, spec ? spec : ""); /* without memory there is no text: a repeat is then refused as another */
    return hash >> 2; /* as a size in JSON it must stay below 2^63 */
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
        r = manager_commit_instance(manager, instance, &actor_daemon, "instance.readdress", 0, NULL, 0, error);
    instance_touch(instance);
    return r;
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
static int find_image_for(struct manager *manager, const struct instance_spec *spec, enum kind kind, const struct image **ret,
                          struct error *error) {
    _cleanup_free_ char *disk = NULL;
    const struct image *image = NULL;
    int r = storage_image_find(manager->storage, spec->image, ret, error);

    if (kind != KIND_VM || (r >= 0 && (*ret)->type != IMAGE_OCI))
        return r;
    disk = text_format("%s-disk", spec->image);
    if (!disk || storage_image_find(manager->storage, disk, &image, NULL) < 0)
        return r;
    error_clear(error);
    *ret = image;
    return 0;
}

/* A medium alone stands in for an image: the machine gets it and an empty disk, as if the ISO were the image. */
static int choose_image(struct manager *manager, struct instance *instance, enum kind kind, const struct image **ret,
                        struct error *error) {
    const struct instance_spec *spec = &instance->spec;
    int r;

    if (kind == KIND_FAKE)
        return 0;
    if (!text_is_empty(spec->image))
        r = find_image_for(manager, spec, kind, ret, error);
    else if (spec->cdrom && (kind == KIND_VM || kind == KIND_AUTO))
        r = medium_find(manager, spec, ret, error);
    else
        return error_set(error, ERROR_MISSING_FIELD, "image");
    if (r < 0)
        return r;
    free(instance->assigned.image_digest);
    instance->assigned.image_digest = strdup((*ret)->digest);
    return instance->assigned.image_digest ? 0 : error_errno(error, -ENOMEM, "choosing the image");
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
int instance_admissible(struct manager *manager, const struct instance *instance, const char *name, struct error *error) {
    int r = instance_spec_validate(&instance->spec, instance->assigned.kind, error);

    if (r >= 0)
        r = mounts_allowed(manager, &instance->spec, error);
    if (r >= 0 && !text_equal(instance->spec.network, "none") && !text_equal(instance->spec.network, "default"))
        r = error_set(error, ERROR_NOT_FOUND, "network", instance->spec.network);
    if (r >= 0 && instance->spec.publish.count > 0 && (!manager->network || text_equal(instance->spec.network, "none")))
        r = error_set(error, ERROR_NOT_SUPPORTED, "an instance without a network", "publish", "there is nothing to reach");
    if (r >= 0 && (instance->spec.network_in > 0 || instance->spec.network_out > 0) &&
        (!manager->network || text_equal(instance->spec.network, "none")))
        r = error_set(error, ERROR_NOT_SUPPORTED, "an instance without a network",
                      instance->spec.network_in > 0 ? "network_in" : "network_out", "there is nothing to limit");
    if (r >= 0)
        r = reservation_check(manager, instance, error);
    if (r >= 0)
        r = placement_validate(&instance->spec, name, error);
    return r < 0 ? r : fits_node(manager, instance, error);
}

/* What `auto` stands for; a name that is two images may then be the other one. */
static int choose_kind(struct manager *manager, struct instance *instance, struct json_object *given, const struct image **image,
                       struct error *error) {
    struct instance_assigned *assigned = &instance->assigned;
    enum kind kind = (enum kind) instance->spec.kind;
    int r = 0;

    if (kind == KIND_AUTO && !*image)
        return error_set(error, ERROR_MISSING_FIELD, "kind");
    if (kind == KIND_AUTO)
        r = advise_kind(manager, *image, &instance->spec, given, &kind, &assigned->why_kind, error);
    if (r >= 0 && instance->spec.kind == KIND_AUTO && kind == KIND_VM && (*image)->type == IMAGE_OCI)
        r = choose_image(manager, instance, kind, image, error);
    assigned->kind = kind;
    return r;
}

static int decide(struct manager *manager, struct instance *instance, struct json_object *given, struct error *error) {
    struct instance_assigned *assigned = &instance->assigned;
    const struct image *image = NULL;
    char uuid[UUID_TEXT_SIZE];
    int r = instance_spec_validate(&instance->spec, instance->spec.kind, error);

    if (r >= 0)
        r = choose_image(manager, instance, (enum kind) instance->spec.kind, &image, error);
    if (r >= 0)
        r = choose_kind(manager, instance, given, &image, error);
    if (r >= 0)
        r = suits(image, assigned->kind, error);
    if (r >= 0)
        r = medium_insert(instance, &(char *){ NULL }, error);
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
    r = instance_admissible(manager, instance, instance->name, error);
    if (r >= 0)
        r = affinity_check(manager, instance, error);
    if (r >= 0)
        r = placement_possible(manager, instance, NULL, error);
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

static int commit_record(struct manager *manager, struct instance *instance, const struct actor *actor,
                         const struct idempotency *known, struct error *error) {
    _cleanup_free_ char *key = known ? text_format(IDEMPOTENCY_PREFIX "%s", known->key) : NULL;
    _cleanup_free_ char *text = known ? idempotency_text(known) : NULL;
    struct store_operation extra = { .type = STORE_PUT, .key = key, .value = text, .size = text ? strlen(text) : 0 };
    int r;

    if (known && (!key || !text))
        return error_errno(error, -ENOMEM, "creating");
    FAILPOINT("create-before-commit");
    r = manager_commit_instance(manager, instance, actor, "instance.create", COMMIT_NAME, &extra, known ? 1 : 0, error);
    FAILPOINT("create-after-commit");
    return r;
}

/* It has its name, ids and address from here on, but nobody sees it before it is durable. */
static int commit(struct manager *manager, struct instance *instance, const struct actor *actor,
                  const struct idempotency *known, struct error *error) {
    _cleanup_free_ char *object = instance_object(instance->name);
    int r;

    instance->uncommitted = true;
    r = registry_add(manager, instance);
    if (r < 0)
        return error_errno(error, r, "creating");
    r = choose_address(manager, instance, error);
    if (r >= 0)
        r = instance_pin(instance);
    if (r >= 0)
        r = commit_record(manager, instance, actor, known, error);
    if (r < 0) {
        instance_unpin(instance);
        instance->removed = true;
        registry_remove(manager, instance);
        return error_is_set(error) ? r : error_errno(error, r, "creating");
    }
    instance->uncommitted = false;
    instance_touch(instance);
    events_publish(manager->events, "instance.created", object ? object : "instances", NULL);
    return 0;
}

struct created {
    struct instance *instance;
    struct actor actor;
    char *actor_name;
    bool start;
};

static void created_free(void *userdata) {
    struct created *created = userdata;

    instance_unref(created->instance);
    free(created->actor_name);
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
    if (!instance->removed && instance->control.power == POWER_RUNNING && !state_is_active(instance->status.state)) {
        instance->operation = operation;
        r = run_start_wished(instance, operation, NULL, POWER_STOPPED, error);
        if (instance->operation == operation)
            instance->operation = NULL;
    }
    fiber_mutex_unlock(&instance->lock);
    if (r < 0) {
        (void) error_subject(error, "instance", instance->name);
        audit_instance(instance->manager, &created->actor, "instance.start", instance->name, r, error);
        instance_settle(instance);
    }
    return r;
}

static int begin(struct manager *manager, struct instance *instance, const struct actor *actor, bool start,
                 struct operation **ret, struct error *error) {
    struct created *created = calloc(1, sizeof(*created));
    _cleanup_free_ char *object = instance_object(instance->name);
    int r;

    if (created)
        created->actor_name = strdup(actor->name);
    if (!created || !object || !created->actor_name) {
        if (created)
            free(created->actor_name);
        free(created);
        return error_errno(error, -ENOMEM, "creating");
    }
    created->instance = instance_ref(instance);
    created->actor = (struct actor){ .name = created->actor_name, .origin = actor->origin, .role = actor->role };
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
                      const char *key, uint64_t digest, struct operation **ret, char **ret_text, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    struct idempotency *known = NULL;
    const char *text;
    int r = build(manager, create, &instance, error);

    if (r < 0)
        return r;
    if (create->dry_run) {
        text = instance_text(instance);
        *ret_text = text ? strdup(text) : NULL;
        return 0;
    }
    instance->control.power = create->start ? POWER_RUNNING : POWER_STOPPED;
    if (key) {
        known = idempotency_begin(manager, key, digest, instance->assigned.uuid);
        if (!known)
            return error_errno(error, -ENOMEM, "creating");
    }
    r = commit(manager, instance, actor, known, error);
    if (r >= 0)
        r = begin(manager, instance, actor, create->start, ret, error);
    if (known)
        idempotency_decide(manager, known, r >= 0 ? *ret : NULL);
    text = instance_text(instance);
    *ret_text = text ? strdup(text) : NULL;
    return r;
}

int manager_instance_create(struct manager *manager, const struct actor *actor, const struct instance_create *create,
                            struct operation **ret, char **ret_text, struct error *error) {
    _cleanup_free_ char *key = NULL;
    uint64_t digest = request_digest(create);
    int r = authorise(actor, "default", PERMISSION_CREATE, NULL, error);

    *ret_text = NULL;
    if (r >= 0)
        r = key_of(actor, create->idempotency_key, &key, error);
    if (r >= 0)
        r = idempotency_find(manager, actor, create->dry_run ? NULL : key, digest, ret, ret_text, error);
    if (r > 0)
        return 0;
    if (r >= 0)
        r = create_now(manager, actor, create, key, digest, ret, ret_text, error);
    if (r < 0) {
        if (create->name)
            audit_instance(manager, actor, "instance.create", create->name, r, error);
        else
            (void) audit_refusal(manager, actor, "instance.create", "instances", r, error);
    }
    return r;
}
