// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/machine.h"

/* Memory to STATE_PATH/memory and back. A running guest under emulation must never be saved while it runs (its memory
 * would be silently wrong), so it is always stopped first. */

/* Fiber: on success QEMU has ended and the file is durable; on failure the guest goes on as it was. */
int suspend_machine(struct machine *machine, struct error *error);
/* Fiber: into a QEMU that was started for it; the guest runs on. */
int suspend_load(struct machine *machine, struct error *error);
/* Does the saved memory fit the instance as it is now? NOT_FOUND without one. */
int suspend_check(const struct driver_instance *instance, struct error *error);
/* Is there whole saved memory at all? */
bool suspend_saved(const struct driver_instance *instance);
void suspend_remove(const struct driver_instance *instance);
