// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate packing`: how many equal nodes hold what never leaves. */
#include <errno.h>
#include <inttypes.h>

#include "base/json.h"
#include "base/text.h"
#include "simulator/mode.h"
#include "simulator/packing.h"

#define FILES_MAX 1000

struct settings {
    struct packing shape; /* capacity and dimensions */
    char **paths;
    size_t count;
    bool json;
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

static int pack_file(const struct settings *settings, const char *path, uint64_t *bins, uint64_t *bound,
                     struct error *error) {
    _cleanup_packing_ struct packing packing = settings->shape;
    int r = packing_read(&packing, path, error);

    if (r < 0)
        return r;
    *bound += packing_bound(&packing);
    for (size_t i = 0; i < packing_policies_count; i++) {
        int64_t count = packing_policies[i].pack(&packing);
        if (count < 0)
            return error_errno(error, (int) count, "packing %s", path);
        bins[i] += (uint64_t) count;
    }
    return 0;
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
    _cleanup_free_ uint64_t *bins = calloc(packing_policies_count, sizeof(*bins));
    uint64_t bound = 0;
    int r = bins ? 0 : error_errno(error, -ENOMEM, "packing");

    for (size_t i = 0; i < settings->count && r >= 0; i++)
        r = pack_file(settings, settings->paths[i], bins, &bound, error);
    if (r < 0)
        return r;
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
    struct settings settings = { .paths = paths };
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
            "  -o table|json\n",
    .run = run,
};
