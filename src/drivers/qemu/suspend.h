// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/machine.h"

/* Memory to STATE_PATH/memory and back. A running guest under emulation must never be saved while it runs
 * (its memory would be silently wrong), so it is always stopped first. */

/* Fiber: on success QEMU has ended and the file is durable; on failure the guest goes on as it was. */
int suspend_machine(struct machine *machine, struct error *error);
/* Fiber: into a QEMU that was started for it; the guest runs on. */
int suspend_load(struct machine *machine, struct error *error);
/* The size of the machine that was saved, which the one it is loaded into must have, whatever is wished by
 * now. NOT_FOUND without saved memory. */
struct suspend_note {
    uint64_t memory;
    unsigned cpus;
};
int suspend_note_read(const struct driver_instance *instance, struct suspend_note *ret, struct error *error);
/* Is there whole saved memory at all? */
bool suspend_saved(const struct driver_instance *instance);
void suspend_remove(const struct driver_instance *instance);
