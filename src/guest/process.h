// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <sys/types.h>

#include "guest/common.h"
#include "guest/request.h"

/* Starting processes. The main process gets a pid namespace, in which it is pid 1 (an image finds what it
 * would find in a container, and its end takes all it started along), and a mount namespace with a /proc that
 * fits. Execs and archive work join both. Nothing here waits for a child: why it could not start is read from
 * `failure_fd` once it has ended. */

struct process {
    pid_t pid;
    int stdin_fd;  /* ours, non-blocking: to write; -EBADF if its stdin is empty */
    int stdout_fd; /* ours, non-blocking: to read; of a terminal its whole output */
    int stderr_fd; /* likewise; -EBADF for a terminal */
    int failure_fd;
    bool tty;
};

#define PROCESS_INIT                                                                                         \
    { .stdin_fd = -EBADF, .stdout_fd = -EBADF, .stderr_fd = -EBADF, .failure_fd = -EBADF }

/* The namespaces that the instance lives in, -EBADF before the main process starts. */
struct namespaces {
    int own_pid_fd, own_mount_fd; /* the agent's */
    int pid_fd, mount_fd;         /* the instance's */
};

#define NAMESPACES_INIT                                                                                      \
    { .own_pid_fd = -EBADF, .own_mount_fd = -EBADF, .pid_fd = -EBADF, .mount_fd = -EBADF }

enum transfer_direction {
    TRANSFER_GET,
    TRANSFER_PUT,
};

/* Start; on success *ret owns its descriptors until process_done. hostname: the default of $HOSTNAME. */
int process_start_main(const struct request_process *request, const char *hostname,
                       struct namespaces *namespaces, struct process *ret, struct reason *reason);
int process_start_exec(const struct request_process *request, const char *hostname,
                       const struct namespaces *namespaces, struct process *ret, struct reason *reason);
int process_start_transfer(enum transfer_direction direction, const char *path,
                           const struct namespaces *namespaces, struct process *ret, struct reason *reason);

/* Why the child failed before it became what it should: 1 with its exit code (126, 127, or 1 for archive
 * work) and the reason, or 0 if it did start. Only valid once the child has ended. */
int process_failure(struct process *process, int *ret_code, struct reason *ret_reason);

void process_resize(const struct process *process, int64_t rows, int64_t columns);
void process_done(struct process *process);
