// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/display.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "drivers/qemu/machine.h"
#include "drivers/qemu/qmp.h"
#include "drivers/qemu/socket.h"

#define PAUSE (1 * CLOCK_SECOND) /* when descriptors are short */

struct display {
    unsigned references; /* the machine, the fiber */
    struct machine *machine;
    bool freed;
    int listener;
    char *path;
    struct fiber *fiber;
};

static void display_unref(struct display *display) {
    if (--display->references > 0)
        return;
    close_fd(display->listener);
    fiber_unref(display->fiber);
    free(display->path);
    free(display);
}

static void display_unrefp(struct display **display) {
    if (*display)
        display_unref(*display);
}

const char *display_path(const struct display *display) {
    return display ? display->path : NULL;
}

int display_hand(struct machine *machine, int fd, struct error *error) {
    /* Two that come at once must not take each other's. */
    _cleanup_free_ char *name = text_format("\"fdname\":\"vnc-%u\"", machine->viewers++);
    _cleanup_free_ char *get = name ? text_format("{%s}", name) : NULL;
    _cleanup_free_ char *add = name ? text_format("{\"protocol\":\"vnc\",%s,\"skipauth\":true}", name) : NULL;
    int r;

    if (!get || !add)
        return error_errno(error, -ENOMEM, "connecting to the display");
    if (!qmp_is_open(machine->qmp))
        return error_set(error, ERROR_BUSY, "QEMU", "it does not answer");
    r = qmp_call(machine->qmp, "getfd", get, fd, deadline_in(QMP_DEADLINE), NULL, error);
    if (r < 0)
        return r;
    r = machine_call(machine, "add_client", add, NULL, error);
    if (r < 0 && qmp_is_open(machine->qmp)) { /* QEMU shall not keep it */
        fiber_shield();
        (void) machine_call(machine, "closefd", get, NULL, NULL);
        fiber_unshield();
    }
    return r;
}

static int display_accept(struct display *display) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_close_ int viewer = accept4(display->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (viewer < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? 0 : fiber_sleep(PAUSE);
    if (display_hand(display->machine, viewer, &trouble) < 0 && !display->freed) {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        log_warning("a viewer at %s was turned away: %s", display->path, sentence ? sentence : "no memory");
    }
    return 0;
}

static int display_main(void *userdata) {
    _cleanup_(display_unrefp) struct display *display = userdata;
    _cleanup_(machine_unrefp) _unused_ struct machine *machine = display->machine;
    int r = 0;

    while (r >= 0 && !display->freed) {
        r = fiber_wait_fd(display->listener, EPOLLIN, DEADLINE_NONE);
        if (r >= 0 && !display->freed)
            r = display_accept(display);
    }
    return 0;
}

int display_open(struct machine *machine, struct display **ret) {
    _cleanup_(display_unrefp) struct display *display = calloc(1, sizeof(*display));
    int r;

    if (!display)
        return -ENOMEM;
    display->references = 1;
    display->machine = machine;
    display->path = text_format("%s/" DISPLAY_NAME, machine->instance->run_path);
    r = display->listener = socket_listen(machine->directory, DISPLAY_NAME);
    if (r >= 0 && !display->path)
        r = -ENOMEM;
    if (r >= 0)
        r = fiber_start(&display->fiber, "display", display_main, display);
    if (r < 0)
        return r;
    display->references++;
    machine->references++;
    *ret = STEAL_PTR(display);
    return 0;
}

void display_free(struct display *display) {
    if (!display)
        return;
    display->freed = true;
    (void) unlinkat(display->machine->directory, DISPLAY_NAME, 0);
    fiber_cancel(display->fiber);
    display_unref(display);
}
