// SPDX-License-Identifier: GPL-2.0-or-later
/* Model: a message is built in a fixed buffer (every one of ours is far below its size), sent, and its answer
 * read at once; rtnetlink handles a request inside sendto, so the answer is there when it returns. A dump is
 * read into a buffer per datagram and handed to a visitor message by message. Each request has a number, and answers to
 * others are passed over: one that could not be received stays in the socket, and would be taken for the next one's. */
#include "network/link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"

#define MESSAGE_SIZE 1024
#define DUMP_SIZE 32768
#define ANSWER_SECONDS 10 /* the answer is there at once: one that is not will never come */

/* --- messages ---------------------------------------------------------------------------------------- */

struct message {
    struct nlmsghdr header;
    char body[MESSAGE_SIZE];
};

/* Not that of any request whose answer may still be in the socket. */
static uint32_t message_number(void) {
    struct timespec now;

    (void) clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t) ((uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec);
}

static void *message_begin(struct message *message, uint16_t type, uint16_t flags, size_t family_size) {
    memset(message, 0, sizeof(*message));
    message->header = (struct nlmsghdr){ .nlmsg_len = (uint32_t) NLMSG_LENGTH(family_size),
                                         .nlmsg_type = type,
                                         .nlmsg_flags = (uint16_t) (NLM_F_REQUEST | flags),
                                         .nlmsg_seq = message_number() };
    return NLMSG_DATA(&message->header);
}

/* Never beyond the buffer: too long a value leaves the message short, and the kernel refuses it. */
static struct rtattr *message_add(struct message *message, uint16_t type, const void *data, size_t size) {
    size_t start = NLMSG_ALIGN(message->header.nlmsg_len);
    struct rtattr *attribute = (struct rtattr *) ((char *) message + start);

    if (start + RTA_SPACE(size) > sizeof(*message))
        return NULL;
    attribute->rta_type = type;
    attribute->rta_len = (uint16_t) RTA_LENGTH(size);
    if (size > 0)
        memcpy(RTA_DATA(attribute), data, size);
    message->header.nlmsg_len = (uint32_t) (start + RTA_SPACE(size));
    return attribute;
}

static void message_add_text(struct message *message, uint16_t type, const char *text) {
    message_add(message, type, text, strlen(text) + 1);
}

static void message_add_u32(struct message *message, uint16_t type, uint32_t value) {
    message_add(message, type, &value, sizeof(value));
}

static void message_add_u8(struct message *message, uint16_t type, uint8_t value) {
    message_add(message, type, &value, sizeof(value));
}

static struct rtattr *message_nest(struct message *message, uint16_t type) {
    return message_add(message, type | NLA_F_NESTED, NULL, 0);
}

static void message_nest_end(struct message *message, struct rtattr *nest) {
    if (nest)
        nest->rta_len = (uint16_t) ((char *) message + message->header.nlmsg_len - (char *) nest);
}

/* --- questions and answers --------------------------------------------------------------------------- */

static int message_send(int fd, struct message *message) {
    struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

    for (;;) {
        ssize_t sent = sendto(fd, message, message->header.nlmsg_len, 0, (struct sockaddr *) &kernel,
                              sizeof(kernel));
        if (sent >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

static long answer_receive(int fd, void *data, size_t size) {
    for (;;) {
        ssize_t got = recv(fd, data, size, 0);
        if (got >= 0)
            return got;
        if (errno != EINTR)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
}

/* Sends and waits for the acknowledgement. */
static int message_run(int fd, struct message *message) {
    char answer[MESSAGE_SIZE + 256] __attribute__((aligned(NLMSG_ALIGNTO)));
    const struct nlmsghdr *header = (const struct nlmsghdr *) answer;
    long got;
    int r;

    message->header.nlmsg_flags |= NLM_F_ACK;
    r = message_send(fd, message);
    if (r < 0)
        return r;
    do {
        got = answer_receive(fd, answer, sizeof(answer));
        if (got < 0)
            return (int) got;
    } while ((size_t) got >= sizeof(*header) && header->nlmsg_seq != message->header.nlmsg_seq);
    if ((size_t) got < NLMSG_LENGTH(sizeof(struct nlmsgerr)) || header->nlmsg_type != NLMSG_ERROR)
        return -EPROTO;
    return ((const struct nlmsgerr *) NLMSG_DATA(header))->error;
}

typedef int (*message_visitor)(const struct nlmsghdr *header, void *userdata);

/* Visits each message of the answer to request `number`. A visit that fails ends the visits but not the answer: *failed gets
 * why. Returns 1 at its end, 0 if more is to come, negative errno if that is the answer. */
static int answer_visit(const char *data, size_t size, uint32_t number, message_visitor visit, void *userdata, int *failed) {
    const struct nlmsghdr *header = (const struct nlmsghdr *) data;
    int r;

    for (; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
        if (header->nlmsg_seq != number)
            continue;
        if (header->nlmsg_type == NLMSG_DONE)
            return 1;
        if (header->nlmsg_type == NLMSG_ERROR) {
            r = ((const struct nlmsgerr *) NLMSG_DATA(header))->error;
            return r < 0 ? r : 1;
        }
        if (*failed >= 0)
            *failed = visit(header, userdata);
        if (!(header->nlmsg_flags & NLM_F_MULTI))
            return 1;
    }
    return 0;
}

/* Reads to the end even if a visit fails: the socket is used again. */
static int message_ask(int fd, struct message *message, char *data, message_visitor visit, void *userdata) {
    int r = message_send(fd, message), failed = 0;

    while (r == 0) {
        long got = answer_receive(fd, data, DUMP_SIZE);
        r = got < 0 ? (int) got
                    : answer_visit(data, (size_t) got, message->header.nlmsg_seq, visit, userdata, &failed);
    }
    return r < 0 ? r : failed;
}

static bool answer_ends(const char *data, size_t size) {
    const struct nlmsghdr *header = (const struct nlmsghdr *) data;

    for (; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size))
        if (header->nlmsg_type == NLMSG_DONE)
            return true;
    return false;
}

/* Reads what is left of a dump that was given up. */
static int dump_finish(int fd, char *data) {
    long got;

    do {
        got = answer_receive(fd, data, DUMP_SIZE);
        if (got < 0)
            return (int) got;
    } while (!answer_ends(data, (size_t) got));
    return 0;
}

static int message_query(int fd, struct message *message, message_visitor visit, void *userdata) {
    _cleanup_free_ char *data = malloc(DUMP_SIZE);
    int r = data ? message_ask(fd, message, data, visit, userdata) : -ENOMEM;

    /* A socket has one dump at a time, and one of which a part could not be received is still under way. */
    if (r == -EBUSY && (message->header.nlmsg_flags & NLM_F_DUMP)) {
        r = dump_finish(fd, data);
        if (r >= 0)
            r = message_ask(fd, message, data, visit, userdata);
    }
    return r;
}

static int socket_open(int *ret_fd) {
    const struct timeval limit = { .tv_sec = ANSWER_SECONDS };
    _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
        return -errno;
    *ret_fd = STEAL_FD(fd);
    return 0;
}

int link_open(int netns_fd, int *ret_fd) {
    _cleanup_close_ int own = -EBADF;
    int r;

    if (netns_fd < 0)
        return socket_open(ret_fd);
    own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -errno;
    if (setns(netns_fd, CLONE_NEWNET) < 0)
        return -errno;
    r = socket_open(ret_fd);
    /* A thread that stayed in a foreign namespace would configure the wrong host from here on. Instances run on. */
    if (setns(own, CLONE_NEWNET) < 0) {
        log_error("a thread cannot return from an instance's network: %s; ending", strerror(errno));
        _exit(EXIT_FAILURE);
    }
    return r;
}

/* --- links ------------------------------------------------------------------------------------------- */

static const char *attribute_text(const struct rtattr *attribute) {
    size_t size = RTA_PAYLOAD(attribute);
    const char *text = RTA_DATA(attribute);

    return size > 0 && text[size - 1] == '\0' ? text : "";
}

static uint32_t attribute_u32(const struct rtattr *attribute) {
    uint32_t value = 0;

    if (RTA_PAYLOAD(attribute) >= sizeof(value))
        memcpy(&value, RTA_DATA(attribute), sizeof(value));
    return value;
}

static void link_read_slave(const struct rtattr *nest, struct link_info *ret) {
    const struct rtattr *attribute = RTA_DATA(nest);
    size_t size = RTA_PAYLOAD(nest);

    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size))
        if (attribute->rta_type == IFLA_BRPORT_STATE && RTA_PAYLOAD(attribute) >= 1)
            ret->forwarding = *(const uint8_t *) RTA_DATA(attribute) == BR_STATE_FORWARDING;
}

static void link_read_kind(const struct rtattr *nest, struct link_info *ret) {
    const struct rtattr *attribute = RTA_DATA(nest);
    size_t size = RTA_PAYLOAD(nest);

    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size)) {
        unsigned type = attribute->rta_type & NLA_TYPE_MASK;

        if (type == IFLA_INFO_KIND)
            snprintf(ret->kind, sizeof(ret->kind), "%s", attribute_text(attribute));
        else if (type == IFLA_INFO_SLAVE_DATA)
            link_read_slave(attribute, ret);
    }
}

static void link_read_attribute(const struct rtattr *attribute, struct link_info *ret) {
    switch (attribute->rta_type & NLA_TYPE_MASK) {
    case IFLA_IFNAME:
        snprintf(ret->name, sizeof(ret->name), "%s", attribute_text(attribute));
        break;
    case IFLA_LINK:
        ret->peer = (int) attribute_u32(attribute);
        break;
    case IFLA_MASTER:
        ret->master = (int) attribute_u32(attribute);
        break;
    case IFLA_MTU:
        ret->mtu = attribute_u32(attribute);
        break;
    case IFLA_ADDRESS:
        if (RTA_PAYLOAD(attribute) == sizeof(ret->mac))
            memcpy(ret->mac, RTA_DATA(attribute), sizeof(ret->mac));
        break;
    case IFLA_LINKINFO:
        link_read_kind(attribute, ret);
        break;
    default:
        break;
    }
}

static int link_read(const struct nlmsghdr *header, struct link_info *ret) {
    const struct ifinfomsg *info = NLMSG_DATA(header);
    const struct rtattr *attribute = IFLA_RTA(info);
    size_t size = IFLA_PAYLOAD(header);

    if (header->nlmsg_type != RTM_NEWLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
        return -EPROTO;
    *ret = (struct link_info){ .index = info->ifi_index, .up = (info->ifi_flags & IFF_UP) != 0 };
    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size))
        link_read_attribute(attribute, ret);
    return 0;
}

static int link_visit_one(const struct nlmsghdr *header, void *userdata) {
    return link_read(header, userdata);
}

int link_get(int fd, const char *name, struct link_info *ret) {
    struct message message;

    if (strlen(name) >= IFNAMSIZ)
        return -ENODEV;
    message_begin(&message, RTM_GETLINK, 0, sizeof(struct ifinfomsg));
    message_add_text(&message, IFLA_IFNAME, name);
    return message_query(fd, &message, link_visit_one, ret);
}

struct link_array {
    struct link_info *items;
    size_t count;
};

static int link_visit_each(const struct nlmsghdr *header, void *userdata) {
    struct link_array *array = userdata;
    struct link_info *items = reallocarray(array->items, array->count + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    array->items = items;
    return link_read(header, &items[array->count++]);
}

int link_list(int fd, struct link_info **ret_links, size_t *ret_count) {
    struct link_array array = { 0 };
    struct message message;
    int r;

    message_begin(&message, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg));
    r = message_query(fd, &message, link_visit_each, &array);
    if (r < 0) {
        free(array.items);
        return r;
    }
    *ret_links = array.items;
    *ret_count = array.count;
    return 0;
}

/* Members of an AF_INET6 link: no address by itself. */
static void message_add_no_ipv6(struct message *message) {
    struct rtattr *spec = message_nest(message, IFLA_AF_SPEC), *family = message_nest(message, AF_INET6);

    message_add_u8(message, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    message_nest_end(message, family);
    message_nest_end(message, spec);
}

int link_bridge_add(int fd, const char *name, const uint8_t mac[6], uint32_t mtu) {
    struct message message;
    struct rtattr *info, *data;

    message_begin(&message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
    message_add_text(&message, IFLA_IFNAME, name);
    message_add(&message, IFLA_ADDRESS, mac, 6);
    message_add_u32(&message, IFLA_MTU, mtu);
    info = message_nest(&message, IFLA_LINKINFO);
    message_add_text(&message, IFLA_INFO_KIND, "bridge");
    data = message_nest(&message, IFLA_INFO_DATA);
    message_add_u32(&message, IFLA_BR_STP_STATE, 0);
    message_add_u32(&message, IFLA_BR_FORWARD_DELAY, 0);
    message_add_u8(&message, IFLA_BR_MCAST_SNOOPING, 0);
    message_nest_end(&message, data);
    message_nest_end(&message, info);
    return message_run(fd, &message);
}

int link_veth_add(int fd, const char *name, int master, const char *inner, int netns_fd, const uint8_t mac[6],
                  uint32_t mtu) {
    struct ifinfomsg peer_header = { 0 };
    struct message message;
    struct rtattr *info, *data, *peer;

    message_begin(&message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
    message_add_text(&message, IFLA_IFNAME, name);
    message_add_u32(&message, IFLA_MTU, mtu);
    message_add_u32(&message, IFLA_MASTER, (uint32_t) master);
    info = message_nest(&message, IFLA_LINKINFO);
    message_add_text(&message, IFLA_INFO_KIND, "veth");
    data = message_nest(&message, IFLA_INFO_DATA);
    peer = message_add(&message, VETH_INFO_PEER | NLA_F_NESTED, &peer_header, sizeof(peer_header));
    message_add_text(&message, IFLA_IFNAME, inner);
    message_add(&message, IFLA_ADDRESS, mac, 6);
    message_add_u32(&message, IFLA_MTU, mtu);
    message_add_u32(&message, IFLA_NET_NS_FD, (uint32_t) netns_fd);
    message_nest_end(&message, peer);
    message_nest_end(&message, data);
    message_nest_end(&message, info);
    return message_run(fd, &message);
}

static void link_change(struct message *message, int index) {
    struct ifinfomsg *info = message_begin(message, RTM_NEWLINK, 0, sizeof(*info));

    info->ifi_index = index;
}

int link_set_master(int fd, int index, int master, uint32_t mtu) {
    struct message message;

    link_change(&message, index);
    message_add_u32(&message, IFLA_MTU, mtu);
    message_add_u32(&message, IFLA_MASTER, (uint32_t) master);
    return message_run(fd, &message);
}

int link_set_no_ipv6(int fd, int index) {
    struct message message;

    link_change(&message, index);
    message_add_no_ipv6(&message);
    return message_run(fd, &message);
}

int link_set_hairpin(int fd, int index) {
    struct message message;
    struct rtattr *info, *data;

    link_change(&message, index);
    info = message_nest(&message, IFLA_LINKINFO);
    message_add_text(&message, IFLA_INFO_SLAVE_KIND, "bridge");
    data = message_nest(&message, IFLA_INFO_SLAVE_DATA);
    message_add_u8(&message, IFLA_BRPORT_MODE, 1);
    message_nest_end(&message, data);
    message_nest_end(&message, info);
    return message_run(fd, &message);
}

int link_set_up(int fd, int index) {
    struct message message;
    struct ifinfomsg *info = message_begin(&message, RTM_NEWLINK, 0, sizeof(*info));

    info->ifi_index = index;
    info->ifi_flags = IFF_UP;
    info->ifi_change = IFF_UP;
    return message_run(fd, &message);
}

int link_delete(int fd, const char *name) {
    struct message message;
    int r;

    message_begin(&message, RTM_DELLINK, 0, sizeof(struct ifinfomsg));
    message_add_text(&message, IFLA_IFNAME, name);
    r = message_run(fd, &message);
    return r == -ENODEV ? 0 : r;
}

/* --- addresses and routes ---------------------------------------------------------------------------- */

int link_address_add(int fd, int index, uint32_t address, unsigned prefix) {
    struct message message;
    struct ifaddrmsg *info = message_begin(&message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE,
                                           sizeof(struct ifaddrmsg));
    uint32_t wire = htonl(address), broadcast = htonl(address | ~subnet_mask(prefix));
    int r;

    info->ifa_family = AF_INET;
    info->ifa_prefixlen = (uint8_t) prefix;
    info->ifa_index = (uint32_t) index;
    message_add(&message, IFA_LOCAL, &wire, sizeof(wire));
    message_add(&message, IFA_ADDRESS, &wire, sizeof(wire));
    message_add(&message, IFA_BROADCAST, &broadcast, sizeof(broadcast));
    r = message_run(fd, &message);
    return r == -EEXIST ? 0 : r;
}

int link_default_route_add(int fd, int index, uint32_t gateway) {
    struct message message;
    struct rtmsg *info = message_begin(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE,
                                       sizeof(struct rtmsg));
    uint32_t wire = htonl(gateway);

    *info = (struct rtmsg){ .rtm_family = AF_INET,
                            .rtm_table = RT_TABLE_MAIN,
                            .rtm_protocol = RTPROT_STATIC,
                            .rtm_scope = RT_SCOPE_UNIVERSE,
                            .rtm_type = RTN_UNICAST };
    message_add(&message, RTA_GATEWAY, &wire, sizeof(wire));
    message_add_u32(&message, RTA_OIF, (uint32_t) index);
    return message_run(fd, &message);
}

struct prefix_array {
    struct link_prefix *items;
    int *indexes;
    size_t count;
    int except;
};

static int prefix_add(struct prefix_array *array, uint32_t address, unsigned prefix, int index,
                      bool is_address) {
    struct link_prefix *items;
    int *indexes;

    if (index == array->except || prefix == 0 || prefix > 32)
        return 0;
    items = reallocarray(array->items, array->count + 1, sizeof(*items));
    if (!items)
        return -ENOMEM;
    array->items = items;
    indexes = reallocarray(array->indexes, array->count + 1, sizeof(*indexes));
    if (!indexes)
        return -ENOMEM;
    array->indexes = indexes;
    items[array->count] = (struct link_prefix){ .subnet = { address & subnet_mask(prefix), prefix },
                                                .address = is_address };
    indexes[array->count++] = index;
    return 0;
}

static int prefix_visit_address(const struct nlmsghdr *header, void *userdata) {
    const struct ifaddrmsg *info = NLMSG_DATA(header);
    const struct rtattr *attribute = IFA_RTA(info);
    size_t size = IFA_PAYLOAD(header);

    if (header->nlmsg_type != RTM_NEWADDR || info->ifa_family != AF_INET)
        return 0;
    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size))
        if (attribute->rta_type == IFA_ADDRESS)
            return prefix_add(userdata, ntohl(attribute_u32(attribute)), info->ifa_prefixlen,
                              (int) info->ifa_index, true);
    return 0;
}

static int prefix_visit_route(const struct nlmsghdr *header, void *userdata) {
    const struct rtmsg *info = NLMSG_DATA(header);
    const struct rtattr *attribute = RTM_RTA(info);
    size_t size = RTM_PAYLOAD(header);
    uint32_t address = 0;
    int index = 0;

    if (header->nlmsg_type != RTM_NEWROUTE || info->rtm_family != AF_INET)
        return 0;
    if (info->rtm_type != RTN_UNICAST && info->rtm_type != RTN_LOCAL)
        return 0;
    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size)) {
        if (attribute->rta_type == RTA_DST)
            address = ntohl(attribute_u32(attribute));
        else if (attribute->rta_type == RTA_OIF)
            index = (int) attribute_u32(attribute);
    }
    return prefix_add(userdata, address, info->rtm_dst_len, index, false);
}

static int prefixes_read(int fd, struct prefix_array *array) {
    struct message message;
    struct ifaddrmsg *addresses = message_begin(&message, RTM_GETADDR, NLM_F_DUMP, sizeof(*addresses));
    struct rtmsg *routes;
    int r;

    addresses->ifa_family = AF_INET;
    r = message_query(fd, &message, prefix_visit_address, array);
    if (r < 0)
        return r;
    routes = message_begin(&message, RTM_GETROUTE, NLM_F_DUMP, sizeof(*routes));
    routes->rtm_family = AF_INET;
    return message_query(fd, &message, prefix_visit_route, array);
}

int link_prefixes(int fd, int except, struct link_prefix **ret, size_t *ret_count) {
    struct prefix_array array = { .except = except ? except : -1 };
    _cleanup_free_ struct link_info *links = NULL;
    size_t links_count = 0;
    int r = prefixes_read(fd, &array);

    if (r >= 0)
        r = link_list(fd, &links, &links_count);
    for (size_t i = 0; r >= 0 && i < array.count; i++)
        for (size_t k = 0; k < links_count; k++)
            if (links[k].index == array.indexes[i])
                memcpy(array.items[i].interface, links[k].name, IFNAMSIZ);
    free(array.indexes);
    if (r < 0) {
        free(array.items);
        return r;
    }
    *ret = array.items;
    *ret_count = array.count;
    return 0;
}

static int default_visit(const struct nlmsghdr *header, void *userdata) {
    const struct rtmsg *info = NLMSG_DATA(header);
    const struct rtattr *attribute = RTM_RTA(info);
    size_t size = RTM_PAYLOAD(header);
    int *index = userdata;

    if (header->nlmsg_type != RTM_NEWROUTE || info->rtm_family != AF_INET || info->rtm_dst_len != 0 ||
        info->rtm_type != RTN_UNICAST || info->rtm_table != RT_TABLE_MAIN || *index)
        return 0;
    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size))
        if (attribute->rta_type == RTA_OIF)
            *index = (int) attribute_u32(attribute);
    return 0;
}

int link_default(int fd) {
    struct message message;
    struct rtmsg *info = message_begin(&message, RTM_GETROUTE, NLM_F_DUMP, sizeof(*info));
    int index = 0;

    info->rtm_family = AF_INET;
    (void) message_query(fd, &message, default_visit, &index);
    return index;
}

/* --- rates ------------------------------------------------------------------------------------------- */

/* A bucket of 10 ms, at least 64 KiB so that one offloaded packet fits, and a queue of 50 ms behind it. */
static void message_add_bucket(struct message *message, uint64_t rate) {
    uint64_t burst = rate / 100 < 65536 ? 65536 : rate / 100, queue = burst + rate / 20;
    struct tc_tbf_qopt options = {
        .rate = { .rate = rate > UINT32_MAX ? UINT32_MAX : (uint32_t) rate, .linklayer = 1 },
        .limit = queue > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t) queue,
    };
    struct rtattr *nest;

    nest = message_nest(message, TCA_OPTIONS);
    message_add(message, TCA_TBF_PARMS, &options, sizeof(options));
    message_add_u32(message, TCA_TBF_BURST, burst > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t) burst);
    if (rate > UINT32_MAX)
        message_add(message, TCA_TBF_RATE64, &rate, sizeof(rate));
    message_nest_end(message, nest);
}

int link_set_rate(int fd, int index, uint64_t rate) {
    uint16_t type = rate ? RTM_NEWQDISC : RTM_DELQDISC;
    struct message message;
    struct tcmsg *info = message_begin(&message, type, rate ? NLM_F_CREATE | NLM_F_REPLACE : 0,
                                       sizeof(struct tcmsg));
    int r;

    info->tcm_family = AF_UNSPEC;
    info->tcm_ifindex = index;
    info->tcm_parent = TC_H_ROOT;
    info->tcm_handle = TC_H_MAKE(1U << 16, 0);
    message_add_text(&message, TCA_KIND, "tbf");
    if (rate)
        message_add_bucket(&message, rate);
    r = message_run(fd, &message);
    if (rate)
        return r == -ENOENT ? -EOPNOTSUPP : r;
    /* There was no limit, or what stands there is somebody else's. */
    return r == -ENOENT || r == -EINVAL || r == -EOPNOTSUPP ? 0 : r;
}

/* --- taps -------------------------------------------------------------------------------------------- */

int tap_open(const char *name, int *ret_fd) {
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq request = { .ifr_flags = (short) (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL) };

    if (fd < 0)
        return -errno;
    if (strlen(name) >= IFNAMSIZ)
        return -EINVAL;
    memcpy(request.ifr_name, name, strlen(name) + 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        return -errno;
    *ret_fd = STEAL_FD(fd);
    return 0;
}
