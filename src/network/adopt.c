// SPDX-License-Identifier: GPL-2.0-or-later
/* After a start of the daemon: take over what runs, finish or remove what a crash left half done. */
#include <string.h>

#include "base/text.h"
#include "network/internal.h"

static int members_take(struct network *network, const struct network_member *members, size_t count,
                        struct error *error) {
    for (size_t i = 0; i < count; i++) {
        _cleanup_member_ struct member *member = NULL;
        int r = member_new(&members[i], &member, error);

        if (r >= 0)
            r = network_members_add_take(network, STEAL_PTR(member));
        if (r < 0)
            return error_errno(error, r, "adopting the network");
    }
    return 0;
}

/* Files of members that are none, and of members that lost theirs. */
static int files_repair(struct network *network, struct error *error) {
    struct dnsmasq_options options = network_dnsmasq_options(network);
    _cleanup_list_ char **uuids = NULL;
    int r = dnsmasq_prepare(&options, error);

    if (r < 0)
        return r;
    r = dnsmasq_members(&options, &uuids);
    for (char **uuid = uuids; r >= 0 && uuid && *uuid; uuid++)
        if (!network_find(network, *uuid))
            r = dnsmasq_member_remove(&options, *uuid);
    for (size_t i = 0; r >= 0 && i < network->count; i++)
        r = dnsmasq_member_add(&options, network->members[i]);
    return r < 0 ? error_errno(error, r, "repairing files of dnsmasq") : 0;
}

static int adopt_members(struct network *network, struct error *error) {
    struct dnsmasq_options options;
    struct link_info info;
    int r = files_repair(network, error);

    if (r < 0)
        return r;
    if (link_get(network->socket, network->bridge, &info) >= 0)
        network->mtu = info.mtu;
    options = network_dnsmasq_options(network);
    r = dnsmasq_adopt(&options, &network->dnsmasq);
    if (r >= 0)
        (void) dnsmasq_reload(&network->dnsmasq);
    /* Rules are written whole, and what is missing of the rest is made. */
    network->rules_loaded = false;
    r = network_ensure(network, error);
    if (r >= 0)
        r = network_watch(network);
    /* A rate that was changed right before the end may not have got to its port. */
    if (r >= 0)
        r = port_set_rates(network, error);
    return r < 0 ? error_errno(error, r, "adopting the network") : 0;
}

int network_adopt(struct network *network, const struct network_member *members, size_t count,
                  struct error *error) {
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = members_take(network, members, count, error);
    if (r >= 0 && network->count > 0)
        r = network_choose_subnet(network, error);
    if (r >= 0 && network->count > 0)
        r = adopt_members(network, error);
    else if (r >= 0 && network_is_set_up(network))
        r = network_teardown(network, error);
    network_unlock(network);
    return r;
}

static bool is_known(char *const *known, const char *port) {
    for (; known && *known; known++) {
        char name[IFNAMSIZ];

        member_port_name(*known, name);
        if (text_equal(name, port))
            return true;
    }
    return false;
}

struct list_job {
    int socket;
    struct link_info *links;
    size_t count;
};

static int list_main(void *userdata) {
    struct list_job *job = userdata;

    return link_list(job->socket, &job->links, &job->count);
}

static int orphan_ports(struct network *network, char *const *known, bool remove, char ***found,
                        struct error *error) {
    struct list_job job = { .socket = network->socket };
    int r = fiber_job(list_main, &job);

    for (size_t i = 0; r >= 0 && i < job.count; i++) {
        const struct link_info *info = &job.links[i];

        if (!member_is_port_name(info->name) || is_known(known, info->name))
            continue;
        if (!text_equal(info->kind, "veth") && !text_equal(info->kind, "tun"))
            continue;
        r = list_addf(found, "interface %s", info->name);
        if (r >= 0 && remove)
            r = port_remove(network, info->name, error);
    }
    free(job.links);
    return r < 0 ? error_errno(error, r, "looking for interfaces") : 0;
}

static int orphan_members(struct network *network, char *const *known, bool remove, char ***found,
                          struct error *error) {
    struct dnsmasq_options options = network_dnsmasq_options(network);
    _cleanup_list_ char **uuids = NULL;
    int r = dnsmasq_members(&options, &uuids);

    for (size_t i = 0; r >= 0 && i < network->count; i++)
        if (!list_has(uuids, network->members[i]->uuid))
            r = list_add(&uuids, network->members[i]->uuid);
    for (char **uuid = uuids; r >= 0 && uuid && *uuid; uuid++) {
        if (list_has(known, *uuid))
            continue;
        r = list_addf(found, "network member %s", *uuid);
        if (r >= 0 && remove)
            r = network_member_remove(network, *uuid, error);
    }
    return r < 0 ? error_errno(error, r, "looking for network members") : 0;
}

int network_orphans(struct network *network, char *const *known, bool remove, char ***ret_found,
                    struct error *error) {
    _cleanup_list_ char **found = NULL;
    int r = network_lock(network, error);

    if (r < 0)
        return r;
    r = orphan_ports(network, known, remove, &found, error);
    if (r >= 0)
        r = orphan_members(network, known, remove, &found, error);
    network_unlock(network);
    if (r >= 0)
        *ret_found = STEAL_PTR(found);
    return r;
}
