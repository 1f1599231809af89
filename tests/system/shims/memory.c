// SPDX-License-Identifier: GPL-2.0-or-later
/* Preloaded into polderd by test_memory.py, which shares the file $PLAN with it: allocation number `left` from now on fails,
 * and those that follow it, `failing` in all; `counted` and `failed` say how many there were. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct plan {
    atomic_long left, failing, counted, failed;
};

static struct plan *plan;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("PLAN");
    int fd = path && strcmp(program_invocation_short_name, "polderd") == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *memory;

    if (fd < 0)
        return;
    memory = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED)
        plan = memory;
}

static int fails(void) {
    if (!plan)
        return 0;
    atomic_fetch_add(&plan->counted, 1);
    if (atomic_load(&plan->failing) <= 0 || atomic_fetch_sub(&plan->left, 1) > 1)
        return 0;
    if (atomic_fetch_sub(&plan->failing, 1) <= 0)
        return 0;
    atomic_fetch_add(&plan->failed, 1);
    errno = ENOMEM;
    return 1;
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size) {
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return fails() ? NULL : __libc_realloc(old, size);
}

/* The C library's own call the function above only where it was built so: these need not. */
char *strndup(const char *text, size_t most) {
    size_t size = strnlen(text, most);
    char *copy = malloc(size + 1);

    if (copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

char *strdup(const char *text) {
    return strndup(text, strlen(text));
}
