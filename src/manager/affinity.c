// SPDX-License-Identifier: GPL-2.0-or-later
/* Circles of affinity: a must be near b, and b near a, so that none of them can ever be first. Who can be first is found from
 * below: whoever need not be near others, then whoever need only be near those, and so on. A term that selects nobody is no
 * circle: somebody may come. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/text.h"
#include "manager/internal.h"

#define REACHED_MAX 64 /* among more no circle is looked for: such an instance waits, and says for what. The loop waits meanwhile */

struct reached {
    const struct instance *instances[REACHED_MAX];
    bool can[REACHED_MAX]; /* be first, or after those that can */
    size_t count;
    bool circle;           /* the first is reached from itself */
};

static bool selects(const char *term, const struct instance *instance) {
    return placement_selects(term, instance->name, instance->spec.labels);
}

static bool reaches(const struct instance *from, const struct instance *to) {
    for (char *const *term = from->spec.affinity; term && *term; term++)
        if (selects(*term, to) && !selects(*term, from))
            return true;
    return false;
}

static bool is_reached(const struct reached *reached, const struct instance *instance) {
    for (size_t i = 0; i < reached->count; i++)
        if (reached->instances[i] == instance)
            return true;
    return false;
}

/* All that must be there before the first can be, by one term or another. False: too many. Those in the trash are not there. */
static bool reach(struct manager *manager, const struct instance *first, struct reached *ret) {
    size_t count;
    struct instance *const *all = registry_sorted(manager, &count);

    ret->instances[ret->count++] = first;
    for (size_t next = 0; next < ret->count; next++) {
        if (!ret->instances[next]->spec.affinity)
            continue;
        ret->circle |= next > 0 && reaches(ret->instances[next], first);
        for (size_t i = 0; i < count; i++) {
            if (all[i] == first || all[i]->status.state == STATE_DELETED || !reaches(ret->instances[next], all[i]) ||
                is_reached(ret, all[i]))
                continue;
            if (ret->count == REACHED_MAX)
                return false;
            ret->instances[ret->count++] = all[i];
        }
    }
    return true;
}

/* The first of those that a term selects and that cannot be first, or NULL: the term is met, or nobody is there for it. */
static const struct instance *stands_before(const struct reached *reached, size_t index, const char **ret_term) {
    const struct instance *instance = reached->instances[index];

    for (char *const *term = instance->spec.affinity; term && *term; term++) {
        const struct instance *found = NULL;
        bool met = selects(*term, instance);
        for (size_t i = 0; !met && i < reached->count; i++)
            if (selects(*term, reached->instances[i])) {
                met = reached->can[i];
                found = found ? found : reached->instances[i];
            }
        if (!met && found) {
            *ret_term = *term;
            return found;
        }
    }
    return NULL;
}

/* From the end: what was reached later mostly comes before what it was reached from, so that few rounds are needed. */
static void find_who_can(struct reached *reached) {
    bool changed = true;

    while (changed) {
        changed = false;
        for (size_t i = reached->count; i-- > 0;) {
            const char *term;
            if (reached->can[i] || stands_before(reached, i, &term))
                continue;
            reached->can[i] = changed = true;
        }
    }
}

static size_t index_of(const struct reached *reached, const struct instance *instance) {
    size_t i = 0;

    while (reached->instances[i] != instance)
        i++;
    return i;
}

/* "a must be near app=b, that is b, which must be near app=a, that is a" */
static char *circle_text(const struct reached *reached) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    const struct instance *at = reached->instances[0];
    char *text = NULL;

    buffer_addf(&out, "none of them can be first: %s", at->name);
    for (size_t steps = 0; steps < reached->count; steps++) {
        const char *term = NULL;
        at = stands_before(reached, index_of(reached, at), &term);
        buffer_addf(&out, "%s must be near %s, that is %s", steps > 0 ? ", which" : "", term, at->name);
        if (at == reached->instances[0])
            break;
    }
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

int affinity_check(struct manager *manager, const struct instance *instance, struct error *error) {
    _cleanup_free_ struct reached *reached = NULL;
    _cleanup_free_ char *text = NULL;
    const char *term;

    if (!instance->spec.affinity || !instance->spec.affinity[0])
        return 0;
    reached = calloc(1, sizeof(*reached));
    if (!reached)
        return error_errno(error, -ENOMEM, "looking for circles");
    if (!reach(manager, instance, reached) || !reached->circle)
        return 0;
    find_who_can(reached);
    if (!stands_before(reached, 0, &term))
        return 0;
    text = circle_text(reached);
    return error_set(error, ERROR_BAD_VALUE, "affinity", term, text ? text : "a circle");
}
