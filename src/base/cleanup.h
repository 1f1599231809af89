// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Scope guards: `_cleanup_(thing_freep) struct thing *thing = NULL;` releases at every return.
 * STEAL_PTR and STEAL_FD hand the value on and disarm the guard. */

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _unused_ __attribute__((unused))
#define _printf_(position, first) __attribute__((__format__(__printf__, position, first)))
#define _noreturn_ __attribute__((noreturn))

#define STEAL_PTR(pointer)                                                                                   \
    ({                                                                                                       \
        __auto_type _stolen = (pointer);                                                                     \
        (pointer) = NULL;                                                                                    \
        _stolen;                                                                                             \
    })

#define STEAL_FD(fd)                                                                                         \
    ({                                                                                                       \
        int _stolen = (fd);                                                                                  \
        (fd) = -EBADF;                                                                                       \
        _stolen;                                                                                             \
    })

/* Defines name##p for _cleanup_ from a destructor that takes a pointer and accepts NULL. */
#define DEFINE_CLEANUP(type, function)                                                                       \
    static inline _unused_ void function##p(type *pointer) {                                                 \
        if (*pointer)                                                                                        \
            function(*pointer);                                                                              \
    }

static inline void freep(void *pointer) {
    free(*(void **) pointer);
}

/* Closes fd unless it is negative; keeps errno; returns -EBADF for `fd = close_fd(fd)`. */
int close_fd(int fd);

static inline void close_fdp(int *fd) {
    close_fd(*fd);
}

static inline _unused_ void fclosep(FILE **file) {
    if (*file)
        fclose(*file);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(close_fdp)

#define ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(pointer, type, member) ((type *) ((char *) (pointer) - offsetof(type, member)))
