// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"
#include "guest/request.h"

/* Network interfaces over rtnetlink; no external program. */

int network_up_loopback(struct reason *reason);

/* Finds the interface with request->mac, sets MTU and address, brings it up and adds the default route. */
int network_configure(const struct request_network *request, struct reason *reason);

/* The addresses of all interfaces but the loopback and link-local ones, "10.1.2.3/24", at most `limit`.
 * Returns the count; each is to be freed by the caller. */
size_t network_addresses(char **ret, size_t limit);
