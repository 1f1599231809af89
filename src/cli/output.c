// SPDX-License-Identifier: GPL-2.0-or-later
/* Tables are laid out by libsmartcols, which is loaded only when one is printed: most calls print none, and starting
 * quickly matters. */
#include "cli/output.h"

#include <dlfcn.h>
#include <errno.h>
#include <json-c/json.h>
#include <libsmartcols/libsmartcols.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/terminal.h"

struct json_object *json_path(struct json_object *object, const char *path) {
    while (object && path && *path) {
        _cleanup_free_ char *name = strndup(path, strcspn(path, "."));
        if (!name)
            return NULL;
        object = json_member(object, name);
        path += strlen(name);
        path += *path == '.';
    }
    return object;
}

const char *json_path_text(struct json_object *object, const char *path, const char *fallback) {
    struct json_object *member = json_path(object, path);

    return member && !json_object_is_type(member, json_type_null) ? json_object_get_string(member) : fallback;
}

/* --- JSON and YAML ------------------------------------------------------------------------------------------------- */

/* json-c puts the two brackets of what is empty on two lines. */
static void print_compact(const char *text) {
    bool quoted = false;

    for (const char *c = text; *c; c++) {
        const char *next = c + 1;

        if (quoted && *c == '\\') {
            putchar(*c++);
        } else if (*c == '"') {
            quoted = !quoted;
        } else if (!quoted && (*c == '[' || *c == '{')) {
            next += strspn(next, " \n");
            if (*next == *c + 2) { /* ']' or '}' */
                putchar(*c);
                c = next;
            }
        }
        putchar(*c);
    }
    putchar('\n');
}

int output_json(struct json_object *object) {
    print_compact(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE));
    return 0;
}

static bool is_plain_yaml(const char *text) {
    static const char *const words[] = { "true", "false", "yes", "no", "on", "off", "null", "~", "y", "n", NULL };

    if (!*text || !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/_", text[0]))
        return false;
    for (const char *c = text; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-", *c))
            return false;
    for (size_t i = 0; words[i]; i++)
        if (!strcasecmp(words[i], text))
            return false;
    return true;
}

/* JSON's string form is YAML's double-quoted form. */
static void yaml_text(struct json_object *object) {
    const char *text = json_object_get_string(object);

    fputs(is_plain_yaml(text) ? text : json_object_to_json_string_ext(object, JSON_C_TO_STRING_NOSLASHESCAPE), stdout);
}

static void yaml_value(struct json_object *object, unsigned depth);

static bool is_container(struct json_object *object) {
    return (json_object_is_type(object, json_type_object) && json_object_object_length(object) > 0) ||
           (json_object_is_type(object, json_type_array) && json_object_array_length(object) > 0);
}

static void yaml_scalar(struct json_object *object) {
    if (json_object_is_type(object, json_type_string))
        yaml_text(object);
    else
        fputs(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN), stdout);
    putchar('\n');
}

static void yaml_members(struct json_object *object, unsigned depth, bool indented) {
    json_object_object_foreach(object, key, value) {
        printf("%*s", indented ? (int) depth * 2 : 0, "");
        indented = true;
        if (is_plain_yaml(key)) {
            fputs(key, stdout);
        } else {
            struct json_object *name = json_object_new_string(key);
            yaml_text(name);
            json_object_put(name);
        }
        fputs(is_container(value) ? ":\n" : ": ", stdout);
        yaml_value(value, depth + 1);
    }
}

static void yaml_value(struct json_object *object, unsigned depth) {
    if (!is_container(object)) {
        yaml_scalar(object);
        return;
    }
    if (json_object_is_type(object, json_type_object)) {
        yaml_members(object, depth, true);
        return;
    }
    for (size_t i = 0; i < json_object_array_length(object); i++) {
        struct json_object *item = json_object_array_get_idx(object, i);
        printf("%*s- ", (int) depth * 2, "");
        if (json_object_is_type(item, json_type_object) && is_container(item)) {
            yaml_members(item, depth + 1, false);
        } else {
            if (is_container(item))
                putchar('\n');
            yaml_value(item, depth + 1);
        }
    }
}

int output_yaml(struct json_object *object) {
    yaml_value(object, 0);
    return 0;
}

int output_object(const struct invocation *invocation, struct json_object *object, const char *name_path,
                  struct error *error) {
    switch (invocation->output) {
    case OUTPUT_YAML:
        return output_yaml(object);
    case OUTPUT_NAME:
        print_escaped(stdout, json_path_text(object, name_path, ""), strlen(json_path_text(object, name_path, "")),
                      false);
        putchar('\n');
        return 0;
    case OUTPUT_CSV:
    case OUTPUT_WIDE:
    case OUTPUT_TABLE:
        if (invocation->output_given)
            return error_set(error, ERROR_USAGE, "this prints json, yaml or name");
        return output_json(object);
    case OUTPUT_JSON:
        break;
    }
    return output_json(object);
}

/* --- lists ---------------------------------------------------------------------------------------------------------- */

/* Safe to show: names are checked, but much of a row may be a guest's own words. */
static char *cell_text(const struct column *column, struct json_object *row) {
    _cleanup_free_ char *made = column->cell ? column->cell(row) : NULL;
    const char *text = column->cell ? made : json_path_text(row, column->path, NULL);

    return text ? text_escape(text, strlen(text), false) : strdup("");
}

static void csv_cell(const char *text, bool first) {
    if (!first)
        putchar(',');
    if (!strpbrk(text, ",\"\n")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

void output_csv_titles(const struct view *view) {
    for (size_t i = 0; i < view->count; i++)
        csv_cell(view->columns[i].title, i == 0);
    putchar('\n');
}

void output_csv_row(const struct view *view, struct json_object *row) {
    for (size_t i = 0; i < view->count; i++) {
        _cleanup_free_ char *text = cell_text(&view->columns[i], row);
        csv_cell(text ? text : "", i == 0);
    }
    putchar('\n');
}

static int output_csv(const struct view *view, struct json_object *rows) {
    output_csv_titles(view);
    for (size_t i = 0; i < json_object_array_length(rows); i++)
        output_csv_row(view, json_object_array_get_idx(rows, i));
    return 0;
}

static int output_names(const struct view *view, struct json_object *rows) {
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        const char *name = json_path_text(json_object_array_get_idx(rows, i), view->name, NULL);
        if (!name)
            continue;
        print_escaped(stdout, name, strlen(name), false);
        putchar('\n');
    }
    return 0;
}

/* The functions that are used of libsmartcols. */
struct smartcols {
    void *handle;
    struct libscols_table *(*new_table)(void);
    struct libscols_column *(*new_column)(struct libscols_table *, const char *, double, int);
    struct libscols_line *(*new_line)(struct libscols_table *, struct libscols_line *);
    int (*set_data)(struct libscols_line *, size_t, const char *);
    struct libscols_cell *(*get_cell)(struct libscols_line *, size_t);
    int (*set_colour)(struct libscols_cell *, const char *);
    int (*enable_colours)(struct libscols_table *, int);
    int (*print_table)(struct libscols_table *);
    void (*unref_table)(struct libscols_table *);
};

static int smartcols_load(struct smartcols *ret, struct error *error) {
    const struct {
        const char *name;
        void **function;
    } functions[] = {
        { "scols_new_table", (void **) &ret->new_table },
        { "scols_table_new_column", (void **) &ret->new_column },
        { "scols_table_new_line", (void **) &ret->new_line },
        { "scols_line_set_data", (void **) &ret->set_data },
        { "scols_line_get_cell", (void **) &ret->get_cell },
        { "scols_cell_set_color", (void **) &ret->set_colour },
        { "scols_table_enable_colors", (void **) &ret->enable_colours },
        { "scols_print_table", (void **) &ret->print_table },
        { "scols_unref_table", (void **) &ret->unref_table },
    };

    ret->handle = dlopen("libsmartcols.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!ret->handle)
        return error_set(error, ERROR_HOST_LACKS, "libsmartcols", "install libsmartcols1, or use -o json");
    for (size_t i = 0; i < ELEMENTS(functions); i++) {
        *functions[i].function = dlsym(ret->handle, functions[i].name);
        if (!*functions[i].function)
            return error_set(error, ERROR_HOST_LACKS, functions[i].name, "libsmartcols is too old; use -o json");
    }
    return 0;
}

static bool is_shown(const struct column *column, bool wide) {
    return wide || !column->wide;
}

static int fill_row(const struct smartcols *smartcols, const struct view *view, bool wide, bool colours,
                    struct json_object *row, struct libscols_line *line) {
    size_t shown = 0;

    for (size_t i = 0; i < view->count; i++) {
        const struct column *column = &view->columns[i];
        _cleanup_free_ char *text = NULL;

        if (!is_shown(column, wide))
            continue;
        text = cell_text(column, row);
        if (!text || smartcols->set_data(line, shown, *text ? text : "-") != 0)
            return -ENOMEM;
        if (colours && column->colour && column->colour(text))
            (void) smartcols->set_colour(smartcols->get_cell(line, shown), column->colour(text));
        shown++;
    }
    return 0;
}

static int fill_table(const struct smartcols *smartcols, const struct view *view, bool wide, bool colours,
                      struct json_object *rows, struct libscols_table *table) {
    for (size_t i = 0; i < view->count; i++)
        if (is_shown(&view->columns[i], wide) &&
            !smartcols->new_column(table, view->columns[i].title, 0.01,
                                   view->columns[i].right ? SCOLS_FL_RIGHT : 0))
            return -ENOMEM;
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        struct libscols_line *line = smartcols->new_line(table, NULL);
        if (!line || fill_row(smartcols, view, wide, colours, json_object_array_get_idx(rows, i), line) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* libsmartcols prints nothing of an empty table. */
static int output_empty(const struct view *view, bool wide) {
    if (view->empty) {
        puts(view->empty);
        return 0;
    }
    for (size_t i = 0; i < view->count; i++)
        if (is_shown(&view->columns[i], wide))
            printf("%s%s", i ? " " : "", view->columns[i].title);
    putchar('\n');
    return 0;
}

static int output_table(const struct view *view, bool wide, struct json_object *rows, struct error *error) {
    bool colours = terminal_has_colours(stdout);
    struct smartcols smartcols = { 0 };
    struct libscols_table *table;
    int r;

    if (json_object_array_length(rows) == 0)
        return output_empty(view, wide);
    r = smartcols_load(&smartcols, error);
    if (r < 0)
        return r;
    (void) setlocale(LC_CTYPE, "");
    table = smartcols.new_table();
    if (!table)
        return error_set(error, ERROR_NO_MEMORY, "");
    (void) smartcols.enable_colours(table, colours);
    r = fill_table(&smartcols, view, wide, colours, rows, table);
    if (r == 0)
        (void) smartcols.print_table(table);
    smartcols.unref_table(table);
    return r < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
}

int output_list(const struct invocation *invocation, const struct view *view, struct json_object *rows,
                struct json_object *document, struct error *error) {
    if (!json_object_is_type(rows, json_type_array))
        return error_set(error, ERROR_INTERNAL, "reading the list", "polderd sent none");
    if (invocation->quiet)
        return output_names(view, rows);
    switch (invocation->output) {
    case OUTPUT_JSON:
        return output_json(document ? document : rows);
    case OUTPUT_YAML:
        return output_yaml(document ? document : rows);
    case OUTPUT_CSV:
        return output_csv(view, rows);
    case OUTPUT_NAME:
        return output_names(view, rows);
    case OUTPUT_TABLE:
    case OUTPUT_WIDE:
        break;
    }
    return output_table(view, invocation->output == OUTPUT_WIDE, rows, error);
}
