// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/json.h"
#include "engine/placement.h"

/* A decision of placement with all that it was made from, as one line of JSON: the nodes and what is asked for; for each node
 * the filters that it passes or fails, with the sentence and what it lacks, or its score with the terms; the node chosen, and
 * the least that would have changed that. The line is enough to make the decision again.
 *
 * It is for the nodes of one daemon: at most PLACEMENT_EXPLAINED, without GPUs, and for requests that join no group and are not
 * known to end (what they are of themselves stands in their constraints). (The simulator's clusters are recorded by
 * placement-ledger.h.) */

#define PLACEMENT_VERSION 2 /* raised when the same nodes and request would give another decision, or other words about it */
#define PLACEMENT_EXPLAINED 16
#define PLACEMENT_MEMBERS 100000 /* of a group on a node */

/* Decides, changes nothing but the number of decisions, and tells; `number` is the caller's name of the
 * decision. Allocated. -E2BIG, -EOPNOTSUPP: not of the kind above. -ENOMEM. */
int placement_explain(struct placement *placement, const struct placement_request *request, uint64_t number, char **ret);
/* Makes the decision of a line again, from the line alone. NOT_SUPPORTED names another version; BAD_VALUE:
 * no such line. */
int placement_explain_again(struct json_object *line, char **ret, struct error *error);
