// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/client.h"

#include <ctype.h>
#include <errno.h>
#include <http_parser.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/interrupt.h"

#define DEFAULT_PATH "/run/polder/polder.sock"
#define REPLY_MAX (256 * 1024 * 1024)
#define PIECE_SIZE (64 * 1024)
/* The key of RFC 6455's own example and the answer to it: on a local socket no proxy can confuse replies, which is all
 * that a random key is for. */
#define SOCKET_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define SOCKET_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

struct client {
    char *path;
    int fd;
    http_parser parser;
    struct buffer body;  /* of the reply, not taken yet */
    struct buffer early; /* bytes behind the head of an upgrade */
    char *etag, *accept;
    enum { HEADER_OTHER, HEADER_ETAG, HEADER_ACCEPT } header;
    bool headers_done, complete;
};

void response_done(struct response *response) {
    buffer_done(&response->body);
    json_put(response->json);
    free(response->etag);
    *response = (struct response) RESPONSE_INIT;
}

int client_new(const char *path, struct client **ret) {
    struct client *client = calloc(1, sizeof(*client));

    if (!client)
        return -ENOMEM;
    if (!path || !*path)
        path = getenv("POLDER_SOCKET");
    client->path = strdup(path && *path ? path : DEFAULT_PATH);
    client->fd = -EBADF;
    if (!client->path) {
        free(client);
        return -ENOMEM;
    }
    *ret = client;
    return 0;
}

static void reply_reset(struct client *client) {
    buffer_reset(&client->body);
    buffer_reset(&client->early);
    free(STEAL_PTR(client->etag));
    free(STEAL_PTR(client->accept));
    client->headers_done = client->complete = false;
    client->header = HEADER_OTHER;
}

void client_free(struct client *client) {
    if (!client)
        return;
    reply_reset(client);
    buffer_done(&client->body);
    buffer_done(&client->early);
    close_fd(client->fd);
    free(client->path);
    free(client);
}

const char *client_path(const struct client *client) {
    return client->path;
}

char *url_encode(const char *text) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *ret = NULL;

    buffer_add_text(&out, "");
    for (const unsigned char *c = (const unsigned char *) text; *c; c++)
        if (isalnum(*c) || strchr("-._~", *c))
            buffer_add_char(&out, (char) *c);
        else
            buffer_addf(&out, "%%%02X", *c);
    return buffer_take(&out, &ret) < 0 ? NULL : ret;
}

/* --- connecting --------------------------------------------------------------------------------------------------- */

void query_add(struct buffer *path, const char *name, const char *value) {
    _cleanup_free_ char *encoded = value ? url_encode(value) : NULL;

    if (encoded)
        buffer_addf(path, "%c%s=%s", strchr(path->data, '?') ? '&' : '?', name, encoded);
}

static int connect_to(const char *path) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    _cleanup_close_ int fd = -EBADF;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
        return -errno;
    return STEAL_FD(fd);
}

/* Who may not open the administrators' socket can still look, through the readers' one beside it. */
static int connect_reader(const char *path) {
    _cleanup_free_ char *reader = NULL;
    size_t length = strlen(path);

    if (!text_ends(path, ".sock"))
        return -EACCES;
    reader = text_format("%.*s-ro.sock", (int) (length - 5), path);
    return reader ? connect_to(reader) : -ENOMEM;
}

static int client_connect(struct client *client, struct error *error) {
    const char *why;
    int r;

    if (client->fd >= 0)
        return 0;
    r = connect_to(client->path);
    if (r == -EACCES)
        r = connect_reader(client->path);
    if (r >= 0) {
        client->fd = r;
        return 0;
    }
    why = r == -ENOENT || r == -ECONNREFUSED ? "it does not run; start it with 'systemctl start polderd', or polderd"
          : r == -EACCES ? "you may not; become root or a member of the group polder" : strerror(-r);
    return error_set(error, ERROR_NO_DAEMON, client->path, why);
}

static int lost(struct client *client, int r, struct error *error) {
    client->fd = close_fd(client->fd);
    if (r == -EINTR)
        return r;
    return error_set(error, ERROR_NO_DAEMON, client->path, r == 0 ? "the connection ended" : strerror(-r));
}

static int broken_off(struct client *client, struct error *error) {
    client->fd = close_fd(client->fd);
    return error_set(error, ERROR_NO_DAEMON, client->path, "it broke its reply off in the middle; its log says why");
}

static int send_all(struct client *client, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(client->fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR && !interrupt_came())
            continue;
        if (n < 0)
            return -errno;
        data += n;
        size -= (size_t) n;
    }
    return 0;
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

static int on_header_field(http_parser *parser, const char *at, size_t length) {
    struct client *client = parser->data;

    client->header = length == 4 && !strncasecmp(at, "ETag", 4) ? HEADER_ETAG
                     : length == 20 && !strncasecmp(at, "Sec-WebSocket-Accept", 20) ? HEADER_ACCEPT : HEADER_OTHER;
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t length) {
    struct client *client = parser->data;
    char **text = client->header == HEADER_ETAG ? &client->etag : client->header == HEADER_ACCEPT ? &client->accept
                                                                                                  : NULL;

    if (text && !*text)
        *text = strndup(at, length);
    return 0;
}

static int on_headers_complete(http_parser *parser) {
    ((struct client *) parser->data)->headers_done = true;
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t length) {
    struct client *client = parser->data;

    buffer_add(&client->body, at, length);
    return client->body.failed ? -1 : 0;
}

static int on_complete(http_parser *parser) {
    ((struct client *) parser->data)->complete = true;
    return 0;
}

static const http_parser_settings settings = {
    .on_header_field = on_header_field, .on_header_value = on_header_value, .on_headers_complete = on_headers_complete,
    .on_body = on_body, .on_message_complete = on_complete,
};

/* One read into the parser. 0 at the end of the connection. */
static int receive_some(struct client *client) {
    char data[PIECE_SIZE];
    ssize_t n = recv(client->fd, data, sizeof(data), 0);
    size_t taken;

    if (n < 0)
        return errno == EINTR && !interrupt_came() ? 1 : -errno;
    taken = http_parser_execute(&client->parser, &settings, data, (size_t) n);
    if (client->parser.upgrade && taken < (size_t) n) {
        buffer_add(&client->early, data + taken, (size_t) n - taken);
        return 1;
    }
    if (client->parser.http_errno != HPE_OK || taken != (size_t) n)
        return -EPROTO;
    return n > 0;
}

static int receive_head(struct client *client, struct error *error) {
    while (!client->headers_done) {
        int r = receive_some(client);
        if (r <= 0)
            return lost(client, r, error);
    }
    return 0;
}

static int receive_rest(struct client *client, struct error *error) {
    while (!client->complete) {
        int r = receive_some(client);
        if (r == 0 && client->complete)
            break; /* a reply that the end of the connection ends */
        if (r <= 0)
            return lost(client, r, error);
        if (client->body.size > REPLY_MAX)
            return lost(client, -EMSGSIZE, error);
    }
    return 0;
}

void error_from_problem(struct json_object *problem, struct error *error) {
    const char *values[ERROR_PARAMETERS] = { 0 };
    enum error_code code = error_from_wire(json_text(problem, "code", ""));
    struct json_object *parameters = json_member(problem, "parameters");
    unsigned count = 0;

    if (code == ERROR_NONE) {
        (void) error_set(error, ERROR_INTERNAL, "polderd", json_text(problem, "detail", "it gave no reason"));
        return;
    }
    for (; count < ERROR_PARAMETERS && json_object_is_type(parameters, json_type_array) &&
           count < json_object_array_length(parameters); count++)
        values[count] = json_object_get_string(json_object_array_get_idx(parameters, count));
    (void) error_set_parameters(error, code, values, count);
    if (json_text(problem, "subject", NULL) && !error->subject)
        error->subject = strdup(json_text(problem, "subject", ""));
}

/* The reply that was read, into the caller's hands. */
static int finish_reply(struct client *client, struct response *ret, struct error *error) {
    if (!http_should_keep_alive(&client->parser))
        client->fd = close_fd(client->fd);
    ret->status = client->parser.status_code;
    ret->etag = STEAL_PTR(client->etag);
    ret->body = client->body;
    client->body = (struct buffer) BUFFER_INIT;
    if (ret->body.size > 0 && (ret->body.data[0] == '{' || ret->body.data[0] == '['))
        (void) json_parse(ret->body.data, ret->body.size, &ret->json, NULL);
    if (ret->status < 400)
        return 0;
    error_from_problem(ret->json, error);
    return -error_number(error->code);
}

static int begin_request(struct client *client, const char *method, const char *path, const char *headers,
                         struct buffer *out, struct error *error) {
    int r = client_connect(client, error);

    if (r < 0)
        return r;
    reply_reset(client);
    http_parser_init(&client->parser, HTTP_RESPONSE);
    client->parser.data = client;
    buffer_addf(out, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, path, headers ? headers : "");
    return 0;
}

int client_request_headers(struct client *client, const char *method, const char *path, const char *headers,
                           const char *body, struct response *ret, struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    int r = begin_request(client, method, path, headers, &out, error);

    if (r < 0)
        return r;
    if (body)
        buffer_addf(&out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    else
        buffer_add_text(&out, strcmp(method, "POST") ? "\r\n" : "Content-Length: 0\r\n\r\n");
    if (out.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = send_all(client, out.data, out.size);
    if (r < 0 && r != -EPIPE)
        return lost(client, r, error);
    r = receive_head(client, error);
    if (r == 0)
        r = receive_rest(client, error);
    return r < 0 ? r : finish_reply(client, ret, error);
}

int client_request(struct client *client, const char *method, const char *path, const char *body,
                   struct response *ret, struct error *error) {
    return client_request_headers(client, method, path, NULL, body, ret, error);
}

/* --- streams -------------------------------------------------------------------------------------------------------- */

static int read_problem(struct client *client, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = receive_rest(client, error);

    return r < 0 ? r : finish_reply(client, &response, error);
}

int client_stream_begin(struct client *client, const char *path, struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    int r = begin_request(client, "GET", path, NULL, &out, error);

    if (r < 0)
        return r;
    buffer_add_text(&out, "\r\n");
    if (out.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = send_all(client, out.data, out.size);
    if (r < 0)
        return lost(client, r, error);
    r = receive_head(client, error);
    if (r < 0)
        return r;
    return client->parser.status_code >= 400 ? read_problem(client, error) : 0;
}

long client_stream_read(struct client *client, void *data, size_t size, struct error *error) {
    while (client->body.size == 0) {
        int r;

        if (client->complete)
            return 0;
        r = receive_some(client);
        /* What went wrong after the first byte cannot be said in HTTP any more. */
        if (r == -EPROTO && !client->complete)
            return broken_off(client, error);
        if (r <= 0 && !client->complete)
            return lost(client, r, error);
    }
    if (size > client->body.size)
        size = client->body.size;
    memcpy(data, client->body.data, size);
    buffer_consume(&client->body, size);
    return (long) size;
}

int client_upload_begin(struct client *client, const char *method, const char *path, const char *type,
                        struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    int r = begin_request(client, method, path, NULL, &out, error);

    if (r < 0)
        return r;
    buffer_addf(&out, "Content-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", type);
    if (out.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = send_all(client, out.data, out.size);
    return r < 0 ? lost(client, r, error) : 0;
}

/* An early reply is a refusal: sending goes on into nothing otherwise. */
static bool has_reply(const struct client *client) {
    struct pollfd poll_fd = { .fd = client->fd, .events = POLLIN };

    return poll(&poll_fd, 1, 0) > 0;
}

int client_upload_write(struct client *client, const void *data, size_t size) {
    char start[32];
    int length = snprintf(start, sizeof(start), "%zx\r\n", size), r;

    if (size == 0)
        return 0;
    if (has_reply(client))
        return -EPIPE;
    r = send_all(client, start, (size_t) length);
    if (r == 0)
        r = send_all(client, data, size);
    return r < 0 ? r : send_all(client, "\r\n", 2);
}

int client_upload_end(struct client *client, struct response *ret, struct error *error) {
    int r = 0;

    if (!has_reply(client))
        r = send_all(client, "0\r\n\r\n", 5);
    if (r < 0 && r != -EPIPE)
        return lost(client, r, error);
    r = receive_head(client, error);
    if (r == 0)
        r = receive_rest(client, error);
    return r < 0 ? r : finish_reply(client, ret, error);
}

int client_upgrade(struct client *client, const char *path, int *ret_fd, struct buffer *early, struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    int r = begin_request(client, "GET", path, NULL, &out, error);

    if (r < 0)
        return r;
    buffer_add_text(&out, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: " SOCKET_KEY "\r\nSec-WebSocket-Protocol: polder.stream.v1\r\n\r\n");
    if (out.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = send_all(client, out.data, out.size);
    if (r < 0)
        return lost(client, r, error);
    r = receive_head(client, error);
    if (r < 0)
        return r;
    if (client->parser.status_code >= 400)
        return read_problem(client, error);
    if (client->parser.status_code != 101 || !text_equal(client->accept, SOCKET_ACCEPT))
        return lost(client, -EPROTO, error);
    *early = client->early;
    client->early = (struct buffer) BUFFER_INIT;
    *ret_fd = STEAL_FD(client->fd);
    return 0;
}
