// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"

/* Child processes by pidfd. Children get an empty environment but for what is given (PATH is always set to Debian's
 * system directories), closed descriptors but for those listed, default signals, and a new session if asked. */

struct process_fd {
    int source; /* in polderd */
    int target; /* number in the child */
};

struct process_spec {
    const char *program;         /* absolute path, or NULL with program_fd */
    int program_fd;              /* used if program is NULL */
    char *const *arguments;      /* argv, NULL-terminated, first is the name */
    char *const *environment;    /* NAME=value list or NULL */
    int input;                   /* 0: /dev/null, else a descriptor to become standard input */
    int output;                  /* likewise */
    int errors;                  /* likewise */
    const struct process_fd *fds;
    size_t fd_count;
    const int *cgroup_fds;       /* descriptors of cgroup.procs files the child enters first */
    size_t cgroup_fd_count;
    bool new_session;
    bool die_with_parent;        /* PDEATHSIG */
    unsigned namespaces;         /* CLONE_NEW* flags: the child is born in new ones (the first of a new pid namespace) */
    /* Runs in the child just before exec, descriptors 0-2 set, listed fds in place: async-signal-safe calls only (the
     * memory is the parent's). Returns 0 or negative errno, which process_start reports. */
    int (*setup)(void *userdata);
    void *userdata;
};

struct process {
    pid_t pid;
    int pidfd;
    uint64_t start_ticks; /* /proc/PID/stat field 22 */
};

#define PROCESS_INIT                                                                                         \
    { .pid = 0, .pidfd = -EBADF }

/* Starts the child; the exec itself has succeeded when this returns 0. Errors as negative errno (ENOENT: no such
 * program …). */
int process_start(const struct process_spec *spec, struct process *ret);
/* On a worker thread: returns when the file system of the directory answers. What would hang in the kernel, perhaps for ever,
 * is a short-lived process without our descriptors: it holds up neither our end nor the locks that go with it. That the file
 * system is full, read-only or not there is an answer. */
int process_await_storage(const char *directory);
/* Closes the pidfd; never kills. */
void process_done(struct process *process);
int process_signal(const struct process *process, int signal);
/* Until memory or descriptors that were short are asked for again. */
#define PROCESS_SHORTAGE_PAUSE (50 * CLOCK_MILLISECOND)
/* Fiber: waits for the end, also while memory or descriptors are short. *ret_status: exit code, or 128 + signal; -1 if unknown (an adopted process). */
int process_wait(struct process *process, uint64_t deadline, int *ret_status);
/* TERM, waits `grace` microseconds, KILL, reaps. Not cancellable. */
int process_end(struct process *process, uint64_t grace);
/* Finds a running process again: pid and start ticks must match. -ESRCH otherwise; another error (EMFILE, ENOMEM …)
 * when that cannot be told now. */
int process_adopt(pid_t pid, uint64_t start_ticks, struct process *ret);
bool process_is_alive(const struct process *process);

/* Fiber: runs to the end, collecting output and errors (each at most `limit` bytes, the rest is dropped; NULL: dropped),
 * feeding `input` if not NULL. Kills and reaps at the deadline or on cancel. A non-zero exit is
 * ERROR_PROGRAM_FAILED(name, last line of errors) and -EIO; *ret_status (may be NULL) gets the status either way. */
struct process_run {
    const char *input;
    size_t input_size;
    struct buffer *output;
    struct buffer *errors;
    size_t limit;
    uint64_t deadline;
    int *ret_status;
    /* Called for every complete line of output instead of collecting it, if set. */
    void (*line)(const char *line, void *userdata);
    void *userdata;
};
int process_run(const struct process_spec *spec, const struct process_run *run, struct error *error);

#define _cleanup_process_ _cleanup_(process_done)
