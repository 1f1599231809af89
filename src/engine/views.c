// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/views.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void view_free(struct view *view) {
    if (!view)
        return;
    free(view->values);
    free(view->best);
    free(view);
}
DEFINE_CLEANUP(struct view *, view_free)

void views_done(struct views *views) {
    for (unsigned i = 0; i < views->count; i++)
        view_free(views->views[i]);
    *views = (struct views){ 0 };
}

static int16_t node_value(const struct score_input *input, const struct score *score,
                          const struct shape *shape, uint32_t index) {
    const struct node *node = nodes_get(input->nodes, index);
    enum filter failed = filter_static(input->nodes, node, shape);
    struct node_share share;

    if (failed != FILTER_PASSED)
        return (int16_t) (-1 - (int) failed);
    share_init(input->nodes, node, shape, &share);
    return (int16_t) score->value(input, node, shape, &share);
}

static void block_refresh(struct view *view, size_t block) {
    const int16_t *values = &view->values[block * VIEW_BLOCK];
    view_group most, group;
    int16_t best;

    memcpy(&most, values, sizeof(most));
    for (size_t i = VIEW_GROUP; i < VIEW_BLOCK; i += VIEW_GROUP) {
        memcpy(&group, values + i, sizeof(group));
        view_group above = group > most;
        most = (group & above) | (most & ~above);
    }
    best = most[0];
    for (size_t i = 1; i < VIEW_GROUP; i++)
        best = most[i] > best ? most[i] : best;
    view->best[block] = best;
}

static void view_set(struct view *view, uint32_t node, int16_t value) {
    int16_t *at = &view->values[node];

    if (*at < 0)
        view->refused[-1 - *at]--;
    if (value < 0)
        view->refused[-1 - value]++;
    int16_t old = *at;
    *at = value;
    if (value >= view->best[node / VIEW_BLOCK])
        view->best[node / VIEW_BLOCK] = value;
    else if (old == view->best[node / VIEW_BLOCK])
        block_refresh(view, node / VIEW_BLOCK);
}

static int view_fill(struct view *view, const struct score_input *input, const struct score *score) {
    size_t count = nodes_count(input->nodes), blocks = (count + VIEW_BLOCK - 1) / VIEW_BLOCK;

    if (view->count < count || !view->values) {
        size_t room = blocks ? blocks : 1;
        int16_t *values = reallocarray(view->values, room, VIEW_BLOCK * sizeof(*values));
        if (values)
            view->values = values;
        int16_t *best = values ? reallocarray(view->best, view_row(room), sizeof(*best)) : NULL;
        if (!best) {
            view->count = 0;
            return -ENOMEM;
        }
        view->best = best;
        for (size_t i = blocks; i < view_row(room); i++)
            best[i] = INT16_MIN;
    }
    for (size_t i = count; i < blocks * VIEW_BLOCK; i++)
        view->values[i] = INT16_MIN;
    view->count = count;
    view->version = input->version;
    memset(view->refused, 0, sizeof(view->refused));
    for (uint32_t i = 0; i < count; i++) {
        view->values[i] = node_value(input, score, &view->shape, i);
        if (view->values[i] < 0)
            view->refused[-1 - view->values[i]]++;
    }
    for (size_t block = 0; block < blocks; block++)
        block_refresh(view, block);
    return 0;
}

static int view_catch_up(struct view *view, const struct score_input *input, const struct score *score) {
    uint64_t now = nodes_position(input->nodes);
    int r = 0;

    if (view->count != nodes_count(input->nodes) || view->version != input->version ||
        now - view->position > view->count / 2 ||
        (view->position != now && nodes_changed(input->nodes, view->position) == NODE_NONE)) {
        r = view_fill(view, input, score);
    } else {
        for (; view->position != now; view->position++) {
            uint32_t node = nodes_changed(input->nodes, view->position);
            view_set(view, node, node_value(input, score, &view->shape, node));
        }
    }
    view->position = now;
    return r;
}

/* An unused place, or the one that was not asked for longest. */
static unsigned view_place(struct views *views) {
    unsigned oldest = 0;

    if (views->count < VIEWS_MAX)
        return views->count++;
    for (unsigned i = 1; i < VIEWS_MAX; i++)
        if (views->views[i]->used < views->views[oldest]->used)
            oldest = i;
    return oldest;
}

static int view_new(struct views *views, const struct shape *shape, uint64_t hash, struct view **ret) {
    _cleanup_(view_freep) struct view *view = calloc(1, sizeof(*view));
    unsigned place;

    if (!view)
        return -ENOMEM;
    place = view_place(views);
    if (views->views[place]) { /* its arrays serve again */
        view->values = STEAL_PTR(views->views[place]->values);
        view->best = STEAL_PTR(views->views[place]->best);
        view->count = views->views[place]->count;
        view_free(views->views[place]);
    }
    view->shape = *shape;
    view->hash = hash;
    view->position = UINT64_MAX; /* knows nothing */
    views->hashes[place] = hash;
    *ret = views->views[place] = STEAL_PTR(view);
    return 0;
}

int views_get(struct views *views, const struct score_input *input, const struct score *score,
              const struct shape *shape, const struct view **ret) {
    uint64_t hash = shape_digest(shape);
    struct view *view = NULL;
    int r;

    for (unsigned i = 0; i < views->count && !view; i++)
        if (views->hashes[i] == hash && memcmp(&views->views[i]->shape, shape, sizeof(*shape)) == 0)
            view = views->views[i];
    if (!view) {
        r = view_new(views, shape, hash, &view);
        if (r < 0)
            return r;
        r = view_fill(view, input, score);
        view->position = r < 0 ? UINT64_MAX : nodes_position(input->nodes);
    } else {
        r = view_catch_up(view, input, score);
    }
    if (r < 0)
        return r;
    view->used = ++views->clock;
    *ret = view;
    return 0;
}

size_t views_memory(const struct views *views) {
    return views->count * (sizeof(int16_t) + (sizeof(int16_t) + VIEW_BLOCK - 1) / VIEW_BLOCK);
}
