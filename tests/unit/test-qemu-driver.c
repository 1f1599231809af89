// SPDX-License-Identifier: GPL-2.0-or-later
/* The QEMU driver with real machines. Inputs come from a directory named by POLDER_TEST_MACHINES: vmlinux,
 * initramfs, root.erofs and blank.ext4 for microVMs, disk.qcow2 for VMs; what is missing skips its tests.
 * Storage and network are replaced by the functions below. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/uuid.h"
#include "drivers/driver.h"
#include "drivers/log.h"
#include "drivers/qemu/launch.h"
#include "drivers/qemu/machine.h"
#include "drivers/qemu/qmp.h"
#include "drivers/qemu/socket.h"
#include "network/network.h"
#include "storage/storage.h"

#define FAR (180 * CLOCK_SECOND)
#define BOOT (15 * 60 * CLOCK_SECOND) /* of an emulated Debian on a busy host */

static const char *inputs(void) {
    return getenv("POLDER_TEST_MACHINES");
}

static char *input_path(const char *name) {
    return text_format("%s/%s", inputs(), name);
}

static bool input_there(const char *name) {
    _cleanup_free_ char *path = inputs() ? input_path(name) : NULL;

    return path && getuid() == 0 && access(path, R_OK) == 0;
}

/* --- storage and network in small ----------------------------------------------------------------------- */

int storage_kernel(struct storage *storage _unused_, const struct image *image _unused_,
                   struct kernel_files *ret, struct error *error _unused_) {
    *ret = (struct kernel_files){ .version = strdup("test"),
                                  .kernel = getenv("POLDER_TEST_KERNEL")
                                                    ? strdup(getenv("POLDER_TEST_KERNEL"))
                                                    : input_path("vmlinux"),
                                  .initramfs = input_path("initramfs") };
    return 0;
}

void kernel_files_done(struct kernel_files *files) {
    free(files->version);
    free(files->kernel);
    free(files->initramfs);
}

int storage_check_disk(struct storage *storage _unused_, const char *path _unused_, char **ret_problem,
                       struct error *error _unused_) {
    *ret_problem = NULL;
    return 0;
}

int storage_ask_instance(struct storage *storage _unused_, const char *path _unused_, uint64_t deadline _unused_,
                         struct error *error _unused_) {
    return 0;
}

int storage_erofs(struct storage *storage _unused_, const struct image *image _unused_,
                  const struct storage_progress *progress _unused_, char **ret_path,
                  struct error *error _unused_) {
    *ret_path = input_path("root.erofs");
    return 0;
}

int storage_make_ext4(struct storage *storage _unused_, uint64_t size _unused_, const char *path,
                      struct error *error) {
    _cleanup_free_ char *blank = input_path("blank.ext4");
    int source, target, r;

    if (access(path, F_OK) == 0)
        return 0;
    source = open(blank, O_RDONLY | O_CLOEXEC);
    target = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    r = file_copy_sparse(source, target);
    close(source);
    close(target);
    return r < 0 ? error_errno(error, r, "copying") : 0;
}

int storage_disk_path(struct storage *storage _unused_, const struct image *image, char **ret_path,
                      struct error *error _unused_) {
    *ret_path = input_path(image->type == IMAGE_ISO ? "boot.iso" : "disk.qcow2");
    return 0;
}

int storage_make_overlay(struct storage *storage _unused_, const struct image *image _unused_,
                         uint64_t size _unused_, const char *path, struct error *error _unused_) {
    _cleanup_free_ char *base = input_path("disk.qcow2");
    _cleanup_free_ char *command = text_format(
            "test -e '%s' || qemu-img create -q -f qcow2 -b '%s' -F qcow2 '%s'", path, base, path);

    return system(command) == 0 ? 0 : -EIO;
}

int storage_image_find(struct storage *storage _unused_, const char *name, const struct image **ret _unused_,
                       struct error *error) {
    return error_set(error, ERROR_NOT_FOUND, "image", name);
}

int network_attach_tap(struct network *network _unused_, const struct network_member *member _unused_,
                       int *ret_fd _unused_, struct error *error _unused_) {
    return -EOPNOTSUPP;
}

int network_detach(struct network *network _unused_, const char *uuid _unused_,
                   struct error *error _unused_) {
    return 0;
}

const char *network_gateway(const struct network *network _unused_) {
    return NULL;
}

unsigned network_prefix(const struct network *network _unused_) {
    return 24;
}

const char *network_domain(const struct network *network _unused_) {
    return NULL;
}

unsigned network_mtu(const struct network *network _unused_) {
    return 1500;
}

/* --- an instance ---------------------------------------------------------------------------------------- */

struct bench {
    char directory[64];
    char *state_path, *run_path;
    struct instance_spec spec;
    struct instance_assigned assigned;
    struct image image;
    struct driver_instance instance;
    struct driver_context context;
    char uuid[UUID_TEXT_SIZE];
    void *data;
    unsigned exits;
    struct driver_exit exit;
    char reason[256];
    struct fiber_queue changed;
};

static struct bench *bench_of(struct driver_instance *instance) {
    return instance->manager_data;
}

static void on_exited(struct driver_instance *instance, const struct driver_exit *exit) {
    struct bench *bench = bench_of(instance);

    bench->exits++;
    bench->exit = *exit;
    snprintf(bench->reason, sizeof(bench->reason), "%s", exit->reason ? exit->reason : "");
    fiber_queue_wake_all(&bench->changed);
}

static void on_changed(struct driver_instance *instance) {
    fiber_queue_wake_all(&bench_of(instance)->changed);
}

static const struct driver_events events = { .exited = on_exited, .changed = on_changed };

static void bench_init(struct bench *bench, enum kind kind) {
    *bench = (struct bench){ 0 };
    strcpy(bench->directory, "/tmp/polder-qemu-XXXXXX");
    assert_non_null(mkdtemp(bench->directory));
    uuid_new(bench->uuid);
    bench->state_path = text_format("%s/state", bench->directory);
    bench->run_path = text_format("%s/run", bench->directory);
    assert_int_equal(mkdir(bench->state_path, 0700), 0);
    bench->spec = (struct instance_spec){
        .memory = 256 << 20,
        .cpus = 1000,
        .log_size = 1 << 20,
        .network = (char *) "none",
        .control_rate = 250,
    };
    bench->assigned =
            (struct instance_assigned){ .uuid = bench->uuid, .kind = (int) kind, .uid_base = 1900000 };
    bench->image.type = kind == KIND_VM ? IMAGE_DISK : IMAGE_OCI;
    bench->context = (struct driver_context){ .events = &events, .run_path = bench->directory,
                                              .libexec_path = getenv("POLDER_TEST_LIBEXEC") };
    bench->instance = (struct driver_instance){
        .name = "bench",
        .spec = &bench->spec,
        .assigned = &bench->assigned,
        .image = &bench->image,
        .state_path = bench->state_path,
        .run_path = bench->run_path,
        .driver = &qemu_driver,
        .manager_data = bench,
    };
    bench->instance.process.stop_signal = SIGTERM;
    if (!bench->context.libexec_path)
        bench->context.libexec_path = "/usr/lib/polder";
    assert_int_equal(qemu_driver.open(&bench->context, &bench->data, NULL), 0);
}

static void must(int r, struct error *error) {
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(error, LANGUAGE_ENGLISH);
        fprintf(stderr, "failed: %s\n", sentence);
    }
    assert_true(r >= 0);
}

static void bench_done(struct bench *bench) {
    _cleanup_error_ struct error error = ERROR_INIT;

    must(qemu_driver.release(bench->data, &bench->instance, &error), &error);
    assert_false(file_exists(AT_FDCWD, bench->run_path));
    qemu_driver.close(bench->data);
    assert_int_equal(file_remove_tree(AT_FDCWD, bench->directory), 0);
    free(bench->state_path);
    free(bench->run_path);
}

static void bench_command(struct bench *bench, const char *const *arguments) {
    bench->instance.process.arguments = (char **) (uintptr_t) arguments;
}

static int bench_try(struct bench *bench, bool restore, struct stream **ret, struct error *error) {
    const struct driver_start start = { .restore = restore, .ret_stream = ret };

    return qemu_driver.start(bench->data, &bench->instance, &start, error);
}

static void bench_start(struct bench *bench, bool restore, struct stream **ret) {
    _cleanup_error_ struct error error = ERROR_INIT;

    must(bench_try(bench, restore, ret, &error), &error);
}

static void bench_wait_exit(struct bench *bench) {
    uint64_t deadline = deadline_in(FAR);

    while (bench->exits == 0)
        assert_int_equal(fiber_queue_wait(&bench->changed, deadline), 0);
}

/* All output of a stream, both channels, and its result. */
static char *stream_all(struct stream *stream, int *ret_code) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_error_ struct error error = ERROR_INIT;
    enum stream_channel channel;
    char data[8192], *text = NULL;
    long n;

    while ((n = stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR))) > 0)
        buffer_add(&out, data, (size_t) n);
    assert_int_equal(n, 0);
    must(stream_result(stream, ret_code, &error, deadline_in(FAR)), &error);
    buffer_add(&out, "", 0);
    assert_int_equal(buffer_take(&out, &text), 0);
    return text;
}

static char *bench_exec(struct bench *bench, const char *script, int *ret_code) {
    const char *arguments[] = { "sh", "-c", script, NULL };
    const struct exec_request request = { .arguments = (char *const *) arguments };
    _cleanup_error_ struct error error = ERROR_INIT;
    struct stream *stream;
    char *text;

    must(qemu_driver.exec(bench->data, &bench->instance, &request, &stream, &error), &error);
    text = stream_all(stream, ret_code);
    stream_free(stream);
    return text;
}

/* What a dead daemon leaves: everything in memory is forgotten, the machine runs on. */
static void bench_forget(struct bench *bench) {
    struct machine *machine = STEAL_PTR(bench->instance.driver_data);

    machine_detach(machine);
    machine_unref(machine);
}

static void bench_adopt(struct bench *bench, bool *ret_running, struct driver_exit *ret_exit) {
    _cleanup_error_ struct error error = ERROR_INIT;
    bool paused;

    must(qemu_driver.adopt(bench->data, &bench->instance, ret_running, &paused, ret_exit, &error), &error);
}

static void wait_agent(struct bench *bench) {
    uint64_t deadline = deadline_in(BOOT);

    for (;;) {
        struct driver_facts facts;

        qemu_driver.facts(bench->data, &bench->instance, &facts);
        free(facts.hostname);
        list_free(facts.addresses);
        if (facts.agent_up)
            return;
        assert_true(clock_now() < deadline);
        assert_int_equal(fiber_sleep(50 * CLOCK_MILLISECOND), 0);
    }
}

/* --- microVM -------------------------------------------------------------------------------------------- */

/* The first process of a pid namespace gets only the signals it handles, as with docker. */
static const char *const sleeper[] = { "sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.1; done",
                                       NULL };

static void test_microvm_command(void) {
    static const char *const command[] = { "sh", "-c", "echo out; echo err >&2; hostname; exit 7", NULL };
    struct bench bench;
    struct stream *stream = NULL;
    int code = -1;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, command);
    bench_start(&bench, false, &stream);
    _cleanup_free_ char *text = stream_all(stream, &code);
    stream_free(stream);
    assert_int_equal(code, 7);
    assert_non_null(strstr(text, "out\n"));
    assert_non_null(strstr(text, "err\n"));
    assert_non_null(strstr(text, "bench\n"));
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 7);
    assert_int_equal(bench.exits, 1);
    bench_done(&bench);
}

static void test_microvm_missing_command(void) {
    static const char *const command[] = { "/no/such/program", NULL };
    struct bench bench;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, command);
    bench_start(&bench, false, NULL);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 127);
    assert_true(bench.reason[0]);
    bench_done(&bench);
}

static void test_microvm_exec(void) {
    struct bench bench;
    int code = -1;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    _cleanup_free_ char *text = bench_exec(&bench, "echo $((6*7)); touch /written; exit 3", &code);
    assert_string_equal(text, "42\n");
    assert_int_equal(code, 3);
    /* A megabyte through the window. */
    _cleanup_free_ char *large =
            bench_exec(&bench, "dd if=/dev/zero bs=1024 count=1024 2>/dev/null | tr '\\0' x", &code);
    assert_int_equal(strlen(large), 1 << 20);

    _cleanup_error_ struct error error = ERROR_INIT;
    must(qemu_driver.stop(bench.data, &bench.instance, 20000, &error), &error);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 143);

    /* What was written is there at the next start. */
    bench.exits = 0;
    bench_start(&bench, false, NULL);
    _cleanup_free_ char *again = bench_exec(&bench, "ls /written", &code);
    assert_string_equal(again, "/written\n");
    must(qemu_driver.stop(bench.data, &bench.instance, 0, &error), &error);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 137);
    bench_done(&bench);
}

static void namespaces_differ(pid_t pid) {
    static const char *const names[] = { "mnt", "pid", "net", "ipc", "uts" };

    for (size_t i = 0; i < ELEMENTS(names); i++) {
        _cleanup_free_ char *theirs = text_format("/proc/%d/ns/%s", (int) pid, names[i]);
        _cleanup_free_ char *ours = text_format("/proc/self/ns/%s", names[i]);
        char a[64] = { 0 }, b[64] = { 0 };

        assert_true(readlink(theirs, a, sizeof(a) - 1) > 0 && readlink(ours, b, sizeof(b) - 1) > 0);
        assert_string_not_equal(a, b);
    }
}

/* Programs, libraries and firmware, read-only; three devices; its own processes. */
static void mounts_are_few(pid_t pid) {
    static const char *const allowed[] = { "/",          "/usr/bin/qemu-system-x86_64", "/usr/share/qemu",
                                           "/dev/null",  "/usr/lib/x86_64-linux-gnu",   "/usr/share/seabios",
                                           "/dev/zero",  "/dev/urandom",                "/usr/lib64",
                                           "/proc",      NULL };
    _cleanup_free_ char *path = text_format("/proc/%d/mountinfo", (int) pid), *text = NULL;

    assert_int_equal(file_read(AT_FDCWD, path, 65536, &text, NULL), 0);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char point[256], flags[256];

        assert_int_equal(sscanf(line, "%*s %*s %*s %*s %255s %255s", point, flags), 2);
        assert_true(list_has((char *const *) (uintptr_t) allowed, point));
        assert_true(text_starts(flags, "ro,") || text_starts(point, "/dev/") || text_equal(point, "/proc"));
    }
}

/* Files are the instance's own and what was made for all: nothing else of the host. */
static void descriptors_are_ours(struct bench *bench, pid_t pid) {
    for (int fd = 0; fd < 256; fd++) {
        _cleanup_free_ char *path = text_format("/proc/%d/fd/%d", (int) pid, fd);
        char target[512] = { 0 };

        if (readlink(path, target, sizeof(target) - 1) < 0 || target[0] != '/' || text_equal(target, "/null"))
            continue;
        assert_true(text_starts(target, bench->directory) || text_starts(target, inputs()) ||
                    text_equal(target, "/dev/net/tun"));
    }
}

static void test_microvm_jail(void) {
    struct bench bench;
    pid_t pid;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    pid = ((struct machine *) bench.instance.driver_data)->process.pid;

    _cleanup_free_ char *path = text_format("/proc/%d/status", (int) pid), *status = NULL;
    assert_int_equal(file_read(AT_FDCWD, path, 65536, &status, NULL), 0);
    assert_non_null(strstr(status, "Uid:\t1900000\t1900000\t1900000\t1900000"));
    assert_non_null(strstr(status, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(status, "CapBnd:\t0000000000000000"));
    assert_non_null(strstr(status, "NoNewPrivs:\t1"));
    assert_non_null(strstr(status, "Seccomp:\t2"));
    namespaces_differ(pid);
    mounts_are_few(pid);
    descriptors_are_ours(&bench, pid);
    bench_done(&bench);
}

static void test_microvm_adopt(void) {
    struct driver_exit exit;
    struct bench bench;
    bool running = false;
    int code;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    free(bench_exec(&bench, "echo $$ > /mark", &code));
    bench_forget(&bench);
    bench_adopt(&bench, &running, &exit);
    assert_true(running);
    wait_agent(&bench);
    _cleanup_free_ char *text = bench_exec(&bench, "test -s /mark && echo same", &code);
    assert_string_equal(text, "same\n");

    /* The end comes while nobody looks; the next daemon still learns the code. */
    _cleanup_error_ struct error error = ERROR_INIT;
    must(qemu_driver.signal(bench.data, &bench.instance, SIGTERM, &error), &error);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 143);
    bench_forget(&bench);
    bench_adopt(&bench, &running, &exit);
    assert_false(running);
    assert_int_equal(exit.code, 143);
    bench_done(&bench);
}

/* The daemon dies between starting QEMU and telling the guest what to run: the next one does. */
static void test_microvm_adopt_unstarted(void) {
    static const char *const command[] = { "sh", "-c", "exit 11", NULL };
    struct driver_exit exit;
    struct bench bench;
    bool running = false;
    struct machine *machine;
    _cleanup_error_ struct error error = ERROR_INIT;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, command);
    assert_int_equal(mkdir(bench.run_path, 0700), 0);
    must(fiber_join(((struct qemu *) bench.data)->warming, deadline_in(FAR), NULL), &error);
    must(machine_new(bench.data, &bench.instance, &machine, &error), &error);
    must(launch_machine(machine, NULL, &error), &error);
    machine_unref(machine);
    bench_adopt(&bench, &running, &exit);
    assert_true(running);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 11);
    bench_done(&bench);
}

static void test_microvm_killed(void) {
    struct bench bench;
    struct machine *machine;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    machine = bench.instance.driver_data;
    assert_int_equal(kill(machine->process.pid, SIGKILL), 0);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 137);
    assert_non_null(strstr(bench.reason, "signal 9"));
    bench_done(&bench);
}

static long count_of(struct bench *bench) {
    int code;
    _cleanup_free_ char *text = bench_exec(bench, "cat /count", &code);

    return strtol(text, NULL, 10);
}

static void test_microvm_pause_and_suspend(void) {
    static const char *const counter[] = { "sh", "-c",
                                           "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done",
                                           NULL };
    _cleanup_error_ struct error error = ERROR_INIT;
    struct bench bench;
    int code;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, counter);
    bench_start(&bench, false, NULL);
    assert_int_equal(fiber_sleep(CLOCK_SECOND), 0);
    must(qemu_driver.pause(bench.data, &bench.instance, &error), &error);
    must(qemu_driver.resume(bench.data, &bench.instance, &error), &error);
    long before = count_of(&bench);
    assert_true(before > 0);

    must(qemu_driver.suspend(bench.data, &bench.instance, &error), &error);
    assert_null(bench.instance.driver_data);
    assert_int_equal(bench.exits, 0);
    assert_int_equal(fiber_sleep(2 * CLOCK_SECOND), 0);
    bench_start(&bench, true, NULL);
    long after = count_of(&bench);
    assert_true(after >= before && after < before + 200);
    _cleanup_free_ char *clock = bench_exec(&bench, "date +%s", &code);
    long drift = strtol(clock, NULL, 10) - (long) (clock_wall() / CLOCK_SECOND);
    assert_true(drift >= -1 && drift <= 1);
    bench_done(&bench);
}

static long memory_of(struct bench *bench) {
    int code;
    _cleanup_free_ char *text = bench_exec(bench, "sed -n 's/^MemTotal: *//p' /proc/meminfo", &code);

    return strtol(text, NULL, 10) / 1024;
}

/* Less memory through the balloon, back again, more than at the start refused; a restored machine keeps its
 * size. */
static void test_microvm_resize(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct instance_spec before;
    struct bench bench;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    long whole = memory_of(&bench);
    before = bench.spec;
    bench.spec.memory = 160 << 20;
    must(qemu_driver.change(bench.data, &bench.instance, &before, &error), &error);
    assert_true(memory_of(&bench) <= whole - 90);
    must(qemu_driver.suspend(bench.data, &bench.instance, &error), &error);
    bench_start(&bench, true, NULL);
    assert_true(memory_of(&bench) <= whole - 90);
    before = bench.spec;
    bench.spec.memory = 256 << 20;
    must(qemu_driver.change(bench.data, &bench.instance, &before, &error), &error);
    for (uint64_t end = deadline_in(FAR); memory_of(&bench) < whole - 5;)
        assert_true(clock_now() < end);
    bench.spec.memory = 512 << 20;
    assert_int_equal(qemu_driver.change(bench.data, &bench.instance, &before, &error), -EOPNOTSUPP);
    error_clear(&error);
    bench.spec.memory = 256 << 20;
    bench.spec.cpus = 3000;
    assert_int_equal(qemu_driver.change(bench.data, &bench.instance, &before, &error), -EOPNOTSUPP);
    bench_done(&bench);
}

static void test_microvm_share(void) {
    struct bench bench;
    _cleanup_error_ struct error error = ERROR_INIT;
    struct instance_mount mounts[2] = {
        { .type = MOUNT_BIND, .target = (char *) "/shared" },
        { .type = MOUNT_BIND, .target = (char *) "/seen", .read_only = true }
    };
    char *roots[2] = { NULL, NULL };
    int code;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    _cleanup_free_ char *allowed = text_format("%s/allowed", bench.directory),
                        *inside = text_format("%s/in", allowed),
                        *outside = text_format("%s/out", bench.directory),
                        *link = text_format("%s/link", allowed), *file = text_format("%s/file", inside),
                        *made = text_format("%s/made", inside), *text = NULL;
    assert_int_equal(
            mkdir(allowed, 0755) | mkdir(inside, 0755) | mkdir(outside, 0755) | symlink("../out", link), 0);
    assert_int_equal(file_write_atomic(AT_FDCWD, file, "from the host\n", 14, 0644, false), 0);
    roots[0] = allowed;
    ((struct qemu *) bench.data)->context.mount_roots = roots;
    bench.spec.mounts = (struct field_array){ .items = mounts, .count = 2 };

    /* Not beneath an allowed directory, by name or through a link. */
    mounts[0].source = outside;
    mounts[1].source = inside;
    assert_true(bench_try(&bench, false, NULL, &error) < 0);
    must(error.code == ERROR_NOT_ALLOWED_PATH ? 0 : -1, &error);
    error_clear(&error);
    mounts[0].source = link;
    assert_true(bench_try(&bench, false, NULL, &error) < 0);
    error_clear(&error);

    mounts[0].source = inside;
    bench_start(&bench, false, NULL);
    _cleanup_free_ char *seen = bench_exec(
            &bench, "cat /shared/file && echo from inside > /shared/made; touch /seen/no; echo $?", &code);
    assert_non_null(strstr(seen, "from the host\n"));
    assert_non_null(strstr(seen, "1\n"));
    assert_int_equal(file_read(AT_FDCWD, made, 100, &text, NULL), 0);
    assert_string_equal(text, "from inside\n");
    assert_int_equal(qemu_driver.suspend(bench.data, &bench.instance, &error), -EOPNOTSUPP);
    bench_done(&bench);
}

/* A guest that prints for ever to its serial console, while polderd is down: nothing grows, and it goes on
 * afterwards. */
static void test_microvm_console_flood(void) {
    struct driver_exit exit;
    struct bench bench;
    struct stream *console;
    enum stream_channel channel;
    bool running = false;
    char data[4096];
    int code;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    free(bench_exec(&bench, "yes flood > /dev/ttyS0 & echo", &code));
    bench_forget(&bench);
    assert_int_equal(fiber_sleep(2 * CLOCK_SECOND), 0);
    bench_adopt(&bench, &running, &exit);
    assert_true(running);
    wait_agent(&bench);
    _cleanup_free_ char *text = bench_exec(&bench, "echo alive", &code);
    assert_string_equal(text, "alive\n");
    assert_int_equal(qemu_driver.console(bench.data, &bench.instance, &console, NULL), 0);
    assert_true(stream_read(console, &channel, data, sizeof(data), deadline_in(FAR)) > 0);
    stream_free(console);
    bench_done(&bench);
}

static void test_microvm_panic(void) {
    struct bench bench;
    struct stream *stream;
    const char *arguments[] = { "sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
                                NULL };
    const struct exec_request request = { .arguments = (char *const *) arguments };

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    bench_start(&bench, false, NULL);
    assert_int_equal(qemu_driver.exec(bench.data, &bench.instance, &request, &stream, NULL), 0);
    bench_wait_exit(&bench);
    stream_free(stream);
    assert_int_equal(bench.exit.code, 255);
    assert_true(bench.reason[0]);
    bench_done(&bench);
}

/* A kernel that is none: the start fails with QEMU's own words and leaves nothing. */
static void test_microvm_bad_kernel(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    struct bench bench;

    bench_init(&bench, KIND_MICROVM);
    bench_command(&bench, sleeper);
    setenv("POLDER_TEST_KERNEL", "/etc/hostname", 1);
    assert_true(bench_try(&bench, false, NULL, &error) < 0);
    unsetenv("POLDER_TEST_KERNEL");
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_non_null(strstr(sentence, "QEMU ended"));
    assert_null(bench.instance.driver_data);
    assert_int_equal(bench.exits, 0);
    bench_done(&bench);
}

/* --- VM ------------------------------------------------------------------------------------------------- */

static void test_vm(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct stream *console;
    struct driver_exit exit;
    struct bench bench;
    bool running = false;
    int code = -1;

    bench_init(&bench, KIND_VM);
    bench.spec.memory = 1024 << 20;
    bench_start(&bench, false, NULL);
    must(qemu_driver.console(bench.data, &bench.instance, &console, &error), &error);
    _cleanup_free_ char *text = bench_exec(&bench, "hostname; echo err >&2; exit 4", &code);
    assert_int_equal(code, 4);
    assert_non_null(strstr(text, "bench\n"));
    assert_non_null(strstr(text, "err\n"));
    _cleanup_free_ char *large = bench_exec(&bench, "head -c 3000000 /dev/zero | tr '\\0' x", &code);
    assert_int_equal(strlen(large), 3000000);
    free(bench_exec(&bench, "exec /no/such/program", &code));
    assert_int_equal(code, 127);

    /* Files, there and back. */
    struct stream *stream;
    must(qemu_driver.get(bench.data, &bench.instance, "/etc/hostname", &stream, &error), &error);
    char tar[16384];
    enum stream_channel channel;
    long n, total = 0;
    while ((n = stream_read(stream, &channel, tar + total, sizeof(tar) - (size_t) total, deadline_in(FAR))) >
           0)
        total += n;
    stream_free(stream);
    assert_true(total >= 1024);
    assert_string_equal(tar, "hostname");
    must(qemu_driver.put(bench.data, &bench.instance, "/tmp", &stream, &error), &error);
    assert_int_equal(stream_write(stream, tar, (size_t) total, deadline_in(FAR)), 0);
    assert_int_equal(stream_close_input(stream), 0);
    free(stream_all(stream, &code));
    stream_free(stream);
    assert_int_equal(code, 0);
    _cleanup_free_ char *copied = bench_exec(&bench, "cat /tmp/hostname", &code);
    assert_string_equal(copied, "bench\n");

    /* Suspend, resume, clock. */
    must(qemu_driver.suspend(bench.data, &bench.instance, &error), &error);
    assert_int_equal(fiber_sleep(2 * CLOCK_SECOND), 0);
    bench_start(&bench, true, NULL);
    _cleanup_free_ char *clock = bench_exec(&bench, "date +%s", &code);
    long drift = strtol(clock, NULL, 10) - (long) (clock_wall() / CLOCK_SECOND);
    assert_true(drift >= -2 && drift <= 2);

    bench_forget(&bench);
    bench_adopt(&bench, &running, &exit);
    assert_true(running);
    _cleanup_free_ char *again = bench_exec(&bench, "cat /tmp/hostname", &code);
    assert_string_equal(again, "bench\n");
    must(qemu_driver.stop(bench.data, &bench.instance, 120000, &error), &error);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 0);
    stream_free(console);
    bench_done(&bench);
}

/* What QEMU says of its guest, asked over a connection of our own; allocated. */
static char *qemu_status(const struct bench *bench) {
    static const struct qmp_handlers nothing = { 0 };
    _cleanup_json_ struct json_object *status = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    int directory = open(bench->run_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct qmp *qmp = NULL;

    assert_true(directory >= 0);
    must(qmp_open_take(socket_connect(directory, "qmp.sock"), &nothing, NULL, deadline_in(FAR), &qmp, &error),
         &error);
    must(qmp_call(qmp, "query-status", NULL, -1, deadline_in(FAR), &status, &error), &error);
    qmp_free(qmp);
    close(directory);
    return strdup(json_text(status, "status", ""));
}

/* The guest is off; QEMU stands still until somebody has seen it. */
static void wait_shutdown(const struct bench *bench) {
    for (uint64_t deadline = deadline_in(BOOT);;) {
        _cleanup_free_ char *status = qemu_status(bench);

        if (text_equal(status, "shutdown"))
            return;
        assert_true(clock_now() < deadline);
        assert_int_equal(fiber_sleep(200 * CLOCK_MILLISECOND), 0);
    }
}

/* A VM that switches itself off while polderd is down has ended well, and polderd knows. */
static void test_vm_off_while_down(void) {
    struct driver_exit exit;
    struct bench bench;
    bool running = true;
    int code = -1;

    bench_init(&bench, KIND_VM);
    bench.spec.memory = 1024 << 20;
    bench_start(&bench, false, NULL);
    wait_agent(&bench);
    /* Later, so that nobody watches any more when it happens. */
    free(bench_exec(&bench,
                    "systemd-run --quiet --on-active=5 --timer-property=AccuracySec=1 "
                    "systemctl poweroff --force",
                    &code));
    assert_int_equal(code, 0);
    bench_forget(&bench);
    wait_shutdown(&bench);
    bench_adopt(&bench, &running, &exit);
    assert_false(running);
    assert_int_equal(exit.code, 0);
    assert_int_equal(bench.exits, 0);
    bench_done(&bench);
}

static void test_vm_uefi(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct bench bench;
    char banner[12];
    int code, fd;

    bench_init(&bench, KIND_VM);
    bench.spec.memory = 1024 << 20;
    bench.spec.firmware = FIRMWARE_UEFI;
    bench.spec.graphics = true;
    bench_start(&bench, false, NULL);
    must(qemu_driver.vnc(bench.data, &bench.instance, &fd, &error), &error);
    assert_int_equal(fiber_read(fd, banner, sizeof(banner), deadline_in(FAR)), 12);
    assert_memory_equal(banner, "RFB 003.008\n", 12);
    close(fd);
    wait_agent(&bench);
    _cleanup_free_ char *text = bench_exec(&bench, "test -d /sys/firmware/efi && echo efi", &code);
    assert_string_equal(text, "efi\n");
    must(qemu_driver.stop(bench.data, &bench.instance, 0, &error), &error);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 137);
    bench_done(&bench);
}

/* Anything that boots from a CD; what it shows goes to the serial console, since there is no display. */
static void test_vm_iso(void) {
    struct bench bench;
    struct stream *console;
    enum stream_channel channel;
    char data[4096];
    size_t total = 0;

    bench_init(&bench, KIND_VM);
    bench.image.type = IMAGE_ISO;
    bench.spec.disk = 64 << 20;
    bench_start(&bench, false, &console);
    while (total < 200) {
        long n = stream_read(console, &channel, data, sizeof(data), deadline_in(FAR));
        assert_true(n > 0);
        total += (size_t) n;
    }
    stream_free(console);
    bench_done(&bench);
}

/* A QEMU that stands still answers nothing; stop and release do not wait for it. */
static void test_vm_hung(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct bench bench;
    struct machine *machine;
    uint64_t before;

    bench_init(&bench, KIND_VM);
    bench_start(&bench, false, NULL);
    machine = bench.instance.driver_data;
    assert_int_equal(kill(machine->process.pid, SIGSTOP), 0);
    before = clock_now();
    must(qemu_driver.stop(bench.data, &bench.instance, 1000, &error), &error);
    assert_true(clock_now() - before < 5 * CLOCK_SECOND);
    bench_wait_exit(&bench);
    assert_int_equal(bench.exit.code, 137);
    bench_done(&bench);
}

/* --- running tests on a fiber --------------------------------------------------------------------------- */

static int on_fiber(void *userdata) {
    void (*test)(void) = *(void (**)(void)) userdata;

    test();
    /* Canceled fibers run to their ends. */
    for (int i = 0; i < 10; i++)
        (void) fiber_yield();
    loop_exit(0);
    return 0;
}

static void run(void **state) {
    void (*test)(void) = (void (*)(void)) (uintptr_t) *state;

    assert_int_equal(loop_init(), 0);
    assert_int_equal(fiber_start(NULL, "test", on_fiber, &test), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
}

static void run_microvm(void **state) {
    if (!input_there("vmlinux") || !input_there("initramfs") || !input_there("root.erofs") ||
        !input_there("blank.ext4")) {
        print_message("skipped: POLDER_TEST_MACHINES names no directory with the parts of a microVM\n");
        skip();
    }
    run(state);
}

static void run_vm(void **state) {
    if (!input_there("disk.qcow2")) {
        print_message("skipped: POLDER_TEST_MACHINES names no directory with a disk for VMs\n");
        skip();
    }
    run(state);
}

static void run_iso(void **state) {
    if (!input_there("boot.iso")) {
        print_message("skipped: POLDER_TEST_MACHINES names no directory with an ISO image\n");
        skip();
    }
    run(state);
}

#define ISO_TEST(function)                                                                                   \
    { .name = #function, .test_func = run_iso, .initial_state = (void *) (uintptr_t) (function) }
#define VM_TEST(function)                                                                                    \
    { .name = #function, .test_func = run_vm, .initial_state = (void *) (uintptr_t) (function) }
#define MICROVM_TEST(function)                                                                               \
    { .name = #function, .test_func = run_microvm, .initial_state = (void *) (uintptr_t) (function) }

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        MICROVM_TEST(test_microvm_command),
        MICROVM_TEST(test_microvm_missing_command),
        MICROVM_TEST(test_microvm_exec),
        MICROVM_TEST(test_microvm_jail),
        MICROVM_TEST(test_microvm_adopt),
        MICROVM_TEST(test_microvm_killed),
        MICROVM_TEST(test_microvm_pause_and_suspend),
        MICROVM_TEST(test_microvm_share),
        MICROVM_TEST(test_microvm_resize),
        MICROVM_TEST(test_microvm_console_flood),
        MICROVM_TEST(test_microvm_panic),
        MICROVM_TEST(test_microvm_bad_kernel),
        VM_TEST(test_vm),
        VM_TEST(test_vm_uefi),
        VM_TEST(test_vm_off_while_down),
        MICROVM_TEST(test_microvm_adopt_unstarted),
        ISO_TEST(test_vm_iso),
        VM_TEST(test_vm_hung),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
