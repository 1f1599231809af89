// SPDX-License-Identifier: GPL-2.0-or-later
/* The HTTP server over the fake manager: `api-harness RUN-DIRECTORY [INSTANCES]`, until SIGTERM. For protocol tests and
 * for measuring the server alone. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>

#include "api/api.h"
#include "base/fiber.h"
#include "fake-manager.h"
#include "manager/operation.h"

struct harness {
    struct api *api;
    struct manager *manager;
    int signals;
};

static int main_fiber(void *userdata) {
    struct harness *harness = userdata;

    (void) fiber_wait_fd(harness->signals, 1, DEADLINE_NONE);
    api_stop(harness->api, deadline_in(CLOCK_SECOND));
    while (operations_busy(manager_operations(harness->manager)) && fiber_sleep(CLOCK_MILLISECOND) >= 0)
        ;
    loop_exit(0);
    return 0;
}

int main(int count, char **arguments) {
    struct harness harness = { 0 };
    struct api_options options = { .run_path = count > 1 ? arguments[1] : "." };
    struct error error = ERROR_INIT;
    sigset_t set;
    int r;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    harness.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loop_init() < 0)
        return 1;
    options.manager = fake_manager_new(count > 2 ? (unsigned) atoi(arguments[2]) : 1);
    harness.manager = options.manager;
    if (api_new(&options, &harness.api, &error) < 0) {
        char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        fprintf(stderr, "%s\n", sentence);
        free(sentence);
        error_clear(&error);
        fake_manager_free(options.manager);
        loop_done();
        return 1;
    }
    r = fiber_start(NULL, "main", main_fiber, &harness);
    if (r == 0)
        r = loop_run();
    printf("calls %u streams %u\n", fake_manager_calls(options.manager), fake_manager_streams(options.manager));
    api_free(harness.api);
    fake_manager_free(options.manager);
    loop_done();
    return r;
}
