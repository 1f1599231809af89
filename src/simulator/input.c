// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/input.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/text.h"

#define UNUSED_NAMES 8
#define UNUSED_LENGTH 40

struct input {
    struct archive *archive;
    char *path;
    char *member;       /* name of the text within an archive, or NULL */
    uint64_t size;      /* of the file as it lies there */
    uint64_t line;
    char *data;         /* what was unpacked and not yet handed out: [begin, end) */
    size_t begin, end, room;
    bool ended;
};

void input_free(struct input *input) {
    if (!input)
        return;
    if (input->archive)
        archive_read_free(input->archive);
    free(input->path);
    free(input->member);
    free(input->data);
    free(input);
}

int input_refuse(const struct input *input, struct error *error, const char *field, const char *problem, ...) {
    char text[512], line[24];
    va_list arguments;

    va_start(arguments, problem);
    vsnprintf(text, sizeof(text), problem, arguments);
    va_end(arguments);
    snprintf(line, sizeof(line), "%llu", (unsigned long long) input->line);
    _cleanup_free_ char *file =
        input->member ? text_format("%s (%s)", input->path, input->member) : text_format("%s", input->path);
    return error_set(error, ERROR_BAD_INPUT, file, line, field, text);
}

static int open_archive(struct input *input, bool members, struct error *error) {
    struct archive_entry *entry;
    struct stat status;

    if (stat(input->path, &status) < 0)
        return errno == ENOENT ? error_set(error, ERROR_NOT_FOUND, "file", input->path)
                               : error_errno(error, -errno, "opening %s", input->path);
    if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode) && !S_ISCHR(status.st_mode))
        return error_set(error, ERROR_BAD_SOURCE, input->path, "it is not a file");
    input->size = (uint64_t) status.st_size;
    input->archive = archive_read_new();
    if (!input->archive)
        return error_errno(error, -ENOMEM, "opening %s", input->path);
    archive_read_support_filter_gzip(input->archive);
    archive_read_support_filter_xz(input->archive);
    archive_read_support_filter_bzip2(input->archive);
    archive_read_support_filter_zstd(input->archive);
    if (members) {
        archive_read_support_format_tar(input->archive);
    } else {
        archive_read_support_format_raw(input->archive);
        archive_read_support_format_empty(input->archive);
    }
    if (archive_read_open_filename(input->archive, input->path, 1 << 16) != ARCHIVE_OK)
        return input_refuse(input, error, "file", "%s", archive_error_string(input->archive));
    if (members)
        return 0;
    int r = archive_read_next_header(input->archive, &entry);
    if (r == ARCHIVE_EOF)
        input->ended = true;
    else if (r != ARCHIVE_OK)
        return input_refuse(input, error, "file", "%s", archive_error_string(input->archive));
    return 0;
}

static int input_make(const char *path, bool members, struct input **ret, struct error *error) {
    _cleanup_input_ struct input *input = calloc(1, sizeof(*input));
    int r;

    if (!input)
        return error_errno(error, -ENOMEM, "opening %s", path);
    input->path = strdup(path);
    if (!input->path)
        return error_errno(error, -ENOMEM, "opening %s", path);
    input->ended = members;
    r = open_archive(input, members, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(input);
    return 0;
}

int input_open(const char *path, struct input **ret, struct error *error) {
    return input_make(path, false, ret, error);
}

int input_open_archive(const char *path, struct input **ret, struct error *error) {
    return input_make(path, true, ret, error);
}

int input_member(struct input *input, const char **ret_name, struct error *error) {
    struct archive_entry *entry;

    for (;;) {
        int r = archive_read_next_header(input->archive, &entry);
        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK)
            return input_refuse(input, error, "archive", "%s", archive_error_string(input->archive));
        if (archive_entry_filetype(entry) == AE_IFREG && archive_entry_pathname(entry))
            break;
    }
    free(input->member);
    input->member = strdup(archive_entry_pathname(entry));
    if (!input->member)
        return error_errno(error, -ENOMEM, "reading %s", input->path);
    input->begin = input->end = 0;
    input->line = 0;
    input->ended = false;
    *ret_name = input->member;
    return 1;
}

/* Unpacks some more behind what is left. */
static int refill(struct input *input, struct error *error) {
    la_ssize_t size;

    if (input->begin > 0)
        memmove(input->data, input->data + input->begin, input->end - input->begin);
    input->end -= input->begin;
    input->begin = 0;
    if (input->room - input->end < (1 << 16) + 1) {
        size_t room = input->room ? input->room * 2 : 1 << 18;
        char *data = realloc(input->data, room);
        if (!data)
            return error_errno(error, -ENOMEM, "reading %s", input->path);
        input->data = data;
        input->room = room;
    }
    size = archive_read_data(input->archive, input->data + input->end, input->room - input->end - 1);
    if (size < 0) {
        const char *problem = archive_error_string(input->archive);
        return input_refuse(input, error, "file", "%s", problem ? problem : "it cannot be unpacked");
    }
    input->ended = size == 0;
    input->end += (size_t) size;
    return 0;
}

int input_look(struct input *input, char *ret, struct error *error) {
    size_t at = 0;
    int r = 0;

    for (;;) {
        while (input->begin + at < input->end && strchr(" \t", input->data[input->begin + at]))
            at++;
        if (input->begin + at < input->end || input->ended || at > INPUT_LINE_LIMIT)
            break;
        r = refill(input, error);
        if (r < 0)
            return r;
    }
    *ret = input->begin + at < input->end ? input->data[input->begin + at] : '\0';
    *ret = *ret == '\n' || *ret == '\r' ? '\0' : *ret;
    return 0;
}

int input_line(struct input *input, char **ret, struct error *error) {
    size_t searched = 0;
    char *found = NULL;
    int r;

    for (;;) {
        if (input->end > input->begin + searched)
            found = memchr(input->data + input->begin + searched, '\n', input->end - input->begin - searched);
        if (found || input->ended)
            break;
        searched = input->end - input->begin;
        if (searched > INPUT_LINE_LIMIT) {
            input->line++;
            return input_refuse(input, error, "line", "it is longer than %d bytes", INPUT_LINE_LIMIT);
        }
        r = refill(input, error);
        if (r < 0)
            return r;
    }
    if (!found && input->begin == input->end)
        return 0;
    input->line++;
    char *line = input->data + input->begin;
    size_t size = (size_t) ((found ? found : input->data + input->end) - line);
    input->begin += size + (found ? 1 : 0);
    if (size > INPUT_LINE_LIMIT)
        return input_refuse(input, error, "line", "it is longer than %d bytes", INPUT_LINE_LIMIT);
    if (memchr(line, '\0', size))
        return input_refuse(input, error, "line", "it contains a zero byte: this is no text");
    if (size > 0 && line[size - 1] == '\r')
        size--;
    line[size] = '\0';
    *ret = line;
    return 1;
}

double input_progress(const struct input *input) {
    if (input->size == 0)
        return 0;
    double share = (double) archive_filter_bytes(input->archive, -1) / (double) input->size;
    return share > 1 ? 1 : share;
}

uint64_t input_line_number(const struct input *input) {
    return input->line;
}

size_t input_split(char *line, char separator, char **fields, size_t maximum) {
    size_t count = 0;
    char *at = line;

    for (;;) {
        if (separator == ' ')
            at += strspn(at, " \t");
        if (separator == ' ' && *at == '\0')
            return count;
        if (count < maximum)
            fields[count] = at;
        count++;
        at += separator == ' ' ? strcspn(at, " \t") : strcspn(at, (const char[]){ separator, '\0' });
        if (*at == '\0')
            return count;
        *at++ = '\0';
    }
}

/* Names are foreign: as much of them as a line shows, and nothing that a terminal obeys. */
static void append_name(struct buffer *text, const char *name) {
    size_t length = strnlen(name, UNUSED_LENGTH);

    for (size_t i = 0; i < length; i++)
        buffer_add(text, (unsigned char) name[i] < ' ' || (unsigned char) name[i] >= 0x7f ? "?" : name + i, 1);
    if (name[length] != '\0')
        buffer_add_text(text, "...");
}

void input_tell_unused(const struct input *input, char *const *fields, const bool *used, size_t count) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        if (used[i] || found++ >= UNUSED_NAMES)
            continue;
        buffer_add_text(&text, found > 1 ? ", " : "");
        append_name(&text, fields[i]);
    }
    if (found == 0 || text.failed)
        return;
    fprintf(stderr, "%s: columns not used: %s", input->path, text.data);
    if (found > UNUSED_NAMES)
        fprintf(stderr, " and %zu more", found - UNUSED_NAMES);
    fputc('\n', stderr);
}

int input_integer(const struct input *input, const char *name, const char *text, int64_t minimum, int64_t maximum,
                  int64_t *ret, struct error *error) {
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (end == text || *end != '\0')
        return input_refuse(input, error, name, "'%.40s' is not a whole number", text);
    if (errno == ERANGE || value < minimum || value > maximum)
        return input_refuse(input, error, name, "'%.40s' is not between %lld and %lld", text, (long long) minimum,
                            (long long) maximum);
    *ret = value;
    return 0;
}

int input_decimal(const struct input *input, const char *name, const char *text, double minimum, double maximum,
                  double *ret, struct error *error) {
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !isfinite(value))
        return input_refuse(input, error, name, "'%.40s' is not a number", text);
    if (value < minimum || value > maximum)
        return input_refuse(input, error, name, "'%.40s' is not between %g and %g", text, minimum, maximum);
    *ret = value;
    return 0;
}
