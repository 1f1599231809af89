// SPDX-License-Identifier: GPL-2.0-or-later
/* Each section adds its own options; the order of devices decides the order in which the guest sees them,
 * and a machine restored from disk must get exactly what it was suspended with: change a section only
 * together with MACHINE_VERSION in suspend.c. */
#include "drivers/qemu/arguments.h"

#include <errno.h>

#include "base/json.h"
#include "base/text.h"
#include "guest/protocol.h"

#define PROGRAM "/usr/bin/qemu-system-x86_64"
#define MEBIBYTE (UINT64_C(1) << 20)
#define HOTPLUG_PORTS 4

struct maker {
    const struct machine_plan *plan;
    char **list;
    int r;
};

static void add(struct maker *maker, const char *option, const char *format, ...) _printf_(3, 4);
static void add(struct maker *maker, const char *option, const char *format, ...) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    char *value = NULL;
    va_list arguments;

    if (maker->r < 0)
        return;
    maker->r = list_add(&maker->list, option);
    if (maker->r < 0 || !format)
        return;
    va_start(arguments, format);
    buffer_addv(&text, format, arguments);
    va_end(arguments);
    maker->r = buffer_take(&text, &value);
    if (maker->r >= 0)
        maker->r = list_add_take(&maker->list, value);
}

static bool is_microvm(const struct maker *maker) {
    return maker->plan->kind == KIND_MICROVM;
}

/* virtio devices are called differently on the two machines' buses. */
static const char *bus(const struct maker *maker) {
    return is_microvm(maker) ? "device" : "pci";
}

static void add_descriptor(struct maker *maker, int fd) {
    add(maker, "-add-fd", "fd=%d,set=%d", fd, fd);
}

/* --- machine -------------------------------------------------------------------------------------------- */

static void add_identity(struct maker *maker) {
    add(maker, "-name", "%s", maker->plan->uuid);
    add(maker, "-uuid", "%s", maker->plan->uuid);
    add(maker, "-no-user-config", NULL);
    add(maker, "-nodefaults", NULL);
    add(maker, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

static void add_machine(struct maker *maker) {
    const struct machine_plan *plan = maker->plan;
    uint64_t megabytes = (plan->memory + MEBIBYTE - 1) / MEBIBYTE;

    if (is_microvm(maker))
        add(maker, "-machine",
            "microvm,memory-backend=ram,graphics=off,x-option-roms=off,auto-kernel-cmdline=off");
    else
        add(maker, "-machine", "pc-q35-7.2,memory-backend=ram,vmport=off,smm=off%s%s",
            plan->graphics ? "" : ",graphics=off", plan->uefi ? ",pflash0=firmware,pflash1=variables" : "");
    add(maker, "-m", "%lluM", (unsigned long long) megabytes);
    /* Never merged with other guests' pages, never in a core dump; shared only where virtiofsd must see
     * it. */
    if (plan->shares > 0)
        add(maker, "-object", "memory-backend-memfd,id=ram,size=%lluM,share=on,merge=off,dump=off%s",
            (unsigned long long) megabytes, plan->preallocate ? ",prealloc=on" : "");
    else
        add(maker, "-object", "memory-backend-ram,id=ram,size=%lluM,merge=off,dump=off%s",
            (unsigned long long) megabytes, plan->preallocate ? ",prealloc=on" : "");
    add(maker, "-smp", "%u", plan->cpus);
}

/* Under emulation `max`, not the faster starting `qemu64`: images built for x86-64-v2 do not run on that.
 * The buffer of translated code is bounded: without, it grows to a gigabyte beside the guest's memory. One
 * thread serves one processor. */
static void add_accelerator(struct maker *maker) {
    const struct machine_plan *plan = maker->plan;

    if (plan->kvm) {
        add(maker, "-accel", "kvm");
        add(maker, "-cpu", "host");
        return;
    }
    add(maker, "-accel", "tcg,thread=%s,tb-size=%u", plan->cpus > 1 ? "multi" : "single",
        is_microvm(maker) ? 64 : 128);
    add(maker, "-cpu", "max");
}

static void add_display(struct maker *maker) {
    add(maker, "-display", "none");
    if (!maker->plan->graphics)
        return;
    add(maker, "-vnc", "none");
    add(maker, "-device", "VGA,id=video");
    add(maker, "-device", "qemu-xhci,id=usb");
    add(maker, "-device", "usb-tablet,bus=usb.0");
}

/* The end of a machine is told and waited for: a machine that switched itself off stands still until
 * polderd, which may be down, has seen it. A microVM never restarts inside. */
static void add_actions(struct maker *maker) {
    add(maker, "-action", "shutdown=pause%s,panic=pause", is_microvm(maker) ? ",reboot=shutdown" : "");
    if (!is_microvm(maker))
        add(maker, "-device", "pvpanic");
    if (maker->plan->restore) {
        add(maker, "-incoming", "defer");
        add(maker, "-S", NULL);
    }
}

/* --- control and console -------------------------------------------------------------------------------- */

static void add_control(struct maker *maker) {
    add(maker, "-chardev", "socket,id=qmp,fd=%d,server=on,wait=off", MACHINE_FD_QMP);
    add(maker, "-mon", "chardev=qmp,mode=control");
    add_descriptor(maker, MACHINE_FD_CONSOLE_OUT);
    add_descriptor(maker, MACHINE_FD_CONSOLE_IN);
    add(maker, "-chardev", "file,id=console,path=/dev/fdset/%d,append=on", MACHINE_FD_CONSOLE_OUT);
    add(maker, "-serial", "chardev:console");
}

static void add_agent(struct maker *maker) {
    if (is_microvm(maker))
        add(maker, "-device", "virtio-serial-device,max_ports=2");
    else
        add(maker, "-device", "virtio-serial-pci,max_ports=2");
    add(maker, "-chardev", "socket,id=agent,fd=%d,server=on,wait=off", MACHINE_FD_GUEST);
    add(maker, "-device", "virtserialport,chardev=agent,nr=1,name=%s",
        is_microvm(maker) ? GUEST_PORT_NAME : "org.qemu.guest_agent.0");
}

static void add_kernel(struct maker *maker) {
    const struct machine_plan *plan = maker->plan;
    _cleanup_free_ char *clock = NULL;

    if (!is_microvm(maker))
        return;
    /* Without the rate a microVM measures it against an emulated timer, and on a loaded host never ends. And it
     * has no other clock: with several processors that no vendor promises to be in step, or when a reading took
     * long, Linux would count ticks instead, of which a busy host gives too few. All processors read the host's. */
    if (!plan->kvm && plan->tsc_khz > 0)
        clock = text_format(" tsc_early_khz=%llu tsc=reliable", (unsigned long long) plan->tsc_khz);
    add(maker, "-kernel", "/proc/self/fd/%d", MACHINE_FD_KERNEL);
    add(maker, "-initrd", "/proc/self/fd/%d", MACHINE_FD_INITRAMFS);
    add(maker, "-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests noreplace-smp 8250.nr_uarts=1%s",
        clock ? clock : "");
}

/* --- disks ---------------------------------------------------------------------------------------------- */

static const char *const role_names[] = {
    [DISK_ROOT] = "root",
    [DISK_DATA] = "data",
    [DISK_SEED] = "seed",
    [DISK_CDROM] = "cdrom",
};

/* One node of the block graph, as JSON: there is nothing to escape. */
static void add_node(struct maker *maker, const char *driver, const char *name, int fd, const char *file,
                     const char *backing, bool read_only) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_text(&emitter, "driver", driver);
    emit_key_text(&emitter, "node-name", name);
    if (fd >= 0) {
        _cleanup_free_ char *path = text_format("/dev/fdset/%d", fd);
        emit_key_text(&emitter, "filename", path);
    } else {
        emit_key_text(&emitter, "file", file);
    }
    if (backing)
        emit_key_text(&emitter, "backing", backing);
    emit_key_boolean(&emitter, "read-only", read_only);
    if (!read_only)
        emit_key_text(&emitter, "discard", "unmap");
    emit_object_end(&emitter);
    if (out.failed)
        maker->r = -ENOMEM;
    add(maker, "-blockdev", "%s", out.failed ? "" : out.data);
}

char *machine_io_limits(uint64_t read, uint64_t write) {
    return text_format("{\"bps-read\":%llu,\"bps-write\":%llu}", (unsigned long long) read,
                       (unsigned long long) write);
}

/* Also when there is none: it may be set while the machine runs. */
static void add_limits(struct maker *maker) {
    _cleanup_free_ char *limits = machine_io_limits(maker->plan->io_read, maker->plan->io_write);

    if (!limits)
        maker->r = -ENOMEM;
    add(maker, "-object", "{\"qom-type\":\"throttle-group\",\"id\":\"" MACHINE_LIMITS "\",\"limits\":%s}",
        limits ? limits : "");
}

/* What the instance reads and writes is held back in QEMU: what its writes leave in the host's cache would
 * escape a control group of version 1. */
static bool is_limited(const struct machine_disk *disk) {
    return disk->role == DISK_ROOT || disk->role == DISK_DATA;
}

static void add_limited(struct maker *maker, const char *name, const char *file, bool read_only) {
    add(maker, "-blockdev",
        "{\"driver\":\"throttle\",\"node-name\":\"%s\",\"throttle-group\":\"" MACHINE_LIMITS
        "\",\"file\":\"%s\",\"read-only\":%s}",
        name, file, read_only ? "true" : "false,\"discard\":\"unmap\"");
}

static void add_disk_nodes(struct maker *maker, const struct machine_disk *disk, int fd) {
    const char *name = role_names[disk->role], *driver = disk->qcow2 ? "qcow2" : "raw";
    bool limited = is_limited(disk);
    _cleanup_free_ char *file = text_format("%s-file", name), *base = text_format("%s-base", name),
                        *base_file = text_format("%s-base-file", name),
                        *format = text_format("%s%s", name, limited ? "-format" : "");

    if (!file || !base || !base_file || !format) {
        maker->r = -ENOMEM;
        return;
    }
    if (disk->backing) {
        add_descriptor(maker, fd + 1);
        add_node(maker, "file", base_file, fd + 1, NULL, NULL, true);
        add_node(maker, "qcow2", base, -1, base_file, NULL, true);
    }
    add_descriptor(maker, fd);
    add_node(maker, "file", file, fd, NULL, NULL, disk->read_only);
    add_node(maker, driver, format, -1, file, disk->backing ? base : NULL, disk->read_only);
    if (limited)
        add_limited(maker, name, format, disk->read_only);
}

static void add_disk(struct maker *maker, unsigned index) {
    const struct machine_disk *disk = &maker->plan->disks[index];
    _cleanup_free_ char *boot = NULL;

    add_disk_nodes(maker, disk, MACHINE_FD_DISKS + 2 * (int) index);
    if (disk->boot_index > 0) {
        boot = text_format(",bootindex=%d", disk->boot_index);
        if (!boot)
            maker->r = -ENOMEM;
    }
    if (disk->role == DISK_CDROM)
        add(maker, "-device", "ide-cd,drive=%s,bus=ide.%u%s", role_names[disk->role], index,
            boot ? boot : "");
    else if (is_microvm(maker)) /* the guest finds the highest bus first: vda, vdb */
        add(maker, "-device", "virtio-blk-device,drive=%s,bus=virtio-mmio-bus.%u", role_names[disk->role],
            7 - index);
    else
        add(maker, "-device", "virtio-blk-pci,drive=%s%s", role_names[disk->role], boot ? boot : "");
}

static void add_firmware(struct maker *maker) {
    if (!maker->plan->uefi)
        return;
    add_descriptor(maker, MACHINE_FD_FIRMWARE);
    add_node(maker, "file", "firmware-file", MACHINE_FD_FIRMWARE, NULL, NULL, true);
    add_node(maker, "raw", "firmware", -1, "firmware-file", NULL, true);
    add_descriptor(maker, MACHINE_FD_VARIABLES);
    add_node(maker, "file", "variables-file", MACHINE_FD_VARIABLES, NULL, NULL, false);
    add_node(maker, "raw", "variables", -1, "variables-file", NULL, false);
}

/* --- other devices -------------------------------------------------------------------------------------- */

static void add_network(struct maker *maker) {
    const struct machine_plan *plan = maker->plan;
    _cleanup_free_ char *vhost = plan->vhost ? text_format(",vhost=on,vhostfd=%d", MACHINE_FD_VHOST) : NULL;

    if (!plan->mac)
        return;
    add(maker, "-netdev", "tap,id=net,fd=%d%s", MACHINE_FD_TAP, vhost ? vhost : "");
    add(maker, "-device", "virtio-net-%s,netdev=net,mac=%s%s", bus(maker), plan->mac,
        is_microvm(maker) ? "" : ",romfile=");
}

/* The balloon does not shrink when the guest runs short: what was taken from a guest is a limit. What was allocated at the
 * start is kept, though the guest may not use it. */
static void add_helpers(struct maker *maker) {
    add(maker, "-object", "rng-builtin,id=rng");
    add(maker, "-device", "virtio-rng-%s,rng=rng", bus(maker));
    add(maker, "-device", "virtio-balloon-%s,id=balloon,free-page-reporting=%s", bus(maker),
        maker->plan->preallocate ? "off" : "on");
}

static void add_shares(struct maker *maker) {
    for (unsigned i = 0; i < maker->plan->shares; i++) {
        add(maker, "-chardev", "socket,id=share%u,fd=%d", i, MACHINE_FD_SHARES + (int) i);
        add(maker, "-device", "vhost-user-fs-%s,chardev=share%u,tag=m%u", bus(maker), i,
            maker->plan->share_tags[i]);
    }
}

/* Empty slots, so that devices can be added to a running virtual machine. */
static void add_ports(struct maker *maker) {
    for (unsigned i = 0; !is_microvm(maker) && i < HOTPLUG_PORTS; i++)
        add(maker, "-device", "pcie-root-port,id=port%u,chassis=%u,bus=pcie.0,addr=0x10.%u%s", i, i + 1, i,
            i == 0 ? ",multifunction=on" : "");
}

int machine_arguments(const struct machine_plan *plan, char ***ret) {
    struct maker maker = { .plan = plan };

    maker.r = list_add(&maker.list, PROGRAM);
    add_identity(&maker);
    add_machine(&maker);
    add_accelerator(&maker);
    add_display(&maker);
    add_actions(&maker);
    add_control(&maker);
    add_kernel(&maker);
    add_firmware(&maker);
    if (is_microvm(&maker))
        add(&maker, "-global", "virtio-mmio.force-legacy=false");
    add_ports(&maker);
    add_limits(&maker);
    for (unsigned i = 0; i < plan->disk_count; i++)
        add_disk(&maker, i);
    add_network(&maker);
    add_agent(&maker);
    add_helpers(&maker);
    add_shares(&maker);
    if (maker.r < 0) {
        list_free(maker.list);
        return maker.r;
    }
    *ret = maker.list;
    return 0;
}
