// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/planetlab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "simulator/cloud.h"
#include "simulator/input.h"

#define VMS_MAXIMUM 100000

struct trace {
    char *name;
    double use[CLOUD_SAMPLES];
};

struct traces {
    struct trace **list;
    size_t count, room;
};

static void traces_done(struct traces *traces) {
    for (size_t i = 0; i < traces->count; i++) {
        free(traces->list[i]->name);
        free(traces->list[i]);
    }
    free(traces->list);
}

static int compare(const void *a, const void *b) {
    return strcmp((*(struct trace *const *) a)->name, (*(struct trace *const *) b)->name);
}

static struct trace *traces_add(struct traces *traces, const char *name) {
    struct trace *trace;

    if (traces->count == traces->room) {
        size_t room = traces->room ? traces->room * 2 : 1024;
        struct trace **list = realloc(traces->list, room * sizeof(struct trace *));
        if (!list)
            return NULL;
        traces->list = list;
        traces->room = room;
    }
    trace = calloc(1, sizeof(*trace));
    if (!trace)
        return NULL;
    trace->name = strdup(name);
    if (!trace->name) {
        free(trace);
        return NULL;
    }
    return traces->list[traces->count++] = trace;
}

static int read_trace(struct input *input, struct trace *trace, struct error *error) {
    size_t count = 0;
    int64_t percent;
    char *line;
    int r;

    while ((r = input_line(input, &line, error)) > 0) {
        if (count == CLOUD_SAMPLES - 1)
            return input_refuse(input, error, "use", "there are more than %d lines", CLOUD_SAMPLES - 1);
        r = input_integer(input, "use", line, 0, 100, &percent, error);
        if (r < 0)
            return r;
        trace->use[count++] = (double) percent / 100;
    }
    if (r >= 0 && count < CLOUD_SAMPLES - 1)
        return input_refuse(input, error, "use", "there are fewer than %d lines", CLOUD_SAMPLES - 1);
    trace->use[CLOUD_SAMPLES - 1] = trace->use[CLOUD_SAMPLES - 2];
    return r;
}

int planetlab_read(const char *path, double **ret_use, size_t *ret_count, struct error *error) {
    _cleanup_(traces_done) struct traces traces = { 0 };
    _cleanup_input_ struct input *input = NULL;
    const char *name;
    int r;

    r = input_open_archive(path, &input, error);
    while (r >= 0 && (r = input_member(input, &name, error)) > 0) {
        if (traces.count == VMS_MAXIMUM)
            return input_refuse(input, error, "archive", "it has more than %d files", VMS_MAXIMUM);
        struct trace *trace = traces_add(&traces, name);
        if (!trace)
            return error_errno(error, -ENOMEM, "reading %s", path);
        r = read_trace(input, trace, error);
    }
    if (r < 0)
        return r;
    if (traces.count == 0)
        return error_set(error, ERROR_BAD_SOURCE, path, "there is no file in it");
    qsort(traces.list, traces.count, sizeof(struct trace *), compare);
    double *use = calloc(traces.count * CLOUD_SAMPLES, sizeof(*use));
    if (!use)
        return error_errno(error, -ENOMEM, "reading %s", path);
    for (size_t i = 0; i < traces.count; i++)
        memcpy(use + i * CLOUD_SAMPLES, traces.list[i]->use, sizeof(traces.list[i]->use));
    *ret_use = use;
    *ret_count = traces.count;
    return 0;
}
