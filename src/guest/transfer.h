// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"

/* Files in and out as tar streams, for `polder cp`. Both directions work beneath a root directory given by a
 * descriptor and never outside it, whatever its owner does to it meanwhile. No compression, no xattrs, no
 * ACLs. */

#define TRANSFER_PATH_MAX 4096 /* bytes of a name inside an archive */
#define TRANSFER_DEPTH_MAX 512 /* directories below each other */

/* Writes what is at `path` to fd as a pax archive whose names start with the last component of path: GET of
 * /a/b yields "b", "b/…"; the root itself is ".". Links on the way to the last component are followed inside
 * the root; a link there is archived as a link unless the path ends in a slash. Sockets are left out; of a
 * directory on another, kernel-made file system (proc, sysfs, …) only the directory itself is written. */
int transfer_get(int root_fd, const char *path, int fd, struct reason *reason);

/* Unpacks the tar stream from fd beneath the existing directory `path`. An entry that is absolute, has "..",
 * leads through a symbolic link, links to something outside, or is a device node is refused with -EINVAL and
 * ends the work; what came before it stays. Files replace files; a directory and a file never replace each
 * other. Owners are the numbers in the archive. */
int transfer_put(int root_fd, const char *path, int fd, struct reason *reason);
