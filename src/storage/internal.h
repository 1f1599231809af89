// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/fiber.h"
#include "base/map.h"
#include "base/process.h"
#include "storage/storage.h"

/* What the files of the storage share. */

#define IMAGE_PREFIX "/images/default/"
#define MANIFEST_MAX (4 * 1024 * 1024)
#define LAYERS_MAX 128
#define HEX_DIGITS 64
/* One tool run may take this long before it counts as stuck. */
#define TOOL_DEADLINE (30 * 60 * CLOCK_SECOND)

struct pin {
    char *uuid;
    struct pin *next;
};

struct stored {
    struct image image;
    struct pin *pins;
};

struct storage {
    char *state_path, *run_path, *libexec_path, *kernel_root;
    char *images;  /* STATE/images */
    char *staging; /* STATE/images/staging */
    struct store *store;
    struct map *by_digest;    /* struct stored */
    struct stored **list;     /* in order of arrival */
    size_t count, allocated;
    struct fiber_mutex layers; /* one adds layers (or removes files) at a time */
    struct fiber_mutex makes;  /* EROFS, kernels, blanks */
    struct fiber_mutex removing;
};

/* "sha256:HEX" -> HEX, borrowed. */
const char *digest_hex(const char *digest);
/* Digest text of bytes in memory; allocated. */
char *digest_of(const void *data, size_t size);
char *layer_path(const struct storage *storage, const char *diff_id);
char *image_path(const struct storage *storage, const char *part, const char *digest);
/* A fresh directory beneath staging; the caller removes it. */
int staging_make(struct storage *storage, char **ret_path, struct error *error);
void staging_remove(char **path);
#define _cleanup_staging_ __attribute__((cleanup(staging_remove)))

/* --- records ---------------------------------------------------------------------------------------------------- */
void stored_free(struct stored *stored);
struct stored *stored_find(struct storage *storage, const char *digest);
/* Writes the record (with what changed) and makes it visible; `stored` is consumed even on failure when it is new. */
int stored_commit(struct storage *storage, struct stored *stored, struct error *error);
/* Gives `alias` to the image, taking it from whoever has it, and commits. */
int stored_add_take(struct storage *storage, struct image *image, const char *alias, const struct image **ret,
                    struct error *error);

/* --- tools ------------------------------------------------------------------------------------------------------ */
/* Runs polder-worker with descriptors `fds` (targets from 3 on). Its error becomes ours, by kind. *ret_result is the
 * result object; the caller puts it. */
int worker_call(struct storage *storage, char *const *arguments, const struct process_fd *fds, size_t fd_count,
                const char *step, const struct storage_progress *progress, struct json_object **ret_result,
                struct error *error);
/* "progress PERCENT TEXT" lines of the builders become progress. */
int builder_call(struct storage *storage, const char *program, char *const *arguments,
                 const struct storage_progress *progress, struct error *error);
void progress_step(const struct storage_progress *progress, const char *step, uint64_t done, uint64_t total);

/* Unpacks a layer blob into the store unless it is there. The caller holds storage->layers. */
int layer_ensure(struct storage *storage, const char *blob_path, const char *media_type, struct image_layer *layer,
                 uint64_t maximum, const char *step, const struct storage_progress *progress, struct error *error);
/* A root file system tar becomes a one-layer image. */
int rootfs_add(struct storage *storage, const char *tar_path, const struct image_request *request, const char *source,
               char *const *command, const struct storage_progress *progress, const struct image **ret,
               struct error *error);
int disk_add(struct storage *storage, const char *path, const struct image_request *request, const char *source,
             const struct storage_progress *progress, const struct image **ret, struct error *error);
int iso_add(struct storage *storage, const char *path, const struct image_request *request, const char *source,
            const struct storage_progress *progress, const struct image **ret, struct error *error);
int oci_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
                 const struct image **ret, struct error *error);
int build_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
              const struct image **ret, struct error *error);
/* Fetches an http(s) URL into `path`. */
int url_fetch(struct storage *storage, const char *url, const char *path, uint64_t maximum,
              const struct storage_progress *progress, struct error *error);
