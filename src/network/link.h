// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "network/subnet.h"

/* Interfaces, addresses and routes through rtnetlink. Every call is one question and its answer on a socket
 * that belongs to one network namespace; the kernel answers at once, so nothing here waits. Functions return
 * 0 (or what they say) or negative errno. Addresses are in host byte order. */

struct link_info {
    int index;
    char name[IFNAMSIZ];
    char kind[16]; /* "veth", "tun", "bridge", "" */
    int peer;      /* index of a veth's other end in its own namespace, 0 if none */
    int master;    /* index of the bridge it is a port of, 0 if none */
    uint32_t mtu;
    uint8_t mac[6];
    bool up;
    bool forwarding; /* as a port of a bridge: frames pass */
};

/* A socket in the caller's network namespace, or in that of netns_fd if it is not negative. */
int link_open(int netns_fd, int *ret_fd);
/* -ENODEV if there is none of that name. */
int link_get(int fd, const char *name, struct link_info *ret);
/* Every interface; *ret_links is allocated. */
int link_list(int fd, struct link_info **ret_links, size_t *ret_count);
int link_bridge_add(int fd, const char *name, const uint8_t mac[6], uint32_t mtu);
/* Makes a veth pair: `name` as a port of bridge `master`, down; `inner` in the namespace netns_fd with `mac`.
 */
int link_veth_add(int fd, const char *name, int master, const char *inner, int netns_fd, const uint8_t mac[6],
                  uint32_t mtu);
int link_set_master(int fd, int index, int master, uint32_t mtu);
/* A port that may send a frame back where it came from: bridge netfilter needs it for hairpin traffic. */
int link_set_hairpin(int fd, int index);
int link_set_up(int fd, int index);
/* No IPv6 address is made from the MAC. */
int link_set_no_ipv6(int fd, int index);
/* Absent is success. */
int link_delete(int fd, const char *name);
/* An address that is there already is success. */
int link_address_add(int fd, int index, uint32_t address, unsigned prefix);
int link_default_route_add(int fd, int index, uint32_t gateway);
/* Limits what leaves through the interface to bytes/s (token bucket); 0 removes the limit. -EOPNOTSUPP: the
 * kernel has no token bucket filter. */
int link_set_rate(int fd, int index, uint64_t rate);
/* Every IPv4 prefix that an address or a route (but the default route) of this host covers, except those of
 * interface `except` (0: none). *ret is allocated; each names its interface. */
struct link_prefix {
    struct subnet subnet;
    char interface[IFNAMSIZ];
    bool address; /* of the host itself, not only routed */
};
int link_prefixes(int fd, int except, struct link_prefix **ret, size_t *ret_count);
/* Index of the interface the default route leaves by, 0 if there is none. */
int link_default(int fd);

/* Makes a tap of that name, which lives as long as the descriptor. -EBUSY if the name is taken. */
int tap_open(const char *name, int *ret_fd);
