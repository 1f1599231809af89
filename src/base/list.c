// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"

/* The lists of text.h. The array grows at powers of two, so its allocation is known from its count. */

size_t list_count(char *const *list) {
    size_t count = 0;

    while (list && list[count])
        count++;
    return count;
}

void list_free(char **list) {
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

int list_add_take(char ***list, char *text) {
    _cleanup_free_ char *owned = text;
    size_t count = list_count(*list);

    if (!text)
        return -ENOMEM;
    /* count texts and the NULL fill the array exactly when count + 1 is a power of two. */
    if ((count & (count + 1)) == 0) {
        char **grown = reallocarray(*list, (count + 1) * 2, sizeof(char *));

        if (!grown)
            return -ENOMEM;
        *list = grown;
    }
    (*list)[count] = STEAL_PTR(owned);
    (*list)[count + 1] = NULL;
    return 0;
}

int list_add(char ***list, const char *text) {
    return list_add_take(list, strdup(text));
}

int list_addf(char ***list, const char *format, ...) {
    va_list arguments;
    char *text;
    int length;

    va_start(arguments, format);
    length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return list_add_take(list, length < 0 ? NULL : text);
}

int list_copy(char *const *list, char ***ret) {
    _cleanup_list_ char **copy = NULL;

    for (size_t i = 0; list && list[i]; i++) {
        int r = list_add(&copy, list[i]);

        if (r < 0)
            return r;
    }
    *ret = STEAL_PTR(copy);
    return 0;
}

bool list_equal(char *const *a, char *const *b) {
    size_t count = list_count(a);

    if (count != list_count(b))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(a[i], b[i]) != 0)
            return false;
    return true;
}

bool list_has(char *const *list, const char *text) {
    for (size_t i = 0; list && list[i]; i++)
        if (strcmp(list[i], text) == 0)
            return true;
    return false;
}

int list_split(const char *text, const char *separators, char ***ret) {
    _cleanup_list_ char **list = NULL;

    for (;;) {
        size_t length;
        int r;

        text += strspn(text, separators);
        length = strcspn(text, separators);
        if (length == 0)
            break;
        r = list_add_take(&list, strndup(text, length));
        if (r < 0)
            return r;
        text += length;
    }
    *ret = STEAL_PTR(list);
    return 0;
}

char *list_join(char *const *list, const char *separator) {
    _cleanup_buffer_ struct buffer joined = BUFFER_INIT;
    char *text = NULL;

    for (size_t i = 0; list && list[i]; i++) {
        if (i > 0)
            buffer_add_text(&joined, separator);
        buffer_add_text(&joined, list[i]);
    }
    if (buffer_take(&joined, &text) < 0)
        return NULL;
    return text;
}
