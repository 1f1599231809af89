// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"
#include "guest/request.h"

/* Mounts one share or tmpfs of the request at its target beneath root_fd; the target is made if it is
 * missing. */
int mounts_add(int root_fd, const struct request_mount *request, struct reason *reason);

/* Makes the instance's root read-only. Done last, after the targets and settings were written. */
int mounts_seal_root(struct reason *reason);
