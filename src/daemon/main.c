// SPDX-License-Identifier: GPL-2.0-or-later
/* polderd: reads its configuration, opens store, manager and API, runs the loop. Instances outlive it: it holds nothing
 * of them that cannot be found again. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "api/api.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/text.h"
#include "daemon/configuration.h"
#include "daemon/crash.h"
#include "manager/manager.h"
#include "store/store.h"

#define DEFAULT_CONFIGURATION "/etc/polder/polderd.conf"
#define STOP_DEADLINE (8 * CLOCK_SECOND)  /* for requests and operations under way */
#define STOP_ANYWAY (10 * CLOCK_SECOND) /* then the process ends, whatever hangs */
#define STOP_ACCURACY (100 * CLOCK_MILLISECOND)
#define LISTEN_FDS_MAX 8
#define LOCK_TRIES 40
#define LOCK_PAUSE (50 * CLOCK_MILLISECOND)
#define PATIENCE (5 * CLOCK_SECOND) /* with the storage of the store, before it is said that it hangs */
#define PATIENCE_QUIET 12           /* so many times that, before it is said again */

struct daemon {
    struct configuration configuration;
    struct store *store;
    struct manager *manager;
    struct api *api;
    struct fiber *main;
    int lock;
    int result;
    int stop_requests;
    bool opening; /* the store: nothing was begun yet */
    uint64_t stop_asked; /* boot time of the first */
    struct fiber_queue stop_queue;
};

/* --- arguments -------------------------------------------------------------------------------------------------------- */

static void print_help(void) {
    printf("Usage: polderd [OPTION…]\n\nRuns virtual machines, microVMs and containers; `polder` talks to it.\n\n"
           "  --config FILE    read FILE instead of " DEFAULT_CONFIGURATION "\n"
           "  --help, --version\n\nOptions, also `name = value` lines of the configuration file:\n");
    for (size_t i = 0; i < configuration_table.count; i++) {
        const struct field *field = &configuration_table.fields[i];
        _cleanup_free_ char *flag = strdup(field->name);
        for (char *c = flag; c && *c; c++)
            if (*c == '_')
                *c = '-';
        printf("  --%s %s\n        %s%s%s%s\n", flag, field->type == FIELD_BOOLEAN ? "" : field->value, field->help,
               field->initial ? " (" : "", field->initial ? field->initial : "", field->initial ? ")" : "");
    }
}

static int usage(const char *what, const char *argument) {
    fprintf(stderr, "polderd: %s '%s'; see polderd --help\n", what, argument);
    return -EINVAL;
}

static const char *argument_value(int argc, char **argv, int *position) {
    return *position + 1 < argc ? argv[++*position] : NULL;
}

static int take_option(struct configuration *configuration, int argc, char **argv, int *position) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *name = strdup(argv[*position] + 2);
    const char *option = argv[*position], *value;
    const struct field *field;

    if (!name)
        return -ENOMEM;
    for (char *c = name; *c; c++)
        if (*c == '-')
            *c = '_';
    field = table_find(&configuration_table, name);
    if (!field)
        return usage("unknown option", option);
    value = field->type == FIELD_BOOLEAN ? "true" : argument_value(argc, argv, position);
    if (!value)
        return usage("a value is missing after", option);
    if (configuration_set(name, value, configuration, &error) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        fprintf(stderr, "polderd: %s\n", sentence ? sentence : strerror(ENOMEM));
        return -EINVAL;
    }
    return 0;
}

/* Returns 1 when there is nothing more to do. */
static int read_arguments(struct configuration *configuration, int argc, char **argv) {
    _cleanup_error_ struct error error = ERROR_INIT;
    const char *path = DEFAULT_CONFIGURATION;
    bool explicit_path = false;
    int r = table_init(&configuration_table, configuration);

    for (int i = 1; i < argc; i++) {
        if (text_equal(argv[i], "--help"))
            return print_help(), 1;
        if (text_equal(argv[i], "--version"))
            return printf("polderd " POLDER_VERSION "\n"), 1;
        if (text_equal(argv[i], "--config") && i + 1 < argc) {
            path = argv[i + 1];
            explicit_path = true;
        }
    }
    if (r >= 0)
        r = configuration_read(path, explicit_path, configuration, &error);
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        fprintf(stderr, "polderd: %s\n", sentence ? sentence : strerror(ENOMEM));
        return r;
    }
    for (int i = 1; i < argc && r >= 0; i++) {
        if (text_equal(argv[i], "--config"))
            i++;
        else if (text_starts(argv[i], "--"))
            r = take_option(configuration, argc, argv, &i);
        else
            r = usage("unexpected argument", argv[i]);
    }
    return r;
}

static void apply_log_level(const char *name) {
    static const char *const names[] = { "error", "warning", "notice", "info", "debug" };

    for (unsigned i = 0; i < ELEMENTS(names); i++)
        if (text_equal(name, names[i]))
            log_set_level((enum log_level) (LOG_LEVEL_ERROR + i));
}

/* --- the process's surroundings ------------------------------------------------------------------------------------------ */

/* A mount namespace of our own, to which the host's mounts still come but from which none goes back: nothing that
 * polderd mounts is ever seen, or left, on the host. crun refuses the hybrid cgroup layout, so an empty-handed v2 tree
 * beside v1 is unmounted here, for us alone; its directory stays. */
static int private_mounts(void) {
    if (unshare(CLONE_NEWNS) < 0)
        return -errno;
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -errno;
    if (file_exists(AT_FDCWD, "/sys/fs/cgroup/unified/cgroup.controllers") && file_exists(AT_FDCWD, "/sys/fs/cgroup/memory"))
        (void) umount2("/sys/fs/cgroup/unified", MNT_DETACH);
    return 0;
}

static int directory_make(const char *path, mode_t mode, struct error *error) {
    struct stat status;
    int r = file_make_directories(AT_FDCWD, path, mode);

    if (r < 0)
        return error_errno(error, r, "creating %s", path);
    if (lstat(path, &status) < 0)
        return error_errno(error, -errno, "looking at %s", path);
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || others_can_write(&status))
        return error_set(error, ERROR_BAD_SOURCE, path, "it must be a directory of this user that others cannot write");
    return 0;
}

/* What lies there is run as root. */
static int libexec_check(const char *path, struct error *error) {
    struct stat status;

    if (stat(path, &status) < 0)
        return errno == ENOENT ? 0 : error_errno(error, -errno, "looking at %s", path);
    if (!S_ISDIR(status.st_mode) || (status.st_uid != geteuid() && status.st_uid != 0) || others_can_write(&status))
        return error_set(error, ERROR_BAD_SOURCE, path, "it must be a directory of root's that others cannot write");
    return 0;
}

static int directories_make(struct daemon *daemon, struct error *error) {
    static const char *const parts[] = { "i" };
    int r = directory_make(daemon->configuration.state, 0711, error);

    if (r >= 0)
        r = directory_make(daemon->configuration.run, 0711, error);
    if (r >= 0)
        r = libexec_check(daemon->configuration.libexec, error);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(parts); i++) {
        _cleanup_free_ char *path = text_format("%s/%s", daemon->configuration.run, parts[i]);
        r = path ? directory_make(path, 0711, error) : -ENOMEM;
    }
    return r;
}

/* On a worker thread. One daemon for each run directory; the store locks the state directory. */
static int lock_take(struct daemon *daemon, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/lock", daemon->configuration.run);

    daemon->lock = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (daemon->lock < 0)
        return error_errno(error, -errno, "opening the lock in %s", daemon->configuration.run);
    /* A polderd that was just killed holds it until the last child has gone that was on its way to another program. */
    for (unsigned i = 0; flock(daemon->lock, LOCK_EX | LOCK_NB) < 0; i++) {
        if (errno == EWOULDBLOCK && i < LOCK_TRIES) {
            (void) usleep(LOCK_PAUSE);
            continue;
        }
        return error_set(error, ERROR_BUSY, daemon->configuration.run, "another polderd uses it");
    }
    return 0;
}

static void process_set_up(void) {
    struct rlimit files;
    struct rlimit core = { 0, 0 };

    (void) prctl(PR_SET_DUMPABLE, 0);
    (void) setrlimit(RLIMIT_CORE, &core);
    crash_set_up();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &files);
    }
    (void) umask(022);
    (void) file_write_value(AT_FDCWD, "/proc/self/oom_score_adj", "-500");
    /* Few arenas: worker threads are few and short-lived, and a small daemon is the point. */
    (void) mallopt(M_ARENA_MAX, 2);
    (void) mallopt(M_TRIM_THRESHOLD, 128 * 1024);
}

/* --- life ------------------------------------------------------------------------------------------------------------------ */

static int api_open(struct daemon *daemon, struct error *error) {
    struct api_options options = {
        .manager = daemon->manager,
        .run_path = daemon->configuration.run,
        .group = daemon->configuration.group,
        .no_reader_socket = !daemon->configuration.reader_socket,
    };
    int fds[LISTEN_FDS_MAX], count = sd_listen_fds(0);

    for (int i = 0; i < count && i < LISTEN_FDS_MAX; i++)
        fds[i] = SD_LISTEN_FDS_START + i;
    options.fds = fds;
    options.fd_count = count > 0 ? (size_t) (count < LISTEN_FDS_MAX ? count : LISTEN_FDS_MAX) : 0;
    return api_new(&options, &daemon->api, error);
}

static int store_open(struct daemon *daemon, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/store.db", daemon->configuration.state);

    return path ? store_open_sqlite(path, &daemon->store, error) : error_errno(error, -ENOMEM, "opening the store");
}

struct opening {
    struct daemon *daemon;
    struct error *error;
};

/* On a worker thread, since the file system of the store may hang: the loop goes on, so that it can be said, and stopped. */
static int open_job(void *userdata) {
    const struct opening *opening = userdata;
    struct daemon *daemon = opening->daemon;
    int r = process_await_storage(daemon->configuration.state);

    if (r >= 0)
        r = directories_make(daemon, opening->error);

    if (r >= 0)
        r = lock_take(daemon, opening->error);
    return r < 0 ? r : store_open(daemon, opening->error);
}

/* Says what the start waits for, and has systemd wait as well: nothing can be done without the store. */
static int patience_main(void *userdata) {
    const struct daemon *daemon = userdata;

    for (unsigned i = 0; fiber_sleep(PATIENCE) >= 0; i++) {
        if (i % PATIENCE_QUIET == 0)
            log_warning("the storage of the store, %s/store.db, does not answer; polderd waits for it", daemon->configuration.state);
        (void) sd_notifyf(0, "STATUS=waiting for %s/store.db, whose storage does not answer\nEXTEND_TIMEOUT_USEC=%llu",
                          daemon->configuration.state, (unsigned long long) (4 * PATIENCE));
    }
    return 0;
}

static int open_patiently(struct daemon *daemon, struct error *error) {
    struct opening opening = { .daemon = daemon, .error = error };
    _cleanup_fiber_ struct fiber *patience = NULL;
    int r = fiber_start(&patience, "patience", patience_main, daemon);

    if (r < 0)
        return error_errno(error, r, "starting");
    daemon->opening = true;
    r = fiber_job(open_job, &opening);
    daemon->opening = false;
    fiber_cancel_join(patience);
    return r;
}

static int daemon_open(struct daemon *daemon, struct error *error) {
    struct manager_configuration configuration;
    int r = open_patiently(daemon, error);

    if (r < 0)
        return r;
    configuration_apply(&daemon->configuration, &configuration);
    r = manager_new(&configuration, daemon->store, &daemon->manager, error);
    if (r >= 0)
        r = manager_start(daemon->manager, error);
    return r < 0 ? r : api_open(daemon, error);
}

static int daemon_main(void *userdata) {
    struct daemon *daemon = userdata;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = daemon_open(daemon, &error);

    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_error("cannot start: %s", sentence && error_is_set(&error) ? sentence : strerror(-r));
        daemon->result = 1;
    } else {
        log_info("ready at %s/polder.sock", daemon->configuration.run);
        (void) sd_notify(0, "READY=1\nSTATUS=");
        while (daemon->stop_requests == 0)
            (void) fiber_queue_wait(&daemon->stop_queue, DEADLINE_NONE);
        (void) sd_notify(0, "STOPPING=1");
        log_info("stopping; instances run on");
    }
    if (daemon->api)
        api_stop(daemon->api, daemon->stop_asked + STOP_DEADLINE / 2);
    if (daemon->manager)
        manager_stop(daemon->manager, daemon->stop_asked + STOP_DEADLINE);
    loop_exit(daemon->result);
    return 0;
}

/* At once and without a clean-up, which would wait for a job that hangs: what was promised is in the store, and the next
 * start takes over what is left, as after a crash. */
static int on_overdue(sd_event_source *source _unused_, uint64_t now _unused_, void *userdata) {
    const struct daemon *daemon = userdata;

    log_warning("not everything came to its end in time: stopping all the same");
    _exit(daemon->result);
}

static int on_signal(sd_event_source *source _unused_, const struct signalfd_siginfo *info _unused_, void *userdata) {
    struct daemon *daemon = userdata;

    /* A second request does not wait for anybody. */
    if (daemon->stop_requests++ > 0)
        _exit(daemon->result);
    if (daemon->opening) { /* the store survives that, and may be what hangs */
        log_info("stopping before anything was begun");
        _exit(daemon->result);
    }
    daemon->stop_asked = clock_now();
    if (sd_event_add_time(loop_event(), NULL, CLOCK_BOOTTIME, daemon->stop_asked + STOP_ANYWAY, STOP_ACCURACY, on_overdue,
                          daemon) < 0)
        log_warning("no timer for the end");
    fiber_queue_wake_all(&daemon->stop_queue);
    return 0;
}

static int signals_take(struct daemon *daemon) {
    static const int ignored[] = { SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGQUIT };
    sigset_t set;
    int r;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    /* Nothing to do for these, and no reason to die of them; children get their defaults back. */
    for (size_t i = 0; i < ELEMENTS(ignored); i++)
        (void) signal(ignored[i], SIG_IGN);
    r = sd_event_add_signal(loop_event(), NULL, SIGTERM, on_signal, daemon);
    return r < 0 ? r : sd_event_add_signal(loop_event(), NULL, SIGINT, on_signal, daemon);
}

static void daemon_close(struct daemon *daemon) {
    api_free(daemon->api);
    manager_free(daemon->manager);
    if (daemon->store)
        store_close(daemon->store);
    fiber_unref(daemon->main);
    table_done(&configuration_table, &daemon->configuration);
    close_fd(daemon->lock);
}

int main(int argc, char **argv) {
    struct daemon daemon = { .lock = -EBADF };
    int r = read_arguments(&daemon.configuration, argc, argv);

    if (r != 0)
        return table_done(&configuration_table, &daemon.configuration), r < 0 ? 2 : 0;
    apply_log_level(daemon.configuration.log_level);
    process_set_up();
    if (geteuid() == 0) {
        r = private_mounts();
        if (r < 0)
            log_warning("no mount namespace of its own: %s", strerror(-r));
    }
    r = loop_init();
    if (r >= 0)
        r = signals_take(&daemon);
    if (r >= 0)
        r = fiber_start(&daemon.main, "main", daemon_main, &daemon);
    if (r >= 0)
        r = loop_run();
    if (r < 0)
        log_error("polderd cannot go on: %s", strerror(-r));
    if (fiber_jobs_busy())
        _exit(r < 0 ? 1 : r); /* what a job still uses must not be freed, nor can the end of one that hangs be waited for */
    daemon_close(&daemon);
    loop_done();
    return r < 0 ? 1 : r;
}
