// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/process.h"

struct cgroup;

/* Which process is an instance's QEMU: RUN_PATH/qemu.json {pid, start_ticks, boot_id, uuid}, so that a
 * later daemon finds it again and never takes another process for it. */

int identity_write(int directory, const char *uuid, const struct process *process);
/* 0 with *ret held by a pidfd; -ESRCH if it does not run (any more); another error (ENOMEM, EMFILE, ENFILE, EIO …) if that
 * cannot be told now. `cgroup` may be NULL. */
int identity_find(int directory, const char *uuid, const struct cgroup *cgroup, struct process *ret);
int identity_remove(int directory);
