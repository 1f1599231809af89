// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <net/if.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/uuid.h"
#include "network/subnet.h"

struct network_member;

/* A member as the layer keeps it: every text it was given is decoded into a number or checked, so that rules,
 * files and messages are made from values that cannot carry anything else. */

struct publish {
    uint8_t protocol; /* IPPROTO_TCP or IPPROTO_UDP */
    uint16_t host_port;
    uint16_t port;         /* inside */
    uint32_t host_address; /* 0: every address of the host */
};

struct member {
    char uuid[UUID_TEXT_SIZE];
    char port[IFNAMSIZ]; /* "pl0123456789" */
    char *name;
    uint8_t mac[6];
    uint32_t address;
    struct publish *publishes;
    size_t publish_count;
    uint64_t rate_in, rate_out; /* bytes/s, 0: no limit */
};

#define PORT_PREFIX "pl"

/* Interface name of an instance. */
void member_port_name(const char *uuid, char port[IFNAMSIZ]);
/* Is it a name that member_port_name makes? */
bool member_is_port_name(const char *name);
/* Errors: BAD_VALUE, BAD_NAME, NOT_SUPPORTED. Checks the form, not the network: see member_fits. */
int member_new(const struct network_member *from, struct member **ret, struct error *error);
void member_free(struct member *member);
bool publish_conflicts(const struct publish *a, const struct publish *b);
/* "127.0.0.1:53/udp" or "8080/tcp". */
#define PUBLISH_TEXT_SIZE 32
const char *publish_format(const struct publish *publish, char text[PUBLISH_TEXT_SIZE]);

DEFINE_CLEANUP(struct member *, member_free)
#define _cleanup_member_ _cleanup_(member_freep)
