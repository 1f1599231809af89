// SPDX-License-Identifier: GPL-2.0-or-later
#include "shrink.h"

#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

#define TRIES_MOST 20000

struct shrinking {
    const struct property *property;
    struct example *example;
    size_t tries;
};

static bool fails(struct shrinking *shrinking) {
    return shrinking->tries++ < TRIES_MOST && !shrinking->property->holds(shrinking->example, shrinking->property->userdata);
}

/* Without `size` items from `at` on, if it fails without them too. */
static bool leave_out(struct shrinking *shrinking, size_t at, size_t size) {
    struct example *example = shrinking->example;
    size_t width = sizeof(*example->items), rest = example->count - at - size;
    void *left_out = malloc(size * width);

    assert_non_null(left_out);
    memcpy(left_out, example->items + at, size * width);
    memmove(example->items + at, example->items + at + size, rest * width);
    example->count -= size;
    bool smaller = fails(shrinking);
    if (!smaller) {
        memmove(example->items + at + size, example->items + at, rest * width);
        memcpy(example->items + at, left_out, size * width);
        example->count += size;
    }
    free(left_out);
    return smaller;
}

/* From half of them down to one by one, the last first: what comes last depends on what came before. */
static bool shrink_items(struct shrinking *shrinking) {
    struct example *example = shrinking->example;
    bool smaller = false;

    for (size_t size = example->count; size > 0; size /= 2)
        for (size_t end = example->count; end >= size; end -= size) {
            if (end <= example->count && leave_out(shrinking, end - size, size))
                smaller = true;
        }
    return smaller;
}

/* 0, then half again and again, then one less again and again. */
static bool shrink_number(struct shrinking *shrinking, uint64_t *number) {
    bool smaller = false;

    for (int way = 0; way < 3; way++)
        while (*number > 0) {
            uint64_t before = *number;
            *number = way == 0 ? 0 : way == 1 ? before / 2 : before - 1;
            if (!fails(shrinking)) {
                *number = before;
                break;
            }
            smaller = true;
        }
    return smaller;
}

static bool shrink_numbers(struct shrinking *shrinking, const char *const *names, uint64_t *numbers) {
    bool smaller = false;

    for (size_t i = 0; names[i]; i++)
        smaller = shrink_number(shrinking, &numbers[i]) || smaller;
    return smaller;
}

size_t example_shrink(const struct property *property, struct example *example) {
    struct shrinking shrinking = { .property = property, .example = example };
    bool smaller = true;

    while (smaller && shrinking.tries < TRIES_MOST) {
        smaller = shrink_items(&shrinking);
        smaller = shrink_numbers(&shrinking, property->head, example->head) || smaller;
        for (size_t i = 0; i < example->count; i++)
            smaller = shrink_numbers(&shrinking, property->item, example->items[i]) || smaller;
    }
    return shrinking.tries;
}

static void add_numbers(struct buffer *out, const char *const *names, const uint64_t *numbers) {
    for (size_t i = 0; names[i]; i++)
        buffer_addf(out, "%s%s %llu", i ? ", " : "", names[i], (unsigned long long) numbers[i]);
}

char *example_text(const struct property *property, const struct example *example) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL;

    add_numbers(&out, property->head, example->head);
    for (size_t i = 0; i < example->count; i++) {
        buffer_add_text(&out, " | ");
        add_numbers(&out, property->item, example->items[i]);
    }
    assert_int_equal(buffer_take(&out, &text), 0);
    return text;
}

void property_check(const struct property *property, struct example *example) {
    if (property->holds(example, property->userdata))
        return;
    size_t tries = example_shrink(property, example);
    _cleanup_free_ char *text = example_text(property, example);
    fail_msg("it does not hold (smallest of %zu tries): %s", tries, text);
}
