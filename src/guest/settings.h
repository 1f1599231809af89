// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"
#include "guest/request.h"

/* Sets the host name and writes /etc/hostname, /etc/hosts and /etc/resolv.conf beneath root_fd. A file or
 * link of the image in their place is replaced, never written through. resolv.conf is left alone if the
 * request names no DNS. */
int settings_apply(int root_fd, const struct request_start *request, struct reason *reason);

/* The three file contents alone, allocated; NULL when out of memory. An address that is none, or a name with
 * spaces, is refused with -EINVAL. */
int settings_hosts(const struct request_start *request, char **ret, struct reason *reason);
int settings_resolver(const struct request_start *request, char **ret, struct reason *reason);

/* Replaces the file `name` of directory `directory` beneath root_fd with `text`, mode 0644. */
int settings_write(int root_fd, const char *directory, const char *name, const char *text);
