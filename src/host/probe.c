// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/text.h"
#include "host/facts.h"

#define PROBE_DEADLINE (2 * CLOCK_SECOND)
#define PROBE_OUTPUT_MAX 512
#define CACHE_NAME "kvm-probe.json"
#define TSC_SAMPLE_NS 20000000

/* --- time stamp counter --------------------------------------------------------------------------------- */

#ifdef __x86_64__
static uint64_t raw_now(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

struct tsc_sample {
    uint64_t ticks, time;
};

/* Clock and counter as near to each other as three tries give: being scheduled away between them spoils a
 * sample. */
static struct tsc_sample tsc_take(void) {
    struct tsc_sample best = { 0 };
    uint64_t width = UINT64_MAX;

    for (int i = 0; i < 3; i++) {
        uint64_t before = raw_now();
        uint64_t ticks = __builtin_ia32_rdtsc();
        uint64_t after = raw_now();
        if (after - before >= width)
            continue;
        width = after - before;
        best = (struct tsc_sample){ ticks, before + width / 2 };
    }
    return best;
}

uint64_t host_measure_tsc_khz(void) {
    const struct timespec pause = { .tv_nsec = TSC_SAMPLE_NS };
    struct tsc_sample first = tsc_take(), last;

    nanosleep(&pause, NULL);
    last = tsc_take();
    if (last.time <= first.time || last.ticks <= first.ticks)
        return 0;
    return (last.ticks - first.ticks) * 1000000 / (last.time - first.time);
}
#else
uint64_t host_measure_tsc_khz(void) {
    return 0;
}
#endif

/* --- KVM ------------------------------------------------------------------------------------------------ */

static void kvm_set(struct host_facts *facts, bool usable, const char *reason) {
    free(facts->kvm_reason);
    facts->kvm_usable = usable;
    facts->kvm_reason = strdup(reason);
}

static char *cache_path(const char *run_path) {
    return text_format("%s/" CACHE_NAME, run_path);
}

static bool cache_read(struct host_facts *facts, const char *run_path) {
    _cleanup_free_ char *path = cache_path(run_path), *text = NULL;
    _cleanup_json_ struct json_object *json = NULL;
    size_t size = 0;

    if (!path || file_read(AT_FDCWD, path, 4096, &text, &size) < 0 || json_parse(text, size, &json, NULL) < 0)
        return false;
    if (!text_equal(json_text(json, "boot_id", ""), clock_boot_id()))
        return false;
    kvm_set(facts, json_boolean(json, "usable", false), json_text(json, "reason", ""));
    return true;
}

static void cache_write(const struct host_facts *facts, const char *run_path) {
    _cleanup_free_ char *path = cache_path(run_path);
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_text(&emitter, "boot_id", clock_boot_id());
    emit_key_boolean(&emitter, "usable", facts->kvm_usable);
    emit_key_text(&emitter, "reason", facts->kvm_reason);
    emit_object_end(&emitter);
    /* Only a cache: failing to write it costs the next start one probe. */
    if (path && !out.failed)
        (void) file_write_atomic(AT_FDCWD, path, out.data, out.size, 0644, false);
}

static void probe_line(const char *line, void *userdata) {
    char **reason = userdata;

    if (!*reason)
        *reason = text_escape(line, strnlen(line, PROBE_OUTPUT_MAX), false);
}

static void probe_run(struct host_facts *facts, const char *program) {
    char *const arguments[] = { (char *) program, NULL };
    const struct process_spec spec = { .program = program, .arguments = arguments, .die_with_parent = true };
    _cleanup_free_ char *reason = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    int status = -1, r;
    const struct process_run run = { .deadline = deadline_in(PROBE_DEADLINE),
                                     .line = probe_line,
                                     .userdata = &reason,
                                     .limit = PROBE_OUTPUT_MAX,
                                     .ret_status = &status };

    r = process_run(&spec, &run, &error);
    if (r == -ETIMEDOUT)
        kvm_set(facts, false, "/dev/kvm opens, but a tiny guest hung and was ended after 2 seconds");
    else if (r < 0 && status < 0)
        kvm_set(facts, false, "the probe could not run");
    else
        kvm_set(facts, r >= 0 && status == 0, reason ? reason : "the probe was killed");
}

void host_probe_kvm(struct host_facts *facts, const char *run_path, const char *libexec_path) {
    _cleanup_free_ char *program = text_format("%s/polder-kvm-probe", libexec_path);

    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        kvm_set(facts, false, errno == ENOENT ? "there is no /dev/kvm" : "/dev/kvm may not be opened");
        return;
    }
    if (cache_read(facts, run_path))
        return;
    if (!program || access(program, X_OK) < 0) {
        kvm_set(facts, false, "the probe program polder-kvm-probe is not installed, so KVM is not trusted");
        return;
    }
    probe_run(facts, program);
    cache_write(facts, run_path);
}
