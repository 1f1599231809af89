// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* The data centre of CloudSim's power package on virtual time, as its published figures have it: hosts with two cores and a
 * power curve, VMs that ask for a share of their MIPS every five minutes, migrations that take 10 % of a VM's MIPS until
 * its memory is copied at half the link's rate. Only the migrations are decided elsewhere.
 *
 * What of its rules matters for the figures: a VM gets at most one core's MIPS; a host that is asked for more than it has
 * gives shares rounded down; while a VM moves, its new host is asked for all of its MIPS and gives a tenth, so that each
 * migration counts as a violation of that host; memory and bandwidth are counted when VMs are first placed, not later; a VM whose use
 * is 0 at two samples in a row has finished and never comes back. */

#define CLOUD_SAMPLES 289 /* of a day, the last one twice */
#define CLOUD_INTERVAL 300
#define CLOUD_HISTORY 30
#define CLOUD_COPY_RATE 62.5 /* MB/s of memory, half of the link */

struct cloud_vm {
    const double *use; /* shares of its MIPS; borrowed */
    double mips;
    unsigned memory;   /* MB */
    double request;    /* MIPS, now */
    double history[CLOUD_HISTORY]; /* use, newest first */
    size_t history_count;
    uint32_t host;
    bool moving, finished;
    /* since the last change */
    double since, last_allocated, last_requested;
    bool seen, last_moving;
};

struct cloud_guest {
    uint32_t vm;
    bool incoming;
    double allocated;
};

struct cloud_host {
    double core_mips, mips;
    const double *power; /* W at 0, 10, ... 100 % */
    struct cloud_guest *guests;
    size_t count, room;
    double used, used_before; /* MIPS */
    double since, last_allocated, last_requested;
    bool seen, last_active, was_active;
};

struct cloud_move {
    uint32_t vm, host;
};

struct cloud {
    struct cloud_host *hosts;
    size_t host_count;
    struct cloud_vm *vms;
    size_t vm_count;
    double now;
    /* what is measured */
    double energy;                         /* Ws */
    uint64_t migrations, stops;
    double active_time, violation_time;    /* s, over hosts */
    double requested, lost;                /* MIPS x s, lost to migrations */
};

struct cloud_result {
    double energy; /* kWh */
    uint64_t migrations, stops;
    double slatah, pdm, esv; /* shares */
};

/* Hosts alternate between HP ML110 G4 and G5; VMs are of four sizes, a quarter of the list each; the VMs are placed as
 * CloudSim does. `use` has CLOUD_SAMPLES values for each VM and must outlive the cloud. -ENOMEM; -ENOSPC if the VMs do not
 * fit. */
int cloud_new(const double *use, size_t vm_count, size_t host_count, double threshold, struct cloud **ret);
void cloud_free(struct cloud *cloud);
DEFINE_CLEANUP(struct cloud *, cloud_free)
#define _cleanup_cloud_ _cleanup_(cloud_freep)

/* The next five minutes begin: uses change, energy is counted. */
void cloud_step(struct cloud *cloud);
/* Starts the migrations and goes on to where all have ended. A VM may be named twice. -ENOMEM. */
int cloud_migrate(struct cloud *cloud, const struct cloud_move *moves, size_t count);
struct cloud_result cloud_finish(struct cloud *cloud);

/* W at a use of 0 to 1. */
double cloud_power(const struct cloud_host *host, double use);
/* What a VM can get of the host: at most one core. */
double cloud_capped(const struct cloud_host *host, const struct cloud_vm *vm);
