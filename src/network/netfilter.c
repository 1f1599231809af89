// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/netfilter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

#define TABLE "polder"
#define BUFFER_SIZE 65536
#define ALIGN(size) (((size) + 3U) & ~(size_t) 3)

struct request {
    struct nlmsghdr header;
    struct nfgenmsg family;
    char attributes[512];
};

static int netfilter_open(int flags, int *ret_fd) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | flags, NETLINK_NETFILTER);

    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static void request_init(struct request *request, unsigned subsystem, unsigned type, unsigned flags,
                         uint8_t family) {
    *request = (struct request){
        .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct nfgenmsg)),
                    .nlmsg_type = (uint16_t) (subsystem << 8 | type),
                    .nlmsg_flags = (uint16_t) (NLM_F_REQUEST | flags) },
        .family = { .nfgen_family = family, .version = NFNETLINK_V0 },
    };
}

/* Copies an attribute whole. */
static void request_add(struct request *request, const struct nlattr *attribute) {
    size_t at = ALIGN(request->header.nlmsg_len);

    if (at + ALIGN(attribute->nla_len) > sizeof(*request))
        return;
    memcpy((char *) request + at, attribute, attribute->nla_len);
    request->header.nlmsg_len = (uint32_t) (at + ALIGN(attribute->nla_len));
}

static int request_send(int fd, const struct request *request) {
    return send(fd, request, request->header.nlmsg_len, 0) < 0 ? -errno : 0;
}

/* The attribute of this type among `size` bytes of attributes, or NULL. */
static const struct nlattr *attribute_find(const void *data, size_t size, unsigned type) {
    const char *at = data, *end = at + size;

    while ((size_t) (end - at) >= sizeof(struct nlattr)) {
        const struct nlattr *attribute = (const struct nlattr *) at;

        if (attribute->nla_len < sizeof(*attribute) || attribute->nla_len > end - at)
            return NULL;
        if ((attribute->nla_type & NLA_TYPE_MASK) == type)
            return attribute;
        if (ALIGN(attribute->nla_len) >= (size_t) (end - at))
            return NULL;
        at += ALIGN(attribute->nla_len);
    }
    return NULL;
}

static const void *attribute_data(const struct nlattr *attribute) {
    return (const char *) attribute + NLA_HDRLEN;
}

static size_t attribute_size(const struct nlattr *attribute) {
    return attribute->nla_len - NLA_HDRLEN;
}

static const struct nlattr *nested_find(const struct nlattr *nest, unsigned type, size_t least) {
    const struct nlattr *found = nest ? attribute_find(attribute_data(nest), attribute_size(nest), type)
                                      : NULL;

    return found && attribute_size(found) >= least ? found : NULL;
}

static const struct nlattr *message_find(const struct nlmsghdr *header, unsigned type) {
    const char *data = (const char *) NLMSG_DATA(header) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
    size_t start = (size_t) (data - (const char *) header);

    return header->nlmsg_len > start ? attribute_find(data, header->nlmsg_len - start, type) : NULL;
}

/* --- flows ------------------------------------------------------------------------------------------- */

static bool flow_is_wanted(const struct nlattr *tuple, const uint16_t *ports, size_t count) {
    const struct nlattr *protocol = nested_find(tuple, CTA_TUPLE_PROTO, 0);
    const struct nlattr *number = nested_find(protocol, CTA_PROTO_NUM, 1);
    const struct nlattr *target = nested_find(protocol, CTA_PROTO_DST_PORT, 2);
    uint16_t port;

    if (!number || !target || *(const uint8_t *) attribute_data(number) != IPPROTO_UDP)
        return false;
    memcpy(&port, attribute_data(target), sizeof(port));
    for (size_t i = 0; i < count; i++)
        if (ports[i] == ntohs(port))
            return true;
    return false;
}

/* Its answer is not waited for: a flow that ended meanwhile is as good. */
static void flow_forget(int fd, const struct nlmsghdr *header, const struct nlattr *tuple) {
    const struct nlattr *zone = message_find(header, CTA_ZONE), *id = message_find(header, CTA_ID);
    struct request request;

    request_init(&request, NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE, 0, AF_INET);
    request_add(&request, tuple);
    if (zone)
        request_add(&request, zone);
    if (id)
        request_add(&request, id);
    (void) request_send(fd, &request);
}

/* Returns 1 at the end of the dump. */
static int flows_visit(const char *data, size_t size, int fd, const uint16_t *ports, size_t count) {
    const struct nlmsghdr *header = (const struct nlmsghdr *) data;

    for (; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
        const struct nlattr *tuple;

        if (header->nlmsg_type == NLMSG_DONE)
            return 1;
        if (header->nlmsg_type == NLMSG_ERROR)
            return ((const struct nlmsgerr *) NLMSG_DATA(header))->error;
        tuple = message_find(header, CTA_TUPLE_ORIG);
        if (tuple && flow_is_wanted(tuple, ports, count))
            flow_forget(fd, header, tuple);
    }
    return 0;
}

int netfilter_forget_udp(const uint16_t *ports, size_t count) {
    _cleanup_close_ int dump = -EBADF, change = -EBADF;
    _cleanup_free_ char *data = malloc(BUFFER_SIZE);
    struct request request;
    int r = data ? netfilter_open(0, &dump) : -ENOMEM;

    if (r >= 0)
        r = netfilter_open(0, &change);
    if (r < 0)
        return r;
    request_init(&request, NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET, NLM_F_DUMP, AF_INET);
    r = request_send(dump, &request);
    while (r == 0) {
        ssize_t size = recv(dump, data, BUFFER_SIZE, 0);

        if (size < 0 && errno == EINTR)
            continue;
        r = size < 0 ? -errno : flows_visit(data, (size_t) size, change, ports, count);
    }
    return r < 0 ? r : 0;
}

/* --- tables ------------------------------------------------------------------------------------------ */

static int has_table(int fd, uint8_t family) {
    struct {
        struct nlattr header;
        char name[8];
    } name = { .header = { .nla_len = NLA_HDRLEN + sizeof(TABLE), .nla_type = NFTA_TABLE_NAME },
               .name = TABLE };
    char answer[4096] __attribute__((aligned(4)));
    const struct nlmsghdr *header = (const struct nlmsghdr *) answer;
    struct request request;
    ssize_t size;
    int r;

    request_init(&request, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, 0, family);
    request_add(&request, &name.header);
    r = request_send(fd, &request);
    if (r < 0)
        return r;
    size = recv(fd, answer, sizeof(answer), 0);
    if (size < 0)
        return -errno;
    if (!NLMSG_OK(header, (size_t) size))
        return -EPROTO;
    if (header->nlmsg_type != NLMSG_ERROR)
        return 1;
    r = ((const struct nlmsgerr *) NLMSG_DATA(header))->error;
    return r == -ENOENT ? 0 : r;
}

int netfilter_has_tables(void) {
    _cleanup_close_ int fd = -EBADF;
    int r = netfilter_open(0, &fd);

    if (r >= 0)
        r = has_table(fd, NFPROTO_BRIDGE);
    return r > 0 ? has_table(fd, NFPROTO_INET) : r;
}

int netfilter_watch_open(int *ret_fd) {
    _cleanup_close_ int fd = -EBADF;
    struct sockaddr_nl address = { .nl_family = AF_NETLINK };
    int group = NFNLGRP_NFTABLES, r = netfilter_open(SOCK_NONBLOCK, &fd);

    if (r < 0)
        return r;
    if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
        setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
        return -errno;
    *ret_fd = STEAL_FD(fd);
    return 0;
}

static bool is_our_end(const struct nlmsghdr *header) {
    const struct nlattr *name;

    if (header->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE))
        return false;
    name = message_find(header, NFTA_TABLE_NAME);
    return name && attribute_size(name) == sizeof(TABLE) &&
           memcmp(attribute_data(name), TABLE, sizeof(TABLE)) == 0;
}

bool netfilter_watch_read(int fd) {
    char data[8192] __attribute__((aligned(4)));
    bool found = false;

    for (;;) {
        ssize_t size = recv(fd, data, sizeof(data), MSG_TRUNC);
        const struct nlmsghdr *header = (const struct nlmsghdr *) data;
        size_t rest;

        /* Messages were lost: it may have been among them. */
        if ((size < 0 && errno == ENOBUFS) || size > (ssize_t) sizeof(data)) {
            found = true;
            continue;
        }
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return found;
        for (rest = (size_t) size; NLMSG_OK(header, rest); header = NLMSG_NEXT(header, rest))
            found = found || is_our_end(header);
    }
}
