// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

/* A bar on standard error while that is a terminal. `share` is 0 to 1. */
void progress_show(const char *what, double share);
/* Takes the bar away. */
void progress_end(void);
