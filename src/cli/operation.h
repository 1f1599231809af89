// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"
#include "cli/client.h"
#include "cli/command.h"

/* Changes and their operations: waits with progress, Ctrl-C detaches. */

/* Sends a change. Waits for its end unless --no-wait (then its id is printed). ret (may be NULL) gets the final
 * operation. `subject` is shown in notes ("web-1"). */
int change_run(struct invocation *invocation, const char *method, const char *path, const char *body,
               const char *subject, struct response *ret, struct error *error);
int change_run_headers(struct invocation *invocation, const char *method, const char *path, const char *headers,
                       const char *body, const char *subject, struct response *ret, struct error *error);
/* Waits for an operation that runs already, given the JSON of its last known state; *ret is replaced. */
int operation_follow(struct invocation *invocation, struct response *operation, const char *subject,
                     struct error *error);
/* The connected client. */
int invocation_client(struct invocation *invocation, struct client **ret, struct error *error);
/* "/v1/instances/NAME" + suffix, encoded. Allocated. */
char *instance_path(const char *name, const char *suffix);
/* For NOT_FOUND of an instance: remembers the nearest name, which is told after the error. */
void suggest_instance(struct invocation *invocation, const char *name, const struct error *error);
/* The same for an image; where no name is near, how to get it (unless that was asked for). */
void suggest_image(struct invocation *invocation, const char *name, bool may_get, const struct error *error);
bool is_missing_image(const struct error *error);
/* Does it for each argument, an instance's name or an image's, whatever became of the one before. Tells the errors of all but the last; 1 if it
 * was not the last that failed. */
int for_each_name(struct invocation *invocation,
                  int (*act)(struct invocation *invocation, const char *name, struct error *error), struct error *error);
