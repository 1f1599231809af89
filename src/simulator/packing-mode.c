// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate packing`: how many equal nodes hold what never leaves. */
#include <errno.h>
#include <inttypes.h>

#include "base/json.h"
#include "base/text.h"
#include "simulator/mode.h"
#include "simulator/options.h"
#include "simulator/packing.h"
#include "simulator/workers.h"

#define FILES_MAX 1000

struct settings {
    struct packing shape; /* capacity and dimensions */
    char **paths;
    size_t count;
    uint64_t workers;
    bool json;
};

struct work {
    const struct settings *settings;
    uint64_t *bins; /* [file][policy], then the bound */
    struct error *errors; /* [file] */
};

static int take_capacity(struct packing *packing, const char *value, struct error *error) {
    _cleanup_list_ char **parts = NULL;
    int r = list_split(value, ",", &parts);

    if (r < 0)
        return error_errno(error, r, "reading --capacity");
    for (char **part = parts; part && *part; part++) {
        uint64_t number;
        if (packing->dimensions == PACKING_DIMENSIONS)
            return error_set(error, ERROR_TOO_LARGE, "--capacity", "8 numbers");
        if (text_parse_u64(*part, &number) < 0 || number < 1 || number > 1000000)
            return error_set(error, ERROR_OUT_OF_RANGE, "--capacity", "1", "1000000", *part);
        packing->capacity[packing->dimensions++] = (uint32_t) number;
    }
    return 0;
}

static int pack_file(struct workers *workers, void *userdata, size_t which) {
    const struct work *work = userdata;
    const char *path = work->settings->paths[which];
    _cleanup_packing_ struct packing packing = work->settings->shape;
    uint64_t *bins = &work->bins[which * (packing_policies_count + 1)];
    struct error *error = &work->errors[which];
    int r = packing_read(&packing, path, error);

    if (r < 0)
        return r;
    bins[packing_policies_count] = packing_bound(&packing);
    for (size_t i = 0; i < packing_policies_count; i++) {
        workers_tell(workers, which, (double) i / (double) packing_policies_count);
        int64_t count = packing_policies[i].pack(&packing);
        if (count < 0)
            return error_errno(error, (int) count, "packing %s", path);
        bins[i] = (uint64_t) count;
    }
    return 0;
}

/* The sums over the files; the bound is the last. */
static int pack_files(const struct settings *settings, uint64_t *sums, struct error *error) {
    _cleanup_free_ uint64_t *bins = calloc(settings->count * (packing_policies_count + 1), sizeof(*bins));
    _cleanup_free_ struct error *errors = calloc(settings->count, sizeof(*errors));
    struct work work = { settings, bins, errors };
    size_t failed = SIZE_MAX;

    if (!bins || !errors)
        return error_errno(error, -ENOMEM, "packing");
    for (size_t i = 0; i < settings->count; i++)
        errors[i] = (struct error) ERROR_INIT;
    int r = workers_run("packing", settings->workers, settings->count, pack_file, &work, &failed);
    if (r < 0 && failed == SIZE_MAX)
        return error_errno(error, r, "packing");
    for (size_t i = 0; i < settings->count; i++) {
        if (i == failed)
            error_move(error, &errors[i]);
        error_clear(&errors[i]);
        for (size_t j = 0; j <= packing_policies_count; j++)
            sums[j] += bins[i * (packing_policies_count + 1) + j];
    }
    return r;
}

static int print_json(const uint64_t *bins, uint64_t bound, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_object(&emitter);
    for (size_t i = 0; i < packing_policies_count; i++)
        emit_key_unsigned(&emitter, packing_policies[i].name, bins[i]);
    emit_key_unsigned(&emitter, "bound", bound);
    emit_object_end(&emitter);
    if (text.failed)
        return error_errno(error, -ENOMEM, "printing");
    puts(text.data);
    return 0;
}

static int run_settings(const struct settings *settings, struct error *error) {
    _cleanup_free_ uint64_t *bins = calloc(packing_policies_count + 1, sizeof(*bins));
    int r = bins ? pack_files(settings, bins, error) : error_errno(error, -ENOMEM, "packing");

    if (r < 0)
        return r;
    uint64_t bound = bins[packing_policies_count];
    if (settings->json)
        return print_json(bins, bound, error);
    printf("%-12s  %8s\n", "POLICY", "BINS");
    for (size_t i = 0; i < packing_policies_count; i++)
        printf("%-12s  %8" PRIu64 "  %s\n", packing_policies[i].name, bins[i], packing_policies[i].summary);
    printf("%-12s  %8" PRIu64 "\n", "(bound)", bound);
    return 0;
}

static int run(int count, char **words, struct error *error) {
    char *paths[FILES_MAX];
    struct settings settings = { .paths = paths, .workers = workers_usual() };
    int r = 0;

    for (int i = 0; i < count && r >= 0; i++) {
        if (words[i][0] != '-') {
            if (settings.count == FILES_MAX)
                return error_set(error, ERROR_TOO_LARGE, "the list of files", "1000");
            paths[settings.count++] = words[i];
            continue;
        }
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        bool output = value && text_equal(words[i], "-o") &&
                      (text_equal(value, "json") || text_equal(value, "table"));
        if (value && text_equal(words[i], "--capacity") && settings.shape.dimensions == 0) {
            r = take_capacity(&settings.shape, value, error);
        } else if (value && text_equal(words[i], "--workers")) {
            r = option_number(words[i], value, 1, WORKERS_MAX, &settings.workers, error);
        } else if (output) {
            settings.json = text_equal(value, "json");
        } else {
            _cleanup_free_ char *text = text_format("there is no option '%s %s'", words[i],
                                                    value ? value : "");
            return error_set(error, ERROR_USAGE, text);
        }
        i++;
    }
    if (r < 0)
        return r;
    if (settings.count == 0 || settings.shape.dimensions == 0)
        return error_set(error, ERROR_USAGE, "--capacity N,... and a FILE are needed");
    return run_settings(&settings, error);
}

const struct mode packing_mode = {
    .name = "packing",
    .summary = "vector bin packing: how many equal nodes hold what never leaves",
    .help = "--capacity N,N[,...] FILE...\n\n"
            "Each file is one instance: rows of whole numbers, a column per dimension. Prints the sum over "
            "the files of\n"
            "the bins that each policy uses.\n\n"
            "  --capacity N,...     of a bin, per dimension (at most 8)\n"
            "  --workers N          threads (as many as processors), a file each; the result is the same for any number\n"
            "  -o table|json\n",
    .run = run,
};
