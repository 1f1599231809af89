// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/bucket.h"

#include "engine/engine.h"

#define TOKEN 1000
#define SECOND 1000000

void bucket_init(struct bucket *bucket, int64_t priority, uint64_t base, uint64_t seconds, uint64_t now) {
    uint64_t rate = base * engine_cpu_weight(priority) * TOKEN / 100;

    *bucket = (struct bucket){ .rate = rate, .depth = rate * seconds, .last = now };
    if (rate > 0 && bucket->depth < TOKEN)
        bucket->depth = TOKEN;
    bucket->tokens = bucket->depth;
}

/* Nothing that trickles in is lost to rounding, however often it is looked at. */
static struct bucket filled(const struct bucket *bucket, uint64_t now) {
    struct bucket after = *bucket;
    unsigned __int128 gained;

    if (now <= bucket->last)
        return after;
    gained = (unsigned __int128) (now - bucket->last) * bucket->rate + bucket->rest;
    after.last = now;
    after.rest = (uint64_t) (gained % SECOND);
    gained = gained / SECOND + bucket->tokens;
    if (gained >= bucket->depth) {
        after.tokens = bucket->depth;
        after.rest = 0;
    } else {
        after.tokens = (uint64_t) gained;
    }
    return after;
}

bool bucket_take(struct bucket *bucket, uint64_t now) {
    *bucket = filled(bucket, now);
    if (bucket->tokens < TOKEN)
        return false;
    bucket->tokens -= TOKEN;
    return true;
}

uint64_t bucket_wait(const struct bucket *bucket, uint64_t now) {
    struct bucket after = filled(bucket, now);
    unsigned __int128 missing;

    if (after.tokens >= TOKEN)
        return 0;
    if (after.rate == 0)
        return UINT64_MAX;
    missing = (unsigned __int128) (TOKEN - after.tokens) * SECOND - after.rest;
    return (uint64_t) ((missing + after.rate - 1) / after.rate);
}
