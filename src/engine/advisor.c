// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/advisor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* Each criterion gives each kind 0 to 1000; the total is their mean by the weights of the need, rounded once.
 * What cannot be is excluded before, with its reason. */

#define MIB (UINT64_C(1) << 20)
#define WHOLE 1000
#define DEFAULT_CPUS 1000

static const char *const names[] = { "performance", "resources", "security", "compatibility", "cost" };
_Static_assert(ELEMENTS(names) == CRITERION_COUNT, "a name for each criterion");

static const enum kind looked_at[] = { KIND_CONTAINER, KIND_MICROVM, KIND_VM };

const char *criterion_name(enum criterion criterion) {
    return (unsigned) criterion < CRITERION_COUNT ? names[criterion] : "unknown";
}

void need_init(struct need *need) {
    *need = (struct need){ .oci = true, .weights = { 3, 3, 1, 2, 1 } };
}

void need_done(struct need *need) {
    for (int kind = 0; kind < KIND_COUNT; kind++)
        free(need->refused[kind]);
    *need = (struct need){ 0 };
}

int need_of_spec(struct need *need, const struct instance_spec *spec, bool gives_cpus, bool gives_memory) {
    need->cpus = gives_cpus ? spec->cpus : 0;
    need->memory = gives_memory ? spec->memory : 0;
    need->graphics = spec->graphics;
    for (size_t i = 0; i < ELEMENTS(looked_at); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        struct instance_spec supposed = *spec; /* borrows */

        if (!gives_memory)
            instance_spec_complete(&supposed, looked_at[i], NULL, DECODE_REPLACE);
        if (instance_spec_check_kind(&supposed, looked_at[i], &error) == 0)
            continue;
        need->refused[looked_at[i]] = error_sentence(&error, LANGUAGE_ENGLISH);
        if (!need->refused[looked_at[i]])
            return -ENOMEM;
    }
    return 0;
}

static int parse_weight(char *text, struct need *need, struct error *error) {
    char *equals = strchr(text, '=');
    uint64_t value;

    if (!equals)
        return error_set(error, ERROR_BAD_VALUE, "weights", text, "write CRITERION=0..10");
    *equals = '\0';
    for (int i = 0; i < CRITERION_COUNT; i++) {
        if (!text_equal(text, names[i]))
            continue;
        if (text_parse_u64(equals + 1, &value) < 0 || value > ADVISOR_WEIGHT_MOST)
            return error_set(error, ERROR_BAD_VALUE, text, equals + 1,
                             "a weight is a whole number from 0 to 10");
        need->weights[i] = (unsigned) value;
        return 0;
    }
    return error_set(error, ERROR_BAD_VALUE, "weights", text,
                     "the criteria are performance, resources, security, compatibility and cost");
}

int need_parse_weights(const char *text, struct need *need, struct error *error) {
    char **parts = NULL;
    int r = list_split(text, ",", &parts);

    for (char **part = parts; r >= 0 && part && *part; part++)
        r = parse_weight(*part, need, error);
    list_free(parts);
    return r < 0 ? error_errno(error, r, "reading weights") : 0;
}

/* From docs/benchmarks.md and QEMU's own figures: what to believe until this host has been measured. */
void kind_facts_init(struct kind_facts *facts, enum kind kind, bool accelerated) {
    static const struct kind_facts emulated[KIND_COUNT] = {
        [KIND_CONTAINER] = { .start_ms = 30, .overhead = 3 * MIB, .speed = 1000, .exchange = 1000 },
        [KIND_MICROVM] = { .start_ms = 2000, .overhead = 80 * MIB, .speed = 80, .exchange = 150 },
        [KIND_VM] = { .start_ms = 30000, .overhead = 150 * MIB, .speed = 80, .exchange = 120 },
    };
    static const struct kind_facts virtual[KIND_COUNT] = {
        [KIND_CONTAINER] = { .start_ms = 30, .overhead = 3 * MIB, .speed = 1000, .exchange = 1000 },
        [KIND_MICROVM] = { .start_ms = 300, .overhead = 50 * MIB, .speed = 970, .exchange = 850 },
        [KIND_VM] = { .start_ms = 8000, .overhead = 110 * MIB, .speed = 960, .exchange = 800 },
    };
    const char *lacking = facts->lacking;

    *facts = accelerated ? virtual[kind] : emulated[kind];
    facts->lacking = lacking;
    facts->accelerated = accelerated || kind == KIND_CONTAINER;
    facts->default_memory = (kind == KIND_VM ? 1024 : 256) * MIB;
    facts->overcommit_cpu = facts->overcommit_memory = 100;
}

static const char *exclusion(const struct need *need, const struct kind_facts *facts, enum kind kind) {
    bool bare = kind == KIND_CONTAINER || kind == KIND_MICROVM;

    if (bare && !need->oci)
        return "the image is a disk with its own boot loader, which only a full machine starts unmodified";
    if (kind == KIND_VM && !need->disk)
        return "the image is an OCI image without a boot loader";
    if (kind == KIND_CONTAINER && need->own_kernel)
        return "it shares the host's kernel, and a kernel of its own is asked for";
    if (kind != KIND_VM && need->graphics)
        return "it has no screen";
    return need->refused[kind] ? need->refused[kind] : facts->lacking;
}

static uint64_t cpus_of(const struct need *need) {
    return need->cpus ? need->cpus : DEFAULT_CPUS;
}

/* How many of a kind an empty node holds: V = P x C for each resource. */
static uint64_t node_holds(const struct need *need, const struct advisor_host *host,
                           const struct kind_facts *facts, uint64_t memory) {
    unsigned __int128 cpus = (unsigned __int128) host->cpus * facts->overcommit_cpu / 100;
    unsigned __int128 bytes = (unsigned __int128) host->memory * facts->overcommit_memory / 100;
    uint64_t by_cpus = (uint64_t) (cpus / cpus_of(need));
    uint64_t by_memory = (uint64_t) (bytes / (memory + facts->overhead));

    return by_cpus < by_memory ? by_cpus : by_memory;
}

/* Six parts processors, three parts start, one part exchange. A start of a second is worth half of none. */
static unsigned score_performance(const struct kind_facts *facts) {
    uint64_t start = WHOLE * UINT64_C(1000) / (1000 + facts->start_ms);

    return (unsigned) ((6 * (uint64_t) facts->speed + 3 * start + facts->exchange + 5) / 10);
}

/* A kernel of its own and a small device model isolate best. QEMU's project counts only accelerated machines
 * as a border for security: emulated ones are rated lower. */
static unsigned score_security(enum kind kind, const struct kind_facts *facts) {
    if (kind == KIND_CONTAINER)
        return 500;
    if (kind == KIND_MICROVM)
        return facts->accelerated ? 950 : 750;
    return facts->accelerated ? 850 : 650;
}

static unsigned score_compatibility(enum kind kind) {
    return kind == KIND_VM ? 1000 : kind == KIND_CONTAINER ? 850 : 800;
}

static void score(const struct need *need, const struct advisor_host *host, enum kind kind, uint64_t most,
                  struct kind_advice *ret) {
    const struct kind_facts *facts = &host->kinds[kind];

    ret->scores[CRITERION_PERFORMANCE] = score_performance(facts);
    ret->scores[CRITERION_RESOURCES] = (unsigned) ((unsigned __int128) ret->memory * WHOLE /
                                                   (ret->memory + facts->overhead));
    ret->scores[CRITERION_SECURITY] = score_security(kind, facts);
    ret->scores[CRITERION_COMPATIBILITY] = score_compatibility(kind);
    ret->scores[CRITERION_COST] = most ? (unsigned) ((unsigned __int128) ret->holds * WHOLE / most) : 0;
}

static unsigned total_of(const struct kind_advice *advice, const unsigned weights[CRITERION_COUNT]) {
    unsigned sum = 0, total = 0;

    for (int i = 0; i < CRITERION_COUNT; i++) {
        sum += weights[i];
        total += weights[i] * advice->scores[i];
    }
    return sum ? (total + sum / 2) / sum : 0;
}

/* The best under these weights; KIND_AUTO if none can be. Ties go to the lighter kind. */
static enum kind best(const struct advice *advice, const unsigned weights[CRITERION_COUNT],
                      enum kind without) {
    enum kind found = KIND_AUTO;
    unsigned highest = 0;

    for (size_t i = 0; i < ELEMENTS(looked_at); i++) {
        const struct kind_advice *candidate = &advice->kinds[looked_at[i]];
        unsigned total = total_of(candidate, weights);
        if (candidate->excluded || looked_at[i] == without || (found != KIND_AUTO && total <= highest))
            continue;
        found = looked_at[i];
        highest = total;
    }
    return found;
}

static void find_flips(struct advice *advice) {
    for (int i = 0; i < CRITERION_COUNT; i++) {
        unsigned weights[CRITERION_COUNT], sum = 0;

        memcpy(weights, advice->weights, sizeof(weights));
        advice->flips[i].kind = KIND_AUTO;
        for (int j = 0; j < CRITERION_COUNT; j++)
            sum += j == i ? 0 : weights[j];
        for (unsigned step = 1; step <= ADVISOR_WEIGHT_MOST && advice->flips[i].kind == KIND_AUTO; step++) {
            for (int up = 1; up >= 0 && advice->flips[i].kind == KIND_AUTO; up--) {
                unsigned now = advice->weights[i], other = up ? now + step : now - step;
                if ((up ? other > ADVISOR_WEIGHT_MOST : step > now) || sum + other == 0)
                    continue;
                weights[i] = other;
                enum kind kind = best(advice, weights, KIND_AUTO);
                if (kind != advice->kind) {
                    advice->flips[i].kind = kind;
                    advice->flips[i].weight = other;
                }
            }
        }
    }
}

static int check_weights(const struct need *need, struct advice *ret, struct error *error) {
    unsigned sum = 0;

    for (int i = 0; i < CRITERION_COUNT; i++) {
        if (need->weights[i] > ADVISOR_WEIGHT_MOST) {
            _cleanup_free_ char *given = text_format("%u", need->weights[i]);
            return error_set(error, ERROR_OUT_OF_RANGE, names[i], "0", "10", given);
        }
        ret->weights[i] = need->weights[i];
        sum += need->weights[i];
    }
    if (sum == 0)
        return error_set(error, ERROR_BAD_VALUE, "weights", "0", "at least one criterion has to count");
    if (need->untrusted && ret->weights[CRITERION_SECURITY] < 8)
        ret->weights[CRITERION_SECURITY] = 8;
    return 0;
}

/* The reason of the kind that comes nearest to what the image is; where what is wished for stands against that, of them all. */
static int refuse(const struct need *need, const struct advice *advice, struct error *error) {
    enum kind kind = need->disk ? KIND_VM : need->own_kernel ? KIND_MICROVM : KIND_CONTAINER;
    _cleanup_list_ char **reasons = NULL;
    _cleanup_free_ char *text = NULL;
    int r = 0;

    if (!need->refused[kind] && (kind == KIND_VM || !need->graphics))
        return error_set(error, ERROR_NOT_SUPPORTED, "this host", kind_name(kind), advice->kinds[kind].excluded);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(looked_at); i++)
        r = list_addf(&reasons, "no %s, since %s", kind_name(looked_at[i]), advice->kinds[looked_at[i]].excluded);
    text = r >= 0 ? list_join(reasons, "; ") : NULL;
    return text ? error_set(error, ERROR_NOT_SUPPORTED, "this host", "what is asked for as any kind", text)
                : error_errno(error, -ENOMEM, "choosing a kind");
}

static void advise_size(const struct need *need, const struct kind_facts *facts, struct size_advice *ret) {
    bool learnt = !need->memory && facts->learnt.memory > 0;

    *ret = (struct size_advice){ .cpus = cpus_of(need), .why_cpus = need->cpus ? SIZE_ASKED : SIZE_DEFAULT,
                                 .memory = need->memory ? need->memory : facts->default_memory,
                                 .why_memory = need->memory ? SIZE_ASKED : SIZE_DEFAULT };
    if (!learnt)
        return;
    ret->memory = facts->learnt.advised;
    ret->used = facts->learnt.memory;
    ret->instances = facts->learnt.instances;
    ret->why_memory = SIZE_LEARNT;
}

int advise(const struct need *need, const struct advisor_host *host, struct advice *ret,
           struct error *error) {
    uint64_t most = 0;
    int r;

    *ret = (struct advice){ 0 };
    r = check_weights(need, ret, error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ELEMENTS(looked_at); i++) {
        struct kind_advice *advice = &ret->kinds[looked_at[i]];
        const struct kind_facts *facts = &host->kinds[looked_at[i]];

        advice->excluded = exclusion(need, facts, looked_at[i]);
        advice->memory = need->memory ? need->memory : facts->default_memory;
        advise_size(need, facts, &advice->size);
        advice->holds = node_holds(need, host, facts, advice->memory);
        if (!advice->excluded && advice->holds > most)
            most = advice->holds;
    }
    for (size_t i = 0; i < ELEMENTS(looked_at); i++) {
        struct kind_advice *advice = &ret->kinds[looked_at[i]];
        if (advice->excluded)
            continue;
        score(need, host, looked_at[i], most, advice);
        advice->total = total_of(advice, ret->weights);
    }
    ret->kind = best(ret, ret->weights, KIND_AUTO);
    if (ret->kind == KIND_AUTO)
        return refuse(need, ret, error);
    ret->second = best(ret, ret->weights, ret->kind);
    find_flips(ret);
    return 0;
}

/* The criterion that speaks most for the winner against the second. */
static enum criterion strongest(const struct advice *advice) {
    enum criterion found = CRITERION_PERFORMANCE;
    int highest = -1000000;

    for (int i = 0; i < CRITERION_COUNT; i++) {
        int lead = (int) advice->weights[i] * ((int) advice->kinds[advice->kind].scores[i] -
                                               (int) advice->kinds[advice->second].scores[i]);
        if (lead > highest) {
            highest = lead;
            found = (enum criterion) i;
        }
    }
    return found;
}

/* The change of one weight that is smallest; CRITERION_COUNT if none changes the answer. */
static int easiest_flip(const struct advice *advice) {
    int found = CRITERION_COUNT;
    unsigned least = UINT32_MAX;

    for (int i = 0; i < CRITERION_COUNT; i++) {
        unsigned weight = advice->flips[i].weight, now = advice->weights[i];
        unsigned step = weight > now ? weight - now : now - weight;
        if (advice->flips[i].kind != KIND_AUTO && step < least) {
            least = step;
            found = i;
        }
    }
    return found;
}

char *advice_sentence(const struct advice *advice) {
    const char *kind = kind_name(advice->kind), *second = kind_name(advice->second);
    unsigned total = advice->kinds[advice->kind].total;
    int flip = easiest_flip(advice);

    if (advice->second == KIND_AUTO) {
        _cleanup_list_ char **reasons = NULL;
        for (size_t i = ELEMENTS(looked_at); i-- > 0;)
            if (advice->kinds[looked_at[i]].excluded &&
                list_addf(&reasons, "not %s, since %s", kind_name(looked_at[i]), advice->kinds[looked_at[i]].excluded) < 0)
                return NULL;
        _cleanup_free_ char *joined = reasons ? list_join(reasons, "; ") : NULL;
        return joined ? text_format("only %s can be: %s", kind, joined) : NULL;
    }
    if (flip == CRITERION_COUNT)
        return text_format("%s scores %u of 1000, %s %u; %s decides, and no single weight would change it",
                           kind, total, second, advice->kinds[advice->second].total,
                           names[strongest(advice)]);
    return text_format(
        "%s scores %u of 1000, %s %u; %s decides; with a weight of %u rather than %u for %s it would be %s",
        kind, total, second, advice->kinds[advice->second].total, names[strongest(advice)],
        advice->flips[flip].weight, advice->weights[flip], names[flip], kind_name(advice->flips[flip].kind));
}

static const char *const size_reasons[] = { "asked for", "the default", "learnt" };

static char *memory_reason(const struct kind_advice *advice) {
    const struct size_advice *size = &advice->size;
    _cleanup_free_ char *used = text_format_size(size->used), *gets = text_format_size(advice->memory);

    if (size->why_memory != SIZE_LEARNT)
        return strdup(size_reasons[size->why_memory]);
    return used && gets ? text_format("%u of this image used at most %s; unasked it gets %s", size->instances, used, gets) : NULL;
}

char *size_sentence(const struct kind_advice *advice) {
    const struct size_advice *size = &advice->size;
    _cleanup_free_ char *cpus = text_format_cpus(size->cpus), *memory = text_format_size(size->memory);
    _cleanup_free_ char *reason = memory_reason(advice);

    if (!cpus || !memory || !reason)
        return NULL;
    return text_format("%s CPU%s (%s), %s (%s)", cpus, size->cpus == DEFAULT_CPUS ? "" : "s", size_reasons[size->why_cpus], memory,
                       reason);
}

static void emit_size(const struct kind_advice *advice, struct emitter *emitter) {
    _cleanup_free_ char *sentence = size_sentence(advice);

    emit_key(emitter, "size");
    emit_object(emitter);
    emit_key_unsigned(emitter, "cpus_milli", advice->size.cpus);
    emit_key_text(emitter, "cpus_why", size_reasons[advice->size.why_cpus]);
    emit_key_unsigned(emitter, "memory", advice->size.memory);
    emit_key_text(emitter, "memory_why", size_reasons[advice->size.why_memory]);
    if (advice->size.why_memory == SIZE_LEARNT) {
        emit_key_unsigned(emitter, "used", advice->size.used);
        emit_key_unsigned(emitter, "instances", advice->size.instances);
    }
    emit_key_text(emitter, "message", sentence);
    emit_object_end(emitter);
}

static void emit_kind(const struct advice *advice, enum kind kind, struct emitter *emitter) {
    const struct kind_advice *candidate = &advice->kinds[kind];

    emit_object(emitter);
    emit_key_text(emitter, "kind", kind_name(kind));
    if (candidate->excluded) {
        emit_key_text(emitter, "excluded", candidate->excluded);
    } else {
        emit_key_unsigned(emitter, "total", candidate->total);
        emit_key_unsigned(emitter, "memory", candidate->memory);
        emit_key_unsigned(emitter, "node_holds", candidate->holds);
        emit_size(candidate, emitter);
        emit_key(emitter, "scores");
        emit_object(emitter);
        for (int i = 0; i < CRITERION_COUNT; i++)
            emit_key_unsigned(emitter, names[i], candidate->scores[i]);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

void advice_emit(const struct advice *advice, struct emitter *emitter) {
    _cleanup_free_ char *why = advice_sentence(advice);

    emit_key_text(emitter, "kind", kind_name(advice->kind));
    emit_key_text(emitter, "why", why);
    emit_key(emitter, "weights");
    emit_object(emitter);
    for (int i = 0; i < CRITERION_COUNT; i++)
        emit_key_unsigned(emitter, names[i], advice->weights[i]);
    emit_object_end(emitter);
    emit_key(emitter, "kinds");
    emit_array(emitter);
    for (size_t i = 0; i < ELEMENTS(looked_at); i++)
        emit_kind(advice, looked_at[i], emitter);
    emit_array_end(emitter);
    emit_key(emitter, "changes");
    emit_array(emitter);
    for (int i = 0; i < CRITERION_COUNT; i++) {
        if (advice->flips[i].kind == KIND_AUTO)
            continue;
        emit_object(emitter);
        emit_key_text(emitter, "criterion", names[i]);
        emit_key_unsigned(emitter, "weight", advice->flips[i].weight);
        emit_key_text(emitter, "kind", kind_name(advice->flips[i].kind));
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}
