// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/placement-record.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "simulator/input.h"

int placement_requests(const struct openb *openb, struct nodes *nodes, struct placement_request *requests,
                       struct fragments *fragments) {
    int r = 0;

    for (size_t i = 0; i < openb->pod_count && r >= 0; i++) {
        const struct openb_pod *pod = &openb->pods[i];
        _cleanup_list_ char **models = NULL;
        placement_request_init(&requests[i], "pod");
        requests[i].shape.cpus = pod->cpus;
        requests[i].shape.memory = pod->memory;
        requests[i].shape.gpus = pod->gpus;
        requests[i].shape.gpu_milli = pod->gpu_milli;
        r = list_split(pod->models, "|", &models);
        for (char **model = models; r >= 0 && model && *model; model++)
            r = placement_want_model(nodes, &requests[i], *model, NULL);
        if (r >= 0)
            r = fragments_add(fragments, &requests[i].shape);
    }
    fragments_keep(fragments, 95);
    return r;
}

/* --- out -------------------------------------------------------------------------------------------------------------- */

static int write_line(FILE *file, struct buffer *line) {
    if (line->failed)
        return -ENOMEM;
    buffer_add_text(line, "\n");
    return line->failed ? -ENOMEM : fwrite(line->data, 1, line->size, file) == line->size ? 0 : -EIO;
}

static int write_head(FILE *file, const struct score *score, uint64_t seed) {
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&line);

    emit_object(&emitter);
    emit_key_unsigned(&emitter, "placements", PLACEMENT_RECORD);
    emit_key_text(&emitter, "score", score->name);
    emit_key_unsigned(&emitter, "seed", seed);
    emit_object_end(&emitter);
    return write_line(file, &line);
}

static int write_node(FILE *file, const struct nodes *nodes, uint32_t index) {
    const struct node *node = nodes_get(nodes, index);
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&line);

    emit_object(&emitter);
    emit_key_text(&emitter, "node", nodes_name(nodes, index));
    emit_key_unsigned(&emitter, "cpus", node->cpus);
    emit_key_unsigned(&emitter, "memory", node->memory);
    emit_key_unsigned(&emitter, "gpus", node->gpus);
    emit_key_text(&emitter, "model", node->gpus ? nodes_number_name(nodes, NAMES_MODELS, node->gpu_model) : NULL);
    emit_object_end(&emitter);
    return write_line(file, &line);
}

static int write_pod(FILE *file, const struct openb_pod *pod, size_t index) {
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&line);

    emit_object(&emitter);
    emit_key_unsigned(&emitter, "pod", index);
    emit_key_unsigned(&emitter, "cpus", pod->cpus);
    emit_key_unsigned(&emitter, "memory", pod->memory);
    emit_key_unsigned(&emitter, "gpus", pod->gpus);
    emit_key_unsigned(&emitter, "gpu_milli", pod->gpu_milli);
    emit_key_text(&emitter, "models", pod->models);
    emit_object_end(&emitter);
    return write_line(file, &line);
}

int placement_record_begin(const char *path, const struct score *score, uint64_t seed, const struct nodes *nodes,
                           const struct openb *openb, FILE **ret, struct error *error) {
    FILE *file = fopen(path, "we");
    int r = file ? write_head(file, score, seed) : -errno;

    for (uint32_t i = 0; r >= 0 && i < nodes_count(nodes); i++)
        r = write_node(file, nodes, i);
    for (size_t i = 0; r >= 0 && i < openb->pod_count; i++)
        r = write_pod(file, &openb->pods[i], i);
    if (r < 0) {
        if (file)
            fclose(file);
        return error_errno(error, r, "writing %s", path);
    }
    *ret = file;
    return 0;
}

static void emit_decision(const struct nodes *nodes, size_t pod, const struct placement_decision *decision,
                          struct emitter *emitter) {
    emit_object(emitter);
    emit_key_unsigned(emitter, "decision", decision->number);
    emit_key_unsigned(emitter, "about", pod);
    emit_key_text(emitter, "to", decision->node == NODE_NONE ? NULL : nodes_name(nodes, decision->node));
    emit_key_integer(emitter, "score", decision->score);
    emit_key_unsigned(emitter, "gpus", decision->gpus);
    emit_key(emitter, "candidates");
    emit_array(emitter);
    for (unsigned i = 0; i < decision->candidate_count; i++) {
        emit_array(emitter);
        emit_text(emitter, nodes_name(nodes, decision->candidates[i].node));
        emit_integer(emitter, decision->candidates[i].score);
        emit_array_end(emitter);
    }
    emit_array_end(emitter);
    emit_key(emitter, "refused");
    emit_object(emitter);
    for (enum filter filter = 0; filter < FILTER_COUNT; filter++)
        if (decision->refused[filter] > 0)
            emit_key_unsigned(emitter, filter_name(filter), decision->refused[filter]);
    emit_object_end(emitter);
    emit_object_end(emitter);
}

int placement_record_write(FILE *file, const struct nodes *nodes, size_t pod, const struct placement_decision *decision) {
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&line);

    emit_decision(nodes, pod, decision, &emitter);
    return write_line(file, &line);
}

/* --- again ------------------------------------------------------------------------------------------------------------ */

struct replay {
    struct input *input;
    struct openb openb; /* of which the pods are read */
    const struct score *score;
    uint64_t seed, why, same;
    struct nodes *nodes;
    struct fragments fragments;
    struct placement_request *requests;
    struct placement placement;
    bool begun;         /* the placement is there */
    char *told;         /* the line of `why` */
};

static void replay_done(struct replay *replay) {
    if (replay->begun)
        placement_done(&replay->placement);
    fragments_done(&replay->fragments);
    nodes_free(replay->nodes);
    free(replay->requests);
    free(replay->told);
    openb_done(&replay->openb);
    input_free(replay->input);
}

static uint64_t amount(struct json_object *json, const char *key) {
    int64_t value = json_integer(json, key, 0);

    return value < 0 ? 0 : (uint64_t) value;
}

static int read_head(struct replay *replay, struct json_object *json, struct error *error) {
    int64_t version = json_integer(json, "placements", -1);

    if (version != PLACEMENT_RECORD) {
        _cleanup_free_ char *text = text_format("placements of version %" PRIi64, version);
        return version < 0 ? input_refuse(replay->input, error, "placements", "the file does not begin as such a record does")
                           : error_set(error, ERROR_NOT_SUPPORTED, "this polder", text, "a version replays its own alone");
    }
    replay->score = score_find(json_text(json, "score", ""));
    replay->seed = amount(json, "seed");
    return replay->score ? 0 : input_refuse(replay->input, error, "score", "there is no such score");
}

static int read_node(struct replay *replay, struct json_object *json, struct error *error) {
    const struct node_description node = { .name = json_text(json, "node", NULL), .cpus = amount(json, "cpus"),
                                           .memory = amount(json, "memory"), .gpus = (unsigned) amount(json, "gpus"),
                                           .gpu_model = json_text(json, "model", NULL) };
    _cleanup_error_ struct error trouble = ERROR_INIT;
    int r;

    if (!node.name || node.gpus > NODE_GPUS || replay->begun)
        return input_refuse(replay->input, error, "node", "it is no node, or comes too late");
    r = nodes_add(replay->nodes, &node, &trouble);
    return r == -ENOMEM || r >= 0 ? r : input_refuse(replay->input, error, "node", "it cannot be added; is it there twice?");
}

static int read_pod(struct replay *replay, struct json_object *json, struct error *error) {
    struct openb *openb = &replay->openb;
    struct openb_pod pod = { .cpus = amount(json, "cpus"), .memory = amount(json, "memory"),
                             .gpus = (unsigned) amount(json, "gpus"), .gpu_milli = (unsigned) amount(json, "gpu_milli") };

    if (amount(json, "pod") != openb->pod_count || pod.gpu_milli > GPU_WHOLE || pod.gpus > NODE_GPUS || replay->begun)
        return input_refuse(replay->input, error, "pod", "it is none, or not the next");
    if (openb->pod_count == openb->pod_room) {
        size_t room = openb->pod_room ? openb->pod_room * 2 : 1024;
        struct openb_pod *pods = reallocarray(openb->pods, room, sizeof(*pods));
        if (!pods)
            return -ENOMEM;
        openb->pods = pods;
        openb->pod_room = room;
    }
    pod.models = strdup(json_text(json, "models", ""));
    if (!pod.models)
        return -ENOMEM;
    openb->pods[openb->pod_count++] = pod;
    return 0;
}

static int begin(struct replay *replay) {
    struct placement_options options = { .score = replay->score, .seed = replay->seed, .fragments = &replay->fragments };
    int r;

    replay->requests = calloc(replay->openb.pod_count + 1, sizeof(*replay->requests));
    if (!replay->requests)
        return -ENOMEM;
    r = placement_requests(&replay->openb, replay->nodes, replay->requests, &replay->fragments);
    if (r < 0)
        return r;
    placement_init(&replay->placement, replay->nodes, &options);
    replay->begun = true;
    return 0;
}

static int read_decision(struct replay *replay, struct json_object *json, const char *line, struct error *error) {
    _cleanup_buffer_ struct buffer again = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&again);
    struct placement_decision decision;
    size_t pod = amount(json, "about");
    uint32_t slot;
    int r = replay->begun ? 0 : begin(replay);

    if (r >= 0 && pod >= replay->openb.pod_count)
        return input_refuse(replay->input, error, "about", "there is no such pod");
    if (r >= 0)
        r = placement_place(&replay->placement, &replay->requests[pod], 0, true, &decision, &slot);
    if (r < 0)
        return r;
    emit_decision(replay->nodes, pod, &decision, &emitter);
    if (again.failed)
        return -ENOMEM;
    if (!text_equal(again.data, line))
        return input_refuse(replay->input, error, "decision", "made again it is another: %.400s", again.data);
    replay->same++;
    if (decision.number == replay->why)
        replay->told = strdup(line);
    return decision.number == replay->why && !replay->told ? -ENOMEM : 0;
}

static int read_line(struct replay *replay, const char *line, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_json_ struct json_object *json = NULL;

    if (json_parse(line, strlen(line), &json, &trouble) < 0 || !json_object_is_type(json, json_type_object))
        return input_refuse(replay->input, error, "line", "it is no JSON object");
    if (!replay->score)
        return read_head(replay, json, error);
    if (json_has(json, "node"))
        return read_node(replay, json, error);
    if (json_has(json, "pod"))
        return read_pod(replay, json, error);
    if (json_has(json, "decision"))
        return read_decision(replay, json, line, error);
    return input_refuse(replay->input, error, "line", "it is neither a node, a pod nor a decision");
}

static void show_why(const struct replay *replay, struct json_object *json) {
    const struct openb_pod *pod = &replay->openb.pods[amount(json, "about")];
    struct json_object *candidates = json_member(json, "candidates"), *refused = json_member(json, "refused");
    _cleanup_free_ char *cpus = text_format_cpus(pod->cpus / 1000), *memory = text_format_size(pod->memory);
    const char *to = json_text(json, "to", NULL);

    printf("decision %" PRIu64 ": pod %" PRIu64 " asks for %s cpus, %s and %u x %u/1000 GPU%s%s\n", amount(json, "decision"),
           amount(json, "about"), cpus ? cpus : "?", memory ? memory : "?", pod->gpus, pod->gpu_milli,
           pod->models[0] ? " of " : "", pod->models);
    if (to)
        printf("  placed on %s by the score %s\n", to, replay->score->name);
    else
        puts("  no node takes it");
    for (size_t i = 0; json_object_is_type(candidates, json_type_array) && i < json_object_array_length(candidates); i++) {
        struct json_object *one = json_object_array_get_idx(candidates, i);
        printf("  %zu. %s: %" PRIi64 "\n", i + 1, json_object_get_string(json_object_array_get_idx(one, 0)),
               json_object_get_int64(json_object_array_get_idx(one, 1)));
    }
    if (!json_object_is_type(refused, json_type_object))
        return;
    json_object_object_foreach(refused, filter, count)
        printf("  %s nodes fail %s\n", json_object_get_string(count), filter);
}

static int show(const struct replay *replay, const char *path, bool json, struct error *error) {
    _cleanup_json_ struct json_object *line = NULL;
    _cleanup_free_ char *number = text_format("%" PRIu64, replay->why);

    if (replay->why != UINT64_MAX && !replay->told)
        return error_set(error, ERROR_NOT_FOUND, "decision", number ? number : "");
    if (json) {
        printf("{\"decisions\":%" PRIu64 ",\"same\":true,\"why\":%s}\n", replay->same, replay->told ? replay->told : "null");
        return 0;
    }
    if (replay->told && json_parse(replay->told, strlen(replay->told), &line, error) < 0)
        return -EINVAL;
    if (line)
        show_why(replay, line);
    printf("%s: %" PRIu64 " decisions made again: the same\n", path, replay->same);
    return 0;
}

int placement_replay(const char *path, uint64_t why, bool json, struct error *error) {
    _cleanup_(replay_done) struct replay replay = { .why = why };
    char *line;
    int r = input_open(path, &replay.input, error);

    if (r >= 0)
        r = nodes_new(&replay.nodes);
    while (r >= 0 && (r = input_line(replay.input, &line, error)) > 0)
        r = read_line(&replay, line, error);
    if (r >= 0 && !replay.score)
        r = input_refuse(replay.input, error, "placements", "the file is empty");
    if (r >= 0)
        r = show(&replay, path, json, error);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "replaying %s", path) : r;
}
