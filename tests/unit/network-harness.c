// SPDX-License-Identifier: GPL-2.0-or-later
/* The network layer by itself, for tests/system/test_network_layer.py: reads one JSON command per line from
 * standard input and answers with one JSON line. It runs in whatever network namespace it is started in.
 *
 *   network-harness RUN STATE [SUBNET]
 *
 * Commands: {"do": "adopt", "members": […]}, attach (container: "netns" is a path), tap, update, detach,
 * orphans, reset, findings, allocate, show, quit. A member is {uuid, name, mac, address, ports:
 * ["tcp:8080:80", …], rate_in, rate_out}. */
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <json-c/json.h>

#include "base/fiber.h"
#include "base/json.h"
#include "base/text.h"
#include "network/network.h"

struct harness {
    struct network *network;
    int taps[64];
    size_t tap_count;
    struct emitter emitter;
};

struct call {
    struct harness *harness;
    struct json_object *json;
};

#define PORTS_MAX 16

struct given {
    struct network_member member;
    struct instance_port ports[PORTS_MAX];
    struct field_array array;
    char *texts[PORTS_MAX];
};

static void given_done(struct given *given) {
    for (size_t i = 0; i < PORTS_MAX; i++)
        free(given->texts[i]);
}

/* "tcp:8080:80" or "udp:127.0.0.1:53:53". */
static void given_port(struct given *given, const char *text) {
    struct instance_port *port = &given->ports[given->array.count];
    char *rest = strdup(text), *fields[4] = { 0 }, *one;
    size_t count = 0;

    given->texts[given->array.count++] = rest;
    while (count < 4 && (one = strsep(&rest, ":")))
        fields[count++] = one;
    if (count < 3)
        return;
    port->protocol = text_equal(fields[0], "udp") ? PROTOCOL_UDP : PROTOCOL_TCP;
    port->host_address = count == 4 ? fields[1] : NULL;
    port->host_port = atoll(fields[count - 2]);
    port->port = atoll(fields[count - 1]);
}

static void given_read(struct given *given, struct json_object *json) {
    struct json_object *ports = json_member(json, "ports");

    *given = (struct given){ .member = { .uuid = json_text(json, "uuid", ""),
                                         .name = json_text(json, "name", ""),
                                         .mac = json_text(json, "mac", ""),
                                         .address = json_text(json, "address", ""),
                                         .rate_in = (uint64_t) json_integer(json, "rate_in", 0),
                                         .rate_out = (uint64_t) json_integer(json, "rate_out", 0) } };
    given->array.items = given->ports;
    for (size_t i = 0; ports && i < json_object_array_length(ports) && i < PORTS_MAX; i++)
        given_port(given, json_object_get_string(json_object_array_get_idx(ports, i)));
    given->member.ports = &given->array;
}

static int do_adopt(struct call *call, struct error *error) {
    struct json_object *list = json_member(call->json, "members");
    size_t count = list ? json_object_array_length(list) : 0;
    struct given *given = calloc(count + 1, sizeof(*given));
    struct network_member *members = calloc(count + 1, sizeof(*members));
    int r;

    for (size_t i = 0; i < count; i++) {
        given_read(&given[i], json_object_array_get_idx(list, i));
        given[i].member.ports = &given[i].array;
        members[i] = given[i].member;
    }
    r = network_adopt(call->harness->network, members, count, error);
    for (size_t i = 0; i < count; i++)
        given_done(&given[i]);
    free(given);
    free(members);
    return r;
}

static int do_attach(struct call *call, struct error *error) {
    _cleanup_close_ int netns = open(json_text(call->json, "netns", ""), O_RDONLY | O_CLOEXEC);
    struct given given;
    uint64_t start;
    int r;

    given_read(&given, call->json);
    start = clock_now();
    r = network_attach_container(call->harness->network, &given.member, netns, error);
    emit_key_unsigned(&call->harness->emitter, "microseconds", clock_now() - start);
    given_done(&given);
    return r;
}

static int do_tap(struct call *call, struct error *error) {
    struct harness *harness = call->harness;
    struct given given;
    uint64_t start;
    int fd = -EBADF, r;

    given_read(&given, call->json);
    start = clock_now();
    r = network_attach_tap(harness->network, &given.member, &fd, error);
    emit_key_unsigned(&harness->emitter, "microseconds", clock_now() - start);
    if (r >= 0 && harness->tap_count < ELEMENTS(harness->taps))
        harness->taps[harness->tap_count++] = fd;
    emit_key_integer(&harness->emitter, "fd", fd);
    given_done(&given);
    return r;
}

static int do_update(struct call *call, struct error *error) {
    struct given given;
    int r;

    given_read(&given, call->json);
    r = network_update(call->harness->network, &given.member, error);
    given_done(&given);
    return r;
}

static int do_detach(struct call *call, struct error *error) {
    uint64_t start = clock_now();
    int r = network_detach(call->harness->network, json_text(call->json, "uuid", ""), error);

    emit_key_unsigned(&call->harness->emitter, "microseconds", clock_now() - start);
    return r;
}

static int do_orphans(struct call *call, struct error *error) {
    struct json_object *list = json_member(call->json, "known");
    _cleanup_list_ char **known = NULL, **found = NULL;
    int r;

    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        (void) list_add(&known, json_object_get_string(json_object_array_get_idx(list, i)));
    r = network_orphans(call->harness->network, known, json_boolean(call->json, "remove", false), &found,
                        error);
    emit_key_list(&call->harness->emitter, "found", found);
    return r;
}

static int do_reset(struct call *call, struct error *error) {
    return network_reset(call->harness->network, error);
}

static int do_findings(struct call *call, struct error *error) {
    struct findings findings = { 0 };
    int r = network_findings(call->harness->network, &findings);

    (void) error;
    emit_key(&call->harness->emitter, "findings");
    findings_emit(&findings, &call->harness->emitter);
    findings_done(&findings);
    return r;
}

static bool is_taken(const char *address, void *userdata) {
    struct json_object *list = json_member(userdata, "taken");

    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        if (text_equal(json_object_get_string(json_object_array_get_idx(list, i)), address))
            return true;
    return json_boolean(userdata, "all_taken", false);
}

static int do_allocate(struct call *call, struct error *error) {
    _cleanup_free_ char *mac = NULL, *address = NULL;
    int r = network_allocate(call->harness->network, json_text(call->json, "uuid", ""), is_taken, call->json,
                             &mac, &address, error);

    emit_key_text(&call->harness->emitter, "mac", mac);
    emit_key_text(&call->harness->emitter, "address", address);
    return r;
}

static int do_show(struct call *call, struct error *error) {
    (void) error;
    emit_key(&call->harness->emitter, "network");
    network_emit(call->harness->network, &call->harness->emitter);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(struct call *call, struct error *error);
} verbs[] = {
    { "adopt", do_adopt },       { "attach", do_attach },     { "tap", do_tap },     { "update", do_update },
    { "detach", do_detach },     { "orphans", do_orphans },   { "reset", do_reset }, { "show", do_show },
    { "findings", do_findings }, { "allocate", do_allocate },
};

static void answer(struct harness *harness, struct json_object *json) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_free_ char *sentence = NULL;
    struct call call = { harness, json };
    int r = -ENOSYS;

    harness->emitter = (struct emitter) EMITTER_INIT(&out);
    emit_object(&harness->emitter);
    for (size_t i = 0; i < ELEMENTS(verbs); i++)
        if (text_equal(verbs[i].name, json_text(json, "do", "")))
            r = verbs[i].run(&call, &error);
    emit_key_integer(&harness->emitter, "result", r);
    if (error_is_set(&error)) {
        sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        emit_key_text(&harness->emitter, "code", error_wire(error.code));
        emit_key_text(&harness->emitter, "error", sentence);
    }
    emit_object_end(&harness->emitter);
    buffer_add_char(&out, '\n');
    (void) !write(STDOUT_FILENO, out.data, out.size);
}

static int harness_main(void *userdata) {
    struct harness *harness = userdata;
    _cleanup_buffer_ struct buffer in = BUFFER_INIT;
    char data[65536];
    long got;

    (void) fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    while ((got = fiber_read(STDIN_FILENO, data, sizeof(data), DEADLINE_NONE)) > 0) {
        char *end;

        buffer_add(&in, data, (size_t) got);
        while (in.size > 0 && (end = memchr(in.data, '\n', in.size))) {
            _cleanup_json_ struct json_object *json = NULL;

            if (json_parse(in.data, (size_t) (end - in.data), &json, NULL) >= 0)
                answer(harness, json);
            buffer_consume(&in, (size_t) (end - in.data) + 1);
        }
    }
    network_free(harness->network);
    (void) fiber_yield();
    loop_exit(0);
    return 0;
}

int main(int argc, char **argv) {
    struct network_options options = { .run_path = argc > 1 ? argv[1] : "",
                                       .state_path = argc > 2 ? argv[2] : "",
                                       .subnet = argc > 3 && *argv[3] ? argv[3] : NULL };
    _cleanup_error_ struct error error = ERROR_INIT;
    struct harness harness = { 0 };

    if (argc < 3)
        return 2;
    if (loop_init() < 0 || network_new(&options, &harness.network, &error) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        fprintf(stderr, "network-harness: %s\n", sentence ? sentence : "failed");
        return 1;
    }
    if (fiber_start(NULL, "harness", harness_main, &harness) < 0)
        return 1;
    (void) loop_run();
    for (size_t i = 0; i < harness.tap_count; i++)
        close(harness.taps[i]);
    loop_done();
    return 0;
}
