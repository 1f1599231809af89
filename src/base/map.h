// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

/* Hash map from strings to pointers. Keys are borrowed from the value's owner and must outlive the entry. */
struct map;

int map_new(struct map **ret);
void map_free(struct map *map);
size_t map_count(const struct map *map);
void *map_get(const struct map *map, const char *key);
int map_put(struct map *map, const char *key, void *value); /* -EEXIST if the key is there */
void *map_remove(struct map *map, const char *key);         /* the value, or NULL */
/* Iterates in no order: position starts at 0. The map must not change meanwhile. */
bool map_next(const struct map *map, size_t *position, const char **ret_key, void **ret_value);

DEFINE_CLEANUP(struct map *, map_free)
#define _cleanup_map_ _cleanup_(map_freep)
