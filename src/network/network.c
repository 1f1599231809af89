// SPDX-License-Identifier: GPL-2.0-or-later
/* Model: the members in memory are the truth that rules, files and interfaces are made from. network_adopt
 * sets it from the instances that run and writes the rules whole, which repairs whatever a crash left half
 * done. After that a change is one small nftables transaction; if that is refused (somebody flushed the
 * ruleset), the rules are written whole. Attaching goes: member and rules, dnsmasq's files, interface, up.
 * Detaching goes the other way round. */
#include "network/network.h"

#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "network/internal.h"
#include "network/netfilter.h"
#include "network/nft.h"

#define LOCK_TIMEOUT (60 * CLOCK_SECOND)

/* --- the object -------------------------------------------------------------------------------------- */

static bool is_bridge_name(const char *name) {
    size_t size = strlen(name);

    return size > 0 && size < IFNAMSIZ && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == size &&
           !member_is_port_name(name) && !text_equal(name, "lo");
}

static bool is_domain(const char *domain) {
    _cleanup_list_ char **labels = NULL;

    if (strlen(domain) > 200 || strstr(domain, "..") || list_split(domain, ".", &labels) < 0 || !labels)
        return false;
    for (char **label = labels; *label; label++)
        if (!name_is_valid(*label))
            return false;
    return domain[0] != '.' && domain[strlen(domain) - 1] != '.';
}

static int options_take(struct network *network, const struct network_options *options, struct error *error) {
    const char *bridge = options->bridge ? options->bridge : "polder0";
    const char *domain = options->domain ? options->domain : "polder.internal";

    if (!is_bridge_name(bridge))
        return error_set(error, ERROR_BAD_VALUE, "bridge", bridge, "use up to 15 of a-z, 0-9 and '-'");
    if (!is_domain(domain))
        return error_set(error, ERROR_BAD_VALUE, "domain", domain, "it is not a domain name");
    if (options->subnet && subnet_parse(options->subnet, &network->wanted) < 0)
        return error_set(error, ERROR_BAD_VALUE, "subnet", options->subnet,
                         "use a form like 10.117.0.0/24, prefix 16 to 29");
    network->bridge = strdup(bridge);
    network->domain = strdup(domain);
    network->directory = text_format("%s/network", options->run_path);
    network->state_file = text_format("%s/network.json", options->state_path);
    if (!network->bridge || !network->domain || !network->directory || !network->state_file)
        return error_set(error, ERROR_NO_MEMORY, "");
    return 0;
}

void network_unref(struct network *network) {
    if (!network || --network->references > 0)
        return;
    for (size_t i = 0; i < network->count; i++)
        member_free(network->members[i]);
    free(network->members);
    process_done(&network->dnsmasq);
    close_fd(network->socket);
    close_fd(network->guard_fd);
    free(network->directory);
    free(network->state_file);
    free(network->bridge);
    free(network->domain);
    free(network);
}

DEFINE_CLEANUP(struct network *, network_unref)

int network_new(const struct network_options *options, struct network **ret, struct error *error) {
    _cleanup_(network_unrefp) struct network *network = calloc(1, sizeof(*network));
    int r;

    if (!network)
        return error_set(error, ERROR_NO_MEMORY, "");
    network->references = 1;
    network->socket = -EBADF;
    network->guard_fd = -EBADF;
    network->mtu = 1500;
    network->dnsmasq = (struct process) PROCESS_INIT;
    r = options_take(network, options, error);
    if (r < 0)
        return r;
    r = link_open(-EBADF, &network->socket);
    if (r < 0)
        return error_errno(error, r, "opening rtnetlink");
    r = network_state_load(network, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(network);
    return 0;
}

void network_free(struct network *network) {
    if (!network)
        return;
    network_watch_stop(network);
    network_unref(network);
}

struct dnsmasq_options network_dnsmasq_options(const struct network *network) {
    return (struct dnsmasq_options){ .directory = network->directory,
                                     .bridge = network->bridge,
                                     .domain = network->domain,
                                     .subnet = network->subnet,
                                     .mtu = network->mtu };
}

int network_lock(struct network *network, struct error *error) {
    int r = fiber_mutex_lock(&network->mutex, deadline_in(LOCK_TIMEOUT));

    return r < 0 ? error_errno(error, r, "waiting for the network") : 0;
}

void network_unlock(struct network *network) {
    fiber_mutex_unlock(&network->mutex);
}

/* --- members ----------------------------------------------------------------------------------------- */

static struct member **member_slot(const struct network *network, const char *uuid) {
    for (size_t i = 0; i < network->count; i++)
        if (text_equal(network->members[i]->uuid, uuid))
            return &network->members[i];
    return NULL;
}

struct member *network_find(const struct network *network, const char *uuid) {
    struct member **slot = member_slot(network, uuid);

    return slot ? *slot : NULL;
}

/* Consumes the member; one of the same uuid is handed back. */
static int members_put_take(struct network *network, struct member *member, struct member **ret_before) {
    struct member **slot = member_slot(network, member->uuid), **members;

    *ret_before = slot ? *slot : NULL;
    if (slot) {
        *slot = member;
        return 0;
    }
    members = reallocarray(network->members, network->count + 1, sizeof(struct member *));
    if (!members) {
        member_free(member);
        return -ENOMEM;
    }
    network->members = members;
    members[network->count++] = member;
    return 0;
}

int network_members_add_take(struct network *network, struct member *member) {
    struct member *before = NULL;
    int r = members_put_take(network, member, &before);

    member_free(before);
    return r;
}

static void member_take_out(struct network *network, const char *uuid, struct member **ret) {
    struct member **slot = member_slot(network, uuid);

    *ret = slot ? *slot : NULL;
    if (slot)
        *slot = network->members[--network->count];
}

/* --- changes ----------------------------------------------------------------------------------------- */

/* One transaction from `before` (NULL: nothing) to `after` (NULL: nothing). */
static int rules_change(struct network *network, const struct member *before, const struct member *after,
                        struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;

    if (before)
        rules_remove_member(&text, before);
    if (after)
        rules_add_member(&text, after);
    if (text.failed || !text.data)
        return error_set(error, ERROR_NO_MEMORY, "");
    return nft_run(text.data, error);
}

struct forget_job {
    uint16_t *ports;
    size_t count;
};

static int forget_main(void *userdata) {
    const struct forget_job *job = userdata;

    return netfilter_forget_udp(job->ports, job->count);
}

/* Flows to the UDP ports of both (each may be NULL) begin anew, by the rules as they are now. */
static void flows_forget(const struct member *before, const struct member *after) {
    const struct member *const members[] = { before, after };
    size_t most = (before ? before->publish_count : 0) + (after ? after->publish_count : 0);
    struct forget_job job = { .ports = calloc(most + 1, sizeof(uint16_t)) };
    int r = 0;

    for (size_t i = 0; job.ports && i < ELEMENTS(members); i++)
        for (size_t k = 0; members[i] && k < members[i]->publish_count; k++)
            if (members[i]->publishes[k].protocol == IPPROTO_UDP)
                job.ports[job.count++] = members[i]->publishes[k].host_port;
    if (job.count > 0)
        r = fiber_job(forget_main, &job);
    if (r < 0)
        log_warning("UDP flows that are under way may still go where their port was published before: %s",
                    strerror(-r));
    free(job.ports);
}

static bool reached_alike(const struct member *a, const struct member *b) {
    if (a->address != b->address || a->publish_count != b->publish_count)
        return false;
    for (size_t i = 0; i < a->publish_count; i++) {
        const struct publish *one = &a->publishes[i], *other = &b->publishes[i];

        if (one->protocol != other->protocol || one->host_port != other->host_port ||
            one->port != other->port || one->host_address != other->host_address)
            return false;
    }
    return true;
}

/* Writes everything again after a change was refused, and blames the limit if it is that. */
static int rules_rewrite(struct network *network, const struct member *member, struct error *error) {
    if (network->rules_loaded)
        log_notice("nftables refused a change; writing Polder's rules again");
    if (!member->rate_out)
        return network_load_rules(network, error);
    return network_load_rules(network, NULL) < 0
               ? error_set(error, ERROR_HOST_LACKS, "a limit of outgoing traffic", "nftables refuses it here")
               : 0;
}

/* The member is in the list, and in the rules of the kernel; or all is as before. Consumes it. */
static int member_enter_take(struct network *network, struct member *member, struct error *error) {
    struct member *before = network_find(network, member->uuid);
    int changed = network->rules_loaded ? rules_change(network, before, member, NULL) : -EIO, r;

    r = members_put_take(network, member, &before);
    if (r < 0) {
        network->rules_loaded = false;
        return error_set(error, ERROR_NO_MEMORY, "");
    }
    if (changed < 0)
        r = rules_rewrite(network, member, error);
    if (r >= 0) {
        if (!before || !reached_alike(before, member))
            flows_forget(before, member);
        member_free(before);
        return 0;
    }
    if (before) {
        *member_slot(network, member->uuid) = before;
        member_free(member);
    } else {
        member_take_out(network, member->uuid, &before);
        member_free(before);
    }
    (void) network_load_rules(network, NULL);
    return r;
}

static int member_leave(struct network *network, const char *uuid, struct error *error) {
    const struct member *member = network_find(network, uuid);
    _cleanup_member_ struct member *left = NULL;
    int r = 0;

    if (!member)
        return 0;
    r = network->rules_loaded ? rules_change(network, member, NULL, NULL) : -EIO;
    if (r < 0 && network->count == 1)
        r = 0; /* without members the tables go anyway */
    member_take_out(network, uuid, &left);
    if (r < 0)
        r = network_load_rules(network, error);
    flows_forget(left, NULL);
    return r;
}

static int files_write(struct network *network, const struct member *member, struct error *error) {
    struct dnsmasq_options options = network_dnsmasq_options(network);
    int r;

    /* A lease that somebody else left on this address would keep dnsmasq from giving it. */
    if (dnsmasq_is_leased(&options, member->address, member->mac))
        dnsmasq_release(&options, member->address);
    r = dnsmasq_member_add(&options, member);
    FAILPOINT("network-files-written");
    if (r >= 0)
        r = dnsmasq_reload(&network->dnsmasq);
    return r < 0 ? error_errno(error, r, "telling dnsmasq of '%s'", member->name) : 0;
}

/* Port, rules, files; and everything shared with the last one. */
int network_member_remove(struct network *network, const char *uuid, struct error *error) {
    const struct member *member = network_find(network, uuid);
    struct dnsmasq_options options = network_dnsmasq_options(network);
    uint32_t address = member ? member->address : 0;
    char port[IFNAMSIZ];
    int r;

    member_port_name(uuid, port);
    r = port_remove(network, port, error);
    FAILPOINT("network-port-removed");
    if (r >= 0)
        r = member_leave(network, uuid, error);
    FAILPOINT("network-member-left");
    if (r < 0)
        return r;
    if (network->count == 0 && network_is_set_up(network)) {
        network_watch_stop(network);
        return network_teardown(network, error);
    }
    r = dnsmasq_member_remove(&options, uuid);
    if (r < 0)
        return error_errno(error, r, "removing files of dnsmasq");
    if (network->dnsmasq.pidfd >= 0) {
        (void) dnsmasq_reload(&network->dnsmasq);
        if (address)
            dnsmasq_release(&options, address);
    }
    return 0;
}

/* Up to the interface itself. On failure nothing of a new member stays. */
static int member_prepare(struct network *network, const struct network_member *from, struct error *error) {
    _cleanup_member_ struct member *member = NULL;
    const struct member *entered;
    int r = member_new(from, &member, error);

    if (r >= 0)
        r = network_ensure(network, error);
    if (r >= 0)
        r = network_check_address(network, member, error);
    if (r >= 0)
        r = network_check_ports(network, member, error);
    if (r >= 0 && !network->watch)
        r = network_watch(network);
    if (r < 0)
        return error_errno(error, r, "preparing the network");
    r = member_enter_take(network, STEAL_PTR(member), error);
    FAILPOINT("network-rules-added");
    entered = network_find(network, from->uuid);
    return r < 0 || !entered ? r : files_write(network, entered, error);
}

/* After a failure: as if it had not been tried. A cancelled fiber must do this too. */
static void member_undo(struct network *network, const char *uuid) {
    fiber_shield();
    if (uuid_is_valid(uuid))
        (void) network_member_remove(network, uuid, NULL);
    fiber_unshield();
}

int network_attach_container(struct network *network, const struct network_member *member, int netns_fd,
                             struct error *error) {
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = member_prepare(network, member, error);
    if (r >= 0)
        r = port_attach_container(network, network_find(network, member->uuid), netns_fd, error);
    if (r < 0)
        member_undo(network, member->uuid);
    network_unlock(network);
    return r;
}

int network_attach_tap(struct network *network, const struct network_member *member, int *ret_fd,
                       struct error *error) {
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = member_prepare(network, member, error);
    if (r >= 0)
        r = port_attach_tap(network, network_find(network, member->uuid), ret_fd, error);
    if (r < 0)
        member_undo(network, member->uuid);
    network_unlock(network);
    return r;
}

static int member_update(struct network *network, const struct network_member *from, struct error *error) {
    _cleanup_member_ struct member *member = NULL;
    const struct member *before = network_find(network, from->uuid);
    bool renamed;
    int r;

    if (!before)
        return error_set(error, ERROR_NOT_FOUND, "network member", from->name);
    r = member_new(from, &member, error);
    if (r >= 0)
        r = network_check_address(network, member, error);
    if (r >= 0)
        r = network_check_ports(network, member, error);
    if (r < 0)
        return r;
    renamed = !text_equal(before->name, member->name) || before->address != member->address ||
              memcmp(before->mac, member->mac, sizeof(member->mac)) != 0;
    r = port_set_rate(network, member, error);
    if (r < 0)
        return r;
    r = member_enter_take(network, STEAL_PTR(member), error);
    if (r < 0) {
        fiber_shield();
        (void) port_set_rate(network, network_find(network, from->uuid), NULL);
        fiber_unshield();
        return r;
    }
    const struct member *entered = renamed ? network_find(network, from->uuid) : NULL;
    return entered ? files_write(network, entered, error) : 0;
}

int network_update(struct network *network, const struct network_member *member, struct error *error) {
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = member_update(network, member, error);
    network_unlock(network);
    return r;
}

int network_detach(struct network *network, const char *uuid, struct error *error) {
    int r;

    if (!uuid_is_valid(uuid))
        return error_set(error, ERROR_BAD_VALUE, "uuid", uuid, "it is not a UUID");
    r = network_lock(network, error);
    if (r < 0)
        return r;
    r = network_member_remove(network, uuid, error);
    network_unlock(network);
    return r;
}

/* --- addresses --------------------------------------------------------------------------------------- */

/* FNV-1a: spreads instances over the subnet, so that one that comes back tends to find its address free. */
static uint32_t uuid_hash(const char *uuid) {
    uint32_t hash = 2166136261U;

    for (; *uuid; uuid++)
        hash = (hash ^ (unsigned char) *uuid) * 16777619U;
    return hash;
}

static bool address_is_free(const struct network *network, uint32_t address,
                            bool (*taken)(const char *address, void *userdata), void *userdata) {
    char text[ADDRESS_TEXT_SIZE];

    if (!subnet_is_member(network->subnet, address))
        return false;
    for (size_t i = 0; i < network->count; i++)
        if (network->members[i]->address == address)
            return false;
    return !taken || !taken(address_format(address, text), userdata);
}

int network_allocate(struct network *network, const char *uuid,
                     bool (*taken)(const char *address, void *userdata), void *userdata, char **ret_mac,
                     char **ret_address, struct error *error) {
    char mac_text[MAC_TEXT_SIZE], address_text[ADDRESS_TEXT_SIZE];
    _cleanup_free_ char *mac = NULL, *address = NULL;
    uint32_t size, start, offset;
    uint8_t bytes[6];
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = network_choose_subnet(network, error);
    network_unlock(network);
    if (r < 0)
        return r;
    size = ~subnet_mask(network->subnet.prefix) + 1;
    start = uuid_hash(uuid) % size;
    for (offset = 0; offset < size; offset++)
        if (address_is_free(network, network->subnet.address + (start + offset) % size, taken, userdata))
            break;
    if (offset == size)
        return error_set(error, ERROR_EXHAUSTED, "address in the default network");
    address_format(network->subnet.address + (start + offset) % size, address_text);
    mac_from_address(network->subnet.address + (start + offset) % size, bytes);
    mac = strdup(mac_format(bytes, mac_text));
    address = strdup(address_text);
    if (!mac || !address)
        return error_set(error, ERROR_NO_MEMORY, "");
    *ret_mac = STEAL_PTR(mac);
    *ret_address = STEAL_PTR(address);
    return 0;
}

bool network_has_address(const struct network *network, const char *address) {
    uint32_t value;

    return network->subnet.prefix && address_parse(address, &value) >= 0 &&
           subnet_is_member(network->subnet, value);
}

/* --- what others read -------------------------------------------------------------------------------- */

const char *network_gateway(const struct network *network) {
    return network->subnet.prefix ? network->gateway : NULL;
}

unsigned network_prefix(const struct network *network) {
    return network->subnet.prefix;
}

const char *network_domain(const struct network *network) {
    return network->domain;
}

unsigned network_mtu(const struct network *network) {
    return network->mtu;
}

void network_emit(const struct network *network, struct emitter *emitter) {
    char subnet[SUBNET_TEXT_SIZE];
    bool chosen = network->subnet.prefix != 0;

    emit_object(emitter);
    emit_key_text(emitter, "name", "default");
    emit_key_text(emitter, "bridge", network->bridge);
    emit_key_text(emitter, "subnet", chosen ? subnet_format(network->subnet, subnet) : NULL);
    emit_key_text(emitter, "gateway", chosen ? network->gateway : NULL);
    emit_key_text(emitter, "domain", network->domain);
    emit_key_unsigned(emitter, "mtu", network->mtu);
    emit_key_boolean(emitter, "ipv6", false);
    emit_key_unsigned(emitter, "members", network->count);
    emit_key_boolean(emitter, "dnsmasq", process_is_alive(&network->dnsmasq));
    emit_object_end(emitter);
}
