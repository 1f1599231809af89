// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/queue.h"

#include <stddef.h>
#include <string.h>

static const char *check_parameter(const char *text) {
    return strchr(text, '=') ? NULL : "give NAME=VALUE";
}

#define ROW(row_name, row_type, row_help, ...)                                                               \
    { .name = #row_name, .type = row_type, .offset = offsetof(struct queue_settings, row_name),              \
      .change = CHANGE_LIVE, .flag = #row_name, .help = row_help, __VA_ARGS__ }
static const struct field fields[] = {
    ROW(policy, FIELD_TEXT, "Who comes first among those that wait: polder, fcfs, sjf, srtf, rr, priority, dynamic, ...",
        .initial = "polder", .maximum = 32, .value = "POLICY"),
    ROW(backfill, FIELD_TEXT, "Who may go ahead of the first that does not fit: none, easy, easy-sjbf, conservative, greedy.",
        .initial = "easy", .maximum = 32, .value = "KIND"),
    ROW(estimates, FIELD_TEXT, "How long a run is taken to last: requested, predicted (its class's last two), history (what all "
                               "that is known tells), or learning (likewise, and anew for those that wait when something ends).",
        .initial = "learning", .maximum = 32, .value = "KIND"),
    ROW(parameters, FIELD_MAP, "Parameters of policies, such as rr.quantum=30.", .maximum = 64,
        .check = check_parameter, .value = "NAME=VALUE"),
    ROW(residency, FIELD_DURATION, "How long nobody who started has to give way to others.", .initial = "30s",
        .maximum = 86400000, .value = "DURATION"),
};
const struct table queue_settings_table = TABLE("queue settings", struct queue_settings, fields);
