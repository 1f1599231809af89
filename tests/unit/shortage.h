// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

/* Memory that runs out when a test says so. The sanitizers bring an allocator of their own, which never does: then
 * OWN_ALLOCATOR is defined, and such tests are left out. */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define OWN_ALLOCATOR 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OWN_ALLOCATOR 1
#endif
#endif

#ifndef OWN_ALLOCATOR
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static long left_until, left_failing; /* allocation number left_until fails, and so many in all */

static bool allocation_fails(void) {
    if (left_failing <= 0 || left_until-- > 1)
        return false;
    left_failing--;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) {
    return allocation_fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return allocation_fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return allocation_fails() ? NULL : __libc_realloc(old, size);
}
#endif
