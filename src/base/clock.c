// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/uuid.h"

/* The last second of the year 9999, which is what RFC 3339 can write. */
#define WALL_SECONDS_MAX INT64_C(253402300799)

static uint64_t clock_read(clockid_t id) {
    struct timespec now = { 0 };

    clock_gettime(id, &now);
    return (uint64_t) now.tv_sec * CLOCK_SECOND + (uint64_t) now.tv_nsec / 1000;
}

uint64_t clock_now(void) {
    return clock_read(CLOCK_BOOTTIME);
}

uint64_t clock_wall(void) {
    return clock_read(CLOCK_REALTIME);
}

uint64_t deadline_in(uint64_t microseconds) {
    uint64_t deadline;

    if (__builtin_add_overflow(clock_now(), microseconds, &deadline))
        return DEADLINE_NONE;
    return deadline;
}

/* The one cache of this file: the id cannot change while the process lives. */
static char boot_id[UUID_TEXT_SIZE];

static void boot_id_read(void) {
    _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    char text[UUID_TEXT_SIZE] = "";

    if (fd < 0 || read(fd, text, UUID_TEXT_SIZE - 1) != UUID_TEXT_SIZE - 1)
        return;
    if (uuid_is_valid(text))
        memcpy(boot_id, text, sizeof(boot_id));
}

const char *clock_boot_id(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, boot_id_read);
    return boot_id;
}

const char *clock_format(uint64_t wall, char text[CLOCK_TEXT_SIZE]) {
    uint64_t limit = (uint64_t) WALL_SECONDS_MAX * CLOCK_SECOND + CLOCK_SECOND - 1;
    time_t seconds;
    struct tm tm;

    if (wall > limit)
        wall = limit;
    seconds = (time_t) (wall / CLOCK_SECOND);
    gmtime_r(&seconds, &tm);
    snprintf(text, CLOCK_TEXT_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
             (unsigned) (tm.tm_year + 1900) % 10000, (unsigned) (tm.tm_mon + 1) % 100,
             (unsigned) tm.tm_mday % 100, (unsigned) tm.tm_hour % 100, (unsigned) tm.tm_min % 100,
             (unsigned) tm.tm_sec % 100, (unsigned) (wall / CLOCK_MILLISECOND % 1000));
    return text;
}

/* Exactly `digits` decimal digits. */
static int take_number(const char **p, unsigned digits, int *ret) {
    int value = 0;

    for (unsigned i = 0; i < digits; i++, (*p)++) {
        if (**p < '0' || **p > '9')
            return -EINVAL;
        value = value * 10 + (**p - '0');
    }
    *ret = value;
    return 0;
}

static int take_char(const char **p, char c) {
    if (**p != c)
        return -EINVAL;
    (*p)++;
    return 0;
}

/* ".123456789" -> microseconds; further digits are dropped. */
static int take_fraction(const char **p, uint64_t *ret) {
    uint64_t unit = 100000;
    uint64_t fraction = 0;
    unsigned digits = 0;

    *ret = 0;
    if (**p != '.')
        return 0;
    for ((*p)++; **p >= '0' && **p <= '9'; (*p)++, digits++) {
        fraction += unit * (uint64_t) (**p - '0');
        unit /= 10;
    }
    if (digits == 0 || digits > 9)
        return -EINVAL;
    *ret = fraction;
    return 0;
}

/* "Z" or "+08:00" -> seconds east of UTC. */
static int take_offset(const char **p, int64_t *ret) {
    int hours;
    int minutes;
    int sign;

    if (**p == 'Z') {
        (*p)++;
        *ret = 0;
        return 0;
    }
    if (**p != '+' && **p != '-')
        return -EINVAL;
    sign = **p == '-' ? -1 : 1;
    (*p)++;
    if (take_number(p, 2, &hours) < 0 || take_char(p, ':') < 0 || take_number(p, 2, &minutes) < 0)
        return -EINVAL;
    if (hours > 23 || minutes > 59)
        return -EINVAL;
    *ret = sign * (hours * 3600 + minutes * 60);
    return 0;
}

int clock_parse(const char *text, uint64_t *ret_wall) {
    struct tm tm = { 0 };
    struct tm given;
    const char *p = text;
    uint64_t fraction;
    int64_t seconds;
    int64_t offset;

    if (take_number(&p, 4, &tm.tm_year) < 0 || take_char(&p, '-') < 0 || take_number(&p, 2, &tm.tm_mon) < 0 ||
        take_char(&p, '-') < 0 || take_number(&p, 2, &tm.tm_mday) < 0 || take_char(&p, 'T') < 0 ||
        take_number(&p, 2, &tm.tm_hour) < 0 || take_char(&p, ':') < 0 || take_number(&p, 2, &tm.tm_min) < 0 ||
        take_char(&p, ':') < 0 || take_number(&p, 2, &tm.tm_sec) < 0 || take_fraction(&p, &fraction) < 0 ||
        take_offset(&p, &offset) < 0 || *p != '\0')
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    given = tm;
    seconds = timegm(&tm);
    /* timegm wraps the 31st of February round: what comes out must be what went in. */
    if (tm.tm_mon != given.tm_mon || tm.tm_mday != given.tm_mday || tm.tm_hour != given.tm_hour ||
        tm.tm_min != given.tm_min || tm.tm_sec != given.tm_sec)
        return -EINVAL;
    seconds -= offset;
    if (seconds < 0 || seconds > WALL_SECONDS_MAX)
        return -ERANGE;
    *ret_wall = (uint64_t) seconds * CLOCK_SECOND + fraction;
    return 0;
}
