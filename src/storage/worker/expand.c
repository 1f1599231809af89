// SPDX-License-Identifier: GPL-2.0-or-later
#include "expand.h"

#include <archive.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

#include "jail.h"

#define CHUNK (256u << 10)
#define RATIO_FREE \
    (256ULL << 20) /* output that the ratio does not count against: small images are often repetitive */
#define PROGRESS_FILE_MAX (1u << 20) /* what may be written where stdout is a file */
#define GZIP_MEMBERS_MAX 256 /* pigz and friends write one; stargz one per file, and is refused beyond this \
                              */

/* The expander's whole state: where it reads, where it writes, what it counted. */
struct expansion {
    int input_fd, output_fd;
    const struct options *options;
    uint64_t total; /* of the input, 0 = unknown */
    struct sha256_ctx packed_digest;
    uint8_t *buffer; /* CHUNK bytes of input */
    size_t ahead;    /* bytes in the buffer that were read to detect the compression */
    uint64_t packed, unpacked;
    struct failure failure;
};

/* ---- media types ---- */

struct media_row {
    const char *type;
    enum compression compression;
};

static const struct media_row media_rows[] = {
    { "application/vnd.docker.image.rootfs.diff.tar.gzip", COMPRESSION_GZIP },
    { "application/vnd.docker.image.rootfs.diff.tar.zstd", COMPRESSION_ZSTD },
    { "application/vnd.docker.image.rootfs.diff.tar", COMPRESSION_NONE },
    { "application/vnd.oci.image.layer.v1.tar+gzip", COMPRESSION_GZIP },
    { "application/vnd.oci.image.layer.v1.tar+zstd", COMPRESSION_ZSTD },
    { "application/vnd.oci.image.layer.v1.tar", COMPRESSION_NONE },
};

int compression_from_media_type(const char *media_type, enum compression *ret, struct failure *failure) {
    for (size_t i = 0; i < ELEMENTS(media_rows); i++)
        if (strcmp(media_rows[i].type, media_type) == 0) {
            *ret = media_rows[i].compression;
            return 0;
        }
    return fail(failure, FAILURE_MEDIA_TYPE, "media-type", "'%s' is not a layer type that can be unpacked",
                media_type);
}

struct magic_row {
    const char *bytes;
    size_t length;
    enum compression compression;
};

static const struct magic_row magic_rows[] = {
    { "\x1f\x8b\x08", 3, COMPRESSION_GZIP },
    { "\x28\xb5\x2f\xfd", 4, COMPRESSION_ZSTD },
    { "\xfd\x37zXZ\0", 6, COMPRESSION_XZ },
    { "BZh", 3, COMPRESSION_BZIP2 },
    { "\x04\x22\x4d\x18", 4, COMPRESSION_LZ4 },
};

static enum compression compression_detect(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < ELEMENTS(magic_rows); i++)
        if (size >= magic_rows[i].length && memcmp(data, magic_rows[i].bytes, magic_rows[i].length) == 0)
            return magic_rows[i].compression;
    return COMPRESSION_NONE;
}

/* ---- reading and writing ---- */

/* Reads up to CHUNK bytes into the buffer, hashed and counted. 0 at the end. */
static ssize_t input_read(struct expansion *expansion) {
    if (expansion->ahead > 0) {
        size_t ahead = expansion->ahead;
        expansion->ahead = 0;
        return (ssize_t) ahead;
    }
    ssize_t n;
    do
        n = read(expansion->input_fd, expansion->buffer, CHUNK);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(&expansion->failure, errno, "", "reading the blob");
    sha256_update(&expansion->packed_digest, (size_t) n, expansion->buffer);
    expansion->packed += (uint64_t) n;
    report_progress(expansion->packed, expansion->total);
    return n;
}

static int check_limits(struct expansion *expansion) {
    const struct options *options = expansion->options;
    if (expansion->unpacked > options->max_bytes)
        return fail(&expansion->failure, FAILURE_LIMIT_BYTES, "", "it unpacks to more than %llu bytes",
                    (unsigned long long) options->max_bytes);
    if (expansion->unpacked > RATIO_FREE && expansion->unpacked / options->max_ratio > expansion->packed)
        return fail(&expansion->failure, FAILURE_LIMIT_RATIO, "",
                    "it unpacks to more than %llu times its size", (unsigned long long) options->max_ratio);
    return 0;
}

static int output_write(struct expansion *expansion, const uint8_t *data, size_t size) {
    expansion->unpacked += size;
    if (check_limits(expansion) < 0)
        return -EBADMSG;
    while (size > 0) {
        ssize_t n = write(expansion->output_fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(&expansion->failure, errno, "", "handing on unpacked bytes");
        data += n;
        size -= (size_t) n;
    }
    return 0;
}

/* ---- gzip: zlib itself, which checks the checksum and shows where a member ends ---- */

static int inflate_all(struct expansion *expansion, z_stream *stream, uint8_t *output, bool *ret_ended) {
    int r;
    do {
        stream->next_out = output;
        stream->avail_out = CHUNK;
        r = inflate(stream, Z_NO_FLUSH);
        if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
            return fail(&expansion->failure, FAILURE_COMPRESSION, "", "damaged gzip data: %s",
                        stream->msg ? stream->msg : "no more is known");
        if (output_write(expansion, output, CHUNK - stream->avail_out) < 0)
            return -EBADMSG;
    } while (r == Z_OK && (stream->avail_in > 0 || stream->avail_out == 0));
    *ret_ended = r == Z_STREAM_END;
    return 0;
}

/* One piece of input, which may hold the end of one member and the start of the next. */
static int inflate_chunk(struct expansion *expansion, z_stream *stream, uint8_t *output, bool *ended,
                         unsigned *members) {
    while (stream->avail_in > 0) {
        if (*ended) {
            if (stream->next_in[0] != 0x1f)
                return fail(&expansion->failure, FAILURE_TRAILING, "",
                            "data after the end of the gzip stream");
            if (++*members > GZIP_MEMBERS_MAX)
                return fail(&expansion->failure, FAILURE_COMPRESSION, "", "more than %d gzip members",
                            GZIP_MEMBERS_MAX);
            inflateReset(stream);
        }
        if (inflate_all(expansion, stream, output, ended) < 0)
            return -EBADMSG;
    }
    return 0;
}

static int expand_gzip_with(struct expansion *expansion, z_stream *stream, uint8_t *output) {
    bool ended = false;
    unsigned members = 1;
    for (;;) {
        ssize_t n = input_read(expansion);
        if (n < 0)
            return -EBADMSG;
        if (n == 0)
            break;
        stream->next_in = expansion->buffer;
        stream->avail_in = (unsigned) n;
        if (inflate_chunk(expansion, stream, output, &ended, &members) < 0)
            return -EBADMSG;
    }
    return ended ? 0 : fail(&expansion->failure, FAILURE_TRUNCATED, "", "the gzip stream is cut short");
}

static int expand_gzip(struct expansion *expansion) {
    z_stream stream = { 0 };
    _cleanup_free_ uint8_t *output = malloc(CHUNK);
    if (!output || inflateInit2(&stream, 15 + 16) != Z_OK)
        return fail_errno(&expansion->failure, ENOMEM, "", "unpacking");
    int r = expand_gzip_with(expansion, &stream, output);
    inflateEnd(&stream);
    return r;
}

/* ---- no compression ---- */

static int expand_none(struct expansion *expansion) {
    for (;;) {
        ssize_t n = input_read(expansion);
        if (n <= 0)
            return (int) n;
        if (output_write(expansion, expansion->buffer, (size_t) n) < 0)
            return -EBADMSG;
    }
}

/* ---- the others: one filter of libarchive around a stream of bytes ---- */

static void archive_freep(struct archive **archive) {
    if (*archive)
        archive_read_free(*archive);
}

static la_ssize_t archive_input(struct archive *archive, void *data, const void **ret) {
    struct expansion *expansion = data;
    ssize_t n = input_read(expansion);
    *ret = expansion->buffer;
    if (n >= 0)
        return n;
    archive_set_error(archive, EIO, "%s", "reading the blob failed");
    return ARCHIVE_FATAL;
}

static int archive_failure(struct expansion *expansion, struct archive *archive) {
    const char *message = archive_error_string(archive);
    bool is_short = message && strcasestr(message, "truncated");
    return fail(&expansion->failure, is_short ? FAILURE_TRUNCATED : FAILURE_COMPRESSION, "",
                "damaged compressed data: %s", message ? message : "no more is known");
}

static int support_filter(struct archive *archive, enum compression compression) {
    switch (compression) {
    case COMPRESSION_ZSTD:
        return archive_read_support_filter_zstd(archive);
    case COMPRESSION_XZ:
        return archive_read_support_filter_xz(archive);
    case COMPRESSION_BZIP2:
        return archive_read_support_filter_bzip2(archive);
    case COMPRESSION_LZ4:
        return archive_read_support_filter_lz4(archive);
    default:
        return ARCHIVE_FATAL;
    }
}

static int copy_archive(struct expansion *expansion, struct archive *archive) {
    const void *data;
    size_t size;
    la_int64_t offset, expected = 0;
    for (;;) {
        int r = archive_read_data_block(archive, &data, &size, &offset);
        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK || offset != expected)
            return archive_failure(expansion, archive);
        expected += (la_int64_t) size;
        if (output_write(expansion, data, size) < 0)
            return -EBADMSG;
    }
}

static int expand_archive(struct expansion *expansion, enum compression compression) {
    struct archive_entry *entry;
    _cleanup_(archive_freep) struct archive *archive = archive_read_new();
    if (!archive || support_filter(archive, compression) != ARCHIVE_OK ||
        archive_read_support_format_raw(archive) != ARCHIVE_OK)
        return fail(&expansion->failure, FAILURE_INTERNAL, "", "this libarchive lacks the compression");
    if (archive_read_open(archive, expansion, NULL, archive_input, NULL) != ARCHIVE_OK ||
        archive_read_next_header(archive, &entry) != ARCHIVE_OK)
        return archive_failure(expansion, archive);
    if (archive_filter_count(archive) != 2) /* ours and the plain stream beneath it */
        return fail(&expansion->failure, FAILURE_COMPRESSION, "", "compressed more than once");
    if (copy_archive(expansion, archive) < 0)
        return -EBADMSG;
    /* What the filter did not take, it took for the end: refuse it. */
    uint64_t used = (uint64_t) archive_filter_bytes(archive, -1);
    if (input_read(expansion) != 0 || used != expansion->packed)
        return fail(&expansion->failure, FAILURE_TRAILING, "", "data after the end of the compressed stream");
    return 0;
}

/* ---- the process ---- */

static int expand(struct expansion *expansion, enum compression wanted) {
    ssize_t first = input_read(expansion);
    if (first < 0)
        return -EBADMSG;
    if (first == 0)
        return fail(&expansion->failure, FAILURE_TRUNCATED, "", "the blob is empty");
    expansion->ahead = (size_t) first;
    enum compression found = compression_detect(expansion->buffer, (size_t) first);
    if (wanted != COMPRESSION_DETECT && wanted != found)
        return fail(&expansion->failure, FAILURE_MEDIA_TYPE, "media-type",
                    "the blob is not compressed as its media type says");
    if (found == COMPRESSION_NONE)
        return expand_none(expansion);
    return found == COMPRESSION_GZIP ? expand_gzip(expansion) : expand_archive(expansion, found);
}

static void send_report(int fd, struct expansion *expansion) {
    struct expand_report report = {
        .failure = expansion->failure,
        .packed = expansion->packed,
        .unpacked = expansion->unpacked,
    };
    digest_finish(&expansion->packed_digest, report.digest);
    _Static_assert(sizeof(report) <= 4096, "a report must fit one atomic write to a pipe");
    if (write(fd, &report, sizeof(report)) != (ssize_t) sizeof(report))
        _exit(2);
}

static _noreturn_ void run_expander(const struct options *options, enum compression compression,
                                    int output_fd, int report_fd) {
    struct stat status;
    struct expansion expansion = { .input_fd = options->input_fd,
                                   .output_fd = output_fd,
                                   .options = options };
    close(options->root_fd);
    sha256_init(&expansion.packed_digest);
    expansion.buffer = malloc(CHUNK);
    if (fstat(options->input_fd, &status) == 0 && S_ISREG(status.st_mode))
        expansion.total = (uint64_t) status.st_size;
    if (!expansion.buffer)
        _exit(2);
    if (jail_confine(JAIL_PURE, options, PROGRESS_FILE_MAX, &expansion.failure) == 0)
        expand(&expansion, compression);
    close(output_fd);
    send_report(report_fd, &expansion);
    free(expansion.buffer);
    exit(0);
}

int expander_start(struct expander *expander, const struct options *options, enum compression compression,
                   struct failure *failure) {
    int stream[2], report[2];
    if (pipe2(stream, O_CLOEXEC) < 0)
        return fail_errno(failure, errno, "", "making a pipe");
    expander->stream_fd = stream[0];
    _cleanup_fd_ int stream_in = stream[1];
    if (pipe2(report, O_CLOEXEC) < 0)
        return fail_errno(failure, errno, "", "making a pipe");
    expander->report_fd = report[0];
    _cleanup_fd_ int report_in = report[1];
    struct options inherited = *options;
    _cleanup_fd_ int self = inherited.parent_pidfd = pidfd_open(getpid(), 0);
    fcntl(stream_in, F_SETPIPE_SZ, 1 << 20); /* fewer switches; the default works too */
    expander->pid = self < 0 ? -1 : fork();
    if (expander->pid < 0)
        return fail_errno(failure, errno, "", "starting the expander");
    if (expander->pid == 0) {
        close(expander->stream_fd);
        close(expander->report_fd);
        close(options->parent_pidfd);
        run_expander(&inherited, compression, stream_in, report_in);
    }
    return 0;
}

static int wait_expander(struct expander *expander, struct failure *failure) {
    int status;
    pid_t pid = expander->pid;
    expander->pid = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return fail_errno(failure, errno, "", "waiting for the expander");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return fail(failure, FAILURE_JAIL_VIOLATION, "",
                    "the expander tried a system call that its jail forbids");
    if (WIFSIGNALED(status))
        return fail(failure, FAILURE_KILLED, "", "the expander was killed by signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == JAIL_EXIT_CPU)
        return fail(failure, FAILURE_LIMIT_CPU, "", "it needs more processor time than allowed");
    return fail(failure, FAILURE_INTERNAL, "", "the expander ended with status %d", WEXITSTATUS(status));
}

int expander_finish(struct expander *expander, struct expand_report *ret, struct failure *failure) {
    struct expand_report report;
    ssize_t n = read(expander->report_fd, &report, sizeof(report));
    if (wait_expander(expander, failure) < 0)
        return -EBADMSG;
    if (n != (ssize_t) sizeof(report))
        return fail(failure, FAILURE_KILLED, "", "the expander ended without a report");
    /* It worked on foreign bytes: nothing in it is taken to be well-formed. */
    report.digest[sizeof(report.digest) - 1] = 0;
    report.failure.field[sizeof(report.failure.field) - 1] = 0;
    report.failure.message[sizeof(report.failure.message) - 1] = 0;
    *ret = report;
    return 0;
}

void expander_done(struct expander *expander) {
    if (expander->pid > 0) {
        struct failure ignored = { 0 };
        kill(expander->pid, SIGKILL);
        wait_expander(expander, &ignored);
    }
    worker_closep(&expander->stream_fd);
    worker_closep(&expander->report_fd);
    *expander = EXPANDER_INIT;
}
