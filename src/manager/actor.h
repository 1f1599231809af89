// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"

/* Who asks, and what that one may do. One function authorises on every path. */

enum permission {
    PERMISSION_VIEW,     /* see objects, events, metrics */
    PERMISSION_LOGS,     /* read logs and consoles */
    PERMISSION_OPERATE,  /* start, stop, pause, resume, suspend */
    PERMISSION_EXEC,     /* exec, attach, cp, console input */
    PERMISSION_CREATE,   /* create, change, delete instances */
    PERMISSION_IMAGES,   /* bring in, tag, remove images */
    PERMISSION_AUDIT,    /* read the audit trail */
    PERMISSION_ADMIN,    /* node, network, fsck */
    PERMISSION_COUNT,
};

enum role {
    ROLE_NONE,
    ROLE_READER, /* view */
    ROLE_ADMIN,  /* everything */
};

struct actor {
    const char *name;   /* "root", "user:1000", "polderd" */
    const char *origin; /* "unix", "unix-ro", "daemon" */
    enum role role;
};

extern const struct actor actor_daemon;

const char *permission_name(enum permission permission);
/* FORBIDDEN, UNAUTHENTICATED. object is "type/name" or NULL; project is "default" so far. */
int authorise(const struct actor *actor, const char *project, enum permission permission, const char *object,
              struct error *error);
