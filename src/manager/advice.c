// SPDX-License-Identifier: GPL-2.0-or-later
/* What the advisor is told of this host, and its answers: for `auto` and for those who ask. */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

#define MEMORY_STEP (UINT64_C(4) << 20) /* of advised sizes; the least that may be asked for */

/* Microseconds that the driver took to start one of this kind, averaged over the last dozen or so. */
void advice_note_start(struct manager *manager, enum kind kind, uint64_t duration) {
    uint64_t *mean = &manager->start_mean[kind];

    *mean = *mean ? (*mean * 7 + duration) / 8 : duration;
}

static void host_of(struct manager *manager, struct advisor_host *ret, struct error lacking[KIND_COUNT],
                    char *sentences[KIND_COUNT]) {
    uint64_t reserve = manager->configuration.memory_reserve;

    *ret = (struct advisor_host){ .cpus = manager->facts.cpus * 1000, .memory = manager->facts.memory };
    ret->memory -= ret->memory > reserve ? reserve : ret->memory;
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++) {
        struct kind_facts *facts = &ret->kinds[kind];

        if (manager_driver_available(manager, kind, &lacking[kind]) < 0) {
            sentences[kind] = error_sentence(&lacking[kind], LANGUAGE_ENGLISH);
            facts->lacking = sentences[kind] ? sentences[kind] : "it cannot run here";
        }
        kind_facts_init(facts, (enum kind) kind, manager->facts.kvm_usable);
        facts->overcommit_cpu = manager->configuration.overcommit_cpu[kind];
        facts->overcommit_memory = manager->configuration.overcommit_memory[kind];
        /* A vm's driver is done when QEMU runs, long before the guest is: the table knows better. */
        if (manager->start_mean[kind] && kind != KIND_VM) {
            facts->start_ms = manager->start_mean[kind] / CLOCK_MILLISECOND;
            facts->measured = true;
        }
    }
}

/* What containers of this image use at most, as the optimiser would have it. A machine's memory is what its guest ever touched,
 * which says less: it is left out. */
static void learn_use(struct manager *manager, const struct image *image, struct kind_facts *facts) {
    struct optimizer_parameters parameters;
    size_t position = 0;
    void *value;

    optimizer_parameters_init(&parameters);
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        const struct instance *instance = value;
        const struct optimizer_use *use = &instance->use.use;
        uint64_t peak = use->memory_peak[0] > use->memory_peak[1] ? use->memory_peak[0] : use->memory_peak[1];

        if (instance->assigned.kind != KIND_CONTAINER || instance->status.state != STATE_RUNNING || !peak ||
            !text_equal(instance->assigned.image_digest, image->digest) ||
            use->last - use->since < parameters.observe * CLOCK_SECOND)
            continue;
        facts->learnt.instances++;
        if (peak > facts->learnt.memory)
            facts->learnt.memory = peak;
    }
    facts->learnt.advised = (uint64_t) ((double) facts->learnt.memory * (1 + parameters.headroom));
    facts->learnt.advised = (facts->learnt.advised / MEMORY_STEP + 1) * MEMORY_STEP;
}

/* image: NULL if the size that was learnt does not matter */
static int advise_here(struct manager *manager, const struct image *image, const struct need *need, struct advice *ret,
                       char *sentences[KIND_COUNT], struct error *error) {
    struct error lacking[KIND_COUNT] = { 0 };
    struct advisor_host host;
    int r;

    host_of(manager, &host, lacking, sentences);
    if (image)
        learn_use(manager, image, &host.kinds[KIND_CONTAINER]);
    r = advise(need, &host, ret, error);
    for (int kind = 0; kind < KIND_COUNT; kind++)
        error_clear(&lacking[kind]);
    return r;
}

static void sentences_done(char *sentences[KIND_COUNT]) {
    for (int kind = 0; kind < KIND_COUNT; kind++)
        free(sentences[kind]);
}

static void need_of_image(struct manager *manager, const char *name, const struct image *image, struct need *need) {
    _cleanup_free_ char *disk = name ? text_format("%s-disk", name) : NULL;
    const struct image *other;

    need->oci = image->type == IMAGE_OCI;
    need->disk = !need->oci || (disk && storage_image_find(manager->storage, disk, &other, NULL) >= 0);
}

int advise_kind(struct manager *manager, const struct image *image, const struct instance_spec *spec, struct json_object *given,
                enum kind *ret, char **ret_why, struct error *error) {
    _cleanup_need_ struct need need = { 0 };
    char *sentences[KIND_COUNT] = { 0 };
    struct advice advice;
    int r;

    need_init(&need);
    r = need_of_spec(&need, spec, json_member(given, "cpus"), json_member(given, "memory"));
    if (r < 0)
        return error_errno(error, r, "choosing the kind");
    need_of_image(manager, spec->image, image, &need);
    r = advise_here(manager, NULL, &need, &advice, sentences, error); /* what was learnt of use decides nothing */
    if (r >= 0) {
        *ret = advice.kind;
        *ret_why = advice_sentence(&advice);
        r = *ret_why ? 0 : error_errno(error, -ENOMEM, "choosing the kind");
    }
    sentences_done(sentences);
    return r;
}

int manager_advise_emit(struct manager *manager, const char *name, struct need *need, struct emitter *emitter,
                        struct error *error) {
    char *sentences[KIND_COUNT] = { 0 };
    const struct image *image = NULL;
    struct advice advice;
    int r = 0;

    if (name)
        r = storage_image_find(manager->storage, name, &image, error);
    if (r >= 0 && name)
        need_of_image(manager, name, image, need);
    if (r >= 0)
        r = advise_here(manager, image, need, &advice, sentences, error);
    if (r >= 0) {
        emit_object(emitter);
        advice_emit(&advice, emitter);
        emit_key_text(emitter, "node", manager->facts.hostname);
        placement_emit_need(manager, advice.kind, advice.kinds[advice.kind].size.cpus, advice.kinds[advice.kind].memory, emitter);
        emit_object_end(emitter);
    }
    sentences_done(sentences);
    return r;
}
