// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/cloud.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Times are CloudSim's: the first event comes a tenth of a second late, so do all. */
#define OFFSET 0.1
#define HOST_MEMORY 4096
#define GUESTS_BY_BANDWIDTH 10 /* 1 Gb/s for VMs of 100 Mb/s */

struct host_kind {
    double core_mips;
    double power[11];
};

/* SPECpower_ssj2008 results of the two machines, W at 0, 10, ... 100 % load. */
static const struct host_kind host_kinds[] = {
    { 1860, { 86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117 } },   /* HP ProLiant ML110 G4, Xeon 3040 */
    { 2660, { 93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135 } },    /* HP ProLiant ML110 G5, Xeon 3075 */
};

static const struct {
    double mips;
    unsigned memory;
} vm_kinds[] = { { 2500, 870 }, { 2000, 1740 }, { 1000, 1740 }, { 500, 613 } };

void cloud_free(struct cloud *cloud) {
    if (!cloud)
        return;
    for (size_t i = 0; cloud->hosts && i < cloud->host_count; i++)
        free(cloud->hosts[i].guests);
    free(cloud->hosts);
    free(cloud->vms);
    free(cloud);
}

double cloud_power(const struct cloud_host *host, double use) {
    int low = (int) floor(use * 10), high = (int) ceil(use * 10);

    if (low >= 10)
        return host->power[10];
    return host->power[low] + (host->power[high] - host->power[low]) / 10 * (use - (double) low / 10) * 100;
}

double cloud_capped(const struct cloud_host *host, const struct cloud_vm *vm) {
    return vm->request > host->core_mips ? host->core_mips : vm->request;
}

static int guest_add(struct cloud_host *host, uint32_t vm, bool incoming) {
    if (host->count == host->room) {
        size_t room = host->room ? host->room * 2 : 8;
        struct cloud_guest *guests = realloc(host->guests, room * sizeof(*guests));
        if (!guests)
            return -ENOMEM;
        host->guests = guests;
        host->room = room;
    }
    host->guests[host->count++] = (struct cloud_guest){ .vm = vm, .incoming = incoming };
    return 0;
}

static void guest_remove(struct cloud_host *host, uint32_t vm) {
    for (size_t i = 0; i < host->count; i++)
        if (host->guests[i].vm == vm) {
            memmove(&host->guests[i], &host->guests[i + 1], (host->count - i - 1) * sizeof(*host->guests));
            host->count--;
            return;
        }
}

static bool guest_has(const struct cloud_host *host, uint32_t vm) {
    for (size_t i = 0; i < host->count; i++)
        if (host->guests[i].vm == vm)
            return true;
    return false;
}

/* Shares the host's MIPS out: as asked while it lasts, else in proportion and rounded down. */
static void share(const struct cloud *cloud, struct cloud_host *host) {
    double available = host->mips, sum = 0;
    bool enough = true;

    for (size_t i = 0; i < host->count; i++) {
        double wanted = cloud_capped(host, &cloud->vms[host->guests[i].vm]) * (host->guests[i].incoming ? 0.1 : 1);
        sum += wanted;
        enough = enough && available >= wanted;
        available -= wanted;
    }
    for (size_t i = 0; i < host->count; i++) {
        struct cloud_guest *guest = &host->guests[i];
        const struct cloud_vm *vm = &cloud->vms[guest->vm];
        double part = cloud_capped(host, vm) * (enough ? 1 : host->mips / sum);
        part *= guest->incoming ? 0.1 : vm->moving ? 0.9 : 1;
        guest->allocated = enough ? part : floor(part);
    }
}

static void note_vm(struct cloud *cloud, struct cloud_vm *vm, double allocated) {
    double time = cloud->now - vm->since;

    if (vm->seen && time > 0) {
        cloud->requested += vm->last_requested * time;
        if (vm->last_allocated < vm->last_requested && vm->last_moving)
            cloud->lost += (vm->last_requested - vm->last_allocated) * time;
    }
    vm->seen = true;
    vm->since = cloud->now;
    vm->last_allocated = allocated;
    vm->last_requested = vm->request;
    vm->last_moving = vm->moving;
}

static void note_host(struct cloud *cloud, struct cloud_host *host, double requested) {
    double time = cloud->now - host->since;
    bool active = host->used > 0;

    if (host->seen && time > 0) {
        if (host->last_active)
            cloud->active_time += time;
        if (host->last_active && host->last_allocated < host->last_requested)
            cloud->violation_time += time;
        cloud->stops += host->was_active && !host->last_active;
        host->was_active = host->last_active;
    }
    host->seen = true;
    host->since = cloud->now;
    host->last_allocated = host->used;
    host->last_requested = requested;
    host->last_active = active;
}

static void host_update(struct cloud *cloud, struct cloud_host *host) {
    double requested = 0;

    host->used_before = host->used;
    host->used = 0;
    share(cloud, host);
    for (size_t i = 0; i < host->count; i++) {
        const struct cloud_guest *guest = &host->guests[i];
        struct cloud_vm *vm = &cloud->vms[guest->vm];
        double allocated = guest->allocated;
        if (!guest->incoming) {
            note_vm(cloud, vm, allocated);
            if (vm->moving)
                allocated /= 0.9;
        }
        host->used += allocated;
        requested += vm->request;
    }
    note_host(cloud, host, requested);
}

static double use_at(const struct cloud_vm *vm, double time) {
    size_t low = (size_t) floor(time / CLOUD_INTERVAL), high = (size_t) ceil(time / CLOUD_INTERVAL);

    if (low == high)
        return vm->use[low];
    return vm->use[low] + (vm->use[high] - vm->use[low]) / CLOUD_INTERVAL * (time - (double) low * CLOUD_INTERVAL);
}

static double share_of(const struct cloud_host *host, double used) {
    double use = used / host->mips;

    return use > 1 && use < 1.01 ? 1 : use;
}

/* A VM that asks for nothing has finished. */
static void remove_finished(struct cloud *cloud, struct cloud_host *host) {
    for (size_t i = host->count; i-- > 0;) {
        struct cloud_vm *vm = &cloud->vms[host->guests[i].vm];
        if (vm->moving || vm->request > 0)
            continue;
        vm->finished = true;
        guest_remove(host, host->guests[i].vm);
    }
}

/* All hosts at a moment, and the energy since the last one: the mean of the powers at both, nothing for a host that was
 * off. */
static void update(struct cloud *cloud, double now) {
    double time = now - cloud->now;

    cloud->now = now;
    for (size_t i = 0; i < cloud->vm_count; i++)
        cloud->vms[i].request = use_at(&cloud->vms[i], now) * cloud->vms[i].mips;
    for (size_t i = 0; i < cloud->host_count; i++) {
        struct cloud_host *host = &cloud->hosts[i];
        host_update(cloud, host);
        double before = share_of(host, host->used_before), after = share_of(host, host->used);
        if (time <= 0 || before == 0)
            continue;
        double from = cloud_power(host, before), to = cloud_power(host, after);
        cloud->energy += (from + (to - from) / 2) * time;
    }
    for (size_t i = 0; i < cloud->host_count; i++)
        remove_finished(cloud, &cloud->hosts[i]);
}

void cloud_step(struct cloud *cloud) {
    double now = (floor(cloud->now / CLOUD_INTERVAL) + 1) * CLOUD_INTERVAL + OFFSET;

    update(cloud, now);
    for (size_t i = 0; i < cloud->vm_count; i++) {
        struct cloud_vm *vm = &cloud->vms[i];
        memmove(vm->history + 1, vm->history, (CLOUD_HISTORY - 1) * sizeof(*vm->history));
        vm->history[0] = use_at(vm, now);
        vm->history_count += vm->history_count < CLOUD_HISTORY;
    }
}

static int begin_move(struct cloud *cloud, const struct cloud_move *move) {
    struct cloud_host *to = &cloud->hosts[move->host];
    struct cloud_vm *vm = &cloud->vms[move->vm];
    int r;

    cloud->migrations++;
    vm->moving = true;
    if (guest_has(to, move->vm))
        return 0;
    r = guest_add(to, move->vm, true);
    if (r < 0)
        return r;
    host_update(cloud, to);
    host_update(cloud, &cloud->hosts[vm->host]);
    return 0;
}

static int end_move(struct cloud *cloud, const struct cloud_move *move) {
    guest_remove(&cloud->hosts[cloud->vms[move->vm].host], move->vm);
    guest_remove(&cloud->hosts[move->host], move->vm);
    cloud->vms[move->vm].host = move->host;
    cloud->vms[move->vm].moving = false;
    return guest_add(&cloud->hosts[move->host], move->vm, false);
}

int cloud_migrate(struct cloud *cloud, const struct cloud_move *moves, size_t count) {
    double begin = cloud->now;
    unsigned ended = 0;
    int r = 0;

    for (size_t i = 0; i < count && r >= 0; i++)
        r = begin_move(cloud, &moves[i]);
    while (r >= 0) { /* the least memory first */
        unsigned next = UINT32_MAX;
        for (size_t i = 0; i < count; i++) {
            unsigned memory = cloud->vms[moves[i].vm].memory;
            next = memory > ended && memory < next ? memory : next;
        }
        if (next == UINT32_MAX)
            break;
        update(cloud, begin + next / CLOUD_COPY_RATE);
        for (size_t i = 0; i < count && r >= 0; i++)
            if (cloud->vms[moves[i].vm].memory == next)
                r = end_move(cloud, &moves[i]);
        update(cloud, cloud->now);
        ended = next;
    }
    return r;
}

struct cloud_result cloud_finish(struct cloud *cloud) {
    struct cloud_result result = { .energy = cloud->energy / 3600000, .migrations = cloud->migrations,
                                   .stops = cloud->stops };

    result.slatah = cloud->active_time > 0 ? cloud->violation_time / cloud->active_time : 0;
    result.pdm = cloud->requested > 0 ? cloud->lost / cloud->requested : 0;
    result.esv = result.energy * result.slatah * result.pdm;
    return result;
}

/* What CloudSim does when VMs are made: each asks for all of its MIPS and goes where the power rises least above that of
 * an idle host; a host that has one may not come above the threshold by the new one alone (those made before ask for
 * nothing yet). */
static int place_first(struct cloud *cloud, uint32_t number, double threshold, double *promised, unsigned *memory) {
    struct cloud_vm *vm = &cloud->vms[number];
    uint32_t best = UINT32_MAX;
    double least = 0;

    for (uint32_t i = 0; i < cloud->host_count; i++) {
        const struct cloud_host *host = &cloud->hosts[i];
        if (host->core_mips < vm->mips || host->mips - promised[i] < vm->mips || memory[i] < vm->memory ||
            host->count >= GUESTS_BY_BANDWIDTH || (host->count > 0 && vm->mips / host->mips > threshold))
            continue;
        double rise = cloud_power(host, (promised[i] + vm->mips) / host->mips) - host->power[0];
        if (best != UINT32_MAX && rise >= least)
            continue;
        least = rise;
        best = i;
    }
    if (best == UINT32_MAX)
        return -ENOSPC;
    promised[best] += vm->mips;
    memory[best] -= vm->memory;
    vm->host = best;
    return guest_add(&cloud->hosts[best], number, false);
}

int cloud_new(const double *use, size_t vm_count, size_t host_count, double threshold, struct cloud **ret) {
    _cleanup_cloud_ struct cloud *cloud = calloc(1, sizeof(*cloud));
    _cleanup_free_ double *promised = calloc(host_count + 1, sizeof(*promised));
    _cleanup_free_ unsigned *memory = calloc(host_count + 1, sizeof(*memory));
    int r = 0;

    if (!cloud || !promised || !memory)
        return -ENOMEM;
    cloud->host_count = host_count;
    cloud->vm_count = vm_count;
    cloud->hosts = calloc(host_count + 1, sizeof(*cloud->hosts));
    cloud->vms = calloc(vm_count + 1, sizeof(*cloud->vms));
    if (!cloud->hosts || !cloud->vms)
        return -ENOMEM;
    for (size_t i = 0; i < host_count; i++) {
        const struct host_kind *kind = &host_kinds[i % ELEMENTS(host_kinds)];
        cloud->hosts[i].core_mips = kind->core_mips;
        cloud->hosts[i].mips = 2 * kind->core_mips;
        cloud->hosts[i].power = kind->power;
        memory[i] = HOST_MEMORY;
    }

    size_t quarter = (vm_count + ELEMENTS(vm_kinds) - 1) / ELEMENTS(vm_kinds);
    for (size_t i = 0; i < vm_count && r >= 0; i++) {
        cloud->vms[i].use = use + i * CLOUD_SAMPLES;
        cloud->vms[i].mips = vm_kinds[i / quarter].mips;
        cloud->vms[i].memory = vm_kinds[i / quarter].memory;
        r = place_first(cloud, (uint32_t) i, threshold, promised, memory);
    }
    if (r < 0)
        return r;
    *ret = STEAL_PTR(cloud);
    return 0;
}
