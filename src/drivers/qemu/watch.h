// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/machine.h"

/* Watches that each QEMU answers, whatever its guest does: one that was stopped by a signal, or hangs in its
 * host's storage, is told to the manager as `driver_facts.trouble` within WATCH_BOUND, and again when it
 * answers. Nothing is done to it. A paused guest's QEMU answers. */

#define WATCH_EVERY (2 * CLOCK_SECOND)
#define WATCH_MISSED 2 /* looks in a row without an answer */
#define WATCH_HUNG 2   /* looks in a row at which a thread had not moved since the one before */
#define WATCH_WAITERS 8 /* threads that are remembered */
#define WATCH_STARVED 5 /* looks between two tries to let a machine without space go on */
#define WATCH_ROOM (UINT64_C(4) << 20) /* bytes that must be free for that */
#define WATCH_BOUND (4 * WATCH_EVERY)

/* Goes on until no machine is left; safe to repeat. */
void watch_begin(struct qemu *qemu);
/* At once: the guest stands still for want of space. It goes on when the host has some again. */
void watch_starved(struct machine *machine);
/* At once: no connection to this QEMU could be made. */
void watch_give_up(struct machine *machine);
