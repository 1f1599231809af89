// SPDX-License-Identifier: GPL-2.0-or-later
/* qemu-img runs inside the jail, where the image is /in, the result /out, and nothing else of the host is but
 * its programs and libraries, read-only. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "commands.h"
#include "jail.h"
#include "probe.h"

#define QEMU_IMG "/usr/bin/qemu-img"

struct conversion {
    pid_t pid;
    int progress_fd, errors_fd;
    char line[128]; /* of progress, until its end */
    size_t line_used;
    char message[FAILURE_MESSAGE_MAX]; /* the first of what it says on stderr */
    size_t message_used;
};

static void conversion_done(struct conversion *conversion) {
    if (conversion->pid > 0) {
        kill(conversion->pid, SIGKILL);
        waitpid(conversion->pid, NULL, 0);
    }
    worker_closep(&conversion->progress_fd);
    worker_closep(&conversion->errors_fd);
}

/* ---- starting ---- */

static const char *format_of(const struct disk_facts *facts) {
    return strcmp(facts->format, "iso") == 0 ? "raw" : facts->format;
}

static _noreturn_ void exec_qemu_img(const char *format, int progress_fd, int errors_fd) {
    const char *const words[] = { "qemu-img", "convert",   "-p",
                                  "-f",       format,      "-O",
                                  "qcow2",    "-o",        "compat=1.1,cluster_size=65536,lazy_refcounts=off",
                                  JAIL_INPUT, JAIL_OUTPUT, NULL };
    const char *const environment[] = { "LC_ALL=C", "MALLOC_ARENA_MAX=2", NULL };
    if (dup2(progress_fd, STDOUT_FILENO) >= 0 && dup2(errors_fd, STDERR_FILENO) >= 0)
        execve(QEMU_IMG, (char *const *) words, (char *const *) environment);
    _exit(errno == ENOENT ? 127 : 126);
}

static int conversion_start(struct conversion *conversion, const struct disk_facts *facts,
                            struct failure *failure) {
    int progress[2], errors[2];
    if (pipe2(progress, O_CLOEXEC) < 0)
        return fail_errno(failure, errno, "", "making a pipe");
    conversion->progress_fd = progress[0];
    _cleanup_fd_ int progress_in = progress[1];
    if (pipe2(errors, O_CLOEXEC) < 0)
        return fail_errno(failure, errno, "", "making a pipe");
    conversion->errors_fd = errors[0];
    _cleanup_fd_ int errors_in = errors[1];
    conversion->pid = fork();
    if (conversion->pid < 0)
        return fail_errno(failure, errno, "", "starting qemu-img");
    if (conversion->pid == 0)
        exec_qemu_img(format_of(facts), progress_in, errors_in);
    return 0;
}

/* ---- following ---- */

/* "    (12.34/100%)\r" */
static void take_progress(struct conversion *conversion, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (data[i] != '\r' && data[i] != '\n') {
            if (conversion->line_used + 1 < sizeof(conversion->line))
                conversion->line[conversion->line_used++] = data[i];
            continue;
        }
        unsigned whole, hundredths;
        conversion->line[conversion->line_used] = 0;
        conversion->line_used = 0;
        if (sscanf(conversion->line, " (%u.%2u/100%%)", &whole, &hundredths) == 2 && whole <= 100)
            report_progress(whole * 100 + hundredths, 10000);
    }
}

static void take_message(struct conversion *conversion, const char *data, size_t size) {
    for (size_t i = 0; i < size && conversion->message_used + 1 < sizeof(conversion->message); i++)
        conversion->message[conversion->message_used++] = data[i] == '\n' ? ' ' : data[i];
}

static void follow(struct conversion *conversion) {
    char data[4096];
    ssize_t n;
    /* qemu-img says little on stderr, far less than a pipe holds, so the two need not be read at the same
     * time. */
    while ((n = read(conversion->progress_fd, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            take_progress(conversion, data, (size_t) n);
    while ((n = read(conversion->errors_fd, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            take_message(conversion, data, (size_t) n);
    while (conversion->message_used > 0 && conversion->message[conversion->message_used - 1] == ' ')
        conversion->message_used--;
    conversion->message[conversion->message_used] = 0;
}

static int judge(struct conversion *conversion, int status, struct failure *failure) {
    const char *message = conversion->message;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
        return fail(failure, FAILURE_LIMIT_CPU, "", "converting it needs more processor time than allowed");
    if (WIFEXITED(status) && WEXITSTATUS(status) >= 126)
        return fail(failure, FAILURE_JAIL, "", "%s cannot be run; the package qemu-utils has it", QEMU_IMG);
    if (strstr(message, strerror(ENOSPC)))
        return fail(failure, FAILURE_NO_SPACE, "", "no space left while converting the image");
    if (strstr(message, strerror(EFBIG)))
        return fail(failure, FAILURE_LIMIT_BYTES, "", "the converted image is larger than allowed");
    return fail(failure, FAILURE_CONVERT, "", "qemu-img could not convert it: %s",
                *message ? message : "it crashed");
}

static int conversion_finish(struct conversion *conversion, struct failure *failure) {
    int status;
    pid_t pid = conversion->pid;
    follow(conversion);
    conversion->pid = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return fail_errno(failure, errno, "", "waiting for qemu-img");
    return judge(conversion, status, failure);
}

/* ---- the whole ---- */

static int check_output(int fd, struct failure *failure) {
    struct stat status;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size != 0)
        return fail(failure, FAILURE_USAGE, "--output-fd", "it must be an empty regular file");
    return 0;
}

/* What came out is looked at like what came in. */
static int report_converted(const struct options *options, const struct disk_facts *from,
                            struct failure *failure) {
    struct disk disk;
    struct disk_facts facts;
    struct stat status;
    if (options->sync && fsync(options->output_fd) < 0)
        return fail_errno(failure, errno, "--output-fd", "making the image durable");
    if (disk_from_fd(options->output_fd, &disk, failure) < 0 ||
        disk_probe(&disk, "qcow2", UINT64_MAX, &facts, failure) < 0)
        return -EBADMSG;
    if (fstat(options->output_fd, &status) < 0)
        return fail_errno(failure, errno, "--output-fd", "measuring the image");
    struct json_object *result = json_object_new_object();
    json_object_object_add(result, "format", json_object_new_string(facts.format));
    json_object_object_add(result, "from", json_object_new_string(from->format));
    json_object_object_add(result, "virtual_size", json_object_new_uint64(facts.virtual_size));
    json_object_object_add(result, "file_size", json_object_new_uint64(disk.size));
    json_object_object_add(result, "size_on_disk", json_object_new_uint64((uint64_t) status.st_blocks * 512));
    return report_result_take(result);
}

static int convert(const struct options *options, const struct disk_facts *facts, struct failure *failure) {
    _cleanup_(
        conversion_done) struct conversion conversion = { .pid = -1, .progress_fd = -1, .errors_fd = -1 };
    if (conversion_start(&conversion, facts, failure) < 0 || conversion_finish(&conversion, failure) < 0)
        return -EBADMSG;
    return report_converted(options, facts, failure);
}

int command_convert_disk(struct options *options, struct failure *failure) {
    struct disk disk;
    struct disk_facts facts;
    if (check_output(options->output_fd, failure) < 0)
        return -EBADMSG;
    if (jail_confine(JAIL_CONVERT, options, options->max_bytes, failure) < 0 ||
        disk_from_fd(options->input_fd, &disk, failure) < 0 ||
        disk_probe(&disk, options->declared, options->max_virtual, &facts, failure) < 0)
        return -EBADMSG;
    return convert(options, &facts, failure);
}
