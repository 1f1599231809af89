// SPDX-License-Identifier: GPL-2.0-or-later
/* One fiber reads: replies go to the waiting call with their id, events to the handler. A call is a record
 * on its fiber's stack, linked into `calls` while it waits. The reader and each waiting call hold a
 * reference, so freeing the client in the middle of anything is safe: they find it closed and leave.
 *
 * A send that stops half-way (deadline, cancel) would garble the next command, so it ends the connection. */
#include "drivers/qemu/qmp.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/log.h"
#include "base/text.h"
#include "drivers/qemu/lines.h"
#include "drivers/qemu/socket.h"

/* gcc's analyzer forgets the count of references at each wait, and then takes the one that the caller holds to be gone. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wanalyzer-use-after-free"
#pragma GCC diagnostic ignored "-Wanalyzer-use-of-uninitialized-value"
#endif

#define READ_SIZE 4096
#define MESSAGE_MAX 400 /* of QEMU's own words in an error */

struct qmp_wait {
    struct qmp_wait *next;
    uint64_t id;
    struct json_object *reply;
    bool done;
    struct fiber_queue queue;
};

struct qmp {
    unsigned references;
    int fd;
    bool closed;
    bool greeted;
    uint64_t last_id;
    uint64_t ping; /* its id, while its answer is awaited; else 0 */
    struct qmp_wait *calls;
    struct fiber_queue greeting;
    struct fiber_mutex sending;
    struct fiber *reader;
    struct line_reader lines;
    const struct qmp_handlers *handlers; /* NULL once freed */
    void *userdata;
};

static struct qmp *qmp_ref(struct qmp *qmp) {
    qmp->references++;
    return qmp;
}

static void qmp_unref(struct qmp *qmp) {
    if (--qmp->references > 0)
        return;
    close_fd(qmp->fd);
    line_reader_done(&qmp->lines);
    fiber_unref(qmp->reader);
    free(qmp);
}

static void qmp_unrefp(struct qmp **qmp) {
    if (*qmp)
        qmp_unref(*qmp);
}

static void wait_done(struct qmp_wait *wait, struct json_object *reply) {
    wait->reply = reply;
    wait->done = true;
    fiber_queue_wake_all(&wait->queue);
}

static struct qmp_wait *wait_take(struct qmp *qmp, uint64_t id) {
    for (struct qmp_wait **link = &qmp->calls; *link; link = &(*link)->next) {
        struct qmp_wait *wait = *link;

        if (wait->id != id)
            continue;
        *link = wait->next;
        return wait;
    }
    return NULL;
}

static void qmp_close(struct qmp *qmp) {
    const struct qmp_handlers *handlers = qmp->handlers;

    if (qmp->closed)
        return;
    qmp->closed = true;
    qmp->handlers = NULL;
    (void) shutdown(qmp->fd, SHUT_RDWR);
    fiber_queue_wake_all(&qmp->greeting);
    while (qmp->calls) {
        struct qmp_wait *wait = qmp->calls;
        qmp->calls = wait->next;
        wait_done(wait, NULL);
    }
    fiber_cancel(qmp->reader);
    if (handlers && handlers->closed)
        handlers->closed(qmp->userdata);
}

/* --- reading -------------------------------------------------------------------------------------------- */

static int take_object(struct qmp *qmp, struct json_object *object) {
    const char *event = json_text(object, "event", NULL);
    struct qmp_wait *wait;
    uint64_t id;

    if (event) {
        if (qmp->handlers && qmp->handlers->event)
            qmp->handlers->event(event, json_member(object, "data"), qmp->userdata);
        return 0;
    }
    if (json_member(object, "QMP")) {
        qmp->greeted = true;
        fiber_queue_wake_all(&qmp->greeting);
        return 0;
    }
    if (!json_member(object, "return") && !json_member(object, "error"))
        return -EBADMSG;
    id = (uint64_t) json_integer(object, "id", 0);
    if (id == qmp->ping)
        qmp->ping = 0;
    wait = wait_take(qmp, id);
    if (wait)
        wait_done(wait, json_object_get(object));
    return 0;
}

static int take_line(struct qmp *qmp, const char *line, size_t size) {
    _cleanup_json_ struct json_object *object = NULL;
    int r;

    while (size > 0 && (line[size - 1] == '\r' || line[size - 1] == ' '))
        size--;
    if (size == 0)
        return 0;
    r = json_parse_foreign(line, size, &object, NULL);
    if (r < 0)
        return r;
    return json_object_is_type(object, json_type_object) ? take_object(qmp, object) : -EBADMSG;
}

static int take_bytes(struct qmp *qmp, const char *data, size_t size) {
    char *line;
    int r = line_reader_add(&qmp->lines, data, size);

    while (r >= 0 && !qmp->closed && (line = line_reader_next(&qmp->lines, &size))) {
        r = take_line(qmp, line, size);
        line_reader_drop(&qmp->lines, size);
    }
    return r;
}

static int reader_main(void *userdata) {
    _cleanup_(qmp_unrefp) struct qmp *qmp = userdata;
    char data[READ_SIZE];
    long size = 0;
    int r = 0;

    while (r >= 0 && !qmp->closed && (size = fiber_read(qmp->fd, data, sizeof(data), DEADLINE_NONE)) > 0)
        r = take_bytes(qmp, data, (size_t) size);
    if (r < 0 && !qmp->closed)
        log_warning("QEMU sent what is no QMP (%s); connection closed", strerror(-r));
    qmp_close(qmp);
    return 0;
}

/* --- calls ---------------------------------------------------------------------------------------------- */

static char *call_text(const char *command, const char *arguments, uint64_t id) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    char *text = NULL;

    emit_object(&emitter);
    emit_key_text(&emitter, "execute", command);
    if (arguments) {
        emit_key(&emitter, "arguments");
        emit_raw(&emitter, arguments);
    }
    emit_key_unsigned(&emitter, "id", id);
    emit_object_end(&emitter);
    buffer_add_char(&out, '\n');
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

static int call_send(struct qmp *qmp, const char *text, int passed, uint64_t deadline) {
    int r = fiber_mutex_lock(&qmp->sending, deadline);

    if (r < 0)
        return r;
    r = qmp->closed ? -ECONNRESET : socket_send(qmp->fd, text, strlen(text), passed, deadline);
    fiber_mutex_unlock(&qmp->sending);
    if (r < 0)
        qmp_close(qmp);
    return r == -EPIPE ? -ECONNRESET : r;
}

static int call_wait(struct qmp *qmp, struct qmp_wait *wait, uint64_t deadline) {
    int r = 0;

    while (r >= 0 && !wait->done)
        r = fiber_queue_wait(&wait->queue, deadline);
    if (wait->done)
        return wait->reply ? 0 : -ECONNRESET;
    (void) wait_take(qmp, wait->id);
    return r;
}

static int call_result(const char *command, struct json_object *reply, struct json_object **ret,
                       struct error *error) {
    struct json_object *failure = json_member(reply, "error");
    _cleanup_free_ char *what = text_format("QEMU's %s", command), *words = NULL;
    const char *description;

    if (!failure) {
        if (ret)
            *ret = json_object_get(json_member(reply, "return"));
        return 0;
    }
    description = json_text(failure, "desc", "no reason given");
    words = text_escape(description, strnlen(description, MESSAGE_MAX), false);
    return error_set(error, ERROR_INTERNAL, what, words);
}

static int call_failed(int r, const char *command, struct error *error) {
    _cleanup_free_ char *what = text_format("QEMU's %s", command);

    if (r == -ECONNRESET)
        (void) error_set(error, ERROR_INTERNAL, what, "the connection to QEMU is gone");
    return error_errno(error, r, "%s", what ? what : command);
}

int qmp_call(struct qmp *given, const char *command, const char *arguments, int passed, uint64_t deadline,
             struct json_object **ret, struct error *error) {
    _cleanup_(qmp_unrefp) struct qmp *qmp = qmp_ref(given);
    struct qmp_wait wait = { .id = ++qmp->last_id };
    _cleanup_free_ char *text = call_text(command, arguments, wait.id);
    int r;

    if (!text)
        return error_errno(error, -ENOMEM, "QEMU");
    if (qmp->closed)
        return call_failed(-ECONNRESET, command, error);
    wait.next = qmp->calls;
    qmp->calls = &wait;
    r = call_send(qmp, text, passed, deadline);
    if (r < 0 && !wait.done)
        (void) wait_take(qmp, wait.id);
    if (r >= 0)
        r = call_wait(qmp, &wait, deadline);
    if (r < 0) {
        json_put(wait.reply);
        return call_failed(r, command, error);
    }
    r = call_result(command, wait.reply, ret, error);
    json_put(wait.reply);
    return r;
}

static int post(struct qmp *qmp, const char *command, uint64_t id) {
    _cleanup_free_ char *text = call_text(command, NULL, id);
    ssize_t sent;

    if (!text)
        return -ENOMEM;
    if (qmp->closed)
        return -ECONNRESET;
    if (qmp->sending.owner)
        return -EAGAIN;
    sent = send(qmp->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EPIPE ? -ECONNRESET : -errno;
    if ((size_t) sent == strlen(text))
        return 0;
    qmp_close(qmp);
    return -ECONNRESET;
}

int qmp_post(struct qmp *qmp, const char *command) {
    return post(qmp, command, ++qmp->last_id);
}

int qmp_ping(struct qmp *qmp) {
    int r;

    if (qmp->ping)
        return 0;
    r = post(qmp, "query-status", ++qmp->last_id);
    if (r >= 0)
        qmp->ping = qmp->last_id;
    return r;
}

bool qmp_is_silent(const struct qmp *qmp) {
    return qmp->ping != 0;
}

/* --- open and close ------------------------------------------------------------------------------------- */

static int greeting_wait(struct qmp *qmp, uint64_t deadline) {
    int r = 0;

    while (r >= 0 && !qmp->greeted && !qmp->closed)
        r = fiber_queue_wait(&qmp->greeting, deadline);
    if (qmp->closed)
        return -ECONNRESET;
    return r;
}

int qmp_open_take(int fd, const struct qmp_handlers *handlers, void *userdata, uint64_t deadline,
                  struct qmp **ret, struct error *error) {
    _cleanup_close_ int taken = fd;
    _cleanup_qmp_ struct qmp *qmp = calloc(1, sizeof(*qmp));
    int r;

    if (!qmp)
        return error_errno(error, -ENOMEM, "QEMU");
    qmp->references = 1;
    qmp->handlers = handlers;
    qmp->userdata = userdata;
    qmp->lines = (struct line_reader) LINE_READER_INIT(QMP_LINE_MAX);
    qmp->fd = STEAL_FD(taken);
    r = fiber_start(&qmp->reader, "qmp", reader_main, qmp);
    if (r < 0)
        return error_errno(error, r, "QEMU");
    (void) qmp_ref(qmp); /* the reader's */
    r = greeting_wait(qmp, deadline);
    if (r < 0)
        return call_failed(r, "greeting", error);
    r = qmp_call(qmp, "qmp_capabilities", NULL, -1, deadline, NULL, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(qmp);
    return 0;
}

void qmp_free(struct qmp *qmp) {
    if (!qmp)
        return;
    qmp->handlers = NULL;
    qmp_close(qmp);
    qmp_unref(qmp);
}

bool qmp_is_open(const struct qmp *qmp) {
    return qmp && !qmp->closed;
}
