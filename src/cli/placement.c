// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/placement.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/output.h"
#include "cli/terminal.h"

static void show_line(char *line) {
    if (line)
        print_escaped(stdout, line, strlen(line), false);
    putchar('\n');
    free(line);
}

/* What is missing, or which names, after the filter's sentence. */
static char *detail(struct json_object *filter) {
    struct json_object *names = json_member(filter, "lacks");
    int64_t millionths = json_integer(filter, "lacks_millionths", -1), bytes = json_integer(filter, "lacks", -1);
    _cleanup_free_ char *amount = millionths >= 0 ? text_format_cpus(((uint64_t) millionths + 999) / 1000)
                                  : bytes >= 0    ? text_format_size((uint64_t) bytes)
                                                  : NULL;

    if (amount)
        return text_format(" (%s more needed)", amount);
    if (json_object_is_type(names, json_type_array) && json_object_array_length(names) > 0)
        return text_format(" (no %s)", json_object_get_string(json_object_array_get_idx(names, 0)));
    return strdup("");
}

/* "host passes closed, taint; it has too few CPUs left (0.5 more needed)" */
static void show_node(struct json_object *node) {
    struct json_object *filters = json_member(node, "filters");
    _cleanup_list_ char **passed = NULL, **failed = NULL;
    _cleanup_free_ char *passes = NULL, *fails = NULL;
    size_t count = json_object_is_type(filters, json_type_array) ? json_object_array_length(filters) : 0;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < count; i++) {
        struct json_object *filter = json_object_array_get_idx(filters, i);
        _cleanup_free_ char *more = detail(filter);
        if (json_boolean(filter, "passed", false))
            r = list_add(&passed, json_text(filter, "filter", ""));
        else
            r = list_addf(&failed, "it %s%s", json_text(filter, "sentence", ""), more ? more : "");
    }
    passes = passed ? list_join(passed, ", ") : strdup("nothing");
    fails = failed ? list_join(failed, "; ") : strdup("");
    show_line(text_format("  %s passes %s%s%s", json_text(node, "node", ""), passes ? passes : "", failed ? "; " : "",
                          fails ? fails : ""));
}

static void show_terms(struct json_object *node) {
    struct json_object *terms = json_member(node, "terms");
    _cleanup_free_ char *cpus = NULL, *memory = NULL, *left_cpus = NULL, *left_memory = NULL;

    if (!terms)
        return;
    cpus = text_format_cpus((uint64_t) json_integer(terms, "takes_cpus_millionths", 0) / 1000);
    memory = text_format_size((uint64_t) json_integer(terms, "takes_memory", 0));
    left_cpus = text_format_cpus((uint64_t) json_integer(terms, "left_cpus_millionths", 0) / 1000);
    left_memory = text_format_size((uint64_t) json_integer(terms, "left_memory", 0));
    show_line(text_format("  %s scores %lld (fit %lld, ends %lld): it takes %s cpus and %s there, and leaves %s and %s",
                          json_text(node, "node", ""), (long long) json_integer(node, "score", 0),
                          (long long) json_integer(terms, "fit", 0), (long long) json_integer(terms, "ends", 0),
                          cpus ? cpus : "?", memory ? memory : "?", left_cpus ? left_cpus : "?",
                          left_memory ? left_memory : "?"));
}

void show_placement(struct json_object *placement) {
    struct json_object *table = json_member(placement, "table");
    const char *node = json_text(placement, "node", NULL);

    if (!json_object_is_type(table, json_type_array))
        return;
    show_line(node ? text_format("placed on %s by the score %s", node, json_path_text(placement, "input.score", ""))
                   : strdup("no node takes it now"));
    for (size_t i = 0; i < json_object_array_length(table); i++) {
        show_node(json_object_array_get_idx(table, i));
        show_terms(json_object_array_get_idx(table, i));
    }
    show_line(text_format("  %s", json_text(placement, "if", "")));
}

void show_optimized(struct json_object *done) {
    if (json_object_is_type(done, json_type_object))
        show_line(text_format("by the optimiser (plan %s, applied by %s): %s, for %s", json_text(done, "plan", ""),
                              json_text(done, "actor", ""), json_path_text(done, "step.action", ""),
                              json_path_text(done, "step.message", "")));
}
