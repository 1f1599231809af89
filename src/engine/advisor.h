// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "model/instance.h"

/* Chooses the kind of virtualization for a need, and says why: a score for each kind and criterion, what
 * rules a kind out, and what would change the answer. Pure, integers only. */

enum criterion {
    CRITERION_PERFORMANCE,   /* speed of its processors, start time, input and output */
    CRITERION_RESOURCES,     /* memory that it costs beside what it asks for */
    CRITERION_SECURITY,      /* what stands between it and the host */
    CRITERION_COMPATIBILITY, /* how much of what might run there runs there */
    CRITERION_COST,          /* how many of it the node holds */
    CRITERION_COUNT,
};
const char *criterion_name(enum criterion criterion);

#define ADVISOR_WEIGHT_MOST 10

/* What is needed. Zeroed or need_init'ed before, need_done'd after use. */
struct need {
    uint64_t cpus;   /* thousandths; 0: the default, one */
    uint64_t memory; /* bytes; 0: each kind's default */
    bool oci, disk;  /* what the image can be started as; both where a name stands for both */
    bool untrusted;  /* code of strangers: security counts at least eight */
    bool own_kernel; /* loads modules, changes the kernel, runs another system */
    bool graphics;   /* wants a screen */
    char *refused[KIND_COUNT]; /* why the spec cannot be of this kind, or NULL */
    unsigned weights[CRITERION_COUNT]; /* 0 to ADVISOR_WEIGHT_MOST; not all 0 */
};
/* Weights 3, 3, 1, 2, 1 in the order above; one CPU; an OCI image. */
void need_init(struct need *need);
void need_done(struct need *need);
#define _cleanup_need_ _cleanup_(need_done)
/* What a spec asks for: its size (each kind's default where it was not given), and which kinds can take its options, in the
 * words of who would refuse them otherwise. `need` is need_init'ed; the image is left to the caller. -ENOMEM. */
int need_of_spec(struct need *need, const struct instance_spec *spec, bool gives_cpus, bool gives_memory);
/* "security=8,cost=0": sets weights. BAD_VALUE names the criterion or the number. */
int need_parse_weights(const char *text, struct need *need, struct error *error);

/* What the host can do for a kind; measured where it was measured. */
struct kind_facts {
    const char *lacking;   /* why it cannot run here now, or NULL */
    bool accelerated;      /* by the processor; containers always are */
    uint64_t start_ms;     /* until the first process of its own runs */
    uint64_t overhead;     /* bytes of memory beside what it asks for */
    unsigned speed;        /* of its processors, thousandths of the host's */
    unsigned exchange;     /* input and output, thousandths of the host's */
    uint64_t default_memory; /* bytes */
    uint64_t overcommit_cpu, overcommit_memory; /* percent */
    bool measured;         /* start_ms is of this host, not of the table */
    struct {
        uint64_t memory;   /* bytes that those who run of the same image used at most; 0: not known */
        uint64_t advised;  /* the same with headroom */
        unsigned instances;
    } learnt;
};
struct advisor_host {
    uint64_t cpus, memory; /* physical: thousandths, bytes */
    struct kind_facts kinds[KIND_COUNT]; /* container, microvm, vm are looked at */
};
/* Fills in what experience says about a kind, accelerated or not. */
void kind_facts_init(struct kind_facts *facts, enum kind kind, bool accelerated);

enum size_reason {
    SIZE_ASKED,   /* the need says so */
    SIZE_DEFAULT, /* what the kind gets without a word */
    SIZE_LEARNT,  /* instances of the same image were seen to use less or more than the default */
};

/* What it had better ask for. */
struct size_advice {
    uint64_t cpus, memory; /* thousandths, bytes */
    enum size_reason why_cpus, why_memory;
    uint64_t used;         /* SIZE_LEARNT: bytes at most, without headroom */
    unsigned instances;    /* SIZE_LEARNT: how many were seen */
};

struct kind_advice {
    const char *excluded; /* why it cannot be, or NULL; borrowed of the need or the host, or constant */
    uint64_t memory;      /* bytes it would get if nothing more is said: what the scores are of */
    struct size_advice size;
    uint64_t holds;       /* how many of it the empty node holds */
    unsigned scores[CRITERION_COUNT]; /* 0 to 1000 */
    unsigned total;       /* weighted mean, 0 to 1000 */
};

struct advice {
    enum kind kind;     /* KIND_AUTO: none can be */
    enum kind second;   /* next best, or KIND_AUTO */
    struct kind_advice kinds[KIND_COUNT];
    unsigned weights[CRITERION_COUNT]; /* as they were used */
    /* What would change the answer: at the weight `flips[c].weight` of criterion c alone, `flips[c].kind`
     * wins; KIND_AUTO where no weight would. The one nearest to the weight in use is given. */
    struct {
        enum kind kind;
        unsigned weight;
    } flips[CRITERION_COUNT];
};

/* HOST_LACKS or NOT_SUPPORTED, with the reason, when no kind can be: *ret is filled even so. BAD_VALUE for
 * weights that are all 0, OUT_OF_RANGE for one above the most. */
int advise(const struct need *need, const struct advisor_host *host, struct advice *ret, struct error *error);

/* One sentence: "container scores 872 of 1000 against 853 for microvm: …". Allocated, NULL without memory. */
char *advice_sentence(const struct advice *advice);
/* "1 CPU (the default), 8GiB (asked for)". Allocated, NULL without memory. */
char *size_sentence(const struct kind_advice *advice);
/* Members (no braces): kind, why, kinds, weights, changes. */
void advice_emit(const struct advice *advice, struct emitter *emitter);
