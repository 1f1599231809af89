// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "base/uuid.h"
#include "host/facts.h"
#include "model/instance.h"

/* One default NAT network per node: bridge "polder0", one unprivileged dnsmasq for addresses and names,
 * masquerading and published ports by nftables in the table "inet polder" (plus what bridging needs) of our
 * own. Interfaces are called pl<10 hex of the uuid>. Everything is found again by these names after a crash.
 * All calls but network_new/free are fibers; changes are serialised inside. */

struct network;

struct network_options {
    const char *run_path;   /* "/run/polder": leases, dnsmasq's files */
    const char *state_path; /* the chosen subnet is kept here, in network.json */
    const char *subnet; /* "10.117.0.0/24" from the configuration, or NULL: choose one no host route covers */
    const char *bridge; /* NULL: "polder0" */
    const char *domain; /* NULL: "polder.internal" */
};

struct network_member {
    const char *uuid;
    const char *name; /* resolves inside the network */
    const char *mac;
    const char *address;
    const struct field_array *ports; /* struct instance_port, published */
    uint64_t rate_in, rate_out;      /* bytes/s towards it and from it; 0: no limit */
};

/* Borrows all it is given. */
static inline struct network_member network_member_of(const char *name, const struct instance_assigned *assigned,
                                                      const struct instance_spec *spec) {
    return (struct network_member){ .uuid = assigned->uuid,
                                    .name = name,
                                    .mac = assigned->mac,
                                    .address = assigned->address,
                                    .ports = &spec->publish,
                                    .rate_in = spec->network_in,
                                    .rate_out = spec->network_out };
}

int network_new(const struct network_options *options, struct network **ret, struct error *error);
void network_free(struct network *network); /* leaves everything running */
/* Takes over what exists (bridge, rules, dnsmasq) for `members`, the instances that run, and repairs what a
 * crash left half done or unwritten. Without members it creates nothing, and finishes a removal that was
 * interrupted. Call it once, before any other change; ports of instances that do not run are network_orphans'
 * business. */
int network_adopt(struct network *network, const struct network_member *members, size_t count,
                  struct error *error);
/* Chooses a free MAC and address for a new instance; `taken` tells what others hold. EXHAUSTED. */
int network_allocate(struct network *network, const char *uuid,
                     bool (*taken)(const char *address, void *userdata), void *userdata, char **ret_mac,
                     char **ret_address, struct error *error);
/* Errors of both: BAD_VALUE (address not of this network), IN_USE (a port: of which instance or process; an
 * address; the configured subnet: by which route), HOST_LACKS (a rate the kernel cannot limit, a missing
 * program), PROGRAM_FAILED. After a failure nothing of the member stays.
 *
 * Ensures bridge, dnsmasq and rules, then a veth pair whose inner end becomes "eth0" in the netns, configured
 * with address and default route. Anti-spoofing rules exist before the port is up. */
int network_attach_container(struct network *network, const struct network_member *member, int netns_fd,
                             struct error *error);
/* Likewise a tap on the bridge; *ret_fd is its descriptor (IFF_NO_PI | IFF_VNET_HDR) for QEMU. */
int network_attach_tap(struct network *network, const struct network_member *member, int *ret_fd,
                       struct error *error);
/* New published ports, name and rates of a running member. What is refused changes nothing. NOT_FOUND if it is not
 * attached. */
int network_update(struct network *network, const struct network_member *member, struct error *error);
/* Removes port, rules, name and lease of a member. Absent is success. */
int network_detach(struct network *network, const char *uuid, struct error *error);
/* Removes everything: bridge, tables, dnsmasq, the choice of the subnet; ip_forward is switched off again if
 * Polder had switched it on and nobody else seems to route. IN_USE while members run. */
int network_reset(struct network *network, struct error *error);
/* What one member sent to another, counted by the bridge since the rules were written; a pair that is silent for ten
 * minutes is forgotten. Only IP, and only between members. */
struct network_flow {
    char from[UUID_TEXT_SIZE], to[UUID_TEXT_SIZE];
    uint64_t packets, bytes; /* bytes without the frames' own heads */
};
/* Allocated; none while nobody is in the network. */
int network_flows(struct network *network, struct network_flow **ret, size_t *ret_count, struct error *error);
/* Interfaces and rules that belong to no uuid of `known` (for reconcile and fsck); removed if `remove`. */
int network_orphans(struct network *network, char *const *known, bool remove, char ***ret_found,
                    struct error *error);
/* May an instance of the network hold this address? False after the subnet had to change: allocate again. */
bool network_has_address(const struct network *network, const char *address);
/* What a guest needs for static configuration. Borrowed strings; NULL before a subnet is chosen. */
const char *network_gateway(const struct network *network);
unsigned network_prefix(const struct network *network);
const char *network_domain(const struct network *network);
unsigned network_mtu(const struct network *network);
int network_findings(struct network *network, struct findings *findings);
void network_emit(const struct network *network, struct emitter *emitter);
