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
/* A tool run longer than this counts as stuck, whatever it says; a large disk on a slow host takes hours. */
#define TOOL_DEADLINE (6 * 3600 * CLOCK_SECOND)
#define TOOL_DEADLINE_SHORT (10 * 60 * CLOCK_SECOND)
/* No file that a tool writes from foreign bytes becomes larger than this, even if nobody set a limit. */
#define TOOL_FILE_MAX (64ULL << 30)
/* Tools that touch foreign bytes own nothing on the host. */
#define TOOL_ID 65534

struct jail;
struct json_object;
struct sockaddr;

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
    struct map *claims;         /* struct claim */
    struct fiber_mutex records; /* held while records change */
    struct fiber_mutex makes;   /* EROFS, kernels, blanks */
    struct map *places;         /* of place.c, by path */
    struct fiber *opener;
    struct fiber_queue opening; /* those who wait for `opened` */
    bool opened;                /* its directories are there, and what an earlier daemon left is out of the way */
    bool late;                  /* the daemon went on without it */
};

/* Somebody is about to need a file or layer that no record names yet: while it has users, a sweep leaves it alone.
 * Whoever makes it holds `mutex`; several claims may be kept, but one mutex at a time is held. */
struct claim {
    char *key; /* "layers/HEX" */
    unsigned users;
    bool ready; /* it is whole, checked and durable */
    uint64_t size;
    struct fiber_mutex mutex;
};

/* "sha256:HEX" -> HEX, borrowed. */
const char *digest_hex(const char *digest);
/* Digest text of bytes in memory; allocated. */
char *digest_of(const void *data, size_t size);
char *layer_path(const struct storage *storage, const char *diff_id);
char *image_path(const struct storage *storage, const char *part, const char *digest);
/* A fresh directory beneath staging; the caller removes it. */
int staging_make(struct storage *storage, char **ret_path, struct error *error);
int staging_make_named(struct storage *storage, const char *prefix, char **ret_path, struct error *error);
void staging_remove(char **path);
#define _cleanup_staging_ __attribute__((cleanup(staging_remove)))
/* A finished, synced file or directory of staging gets its final path, durably. What stood there without a record is
 * taken away first. Fiber. */
int staging_publish(struct storage *storage, const char *from, const char *to);
/* Makes the file durable and gives it its final name beside or beneath; `path` names are ours. Fiber. */
int file_keep(const char *part, const char *path);

/* May people call an image so? BAD_VALUE. */
int image_alias_check(const char *alias, struct error *error);

/* --- claims and files without a record (sweep.c) ------------------------------------------------------------------- */
int claim_take(struct storage *storage, const char *part, const char *digest, struct claim **ret);
void claim_drop(struct storage *storage, struct claim *claim); /* takes NULL */
/* Moves files that no record and no claim names out of the way at once, and removes them. Lists them only unless
 * `remove`. */
int sweep(struct storage *storage, bool remove, char ***found);
/* At start: what an earlier daemon left unfinished is moved out of the way. Blocks, off the loop's thread. */
int staging_clear(const struct storage *storage);
/* Then: it, and files without a record, go in the background. */
int sweep_at_start(struct storage *storage);
/* The host's processor, as OCI names it: static text. */
const char *host_architecture(void);

/* --- pulls that broke off (resume.c) ------------------------------------------------------------------------------- */
/* What a pull has of those before it, and leaves to those after it. All but resume_staging do nothing for one that was not
 * opened. Fibers. */
struct resume {
    struct storage *storage; /* NULL: not opened */
    const char *staging;     /* borrowed; skopeo writes to its "image" */
    char repository[17];
    char **blobs; /* kept ones that skopeo may count on: hashed, or brought by this pull */
};
#define RESUME_INIT { .storage = NULL }
/* A staging directory whose name says of which repository it is, so that the next start knows. */
int resume_staging(struct storage *storage, const char *reference, char **ret_path, struct error *error);
/* Hashes what there is of the repository; what cannot be read is done without. It is to be closed even after a failure.
 * -ECANCELED, -ENOMEM. */
int resume_open(struct resume *resume, struct storage *storage, const char *reference, const char *staging,
                const struct storage_progress *progress, struct error *error);
/* Puts the blobs before skopeo, as soon as it has emptied its directory; a guard's `before`. */
void resume_offer(void *resume);
/* Takes the whole blobs back, after skopeo has ended; how many there are. */
size_t resume_collect(struct resume *resume);
void resume_close(struct resume *resume, bool keep);
/* Is there so much room that this many bytes of blobs need not go as soon as they are unpacked? */
bool resume_has_room(const struct storage *storage, uint64_t bytes);
/* Removes all that is kept; how many bytes that were. */
uint64_t resume_forget(struct storage *storage);
/* At start, before staging is emptied: keeps what pulls had that died with an earlier daemon. Blocks. */
void resume_rescue(const struct storage *storage);

/* --- records ---------------------------------------------------------------------------------------------------- */
void stored_free(struct stored *stored);
struct stored *stored_find(struct storage *storage, const char *digest);
int stored_show(struct storage *storage, struct stored *stored);
/* The image's record, with `alias` (or NULL) taken from whoever has it, in one transaction; visible when that is durable.
 * An image that is there already only gets the alias. `image` is consumed even on failure. */
int stored_add_take(struct storage *storage, struct image *image, const char *alias, const struct image **ret,
                    struct error *error);

struct stored *stored_holder(struct storage *storage, const char *alias);
/* By alias, digest or prefix; *ret_alias (may be NULL) is the alias that matched, or NULL: borrowed. */
int stored_lookup(struct storage *storage, const char *name, struct stored **ret, const char **ret_alias,
                  struct error *error);

/* --- tools ------------------------------------------------------------------------------------------------------ */
/* Runs polder-worker with descriptors `fds` (targets from 3 on). Its error becomes ours, by kind. *ret_result is the
 * result object; the caller puts it. */
int worker_call(struct storage *storage, char *const *arguments, const struct process_fd *fds, size_t fd_count,
                const char *step, const struct storage_progress *progress, struct json_object **ret_result,
                struct error *error);
/* A jail for a program that may use the network: its start, and a new directory that it sees as /work and may write.
 * `program` is one of ours by absolute path. `input` (or NULL) is a file that it sees as /input. */
struct guard;
struct tool_jail {
    struct jail *jail;
    uint64_t file_maximum;
    const struct guard *guard; /* of its connections, or NULL */
};
int tool_jail_open(struct tool_jail *tool, const char *program, const char *work, const char *input,
                   struct process_spec *spec, struct error *error);
void tool_jail_close(struct tool_jail *tool);
#define _cleanup_tool_jail_ __attribute__((cleanup(tool_jail_close)))
/* This host, its link and multicast: places that only this host may speak to. */
bool address_is_own(const struct sockaddr *address);
/* Decides where a tool may connect to (guard.c): not to this host's own places, but for the one that `reference`, a
 * docker:// one, names. guard_open starts a fiber that answers; guard_enter runs in the child, last before exec, and makes
 * system calls only. `refused` then tells, if not empty, what was tried in vain: "127.0.0.1 port 22". */
struct guard {
    char *host;
    uint16_t port; /* 0: the usual ones */
    int ours, theirs;
    struct fiber *fiber;
    void (*before)(void *userdata); /* or NULL: is called, on the guard's fiber, before each answer */
    void *userdata;
    char refused[64];
};
#define GUARD_INIT { .ours = -EBADF, .theirs = -EBADF }
int guard_open(struct guard *guard, const char *reference, struct error *error);
int guard_enter(const struct guard *guard);
void guard_close(struct guard *guard);
#define _cleanup_guard_ __attribute__((cleanup(guard_close)))

/* "progress PERCENT TEXT" lines of the builders become progress. */
int builder_call(struct storage *storage, const char *program, char *const *arguments,
                 const struct storage_progress *progress, struct error *error);
/* Runs one of the host's own programs to its end; `base` (or NULL) has what else its process is to have. Fiber. */
int tool_run(const char *program, char *const *arguments, const struct process_spec *base, struct error *error);
/* What doctor says of the kernels for microVMs. */
int kernel_findings(struct storage *storage, struct findings *findings);
/* The empty file systems that disks are copied from are a cache: they are made again. Fiber. */
int blanks_remove(struct storage *storage);

/* --- merged layers (merge.c) --------------------------------------------------------------------------------------- */
/* What a child needs to see an image's layers as one, read-only, at PLACE/merged: everything is prepared before, for the
 * child may only make system calls. It is to be born in a mount namespace of its own, with merge_enter as its setup. */
struct merge {
    uint64_t capabilities;      /* that are left to it, as bits; set by the caller */
    char *place;                /* a directory: tmpfs with N for each layer, then the overlay at "merged" */
    char *merged;
    char **layers;              /* lowest first */
    char (*names)[24];          /* "0", "1", … */
    size_t count;
    char *options;              /* "lowerdir=2:1:0" */
};
int merge_prepare(struct merge *merge, struct storage *storage, const struct image *image, struct error *error);
void merge_done(struct merge *merge); /* Fiber. */
int merge_enter(void *merge);
#define _cleanup_merge_ __attribute__((cleanup(merge_done)))

/* Digest of a file, whose bytes are also copied to `output` unless that is negative. */
int file_digest(struct storage *storage, const char *path, int output, const char *step,
                const struct storage_progress *progress, char **ret_digest, struct error *error);
void progress_step(const struct storage_progress *progress, const char *step, uint64_t done, uint64_t total);

/* Makes `layer` be there: finds it, or has `unpack` fill a staging directory with it. The caller keeps the claim until
 * the record is committed. */
struct layer_source {
    int (*unpack)(struct storage *storage, const char *target, void *userdata, uint64_t *ret_size, struct error *error);
    void *userdata;
};
int layer_ensure(struct storage *storage, struct claim *claim, const char *diff_id, const struct layer_source *source,
                 struct error *error);
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
/* From a registry or an archive into directory/image, in skopeo's "dir:" layout. A registry is asked again after what may
 * pass, for what `resume` does not have. REGISTRY, BAD_IMAGE, NO_SPACE. */
int skopeo_copy(const struct image_request *request, const char *directory, struct resume *resume,
                const struct storage_progress *progress, struct error *error);
/* How the image wants to be run, from its configuration document. BAD_IMAGE. */
int oci_read_config(struct json_object *document, struct image *image, struct error *error);
int build_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
              const struct image **ret, struct error *error);
/* Fetches an http(s) URL into directory/download. BAD_SOURCE, NO_SPACE. */
int url_fetch(struct storage *storage, const char *url, const char *directory, uint64_t maximum,
              const struct storage_progress *progress, struct error *error);
