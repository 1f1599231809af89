// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "drivers/driver.h"
#include "drivers/qemu/budget.h"

/* The client of qemu-guest-agent in a VM, over its virtio-serial port. Its protocol has no ids: one command
 * is under way at a time, and after anything unclear (a new connection, a deadline, garbage) the next one
 * begins with guest-sync-delimited and a random number, everything before its answer being skipped. Replies
 * are capped at AGENT_LINE_MAX.
 *
 * A fiber looks for the agent and, while it is there, asks for host name and addresses at a slow pace. */

#define AGENT_LINE_MAX (1024 * 1024)

struct agent;

int agent_new(int directory, const char *name, void (*changed)(void *userdata), void *userdata,
              struct agent **ret);
/* Also off fibers. */
void agent_free(struct agent *agent);

/* How many commands and answers may pass; BUDGET_RATE at priority 0 until it is said. */
struct budget *agent_budget(struct agent *agent);

/* From memory. */
bool agent_is_up(const struct agent *agent);
const char *agent_hostname(const struct agent *agent); /* NULL if unknown */
char *const *agent_addresses(const struct agent *agent);

/* Fiber. The guest stood still, and its clock with it. One without an agent is not waited for: whenever an agent answers,
 * that comes before anything else that is asked of it. */
void agent_set_clock(struct agent *agent);
/* Fibers. GUEST when it does not answer. */
int agent_exec(struct agent *agent, const struct driver_instance *instance,
               const struct exec_request *request, struct stream **ret, struct error *error);
/* Transfers go through tar in the guest. */
int agent_get(struct agent *agent, const char *path, struct stream **ret, struct error *error);
int agent_put(struct agent *agent, const char *path, struct stream **ret, struct error *error);
