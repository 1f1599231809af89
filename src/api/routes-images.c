// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "api/operations.h"
#include "api/route.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "manager/manager.h"

#define LIST_MAX 10000

enum add_type {
    ADD_AUTO,
    ADD_PULL,
    ADD_BUILD,
    ADD_IMPORT,
};
static const char *const add_types[] = { "auto", "pull", "build", "import", NULL };

enum add_content {
    CONTENT_AUTO,
    CONTENT_DISK,
    CONTENT_ISO,
    CONTENT_ROOTFS,
};
static const char *const add_contents[] = { "auto", "disk", "iso", "rootfs", NULL };

struct add_body {
    int type, content;
    char *source, *alias, *platform, *checksum, *format, *kernel, *variant, *auth;
    bool tls_verify;
};
#define ADD_TEXT(member, most, sentence)                                                                     \
    { .name = #member, .type = FIELD_TEXT, .offset = offsetof(struct add_body, member), .change = CHANGE_LIVE,  \
      .maximum = (most), .help = (sentence) }
static const struct field add_body_fields[] = {
    { .name = "source", .type = FIELD_TEXT, .offset = offsetof(struct add_body, source), .change = CHANGE_LIVE,
      .maximum = 2048, .required = true,
      .help = "docker://host/name:tag, https://…/disk.qcow2, busybox, debian:bookworm." },
    { .name = "type", .type = FIELD_ENUM, .offset = offsetof(struct add_body, type), .change = CHANGE_LIVE,
      .names = add_types, .initial = "auto", .help = "How the source is brought in; auto: by its form." },
    { .name = "content", .type = FIELD_ENUM, .offset = offsetof(struct add_body, content), .change = CHANGE_LIVE,
      .names = add_contents, .initial = "auto", .help = "What a downloaded file is; auto: by the URL's end." },
    ADD_TEXT(alias, 255, "The image's name; default: made from the source."),
    ADD_TEXT(platform, 64, "For images of several platforms: linux/amd64. Default: this host's."),
    ADD_TEXT(checksum, 71, "What a downloaded file must hash to: sha256:…"),
    ADD_TEXT(format, 16, "Declared format of a downloaded disk. Default: by its header."),
    ADD_TEXT(kernel, 16, "build debian: cloud or generic."),
    ADD_TEXT(variant, 16, "build debian: container or disk."),
    { .name = "auth", .type = FIELD_TEXT, .offset = offsetof(struct add_body, auth), .change = CHANGE_LIVE,
      .maximum = 65536, .lines = true, .help = "Contents of a containers auth.json; used once, never stored." },
    { .name = "tls_verify", .type = FIELD_BOOLEAN, .offset = offsetof(struct add_body, tls_verify),
      .change = CHANGE_LIVE, .initial = "true", .help = "Check the registry's certificate." },
};
static const struct table add_body_table = TABLE("image-request", struct add_body, add_body_fields);

struct tag_body {
    char *alias;
};
static const struct field tag_body_fields[] = {
    { .name = "alias", .type = FIELD_TEXT, .offset = offsetof(struct tag_body, alias), .change = CHANGE_LIVE,
      .maximum = 255, .required = true, .help = "A further name." },
};
static const struct table tag_body_table = TABLE("tag", struct tag_body, tag_body_fields);

struct prune_body {
    bool all;
};
static const struct field prune_body_fields[] = {
    { .name = "all", .type = FIELD_BOOLEAN, .offset = offsetof(struct prune_body, all), .change = CHANGE_LIVE,
      .help = "Those with names too, if no instance uses them." },
};
static const struct table prune_body_table = TABLE("prune", struct prune_body, prune_body_fields);

struct images_query {
    int type;
    char *name, *after;
    int64_t limit;
};
static const char *const list_types[] = { "all", "oci", "disk", "iso", NULL };
static const struct field images_query_fields[] = {
    { .name = "type", .type = FIELD_ENUM, .offset = offsetof(struct images_query, type), .change = CHANGE_LIVE,
      .names = list_types, .initial = "all", .help = "Only this type." },
    { .name = "name", .type = FIELD_TEXT, .offset = offsetof(struct images_query, name), .change = CHANGE_LIVE,
      .maximum = 255, .help = "Only those of which a name starts with this; taken literally." },
    { .name = "continue", .type = FIELD_TEXT, .offset = offsetof(struct images_query, after), .change = CHANGE_LIVE,
      .maximum = 128, .check = image_cursor_check, .help = "Go on where the page before ended: its `continue`." },
    { .name = "limit", .type = FIELD_INTEGER, .offset = offsetof(struct images_query, limit), .change = CHANGE_LIVE,
      .minimum = 0, .maximum = LIST_MAX, .initial = "0", .help = "At most so many; 0: all." },
};
static const struct table images_query_table = TABLE("images-query", struct images_query, images_query_fields);

static int handle_images(struct request *request, struct error *error _unused_) {
    const struct images_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    const struct image_filter filter = {
        .type = query->type - 1 /* in the order of enum image_type */, .name = query->name, .after = query->after,
        .limit = (size_t) query->limit,
    };

    return manager_images_emit(request->manager, &filter, &emitter);
}

static int handle_image(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_image_emit(request->manager, request->parameters[0], &emitter, error);
}

/* A download is a disk unless somebody, or its name, says otherwise. */
static enum image_source_type download_source(const struct add_body *body) {
    static const enum image_source_type sources[] = { [CONTENT_DISK] = SOURCE_DISK, [CONTENT_ISO] = SOURCE_ISO,
                                                      [CONTENT_ROOTFS] = SOURCE_ROOTFS };

    if (body->content != CONTENT_AUTO)
        return sources[body->content];
    return text_ends(body->source, ".iso") ? SOURCE_ISO : strstr(body->source, ".tar") ? SOURCE_ROOTFS : SOURCE_DISK;
}

/* "docker://x" is pulled, "https://x" downloaded, a plain name built. */
static int source_type(const struct add_body *body, enum image_source_type *ret, struct error *error) {
    bool docker = text_starts(body->source, "docker://");
    bool url = text_starts(body->source, "https://") || text_starts(body->source, "http://");
    int type = body->type != ADD_AUTO ? body->type : docker ? ADD_PULL : url ? ADD_IMPORT : ADD_BUILD;

    if (type == ADD_PULL && !docker)
        return error_set(error, ERROR_BAD_SOURCE, body->source, "what is pulled starts with docker://; archives are sent to "
                                                                "/v1/images/upload");
    if (type == ADD_IMPORT && !url)
        return error_set(error, ERROR_BAD_SOURCE, body->source, "give a URL, or send the file to /v1/images/upload");
    if (type != ADD_IMPORT && body->content != CONTENT_AUTO)
        return error_set(error, ERROR_NOT_SUPPORTED, type == ADD_PULL ? "a registry" : "a build", "content",
                         "it says what a downloaded file is");
    *ret = type == ADD_PULL ? SOURCE_DOCKER : type == ADD_BUILD ? SOURCE_BUILD : download_source(body);
    return 0;
}

static int handle_add(struct request *request, struct error *error) {
    const struct wait_query *query = request->query;
    const struct add_body *body = request->input;
    _cleanup_operation_ struct operation *operation = NULL;
    struct image_request image = {
        .reference = body->source, .alias = body->alias, .platform = body->platform, .auth_file = body->auth,
        .tls_verify = body->tls_verify, .checksum = body->checksum, .format = body->format, .kernel = body->kernel,
        .variant = body->variant,
    };
    int r = source_type(body, &image.source, error);

    if (r == 0)
        r = manager_image_add(request->manager, request->actor, &image, &operation, error);
    return r < 0 ? r : reply_operation(request, operation, query->wait, error);
}

static int handle_remove(struct request *request, struct error *error) {
    int r = manager_image_remove(request->manager, request->actor, request->parameters[0], error);

    if (r == 0)
        request->reply.status = 204;
    return r;
}

static int handle_tag(struct request *request, struct error *error) {
    const struct tag_body *body = request->input;
    int r = manager_image_tag(request->manager, request->actor, request->parameters[0], body->alias, error);

    if (r == 0)
        request->reply.status = 204;
    return r;
}

static int handle_prune(struct request *request, struct error *error) {
    const struct prune_body *body = request->input;
    struct emitter emitter = reply_emitter(request);

    return manager_image_prune(request->manager, request->actor, body->all, &emitter, error);
}

const struct route image_routes[] = {
    { "GET", "/v1/images", handle_images, PERMISSION_VIEW, "List images, oldest first", &images_query_table, NULL,
      "ImageList", ROUTE_QUICK },
    { "POST", "/v1/images", handle_add, PERMISSION_IMAGES, "Pull, build or download an image", &wait_query_table,
      &add_body_table, "Operation", ROUTE_OPERATION | ROUTE_REQUIRED },
    { "POST", "/v1/images/prune", handle_prune, PERMISSION_IMAGES, "Remove images that nothing uses", NULL,
      &prune_body_table, "Prune", 0 },
    { "POST", "/v1/images/{name+}/tag", handle_tag, PERMISSION_IMAGES, "Give an image a further name", NULL,
      &tag_body_table, NULL, ROUTE_REQUIRED },
    { "GET", "/v1/images/{name+}", handle_image, PERMISSION_VIEW, "Show an image", NULL, NULL, "Image", 0 },
    { "DELETE", "/v1/images/{name+}", handle_remove, PERMISSION_IMAGES, "Remove a name of an image, or the image",
      NULL, NULL, NULL, 0 },
    { 0 },
};
