// SPDX-License-Identifier: GPL-2.0-or-later
/* Opening and loading the image store, staging, finding images, pins. Records are in records.c, files without one in
 * sweep.c. */
#include "storage/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

#define OPEN_PATIENCE (3 * CLOCK_SECOND) /* then the daemon goes on without it */
#define OPEN_AGAIN (5 * CLOCK_SECOND)

/* --- small things -------------------------------------------------------------------------------------------------- */

const char *digest_hex(const char *digest) {
    const char *colon = digest ? strchr(digest, ':') : NULL;

    return colon ? colon + 1 : "";
}

char *digest_of(const void *data, size_t size) {
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    char hex[2 * SHA256_DIGEST_SIZE + 1];

    sha256_init(&context);
    sha256_update(&context, size, data);
    sha256_digest(&context, sizeof(digest), digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return text_format("sha256:%s", hex);
}

char *image_path(const struct storage *storage, const char *part, const char *digest) {
    return text_format("%s/%s/%s", storage->images, part, digest_hex(digest));
}

char *layer_path(const struct storage *storage, const char *diff_id) {
    return image_path(storage, "layers", diff_id);
}

int staging_make_named(struct storage *storage, const char *prefix, char **ret_path, struct error *error) {
    char name[17];
    char *path;

    random_hex(name, 8);
    path = text_format("%s/%s%s", storage->staging, prefix, name);
    if (!path)
        return error_errno(error, -ENOMEM, "making room");
    if (mkdir(path, 0755) < 0) {
        int r = error_errno(error, -errno, "creating %s", path);
        free(path);
        return r;
    }
    *ret_path = path;
    return 0;
}

int staging_make(struct storage *storage, char **ret_path, struct error *error) {
    return staging_make_named(storage, "", ret_path, error);
}

static int remove_job(void *userdata) {
    return file_remove_tree(AT_FDCWD, userdata);
}

/* Also when the fiber was cancelled: a job is not cancellable. */
void staging_remove(char **path) {
    if (*path)
        (void) fiber_job(remove_job, *path);
    free(*path);
    *path = NULL;
}

struct move {
    const char *from, *to;
};

static int sync_parent(const char *path) {
    const char *name;
    _cleanup_close_ int parent = file_open_parent(AT_FDCWD, path, &name);

    if (parent < 0)
        return parent;
    return fsync(parent) < 0 ? -errno : 0;
}

static int publish_job(void *userdata) {
    const struct move *move = userdata;

    return rename(move->from, move->to) < 0 ? -errno : sync_parent(move->to);
}

int staging_publish(struct storage *storage, const char *from, const char *to) {
    _cleanup_staging_ char *old = NULL;
    struct move move = { from, to };
    char name[17];

    random_hex(name, 8);
    old = text_format("%s/old-%s", storage->staging, name);
    if (!old)
        return -ENOMEM;
    if (rename(to, old) < 0 && errno != ENOENT)
        return -errno;
    return fiber_job(publish_job, &move);
}

static int keep_job(void *userdata) {
    const struct move *move = userdata;
    _cleanup_close_ int fd = open(move->from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return publish_job(userdata);
}

int file_keep(const char *part, const char *path) {
    struct move move = { part, path };

    return fiber_job(keep_job, &move);
}

const char *host_architecture(void) {
#if defined(__x86_64__)
    return "amd64";
#elif defined(__aarch64__)
    return "arm64";
#else
    return "unknown";
#endif
}

void progress_step(const struct storage_progress *progress, const char *step, uint64_t done, uint64_t total) {
    if (progress && progress->report)
        progress->report(step, done, total, progress->userdata);
}

/* --- start ------------------------------------------------------------------------------------------------------- */

static int storage_paths(struct storage *storage, const struct storage_options *options) {
    storage->state_path = strdup(options->state_path);
    storage->run_path = strdup(options->run_path);
    storage->libexec_path = strdup(options->libexec_path);
    storage->kernel_root = options->kernel_root ? strdup(options->kernel_root) : NULL;
    storage->images = text_format("%s/images", options->state_path);
    storage->staging = text_format("%s/images/staging", options->state_path);
    return storage->state_path && storage->run_path && storage->libexec_path && storage->images && storage->staging
               ? 0
               : -ENOMEM;
}

/* What images hold (set-user-id programs too) is no business of the host's users; skopeo, unprivileged, passes through to
 * its own staging directory. */
static int directories_make(const struct storage *storage) {
    static const struct {
        const char *name;
        mode_t mode;
    } parts[] = { { "layers", 0700 }, { "disks", 0700 }, { "isos", 0700 }, { "erofs", 0700 }, { "blank", 0700 },
                  { "kernels", 0700 }, { "staging", 0711 }, { "discarded", 0700 }, { "downloads", 0700 } };
    int r = file_make_directories(AT_FDCWD, storage->images, 0711);

    for (size_t i = 0; r >= 0 && i < ELEMENTS(parts); i++) {
        _cleanup_free_ char *path = text_format("%s/%s", storage->images, parts[i].name);
        r = path ? file_make_directories(AT_FDCWD, path, parts[i].mode) : -ENOMEM;
        if (r >= 0 && chmod(path, parts[i].mode) < 0)
            r = -errno;
    }
    return r;
}

int storage_new(const struct storage_options *options, struct storage **ret, struct error *error) {
    struct storage *storage = calloc(1, sizeof(*storage));
    int r = storage ? storage_paths(storage, options) : -ENOMEM;

    if (r >= 0)
        r = map_new(&storage->by_digest);
    if (r >= 0)
        r = map_new(&storage->claims);
    if (r >= 0)
        r = map_new(&storage->places);
    if (r < 0) {
        storage_free(storage);
        return error_errno(error, r, "opening the image store in %s", options->state_path);
    }
    storage->store = options->store;
    *ret = storage;
    return 0;
}

void storage_free(struct storage *storage) {
    if (!storage)
        return;
    for (size_t i = 0; i < storage->count; i++)
        stored_free(storage->list[i]);
    free(storage->list);
    map_free(storage->by_digest);
    map_free(storage->claims);
    map_free(storage->places);
    fiber_unref(storage->opener);
    free(storage->state_path);
    free(storage->run_path);
    free(storage->libexec_path);
    free(storage->kernel_root);
    free(storage->images);
    free(storage->staging);
    free(storage);
}

static int load_one(struct storage *storage, const struct store_item *item, struct error *error) {
    _cleanup_json_ struct json_object *record = NULL;
    struct stored *stored = calloc(1, sizeof(*stored));
    int r = stored ? json_parse(item->value, item->size, &record, error) : error_errno(error, -ENOMEM, "loading images");

    if (r >= 0)
        r = table_init(&image_table, &stored->image);
    if (r >= 0)
        r = table_decode(&image_table, record, DECODE_STORED, &stored->image, error);
    if (r >= 0 && !image_digest_is_valid(stored->image.digest))
        r = error_set(error, ERROR_BAD_VALUE, "digest", stored->image.digest, "it is no digest");
    if (r >= 0)
        r = stored_show(storage, stored);
    if (r < 0) {
        stored_free(stored);
        (void) error_subject(error, "record", item->key);
    }
    return r;
}

/* An image without its files cannot start anything; the log says so at once, and `polder fsck` on request. */
static void warn_of_problems(struct storage *storage) {
    _cleanup_list_ char **problems = NULL;

    (void) storage_check(storage, false, NULL, &problems, NULL);
    for (char **problem = problems; problem && *problem; problem++)
        log_warning("%s", *problem);
}

static int open_job(void *userdata) {
    struct storage *storage = userdata;
    int r = directories_make(storage);

    return r < 0 ? r : staging_clear(storage);
}

static int open_once(struct storage *storage) {
    int r = fiber_job(open_job, storage);

    return r < 0 ? r : sweep_at_start(storage);
}

/* Once the daemon went on without it, there is nobody to tell but the log. */
static int opener_main(void *userdata) {
    struct storage *storage = userdata;
    int r = storage_ask(storage, storage->images, DEADLINE_NONE, NULL);

    if (r == -ECANCELED)
        return r;
    r = open_once(storage);

    while (r < 0 && storage->late) {
        log_warning("the image store in %s cannot be opened, which is tried again: %s", storage->images, strerror(-r));
        if (fiber_sleep(OPEN_AGAIN) < 0)
            return -ECANCELED;
        r = open_once(storage);
    }
    if (r < 0)
        return r;
    if (storage->late)
        log_notice("the image store in %s is open now", storage->images);
    storage->opened = true;
    fiber_queue_wake_all(&storage->opening);
    warn_of_problems(storage);
    return 0;
}

static int images_open(struct storage *storage, struct error *error) {
    int opened = 0, r = fiber_start(&storage->opener, "opener", opener_main, storage);

    if (r >= 0)
        r = fiber_join(storage->opener, deadline_in(OPEN_PATIENCE), &opened);
    if (r == -ETIMEDOUT) {
        log_warning("the image store in %s does not answer; what needs it waits until it does", storage->images);
        storage->late = true;
        return 0;
    }
    r = r < 0 ? r : opened;
    return r < 0 ? error_errno(error, r, "opening the image store in %s", storage->images) : 0;
}

int storage_load(struct storage *storage, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(storage->store, IMAGE_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++)
        r = load_one(storage, &items.items[i], error);
    store_items_done(&items);
    return r < 0 ? r : images_open(storage, error);
}

void storage_stop(struct storage *storage) {
    if (storage->opener)
        fiber_cancel(storage->opener);
}

/* --- find and show ----------------------------------------------------------------------------------------------- */

static struct stored *find_by_prefix(struct storage *storage, const char *prefix, bool *ambiguous) {
    size_t length = strlen(prefix);
    struct stored *found = NULL;

    if (length < 6 || strspn(prefix, "0123456789abcdef") != length)
        return NULL;
    for (size_t i = 0; i < storage->count; i++) {
        if (strncmp(digest_hex(storage->list[i]->image.digest), prefix, length) != 0)
            continue;
        *ambiguous = *ambiguous || found;
        found = storage->list[i];
    }
    return found;
}

/* As people write it: a name without tag means "latest", and the other way round. */
static struct stored *find_by_alias(struct storage *storage, const char *name, const char **ret_alias) {
    struct stored *stored = stored_holder(storage, name);
    _cleanup_free_ char *other = NULL;

    *ret_alias = name;
    if (!stored && text_ends(name, ":latest"))
        other = strndup(name, strlen(name) - strlen(":latest"));
    else if (!stored && !strchr(name, '@'))
        other = text_format("%s:latest", name);
    if (other)
        stored = stored_holder(storage, other);
    for (char **alias = other && stored ? stored->image.aliases : NULL; alias && *alias; alias++)
        if (text_equal(*alias, other))
            *ret_alias = *alias;
    return stored;
}

/* A whole digest is an identity: no alias shadows it. */
int stored_lookup(struct storage *storage, const char *name, struct stored **ret, const char **ret_alias,
                  struct error *error) {
    const char *alias = NULL;
    bool ambiguous = false;
    struct stored *stored = stored_find(storage, name);

    if (!stored && !image_digest_is_valid(name)) {
        stored = find_by_alias(storage, name, &alias);
        if (!stored) {
            alias = NULL;
            stored = find_by_prefix(storage, text_starts(name, "sha256:") ? name + 7 : name, &ambiguous);
        }
    }
    if (!stored)
        return error_set(error, ERROR_NOT_FOUND, "image", name);
    if (ambiguous)
        return error_set(error, ERROR_BAD_VALUE, "image", name, "several images start with these digits");
    if (ret_alias)
        *ret_alias = alias;
    *ret = stored;
    return 0;
}

int storage_image_find(struct storage *storage, const char *name, const struct image **ret, struct error *error) {
    struct stored *stored;
    int r = stored_lookup(storage, name, &stored, NULL, error);

    if (r >= 0)
        *ret = &stored->image;
    return r;
}

const struct image *storage_image_next(struct storage *storage, size_t *position) {
    return *position < storage->count ? &storage->list[(*position)++]->image : NULL;
}

void storage_image_emit(const struct image *image, struct emitter *emitter) {
    emit_object(emitter);
    table_emit(&image_table, image, emitter);
    emit_object_end(emitter);
}

/* --- pins -------------------------------------------------------------------------------------------------------- */

int storage_image_use(struct storage *storage, const char *digest, const char *uuid) {
    struct stored *stored = stored_find(storage, digest);
    struct pin *pin;

    if (!stored)
        return -ENOENT;
    for (pin = stored->pins; pin; pin = pin->next)
        if (text_equal(pin->uuid, uuid))
            return 0;
    pin = calloc(1, sizeof(*pin));
    if (!pin || !(pin->uuid = strdup(uuid))) {
        free(pin);
        return -ENOMEM;
    }
    pin->next = stored->pins;
    stored->pins = pin;
    stored->image.last_used = clock_wall();
    return 0;
}

void storage_image_unuse(struct storage *storage, const char *digest, const char *uuid) {
    struct stored *stored = stored_find(storage, digest);

    for (struct pin **link = stored ? &stored->pins : NULL; link && *link; link = &(*link)->next) {
        struct pin *pin = *link;
        if (!text_equal(pin->uuid, uuid))
            continue;
        *link = pin->next;
        free(pin->uuid);
        free(pin);
        return;
    }
}


int storage_upload_path(struct storage *storage, char **ret_path, struct error *error) {
    char name[17];
    int r = storage_wait(storage, NULL, error);

    if (r < 0)
        return r;
    random_hex(name, 8);
    *ret_path = text_format("%s/upload-%s", storage->staging, name);
    return *ret_path ? 0 : error_errno(error, -ENOMEM, "making room");
}
