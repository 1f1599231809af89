// SPDX-License-Identifier: GPL-2.0-or-later
/* From an instance to a running QEMU. The plan says what the machine has, `fds` holds what it gets, at the
 * numbers of enum machine_fd. The tap is made by a fiber of its own while disks are prepared. */
#include "drivers/qemu/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/qemu/arguments.h"
#include "drivers/qemu/identity.h"
#include "drivers/qemu/seed.h"
#include "drivers/qemu/share.h"
#include "drivers/qemu/socket.h"
#include "drivers/qemu/suspend.h"
#include "host/cgroup.h"
#include "host/jail.h"
#include "network/network.h"
#include "storage/storage.h"

#define FIRMWARE_CODE "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define FIRMWARE_VARIABLES "/usr/share/OVMF/OVMF_VARS_4M.fd"
#define OPEN_FILES 4096

struct launch {
    struct machine *machine;
    struct driver_instance *instance;
    struct machine_plan plan;
    int fds[MACHINE_FD_COUNT];
    struct fiber *network;
    struct error network_error;
    int tap;
};

static const struct jail_view qemu_views[] = {
    { .path = "/usr/bin/qemu-system-x86_64" },
    { .path = "/usr/share/qemu" },
    { .path = "/usr/share/seabios" },
};

static void launch_done(struct launch *launch) {
    if (launch->network)
        fiber_cancel_join(launch->network);
    fiber_unref(launch->network);
    error_clear(&launch->network_error);
    close_fd(launch->tap);
    for (unsigned i = 0; i < MACHINE_FD_COUNT; i++)
        close_fd(launch->fds[i]);
}

static int open_file(const char *path, int flags, struct error *error) {
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? error_errno(error, -errno, "opening %s", path) : fd;
}

static char *state_file(const struct launch *launch, const char *name) {
    return text_format("%s/%s", launch->instance->state_path, name);
}

/* --- network -------------------------------------------------------------------------------------------- */

static bool has_network(const struct driver_instance *instance) {
    return instance->assigned->mac && !text_equal(instance->spec->network, "none");
}

static int network_main(void *userdata) {
    struct launch *launch = userdata;
    const struct driver_instance *instance = launch->instance;
    const struct network_member member = network_member_of(instance->name, instance->assigned, instance->spec);

    return network_attach_tap(launch->machine->qemu->context.network, &member, &launch->tap,
                              &launch->network_error);
}

static int network_begin(struct launch *launch, struct error *error) {
    int r;

    if (!has_network(launch->instance))
        return 0;
    if (!launch->machine->qemu->context.network)
        return error_set(error, ERROR_HOST_LACKS, "a network",
                         "no instance network could be set up here; use --network none");
    launch->plan.mac = launch->instance->assigned->mac;
    r = fiber_start(&launch->network, "tap", network_main, launch);
    return r < 0 ? error_errno(error, r, "attaching the network") : 0;
}

static int network_finish(struct launch *launch, struct error *error) {
    int r, result = 0;

    if (!launch->network)
        return 0;
    r = fiber_join(launch->network, DEADLINE_NONE, &result);
    if (r < 0)
        return error_errno(error, r, "attaching the network");
    if (result < 0) {
        error_move(error, &launch->network_error);
        return error_errno(error, result, "attaching the network");
    }
    launch->fds[MACHINE_FD_TAP] = STEAL_FD(launch->tap);
    /* Only faster: without, QEMU moves the packets itself. */
    launch->fds[MACHINE_FD_VHOST] = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
    launch->plan.vhost = launch->fds[MACHINE_FD_VHOST] >= 0;
    return 0;
}

/* --- disks ---------------------------------------------------------------------------------------------- */

/* Consumes the descriptors. */
static void disk_add(struct launch *launch, struct machine_disk disk, int fd, int backing_fd) {
    unsigned index = launch->plan.disk_count++;

    launch->plan.disks[index] = disk;
    launch->fds[MACHINE_FD_DISKS + 2 * index] = fd;
    launch->fds[MACHINE_FD_DISKS + 2 * index + 1] = backing_fd;
}

/* What only this instance has: whatever made it, nobody else on the host may read it. */
static int own_private(int fd, const char *path, struct error *error) {
    return fchmod(fd, 0600) < 0 ? error_errno(error, -errno, "protecting %s", path) : 0;
}

static int disk_add_path(struct launch *launch, struct machine_disk disk, const char *path,
                         struct error *error) {
    int fd = path ? open_file(path, disk.read_only ? O_RDONLY : O_RDWR, error)
                  : error_errno(error, -ENOMEM, "opening disks");

    if (fd < 0)
        return fd;
    disk_add(launch, disk, fd, -EBADF);
    return disk.read_only ? 0 : own_private(fd, path, error);
}

static int kernel_open(struct launch *launch, struct error *error) {
    struct kernel_files files = { 0 };
    int r = storage_kernel(launch->machine->qemu->context.storage, launch->instance->image, &files, error);

    if (r < 0)
        return r;
    r = launch->fds[MACHINE_FD_KERNEL] = open_file(files.kernel, O_RDONLY, error);
    if (r >= 0)
        r = launch->fds[MACHINE_FD_INITRAMFS] = open_file(files.initramfs, O_RDONLY, error);
    kernel_files_done(&files);
    return r < 0 ? r : 0;
}

static int disks_microvm(struct launch *launch, struct error *error) {
    const struct driver_instance *instance = launch->instance;
    struct storage *storage = launch->machine->qemu->context.storage;
    _cleanup_free_ char *root = NULL, *data = state_file(launch, "disk.raw");
    uint64_t size = instance->spec->disk ? instance->spec->disk : LAUNCH_DISK_DEFAULT;
    int r;

    if (instance->image->type != IMAGE_OCI)
        return error_set(error, ERROR_NOT_SUPPORTED, "the kind microvm", "disk images",
                         "it runs OCI images; use the kind vm");
    r = kernel_open(launch, error);
    if (r >= 0)
        r = storage_erofs(storage, instance->image, NULL, &root, error);
    if (r >= 0)
        r = disk_add_path(launch, (struct machine_disk){ .role = DISK_ROOT, .read_only = true }, root, error);
    if (r >= 0)
        r = data ? storage_make_ext4(storage, size, data, error)
                 : error_errno(error, -ENOMEM, "making disks");
    if (r >= 0)
        r = disk_add_path(launch, (struct machine_disk){ .role = DISK_DATA }, data, error);
    return r;
}

/* An empty disk beside an ISO image; kept if it is there. */
static int empty_disk(struct launch *launch, struct error *error) {
    _cleanup_free_ char *path = state_file(launch, "disk.raw");
    uint64_t size = launch->instance->spec->disk ? launch->instance->spec->disk : LAUNCH_DISK_EMPTY, there;
    int fd, r;

    if (!path)
        return error_errno(error, -ENOMEM, "making disks");
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(error, -errno, "making %s", path);
    r = file_size(AT_FDCWD, path, &there);
    if (r >= 0 && there < size && ftruncate(fd, (off_t) size) < 0)
        r = -errno;
    if (r < 0) {
        close(fd);
        return error_errno(error, r, "making %s", path);
    }
    disk_add(launch, (struct machine_disk){ .role = DISK_DATA, .boot_index = 1 }, fd, -EBADF);
    return 0;
}

static int overlay_disk(struct launch *launch, struct error *error) {
    const struct driver_instance *instance = launch->instance;
    struct storage *storage = launch->machine->qemu->context.storage;
    _cleanup_free_ char *base = NULL, *path = state_file(launch, "disk.qcow2");
    _cleanup_close_ int base_fd = -EBADF;
    int fd, r;

    if (!path)
        return error_errno(error, -ENOMEM, "making disks");
    r = storage_disk_path(storage, instance->image, &base, error);
    if (r >= 0)
        r = storage_make_overlay(storage, instance->image, instance->spec->disk, path, error);
    if (r >= 0)
        r = base_fd = open_file(base, O_RDONLY, error);
    if (r < 0)
        return r;
    fd = open_file(path, O_RDWR, error);
    if (fd < 0)
        return fd;
    /* A CD-ROM that was asked for comes first. */
    disk_add(launch, (struct machine_disk){ .role = DISK_DATA, .qcow2 = true, .backing = true,
                                            .boot_index = instance->spec->cdrom ? 2 : 1 },
             fd, STEAL_FD(base_fd));
    return own_private(fd, path, error);
}

static int cdrom_add(struct launch *launch, const struct image *image, int boot_index, struct error *error) {
    _cleanup_free_ char *path = NULL;
    int r;

    if (image->type != IMAGE_ISO)
        return error_set(error, ERROR_BAD_VALUE, "cdrom", launch->instance->spec->cdrom,
                         "this image is no ISO");
    r = storage_disk_path(launch->machine->qemu->context.storage, image, &path, error);
    if (r < 0)
        return r;
    return disk_add_path(
            launch, (struct machine_disk){ .role = DISK_CDROM, .read_only = true, .boot_index = boot_index },
            path, error);
}

static int seed_add(struct launch *launch, struct error *error) {
    _cleanup_free_ char *path = state_file(launch, "seed.iso");
    int r = path ? seed_make(launch->machine->qemu, launch->instance, path, error) : -ENOMEM;

    if (r < 0)
        return error_errno(error, r, "making the cloud-init seed");
    return disk_add_path(launch, (struct machine_disk){ .role = DISK_SEED, .read_only = true }, path, error);
}

/* Code is shared and read-only; the variables are the instance's own, copied once. */
static int firmware_open(struct launch *launch, struct error *error) {
    _cleanup_free_ char *path = state_file(launch, "firmware-variables.fd"), *text = NULL;
    size_t size;
    int r;

    if (launch->instance->spec->firmware != FIRMWARE_UEFI)
        return 0;
    launch->plan.uefi = true;
    r = launch->fds[MACHINE_FD_FIRMWARE] = open(FIRMWARE_CODE, O_RDONLY | O_CLOEXEC);
    if (r < 0)
        return error_set(error, ERROR_HOST_LACKS, "UEFI firmware", "install the package ovmf");
    if (!path)
        return error_errno(error, -ENOMEM, "copying firmware variables");
    if (!file_exists(AT_FDCWD, path)) {
        r = file_read(AT_FDCWD, FIRMWARE_VARIABLES, 4 << 20, &text, &size);
        if (r >= 0)
            r = file_write_atomic(AT_FDCWD, path, text, size, 0600, true);
        if (r < 0)
            return error_errno(error, r, "copying firmware variables");
    }
    r = launch->fds[MACHINE_FD_VARIABLES] = open_file(path, O_RDWR, error);
    return r < 0 ? r : 0;
}

static int disks_vm(struct launch *launch, struct error *error) {
    const struct driver_instance *instance = launch->instance;
    bool from_iso = instance->image->type == IMAGE_ISO;
    /* A record of an earlier version has the name alone. */
    const char *medium = instance->assigned->cdrom_digest ? instance->assigned->cdrom_digest : instance->spec->cdrom;
    const struct image *cdrom = NULL;
    int r;

    if (instance->image->type == IMAGE_OCI)
        return error_set(error, ERROR_NOT_SUPPORTED, "the kind vm", "OCI images",
                         "use the kind microvm or container");
    r = firmware_open(launch, error);
    if (r >= 0)
        r = from_iso ? empty_disk(launch, error) : overlay_disk(launch, error);
    if (r >= 0 && instance->spec->cdrom)
        r = storage_image_find(launch->machine->qemu->context.storage, medium, &cdrom, error);
    if (r >= 0 && (cdrom || from_iso))
        r = cdrom_add(launch, cdrom ? cdrom : instance->image, from_iso ? 2 : 1, error);
    if (r >= 0 && !from_iso)
        r = seed_add(launch, error);
    return r;
}

/* --- QEMU ----------------------------------------------------------------------------------------------- */

static int sockets_make(struct launch *launch, struct error *error) {
    struct console_ends ends;
    int directory = launch->machine->directory;
    int r = launch->fds[MACHINE_FD_QMP] = socket_listen(directory, "qmp.sock");

    if (r >= 0)
        r = launch->fds[MACHINE_FD_GUEST] = socket_listen(directory, "guest.sock");
    if (r >= 0)
        r = console_make(directory, &ends);
    if (r < 0)
        return error_errno(error, r, "making sockets at %s", launch->instance->run_path);
    launch->fds[MACHINE_FD_CONSOLE_OUT] = ends.output;
    launch->fds[MACHINE_FD_CONSOLE_IN] = ends.input;
    launch->fds[MACHINE_FD_CONSOLE_KEEP1] = ends.keep[0];
    launch->fds[MACHINE_FD_CONSOLE_KEEP2] = ends.keep[1];
    return 0;
}

/* A pipe for what QEMU complains about: it never blocks QEMU, and what nobody reads is bounded by the
 * pipe. */
static int errors_make(struct launch *launch, int *ret_write) {
    int pair[2];

    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    close_fd(launch->machine->errors);
    launch->machine->errors = pair[0];
    *ret_write = pair[1];
    return 0;
}

static int qemu_start(struct launch *launch, struct jail *jail, char *const *arguments, int errors) {
    _cleanup_cgroup_entry_ struct cgroup_entry entry = { .count = 0 };
    struct process_fd fds[MACHINE_FD_COUNT];
    struct process_spec spec = {
        .program = arguments[0],
        .arguments = arguments,
        .output = errors,
        .errors = errors,
        .fds = fds,
        .new_session = true,
        .namespaces = jail_namespaces(jail),
        .setup = jail_enter,
        .userdata = jail,
    };
    int r = 0;

    for (int i = 0; i < MACHINE_FD_COUNT; i++)
        if (launch->fds[i] >= 0)
            fds[spec.fd_count++] = (struct process_fd){ .source = launch->fds[i], .target = i };
    if (launch->instance->cgroup)
        r = cgroup_entry_open(launch->instance->cgroup, &entry);
    if (r < 0)
        return r;
    spec.cgroup_fds = entry.fds;
    spec.cgroup_fd_count = entry.count;
    return process_start(&spec, &launch->machine->process);
}

static int qemu_jail(const struct launch *launch, struct jail **ret, struct error *error) {
    const struct jail_options options = {
        .views = qemu_views,
        .view_count = ELEMENTS(qemu_views),
        .system_libraries = true,
        .uid = (uid_t) launch->instance->assigned->uid_base,
        .gid = (gid_t) launch->instance->assigned->uid_base,
        .open_files = OPEN_FILES,
    };
    const char *missing = NULL;
    int r;

    if (launch->instance->assigned->uid_base <= 0)
        return error_set(error, ERROR_INTERNAL, "starting QEMU", "the instance has no id of its own");
    r = jail_new(&options, ret, &missing);
    if (r == -ENOENT && missing)
        return error_set(error, ERROR_HOST_LACKS, missing,
                         "install the packages qemu-system-x86 and seabios");
    return r < 0 ? error_errno(error, r, "building QEMU's jail") : 0;
}

static int qemu_run(struct launch *launch, struct error *error) {
    _cleanup_list_ char **arguments = NULL;
    _cleanup_jail_ struct jail *jail = NULL;
    _cleanup_close_ int errors = -EBADF;
    struct machine *machine = launch->machine;
    int r = qemu_jail(launch, &jail, error);

    if (r < 0)
        return r;
    r = machine_arguments(&launch->plan, &arguments);
    if (r >= 0)
        r = errors_make(launch, &errors);
    FAILPOINT("qemu-before-start");
    if (r >= 0)
        r = qemu_start(launch, jail, arguments, errors);
    if (r < 0)
        return error_errno(error, r, "starting QEMU");
    machine_mark(machine, "QEMU runs");
    FAILPOINT("qemu-started");
    r = identity_write(machine->directory, launch->instance->assigned->uuid, &machine->process);
    if (r < 0) {
        (void) process_end(&machine->process, 0);
        return error_errno(error, r, "recording QEMU's process");
    }
    return 0;
}

static void plan_init(struct launch *launch, const struct suspend_note *restored) {
    const struct instance_spec *spec = launch->instance->spec;
    const struct qemu *qemu = launch->machine->qemu;
    struct machine_plan *plan = &launch->plan;

    plan->kind = (enum kind) launch->instance->assigned->kind;
    plan->uuid = launch->instance->assigned->uuid;
    plan->kvm = qemu->kvm;
    plan->tsc_khz = qemu->tsc_khz;
    plan->memory = restored ? restored->memory : spec->memory;
    plan->cpus = restored ? restored->cpus : machine_processors(spec);
    plan->preallocate = spec->allocation == INSTANCE_FIXED;
    plan->restore = restored != NULL;
    plan->io_read = spec->io_read;
    plan->io_write = spec->io_write;
    launch->machine->boot_memory = plan->memory;
    launch->machine->boot_cpus = plan->cpus;
    plan->graphics = plan->kind == KIND_VM && spec->graphics;
    launch->tap = -EBADF;
    for (unsigned i = 0; i < MACHINE_FD_COUNT; i++)
        launch->fds[i] = -EBADF;
}

int launch_machine(struct machine *machine, const struct suspend_note *restored, struct error *error) {
    _cleanup_(launch_done) struct launch launch = { .machine = machine, .instance = machine->instance };
    int r;

    plan_init(&launch, restored);
    r = network_begin(&launch, error);
    if (r >= 0)
        r = launch.plan.kind == KIND_MICROVM ? disks_microvm(&launch, error) : disks_vm(&launch, error);
    if (r >= 0)
        r = sockets_make(&launch, error);
    if (r >= 0)
        r = share_start_all(machine, &launch.plan, launch.fds + MACHINE_FD_SHARES, error);
    if (r >= 0)
        r = network_finish(&launch, error);
    return r < 0 ? r : qemu_run(&launch, error);
}
