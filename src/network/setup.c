// SPDX-License-Identifier: GPL-2.0-or-later
/* What all members share. Order of making: marker file, bridge, rules, kernel switches, bridge up, dnsmasq.
 * Order of ending: dnsmasq, switches, rules, marker; the bridge only by network_reset. Each step asks what is
 * there first, so that it is safe to repeat after a crash at any point. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "network/internal.h"
#include "network/nft.h"

#define STATE_LIMIT 65536
#define MTU_MAX 1500
#define MTU_MIN 576

/* --- state ------------------------------------------------------------------------------------------- */

static void subnet_take(struct network *network, struct subnet subnet) {
    network->subnet = subnet;
    address_format(subnet_gateway(subnet), network->gateway);
}

int network_state_load(struct network *network, struct error *error) {
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ struct json_object *json = NULL;
    struct subnet subnet;
    int r = file_read(AT_FDCWD, network->state_file, STATE_LIMIT, &text, NULL);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return error_errno(error, r, "reading %s", network->state_file);
    if (json_parse(text, strlen(text), &json, NULL) < 0 ||
        subnet_parse(json_text(json, "subnet", ""), &subnet) < 0) {
        log_warning("%s is damaged: the subnet will be chosen again", network->state_file);
        return 0;
    }
    network->forwarding_set = json_boolean(json, "forwarding_set", false);
    /* The configuration wins over what was chosen before. */
    if (network->wanted.prefix == 0)
        subnet_take(network, subnet);
    return 0;
}

static int state_save(const struct network *network, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);
    char subnet[SUBNET_TEXT_SIZE];
    int r;

    emit_object(&emitter);
    emit_key_text(&emitter, "subnet", subnet_format(network->subnet, subnet));
    emit_key_boolean(&emitter, "forwarding_set", network->forwarding_set);
    emit_object_end(&emitter);
    r = text.failed ? -ENOMEM
                    : file_write_atomic(AT_FDCWD, network->state_file, text.data, text.size, 0600, true);
    return r < 0 ? error_errno(error, r, "writing %s", network->state_file) : 0;
}

/* --- subnet ------------------------------------------------------------------------------------------ */

struct prefixes {
    int socket;
    int except;
    struct link_prefix *items;
    size_t count;
};

static int prefixes_main(void *userdata) {
    struct prefixes *prefixes = userdata;

    return link_prefixes(prefixes->socket, prefixes->except, &prefixes->items, &prefixes->count);
}

static const struct link_prefix *prefixes_find(const struct prefixes *prefixes, struct subnet subnet) {
    for (size_t i = 0; i < prefixes->count; i++)
        if (subnet_overlaps(prefixes->items[i].subnet, subnet))
            return &prefixes->items[i];
    return NULL;
}

static int subnet_refused(const struct link_prefix *prefix, struct subnet subnet, struct error *error) {
    char text[SUBNET_TEXT_SIZE], other[SUBNET_TEXT_SIZE];
    _cleanup_free_ char *user = text_format("the %s %s of interface '%s'",
                                            prefix->address ? "address range" : "route",
                                            subnet_format(prefix->subnet, other), prefix->interface);

    return error_set(error, ERROR_IN_USE, "the subnet", subnet_format(subnet, text), user);
}

static int subnet_pick(struct network *network, const struct prefixes *prefixes, struct error *error) {
    const struct link_prefix *taken;
    struct subnet *list, subnet;
    int r;

    if (network->wanted.prefix) {
        taken = prefixes_find(prefixes, network->wanted);
        if (taken)
            return subnet_refused(taken, network->wanted, error);
        subnet_take(network, network->wanted);
        return state_save(network, error);
    }
    list = calloc(prefixes->count + 1, sizeof(*list));
    if (!list)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (size_t i = 0; i < prefixes->count; i++)
        list[i] = prefixes->items[i].subnet;
    r = subnet_choose(list, prefixes->count, &subnet);
    free(list);
    if (r < 0)
        return error_set(error, ERROR_EXHAUSTED, "subnet that no route of this host covers");
    subnet_take(network, subnet);
    return state_save(network, error);
}

/* Whether the subnet is (still) free is asked only while the bridge is not there: once it is, members use it.
 */
static int subnet_check(struct network *network, struct error *error) {
    struct prefixes prefixes = { .socket = network->socket };
    const struct link_prefix *taken;
    struct link_info info;
    char text[SUBNET_TEXT_SIZE];
    int r = 0;

    if (link_get(network->socket, network->bridge, &info) >= 0)
        prefixes.except = info.index;
    r = fiber_job(prefixes_main, &prefixes);
    if (r < 0)
        return error_errno(error, r, "reading the routes of this host");
    taken = network->subnet.prefix ? prefixes_find(&prefixes, network->subnet) : NULL;
    if (taken)
        log_warning("the subnet %s now collides with interface '%s'", subnet_format(network->subnet, text),
                    taken->interface);
    if (!network->subnet.prefix || taken)
        r = subnet_pick(network, &prefixes, error);
    free(prefixes.items);
    return r;
}

int network_choose_subnet(struct network *network, struct error *error) {
    return network->subnet.prefix ? 0 : subnet_check(network, error);
}

/* --- bridge ------------------------------------------------------------------------------------------ */

struct bridge_job {
    struct network *network;
    int index;
    const char *step;
};

/* No larger than what leads outside takes: members then never meet a path that swallows their packets. */
static uint32_t mtu_choose(const struct network *network) {
    _cleanup_free_ struct link_info *links = NULL;
    size_t count = 0;
    int outside = link_default(network->socket);

    if (outside > 0 && link_list(network->socket, &links, &count) >= 0)
        for (size_t i = 0; i < count; i++)
            if (links[i].index == outside && links[i].mtu >= MTU_MIN && links[i].mtu < MTU_MAX)
                return links[i].mtu;
    return MTU_MAX;
}

static int bridge_main(void *userdata) {
    struct bridge_job *job = userdata;
    struct network *network = job->network;
    struct link_info info;
    uint8_t mac[6];
    int r = link_get(network->socket, network->bridge, &info);

    job->step = "creating the bridge";
    if (r >= 0 && !text_equal(info.kind, "bridge"))
        return -EEXIST;
    if (r == -ENODEV) {
        mac_from_address(subnet_gateway(network->subnet), mac);
        r = link_bridge_add(network->socket, network->bridge, mac, mtu_choose(network));
        FAILPOINT("network-bridge-made");
        if (r >= 0)
            r = link_get(network->socket, network->bridge, &info);
    }
    if (r < 0)
        return r;
    job->index = info.index;
    network->mtu = info.mtu;
    return 0;
}

static int bridge_ensure(struct network *network, int *ret_index, struct error *error) {
    struct bridge_job job = { .network = network };
    struct link_info info;
    int r;

    if (link_get(network->socket, network->bridge, &info) == -ENODEV || !network->subnet.prefix) {
        r = subnet_check(network, error);
        if (r < 0)
            return r;
    }
    r = fiber_job(bridge_main, &job);
    if (r == -EEXIST)
        return error_set(error, ERROR_EXISTS, "an interface that is no bridge called", network->bridge);
    if (r < 0)
        return error_errno(error, r, "%s %s", job.step, network->bridge);
    *ret_index = job.index;
    return 0;
}

static int switch_write(const char *family, const char *interface, const char *name, const char *value) {
    _cleanup_free_ char *path = text_format("/proc/sys/net/%s/conf/%s/%s", family, interface, name);

    return path ? file_write_value(AT_FDCWD, path, value) : -ENOMEM;
}

static int forwarding_ensure(struct network *network, struct error *error) {
    static const char path[] = "/proc/sys/net/ipv4/ip_forward";
    _cleanup_free_ char *value = NULL;
    int r = file_read(AT_FDCWD, path, 16, &value, NULL);

    if (r < 0)
        return error_errno(error, r, "reading %s", path);
    if (value[0] != '0')
        return 0;
    /* Remembered first: after a crash in between, reset still knows. */
    network->forwarding_set = true;
    r = state_save(network, error);
    if (r < 0)
        return r;
    r = file_write_value(AT_FDCWD, path, "1");
    if (r < 0)
        return error_errno(error, r, "switching on %s", path);
    log_notice("switched on ip_forward: this host now routes between its interfaces");
    return 0;
}

/* 127.0.0.1 reaches published ports through route_localnet, which the rules (already loaded) close for
 * members. */
static int switches_set(struct network *network, struct error *error) {
    int r = switch_write("ipv4", network->bridge, "route_localnet", "1");

    if (r < 0)
        return error_errno(error, r, "setting route_localnet of %s", network->bridge);
    (void) switch_write("ipv4", network->bridge, "send_redirects", "0");
    (void) switch_write("ipv4", network->bridge, "accept_redirects", "0");
    r = switch_write("ipv6", network->bridge, "disable_ipv6", "1");
    if (r < 0 && r != -ENOENT)
        return error_errno(error, r, "switching IPv6 off on %s", network->bridge);
    return forwarding_ensure(network, error);
}

struct up_job {
    const struct network *network;
    int index;
};

static int up_main(void *userdata) {
    const struct up_job *job = userdata;
    const struct network *network = job->network;
    int r = link_address_add(network->socket, job->index, subnet_gateway(network->subnet),
                             network->subnet.prefix);

    return r < 0 ? r : link_set_up(network->socket, job->index);
}

/* --- rules ------------------------------------------------------------------------------------------- */

struct rules network_rules(const struct network *network) {
    return (struct rules){ .bridge = network->bridge, .subnet = network->subnet };
}

int network_load_rules(struct network *network, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct rules rules = network_rules(network);
    int r;

    rules_add_all(&text, &rules, network->members, network->count);
    if (text.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = nft_run(text.data, error);
    network->rules_loaded = r >= 0;
    return r;
}

/* --- all of it --------------------------------------------------------------------------------------- */

static char *marker_path(const struct network *network) {
    return text_format("%s/active", network->directory);
}

bool network_is_set_up(const struct network *network) {
    _cleanup_free_ char *path = marker_path(network);

    return path && file_exists(AT_FDCWD, path);
}

static int marker_write(struct network *network, struct error *error) {
    _cleanup_free_ char *path = marker_path(network);
    int r = path ? 0 : -ENOMEM;

    if (path && file_exists(AT_FDCWD, path))
        return 0;
    if (r >= 0)
        r = file_make_directories(AT_FDCWD, network->directory, 0755);
    if (r >= 0)
        r = file_write_atomic(AT_FDCWD, path, "", 0, 0644, false);
    return r < 0 ? error_errno(error, r, "creating %s", network->directory) : 0;
}

int network_ensure_dnsmasq(struct network *network, struct error *error) {
    struct dnsmasq_options options = network_dnsmasq_options(network);

    if (process_is_alive(&network->dnsmasq))
        return 0;
    process_done(&network->dnsmasq);
    return dnsmasq_start(&options, &network->dnsmasq, error);
}

int network_ensure(struct network *network, struct error *error) {
    struct up_job up = { .network = network };
    struct dnsmasq_options options;
    int r = marker_write(network, error);

    FAILPOINT("network-marked");
    if (r >= 0)
        r = bridge_ensure(network, &up.index, error);
    if (r < 0)
        return r;
    if (!network->rules_loaded)
        r = network_load_rules(network, error);
    FAILPOINT("network-rules-loaded");
    if (r >= 0)
        r = switches_set(network, error);
    if (r < 0)
        return r;
    r = fiber_job(up_main, &up);
    if (r < 0)
        return error_errno(error, r, "configuring %s", network->bridge);
    FAILPOINT("network-bridge-up");
    options = network_dnsmasq_options(network);
    r = dnsmasq_prepare(&options, error);
    return r < 0 ? r : network_ensure_dnsmasq(network, error);
}

int network_teardown(struct network *network, struct error *error) {
    struct dnsmasq_options options = network_dnsmasq_options(network);
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    int r = dnsmasq_stop(&options, &network->dnsmasq);

    if (r < 0)
        return error_errno(error, r, "ending dnsmasq");
    r = switch_write("ipv4", network->bridge, "route_localnet", "0");
    if (r < 0 && r != -ENOENT)
        return error_errno(error, r, "clearing route_localnet of %s", network->bridge);
    rules_remove_all(&text);
    r = text.failed ? error_set(error, ERROR_NO_MEMORY, "") : nft_run(text.data, error);
    if (r < 0)
        return r;
    FAILPOINT("network-rules-removed");
    network->rules_loaded = false;
    r = file_remove_tree(AT_FDCWD, network->directory);
    return r < 0 ? error_errno(error, r, "removing %s", network->directory) : 0;
}

static int delete_main(void *userdata) {
    const struct network *network = userdata;

    return link_delete(network->socket, network->bridge);
}

int network_remove_bridge(struct network *network, struct error *error) {
    struct link_info info;
    int r = link_get(network->socket, network->bridge, &info);

    if (r == -ENODEV)
        return 0;
    if (r >= 0 && !text_equal(info.kind, "bridge"))
        return error_set(error, ERROR_EXISTS, "an interface that is no bridge called", network->bridge);
    r = fiber_job(delete_main, network);
    return r < 0 ? error_errno(error, r, "removing %s", network->bridge) : 0;
}
