// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/container/internal.h"

#define STATE_LIMIT 4096

static void emit_process(struct emitter *emitter, const char *key, const struct process *process) {
    emit_key(emitter, key);
    emit_object(emitter);
    emit_key_integer(emitter, "pid", process->pid);
    emit_key_unsigned(emitter, "start", process->start_ticks);
    emit_object_end(emitter);
}

int state_write(const struct container *container, bool created) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_object(&emitter);
    emit_key_text(&emitter, "boot", clock_boot_id());
    emit_key_boolean(&emitter, "created", created);
    emit_key_boolean(&emitter, "tty", container->tty);
    emit_key_boolean(&emitter, "input_open", container->input_open);
    emit_key_boolean(&emitter, "input_once", container->input_once);
    emit_key_unsigned(&emitter, "oom_kills", container->oom_kills);
    emit_process(&emitter, "monitor", &container->monitor);
    emit_process(&emitter, "init", &container->init);
    emit_object_end(&emitter);
    if (text.failed)
        return -ENOMEM;
    return file_write_atomic(container->directory, "state", text.data, text.size, 0600, false);
}

/* *ret stays empty when it is gone, which is no error; one is what keeps us from telling. */
static int adopt_process(struct json_object *object, const char *key, struct process *ret) {
    struct json_object *process = json_member(object, key);
    int64_t pid = json_integer(process, "pid", 0), start = json_integer(process, "start", 0);

    int r = pid <= 0 || pid > INT32_MAX ? -ESRCH : process_adopt((pid_t) pid, (uint64_t) start, ret);

    return r == -ESRCH ? 0 : r;
}

int state_read(struct container *container, bool *ret_created) {
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ struct json_object *object = NULL;
    size_t size;
    int r = file_read(container->directory, "state", STATE_LIMIT, &text, &size);

    if (r < 0)
        return r == -EFBIG ? -ESTALE : r;
    r = json_parse(text, size, &object, NULL);
    if (r < 0)
        return r == -ENOMEM ? r : -ESTALE;
    if (!text_equal(json_text(object, "boot", ""), clock_boot_id()))
        return -ESTALE;
    *ret_created = json_boolean(object, "created", false);
    container->tty = json_boolean(object, "tty", false);
    container->input_open = json_boolean(object, "input_open", false);
    container->input_once = json_boolean(object, "input_once", false);
    container->oom_kills = (uint64_t) json_integer(object, "oom_kills", 0);
    process_done(&container->monitor);
    process_done(&container->init);
    r = adopt_process(object, "monitor", &container->monitor);
    return r < 0 ? r : adopt_process(object, "init", &container->init);
}

int state_exit_code(const struct container *container, int *ret) {
    _cleanup_free_ char *text = NULL;
    int64_t code;
    int r = file_read(container->directory, "exit", 16, &text, NULL);

    if (r < 0)
        return r;
    text[strcspn(text, "\n")] = '\0';
    r = text_parse_i64(text, &code);
    if (r < 0 || code < 0 || code > 255)
        return -EBADMSG;
    *ret = (int) code;
    return 0;
}
