// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/placement-ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int placement_ledger_init(struct placement_ledger *ledger, size_t decisions) {
    size_t room = 1;

    while (room < decisions)
        room *= 2;
    *ledger = (struct placement_ledger){ .records = calloc(room, sizeof(*ledger->records)), .room = room };
    return ledger->records ? 0 : -ENOMEM;
}

void placement_ledger_done(struct placement_ledger *ledger) {
    free(ledger->records);
    *ledger = (struct placement_ledger){ 0 };
}

void placement_ledger_write(struct placement_ledger *ledger, uint64_t now,
                            const struct placement_decision *decision) {
    struct ledger_record *record = &ledger->records[ledger->written++ & (ledger->room - 1)];

    record->number = decision->number;
    record->position = decision->position;
    record->shape = decision->shape;
    record->now = now;
    record->node = decision->node;
    record->gpus = decision->gpus;
    record->candidate_count = decision->candidate_count;
    memcpy(record->candidates, decision->candidates, sizeof(record->candidates));
    memcpy(record->refused, decision->refused, sizeof(record->refused));
}

const struct ledger_record *placement_ledger_find(const struct placement_ledger *ledger, uint64_t number) {
    uint64_t kept = ledger->written < ledger->room ? ledger->written : ledger->room;

    /* Numbers rise, but not each decision need be written. */
    for (uint64_t i = 1; i <= kept; i++) {
        const struct ledger_record *record = &ledger->records[(ledger->written - i) & (ledger->room - 1)];
        if (record->number == number)
            return record;
        if (record->number < number)
            break;
    }
    return NULL;
}
