// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* One rtnetlink request under construction, with room for the few attributes used here. */
struct message {
    struct nlmsghdr header;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
        struct rtmsg route;
    };
    uint8_t attributes[256];
};

struct address {
    int family;
    uint8_t prefix;
    uint8_t bytes[16];
    size_t size;
};

static void message_add(struct message *message, uint16_t type, const void *data, size_t size) {
    struct rtattr *attribute = (void *) ((uint8_t *) message + NLMSG_ALIGN(message->header.nlmsg_len));

    attribute->rta_type = type;
    attribute->rta_len = (unsigned short) RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), data, size);
    message->header.nlmsg_len =
        (uint32_t) (NLMSG_ALIGN(message->header.nlmsg_len) + RTA_ALIGN(RTA_LENGTH(size)));
}

/* Sends and waits for the kernel's answer, which for these requests comes at once. */
static int message_send(struct message *message) {
    _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    union {
        struct nlmsghdr header;
        uint8_t bytes[1024];
    } answer;
    const struct nlmsgerr *error = NLMSG_DATA(&answer.header);
    ssize_t size;

    if (fd < 0)
        return -errno;
    message->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    if (send(fd, message, message->header.nlmsg_len, 0) < 0)
        return -errno;
    size = recv(fd, &answer, sizeof(answer), 0);
    if (size < 0)
        return -errno;
    if ((size_t) size < NLMSG_LENGTH(sizeof(*error)) || answer.header.nlmsg_type != NLMSG_ERROR)
        return -EPROTO;
    return error->error;
}

/* "10.1.2.3/24" or "fd00::1/64"; without a prefix length the whole address counts. */
static int address_parse(const char *text, struct address *ret) {
    char copy[INET6_ADDRSTRLEN + 8];
    char *slash;
    uint64_t prefix;

    if (strlen(text) >= sizeof(copy))
        return -EINVAL;
    strcpy(copy, text);
    slash = strchr(copy, '/');
    if (slash)
        *slash++ = '\0';
    ret->family = strchr(copy, ':') ? AF_INET6 : AF_INET;
    ret->size = ret->family == AF_INET6 ? 16 : 4;
    if (inet_pton(ret->family, copy, ret->bytes) != 1)
        return -EINVAL;
    prefix = ret->size * 8;
    if (slash && parse_number(slash, ret->size * 8, &prefix) < 0)
        return -EINVAL;
    ret->prefix = (uint8_t) prefix;
    return 0;
}

static int link_up(unsigned index, uint32_t mtu) {
    struct message message = {
        .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_NEWLINK },
        .link = { .ifi_index = (int) index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP },
    };

    if (mtu > 0)
        message_add(&message, IFLA_MTU, &mtu, sizeof(mtu));
    return message_send(&message);
}

static int address_add(unsigned index, const struct address *address) {
    struct message message = {
        .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                    .nlmsg_type = RTM_NEWADDR,
                    .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE },
        .address = { .ifa_family = (uint8_t) address->family,
                     .ifa_prefixlen = address->prefix,
                     .ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0,
                     .ifa_index = index },
    };

    message_add(&message, IFA_LOCAL, address->bytes, address->size);
    message_add(&message, IFA_ADDRESS, address->bytes, address->size);
    if (address->family == AF_INET && address->prefix < 31) {
        uint32_t broadcast, mask = htonl(address->prefix ? ~0u << (32 - address->prefix) : 0);
        memcpy(&broadcast, address->bytes, sizeof(broadcast));
        broadcast |= ~mask;
        message_add(&message, IFA_BROADCAST, &broadcast, sizeof(broadcast));
    }
    return message_send(&message);
}

/* On-link, because the gateway of a /32 lies outside its own subnet. */
static int default_route_add(unsigned index, const struct address *gateway) {
    uint32_t output = index;
    struct message message = {
        .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                    .nlmsg_type = RTM_NEWROUTE,
                    .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE },
        .route = { .rtm_family = (uint8_t) gateway->family,
                   .rtm_table = RT_TABLE_MAIN,
                   .rtm_protocol = RTPROT_STATIC,
                   .rtm_scope = RT_SCOPE_UNIVERSE,
                   .rtm_type = RTN_UNICAST,
                   .rtm_flags = RTNH_F_ONLINK },
    };

    message_add(&message, RTA_GATEWAY, gateway->bytes, gateway->size);
    message_add(&message, RTA_OIF, &output, sizeof(output));
    return message_send(&message);
}

int network_up_loopback(struct reason *reason) {
    unsigned index = if_nametoindex("lo");
    int r = index ? link_up(index, 0) : -ENODEV;

    return r < 0 ? reason_set(reason, r, "cannot bring up the loopback interface") : 0;
}

static bool has_mac(int fd, const char *name, const char *mac) {
    struct ifreq request = { 0 };
    const uint8_t *bytes = (const uint8_t *) request.ifr_hwaddr.sa_data;
    char text[18];

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return false;
    snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3],
             bytes[4], bytes[5]);
    return strcasecmp(text, mac) == 0;
}

static unsigned interface_find(const char *mac) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct if_nameindex *interfaces = if_nameindex();
    unsigned index = 0;

    for (struct if_nameindex *i = interfaces; fd >= 0 && i && i->if_index && !index; i++) {
        if (has_mac(fd, i->if_name, mac))
            index = i->if_index;
    }
    if (interfaces)
        if_freenameindex(interfaces);
    return index;
}

int network_configure(const struct request_network *request, struct reason *reason) {
    unsigned index = interface_find(request->mac);
    struct address address, gateway;
    int r;

    if (!index)
        return reason_set(reason, -EINVAL, "no network interface has the address %s", request->mac);
    if (request->address && address_parse(request->address, &address) < 0)
        return reason_set(reason, -EINVAL, "'%s' is no address", request->address);
    if (request->gateway && address_parse(request->gateway, &gateway) < 0)
        return reason_set(reason, -EINVAL, "'%s' is no gateway address", request->gateway);
    r = link_up(index, (uint32_t) request->mtu);
    if (r < 0)
        return reason_set(reason, r, "cannot bring up interface %s", request->mac);
    r = request->address ? address_add(index, &address) : 0;
    if (r < 0)
        return reason_set(reason, r, "cannot give %s to interface %s", request->address, request->mac);
    r = request->gateway ? default_route_add(index, &gateway) : 0;
    if (r < 0)
        return reason_set(reason, r, "cannot route through %s", request->gateway);
    return 0;
}

static unsigned prefix_length(const uint8_t *mask, size_t size) {
    unsigned bits = 0;

    for (size_t i = 0; i < size; i++)
        bits += (unsigned) __builtin_popcount(mask[i]);
    return bits;
}

static char *address_text(const struct ifaddrs *interface) {
    const struct sockaddr_in *v4 = (const void *) interface->ifa_addr;
    const struct sockaddr_in6 *v6 = (const void *) interface->ifa_addr;
    const struct sockaddr_in *mask4 = (const void *) interface->ifa_netmask;
    const struct sockaddr_in6 *mask6 = (const void *) interface->ifa_netmask;
    char text[INET6_ADDRSTRLEN], *result = NULL;
    unsigned prefix = 0;

    if (!interface->ifa_addr || !interface->ifa_netmask || interface->ifa_flags & IFF_LOOPBACK)
        return NULL;
    if (v4->sin_family == AF_INET) {
        inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
        prefix = prefix_length((const uint8_t *) &mask4->sin_addr, 4);
    } else if (v6->sin6_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) {
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
        prefix = prefix_length((const uint8_t *) &mask6->sin6_addr, 16);
    } else
        return NULL;
    return asprintf(&result, "%s/%u", text, prefix) < 0 ? NULL : result;
}

size_t network_addresses(char **ret, size_t limit) {
    struct ifaddrs *interfaces = NULL;
    size_t count = 0;

    if (getifaddrs(&interfaces) < 0)
        return 0;
    for (struct ifaddrs *i = interfaces; i && count < limit; i = i->ifa_next) {
        char *text = address_text(i);
        if (text)
            ret[count++] = text;
    }
    freeifaddrs(interfaces);
    return count;
}
