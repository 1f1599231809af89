// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct json_object;

/* Follows a made-up packet through everybody's nftables rules (libnftables' JSON) and names what drops it. An
 * accept in Polder's tables cannot override a drop in another's, so that naming is all that can be done. What
 * cannot be decided (a match of iptables' extensions, a set of unknown contents) counts as not matching:
 * rules that accept special cases are then overlooked, and so are rules that drop them; the one exception is a
 * kind of address that lets what is sent to this host through. No I/O. */

enum packet_hook {
    PACKET_FORWARD,
    PACKET_INPUT,
};

struct packet {
    const char *what; /* "traffic of instances to the outside" */
    enum packet_hook hook;
    const char *in, *out; /* interfaces; out NULL with PACKET_INPUT */
    uint32_t source, target;
    uint8_t protocol; /* IPPROTO_* */
    uint16_t port;    /* target's */
    bool translated;  /* came by a published port */
};

struct blocker {
    char *chain; /* "chain 'FORWARD' of table 'ip filter'" */
    char *rule;  /* "its policy is drop" or "its rule with handle 12" */
    char *owner; /* "docker", "ufw", "firewalld" or NULL */
};

/* Returns 1 and the first base chain that drops the packet, 0, or -ENOMEM. Tables called "polder" are left
 * out. */
int blocker_find(struct json_object *ruleset, const struct packet *packet, struct blocker *ret);
void blocker_done(struct blocker *blocker);
/* Does another table than Polder's filter or translate forwarded traffic? */
bool blocker_others_route(struct json_object *ruleset);

#define _cleanup_blocker_ _cleanup_(blocker_done)
