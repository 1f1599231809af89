// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* A client of QEMU's machine protocol. Calls are fibers' waits with a deadline, may be cancelled, and may
 * overtake each other: replies are matched by id, one that comes too late is ignored. QEMU is not trusted
 * to be sane: a line above 4 MiB, or anything that is no JSON object, ends the connection. */

#define QMP_LINE_MAX (4 * 1024 * 1024)
#define QMP_DEADLINE (10 * CLOCK_SECOND) /* for an ordinary call */

struct qmp;

struct qmp_handlers {
    /* On the reader's fiber; must not wait. `data` is borrowed and may be NULL. */
    void (*event)(const char *name, struct json_object *data, void *userdata);
    /* Once, when the connection is over for a reason other than qmp_free. */
    void (*closed)(void *userdata);
};

/* Fiber: takes the connected socket (also on failure), waits for the greeting and enters command mode. */
int qmp_open_take(int fd, const struct qmp_handlers *handlers, void *userdata, uint64_t deadline,
                  struct qmp **ret, struct error *error);
/* Ends the connection; waiting calls return -ECONNRESET. No handler is called any more. Also off fibers. */
void qmp_free(struct qmp *qmp);
bool qmp_is_open(const struct qmp *qmp);
/* Sends one command without arguments, whose answer nobody waits for. Never waits: -EAGAIN when QEMU takes
 * nothing or another command is half sent, -ECONNRESET when the connection is gone. Also off fibers. */
int qmp_post(struct qmp *qmp, const char *command);
/* Asks for a sign of life, unless an earlier one is still awaited; errors as for qmp_post. */
int qmp_ping(struct qmp *qmp);
/* Is the answer to a ping still awaited? */
bool qmp_is_silent(const struct qmp *qmp);

/* Fiber: one command. `arguments` is the text of a JSON object, or NULL. `passed` >= 0 goes along as a
 * descriptor. *ret (may be NULL) gets the return value. Errors: INTERNAL with QEMU's own words (-EIO),
 * TIMEOUT, CANCELED; -ECONNRESET when the connection is gone. */
int qmp_call(struct qmp *qmp, const char *command, const char *arguments, int passed, uint64_t deadline,
             struct json_object **ret, struct error *error);

static inline void qmp_freep(struct qmp **qmp) {
    if (*qmp)
        qmp_free(*qmp);
}
#define _cleanup_qmp_ __attribute__((cleanup(qmp_freep)))
