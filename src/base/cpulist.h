// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sets of processors by number, in the kernel's list form "0-3,8". */

#define CPU_LIST_MAX 1024

struct cpu_list {
    uint64_t bits[CPU_LIST_MAX / 64];
};

/* Blanks and a newline at the end are taken; so is "" (none). -EINVAL (form), -ERANGE (a number of CPU_LIST_MAX or more, or
 * a range that runs backwards). */
int cpu_list_parse(const char *text, struct cpu_list *ret);
char *cpu_list_format(const struct cpu_list *list); /* allocated */
void cpu_list_add(struct cpu_list *list, unsigned cpu);
bool cpu_list_has(const struct cpu_list *list, unsigned cpu);
size_t cpu_list_count(const struct cpu_list *list);
/* a without b. */
struct cpu_list cpu_list_without(const struct cpu_list *a, const struct cpu_list *b);
struct cpu_list cpu_list_union(const struct cpu_list *a, const struct cpu_list *b);
bool cpu_list_overlap(const struct cpu_list *a, const struct cpu_list *b);
bool cpu_list_equal(const struct cpu_list *a, const struct cpu_list *b);
