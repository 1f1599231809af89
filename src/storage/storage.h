// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "host/facts.h"
#include "model/image.h"
#include "store/store.h"

/* The node's images: content-addressed files beneath STATE/images, records in the store beneath "/images/default/".
 * polderd never parses foreign bytes: skopeo, polder-worker and the builders do, in jails. All calls but storage_new and
 * storage_free are fibers. Progress goes through a callback (done and total bytes, 0 total: unknown).
 *
 *   images/layers/DIFFID/     an unpacked layer, image ownership (ids 0..65535), overlay whiteouts
 *   images/disks/DIGEST       qcow2, read-only base of overlays;  images/isos/DIGEST
 *   images/erofs/DIGEST       the merged root of an OCI image as EROFS, made at the first microVM
 *   images/kernels/DIGEST/    kernel and initramfs of an OCI image that brings a kernel (kernel.c)
 *   images/staging/…          work in progress; emptied at start
 *   images/downloads/…        blobs of pulls that broke off, for the next try (resume.c)
 *   kernels/VERSION/{vmlinuz,vmlinux,initramfs}   for microVMs
 *   blank/ext4-SIZE           empty file systems that writable disks are copied from */

struct storage;

struct storage_options {
    const char *state_path;   /* "/var/lib/polder" */
    const char *run_path;
    const char *libexec_path;
    const char *kernel_root;  /* NULL: look in /boot + /lib/modules, then STATE/kernels */
    struct store *store;
};

struct storage_progress {
    void (*report)(const char *step, uint64_t done, uint64_t total, void *userdata);
    void *userdata;
};

int storage_new(const struct storage_options *options, struct storage **ret, struct error *error);
void storage_free(struct storage *storage);
/* Loads the records, makes the directories, removes unfinished work, checks that each record has its files. If the file
 * system of the images does not answer, all but the first goes on beside, and what needs it waits. */
int storage_load(struct storage *storage, struct error *error);
/* Nothing that waits to be tried again is, from now on. */
void storage_stop(struct storage *storage);

enum image_source_type {
    SOURCE_DOCKER,         /* docker://[host/]repository[:tag|@digest] */
    SOURCE_OCI,            /* oci:DIR, or an uploaded tar of one */
    SOURCE_DOCKER_ARCHIVE, /* docker-archive:FILE */
    SOURCE_DISK,           /* qcow2, raw, VMDK, VDI, VHDX file */
    SOURCE_ISO,
    SOURCE_ROOTFS,         /* tar of a root file system */
    SOURCE_BUILD,          /* "busybox", "debian:bookworm" */
};

struct image_request {
    enum image_source_type source;
    const char *reference;  /* docker://…, URL, or build name */
    const char *file;       /* uploaded file in staging (absolute), for the others */
    const char *alias;      /* NULL: made from the reference */
    const char *platform;   /* "linux/amd64", NULL: this host's */
    const char *auth_file;  /* contents of a containers auth.json, or NULL */
    bool tls_verify;
    const char *checksum;   /* "sha256:…" the file must have, or NULL */
    const char *format;     /* declared disk format, or NULL: probe */
    const char *kernel;     /* build debian: "cloud" or "generic" */
    const char *variant;    /* build debian: "container", "disk" */
    uint64_t maximum;       /* bytes it may take; 0: no limit but the disk */
};

/* Is what the request asks for possible? Looks at no file: a wrong word is told before an image was sent. */
int storage_image_check(const struct image_request *request, struct error *error);
/* Brings an image in. Nothing of it is visible before all of it is checked and durable. *ret is borrowed. Two requests
 * for the same layer do the work once. Errors: REGISTRY, BAD_IMAGE, BAD_DIGEST, BAD_SOURCE, NO_SPACE, TOO_LARGE … */
int storage_image_add(struct storage *storage, const struct image_request *request,
                      const struct storage_progress *progress, const struct image **ret, struct error *error);
/* By alias, digest or unambiguous digest prefix (>= 6 digits). Borrowed; NOT_FOUND. */
int storage_image_find(struct storage *storage, const char *name, const struct image **ret, struct error *error);
const struct image *storage_image_next(struct storage *storage, size_t *position); /* NULL at the end */
int storage_image_tag(struct storage *storage, const char *name, const char *alias, struct error *error);
/* Removes an alias, or the image with all its aliases when `name` is a digest or its last alias; refused (IN_USE) while an
 * instance uses it. Layers go when no image has them. */
int storage_image_remove(struct storage *storage, const char *name, struct error *error);
/* Removes images that no instance uses (untagged ones only, unless all) files that no record owns, and what
 * pulls that broke off left. */
int storage_prune(struct storage *storage, bool all, uint64_t *ret_bytes, char ***ret_removed, struct error *error);
/* Drops what pulls that broke off left, as far as it is too old or too much. To be called now and then,
 * on a fiber that may wait as long as the file system of the images does not answer. */
void storage_tidy(struct storage *storage);
/* Pins: an instance uses the image (by digest). */
int storage_image_use(struct storage *storage, const char *digest, const char *uuid);
void storage_image_unuse(struct storage *storage, const char *digest, const char *uuid);
void storage_image_emit(const struct image *image, struct emitter *emitter);

/* For drivers. Paths are allocated. */
/* Layer directories, lowest first. */
int storage_layer_paths(struct storage *storage, const struct image *image, char ***ret, struct error *error);
/* The EROFS file of an OCI image, made on first use. */
int storage_erofs(struct storage *storage, const struct image *image, const struct storage_progress *progress,
                  char **ret_path, struct error *error);
int storage_disk_path(struct storage *storage, const struct image *image, char **ret_path, struct error *error);
/* qcow2 overlay of `size` bytes (at least the base's) on a disk image at `path`; exists: kept. */
int storage_make_overlay(struct storage *storage, const struct image *image, uint64_t size, const char *path,
                         struct error *error);
/* A raw file with an empty ext4 of `size` bytes at `path`, sparse; exists: kept. */
int storage_make_ext4(struct storage *storage, uint64_t size, const char *path, struct error *error);
/* Kernel and initramfs for microVMs: the image's own if it brings one with its modules (/boot/vmlinuz-VERSION and
 * /lib/modules/VERSION), else, or without an image, the host's. The initramfs is made once per kernel and polder-guest.
 * HOST_LACKS if there is none. */
struct kernel_files {
    char *version;
    char *kernel; /* uncompressed vmlinux if it could be extracted, else bzImage */
    char *initramfs;
};
int storage_kernel(struct storage *storage, const struct image *image, struct kernel_files *ret, struct error *error);
void kernel_files_done(struct kernel_files *files);
/* Fiber: for uploads of the API, an absolute path beneath staging, unique. */
int storage_upload_path(struct storage *storage, char **ret_path, struct error *error);
int storage_findings(struct storage *storage, struct findings *findings);

/* How long storage may take to answer before that is said. */
#define STORAGE_PATIENCE (2 * CLOCK_SECOND)
/* Fiber. Does the file system of the directory `path` answer? Comes before what is done there on the loop, so that one that
 * hangs holds up who needs it and nobody else. UNRESPONSIVE (-ETIMEDOUT) names it; -ECANCELED. */
int storage_ask(struct storage *storage, const char *path, uint64_t deadline, struct error *error);
/* Fiber. The same for an instance's directory, and before it for the one that it lies in: so a thousand on one file system take
 * one worker and not a thousand. */
int storage_ask_instance(struct storage *storage, const char *path, uint64_t deadline, struct error *error);
/* Fiber. The same for the images, which are also open then. */
int storage_ask_images(struct storage *storage, uint64_t deadline, struct error *error);
/* Fiber. The same for however long it takes; `progress` (or NULL) tells of it. -ECANCELED. */
int storage_wait(struct storage *storage, const struct storage_progress *progress, struct error *error);
/* Records against files, and if `deep` the digests of disks, of which `progress` (or NULL) tells; problems as sentences. */
int storage_check(struct storage *storage, bool deep, const struct storage_progress *progress, char ***ret_problems,
                  struct error *error);
/* Fiber. What `qemu-img check`, in a jail, finds wrong with the qcow2 file at `path`: an allocated sentence, or NULL. The
 * disk beneath it is not opened, and who uses it meanwhile is not disturbed. */
int storage_check_disk(struct storage *storage, const char *path, char **ret_problem, struct error *error);
