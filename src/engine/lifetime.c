// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/lifetime.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The weight of what all classes show, in instances. */
#define PRIOR 3.0
/* While nothing is known: of those that reach an age, this share ends before it doubles. */
#define PRIOR_ENDS 0.4

struct history {
    uint32_t reached[LIFETIME_OCTAVES], ended[LIFETIME_OCTAVES];
};

struct lifetimes {
    struct history all;
    struct history *classes;
    size_t room;
};

int lifetimes_new(struct lifetimes **ret) {
    *ret = calloc(1, sizeof(**ret));
    return *ret ? 0 : -ENOMEM;
}

void lifetimes_free(struct lifetimes *lifetimes) {
    if (!lifetimes)
        return;
    free(lifetimes->classes);
    free(lifetimes);
}

unsigned lifetime_octave(uint64_t age) {
    unsigned octave = 0;

    for (age /= LIFETIME_UNIT; age > 0 && octave < LIFETIME_OCTAVES - 1; age /= 2)
        octave++;
    return octave;
}

uint64_t lifetime_octave_begin(unsigned octave) {
    return octave == 0 ? 0 : (uint64_t) LIFETIME_UNIT << (octave - 1);
}

static int make_room(struct lifetimes *lifetimes, uint32_t number) {
    size_t room = lifetimes->room ? lifetimes->room : 16;

    if (number < lifetimes->room)
        return 0;
    while (room <= number)
        room *= 2;
    struct history *classes = reallocarray(lifetimes->classes, room, sizeof(*classes));
    if (!classes)
        return -ENOMEM;
    memset(classes + lifetimes->room, 0, (room - lifetimes->room) * sizeof(*classes));
    lifetimes->classes = classes;
    lifetimes->room = room;
    return 0;
}

int lifetimes_reached(struct lifetimes *lifetimes, uint32_t number, unsigned octave) {
    int r = make_room(lifetimes, number);

    if (r < 0)
        return r;
    lifetimes->all.reached[octave]++;
    lifetimes->classes[number].reached[octave]++;
    return 0;
}

int lifetimes_ended(struct lifetimes *lifetimes, uint32_t number, unsigned octave) {
    int r = make_room(lifetimes, number);

    if (r < 0)
        return r;
    lifetimes->all.ended[octave]++;
    lifetimes->classes[number].ended[octave]++;
    return 0;
}

/* Share of those that reach the octave that end in it. */
static double ends_in(const struct lifetimes *lifetimes, uint32_t number, unsigned octave) {
    double general = (lifetimes->all.ended[octave] + PRIOR * PRIOR_ENDS) /
                     (lifetimes->all.reached[octave] + PRIOR);

    if (number >= lifetimes->room)
        return general;
    const struct history *own = &lifetimes->classes[number];
    return (own->ended[octave] + PRIOR * general) / (own->reached[octave] + PRIOR);
}

uint64_t lifetimes_expected(const struct lifetimes *lifetimes, uint32_t number, uint64_t age) {
    unsigned octave = lifetime_octave(age);
    double alive = 1, sum = 0;

    for (; octave < LIFETIME_OCTAVES - 1; octave++) {
        uint64_t begin = lifetime_octave_begin(octave), end = lifetime_octave_begin(octave + 1);
        double left = (double) (end - (age > begin ? age : begin)), share = left / (double) (end - begin);
        double all = ends_in(lifetimes, number, octave);
        /* Ends lie evenly in an octave: some of those that began it are gone at this age. */
        double ends = all * share / (1 - all * (1 - share));
        sum += alive * left * (1 - ends / 2);
        alive *= 1 - ends;
        if (alive < 0.01)
            break;
    }
    return sum < 1 ? 1 : (uint64_t) sum;
}
