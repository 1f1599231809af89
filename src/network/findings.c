// SPDX-License-Identifier: GPL-2.0-or-later
/* What `polder doctor` says of the network, and the end of everything. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "network/blocker.h"
#include "network/internal.h"
#include "network/nft.h"

#define TOPIC "network"
#define RULESET_LIMIT (64U << 20)
#define LEGACY "/usr/sbin/iptables-legacy"

static int ruleset_read(struct json_object **ret, struct error *error) {
    _cleanup_free_ char *text = NULL;
    int r = nft_list(&text, error);

    if (r < 0)
        return r;
    if (strlen(text) > RULESET_LIMIT)
        return error_set(error, ERROR_TOO_LARGE, "the ruleset of nftables", "64MiB");
    return json_parse(text, strlen(text), ret, error);
}

/* --- rules of others --------------------------------------------------------------------------------- */

static char *blocker_advice(const char *bridge, const struct packet *packet, const struct blocker *blocker) {
    if (text_equal(blocker->owner, "docker"))
        return text_format("iptables -I DOCKER-USER -i %s -j ACCEPT; iptables -I DOCKER-USER -o %s -j ACCEPT",
                           bridge, bridge);
    if (text_equal(blocker->owner, "ufw"))
        return packet->hook == PACKET_INPUT
                   ? text_format("ufw allow in on %s", bridge)
                   : text_format("ufw route allow in on %s; ufw route allow out on %s", bridge, bridge);
    if (text_equal(blocker->owner, "firewalld"))
        return text_format(
            "firewall-cmd --permanent --zone=trusted --add-interface=%s; firewall-cmd --reload", bridge);
    return text_format("accept interface %s in %s", bridge, blocker->chain);
}

static int packet_check(const struct network *network, struct json_object *ruleset,
                        const struct packet *packet, struct findings *findings, bool *blocked) {
    _cleanup_blocker_ struct blocker blocker = { 0 };
    _cleanup_free_ char *text = NULL, *reason = NULL, *advice = NULL;
    int r = blocker_find(ruleset, packet, &blocker);

    if (r <= 0)
        return r;
    *blocked = true;
    text = text_format("%s%s%s blocks %s", blocker.chain, blocker.owner ? ", of " : "",
                       blocker.owner ? blocker.owner : "", packet->what);
    reason = text_format("%s drops it, and no rule of Polder's own table can override that", blocker.rule);
    advice = blocker_advice(network->bridge, packet, &blocker);
    return text && reason && advice ? findings_add(findings, FINDING_ERROR, TOPIC, text, reason, advice)
                                    : -ENOMEM;
}

static char *outside_interface(const struct network *network) {
    _cleanup_free_ struct link_info *links = NULL;
    size_t count = 0;
    int index = link_default(network->socket);

    if (index > 0 && link_list(network->socket, &links, &count) >= 0)
        for (size_t i = 0; i < count; i++)
            if (links[i].index == index)
                return strdup(links[i].name);
    return strdup("eth0");
}

static bool bridge_is_filtered(void) {
    _cleanup_free_ char *value = NULL;

    return file_read(AT_FDCWD, "/proc/sys/net/bridge/bridge-nf-call-iptables", 16, &value, NULL) >= 0 &&
           value[0] == '1';
}

static int others_check(const struct network *network, struct json_object *ruleset,
                        struct findings *findings) {
    _cleanup_free_ char *outside = outside_interface(network);
    const char *bridge = network->bridge;
    uint32_t gateway = subnet_gateway(network->subnet), member = gateway + 1, far = UINT32_C(0xcb007101);
    const struct packet packets[] = {
        { "traffic of instances to the outside", PACKET_FORWARD, bridge, outside, member, far, IPPROTO_TCP,
          443, false },
        { "published ports", PACKET_FORWARD, outside, bridge, far, member, IPPROTO_TCP, 80, true },
        { "traffic between instances", PACKET_FORWARD, bridge, bridge, member, member + 1, IPPROTO_TCP, 80,
          false },
        { "DHCP requests of instances", PACKET_INPUT, bridge, NULL, 0, UINT32_MAX, IPPROTO_UDP, 67, false },
        { "name lookups of instances", PACKET_INPUT, bridge, NULL, member, gateway, IPPROTO_UDP, 53, false },
    };
    bool blocked = false;
    int r = 0;

    if (!outside)
        return -ENOMEM;
    for (size_t i = 0; r >= 0 && i < ELEMENTS(packets); i++) {
        /* Bridged frames meet these chains only where bridge netfilter sends them there. */
        if (packets[i].hook == PACKET_FORWARD && text_equal(packets[i].out, packets[i].in) &&
            !bridge_is_filtered())
            continue;
        r = packet_check(network, ruleset, &packets[i], findings, &blocked);
    }
    if (r >= 0 && !blocked)
        r = findings_add(findings, FINDING_OK, TOPIC, "no nftables rule of others blocks instances",
                         "every forward and input chain of this host lets their traffic pass", NULL);
    return r;
}

/* --- iptables-legacy --------------------------------------------------------------------------------- */

struct legacy {
    const char *bridge;
    bool policy_drop;
    bool accepts;
};

static void legacy_line(const char *line, void *userdata) {
    struct legacy *legacy = userdata;

    if (text_equal(line, "-P FORWARD DROP"))
        legacy->policy_drop = true;
    else if (strstr(line, legacy->bridge) && text_ends(line, "-j ACCEPT"))
        legacy->accepts = true;
}

/* The older tables are no part of the nftables listing. */
static int legacy_check(const struct network *network, struct findings *findings) {
    _cleanup_free_ char *tables = NULL;
    struct legacy legacy = { .bridge = network->bridge };
    struct process_spec spec = { .program = LEGACY,
                                 .program_fd = -EBADF,
                                 .arguments = (char *[]){ (char *) "iptables-legacy", (char *) "-S", NULL } };
    struct process_run run = {
        .limit = 4096, .deadline = deadline_in(10 * CLOCK_SECOND), .line = legacy_line, .userdata = &legacy
    };

    if (file_read(AT_FDCWD, "/proc/net/ip_tables_names", 4096, &tables, NULL) < 0 ||
        !strstr(tables, "filter") || access(LEGACY, X_OK) < 0 || process_run(&spec, &run, NULL) < 0 ||
        !legacy.policy_drop || legacy.accepts)
        return 0;
    return findings_add(
        findings, FINDING_ERROR, TOPIC, "chain 'FORWARD' of iptables-legacy blocks traffic of instances",
        "its policy is DROP and no rule accepts the bridge",
        "iptables-legacy -I FORWARD -i polder0 -j ACCEPT; iptables-legacy -I FORWARD -o polder0 -j "
        "ACCEPT");
}

/* --- our own ----------------------------------------------------------------------------------------- */

static int forwarding_check(const struct network *network, struct findings *findings) {
    _cleanup_free_ char *value = NULL;
    int r = file_read(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", 16, &value, NULL);

    if (r >= 0 && value[0] == '0')
        return findings_add(findings, network->count ? FINDING_ERROR : FINDING_NOTE, TOPIC,
                            "ip_forward is off",
                            network->count ? "instances reach nothing but this host and one another"
                                           : "it is switched on when the first instance starts",
                            network->count ? "sysctl net.ipv4.ip_forward=1" : "nothing needs to be done");
    if (r >= 0 && network->forwarding_set)
        return findings_add(
            findings, FINDING_NOTE, TOPIC, "Polder switched ip_forward on",
            "this host now routes between all its interfaces; 'polder network reset' switches it off "
            "again",
            "set a forward policy of your own if other networks must stay apart");
    return 0;
}

static int parts_check(const struct network *network, struct findings *findings) {
    char subnet[SUBNET_TEXT_SIZE];
    _cleanup_free_ char *text = NULL;
    int r;

    r = findings_add(findings, FINDING_NOTE, TOPIC, "the default network is IPv4 only",
                     "IPv6 is switched off on the bridge, and IPv6 frames of instances are dropped",
                     "let a proxy on this host pass on what comes by IPv6");
    if (r >= 0 && access("/usr/sbin/dnsmasq", X_OK) < 0)
        r = findings_add(findings, FINDING_ERROR, TOPIC, "dnsmasq is missing",
                         "instances with the default network cannot start", "apt install dnsmasq-base");
    if (r >= 0 && access("/dev/net/tun", F_OK) < 0)
        r = findings_add(findings, FINDING_ERROR, TOPIC, "/dev/net/tun is missing",
                         "VMs and microVMs have no network", "modprobe tun");
    if (r < 0 || !network->subnet.prefix)
        return r;
    text = text_format("the default network is %s on bridge %s", subnet_format(network->subnet, subnet),
                       network->bridge);
    r = text ? findings_add(findings, FINDING_OK, TOPIC, text,
                            "no route of this host covered it when it was chosen", NULL)
             : -ENOMEM;
    if (r >= 0 && network->count > 0 && !process_is_alive(&network->dnsmasq))
        r = findings_add(
            findings, FINDING_ERROR, TOPIC, "dnsmasq does not run",
            "instances get no addresses and names until it does; polderd keeps trying to start it",
            "see the log of polderd");
    return r;
}

int network_findings(struct network *network, struct findings *findings) {
    _cleanup_json_ struct json_object *ruleset = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    int r = network_lock(network, NULL);

    if (r < 0)
        return r;
    r = parts_check(network, findings);
    if (r >= 0)
        r = forwarding_check(network, findings);
    if (r >= 0 && ruleset_read(&ruleset, &error) >= 0)
        r = others_check(network, ruleset, findings);
    else if (r >= 0) {
        sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        r = findings_add(findings, FINDING_ERROR, TOPIC, "nftables cannot be read", sentence ? sentence : "",
                         "Polder needs nftables and libnftables1");
    }
    if (r >= 0)
        r = legacy_check(network, findings);
    network_unlock(network);
    return r;
}

/* --- reset ------------------------------------------------------------------------------------------- */

/* Somebody who came later may rely on what we switched on. */
static void forwarding_restore(struct network *network) {
    _cleanup_json_ struct json_object *ruleset = NULL;

    if (!network->forwarding_set)
        return;
    network->forwarding_set = false;
    if (ruleset_read(&ruleset, NULL) < 0 || blocker_others_route(ruleset)) {
        log_notice("ip_forward stays on: other rules of this host route too");
        return;
    }
    if (file_write_value(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", "0") >= 0)
        log_notice("switched ip_forward off again");
}

static int reset(struct network *network, struct error *error) {
    _cleanup_free_ char *who = NULL;
    int r;

    if (network->count > 0) {
        who = text_format("%zu running instance%s", network->count, network->count == 1 ? "" : "s");
        return error_set(error, ERROR_IN_USE, "network", "default", who);
    }
    network_watch_stop(network);
    r = network_teardown(network, error);
    if (r >= 0)
        r = network_remove_bridge(network, error);
    if (r < 0)
        return r;
    forwarding_restore(network);
    if (unlink(network->state_file) < 0 && errno != ENOENT)
        return error_errno(error, -errno, "removing %s", network->state_file);
    network->subnet = (struct subnet){ 0 };
    return 0;
}

int network_reset(struct network *network, struct error *error) {
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = reset(network, error);
    network_unlock(network);
    return r;
}
