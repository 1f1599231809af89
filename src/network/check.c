// SPDX-License-Identifier: GPL-2.0-or-later
/* May this member have these ports and this address? */
#include <string.h>

#include "base/text.h"
#include "network/internal.h"
#include "network/sockets.h"

static int port_in_use(const struct publish *publish, const char *who, struct error *error) {
    char text[PUBLISH_TEXT_SIZE];

    return error_set(error, ERROR_IN_USE, "the port", publish_format(publish, text), who);
}

static int publish_check_member(const struct publish *publish, const struct member *other,
                                struct error *error) {
    _cleanup_free_ char *who = NULL;

    for (size_t i = 0; i < other->publish_count; i++)
        if (&other->publishes[i] != publish && publish_conflicts(&other->publishes[i], publish)) {
            who = text_format("instance '%s'", other->name);
            return port_in_use(publish, who, error);
        }
    return 0;
}

struct listener_job {
    const struct publish *publish;
    uint32_t except;
    char *owner;
};

static int listener_main(void *userdata) {
    struct listener_job *job = userdata;

    return sockets_find_listener(job->publish, job->except, &job->owner);
}

static int publish_check_host(const struct network *network, const struct publish *publish,
                              struct error *error) {
    struct listener_job job = { .publish = publish, .except = subnet_gateway(network->subnet) };
    int r = fiber_job(listener_main, &job);
    char address[ADDRESS_TEXT_SIZE];

    if (r > 0)
        r = port_in_use(publish, job.owner, error);
    else if (r == -EADDRNOTAVAIL)
        r = error_set(error, ERROR_BAD_VALUE, "publish", address_format(publish->host_address, address),
                      "it is no address of this host");
    else if (r < 0)
        r = error_errno(error, r, "looking for listeners of this host");
    free(job.owner);
    return r;
}

/* What this member holds already is not asked of the host again. */
static bool publishes_already(const struct member *member, const struct publish *publish) {
    for (size_t i = 0; member && i < member->publish_count; i++)
        if (publish_conflicts(&member->publishes[i], publish) &&
            (member->publishes[i].host_address == publish->host_address ||
             !member->publishes[i].host_address))
            return true;
    return false;
}

int network_check_ports(const struct network *network, const struct member *member, struct error *error) {
    const struct member *before = network_find(network, member->uuid);
    int r = 0;

    for (size_t i = 0; r >= 0 && i < member->publish_count; i++) {
        const struct publish *publish = &member->publishes[i];

        r = publish_check_member(publish, member, error);
        for (size_t k = 0; r >= 0 && k < network->count; k++)
            if (network->members[k] != before)
                r = publish_check_member(publish, network->members[k], error);
        if (r >= 0 && !publishes_already(before, publish))
            r = publish_check_host(network, publish, error);
    }
    return r;
}

int network_check_address(const struct network *network, const struct member *member, struct error *error) {
    char text[MAC_TEXT_SIZE], subnet[SUBNET_TEXT_SIZE];
    _cleanup_free_ char *why = NULL, *who = NULL;

    if (!subnet_is_member(network->subnet, member->address)) {
        why = text_format("it is no address for an instance in %s", subnet_format(network->subnet, subnet));
        return error_set(error, ERROR_BAD_VALUE, "address", address_format(member->address, text), why);
    }
    for (size_t i = 0; i < network->count; i++) {
        const struct member *other = network->members[i];

        if (text_equal(other->uuid, member->uuid))
            continue;
        if (other->address != member->address && memcmp(other->mac, member->mac, 6) != 0)
            continue;
        who = text_format("instance '%s'", other->name);
        return other->address == member->address
                   ? error_set(error, ERROR_IN_USE, "the address", address_format(member->address, text), who)
                   : error_set(error, ERROR_IN_USE, "the MAC address", mac_format(member->mac, text), who);
    }
    return 0;
}
