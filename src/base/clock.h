// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>

/* Durations and deadlines are microseconds of CLOCK_BOOTTIME; wall time is microseconds since 1970 UTC, for display
 * and schedules only. */

#define CLOCK_SECOND UINT64_C(1000000)
#define CLOCK_MILLISECOND UINT64_C(1000)
#define DEADLINE_NONE UINT64_MAX

uint64_t clock_now(void);  /* CLOCK_BOOTTIME */
uint64_t clock_wall(void); /* CLOCK_REALTIME */
/* now + microseconds, saturating. */
uint64_t deadline_in(uint64_t microseconds);
/* This boot's id (36 characters), read once; "" if the kernel does not tell. */
const char *clock_boot_id(void);

#define CLOCK_TEXT_SIZE 32
/* RFC 3339 UTC with milliseconds, "2026-11-21T08:52:00.123Z", into text. Returns text. */
const char *clock_format(uint64_t wall, char text[CLOCK_TEXT_SIZE]);
int clock_parse(const char *text, uint64_t *ret_wall);
