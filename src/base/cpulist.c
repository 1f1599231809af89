// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/cpulist.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

#define WORDS (CPU_LIST_MAX / 64)

static int take_number(const char **at, unsigned *ret) {
    unsigned number = 0, digits = 0;

    for (; **at >= '0' && **at <= '9'; (*at)++, digits++) {
        number = number * 10 + (unsigned) (**at - '0');
        if (number >= CPU_LIST_MAX)
            return -ERANGE;
    }
    *ret = number;
    return digits > 0 ? 0 : -EINVAL;
}

static int take_range(const char **at, struct cpu_list *list) {
    unsigned first, last;
    int r = take_number(at, &first);

    last = first;
    if (r >= 0 && **at == '-') {
        (*at)++;
        r = take_number(at, &last);
    }
    if (r < 0)
        return r;
    if (last < first)
        return -ERANGE;
    for (unsigned cpu = first; cpu <= last; cpu++)
        cpu_list_add(list, cpu);
    return 0;
}

int cpu_list_parse(const char *text, struct cpu_list *ret) {
    struct cpu_list list = { 0 };

    while (*text && !strchr(" \n", *text)) {
        int r = take_range(&text, &list);
        if (r < 0)
            return r;
        if (*text == ',' && text[1] >= '0' && text[1] <= '9')
            text++;
        else if (*text && !strchr(" \n", *text))
            return -EINVAL;
    }
    if (text[strspn(text, " \n")] != '\0')
        return -EINVAL;
    *ret = list;
    return 0;
}

char *cpu_list_format(const struct cpu_list *list) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL;

    for (unsigned cpu = 0; cpu < CPU_LIST_MAX; cpu++) {
        unsigned last = cpu;
        if (!cpu_list_has(list, cpu))
            continue;
        while (last + 1 < CPU_LIST_MAX && cpu_list_has(list, last + 1))
            last++;
        buffer_addf(&out, last > cpu ? "%s%u-%u" : "%s%u", out.size ? "," : "", cpu, last);
        cpu = last;
    }
    buffer_add_text(&out, "");
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

void cpu_list_add(struct cpu_list *list, unsigned cpu) {
    if (cpu < CPU_LIST_MAX)
        list->bits[cpu / 64] |= UINT64_C(1) << (cpu % 64);
}

bool cpu_list_has(const struct cpu_list *list, unsigned cpu) {
    return cpu < CPU_LIST_MAX && (list->bits[cpu / 64] >> (cpu % 64) & 1);
}

size_t cpu_list_count(const struct cpu_list *list) {
    size_t count = 0;

    for (size_t i = 0; i < WORDS; i++)
        count += (size_t) __builtin_popcountll(list->bits[i]);
    return count;
}

struct cpu_list cpu_list_without(const struct cpu_list *a, const struct cpu_list *b) {
    struct cpu_list result = *a;

    for (size_t i = 0; i < WORDS; i++)
        result.bits[i] &= ~b->bits[i];
    return result;
}

struct cpu_list cpu_list_union(const struct cpu_list *a, const struct cpu_list *b) {
    struct cpu_list result = *a;

    for (size_t i = 0; i < WORDS; i++)
        result.bits[i] |= b->bits[i];
    return result;
}

bool cpu_list_overlap(const struct cpu_list *a, const struct cpu_list *b) {
    for (size_t i = 0; i < WORDS; i++)
        if (a->bits[i] & b->bits[i])
            return true;
    return false;
}

bool cpu_list_equal(const struct cpu_list *a, const struct cpu_list *b) {
    return memcmp(a->bits, b->bits, sizeof(a->bits)) == 0;
}
