// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Independent pieces of work on threads. Each piece is done by one of them and writes to a place of its own, so that the
 * result is the same for any number. While standard error is a terminal a bar there shows how far they are together. */

#define WORKERS_MAX 64

struct workers;
/* Does the piece of that number: 0 or negative errno, after which no further piece is begun. */
typedef int worker_piece(struct workers *workers, void *userdata, size_t which);

/* The processors that this process may use, at least 1 and at most WORKERS_MAX: how many threads there are unless told. */
uint64_t workers_usual(void);

/* Does all of [0, count) on so many threads, fewer where there are not that many pieces or no more threads can be had.
 * Pieces are begun in their order, and the failure of the first that failed is returned, so that it is the same for any
 * number; *ret_failed (may be NULL) is its number then. -ENOMEM also. `what` stands before the bar; NULL: no bar. */
int workers_run(const char *what, uint64_t threads, size_t count, worker_piece *piece, void *userdata, size_t *ret_failed);

/* How far the piece is, 0 to 1; one that ended is at 1 without being told. */
void workers_tell(struct workers *workers, size_t which, double share);
