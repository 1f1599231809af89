// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/operation.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/terminal.h"

#define FIRST_WAIT "1s"      /* what is over sooner shows no progress */
#define FOLLOW_WAIT "30s"
#define NAMES_MAX 512

/* What was shown last. */
struct progress {
    bool terminal;
    bool quiet;
    const char *subject;
    char *step;
    bool drawn;
};

int invocation_client(struct invocation *invocation, struct client **ret, struct error *error) {
    if (!invocation->client && client_new(invocation->socket, &invocation->client) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    *ret = invocation->client;
    return 0;
}

char *instance_path(const char *name, const char *suffix) {
    _cleanup_free_ char *encoded = url_encode(name);

    return encoded ? text_format("/v1/instances/%s%s", encoded, suffix) : NULL;
}

void suggest_instance(struct invocation *invocation, const char *name, const struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    const char *names[NAMES_MAX], *near;
    struct json_object *list;
    struct client *client;
    size_t count = 0;

    if (error->code != ERROR_NOT_FOUND || !text_equal(error->parameters[0], "instance"))
        return;
    if (invocation_client(invocation, &client, &ignored) < 0 ||
        client_request(client, "GET", "/v1/instances?fields=name", NULL, &response, &ignored) < 0)
        return;
    list = json_member(response.json, "instances");
    if (!json_object_is_type(list, json_type_array))
        return;
    for (size_t i = 0; i < json_object_array_length(list) && count < NAMES_MAX - 1; i++)
        names[count++] = json_text(json_object_array_get_idx(list, i), "name", "");
    names[count] = NULL;
    near = text_suggest(name, names);
    if (near && !invocation->suggestion)
        invocation->suggestion = text_format("did you mean '%s'?", near);
}

int for_each_name(struct invocation *invocation,
                  int (*act)(struct invocation *invocation, const char *name, struct error *error), struct error *error) {
    int result = 0;

    for (size_t i = 0; i < invocation->count; i++) {
        _cleanup_error_ struct error problem = ERROR_INIT;
        const char *name = invocation->arguments[i];
        int r = act(invocation, name, &problem);

        if (r == -EINTR && interrupt_came())
            return r;
        if (r == 0)
            continue;
        suggest_instance(invocation, name, &problem);
        result = r;
        if (i + 1 == invocation->count)
            error_move(error, &problem);
        else
            invocation_show_error(invocation, &problem);
    }
    /* Those before the last were told already. */
    return result < 0 && !error_is_set(error) ? 1 : result;
}

bool is_missing_image(const struct error *error) {
    return error->code == ERROR_NOT_FOUND && text_equal(error->parameters[0], "image");
}

/* Names and, for what has a tag, the names without it. Texts are borrowed from the list. */
static size_t image_names(struct json_object *list, const char **names, size_t size) {
    size_t count = 0;

    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *aliases = json_member(json_object_array_get_idx(list, i), "aliases");
        for (size_t j = 0; json_object_is_type(aliases, json_type_array) && j < json_object_array_length(aliases); j++)
            if (count < size)
                names[count++] = json_object_get_string(json_object_array_get_idx(aliases, j));
    }
    return count;
}

/* What is built here is not pulled; the rest is taken from where docker takes it. */
static char *how_to_get(const char *name) {
    const char *slash = strchr(name, '/');
    bool has_host = slash && memchr(name, '.', (size_t) (slash - name));
    const char *place = strstr(name, "://") || has_host ? "" : slash ? "docker.io/" : "docker.io/library/";

    if (text_equal(name, "busybox") || text_starts(name, "debian:"))
        return text_format("make it with 'polder image build %s'", name);
    return text_format("get it with 'polder image pull %s%s%s'; 'polder image ls' shows what is here",
                       strstr(name, "://") ? "" : "docker://", place, name);
}

void suggest_image(struct invocation *invocation, const char *name, bool may_get, const struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    const char *names[NAMES_MAX], *near;
    struct client *client;

    if (!is_missing_image(error) || invocation->suggestion ||
        invocation_client(invocation, &client, &ignored) < 0 ||
        client_request(client, "GET", "/v1/images", NULL, &response, &ignored) < 0)
        return;
    names[image_names(json_member(response.json, "images"), names, NAMES_MAX - 1)] = NULL;
    near = text_suggest(name, names);
    if (near)
        invocation->suggestion = text_format("did you mean '%s'?", near);
    else if (may_get)
        invocation->suggestion = how_to_get(name);
}

void invocation_show_error(struct invocation *invocation, const struct error *error) {
    show_error(error, invocation->language);
    if (invocation->suggestion)
        show_note("%s", invocation->suggestion);
    free(STEAL_PTR(invocation->suggestion));
}

/* --- progress ------------------------------------------------------------------------------------------------------- */

static void progress_clear(struct progress *progress) {
    if (progress->drawn && progress->terminal)
        clear_bar();
    progress->drawn = false;
}

/* What an operation does, in words: operations of later daemons keep their type. */
static const struct {
    const char *type, *words;
} activities[] = {
    { "instance.create", "creating" },   { "instance.start", "starting" },     { "instance.stop", "stopping" },
    { "instance.restart", "restarting" }, { "instance.pause", "pausing" },     { "instance.resume", "resuming" },
    { "instance.suspend", "suspending" }, { "instance.delete", "deleting" },   { "instance.undelete", "undeleting" },
    { "instance.kill", "signalling" },    { "instance.change", "changing" },   { "image.add", "getting" },
    { "node.check", "checking" },
};

static const char *activity_of(const char *type) {
    for (size_t i = 0; i < ELEMENTS(activities); i++)
        if (text_equal(activities[i].type, type))
            return activities[i].words;
    return type;
}

/* A bar on a terminal; elsewhere a line for each step: "starting web", "getting debian:bookworm: unpacking". */
static void progress_show(struct progress *progress, struct json_object *operation) {
    struct json_object *counts = json_member(operation, "progress");
    const char *activity = activity_of(json_text(operation, "type", ""));
    const char *step = json_text(operation, "step", activity);

    if (progress->quiet)
        return;
    if (progress->terminal) {
        show_bar(progress->subject, step, (uint64_t) json_integer(counts, "done", 0),
                 (uint64_t) json_integer(counts, "total", 0), false);
        progress->drawn = true;
    } else if (!text_equal(step, progress->step)) {
        show_note(text_equal(step, activity) ? "%s %s" : "%s %s: %s", activity, progress->subject, step);
    }
    free(progress->step);
    progress->step = strdup(step);
}

/* --- following ------------------------------------------------------------------------------------------------------ */

static bool is_running(const struct response *response) {
    return !strcmp(json_text(response->json, "state", ""), "running");
}

static int operation_result(const struct response *operation, struct error *error) {
    struct json_object *problem = json_member(operation->json, "error");

    if (problem && !json_object_is_type(problem, json_type_null)) {
        error_from_problem(problem, error);
        return -error_number(error->code);
    }
    if (!strcmp(json_text(operation->json, "state", ""), "canceled"))
        return error_set(error, ERROR_CANCELED, json_text(operation->json, "type", "the operation"));
    return 0;
}

static void tell_detached(const char *subject, const char *id) {
    fprintf(stderr, "\n");
    show_note("%s: it goes on without you; follow it with 'polder ops wait %s', stop it with 'polder ops cancel %s'",
              subject, id, id);
}

/* One more state of it into *operation. */
static int operation_next(struct client *client, struct response *operation, struct error *error) {
    _cleanup_free_ char *path = text_format("/v1/operations/%s?wait=" FOLLOW_WAIT "&revision=%lld",
                                            json_text(operation->json, "id", ""),
                                            (long long) json_integer(operation->json, "revision", 0));
    struct response next = RESPONSE_INIT;
    int r = path ? client_request(client, "GET", path, NULL, &next, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r < 0) {
        response_done(&next);
        return r;
    }
    response_done(operation);
    *operation = next;
    return 0;
}

int operation_follow(struct invocation *invocation, struct response *operation, const char *subject,
                     struct error *error) {
    struct progress progress = { .terminal = isatty(STDERR_FILENO), .quiet = invocation->quiet, .subject = subject };
    _cleanup_free_ char *id = strdup(json_text(operation->json, "id", ""));
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    interrupt_catch();
    while (r == 0 && is_running(operation)) {
        progress_show(&progress, operation->json);
        r = operation_next(client, operation, error);
    }
    progress_clear(&progress);
    free(progress.step);
    if (r == -EINTR && interrupt_came()) {
        tell_detached(subject, id ? id : "");
        return r;
    }
    interrupt_release();
    return r < 0 ? r : operation_result(operation, error);
}

int change_run_headers(struct invocation *invocation, const char *method, const char *path, const char *headers,
                       const char *body, const char *subject, struct response *ret, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    char mark = strchr(path, '?') ? '&' : '?';
    _cleanup_free_ char *full = NULL;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r < 0)
        return r;
    full = invocation->dry_run  ? text_format("%s%cdry_run=true", path, mark)
           : invocation->no_wait ? strdup(path) : text_format("%s%cwait=" FIRST_WAIT, path, mark);
    if (!full)
        return error_set(error, ERROR_NO_MEMORY, "");
    interrupt_catch();
    r = client_request_headers(client, method, full, headers, body, &response, error);
    if (r == -EINTR && interrupt_came()) {
        fprintf(stderr, "\n");
        show_note("%s: what was asked for may go on without you; 'polder ops ls' shows it", subject);
        return r;
    }
    interrupt_release();
    if (r == 0 && invocation->no_wait && !invocation->dry_run && response.status == 202)
        puts(json_text(response.json, "id", ""));
    else if (r == 0 && response.status == 202)
        r = operation_follow(invocation, &response, subject, error);
    if (r == 0 && ret) {
        *ret = response;
        response = (struct response) RESPONSE_INIT;
    }
    return r;
}

int change_run(struct invocation *invocation, const char *method, const char *path, const char *body,
               const char *subject, struct response *ret, struct error *error) {
    return change_run_headers(invocation, method, path, NULL, body, subject, ret, error);
}
