// SPDX-License-Identifier: GPL-2.0-or-later
/* Programs in a VM through qemu-guest-agent. The agent itself gives output only when a program has ended,
 * and all of it in one reply; so the program is run by the guest's shell with its output in two files
 * beneath /run (standard input likewise, when there is some), which are read while they grow. Limits that
 * follow: no terminal, standard input reaches the program only when it is complete, and output takes room
 * in the guest until the program has ended. Beneath /run that room is memory, a tenth of it on Debian, which
 * serves commands even where the disk is full; archives of files are larger and go beneath /var/tmp.
 *
 * A stream is: filling (input is written to a file) -> running (the pump fiber launches the program and
 * reads) -> ended. The pump outlives the stream to clean up in the guest. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/text.h"
#include "base/uuid.h"
#include "drivers/qemu/agent-internal.h"
#include "base/base64.h"
#include "drivers/qemu/queue.h"

#define READ_PORTION (192 * 1024) /* in base64 well below AGENT_LINE_MAX */
#define WRITE_PORTION (192 * 1024)
#define QUEUE_MAX (1024 * 1024)
#define PAUSE_FIRST (10 * CLOCK_MILLISECOND)
#define PAUSE_MAX (500 * CLOCK_MILLISECOND)
#define PROBLEM_MAX 300

/* $1: path prefix of the files; $2: "i" if there is input; $3: directory or ""; the rest: the command. */
#define SCRIPT                                                                                               \
    "p=$1 i=$2 d=$3; shift 3; umask 077; exec >\"$p.out\" 2>\"$p.err\" || exit 125; "                        \
    "if [ -n \"$i\" ]; then exec <\"$p.in\"; else exec </dev/null; fi; "                                     \
    "if [ -n \"$d\" ]; then cd -- \"$d\" || exit 126; fi; umask 022; "                                    \
    "case \"$1\" in */*) ;; *) command -v -- \"$1\" >/dev/null 2>&1 || "                                   \
    "{ echo \"polder: '$1' is not found in the instance\" >&2; exit 127; } ;; esac; exec \"$@\""

/* What tar says of a missing file comes after an empty archive, which is no refusal any more for who reads it. */
#define ABSENT 66
#define GET_SCRIPT                                                                                           \
    "[ -e \"$3\" ] || [ -L \"$3\" ] || exit 66; exec tar -C \"$1\" -cf - -- \"$2\""
#define PUT_SCRIPT "[ -d \"$1\" ] || exit 66; exec tar -C \"$1\" -xpf -"

struct program {
    struct stream stream;
    unsigned references; /* the stream and the pump */
    struct agent *agent;
    char **arguments;
    char *directory;
    char *prefix; /* "/run/polder-exec-HEX" */
    char *path;   /* a transfer's, for which an exit code other than 0 is a failure; NULL for a command */
    bool with_input;
    bool freed;            /* nobody reads any more */
    bool input_closed;
    bool launched;
    bool exited; /* the guest has told its end */
    int64_t input; /* handle of the file being written, -1 */
    int64_t files[2]; /* output and errors */
    int64_t pid;
    struct fiber *pump;
    struct byte_queue queue;
    struct fiber_queue waiting;
    bool ended;
    int code;
    struct error error;
    struct buffer complaint; /* the beginning of standard error */
};

static void program_unref(struct program *program) {
    if (--program->references > 0)
        return;
    byte_queue_done(&program->queue);
    list_free(program->arguments);
    free(program->directory);
    free(program->prefix);
    free(program->path);
    buffer_done(&program->complaint);
    error_clear(&program->error);
    fiber_unref(program->pump);
    agent_unref(program->agent);
    free(program);
}

static void program_unrefp(struct program **program) {
    if (*program)
        program_unref(*program);
}

static struct program *program_of(struct stream *stream) {
    return CONTAINER_OF(stream, struct program, stream);
}

/* --- files in the guest --------------------------------------------------------------------------------- */

static int file_open_guest(struct program *program, const char *suffix, const char *mode, int64_t *ret,
                           struct error *error) {
    _cleanup_free_ char *path = text_format("%s%s", program->prefix, suffix);
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *reply = NULL;
    int r;

    emit_object(&emitter);
    emit_key_text(&emitter, "path", path);
    emit_key_text(&emitter, "mode", mode);
    emit_object_end(&emitter);
    if (!path || out.failed)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    r = agent_call(program->agent, "guest-file-open", out.data, &reply, error);
    if (r >= 0)
        *ret = json_object_get_int64(reply);
    return r;
}

static void file_close_guest(struct program *program, int64_t *handle) {
    _cleanup_free_ char *arguments =
            *handle < 0 ? NULL : text_format("{\"handle\":%lld}", (long long) *handle);

    if (arguments)
        (void) agent_call(program->agent, "guest-file-close", arguments, NULL, NULL);
    *handle = -1;
}

/* Decodes base64 in place of its text. */
static long data_take(struct json_object *reply, const char *name, char **ret) {
    const char *text = json_text(reply, name, "");
    size_t size = strlen(text);

    *ret = malloc(size / 4 * 3 + 4);
    return *ret ? base64_decode(text, (uint8_t *) *ret, size / 4 * 3 + 4) : -ENOMEM;
}

/* Reads what is there now into the queue. *ret_size 0: nothing at the moment. */
static int file_read_guest(struct program *program, unsigned index, size_t *ret_size, struct error *error) {
    enum stream_channel channel = index == 0 ? STREAM_OUTPUT : STREAM_ERRORS;
    _cleanup_free_ char *arguments =
            text_format("{\"handle\":%lld,\"count\":%d}", (long long) program->files[index], READ_PORTION);
    _cleanup_json_ struct json_object *reply = NULL;
    _cleanup_free_ char *data = NULL;
    long size;
    int r;

    r = arguments ? agent_call(program->agent, "guest-file-read", arguments, &reply, error) : -ENOMEM;
    if (r < 0)
        return r;
    size = data_take(reply, "buf-b64", &data);
    if (size < 0)
        return error_set(error, ERROR_GUEST, "its agent sent what is no base64");
    if (channel == STREAM_ERRORS && program->complaint.size < PROBLEM_MAX)
        buffer_add(&program->complaint, data, size < PROBLEM_MAX ? (size_t) size : PROBLEM_MAX);
    *ret_size = (size_t) size;
    return program->freed ? 0 : byte_queue_add(&program->queue, channel, data, (size_t) size);
}

static int file_write_guest(struct program *program, const void *data, size_t size, struct error *error) {
    _cleanup_free_ char *text = base64_encode(data, size);
    _cleanup_free_ char *arguments =
            text ? text_format("{\"handle\":%lld,\"buf-b64\":\"%s\"}", (long long) program->input, text)
                 : NULL;
    _cleanup_json_ struct json_object *reply = NULL;
    int r;

    if (!arguments)
        return error_errno(error, -ENOMEM, "writing to the guest");
    r = agent_call(program->agent, "guest-file-write", arguments, &reply, error);
    if (r >= 0 && json_integer(reply, "count", -1) != (int64_t) size)
        return error_set(error, ERROR_GUEST, "its disk is full");
    return r;
}

/* --- running -------------------------------------------------------------------------------------------- */

static void emit_shell(struct emitter *emitter, const struct program *program) {
    emit_key_text(emitter, "path", "/bin/sh");
    emit_key(emitter, "arg");
    emit_array(emitter);
    emit_text(emitter, "-c");
    emit_text(emitter, SCRIPT);
    emit_text(emitter, "polder");
    emit_text(emitter, program->prefix);
    emit_text(emitter, program->with_input ? "i" : "");
    emit_text(emitter, program->directory ? program->directory : "");
    for (char *const *argument = program->arguments; argument && *argument; argument++)
        emit_text(emitter, *argument);
    emit_array_end(emitter);
}

static int program_launch(struct program *program, struct error *error) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *reply = NULL;
    int r;

    emit_object(&emitter);
    emit_shell(&emitter, program);
    emit_key_boolean(&emitter, "capture-output", false);
    emit_object_end(&emitter);
    if (out.failed)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    r = agent_call(program->agent, "guest-exec", out.data, &reply, error);
    if (r < 0)
        return r;
    program->pid = json_integer(reply, "pid", -1);
    program->launched = true;
    return 0;
}

/* The guest forgets a program once it has told its end. */
static int status_ask(struct program *program, struct error *error) {
    _cleanup_free_ char *arguments = text_format("{\"pid\":%lld}", (long long) program->pid);
    _cleanup_json_ struct json_object *reply = NULL;
    int r = arguments ? agent_call(program->agent, "guest-exec-status", arguments, &reply, error) : -ENOMEM;

    if (r < 0)
        return r;
    program->exited = json_boolean(reply, "exited", false);
    if (program->exited) {
        int64_t number = json_integer(reply, "signal", 0);
        program->code =
                number > 0 ? 128 + (int) (number & 127) : (int) (json_integer(reply, "exitcode", 0) & 255);
    }
    return 0;
}

/* The shell makes the files soon after it starts, which takes its time in a guest that just boots. */
static int files_open(struct program *program, struct error *error) {
    uint64_t pause = PAUSE_FIRST;
    int r;

    for (;;) {
        _cleanup_error_ struct error problem = ERROR_INIT;
        bool last = program->exited;

        r = file_open_guest(program, ".err", "r", &program->files[1], &problem);
        if (r >= 0)
            break;
        if (last || r == -ECANCELED) {
            error_move(error, &problem);
            return r;
        }
        r = program->freed ? -ECANCELED : fiber_sleep(pause);
        if (r < 0)
            return error_errno(error, r, "waiting for the guest");
        r = status_ask(program, error);
        if (r < 0)
            return r;
        pause = pause * 2 < PAUSE_MAX ? pause * 2 : PAUSE_MAX;
    }
    return file_open_guest(program, ".out", "r", &program->files[0], error);
}

/* Reads both files to their present end. */
static int files_drain(struct program *program, bool *ret_any, struct error *error) {
    for (unsigned i = 0; i < 2; i++) {
        size_t size = 1;

        while (size > 0) {
            int r = program->freed ? -ECANCELED : file_read_guest(program, i, &size, error);
            if (r < 0)
                return r;
            *ret_any |= size > 0;
            while (program->queue.size > QUEUE_MAX && !program->freed) {
                r = fiber_sleep(PAUSE_FIRST);
                if (r < 0)
                    return error_errno(error, r, "waiting for the reader");
            }
        }
    }
    return 0;
}

static int program_follow(struct program *program, struct error *error) {
    uint64_t pause = PAUSE_FIRST;

    for (;;) {
        bool any = false;
        int r = program->exited ? 0 : status_ask(program, error);

        /* Asked first: all that it printed is in the files when it has ended. */
        if (r >= 0)
            r = files_drain(program, &any, error);
        if (r < 0)
            return r;
        if (program->exited)
            return 0;
        if (program->freed)
            return -ECANCELED;
        pause = any ? PAUSE_FIRST : pause * 2 < PAUSE_MAX ? pause * 2 : PAUSE_MAX;
        r = fiber_queue_wait(&program->waiting, deadline_in(pause));
        if (r < 0 && r != -ETIMEDOUT)
            return error_errno(error, r, "waiting for the guest");
    }
}

/* Runs a small command of our own in the guest and forgets it. */
static void guest_do(struct agent *agent, const char *path, const char *const *arguments) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_text(&emitter, "path", path);
    emit_key_list(&emitter, "arg", (char *const *) (uintptr_t) arguments);
    emit_object_end(&emitter);
    if (!out.failed)
        (void) agent_call(agent, "guest-exec", out.data, NULL, NULL);
}

static void program_kill(struct program *program, int number) {
    _cleanup_free_ char *signal = text_format("-%d", number);
    _cleanup_free_ char *pid = text_format("%lld", (long long) program->pid);
    const char *arguments[] = { signal, "--", pid, NULL };

    if (signal && pid && program->launched && program->pid > 1 && !program->ended)
        guest_do(program->agent, "/bin/kill", arguments);
}

static void program_clean(struct program *program) {
    _cleanup_free_ char *in = text_format("%s.in", program->prefix),
                        *out = text_format("%s.out", program->prefix),
                        *err = text_format("%s.err", program->prefix);
    const char *arguments[] = { "-f", "--", in, out, err, NULL };

    file_close_guest(program, &program->files[0]);
    file_close_guest(program, &program->files[1]);
    file_close_guest(program, &program->input);
    if (in && out && err)
        guest_do(program->agent, "/bin/rm", arguments);
}

/* Why a transfer failed. What a command or the shell says of itself is in its output already. */
static void problem_note(struct program *program) {
    _cleanup_free_ char *text = NULL;

    if (!program->path || program->code == 0)
        return;
    if (program->code == ABSENT) {
        (void) error_set(&program->error, ERROR_NOT_FOUND, program->with_input ? "directory" : "file", program->path);
        return;
    }
    while (program->complaint.size > 0 &&
           strchr("\r\n ", program->complaint.data[program->complaint.size - 1]))
        program->complaint.size--;
    text = text_escape(program->complaint.data, program->complaint.size, false);
    if (program->complaint.size > 0)
        (void) error_set(&program->error, ERROR_GUEST, text);
}

static int pump_main(void *userdata) {
    _cleanup_(program_unrefp) struct program *program = userdata;
    int r = program_launch(program, &program->error);

    if (r >= 0)
        r = files_open(program, &program->error);
    if (r >= 0)
        r = program_follow(program, &program->error);
    if (r < 0)
        program_kill(program, 9);
    program->ended = true;
    if (r < 0)
        program->code = 255;
    else
        problem_note(program);
    byte_queue_close(&program->queue, 0);
    fiber_queue_wake_all(&program->waiting);
    program_clean(program);
    return 0;
}

static int pump_start(struct program *program) {
    int r;

    if (program->pump)
        return 0;
    r = fiber_start(&program->pump, "guest-exec", pump_main, program);
    if (r >= 0)
        program->references++;
    return r;
}

/* --- stream --------------------------------------------------------------------------------------------- */

static long program_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                         uint64_t deadline) {
    return byte_queue_read(&program_of(stream)->queue, ret_channel, data, size, deadline);
}

/* Its input could not be stored: it is not run at all, and its result says why. */
static int program_refuse(struct program *program) {
    program->ended = true;
    program->code = 255;
    byte_queue_close(&program->queue, 0);
    fiber_queue_wake_all(&program->waiting);
    return -EPIPE;
}

static int program_write(struct stream *stream, const void *data, size_t size, uint64_t deadline _unused_) {
    struct program *program = program_of(stream);
    const char *position = data;
    int r = 0;

    if (!program->with_input || program->input_closed || program->ended)
        return -EPIPE;
    if (program->input < 0)
        r = file_open_guest(program, ".in", "w", &program->input, &program->error);
    while (r >= 0 && size > 0) {
        size_t portion = size < WRITE_PORTION ? size : WRITE_PORTION;

        r = file_write_guest(program, position, portion, &program->error);
        position += portion;
        size -= portion;
    }
    return r < 0 && error_is_set(&program->error) ? program_refuse(program) : r;
}

static int program_close_input(struct stream *stream) {
    struct program *program = program_of(stream);
    int r = 0;

    if (!program->with_input || program->input_closed || program->ended)
        return 0;
    program->input_closed = true;
    if (program->input < 0)
        r = file_open_guest(program, ".in", "w", &program->input, &program->error);
    file_close_guest(program, &program->input);
    return r < 0 ? r : pump_start(program);
}

static int program_signal(struct stream *stream, int number) {
    struct program *program = program_of(stream);

    if (!program->launched || program->ended)
        return -ESRCH;
    program_kill(program, number);
    return 0;
}

static int program_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline) {
    struct program *program = program_of(stream);
    int r = 0;

    while (r >= 0 && !program->ended)
        r = fiber_queue_wait(&program->waiting, deadline);
    if (r < 0)
        return error_errno(error, r, "waiting for the guest");
    *ret_code = program->code;
    if (!error_is_set(&program->error))
        return 0;
    error_copy(error, &program->error);
    return -error_number(program->error.code);
}

static void program_free(struct stream *stream) {
    struct program *program = program_of(stream);

    program->freed = true;
    byte_queue_close(&program->queue, -ECANCELED);
    fiber_queue_wake_all(&program->waiting);
    if (!program->pump && program->input >= 0 && fiber_current())
        program_clean(program);
    program_unref(program);
}

static const struct stream_operations program_operations = {
    .read = program_read,
    .write = program_write,
    .close_input = program_close_input,
    .signal = program_signal,
    .result = program_result,
    .free = program_free,
};

/* `path`: what a transfer is of, NULL for a command. */
static struct program *program_new(struct agent *agent, bool with_input, const char *path) {
    struct program *program = calloc(1, sizeof(*program));
    char name[17];

    if (!program)
        return NULL;
    random_hex(name, 8);
    program->stream.operations = &program_operations;
    program->references = 1;
    program->agent = agent_ref(agent);
    program->with_input = with_input;
    program->input = program->files[0] = program->files[1] = program->pid = -1;
    program->prefix = text_format("%s/polder-exec-%s", path ? "/var/tmp" : "/run", name);
    program->path = path ? strdup(path) : NULL;
    if (path && !program->path) {
        program_unref(program);
        return NULL;
    }
    return program;
}

static int program_begin(struct program *program, struct stream **ret, struct error *error) {
    int r = program->prefix && program->arguments ? 0 : -ENOMEM;

    if (r >= 0 && !program->with_input)
        r = pump_start(program);
    if (r < 0) {
        program_unref(program);
        return error_errno(error, r, "asking the guest agent");
    }
    *ret = &program->stream;
    return 0;
}

/* --- requests ------------------------------------------------------------------------------------------- */

static int arguments_make(const struct exec_request *request, char ***ret) {
    _cleanup_list_ char **list = NULL;
    int r = 0;

    if (!text_is_empty(request->user) && !text_equal(request->user, "root") &&
        !text_equal(request->user, "0")) {
        r = list_add(&list, "runuser");
        if (r >= 0)
            r = list_add(&list, "-u");
        if (r >= 0)
            r = list_add(&list, request->user);
        if (r >= 0)
            r = list_add(&list, "--");
    }
    /* The agent's own way to set variables would replace the whole environment. "--": a name may begin with a dash. */
    if (r >= 0 && request->environment && *request->environment)
        r = list_add(&list, "env");
    if (r >= 0 && request->environment && *request->environment)
        r = list_add(&list, "--");
    for (char *const *pair = request->environment; r >= 0 && pair && *pair; pair++)
        r = list_add(&list, *pair);
    for (char *const *argument = request->arguments; r >= 0 && argument && *argument; argument++)
        r = list_add(&list, *argument);
    if (r >= 0)
        *ret = STEAL_PTR(list);
    return r;
}

int agent_exec(struct agent *agent, const struct driver_instance *instance _unused_,
               const struct exec_request *request, struct stream **ret, struct error *error) {
    struct program *program;
    int r;

    if (request->tty)
        return error_set(error, ERROR_NOT_SUPPORTED, "the kind vm", "exec with a terminal",
                         "the guest agent has none; use the console, or ssh");
    r = agent_wait_up(agent, error);
    if (r < 0)
        return r;
    program = program_new(agent, request->stdin_open, NULL);
    if (!program)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    (void) arguments_make(request, &program->arguments);
    if (request->working_directory)
        program->directory = strdup(request->working_directory);
    return program_begin(program, ret, error);
}

static int transfer_begin(struct agent *agent, bool put, const char *path, const char *const *arguments,
                          struct stream **ret, struct error *error) {
    struct program *program;
    int r = agent_wait_up(agent, error);

    if (r < 0)
        return r;
    program = program_new(agent, put, path);
    if (!program)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    (void) list_copy((char *const *) (uintptr_t) arguments, &program->arguments);
    return program_begin(program, ret, error);
}

int agent_get(struct agent *agent, const char *path, struct stream **ret, struct error *error) {
    _cleanup_free_ char *copy = strdup(path);
    char *slash;

    if (!copy)
        return error_errno(error, -ENOMEM, "asking the guest agent");
    for (size_t size = strlen(copy); size > 1 && copy[size - 1] == '/'; size--)
        copy[size - 1] = '\0';
    slash = strrchr(copy, '/');
    if (!slash || copy[0] != '/')
        return error_set(error, ERROR_BAD_VALUE, "path", path, "it must be absolute");
    *slash = '\0';
    const char *arguments[] = { "sh", "-c", GET_SCRIPT, "polder", slash == copy ? "/" : copy,
                                slash[1] ? slash + 1 : ".", path, NULL };
    return transfer_begin(agent, false, path, arguments, ret, error);
}

int agent_put(struct agent *agent, const char *path, struct stream **ret, struct error *error) {
    const char *arguments[] = { "sh", "-c", PUT_SCRIPT, "polder", path, NULL };

    if (path[0] != '/')
        return error_set(error, ERROR_BAD_VALUE, "path", path, "it must be absolute");
    return transfer_begin(agent, true, path, arguments, ret, error);
}
