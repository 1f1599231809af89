// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"

/* Serves the daemon on port_fd, which it takes, until the machine is powered off. disk_fd as boot_root gives
 * it. Returns only if it cannot begin, with a reason. */
int agent_run(int port_fd, int disk_fd, struct reason *reason);
