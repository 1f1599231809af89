// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Properties on random examples, and the smallest example on which one does not hold: items are left out and numbers made
 * smaller for as long as it still fails. */

#define EXAMPLE_WIDTH 10

/* Numbers of the whole, and items of some numbers each. A property must take any numbers: it brings them into range itself. */
struct example {
    uint64_t head[EXAMPLE_WIDTH];
    size_t count;
    uint64_t (*items)[EXAMPLE_WIDTH];
};

struct property {
    const char *const *head, *const *item; /* names of the numbers, NULL-terminated; those without are 0 */
    bool (*holds)(const struct example *example, void *userdata);
    void *userdata;
};

/* The example must fail; it is made smaller in place. The number of times that the property was tried. */
size_t example_shrink(const struct property *property, struct example *example);
/* "seed 7 | cpus 1, gib 0 | cpus 2, gib 3": allocated. */
char *example_text(const struct property *property, const struct example *example);
/* Fails the test with the smallest example if the property does not hold on this one. */
void property_check(const struct property *property, struct example *example);
