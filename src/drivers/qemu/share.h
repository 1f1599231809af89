// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/arguments.h"
#include "drivers/qemu/machine.h"

/* Host directories inside a machine: one virtiofsd for each bind mount, jailed, in the instance's control
 * group. It serves one QEMU over one connection and ends with it. Sources are opened beneath the roots that
 * the configuration allows. */

/* Starts them and puts QEMU's ends of the connections into fds[0..plan->shares). NOT_ALLOWED_PATH,
 * HOST_LACKS. */
int share_start_all(struct machine *machine, struct machine_plan *plan, int *fds, struct error *error);
