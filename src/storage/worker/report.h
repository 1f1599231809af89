// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

/* What the worker tells polderd: JSON lines on stdout. Any number of {"progress":{"done":N,"total":N}}, then
 * one
 * {"result":{…}} or {"error":{"code":…,"kind":…,"message":…,"field":…}}. */

enum failure_code {
    FAILURE_NONE,
#define FAILURE_ROW(code, wire, kind) FAILURE_##code,
#include "failures.def"
#undef FAILURE_ROW
    FAILURE_CODE_COUNT,
};

#define FAILURE_FIELD_MAX 256
#define FAILURE_MESSAGE_MAX 512

/* Plain data on purpose: the expanding process hands it to its parent over a pipe. The first cause wins. */
struct failure {
    int code;
    char field[FAILURE_FIELD_MAX];     /* the object concerned: an option, an entry's path, a header field */
    char message[FAILURE_MESSAGE_MAX]; /* may hold foreign bytes; made safe when printed */
};

/* Fills *failure unless a cause is there already. Returns -EBADMSG, for `return fail(…)`. */
int fail(struct failure *failure, enum failure_code code, const char *field, const char *format, ...)
    _printf_(4, 5);

/* The same for a failed call: ENOSPC and EDQUOT become "no-space", EFBIG "limit-bytes", the rest "io".
 * `number` is a positive errno. */
int fail_errno(struct failure *failure, int number, const char *field, const char *what);

const char *failure_wire(int code);

/* Turns bytes of unknown origin into printable UTF-8 of at most size-1 bytes: others become \xNN. */
void text_make_safe(const char *data, char *safe, size_t size);

/* Prints a progress line, at most ten a second. total 0 = unknown. */
void report_progress(uint64_t done, uint64_t total);
/* Prints the last line and returns the exit status. report_result takes the object over. */
int report_result_take(struct json_object *result);
int report_failure(const struct failure *failure);

static inline void worker_closep(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

#define _cleanup_fd_ _cleanup_(worker_closep)
