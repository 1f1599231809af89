// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"

/* Whole-file helpers. `at` is a directory descriptor or AT_FDCWD. All return 0 or negative errno. They block: small
 * local files only (state, /proc, /sys, cgroups); anything longer runs as a job. */

/* Reads at most `limit` bytes; more than that is -EFBIG. *ret is NUL-terminated; ret_size may be NULL. */
int file_read(int at, const char *path, size_t limit, char **ret, size_t *ret_size);
/* Writes in place without creating (for /sys, /proc, cgroup files). */
int file_write_value(int at, const char *path, const char *value);
/* Creates or replaces atomically: temporary file ".NAME.HEX.tmp" beside it (left behind only by a crash), write,
 * fsync, rename, fsync of the directory if `durable`. */
int file_write_atomic(int at, const char *path, const void *data, size_t size, mode_t mode, bool durable);
/* Opens `path` beneath the directory `at` with openat2 RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS (and
 * RESOLVE_NO_SYMLINKS if no_links). Returns the descriptor or negative errno. */
int file_open_beneath(int at, const char *path, int flags, mode_t mode, bool no_links);
/* Opens the directory that holds `path` and points *ret_name at the last component, inside `path`. Returns the
 * descriptor or negative errno. Links in the directory part are followed: for paths of our own only. */
int file_open_parent(int at, const char *path, const char **ret_name);
int file_make_directories(int at, const char *path, mode_t mode);
/* Removes a file or a tree, however deep, without following links in it or crossing mounts (-EXDEV); absent is
 * success. May be interrupted and repeated. */
int file_remove_tree(int at, const char *path);
bool file_exists(int at, const char *path);
int file_size(int at, const char *path, uint64_t *ret);
int file_write_all(int fd, const void *data, size_t size);
/* Copies data keeping holes (reflink if the file system can). */
int file_copy_sparse(int source, int target);

#define PROCESS_START_UNKNOWN 0
/* Field 22 of /proc/PID/stat (clock ticks since boot): with the boot id it identifies a process. */
int proc_start_time(pid_t pid, uint64_t *ret_ticks);
/* Has the process begun to exit, or is it gone? It may then have left its control groups (the kernel shows "/" as soon
 * as it begins) though its pidfd does not tell of an end yet. */
bool proc_is_ending(pid_t pid);
