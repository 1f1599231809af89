// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* Allocating printf; NULL when out of memory. */
char *text_format(const char *format, ...) _printf_(1, 2);
bool text_equal(const char *a, const char *b); /* NULL equals NULL only */
bool text_starts(const char *text, const char *prefix);
bool text_ends(const char *text, const char *suffix);
bool text_is_empty(const char *text); /* NULL or "" */

/* Whole string must match. Return 0, -EINVAL (form) or -ERANGE. */
int text_parse_u64(const char *text, uint64_t *ret);
int text_parse_i64(const char *text, int64_t *ret);
/* "256M", "1.5GiB", "4g", "1000000": bytes; k, m, g, t, p with or without i/iB/B are powers of 1024 (as docker's -m). */
int text_parse_size(const char *text, uint64_t *ret_bytes);
/* "1.5" CPUs -> 1500 thousandths; at most three decimals. */
int text_parse_cpus(const char *text, uint64_t *ret_milli);
/* "10s", "1m30s", "500ms", "2h", "1d", "90" (seconds): milliseconds. */
int text_parse_duration(const char *text, uint64_t *ret_ms);

/* Human forms, allocated: "256MiB", "1.5", "3m12s". */
char *text_format_size(uint64_t bytes);
char *text_format_cpus(uint64_t milli);
char *text_format_duration(uint64_t ms);

bool text_is_utf8(const char *text, size_t size);
/* No C0/C1 control characters, no DEL, no bidirectional overrides; valid UTF-8. */
bool text_is_plain(const char *text);
/* Terminal columns of valid UTF-8 (wide and combining characters counted; control characters count 0). */
size_t text_width(const char *text);
/* Makes foreign bytes safe to show: control characters, bidi overrides and invalid UTF-8 become \xNN or \u{…};
 * newline and tab stay if `lines`. Allocated; NULL when out of memory. */
char *text_escape(const char *data, size_t size, bool lines);

/* Lists of strings: NULL-terminated arrays, each element and the array allocated. NULL is the empty list. */
size_t list_count(char *const *list);
void list_free(char **list);
int list_add(char ***list, const char *text);       /* copies */
int list_add_take(char ***list, char *text);        /* consumed even on failure; NULL text -> -ENOMEM */
int list_addf(char ***list, const char *format, ...) _printf_(2, 3);
int list_copy(char *const *list, char ***ret);
bool list_equal(char *const *a, char *const *b);
bool list_has(char *const *list, const char *text);
/* Splits at any run of characters of `separators`. */
int list_split(const char *text, const char *separators, char ***ret);
char *list_join(char *const *list, const char *separator);

/* Levenshtein distance, for suggestions; stops counting above `limit`. */
unsigned text_distance(const char *a, const char *b, unsigned limit);
/* The nearest of `words` (NULL-terminated) within a third of its length, or NULL. */
const char *text_suggest(const char *word, const char *const *words);

DEFINE_CLEANUP(char **, list_free)
#define _cleanup_list_ _cleanup_(list_freep)
