// SPDX-License-Identifier: GPL-2.0-or-later
/* image ls, pull, import, build, show, rm, tag, prune. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

#define AUTH_MAX (64 * 1024)
#define PIECE_SIZE (256 * 1024)

struct image_options {
    const char *name, *platform, *auth_file, *credentials, *checksum, *format, *kernel, *variant, *type;
    bool no_tls_verify, all;
};

/* --- ls, show ------------------------------------------------------------------------------------------------------ */

static char *cell_names(struct json_object *row) {
    struct json_object *aliases = json_member(row, "aliases");
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *ret = NULL;

    if (!json_object_is_type(aliases, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(aliases); i++)
        buffer_addf(&out, "%s%s", i ? ", " : "", json_object_get_string(json_object_array_get_idx(aliases, i)));
    return out.size > 0 && buffer_take(&out, &ret) == 0 ? ret : NULL;
}

static char *cell_digest(struct json_object *row) {
    const char *digest = json_text(row, "digest", "");

    return strndup(text_starts(digest, "sha256:") ? digest + 7 : digest, 12);
}

static char *cell_size(struct json_object *row) {
    return text_format_size((uint64_t) json_integer(row, "size", 0));
}

static char *cell_age(struct json_object *row) {
    const char *text = json_text(row, "created", NULL);
    uint64_t then, now = clock_wall();

    if (!text || clock_parse(text, &then) < 0 || then > now)
        return NULL;
    return text_format_duration((now - then) / CLOCK_SECOND * 1000);
}

static const struct column image_columns[] = {
    { .title = "NAME", .cell = cell_names },      { .title = "TYPE", .path = "type" },
    { .title = "SIZE", .cell = cell_size, .right = true }, { .title = "ARCHITECTURE", .path = "architecture" },
    { .title = "AGE", .cell = cell_age, .right = true }, { .title = "DIGEST", .cell = cell_digest },
    { .title = "SOURCE", .path = "source", .wide = true },
};
static const struct view image_view = { .columns = image_columns, .count = ELEMENTS(image_columns),
                                        .name = "digest" };

static int run_image_ls(struct invocation *invocation, struct error *error) {
    const struct image_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer path = BUFFER_INIT;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    buffer_add_text(&path, "/v1/images");
    query_add(&path, "type", options->type);
    query_add(&path, "name", invocation->count > 0 ? invocation->arguments[0] : NULL);
    if (r == 0 && path.failed)
        r = error_set(error, ERROR_NO_MEMORY, "");
    if (r == 0)
        r = client_request(client, "GET", path.data, NULL, &response, error);
    if (r < 0)
        return r;
    return output_list(invocation, &image_view, json_member(response.json, "images"),
                       json_member(response.json, "images"), error);
}

static char *image_path(const char *name, const char *suffix) {
    _cleanup_free_ char *encoded = url_encode(name);

    return encoded ? text_format("/v1/images/%s%s", encoded, suffix) : NULL;
}

static int run_image_show(struct invocation *invocation, struct error *error) {
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    for (size_t i = 0; r == 0 && i < invocation->count; i++) {
        _cleanup_response_ struct response response = RESPONSE_INIT;
        _cleanup_free_ char *path = image_path(invocation->arguments[i], "");
        r = path ? client_request(client, "GET", path, NULL, &response, error) : error_set(error, ERROR_NO_MEMORY, "");
        if (r == 0)
            r = output_object(invocation, response.json, "digest", error);
        if (r < 0)
            suggest_image(invocation, invocation->arguments[i], false, error);
    }
    return r;
}

/* --- build, import ---------------------------------------------------------------------------------------------- */

/* The name that was asked for, else all that the image has. */
static int show_result(const struct invocation *invocation, const struct response *response, const char *name) {
    struct json_object *result = json_member(response->json, "result");
    _cleanup_free_ char *names = cell_names(result);

    if (!invocation->no_wait && result)
        puts(name ? name : names ? names : json_text(result, "digest", ""));
    return 0;
}

/* --creds user:password as the auth.json of the registry in `source`. */
static char *credentials_file(const char *source, const char *credentials) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    const char *host = text_starts(source, "docker://") ? source + 9 : source;
    _cleanup_free_ char *registry = strndup(host, strcspn(host, "/")), *encoded = base64_encode(credentials, strlen(credentials));
    char *ret = NULL;

    if (!registry || !encoded)
        return NULL;
    emit_object(&emitter);
    emit_key(&emitter, "auths");
    emit_object(&emitter);
    emit_key(&emitter, registry);
    emit_object(&emitter);
    emit_key_text(&emitter, "auth", encoded);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    return buffer_take(&out, &ret) < 0 ? NULL : ret;
}

static int read_auth(const struct image_options *options, const char *source, char **ret, struct error *error) {
    int r;

    if (options->credentials) {
        *ret = credentials_file(source, options->credentials);
        return *ret ? 0 : error_set(error, ERROR_NO_MEMORY, "");
    }
    if (!options->auth_file)
        return 0;
    r = file_read(AT_FDCWD, options->auth_file, AUTH_MAX, ret, NULL);
    return r < 0 ? error_errno(error, r, "reading %s", options->auth_file) : 0;
}

static void emit_optional(struct emitter *emitter, const char *key, const char *text) {
    if (text)
        emit_key_text(emitter, key, text);
}

static int add_image(struct invocation *invocation, const char *type, const char *source, struct error *error) {
    const struct image_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);
    _cleanup_free_ char *auth = NULL;
    int r = read_auth(options, source, &auth, error);

    if (r < 0)
        return r;
    emit_object(&emitter);
    emit_key_text(&emitter, "source", source);
    emit_key_text(&emitter, "type", type);
    emit_optional(&emitter, "alias", options->name);
    emit_optional(&emitter, "platform", options->platform);
    emit_optional(&emitter, "content", options->type);
    emit_optional(&emitter, "checksum", options->checksum);
    emit_optional(&emitter, "format", options->format);
    emit_optional(&emitter, "kernel", options->kernel);
    emit_optional(&emitter, "variant", options->variant);
    emit_optional(&emitter, "auth", auth);
    if (options->no_tls_verify)
        emit_key_boolean(&emitter, "tls_verify", false);
    emit_object_end(&emitter);
    if (body.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = change_run(invocation, "POST", "/v1/images", body.data, source, &response, error);
    return r < 0 ? r : show_result(invocation, &response, options->name);
}

static int run_image_build(struct invocation *invocation, struct error *error) {
    return add_image(invocation, "build", invocation->arguments[0], error);
}

/* --- import of a file --------------------------------------------------------------------------------------------------- */

static const char *type_of_file(const char *path) {
    if (text_ends(path, ".iso"))
        return "iso";
    if (strstr(path, ".tar") || text_ends(path, ".tgz"))
        return "rootfs";
    return "disk";
}

static int send_file(struct client *client, int fd, struct transfer *transfer, struct error *error) {
    _cleanup_free_ char *data = malloc(PIECE_SIZE);

    if (!data)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (;;) {
        ssize_t n = read(fd, data, PIECE_SIZE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(error, -errno, "reading the file");
        if (n == 0 && transfer->total > 0 && transfer->done != transfer->total)
            return error_set(error, ERROR_BAD_REQUEST, "the file changed while it was sent");
        if (n == 0 || client_upload_write(client, data, (size_t) n) < 0)
            return 0; /* the reply says why it was not taken */
        transfer_add(transfer, (size_t) n);
    }
}

static int upload(struct invocation *invocation, const char *type, const char *name, int fd, struct error *error) {
    const struct image_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer path = BUFFER_INIT;
    struct transfer transfer;
    struct client *client;
    struct stat status;
    int r = invocation_client(invocation, &client, error);

    buffer_add_text(&path, "/v1/images/upload");
    query_add(&path, "type", type);
    query_add(&path, "alias", name);
    query_add(&path, "checksum", options->checksum);
    query_add(&path, "format", options->format);
    query_add(&path, "platform", options->platform);
    if (r == 0)
        r = client_upload_begin(client, "POST", path.data, "application/octet-stream", error);
    transfer_begin(&transfer, invocation->quiet, name ? name : "image", "sending",
                   fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? (uint64_t) status.st_size : 0);
    if (r == 0)
        r = send_file(client, fd, &transfer, error);
    transfer_end(&transfer);
    if (r == 0)
        r = client_upload_end(client, &response, error);
    if (r < 0)
        return r;
    if (invocation->no_wait) {
        puts(json_text(response.json, "id", ""));
        return 0;
    }
    r = operation_follow(invocation, &response, name ? name : "image", error);
    return r < 0 ? r : show_result(invocation, &response, name);
}

/* A directory in OCI layout is sent as a tar. */
static int upload_directory(struct invocation *invocation, const char *directory, const char *name,
                            struct error *error) {
    _cleanup_free_ char *index = text_format("%s/index.json", directory);
    int pipes[2], r, status = 0;
    pid_t pid;

    if (!index)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!file_exists(AT_FDCWD, index))
        return error_set(error, ERROR_BAD_SOURCE, directory, "it is a directory, but no OCI layout: it has no index.json");
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return error_errno(error, -errno, "starting tar");
    pid = fork();
    if (pid == 0) {
        if (dup2(pipes[1], STDOUT_FILENO) >= 0)
            execlp("tar", "tar", "-c", "-f", "-", "-C", directory, ".", (char *) NULL);
        _exit(127);
    }
    close_fd(pipes[1]);
    r = pid < 0 ? error_errno(error, -errno, "starting tar") : upload(invocation, "oci", name, pipes[0], error);
    close_fd(pipes[0]);
    if (pid > 0)
        (void) waitpid(pid, &status, 0);
    if (r == 0 && status != 0)
        r = error_set(error, ERROR_PROGRAM_FAILED, "tar", "see above");
    return r;
}

/* "/tmp/disk.qcow2" -> "disk", "layout/" -> "layout" */
static char *default_name(const char *path) {
    size_t end = strlen(path), start;

    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/'; start--)
        ;
    return strndup(path + start, strcspn(path + start, "./"));
}

static int refuse_usage(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int refuse_usage(struct error *error, const char *format, ...) {
    _cleanup_free_ char *text = NULL;
    va_list arguments;
    int n;

    va_start(arguments, format);
    n = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (n < 0)
        text = NULL;
    return error_set(error, n < 0 ? ERROR_NO_MEMORY : ERROR_USAGE, n < 0 ? "" : text);
}

/* What the source says of itself: "oci:DIRECTORY", "docker-archive:FILE", over which *source moves. NULL: nothing. */
static const char *archive_type(const char **source) {
    static const char *const archives[] = { "oci", "docker-archive" };

    for (size_t i = 0; i < ELEMENTS(archives); i++) {
        size_t length = strlen(archives[i]);
        if (text_starts(*source, archives[i]) && (*source)[length] == ':') {
            *source += length + 1;
            return archives[i];
        }
    }
    return NULL;
}

/* Of a directory there is only one reading; a second word about a source must not contradict the first. */
static int check_type(const struct image_options *options, const char *source, const char *said, bool is_directory,
                      struct error *error) {
    if (said && options->type && !text_equal(said, options->type))
        return refuse_usage(error, "--type %s contradicts '%s:'", options->type, said);
    if (!is_directory)
        return 0;
    if (!text_equal(said ? said : options->type ? options->type : "oci", "oci"))
        return refuse_usage(error, "%s is a directory, which can only be an OCI layout (--type oci); %s is one file", source,
                            said ? said : options->type);
    return options->checksum ? refuse_usage(error, "--checksum is of a file, and %s is a directory", source) : 0;
}

static int import_local(struct invocation *invocation, const char *source, const char *said, struct error *error) {
    const struct image_options *options = invocation->options;
    const char *type = said ? said : options->type;
    _cleanup_free_ char *name = options->name ? strdup(options->name) : default_name(source);
    _cleanup_close_ int fd = -EBADF;
    struct stat status;
    int r;

    if (!name)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (stat(source, &status) < 0)
        return error_errno(error, -errno, "reading %s", source);
    r = check_type(options, source, said, S_ISDIR(status.st_mode), error);
    if (r < 0)
        return r;
    if (S_ISDIR(status.st_mode))
        return upload_directory(invocation, source, name, error);
    fd = open(source, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(error, -errno, "reading %s", source);
    return upload(invocation, type ? type : type_of_file(source), name, fd, error);
}

static int run_image_import(struct invocation *invocation, struct error *error) {
    const struct image_options *options = invocation->options;
    const char *source = invocation->arguments[0], *said;

    if (text_starts(source, "https://") || text_starts(source, "http://")) {
        if (text_equal(options->type, "oci") || text_equal(options->type, "docker-archive"))
            return refuse_usage(error, "--type %s: a URL brings a disk, iso or rootfs; download the archive and import the "
                                "file", options->type);
        if (options->platform)
            return refuse_usage(error, "--platform chooses within an archive, and a URL brings a disk, iso or rootfs");
        return add_image(invocation, "import", source, error);
    }
    said = archive_type(&source);
    return import_local(invocation, source, said, error);
}

/* --- pull ------------------------------------------------------------------------------------------------------------------ */

static int pull_archive(struct invocation *invocation, const char *source, const char *said, struct error *error) {
    const struct image_options *options = invocation->options;
    const char *option = options->auth_file ? "authfile" : options->credentials ? "creds"
                         : options->no_tls_verify ? "no-tls-verify" : NULL;

    if (option)
        return refuse_usage(error, "--%s is for registries, and %s:%s is a local archive", option, said, source);
    return import_local(invocation, source, said, error);
}

/* A bare name is taken as docker takes it. */
static int run_image_pull(struct invocation *invocation, struct error *error) {
    const char *source = invocation->arguments[0], *said = archive_type(&source);
    _cleanup_free_ char *full = NULL;

    if (said)
        return pull_archive(invocation, source, said, error);
    if (!strstr(source, "://")) {
        const char *slash = strchr(source, '/');
        bool has_host = slash && memchr(source, '.', (size_t) (slash - source));
        full = has_host ? text_format("docker://%s", source)
               : slash  ? text_format("docker://docker.io/%s", source)
                        : text_format("docker://docker.io/library/%s", source);
        if (!full)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    return add_image(invocation, "pull", full ? full : source, error);
}

/* --- rm, tag, prune ------------------------------------------------------------------------------------------------------ */

static int remove_image(struct invocation *invocation, const char *name, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = image_path(name, "");
    struct client *client = NULL;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0)
        r = client_request(client, "DELETE", path, NULL, &response, error);
    if (r == 0)
        puts(name);
    else
        suggest_image(invocation, name, false, error);
    return r;
}

static int run_image_rm(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, remove_image, error);
}

static int run_image_tag(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = image_path(invocation->arguments[0], "/tag");
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    emit_object(&emitter);
    emit_key_text(&emitter, "alias", invocation->arguments[1]);
    emit_object_end(&emitter);
    if (r < 0 || !path || body.failed)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    r = client_request(client, "POST", path, body.data, &response, error);
    if (r < 0)
        suggest_image(invocation, invocation->arguments[0], false, error);
    return r;
}

static int run_image_prune(struct invocation *invocation, struct error *error) {
    const struct image_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *size = NULL;
    struct json_object *removed;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r == 0)
        r = client_request(client, "POST", "/v1/images/prune", options->all ? "{\"all\":true}" : "{}", &response, error);
    if (r < 0)
        return r;
    removed = json_member(response.json, "removed");
    for (size_t i = 0; json_object_is_type(removed, json_type_array) && i < json_object_array_length(removed); i++)
        puts(json_object_get_string(json_object_array_get_idx(removed, i)));
    size = text_format_size((uint64_t) json_integer(response.json, "bytes", 0));
    if (!invocation->quiet)
        show_note("%s freed", size ? size : "space");
    return 0;
}

/* --- rows -------------------------------------------------------------------------------------------------------------- */

#define IMAGE_TEXT(flag_name, member, value_name, text)                                                     \
    { .name = flag_name, .type = FLAG_TEXT, .offset = offsetof(struct image_options, member),                  \
      .value = value_name, .help = text }
static const char *const kernels[] = { "cloud", "generic", NULL };
static const char *const variants[] = { "container", "disk", "both", NULL };
static const char *const types[] = { "disk", "iso", "rootfs", "oci", "docker-archive", NULL };
static const char *const list_types[] = { "oci", "disk", "iso", NULL };
static const struct flag list_flags[] = {
    { .name = "type", .type = FLAG_TEXT, .offset = offsetof(struct image_options, type), .value = "TYPE",
      .choices = list_types, .help = "Only this type: oci, disk or iso." },
};
static const struct flag pull_flags[] = {
    IMAGE_TEXT("name", name, "NAME", "Its name here; default: made from the source."),
    IMAGE_TEXT("platform", platform, "OS/ARCHITECTURE", "Which one of an image for several platforms; default: this host's."),
    { .name = "authfile", .type = FLAG_TEXT, .offset = offsetof(struct image_options, auth_file), .value = "FILE",
      .complete = COMPLETE_FILES, .help = "Credentials as podman and skopeo keep them." },
    IMAGE_TEXT("creds", credentials, "USER:PASSWORD", "Credentials; a file keeps them out of 'ps'."),
    { .name = "no-tls-verify", .type = FLAG_SWITCH, .offset = offsetof(struct image_options, no_tls_verify),
      .help = "Take any certificate, or none: for registries of your own." },
};
static const struct flag import_flags[] = {
    IMAGE_TEXT("name", name, "NAME", "Its name here; default: the file's."),
    IMAGE_TEXT("platform", platform, "OS/ARCHITECTURE", "Which image of an archive for several platforms; default: this host's."),
    IMAGE_TEXT("checksum", checksum, "sha256:DIGITS", "What the file must hash to."),
    IMAGE_TEXT("format", format, "FORMAT", "Disk format: qcow2, raw, vmdk, vdi, vhdx or vpc; default: by the header."),
    { .name = "type", .type = FLAG_TEXT, .offset = offsetof(struct image_options, type), .value = "TYPE",
      .choices = types, .help = "What it is: disk, iso, rootfs, oci or docker-archive; default: by the file's name." },
};
static const struct flag build_flags[] = {
    IMAGE_TEXT("name", name, "NAME", "Its name here; default: made from the source."),
    { .name = "kernel", .type = FLAG_TEXT, .offset = offsetof(struct image_options, kernel), .value = "KERNEL",
      .choices = kernels, .help = "Kernel of a disk: cloud (no graphics) or generic." },
    { .name = "variant", .type = FLAG_TEXT, .offset = offsetof(struct image_options, variant), .value = "VARIANT",
      .choices = variants, .help = "Of Debian: container (a root file system), disk (for a vm) or both; default: both." },
};
static const struct flag prune_flags[] = {
    { .name = "all", .letter = 'a', .type = FLAG_SWITCH, .offset = offsetof(struct image_options, all),
      .help = "Those with names too, if no instance uses them." },
};

static const struct command image_ls = {
    .name = "ls", .alias = "list", .group = GROUP_IMAGES, .summary = "List images, oldest first", .usage = "[PREFIX]",
    .flags = list_flags, .flag_count = ELEMENTS(list_flags), .options_size = sizeof(struct image_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .maximum = 1, .complete = COMPLETE_IMAGES, .run = run_image_ls,
};
static const struct command image_pull = {
    .name = "pull", .group = GROUP_IMAGES, .summary = "Pull an image from a registry or a local archive",
    .usage = "NAME|docker://NAME|oci:DIRECTORY|docker-archive:FILE",
    .flags = pull_flags, .flag_count = ELEMENTS(pull_flags), .options_size = sizeof(struct image_options),
    .common = COMMON_WAIT | COMMON_QUIET, .minimum = 1, .maximum = 1, .run = run_image_pull,
    .examples = "  polder image pull docker://docker.io/library/nginx:stable --name nginx\n"
                "  polder image pull oci:./layout --platform linux/arm64 --name nginx-arm\n",
};
static const struct command image_import = {
    .name = "import", .group = GROUP_IMAGES, .summary = "Bring in a disk, ISO, root file system or archive",
    .usage = "FILE|URL|oci:DIRECTORY|docker-archive:FILE", .flags = import_flags,
    .flag_count = ELEMENTS(import_flags), .options_size = sizeof(struct image_options),
    .common = COMMON_WAIT | COMMON_QUIET, .minimum = 1, .maximum = 1, .complete = COMPLETE_FILES,
    .run = run_image_import, .examples = "  polder image import ./disk.qcow2 --name old-server\n",
};
static const struct command image_build = {
    .name = "build", .group = GROUP_IMAGES, .summary = "Build an image from the host's packages",
    .usage = "busybox|debian:SUITE", .flags = build_flags, .flag_count = ELEMENTS(build_flags),
    .options_size = sizeof(struct image_options), .common = COMMON_WAIT | COMMON_QUIET, .minimum = 1, .maximum = 1,
    .run = run_image_build, .examples = "  polder image build busybox\n  polder image build debian:bookworm --variant disk\n",
};
static const struct command image_show = {
    .name = "show", .alias = "inspect", .group = GROUP_IMAGES, .summary = "Show everything about images",
    .usage = "IMAGE...", .common = COMMON_OUTPUT, .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_IMAGES,
    .run = run_image_show,
};
static const struct command image_rm = {
    .name = "rm", .group = GROUP_IMAGES, .summary = "Remove a name of an image; with its last name, the image", .usage = "IMAGE...",
    .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_IMAGES, .run = run_image_rm,
};
static const struct command image_tag = {
    .name = "tag", .group = GROUP_IMAGES, .summary = "Give an image a further name", .usage = "IMAGE NAME",
    .minimum = 2, .maximum = 2, .complete = COMPLETE_IMAGES, .run = run_image_tag,
};
static const struct command image_prune = {
    .name = "prune", .group = GROUP_IMAGES, .summary = "Remove images that nothing uses", .usage = "",
    .flags = prune_flags, .flag_count = ELEMENTS(prune_flags), .options_size = sizeof(struct image_options),
    .common = COMMON_QUIET, .run = run_image_prune,
};
static const struct command *const image_commands[] = { &image_ls,   &image_pull, &image_import, &image_build,
                                                        &image_show, &image_rm,   &image_tag,    &image_prune, NULL };

const struct command command_image = {
    .name = "image", .alias = "images", .group = GROUP_IMAGES, .summary = "Images: ls, pull, import, build, show, rm, tag, prune",
    .children = image_commands,
};
