// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "drivers/stream.h"

/* A serial console over two FIFOs in the instance's run directory. QEMU holds both ends of each, so output
 * that nobody reads waits in the pipe (CONSOLE_PIPE bytes; beyond that the guest's port waits) while
 * polderd is down, and nothing breaks. polderd reads all of it, hands it to a handler and to any number of
 * viewers; a viewer that stops reading loses the oldest bytes and disturbs nobody. */

#define CONSOLE_PIPE (1024 * 1024)
#define CONSOLE_QUEUE (256 * 1024)
#define CONSOLE_TAIL 4096 /* the newest bytes, kept for reports */

struct console;

/* The descriptors that QEMU gets. Born -EBADF by console_make's failure; the caller closes them. */
struct console_ends {
    int output;  /* QEMU writes */
    int input;   /* QEMU reads */
    int keep[2]; /* held by QEMU, used by nobody */
};

/* Makes the FIFOs anew, empty. */
int console_make(int directory, struct console_ends *ret);
/* The daemon's side; also of a console made by an earlier daemon. `output` may be NULL, and may wait. */
int console_open(int directory, void (*output)(const void *data, size_t size, void *userdata), void *userdata,
                 struct console **ret);
/* Viewers get the end. Also off fibers. */
void console_free(struct console *console);
/* `console` may be NULL, as that of a machine that has ended is: GUEST. */
int console_view(struct console *console, struct stream **ret, struct error *error);
/* Fiber: takes in what QEMU wrote last, for a machine that just ended. */
void console_drain(struct console *console);
/* The last line that says something, escaped, allocated; NULL if there is none. */
char *console_last_line(const struct console *console);
