// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/channel.h"

#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include <json-c/json.h>

/* A stopped stream goes on once there is this much room, so that frames do not become tiny. */
#define ROOM_RESUME (16 * 1024)
/* What is taken of a terminal at most after its process ended; a pipe says how much it holds. */
#define TERMINAL_REST (1024 * 1024)
/* Credit is given in portions. */
#define CREDIT_PORTION (32 * 1024)

/* Bytes for the process's stdin that its pipe did not take yet. */
struct input {
    uint8_t *data; /* GUEST_WINDOW bytes, allocated with the first */
    size_t start, end;
    size_t credit; /* written, not yet told to the daemon */
    bool ends;     /* the daemon closed it */
};

enum stream {
    STREAM_STDIN,
    STREAM_STDOUT,
    STREAM_STDERR,
    STREAM_COUNT,
};

struct channel {
    struct channels *channels;
    struct channel *next;
    uint32_t id;
    enum channel_kind kind;
    struct process process;
    struct watch watches[STREAM_COUNT];
    struct output output;
    struct input input;
    bool ended;
    size_t rest[STREAM_COUNT]; /* once ended: bytes of its output not read yet */
    bool discards;             /* of a former connection: its output is read and dropped */
    char *exit;                /* JSON, once ended */
    bool exit_sent;
};

/* Reads on behalf of what an ended exec left behind, which would otherwise die of a closed pipe. */
struct drain {
    struct watch watch;
};

static void drain_ready(struct watch *watch, uint32_t events) {
    struct drain *drain = watch->owner;
    char scratch[16384];
    ssize_t n = read(watch->fd, scratch, sizeof(scratch));

    (void) events;
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    watch_off(watch);
    close_fd(watch->fd);
    free(drain);
}

static void drain_start(struct loop *loop, int fd) {
    struct drain *drain = calloc(1, sizeof(*drain));

    if (!drain) {
        close_fd(fd);
        return;
    }
    drain->watch = (struct watch){
        .loop = loop,
        .fd = fd,
        .events = EPOLLIN,
        .ready = drain_ready,
        .owner = drain,
    };
    watch_on(&drain->watch);
}

struct channel *channel_find(struct channels *channels, uint32_t id) {
    struct channel *channel = channels->first;

    while (channel && channel->id != id)
        channel = channel->next;
    return channel;
}

enum channel_kind channel_kind(const struct channel *channel) {
    return channel->kind;
}

uint32_t channel_id(const struct channel *channel) {
    return channel->id;
}

pid_t channel_pid(const struct channel *channel) {
    return channel->ended ? -1 : channel->process.pid;
}

bool channel_has_ended(const struct channel *channel) {
    return channel->ended;
}

bool channel_exit_is_sent(const struct channel *channel) {
    return channel->exit_sent;
}

uint64_t channel_output_offset(const struct channel *channel) {
    return channel->output.offset;
}

struct channel *channel_next(const struct channel *channel) {
    return channel->next;
}

static int *stream_fd(struct channel *channel, enum stream stream) {
    int *const fds[] = { &channel->process.stdin_fd, &channel->process.stdout_fd,
                         &channel->process.stderr_fd };

    return fds[stream];
}

static void stream_close(struct channel *channel, enum stream stream) {
    int *fd = stream_fd(channel, stream);

    watch_off(&channel->watches[stream]);
    channel->watches[stream].fd = -EBADF;
    *fd = close_fd(*fd);
}

/* The end of one output stream, as far as the daemon is concerned. */
static void stream_finish(struct channel *channel, enum stream stream) {
    int fd = *stream_fd(channel, stream);

    if (channel->ended && channel->kind == CHANNEL_EXEC && !channel->process.tty) {
        watch_off(&channel->watches[stream]);
        *stream_fd(channel, stream) = channel->watches[stream].fd = -EBADF;
        drain_start(channel->channels->loop, fd);
    } else
        stream_close(channel, stream);
    if (!channel->discards)
        (void) output_append(&channel->output, stream == STREAM_STDOUT ? GUEST_STDOUT : GUEST_STDERR, NULL,
                             0);
}

/* How much to read now; 0 stops the stream until there is credit. */
static size_t stream_room(struct channel *channel, enum stream stream) {
    size_t room;

    if (!channel->channels->port->greeted)
        output_make_room(&channel->output);
    room = channel->discards ? OUTPUT_CHUNK : output_room(&channel->output);
    return channel->ended && channel->rest[stream] < room ? channel->rest[stream] : room;
}

/* Takes what one read gives. False: nothing more is to be had now. */
static bool stream_take(struct channel *channel, enum stream stream) {
    uint8_t scratch[OUTPUT_CHUNK];
    size_t room = stream_room(channel, stream);
    ssize_t n;

    if (room == 0 && !(channel->ended && channel->rest[stream] == 0)) {
        watch_off(&channel->watches[stream]);
        return false;
    }
    n = room == 0 ? 0 : read(*stream_fd(channel, stream), scratch, room);
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && errno == EAGAIN && !channel->ended)
        return false;
    if (n <= 0) {
        stream_finish(channel, stream);
        return false;
    }
    if (channel->ended)
        channel->rest[stream] -= (size_t) n;
    if (!channel->discards)
        (void) output_append(&channel->output, stream == STREAM_STDOUT ? GUEST_STDOUT : GUEST_STDERR, scratch,
                             (size_t) n);
    return true;
}

static void stdout_ready(struct watch *watch, uint32_t events) {
    (void) events;
    (void) stream_take(watch->owner, STREAM_STDOUT);
}

static void stderr_ready(struct watch *watch, uint32_t events) {
    (void) events;
    (void) stream_take(watch->owner, STREAM_STDERR);
}

/* Lets stopped streams go on. Of an ended process all that is there is taken at once: nothing may wake us
 * later. */
static void streams_resume(struct channel *channel) {
    for (enum stream stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++) {
        bool more = channel->ended;

        while (more && *stream_fd(channel, stream) >= 0)
            more = stream_take(channel, stream);
        if (*stream_fd(channel, stream) >= 0 && (channel->discards || !channel->channels->port->greeted ||
                                                 output_room(&channel->output) >= ROOM_RESUME))
            watch_on(&channel->watches[stream]);
    }
}

static void credit_tell(struct channel *channel) {
    struct input *input = &channel->input;
    uint32_t size = htole32((uint32_t) input->credit);

    if (input->credit == 0 || (input->credit < CREDIT_PORTION && input->start < input->end))
        return;
    input->credit = 0;
    port_send(channel->channels->port, GUEST_CREDIT, channel->id, &size, sizeof(size));
}

/* Nobody reads stdin any more: the rest is taken as read. */
static void stdin_close(struct channel *channel) {
    struct input *input = &channel->input;

    input->credit += input->end - input->start;
    input->start = input->end = 0;
    stream_close(channel, STREAM_STDIN);
}

static void stdin_end(struct channel *channel) {
    struct termios settings;
    int fd = channel->process.stdin_fd;

    /* A terminal has no end of file; a program that reads lines sees one in the EOF character. */
    if (channel->process.tty && tcgetattr(fd, &settings) == 0 && settings.c_lflag & ICANON)
        (void) !write(fd, &settings.c_cc[VEOF], 1);
    if (!channel->process.tty)
        stdin_close(channel);
    channel->input.ends = false;
}

static void stdin_write(struct channel *channel) {
    struct input *input = &channel->input;

    while (input->start < input->end && channel->process.stdin_fd >= 0) {
        ssize_t n = write(channel->process.stdin_fd, input->data + input->start, input->end - input->start);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            stdin_close(channel);
            break;
        }
        input->start += (size_t) n;
        input->credit += (size_t) n;
    }
    if (input->start < input->end)
        watch_on(&channel->watches[STREAM_STDIN]);
    else {
        input->start = input->end = 0;
        watch_off(&channel->watches[STREAM_STDIN]);
        if (input->ends && channel->process.stdin_fd >= 0)
            stdin_end(channel);
    }
    credit_tell(channel);
}

static void stdin_ready(struct watch *watch, uint32_t events) {
    (void) events;
    stdin_write(watch->owner);
}

int channel_stdin(struct channel *channel, const void *data, size_t size, struct reason *reason) {
    struct input *input = &channel->input;

    if (channel->process.stdin_fd < 0) {
        input->credit += size;
        credit_tell(channel);
        return 0;
    }
    if (size > GUEST_WINDOW - (input->end - input->start) - input->credit)
        return reason_set(reason, -EBADMSG, "more input than the window allows");
    if (input->ends)
        return reason_set(reason, -EBADMSG, "input after its end");
    if (!input->data && !(input->data = malloc(GUEST_WINDOW)))
        return reason_set(reason, -ENOMEM, "no room for input");
    if (input->start > 0) {
        memmove(input->data, input->data + input->start, input->end - input->start);
        input->end -= input->start;
        input->start = 0;
    }
    memcpy(input->data + input->end, data, size);
    input->end += size;
    input->ends = size == 0;
    stdin_write(channel);
    return 0;
}

int channel_credit(struct channel *channel, size_t size, struct reason *reason) {
    if (output_credit(&channel->output, size) < 0)
        return reason_set(reason, -EBADMSG, "credit for more than was sent");
    streams_resume(channel);
    return 0;
}

void channel_resize(struct channel *channel, int64_t rows, int64_t columns) {
    process_resize(&channel->process, rows, columns);
}

void channel_signal(struct channel *channel, int signal) {
    if (!channel->ended)
        (void) kill(channel->process.pid, signal);
}

static struct channel *channel_new(struct channels *channels, uint32_t id, enum channel_kind kind) {
    static void (*const ready[])(struct watch *, uint32_t) = { stdin_ready, stdout_ready, stderr_ready };
    struct channel *channel = calloc(1, sizeof(*channel));

    if (!channel)
        return NULL;
    channel->channels = channels;
    channel->id = id;
    channel->kind = kind;
    channel->process = (struct process) PROCESS_INIT;
    for (enum stream stream = 0; stream < STREAM_COUNT; stream++)
        channel->watches[stream] = (struct watch){
            .loop = channels->loop,
            .fd = -EBADF,
            .events = stream == STREAM_STDIN ? EPOLLOUT : EPOLLIN,
            .ready = ready[stream],
            .owner = channel,
        };
    if (channels->last)
        channels->last->next = channel;
    else
        channels->first = channel;
    channels->last = channel;
    channels->count++;
    return channel;
}

struct channel *channel_open(struct channels *channels, uint32_t id, enum channel_kind kind,
                             struct process *process) {
    struct channel *channel = channel_new(channels, id, kind);

    if (!channel)
        return NULL;
    channel->process = *process;
    *process = (struct process) PROCESS_INIT;
    for (enum stream stream = 0; stream < STREAM_COUNT; stream++)
        channel->watches[stream].fd = *stream_fd(channel, stream);
    watch_on(&channel->watches[STREAM_STDOUT]);
    watch_on(&channel->watches[STREAM_STDERR]);
    return channel;
}

static char *exit_json(int code, int signal, const char *error) {
    struct json_object *object = json_object_new_object();
    char *text;

    json_object_object_add(object, "code", json_object_new_int(code));
    if (signal > 0)
        json_object_object_add(object, "signal", json_object_new_int(signal));
    if (error)
        json_object_object_add(object, "error", json_object_new_string(error));
    text = strdup(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
    json_object_put(object);
    return text;
}

struct channel *channel_open_failed(struct channels *channels, uint32_t id, enum channel_kind kind, int code,
                                    const char *error) {
    struct channel *channel = channel_new(channels, id, kind);

    if (channel) {
        channel->ended = true;
        channel->exit = exit_json(code, 0, error);
    }
    return channel;
}

static void channel_unlink(struct channel *channel) {
    struct channels *channels = channel->channels;
    struct channel **link = &channels->first;

    channels->last = NULL;
    while (*link) {
        if (*link == channel)
            *link = channel->next;
        else {
            channels->last = *link;
            link = &(*link)->next;
        }
    }
}

void channel_free(struct channel *channel) {
    channel_unlink(channel);
    channel->channels->count--;
    for (enum stream stream = 0; stream < STREAM_COUNT; stream++)
        stream_close(channel, stream);
    process_done(&channel->process);
    output_clear(&channel->output);
    free(channel->input.data);
    free(channel->exit);
    free(channel);
}

void channel_ended(struct channel *channel, int status) {
    struct reason reason = REASON_INIT;
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);

    channel->ended = true;
    for (enum stream stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++) {
        int held = 0;
        (void) ioctl(*stream_fd(channel, stream), FIONREAD, &held);
        channel->rest[stream] = channel->process.tty ? TERMINAL_REST : (size_t) held;
    }
    if (process_failure(&channel->process, &code, &reason))
        channel->exit = exit_json(code, 0, reason.text);
    else
        channel->exit = exit_json(code, WIFSIGNALED(status) ? WTERMSIG(status) : 0, NULL);
    stdin_close(channel);
    credit_tell(channel);
    streams_resume(channel);
}

static bool channel_send(struct channel *channel) {
    struct port *port = channel->channels->port;
    const uint8_t *data;
    uint8_t type;
    size_t size;

    if (output_next(&channel->output, &type, &data, &size)) {
        port_send(port, type, channel->id, data, size);
        return true;
    }
    if (!channel->exit || channel->exit_sent || channel->process.stdout_fd >= 0 ||
        channel->process.stderr_fd >= 0)
        return false;
    port_send(port, GUEST_EXIT, channel->id, channel->exit, strlen(channel->exit));
    channel->exit_sent = true;
    return true;
}

/* Who sent goes to the end of the line. */
bool channels_send(struct channels *channels) {
    for (struct channel *channel = channels->first; channel; channel = channel->next) {
        if (!channel_send(channel))
            continue;
        channel_unlink(channel);
        channel->next = NULL;
        if (channels->last)
            channels->last->next = channel;
        else
            channels->first = channel;
        channels->last = channel;
        return true;
    }
    return false;
}

void channels_connection_lost(struct channels *channels) {
    for (struct channel *channel = channels->first; channel; channel = channel->next)
        streams_resume(channel);
}

/* Input that came but was not written is lost with its connection, unless its end came too. */
static void input_forget(struct channel *channel) {
    struct input *input = &channel->input;

    input->credit = 0;
    if (!input->ends)
        input->start = input->end = 0;
}

void channels_connection_new(struct channels *channels) {
    struct channel *next;

    for (struct channel *channel = channels->first; channel; channel = next) {
        next = channel->next;
        channel->exit_sent = false;
        input_forget(channel);
        if (channel->kind == CHANNEL_MAIN) {
            output_rewind(&channel->output);
            continue;
        }
        if (channel->kind == CHANNEL_TRANSFER) {
            channel_signal(channel, SIGKILL);
            channel_free(channel);
            continue;
        }
        output_clear(&channel->output);
        channel->discards = true;
        if (channel->process.stdin_fd >= 0)
            stdin_close(channel);
        input_forget(channel);
        streams_resume(channel);
    }
}
