// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/agent.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "guest/channel.h"
#include "guest/clock.h"
#include "guest/mounts.h"
#include "guest/network.h"
#include "guest/port.h"
#include "guest/power.h"
#include "guest/process.h"
#include "guest/report.h"
#include "guest/request.h"
#include "guest/settings.h"

/* The machine goes through: waiting for GUEST_START -> running -> main process ended, result kept until
 * GUEST_ACK -> off. GUEST_POWER shortens the way: it ends the main process, and the result is kept for a
 * short while only. */

#define GRACE_MS 10000   /* between the stop signal and SIGKILL, unless the request says otherwise */
#define ACK_WAIT_MS 5000 /* how long a machine told to power off waits for its result to be acknowledged */
#define CODE_SETUP 125   /* the instance could not be set up, as Docker's exit codes have it */
#define CODE_START 126

struct agent {
    struct loop loop;
    struct port port;
    struct channels channels;
    struct namespaces namespaces;
    struct watch signals;
    int disk_fd;
    bool started;
    bool powering_off;
    uint64_t kill_at, off_at; /* CLOCK_MONOTONIC ms; 0: never */
    int stop_signal;
    char hostname[72];
};

struct handler {
    int (*handle)(struct agent *agent, const struct frame *frame, struct reason *reason);
    bool needs_channel; /* one that exists */
};

static struct channel *main_channel(struct agent *agent) {
    return channel_find(&agent->channels, GUEST_CHANNEL_MAIN);
}

static void send_text(struct agent *agent, uint8_t type, uint32_t channel, char *text_take) {
    _cleanup_free_ char *text = text_take;

    if (text)
        port_send(&agent->port, type, channel, text, strlen(text));
}

static int handle_hello(struct agent *agent, const struct frame *frame, struct reason *reason) {
    if (!frame_is_hello(frame))
        return reason_set(reason, -EBADMSG, "malformed hello");
    port_greet(&agent->port);
    port_send(&agent->port, GUEST_HELLO, 0, frame->payload, frame->header.length);
    channels_connection_new(&agent->channels);
    send_text(agent, GUEST_STATE, 0, report_state(&agent->channels, agent->started));
    return 0;
}

static int instance_set_up(const struct request_start *request, struct reason *reason) {
    _cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    const struct request_network *networks = request->network.items;
    const struct request_mount *mounts = request->mounts.items;
    int r = clock_apply(request->realtime_us, request->entropy, reason);

    if (r == 0)
        r = network_up_loopback(reason);
    for (size_t i = 0; r == 0 && i < request->network.count; i++)
        r = network_configure(&networks[i], reason);
    if (r == 0)
        r = settings_apply(root, request, reason);
    for (size_t i = 0; r == 0 && i < request->mounts.count; i++)
        r = mounts_add(root, &mounts[i], reason);
    if (r == 0 && request->readonly_root)
        r = mounts_seal_root(reason);
    return r;
}

static int main_start(struct agent *agent, const struct request_start *request) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    struct reason failure = REASON_INIT;
    struct channel *channel;
    int code = CODE_SETUP;
    int r = instance_set_up(request, &failure);

    if (r == 0) {
        code = CODE_START;
        r = process_start_main(&request->process, agent->hostname, &agent->namespaces, &process, &failure);
    }
    if (r < 0)
        reason_set(&failure, r, "cannot start the instance");
    channel =
        r == 0 ? channel_open(&agent->channels, GUEST_CHANNEL_MAIN, CHANNEL_MAIN, &process)
               : channel_open_failed(&agent->channels, GUEST_CHANNEL_MAIN, CHANNEL_MAIN, code, failure.text);
    return channel ? 0 : -ENOMEM;
}

static int handle_start(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct request_start request;
    int r;

    if (frame->header.channel != GUEST_CHANNEL_MAIN)
        return reason_set(reason, -EBADMSG, "the main process has channel %d", GUEST_CHANNEL_MAIN);
    if (agent->started || agent->powering_off)
        return 0;
    r = request_decode(&request_start_schema, frame->payload, frame->header.length, &request, reason);
    if (r < 0)
        return r;
    agent->stop_signal = request.stop_signal > 0 ? (int) request.stop_signal : SIGTERM;
    if (request.hostname)
        strncpy(agent->hostname, request.hostname, sizeof(agent->hostname) - 1);
    agent->started = true;
    r = main_start(agent, &request);
    request_clear(&request_start_schema, &request);
    return r;
}

/* Whether `frame` may open a channel. */
static int new_channel_check(struct agent *agent, const struct frame *frame, struct reason *reason) {
    if (frame->header.channel < GUEST_CHANNEL_FIRST || channel_find(&agent->channels, frame->header.channel))
        return reason_set(reason, -EBADMSG, "channel %u is taken", frame->header.channel);
    if (agent->channels.count >= CHANNEL_MAX)
        return reason_set(reason, -EBADMSG, "all %d channels are in use", CHANNEL_MAX);
    return 0;
}

static int channel_open_result(struct agent *agent, const struct frame *frame, enum channel_kind kind, int r,
                               struct process *process, const struct reason *failure) {
    uint32_t id = frame->header.channel;
    struct channel *channel = r == 0
                                  ? channel_open(&agent->channels, id, kind, process)
                                  : channel_open_failed(&agent->channels, id, kind,
                                                        kind == CHANNEL_EXEC ? CODE_START : 1, failure->text);

    return channel ? 0 : -ENOMEM;
}

static int handle_exec(struct agent *agent, const struct frame *frame, struct reason *reason) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    struct channel *main = main_channel(agent);
    struct reason failure = REASON_INIT;
    struct request_process request;
    int r = new_channel_check(agent, frame, reason);

    if (r < 0)
        return r;
    r = request_decode(&request_process_schema, frame->payload, frame->header.length, &request, reason);
    if (r < 0)
        return r;
    if (!main || channel_has_ended(main))
        r = reason_set(&failure, -EINVAL, "the instance is not running");
    else
        r = process_start_exec(&request, agent->hostname, &agent->namespaces, &process, &failure);
    r = channel_open_result(agent, frame, CHANNEL_EXEC, r, &process, &failure);
    request_clear(&request_process_schema, &request);
    return r;
}

static int transfer_start(struct agent *agent, const struct frame *frame, enum transfer_direction direction,
                          struct reason *reason) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    struct reason failure = REASON_INIT;
    struct request_path request;
    int r = new_channel_check(agent, frame, reason);

    if (r < 0)
        return r;
    r = request_decode(&request_path_schema, frame->payload, frame->header.length, &request, reason);
    if (r < 0)
        return r;
    r = process_start_transfer(direction, request.path, &agent->namespaces, &process, &failure);
    r = channel_open_result(agent, frame, CHANNEL_TRANSFER, r, &process, &failure);
    request_clear(&request_path_schema, &request);
    return r;
}

static int handle_get(struct agent *agent, const struct frame *frame, struct reason *reason) {
    return transfer_start(agent, frame, TRANSFER_GET, reason);
}

static int handle_put(struct agent *agent, const struct frame *frame, struct reason *reason) {
    return transfer_start(agent, frame, TRANSFER_PUT, reason);
}

static int handle_stdin(struct agent *agent, const struct frame *frame, struct reason *reason) {
    return channel_stdin(channel_find(&agent->channels, frame->header.channel), frame->payload,
                         frame->header.length, reason);
}

static int handle_ack(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct channel *channel = channel_find(&agent->channels, frame->header.channel);

    if (!channel_exit_is_sent(channel))
        return reason_set(reason, -EBADMSG, "nothing to acknowledge");
    if (channel_kind(channel) == CHANNEL_MAIN)
        power_off(agent->disk_fd);
    channel_free(channel);
    return 0;
}

static int handle_signal(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct request_signal request;
    int r = request_decode(&request_signal_schema, frame->payload, frame->header.length, &request, reason);

    if (r < 0)
        return r;
    if (request.signal == 0)
        return reason_set(reason, -EINVAL, "0 is no signal");
    channel_signal(channel_find(&agent->channels, frame->header.channel), (int) request.signal);
    return 0;
}

static int handle_resize(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct request_resize request;
    int r = request_decode(&request_resize_schema, frame->payload, frame->header.length, &request, reason);

    if (r < 0)
        return r;
    channel_resize(channel_find(&agent->channels, frame->header.channel), request.rows, request.columns);
    return 0;
}

static int handle_clock(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct request_clock request;
    int r = request_decode(&request_clock_schema, frame->payload, frame->header.length, &request, reason);

    (void) agent;
    if (r < 0)
        return r;
    r = clock_apply(request.realtime_us, request.entropy, reason);
    request_clear(&request_clock_schema, &request);
    return r;
}

/* Credit for a channel that is gone crossed its end on the way: no error. */
static int handle_credit(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct channel *channel = channel_find(&agent->channels, frame->header.channel);
    uint32_t size;

    if (frame->header.length != sizeof(size))
        return reason_set(reason, -EBADMSG, "malformed credit");
    memcpy(&size, frame->payload, sizeof(size));
    return channel ? channel_credit(channel, le32toh(size), reason) : 0;
}

static int handle_power(struct agent *agent, const struct frame *frame, struct reason *reason) {
    struct channel *main = main_channel(agent);
    struct request_power request;
    int r = request_decode(&request_power_schema, frame->payload, frame->header.length, &request, reason);
    uint64_t grace_ms = request.grace_ms > 0 ? (uint64_t) request.grace_ms : GRACE_MS;
    bool known = r == 0 && strcmp(request.action, "poweroff") == 0;

    if (r < 0)
        return r;
    request_clear(&request_power_schema, &request);
    if (!known)
        return reason_set(reason, -EINVAL, "the only action is 'poweroff'");
    if (!main)
        power_off(agent->disk_fd);
    agent->powering_off = true;
    if (channel_has_ended(main)) {
        agent->off_at = monotonic_ms() + ACK_WAIT_MS;
        return 0;
    }
    for (struct channel *channel = agent->channels.first; channel; channel = channel_next(channel))
        channel_signal(channel, channel == main ? agent->stop_signal : SIGTERM);
    agent->kill_at = monotonic_ms() + grace_ms;
    return 0;
}

static int handle_memory(struct agent *agent, const struct frame *frame, struct reason *reason) {
    (void) reason;
    send_text(agent, GUEST_MEMORY, frame->header.channel, report_memory());
    return 0;
}

static int handle_unexpected(struct agent *agent, const struct frame *frame, struct reason *reason) {
    (void) agent;
    return reason_set(reason, -EBADMSG, "frames of type %u are the guest's", frame->header.type);
}

static void frame_handle(struct agent *agent, const struct frame *frame) {
    static const struct handler handlers[] = {
        [GUEST_HELLO] = { handle_hello, false },
        [GUEST_STATE] = { handle_unexpected, false },
        [GUEST_START] = { handle_start, false },
        [GUEST_EXEC] = { handle_exec, false },
        [GUEST_STDIN] = { handle_stdin, true },
        [GUEST_STDOUT] = { handle_unexpected, false },
        [GUEST_STDERR] = { handle_unexpected, false },
        [GUEST_EXIT] = { handle_unexpected, false },
        [GUEST_ACK] = { handle_ack, true },
        [GUEST_SIGNAL] = { handle_signal, true },
        [GUEST_RESIZE] = { handle_resize, true },
        [GUEST_CLOCK] = { handle_clock, false },
        [GUEST_GET] = { handle_get, false },
        [GUEST_PUT] = { handle_put, false },
        [GUEST_CREDIT] = { handle_credit, false },
        [GUEST_POWER] = { handle_power, false },
        [GUEST_MEMORY] = { handle_memory, false },
        [GUEST_ERROR] = { handle_unexpected, false },
    };
    const struct handler *handler = &handlers[frame->header.type];
    struct reason reason = REASON_INIT;
    int r;

    if (handler->needs_channel && !channel_find(&agent->channels, frame->header.channel))
        r = reason_set(&reason, -EBADMSG, "there is no channel %u", frame->header.channel);
    else
        r = handler->handle(agent, frame, &reason);
    if (r < 0) {
        reason_set(&reason, r, "the request failed");
        send_text(agent, GUEST_ERROR, frame->header.channel, report_error(reason.text));
    }
}

static void children_reap(struct agent *agent) {
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct channel *channel = agent->channels.first;

        while (channel && channel_pid(channel) != pid)
            channel = channel_next(channel);
        if (!channel)
            continue;
        channel_ended(channel, status);
        if (channel_kind(channel) == CHANNEL_MAIN && agent->powering_off)
            agent->off_at = monotonic_ms() + ACK_WAIT_MS;
    }
}

static void signals_ready(struct watch *watch, uint32_t events) {
    struct signalfd_siginfo info;

    (void) events;
    while (read(watch->fd, &info, sizeof(info)) == sizeof(info))
        ;
    children_reap(watch->owner);
}

static int signals_init(struct agent *agent) {
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGPIPE);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    sigdelset(&signals, SIGPIPE);
    agent->signals = (struct watch){
        .loop = &agent->loop,
        .fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK),
        .events = EPOLLIN,
        .ready = signals_ready,
        .owner = agent,
    };
    if (agent->signals.fd < 0)
        return -errno;
    watch_on(&agent->signals);
    return 0;
}

static void port_lost(void *owner) {
    struct agent *agent = owner;

    channels_connection_lost(&agent->channels);
}

/* Everything between two waits: requests in, answers and output out. */
static void agent_pump(struct agent *agent) {
    struct frame frame;
    int error;

    port_read(&agent->port);
    while (port_next(&agent->port, &frame, &error))
        frame_handle(agent, &frame);
    if (error < 0)
        send_text(agent, GUEST_ERROR, 0, report_error("the stream is no sequence of frames; say hello"));
    while (port_wants_output(&agent->port) && channels_send(&agent->channels))
        ;
    port_write(&agent->port);
}

static void deadlines_meet(struct agent *agent) {
    struct channel *main = main_channel(agent);
    uint64_t now = monotonic_ms();

    if (agent->kill_at && now >= agent->kill_at) {
        agent->kill_at = 0;
        if (main)
            channel_signal(main, SIGKILL);
    }
    if (agent->off_at && now >= agent->off_at)
        power_off(agent->disk_fd);
}

static int next_timeout(const struct agent *agent) {
    const uint64_t deadlines[] = { agent->kill_at, agent->off_at, port_deadline(&agent->port) };
    uint64_t now = monotonic_ms(), first = UINT64_MAX;

    if (port_is_busy(&agent->port))
        return 0;
    for (size_t i = 0; i < ELEMENTS(deadlines); i++) {
        if (deadlines[i] && deadlines[i] < first)
            first = deadlines[i];
    }
    if (first == UINT64_MAX)
        return -1;
    return first <= now ? 0 : first - now > 60000 ? 60000 : (int) (first - now);
}

int agent_run(int port_fd, int disk_fd, struct reason *reason) {
    struct agent agent = { .namespaces = NAMESPACES_INIT, .disk_fd = disk_fd, .stop_signal = SIGTERM };
    int r = loop_init(&agent.loop);

    agent.channels = (struct channels){ .loop = &agent.loop, .port = &agent.port };
    agent.port.lost = port_lost;
    agent.port.owner = &agent;
    if (r == 0)
        r = signals_init(&agent);
    if (r == 0)
        r = port_init(&agent.port, &agent.loop, port_fd);
    if (r < 0)
        return reason_set(reason, r, "cannot begin to serve");
    for (;;) {
        agent_pump(&agent);
        deadlines_meet(&agent);
        loop_run_once(&agent.loop, next_timeout(&agent));
    }
}
