// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/map.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/uuid.h"

/* Open addressing with linear probing, at most three quarters full; removal shifts the followers back, so
 * there are no tombstones. The hash is SipHash-1-3 under a random key per map, since keys come from users and
 * registries and must not be choosable to collide. */

#define MAP_FIRST 16

struct map_slot {
    const char *key; /* NULL: free */
    void *value;
    uint64_t hash;
};

struct map {
    struct map_slot *slots;
    size_t size; /* a power of two, or 0 */
    size_t count;
    uint64_t secret[2];
};

static uint64_t rotate(uint64_t x, unsigned bits) {
    return (x << bits) | (x >> (64 - bits));
}

static void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* Aumasson, Bernstein: "SipHash: a fast short-input PRF", with 1 and 3 rounds. */
static uint64_t hash_text(const uint64_t secret[2], const char *text) {
    uint64_t v[4] = { secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
                      secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573) };
    size_t length = strlen(text);
    size_t left = length;
    uint64_t word = 0;

    for (; left >= 8; left -= 8, text += 8) {
        memcpy(&word, text, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = (uint64_t) length << 56;
    for (size_t i = 0; i < left; i++)
        word |= (uint64_t) (unsigned char) text[i] << (8 * i);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (unsigned i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int map_new(struct map **ret) {
    struct map *map = calloc(1, sizeof(*map));

    if (!map)
        return -ENOMEM;
    random_bytes(map->secret, sizeof(map->secret));
    *ret = map;
    return 0;
}

void map_free(struct map *map) {
    if (!map)
        return;
    free(map->slots);
    free(map);
}

size_t map_count(const struct map *map) {
    return map->count;
}

/* The slot that holds key, or the free one where it belongs. The map is never full. */
static struct map_slot *map_find(const struct map *map, const char *key, uint64_t hash) {
    size_t mask = map->size - 1;

    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct map_slot *slot = &map->slots[i];

        if (!slot->key || (slot->hash == hash && strcmp(slot->key, key) == 0))
            return slot;
    }
}

void *map_get(const struct map *map, const char *key) {
    struct map_slot *slot;

    if (map->count == 0)
        return NULL;
    slot = map_find(map, key, hash_text(map->secret, key));
    return slot->key ? slot->value : NULL;
}

static int map_grow(struct map *map) {
    size_t size = map->size ? map->size * 2 : MAP_FIRST;
    struct map_slot *slots = calloc(size, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < map->size; i++) {
        size_t at;

        if (!map->slots[i].key)
            continue;
        at = map->slots[i].hash & (size - 1);
        while (slots[at].key)
            at = (at + 1) & (size - 1);
        slots[at] = map->slots[i];
    }
    free(map->slots);
    map->slots = slots;
    map->size = size;
    return 0;
}

int map_put(struct map *map, const char *key, void *value) {
    uint64_t hash = hash_text(map->secret, key);
    struct map_slot *slot;

    if (map->count >= map->size / 4 * 3) {
        if (map->count > 0 && map_find(map, key, hash)->key)
            return -EEXIST;
        if (map_grow(map) < 0)
            return -ENOMEM;
    }
    slot = map_find(map, key, hash);
    if (slot->key)
        return -EEXIST;
    *slot = (struct map_slot){ .key = key, .value = value, .hash = hash };
    map->count++;
    return 0;
}

void *map_remove(struct map *map, const char *key) {
    size_t mask = map->size - 1;
    struct map_slot *slot;
    size_t hole;
    void *value;

    if (map->count == 0)
        return NULL;
    slot = map_find(map, key, hash_text(map->secret, key));
    if (!slot->key)
        return NULL;
    value = slot->value;
    hole = (size_t) (slot - map->slots);
    for (size_t i = (hole + 1) & mask; map->slots[i].key; i = (i + 1) & mask) {
        size_t home = map->slots[i].hash & mask;

        /* Move it back unless its home lies after the hole, on the way round. */
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        map->slots[hole] = map->slots[i];
        hole = i;
    }
    map->slots[hole] = (struct map_slot){ 0 };
    map->count--;
    return value;
}

bool map_next(const struct map *map, size_t *position, const char **ret_key, void **ret_value) {
    for (; *position < map->size; (*position)++) {
        const struct map_slot *slot = &map->slots[*position];

        if (!slot->key)
            continue;
        if (ret_key)
            *ret_key = slot->key;
        if (ret_value)
            *ret_value = slot->value;
        (*position)++;
        return true;
    }
    return false;
}
