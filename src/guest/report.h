// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/channel.h"

/* JSON that the agent tells about its machine. Allocated; NULL when out of memory. */

char *report_state(const struct channels *channels, bool started);
char *report_memory(void);
char *report_error(const char *error);
