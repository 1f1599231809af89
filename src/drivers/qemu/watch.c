// SPDX-License-Identifier: GPL-2.0-or-later
/* One fiber for all machines, which waits for none of them: every few seconds it sends each QEMU a command
 * and looks whether the last one was answered. What counts is how often it looked in vain, not how long:
 * after polderd itself stood still, the answers lie in the sockets unread.
 *
 * A QEMU whose disk hangs answers all the same, since other threads wait for the disk. So each look also
 * compares which threads sleep in a way that no signal ends, or in a call that reads or writes a file, and
 * how often they have slept so far: one that is in the same sleep look after look waits for storage that
 * does not answer. */
#include "drivers/qemu/watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

#define STAT_MAX 4096
#define HUNG "QEMU waits for a disk or another device of the host that does not answer"
#define STARVED "the host has no room for what it writes to its disk; it goes on when there is"

struct watch_waiter {
    int id; /* of the thread; 0: none */
    uint64_t sleeps;
};

/* The letter of a stat file behind the name, which is in parentheses and may hold anything. */
static char stat_letter(const char *path) {
    _cleanup_free_ char *text = NULL;
    const char *end;
    size_t size;

    if (file_read(AT_FDCWD, path, STAT_MAX, &text, &size) < 0)
        return '?';
    end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : '?';
}

static char process_state(const struct process *process) {
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int) process->pid);
    return stat_letter(path);
}

/* How often a thread has gone to sleep; 0 if that is not known. */
static uint64_t thread_sleeps(int pid, int id) {
    static const char name[] = "\nvoluntary_ctxt_switches:";
    _cleanup_free_ char *text = NULL;
    const char *at;
    char path[64];
    size_t size;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, id);
    if (file_read(AT_FDCWD, path, STAT_MAX, &text, &size) < 0)
        return 0;
    at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* FUSE lets who waits for it sleep as for a terminal; the call tells them apart. */
static bool is_in_file_call(int pid, int id) {
    static const long calls[] = { SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2,
                                  SYS_fsync, SYS_fdatasync, SYS_fallocate };
    _cleanup_free_ char *text = NULL;
    char path[64], *end;
    size_t size;
    long number;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, id);
    if (file_read(AT_FDCWD, path, STAT_MAX, &text, &size) < 0)
        return false;
    number = strtol(text, &end, 10);
    for (size_t i = 0; end != text && i < ELEMENTS(calls); i++)
        if (number == calls[i])
            return true;
    return false;
}

static bool is_waiting(int pid, int id) {
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, id);
    switch (stat_letter(path)) {
    case 'D':
        return true;
    case 'S':
        return is_in_file_call(pid, id);
    default:
        return false;
    }
}

/* Those of its threads that wait now, at most WATCH_WAITERS. */
static size_t waiters_find(int pid, struct watch_waiter *ret) {
    struct dirent *entry;
    size_t count = 0;
    char path[64];
    DIR *directory;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    directory = opendir(path);
    while (directory && count < WATCH_WAITERS && (entry = readdir(directory))) {
        int id = atoi(entry->d_name);
        if (id > 0 && is_waiting(pid, id))
            ret[count++] = (struct watch_waiter){ .id = id, .sleeps = thread_sleeps(pid, id) };
    }
    if (directory)
        closedir(directory);
    return count;
}

static bool waits_still(const struct machine *machine, const struct watch_waiter *now) {
    for (size_t i = 0; i < WATCH_WAITERS && machine->waiters[i].id; i++)
        if (machine->waiters[i].id == now->id && machine->waiters[i].sleeps == now->sleeps && now->sleeps > 0)
            return true;
    return false;
}

static bool is_hung(struct machine *machine) {
    struct watch_waiter now[WATCH_WAITERS] = { 0 };
    size_t count = machine->quiet ? 0 : waiters_find((int) machine->process.pid, now);
    bool still = false;

    if (!machine->waiters)
        machine->waiters = calloc(WATCH_WAITERS, sizeof(*machine->waiters));
    if (!machine->waiters)
        return false;
    for (size_t i = 0; i < count; i++)
        still = still || waits_still(machine, &now[i]);
    memcpy(machine->waiters, now, sizeof(now));
    machine->hung = still ? machine->hung + 1 : 0;
    return machine->hung >= WATCH_HUNG;
}

static const char *trouble_of(const struct machine *machine) {
    switch (process_state(&machine->process)) {
    case 'T':
    case 't':
        return "QEMU's process was stopped by a signal";
    case 'D':
        return "QEMU's process waits for a disk or another device of the host";
    default:
        return "QEMU's process runs, but does not reply";
    }
}

static bool is_silent(struct machine *machine) {
    if (!qmp_is_open(machine->qmp))
        return true;
    return qmp_is_silent(machine->qmp) || qmp_ping(machine->qmp) < 0;
}

static void trouble_set(struct machine *machine, const char *trouble) {
    if (machine->trouble == trouble)
        return;
    machine->trouble = trouble;
    if (trouble)
        log_warning("instance '%s' does not answer: %s", machine->instance->name, trouble);
    else
        log_info("instance '%s' answers again", machine->instance->name);
    machine_status_changed(machine);
}

struct room_check {
    struct machine *machine;
    char *path;
};

static int room_job(void *userdata) {
    const struct room_check *check = userdata;
    struct statvfs room;

    return statvfs(check->path, &room) == 0 && (uint64_t) room.f_bavail * room.f_frsize >= WATCH_ROOM;
}

/* The storage that is full may hang as well. */
static int room_main(void *userdata) {
    struct room_check *check = userdata;
    struct machine *machine = check->machine;

    if (fiber_job(room_job, check) > 0 && !machine->ended && machine->starved && qmp_is_open(machine->qmp))
        (void) qmp_post(machine->qmp, "cont");
    machine->checking = false;
    machine_unref(machine);
    free(check->path);
    free(check);
    return 0;
}

static void starved_on(struct machine *machine) {
    struct room_check *check;

    if (++machine->starving % WATCH_STARVED != 0 || machine->checking)
        return;
    check = calloc(1, sizeof(*check));
    if (!check)
        return;
    check->machine = machine;
    check->path = strdup(machine->instance->state_path);
    if (!check->path || fiber_start(NULL, "room", room_main, check) < 0) {
        free(check->path);
        free(check);
        return;
    }
    machine->references++;
    machine->checking = true;
}

static void watch_one(struct machine *machine) {
    bool hung;

    if (machine->ended || machine->released)
        return;
    machine_reconnect(machine);
    hung = is_hung(machine);
    if (machine->quiet || !is_silent(machine))
        machine->missed = 0;
    else
        machine->missed++;
    if (machine->missed >= WATCH_MISSED)
        trouble_set(machine, trouble_of(machine));
    else if (hung)
        trouble_set(machine, HUNG);
    else if (machine->missed == 0)
        trouble_set(machine, machine->starved ? STARVED : NULL);
    if (machine->starved && machine->missed == 0)
        starved_on(machine);
}

void watch_starved(struct machine *machine) {
    machine->starving = 0;
    trouble_set(machine, STARVED);
}

void watch_give_up(struct machine *machine) {
    machine->missed = WATCH_MISSED;
    trouble_set(machine, trouble_of(machine));
}

static void qemu_unrefp(struct qemu **qemu) {
    qemu_unref(*qemu);
}

static struct machine *machine_hold(struct machine *machine) {
    if (machine)
        machine->references++;
    return machine;
}

/* Others run in between: a look reads some files of each, and there may be a thousand. A machine stays in the list as long
 * as somebody holds it. */
static int watch_all(struct qemu *qemu) {
    _cleanup_(machine_unrefp) struct machine *machine = machine_hold(qemu->machines);

    while (machine) {
        _cleanup_(machine_unrefp) struct machine *seen = machine;
        int r;

        watch_one(machine);
        r = fiber_yield();
        machine = machine_hold(seen->next);
        if (r < 0)
            return r;
    }
    return 0;
}

static int watch_main(void *userdata) {
    _cleanup_(qemu_unrefp) struct qemu *qemu = userdata;

    while (qemu->machines && fiber_sleep(WATCH_EVERY) >= 0)
        if (watch_all(qemu) < 0)
            break;
    return 0;
}

void watch_begin(struct qemu *qemu) {
    if (qemu->watching && !fiber_is_done(qemu->watching))
        return;
    fiber_unref(qemu->watching);
    qemu->watching = NULL;
    if (fiber_start(&qemu->watching, "qemu-watch", watch_main, qemu) >= 0)
        qemu->references++;
}
