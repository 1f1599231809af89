// SPDX-License-Identifier: GPL-2.0-or-later
/* Whatever an agent in a microVM may send: a fake agent answers the hello, sends the input and hangs up,
 * while an exec and an attached stream are open. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/log.h"
#include "drivers/qemu/guestport.h"
#include "drivers/qemu/socket.h"
#include "guest/frame.h"

#define SOON (20 * CLOCK_MILLISECOND) /* a broken connection is not made again here */

struct input {
    const uint8_t *data;
    size_t size;
    int listening;
};

static void on_output(enum stream_channel channel _unused_, const void *data _unused_, size_t size _unused_,
                      void *userdata _unused_) {
}

static void on_exited(int code _unused_, const char *problem _unused_, void *userdata _unused_) {
}

static const struct guestport_handlers handlers = { .output = on_output, .exited = on_exited };

static void send_frame(int fd, uint8_t type, const void *data, size_t size) {
    uint8_t header[GUEST_HEADER_SIZE];

    frame_encode_header(header, type, 0, (uint32_t) size);
    (void) fiber_write(fd, header, sizeof(header), deadline_in(SOON));
    (void) fiber_write(fd, data, size, deadline_in(SOON));
}

static int agent_main(void *userdata) {
    const struct input *input = userdata;
    uint8_t data[4096];
    int fd;

    if (fiber_wait_fd(input->listening, EPOLLIN, deadline_in(SOON)) < 0)
        return 0;
    fd = accept4(input->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return 0;
    if (fiber_read(fd, data, sizeof(data), deadline_in(SOON)) >= (long) FRAME_HELLO_SIZE) {
        send_frame(fd, GUEST_HELLO, data + GUEST_HEADER_SIZE, FRAME_HELLO_PAYLOAD);
        send_frame(fd, GUEST_STATE, "{}", 2);
        (void) fiber_write(fd, input->data, input->size, deadline_in(SOON));
        (void) shutdown(fd, SHUT_WR);
        while (fiber_read(fd, data, sizeof(data), deadline_in(SOON)) > 0)
            ;
    }
    close(fd);
    return 0;
}

static void port_use(struct guestport *port, struct fiber *agent) {
    struct stream *attached = NULL, *executed = NULL;
    enum stream_channel channel;
    char data[512];

    if (guestport_wait_ready(port, deadline_in(SOON)) >= 0) {
        (void) guestport_attach(port, &attached, NULL);
        (void) guestport_start(port, "{}");
        (void) guestport_exec(port, "{}", &executed, NULL);
        while (executed && stream_read(executed, &channel, data, sizeof(data), deadline_in(SOON)) > 0)
            ;
    }
    (void) fiber_join(agent, deadline_in(SOON), NULL);
    stream_free(attached);
    stream_free(executed);
}

static int test_main(void *userdata) {
    struct input *input = userdata;
    char path[] = "/tmp/polder-fuzz-XXXXXX";
    int directory = mkdtemp(path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    struct guestport *port = NULL;
    struct fiber *agent = NULL;

    input->listening = directory >= 0 ? socket_listen(directory, "s") : -1;
    if (input->listening >= 0 && fiber_start(&agent, "agent", agent_main, input) >= 0) {
        if (guestport_new(directory, "s", &handlers, NULL, &port) >= 0) {
            budget_set(guestport_budget(port), 100, 1000000); /* no input waits for its budget */
            port_use(port, agent);
        }
        guestport_free(port);
        fiber_cancel_join(agent);
        fiber_unref(agent);
    }
    close_fd(input->listening);
    if (directory >= 0) {
        (void) unlinkat(directory, "s", 0);
        close(directory);
        (void) rmdir(path);
    }
    (void) fiber_yield();
    (void) fiber_yield();
    loop_exit(0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = { data, size, -1 };

    log_set_level(LOG_LEVEL_ERROR);
    if (size > 1 << 20 || loop_init() < 0)
        return 0;
    if (fiber_start(NULL, "test", test_main, &input) >= 0)
        (void) loop_run();
    loop_done();
    return 0;
}
