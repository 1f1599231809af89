// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/usage.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/fixed.h"

#define EMPTY INT64_MIN

void usage_done(struct usage *usage) {
    free(usage->accounts);
    usage->accounts = NULL;
    usage->count = usage->size = 0;
}

static struct usage_account *place(const struct usage *usage, uint64_t owner) {
    size_t mask = usage->size - 1, at = (size_t) (owner * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;

    while (usage->accounts[at].updated != EMPTY && usage->accounts[at].owner != owner)
        at = (at + 1) & mask;
    return &usage->accounts[at];
}

static int grow(struct usage *usage) {
    struct usage old = *usage;

    usage->size = old.size ? old.size * 2 : 64;
    usage->accounts = malloc(usage->size * sizeof(*usage->accounts));
    if (!usage->accounts) {
        *usage = old;
        return -ENOMEM;
    }
    for (size_t i = 0; i < usage->size; i++)
        usage->accounts[i].updated = EMPTY;
    for (size_t i = 0; i < old.size; i++)
        if (old.accounts[i].updated != EMPTY)
            *place(usage, old.accounts[i].owner) = old.accounts[i];
    free(old.accounts);
    return 0;
}

static double decayed(const struct usage *usage, const struct usage_account *account, int64_t now) {
    if (now <= account->updated)
        return account->amount;
    return account->amount * fixed_exp2(-(double) (now - account->updated) / usage->half_life);
}

int usage_reserve(struct usage *usage) {
    return usage->count * 2 >= usage->size ? grow(usage) : 0;
}

int usage_add(struct usage *usage, uint64_t owner, int64_t now, double amount) {
    struct usage_account *account;

    if (usage_reserve(usage) < 0)
        return -ENOMEM;
    account = place(usage, owner);
    if (account->updated == EMPTY) {
        *account = (struct usage_account){ .owner = owner, .updated = now };
        usage->count++;
    }
    account->amount = decayed(usage, account, now) + amount;
    account->updated = now;
    return 0;
}

double usage_of(const struct usage *usage, uint64_t owner, int64_t now) {
    const struct usage_account *account;

    if (usage->size == 0)
        return 0;
    account = place(usage, owner);
    return account->updated == EMPTY ? 0 : decayed(usage, account, now);
}
