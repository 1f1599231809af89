// SPDX-License-Identifier: GPL-2.0-or-later
/* A member's interface. It is born down, joins the bridge, and goes up last: its rules are in place by then.
 */
#include <string.h>

#include "base/failpoint.h"
#include "base/text.h"
#include "network/internal.h"

struct port_job {
    struct network *network;
    const struct member *member;
    int netns_fd;
    int tap_fd;
    const char *step; /* what failed */
};

static int bridge_index(const struct network *network) {
    struct link_info info;
    int r = link_get(network->socket, network->bridge, &info);

    return r < 0 ? r : info.index;
}

static int rate_set(struct port_job *job, int index) {
    job->step = "limiting the rate";
    return link_set_rate(job->network->socket, index, job->member->rate_in);
}

/* A kernel without IPv6 has nothing to switch off. */
static int ipv6_off(int fd, int index) {
    int r = link_set_no_ipv6(fd, index);

    return r == -EAFNOSUPPORT || r == -EOPNOTSUPP || r == -EINVAL ? 0 : r;
}

/* The outer end: everything but a guest's own configuration. */
static int port_configure(struct port_job *job, int index) {
    int fd = job->network->socket, r;

    job->step = "configuring the port";
    r = ipv6_off(fd, index);
    if (r >= 0)
        r = link_set_hairpin(fd, index);
    if (r >= 0 && job->member->rate_in)
        r = rate_set(job, index);
    if (r < 0)
        return r;
    FAILPOINT("network-port-configured");
    job->step = "starting the port";
    return link_set_up(fd, index);
}

static int inner_configure(struct port_job *job, int fd, int index) {
    struct network *network = job->network;
    struct link_info loopback;
    int r;

    job->step = "configuring the interface inside";
    r = link_get(fd, "lo", &loopback);
    if (r >= 0)
        r = link_set_up(fd, loopback.index);
    if (r >= 0)
        r = ipv6_off(fd, index);
    if (r >= 0)
        r = link_address_add(fd, index, job->member->address, network->subnet.prefix);
    if (r >= 0)
        r = link_set_up(fd, index);
    if (r >= 0)
        r = link_default_route_add(fd, index, subnet_gateway(network->subnet));
    return r;
}

/* Makes the pair unless this very pair is there already. */
static int pair_ensure(struct port_job *job, int inside, struct link_info *ret_outer,
                       struct link_info *ret_inner) {
    const struct member *member = job->member;
    int fd = job->network->socket, master = bridge_index(job->network), r;

    job->step = "creating a veth pair";
    if (master < 0)
        return master;
    if (link_get(inside, "eth0", ret_inner) >= 0 && link_get(fd, member->port, ret_outer) >= 0 &&
        ret_inner->peer == ret_outer->index && ret_outer->peer == ret_inner->index &&
        memcmp(ret_inner->mac, member->mac, 6) == 0)
        return link_set_master(fd, ret_outer->index, master, job->network->mtu);
    r = link_delete(fd, member->port);
    if (r >= 0)
        r = link_veth_add(fd, member->port, master, "eth0", job->netns_fd, member->mac, job->network->mtu);
    FAILPOINT("network-veth-made");
    if (r >= 0)
        r = link_get(fd, member->port, ret_outer);
    return r < 0 ? r : link_get(inside, "eth0", ret_inner);
}

static int container_main(void *userdata) {
    struct port_job *job = userdata;
    struct link_info outer, inner;
    _cleanup_close_ int inside = -EBADF;
    int r;

    job->step = "entering the network namespace";
    r = link_open(job->netns_fd, &inside);
    if (r >= 0)
        r = pair_ensure(job, inside, &outer, &inner);
    if (r >= 0)
        r = port_configure(job, outer.index);
    return r < 0 ? r : inner_configure(job, inside, inner.index);
}

static int tap_main(void *userdata) {
    struct port_job *job = userdata;
    int fd = job->network->socket, master = bridge_index(job->network), r;
    _cleanup_close_ int tap = -EBADF;
    struct link_info info;

    job->step = "creating a tap";
    if (master < 0)
        return master;
    r = tap_open(job->member->port, &tap);
    if (r == -EBUSY || r == -EEXIST) {
        /* Left by a process that is about to be gone, or of another type. */
        r = link_delete(fd, job->member->port);
        if (r >= 0)
            r = tap_open(job->member->port, &tap);
    }
    FAILPOINT("network-tap-made");
    if (r >= 0)
        r = link_get(fd, job->member->port, &info);
    if (r >= 0)
        r = link_set_master(fd, info.index, master, job->network->mtu);
    if (r >= 0)
        r = port_configure(job, info.index);
    if (r >= 0)
        job->tap_fd = STEAL_FD(tap);
    return r;
}

static int rate_main(void *userdata) {
    struct port_job *job = userdata;
    struct link_info info;
    int r;

    job->step = "finding the port";
    r = link_get(job->network->socket, job->member->port, &info);
    return r < 0 ? r : rate_set(job, info.index);
}

/* One job for all: there may be thousands. */
static int rates_main(void *userdata) {
    struct port_job *job = userdata, one;
    int r = 0;

    for (size_t i = 0; i < job->network->count; i++) {
        one = (struct port_job){ .network = job->network, .member = job->network->members[i] };
        int failed = rate_main(&one);
        if (failed < 0 && failed != -ENODEV && r >= 0) { /* the others get theirs all the same */
            r = failed;
            *job = one;
        }
    }
    return r;
}

static int port_failed(const struct port_job *job, int r, struct error *error) {
    if (r == -EOPNOTSUPP && text_equal(job->step, "limiting the rate"))
        return error_set(error, ERROR_HOST_LACKS, "a limit of incoming traffic",
                         "the kernel has no token bucket filter (sch_tbf)");
    return error_errno(error, r, "%s %s", job->step, job->member->port);
}

#define FORWARDING_TIMEOUT CLOCK_SECOND

/* The kernel lets a veth pair's carrier reach the bridge some milliseconds after both ends are up, more on a
 * busy host. An ARP request in between is lost, and the next one is sent only a second later: so that is
 * waited for. A member is no worse off without it, so that running out of time is no failure. */
static int port_wait_forwarding(const struct network *network, const char *port) {
    uint64_t deadline = deadline_in(FORWARDING_TIMEOUT);
    struct link_info info;
    int r;

    while (clock_now() < deadline) {
        r = link_get(network->socket, port, &info);
        if (r < 0 || info.forwarding)
            return r;
        r = fiber_sleep(CLOCK_MILLISECOND);
        if (r < 0)
            return r;
    }
    return 0;
}

int port_attach_container(struct network *network, const struct member *member, int netns_fd,
                          struct error *error) {
    struct port_job job = { .network = network, .member = member, .netns_fd = netns_fd, .tap_fd = -EBADF };
    int r = fiber_job(container_main, &job);

    if (r >= 0) {
        job.step = "waiting for the port";
        r = port_wait_forwarding(network, member->port);
    }
    return r < 0 ? port_failed(&job, r, error) : 0;
}

int port_attach_tap(struct network *network, const struct member *member, int *ret_fd, struct error *error) {
    struct port_job job = { .network = network, .member = member, .netns_fd = -EBADF, .tap_fd = -EBADF };
    int r = fiber_job(tap_main, &job);

    if (r < 0)
        return port_failed(&job, r, error);
    *ret_fd = job.tap_fd;
    return 0;
}

int port_set_rate(struct network *network, const struct member *member, struct error *error) {
    struct port_job job = { .network = network, .member = member };
    int r = fiber_job(rate_main, &job);

    return r < 0 && r != -ENODEV ? port_failed(&job, r, error) : 0;
}

int port_set_rates(struct network *network, struct error *error) {
    struct port_job job = { .network = network };
    int r = fiber_job(rates_main, &job);

    if (r < 0 && !job.member) /* no thread to do it */
        return error_errno(error, r, "limiting rates");
    return r < 0 ? port_failed(&job, r, error) : 0;
}

struct remove_job {
    int socket;
    const char *port;
};

static int remove_main(void *userdata) {
    const struct remove_job *job = userdata;

    return link_delete(job->socket, job->port);
}

int port_remove(struct network *network, const char *port, struct error *error) {
    struct remove_job job = { network->socket, port };
    int r = fiber_job(remove_main, &job);

    return r < 0 ? error_errno(error, r, "removing %s", port) : 0;
}
