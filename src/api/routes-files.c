// SPDX-License-Identifier: GPL-2.0-or-later
/* Files out of and into instances, as tar streams, and the upload of images. Nothing is held in memory but one piece. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/operations.h"
#include "api/route.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/stream.h"
#include "manager/manager.h"

#define PIECE_SIZE (64 * 1024)
#define WAIT_MAX_MS (3600 * 1000)

static inline void stream_freep(struct stream **stream) {
    if (*stream)
        stream_free(*stream);
}
#define _cleanup_stream_ _cleanup_(stream_freep)

struct files_query {
    char *path;
};
static const struct field files_query_fields[] = {
    { .name = "path", .type = FIELD_TEXT, .offset = offsetof(struct files_query, path), .change = CHANGE_LIVE,
      .maximum = 4096, .required = true, .help = "Absolute path inside the instance." },
};
static const struct table files_query_table = TABLE("files-query", struct files_query, files_query_fields);

static int check_path(const struct files_query *query, struct error *error) {
    if (!query->path)
        return error_set(error, ERROR_MISSING_FIELD, "path");
    if (query->path[0] != '/')
        return error_set(error, ERROR_BAD_VALUE, "path", query->path, "it must be absolute");
    return 0;
}

/* The transfer is over: did the other side do it all? */
static int transfer_result(struct stream *stream, struct error *error) {
    int code = 0;
    int r = stream_result(stream, &code, error, DEADLINE_NONE);

    if (r < 0)
        return r;
    return code == 0 ? 0 : error_set(error, ERROR_GUEST, "the archive was not transferred completely");
}

static int handle_get(struct request *request, struct error *error) {
    const struct files_query *query = request->query;
    _cleanup_stream_ struct stream *stream = NULL;
    _cleanup_free_ char *data = malloc(PIECE_SIZE);
    enum stream_channel channel;
    int r = data ? check_path(query, error) : error_set(error, ERROR_NO_MEMORY, "");
    long n;

    if (r == 0)
        r = manager_instance_get(request->manager, request->actor, request->parameters[0], query->path, &stream,
                                 error);
    if (r < 0)
        return r;
    request_cancelable(request, true);
    /* The first piece tells whether it works at all, while an error can still be said. */
    n = stream_read(stream, &channel, data, PIECE_SIZE, DEADLINE_NONE);
    if (n == 0)
        r = transfer_result(stream, error);
    if (n < 0 || r < 0)
        return r < 0 ? r : (error_is_set(error) ? (int) n : error_errno(error, (int) n, "reading %s", query->path));
    r = request_stream_begin(request, "application/x-tar");
    while (r == 0 && n > 0) {
        r = request_stream_write(request, data, (size_t) n);
        n = r < 0 ? 0 : stream_read(stream, &channel, data, PIECE_SIZE, DEADLINE_NONE);
    }
    if (r == 0 && n == 0)
        r = transfer_result(stream, error);
    return r < 0 || n < 0 ? (r < 0 ? r : (int) n) : request_stream_end(request);
}

static int copy_in(struct request *request, struct stream *stream, char *data, struct error *error) {
    for (;;) {
        long n = request_read(request, data, PIECE_SIZE, error);
        int r;

        if (n <= 0)
            return (int) n;
        r = stream_write(stream, data, (size_t) n, DEADLINE_NONE);
        if (r == -EPIPE)
            return 0; /* it stopped taking: its result says why */
        if (r < 0)
            return error_errno(error, r, "writing to the instance");
    }
}

static int handle_put(struct request *request, struct error *error) {
    const struct files_query *query = request->query;
    _cleanup_stream_ struct stream *stream = NULL;
    _cleanup_free_ char *data = malloc(PIECE_SIZE);
    enum stream_channel channel;
    int r = data ? check_path(query, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0)
        r = manager_instance_put(request->manager, request->actor, request->parameters[0], query->path, &stream,
                                 error);
    if (r < 0)
        return r;
    request_cancelable(request, true);
    r = copy_in(request, stream, data, error);
    if (r == 0) {
        (void) stream_close_input(stream);
        while (stream_read(stream, &channel, data, PIECE_SIZE, DEADLINE_NONE) > 0)
            ;
        r = transfer_result(stream, error);
    }
    if (r == 0)
        request->reply.status = 204;
    return r;
}

/* --- image upload ----------------------------------------------------------------------------------------------- */

enum upload_type {
    UPLOAD_DISK,
    UPLOAD_ISO,
    UPLOAD_ROOTFS,
    UPLOAD_OCI,
    UPLOAD_DOCKER_ARCHIVE,
};
static const char *const upload_types[] = { "disk", "iso", "rootfs", "oci", "docker-archive", NULL };
static const enum image_source_type upload_sources[] = { SOURCE_DISK, SOURCE_ISO, SOURCE_ROOTFS, SOURCE_OCI,
                                                         SOURCE_DOCKER_ARCHIVE };

struct upload_query {
    int type;
    char *alias, *checksum, *format, *platform;
    uint64_t wait;
};
#define UPLOAD_TEXT(member, most, sentence)                                                                  \
    { .name = #member, .type = FIELD_TEXT, .offset = offsetof(struct upload_query, member),                    \
      .change = CHANGE_LIVE, .maximum = (most), .help = (sentence) }
static const struct field upload_query_fields[] = {
    { .name = "type", .type = FIELD_ENUM, .offset = offsetof(struct upload_query, type), .change = CHANGE_LIVE,
      .names = upload_types, .initial = "disk", .help = "What the bytes are." },
    UPLOAD_TEXT(alias, 255, "The image's name."),
    UPLOAD_TEXT(checksum, 71, "What the bytes must hash to: sha256:…"),
    UPLOAD_TEXT(format, 16, "Declared disk format: qcow2, raw, vmdk, vdi, vhdx. Default: by its header."),
    UPLOAD_TEXT(platform, 64, "Which image of an archive for several platforms: linux/amd64. Default: this host's."),
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct upload_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long." },
};
static const struct table upload_query_table = TABLE("upload-query", struct upload_query, upload_query_fields);

struct piece {
    int fd;
    const void *data;
    size_t size;
};

static int write_piece(void *userdata) {
    const struct piece *piece = userdata;

    return file_write_all(piece->fd, piece->data, piece->size);
}

static int receive_file(struct request *request, int fd, struct error *error) {
    _cleanup_free_ char *data = malloc(PIECE_SIZE);

    if (!data)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (;;) {
        long n = request_read(request, data, PIECE_SIZE, error);
        struct piece piece = { .fd = fd, .data = data, .size = n > 0 ? (size_t) n : 0 };
        int r;

        if (n <= 0)
            return (int) n;
        r = fiber_job(write_piece, &piece);
        if (r < 0)
            return error_errno(error, r, "storing the upload");
    }
}

/* The file goes when the operation is over, whoever waits for that. */
struct leftover {
    struct operation *operation;
    char *path;
};

static int leftover_fiber(void *userdata) {
    struct leftover *leftover = userdata;

    while (operation_wait(leftover->operation, UINT64_MAX, DEADLINE_NONE) == -ETIMEDOUT)
        ;
    (void) unlink(leftover->path);
    operation_unref(leftover->operation);
    free(leftover->path);
    free(leftover);
    return 0;
}

static void remove_after(struct operation *operation, const char *path) {
    struct leftover *leftover = calloc(1, sizeof(*leftover));

    if (leftover)
        leftover->path = strdup(path);
    if (!leftover || !leftover->path) {
        free(leftover);
        return; /* staging is emptied at the next start */
    }
    leftover->operation = operation_ref(operation);
    if (fiber_start(NULL, "upload", leftover_fiber, leftover) < 0) {
        operation_unref(leftover->operation);
        free(leftover->path);
        free(leftover);
    }
}

static struct image_request upload_request(const struct upload_query *query, const char *path) {
    return (struct image_request){
        .source = upload_sources[query->type], .reference = upload_types[query->type], .file = path,
        .alias = query->alias, .checksum = query->checksum, .format = query->format,
        .platform = query->platform, .tls_verify = true,
    };
}

static int start_import(struct request *request, const char *path, struct operation **ret, struct error *error) {
    struct image_request image = upload_request(request->query, path);

    return manager_image_add(request->manager, request->actor, &image, ret, error);
}

static int handle_upload(struct request *request, struct error *error) {
    const struct upload_query *query = request->query;
    struct image_request asked = upload_request(query, "");
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_free_ char *path = NULL;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (!request->has_body)
        return error_set(error, ERROR_BAD_REQUEST, "the image's bytes are missing");
    r = storage_image_check(&asked, error);
    if (r < 0)
        return r;
    request_cancelable(request, true);
    r = storage_upload_path(manager_storage(request->manager), &path, error);
    if (r < 0)
        return r;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(error, -errno, "storing the upload");
    r = receive_file(request, fd, error);
    request_cancelable(request, false);
    if (r == 0)
        r = start_import(request, path, &operation, error);
    if (r < 0) {
        (void) unlink(path);
        return r;
    }
    remove_after(operation, path);
    return reply_operation(request, operation, query->wait, error);
}

const struct route file_routes[] = {
    { "GET", "/v1/instances/{name}/files", handle_get, PERMISSION_EXEC, "Read files, as a tar archive",
      &files_query_table, NULL, "application/x-tar", ROUTE_STREAM },
    { "PUT", "/v1/instances/{name}/files", handle_put, PERMISSION_EXEC, "Write files: a tar archive is unpacked",
      &files_query_table, NULL, NULL, ROUTE_UPLOAD },
    { "POST", "/v1/images/upload", handle_upload, PERMISSION_IMAGES, "Bring in an image by sending its bytes",
      &upload_query_table, NULL, "Operation", ROUTE_UPLOAD | ROUTE_OPERATION },
    { 0 },
};
