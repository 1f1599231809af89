// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/fiber.h"
#include "base/map.h"
#include "base/process.h"
#include "drivers/container/config.h"
#include "drivers/container/rootfs.h"
#include "drivers/driver.h"

/* What the files of the container driver share.
 *
 * A container is conmon with its child crun, which makes the container's first process ("init") and leaves. They live
 * in the instance's cgroup until the container is created; then conmon moves beside it. Files at run_path:
 *   config.json  the bundle            s/           mount point of the private tmpfs (rootfs.h)
 *   state        who runs (state.c)    exit         written by conmon: the exit code
 *   init.pid     written by crun       attach, ctl  conmon's socket and terminal control
 * crun's own state is in RUN/crun/UUID; it goes with ours, `crun delete` has nothing left to do. */

#define CRUN_PROGRAM "/usr/bin/crun"
#define CONMON_PROGRAM "/usr/bin/conmon"
#define GUEST_PROGRAM "polder-guest"

struct sd_event_source;

struct container_driver {
    struct driver_context context;
    char *crun_root;
    char *libexec_path;
    char **mount_roots;
    char *filter; /* made at the first start */
    int inotify;
    struct sd_event_source *inotify_source;
    struct map *watched; /* uuid -> container whose log is watched */
};

struct program_file {
    dev_t device;
    ino_t inode;
};

/* One instance's processes. Counted, since streams may outlive it. */
struct container {
    unsigned references;
    struct container_driver *driver;
    struct driver_instance *instance; /* NULL once released */
    char *uuid;
    char *run_path;
    char *state_path;
    int directory;           /* O_PATH of run_path while it is active */
    struct process monitor;  /* conmon */
    struct process init;
    struct program_file starter; /* what init runs as long as it is crun's; zeros: not known */
    struct sd_event_source *watch; /* of monitor or init */
    int mount_namespace;     /* held so that conmon's end does not wait for the unmounting; closed in a job */
    bool closing;            /* that job runs */
    bool active;             /* started, and its end not yet taken */
    bool ended;              /* exit is valid */
    bool end_late;           /* there was no memory to take its end; said once */
    struct driver_exit exit;
    struct fiber_queue changed; /* ended, or an offline user left */
    bool tty;
    bool input_open;         /* somebody may write to its standard input */
    bool input_once;         /* standard input ends with the stream that started it */
    uint64_t oom_kills;      /* of the cgroup before the start */
    unsigned offline_users;  /* transfers in the root file system of a stopped container */
    bool changing;           /* it is being started or released: transfers wait */
    int log_watch;           /* inotify watch, or -1 */
    bool log_starting;       /* a fiber sets it up */
    bool log_busy, log_again; /* a fiber follows a rotation; another came meanwhile */
};

struct container *container_ref(struct container *container);
void container_unref(struct container *container);
DEFINE_CLEANUP(struct container *, container_unref)
#define _cleanup_container_ _cleanup_(container_unrefp)
DEFINE_CLEANUP(struct stream *, stream_free)
#define _cleanup_stream_ _cleanup_(stream_freep)
/* The instance's container, made at the first call. */
int container_of_instance(struct container_driver *driver, struct driver_instance *instance, struct container **ret);
/* The user that a process runs as, looked up in the container's root. */
int container_user(const char *wanted, int root, struct user *ret, struct error *error);
const char *container_hostname(const struct driver_instance *instance);
uint64_t container_open_files(void);

/* Between the two nobody begins a transfer. */
void container_change_begin(struct container *container);
void container_change_end(struct container *container);
/* Those who copy files of a stopped one may finish, if that does not take long. -ETIMEDOUT, -ECANCELED. */
int container_await_copies(struct container *container);

/* start.c */
int container_start(void *data, struct driver_instance *instance, const struct driver_start *start,
                    struct error *error);
/* root.c: the parts of a request for rootfs_make that the spec gives. Everything is released with prepared_root_done. */
struct prepared_root {
    struct rootfs_request request;
    struct rootfs_mount *mounts;
    char **layers;
    char *hosts, *hostname, *resolver;
};
int prepared_root_init(struct container *container, bool with_mounts, struct prepared_root *ret, struct error *error);
void prepared_root_done(struct prepared_root *root);
#define _cleanup_prepared_root_ _cleanup_(prepared_root_done)

/* monitor.c: conmon. Starts it in rootfs's namespace and waits until the container is created. */
int monitor_start(struct container *container, const struct rootfs *rootfs, struct error *error);
/* Lets the created container run. */
int monitor_release(struct container *container, struct error *error);
/* Waits until init runs its own program, or is gone; -ETIMEDOUT. Only from then on others can enter its namespaces. */
int monitor_wait_entered(const struct container *container, uint64_t deadline);
int monitor_connect(struct container *container); /* descriptor of an attach connection, or negative errno */
int monitor_resize(struct container *container, uint16_t rows, uint16_t columns);

/* state.c: what is remembered over a death of the daemon. */
int state_write(const struct container *container, bool created);
/* Fills monitor, init, oom_kills and tty from run_path. -ENOENT: nothing there; -ESTALE: from another
 * boot, or it makes no sense; another error (ENOMEM, EMFILE …): that cannot be told now. */
int state_read(struct container *container, bool *ret_created);
int state_exit_code(const struct container *container, int *ret);

/* watch.c: the end of a container. */
int watch_start(struct container *container);
void watch_stop(struct container *container);
/* Waits until it has ended; -ETIMEDOUT. */
int watch_wait(struct container *container, uint64_t deadline);
/* Unmounts what only we still hold. Waits. */
void container_close_mounts(struct container *container);
/* Kills what is in the cgroup until nothing is. */
int container_kill_group(struct container *container, uint64_t deadline);
/* Kills all of it and waits for the end. */
int container_kill(struct container *container, uint64_t deadline);

/* logs.c: keeps the log whole over conmon's rotations. */
int logs_prepare(const struct container *container, uint64_t limit, uint64_t *ret_file_limit);
int logs_open(struct container_driver *driver);
void logs_close(struct container_driver *driver);
void logs_watch(struct container *container);
void logs_unwatch(struct container *container);

/* attach.c, exec.c, transfer.c */
int attach_open(struct container *container, struct stream **ret, struct error *error);
int container_exec(void *data, struct driver_instance *instance, const struct exec_request *request,
                   struct stream **ret, struct error *error);
int container_get(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
                  struct error *error);
int container_put(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
                  struct error *error);
