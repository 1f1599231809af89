// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/vmtrace.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/map.h"
#include "base/text.h"
#include "engine/fixed.h"
#include "simulator/draw.h"
#include "simulator/input.h"

#define COLUMNS_MAX 64
#define TIME_MAX 1e12 /* seconds */
#define CLASSES_MAX (1 << 20)

enum column {
    COLUMN_ID,
    COLUMN_CREATE,
    COLUMN_DELETE,
    COLUMN_CPUS,
    COLUMN_MEMORY,
    COLUMN_CLASS,
    COLUMN_COUNT,
};
static const char *const column_words[] = { "id", "create", "delete", "cpus", "memory", "class" };
/* Without these there is no trace; without an id rows are known by their line alone. */
static const bool column_needed[] = { false, true, true, true, true, false };

struct generated_class {
    double scale, alpha; /* lives: scale x u^(-1 / alpha) seconds */
    unsigned cpus, memory;
};

struct vm_trace {
    struct input *input; /* NULL: generated */
    size_t columns[COLUMN_COUNT], width;
    double time_unit, memory_unit;
    uint64_t last;
    struct map *numbers; /* of classes */
    char **names;        /* that own the map's keys */
    size_t name_count, name_room;
    struct vm_repairs repairs;
    struct generated_class *classes;
    struct vm_generator generator;
    uint64_t state, made;
    double now;
};

void vm_trace_free(struct vm_trace *trace) {
    if (!trace)
        return;
    input_free(trace->input);
    map_free(trace->numbers);
    for (size_t i = 0; i < trace->name_count; i++)
        free(trace->names[i]);
    free(trace->names);
    free(trace->classes);
    free(trace);
}

/* ---- files ---- */

static int split_mapping(const char *mapping, char **ret_names, struct error *error) {
    _cleanup_list_ char **parts = NULL;
    int r = list_split(mapping, ",", &parts);

    for (char **part = parts; r >= 0 && part && *part; part++) {
        char *equals = strchr(*part, '=');
        size_t which = 0;
        if (!equals || equals[1] == '\0')
            return error_set(error, ERROR_BAD_VALUE, "--columns", *part, "it is not WHAT=COLUMN");
        *equals = '\0';
        while (which < COLUMN_COUNT && !text_equal(*part, column_words[which]))
            which++;
        if (which == COLUMN_COUNT)
            return error_set(error, ERROR_BAD_VALUE, "--columns", *part,
                             "it is one of id, create, delete, cpus, memory, class");
        if (ret_names[which])
            return error_set(error, ERROR_BAD_VALUE, "--columns", *part, "it is named twice");
        ret_names[which] = strdup(equals + 1);
        r = ret_names[which] ? 0 : -ENOMEM;
    }
    for (size_t i = 0; r >= 0 && i < COLUMN_COUNT; i++)
        if (column_needed[i] && !ret_names[i])
            return error_set(error, ERROR_BAD_VALUE, "--columns", mapping,
                             "create, delete, cpus and memory are needed");
    return r < 0 ? error_errno(error, r, "reading --columns") : 0;
}

/* Numbers mean that there is no header: 1; else 0. */
static int number_columns(struct vm_trace *trace, char *const *names, struct error *error) {
    size_t numbers = 0, given = 0;

    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        uint64_t number;
        trace->columns[i] = COLUMNS_MAX;
        if (!names[i])
            continue;
        given++;
        if (text_parse_u64(names[i], &number) < 0)
            continue;
        if (number < 1 || number > COLUMNS_MAX)
            return error_set(error, ERROR_OUT_OF_RANGE, "--columns", "1", "64", names[i]);
        trace->columns[i] = number - 1;
        trace->width = number > trace->width ? number : trace->width;
        numbers++;
    }
    if (numbers > 0 && numbers < given)
        return error_set(error, ERROR_BAD_VALUE, "--columns", "a mixture",
                         "columns have numbers, and then all of them and no header, or names");
    return numbers > 0;
}

static int find_columns(struct vm_trace *trace, char *const *names, const struct vm_columns *wanted,
                        struct error *error) {
    char *line, *fields[COLUMNS_MAX];
    bool used[COLUMNS_MAX] = { false };
    int r = input_line(trace->input, &line, error);

    if (r < 0)
        return r;
    if (r == 0)
        return input_refuse(trace->input, error, "file", "it is empty");
    trace->width = input_split(line, ',', fields, COLUMNS_MAX);
    if (trace->width > COLUMNS_MAX)
        return input_refuse(trace->input, error, "header", "it has more than %d columns", COLUMNS_MAX);
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        for (size_t j = 0; names[i] && j < trace->width; j++)
            if (text_equal(fields[j], names[i]))
                trace->columns[i] = j;
        bool spare = !column_needed[i] && !wanted->mapping;
        if (names[i] && trace->columns[i] == COLUMNS_MAX && !spare)
            return input_refuse(trace->input, error, names[i], "there is no such column");
        if (trace->columns[i] != COLUMNS_MAX)
            used[trace->columns[i]] = true;
    }
    if (wanted->tells)
        input_tell_unused(trace->input, fields, used, trace->width);
    return 0;
}

static int trace_new(struct vm_trace **ret) {
    _cleanup_vm_trace_ struct vm_trace *trace = calloc(1, sizeof(*trace));
    int r = trace ? map_new(&trace->numbers) : -ENOMEM;

    if (r < 0)
        return r;
    *ret = STEAL_PTR(trace);
    return 0;
}

int vm_trace_open(const char *path, const struct vm_columns *columns, struct vm_trace **ret,
                  struct error *error) {
    static const char usual[] = "id=id,create=create,delete=delete,cpus=cpus,memory=memory,class=class";
    _cleanup_vm_trace_ struct vm_trace *trace = NULL;
    char *names[COLUMN_COUNT] = { NULL };
    int r = trace_new(&trace);

    if (r < 0)
        return error_errno(error, r, "opening %s", path);
    trace->time_unit = columns->time_unit;
    trace->memory_unit = columns->memory_unit;
    r = split_mapping(columns->mapping ? columns->mapping : usual, names, error);
    if (r >= 0)
        r = number_columns(trace, names, error);
    bool headless = r > 0;
    if (r >= 0)
        r = input_open(path, &trace->input, error);
    if (r >= 0 && !headless)
        r = find_columns(trace, names, columns, error);
    for (size_t i = 0; i < COLUMN_COUNT; i++)
        free(names[i]);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(trace);
    return 0;
}

static int class_of(struct vm_trace *trace, const char *name, uint32_t *ret) {
    void *found = map_get(trace->numbers, name);

    *ret = found ? (uint32_t) (uintptr_t) found - 1 : 0;
    if (found || trace->name_count == CLASSES_MAX)
        return 0;
    if (trace->name_count == trace->name_room) {
        size_t room = trace->name_room ? trace->name_room * 2 : 64;
        char **names = reallocarray(trace->names, room, sizeof(*names));
        if (!names)
            return -ENOMEM;
        trace->names = names;
        trace->name_room = room;
    }
    _cleanup_free_ char *copy = strdup(name);
    int r = copy ? map_put(trace->numbers, copy, (void *) (uintptr_t) (trace->name_count + 1)) : -ENOMEM;
    if (r < 0)
        return r;
    *ret = (uint32_t) trace->name_count;
    trace->names[trace->name_count++] = STEAL_PTR(copy);
    return 0;
}

static int read_times(struct vm_trace *trace, char *const *fields, struct vm *vm, struct error *error) {
    const char *end = fields[trace->columns[COLUMN_DELETE]];
    double most = TIME_MAX / trace->time_unit, value;
    int r = input_decimal(trace->input, "create", fields[trace->columns[COLUMN_CREATE]], 0, most, &value,
                          error);

    if (r < 0)
        return r;
    vm->create = (uint64_t) llround(value * trace->time_unit * 1000);
    vm->end = UINT64_MAX;
    if (vm->create < trace->last)
        return input_refuse(trace->input, error, "create",
                            "rows must be in order of creation: sort the file");
    if (*end == '\0') {
        trace->repairs.endless++;
        return 0;
    }
    r = input_decimal(trace->input, "delete", end, 0, most, &value, error);
    if (r < 0)
        return r;
    vm->end = (uint64_t) llround(value * trace->time_unit * 1000);
    if (vm->end < vm->create)
        return input_refuse(trace->input, error, "delete", "it ends before it begins");
    return 0;
}

static int read_row(struct vm_trace *trace, char *line, struct vm *vm, struct error *error) {
    char *fields[COLUMNS_MAX];
    size_t found = input_split(line, ',', fields, COLUMNS_MAX);
    double cpus, memory;
    int r;

    if (found < trace->width)
        return input_refuse(trace->input, error, "row", "it has %zu fields, not %zu", found, trace->width);
    for (size_t i = 0; i < found && i < COLUMNS_MAX; i++)
        if (*fields[i] == '"')
            return input_refuse(trace->input, error, "row", "quoted fields are not understood");
    if (trace->columns[COLUMN_ID] != COLUMNS_MAX && *fields[trace->columns[COLUMN_ID]] == '\0')
        return input_refuse(trace->input, error, "id", "it is empty");
    r = read_times(trace, fields, vm, error);
    if (r >= 0)
        r = input_decimal(trace->input, "cpus", fields[trace->columns[COLUMN_CPUS]], 1e-6, 1e6, &cpus, error);
    if (r >= 0)
        r = input_decimal(trace->input, "memory", fields[trace->columns[COLUMN_MEMORY]],
                          1 / trace->memory_unit, 0x1p50 / trace->memory_unit, &memory, error);
    if (r < 0)
        return r;
    vm->cpus = (uint64_t) llround(cpus * 1e6);
    vm->memory = (uint64_t) llround(memory * trace->memory_unit);
    if (trace->columns[COLUMN_CLASS] != COLUMNS_MAX) {
        r = class_of(trace, fields[trace->columns[COLUMN_CLASS]], &vm->class_number);
    } else { /* equal sizes are a class */
        char size[64];
        snprintf(size, sizeof(size), "%llu/%llu", (unsigned long long) vm->cpus,
                 (unsigned long long) vm->memory);
        r = class_of(trace, size, &vm->class_number);
    }
    return r < 0 ? error_errno(error, r, "reading a row") : 0;
}

static int next_row(struct vm_trace *trace, struct vm *ret, struct error *error) {
    char *line;
    int r;

    while ((r = input_line(trace->input, &line, error)) > 0) {
        if (*line == '\0')
            continue;
        r = read_row(trace, line, ret, error);
        if (r < 0)
            return r;
        trace->repairs.rows++;
        trace->last = ret->create;
        if (ret->end > ret->create)
            return 1;
        trace->repairs.instant++;
    }
    return r;
}

/* ---- generated ---- */

/* Lives are heavy-tailed because classes differ: from two minutes to two weeks, evenly by their logarithm, so
 * that a few classes hold most of the capacity. Within a class lives are Pareto's; of three quarters of the
 * classes they vary by less than their mean, as those of one subscription do in large clouds (Cortez et al.,
 * SOSP'17); the others are heavy-tailed by themselves. */
static void make_class(uint64_t *state, struct generated_class *class) {
    static const unsigned cpus[] = { 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 16 };
    bool steady = draw_below(state, 4) < 3;

    class->cpus = cpus[draw_below(state, ELEMENTS(cpus))];
    class->memory = class->cpus * (2U << draw_below(state, 3));
    class->scale = 120 * fixed_power(10000, draw_share(state));
    class->alpha = steady ? 2.5 + 2 * draw_share(state) : 1.1 + 0.6 * draw_share(state);
}

int vm_trace_generate(const struct vm_generator *generator, struct vm_trace **ret) {
    _cleanup_vm_trace_ struct vm_trace *trace = NULL;
    int r = trace_new(&trace);

    if (r < 0)
        return r;
    trace->generator = *generator;
    trace->state = generator->seed;
    trace->classes = calloc(generator->classes, sizeof(*trace->classes));
    if (!trace->classes)
        return -ENOMEM;
    for (uint64_t i = 0; i < generator->classes; i++)
        make_class(&trace->state, &trace->classes[i]);
    *ret = STEAL_PTR(trace);
    return 0;
}

/* The k-th class is asked for in proportion to 1 / k, nearly: octaves of numbers are equally likely. */
static uint64_t draw_class(struct vm_trace *trace) {
    double at = fixed_power((double) trace->generator.classes + 1, draw_share(&trace->state)) - 1;
    uint64_t number = (uint64_t) at;

    return number < trace->generator.classes ? number : trace->generator.classes - 1;
}

/* By day three times as many are created as by night, evenly rising and falling; 1 on average. */
static double rate_at(double now) {
    double day = now / 86400, part = day - (double) (uint64_t) day;

    return 0.5 + 2 * (part < 0.5 ? part : 1 - part);
}

static int next_generated(struct vm_trace *trace, struct vm *ret) {
    double mean = trace->generator.days * 86400 / (double) trace->generator.vms / rate_at(trace->now);

    if (trace->made == trace->generator.vms)
        return 0;
    trace->made++;
    trace->repairs.rows++;
    trace->now += mean * -fixed_log2(draw_share(&trace->state)) * 0.69314718055994531;
    uint64_t number = draw_class(trace);
    const struct generated_class *class = &trace->classes[number];
    double life = class->scale * fixed_power(draw_share(&trace->state), -1 / class->alpha);
    *ret = (struct vm){ .create = (uint64_t) (trace->now * 1000), .cpus = class->cpus * UINT64_C(1000000),
                        .memory = (uint64_t) class->memory << 30, .class_number = (uint32_t) number };
    ret->end = ret->create + (uint64_t) ((life < 1e9 ? life : 1e9) * 1000);
    return 1;
}

int vm_trace_next(struct vm_trace *trace, struct vm *ret, struct error *error) {
    *ret = (struct vm){ 0 };
    return trace->input ? next_row(trace, ret, error) : next_generated(trace, ret);
}

double vm_trace_progress(const struct vm_trace *trace) {
    return trace->input ? input_progress(trace->input) : (double) trace->made / (double) trace->generator.vms;
}

const struct vm_repairs *vm_trace_repairs(const struct vm_trace *trace) {
    return &trace->repairs;
}
