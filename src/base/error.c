// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/text.h"

/* Longer parameters are cut: an error must not grow with the input that caused it. */
#define PARAMETER_MAX 1024

struct error_row {
    const char *wire;
    int number;
    int http;
    int status;
    const char *sentences[2]; /* by enum language */
};

static const struct error_row rows[ERROR_CODE_COUNT] = {
    [ERROR_NONE] = { "none", 0, 200, 0, { "no error", "没有错误" } },
#define ERROR_ROW(code, wire, number, http, status, english, chinese)                                        \
    [ERROR_##code] = { wire, number, http, status, { english, chinese } },
#include "base/errors.def"
#undef ERROR_ROW
};

static const struct error_row *row_of(enum error_code code) {
    if ((unsigned) code >= ERROR_CODE_COUNT)
        code = ERROR_INTERNAL;
    return &rows[code];
}

/* A copy of at most PARAMETER_MAX bytes that does not end within a UTF-8 character. */
static char *parameter_copy(const char *text) {
    size_t length;

    if (!text)
        return NULL;
    length = strnlen(text, PARAMETER_MAX + 1);
    if (length <= PARAMETER_MAX)
        return strdup(text);
    length = PARAMETER_MAX;
    while (length > 0 && ((unsigned char) text[length] & 0xc0) == 0x80)
        length--;
    return text_format("%.*s…", (int) length, text);
}

int error_set_parameters(struct error *error, enum error_code code, const char *const *parameters,
                         unsigned count) {
    const struct error_row *row = row_of(code);

    if (error && !error_is_set(error)) {
        error_clear(error);
        error->code = code;
        for (unsigned i = 0; i < count && i < ERROR_PARAMETERS; i++)
            error->parameters[i] = parameter_copy(parameters[i]);
    }
    return -row->number;
}

int error_errno(struct error *error, int r, const char *what, ...) {
    _cleanup_buffer_ struct buffer sentence = BUFFER_INIT;
    const char *text;
    va_list arguments;

    if (!error || error_is_set(error))
        return r;
    va_start(arguments, what);
    buffer_addv(&sentence, what, arguments);
    va_end(arguments);
    text = sentence.failed || !sentence.data ? what : sentence.data;
    switch (-r) {
    case ENOSPC:
    case EDQUOT:
        error_set(error, ERROR_NO_SPACE, text);
        break;
    case ENOMEM:
        error_set(error, ERROR_NO_MEMORY);
        break;
    case ECANCELED:
        error_set(error, ERROR_CANCELED, text);
        break;
    case ETIMEDOUT:
        error_set(error, ERROR_TIMEOUT, text, "its deadline");
        break;
    default:
        error_set(error, ERROR_INTERNAL, text, strerrordesc_np(-r) ?: "unknown error");
    }
    return r;
}

int error_subject(struct error *error, const char *type, const char *name) {
    if (!error || !error_is_set(error))
        return 0;
    if (!error->subject) {
        _cleanup_free_ char *subject = text_format("%s '%s'", type, name);

        error->subject = parameter_copy(subject);
    }
    return -error_number(error->code);
}

bool error_is_set(const struct error *error) {
    return error && error->code != ERROR_NONE;
}

void error_clear(struct error *error) {
    free(error->subject);
    for (unsigned i = 0; i < ERROR_PARAMETERS; i++)
        free(error->parameters[i]);
    *error = (struct error) ERROR_INIT;
}

void error_move(struct error *target, struct error *source) {
    if (target == source)
        return;
    if (!target) {
        error_clear(source);
        return;
    }
    error_clear(target);
    *target = *source;
    *source = (struct error) ERROR_INIT;
}

void error_copy(struct error *target, const struct error *source) {
    struct error copy = { .code = source->code };

    if (!target || target == source)
        return;
    copy.subject = source->subject ? strdup(source->subject) : NULL;
    for (unsigned i = 0; i < ERROR_PARAMETERS; i++)
        copy.parameters[i] = source->parameters[i] ? strdup(source->parameters[i]) : NULL;
    error_clear(target);
    *target = copy;
}

/* Parameters often hold what a client or a guest sent, so they are escaped on their way into a sentence. */
static void add_escaped(struct buffer *buffer, const char *text) {
    _cleanup_free_ char *safe = NULL;

    if (!text)
        return;
    safe = text_escape(text, strlen(text), false);
    if (safe)
        buffer_add_text(buffer, safe);
    else
        buffer->failed = true;
}

char *error_sentence(const struct error *error, enum language language) {
    _cleanup_buffer_ struct buffer sentence = BUFFER_INIT;
    const char *p = row_of(error->code)->sentences[language == LANGUAGE_CHINESE];
    char *text = NULL;

    if (error->subject) {
        add_escaped(&sentence, error->subject);
        buffer_add_text(&sentence, language == LANGUAGE_CHINESE ? "：" : ": ");
    }
    for (; *p; p++) {
        if (p[0] == '{' && p[1] >= '0' && p[1] < '0' + ERROR_PARAMETERS && p[2] == '}') {
            add_escaped(&sentence, error->parameters[p[1] - '0']);
            p += 2;
        } else {
            buffer_add_char(&sentence, *p);
        }
    }
    if (buffer_take(&sentence, &text) < 0)
        return NULL;
    return text;
}

const char *error_wire(enum error_code code) {
    return row_of(code)->wire;
}

int error_http_status(enum error_code code) {
    return row_of(code)->http;
}

int error_exit_status(enum error_code code) {
    return row_of(code)->status;
}

int error_number(enum error_code code) {
    return row_of(code)->number;
}

enum error_code error_from_wire(const char *wire) {
    for (unsigned i = ERROR_NONE + 1; wire && i < ERROR_CODE_COUNT; i++)
        if (strcmp(rows[i].wire, wire) == 0)
            return (enum error_code) i;
    return ERROR_NONE;
}
