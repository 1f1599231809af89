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

static _noreturn_ void exec_qemu_img(const char *const *words, int output_fd, int errors_fd) {
    const char *const environment[] = { "LC_ALL=C", "MALLOC_ARENA_MAX=2", NULL };
    if (dup2(output_fd, STDOUT_FILENO) >= 0 && dup2(errors_fd, STDERR_FILENO) >= 0)
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
    if (conversion->pid == 0) {
        const char *const words[] = { "qemu-img", "convert",   "-p",
                                      "-f",       format_of(facts), "-O",
                                      "qcow2",    "-o",        "compat=1.1,cluster_size=65536,lazy_refcounts=off",
                                      JAIL_INPUT, JAIL_OUTPUT, NULL };
        exec_qemu_img(words, progress_in, errors_in);
    }
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
    while (conversion->progress_fd >= 0 &&
           ((n = read(conversion->progress_fd, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR)))
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

/* ---- is all of it there? ---- */

/* A conversion reads what lies beyond the end of a file as zeros: half a download would become a disk that is half empty.
 * The checkers of these formats notice it; the header of a VDI tells (probe-virtual.c), and the others' readers refuse. */
static bool has_checker(const char *format) {
    return strcmp(format, "qcow2") == 0 || strcmp(format, "vmdk") == 0;
}

/* `words` are qemu-img's. */
static int check_start(struct conversion *check, const char *const *words, struct failure *failure) {
    int output[2];
    if (pipe2(output, O_CLOEXEC) < 0)
        return fail_errno(failure, errno, "", "making a pipe");
    check->errors_fd = output[0];
    _cleanup_fd_ int output_in = output[1];
    check->pid = fork();
    if (check->pid < 0)
        return fail_errno(failure, errno, "", "starting qemu-img");
    if (check->pid == 0)
        exec_qemu_img(words, output_in, output_in);
    return 0;
}

/* Status 3 is space that is lost, nothing else. */
static int check_run(const char *const *words, struct failure *failure) {
    _cleanup_(conversion_done) struct conversion check = { .pid = -1, .progress_fd = -1, .errors_fd = -1 };
    int status;
    if (check_start(&check, words, failure) < 0)
        return -EBADMSG;
    follow(&check);
    while (waitpid(check.pid, &status, 0) < 0)
        if (errno != EINTR)
            return fail_errno(failure, errno, "", "waiting for qemu-img");
    check.pid = -1;
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3))
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 2)
        return fail(failure, FAILURE_TRUNCATED, "", "it is cut off or damaged: %.200s", check.message);
    return judge(&check, status, failure);
}

static int check_whole(const struct disk_facts *facts, struct failure *failure) {
    const char *const words[] = { "qemu-img", "check", "-f", format_of(facts), JAIL_INPUT, NULL };
    return has_checker(facts->format) ? check_run(words, failure) : 0;
}

/* Who uses the disk at this moment is not kept from it (-U). */
int command_check_disk(struct options *options, struct failure *failure) {
    static const char disk[] = "json:{\"driver\":\"qcow2\",\"backing\":null,"
                               "\"file\":{\"driver\":\"file\",\"filename\":\"" JAIL_INPUT "\"}}";
    const char *const words[] = { "qemu-img", "check", "-U", disk, NULL };
    if (jail_confine(JAIL_CONVERT, options, 1 << 20, failure) < 0 || check_run(words, failure) < 0)
        return -EBADMSG;
    return report_result_take(json_object_new_object());
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
        disk_probe(&disk, options->declared, options->max_virtual, &facts, failure) < 0 ||
        check_whole(&facts, failure) < 0)
        return -EBADMSG;
    return convert(options, &facts, failure);
}
