// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"
#include "model/field.h"
#include "model/queue.h"

/* polderd's configuration: lines "name = value" of /etc/polder/polderd.conf (# starts a comment), each also a command line
 * option "--name value" that wins over the file. */

struct configuration {
    char *state;          /* directory */
    char *run;            /* directory */
    char *libexec;        /* directory of the helper programs */
    char *group;          /* of the socket */
    char *subnet;
    char **mount_roots;
    bool fake_driver;
    bool no_network;
    bool reader_socket;
    char *log_level;
    int64_t overcommit_cpu_container, overcommit_cpu_microvm, overcommit_cpu_vm, overcommit_cpu_fake; /* percent */
    int64_t overcommit_memory_container, overcommit_memory_microvm, overcommit_memory_vm, overcommit_memory_fake;
    uint64_t memory_reserve;
    uint64_t trash;       /* ms */
    struct queue_settings queue;
};
extern const struct table configuration_table;

struct manager_configuration;

struct stat;

/* May anybody but the owner and the owner's own group write it? */
bool others_can_write(const struct stat *status);
/* Defaults, then the file (absent is fine unless `explicit`), which must not be writable by others. Errors name the line. */
int configuration_read(const char *path, bool explicit_path, struct configuration *configuration, struct error *error);
/* One setting in its text form; lists grow, by each of the parts that blanks divide. Errors: those of table_decode_text. */
int configuration_set(const char *name, const char *value, struct configuration *configuration, struct error *error);
/* What the manager takes of it; texts are borrowed. */
void configuration_apply(const struct configuration *configuration, struct manager_configuration *ret);
