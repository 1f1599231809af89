// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"

/* The one state table: S' = F(S, E). */

enum state {
    STATE_CREATED,    /* exists, never started */
    STATE_QUEUED,     /* wished running, waits for room */
    STATE_STARTING,   /* resources are made, processes start */
    STATE_RUNNING,
    STATE_PAUSED,     /* holds its memory, gets no CPU */
    STATE_SUSPENDING, /* memory goes to disk */
    STATE_SUSPENDED,  /* memory is on disk */
    STATE_STOPPING,
    STATE_STOPPED,
    STATE_MIGRATING,
    STATE_FAILED,     /* the last start failed, or it ended on its own with an error and is not restarted */
    STATE_DELETED,    /* in the trash */
    STATE_COUNT,
};

enum lifecycle_event {
    EVENT_START,     /* request: wish it running */
    EVENT_ADMIT,     /* the engine gave it room */
    EVENT_STARTED,   /* driver: its main process or machine runs */
    EVENT_PAUSE,     /* request */
    EVENT_RESUME,    /* request: from paused or suspended */
    EVENT_SUSPEND,   /* request */
    EVENT_SUSPENDED, /* driver: memory is durable */
    EVENT_STOP,      /* request */
    EVENT_EXITED,    /* driver: ended with code 0 or as asked */
    EVENT_CRASHED,   /* driver: ended with an error nobody asked for */
    EVENT_FAIL,      /* a step failed */
    EVENT_MIGRATE,
    EVENT_MIGRATED,
    EVENT_DELETE,    /* request */
    EVENT_UNDELETE,  /* request */
    EVENT_COUNT,
};

/* The next state, or -1 if the event is illegal there. */
int lifecycle_next(enum state state, enum lifecycle_event event);
/* As above with the error WRONG_STATE, which lists the requests that are legal now. */
int lifecycle_check(enum state state, enum lifecycle_event event, enum state *ret, struct error *error);
const char *state_name(enum state state);
int state_from_name(const char *name); /* -1 if unknown */
const char *lifecycle_event_name(enum lifecycle_event event);
bool lifecycle_event_is_request(enum lifecycle_event event);
/* Does the instance hold memory or processes in this state? */
bool state_is_active(enum state state);
/* States, events and every legal cell: the body of GET /v1/lifecycle. */
void lifecycle_emit(struct emitter *emitter);
