// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"

struct event {
    uint64_t id; /* 0: this slot was lost for want of memory */
    char *type;
    char *text;
};

struct events {
    struct event *ring;
    size_t capacity;
    uint64_t start; /* ids of this life are greater */
    uint64_t last;  /* id of the newest */
    struct fiber_queue waiters;
};

int events_new(size_t capacity, struct events **ret) {
    struct events *events = calloc(1, sizeof(*events));

    if (!events)
        return -ENOMEM;
    events->ring = calloc(capacity, sizeof(*events->ring));
    if (!events->ring) {
        free(events);
        return -ENOMEM;
    }
    events->capacity = capacity;
    /* Ids go on rising over restarts, so that a client's `since` is never taken for a newer one's past. */
    events->start = events->last = clock_wall();
    *ret = events;
    return 0;
}

void events_free(struct events *events) {
    if (!events)
        return;
    for (size_t i = 0; i < events->capacity; i++) {
        free(events->ring[i].type);
        free(events->ring[i].text);
    }
    free(events->ring);
    free(events);
}

static char *event_text(uint64_t id, const char *type, const char *object, const char *detail) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    char time[CLOCK_TEXT_SIZE];
    char *text = NULL;

    emit_object(&emitter);
    emit_key_unsigned(&emitter, "id", id);
    emit_key_text(&emitter, "time", clock_format(clock_wall(), time));
    emit_key_text(&emitter, "type", type);
    emit_key_text(&emitter, "object", object);
    if (detail && *detail) {
        buffer_add_char(&buffer, ',');
        buffer_add_text(&buffer, detail);
    }
    emit_object_end(&emitter);
    return buffer_take(&buffer, &text) < 0 ? NULL : text;
}

void events_publish(struct events *events, const char *type, const char *object, const char *detail) {
    struct event *event = &events->ring[++events->last % events->capacity];

    free(event->type);
    free(event->text);
    event->type = strdup(type);
    event->text = event_text(events->last, type, object, detail);
    event->id = event->type && event->text ? events->last : 0;
    fiber_queue_wake_all(&events->waiters);
}

uint64_t events_last(const struct events *events) {
    return events->last;
}

/* The first that is kept after `after`; 0 if there is none. An id that was never given in this life (of an earlier one,
 * whose clock may have been ahead) is before all of it. */
static uint64_t first_after(const struct events *events, uint64_t after) {
    uint64_t id = (after < events->start || after > events->last ? events->start : after) + 1;

    if (events->last - events->start > events->capacity && id <= events->last - events->capacity)
        id = events->last - events->capacity + 1;
    while (id <= events->last && events->ring[id % events->capacity].id != id)
        id++;
    return id <= events->last ? id : 0;
}

int events_next(const struct events *events, uint64_t after, uint64_t *ret_id, const char **ret_type,
                const char **ret_text, uint64_t *ret_missed) {
    uint64_t id = first_after(events, after);

    *ret_missed = 0;
    if (id == 0)
        return 0;
    /* How many came after that id in an earlier life nobody knows: at least the client is told that there may be. */
    *ret_missed = after < events->start || after > events->last ? id - events->start : id - after - 1;
    *ret_id = id;
    *ret_type = events->ring[id % events->capacity].type;
    *ret_text = events->ring[id % events->capacity].text;
    return 1;
}

int events_wait(struct events *events, uint64_t after, uint64_t deadline) {
    while (first_after(events, after) == 0) {
        int r = fiber_queue_wait(&events->waiters, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}
