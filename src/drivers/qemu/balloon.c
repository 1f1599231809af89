// SPDX-License-Identifier: GPL-2.0-or-later
/* The balloon as the allocator moves it: told, and listened to, never waited for. What the guest says of its memory it says
 * through its balloon driver every few seconds, while it is asked to; QEMU keeps the last answer for ever, and the guest gives
 * one when its driver starts, unasked: what it used hours ago says nothing of now. */
#include <errno.h>
#include <json-c/json.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/machine.h"

#define BALLOON_PATH "/machine/peripheral/balloon"
#define LISTENING_PERIOD 2 /* seconds */
#define ANSWER_COUNTS (5 * LISTENING_PERIOD) /* seconds; a busy guest is slow to answer */
#define GUEST_OVERHEAD (UINT64_C(24) << 20) /* at least; what its kernel keeps before it counts */

static int listen_set(struct machine *machine, bool listens) {
    _cleanup_free_ char *arguments = text_format("{\"path\":\"" BALLOON_PATH "\",\"property\":\"guest-stats-polling-interval\","
                                                 "\"value\":%d}", listens ? LISTENING_PERIOD : 0);
    int r;

    if (machine->listens == listens && machine->listening_known)
        return 0;
    r = arguments ? machine_call(machine, "qom-set", arguments, NULL, NULL) : -ENOMEM;
    if (r >= 0) {
        machine->listens = listens;
        machine->listening_known = true;
        machine->listening_since = clock_wall() / CLOCK_SECOND;
    }
    return r;
}

/* QEMU dates an answer by the host's clock, in whole seconds. That may have been set back since. */
static bool is_fresh(const struct machine *machine, int64_t answered) {
    int64_t now = (int64_t) (clock_wall() / CLOCK_SECOND), since = (int64_t) machine->listening_since;

    return (answered >= since || since > now) && answered <= now && now - answered <= ANSWER_COUNTS;
}

/* Of `size` bytes that it has, how many could it not do without? 0: it has not said, or not lately. What its kernel took
 * before it began to count (its code, its tables of pages) is not in its total, but is needed. */
static int used_ask(struct machine *machine, uint64_t size, uint64_t *ret) {
    _cleanup_json_ struct json_object *answer = NULL;
    struct json_object *statistics;
    int64_t total, available;
    uint64_t overhead = machine->boot_memory / 64 + GUEST_OVERHEAD;
    int r = machine_call(machine, "qom-get", "{\"path\":\"" BALLOON_PATH "\",\"property\":\"guest-stats\"}", &answer, NULL);

    *ret = 0;
    if (r < 0)
        return r;
    statistics = json_member(answer, "stats");
    total = json_integer(statistics, "stat-total-memory", -1);
    available = json_integer(statistics, "stat-available-memory", -1);
    if (!is_fresh(machine, json_integer(answer, "last-update", 0)) || total <= 0 || available < 0 || available > total)
        return 0;
    if (size > (uint64_t) total && size - (uint64_t) total > overhead)
        overhead = size - (uint64_t) total;
    *ret = (uint64_t) (total - available) + overhead;
    return 0;
}

int machine_balloon(struct machine *machine, struct driver_balloon *balloon, struct error *error) {
    _cleanup_json_ struct json_object *info = NULL;
    _cleanup_free_ char *arguments = NULL;
    int r = 0;

    balloon->size = balloon->used = 0;
    if (balloon->target) {
        arguments = text_format("{\"value\":%llu}", (unsigned long long) balloon->target);
        r = arguments ? machine_call(machine, "balloon", arguments, NULL, error) : -ENOMEM;
    }
    if (r >= 0)
        r = listen_set(machine, balloon->listen);
    if (r >= 0)
        r = machine_call(machine, "query-balloon", NULL, &info, error);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "moving the balloon");
    balloon->size = (uint64_t) json_integer(info, "actual", 0);
    return balloon->listen ? used_ask(machine, balloon->size, &balloon->used) : 0;
}
