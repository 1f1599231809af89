// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdatomic.h>

/* Faults of the disk beneath the store, for tests: a layer over SQLite's own file system calls. Compiled only
 * with -Dfailpoints=true; the fail points are "store-sync", "store-write" and "store-truncate" (errno or
 * delay), and a test in the same process sets the members of fault_now(). */

#ifdef POLDER_FAILPOINTS
struct fault {
    atomic_int sync_error; /* errno of every sync; 0: none */
    atomic_int sync_delay_ms;
    atomic_int write_error; /* errno of writes from number write_from on (1: the next); 0: none */
    atomic_int write_from;
    atomic_int syncs; /* counted */
};

/* Makes the layer SQLite's default, once. */
void fault_register(void);
struct fault *fault_now(void);
#else
static inline void fault_register(void) {
}
#endif
