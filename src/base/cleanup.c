// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/cleanup.h"

#include <errno.h>

int close_fd(int fd) {
    if (fd >= 0) {
        int saved = errno;

        close(fd); /* on Linux the descriptor is gone whatever close answers: never repeat it */
        errno = saved;
    }
    return -EBADF;
}
