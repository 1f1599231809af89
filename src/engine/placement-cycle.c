// SPDX-License-Identifier: GPL-2.0-or-later
/* Whoever must be near a group waits until one of it is placed. Among requests that are to be placed together some may wait
 * for each other, so that none can be first: found by letting in, again and again, whoever waits for nobody, and following
 * from one that is left to the one it waits for until a group comes a second time. */
#include <errno.h>
#include <stdlib.h>

#include "base/text.h"
#include "engine/placement.h"

struct search {
    const struct nodes *nodes;
    const struct placement_request *requests;
    size_t count, group_count;
    bool *present; /* per group: somebody of it is there, or can come */
    bool *placed;  /* per request: it can come */
};

/* The first group that it must be near and that nobody is of; -1. The first of a group need not be near its own. */
static int waits_for(const struct search *search, size_t number) {
    const struct placement_request *request = &search->requests[number];

    for (unsigned i = 0; i < request->constraint_count; i++) {
        const struct constraint *constraint = &request->constraints[i];
        if (constraint->type == CONSTRAINT_AFFINITY && (int32_t) constraint->group != request->group &&
            !search->present[constraint->group])
            return (int) constraint->group;
    }
    return -1;
}

static void let_in(struct search *search) {
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < search->count; i++) {
            if (search->placed[i] || waits_for(search, i) >= 0)
                continue;
            search->placed[i] = more = true;
            if (search->requests[i].group >= 0)
                search->present[search->requests[i].group] = true;
        }
    }
}

/* A request of the group; they all wait, or somebody of it would be there. */
static size_t find_member(const struct search *search, int group) {
    for (size_t i = 0; i < search->count; i++)
        if (search->requests[i].group == group)
            return i;
    return SIZE_MAX;
}

static int refuse(struct error *error, char *sentence) {
    _cleanup_free_ char *text = sentence;

    return text ? error_set(error, ERROR_BAD_REQUEST, text) : -ENOMEM;
}

/* `chain`: the groups that were waited for one after the other; the last is the one at `from` again. */
static int refuse_cycle(const struct search *search, const int *chain, size_t from, size_t count, struct error *error) {
    const char *name = nodes_number_name(search->nodes, NAMES_GROUPS, (unsigned) chain[from]);
    char *text = text_format("'%s' must be near '%s'", name,
                             nodes_number_name(search->nodes, NAMES_GROUPS, (unsigned) chain[from + 1]));

    for (size_t i = from + 2; text && i < count; i++) {
        _cleanup_free_ char *before = text;
        text = text_format("%s, that near '%s'", before,
                           nodes_number_name(search->nodes, NAMES_GROUPS, (unsigned) chain[i]));
    }
    _cleanup_free_ char *cycle = text;
    return refuse(error, cycle ? text_format("%s: none of them can be first", cycle) : NULL);
}

static int follow(const struct search *search, size_t number, struct error *error) {
    _cleanup_free_ int *chain = calloc(search->group_count + 1, sizeof(*chain));
    size_t count = 0;

    if (!chain)
        return -ENOMEM;
    for (;;) {
        int group = waits_for(search, number);
        chain[count++] = group;
        for (size_t i = 0; i + 1 < count; i++)
            if (chain[i] == group)
                return refuse_cycle(search, chain, i, count, error);
        number = find_member(search, group);
        if (number == SIZE_MAX)
            return refuse(error, text_format("it must be near '%s', and nobody is in that group",
                                             nodes_number_name(search->nodes, NAMES_GROUPS, (unsigned) group)));
    }
}

static size_t count_groups(const struct placement_request *requests, size_t count) {
    size_t groups = 0;

    for (size_t i = 0; i < count; i++) {
        if (requests[i].group >= 0 && (size_t) requests[i].group >= groups)
            groups = (size_t) requests[i].group + 1;
        for (unsigned k = 0; k < requests[i].constraint_count; k++)
            if (requests[i].constraints[k].group >= groups)
                groups = requests[i].constraints[k].group + 1;
    }
    return groups;
}

int placement_check_batch(const struct placement *placement, const struct placement_request *requests, size_t count,
                          struct error *error) {
    size_t groups = count_groups(requests, count);
    _cleanup_free_ bool *present = calloc(groups + 1, sizeof(*present)), *placed = calloc(count + 1, sizeof(*placed));
    struct search search = { placement->nodes, requests, count, groups, present, placed };
    int r = present && placed ? 0 : -ENOMEM;

    for (unsigned i = 0; r >= 0 && i < groups; i++)
        present[i] = nodes_group_size(placement->nodes, i) > 0;
    if (r >= 0)
        let_in(&search);
    for (size_t i = 0; r >= 0 && i < count; i++)
        if (!placed[i])
            r = follow(&search, i, error);
    return r == -ENOMEM && !error_is_set(error) ? error_errno(error, r, "checking constraints") : r;
}
