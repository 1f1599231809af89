// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/identity.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "host/cgroup.h"

#define IDENTITY_NAME "qemu.json"
#define IDENTITY_MAX 4096

int identity_write(int directory, const char *uuid, const struct process *process) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_integer(&emitter, "pid", process->pid);
    emit_key_unsigned(&emitter, "start_ticks", process->start_ticks);
    emit_key_text(&emitter, "boot_id", clock_boot_id());
    emit_key_text(&emitter, "uuid", uuid);
    emit_object_end(&emitter);
    /* Gone with a reboot as the process is, so it need not reach a disk. */
    return out.failed ? -ENOMEM
                      : file_write_atomic(directory, IDENTITY_NAME, out.data, out.size, 0600, false);
}

/* What cannot be read for want of memory or descriptors, or from a disk that fails, may well run. -ESRCH: there is no record,
 * or none that makes sense. */
static int identity_read(int directory, struct json_object **ret) {
    _cleanup_free_ char *text = NULL;
    size_t size;
    int r = file_read(directory, IDENTITY_NAME, IDENTITY_MAX, &text, &size);

    if (r < 0)
        return r == -ENOENT || r == -EFBIG ? -ESRCH : r;
    r = json_parse(text, size, ret, NULL);
    return r < 0 && r != -ENOMEM ? -ESRCH : r;
}

int identity_find(int directory, const char *uuid, const struct cgroup *cgroup, struct process *ret) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    _cleanup_json_ struct json_object *json = NULL;
    int64_t pid;
    int r = identity_read(directory, &json);

    if (r < 0)
        return r;
    if (!text_equal(json_text(json, "uuid", ""), uuid) || !text_equal(json_text(json, "boot_id", ""), clock_boot_id()))
        return -ESRCH;
    pid = json_integer(json, "pid", 0);
    if (pid <= 1 || pid > INT32_MAX)
        return -ESRCH;
    r = process_adopt((pid_t) pid, (uint64_t) json_integer(json, "start_ticks", 0), &process);
    if (r < 0)
        return r;
    r = cgroup ? cgroup_holds(cgroup, process.pid) : 1;
    if (r < 0)
        return r;
    if (r == 0 && !proc_is_ending(process.pid))
        return -ESRCH;
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

int identity_remove(int directory) {
    return unlinkat(directory, IDENTITY_NAME, 0) < 0 && errno != ENOENT ? -errno : 0;
}
