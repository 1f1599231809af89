// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "network/member.h"

/* Does a process of the host itself listen where a port is to be published? Publishing would silently take
 * its connections away. */

struct socket_entry {
    bool listening; /* TCP that listens, or UDP without a peer */
    bool wildcard;  /* all addresses */
    bool version6;
    uint32_t address; /* IPv4, also when mapped into IPv6; 0 with wildcard or a real IPv6 address */
    uint16_t port;
    uint64_t inode;
};

/* One line of /proc/net/{tcp,udp}{,6}. False for anything else. No I/O. */
bool socket_parse(const char *line, bool version6, struct socket_entry *ret);
/* `except`: an address on which Polder's own dnsmasq listens. Returns 1 and who it is ("nginx (pid 812)",
 * allocated), 0, or negative errno: -EADDRNOTAVAIL if the host has no such address. Reads /proc: run as job.
 */
int sockets_find_listener(const struct publish *publish, uint32_t except, char **ret_owner);
