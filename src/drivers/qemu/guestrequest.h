// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/driver.h"

struct network;

/* The JSON of GUEST_START and of a process object (guest/protocol.h) for an instance. Allocated; -ENOMEM. */
int guest_start_request(const struct driver_instance *instance, const struct network *network,
                        const struct exec_terminal *terminal, char **ret);
int guest_exec_request(const struct driver_instance *instance, const struct exec_request *request,
                       char **ret);
/* The name the guest gets. Borrowed. */
const char *guest_hostname(const struct driver_instance *instance);
