// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/fiber.h"
#include "base/process.h"
#include "network/dnsmasq.h"
#include "network/link.h"
#include "network/member.h"
#include "network/network.h"
#include "network/rules.h"

/* What the files of this folder share. The members here are exactly those that the rules in the kernel name
 * while rules_loaded; a transaction that fails makes them be written whole again. */

struct network {
    unsigned references; /* the owner, and the fiber that watches dnsmasq */
    char *directory;     /* RUN/network */
    char *state_file;
    char *bridge, *domain;
    struct subnet wanted; /* from the configuration; prefix 0: choose */
    struct subnet subnet; /* chosen; prefix 0: not yet */
    char gateway[ADDRESS_TEXT_SIZE];
    uint32_t mtu;
    bool forwarding_set; /* ip_forward was off before we came */
    bool rules_loaded;
    struct member **members;
    size_t count;
    struct process dnsmasq;
    struct fiber *watch;
    unsigned watch_generation; /* a watcher of an older one has nothing to do */
    struct fiber *guard;       /* sees to it that the rules stay */
    int guard_fd;              /* its socket, until it starts */
    struct fiber_mutex mutex;
    int socket; /* rtnetlink, in the host's namespace */
};

void network_unref(struct network *network);
/* Changes take turns. */
int network_lock(struct network *network, struct error *error);
void network_unlock(struct network *network);
struct rules network_rules(const struct network *network);
struct dnsmasq_options network_dnsmasq_options(const struct network *network);
struct member *network_find(const struct network *network, const char *uuid);
/* Into the list only; replaces one of the same uuid. Consumes the member. */
int network_members_add_take(struct network *network, struct member *member);
/* Port, rules, files; with the last one everything shared but the bridge. */
int network_member_remove(struct network *network, const char *uuid, struct error *error);

/* check.c: IN_USE, BAD_VALUE */
int network_check_ports(const struct network *network, const struct member *member, struct error *error);
int network_check_address(const struct network *network, const struct member *member, struct error *error);

/* watch.c: restarts a dnsmasq that died, and writes rules that were flushed */
int network_watch(struct network *network);
void network_watch_stop(struct network *network);

/* setup.c: what all members share */
int network_state_load(struct network *network, struct error *error);
/* Decides the subnet, if that was not done. */
int network_choose_subnet(struct network *network, struct error *error);
/* Bridge, rules and dnsmasq, each only if it is not there. */
int network_ensure(struct network *network, struct error *error);
/* The rules of all members, whole. */
int network_load_rules(struct network *network, struct error *error);
int network_ensure_dnsmasq(struct network *network, struct error *error);
/* Everything but the bridge goes. */
int network_teardown(struct network *network, struct error *error);
bool network_is_set_up(const struct network *network); /* since this boot, by the marker file */
int network_remove_bridge(struct network *network, struct error *error);

/* port.c: one member's interface */
int port_attach_container(struct network *network, const struct member *member, int netns_fd,
                          struct error *error);
int port_attach_tap(struct network *network, const struct member *member, int *ret_fd, struct error *error);
/* What comes towards the member is limited to its rate_in, or not at all where that is 0. */
int port_set_rate(struct network *network, const struct member *member, struct error *error);
/* Likewise of every member that has a port. */
int port_set_rates(struct network *network, struct error *error);
int port_remove(struct network *network, const char *port, struct error *error);
