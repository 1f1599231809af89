// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/actor.h"

#include <stdbool.h>
#include <stddef.h>

const struct actor actor_daemon = { .name = "polderd", .origin = "daemon", .role = ROLE_ADMIN };

static const struct {
    const char *name;
    bool reader; /* a reader has it */
} permissions[PERMISSION_COUNT] = {
    [PERMISSION_VIEW] = { "view", true },       [PERMISSION_LOGS] = { "logs", false },
    [PERMISSION_OPERATE] = { "operate", false }, [PERMISSION_EXEC] = { "exec", false },
    [PERMISSION_CREATE] = { "create", false },   [PERMISSION_IMAGES] = { "images", false },
    [PERMISSION_AUDIT] = { "audit", false },     [PERMISSION_ADMIN] = { "admin", false },
};

const char *permission_name(enum permission permission) {
    return permission < PERMISSION_COUNT ? permissions[permission].name : "unknown";
}

int authorise(const struct actor *actor, const char *project, enum permission permission, const char *object,
              struct error *error) {
    (void) project; /* one project so far; roles per project come with projects */
    (void) object;
    if (!actor || actor->role == ROLE_NONE)
        return error_set(error, ERROR_UNAUTHENTICATED, "");
    if (permission < PERMISSION_COUNT && (actor->role == ROLE_ADMIN || permissions[permission].reader))
        return 0;
    return error_set(error, ERROR_FORBIDDEN, actor->name, permission_name(permission));
}
