// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

struct json_object;

/* Prints a decision of placement: where and why, what each node passed or failed, what would have changed it. NULL: nothing. */
void show_placement(struct json_object *placement);
/* Prints the last step of a plan of `polder optimize` that was done with an instance. NULL: nothing. */
void show_optimized(struct json_object *done);
