// SPDX-License-Identifier: GPL-2.0-or-later
/* Calling the programs that do the work: polder-worker (jails itself) and the builders. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/text.h"
#include "host/jail.h"
#include "storage/internal.h"

#define LINE_MAX_BYTES (64 * 1024)

struct answer {
    struct json_object *result;
    struct json_object *error;
    const struct storage_progress *progress;
    const char *step;
};

static void answer_line(const char *line, void *userdata) {
    struct answer *answer = userdata;
    _cleanup_json_ struct json_object *object = NULL;
    struct json_object *part;

    if (json_parse_foreign(line, strlen(line), &object, NULL) < 0)
        return;
    part = json_member(object, "progress");
    if (part)
        progress_step(answer->progress, answer->step, (uint64_t) json_integer(part, "done", 0),
                      (uint64_t) json_integer(part, "total", 0));
    if ((part = json_member(object, "result")) && !answer->result)
        answer->result = json_object_get(part);
    if ((part = json_member(object, "error")) && !answer->error)
        answer->error = json_object_get(part);
}

/* The worker names the kind of trouble by our own wire names; each has its own parameters. */
static int answer_error(struct json_object *answer, struct error *error) {
    enum error_code code = error_from_wire(json_text(answer, "kind", "internal"));
    const char *message = json_text(answer, "message", "no reason given"), *field = json_text(answer, "field", "");
    _cleanup_free_ char *both = *field ? text_format("%s: %s", field, message) : strdup(message);

    /* qemu-img took the format that the probe had found, and gave up: it is the image. */
    if (text_equal(json_text(answer, "code", ""), "convert-failed"))
        code = ERROR_BAD_IMAGE;
    switch (code) {
    case ERROR_BAD_IMAGE:
    case ERROR_BAD_DIGEST:
    case ERROR_TOO_LARGE:
        return error_set(error, ERROR_BAD_IMAGE, both);
    case ERROR_NO_SPACE:
        return error_set(error, ERROR_NO_SPACE, "writing the image");
    case ERROR_HOST_LACKS:
        return error_set(error, ERROR_HOST_LACKS, "a jail for image tools", message);
    default:
        return error_set(error, ERROR_PROGRAM_FAILED, "polder-worker", both);
    }
}

int worker_call(struct storage *storage, char *const *arguments, const struct process_fd *fds, size_t fd_count,
                const char *step, const struct storage_progress *progress, struct json_object **ret_result,
                struct error *error) {
    _cleanup_free_ char *program = text_format("%s/polder-worker", storage->libexec_path);
    _cleanup_error_ struct error failed = ERROR_INIT;
    struct answer answer = { .progress = progress, .step = step };
    struct process_spec spec = { .program = program, .arguments = arguments, .fds = fds, .fd_count = fd_count };
    struct process_run run = { .limit = LINE_MAX_BYTES, .deadline = deadline_in(TOOL_DEADLINE), .line = answer_line,
                               .userdata = &answer };
    int r = program ? process_run(&spec, &run, &failed) : -ENOMEM;

    if (answer.error && r != -ECANCELED && r != -ETIMEDOUT)
        r = answer_error(answer.error, error);
    else if (r < 0)
        error_move(error, &failed);
    else if (!answer.result)
        r = error_set(error, ERROR_PROGRAM_FAILED, "polder-worker", "it gave no result");
    if (r >= 0)
        *ret_result = STEAL_PTR(answer.result);
    json_put(answer.result);
    json_put(answer.error);
    return r;
}

/* --- programs that use the network ------------------------------------------------------------------------------------ */

/* What a program of the kind of curl needs to find and trust its peer. */
static const struct jail_view network_views[] = {
    { .path = "/etc/resolv.conf", .optional = true },
    { .path = "/etc/hosts", .optional = true },
    { .path = "/etc/nsswitch.conf", .optional = true },
    { .path = "/etc/services", .optional = true },
    { .path = "/etc/gai.conf", .optional = true },
    { .path = "/etc/ssl", .optional = true },
    { .path = "/usr/share/ca-certificates", .optional = true },
    { .path = "/usr/local/share/ca-certificates", .optional = true },
    { .path = "/etc/containers", .optional = true },
    { .path = "/usr/share/containers", .optional = true },
};

static int tool_enter(void *userdata) {
    const struct tool_jail *tool = userdata;
    const struct rlimit file_size = { tool->file_maximum, tool->file_maximum };
    int r = jail_enter(tool->jail);

    if (r < 0)
        return r;
    if (setrlimit(RLIMIT_FSIZE, &file_size) < 0)
        return -errno;
    /* The change of user took it away. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    return tool->guard ? guard_enter(tool->guard) : 0;
}

int tool_jail_open(struct tool_jail *tool, const char *program, const char *work, const char *input,
                   struct process_spec *spec, struct error *error) {
    struct jail_view views[ELEMENTS(network_views) + 3];
    struct jail_options options = { .views = views, .view_count = ELEMENTS(network_views), .system_libraries = true,
                                    .uid = TOOL_ID, .gid = TOOL_ID };
    const char *missing = NULL;
    int r;

    memcpy(views, network_views, sizeof(network_views));
    views[options.view_count++] = (struct jail_view){ .path = program };
    views[options.view_count++] = (struct jail_view){ .path = "/work", .source = work, .writable = true };
    if (input)
        views[options.view_count++] = (struct jail_view){ .path = "/input", .source = input };
    if (chown(work, TOOL_ID, TOOL_ID) < 0 || (input && chown(input, TOOL_ID, TOOL_ID) < 0))
        return error_errno(error, -errno, "preparing %s", program);
    r = jail_new(&options, &tool->jail, &missing);
    if (r == -ENOENT && text_equal(missing, program))
        return error_set(error, ERROR_HOST_LACKS, program, "it is not installed");
    if (r < 0)
        return error_errno(error, r, "making a jail for %s", program);
    tool->file_maximum = tool->file_maximum ? tool->file_maximum : TOOL_FILE_MAX;
    spec->program = program;
    spec->namespaces = jail_namespaces(tool->jail) & ~(unsigned) CLONE_NEWNET;
    spec->setup = tool_enter;
    spec->userdata = tool;
    return 0;
}

void tool_jail_close(struct tool_jail *tool) {
    jail_free(tool->jail);
    tool->jail = NULL;
}

/* --- builders ------------------------------------------------------------------------------------------------------------ */

static void builder_line(const char *line, void *userdata) {
    const struct storage_progress *progress = userdata;
    uint64_t percent = 0;
    char *end;

    if (!text_starts(line, "progress "))
        return;
    percent = strtoull(line + 9, &end, 10);
    progress_step(progress, *end == ' ' ? end + 1 : end, percent, 100);
}

static int private_mounts(void *userdata) {
    (void) userdata;
    return mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 ? -errno : 0;
}

int builder_call(struct storage *storage, const char *program, char *const *arguments,
                 const struct storage_progress *progress, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/%s", storage->libexec_path, program);
    struct process_spec spec = { .program = path, .arguments = arguments, .namespaces = CLONE_NEWNS | CLONE_NEWPID,
                                 .setup = private_mounts, .die_with_parent = true };
    struct process_run run = { .limit = LINE_MAX_BYTES, .deadline = deadline_in(TOOL_DEADLINE), .line = builder_line,
                               .userdata = (void *) progress };

    return path ? process_run(&spec, &run, error) : error_errno(error, -ENOMEM, "%s", program);
}
