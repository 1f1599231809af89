// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "drivers/driver.h"
#include "drivers/qemu/budget.h"
#include "drivers/stream.h"

/* The daemon's end of guest/protocol.h: the connection to polder-guest inside a microVM. It connects to the
 * socket that QEMU serves, says hello, and says hello again after every break until guestport_free.
 * Everything that the guest sends is capped; a guest that breaks the rules loses the connection and gets a
 * new one after a pause. */

struct guestport;

/* Called on the port's fiber; must not wait. */
struct guestport_handlers {
    /* Connected, and the guest told its state. Each time anew. */
    void (*ready)(bool started, void *userdata);
    /* Output of the main process, every byte once while this daemon lives. */
    void (*output)(enum stream_channel channel, const void *data, size_t size, void *userdata);
    /* The main process ended, or could not be started (`problem`, capped, not escaped, else NULL). May be
     * told again after a break: the answer is guestport_acknowledge. */
    void (*exited)(int code, const char *problem, void *userdata);
};

/* `directory` is duplicated. */
int guestport_new(int directory, const char *name, const struct guestport_handlers *handlers, void *userdata,
                  struct guestport **ret);
/* Waiting readers of its streams get the end; streams stay valid until they are freed. Also off fibers. */
void guestport_free(struct guestport *port);

/* How many messages may pass; BUDGET_RATE at priority 0 until it is said. */
struct budget *guestport_budget(struct guestport *port);

bool guestport_is_ready(const struct guestport *port);
/* Fiber: -ETIMEDOUT, -ECANCELED, -ECONNRESET once freed. */
int guestport_wait_ready(struct guestport *port, uint64_t deadline);
/* What the guest last said of its addresses. Borrowed. */
char *const *guestport_addresses(const struct guestport *port);

/* Queue one request each; -ENOTCONN without a connection, -E2BIG if the JSON does not fit a frame. */
int guestport_start(struct guestport *port, const char *json);
int guestport_acknowledge(struct guestport *port); /* the main exit is durable; the machine then powers off */
int guestport_signal(struct guestport *port, int number);
int guestport_power_off(struct guestport *port, uint64_t grace_ms);
int guestport_clock(struct guestport *port); /* the present time and fresh entropy */
/* "realtime_us":N,"entropy":"…" for GUEST_START and GUEST_CLOCK. */
void guestport_emit_clock(struct emitter *emitter);

/* Streams. The caller frees *ret. `json` as in the protocol. */
int guestport_exec(struct guestport *port, const char *json, struct stream **ret, struct error *error);
int guestport_transfer(struct guestport *port, bool put, const char *path, struct stream **ret,
                       struct error *error);
int guestport_attach(struct guestport *port, struct stream **ret, struct error *error);
