// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/loop.h"

#include <errno.h>
#include <sys/epoll.h>

#include "guest/common.h"

int loop_init(struct loop *loop) {
    loop->fd = epoll_create1(EPOLL_CLOEXEC);
    return loop->fd < 0 ? -errno : 0;
}

void loop_run_once(struct loop *loop, int timeout_ms) {
    struct epoll_event event;

    if (epoll_wait(loop->fd, &event, 1, timeout_ms) == 1) {
        struct watch *watch = event.data.ptr;
        watch->ready(watch, event.events);
    }
}

void watch_on(struct watch *watch) {
    struct epoll_event event = { .events = watch->events, .data.ptr = watch };

    if (watch->is_on || watch->fd < 0)
        return;
    if (epoll_ctl(watch->loop->fd, EPOLL_CTL_ADD, watch->fd, &event) < 0)
        guest_log("cannot watch a descriptor: %m");
    else
        watch->is_on = true;
}

void watch_off(struct watch *watch) {
    if (watch->is_on)
        (void) epoll_ctl(watch->loop->fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->is_on = false;
}
