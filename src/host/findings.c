// SPDX-License-Identifier: GPL-2.0-or-later
/* What `polder doctor` says about the host itself: one function per topic, each adds one or more findings.
 * Networks and images add their own. Nothing here changes anything, and everything answers in a few
 * milliseconds. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "host/facts.h"

#define VALUE_MAX 4096
#define OPEN_FILES_WANTED 65536
#define DISK_FREE_WANTED (UINT64_C(5) << 30)

struct survey {
    const struct host_facts *facts;
    const struct cgroup_host *cgroups;
    const char *state_path;
    struct findings *out;
};

/* The first line of a small file, or NULL. Allocated. */
static char *value_read(const char *path) {
    char *text = NULL;

    if (file_read(AT_FDCWD, path, VALUE_MAX, &text, NULL) < 0)
        return NULL;
    text[strcspn(text, "\n")] = '\0';
    return text;
}

/* --- acceleration --------------------------------------------------------------------------------------- */

static int find_kvm(const struct survey *survey) {
    if (survey->facts->kvm_usable)
        return findings_add(survey->out, FINDING_OK, "kvm", "virtual machines run with KVM",
                            survey->facts->kvm_reason, NULL);
    return findings_add(
            survey->out, FINDING_WARNING, "kvm",
            "virtual machines and microVMs run under software emulation, many times slower",
            survey->facts->kvm_reason,
            "switch on virtualization in the firmware, or nested virtualization on the host below; "
            "containers run at full speed as it is");
}

static int tsc_job(void *userdata) {
    *(uint64_t *) userdata = host_measure_tsc_khz();
    return 0;
}

static int find_tsc(const struct survey *survey) {
    _cleanup_free_ char *text = NULL;
    uint64_t khz = survey->facts->tsc_khz;

    if (khz == 0)
        (void) fiber_job(tsc_job, &khz);
    if (khz == 0)
        return findings_add(
                survey->out, FINDING_WARNING, "clock", "the time stamp counter has no steady rate",
                "a microVM under software emulation measures its clock at boot and may hang while it does",
                "use the kind vm on this host");
    text = text_format("the time stamp counter runs at %llu kHz", (unsigned long long) khz);
    if (!text)
        return -ENOMEM;
    return findings_add(survey->out, FINDING_OK, "clock", text,
                        "microVMs are told, so that they need not measure it", NULL);
}

/* --- kernel features ------------------------------------------------------------------------------------ */

static bool has_openat2(void) {
    const struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH };
    long fd = syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof(how));

    if (fd >= 0)
        close((int) fd);
    return fd >= 0;
}

static bool has_mount_setattr(void) {
    return syscall(SYS_mount_setattr, -1, NULL, 0, NULL, 0) < 0 && errno != ENOSYS && errno != EPERM;
}

static bool has_pidfd(void) {
    long fd = syscall(SYS_pidfd_open, getpid(), 0);

    if (fd >= 0)
        close((int) fd);
    return fd >= 0;
}

static bool has_landlock(void) {
    /* LANDLOCK_CREATE_RULESET_VERSION */
    return syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
}

static bool has_user_namespaces(void) {
    _cleanup_free_ char *most = value_read("/proc/sys/user/max_user_namespaces");

    return access("/proc/self/ns/user", F_OK) == 0 && !text_equal(most, "0");
}

static bool has_seccomp(void) {
    return access("/proc/sys/kernel/seccomp/actions_avail", F_OK) == 0;
}

static bool file_system_known(const char *name) {
    _cleanup_free_ char *text = NULL;
    _cleanup_list_ char **words = NULL;

    if (file_read(AT_FDCWD, "/proc/filesystems", 65536, &text, NULL) < 0 ||
        list_split(text, " \t\n", &words) < 0)
        return false;
    return list_has(words, name);
}

static bool module_there(const char *name) {
    _cleanup_free_ char *text = NULL, *release = value_read("/proc/sys/kernel/osrelease");
    _cleanup_free_ char *path = release ? text_format("/lib/modules/%s/modules.dep", release) : NULL;
    _cleanup_free_ char *file = text_format("/%s.ko", name);

    return path && file && file_read(AT_FDCWD, path, 4 << 20, &text, NULL) >= 0 && strstr(text, file);
}

static bool has_overlay(void) {
    return file_system_known("overlay") || module_there("overlay");
}

static bool has_tun(void) {
    return access("/dev/net/tun", R_OK | W_OK) == 0;
}

struct feature {
    const char *name;
    bool (*is_there)(void);
    enum finding_level missing;
    const char *reason, *advice;
};

static const struct feature features[] = {
    { "openat2", has_openat2, FINDING_ERROR, "paths from outside cannot be opened safely",
      "use Linux 5.6 or newer" },
    { "pidfds", has_pidfd, FINDING_ERROR, "processes cannot be held without a race",
      "use Linux 5.6 or newer" },
    { "mount_setattr", has_mount_setattr, FINDING_ERROR,
      "image layers cannot be given to a container's own ids, and jails cannot be built",
      "use Linux 5.12 or newer" },
    { "user namespaces", has_user_namespaces, FINDING_ERROR, "containers get ids of their own from them",
      "set the sysctl user.max_user_namespaces above 0" },
    { "overlayfs", has_overlay, FINDING_ERROR, "container images are layered with it",
      "load the module overlay" },
    { "seccomp", has_seccomp, FINDING_ERROR, "containers and QEMU run behind system call filters",
      "use a kernel with CONFIG_SECCOMP_FILTER" },
    { "tun", has_tun, FINDING_WARNING, "virtual machines get no network without /dev/net/tun",
      "load the module tun" },
    { "Landlock", has_landlock, FINDING_NOTE,
      "an additional fence for workers is not there; namespaces hold them",
      "use Linux 5.13 or newer, with landlock in lsm= if that is given at boot" },
};

static int find_features(const struct survey *survey) {
    _cleanup_buffer_ struct buffer there = BUFFER_INIT;

    for (size_t i = 0; i < ELEMENTS(features); i++) {
        const struct feature *feature = &features[i];
        _cleanup_free_ char *text = NULL;
        int r;

        if (feature->is_there()) {
            buffer_addf(&there, "%s%s", there.size ? ", " : "", feature->name);
            continue;
        }
        text = text_format("the kernel lacks %s", feature->name);
        r = text ? findings_add(survey->out, feature->missing, "kernel", text, feature->reason,
                                feature->advice)
                 : -ENOMEM;
        if (r < 0)
            return r;
    }
    if (there.failed)
        return -ENOMEM;
    return findings_add(survey->out, FINDING_OK, "kernel", survey->facts->kernel,
                        there.size ? there.data : "", NULL);
}

/* --- cgroups -------------------------------------------------------------------------------------------- */

struct layout_text {
    enum finding_level level;
    const char *text, *reason, *advice;
};

static const struct layout_text layouts[] = {
    [CGROUP_NONE] = { FINDING_ERROR, "no control groups are mounted", "limits and clean-up need them",
                      "mount cgroup2 at /sys/fs/cgroup" },
    [CGROUP_V1] = { FINDING_WARNING, "control groups version 1",
                    "the I/O limit holds for direct I/O only: buffered writes "
                    "are written back by the kernel outside of the instance's group",
                    "boot with systemd.unified_cgroup_hierarchy=1" },
    [CGROUP_HYBRID] = { FINDING_WARNING, "control groups version 1 with an empty version 2 tree beside them",
                        "the I/O limit holds for direct I/O only: buffered writes are written back by the "
                        "kernel outside "
                        "of the instance's group; crun is started where it does not see the empty tree",
                        "boot with systemd.unified_cgroup_hierarchy=1" },
    [CGROUP_V2] = { FINDING_OK, "control groups version 2", "every limit works", NULL },
};

/* What a missing controller costs. A limit that cannot be kept is refused (host-lacks) rather than taken and forgotten, and some
 * are there by default. */
static const struct {
    enum finding_level level;
    const char *name, *v1_name, *reason;
} controllers[] = {
    { FINDING_ERROR, "memory", "memory", "nothing starts: each instance has a limit of memory, which is refused (host-lacks)" },
    { FINDING_ERROR, "cpu", "cpu", "nothing starts: each instance has a limit of processors, which is refused (host-lacks)" },
    { FINDING_ERROR, "pids", "pids",
      "containers do not start: each has a limit of processes, which is refused (host-lacks); with --pids-limit 0 it has none" },
    { FINDING_WARNING, "io", "blkio", "I/O limits are refused (host-lacks), and I/O weights have no effect" },
    { FINDING_WARNING, "freezer", "freezer", "containers cannot be paused; that is refused (host-lacks)" },
    { FINDING_WARNING, "cpuset", "cpuset",
      "pinning to processors and fixed allocation, which pins, are refused (host-lacks)" },
};

static char *controller_advice(enum cgroup_layout layout, const char *name, const char *v1_name) {
    const char *boot = strcmp(name, "memory") == 0 ? "boot with cgroup_enable=memory" : "use a kernel that has it";

    if (layout == CGROUP_V2)
        return text_format("echo +%s > /sys/fs/cgroup/cgroup.subtree_control; if cgroup.controllers there does not name it, %s",
                           name, boot);
    return text_format("mkdir -p /sys/fs/cgroup/%s && mount -t cgroup -o %s cgroup /sys/fs/cgroup/%s, and restart polderd; if "
                       "/proc/cgroups does not name it as enabled, %s", v1_name, v1_name, v1_name, boot);
}

static int find_cgroups(const struct survey *survey) {
    enum cgroup_layout layout = survey->cgroups ? cgroup_host_layout(survey->cgroups) : CGROUP_NONE;
    const struct layout_text *found = &layouts[layout];
    int r = findings_add(survey->out, found->level, "cgroup", found->text, found->reason, found->advice);

    for (size_t i = 0; survey->cgroups && r >= 0 && i < ELEMENTS(controllers); i++) {
        _cleanup_free_ char *text = NULL, *advice = NULL;

        if (cgroup_host_has(survey->cgroups, controllers[i].name))
            continue;
        text = text_format("the controller '%s' is not there", controllers[i].name);
        advice = controller_advice(layout, controllers[i].name, controllers[i].v1_name);
        r = text && advice ? findings_add(survey->out, controllers[i].level, "cgroup", text, controllers[i].reason, advice)
                           : -ENOMEM;
    }
    return r;
}

/* --- programs ------------------------------------------------------------------------------------------- */

struct program {
    const char *path, *package;
    enum finding_level missing;
    const char *use;
};

static const struct program programs[] = {
    { "/usr/bin/qemu-system-x86_64", "qemu-system-x86", FINDING_WARNING, "virtual machines and microVMs" },
    { "/usr/bin/qemu-img", "qemu-utils", FINDING_WARNING, "disk images" },
    { "/usr/lib/qemu/virtiofsd", "qemu-system-common", FINDING_NOTE, "host directories in virtual machines" },
    { "/usr/share/seabios/bios-256k.bin", "seabios", FINDING_WARNING, "virtual machines with BIOS" },
    { "/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", FINDING_NOTE, "virtual machines with UEFI" },
    { "/usr/bin/crun", "crun", FINDING_WARNING, "containers" },
    { "/usr/bin/conmon", "conmon", FINDING_WARNING, "containers" },
    { "/usr/bin/skopeo", "skopeo", FINDING_WARNING, "images from registries" },
    { "/usr/bin/curl", "curl", FINDING_WARNING, "images from URLs" },
    { "/usr/bin/mkfs.erofs", "erofs-utils", FINDING_WARNING, "microVMs from OCI images" },
    { "/usr/sbin/mke2fs", "e2fsprogs", FINDING_WARNING, "writable disks of microVMs" },
    { "/usr/sbin/dnsmasq", "dnsmasq-base", FINDING_WARNING, "addresses and names on the instance network" },
    { "/usr/bin/mmdebstrap", "mmdebstrap", FINDING_NOTE, "polder image build debian:…" },
};

static int find_programs(const struct survey *survey) {
    _cleanup_buffer_ struct buffer there = BUFFER_INIT;

    for (size_t i = 0; i < ELEMENTS(programs); i++) {
        const struct program *program = &programs[i];
        _cleanup_free_ char *text = NULL, *reason = NULL, *advice = NULL;
        int r;

        if (access(program->path, F_OK) == 0) {
            if (there.size == 0 || !strstr(there.data, program->package))
                buffer_addf(&there, "%s%s", there.size ? ", " : "", program->package);
            continue;
        }
        text = text_format("%s is not there", program->path);
        reason = text_format("needed for %s", program->use);
        advice = text_format("apt-get install %s", program->package);
        if (!text || !reason || !advice)
            return -ENOMEM;
        r = findings_add(survey->out, program->missing, "programs", text, reason, advice);
        if (r < 0)
            return r;
    }
    if (there.failed)
        return -ENOMEM;
    if (there.size == 0)
        return 0;
    return findings_add(survey->out, FINDING_OK, "programs", "packages that Polder uses are installed",
                        there.data, NULL);
}

/* What the installation of Polder itself brings; the paths are names beneath its directory. */
static const struct program helpers[] = {
    { "polder-enter", NULL, FINDING_ERROR, "containers" },
    { "polder-guest", NULL, FINDING_ERROR, "microVMs, and copying into and out of containers" },
    { "polder-kvm-probe", NULL, FINDING_WARNING, "knowing whether KVM works" },
    { "polder-mkinitramfs", NULL, FINDING_ERROR, "microVMs" },
    { "polder-seed", NULL, FINDING_ERROR, "cloud-init in virtual machines" },
    { "polder-worker", NULL, FINDING_ERROR, "images" },
    { "polder-build-busybox", NULL, FINDING_WARNING, "polder image build busybox" },
    { "polder-build-debian", NULL, FINDING_WARNING, "polder image build debian:…" },
};

int host_helper_findings(const char *libexec_path, struct findings *findings) {
    bool complete = true;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(helpers); i++) {
        _cleanup_free_ char *path = text_format("%s/%s", libexec_path, helpers[i].path), *text = NULL, *reason = NULL;

        if (path && access(path, X_OK) == 0)
            continue;
        complete = false;
        text = path ? text_format("%s is not there", path) : NULL;
        reason = text_format("needed for %s", helpers[i].use);
        r = text && reason ? findings_add(findings, helpers[i].missing, "programs", text, reason,
                                          "install Polder completely (meson install), or correct 'libexec' in the "
                                          "configuration")
                           : -ENOMEM;
    }
    if (r < 0 || !complete)
        return r;
    return findings_add(findings, FINDING_OK, "programs", "Polder's own helper programs are installed", libexec_path, NULL);
}

/* --- limits and room ------------------------------------------------------------------------------------ */

static int find_open_files(const struct survey *survey) {
    struct rlimit limit;
    _cleanup_free_ char *text = NULL;
    bool few;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    few = limit.rlim_max < OPEN_FILES_WANTED;
    text = text_format("polderd may open %llu files", (unsigned long long) limit.rlim_max);
    if (!text)
        return -ENOMEM;
    return findings_add(survey->out, few ? FINDING_WARNING : FINDING_OK, "limits", text,
                        few ? "an instance takes about 8 while it runs" : "",
                        few ? "raise LimitNOFILE of polderd" : NULL);
}

static int find_room(const struct survey *survey) {
    struct statvfs room;
    _cleanup_free_ char *text = NULL, *size = NULL;
    uint64_t bytes;

    if (!survey->state_path || statvfs(survey->state_path, &room) < 0)
        return 0;
    bytes = (uint64_t) room.f_bavail * room.f_frsize;
    size = text_format_size(bytes);
    text = size ? text_format("%s free at %s", size, survey->state_path) : NULL;
    if (!text)
        return -ENOMEM;
    if (bytes < DISK_FREE_WANTED)
        return findings_add(survey->out, FINDING_WARNING, "room", text,
                            "images and disks of instances are kept there",
                            "make room, or move the state directory");
    return findings_add(survey->out, FINDING_OK, "room", text, "", NULL);
}

/* --- what one guest may learn of another ---------------------------------------------------------------- */

static int find_ksm(const struct survey *survey) {
    _cleanup_free_ char *run = value_read("/sys/kernel/mm/ksm/run");

    if (!text_equal(run, "1"))
        return 0;
    return findings_add(
            survey->out, FINDING_WARNING, "isolation", "the kernel merges equal memory pages (KSM)",
            "timing tells one guest what another has in memory; Polder's guests opt out, others may not",
            "echo 2 > /sys/kernel/mm/ksm/run");
}

static int find_smt(const struct survey *survey) {
    _cleanup_free_ char *active = value_read("/sys/devices/system/cpu/smt/active");

    if (!text_equal(active, "1"))
        return 0;
    return findings_add(
            survey->out, FINDING_NOTE, "isolation", "hardware threads share cores (SMT)",
            "guests on two threads of one core can watch each other through its caches",
            "for tenants who distrust each other: echo off > /sys/devices/system/cpu/smt/control");
}

static const char *const vulnerabilities[] = {
    "meltdown", "spectre_v1", "spectre_v2", "spec_store_bypass", "l1tf", "mds", "tsx_async_abort", "retbleed",
    "mmio_stale_data", "gather_data_sampling", "reg_file_data_sampling", "spec_rstack_overflow",
};

static int find_mitigations(const struct survey *survey) {
    _cleanup_buffer_ struct buffer open = BUFFER_INIT;

    for (size_t i = 0; i < ELEMENTS(vulnerabilities); i++) {
        _cleanup_free_ char *path =
                text_format("/sys/devices/system/cpu/vulnerabilities/%s", vulnerabilities[i]);
        _cleanup_free_ char *value = path ? value_read(path) : NULL;

        if (value && text_starts(value, "Vulnerable"))
            buffer_addf(&open, "%s%s", open.size ? ", " : "", vulnerabilities[i]);
    }
    if (open.failed)
        return -ENOMEM;
    if (open.size == 0)
        return 0;
    return findings_add(survey->out, FINDING_WARNING, "isolation",
                        "the kernel does not protect against known flaws of this processor", open.data,
                        "remove mitigations=off from the kernel's command line, and update microcode");
}

static int find_swap(const struct survey *survey) {
    _cleanup_free_ char *text = NULL;
    char *second;

    if (file_read(AT_FDCWD, "/proc/swaps", 65536, &text, NULL) < 0)
        return 0;
    second = strchr(text, '\n');
    if (!second || second[1] == '\0')
        return 0;
    /* Device mapper devices may be encrypted; plain partitions and files surely are not. */
    if (text_starts(second + 1, "/dev/dm-") || text_starts(second + 1, "/dev/zram"))
        return 0;
    return findings_add(survey->out, FINDING_NOTE, "isolation", "swap is not encrypted",
                        "guest memory may stay readable on the disk after the guest is gone",
                        "encrypt swap, or switch it off");
}

static int find_vhost(const struct survey *survey) {
    if (access("/dev/vhost-net", F_OK) == 0)
        return 0;
    return findings_add(survey->out, FINDING_NOTE, "network", "there is no /dev/vhost-net",
                        "virtual machines' packets go through QEMU, which is slower",
                        "load the module vhost_net");
}

static int find_init(const struct survey *survey) {
    if (access("/run/systemd/system", F_OK) == 0)
        return 0;
    return findings_add(survey->out, FINDING_NOTE, "host", "systemd is not the init of this host",
                        "polderd makes its control groups itself, and nothing restarts it when it ends",
                        "let what starts polderd here start it again when it ends; instances run on meanwhile");
}

typedef int (*find_function)(const struct survey *survey);

static const find_function finders[] = {
    find_kvm, find_tsc, find_features,    find_cgroups, find_programs, find_open_files, find_room,
    find_ksm, find_smt, find_mitigations, find_swap,    find_vhost,    find_init,
};

int host_findings(const struct host_facts *facts, const struct cgroup_host *cgroups, const char *state_path,
                  struct findings *findings) {
    const struct survey survey = {
        .facts = facts, .cgroups = cgroups, .state_path = state_path, .out = findings
    };

    for (size_t i = 0; i < ELEMENTS(finders); i++) {
        int r = finders[i](&survey);
        if (r < 0)
            return r;
    }
    return 0;
}
