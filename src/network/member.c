// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/member.h"

#include <netinet/in.h>
#include <string.h>

#include "base/text.h"
#include "network/network.h"

void member_port_name(const char *uuid, char port[IFNAMSIZ]) {
    size_t used = strlen(PORT_PREFIX);

    memcpy(port, PORT_PREFIX, used);
    for (const char *c = uuid; *c && used < strlen(PORT_PREFIX) + 10; c++)
        if (*c != '-')
            port[used++] = *c;
    port[used] = '\0';
}

bool member_is_port_name(const char *name) {
    size_t prefix = strlen(PORT_PREFIX);

    return text_starts(name, PORT_PREFIX) && strlen(name) == prefix + 10 &&
           strspn(name + prefix, "0123456789abcdef") == 10;
}

static bool is_port(int64_t value) {
    return value >= 1 && value <= UINT16_MAX;
}

static int publish_parse(const struct instance_port *from, struct publish *ret, struct error *error) {
    *ret = (struct publish){ .protocol = from->protocol == PROTOCOL_UDP ? IPPROTO_UDP : IPPROTO_TCP,
                             .host_port = (uint16_t) from->host_port,
                             .port = (uint16_t) from->port };
    if (!is_port(from->host_port) || !is_port(from->port))
        return error_set(error, ERROR_BAD_VALUE, "publish", "port", "a port is between 1 and 65535");
    if (text_is_empty(from->host_address) || text_equal(from->host_address, "0.0.0.0"))
        return 0;
    if (strchr(from->host_address, ':'))
        return error_set(error, ERROR_NOT_SUPPORTED, "the default network", "publishing on an IPv6 address",
                         "it is an IPv4 network");
    if (address_parse(from->host_address, &ret->host_address) < 0)
        return error_set(error, ERROR_BAD_VALUE, "publish", from->host_address, "it is not an IPv4 address");
    return 0;
}

static int member_take_ports(struct member *member, const struct field_array *ports, struct error *error) {
    const struct instance_port *items = ports ? ports->items : NULL;
    int r;

    if (!ports || ports->count == 0)
        return 0;
    member->publishes = calloc(ports->count, sizeof(*member->publishes));
    if (!member->publishes)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (; member->publish_count < ports->count; member->publish_count++) {
        r = publish_parse(&items[member->publish_count], &member->publishes[member->publish_count], error);
        if (r < 0)
            return r;
    }
    return 0;
}

int member_new(const struct network_member *from, struct member **ret, struct error *error) {
    _cleanup_member_ struct member *member = calloc(1, sizeof(*member));
    int r;

    if (!member)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!from->uuid || !uuid_is_valid(from->uuid))
        return error_set(error, ERROR_BAD_VALUE, "uuid", from->uuid, "it is not a UUID");
    memcpy(member->uuid, from->uuid, UUID_TEXT_SIZE);
    member_port_name(from->uuid, member->port);
    r = name_check(from->name, error);
    if (r < 0)
        return r;
    member->name = strdup(from->name);
    if (!member->name)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (mac_parse(from->mac, member->mac) < 0)
        return error_set(error, ERROR_BAD_VALUE, "mac", from->mac,
                         "it is not a MAC address of a network card");
    if (address_parse(from->address, &member->address) < 0)
        return error_set(error, ERROR_BAD_VALUE, "address", from->address, "it is not an IPv4 address");
    member->rate_in = from->rate_in;
    member->rate_out = from->rate_out;
    r = member_take_ports(member, from->ports, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(member);
    return 0;
}

void member_free(struct member *member) {
    if (!member)
        return;
    free(member->name);
    free(member->publishes);
    free(member);
}

bool publish_conflicts(const struct publish *a, const struct publish *b) {
    return a->protocol == b->protocol && a->host_port == b->host_port &&
           (a->host_address == b->host_address || a->host_address == 0 || b->host_address == 0);
}

const char *publish_format(const struct publish *publish, char text[PUBLISH_TEXT_SIZE]) {
    char address[ADDRESS_TEXT_SIZE];
    const char *protocol = publish->protocol == IPPROTO_UDP ? "udp" : "tcp";

    if (publish->host_address)
        snprintf(text, PUBLISH_TEXT_SIZE, "%s:%u/%s", address_format(publish->host_address, address),
                 publish->host_port, protocol);
    else
        snprintf(text, PUBLISH_TEXT_SIZE, "%u/%s", publish->host_port, protocol);
    return text;
}
