// SPDX-License-Identifier: GPL-2.0-or-later
/* One pass over the trace. What will happen to the VMs that run lies in a heap: their ends and, where lives
 * are predicted, the ages at which the prediction is made again (whenever a VM's age doubles). Only VMs that
 * run are held in memory. */
#include "simulator/vms-simulation.h"

#include <errno.h>
#include <string.h>

#include "engine/lifetime.h"
#include "engine/placement.h"

#define HOUR 3600000.0

struct running {
    struct vm vm;
    uint32_t slot;
    unsigned octave;
    uint32_t next; /* of those that are unused */
};

struct event {
    uint64_t at;
    uint32_t running;
    bool ends;
};

struct vms {
    const struct vms_run *run;
    struct nodes *nodes;
    struct placement placement;
    struct lifetimes *lifetimes;
    struct mixture mixture;
    struct running *running;
    size_t running_count, running_room;
    uint32_t unused;
    struct event *events; /* a heap, the earliest first */
    size_t event_count, event_room;
    uint64_t now, begin, open, cpus, memory; /* promised */
    double open_time, bound_time, cpu_time;
    uint64_t sample_every, sample_next;
    struct vms_outcome *outcome;
};

static int grow(void *array_pointer, size_t element, size_t count, size_t *room) {
    void **array = array_pointer;

    if (count < *room)
        return 0;
    size_t wanted = *room ? *room * 2 : 1024;
    void *larger = reallocarray(*array, wanted, element);
    if (!larger)
        return -ENOMEM;
    *array = larger;
    *room = wanted;
    return 0;
}

/* ---- events ---- */

/* Ends before predictions, then by number: the order of equals is part of the result. */
static bool event_before(const struct event *a, const struct event *b) {
    if (a->at != b->at)
        return a->at < b->at;
    return a->ends != b->ends ? a->ends : a->running < b->running;
}

static int event_add(struct vms *vms, struct event event) {
    int r = grow(&vms->events, sizeof(*vms->events), vms->event_count, &vms->event_room);
    size_t at = vms->event_count;

    if (r < 0)
        return r;
    vms->event_count++;
    for (; at > 0 && event_before(&event, &vms->events[(at - 1) / 2]); at = (at - 1) / 2)
        vms->events[at] = vms->events[(at - 1) / 2];
    vms->events[at] = event;
    return 0;
}

static struct event event_take(struct vms *vms) {
    struct event first = vms->events[0], last = vms->events[--vms->event_count];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < vms->event_count && event_before(&vms->events[child + 1], &vms->events[child]))
            child++;
        if (child >= vms->event_count || !event_before(&vms->events[child], &last))
            break;
        vms->events[at] = vms->events[child];
        at = child;
    }
    vms->events[at] = last;
    return first;
}

/* ---- accounts ---- */

static uint64_t nodes_at_least(const struct vms *vms) {
    uint64_t cpus = (vms->cpus + vms->run->cpus - 1) / vms->run->cpus;
    uint64_t memory = (vms->memory + vms->run->memory - 1) / vms->run->memory;

    return cpus > memory ? cpus : memory;
}

static double share_now(const struct vms *vms) {
    return vms->open ? (double) vms->cpus / ((double) vms->open * (double) vms->run->cpus) : 0;
}

/* Keeps at most VMS_SAMPLES: when they are full every second goes, and those to come are as far apart as the rest is in the mean.
 * So each stretch of time keeps its share, however many events there are in it. */
static void sample(struct vms *vms) {
    struct vms_outcome *outcome = vms->outcome;

    if (vms->now < vms->sample_next)
        return;
    if (outcome->samples == VMS_SAMPLES) {
        for (size_t i = 0; i < VMS_SAMPLES / 2; i++) {
            outcome->hours[i] = outcome->hours[2 * i];
            outcome->open[i] = outcome->open[2 * i];
            outcome->share[i] = outcome->share[2 * i];
        }
        outcome->samples /= 2;
        vms->sample_every = (vms->now - vms->begin) / (VMS_SAMPLES / 2) + 1;
    }
    outcome->hours[outcome->samples] = (double) (vms->now - vms->begin) / HOUR;
    outcome->open[outcome->samples] = (double) vms->open;
    outcome->share[outcome->samples++] = share_now(vms);
    vms->sample_next = vms->now + vms->sample_every;
}

static void advance(struct vms *vms, uint64_t now) {
    double time = (double) (now - vms->now);

    sample(vms);
    vms->open_time += time * (double) vms->open;
    vms->bound_time += time * (double) nodes_at_least(vms);
    vms->cpu_time += time * (double) vms->cpus;
    vms->now = now;
}

/* ---- VMs ---- */

/* The lowest node that is empty and closed; one more where there is none. */
static int open_node(struct vms *vms) {
    uint32_t count = (uint32_t) nodes_count(vms->nodes), node = 0;
    char name[32];

    while (node < count && !nodes_get(vms->nodes, node)->closed)
        node++;
    if (node == count) {
        snprintf(name, sizeof(name), "n%u", node + 1);
        const struct node_description description = { .name = name, .cpus = vms->run->cpus,
                                                      .memory = vms->run->memory };
        int r = nodes_add(vms->nodes, &description, NULL);
        if (r < 0)
            return r;
    } else {
        nodes_close(vms->nodes, node, false);
    }
    vms->open++;
    if (vms->open > vms->outcome->open_most)
        vms->outcome->open_most = vms->open;
    return 0;
}

static uint64_t expected_end(const struct vms *vms, const struct vm *vm) {
    return vms->now + lifetimes_expected(vms->lifetimes, vm->class_number, vms->now - vm->create);
}

static int place(struct vms *vms, const struct vm *vm, uint32_t *ret_slot) {
    struct placement_request request;
    struct placement_decision decision;
    int r;

    placement_request_init(&request, "vm");
    request.shape.kind = KIND_VM;
    request.shape.cpus = vm->cpus;
    request.shape.memory = vm->memory;
    mixture_add(&vms->mixture, &request.shape);
    request.until = vms->run->lifetimes ? expected_end(vms, vm) : 0;
    r = placement_place(&vms->placement, &request, vms->now, false, &decision, ret_slot);
    if (r < 0 || *ret_slot != NODE_NONE)
        return r;
    r = open_node(vms);
    if (r < 0)
        return r;
    return placement_place(&vms->placement, &request, vms->now, false, &decision, ret_slot);
}

static int add_running(struct vms *vms, const struct vm *vm, uint32_t slot) {
    uint32_t number = vms->unused;
    int r = 0;

    if (number == NODE_NONE) {
        r = grow(&vms->running, sizeof(*vms->running), vms->running_count, &vms->running_room);
        if (r < 0)
            return r;
        number = (uint32_t) vms->running_count++;
    } else {
        vms->unused = vms->running[number].next;
    }
    vms->running[number] = (struct running){ .vm = *vm, .slot = slot };
    if (vm->end != UINT64_MAX)
        r = event_add(vms, (struct event){ vm->end, number, true });
    if (r >= 0 && vms->run->lifetimes) {
        uint64_t next = vm->create + lifetime_octave_begin(1);
        r = lifetimes_reached(vms->lifetimes, vm->class_number, 0);
        if (r >= 0 && next < vm->end)
            r = event_add(vms, (struct event){ next, number, false });
    }
    return r;
}

static int arrive(struct vms *vms, const struct vm *vm) {
    uint32_t slot;
    int r;

    if (vm->cpus > vms->run->cpus || vm->memory > vms->run->memory) {
        vms->outcome->too_large++;
        return 0;
    }
    r = place(vms, vm, &slot);
    if (r < 0)
        return r;
    vms->outcome->placed++;
    vms->cpus += vm->cpus;
    vms->memory += vm->memory;
    uint64_t bound = nodes_at_least(vms);
    vms->outcome->bound_most = bound > vms->outcome->bound_most ? bound : vms->outcome->bound_most;
    return add_running(vms, vm, slot);
}

static int leave(struct vms *vms, uint32_t number) {
    struct running *running = &vms->running[number];
    uint32_t node = nodes_holder(vms->nodes, running->slot);
    int r = 0;

    nodes_give(vms->nodes, running->slot);
    mixture_remove(&vms->mixture, &(struct shape){ .cpus = running->vm.cpus, .memory = running->vm.memory });
    vms->cpus -= running->vm.cpus;
    vms->memory -= running->vm.memory;
    if (nodes_get(vms->nodes, node)->instances == 0) {
        nodes_close(vms->nodes, node, true);
        vms->open--;
    }
    if (vms->run->lifetimes)
        r = lifetimes_ended(vms->lifetimes, running->vm.class_number, running->octave);
    running->next = vms->unused;
    vms->unused = number;
    return r;
}

/* Its age has doubled: what is expected of it changes. */
static int predict_again(struct vms *vms, uint32_t number) {
    struct running *running = &vms->running[number];
    uint64_t next;
    int r = lifetimes_reached(vms->lifetimes, running->vm.class_number, ++running->octave);

    nodes_expect(vms->nodes, running->slot, expected_end(vms, &running->vm));
    next = running->vm.create + lifetime_octave_begin(running->octave + 1);
    if (r >= 0 && running->octave + 1 < LIFETIME_OCTAVES && next < running->vm.end)
        r = event_add(vms, (struct event){ next, number, false });
    return r;
}

static int pass_events(struct vms *vms, uint64_t until) {
    int r = 0;

    while (r >= 0 && vms->event_count > 0 && vms->events[0].at <= until) {
        struct event event = event_take(vms);
        advance(vms, event.at);
        r = event.ends ? leave(vms, event.running) : predict_again(vms, event.running);
    }
    if (r >= 0)
        advance(vms, until);
    return r;
}

static int walk(struct vms *vms, struct vm_trace *trace, void (*progress)(double share),
                struct error *error) {
    struct vm vm;
    int r;

    while ((r = vm_trace_next(trace, &vm, error)) > 0) {
        const struct vm_repairs *repairs = vm_trace_repairs(trace);
        if (repairs->rows - repairs->instant == 1)
            vms->now = vms->begin = vm.create;
        r = pass_events(vms, vm.create);
        if (r >= 0)
            r = arrive(vms, &vm);
        if (r < 0)
            return error_errno(error, r, "placing VMs");
        if (progress && repairs->rows % 65536 == 0)
            progress(vm_trace_progress(trace));
    }
    if (r >= 0)
        sample(vms);
    return r;
}

static void vms_done(struct vms *vms) {
    placement_done(&vms->placement);
    nodes_free(vms->nodes);
    lifetimes_free(vms->lifetimes);
    free(vms->running);
    free(vms->events);
}

int vms_simulate(const struct vms_run *run, struct vm_trace *trace, void (*progress)(double share),
                 struct vms_outcome *ret, struct error *error) {
    _cleanup_(
        vms_done) struct vms vms = { .run = run, .unused = NODE_NONE, .sample_every = 1, .outcome = ret };
    const struct placement_options options = { .score = run->score, .mixture = &vms.mixture };
    int r = nodes_new(&vms.nodes);

    *ret = (struct vms_outcome){ 0 };
    if (r >= 0)
        r = lifetimes_new(&vms.lifetimes);
    if (r < 0)
        return error_errno(error, r, "placing VMs");
    placement_init(&vms.placement, vms.nodes, &options);
    r = walk(&vms, trace, progress, error);
    if (r < 0)
        return r;
    ret->repairs = *vm_trace_repairs(trace);
    ret->node_hours = vms.open_time / HOUR;
    ret->bound_hours = vms.bound_time / HOUR;
    ret->packing = vms.open_time > 0 ? vms.cpu_time / (vms.open_time * (double) run->cpus) : 0;
    return 0;
}
