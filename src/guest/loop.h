// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* One epoll loop. A watch is switched off by removing it, because a closed pipe reports itself for ever
 * otherwise. */

struct loop {
    int fd;
};

struct watch {
    struct loop *loop;
    int fd; /* borrowed */
    uint32_t events;
    bool is_on;
    void (*ready)(struct watch *watch, uint32_t events);
    void *owner;
};

int loop_init(struct loop *loop);

/* Waits for one event, at most timeout_ms (-1: for ever), and handles it. One at a time, so that a handler
 * may free any watch. */
void loop_run_once(struct loop *loop, int timeout_ms);

void watch_on(struct watch *watch);
/* Must precede the closing of the descriptor: a forked child's copy would keep it in the epoll set. */
void watch_off(struct watch *watch);
