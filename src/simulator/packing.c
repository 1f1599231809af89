// SPDX-License-Identifier: GPL-2.0-or-later
/* The heuristics of "Heuristics for Vector Bin Packing" (Panigrahy, Talwar, Uyeda and Wieder, 2011): first
 * and best fit decreasing look for a bin for each item, the dot product and the norm look for an item for the
 * open bin. Weights of dimensions are their sums over all items. Ours runs the bin-centred search with more
 * weights and norms, bins chosen by subsets, and keeps the best; it does a fixed number of constructions. */
#include "simulator/packing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "simulator/input.h"

#define CAPACITY_MAX 1000000
#define ITEMS_MAX 1000000

struct bins {
    const struct packing *packing;
    uint32_t *order;                        /* items: ascending, then as the policy sorts them */
    double *keys;                           /* by item */
    uint32_t (*left)[PACKING_DIMENSIONS];   /* of each bin */
    size_t count;
};

static void bins_done(struct bins *bins) {
    free(bins->order);
    free(bins->keys);
    free(bins->left);
}

static int compare_items(const void *a, const void *b, void *userdata) {
    const struct bins *bins = userdata;
    uint32_t first = *(const uint32_t *) a, second = *(const uint32_t *) b;

    for (unsigned i = 0; i < bins->packing->dimensions; i++) {
        uint32_t x = bins->packing->items[first][i], y = bins->packing->items[second][i];
        if (x != y)
            return x < y ? -1 : 1;
    }
    return first < second ? -1 : first > second;
}

static int compare_keys(const void *a, const void *b, void *userdata) {
    const struct bins *bins = userdata;
    uint32_t first = *(const uint32_t *) a, second = *(const uint32_t *) b;

    if (bins->keys[first] != bins->keys[second])
        return bins->keys[first] > bins->keys[second] ? -1 : 1;
    return compare_items(a, b, userdata);
}

static int bins_init(struct bins *bins, const struct packing *packing) {
    size_t count = packing->count ? packing->count : 1;

    *bins = (struct bins){ .packing = packing,
                           .order = calloc(count, sizeof(*bins->order)),
                           .keys = calloc(count, sizeof(*bins->keys)),
                           .left = calloc(count, sizeof(*bins->left)) };
    if (!bins->order || !bins->keys || !bins->left)
        return -ENOMEM;
    for (size_t i = 0; i < packing->count; i++)
        bins->order[i] = (uint32_t) i;
    qsort_r(bins->order, packing->count, sizeof(*bins->order), compare_items, bins);
    return 0;
}

static bool fits(const struct packing *packing, const uint32_t *left, const uint32_t *item) {
    for (unsigned i = 0; i < packing->dimensions; i++)
        if (item[i] > left[i])
            return false;
    return true;
}

static uint32_t *bins_open(struct bins *bins) {
    uint32_t *left = bins->left[bins->count++];

    memcpy(left, bins->packing->capacity, sizeof(bins->packing->capacity));
    return left;
}

static void put(const struct packing *packing, uint32_t *left, const uint32_t *item) {
    for (unsigned i = 0; i < packing->dimensions; i++)
        left[i] -= item[i];
}

/* ---- a bin for each item ---- */

static double key_product(const struct packing *packing, const uint32_t *item) {
    double key = 1;

    for (unsigned i = 0; i < packing->dimensions; i++)
        key *= item[i];
    return key;
}

static double key_sum(const struct packing *packing, const uint32_t *item) {
    double key = (double) item[0] / packing->capacity[0];

    for (unsigned i = 1; i < packing->dimensions; i++)
        key += (double) item[i] / packing->capacity[i];
    return key;
}

static double key_largest(const struct packing *packing, const uint32_t *item) {
    double key = 0;

    for (unsigned i = 0; i < packing->dimensions; i++) {
        double share = (double) item[i] / packing->capacity[i];
        key = share > key ? share : key;
    }
    return key;
}

static uint64_t left_sum(const struct packing *packing, const uint32_t *left) {
    uint64_t sum = 0;

    for (unsigned i = 0; i < packing->dimensions; i++)
        sum += left[i];
    return sum;
}

static int64_t pack_decreasing(const struct packing *packing, bool best,
                               double (*key)(const struct packing *packing, const uint32_t *item)) {
    _cleanup_(bins_done) struct bins bins = { 0 };
    int r = bins_init(&bins, packing);

    if (r < 0)
        return r;
    for (size_t i = 0; i < packing->count; i++)
        bins.keys[i] = key(packing, packing->items[i]);
    qsort_r(bins.order, packing->count, sizeof(*bins.order), compare_keys, &bins);
    for (size_t i = 0; i < packing->count; i++) {
        const uint32_t *item = packing->items[bins.order[i]];
        uint32_t *chosen = NULL;
        for (size_t bin = 0; bin < bins.count && (best || !chosen); bin++)
            if (fits(packing, bins.left[bin], item) &&
                (!chosen || left_sum(packing, bins.left[bin]) < left_sum(packing, chosen)))
                chosen = bins.left[bin];
        put(packing, chosen ? chosen : bins_open(&bins), item);
    }
    return (int64_t) bins.count;
}

static int64_t pack_ffd_product(const struct packing *packing) {
    return pack_decreasing(packing, false, key_product);
}

static int64_t pack_ffd_sum(const struct packing *packing) {
    return pack_decreasing(packing, false, key_sum);
}

static int64_t pack_ffd_largest(const struct packing *packing) {
    return pack_decreasing(packing, false, key_largest);
}

static int64_t pack_bfd_sum(const struct packing *packing) {
    return pack_decreasing(packing, true, key_sum);
}

/* ---- an item for the open bin ---- */

struct rule {
    double weights[PACKING_DIMENSIONS];
    bool norm;     /* the least of what is left, by the squares; else the largest dot product */
    double large;  /* how much more an item counts for its own size */
};

static double rule_value(const struct packing *packing, const struct rule *rule, const uint32_t *left,
                         const uint32_t *item) {
    double value = 0, size = 0;

    for (unsigned i = 0; i < packing->dimensions; i++) {
        double rest = (double) left[i] - item[i];
        value += rule->norm ? -rule->weights[i] * rest * rest : rule->weights[i] * item[i] * left[i];
        size += rule->weights[i] * item[i] * item[i];
    }
    return value + rule->large * size;
}

/* The sums are integers below 2^53, so that no order of additions matters while weights are whole. */
static void weigh(const struct packing *packing, double *weights) {
    memset(weights, 0, PACKING_DIMENSIONS * sizeof(*weights));
    for (size_t i = 0; i < packing->count; i++)
        for (unsigned j = 0; j < packing->dimensions; j++)
            weights[j] += packing->items[i][j];
}

static int64_t pack_bins(const struct packing *packing, const struct rule *rule) {
    _cleanup_(bins_done) struct bins bins = { 0 };
    size_t left = packing->count;
    int r = bins_init(&bins, packing);

    if (r < 0)
        return r;
    while (left > 0) {
        uint32_t *bin = bins_open(&bins);
        for (;;) {
            size_t best = SIZE_MAX;
            double highest = 0;
            for (size_t i = 0; i < left; i++) {
                const uint32_t *item = packing->items[bins.order[i]];
                if (!fits(packing, bin, item))
                    continue;
                double value = rule_value(packing, rule, bin, item);
                if (best == SIZE_MAX || value > highest) {
                    highest = value;
                    best = i;
                }
            }
            if (best == SIZE_MAX)
                break;
            put(packing, bin, packing->items[bins.order[best]]);
            left--;
            memmove(&bins.order[best], &bins.order[best + 1], (left - best) * sizeof(*bins.order));
        }
    }
    return (int64_t) bins.count;
}

static int64_t pack_dot(const struct packing *packing) {
    struct rule rule = { 0 };

    weigh(packing, rule.weights);
    return pack_bins(packing, &rule);
}

static int64_t pack_norm(const struct packing *packing) {
    struct rule rule = { .norm = true };

    weigh(packing, rule.weights);
    return pack_bins(packing, &rule);
}

/* ---- ours ---- */

static int64_t lesser(int64_t a, int64_t b) {
    return a < 0 || (b >= 0 && a < b) ? a : b;
}

/* Both rules with weights turned towards each dimension and with large items sooner or later; the classical
 * ones too, some of which are best where items are large. Stops at the bound. */
static int64_t pack_polder(const struct packing *packing) {
    static const double turns[] = { 1, 0.5, 0.7, 1.4, 2 }, larges[] = { 0, 0.1, 0.3, 0.6, 1, 2 };
    int64_t best = pack_ffd_largest(packing), bound = (int64_t) packing_bound(packing);

    for (size_t i = 0; i < packing_policies_count && best > bound; i++)
        if (packing_policies[i].pack != pack_polder)
            best = lesser(best, packing_policies[i].pack(packing));
    for (size_t turn = 0; turn < ELEMENTS(turns); turn++)
        for (size_t large = 0; large < ELEMENTS(larges); large++)
            for (int norm = 0; norm < 2 && best > bound; norm++) {
                struct rule rule = { .norm = norm, .large = larges[large] };
                weigh(packing, rule.weights);
                rule.weights[0] *= turns[turn];
                best = lesser(best, pack_bins(packing, &rule));
            }
    return best;
}

const struct packing_policy packing_policies[] = {
    { "ffd-prod", "first fit, by the product of sizes, decreasing", pack_ffd_product },
    { "ffd-sum", "first fit, by the sum of shares, decreasing", pack_ffd_sum },
    { "ffd-max", "first fit, by the largest share, decreasing", pack_ffd_largest },
    { "bfd-sum", "best fit, by the sum of shares, decreasing", pack_bfd_sum },
    { "dot", "the item with the largest weighted dot product", pack_dot },
    { "l2", "the item that leaves the least weighted norm", pack_norm },
    { "polder", "the best of these and of 60 rules between them", pack_polder },
};
const size_t packing_policies_count = ELEMENTS(packing_policies);

uint64_t packing_bound(const struct packing *packing) {
    uint64_t bound = 0;

    for (unsigned i = 0; i < packing->dimensions; i++) {
        uint64_t sum = 0;
        for (size_t j = 0; j < packing->count; j++)
            sum += packing->items[j][i];
        sum = (sum + packing->capacity[i] - 1) / packing->capacity[i];
        bound = sum > bound ? sum : bound;
    }
    return bound;
}

/* ---- reading ---- */

void packing_done(struct packing *packing) {
    free(packing->items);
    *packing = (struct packing){ 0 };
}

static int read_item(struct packing *packing, struct input *input, char *line, struct error *error) {
    char *fields[PACKING_DIMENSIONS];
    size_t found = input_split(line, ',', fields, PACKING_DIMENSIONS);

    if (found != packing->dimensions)
        return input_refuse(input, error, "row", "it has %zu fields, the capacity has %u", found,
                            packing->dimensions);
    if (packing->count == ITEMS_MAX)
        return input_refuse(input, error, "row", "there are more than %d items", ITEMS_MAX);
    if (packing->count == packing->room) {
        size_t room = packing->room ? packing->room * 2 : 256;
        void *items = reallocarray(packing->items, room, sizeof(*packing->items));
        if (!items)
            return error_errno(error, -ENOMEM, "reading items");
        packing->items = items;
        packing->room = room;
    }
    for (unsigned i = 0; i < packing->dimensions; i++) {
        int64_t value;
        int r = input_integer(input, "size", fields[i], 0, packing->capacity[i], &value, error);
        if (r < 0)
            return r;
        packing->items[packing->count][i] = (uint32_t) value;
    }
    packing->count++;
    return 0;
}

int packing_read(struct packing *packing, const char *path, struct error *error) {
    _cleanup_input_ struct input *input = NULL;
    char *line;
    int r = input_open(path, &input, error);

    if (r < 0)
        return r;
    while ((r = input_line(input, &line, error)) > 0) {
        if (*line == '\0')
            continue;
        r = read_item(packing, input, line, error);
        if (r < 0)
            return r;
    }
    if (r == 0 && packing->count == 0)
        return input_refuse(input, error, "file", "it has no items");
    return r;
}
