// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

/* The first of these that can be run, allocated: paths from the directory in which the running program lies
 * ("../lib/polder/polder-simulate"). NULL: none, or no memory. */
char *program_beside(const char *const places[], size_t count);
