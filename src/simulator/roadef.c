// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/roadef.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "simulator/input.h"

/* Ten times the challenge's greatest, or what memory allows. */
#define MACHINES_MAXIMUM 5000
#define PROCESSES_MAXIMUM 200000
#define NUMBER_MAXIMUM (INT64_C(1) << 60)

struct reader {
    struct input *input;
    struct error *error;
    char *at; /* within the line, or NULL */
};

/* The next number, across lines. */
static int take(struct reader *reader, const char *name, int64_t minimum, int64_t maximum, int64_t *ret) {
    char *word;
    int r = 1;

    for (;;) {
        if (reader->at)
            reader->at += strspn(reader->at, " \t");
        if (reader->at && *reader->at != '\0')
            break;
        r = input_line(reader->input, &reader->at, reader->error);
        if (r == 0)
            return input_refuse(reader->input, reader->error, name, "the file ends before it");
        if (r < 0)
            return r;
    }
    word = reader->at;
    reader->at += strcspn(reader->at, " \t");
    if (*reader->at != '\0')
        *reader->at++ = '\0';
    return input_integer(reader->input, name, word, minimum, maximum, ret, reader->error);
}

static int take_u32(struct reader *reader, const char *name, uint32_t maximum, uint32_t *ret) {
    int64_t value = 0;
    int r = take(reader, name, 0, maximum, &value);

    *ret = (uint32_t) value;
    return r;
}

static int take_end(struct reader *reader) {
    for (;;) {
        if (reader->at && reader->at[strspn(reader->at, " \t")] != '\0')
            return input_refuse(reader->input, reader->error, "end", "there is more than was announced");
        int r = input_line(reader->input, &reader->at, reader->error);
        if (r <= 0)
            return r;
    }
}

/* Zeroed, and never of size 0. Sets the error. */
static void *cells(struct reader *reader, size_t count, size_t size) {
    void *memory = calloc(count + 1, size);

    if (!memory)
        error_errno(reader->error, -ENOMEM, "reading a model");
    return memory;
}

static int take_resources(struct reader *reader, struct reassignment *problem) {
    int64_t flag;
    int r = take_u32(reader, "resources", REASSIGNMENT_RESOURCES, &problem->resources);

    for (uint32_t i = 0; i < problem->resources && r >= 0; i++) {
        r = take(reader, "transient", 0, 1, &flag);
        if (r >= 0)
            problem->transient[i] = flag;
        if (r >= 0)
            r = take(reader, "load weight", 0, INT32_MAX, &problem->load_weight[i]);
    }
    return r;
}

static int take_row(struct reader *reader, const char *name, uint32_t count, int64_t *row) {
    int r = 0;

    for (uint32_t i = 0; i < count && r >= 0; i++)
        r = take(reader, name, 0, NUMBER_MAXIMUM, &row[i]);
    return r;
}

static int take_machine(struct reader *reader, struct reassignment *problem, uint32_t machine) {
    size_t row = (size_t) machine * problem->resources;
    int64_t distance;
    int r = take_u32(reader, "neighbourhood", MACHINES_MAXIMUM - 1, &problem->neighbourhood[machine]);

    if (r >= 0)
        r = take_u32(reader, "location", MACHINES_MAXIMUM - 1, &problem->location[machine]);
    if (r >= 0)
        r = take_row(reader, "capacity", problem->resources, problem->capacity + row);
    if (r >= 0)
        r = take_row(reader, "safety capacity", problem->resources, problem->safety + row);
    for (uint32_t i = 0; i < problem->machines && r >= 0; i++) {
        r = take(reader, "distance", 0, INT32_MAX, &distance);
        if (r >= 0)
            problem->distance[(size_t) machine * problem->machines + i] = (int32_t) distance;
    }
    if (problem->neighbourhood[machine] >= problem->neighbourhoods)
        problem->neighbourhoods = problem->neighbourhood[machine] + 1;
    if (problem->location[machine] >= problem->locations)
        problem->locations = problem->location[machine] + 1;
    return r;
}

static int take_machines(struct reader *reader, struct reassignment *problem) {
    int r = take_u32(reader, "machines", MACHINES_MAXIMUM, &problem->machines);
    size_t machines = problem->machines;

    if (r < 0)
        return r;
    problem->location = cells(reader, machines, sizeof(uint32_t));
    problem->neighbourhood = cells(reader, machines, sizeof(uint32_t));
    problem->capacity = cells(reader, machines * problem->resources, sizeof(int64_t));
    problem->safety = cells(reader, machines * problem->resources, sizeof(int64_t));
    problem->distance = cells(reader, machines * machines, sizeof(int32_t));
    if (!problem->location || !problem->neighbourhood || !problem->capacity || !problem->safety || !problem->distance)
        return -ENOMEM;
    for (uint32_t m = 0; m < machines && r >= 0; m++)
        r = take_machine(reader, problem, m);
    return r;
}

static int take_dependencies(struct reader *reader, struct reassignment *problem, uint32_t service, uint32_t *room) {
    uint32_t at = problem->dependency_begin[service], count, other;
    int r = take_u32(reader, "number of dependencies", problem->services, &count);

    if (r < 0)
        return r;
    if (at + count > *room) {
        uint32_t larger = (at + count) * 2;
        uint32_t *list = realloc(problem->dependency, (size_t) larger * sizeof(*list));
        if (!list)
            return error_errno(reader->error, -ENOMEM, "reading a model");
        problem->dependency = list;
        *room = larger;
    }
    for (uint32_t i = 0; i < count && r >= 0; i++) {
        r = take_u32(reader, "dependency", problem->services - 1, &other);
        if (r >= 0)
            problem->dependency[at + i] = other;
    }
    problem->dependency_begin[service + 1] = at + count;
    return r;
}

static int take_services(struct reader *reader, struct reassignment *problem) {
    uint32_t room = 0;
    int r = take_u32(reader, "services", PROCESSES_MAXIMUM, &problem->services);

    if (r < 0)
        return r;
    problem->spread = cells(reader, problem->services, sizeof(uint32_t));
    problem->dependency_begin = cells(reader, problem->services, sizeof(uint32_t));
    if (!problem->spread || !problem->dependency_begin)
        return -ENOMEM;
    for (uint32_t s = 0; s < problem->services && r >= 0; s++) {
        r = take_u32(reader, "spread", MACHINES_MAXIMUM, &problem->spread[s]);
        if (r >= 0)
            r = take_dependencies(reader, problem, s, &room);
        if (r >= 0 && problem->dependency_begin[s + 1] > (1 << 24))
            r = input_refuse(reader->input, reader->error, "number of dependencies", "there are more than 2^24 in all");
    }
    return r;
}

static int take_processes(struct reader *reader, struct reassignment *problem) {
    int r = take_u32(reader, "processes", PROCESSES_MAXIMUM, &problem->processes);
    size_t processes = problem->processes;

    if (r < 0)
        return r;
    if (processes > 0 && (problem->services == 0 || problem->machines == 0))
        return input_refuse(reader->input, reader->error, "processes", "there is no service or no machine for them");
    problem->service = cells(reader, processes, sizeof(uint32_t));
    problem->need = cells(reader, processes * problem->resources, sizeof(int64_t));
    problem->effort = cells(reader, processes, sizeof(int64_t));
    if (!problem->service || !problem->need || !problem->effort)
        return -ENOMEM;
    for (uint32_t p = 0; p < processes && r >= 0; p++) {
        r = take_u32(reader, "service", problem->services - 1, &problem->service[p]);
        if (r >= 0)
            r = take_row(reader, "need", problem->resources, problem->need + (size_t) p * problem->resources);
        if (r >= 0)
            r = take(reader, "process move cost", 0, NUMBER_MAXIMUM, &problem->effort[p]);
    }
    return r;
}

static int take_balance(struct reader *reader, struct reassignment *problem, struct reassignment_balance *balance) {
    uint32_t last = problem->resources - 1;
    int r = take_u32(reader, "first resource of a balance", last, &balance->first);

    if (r >= 0)
        r = take_u32(reader, "second resource of a balance", last, &balance->second);
    if (r >= 0)
        r = take(reader, "target of a balance", 0, INT32_MAX, &balance->target);
    return r < 0 ? r : take(reader, "weight of a balance", 0, INT32_MAX, &balance->weight);
}

static int take_weights(struct reader *reader, struct reassignment *problem) {
    int r = take_u32(reader, "balance costs", 1000, &problem->balances);

    if (r < 0)
        return r;
    if (problem->balances > 0 && problem->resources == 0)
        return input_refuse(reader->input, reader->error, "balance costs", "there are no resources to balance");
    problem->balance = cells(reader, problem->balances, sizeof(*problem->balance));
    if (!problem->balance)
        return -ENOMEM;
    for (uint32_t i = 0; i < problem->balances && r >= 0; i++)
        r = take_balance(reader, problem, &problem->balance[i]);
    if (r >= 0)
        r = take(reader, "weight of the process move cost", 0, INT32_MAX, &problem->process_weight);
    if (r >= 0)
        r = take(reader, "weight of the service move cost", 0, INT32_MAX, &problem->service_weight);
    return r < 0 ? r : take(reader, "weight of the machine move cost", 0, INT32_MAX, &problem->machine_weight);
}

int roadef_read_model(const char *path, struct reassignment **ret, struct error *error) {
    _cleanup_reassignment_ struct reassignment *problem = calloc(1, sizeof(*problem));
    _cleanup_input_ struct input *input = NULL;
    struct reader reader = { .error = error };
    int r;

    if (!problem)
        return error_errno(error, -ENOMEM, "reading %s", path);
    r = input_open(path, &input, error);
    if (r < 0)
        return r;
    reader.input = input;
    r = take_resources(&reader, problem);
    if (r >= 0)
        r = take_machines(&reader, problem);
    if (r >= 0)
        r = take_services(&reader, problem);
    if (r >= 0)
        r = take_processes(&reader, problem);
    if (r >= 0)
        r = take_weights(&reader, problem);
    if (r >= 0)
        r = take_end(&reader);
    if (r < 0)
        return r;
    if (!reassignment_is_sane(problem))
        return error_set(error, ERROR_BAD_SOURCE, path, "its costs could exceed 62 bits");
    *ret = STEAL_PTR(problem);
    return 0;
}

int roadef_read_assignment(const char *path, const struct reassignment *problem, uint32_t **ret, struct error *error) {
    _cleanup_input_ struct input *input = NULL;
    struct reader reader = { .error = error };
    _cleanup_free_ uint32_t *assignment = NULL;
    int r;

    r = input_open(path, &input, error);
    if (r < 0)
        return r;
    reader.input = input;
    assignment = cells(&reader, problem->processes, sizeof(*assignment));
    if (!assignment)
        return -ENOMEM;
    for (uint32_t p = 0; p < problem->processes && r >= 0; p++)
        r = take_u32(&reader, "machine", problem->machines - 1, &assignment[p]);
    if (r >= 0)
        r = take_end(&reader);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(assignment);
    return 0;
}
