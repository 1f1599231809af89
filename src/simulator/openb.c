// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/openb.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "simulator/input.h"

#define COLUMNS_MAX 32

void openb_done(struct openb *openb) {
    for (size_t i = 0; i < openb->node_count; i++) {
        free(openb->nodes[i].name);
        free(openb->nodes[i].model);
    }
    for (size_t i = 0; i < openb->pod_count; i++)
        free(openb->pods[i].models);
    free(openb->nodes);
    free(openb->pods);
    *openb = (struct openb){ 0 };
}

/* Where the columns of those names are; an optional one that is absent is COLUMNS_MAX. */
static int find_columns(struct input *input, const char *const *names, size_t count, size_t needed,
                        size_t *ret, struct error *error) {
    char *line, *fields[COLUMNS_MAX];
    bool used[COLUMNS_MAX] = { false };
    int r = input_line(input, &line, error);

    if (r < 0)
        return r;
    if (r == 0)
        return input_refuse(input, error, "file", "it is empty");
    size_t found = input_split(line, ',', fields, COLUMNS_MAX);
    if (found > COLUMNS_MAX)
        return input_refuse(input, error, "header", "it has more than %d columns", COLUMNS_MAX);
    for (size_t i = 0; i < count; i++) {
        ret[i] = COLUMNS_MAX;
        for (size_t j = 0; j < found; j++)
            if (text_equal(fields[j], names[i]))
                ret[i] = j;
        if (ret[i] == COLUMNS_MAX && i < needed)
            return input_refuse(input, error, names[i], "there is no such column");
        if (ret[i] != COLUMNS_MAX)
            used[ret[i]] = true;
    }
    input_tell_unused(input, fields, used, found);
    return (int) found;
}

struct reader {
    const char *const *names;
    size_t count, needed;
    const int64_t *most; /* of whole numbers; 0: a text */
    int (*row)(struct openb *openb, char *const *texts, const int64_t *numbers);
};

static int read_row(const struct reader *reader, struct input *input, struct openb *openb, char *line,
                    int width, const size_t *columns, struct error *error) {
    char *fields[COLUMNS_MAX], *texts[8] = { NULL };
    int64_t numbers[8] = { 0 };
    size_t found = input_split(line, ',', fields, COLUMNS_MAX);
    int r;

    if (found != (size_t) width)
        return input_refuse(input, error, "row", "it has %zu fields, the header has %d", found, width);
    for (size_t i = 0; i < reader->count; i++) {
        texts[i] = columns[i] == COLUMNS_MAX ? (char *) "" : fields[columns[i]];
        if (reader->most[i] == 0)
            continue;
        r = input_integer(input, reader->names[i], texts[i], 0, reader->most[i], &numbers[i], error);
        if (r < 0)
            return r;
    }
    r = reader->row(openb, texts, numbers);
    if (r == -EINVAL)
        return input_refuse(input, error, "gpu_milli",
                            "it must be 1 to 1000, and 1000 for more than one GPU");
    return r < 0 ? error_errno(error, r, "reading a row") : 0;
}

static int read_file(const struct reader *reader, struct openb *openb, const char *path,
                     struct error *error) {
    _cleanup_input_ struct input *input = NULL;
    size_t columns[8];
    char *line;
    int r, width;

    r = input_open(path, &input, error);
    if (r < 0)
        return r;
    width = find_columns(input, reader->names, reader->count, reader->needed, columns, error);
    if (width < 0)
        return width;
    while ((r = input_line(input, &line, error)) > 0) {
        if (*line == '\0')
            continue;
        r = read_row(reader, input, openb, line, width, columns, error);
        if (r < 0)
            return r;
    }
    return r;
}

static int make_room(void *array_pointer, size_t element, size_t count, size_t *room) {
    void **array = array_pointer;

    if (count < *room)
        return 0;
    size_t wanted = *room ? *room * 2 : 256;
    void *larger = reallocarray(*array, wanted, element);
    if (!larger)
        return -ENOMEM;
    *array = larger;
    *room = wanted;
    return 0;
}

static int add_node(struct openb *openb, char *const *texts, const int64_t *numbers) {
    if (make_room(&openb->nodes, sizeof(*openb->nodes), openb->node_count, &openb->node_room) < 0)
        return -ENOMEM;
    struct openb_node *node = &openb->nodes[openb->node_count++];
    *node = (struct openb_node){ .name = strdup(texts[0]), .cpus = (uint64_t) numbers[1] * 1000,
                                 .memory = (uint64_t) numbers[2] << 20, .gpus = (unsigned) numbers[3],
                                 .model = strdup(texts[4]) };
    return node->name && node->model ? 0 : -ENOMEM;
}

static int add_pod(struct openb *openb, char *const *texts, const int64_t *numbers) {
    if (numbers[3] > 0 && (numbers[4] == 0 || (numbers[3] > 1 && numbers[4] != GPU_WHOLE)))
        return -EINVAL;
    if (make_room(&openb->pods, sizeof(*openb->pods), openb->pod_count, &openb->pod_room) < 0)
        return -ENOMEM;
    struct openb_pod *pod = &openb->pods[openb->pod_count++];
    *pod = (struct openb_pod){ .cpus = (uint64_t) numbers[1] * 1000,
                               .memory = (uint64_t) numbers[2] << 20,
                               .gpus = (unsigned) numbers[3],
                               .gpu_milli = numbers[3] ? (unsigned) numbers[4] : 0,
                               .models = strdup(texts[5]) };
    return pod->models ? 0 : -ENOMEM;
}

int openb_read_nodes(struct openb *openb, const char *path, struct error *error) {
    static const char *const names[] = { "sn", "cpu_milli", "memory_mib", "gpu", "model" };
    static const int64_t most[] = { 0, 10000000, 1 << 30, NODE_GPUS, 0 };
    const struct reader reader = { names, ELEMENTS(names), ELEMENTS(names), most, add_node };

    return read_file(&reader, openb, path, error);
}

int openb_read_pods(struct openb *openb, const char *path, struct error *error) {
    static const char *const names[] = {
        "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"
    };
    static const int64_t most[] = { 0, 10000000, 1 << 30, NODE_GPUS, GPU_WHOLE, 0 };
    const struct reader reader = { names, ELEMENTS(names), ELEMENTS(names) - 1, most, add_pod };

    return read_file(&reader, openb, path, error);
}
