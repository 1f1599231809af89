// SPDX-License-Identifier: GPL-2.0-or-later
/* Channels of the guest connection and the streams that API clients hold on them.
 *
 * Output: the guest may have GUEST_WINDOW bytes of a channel under way. Each stream queues what it has not
 * read yet; the guest is credited for what the slowest reader of the channel has taken, so a reader that
 * stops stops only its own process, and nothing is lost. Input: a writer waits until the guest has credited
 * enough of what was sent.
 *
 * A stream outlives its channel and the connection: `channel` is NULL then and the queue holds what is
 * left. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/guestport-internal.h"

#define CREDIT_PORTION (32 * 1024)
#define INPUT_PORTION (32 * 1024 - GUEST_HEADER_SIZE) /* header and payload fit one write to a virtio port */
#define PROBLEM_MAX 512
#define CODE_REFUSED 126
#define CODE_LOST 137

struct port_stream {
    struct stream stream;
    struct port_stream *next;
    struct guestport *port;
    struct channel *channel;
    struct byte_queue queue;
    bool ended;
    int code;
    char *problem;
    struct fiber_queue waiting; /* for the end */
};

static const struct stream_operations stream_operations_port;

static struct port_stream *stream_of(struct stream *stream) {
    return CONTAINER_OF(stream, struct port_stream, stream);
}

static bool channel_is_main(const struct channel *channel) {
    return channel->number == GUEST_CHANNEL_MAIN;
}

static struct channel *channel_find(struct guestport *port, uint32_t number) {
    if (number == GUEST_CHANNEL_MAIN)
        return &port->main;
    for (struct channel *channel = port->channels; channel; channel = channel->next)
        if (channel->number == number)
            return channel;
    return NULL;
}

static void channel_unlink(struct guestport *port, struct channel *channel) {
    for (struct channel **link = &port->channels; *link; link = &(*link)->next)
        if (*link == channel) {
            *link = channel->next;
            return;
        }
}

/* --- output --------------------------------------------------------------------------------------------- */

static void credit_update(struct guestport *port, struct channel *channel) {
    size_t waiting = 0, due;
    uint32_t size;

    for (struct port_stream *stream = channel->streams; stream; stream = stream->next)
        if (stream->queue.size > waiting)
            waiting = stream->queue.size;
    if (waiting >= channel->uncredited)
        return;
    due = channel->uncredited - waiting;
    if (waiting > 0 && due < CREDIT_PORTION)
        return;
    size = htole32((uint32_t) due);
    if (guestport_send(port, GUEST_CREDIT, channel->number, &size, sizeof(size)) >= 0)
        channel->uncredited -= due;
}

static void streams_add(struct channel *channel, enum stream_channel which, const uint8_t *data,
                        size_t size) {
    for (struct port_stream *stream = channel->streams; stream; stream = stream->next)
        if (byte_queue_add(&stream->queue, which, data, size) < 0)
            byte_queue_close(&stream->queue, -ENOMEM);
}

/* Drops what arrived before the connection broke and is sent again. */
static size_t main_skip(struct guestport *port, size_t size) {
    size_t skipped = port->skip < size ? (size_t) port->skip : size;

    port->skip -= skipped;
    port->main_received += size - skipped;
    return skipped;
}

int channel_output(struct guestport *port, const struct frame *frame) {
    struct channel *channel = channel_find(port, frame->header.channel);
    enum stream_channel which = frame->header.type == GUEST_STDERR ? STREAM_ERRORS : STREAM_OUTPUT;
    const uint8_t *data = frame->payload;
    size_t size = frame->header.length, skipped = 0;

    if (!channel || size == 0)
        return 0;
    channel->uncredited += size;
    if (channel->uncredited > GUEST_WINDOW)
        return -EBADMSG;
    if (channel_is_main(channel))
        skipped = main_skip(port, size);
    streams_add(channel, which, data + skipped, size - skipped);
    credit_update(port, channel);
    /* Last: it may wait. */
    if (channel_is_main(channel) && size > skipped && port->handlers && port->handlers->output)
        port->handlers->output(which, data + skipped, size - skipped, port->userdata);
    return 0;
}

/* --- input ---------------------------------------------------------------------------------------------- */

int channel_credited(struct guestport *port, const struct frame *frame) {
    struct channel *channel = channel_find(port, frame->header.channel);
    uint32_t size;

    if (frame->header.length != sizeof(size))
        return -EBADMSG;
    memcpy(&size, frame->payload, sizeof(size));
    size = le32toh(size);
    if (!channel)
        return 0;
    /* More than was sent, after a break: what the guest had taken before. */
    channel->in_flight -= size < channel->in_flight ? size : channel->in_flight;
    fiber_queue_wake_all(&channel->writers);
    return 0;
}

static int input_some(struct port_stream *stream, const uint8_t *data, size_t size, uint64_t deadline,
                      size_t *ret_taken) {
    struct channel *channel = stream->channel;
    size_t room = GUEST_WINDOW - channel->in_flight;
    int r;

    if (!stream->port->ready || room == 0) {
        r = fiber_queue_wait(stream->port->ready ? &channel->writers : &stream->port->waiting, deadline);
        return r < 0 ? r : 0;
    }
    if (size > room)
        size = room;
    if (size > INPUT_PORTION)
        size = INPUT_PORTION;
    r = guestport_send(stream->port, GUEST_STDIN, channel->number, data, size);
    if (r < 0)
        return r == -ENOTCONN ? 0 : r;
    channel->in_flight += size;
    *ret_taken = size;
    return 0;
}

static int port_stream_write(struct stream *given, const void *data, size_t size, uint64_t deadline) {
    struct port_stream *stream = stream_of(given);
    const uint8_t *position = data;

    while (size > 0) {
        size_t taken = 0;
        int r;

        if (!stream->channel || stream->ended || stream->channel->input_closed)
            return -EPIPE;
        r = input_some(stream, position, size, deadline, &taken);
        if (r < 0)
            return r;
        position += taken;
        size -= taken;
    }
    return 0;
}

static int port_stream_close_input(struct stream *given) {
    struct port_stream *stream = stream_of(given);
    struct channel *channel = stream->channel;

    if (!channel || channel->input_closed)
        return 0;
    channel->input_closed = true;
    return guestport_send(stream->port, GUEST_STDIN, channel->number, NULL, 0);
}

/* --- the end -------------------------------------------------------------------------------------------- */

static void stream_end(struct port_stream *stream, int code, const char *problem, int result) {
    if (stream->ended)
        return;
    stream->ended = true;
    stream->code = code;
    stream->problem = problem ? strdup(problem) : NULL;
    stream->channel = NULL;
    byte_queue_close(&stream->queue, result);
    fiber_queue_wake_all(&stream->waiting);
}

/* Ends all streams of a channel; they keep what they have queued. */
static void streams_end(struct channel *channel, int code, const char *problem, int result) {
    while (channel->streams) {
        struct port_stream *stream = channel->streams;

        channel->streams = stream->next;
        stream->next = NULL;
        stream_end(stream, code, problem, result);
    }
    fiber_queue_wake_all(&channel->writers);
}

/* Not the main one. */
static void channel_end(struct guestport *port, struct channel *channel, int code, const char *problem,
                        int result) {
    streams_end(channel, code, problem, result);
    channel_unlink(port, channel);
    free(channel);
}

static void main_end(struct guestport *port, int code, const char *problem) {
    port->main_ended = true;
    if (port->handlers && port->handlers->exited)
        port->handlers->exited(code, problem, port->userdata);
    streams_end(&port->main, code, problem, 0);
}

int channel_exited(struct guestport *port, const struct frame *frame) {
    struct channel *channel = channel_find(port, frame->header.channel);
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_free_ char *problem = NULL;
    int64_t code;
    int r = json_parse_foreign((const char *) frame->payload, frame->header.length, &json, NULL);

    if (r < 0)
        return r;
    code = json_integer(json, "code", -1);
    if (json_member(json, "error"))
        problem = strndup(json_text(json, "error", ""), PROBLEM_MAX);
    if (code < 0 || code > 255)
        return -EBADMSG;
    if (channel && channel_is_main(channel)) {
        main_end(port, (int) code, problem);
        return 0;
    }
    if (channel)
        channel_end(port, channel, (int) code, problem, 0);
    return guestport_send(port, GUEST_ACK, frame->header.channel, NULL, 0);
}

void channel_refused(struct guestport *port, const struct frame *frame) {
    struct channel *channel = channel_find(port, frame->header.channel);
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_free_ char *problem = NULL;

    if (!channel || json_parse_foreign((const char *) frame->payload, frame->header.length, &json, NULL) < 0)
        return;
    problem = strndup(json_text(json, "error", "the guest refused the request"), PROBLEM_MAX);
    if (!channel_is_main(channel))
        channel_end(port, channel, CODE_REFUSED, problem, 0);
    else if (port->start_sent && port->main_received == 0 && !port->main_ended)
        main_end(port, 125, problem);
}

void channels_break(struct guestport *port, int result) {
    while (port->channels)
        channel_end(port, port->channels, CODE_LOST, "the connection to the guest broke", result);
    port->main.uncredited = 0;
    port->main.in_flight = 0;
    fiber_queue_wake_all(&port->main.writers);
}

void channels_end(struct guestport *port) {
    while (port->channels)
        channel_end(port, port->channels, CODE_LOST, "the microVM ended", 0);
    streams_end(&port->main, CODE_LOST, "the microVM ended", 0);
}

/* --- streams -------------------------------------------------------------------------------------------- */

static long port_stream_read(struct stream *given, enum stream_channel *ret_channel, void *data, size_t size,
                             uint64_t deadline) {
    struct port_stream *stream = stream_of(given);
    long n = byte_queue_read(&stream->queue, ret_channel, data, size, deadline);

    if (n > 0 && stream->channel)
        credit_update(stream->port, stream->channel);
    return n;
}

static int port_stream_resize(struct stream *given, uint16_t rows, uint16_t columns) {
    struct port_stream *stream = stream_of(given);
    _cleanup_free_ char *json = text_format("{\"rows\":%u,\"columns\":%u}", rows, columns);

    if (!json)
        return -ENOMEM;
    return stream->channel ? guestport_send_text(stream->port, GUEST_RESIZE, stream->channel->number, json)
                           : 0;
}

static int port_stream_signal(struct stream *given, int number) {
    struct port_stream *stream = stream_of(given);
    _cleanup_free_ char *json = text_format("{\"signal\":%d}", number);

    if (!json)
        return -ENOMEM;
    return stream->channel ? guestport_send_text(stream->port, GUEST_SIGNAL, stream->channel->number, json)
                           : -ESRCH;
}

/* The agent says "not found" with the code a shell would give. */
static int result_error(const struct port_stream *stream, struct error *error) {
    _cleanup_free_ char *text = text_escape(stream->problem, strlen(stream->problem), false);

    return error_set(error, ERROR_GUEST, text);
}

static int port_stream_result(struct stream *given, int *ret_code, struct error *error, uint64_t deadline) {
    struct port_stream *stream = stream_of(given);
    int r = 0;

    while (r >= 0 && !stream->ended)
        r = fiber_queue_wait(&stream->waiting, deadline);
    if (r < 0)
        return error_errno(error, r, "waiting for the guest");
    *ret_code = stream->code;
    if (!stream->problem)
        return 0;
    (void) result_error(stream, error);
    /* 126 and 127 are the command's own fault: a result with a reason. Anything else failed. */
    return stream->code == 126 || stream->code == 127 ? 0 : -EPROTO;
}

static void port_stream_free(struct stream *given) {
    struct port_stream *stream = stream_of(given);
    struct channel *channel = stream->channel;
    struct guestport *port = stream->port;

    if (channel) {
        for (struct port_stream **link = &channel->streams; *link; link = &(*link)->next)
            if (*link == stream) {
                *link = stream->next;
                break;
            }
        if (!channel_is_main(channel) && !stream->ended) {
            (void) port_stream_close_input(given);
            (void) port_stream_signal(given, 9);
        }
        /* Nobody reads now: the channel goes on to its end without stopping. */
        credit_update(port, channel);
    }
    byte_queue_done(&stream->queue);
    free(stream->problem);
    free(stream);
    guestport_unref(port);
}

static const struct stream_operations stream_operations_port = {
    .read = port_stream_read,
    .write = port_stream_write,
    .close_input = port_stream_close_input,
    .resize = port_stream_resize,
    .signal = port_stream_signal,
    .result = port_stream_result,
    .free = port_stream_free,
};

static struct port_stream *stream_new(struct guestport *port, struct channel *channel) {
    struct port_stream *stream = calloc(1, sizeof(*stream));

    if (!stream)
        return NULL;
    stream->stream.operations = &stream_operations_port;
    stream->port = guestport_ref(port);
    stream->channel = channel;
    stream->next = channel->streams;
    channel->streams = stream;
    return stream;
}

int guestport_attach(struct guestport *port, struct stream **ret, struct error *error) {
    struct port_stream *stream;

    if (port->freed || port->main_ended)
        return error_set(error, ERROR_GUEST, "the main process has ended");
    stream = stream_new(port, &port->main);
    if (!stream)
        return error_errno(error, -ENOMEM, "attaching");
    *ret = &stream->stream;
    return 0;
}

static uint32_t number_next(struct guestport *port) {
    do {
        port->last_number = port->last_number == UINT32_MAX ? GUEST_CHANNEL_FIRST : port->last_number + 1;
    } while (channel_find(port, port->last_number));
    return port->last_number;
}

static int channel_start(struct guestport *port, uint8_t type, const char *json, struct stream **ret,
                         struct error *error) {
    struct channel *channel;
    struct port_stream *stream;
    int r;

    if (!port->ready)
        return error_set(error, ERROR_GUEST, "the guest agent does not answer");
    channel = calloc(1, sizeof(*channel));
    if (!channel)
        return error_errno(error, -ENOMEM, "asking the guest");
    channel->number = number_next(port);
    channel->next = port->channels;
    port->channels = channel;
    stream = stream_new(port, channel);
    r = stream ? guestport_send_text(port, type, channel->number, json) : -ENOMEM;
    if (r < 0) {
        channel_end(port, channel, CODE_LOST, NULL, r);
        if (stream)
            port_stream_free(&stream->stream);
        return r == -E2BIG ? error_set(error, ERROR_TOO_LARGE, "the command with its environment", "64 KiB")
                           : error_errno(error, r, "asking the guest");
    }
    *ret = &stream->stream;
    return 0;
}

int guestport_exec(struct guestport *port, const char *json, struct stream **ret, struct error *error) {
    return channel_start(port, GUEST_EXEC, json, ret, error);
}

int guestport_transfer(struct guestport *port, bool put, const char *path, struct stream **ret,
                       struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_text(&emitter, "path", path);
    emit_object_end(&emitter);
    if (out.failed)
        return error_errno(error, -ENOMEM, "asking the guest");
    return channel_start(port, put ? GUEST_PUT : GUEST_GET, out.data, ret, error);
}
