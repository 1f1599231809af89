// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* IPv4 subnets and MAC addresses as values, and the choice of a subnet. No I/O. Addresses are in host byte
 * order. */

struct subnet {
    uint32_t address; /* host bits are zero */
    unsigned prefix;  /* 0..32 */
};

#define ADDRESS_TEXT_SIZE 16
#define SUBNET_TEXT_SIZE 19
#define MAC_TEXT_SIZE 18

uint32_t subnet_mask(unsigned prefix);
bool subnet_overlaps(struct subnet a, struct subnet b);
bool subnet_has(struct subnet subnet, uint32_t address);
uint32_t subnet_gateway(struct subnet subnet); /* the first address */
/* May an instance hold it: in the subnet, and not its first (gateway), network or broadcast address. */
bool subnet_is_member(struct subnet subnet, uint32_t address);
/* "10.117.0.0/24"; host bits must be zero, the prefix 16..29. -EINVAL. */
int subnet_parse(const char *text, struct subnet *ret);
const char *subnet_format(struct subnet subnet, char text[SUBNET_TEXT_SIZE]);
/* The n-th /24 that Polder would take by itself (10.117.0.0/24 first), false after the last. */
bool subnet_candidate(unsigned n, struct subnet *ret);
/* The first candidate that overlaps none of `taken`. -ENOSPC if every one does. */
int subnet_choose(const struct subnet *taken, size_t count, struct subnet *ret);

/* Dotted quad without leading zeros. -EINVAL. */
int address_parse(const char *text, uint32_t *ret);
const char *address_format(uint32_t address, char text[ADDRESS_TEXT_SIZE]);
/* Six lower-case hex pairs with colons; no multicast address, not all zero. -EINVAL. */
int mac_parse(const char *text, uint8_t ret[6]);
const char *mac_format(const uint8_t mac[6], char text[MAC_TEXT_SIZE]);
/* 52:54 and the four bytes of the address: unique in the network because the address is. */
void mac_from_address(uint32_t address, uint8_t ret[6]);
