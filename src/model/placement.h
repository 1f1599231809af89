// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "model/field.h"

/* Where an instance may run, as users write it. Each is a list of terms, all of which must hold when it starts:
 *
 *   node_labels    KEY=VALUE, KEY!=VALUE   a label of the node
 *   features       NAME                    a feature of the node's processor
 *   tolerations    KEY[=VALUE]             a taint of the node that does not keep it away; KEY alone: any value
 *   affinity       SELECTOR[:LEVEL]        instances near which it must be
 *   anti_affinity  SELECTOR[:LEVEL]        instances that must not be near it, nor it near them
 *   spread         SELECTOR[:LEVEL]        instances that are to be as many in each node, rack or zone, it among them
 *
 * SELECTOR is KEY=VALUE or KEY, a label of instances, or name=NAME. LEVEL is node (if not told), rack or zone; a node's labels
 * "rack" and "zone" say where it lies. */

enum placement_level { /* the engine's enum node_level */
    PLACEMENT_NODE,
    PLACEMENT_RACK,
    PLACEMENT_ZONE,
    PLACEMENT_LEVELS,
};
extern const char *const placement_level_names[PLACEMENT_LEVELS + 1];

#define PLACEMENT_TERMS 8 /* of each list; affinity, anti_affinity and spread together */

/* The term without its level; allocated, NULL without memory. *ret_level may be NULL. */
char *placement_selector(const char *term, enum placement_level *ret_level);
/* Does the term of an affinity, with or without its level, select an instance of this name and these labels ("KEY=VALUE")? */
bool placement_selects(const char *term, const char *name, char *const *labels);
enum placement_level placement_level(const char *term);
/* Does a node of these labels meet the term of node_labels? */
bool placement_label_holds(const char *term, char *const *labels);
/* Does one of the tolerations answer the taint ("KEY" or "KEY=VALUE")? */
bool placement_tolerates(char *const *tolerations, const char *taint);
/* Of KEY!=VALUE the term that is refused, KEY=VALUE; allocated. NULL: the term asks for its label, or there is no memory. */
char *placement_refused_label(const char *term);

/* Checks of single terms: the reason in English, or NULL. */
const char *placement_check_node_label(const char *text);
const char *placement_check_feature(const char *text);
const char *placement_check_toleration(const char *text);
const char *placement_check_selector(const char *text);

struct instance_spec;
/* Names terms that contradict each other, and their field: BAD_VALUE. `name`: of the instance; NULL: not known yet. */
int placement_validate(const struct instance_spec *spec, const char *name, struct error *error);

/* What is set on a node, and kept. */
struct node_settings {
    char **labels; /* "KEY=VALUE" */
    char **taints; /* "KEY=VALUE"; "KEY=" is one without a value */
};
extern const struct table node_settings_table;
