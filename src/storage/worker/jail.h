// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "report.h"

/* The worker's own jail. jail_run forks: the outer process waits and speaks for a worker that was killed; the
 * inner one is process 1 of its own pid namespace, in own mount, network, IPC, UTS and cgroup namespaces, on
 * an empty read-only tmpfs. What it works on is mounted there or open already. jail_confine then takes away
 * the rest: capabilities, new privileges, resources, system calls. Whatever dies, everything below dies with
 * it. */

enum jail_profile {
    JAIL_PURE,    /* reads and writes open descriptors; uid 65534 */
    JAIL_UNPACK,  /* also makes files beneath JAIL_ROOT, with six capabilities */
    JAIL_CONVERT, /* also runs qemu-img; uid 0 without any capability, so that it may open /in and /out again
                   */
};

#define JAIL_ROOT "/layer"
#define JAIL_INPUT "/in"
#define JAIL_OUTPUT "/out"
#define JAIL_NOBODY 65534
#define JAIL_EXIT_CPU 124 /* exit status of a process inside that used up RLIMIT_CPU */

/* Runs `inside` in the jail and returns the exit status for main. `inside` gets the options with its
 * descriptors changed to those of the jail (root_fd is then a mount of its own, without a way up). */
typedef int (*jail_function)(struct options *options, struct failure *failure);
int jail_run(struct options *options, enum jail_profile profile, jail_function inside);

/* The last step, by each process inside for itself, before it looks at foreign bytes. max_file is
 * RLIMIT_FSIZE. */
int jail_confine(enum jail_profile profile, const struct options *options, uint64_t max_file,
                 struct failure *failure);

/* Asks the kernel to kill this process when its parent ends; `parent_pidfd` tells whether that has happened
 * already. Negative errno. */
int jail_die_with_parent(int parent_pidfd);
