// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "manager/internal.h"

struct add {
    struct manager *manager;
    struct image_request request; /* texts are ours */
    struct operation *operation;
    struct actor actor;
    char *actor_name;
};

static void request_free_texts(struct image_request *request) {
    const char *const texts[] = { request->reference, request->file, request->alias, request->platform,
                                  request->auth_file, request->checksum, request->format, request->kernel,
                                  request->variant };

    for (size_t i = 0; i < ELEMENTS(texts); i++)
        free((char *) texts[i]);
}

static void add_free(void *userdata) {
    struct add *add = userdata;

    if (add->request.file)
        (void) unlink(add->request.file); /* an upload lives as long as its operation */
    request_free_texts(&add->request);
    free(add->actor_name);
    free(add);
}

static int copy_text(const char **target, const char *source) {
    *target = source ? strdup(source) : NULL;
    return source && !*target ? -ENOMEM : 0;
}

static int request_copy(const struct image_request *source, struct image_request *target) {
    int r = 0;

    *target = *source;
    target->reference = target->file = target->alias = target->platform = target->auth_file = NULL;
    target->checksum = target->format = target->kernel = target->variant = NULL;
    r |= copy_text(&target->reference, source->reference);
    r |= copy_text(&target->file, source->file);
    r |= copy_text(&target->alias, source->alias);
    r |= copy_text(&target->platform, source->platform);
    r |= copy_text(&target->auth_file, source->auth_file);
    r |= copy_text(&target->checksum, source->checksum);
    r |= copy_text(&target->format, source->format);
    r |= copy_text(&target->kernel, source->kernel);
    r |= copy_text(&target->variant, source->variant);
    return r;
}

static void report(const char *step, uint64_t done, uint64_t total, void *userdata) {
    operation_progress(userdata, step, done, total);
}

static int add_body(struct operation *operation, void *userdata, struct error *error) {
    struct add *add = userdata;
    struct storage_progress progress = { .report = report, .userdata = operation };
    const struct image *image = NULL;
    int r = storage_image_add(add->manager->storage, &add->request, &progress, &image, error);

    if (r >= 0) {
        _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
        struct emitter emitter = EMITTER_INIT(&buffer);
        storage_image_emit(image, &emitter);
        (void) buffer_take(&buffer, &operation->result);
        events_publish(add->manager->events, "image.added", image->digest, NULL);
        audit_note(add->manager, &add->actor, "image.add", image->digest, "ok");
    }
    return audit_refusal(add->manager, &add->actor, "image.add", "images", r, error);
}

int manager_image_add(struct manager *manager, const struct actor *actor, const struct image_request *request,
                      struct operation **ret, struct error *error) {
    struct add *add;
    int r = authorise(actor, "default", PERMISSION_IMAGES, NULL, error);

    if (r < 0)
        return audit_refusal(manager, actor, "image.add", "images", r, error);
    add = calloc(1, sizeof(*add));
    if (!add)
        return error_errno(error, -ENOMEM, "adding an image");
    add->manager = manager;
    add->actor_name = strdup(actor->name);
    add->actor = (struct actor){ .name = add->actor_name, .origin = actor->origin, .role = actor->role };
    r = request_copy(request, &add->request);
    if (r < 0 || !add->actor_name) {
        add_free(add);
        return error_errno(error, -ENOMEM, "adding an image");
    }
    r = operation_start(manager->operations, "image.add", "images", actor->name, add_body, add, add_free, ret);
    return r < 0 ? error_errno(error, r, "adding an image") : 0;
}

/* The storage knows users of an image by their uuid; people know names. */
static int name_the_user(struct manager *manager, const char *image, int r, struct error *error) {
    const struct instance *user;
    _cleanup_free_ char *text = NULL;

    if (!error || error->code != ERROR_IN_USE || !error->parameters[2])
        return r;
    user = map_get(manager->by_uuid, error->parameters[2]);
    text = user ? text_format("the instance '%s'%s", user->name,
                              user->status.state == STATE_DELETED ? ", which is in the trash" : "") : NULL;
    if (!text)
        return r;
    error_clear(error);
    return error_set(error, ERROR_IN_USE, "image", image, text);
}

/* Instances in any state, the trash too, keep their image. The storage refuses by its pins. */
int manager_image_remove(struct manager *manager, const struct actor *actor, const char *name, struct error *error) {
    int r = authorise(actor, "default", PERMISSION_IMAGES, name, error);

    if (r >= 0)
        r = name_the_user(manager, name, storage_image_remove(manager->storage, name, error), error);
    if (r >= 0) {
        audit_note(manager, actor, "image.remove", name, "ok");
        events_publish(manager->events, "image.removed", name, NULL);
    }
    return audit_refusal(manager, actor, "image.remove", name, r, error);
}

int manager_image_tag(struct manager *manager, const struct actor *actor, const char *name, const char *alias,
                      struct error *error) {
    int r = authorise(actor, "default", PERMISSION_IMAGES, name, error);

    if (r >= 0 && (!alias || !image_alias_is_valid(alias)))
        r = error_set(error, ERROR_BAD_VALUE, "alias", alias && text_is_plain(alias) ? alias : "this text",
                      "use letters, digits and ._:/@- (at most 255)");
    if (r >= 0)
        r = storage_image_tag(manager->storage, name, alias, error);
    if (r >= 0)
        audit_note(manager, actor, "image.tag", name, "ok");
    return audit_refusal(manager, actor, "image.tag", name, r, error);
}

int manager_image_prune(struct manager *manager, const struct actor *actor, bool all, struct emitter *emitter,
                        struct error *error) {
    _cleanup_list_ char **removed = NULL;
    uint64_t bytes = 0;
    int r = authorise(actor, "default", PERMISSION_IMAGES, NULL, error);

    if (r >= 0)
        r = storage_prune(manager->storage, all, &bytes, &removed, error);
    if (r < 0)
        return audit_refusal(manager, actor, "image.prune", "images", r, error);
    audit_note(manager, actor, "image.prune", "images", "ok");
    emit_object(emitter);
    emit_key_unsigned(emitter, "bytes", bytes);
    emit_key_list(emitter, "removed", removed);
    emit_object_end(emitter);
    return 0;
}

/* --- lists ------------------------------------------------------------------------------------------------------------ */

/* A page goes on behind an image that may be gone by then: so the cursor is its place in the order, time and digest. */
struct cursor {
    uint64_t created; /* ms, as records keep it */
    const char *digits;
};

static int cursor_parse(const char *text, struct cursor *ret) {
    const char *dash = strchr(text, '-');
    char number[24];

    if (!dash || (size_t) (dash - text) >= sizeof(number) || strlen(dash + 1) != 64 ||
        strspn(dash + 1, "0123456789abcdef") != 64)
        return -EINVAL;
    snprintf(number, sizeof(number), "%.*s", (int) (dash - text), text);
    ret->digits = dash + 1;
    return text_parse_u64(number, &ret->created);
}

const char *image_cursor_check(const char *text) {
    return cursor_parse(text, &(struct cursor){ 0 }) < 0 ? "it is not what a page before gave" : NULL;
}

static struct cursor cursor_of(const struct image *image) {
    return (struct cursor){ image->created / CLOCK_MILLISECOND, strchr(image->digest, ':') + 1 };
}

static int cursor_compare(const struct cursor *a, const struct cursor *b) {
    return a->created != b->created ? (a->created > b->created) - (a->created < b->created) : strcmp(a->digits, b->digits);
}

static int image_compare(const void *a, const void *b) {
    const struct image *const *first = a, *const *second = b;
    struct cursor one = cursor_of(*first), two = cursor_of(*second);

    return cursor_compare(&one, &two);
}

static bool has_name(const struct image *image, const char *prefix) {
    for (char *const *alias = image->aliases; alias && *alias; alias++)
        if (text_starts(*alias, prefix))
            return true;
    return false;
}

static bool is_wanted(const struct image *image, const struct image_filter *filter, const struct cursor *after) {
    struct cursor own = cursor_of(image);

    if (after && cursor_compare(&own, after) <= 0)
        return false;
    if (filter->type >= 0 && filter->type != image->type)
        return false;
    return !filter->name || has_name(image, filter->name);
}

/* Those that are wanted, oldest first. */
static int images_sorted(struct manager *manager, const struct image_filter *filter, const struct image ***ret,
                         size_t *ret_count) {
    const struct image *image, **list = NULL;
    size_t position = 0, count = 0, all = 0;
    struct cursor after;

    if (filter->after && cursor_parse(filter->after, &after) < 0)
        return -EINVAL;
    while (storage_image_next(manager->storage, &position))
        all++;
    list = calloc(all + 1, sizeof(struct image *));
    if (!list)
        return -ENOMEM;
    for (position = 0; (image = storage_image_next(manager->storage, &position));)
        if (is_wanted(image, filter, filter->after ? &after : NULL))
            list[count++] = image;
    qsort(list, count, sizeof(struct image *), image_compare);
    *ret = list;
    *ret_count = count;
    return 0;
}

int manager_images_emit(struct manager *manager, const struct image_filter *filter, struct emitter *emitter) {
    _cleanup_free_ const struct image **list = NULL;
    _cleanup_free_ char *next = NULL;
    size_t count = 0, shown;
    int r = images_sorted(manager, filter, &list, &count);

    if (r < 0)
        return r;
    shown = filter->limit > 0 && filter->limit < count ? filter->limit : count;
    if (shown < count) {
        struct cursor last = cursor_of(list[shown - 1]);
        next = text_format("%llu-%s", (unsigned long long) last.created, last.digits);
        if (!next)
            return -ENOMEM;
    }
    emit_object(emitter);
    emit_key(emitter, "images");
    emit_array(emitter);
    for (size_t i = 0; i < shown; i++)
        storage_image_emit(list[i], emitter);
    emit_array_end(emitter);
    emit_key_text(emitter, "continue", next);
    emit_object_end(emitter);
    return emitter->out->failed ? -ENOMEM : 0;
}

int manager_image_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    const struct image *image;
    int r = storage_image_find(manager->storage, name, &image, error);

    if (r >= 0)
        storage_image_emit(image, emitter);
    return r;
}
