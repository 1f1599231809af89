// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "drivers/qemu/agent.h"

/* Between agent.c (the connection) and agentexec.c (programs and files in the guest). */

#define AGENT_DEADLINE (5 * CLOCK_SECOND)

struct agent *agent_ref(struct agent *agent);
void agent_unref(struct agent *agent);
/* Fiber: one command; `arguments` is a JSON object or NULL. *ret (may be NULL) gets the return value. GUEST
 * with the agent's own words, or when it does not answer in time. */
int agent_call(struct agent *agent, const char *command, const char *arguments, struct json_object **ret,
               struct error *error);
/* Fiber: waits until it is up, at most until some time after the machine's start. */
int agent_wait_up(struct agent *agent, struct error *error);
