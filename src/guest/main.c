// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "guest/agent.h"
#include "guest/transfer.h"
#include "guest/boot.h"
#include "guest/power.h"

/* polder-guest has two lives: as the first process of a microVM, from the initramfs, it boots the instance
 * and serves the daemon; as `polder-guest archive get|put PATH` it does the same file transfers for a
 * container, started by the daemon in the container's namespaces and root. */

/* libarchive converts names to the locale's character set. Names are UTF-8 or bytes here, and a static
 * program has no locale files to say so; the linker puts this in nl_langinfo's place. */
char *__wrap_nl_langinfo(nl_item item);
char *__wrap_nl_langinfo(nl_item item) {
    static char utf8[] = "UTF-8", none[] = "";

    return item == CODESET ? utf8 : none;
}

static _noreturn_ void machine_run(void) {
    static const struct rlimit files = { .rlim_cur = 65536, .rlim_max = 1048576 };
    struct reason reason = REASON_INIT;
    int disk_fd = -EBADF;
    int port_fd, r;

    (void) setrlimit(RLIMIT_NOFILE, &files);
    r = boot_root(&disk_fd, &reason);
    port_fd = r < 0 ? r : boot_open_port(&reason);
    if (port_fd >= 0)
        (void) agent_run(port_fd, disk_fd, &reason);
    guest_log("%s; powering off", reason.text);
    power_off(disk_fd);
}

static int archive_main(const char *direction, const char *path) {
    _cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct reason reason = REASON_INIT;
    int r;

    umask(0);
    (void) signal(SIGPIPE, SIG_IGN);
    if (strcmp(direction, "get") == 0)
        r = transfer_get(root, path, STDOUT_FILENO, &reason);
    else if (strcmp(direction, "put") == 0)
        r = transfer_put(root, path, STDIN_FILENO, &reason);
    else
        r = reason_set(&reason, -EINVAL, "the direction is get or put");
    if (r < 0) {
        reason_set(&reason, r, "the transfer failed");
        fprintf(stderr, "%s\n", reason.text);
    }
    return r < 0 ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "archive") == 0)
        return archive_main(argv[2], argv[3]);
    if (getpid() == 1)
        machine_run();
    fprintf(stderr, "usage: polder-guest archive get|put PATH\n"
                    "Otherwise it runs as the first process of a microVM.\n");
    return 2;
}
