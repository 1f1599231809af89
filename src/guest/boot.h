// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"

/* From the kernel's first process to a root file system: /modules.list, /dev/vda (EROFS), the overlay over
 * it, the usual kernel file systems. Afterwards "/" is the instance's root. *ret_disk_fd is where the
 * writable disk is mounted, -EBADF if a tmpfs holds the changes. */
int boot_root(int *ret_disk_fd, struct reason *reason);

/* Opens the virtio port of the daemon, non-blocking, waiting for the device up to a deadline. */
int boot_open_port(struct reason *reason);
