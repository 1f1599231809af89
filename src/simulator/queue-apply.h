// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "simulator/queue-simulation.h"

/* Prints the command by which a node takes the choice as its rules; with `now` it is run as well: `polder node set`, which asks
 * polderd over its API, so that the change is authorised and in its audit trail like any other. Returns its exit status;
 * BAD_VALUE where no daemon could keep such a rule; HOST_LACKS without `polder`. */
int queue_apply(const struct queue_run *choice, bool now, struct error *error);
