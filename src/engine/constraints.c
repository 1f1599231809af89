// SPDX-License-Identifier: GPL-2.0-or-later
/* Who may start on the node at all, beside the room that the queue looks at. Before each pass those that the node does not take
 * are barred: they wait apart, so that they neither start nor stand in anybody's way. Of two that must not be together the one
 * that comes first in the queue's order stays in it, and the other is barred until that one has gone again. What is guaranteed
 * goes by the same order: whoever finds too little left of it is barred, and so is everybody behind who asks for some, lest small
 * ones kept a large one waiting for ever.
 *
 * The meaning of each term is that of placement's filters (filters.c) on one node, which placement-explain.c tells; a test
 * compares both. Here terms are counted once for all that wait, by name. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "engine/engine-internal.h"
#include "engine/ledger-internal.h"
#include "engine/queue-internal.h"
#include "model/placement.h"

#define KEY_MOST 256

_Static_assert((int) PLACEMENT_LEVELS == (int) LEVEL_COUNT && (int) PLACEMENT_ZONE == (int) LEVEL_ZONE, "the same levels");

const char *const engine_wish_names[WISH_COUNT] = { "labels",   "node_labels",   "features", "tolerations",
                                                    "affinity", "anti_affinity", "spread" };

/* --- wishes and the node ---------------------------------------------------------------------------------------------- */

static bool is_guaranteed(const struct engine_entry *entry) {
    return entry->guarantee.cpus > 0 || entry->guarantee.memory > 0;
}

static bool asks(const struct engine_entry *entry) {
    for (int i = WISH_LABELS + 1; i < WISH_COUNT; i++)
        if (entry->wishes[i] && entry->wishes[i][0])
            return true;
    return is_guaranteed(entry);
}

static bool repels(const struct engine_entry *entry) {
    return entry->wishes[WISH_ANTI_AFFINITY] && entry->wishes[WISH_ANTI_AFFINITY][0];
}

void constraints_forget(struct engine *engine, const struct engine_entry *entry) {
    engine->constrained -= asks(entry);
    engine->repelling -= repels(entry);
}

int constraints_note(struct engine *engine, struct engine_entry *entry, const struct engine_request *request) {
    bool asked = asks(entry), repelled = repels(entry);
    int r = entry_set_wishes(entry, &request->wishes);

    if (r < 0)
        return r;
    entry->guarantee = request->guarantee;
    engine->constrained += (size_t) asks(entry) - asked;
    engine->repelling += (size_t) repels(entry) - repelled;
    return 0;
}

int engine_set_place(struct engine *engine, char *const *traits, char *const *taints, uint64_t now) {
    _cleanup_list_ char **new_traits = NULL, **new_taints = NULL;
    int r = traits ? list_copy(traits, &new_traits) : 0;

    if (r >= 0 && taints)
        r = list_copy(taints, &new_taints);
    if (r < 0)
        return r;
    list_free(engine->place.traits);
    list_free(engine->place.taints);
    engine->place = (struct engine_place){ STEAL_PTR(new_traits), STEAL_PTR(new_taints) };
    ledger_note_place(engine, now);
    return 0;
}

char *const *engine_traits(const struct engine *engine) {
    return engine->place.traits;
}

char *const *engine_taints(const struct engine *engine) {
    return engine->place.taints;
}

/* --- what the node is ------------------------------------------------------------------------------------------------- */

/* Does the node lie in a rack, or zone? */
static bool lies_in(const struct engine_place *place, enum placement_level level) {
    size_t length = strlen(placement_level_names[level]);

    for (char *const *trait = place->traits; trait && *trait; trait++)
        if (strncmp(*trait, placement_level_names[level], length) == 0 && (*trait)[length] == '=')
            return true;
    return level == PLACEMENT_NODE;
}

static bool refuse(struct engine_refusal *ret, enum filter filter, const char *term) {
    *ret = (struct engine_refusal){ .filter = filter, .term = term };
    return true;
}

/* Labels and features alone: what does not pass by itself. */
static bool refuses_traits(const struct engine_place *place, char *const *labels, char *const *features,
                           struct engine_refusal *ret) {
    for (char *const *term = labels; term && *term; term++)
        if (!placement_label_holds(*term, place->traits))
            return refuse(ret, FILTER_TRAIT, *term);
    for (char *const *term = features; term && *term; term++)
        if (!list_has(place->traits, *term))
            return refuse(ret, FILTER_TRAIT, *term);
    return false;
}

/* What depends on the node and the one alone. */
static bool refuses_alone(const struct engine_place *place, const struct engine_entry *entry, struct engine_refusal *ret) {
    for (char *const *taint = place->taints; taint && *taint; taint++)
        if (!placement_tolerates(entry->wishes[WISH_TOLERATIONS], *taint))
            return refuse(ret, FILTER_TAINT, *taint);
    if (refuses_traits(place, entry->wishes[WISH_NODE_LABELS], entry->wishes[WISH_FEATURES], ret))
        return true;
    /* A node that is nowhere cannot help to spread; on the only one there are always as many as on each other. */
    for (char *const *term = entry->wishes[WISH_SPREAD]; term && *term; term++)
        if (!lies_in(place, placement_level(*term)))
            return refuse(ret, FILTER_SPREAD, *term);
    return false;
}

int constraints_check(const struct engine *engine, const struct engine_wishes *wishes, struct error *error) {
    struct engine_refusal refusal;
    _cleanup_free_ char *has = NULL, *text = NULL;

    if (!refuses_traits(&engine->place, wishes->lists[WISH_NODE_LABELS], wishes->lists[WISH_FEATURES], &refusal))
        return 0;
    has = placement_refused_label(refusal.term);
    if (has)
        text = text_format("each has the label %s, and it asks for %s", has, refusal.term);
    else
        text = text_format("none has the %s %s", strchr(refusal.term, '=') ? "label" : "feature", refusal.term);
    return error_set(error, ERROR_UNPLACEABLE, text ? text : "");
}

/* --- who is there ----------------------------------------------------------------------------------------------------- */

static bool is_there(const struct engine_entry *entry) {
    return entry->admitted || entry->paused;
}

static bool selects(const char *term, const struct engine_entry *entry) {
    return placement_selects(term, entry->name, entry->wishes[WISH_LABELS]);
}

/* The next entry from a handle on, in the order of handles; NULL at the end. */
static const struct engine_entry *next_entry(const struct engine *engine, size_t *position) {
    while (*position < engine->queue->entry_count) {
        uint32_t handle = (uint32_t) (*position)++;
        if (engine->queue->entries[handle].state != QUEUE_ABSENT)
            return engine_entry_at(engine, handle);
    }
    return NULL;
}

/* The term by which `one` keeps away from `other`; NULL. */
static const char *keeps_away(const struct engine_place *place, const struct engine_entry *one, const struct engine_entry *other) {
    for (char *const *term = one->wishes[WISH_ANTI_AFFINITY]; term && *term; term++)
        if (lies_in(place, placement_level(*term)) && selects(*term, other))
            return *term;
    return NULL;
}

/* Those that must not be near it, of them that are there, or that wait. */
static void find_others(const struct engine *engine, const struct engine_place *place, const struct engine_entry *entry,
                        bool waiting, struct engine_refusal *ret) {
    const struct engine_entry *other;
    size_t position = 0;

    while (engine->repelling > 0 && (other = next_entry(engine, &position))) {
        bool counts = waiting ? engine->queue->entries[other->handle].state == QUEUE_WAITING && !other->paused : is_there(other);
        const char *own = counts && other != entry ? keeps_away(place, entry, other) : NULL;
        const char *term = counts && other != entry && !own ? keeps_away(place, other, entry) : own;
        if (!term || ret->others++ > 0)
            continue;
        ret->filter = FILTER_ANTI_AFFINITY;
        ret->term = term;
        ret->other = other->name;
        ret->against = !own;
    }
    ret->ahead = waiting && ret->others > 0;
}

size_t engine_selected(const struct engine *engine, const char *term, const char *but) {
    const struct engine_entry *other;
    size_t position = 0, count = 0;

    while ((other = next_entry(engine, &position)))
        count += is_there(other) && !text_equal(other->id, but) && selects(term, other);
    return count;
}

bool engine_against(const struct engine *engine, const char *id, size_t *position, const char **ret_term) {
    const struct engine_entry *entry = map_get(engine->entries, id), *other;

    while (entry && (other = next_entry(engine, position)))
        for (char *const *term = other->wishes[WISH_ANTI_AFFINITY]; is_there(other) && other != entry && term && *term; term++)
            if (lies_in(&engine->place, placement_level(*term)) && selects(*term, entry)) {
                *ret_term = *term;
                return true;
            }
    return false;
}

/* Is the term of an affinity met, where it selects so many that are there? The first of its own group may come anywhere. */
static bool is_met(const struct engine_place *place, const char *term, const struct engine_entry *entry, size_t there) {
    return there > 0 ? lies_in(place, placement_level(term)) : selects(term, entry);
}

static bool refuses_lonely(const struct engine *engine, const struct engine_place *place, const struct engine_entry *entry,
                           struct engine_refusal *ret) {
    for (char *const *term = entry->wishes[WISH_AFFINITY]; term && *term; term++)
        if (!is_met(place, *term, entry, engine_selected(engine, *term, entry->id)))
            return refuse(ret, FILTER_AFFINITY, *term);
    return false;
}

/* --- what is guaranteed ----------------------------------------------------------------------------------------------- */

struct guaranteed {
    uint64_t cpus, memory, owned; /* sums; thousandths of a CPU, bytes */
};

static void guaranteed_add(struct guaranteed *sum, const struct engine_entry *entry) {
    sum->cpus += entry->guarantee.cpus;
    sum->memory += entry->guarantee.memory;
    sum->owned += entry->guarantee.owned ? entry->guarantee.cpus : 0;
}

static uint64_t left_of(uint64_t all, uint64_t taken) {
    return all > taken ? all - taken : 0;
}

/* What of the node is left to be guaranteed to the entry, and is it too little? */
static bool guarantee_lacks(const struct engine *engine, const struct guaranteed *sum, const struct engine_entry *entry,
                            struct engine_refusal *ret) {
    uint64_t cpus = left_of(engine->node.cpus, sum->cpus), memory = left_of(engine->node.memory, sum->memory);
    uint64_t ownable = left_of(engine->node.cpus, sum->owned + 1000); /* one is left to everybody else */

    if (entry->guarantee.owned && ownable < cpus)
        cpus = ownable;
    if (entry->guarantee.cpus > cpus)
        *ret = (struct engine_refusal){ .filter = FILTER_CPU, .wanted = entry->guarantee.cpus, .free = cpus };
    else if (entry->guarantee.memory > memory)
        *ret = (struct engine_refusal){ .filter = FILTER_MEMORY, .wanted = entry->guarantee.memory, .free = memory };
    else
        return false;
    return true;
}

/* Does it come before the other in the queue's order, as it last was? */
static bool is_before(const struct engine *engine, const struct engine_entry *one, const struct engine_entry *other) {
    const struct queue_entry *a = &engine->queue->entries[one->handle], *b = &engine->queue->entries[other->handle];

    return a->key != b->key ? a->key < b->key : a->rank < b->rank;
}

/* Those that hold of what it lacks; or, where it lacks nothing and is barred, those that wait for some before it. */
static void refuses_guarantee(const struct engine *engine, const struct engine_entry *entry, bool barred, struct engine_refusal *ret) {
    bool is_fake = entry->kind == KIND_FAKE, lacks;
    struct guaranteed sum = { 0 };
    const struct engine_entry *other;
    size_t position = 0;

    if (!is_guaranteed(entry) || is_there(entry))
        return;
    while ((other = next_entry(engine, &position)))
        if (is_there(other) && (other->kind == KIND_FAKE) == is_fake)
            guaranteed_add(&sum, other);
    lacks = guarantee_lacks(engine, &sum, entry, ret);
    for (position = 0; (other = next_entry(engine, &position));) {
        bool holds = ret->filter == FILTER_MEMORY ? other->guarantee.memory > 0 : other->guarantee.cpus > 0;
        bool counts = lacks ? is_there(other) && holds
                            : barred && !is_there(other) && is_guaranteed(other) && is_before(engine, other, entry);
        if (!counts || other == entry || (other->kind == KIND_FAKE) != is_fake || ret->others++ > 0)
            continue;
        ret->other = other->name;
    }
    ret->ahead = !lacks && ret->others > 0;
    if (ret->ahead)
        ret->filter = entry->guarantee.cpus > 0 ? FILTER_CPU : FILTER_MEMORY;
}

static void explain(const struct engine *engine, const struct engine_place *place, const struct engine_entry *entry,
                    struct engine_refusal *ret) {
    bool is_barred = !is_there(entry) && engine->queue->entries[entry->handle].state == QUEUE_BARRED;

    *ret = (struct engine_refusal){ .filter = FILTER_PASSED };
    if (refuses_alone(place, entry, ret) || refuses_lonely(engine, place, entry, ret))
        return;
    find_others(engine, place, entry, false, ret);
    if (ret->others == 0 && is_barred)
        find_others(engine, place, entry, true, ret);
    if (ret->others == 0) /* who waits before it is known of the node as it is */
        refuses_guarantee(engine, entry, is_barred && place == &engine->place, ret);
}

void constraints_explain(const struct engine *engine, const struct engine_entry *entry, struct engine_refusal *ret) {
    explain(engine, &engine->place, entry, ret);
}

bool engine_suppose_place(const struct engine *engine, char *const *traits, char *const *taints, bool gone, size_t *position,
                          struct engine_verdict_of *ret) {
    const struct engine_place then = { (char **) traits, (char **) taints }; /* only read */
    const struct engine_entry *entry = next_entry(engine, position);

    if (!entry)
        return false;
    *ret = (struct engine_verdict_of){ .name = entry->name, .runs = is_there(entry) };
    explain(engine, &engine->place, entry, &ret->now);
    if (gone)
        ret->then = (struct engine_refusal){ .filter = FILTER_CLOSED };
    else
        explain(engine, &then, entry, &ret->then);
    return true;
}

/* --- barring ---------------------------------------------------------------------------------------------------------- */

/* Of each selector that a term names: how many it selects of those that are there, and of those that may start in this pass; and
 * how many of both keep away from what it selects. */
struct tally {
    char *selector;
    size_t there, coming, against;
};
struct tallies {
    struct map *by_selector;
    bool keys, names; /* some select by a label's key alone, or by name: else nobody is looked up by these */
};

static void tallies_done(struct tallies *tallies) {
    size_t position = 0;
    void *value;

    while (tallies->by_selector && map_next(tallies->by_selector, &position, NULL, &value)) {
        free(((struct tally *) value)->selector);
        free(value);
    }
    map_free(tallies->by_selector);
}

static int tallies_name(struct tallies *tallies, char *const *terms) {
    int r = 0;

    for (; r >= 0 && terms && *terms; terms++) {
        _cleanup_free_ char *selector = placement_selector(*terms, NULL);
        _cleanup_free_ struct tally *tally = calloc(1, sizeof(*tally));
        if (!selector || !tally)
            return -ENOMEM;
        if (map_get(tallies->by_selector, selector))
            continue;
        tally->selector = selector;
        tallies->keys |= !strchr(selector, '=');
        tallies->names |= text_starts(selector, "name=");
        r = map_put(tallies->by_selector, selector, tally);
        if (r >= 0) {
            selector = NULL; /* both are the map's now */
            tally = NULL;
        }
    }
    return r;
}

static struct tally *tally_of(const struct tallies *tallies, const char *term) {
    char selector[FIELD_TEXT_MAX + 1];
    enum placement_level level = placement_level(term);
    size_t length = strlen(term), suffix = strlen(placement_level_names[level]) + 1;
    bool named = length > suffix && term[length - suffix] == ':' && text_equal(term + length - suffix + 1, placement_level_names[level]);

    snprintf(selector, sizeof(selector), "%.*s", (int) (named ? length - suffix : length), term);
    return map_get(tallies->by_selector, selector);
}

enum tally_part {
    TALLY_THERE,
    TALLY_COMING,
    TALLY_AGAINST, /* returns whether somebody keeps away from it */
};

static bool tally_one(const struct tallies *tallies, const char *selector, enum tally_part part) {
    struct tally *tally = map_get(tallies->by_selector, selector);

    if (!tally)
        return false;
    tally->there += part == TALLY_THERE;
    tally->coming += part == TALLY_COMING;
    return tally->against > 0;
}

/* By each selector that selects it: its labels, their keys, its name. */
static bool tally_all(const struct tallies *tallies, const struct engine_entry *entry, enum tally_part part) {
    char text[KEY_MOST];
    bool against = false;

    if (map_count(tallies->by_selector) == 0)
        return false;
    for (char *const *label = entry->wishes[WISH_LABELS]; label && *label; label++) {
        against |= tally_one(tallies, *label, part);
        if (!tallies->keys)
            continue;
        snprintf(text, sizeof(text), "%.*s", (int) strcspn(*label, "="), *label);
        against |= tally_one(tallies, text, part);
    }
    if (!tallies->names)
        return against;
    snprintf(text, sizeof(text), "name=%s", entry->name);
    if (!list_has(entry->wishes[WISH_LABELS], text))
        against |= tally_one(tallies, text, part);
    return against;
}

static void tally_against(const struct engine *engine, const struct tallies *tallies, const struct engine_entry *entry) {
    for (char *const *term = entry->wishes[WISH_ANTI_AFFINITY]; term && *term; term++) {
        struct tally *tally = tally_of(tallies, *term);
        if (tally && lies_in(&engine->place, placement_level(*term)))
            tally->against++;
    }
}

static bool is_barred(const struct engine *engine, const struct tallies *tallies, const struct engine_entry *entry) {
    const struct engine_place *place = &engine->place;
    struct engine_refusal ignored;

    if (refuses_alone(place, entry, &ignored))
        return true;
    for (char *const *term = entry->wishes[WISH_AFFINITY]; term && *term; term++) {
        const struct tally *tally = tally_of(tallies, *term);
        if (!is_met(place, *term, entry, tally ? tally->there : 0))
            return true;
    }
    for (char *const *term = entry->wishes[WISH_ANTI_AFFINITY]; term && *term; term++) {
        const struct tally *tally = tally_of(tallies, *term);
        if (lies_in(place, placement_level(*term)) && tally && tally->there + tally->coming > 0)
            return true;
    }
    return tally_all(tallies, entry, TALLY_AGAINST);
}

static int tallies_fill(const struct engine *engine, struct tallies *tallies) {
    const struct engine_entry *entry;
    size_t position = 0;
    int r = map_new(&tallies->by_selector);

    while (r >= 0 && (entry = next_entry(engine, &position))) {
        r = tallies_name(tallies, entry->wishes[WISH_AFFINITY]);
        if (r >= 0)
            r = tallies_name(tallies, entry->wishes[WISH_ANTI_AFFINITY]);
    }
    if (r < 0 || map_count(tallies->by_selector) == 0)
        return r;
    for (position = 0; (entry = next_entry(engine, &position));)
        if (is_there(entry)) {
            (void) tally_all(tallies, entry, TALLY_THERE);
            tally_against(engine, tallies, entry);
        }
    return 0;
}

/* Of those that are there and those that may start in this pass, apart for fake ones and others. */
struct guarantees {
    struct guaranteed sums[2];
    bool lacking[2]; /* somebody found too little left: nobody behind goes ahead of it */
};

static void guarantees_fill(const struct engine *engine, struct guarantees *ret) {
    const struct engine_entry *entry;
    size_t position = 0;

    *ret = (struct guarantees){ 0 };
    while ((entry = next_entry(engine, &position)))
        if (is_there(entry))
            guaranteed_add(&ret->sums[entry->kind == KIND_FAKE], entry);
}

/* Is there too little left to be guaranteed to it? Else that is taken. */
static bool is_short(const struct engine *engine, struct guarantees *guarantees, const struct engine_entry *entry) {
    bool is_fake = entry->kind == KIND_FAKE;
    struct engine_refusal ignored;

    if (!is_guaranteed(entry))
        return false;
    if (guarantee_lacks(engine, &(struct guaranteed){ 0 }, entry, &ignored))
        return true; /* an empty node could not: it holds up nobody */
    if (!guarantees->lacking[is_fake] && guarantee_lacks(engine, &guarantees->sums[is_fake], entry, &ignored))
        guarantees->lacking[is_fake] = true;
    if (!guarantees->lacking[is_fake])
        guaranteed_add(&guarantees->sums[is_fake], entry);
    return guarantees->lacking[is_fake];
}

static int bar_waiting(struct engine *engine, const struct tallies *tallies) {
    struct guarantees guarantees;
    size_t count = 0, waiting = queue_waiting(engine->queue);
    _cleanup_free_ uint32_t *handles = reallocarray(NULL, waiting + 1, sizeof(*handles));
    struct queue_cursor cursor = { 0 };

    if (!handles)
        return -ENOMEM;
    while (count < waiting && queue_next_waiting(engine->queue, &cursor, &handles[count]))
        count++;
    guarantees_fill(engine, &guarantees);
    for (size_t i = 0; i < count; i++) { /* apart: this moves them */
        const struct engine_entry *entry = engine_entry_at(engine, handles[i]);
        if (entry->paused) /* it is there */
            continue;
        if (is_barred(engine, tallies, entry) || is_short(engine, &guarantees, entry)) {
            queue_bar(engine->queue, handles[i]);
            continue;
        }
        (void) tally_all(tallies, entry, TALLY_COMING);
        tally_against(engine, tallies, entry);
    }
    return 0;
}

int constraints_bar(struct engine *engine, int64_t now) {
    _cleanup_(tallies_done) struct tallies tallies = { 0 };
    bool needed = engine->constrained > 0 || (engine->place.taints && engine->place.taints[0]);
    int r = queue_unbar(engine->queue);

    if (r < 0 || !needed || queue_waiting(engine->queue) == 0)
        return r;
    r = queue_rescore(engine->queue, now);
    if (r >= 0)
        r = tallies_fill(engine, &tallies);
    if (r >= 0)
        r = bar_waiting(engine, &tallies);
    return r < 0 ? r : map_count(tallies.by_selector) > 0;
}
