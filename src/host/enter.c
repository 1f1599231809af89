// SPDX-License-Identifier: GPL-2.0-or-later
/* polder-enter: enters control groups by itself, then becomes another program.
 *
 *     polder-enter --enter=FILE... --program=PATH ARGUMENT...
 *
 * conmon, which stays outside an instance's groups, starts this as its runtime. Small and static, since it stands in the
 * way of every start of a container. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char enter[] = "--enter=", program[] = "--program=";

static int fail(const char *what) {
    dprintf(STDERR_FILENO, "polder-enter: %s: %s\n", what, strerror(errno));
    return 127;
}

int main(int count, char **arguments) {
    int at = 1;

    for (; at < count && strncmp(arguments[at], enter, sizeof(enter) - 1) == 0; at++) {
        const char *path = arguments[at] + sizeof(enter) - 1;
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) != 1)
            return fail(path);
        close(fd);
    }
    if (at >= count || strncmp(arguments[at], program, sizeof(program) - 1) != 0) {
        errno = EINVAL;
        return fail("no program is named");
    }
    arguments[at] += sizeof(program) - 1;
    execv(arguments[at], arguments + at);
    return fail(arguments[at]);
}
