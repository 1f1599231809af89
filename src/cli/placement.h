// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

struct error;
struct invocation;
struct json_object;

/* Prints a decision of placement: where and why, what each node passed or failed, what would have changed it. NULL: nothing. */
void show_placement(struct json_object *placement);
/* Prints the last step of a plan of `polder optimize` that was done with an instance. NULL: nothing. */
void show_optimized(struct json_object *done);
/* Prints a plan of `polder optimize`, and what was done of it. */
int show_plan(struct invocation *invocation, struct json_object *plan, struct error *error);
