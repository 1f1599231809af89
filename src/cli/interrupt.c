// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/interrupt.h"

#include <signal.h>

/* A signal handler can reach nothing else. */
static volatile sig_atomic_t came;

static void on_signal(int number) {
    (void) number;
    came = 1;
}

void interrupt_catch(void) {
    struct sigaction action = { .sa_handler = on_signal };

    came = 0;
    (void) sigaction(SIGINT, &action, NULL);
    (void) sigaction(SIGTERM, &action, NULL);
}

void interrupt_release(void) {
    struct sigaction action = { .sa_handler = SIG_DFL };

    (void) sigaction(SIGINT, &action, NULL);
    (void) sigaction(SIGTERM, &action, NULL);
}

bool interrupt_came(void) {
    return came;
}
