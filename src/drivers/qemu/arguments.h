// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/instance.h"

/* A machine described by numbers, and the QEMU command line made from it. No text of a user gets onto the
 * command line: files, sockets and taps are descriptors at fixed numbers, the rest is numbers, the uuid and
 * the MAC. */

/* Descriptors in QEMU. Those that QEMU opens as files are also fdsets of the same number. */
enum machine_fd {
    MACHINE_FD_QMP = 3,       /* listening socket */
    MACHINE_FD_GUEST,         /* listening socket of the agent's port */
    MACHINE_FD_CONSOLE_OUT,   /* serial output: write end of a FIFO */
    MACHINE_FD_CONSOLE_IN,    /* serial input: read end of a FIFO */
    MACHINE_FD_CONSOLE_KEEP1, /* both ends of each, so that neither ever breaks while polderd is down */
    MACHINE_FD_CONSOLE_KEEP2,
    MACHINE_FD_KERNEL,
    MACHINE_FD_INITRAMFS,
    MACHINE_FD_TAP,
    MACHINE_FD_VHOST,
    MACHINE_FD_FIRMWARE,
    MACHINE_FD_VARIABLES,
    MACHINE_FD_DISKS,         /* first of MACHINE_DISKS_MAX × 2: the disk, its backing file */
};
#define MACHINE_DISKS_MAX 4
#define MACHINE_SHARES_MAX 16
#define MACHINE_FD_SHARES (MACHINE_FD_DISKS + 2 * MACHINE_DISKS_MAX)
#define MACHINE_FD_COUNT (MACHINE_FD_SHARES + MACHINE_SHARES_MAX)

enum disk_role {
    DISK_ROOT,  /* microvm: the image, read-only */
    DISK_DATA,  /* the writable one */
    DISK_SEED,  /* cloud-init */
    DISK_CDROM,
};

struct machine_disk {
    enum disk_role role;
    bool qcow2;     /* else raw */
    bool backing;   /* qcow2 on a qcow2 base */
    bool read_only;
    int boot_index; /* from 1; 0: not bootable */
};

struct machine_plan {
    enum kind kind; /* MICROVM or VM */
    const char *uuid;
    bool kvm;
    uint64_t tsc_khz; /* 0: unknown */
    uint64_t memory;  /* bytes */
    bool preallocate; /* all of its memory at the start */
    unsigned cpus;
    bool restore;
    bool graphics;
    bool uefi;
    const char *mac; /* NULL: no network */
    bool vhost;
    uint64_t io_read, io_write; /* bytes/s of its disks; 0: no limit */
    struct machine_disk disks[MACHINE_DISKS_MAX];
    unsigned disk_count;
    unsigned shares; /* virtiofs: descriptors MACHINE_FD_SHARES + n, with tags "m" and the number below */
    unsigned share_tags[MACHINE_SHARES_MAX];
};

/* The object that holds the limits of all disks of a machine; io_limits is the value of its property
 * "limits". */
#define MACHINE_LIMITS "limits"
char *machine_io_limits(uint64_t read, uint64_t write);

/* argv with the program's path first. -ENOMEM. */
int machine_arguments(const struct machine_plan *plan, char ***ret);
