// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "digest.h"
#include "jail.h"

#define CHUNK (256u << 10)

struct copy {
    const struct options *options;
    struct sha256_ctx digest;
    uint8_t *buffer;
    uint64_t done, total;
    struct failure *failure;
};

static int copy_out(struct copy *copy, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(copy->options->output_fd, copy->buffer + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(copy->failure, errno, "--output-fd", "writing the copy");
        done += (size_t) n;
    }
    return 0;
}

/* 1 = go on, 0 = end. */
static int copy_some(struct copy *copy) {
    ssize_t n = read(copy->options->input_fd, copy->buffer, CHUNK);
    if (n < 0 && errno == EINTR)
        return 1;
    if (n < 0)
        return fail_errno(copy->failure, errno, "--input-fd", "reading the blob");
    copy->done += (uint64_t) n;
    if (copy->done > copy->options->max_bytes)
        return fail(copy->failure, FAILURE_LIMIT_BYTES, "", "it is larger than %llu bytes",
                    (unsigned long long) copy->options->max_bytes);
    sha256_update(&copy->digest, (size_t) n, copy->buffer);
    if (copy_out(copy, (size_t) n) < 0)
        return -EBADMSG;
    report_progress(copy->done, copy->total);
    return n > 0;
}

static int copy_finish(struct copy *copy) {
    char digest[DIGEST_TEXT_SIZE];
    digest_finish(&copy->digest, digest);
    if (copy->options->digest && strcmp(copy->options->digest, digest) != 0)
        return fail(copy->failure, FAILURE_DIGEST_MISMATCH, "digest", "it is %s, expected %s", digest,
                    copy->options->digest);
    if (copy->options->sync && fsync(copy->options->output_fd) < 0)
        return fail_errno(copy->failure, errno, "--output-fd", "making the copy durable");
    struct json_object *result = json_object_new_object();
    json_object_object_add(result, "bytes", json_object_new_uint64(copy->done));
    json_object_object_add(result, "digest", json_object_new_string(digest));
    report_result_take(result);
    return 0;
}

int command_verify_blob(struct options *options, struct failure *failure) {
    struct stat status;
    _cleanup_free_ uint8_t *buffer = malloc(CHUNK);
    struct copy copy = { .options = options, .buffer = buffer, .failure = failure };
    if (!buffer)
        return fail_errno(failure, ENOMEM, "", "copying");
    if (jail_confine(JAIL_PURE, options, options->max_bytes, failure) < 0)
        return -EBADMSG;
    if (fstat(options->input_fd, &status) == 0 && S_ISREG(status.st_mode))
        copy.total = (uint64_t) status.st_size;
    sha256_init(&copy.digest);
    int r;
    while ((r = copy_some(&copy)) > 0)
        ;
    return r < 0 ? r : copy_finish(&copy);
}
