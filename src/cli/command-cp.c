// SPDX-License-Identifier: GPL-2.0-or-later
/* cp: tar archives between polderd and the program tar, which packs and unpacks on this side. What comes out of an
 * instance is hostile: tar strips leading slashes and "..", defers links, and is told to restore neither owners nor
 * special modes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/terminal.h"

#define PIECE_SIZE (64 * 1024)
/* Offsets in a tar header, which is one block. Type '5' is a directory. */
#define TAR_SIZE 124
#define TAR_TYPE 156
#define TAR_BLOCK 512

/* "web:/etc/hosts" -> instance and path; a plain path has no instance. */
struct place {
    char *instance;
    const char *path;
};

static int place_parse(const char *text, struct place *ret, struct error *error) {
    const char *colon = strchr(text, ':');

    *ret = (struct place){ .path = text };
    if (!colon || text[0] == '/' || text[0] == '.' || memchr(text, '/', (size_t) (colon - text)))
        return 0;
    ret->instance = strndup(text, (size_t) (colon - text));
    ret->path = colon + 1;
    if (!ret->instance)
        return error_set(error, ERROR_NO_MEMORY, "");
    return ret->path[0] == '/' ? 0 : error_set(error, ERROR_USAGE, "a path inside an instance starts with '/'");
}

static char *files_path(const struct place *place, const char *path) {
    _cleanup_free_ char *encoded = url_encode(path), *suffix = encoded ? text_format("/files?path=%s", encoded) : NULL;

    return suffix ? instance_path(place->instance, suffix) : NULL;
}

/* The last component, without slashes at the end. Allocated; "." for "/". */
static char *base_name(const char *path) {
    size_t end = strlen(path), start;

    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/'; start--)
        ;
    return start == end || (end == 1 && path[0] == '/') ? strdup(".") : strndup(path + start, end - start);
}

static char *directory_name(const char *path) {
    size_t end = strlen(path);

    while (end > 1 && path[end - 1] == '/')
        end--;
    while (end > 0 && path[end - 1] != '/')
        end--;
    while (end > 1 && path[end - 1] == '/')
        end--;
    return end == 0 ? strdup(".") : strndup(path, end);
}

/* One run of the command. */
struct copy {
    struct client *client;
    struct transfer transfer;
};

/* --- the program tar -------------------------------------------------------------------------------------------------- */

struct tar {
    pid_t pid;
    int fd; /* its input or output */
};

static int tar_start(char *const *arguments, bool feeds, struct tar *ret, struct error *error) {
    int pipes[2];
    pid_t pid;

    if (pipe2(pipes, O_CLOEXEC) < 0)
        return error_errno(error, -errno, "starting tar");
    pid = fork();
    if (pid == 0) {
        if (dup2(pipes[feeds ? 0 : 1], feeds ? STDIN_FILENO : STDOUT_FILENO) < 0)
            _exit(127);
        execvp("tar", arguments);
        _exit(127);
    }
    close_fd(pipes[feeds ? 0 : 1]);
    if (pid < 0) {
        close_fd(pipes[feeds ? 1 : 0]);
        return error_errno(error, -errno, "starting tar");
    }
    *ret = (struct tar){ .pid = pid, .fd = pipes[feeds ? 1 : 0] };
    return 0;
}

static int tar_end(struct tar *tar, struct error *error) {
    int status = 0;

    tar->fd = close_fd(tar->fd);
    while (waitpid(tar->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return error_set(error, ERROR_PROGRAM_FAILED, "tar", "see above");
}

/* --- out of an instance ------------------------------------------------------------------------------------------------ */

static int receive_archive(struct copy *copy, int fd, struct error *error) {
    char data[PIECE_SIZE];
    long n;

    while ((n = client_stream_read(copy->client, data, sizeof(data), error)) > 0) {
        int r = file_write_all(fd, data, (size_t) n);

        transfer_add(&copy->transfer, (size_t) n);
        if (r < 0)
            return r == -EPIPE ? 0 : error_errno(error, r, "writing the files");
    }
    return (int) n;
}

static int unpack(struct copy *copy, const char *directory, struct error *error) {
    char *arguments[] = { "tar", "-x", "-f", "-", "--no-same-owner", "--no-same-permissions", "--no-overwrite-dir",
                          "--warning=no-unknown-keyword", "-C", (char *) directory, NULL };
    struct tar tar;
    int r = tar_start(arguments, true, &tar, error), ended;

    if (r < 0)
        return r;
    r = receive_archive(copy, tar.fd, error);
    ended = tar_end(&tar, r < 0 ? NULL : error);
    return r < 0 ? r : ended;
}

static bool is_directory(const char *path) {
    struct stat status;

    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Under another name: unpacked into a directory beside it, then renamed. */
static int unpack_as(struct copy *copy, const char *source, const char *target, struct error *error) {
    _cleanup_free_ char *parent = directory_name(target), *name = base_name(source), *made = NULL, *temporary = NULL;
    int r;

    temporary = parent ? text_format("%s/.polder-cp-XXXXXX", parent) : NULL;
    if (!temporary || !name)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!mkdtemp(temporary))
        return error_errno(error, -errno, "making a directory in %s", parent);
    r = unpack(copy, temporary, error);
    made = text_format("%s/%s", temporary, name);
    if (r == 0 && (!made || rename(made, target) < 0))
        r = error_errno(error, made ? -errno : -ENOMEM, "making %s", target);
    (void) file_remove_tree(AT_FDCWD, temporary);
    return r;
}

static int copy_out(struct copy *copy, const struct place *source, const char *target, struct error *error) {
    _cleanup_free_ char *path = files_path(source, source->path);
    int r = path ? client_stream_begin(copy->client, path, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r < 0)
        return r;
    if (!strcmp(target, "-"))
        return receive_archive(copy, STDOUT_FILENO, error);
    if (is_directory(target))
        return unpack(copy, target, error);
    if (text_ends(target, "/"))
        return error_set(error, ERROR_USAGE, "the target directory does not exist");
    return unpack_as(copy, source->path, target, error);
}

/* --- into an instance --------------------------------------------------------------------------------------------------- */

/* The first block of an archive that is a member's header: extended headers (x, g) stand before it, with their bytes
 * in whole blocks behind them. 0 at the end. */
static int read_header(struct client *client, char block[TAR_BLOCK], struct error *error) {
    uint64_t skip = 0;

    for (;;) {
        size_t have = 0;
        while (have < TAR_BLOCK) {
            long n = client_stream_read(client, block + have, TAR_BLOCK - have, error);
            if (n <= 0)
                return (int) n;
            have += (size_t) n;
        }
        if (skip > 0) {
            skip--;
        } else if (block[TAR_TYPE] == 'x' || block[TAR_TYPE] == 'g') {
            char size[12] = "";
            memcpy(size, block + TAR_SIZE, sizeof(size) - 1);
            skip = (strtoull(size, NULL, 8) + TAR_BLOCK - 1) / TAR_BLOCK;
        } else {
            return 1;
        }
    }
}

/* Is it a directory inside? Its archive's first header tells. */
static int is_directory_inside(struct invocation *invocation, const struct place *place, bool *ret,
                               struct error *error) {
    _cleanup_client_ struct client *probe = NULL; /* of its own: the rest of the archive is not read */
    _cleanup_error_ struct error problem = ERROR_INIT;
    _cleanup_free_ char *path = files_path(place, place->path);
    char block[TAR_BLOCK];
    int r;

    *ret = false;
    if (!path || client_new(invocation->socket, &probe) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = client_stream_begin(probe, path, &problem);
    if (r == 0)
        r = read_header(probe, block, &problem);
    /* Absent, or not readable: then writing tells what is wrong. */
    if (r == 0 || problem.code == ERROR_GUEST ||
        (problem.code == ERROR_NOT_FOUND && !text_equal(problem.parameters[0], "instance")))
        return 0;
    if (r < 0) {
        error_move(error, &problem);
        return r;
    }
    *ret = block[TAR_TYPE] == '5';
    return 0;
}

static int send_archive(struct copy *copy, const struct place *target, const char *directory, int fd,
                        struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = files_path(target, directory);
    char data[PIECE_SIZE];
    int r = path ? client_upload_begin(copy->client, "PUT", path, "application/x-tar", error)
                 : error_set(error, ERROR_NO_MEMORY, "");

    while (r == 0) {
        ssize_t n = read(fd, data, sizeof(data));
        if (n < 0 && errno != EINTR)
            return error_errno(error, -errno, "reading the files");
        if (n == 0)
            break;
        if (n > 0 && client_upload_write(copy->client, data, (size_t) n) < 0)
            break; /* the reply says why */
        transfer_add(&copy->transfer, n > 0 ? (size_t) n : 0);
    }
    return r < 0 ? r : client_upload_end(copy->client, &response, error);
}

/* tar's substitution that names the entries anew: every character that means something is escaped. */
static char *rename_expression(const char *from, const char *to) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *ret = NULL;

    buffer_add_text(&out, "flags=rSh;s|^");
    for (const char *c = from; *c; c++)
        buffer_addf(&out, strchr(".[]*^$\\|", *c) ? "\\%c" : "%c", *c);
    buffer_add_text(&out, "|");
    for (const char *c = to; *c; c++)
        buffer_addf(&out, strchr("&\\|", *c) ? "\\%c" : "%c", *c);
    buffer_add_text(&out, "|");
    return buffer_take(&out, &ret) < 0 ? NULL : ret;
}

static int pack(struct copy *copy, const char *source, const struct place *target, const char *directory,
                const char *name, struct error *error) {
    _cleanup_free_ char *from = directory_name(source), *base = base_name(source), *expression = NULL;
    struct tar tar;
    int r, ended;

    expression = base ? rename_expression(base, name ? name : base) : NULL;
    if (!from || !expression)
        return error_set(error, ERROR_NO_MEMORY, "");
    char *arguments[] = { "tar", "-c", "-f", "-", "--transform", expression, "-C", from, "--", base, NULL };
    r = tar_start(arguments, false, &tar, error);
    if (r < 0)
        return r;
    r = send_archive(copy, target, directory, tar.fd, error);
    ended = tar_end(&tar, r < 0 ? NULL : error);
    return r < 0 ? r : ended;
}

static int copy_in(struct invocation *invocation, struct copy *copy, const char *source,
                   const struct place *target, struct error *error) {
    _cleanup_free_ char *parent = directory_name(target->path), *name = base_name(target->path);
    bool directory = false;
    int r;

    if (!parent || !name)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!strcmp(source, "-"))
        return send_archive(copy, target, target->path, STDIN_FILENO, error);
    if (!file_exists(AT_FDCWD, source))
        return error_set(error, ERROR_NOT_FOUND, "file", source);
    r = is_directory_inside(invocation, target, &directory, error);
    if (r < 0)
        return r;
    if (directory || text_ends(target->path, "/"))
        return pack(copy, source, target, target->path, NULL, error);
    return pack(copy, source, target, parent, name, error);
}

/* Of what else than one file is, nobody knows before. */
static uint64_t regular_size(const char *path) {
    struct stat status;

    return stat(path, &status) == 0 && S_ISREG(status.st_mode) ? (uint64_t) status.st_size : 0;
}

static int run_cp(struct invocation *invocation, struct error *error) {
    struct place source = { 0 }, target = { 0 };
    struct copy copy = { 0 };
    int r = place_parse(invocation->arguments[0], &source, error);

    if (r == 0)
        r = place_parse(invocation->arguments[1], &target, error);
    if (r == 0 && !source.instance == !target.instance)
        r = error_set(error, ERROR_USAGE, "one side is INSTANCE:/PATH, the other a local path");
    if (r == 0)
        r = invocation_client(invocation, &copy.client, error);
    transfer_begin(&copy.transfer, invocation->quiet, source.instance ? invocation->arguments[0] : invocation->arguments[1],
                   "copying", r == 0 && !source.instance ? regular_size(source.path) : 0);
    (void) signal(SIGPIPE, SIG_IGN);
    if (r == 0)
        r = source.instance ? copy_out(&copy, &source, target.path, error)
                            : copy_in(invocation, &copy, source.path, &target, error);
    transfer_end(&copy.transfer);
    if (r < 0)
        suggest_instance(invocation, source.instance ? source.instance : target.instance ? target.instance : "", error);
    free(source.instance);
    free(target.instance);
    return r;
}

const struct command command_cp = {
    .name = "cp", .group = GROUP_INSIDE, .summary = "Copy files into or out of an instance",
    .usage = "INSTANCE:/PATH PATH | PATH INSTANCE:/PATH",
    .description = "'-' stands for a tar archive on standard output or input.",
    .examples = "  polder cp web:/etc/nginx ./nginx\n  polder cp ./site web:/var/www/\n",
    .common = COMMON_QUIET, .minimum = 2, .maximum = 2, .complete = COMPLETE_FILES, .run = run_cp,
};
