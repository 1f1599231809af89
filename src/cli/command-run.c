// SPDX-License-Identifier: GPL-2.0-or-later
/* run and create. A foreground run creates the instance, then starts it through its attach socket, so that not one byte
 * of its output is missed; both go over one connection. */
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"

#define FAIL_STATUS 125 /* as docker's: polder itself failed, not the command */

struct run_options {
    const char *name;
    bool detach;
    const char *pull;
};

static const char *const pull_choices[] = { "missing", "always", "never", NULL };

/* The request's body. image: what the spec shall say. */
static int build_body(struct invocation *invocation, const char *image, char **ret, struct error *error) {
    const struct run_options *options = invocation->options;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    if (options->name)
        emit_key_text(&emitter, "name", options->name);
    emit_key(&emitter, "spec");
    emit_object(&emitter);
    if (image)
        emit_key_text(&emitter, "image", image);
    invocation_emit_spec(invocation, &emitter);
    if (invocation->rest_count > 0)
        emit_key_list(&emitter, "command", invocation->rest);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    return buffer_take(&out, ret) < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
}

/* --- the image ------------------------------------------------------------------------------------------------------ */

static int pull_image(struct invocation *invocation, const char *image, char **ret_name, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);
    struct invocation pull = *invocation; /* a pull is waited for, whatever the run is */
    struct json_object *result, *aliases;
    const char *name = NULL;
    int r;

    pull.no_wait = pull.dry_run = false;
    emit_object(&emitter);
    emit_key_text(&emitter, "source", image);
    emit_key_text(&emitter, "type", "pull");
    emit_object_end(&emitter);
    if (body.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = change_run(&pull, "POST", "/v1/images", body.data, image, &response, error);
    if (r < 0)
        return r;
    result = json_member(response.json, "result");
    aliases = json_member(result, "aliases");
    if (json_object_is_type(aliases, json_type_array) && json_object_array_length(aliases) > 0)
        name = json_object_get_string(json_object_array_get_idx(aliases, 0));
    *ret_name = strdup(name ? name : json_text(result, "digest", image));
    return *ret_name ? 0 : error_set(error, ERROR_NO_MEMORY, "");
}

static int create(struct invocation *invocation, const char *path, const char *image, struct response *ret,
                  struct error *error) {
    const struct run_options *options = invocation->options;
    _cleanup_free_ char *body = NULL;
    int r = build_body(invocation, image, &body, error);

    return r < 0 ? r : change_run(invocation, "POST", path, body, options->name ? options->name : image ? image : "instance",
                               ret, error);
}

/* Creates it, pulling the image first or on demand. */
static int create_with_image(struct invocation *invocation, const char *path, struct response *ret,
                             struct error *error) {
    const struct run_options *options = invocation->options;
    const char *image = invocation->arguments[0], *policy = options->pull ? options->pull : "missing";
    bool can_pull = image && text_starts(image, "docker://");
    _cleanup_free_ char *pulled = NULL;
    int r;

    if (!image && !invocation->spec.cdrom)
        return error_set(error, ERROR_USAGE, "name an image, as in 'polder run busybox', or a medium to boot a vm from "
                                             "(--cdrom); 'polder image ls' shows what is here");
    if (image && !strcmp(policy, "always")) {
        r = pull_image(invocation, image, &pulled, error);
        return r < 0 ? r : create(invocation, path, pulled, ret, error);
    }
    r = create(invocation, path, image, ret, error);
    if (r == 0 || !is_missing_image(error))
        return r;
    if (!can_pull || !strcmp(policy, "never")) {
        suggest_image(invocation, error->parameters[1], true, error);
        return r;
    }
    error_clear(error);
    r = pull_image(invocation, image, &pulled, error);
    return r < 0 ? r : create(invocation, path, pulled, ret, error);
}

/* --- the foreground --------------------------------------------------------------------------------------------------- */

static int instance_name(const struct response *response, char **ret, struct error *error) {
    const char *object = json_text(response->json, "object", "");

    if (!text_starts(object, "instances/"))
        return error_set(error, ERROR_INTERNAL, "creating the instance", "polderd did not say its name");
    *ret = strdup(object + strlen("instances/"));
    return *ret ? 0 : error_set(error, ERROR_NO_MEMORY, "");
}

static void remove_failed(struct client *client, const char *name) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    _cleanup_free_ char *path = instance_path(name, "?force=true&purge=true&wait=30s");

    if (path)
        (void) client_request(client, "DELETE", path, NULL, &response, &ignored);
}

static int attach(struct invocation *invocation, const char *name, struct error *error) {
    _cleanup_free_ char *path = instance_path(name, "/attach?start=true");
    char first[64] = "{}";
    uint16_t rows, columns;
    struct session_options session = {
        .path = path, .first = first, .input = invocation->spec.stdin_open, .proxy_signals = !invocation->spec.tty,
        .tty = invocation->spec.tty && isatty(STDIN_FILENO), .name = name,
    };
    struct client *client;
    int code = 0, r = invocation_client(invocation, &client, error);

    if (r < 0 || !path)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    if (invocation->spec.tty && terminal_size(&rows, &columns))
        snprintf(first, sizeof(first), "{\"rows\":%u,\"columns\":%u}", rows, columns);
    r = session_run(client, &session, &code, error);
    if (r == 0 && error_is_set(error))
        invocation_show_error(invocation, error);
    if (r == 1) {
        show_note("%s goes on; come back with 'polder attach %s'", name, name);
        return 0;
    }
    if (r < 0 && invocation->spec.remove)
        remove_failed(client, name);
    return r < 0 ? r : code;
}

/* Has the instance a main process to attach to? A vm has a console instead. */
static bool is_attachable(struct invocation *invocation, const char *name) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    _cleanup_free_ char *path = NULL;
    struct client *client;
    int kind = invocation->spec.kind;

    if (kind == KIND_AUTO) {
        path = instance_path(name, "");
        if (!path || invocation_client(invocation, &client, &ignored) < 0 ||
            client_request(client, "GET", path, NULL, &response, &ignored) < 0)
            return true;
        kind = kind_from_name(json_path_text(response.json, "assigned.kind", "container"));
    }
    return kind != KIND_VM;
}

static int start_detached(struct invocation *invocation, const char *name, struct error *error) {
    _cleanup_free_ char *path = instance_path(name, "/start");
    int r = path ? change_run(invocation, "POST", path, NULL, name, NULL, error)
                 : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0 && !invocation->no_wait)
        puts(name);
    return r;
}

static int show_dry_run(const struct invocation *invocation, const struct response *response, struct error *error) {
    return output_object(invocation, response->json, "name", error);
}

static int run_detached(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *name = NULL;
    int r = create_with_image(invocation, "/v1/instances?start=true", &response, error);

    if (r == 0 && invocation->dry_run)
        return show_dry_run(invocation, &response, error);
    if (r == 0 && !invocation->no_wait)
        r = instance_name(&response, &name, error);
    if (r == 0 && name)
        puts(name);
    return r;
}

static int run_run(struct invocation *invocation, struct error *error) {
    const struct run_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *name = NULL;
    int r;

    if (options->detach || invocation->no_wait || invocation->dry_run)
        return run_detached(invocation, error);
    if (invocation->spec.tty && invocation->spec.stdin_open && !isatty(STDIN_FILENO))
        return error_set(error, ERROR_USAGE, "standard input is no terminal: leave out -t, or -i");
    r = create_with_image(invocation, "/v1/instances", &response, error);
    if (r == 0)
        r = instance_name(&response, &name, error);
    if (r < 0)
        return r;
    return is_attachable(invocation, name) ? attach(invocation, name, error)
                                           : start_detached(invocation, name, error);
}

static int run_create(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *name = NULL;
    int r = create_with_image(invocation, "/v1/instances", &response, error);

    if (r == 0 && invocation->dry_run)
        return show_dry_run(invocation, &response, error);
    if (r == 0 && !invocation->no_wait)
        r = instance_name(&response, &name, error);
    if (r == 0 && name)
        puts(name);
    return r;
}

static const struct flag run_flags[] = {
    { .name = "name", .type = FLAG_TEXT, .offset = offsetof(struct run_options, name), .value = "NAME",
      .help = "Its name; without one it is invented." },
    { .name = "pull", .type = FLAG_TEXT, .offset = offsetof(struct run_options, pull), .value = "WHEN",
      .choices = pull_choices, .help = "When a docker:// image is pulled: missing (default), always or never." },
    { .name = "detach", .letter = 'd', .type = FLAG_SWITCH, .offset = offsetof(struct run_options, detach),
      .help = "Start it in the background and print its name." },
};

const struct command command_run = {
    .name = "run", .group = GROUP_INSTANCES, .summary = "Create an instance and start it",
    .usage = "IMAGE [--] [COMMAND...] | --cdrom IMAGE",
    .description = "Runs in the foreground with the instance's output, as docker does: the exit status is that of its main "
                   "process; 125 if polder itself failed, 126 if the command cannot be executed, 127 if it is not found. "
                   "A vm is started in the background. With -t, ctrl-p ctrl-q detaches.",
    .examples = "  polder run busybox -- echo hello\n"
                "  polder run -it --rm --kind microvm busybox sh\n"
                "  polder run -d --name web --publish 8080:80 --memory 128M docker://docker.io/library/nginx\n",
    .flags = run_flags, .flag_count = ELEMENTS(run_flags), .options_size = sizeof(struct run_options),
    .common = COMMON_SPEC | COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET | COMMON_OUTPUT, .maximum = 1,
    .takes_rest = true, .fail_status = FAIL_STATUS, .complete = COMPLETE_IMAGES, .run = run_run,
};

const struct command command_create = {
    .name = "create", .group = GROUP_INSTANCES, .summary = "Create an instance without starting it",
    .usage = "IMAGE [--] [COMMAND...] | --cdrom IMAGE",
    .examples = "  polder create --name db --kind vm --cpus 2 --memory 2G debian\n",
    .flags = run_flags, .flag_count = ELEMENTS(run_flags) - 1, .options_size = sizeof(struct run_options),
    .common = COMMON_SPEC | COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET | COMMON_OUTPUT, .maximum = 1,
    .takes_rest = true, .complete = COMPLETE_IMAGES, .run = run_create,
};
