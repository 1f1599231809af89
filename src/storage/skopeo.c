// SPDX-License-Identifier: GPL-2.0-or-later
/* skopeo speaks with registries and reads image archives, in a jail with the host's network. What it wrote so far is its
 * progress, and a run that writes nothing for too long is ended: it has no time limits of its own. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

#define SKOPEO "/usr/bin/skopeo"
#define LOOK_INTERVAL (500 * CLOCK_MILLISECOND)
#define STALL_TIME (60 * CLOCK_SECOND)
#define ATTEMPTS 3      /* that bring nothing new */
#define ATTEMPTS_MAX 20 /* in all */
#define STALLED "nothing came for a minute"

static int skopeo_arguments(const struct image_request *request, bool has_auth, char ***ret) {
    _cleanup_list_ char **list = NULL, **platform = NULL;
    int r = list_add(&list, "skopeo");

    r = r < 0 ? r : list_add(&list, "--insecure-policy");
    r = r < 0 ? r : list_add(&list, "--tmpdir=/work"); /* else /var/tmp, whatever TMPDIR says */
    if (request->platform) {
        r = r < 0 ? r : list_split(request->platform, "/", &platform);
        r = r < 0 ? r : list_addf(&list, "--override-os=%s", platform[0]);
        if (r >= 0 && list_count(platform) > 1)
            r = list_addf(&list, "--override-arch=%s", platform[1]);
        if (r >= 0 && list_count(platform) > 2)
            r = list_addf(&list, "--override-variant=%s", platform[2]);
    }
    r = r < 0 ? r : list_add(&list, "copy");
    if (request->source == SOURCE_DOCKER && !request->tls_verify)
        r = r < 0 ? r : list_add(&list, "--src-tls-verify=false");
    if (has_auth)
        r = r < 0 ? r : list_add(&list, "--src-authfile=/work/auth.json");
    r = r < 0 ? r : list_add(&list, request->source == SOURCE_DOCKER ? request->reference
                                    : request->source == SOURCE_OCI ? "oci-archive:/input" : "docker-archive:/input");
    r = r < 0 ? r : list_add(&list, "dir:/work/image");
    if (r >= 0)
        *ret = STEAL_PTR(list);
    return r;
}

/* Quotes within a quoted sentence are escaped there. */
static void unquote(char *text) {
    char *to = text;

    for (const char *from = text; text && *from; from++)
        if (from[0] != '\\' || from[1] != '"')
            *to++ = *from;
    if (text)
        *to = '\0';
}

/* The sentence in skopeo's last log line is what a person wants to read: time="…" level=fatal msg="…". */
static char *skopeo_message(const struct buffer *errors) {
    const char *message = NULL, *next = errors->data;
    _cleanup_free_ char *text = NULL;

    while (next && (next = strstr(next, "msg=\"")))
        message = next += strlen("msg=\"");
    if (!message)
        return NULL;
    text = text_escape(message, strcspn(message, "\n"), false);
    if (text && text_ends(text, "\""))
        text[strlen(text) - 1] = '\0';
    unquote(text);
    return STEAL_PTR(text);
}

static int skopeo_failed(const struct image_request *request, const struct buffer *errors, struct error *failed,
                         struct error *error) {
    _cleanup_free_ char *message = skopeo_message(errors);

    if (failed->code != ERROR_PROGRAM_FAILED || !message) {
        error_move(error, failed);
        return -error_number(error->code);
    }
    if (strcasestr(message, strerror(ENOSPC)))
        return error_set(error, ERROR_NO_SPACE, "downloading the image");
    if (strstr(message, "file too large"))
        return error_set(error, ERROR_BAD_IMAGE, "a part of it is larger than allowed");
    if (request->source == SOURCE_DOCKER)
        return error_set(error, ERROR_REGISTRY, request->reference, message);
    if (strstr(message, "more than one image"))
        return error_set(error, ERROR_BAD_IMAGE, "its index.json names several images; of one for several platforms it names an "
                                                 "index, as 'skopeo copy --all' and builders write it");
    return error_set(error, ERROR_BAD_IMAGE, message);
}

/* skopeo's own --retry-times would begin with an empty directory each time. It knows of a broken connection by type, we by
 * the words of Go's network library; it gives up at the first 502 or 503, and after some waiting at 429. */
static bool may_pass(const struct error *error) {
    static const char *const words[] = {
        "status code from registry 50", "received unexpected HTTP status: 50", "toomanyrequests", "Too Many Requests",
        "connection reset", "connection refused", "connection timed out", "broken pipe", "unexpected EOF", ": EOF", "i/o timeout",
        "handshake timeout", "Client.Timeout", "deadline exceeded", "server misbehaving", "Temporary failure in name resolution",
        "network is unreachable", "no route to host",
    };
    const char *message = error->code == ERROR_REGISTRY && error->parameters[1] ? error->parameters[1] : "";

    for (size_t i = 0; i < ELEMENTS(words); i++)
        if (strstr(message, words[i]))
            return true;
    return false;
}

static bool has_stalled(const struct error *error) {
    return error->code == ERROR_REGISTRY && text_equal(error->parameters[1], STALLED);
}

static int wait_before_next(unsigned attempt) {
    unsigned char jitter[1];

    random_bytes(jitter, sizeof(jitter));
    return fiber_sleep((attempt * 1000 + jitter[0] * 4u) * CLOCK_MILLISECOND);
}

/* --- the run -------------------------------------------------------------------------------------------------------------- */

struct skopeo {
    const struct process_spec *spec;
    struct buffer errors;
    struct error failed;
};

static int skopeo_fiber(void *userdata) {
    struct skopeo *skopeo = userdata;
    struct process_run run = { .errors = &skopeo->errors, .limit = 65536, .deadline = deadline_in(TOOL_DEADLINE) };

    return process_run(skopeo->spec, &run, &skopeo->failed);
}

/* Bytes of the files in a directory and those beneath it (temporary ones). Few and flat: skopeo's own. */
static uint64_t bytes_written(int at, const char *name, unsigned depth) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    uint64_t bytes = 0;

    if (!directory) {
        close_fd(fd);
        return 0;
    }
    for (unsigned i = 0; i < 1000 && (entry = readdir(directory)); i++) {
        struct stat status;
        if (text_equal(entry->d_name, ".") || text_equal(entry->d_name, "..") ||
            fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISREG(status.st_mode))
            bytes += (uint64_t) status.st_size;
        else if (S_ISDIR(status.st_mode) && depth > 0)
            bytes += bytes_written(dirfd(directory), entry->d_name, depth - 1);
    }
    closedir(directory);
    return bytes;
}

/* Watches until it ends. A bounded copy on disk is the only honest sign of progress. */
static int skopeo_watch(struct fiber *fiber, const char *directory, const struct image_request *request,
                        const struct storage_progress *progress, struct error *error) {
    uint64_t seen = 0, since = clock_now();

    for (;;) {
        int result = 0, r = fiber_join(fiber, deadline_in(LOOK_INTERVAL), &result);
        uint64_t bytes;
        if (r >= 0)
            return result;
        if (r != -ETIMEDOUT) {
            fiber_cancel_join(fiber);
            return error_errno(error, r, "downloading the image");
        }
        bytes = bytes_written(AT_FDCWD, directory, 4);
        if (bytes != seen) {
            seen = bytes;
            since = clock_now();
            progress_step(progress, "downloading", bytes, 0);
        } else if (clock_now() - since > STALL_TIME) {
            fiber_cancel_join(fiber);
            return request->source == SOURCE_DOCKER
                       ? error_set(error, ERROR_REGISTRY, request->reference, STALLED)
                       : error_set(error, ERROR_BAD_IMAGE, "reading it makes no progress");
        }
    }
}

static int skopeo_supervise(const struct process_spec *spec, const char *directory, const struct image_request *request,
                            const struct storage_progress *progress, struct error *error) {
    struct skopeo skopeo = { .spec = spec, .errors = BUFFER_INIT, .failed = ERROR_INIT };
    _cleanup_fiber_ struct fiber *fiber = NULL;
    int r = fiber_start(&fiber, "skopeo", skopeo_fiber, &skopeo);

    if (r < 0)
        return error_errno(error, r, "starting skopeo");
    r = skopeo_watch(fiber, directory, request, progress, error);
    if (r < 0 && !error_is_set(error))
        r = skopeo_failed(request, &skopeo.errors, &skopeo.failed, error);
    buffer_done(&skopeo.errors);
    error_clear(&skopeo.failed);
    return r;
}

static int led_astray(const struct image_request *request, const struct guard *guard, struct error *error) {
    _cleanup_free_ char *reason = text_format("it leads to %s, which is this host or its link", guard->refused);

    return error_set(error, ERROR_REGISTRY, request->reference, reason ? reason : guard->refused);
}

/* One run of skopeo, whose whole blobs are back in `resume` afterwards. *ret_astray: it was led to where it may not go. */
static int skopeo_attempt(struct process_spec *spec, const struct image_request *request, const char *directory,
                          struct resume *resume, const struct storage_progress *progress, bool *ret_astray,
                          struct error *error) {
    _cleanup_guard_ struct guard guard = GUARD_INIT;
    _cleanup_tool_jail_ struct tool_jail tool = { .file_maximum = request->maximum };
    int r;

    if (request->source == SOURCE_DOCKER) {
        guard.before = resume_offer;
        guard.userdata = resume;
        r = guard_open(&guard, request->reference, error);
        if (r < 0)
            return r;
        tool.guard = &guard;
    }
    r = tool_jail_open(&tool, SKOPEO, directory, request->file, spec, error);
    if (r < 0)
        return r;
    r = skopeo_supervise(spec, directory, request, progress, error);
    *ret_astray = r < 0 && *guard.refused;
    if (*ret_astray) {
        error_clear(error);
        r = led_astray(request, &guard, error);
    }
    return r;
}

/* Each attempt goes on with the blobs that those before it brought, and as long as each brings more, there is a next one. */
static int skopeo_attempts(struct process_spec *spec, const struct image_request *request, const char *directory,
                           struct resume *resume, const struct storage_progress *progress, struct error *error) {
    size_t brought = list_count(resume->blobs);

    for (unsigned attempt = 1, all = 1;; attempt++, all++) {
        _cleanup_staging_ char *before = all > 1 ? text_format("%s/image", directory) : NULL;
        _cleanup_error_ struct error failed = ERROR_INIT;
        bool astray = false, more;
        size_t count;
        int r;
        staging_remove(&before); /* skopeo wants an empty directory */
        r = skopeo_attempt(spec, request, directory, resume, progress, &astray, &failed);
        if (r >= 0)
            return r;
        count = resume_collect(resume);
        more = count > brought;
        if (more) {
            brought = count;
            attempt = 1;
        }
        if (astray || attempt == ATTEMPTS || all == ATTEMPTS_MAX || !(may_pass(&failed) || (more && has_stalled(&failed))) ||
            wait_before_next(attempt) < 0) {
            error_move(error, &failed);
            return r;
        }
    }
}

int skopeo_copy(const struct image_request *request, const char *directory, struct resume *resume,
                const struct storage_progress *progress, struct error *error) {
    static const char *const environment[] = { "HOME=/work", "TMPDIR=/work", "XDG_RUNTIME_DIR=/work", NULL };
    _cleanup_list_ char **arguments = NULL;
    _cleanup_free_ char *auth_path = request->auth_file ? text_format("%s/auth.json", directory) : NULL;
    struct process_spec spec = { .environment = (char *const *) environment };
    int r = skopeo_arguments(request, request->auth_file, &arguments);

    if (r >= 0 && request->auth_file)
        r = auth_path ? file_write_atomic(AT_FDCWD, auth_path, request->auth_file, strlen(request->auth_file), 0600, false)
                      : -ENOMEM;
    if (r >= 0 && auth_path && chown(auth_path, TOOL_ID, TOOL_ID) < 0)
        r = -errno;
    if (r < 0)
        return error_errno(error, r, "preparing skopeo");
    spec.arguments = arguments;
    r = skopeo_attempts(&spec, request, directory, resume, progress, error);
    if (auth_path)
        (void) unlink(auth_path);
    return r;
}
