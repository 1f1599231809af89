// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"
#include "cli/command.h"

/* A list of JSON objects printed as a table, CSV, names, JSON or YAML. */

struct column {
    const char *title; /* "MEMORY" */
    /* The cell as text (allocated), NULL: empty. Foreign bytes are escaped by the caller of this. */
    char *(*cell)(struct json_object *object);
    const char *path;  /* in place of `cell`: a dotted member, "status.state" */
    bool wide;         /* shown with -o wide only (and in CSV) */
    bool right;        /* numbers */
    /* SGR colour of a cell ("31"), or NULL; on a terminal only. */
    const char *(*colour)(const char *text);
};

struct view {
    const struct column *columns;
    size_t count;
    const char *name; /* dotted member that -o name and --quiet print */
    /* A sentence in place of a table without rows, for what is an answer rather than a list of objects; NULL: the titles alone, as
     * Docker and Incus print them. */
    const char *empty;
};

/* rows: a JSON array; document: what -o json and yaml print (NULL: rows). */
int output_list(const struct invocation *invocation, const struct view *view, struct json_object *rows,
                struct json_object *document, struct error *error);
/* The same as CSV bit by bit, for what comes one after the other. */
void output_csv_titles(const struct view *view);
void output_csv_row(const struct view *view, struct json_object *row);
/* One object: JSON unless another format was asked. */
int output_object(const struct invocation *invocation, struct json_object *object, const char *name_path,
                  struct error *error);
int output_json(struct json_object *object);
int output_yaml(struct json_object *object);
/* "a.b.c" -> the member; borrowed. */
struct json_object *json_path(struct json_object *object, const char *path);
const char *json_path_text(struct json_object *object, const char *path, const char *fallback);
