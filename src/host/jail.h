// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/process.h"

/* A jail for a child process: born in mount, pid, network, IPC and UTS namespaces of its own, on an empty
 * read-only tmpfs that shows only what is listed, under an id of its own, without capabilities, new
 * privileges or core dumps. Everything is prepared (and can fail with a reason) in jail_new; the child then
 * only makes system calls.
 *      process_spec.namespaces = jail_namespaces(jail);
 *      process_spec.setup = jail_enter;
 *      process_spec.userdata = jail;
 *
 * A jail serves one start. The program is the first process of its pid namespace: only SIGKILL and signals
 * it handles reach it. */

struct jail_view {
    const char *path;   /* absolute, where it is seen inside; parents are made. Never foreign text */
    const char *source; /* absolute host path, NULL: the same as path */
    int source_fd;      /* used instead of source if > 0: a file or directory, borrowed until jail_free */
    bool writable;
    bool optional;      /* absent on the host: left out */
};

struct jail_options {
    const struct jail_view *views; /* copied */
    size_t view_count;
    bool system_libraries;  /* the dynamic loader and the libraries of this machine's architecture */
    uid_t uid;
    gid_t gid;
    uint64_t open_files;    /* RLIMIT_NOFILE, 0: 1024; never above the daemon's own */
    uint64_t address_space; /* RLIMIT_AS in bytes, 0: none */
    unsigned capabilities;  /* of the first 32, as bits: kept (for virtiofsd); usually 0 */
};

struct jail;

/* Needs CAP_SYS_ADMIN (-EPERM). -ENOENT or what opening a view gave; *ret_missing (may be NULL) then points
 * at its path in options. */
int jail_new(const struct jail_options *options, struct jail **ret, const char **ret_missing);
void jail_free(struct jail *jail);
unsigned jail_namespaces(const struct jail *jail);
/* The setup callback of process_start: async-signal-safe, userdata is the jail. */
int jail_enter(void *jail);

DEFINE_CLEANUP(struct jail *, jail_free)
#define _cleanup_jail_ _cleanup_(jail_freep)
