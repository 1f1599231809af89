// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

/* Ctrl-C while something is waited for: the wait ends with -EINTR instead of the program. */
void interrupt_catch(void);
void interrupt_release(void); /* back to the default */
bool interrupt_came(void);
