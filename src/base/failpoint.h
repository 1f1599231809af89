// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

/* Named places where tests make things go wrong. POLDER_FAILPOINTS="name=kill@2,other=error:28,third=delay:500"
 * kills the process at the second pass, fails with an errno, or blocks for milliseconds. POLDER_FAILPOINTS_RECORD=FILE
 * appends each name passed, so that a walk can enumerate them. Compiled in only with -Dfailpoints=true. */

#ifdef POLDER_FAILPOINTS
int failpoint_hit(const char *name); /* 0 or the negative errno to return */
#define FAILPOINT(name) ((void) failpoint_hit(name))
#define FAILPOINT_ERROR(name) failpoint_hit(name)
#else
#define FAILPOINT(name) ((void) 0)
#define FAILPOINT_ERROR(name) 0
#endif
