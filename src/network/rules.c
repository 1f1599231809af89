// SPDX-License-Identifier: GPL-2.0-or-later
/* Model: two tables. "bridge polder" guards what comes in by a port: a member's frames carry its own MAC and
 * address or are dropped, and a port that no element names may send nothing. "inet polder" hides the subnet
 * behind the host's addresses and publishes ports. A member is a handful of set and map elements, so that
 * attaching one costs the same however many there are. */
#include "network/rules.h"

#include <inttypes.h>
#include <netinet/in.h>

/* Nothing of these is dropped here that another table would have to accept: an accept in one table never
 * overrides a drop in another. */
static const char guard_table[] =
    "table bridge polder {\n"
    "    set senders {\n"
    "        type ifname . ether_addr\n"
    "    }\n"
    "    set identities {\n"
    "        type ifname . ether_addr . ipv4_addr\n"
    "    }\n"
    "    # A port gets a frame of its own back (hairpin) only if that is sent to it.\n"
    "    set selves {\n"
    "        type ifname . ifname\n"
    "    }\n"
    "    map rates {\n"
    "        type ifname : limit\n"
    "    }\n"
    "    # Who sent how much to whom; pairs that are silent are forgotten.\n"
    "    set flows {\n"
    "        type ether_addr . ether_addr\n"
    "        size 16384\n"
    "        flags dynamic,timeout\n"
    "        timeout 10m\n"
    "    }\n"
    "    chain prerouting {\n"
    "        type filter hook prerouting priority -300; policy accept;\n"
    "        iifname \"pl*\" jump guard\n"
    "    }\n"
    "    chain guard {\n"
    "        iifname . ether saddr != @senders counter drop\n"
    "        limit name iifname map @rates counter drop\n"
    "        ether type arp jump guard_arp\n"
    "        ether type ip jump guard_ip\n"
    "        # Everything else: IPv6 whole, VLAN tags, whatever comes next.\n"
    "        counter drop\n"
    "    }\n"
    "    chain guard_arp {\n"
    "        arp htype != 1 counter drop\n"
    "        arp ptype != ip counter drop\n"
    "        arp hlen != 6 counter drop\n"
    "        arp plen != 4 counter drop\n"
    "        arp operation != { request, reply } counter drop\n"
    "        iifname . arp saddr ether . arp saddr ip @identities accept\n"
    "        arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @senders accept\n"
    "        counter drop\n"
    "    }\n"
    "    chain guard_ip {\n"
    "        # Only dnsmasq answers DHCP.\n"
    "        udp dport 68 counter drop\n"
    "        ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept\n"
    "        iifname . ether saddr . ip saddr @identities accept\n"
    "        counter drop\n"
    "    }\n"
    "    chain forward {\n"
    "        type filter hook forward priority -300; policy accept;\n"
    "        iifname . oifname @selves iifname . ether daddr != @senders drop\n"
    "        # What a port is flooded with is for nobody there, and invented addresses must not fill the set.\n"
    "        ether type ip oifname . ether daddr @senders update @flows { ether saddr . ether daddr counter }\n"
    "    }\n"
    "}\n";

static void add_subnet_table(struct buffer *out, const char *bridge, const char *subnet,
                             const char *gateway) {
    buffer_addf(
        out,
        "table inet polder {\n"
        "    map published {\n"
        "        type inet_proto . inet_service : ipv4_addr . inet_service\n"
        "    }\n"
        "    map published_at {\n"
        "        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\n"
        "    }\n"
        "    chain raw {\n"
        "        type filter hook prerouting priority -300; policy accept;\n"
        "        # route_localnet is on for the bridge: nobody but the host itself may use it.\n"
        "        iifname \"%s\" ip daddr 127.0.0.0/8 counter drop\n"
        "        # From outside nobody says to be a member or speaks to one but by a published port.\n"
        "        iifname != { \"lo\", \"%s\" } ip saddr %s counter drop\n"
        "        iifname != { \"lo\", \"%s\" } ip daddr %s counter drop\n"
        "    }\n"
        "    chain publish {\n"
        "        # dnsmasq stays reachable for members, whatever they publish.\n"
        "        iifname \"%s\" ip daddr %s meta l4proto . th dport { tcp . 53, udp . 53, udp . 67 } return\n"
        "        dnat ip to ip daddr . meta l4proto . th dport map @published_at\n"
        "        dnat ip to meta l4proto . th dport map @published\n"
        "    }\n"
        "    chain prerouting {\n"
        "        type nat hook prerouting priority -101; policy accept;\n"
        "        meta nfproto ipv4 fib daddr type local jump publish\n"
        "    }\n"
        "    chain output {\n"
        "        type nat hook output priority -101; policy accept;\n"
        "        meta nfproto ipv4 fib daddr type local jump publish\n"
        "    }\n",
        bridge, bridge, subnet, bridge, subnet, bridge, gateway);
    buffer_addf(
        out,
        "    chain postrouting {\n"
        "        type nat hook postrouting priority 99; policy accept;\n"
        "        # A published port used by a member, even by its own: the answer must come back here.\n"
        "        ip saddr %s ip daddr %s ct status dnat masquerade\n"
        "        oifname \"%s\" ip saddr 127.0.0.0/8 masquerade\n"
        "        ip saddr %s ip daddr != %s oifname != \"%s\" masquerade\n"
        "    }\n"
        "}\n",
        subnet, subnet, bridge, subnet, subnet, bridge);
}

static void add_publish(struct buffer *out, const char *verb, const struct member *member,
                        const struct publish *publish) {
    char host[ADDRESS_TEXT_SIZE], inside[ADDRESS_TEXT_SIZE];
    const char *protocol = publish->protocol == IPPROTO_UDP ? "udp" : "tcp";

    address_format(member->address, inside);
    if (publish->host_address)
        buffer_addf(out, "%s element inet polder published_at { %s . %s . %u : %s . %u }\n", verb,
                    address_format(publish->host_address, host), protocol, publish->host_port, inside,
                    publish->port);
    else
        buffer_addf(out, "%s element inet polder published { %s . %u : %s . %u }\n", verb, protocol,
                    publish->host_port, inside, publish->port);
}

/* 100 ms worth, at least 256 KiB: offloaded packets of 64 KiB come several at a time. The kernel adds a second's worth
 * of its own: its bucket holds rate and burst. */
static uint64_t rate_burst(uint64_t rate) {
    uint64_t burst = rate / 10 < 262144 ? 262144 : rate / 10;

    return burst > UINT32_MAX / 2 ? UINT32_MAX / 2 : burst;
}

static void add_elements(struct buffer *out, const char *verb, const struct member *member) {
    char mac[MAC_TEXT_SIZE], address[ADDRESS_TEXT_SIZE];

    mac_format(member->mac, mac);
    buffer_addf(out, "%s element bridge polder senders { \"%s\" . %s }\n", verb, member->port, mac);
    buffer_addf(out, "%s element bridge polder identities { \"%s\" . %s . %s }\n", verb, member->port, mac,
                address_format(member->address, address));
    buffer_addf(out, "%s element bridge polder selves { \"%s\" . \"%s\" }\n", verb, member->port,
                member->port);
    for (size_t i = 0; i < member->publish_count; i++)
        add_publish(out, verb, member, &member->publishes[i]);
}

void rules_add_member(struct buffer *out, const struct member *member) {
    if (member->rate_out) {
        buffer_addf(out,
                    "add limit bridge polder %s { rate over %" PRIu64 " bytes/second burst %" PRIu64
                    " bytes }\n",
                    member->port, member->rate_out, rate_burst(member->rate_out));
        buffer_addf(out, "add element bridge polder rates { \"%s\" : \"%s\" }\n", member->port, member->port);
    }
    add_elements(out, "add", member);
}

void rules_remove_member(struct buffer *out, const struct member *member) {
    add_elements(out, "delete", member);
    if (member->rate_out) {
        buffer_addf(out, "delete element bridge polder rates { \"%s\" : \"%s\" }\n", member->port,
                    member->port);
        buffer_addf(out, "delete limit bridge polder %s\n", member->port);
    }
}

void rules_remove_all(struct buffer *out) {
    /* Adding first makes the deletion of an absent table no error. */
    buffer_add_text(out, "add table bridge polder\ndelete table bridge polder\n"
                         "add table inet polder\ndelete table inet polder\n");
}

void rules_add_all(struct buffer *out, const struct rules *rules, struct member *const *members,
                   size_t count) {
    char subnet[SUBNET_TEXT_SIZE], gateway[ADDRESS_TEXT_SIZE];

    subnet_format(rules->subnet, subnet);
    address_format(subnet_gateway(rules->subnet), gateway);
    rules_remove_all(out);
    buffer_add_text(out, guard_table);
    add_subnet_table(out, rules->bridge, subnet, gateway);
    for (size_t i = 0; i < count; i++)
        rules_add_member(out, members[i]);
}
