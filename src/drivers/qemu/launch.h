// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/machine.h"

/* Default size of the writable disk of a microVM, and of an empty disk for an ISO image. */
#define LAUNCH_DISK_DEFAULT (UINT64_C(4) << 30)
#define LAUNCH_DISK_EMPTY (UINT64_C(16) << 30)

struct suspend_note;

/* Fiber: makes what is missing of the instance's disks, opens everything, attaches the network and starts
 * QEMU in its jail. When it returns 0, machine->process runs and is recorded in the run directory;
 * otherwise nothing runs. `restored`: the machine will be loaded with saved memory, and has this size.
 * NULL: the wished one. */
int launch_machine(struct machine *machine, const struct suspend_note *restored, struct error *error);
