// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

#define CHART_WIDTH 48
#define CHART_ROWS 20
#define CHART_NAME 16

struct queue_options {
    int64_t limit;
    const char *ledger;
};

static double number_of(struct json_object *object, const char *key) {
    struct json_object *value = json_member(object, key);

    return value ? json_object_get_double(value) : -1;
}

static char *duration_cell(struct json_object *object, const char *key, const char *unknown) {
    double seconds = number_of(object, key);

    if (seconds < 0)
        return strdup(unknown);
    return text_format_duration(seconds < 1 ? (uint64_t) (seconds * 1000) : (uint64_t) seconds * 1000);
}

static char *cell_waited(struct json_object *object) {
    return duration_cell(object, "waited", "-");
}

static char *cell_expected(struct json_object *object) {
    return duration_cell(object, "expected", "no end");
}

static char *cell_starts(struct json_object *object) {
    double seconds = number_of(object, "starts_in");

    return seconds >= 0 && seconds < 1 ? strdup("now") : duration_cell(object, "starts_in", "not known");
}

static char *cell_memory(struct json_object *object) {
    return text_format_size((uint64_t) json_integer(object, "memory", 0));
}

static const struct column queue_columns[] = {
    { .title = "POSITION", .path = "position", .right = true },
    { .title = "NAME", .path = "name" },
    { .title = "KIND", .path = "kind" },
    { .title = "CPUS", .path = "cpus", .right = true },
    { .title = "MEMORY", .cell = cell_memory, .right = true },
    { .title = "PRIORITY", .path = "priority", .right = true, .wide = true },
    { .title = "WAITED", .cell = cell_waited, .right = true },
    { .title = "EXPECTED", .cell = cell_expected, .right = true },
    { .title = "STARTS IN", .cell = cell_starts, .right = true },
    { .title = "START", .path = "start", .wide = true },
    { .title = "WHY", .path = "message" },
};
static const struct view queue_view = { .columns = queue_columns, .count = ELEMENTS(queue_columns), .name = "name",
                                        .empty = "nobody waits for room" };

/* --- the timeline ---------------------------------------------------------------------------------------------------- */

static double chart_end(struct json_object *rows, size_t count) {
    double end = 0;

    for (size_t i = 0; i < count; i++) {
        struct json_object *row = json_object_array_get_idx(rows, i);
        double start = number_of(row, "starts_in"), expected = number_of(row, "expected");
        double last = start < 0 ? 0 : start + (expected > 0 ? expected : 0);
        end = last > end ? last : end;
    }
    return end;
}

static void chart_row(struct json_object *row, double end) {
    double start = number_of(row, "starts_in"), expected = number_of(row, "expected");
    int from = start < 0 ? CHART_WIDTH : (int) (start / end * CHART_WIDTH);
    int until = expected < 0 ? CHART_WIDTH : (int) ((start + expected) / end * CHART_WIDTH);
    const char *name = json_text(row, "name", "");

    printf("%-*.*s |", CHART_NAME, CHART_NAME, name);
    for (int i = 0; i < CHART_WIDTH; i++)
        putchar(i >= from && (i < until || i == from) ? '#' : '.');
    puts(expected < 0 && start >= 0 ? ">" : "|");
}

/* When each runs, as far as it is known. */
static void show_chart(struct json_object *rows) {
    size_t count = json_object_is_type(rows, json_type_array) ? json_object_array_length(rows) : 0;
    double end;
    _cleanup_free_ char *text = NULL;

    count = count < CHART_ROWS ? count : CHART_ROWS;
    end = chart_end(rows, count);
    if (count == 0 || end <= 0)
        return;
    text = text_format_duration((uint64_t) end * 1000);
    printf("\n%-*s  now%*s\n", CHART_NAME, "", CHART_WIDTH - 3, text ? text : "");
    for (size_t i = 0; i < count; i++)
        chart_row(json_object_array_get_idx(rows, i), end);
}

/* --- the record ------------------------------------------------------------------------------------------------------ */

static int write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno != EINTR)
            return -errno;
        data += written > 0 ? written : 0;
        size -= written > 0 ? (size_t) written : 0;
    }
    return 0;
}

static int save_ledger(struct invocation *invocation, const char *path, struct error *error) {
    bool to_output = text_equal(path, "-");
    _cleanup_close_ int file = -EBADF;
    struct client *client;
    char data[65536];
    long n = 1;
    int r = invocation_client(invocation, &client, error);

    if (r >= 0)
        r = client_stream_begin(client, "/v1/ledger", error);
    if (r < 0)
        return r;
    if (!to_output)
        file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!to_output && file < 0)
        return error_errno(error, -errno, "creating %s", path);
    while (r >= 0 && (n = client_stream_read(client, data, sizeof(data), error)) > 0)
        r = write_all(to_output ? STDOUT_FILENO : file, data, (size_t) n);
    if (r < 0)
        return error_errno(error, r, "writing %s", path);
    return n < 0 ? (int) n : 0;
}

static int run_queue(struct invocation *invocation, struct error *error) {
    const struct queue_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = text_format("/v1/queue?limit=%lld", (long long) (options->limit ? options->limit : 100));
    bool table = invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE;
    struct json_object *rows;
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (options->ledger)
        return save_ledger(invocation, options->ledger, error);
    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0)
        return r;
    rows = json_member(response.json, "queue");
    r = output_list(invocation, &queue_view, rows, response.json, error);
    if (r < 0 || !table || invocation->quiet)
        return r;
    show_chart(rows);
    printf("%s%s waiting, %s admitted; policy %s, backfilling %s\n", rows && json_object_array_length(rows) ? "\n" : "",
           json_path_text(response.json, "waiting", "0"), json_path_text(response.json, "admitted", "0"),
           json_text(response.json, "policy", ""), json_text(response.json, "backfill", ""));
    return r;
}

static const struct flag queue_flags[] = {
    { .name = "limit", .letter = 'n', .type = FLAG_NUMBER, .offset = offsetof(struct queue_options, limit),
      .value = "NUMBER", .help = "At most so many, from the first on; default 100." },
    { .name = "ledger", .type = FLAG_TEXT, .offset = offsetof(struct queue_options, ledger), .value = "FILE",
      .help = "Write what the engine was told and decided, as far as it is kept, to FILE (- for standard output) instead: "
              "'polder simulate queue FILE' replays it under other policies." },
};

const struct command command_queue = {
    .name = "queue", .group = GROUP_NODE, .summary = "Show who waits for room: order, expected start, reason", .usage = "",
    .description = "The order is that of the node's policy ('polder node set'). An expected start holds if nobody else came "
                   "and expected run times held; it is not known while somebody without a known end is in the way. A "
                   "timeline follows the table: # is the time in which each is expected to run.",
    .flags = queue_flags, .flag_count = ELEMENTS(queue_flags), .options_size = sizeof(struct queue_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_queue,
};
