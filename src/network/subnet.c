// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/subnet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

uint32_t subnet_mask(unsigned prefix) {
    return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

bool subnet_overlaps(struct subnet a, struct subnet b) {
    uint32_t mask = subnet_mask(a.prefix < b.prefix ? a.prefix : b.prefix);

    return (a.address & mask) == (b.address & mask);
}

bool subnet_has(struct subnet subnet, uint32_t address) {
    return (address & subnet_mask(subnet.prefix)) == subnet.address;
}

uint32_t subnet_gateway(struct subnet subnet) {
    return subnet.address + 1;
}

bool subnet_is_member(struct subnet subnet, uint32_t address) {
    uint32_t broadcast = subnet.address | ~subnet_mask(subnet.prefix);

    return subnet_has(subnet, address) && address != subnet.address && address != broadcast &&
           address != subnet_gateway(subnet);
}

int address_parse(const char *text, uint32_t *ret) {
    struct in_addr address;

    if (!text || inet_pton(AF_INET, text, &address) != 1)
        return -EINVAL;
    *ret = ntohl(address.s_addr);
    return 0;
}

const char *address_format(uint32_t address, char text[ADDRESS_TEXT_SIZE]) {
    snprintf(text, ADDRESS_TEXT_SIZE, "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255,
             address & 255);
    return text;
}

int subnet_parse(const char *text, struct subnet *ret) {
    char address[ADDRESS_TEXT_SIZE];
    const char *slash = text ? strchr(text, '/') : NULL;
    struct subnet subnet;

    if (!slash || (size_t) (slash - text) >= sizeof(address))
        return -EINVAL;
    memcpy(address, text, (size_t) (slash - text));
    address[slash - text] = '\0';
    if (address_parse(address, &subnet.address) < 0)
        return -EINVAL;
    if (slash[1] < '1' || slash[1] > '2' || slash[2] < '0' || slash[2] > '9' || slash[3] != '\0')
        return -EINVAL;
    subnet.prefix = (unsigned) (slash[1] - '0') * 10 + (unsigned) (slash[2] - '0');
    if (subnet.prefix < 16 || subnet.prefix > 29 || (subnet.address & ~subnet_mask(subnet.prefix)) != 0)
        return -EINVAL;
    *ret = subnet;
    return 0;
}

const char *subnet_format(struct subnet subnet, char text[SUBNET_TEXT_SIZE]) {
    char address[ADDRESS_TEXT_SIZE];

    snprintf(text, SUBNET_TEXT_SIZE, "%s/%u", address_format(subnet.address, address), subnet.prefix % 100);
    return text;
}

/* First 10.117..10.180, then 172.26..172.31, then 192.168.117..192.168.180: off the beaten tracks of each
 * range. */
bool subnet_candidate(unsigned n, struct subnet *ret) {
    static const struct {
        uint32_t first;
        unsigned step, count;
    } ranges[] = {
        { UINT32_C(0x0a750000), 16, 64 },
        { UINT32_C(0xac1a7500), 16, 6 },
        { UINT32_C(0xc0a87500), 8, 64 },
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        if (n < ranges[i].count) {
            *ret = (struct subnet){ ranges[i].first + (n << ranges[i].step), 24 };
            return true;
        }
        n -= ranges[i].count;
    }
    return false;
}

int subnet_choose(const struct subnet *taken, size_t count, struct subnet *ret) {
    struct subnet candidate;

    for (unsigned n = 0; subnet_candidate(n, &candidate); n++) {
        size_t i = 0;

        while (i < count && !subnet_overlaps(candidate, taken[i]))
            i++;
        if (i == count) {
            *ret = candidate;
            return 0;
        }
    }
    return -ENOSPC;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int mac_parse(const char *text, uint8_t ret[6]) {
    uint8_t mac[6];

    if (!text || strnlen(text, MAC_TEXT_SIZE) != MAC_TEXT_SIZE - 1)
        return -EINVAL;
    for (unsigned i = 0; i < 6; i++) {
        int high = hex_digit(text[3 * i]), low = hex_digit(text[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':'))
            return -EINVAL;
        mac[i] = (uint8_t) (high << 4 | low);
    }
    if ((mac[0] & 1) || memcmp(mac, (const uint8_t[6]){ 0 }, 6) == 0)
        return -EINVAL;
    memcpy(ret, mac, 6);
    return 0;
}

const char *mac_format(const uint8_t mac[6], char text[MAC_TEXT_SIZE]) {
    snprintf(text, MAC_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
             mac[5]);
    return text;
}

void mac_from_address(uint32_t address, uint8_t ret[6]) {
    ret[0] = 0x52;
    ret[1] = 0x54;
    for (unsigned i = 0; i < 4; i++)
        ret[2 + i] = (uint8_t) (address >> (24 - 8 * i));
}
