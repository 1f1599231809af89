// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/weight.h"

#include "engine/engine.h"

#define HOUR INT64_C(3600000000) /* in microseconds */
#define YEAR (8766 * HOUR)

static int64_t clamp(int64_t value, int64_t least, int64_t most) {
    return value < least ? least : value > most ? most : value;
}

uint64_t weight_of(const struct weight_rule *rule, int64_t priority, uint64_t running) {
    int64_t age = running > (uint64_t) YEAR ? YEAR : (int64_t) running;
    int64_t alpha = clamp(rule->alpha, 0, 1000000), beta = clamp(rule->beta, -WEIGHT_BETA_MOST, WEIGHT_BETA_MOST);
    int64_t base = alpha * (int64_t) engine_cpu_weight(priority) / 1000;
    int64_t aged = (int64_t) ((__int128) beta * age / 1000 / HOUR);

    aged = clamp(aged, -base / 2, base);
    return (uint64_t) clamp(base + aged, WEIGHT_LEAST, WEIGHT_MOST);
}

uint64_t weight_settle(uint64_t in_force, uint64_t wished) {
    uint64_t distance = wished > in_force ? wished - in_force : in_force - wished;

    return distance * 10 >= in_force ? wished : in_force;
}

uint32_t weight_factor(uint64_t dynamic, int64_t priority) {
    uint64_t earned = engine_cpu_weight(priority), factor = (dynamic * 1000 + earned / 2) / earned;

    return factor < 1 ? 1 : factor > 1000000 ? 1000000 : (uint32_t) factor;
}

uint32_t priority_factor(int64_t priority) {
    return (uint32_t) (engine_cpu_weight(priority) * 10);
}
