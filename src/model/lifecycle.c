// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/lifecycle.h"

#include <string.h>

#include "base/text.h"

/* The table holds the next state plus one, so that an empty cell is an illegal event.
 *
 * Requests that wish what is already so (start what runs, stop what is stopped) are legal and change nothing,
 * since a request may be repeated after a crash. Stopping something queued withdraws the wish; stopping
 * something suspended drops its memory; stopping something failed ends its restarts. What fails on the way
 * out of RUNNING (a suspend, a migration) leaves it running: work done is never lost. */

#define TO(state) (STATE_##state + 1)

static const unsigned char next_states[STATE_COUNT][EVENT_COUNT] = {
    [STATE_CREATED] = {
        [EVENT_START] = TO(QUEUED),
        [EVENT_STOP] = TO(CREATED),
        [EVENT_FAIL] = TO(FAILED),
        [EVENT_DELETE] = TO(DELETED),
    },
    [STATE_QUEUED] = {
        [EVENT_START] = TO(QUEUED),
        [EVENT_ADMIT] = TO(STARTING),
        [EVENT_STOP] = TO(STOPPED),
        [EVENT_FAIL] = TO(FAILED),
        [EVENT_DELETE] = TO(DELETED),
    },
    [STATE_STARTING] = {
        [EVENT_START] = TO(STARTING),
        [EVENT_STARTED] = TO(RUNNING),
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(FAILED),
        [EVENT_FAIL] = TO(FAILED),
    },
    [STATE_RUNNING] = {
        [EVENT_START] = TO(RUNNING),
        [EVENT_STARTED] = TO(RUNNING), /* adopted after a restart of polderd */
        [EVENT_PAUSE] = TO(PAUSED),
        [EVENT_SUSPEND] = TO(SUSPENDING),
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(FAILED),
        [EVENT_FAIL] = TO(FAILED),
        [EVENT_MIGRATE] = TO(MIGRATING),
    },
    [STATE_PAUSED] = {
        [EVENT_PAUSE] = TO(PAUSED),
        [EVENT_RESUME] = TO(RUNNING),
        [EVENT_SUSPEND] = TO(SUSPENDING),
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(FAILED),
        [EVENT_FAIL] = TO(FAILED),
        [EVENT_MIGRATE] = TO(MIGRATING),
    },
    [STATE_SUSPENDING] = {
        [EVENT_SUSPEND] = TO(SUSPENDING),
        [EVENT_SUSPENDED] = TO(SUSPENDED),
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(FAILED),
        [EVENT_FAIL] = TO(RUNNING),
    },
    [STATE_SUSPENDED] = {
        [EVENT_START] = TO(QUEUED),
        [EVENT_RESUME] = TO(QUEUED),
        [EVENT_SUSPEND] = TO(SUSPENDED),
        [EVENT_STOP] = TO(STOPPED),
        [EVENT_FAIL] = TO(FAILED),
        [EVENT_DELETE] = TO(DELETED),
    },
    [STATE_STOPPING] = {
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(STOPPED), /* it was told to end; how it ended is in its exit code */
        [EVENT_FAIL] = TO(FAILED),
    },
    [STATE_STOPPED] = {
        [EVENT_START] = TO(QUEUED),
        [EVENT_STOP] = TO(STOPPED),
        [EVENT_DELETE] = TO(DELETED),
    },
    [STATE_MIGRATING] = {
        [EVENT_MIGRATED] = TO(RUNNING),
        [EVENT_STOP] = TO(STOPPING),
        [EVENT_EXITED] = TO(STOPPED),
        [EVENT_CRASHED] = TO(FAILED),
        [EVENT_FAIL] = TO(RUNNING),
    },
    [STATE_FAILED] = {
        [EVENT_START] = TO(QUEUED),
        [EVENT_STOP] = TO(STOPPED),
        [EVENT_DELETE] = TO(DELETED),
    },
    [STATE_DELETED] = {
        [EVENT_DELETE] = TO(DELETED),
        [EVENT_UNDELETE] = TO(STOPPED),
    },
};

struct state_row {
    const char *name;
    bool active;
    const char *help;
};

static const struct state_row states[STATE_COUNT] = {
    [STATE_CREATED] = { "created", false, "It exists and was never started." },
    [STATE_QUEUED] = { "queued", false, "It is wished running and waits for room." },
    [STATE_STARTING] = { "starting", true, "Its resources are made and its processes start." },
    [STATE_RUNNING] = { "running", true, "It runs." },
    [STATE_PAUSED] = { "paused", true, "It gets no CPU, and holds its memory unless that went to the host's swap." },
    [STATE_SUSPENDING] = { "suspending", true, "Its memory is being written to disk." },
    [STATE_SUSPENDED] = { "suspended", false, "Its memory is on disk; it holds no memory and no CPU." },
    [STATE_STOPPING] = { "stopping", true, "It was told to end." },
    [STATE_STOPPED] = { "stopped", false, "It ended, by itself or as asked." },
    [STATE_MIGRATING] = { "migrating", true, "It is moving to another node." },
    [STATE_FAILED] = { "failed", false, "Its start failed, or it ended with an error." },
    [STATE_DELETED] = { "deleted", false, "It is in the trash and can be undeleted for a while." },
};

struct event_row {
    const char *name;
    bool request;
};

static const struct event_row events[EVENT_COUNT] = {
    [EVENT_START] = { "start", true },
    [EVENT_ADMIT] = { "admit", false },
    [EVENT_STARTED] = { "started", false },
    [EVENT_PAUSE] = { "pause", true },
    [EVENT_RESUME] = { "resume", true },
    [EVENT_SUSPEND] = { "suspend", true },
    [EVENT_SUSPENDED] = { "suspended", false },
    [EVENT_STOP] = { "stop", true },
    [EVENT_EXITED] = { "exited", false },
    [EVENT_CRASHED] = { "crashed", false },
    [EVENT_FAIL] = { "fail", false },
    [EVENT_MIGRATE] = { "migrate", false }, /* becomes a request when there is more than one node */
    [EVENT_MIGRATED] = { "migrated", false },
    [EVENT_DELETE] = { "delete", true },
    [EVENT_UNDELETE] = { "undelete", true },
};

int lifecycle_next(enum state state, enum lifecycle_event event) {
    if ((unsigned) state >= STATE_COUNT || (unsigned) event >= EVENT_COUNT)
        return -1;
    return next_states[state][event] - 1;
}

int lifecycle_check(enum state state, enum lifecycle_event event, enum state *ret, struct error *error) {
    int next = lifecycle_next(state, event);
    _cleanup_list_ char **legal = NULL;
    _cleanup_free_ char *text = NULL;

    if (next >= 0) {
        if (ret)
            *ret = (enum state) next;
        return 0;
    }
    for (int i = 0; i < EVENT_COUNT; i++)
        if (events[i].request && lifecycle_next(state, (enum lifecycle_event) i) >= 0)
            if (list_add(&legal, events[i].name) < 0)
                return error_set(error, ERROR_NO_MEMORY);
    text = list_join(legal, ", ");
    return error_set(error, ERROR_WRONG_STATE, state_name(state), lifecycle_event_name(event), text);
}

const char *state_name(enum state state) {
    return (unsigned) state < STATE_COUNT ? states[state].name : "unknown";
}

int state_from_name(const char *name) {
    for (int i = 0; i < STATE_COUNT; i++)
        if (text_equal(states[i].name, name))
            return i;
    return -1;
}

const char *lifecycle_event_name(enum lifecycle_event event) {
    return (unsigned) event < EVENT_COUNT ? events[event].name : "unknown";
}

bool lifecycle_event_is_request(enum lifecycle_event event) {
    return (unsigned) event < EVENT_COUNT && events[event].request;
}

bool state_is_active(enum state state) {
    return (unsigned) state < STATE_COUNT && states[state].active;
}

static void emit_states(struct emitter *emitter) {
    emit_key(emitter, "states");
    emit_array(emitter);
    for (int i = 0; i < STATE_COUNT; i++) {
        emit_object(emitter);
        emit_key_text(emitter, "name", states[i].name);
        emit_key_boolean(emitter, "active", states[i].active);
        emit_key_text(emitter, "help", states[i].help);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_events(struct emitter *emitter) {
    emit_key(emitter, "events");
    emit_array(emitter);
    for (int i = 0; i < EVENT_COUNT; i++) {
        emit_object(emitter);
        emit_key_text(emitter, "name", events[i].name);
        emit_key_boolean(emitter, "request", events[i].request);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_transitions(struct emitter *emitter) {
    emit_key(emitter, "transitions");
    emit_array(emitter);
    for (int i = 0; i < STATE_COUNT * EVENT_COUNT; i++) {
        enum state state = (enum state) (i / EVENT_COUNT);
        enum lifecycle_event event = (enum lifecycle_event) (i % EVENT_COUNT);
        int next = lifecycle_next(state, event);

        if (next < 0)
            continue;
        emit_object(emitter);
        emit_key_text(emitter, "from", states[state].name);
        emit_key_text(emitter, "event", events[event].name);
        emit_key_text(emitter, "to", states[next].name);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

void lifecycle_emit(struct emitter *emitter) {
    emit_object(emitter);
    emit_states(emitter);
    emit_events(emitter);
    emit_transitions(emitter);
    emit_object_end(emitter);
}
