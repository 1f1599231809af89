// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/process.h"
#include "network/member.h"
#include "network/subnet.h"

/* One dnsmasq for addresses and names. It reads two directories, a file per member in each, and holds one
 * lease file; adding a member writes two files and sends SIGHUP. It runs as the user "dnsmasq" (else
 * "nobody") with the capabilities that DHCP needs, in a mount namespace in which nothing but its own
 * directory can be written, and goes on running while polderd is down. */

struct dnsmasq_options {
    const char *directory; /* of its files, made by dnsmasq_prepare */
    const char *bridge;
    const char *domain;
    struct subnet subnet;
    uint32_t mtu;
};

/* Makes the directories. */
int dnsmasq_prepare(const struct dnsmasq_options *options, struct error *error);
/* Fiber: starts it; it listens when this returns. Ends one that was left behind unrecorded. Errors:
 * HOST_LACKS, PROGRAM_FAILED with its reason (port 53 taken, say). */
int dnsmasq_start(const struct dnsmasq_options *options, struct process *ret, struct error *error);
/* Takes over the recorded one if it runs with these options. -ESRCH otherwise. */
int dnsmasq_adopt(const struct dnsmasq_options *options, struct process *ret);
/* Fiber: ends it, and one that is only recorded; forgets leases. */
int dnsmasq_stop(const struct dnsmasq_options *options, struct process *process);

/* Writes or removes a member's files. */
int dnsmasq_member_add(const struct dnsmasq_options *options, const struct member *member);
int dnsmasq_member_remove(const struct dnsmasq_options *options, const char *uuid);
/* UUIDs that have files. */
int dnsmasq_members(const struct dnsmasq_options *options, char ***ret_uuids);
/* Reads them again. */
int dnsmasq_reload(const struct process *process);
/* Tells dnsmasq that the lease on this address is over, if there is one. Best effort: an answer is not sent.
 */
void dnsmasq_release(const struct dnsmasq_options *options, uint32_t address);
/* Is the address leased to another MAC? */
bool dnsmasq_is_leased(const struct dnsmasq_options *options, uint32_t address, const uint8_t mac[6]);
