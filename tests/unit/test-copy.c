// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/text.h"
#include "engine/trial.h"

/* What a copy of the engine tells is what the engine would have told when it was taken, on another thread and whatever becomes of the
 * engine meanwhile. With -Db_sanitize=thread the tests also show that nobody looks at what another changes. */

#define GIB (UINT64_C(1) << 30)
#define SECONDS UINT64_C(1000000)
#define NAMES 60
#define TOLD 80 /* more than there are */

static uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static struct engine *engine_make(uint64_t run) {
    struct engine_node node = { .cpus = 8000, .memory = 16 * GIB };
    struct engine_options options;
    struct engine *engine;
    size_t count = 0;

    while (policies[count].name)
        count++;
    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    engine_options_init(&options);
    options.policy = &policies[run % count];
    options.backfill = (enum backfill) (run / count % BACKFILL_COUNT);
    options.parameters.quantum = 5;
    options.parameters.alarm = 60;
    if (options.policy->by_arrival)
        options.backfill = BACKFILL_NONE;
    assert_int_equal(engine_new(&node, &options, &engine), 0);
    return engine;
}

/* Half of the time none; else one of these. */
static char *const *pick(const char *const texts[], uint64_t *seed) {
    static char *lists[16][3];
    static size_t next;
    size_t count = 0, number;
    char **list = lists[next++ % ELEMENTS(lists)];

    while (texts[count])
        count++;
    number = random_next(seed) % (2 * count);
    if (number >= count)
        return NULL;
    list[0] = (char *) texts[number];
    return list;
}

static const char *const terms[WISH_COUNT][4] = {
    [WISH_LABELS] = { "app=web", "app=db", "tier=1" },
    [WISH_NODE_LABELS] = { "disk=ssd", "disk!=ssd", "zone" },
    [WISH_FEATURES] = { "avx2" },
    [WISH_TOLERATIONS] = { "old" },
    [WISH_AFFINITY] = { "app=web", "tier=1:zone", "app=db:node" },
    [WISH_ANTI_AFFINITY] = { "app=db", "name=i7", "tier" },
    [WISH_SPREAD] = { "zone" },
};

static void submit_one(struct engine *engine, const char *id, bool plain, bool change, uint64_t *seed, uint64_t now) {
    struct engine_request request = {
        .id = id, .kind = KIND_VM, .cpus = 100 + random_next(seed) % 3000, .memory = (1 + random_next(seed) % 60) << 26,
        .priority = (int64_t) (random_next(seed) % 5), .owner = random_next(seed) % 3, .class = 1 + random_next(seed) % 4,
        .expected = random_next(seed) % 2 ? (1 + random_next(seed) % 100) * SECONDS : 0,
        .limit = random_next(seed) % 2 ? (1 + random_next(seed) % 200) * SECONDS : 0,
        .yields = (unsigned) (random_next(seed) % 4), .service = random_next(seed) % 8 == 0 };

    if (!plain && random_next(seed) % 4 == 0)
        request.guarantee = (struct engine_guarantee){ request.cpus, request.memory / 2, random_next(seed) % 2 };
    if (!plain)
        for (int i = 0; i < WISH_COUNT; i++)
            request.wishes.lists[i] = pick(terms[i], seed);
    if (change)
        (void) engine_change(engine, &request, now, NULL);
    else
        assert_int_equal(engine_submit(engine, &request, now), 0);
}

static void random_event(struct engine *engine, bool plain, uint64_t *seed, uint64_t now) {
    static char *traits[] = { "zone=a", "avx2", NULL }, *taints[] = { "old", NULL };
    uint64_t what = random_next(seed) % 16;
    struct engine_decision decision;
    char id[16];

    snprintf(id, sizeof(id), "i%u", (unsigned) (random_next(seed) % NAMES));
    if (what < 11)
        submit_one(engine, id, plain, what > 8, seed, now);
    else if (what == 11)
        assert_int_equal(engine_paused(engine, id, false, now), 0);
    else if (what == 12 && !plain)
        assert_int_equal(engine_set_place(engine, traits, random_next(seed) % 2 ? taints : NULL, now), 0);
    else
        engine_release(engine, id, what % 2, now);
    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision))
        ;
}

/* --- what is told ----------------------------------------------------------------------------------------------------- */

static void tell(struct buffer *out, const char *format, ...) _printf_(2, 3);
static void tell(struct buffer *out, const char *format, ...) {
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    assert_in_range(vsnprintf(text, sizeof(text), format, arguments), 0, sizeof(text) - 1);
    va_end(arguments);
    buffer_add_text(out, text);
}

static void tell_refusal(struct buffer *out, const struct engine_refusal *refusal) {
    tell(out, " [%d %s %s %zu %d %d %llu %llu]", (int) refusal->filter, refusal->term ? refusal->term : "", refusal->other ? refusal->other : "",
         refusal->others, refusal->against, refusal->ahead, (unsigned long long) refusal->wanted, (unsigned long long) refusal->free);
}

static void tell_forecast(struct buffer *out, const struct engine *engine, size_t limit, uint64_t now) {
    struct engine_forecast forecasts[TOLD];
    ssize_t count = engine_foresee(engine, now, forecasts, limit);

    assert_in_range(count, 0, TOLD);
    for (ssize_t i = 0; i < count; i++) {
        const struct engine_explanation *why = &forecasts[i].why;
        tell(out, "%s %s at %llu: %zu, %s %llu of %llu, %llu %llu", forecasts[i].id, forecasts[i].name,
             (unsigned long long) forecasts[i].start, why->position, why->resource ? why->resource : "-",
             (unsigned long long) why->wanted, (unsigned long long) why->free, (unsigned long long) why->since,
             (unsigned long long) why->expected);
        if (why->barred)
            tell_refusal(out, &why->refusal);
        tell(out, "\n");
    }
}

static void tell_supposed(struct buffer *out, const struct engine *engine, const struct engine_supposition *supposition,
                          uint64_t now) {
    _cleanup_free_ struct engine_prospect *prospects = NULL;
    ssize_t count = engine_suppose(engine, supposition, now, &prospects);

    tell(out, "supposed %zd\n", count);
    for (ssize_t i = 0; i < count; i++)
        tell(out, "%s %llu %llu %zu %zu\n", prospects[i].name ? prospects[i].name : "-",
             (unsigned long long) prospects[i].before, (unsigned long long) prospects[i].after,
             prospects[i].position_before, prospects[i].position_after);
}

static void tell_places(struct buffer *out, const struct engine *engine, const struct engine_supposition *supposition) {
    struct engine_verdict_of verdict;
    size_t position = 0;

    while (engine_suppose_place(engine, supposition->traits, supposition->taints, supposition->gone, &position, &verdict)) {
        tell(out, "%s %d", verdict.name, verdict.runs);
        tell_refusal(out, &verdict.now);
        tell_refusal(out, &verdict.then);
        tell(out, "\n");
    }
}

/* --- a question on another thread --------------------------------------------------------------------------------------- */

struct question {
    struct engine_copy *copy; /* freed by who answers */
    struct engine_supposition supposition;
    struct engine_request request;
    struct engine_options options;
    size_t first; /* told of so many; SIZE_MAX: all is asked */
    uint64_t now;
    struct buffer wanted, found;
};

static void question_tell(const struct question *question, const struct engine *engine, struct buffer *out) {
    tell_forecast(out, engine, question->first < TOLD ? question->first : TOLD, question->now);
    if (question->first < SIZE_MAX)
        return;
    tell_supposed(out, engine, &question->supposition, question->now);
    tell_places(out, engine, &question->supposition);
}

static void *question_answer(void *userdata) {
    struct question *question = userdata;

    question_tell(question, engine_copy_view(question->copy), &question->found);
    engine_copy_free(question->copy);
    return NULL;
}

static void question_make(struct engine *engine, bool all, uint64_t *seed, uint64_t now, struct question *ret) {
    *ret = (struct question){ .first = all ? SIZE_MAX : random_next(seed) % 20, .now = now };
    ret->request = (struct engine_request){ .id = "", .kind = KIND_VM, .cpus = 1000, .memory = GIB, .class = 1 };
    ret->options = *engine_options(engine);
    ret->options.policy = &policies[random_next(seed) % 3];
    ret->supposition = (struct engine_supposition){ .add = random_next(seed) % 4, .request = &ret->request,
                                                    .options = random_next(seed) % 2 ? &ret->options : NULL };
    if (random_next(seed) % 2) {
        static char *traits[] = { "zone=b", "disk=ssd", NULL };
        ret->supposition.otherwise = true;
        ret->supposition.traits = traits;
        ret->supposition.gone = random_next(seed) % 4 == 0;
    }
    engine_supposition_predict(&ret->supposition, engine);
    question_tell(ret, engine, &ret->wanted);
    assert_int_equal(engine_copy_new(engine, ret->first, &ret->copy), 0);
}

static void test_a_copy_tells_what_the_engine_told(void **state _unused_) {
    for (uint64_t run = 0; run < 60; run++) {
        struct engine *engine = engine_make(run);
        uint64_t seed = run + 1, now = 1000 * SECONDS;
        bool plain = run % 2;

        for (unsigned i = 0; i < 100; i++)
            random_event(engine, plain, &seed, now += random_next(&seed) % (3 * SECONDS));
        for (unsigned i = 0; i < 10; i++) {
            struct question question;
            pthread_t thread;
            question_make(engine, i % 2, &seed, now, &question);
            assert_int_equal(pthread_create(&thread, NULL, question_answer, &question), 0);
            for (unsigned j = 0; j < 20; j++)
                random_event(engine, plain, &seed, now += random_next(&seed) % (3 * SECONDS));
            if (i == 9)
                engine_free(engine); /* polderd ends */
            assert_int_equal(pthread_join(thread, NULL), 0);
            assert_int_equal(question.found.size, question.wanted.size);
            assert_memory_equal(question.found.data, question.wanted.data, question.wanted.size);
            buffer_done(&question.wanted);
            buffer_done(&question.found);
        }
    }
}

/* The memory was got for fewer: it says so, and nothing else happens. */
static void test_a_copy_that_is_too_small(void **state _unused_) {
    _cleanup_copy_ struct engine_copy *copy = NULL;
    struct engine *engine = engine_make(0);
    uint64_t seed = 5;
    size_t size = engine_copy_size(engine, SIZE_MAX);

    assert_int_equal(engine_copy_prepare(size, &copy), 0);
    for (unsigned i = 0; i < NAMES; i++)
        random_event(engine, false, &seed, i * SECONDS);
    assert_int_equal(engine_copy_take(copy, engine, SIZE_MAX), -ENOBUFS);
    engine_copy_free(STEAL_PTR(copy));
    assert_true(engine_copy_size(engine, 1) < engine_copy_size(engine, SIZE_MAX));
    assert_int_equal(engine_copy_prepare(engine_copy_size(engine, SIZE_MAX), &copy), 0);
    assert_int_equal(engine_copy_take(copy, engine, SIZE_MAX), 0);
    engine_free(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_tells_what_the_engine_told),
        cmocka_unit_test(test_a_copy_that_is_too_small),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
