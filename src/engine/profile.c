// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/profile.h"

#include <errno.h>
#include <string.h>

void profile_done(struct profile *profile) {
    free(profile->steps);
    *profile = (struct profile){ 0 };
}

static int profile_reserve(struct profile *profile, size_t room) {
    struct profile_step *steps;

    if (room <= profile->room)
        return 0;
    room = room < 64 ? 64 : room * 2;
    steps = reallocarray(profile->steps, room, sizeof(*steps));
    if (!steps)
        return -ENOMEM;
    profile->steps = steps;
    profile->room = room;
    return 0;
}

int profile_start(struct profile *profile, int64_t now, struct demand capacity) {
    int r = profile_reserve(profile, 1);

    if (r < 0)
        return r;
    profile->steps[0] = (struct profile_step){ .time = now, .free = capacity };
    profile->count = 1;
    return 0;
}

/* The last step that begins at or before `time`; the first one if none does. */
static size_t step_at(const struct profile *profile, int64_t time) {
    size_t low = 0, high = profile->count;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (profile->steps[middle].time <= time)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Makes a step begin at `time`, and returns its index. The room is there. */
static size_t split(struct profile *profile, int64_t time) {
    size_t at = step_at(profile, time);

    if (profile->steps[at].time >= time)
        return at;
    at++;
    memmove(profile->steps + at + 1, profile->steps + at, (profile->count - at) * sizeof(*profile->steps));
    profile->steps[at] = (struct profile_step){ .time = time, .free = profile->steps[at - 1].free };
    profile->count++;
    return at;
}

static void join(struct profile *profile, size_t at) {
    struct profile_step *steps = profile->steps;

    if (at == 0 || at >= profile->count || steps[at].free.cpus != steps[at - 1].free.cpus ||
        steps[at].free.memory != steps[at - 1].free.memory)
        return;
    memmove(steps + at, steps + at + 1, (profile->count - at - 1) * sizeof(*steps));
    profile->count--;
}

static int change(struct profile *profile, int64_t from, int64_t until, struct demand demand, bool give) {
    size_t first, last;
    int r;

    if (from < profile->steps[0].time)
        from = profile->steps[0].time;
    if (until <= from)
        return 0;
    r = profile_reserve(profile, profile->count + 2);
    if (r < 0)
        return r;
    first = split(profile, from);
    last = until >= TIME_FOREVER ? profile->count : split(profile, until);
    for (size_t i = first; i < last; i++) {
        struct demand *room = &profile->steps[i].free;
        room->cpus = give ? room->cpus + demand.cpus : room->cpus - demand.cpus;
        room->memory = give ? room->memory + demand.memory : room->memory - demand.memory;
    }
    join(profile, last);
    join(profile, first);
    return 0;
}

int profile_take(struct profile *profile, int64_t from, int64_t until, struct demand demand) {
    return change(profile, from, until, demand, false);
}

int profile_give(struct profile *profile, int64_t from, int64_t until, struct demand demand) {
    return change(profile, from, until, demand, true);
}

void profile_advance(struct profile *profile, int64_t now) {
    size_t at = step_at(profile, now);

    if (profile->steps[at].time > now)
        return;
    memmove(profile->steps, profile->steps + at, (profile->count - at) * sizeof(*profile->steps));
    profile->count -= at;
    profile->steps[0].time = now;
}

int64_t profile_earliest(const struct profile *profile, int64_t from, int64_t duration, struct demand demand) {
    int64_t start = -1;
    bool open = false;

    for (size_t i = step_at(profile, from); i < profile->count; i++) {
        const struct profile_step *step = &profile->steps[i];
        if (open && step->time - start >= duration)
            return start;
        if (!demand_fits(demand, step->free)) {
            open = false;
            continue;
        }
        if (!open) {
            start = step->time > from ? step->time : from;
            open = true;
        }
    }
    return open ? start : TIME_FOREVER;
}
