// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/fiber.h"

/* The event stream: a bounded ring of JSON texts with ascending ids. A reader that falls behind the ring is told how
 * many it missed. */

struct events;

int events_new(size_t capacity, struct events **ret);
void events_free(struct events *events);
/* Publishes {"id":N,"time":…,"type":type,"object":object,…detail members}. detail is JSON members without braces
 * ("\"state\":\"running\"") or NULL. Never fails: without memory the event is counted as missed. */
void events_publish(struct events *events, const char *type, const char *object, const char *detail);
uint64_t events_last(const struct events *events);
/* The first event with id > after; an id that was not given since polderd started, be it smaller or (the clock was set)
 * greater than those that were, comes before all of them. 1: *ret_* filled (borrowed until the next wait); 0: none yet;
 * *ret_missed tells how many were lost between `after` and it, at least. */
int events_next(const struct events *events, uint64_t after, uint64_t *ret_id, const char **ret_type,
                const char **ret_text, uint64_t *ret_missed);
/* Fiber: until events_next gives something. */
int events_wait(struct events *events, uint64_t after, uint64_t deadline);
