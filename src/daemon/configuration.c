// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/configuration.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "manager/manager.h"

#ifndef POLDER_LIBEXEC
#define POLDER_LIBEXEC "/usr/lib/polder"
#endif
#define CONFIGURATION_MAX 65536
#define PERCENT_MAX 100000

static const char *check_absolute(const char *text) {
    return text[0] == '/' ? NULL : "give an absolute path";
}

#define AT(member) offsetof(struct configuration, member)
static const struct field fields[] = {
    { .name = "state", .type = FIELD_TEXT, .offset = AT(state), .maximum = 4096, .initial = "/var/lib/polder",
      .check = check_absolute, .value = "DIR", .help = "where instances, images and the store are kept" },
    { .name = "run", .type = FIELD_TEXT, .offset = AT(run), .maximum = 64, .initial = "/run/polder",
      .check = check_absolute, .value = "DIR",
      .help = "where sockets and what a reboot may forget are kept (a short path: sockets live in it)" },
    { .name = "libexec", .type = FIELD_TEXT, .offset = AT(libexec), .maximum = 4096, .initial = POLDER_LIBEXEC,
      .check = check_absolute, .value = "DIR", .help = "where the helper programs are" },
    { .name = "group", .type = FIELD_TEXT, .offset = AT(group), .maximum = 64, .initial = "polder", .value = "GROUP",
      .help = "members may use the socket, which makes them equal to root" },
    { .name = "subnet", .type = FIELD_TEXT, .offset = AT(subnet), .maximum = 32, .value = "A.B.C.D/N",
      .help = "of the default network; chosen so that it collides with nothing when absent" },
    { .name = "mount_roots", .type = FIELD_LIST, .offset = AT(mount_roots), .maximum = 64, .check = check_absolute,
      .value = "DIR …", .help = "host directories beneath which --volume may take its source; blanks stand between them" },
    { .name = "fake_driver", .type = FIELD_BOOLEAN, .offset = AT(fake_driver), .initial = "false",
      .help = "offer --kind fake: instances without processes, for tests and demonstrations" },
    { .name = "no_network", .type = FIELD_BOOLEAN, .offset = AT(no_network), .initial = "false",
      .help = "offer no default network" },
    { .name = "reader_socket", .type = FIELD_BOOLEAN, .offset = AT(reader_socket), .initial = "true",
      .help = "let everybody on the host look (not touch) through a second socket" },
    { .name = "log_level", .type = FIELD_TEXT, .offset = AT(log_level), .maximum = 16, .initial = "info",
      .value = "LEVEL", .help = "error, warning, notice, info or debug" },
    { .name = "overcommit_cpu_container", .type = FIELD_INTEGER, .offset = AT(overcommit_cpu_container), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "1000", .value = "PERCENT", .help = "of the CPUs that containers may be promised" },
    { .name = "overcommit_cpu_microvm", .type = FIELD_INTEGER, .offset = AT(overcommit_cpu_microvm), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "400", .value = "PERCENT", .help = "of the CPUs that microVMs may be promised" },
    { .name = "overcommit_cpu_vm", .type = FIELD_INTEGER, .offset = AT(overcommit_cpu_vm), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "400", .value = "PERCENT", .help = "of the CPUs that VMs may be promised" },
    { .name = "overcommit_memory_container", .type = FIELD_INTEGER, .offset = AT(overcommit_memory_container), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "200", .value = "PERCENT", .help = "of the memory that containers may be promised" },
    { .name = "overcommit_memory_microvm", .type = FIELD_INTEGER, .offset = AT(overcommit_memory_microvm), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "100", .value = "PERCENT", .help = "of the memory that microVMs may be promised" },
    { .name = "overcommit_memory_vm", .type = FIELD_INTEGER, .offset = AT(overcommit_memory_vm), .minimum = 1,
      .maximum = PERCENT_MAX, .initial = "100", .value = "PERCENT", .help = "of the memory that VMs may be promised" },
    { .name = "overcommit_cpu_fake", .type = FIELD_INTEGER, .offset = AT(overcommit_cpu_fake), .minimum = 1,
      .maximum = 100 * PERCENT_MAX, .initial = "10000000", .value = "PERCENT",
      .help = "of the CPUs that fake instances may be promised: they take next to nothing" },
    { .name = "overcommit_memory_fake", .type = FIELD_INTEGER, .offset = AT(overcommit_memory_fake), .minimum = 1,
      .maximum = 100 * PERCENT_MAX, .initial = "10000000", .value = "PERCENT",
      .help = "of the memory that fake instances may be promised" },
    { .name = "memory_reserve", .type = FIELD_SIZE, .offset = AT(memory_reserve), .initial = "512M", .value = "SIZE",
      .help = "memory kept for the host" },
    { .name = "trash", .type = FIELD_DURATION, .offset = AT(trash), .initial = "1d", .maximum = UINT64_C(31536000000),
      .value = "DURATION", .help = "how long a deleted instance can be undeleted; 0 deletes at once" },
    { .name = "queue_policy", .type = FIELD_TEXT, .offset = AT(queue.policy), .maximum = 32, .initial = "polder",
      .value = "POLICY", .help = "who comes first among those that wait for room; 'polder node set' changes it live" },
    { .name = "queue_backfill", .type = FIELD_TEXT, .offset = AT(queue.backfill), .maximum = 32, .initial = "easy",
      .value = "KIND", .help = "who may go ahead of the first that does not fit: none, easy, easy-sjbf, conservative or greedy" },
    { .name = "queue_estimates", .type = FIELD_TEXT, .offset = AT(queue.estimates), .maximum = 32, .initial = "learning",
      .value = "KIND", .help = "how long a run is taken to last: requested, predicted from its class's last two, history or learning" },
    { .name = "queue_parameters", .type = FIELD_LIST, .offset = AT(queue.parameters), .maximum = 64, .value = "NAME=VALUE …",
      .help = "parameters of policies, such as rr.quantum=30; blanks stand between them" },
    { .name = "queue_residency", .type = FIELD_DURATION, .offset = AT(queue.residency), .maximum = 86400000,
      .initial = "30s", .value = "DURATION", .help = "how long nobody who started has to give way to others" },
};
const struct table configuration_table = TABLE("configuration", struct configuration, fields);

static int line_error(struct error *error, const char *path, unsigned number, const char *reason) {
    _cleanup_free_ char *place = text_format("%s, line %u", path, number);

    return error_set(error, ERROR_BAD_SOURCE, place, reason);
}

static char *strip(char *text) {
    size_t length;

    text += strspn(text, " \t\r");
    length = strlen(text);
    while (length > 0 && strchr(" \t\r", text[length - 1]))
        text[--length] = '\0';
    return text;
}

/* Several directories may stand on one line, as the help says. */
static int set_list(const struct field *field, const char *value, struct configuration *configuration,
                    struct error *error) {
    _cleanup_free_ char *copy = strdup(value);
    char *position = copy, *part;
    int r = copy ? 0 : error_errno(error, -ENOMEM, "reading the configuration");

    while (r >= 0 && (part = strsep(&position, " \t")))
        if (*part)
            r = table_decode_text(&configuration_table, field->name, part, configuration, error);
    return r;
}

int configuration_set(const char *name, const char *value, struct configuration *configuration, struct error *error) {
    const struct field *field = table_find(&configuration_table, name);

    if (field && field->type == FIELD_LIST)
        return set_list(field, value, configuration, error);
    return table_decode_text(&configuration_table, name, value, configuration, error);
}

static int read_line(const char *path, unsigned number, char *line, struct configuration *configuration,
                     struct error *error) {
    _cleanup_error_ struct error reason = ERROR_INIT;
    char *comment = strchr(line, '#'), *equals, *name, *value;

    if (comment)
        *comment = '\0';
    name = strip(line);
    if (*name == '\0')
        return 0;
    equals = strchr(name, '=');
    if (!equals)
        return line_error(error, path, number, "it has no '='");
    *equals = '\0';
    value = strip(equals + 1);
    name = strip(name);
    if (configuration_set(name, value, configuration, &reason) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&reason, LANGUAGE_ENGLISH);
        return line_error(error, path, number, sentence);
    }
    return 0;
}

bool others_can_write(const struct stat *status) {
    return (status->st_mode & S_IWOTH) || ((status->st_mode & S_IWGRP) && status->st_gid != getegid());
}

/* Who can write the directory can put another file in the place of one; a sticky one keeps others' files. */
static int check_directory(const char *path, struct error *error) {
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *directory = slash > path ? strndup(path, (size_t) (slash - path)) : strdup(slash ? "/" : ".");
    struct stat status;

    if (!directory)
        return -ENOMEM;
    if (stat(directory, &status) < 0)
        return -errno;
    if ((status.st_uid != geteuid() && status.st_uid != 0) || (others_can_write(&status) && !(status.st_mode & S_ISVTX)))
        return error_set(error, ERROR_BAD_SOURCE, directory, "it must be a directory of root's that others cannot write");
    return 0;
}

/* Whoever can write this file is root: refuse one that others could have written. */
static int check_owner(const char *path, struct error *error) {
    struct stat status;

    if (stat(path, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || others_can_write(&status))
        return error_set(error, ERROR_BAD_SOURCE, path, "it must be a regular file of this user that others cannot write");
    return check_directory(path, error);
}

int configuration_read(const char *path, bool explicit_path, struct configuration *configuration, struct error *error) {
    _cleanup_free_ char *text = NULL;
    char *position, *line;
    unsigned number = 0;
    int r = check_owner(path, error);

    if (r == -ENOENT && !explicit_path)
        return 0;
    if (r >= 0)
        r = file_read(AT_FDCWD, path, CONFIGURATION_MAX, &text, NULL);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "reading %s", path);
    position = text;
    while (r >= 0 && (line = strsep(&position, "\n")))
        r = read_line(path, ++number, line, configuration, error);
    return r;
}

void configuration_apply(const struct configuration *configuration, struct manager_configuration *ret) {
    *ret = (struct manager_configuration){
        .state_path = configuration->state,
        .run_path = configuration->run,
        .libexec_path = configuration->libexec,
        .subnet = configuration->subnet,
        .mount_roots = configuration->mount_roots,
        .fake_driver = configuration->fake_driver,
        .network = !configuration->no_network,
        .memory_reserve = configuration->memory_reserve,
        .trash_seconds = configuration->trash / 1000,
        .queue = &configuration->queue,
    };
    ret->overcommit_cpu[KIND_CONTAINER] = (uint64_t) configuration->overcommit_cpu_container;
    ret->overcommit_cpu[KIND_MICROVM] = (uint64_t) configuration->overcommit_cpu_microvm;
    ret->overcommit_cpu[KIND_VM] = (uint64_t) configuration->overcommit_cpu_vm;
    ret->overcommit_memory[KIND_CONTAINER] = (uint64_t) configuration->overcommit_memory_container;
    ret->overcommit_memory[KIND_MICROVM] = (uint64_t) configuration->overcommit_memory_microvm;
    ret->overcommit_memory[KIND_VM] = (uint64_t) configuration->overcommit_memory_vm;
    ret->overcommit_cpu[KIND_FAKE] = (uint64_t) configuration->overcommit_cpu_fake;
    ret->overcommit_memory[KIND_FAKE] = (uint64_t) configuration->overcommit_memory_fake;
}
