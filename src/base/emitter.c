// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* The writing half of json.h. */

static void new_line(struct emitter *emitter) {
    if (!emitter->pretty)
        return;
    buffer_add_char(emitter->out, '\n');
    for (unsigned i = 0; i < emitter->depth; i++)
        buffer_add_text(emitter->out, "  ");
}

/* What stands before an element or a key. */
static void begin(struct emitter *emitter) {
    if (emitter->keyed) {
        emitter->keyed = false;
        return;
    }
    if (emitter->comma)
        buffer_add_char(emitter->out, ',');
    if (emitter->depth > 0)
        new_line(emitter);
}

static void open_level(struct emitter *emitter, char bracket) {
    begin(emitter);
    buffer_add_char(emitter->out, bracket);
    emitter->depth++;
    emitter->comma = false;
}

static void close_level(struct emitter *emitter, char bracket) {
    emitter->depth--;
    if (emitter->comma)
        new_line(emitter);
    buffer_add_char(emitter->out, bracket);
    emitter->comma = true;
}

void emit_object(struct emitter *emitter) {
    open_level(emitter, '{');
}

void emit_object_end(struct emitter *emitter) {
    close_level(emitter, '}');
}

void emit_array(struct emitter *emitter) {
    open_level(emitter, '[');
}

void emit_array_end(struct emitter *emitter) {
    close_level(emitter, ']');
}

/* The character after the backslash, or 0 if the byte needs none or a \u form. */
static char short_escape(unsigned char c) {
    switch (c) {
    case '"':
        return '"';
    case '\\':
        return '\\';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return '\0';
    }
}

/* The bytes of the UTF-8 character at text, or 0 if there is none. */
static size_t character_size(const char *text, size_t left) {
    unsigned char lead = (unsigned char) *text;
    size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    return size <= left && text_is_utf8(text, size) ? size : 0;
}

static void add_quoted(struct buffer *out, const char *text, size_t size) {
    size_t plain = 0; /* where the run of bytes that need nothing starts */

    buffer_add_char(out, '"');
    for (size_t i = 0; i < size;) {
        unsigned char c = (unsigned char) text[i];
        char escape = short_escape(c);
        size_t length = c < 0x80 ? 1 : character_size(text + i, size - i);

        if (c >= 0x20 && c != 0x7f && !escape && length > 0) {
            i += length;
            continue;
        }
        buffer_add(out, text + plain, i - plain);
        if (length == 0)
            buffer_add_text(out, "\xef\xbf\xbd");
        else if (escape)
            buffer_add(out, (char[2]){ '\\', escape }, 2);
        else
            buffer_addf(out, "\\u%04x", c);
        plain = ++i;
    }
    buffer_add(out, text + plain, size - plain);
    buffer_add_char(out, '"');
}

void emit_key(struct emitter *emitter, const char *key) {
    begin(emitter);
    add_quoted(emitter->out, key, strlen(key));
    buffer_add_text(emitter->out, emitter->pretty ? ": " : ":");
    emitter->comma = true;
    emitter->keyed = true;
}

void emit_raw(struct emitter *emitter, const char *json) {
    begin(emitter);
    buffer_add_text(emitter->out, json);
    emitter->comma = true;
}

void emit_text_sized(struct emitter *emitter, const char *text, size_t size) {
    begin(emitter);
    add_quoted(emitter->out, text, size);
    emitter->comma = true;
}

void emit_text(struct emitter *emitter, const char *text) {
    if (text)
        emit_text_sized(emitter, text, strlen(text));
    else
        emit_null(emitter);
}

/* By hand: a checkpoint of the engine has some hundred thousand. */
static void add_digits(struct emitter *emitter, uint64_t value, bool negative) {
    char text[24], *at = text + sizeof(text);

    begin(emitter);
    do
        *--at = (char) ('0' + value % 10);
    while (value /= 10);
    if (negative)
        *--at = '-';
    buffer_add(emitter->out, at, (size_t) (text + sizeof(text) - at));
    emitter->comma = true;
}

void emit_integer(struct emitter *emitter, int64_t value) {
    add_digits(emitter, value < 0 ? -(uint64_t) value : (uint64_t) value, value < 0);
}

void emit_unsigned(struct emitter *emitter, uint64_t value) {
    add_digits(emitter, value, false);
}

/* The shortest form that reads back as the same number. */
void emit_double(struct emitter *emitter, double value) {
    char text[40];
    char *comma;

    if (!isfinite(value)) {
        emit_null(emitter);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    comma = strchr(text, ','); /* the decimal point of some locales */
    if (comma)
        *comma = '.';
    emit_raw(emitter, text);
}

void emit_boolean(struct emitter *emitter, bool value) {
    emit_raw(emitter, value ? "true" : "false");
}

void emit_null(struct emitter *emitter) {
    emit_raw(emitter, "null");
}

void emit_key_text(struct emitter *emitter, const char *key, const char *text) {
    emit_key(emitter, key);
    emit_text(emitter, text);
}

void emit_key_integer(struct emitter *emitter, const char *key, int64_t value) {
    emit_key(emitter, key);
    emit_integer(emitter, value);
}

void emit_key_unsigned(struct emitter *emitter, const char *key, uint64_t value) {
    emit_key(emitter, key);
    emit_unsigned(emitter, value);
}

void emit_key_boolean(struct emitter *emitter, const char *key, bool value) {
    emit_key(emitter, key);
    emit_boolean(emitter, value);
}

void emit_key_list(struct emitter *emitter, const char *key, char *const *list) {
    emit_key(emitter, key);
    emit_array(emitter);
    for (size_t i = 0; list && list[i]; i++)
        emit_text(emitter, list[i]);
    emit_array_end(emitter);
}

void emit_error(struct emitter *emitter, const struct error *problem) {
    _cleanup_free_ char *sentence = error_sentence(problem, LANGUAGE_ENGLISH);

    emit_object(emitter);
    emit_key_text(emitter, "code", error_wire(problem->code));
    emit_key_integer(emitter, "status", error_http_status(problem->code));
    emit_key_text(emitter, "detail", sentence);
    if (problem->subject)
        emit_key_text(emitter, "subject", problem->subject);
    emit_key(emitter, "parameters");
    emit_array(emitter);
    for (unsigned i = 0; i < ERROR_PARAMETERS && problem->parameters[i]; i++)
        emit_text(emitter, problem->parameters[i]);
    emit_array_end(emitter);
    emit_object_end(emitter);
}
