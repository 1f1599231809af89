// SPDX-License-Identifier: GPL-2.0-or-later
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

static uint64_t number_at(struct json_object *object, const char *path) {
    struct json_object *value = json_path(object, path);

    return value ? (uint64_t) json_object_get_int64(value) : 0;
}

static void show_line(const char *title, char *value_take) {
    printf("%-11s ", title);
    print_escaped(stdout, value_take ? value_take : "-", value_take ? strlen(value_take) : 1, false);
    putchar('\n');
    free(value_take);
}

static char *cpus_at(struct json_object *object, const char *path) {
    return text_format_cpus(number_at(object, path));
}

static void show_weight(struct json_object *object) {
    _cleanup_free_ char *alpha = cpus_at(object, "weight.alpha_milli");

    show_line("Weight", text_format("%llu in force; alpha %s x priority's %llu + beta %s x %llu s of running",
                                    (unsigned long long) number_at(object, "weight.in_force"), alpha ? alpha : "",
                                    (unsigned long long) number_at(object, "weight.priority_share"),
                                    json_path_text(object, "weight.beta_per_hour", "0"),
                                    (unsigned long long) number_at(object, "weight.running_seconds")));
}

static void show_cpu(struct json_object *object) {
    _cleanup_free_ char *asked = cpus_at(object, "cpu.requested_milli"), *score = cpus_at(object, "cpu.score"),
                        *priority = cpus_at(object, "cpu.priority_factor_milli"),
                        *weight = cpus_at(object, "cpu.weight_factor_milli"), *low = cpus_at(object, "cpu.floor_milli"),
                        *high = cpus_at(object, "cpu.limit_milli"), *granted = cpus_at(object, "cpu.granted_milli"),
                        *busy = cpus_at(object, "cpu.busy_milli");
    uint64_t share = number_at(object, "cpu.share_ppm");
    struct json_object *contended = json_path(object, "cpu.contended");

    show_line("Score", text_format("%s = %s requested x %s priority x %s weight", score ? score : "", asked ? asked : "",
                                   priority ? priority : "", weight ? weight : ""));
    show_line("CPUs", text_format("%s granted%s, between %s and %s; %s while all are busy", granted ? granted : "",
                                  json_object_get_boolean(contended) ? " of too few for all" : "", low ? low : "",
                                  high ? high : "", busy ? busy : ""));
    show_line("Share", text_format("%llu.%04llu %% of its pool's weight of %llu", (unsigned long long) (share / 10000),
                                   (unsigned long long) (share % 10000),
                                   (unsigned long long) number_at(object, "cpu.pool_weight")));
    if (json_path(object, "cpu.control_group.file"))
        show_line("In force", text_format("%s %s, processors %s", json_path_text(object, "cpu.control_group.file", ""),
                                          json_path_text(object, "cpu.control_group.value", ""),
                                          json_path_text(object, "cpu.control_group.cpuset", "")));
}

static char *rate_at(struct json_object *object, const char *path) {
    uint64_t rate = number_at(object, path);
    _cleanup_free_ char *size = rate > 0 ? text_format_size(rate) : NULL;

    return size ? text_format("%s/s", size) : strdup("no limit");
}

static void show_rates(struct json_object *object) {
    _cleanup_free_ char *read = rate_at(object, "rates.io_read"), *write = rate_at(object, "rates.io_write"),
                        *in = rate_at(object, "rates.network_in"), *out = rate_at(object, "rates.network_out");

    show_line("Rates", text_format("disk: read %s, write %s; network: in %s, out %s", read ? read : "", write ? write : "",
                                   in ? in : "", out ? out : ""));
}

static void show_rest(struct json_object *object) {
    _cleanup_free_ char *low = text_format_size(number_at(object, "memory.floor")),
                        *asked = text_format_size(number_at(object, "memory.requested")),
                        *high = text_format_size(number_at(object, "memory.limit")),
                        *granted = text_format_size(number_at(object, "memory.granted"));
    bool scarce = json_object_get_boolean(json_path(object, "memory.short"));

    show_line("Memory", text_format("%s, between %s and %s%s%s", asked ? asked : "", low ? low : "", high ? high : "",
                                    scarce ? "; the host is short of it: " : "", scarce && granted ? granted : ""));
    show_line("Requests", text_format("%llu reads, %llu writes, %llu control messages (%llu waited)",
                                      (unsigned long long) number_at(object, "requests.io_reads"),
                                      (unsigned long long) number_at(object, "requests.io_writes"),
                                      (unsigned long long) number_at(object, "requests.control_calls"),
                                      (unsigned long long) number_at(object, "requests.control_waits")));
}

static int run_allocation(struct invocation *invocation, struct error *error) {
    const char *name = invocation->arguments[0];
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = instance_path(name, "/allocation");
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0) {
        suggest_instance(invocation, name, error);
        return r;
    }
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "name", error);
    show_line("Name", text_format("%s", json_text(response.json, "name", "")));
    show_line("Mode", text_format("%s", json_text(response.json, "mode", "")));
    _cleanup_free_ char *capacity = cpus_at(response.json, "pool.capacity_milli");
    show_line("Pool", text_format("processors %s (%s), with %s instances",
                                  json_path_text(response.json, "pool.processors", ""), capacity ? capacity : "",
                                  json_path_text(response.json, "pool.instances", "")));
    show_weight(response.json);
    show_cpu(response.json);
    show_rates(response.json);
    show_rest(response.json);
    return 0;
}

const struct command command_allocation = {
    .name = "allocation", .group = GROUP_INSTANCES, .summary = "Show what an instance has of processors and memory, and why",
    .usage = "INSTANCE",
    .description = "Every term of the formulas that lead to its share: what it requested, its priority's factor, its weight, "
                   "floor and limit, what that grants, and the value in its control group.",
    .examples = "  polder allocation web\n  polder allocation web -o json\n",
    .minimum = 1, .maximum = 1, .complete = COMPLETE_INSTANCES, .common = COMMON_OUTPUT, .run = run_allocation,
};
