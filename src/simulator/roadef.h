// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"
#include "engine/reassignment.h"

/* Files of the ROADEF/EURO challenge 2012: whole numbers with blanks or line ends between them, plain or packed. A model has
 *   resources, and for each: transient (0 or 1), weight of its load cost;
 *   machines, and for each: neighbourhood, location, capacities, safety capacities, distances to all machines;
 *   services, and for each: spread, number of services it depends on, these;
 *   processes, and for each: service, needs, cost of moving it;
 *   balance costs, and for each: two resources, target, weight;
 *   weights of the process, service and machine move costs.
 * An assignment has a machine for each process. */

/* NOT_FOUND; BAD_INPUT names file, line and field; TOO_LARGE for numbers that cannot be counted with. `home` is not
 * set yet. */
int roadef_read_model(const char *path, struct reassignment **ret, struct error *error);
/* As many machines as the problem has processes; owned by the caller. */
int roadef_read_assignment(const char *path, const struct reassignment *problem, uint32_t **ret, struct error *error);
