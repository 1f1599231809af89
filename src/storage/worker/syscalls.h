// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "jail.h"

/* Installs the profile's list of allowed system calls; any other call kills the process (JAIL_CONVERT: fails
 * with EPERM, since qemu-img tries calls that it can do without). Negative errno. */
int syscalls_confine(enum jail_profile profile);
