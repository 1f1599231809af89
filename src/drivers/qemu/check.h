// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "drivers/driver.h"

struct storage;

/* Fiber: driver.h's `check`. The disk of a microVM is the guest's to the first byte, so that it is there is all that can
 * be asked of it. The head of a VM's overlay is QEMU's: it must stand on the image of the record and on nothing else. */
int disks_check(struct storage *storage, struct driver_instance *instance, bool resting, char ***problems, struct error *error);
