// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The two things asked of netfilter that libnftables has no call for, over its own netlink protocol. */

/* Forgets UDP flows to these ports (host byte order). A flow that began before a port was published would
 * never be translated, and one to a member that is gone would go on to its address for as long as somebody
 * sends. Run as job. */
int netfilter_forget_udp(const uint16_t *ports, size_t count);

/* Are both tables called "polder" there? -errno if that cannot be asked. */
int netfilter_has_tables(void);
/* A non-blocking socket that becomes readable when rules change. */
int netfilter_watch_open(int *ret_fd);
/* Empties it. True if a table called "polder" was deleted, or messages were lost. */
bool netfilter_watch_read(int fd);
