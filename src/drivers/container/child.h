// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/process.h"
#include "drivers/stream.h"

/* A stream to a child process of our own: `crun exec`, or an archiver inside a container. */

struct child {
    struct stream stream;
    struct process process;
    int input;    /* to its standard input */
    int output;   /* from its standard output, or both ways its terminal */
    int errors;
    bool terminal;
    int status;   /* once it has ended, else -1 */
    /* Sends a signal to what the child runs; NULL: to the child itself. */
    int (*signal)(struct child *child, int number);
    /* Turns the end into the caller's view. NULL: the status is the code. */
    int (*finish)(struct child *child, int *ret_code, struct error *error);
    /* Both or neither. Is what starts the process still at it, or the process gone already? And, after the end: did it
     * fail to start the process? Then what came is its own words, which `finish` puts better, and is dropped. */
    bool (*is_starting)(struct child *child);
    bool (*start_failed)(struct child *child);
    bool heard;   /* something was read */
    bool mute;    /* it did not start: all that is said is the starter's */
    /* Frees the rest of the structure that holds the child, itself included, after the process is gone. */
    void (*destroy)(struct child *child);
};

/* The caller's ends of pipes in `child`, the process's ends in `spec` (input only if wanted, else /dev/null). Close the
 * process's ends with child_pipes_close once it is started. */
int child_pipes_open(struct child *child, struct process_spec *spec, bool input, bool errors);
void child_pipes_close(struct process_spec *spec);
void child_init(struct child *child);
