// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/buffer.h"
#include "base/json.h"
#include "drivers/driver.h"
#include "guest/user.h"

/* The OCI bundle's config.json, from our own spec alone: nothing that an image says about a runtime reaches it. */

#define CONTAINER_IDS 65536 /* ids of one container */

struct container_config {
    const struct driver_instance *instance;
    const struct user *user;  /* resolved against the image */
    const char *hostname;
    const char *files;        /* absolute directory of "rootfs", "etc/hosts" …, "m/N" (source of the N-th mount) */
    const char *filter;       /* base64 text of the compiled system call filter */
    uint64_t open_files;      /* RLIMIT_NOFILE; not above our own */
    const struct exec_terminal *terminal; /* first size, or NULL */
};

/* Writes the whole configuration. -ENOMEM. */
int config_emit(const struct container_config *config, struct buffer *out);
/* The process of `crun exec`: the instance's settings with those of the request over them. */
int config_emit_exec(const struct container_config *config, const struct exec_request *request, struct buffer *out);
/* The variable of a "NAME=value" list, or NULL. */
const char *environment_get(char *const *list, const char *name);
