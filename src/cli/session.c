// SPDX-License-Identifier: GPL-2.0-or-later
/* One poll loop over standard input, the socket and a signalfd. Standard input is read only while little waits to be
 * written, and the socket only after what came was written out: that is the backpressure. */
#include "cli/session.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/websocket.h"
#include "cli/terminal.h"

#define MESSAGE_MAX (1024 * 1024)
#define OUTPUT_HIGH (128 * 1024)
#define IMPATIENCE (2 * CLOCK_SECOND)
#define CTRL_P 0x10
#define CTRL_Q 0x11
#define CTRL_BRACKET 0x1d

struct session {
    const struct session_options *options;
    struct websocket *websocket;
    int fd, signals;
    bool input_open;
    bool ended, detached;
    bool pending_p; /* ctrl-p came: the next key tells */
    unsigned interrupts;  /* in a row */
    uint64_t interrupted; /* the last */
    int code;
    struct error *error;
};

static int write_out(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };
            (void) poll(&poll_fd, 1, -1);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            size -= (size_t) n;
        }
    }
    return 0;
}

/* --- from the server ----------------------------------------------------------------------------------------------- */

static int take_control(struct session *session, const struct websocket_message *message) {
    _cleanup_json_ struct json_object *json = NULL;
    int r = json_parse(message->data, message->size, &json, session->error);

    if (r < 0)
        return r;
    if (json_member(json, "error")) {
        error_from_problem(json_member(json, "error"), session->error);
        return -error_number(session->error->code);
    }
    if (json_member(json, "exit")) {
        struct json_object *end = json_member(json, "exit");
        session->code = (int) json_integer(end, "code", 0);
        session->ended = true;
        if (json_member(end, "error"))
            error_from_problem(json_member(end, "error"), session->error);
    }
    return 0;
}

static int take_messages(struct session *session) {
    struct websocket_message message;
    int r = 0;

    while (r == 0 && websocket_next(session->websocket, &message)) {
        if (message.text)
            r = take_control(session, &message);
        else if (message.size > 1)
            r = write_out(message.data[0] == 2 ? STDERR_FILENO : STDOUT_FILENO, message.data + 1, message.size - 1);
        if (r == -EPIPE)
            session->detached = true; /* nobody reads our output any more */
    }
    return r;
}

static int lost(struct session *session, const char *why) {
    return error_set(session->error, ERROR_NO_DAEMON, "the socket", why);
}

static int receive(struct session *session) {
    char data[32 * 1024];
    ssize_t n = recv(session->fd, data, sizeof(data), MSG_DONTWAIT);
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return lost(session, n < 0 ? strerror(errno) : "the connection ended");
    if (websocket_feed(session->websocket, data, (size_t) n) < 0)
        return lost(session, "it does not speak WebSocket");
    r = take_messages(session);
    if (r == 0 && !session->ended && websocket_is_closed(session->websocket))
        return lost(session, "the connection ended");
    return r;
}

/* --- to the server -------------------------------------------------------------------------------------------------- */

static int send_text(struct session *session, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int send_text(struct session *session, const char *format, ...) {
    char text[128];
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return websocket_send(session->websocket, true, text, (size_t) length);
}

static int send_size(struct session *session) {
    uint16_t rows, columns;

    if (!session->options->tty || !terminal_size(&rows, &columns))
        return 0;
    return send_text(session, "{\"resize\":{\"rows\":%u,\"columns\":%u}}", rows, columns);
}

/* Finds the detach keys in typed bytes. Copies what is to be sent to `out`, which has room for one byte more, and
 * returns how much that is. */
static size_t scan_keys(struct session *session, const char *data, size_t size, char *out) {
    size_t kept = 0;

    for (size_t i = 0; i < size; i++) {
        if (session->options->console ? data[i] == CTRL_BRACKET : session->pending_p && data[i] == CTRL_Q) {
            session->detached = true;
            return kept;
        }
        if (session->pending_p) {
            session->pending_p = false;
            out[kept++] = CTRL_P;
        }
        if (!session->options->console && data[i] == CTRL_P)
            session->pending_p = true;
        else
            out[kept++] = data[i];
    }
    return kept;
}

static int send_input(struct session *session) {
    char data[16 * 1024 + 2];
    ssize_t n = read(STDIN_FILENO, data + 1, sizeof(data) - 2);
    size_t size;

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0) {
        session->input_open = false;
        return send_text(session, "{\"stdin\":\"close\"}");
    }
    size = (size_t) n;
    if (session->options->tty) {
        char typed[sizeof(data)];
        memcpy(typed, data + 1, size);
        size = scan_keys(session, typed, size, data + 1);
    }
    data[0] = 0;
    return size > 0 ? websocket_send(session->websocket, false, data, size + 1) : 0;
}

static const char *signal_text(unsigned number) {
    switch (number) {
    case SIGINT:
        return "SIGINT";
    case SIGTERM:
        return "SIGTERM";
    case SIGHUP:
        return "SIGHUP";
    case SIGQUIT:
        return "SIGQUIT";
    case SIGUSR1:
        return "SIGUSR1";
    case SIGUSR2:
        return "SIGUSR2";
    default:
        return NULL;
    }
}

/* Ctrl-C for the third time in a row: it does nothing inside, and the person wants out. */
static bool is_impatient(struct session *session, unsigned number) {
    uint64_t now = clock_now();

    if (number != SIGINT && number != SIGTERM)
        return false;
    session->interrupts = now - session->interrupted < IMPATIENCE ? session->interrupts + 1 : 1;
    session->interrupted = now;
    return session->interrupts >= 3;
}

static int take_signal(struct session *session) {
    struct signalfd_siginfo info;
    const char *name;

    if (read(session->signals, &info, sizeof(info)) != sizeof(info))
        return 0;
    if (info.ssi_signo == SIGWINCH)
        return send_size(session);
    name = signal_text(info.ssi_signo);
    if (session->options->proxy_signals && name && !is_impatient(session, info.ssi_signo))
        return send_text(session, "{\"signal\":\"%s\"}", name);
    session->detached = true;
    return 0;
}

static int flush(struct session *session) {
    struct buffer *output = websocket_output(session->websocket);

    while (output->size > 0) {
        ssize_t n = send(session->fd, output->data, output->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EPIPE || errno == ECONNRESET ? 0 : lost(session, strerror(errno));
        buffer_consume(output, (size_t) n);
    }
    return 0;
}

/* --- the loop ------------------------------------------------------------------------------------------------------- */

static int session_step(struct session *session) {
    size_t waiting = websocket_output(session->websocket)->size;
    struct pollfd fds[] = {
        { .fd = session->fd, .events = (short) (POLLIN | (waiting > 0 ? POLLOUT : 0)) },
        { .fd = session->signals, .events = POLLIN },
        { .fd = session->input_open && waiting < OUTPUT_HIGH ? STDIN_FILENO : -1, .events = POLLIN },
    };
    int r = 0;

    if (poll(fds, 3, -1) < 0)
        return errno == EINTR ? 0 : error_errno(session->error, -errno, "waiting");
    if (fds[1].revents)
        r = take_signal(session);
    if (r == 0 && fds[0].revents & (POLLIN | POLLHUP | POLLERR))
        r = receive(session);
    if (r == 0 && fds[2].revents && !session->ended && !session->detached)
        r = send_input(session);
    return r == 0 ? flush(session) : r;
}

static int signals_open(sigset_t *ret_before) {
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    (void) sigprocmask(SIG_BLOCK, &set, ret_before);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int session_start(struct session *session, struct buffer *early) {
    int r = 0;

    if (session->options->first)
        r = websocket_send(session->websocket, true, session->options->first, strlen(session->options->first));
    if (r == 0 && session->options->tty)
        (void) terminal_raw();
    if (r == 0 && !session->options->input && !session->options->console)
        r = send_text(session, "{\"stdin\":\"close\"}");
    if (r == 0 && early->size > 0 && websocket_feed(session->websocket, early->data, early->size) == 0)
        r = take_messages(session);
    return r < 0 ? r : flush(session);
}

int session_run(struct client *client, const struct session_options *options, int *ret_code, struct error *error) {
    _cleanup_websocket_ struct websocket *websocket = NULL;
    _cleanup_buffer_ struct buffer early = BUFFER_INIT;
    _cleanup_close_ int fd = -EBADF, signals = -EBADF;
    struct session session = { .options = options, .input_open = options->input, .error = error };
    sigset_t before;
    int r = client_upgrade(client, options->path, &fd, &early, error);

    if (r < 0)
        return r;
    if (options->note && options->tty)
        show_note("console of %s; leave it with ctrl-]", options->name);
    if (websocket_new(true, MESSAGE_MAX, &websocket) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    signals = signals_open(&before);
    session.websocket = websocket;
    session.fd = fd;
    session.signals = signals;
    (void) signal(SIGPIPE, SIG_IGN);
    r = session_start(&session, &early);
    while (r == 0 && !session.ended && !session.detached)
        r = session_step(&session);
    terminal_restore();
    (void) sigprocmask(SIG_SETMASK, &before, NULL);
    if (session.detached) {
        (void) websocket_close(websocket, 1000);
        (void) flush(&session);
        return 1;
    }
    *ret_code = session.code;
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "the session") : r;
}
