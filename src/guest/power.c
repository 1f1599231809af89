// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/power.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define KILL_WAIT_MS 2000

/* Kills all other processes and waits until the last is gone, but not for one that hangs in the kernel. */
static void processes_kill(void) {
    uint64_t deadline = monotonic_ms() + KILL_WAIT_MS;
    const struct timespec pause = { .tv_nsec = 2000000 };

    (void) kill(-1, SIGKILL);
    while (monotonic_ms() < deadline) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return;
        if (pid == 0)
            nanosleep(&pause, NULL);
    }
}

static void disk_seal(int disk_fd) {
    char path[32];

    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
        guest_log("cannot make the root read-only: %m");
    sync();
    if (disk_fd < 0)
        return;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", disk_fd);
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
        guest_log("cannot make the disk read-only: %m");
    sync();
}

_noreturn_ void power_off(int disk_fd) {
    processes_kill();
    disk_seal(disk_fd);
    if (access("/sys/firmware/acpi/tables", F_OK) == 0)
        (void) reboot(RB_POWER_OFF);
    (void) reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}
