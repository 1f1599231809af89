// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/budget.h"

#include "base/clock.h"
#include "base/fiber.h"

void budget_set(struct budget *budget, int64_t priority, uint64_t rate) {
    uint64_t now = clock_now(), saved = budget->bucket.tokens;

    bucket_init(&budget->bucket, priority, rate, BUDGET_SECONDS, now);
    if (budget->set && saved < budget->bucket.tokens)
        budget->bucket.tokens = saved;
    budget->set = true;
}

int budget_take(struct budget *budget) {
    bool waited = false;

    budget->calls++;
    while (!bucket_take(&budget->bucket, clock_now())) {
        int r = fiber_sleep(bucket_wait(&budget->bucket, clock_now()));
        if (r < 0)
            return r;
        budget->waits += !waited;
        waited = true;
    }
    return 0;
}
