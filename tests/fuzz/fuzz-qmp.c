// SPDX-License-Identifier: GPL-2.0-or-later
/* Whatever a QEMU may say: the input is what the client reads, while a call waits. */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/log.h"
#include "drivers/qemu/qmp.h"

struct input {
    const uint8_t *data;
    size_t size;
};

static void on_event(const char *name _unused_, struct json_object *data _unused_, void *userdata _unused_) {
}

static const struct qmp_handlers handlers = { .event = on_event };

/* Answers the first command; swallows the rest. */
static int feeder_main(void *userdata) {
    static const char reply[] = "{\"return\":{},\"id\":1}\n";
    int *fd = userdata;
    char data[256];

    if (fiber_read(*fd, data, sizeof(data), DEADLINE_NONE) > 0)
        (void) fiber_write(*fd, reply, sizeof(reply) - 1, deadline_in(CLOCK_SECOND));
    while (fiber_read(*fd, data, sizeof(data), DEADLINE_NONE) > 0)
        ;
    return 0;
}

static int test_main(void *userdata) {
    static const char greeting[] = "{\"QMP\":{}}\n";
    const struct input *input = userdata;
    _cleanup_qmp_ struct qmp *qmp = NULL;
    struct fiber *feeder = NULL;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0 &&
        fiber_start(&feeder, "feeder", feeder_main, &pair[0]) >= 0) {
        (void) fiber_write(pair[0], greeting, sizeof(greeting) - 1, deadline_in(CLOCK_SECOND));
        if (qmp_open_take(pair[1], &handlers, NULL, deadline_in(CLOCK_SECOND), &qmp, NULL) >= 0) {
            (void) fiber_write(pair[0], input->data, input->size, deadline_in(CLOCK_SECOND));
            (void) shutdown(pair[0], SHUT_WR);
            (void) qmp_call(qmp, "query-status", NULL, -1, deadline_in(CLOCK_SECOND), NULL, NULL);
        }
        qmp_freep(&qmp);
        qmp = NULL;
        fiber_cancel_join(feeder);
        fiber_unref(feeder);
        close(pair[0]);
    }
    (void) fiber_yield();
    loop_exit(0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = { data, size };

    log_set_level(LOG_LEVEL_ERROR);
    if (size > 65536 || loop_init() < 0)
        return 0;
    if (fiber_start(NULL, "test", test_main, &input) >= 0)
        (void) loop_run();
    loop_done();
    return 0;
}
