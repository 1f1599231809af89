// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "guest/common.h"

/* Who a process runs as, resolved against /etc/passwd and /etc/group of the instance exactly as Docker does.
 */

#define USER_FILE_MAX (1024 * 1024) /* bytes of passwd and of group */
#define USER_ID_MAX 2147483646u     /* 2^31-2 */
#define USER_GROUPS_MAX 1024

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_GROUPS_MAX]; /* supplementary */
    size_t group_count;
    char home[4096]; /* "/" if passwd does not say */
};

/* `specification` is "", "name", "uid", "name:group", "uid:gid" and so on; NULL means root. A name must be in
 * its file, a number need not. A number is always an id, never a name. With an explicit group there are no
 * supplementary groups. root_fd: the root directory the files are looked up in; a missing file counts as
 * empty. -EINVAL: malformed, unknown or out of range; -EFBIG: a file over USER_FILE_MAX. */
int user_resolve(int root_fd, const char *specification, struct user *ret, struct reason *reason);
