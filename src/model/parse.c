// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/instance.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

/* The short forms of the command line: ports, mounts, restart policies, signals. */

static int refuse(const char *field, const char *text, const char *reason, struct error *error) {
    return error_set(error, ERROR_BAD_VALUE, field, text, reason);
}

static int set_text(char **target, const char *text, size_t size, struct error *error) {
    free(*target);
    *target = strndup(text, size);
    return *target ? 0 : error_set(error, ERROR_NO_MEMORY);
}

static int port_number(const char *text, const char *whole, int64_t *ret, struct error *error) {
    uint64_t number;
    int r = text_parse_u64(text, &number);

    if (r == -EINVAL)
        return refuse("publish", whole, "give HOST_PORT:PORT, [ADDRESS:]HOST_PORT:PORT[/udp]", error);
    if (r < 0 || number < 1 || number > 65535)
        return error_set(error, ERROR_OUT_OF_RANGE, "publish", "1", "65535", text);
    *ret = (int64_t) number;
    return 0;
}

/* Cuts "/udp" off. */
static int port_protocol(char *text, const char *whole, int *ret, struct error *error) {
    char *slash = strchr(text, '/');

    *ret = PROTOCOL_TCP;
    if (!slash)
        return 0;
    *slash++ = '\0';
    if (strcmp(slash, "udp") == 0)
        *ret = PROTOCOL_UDP;
    else if (strcmp(slash, "tcp") != 0)
        return refuse("publish", whole, "the protocol is tcp or udp", error);
    return 0;
}

int port_parse(const char *text, struct instance_port *ret, struct error *error) {
    _cleanup_free_ char *work = strdup(text);
    struct in_addr address;
    char *inner;
    char *outer;
    int r;

    if (!work)
        return error_set(error, ERROR_NO_MEMORY);
    r = port_protocol(work, text, &ret->protocol, error);
    if (r < 0)
        return r;
    inner = strrchr(work, ':');
    if (!inner)
        return refuse("publish", text, "give HOST_PORT:PORT; polder chooses no host port by itself", error);
    *inner++ = '\0';
    outer = strrchr(work, ':');
    if (outer) {
        *outer++ = '\0';
        if (inet_pton(AF_INET, work, &address) != 1)
            return refuse("publish", text, "the address is no IPv4 address", error);
        r = set_text(&ret->host_address, work, strlen(work), error);
        if (r < 0)
            return r;
    }
    r = port_number(outer ? outer : work, text, &ret->host_port, error);
    return r < 0 ? r : port_number(inner, text, &ret->port, error);
}

int mount_parse_volume(const char *text, struct instance_mount *ret, struct error *error) {
    const char *target = strchr(text, ':');
    const char *options;
    int r;

    if (text[0] != '/' || !target)
        return refuse("volume", text, "give /HOST/DIRECTORY:/DIRECTORY[:ro]", error);
    r = set_text(&ret->source, text, (size_t) (target - text), error);
    if (r < 0)
        return r;
    target++;
    options = strchr(target, ':');
    r = set_text(&ret->target, target, options ? (size_t) (options - target) : strlen(target), error);
    if (r < 0)
        return r;
    ret->type = MOUNT_BIND;
    ret->read_only = options && strcmp(options, ":ro") == 0;
    if (options && !ret->read_only && strcmp(options, ":rw") != 0)
        return refuse("volume", text, "the options are ro and rw", error);
    return 0;
}

static int mount_type(const char *value, struct instance_mount *ret, const char *whole, struct error *error) {
    if (strcmp(value, "bind") == 0)
        ret->type = MOUNT_BIND;
    else if (strcmp(value, "tmpfs") == 0)
        ret->type = MOUNT_TMPFS;
    else
        return refuse("mount", whole, "the type is bind or tmpfs", error);
    return 0;
}

static int mount_read_only(const char *value, struct instance_mount *ret, const char *whole,
                           struct error *error) {
    if (!value || strcmp(value, "true") == 0 || strcmp(value, "1") == 0)
        ret->read_only = true;
    else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0)
        ret->read_only = false;
    else
        return refuse("mount", whole, "readonly is true or false", error);
    return 0;
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c) {
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

static int mount_option(const char *key, const char *value, struct instance_mount *ret, const char *whole,
                        struct error *error) {
    if (is_one_of(key, "readonly", "ro", "read_only"))
        return mount_read_only(value, ret, whole, error);
    if (!value)
        return refuse("mount", whole, "give KEY=VALUE pairs with commas between", error);
    if (strcmp(key, "type") == 0)
        return mount_type(value, ret, whole, error);
    if (is_one_of(key, "source", "src", "source"))
        return set_text(&ret->source, value, strlen(value), error);
    if (is_one_of(key, "target", "dst", "destination"))
        return set_text(&ret->target, value, strlen(value), error);
    if (is_one_of(key, "size", "tmpfs-size", "tmpfs_size")) {
        if (text_parse_size(value, &ret->size) < 0)
            return refuse("mount", whole, "the size is none: give bytes or such as 64M", error);
        return 0;
    }
    return refuse("mount", whole, "the keys are type, source, target, readonly and size", error);
}

int mount_parse_options(const char *text, struct instance_mount *ret, struct error *error) {
    _cleanup_list_ char **parts = NULL;

    if (list_split(text, ",", &parts) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    for (size_t i = 0; parts && parts[i]; i++) {
        char *value = strchr(parts[i], '=');
        int r;

        if (value)
            *value++ = '\0';
        r = mount_option(parts[i], value, ret, text, error);
        if (r < 0)
            return r;
    }
    if (!ret->target)
        return refuse("mount", text, "target is missing", error);
    return 0;
}

int restart_parse(const char *text, int *ret_policy, int64_t *ret_limit, struct error *error) {
    static const char *const names[] = { "no", "on-failure", "always", "unless-stopped" };
    static const char prefix[] = "on-failure:";
    uint64_t limit;

    for (int i = 0; i < (int) ELEMENTS(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *ret_policy = i;
            *ret_limit = 0;
            return 0;
        }
    if (!text_starts(text, prefix) || text_parse_u64(text + strlen(prefix), &limit) == -EINVAL)
        return refuse("restart", text, "choose one of no, on-failure[:TIMES], always, unless-stopped", error);
    if (text_parse_u64(text + strlen(prefix), &limit) < 0 || limit > INSTANCE_RESTARTS_MAX)
        return error_set(error, ERROR_OUT_OF_RANGE, "restart_limit", "0", "1000000", text + strlen(prefix));
    *ret_policy = RESTART_ON_FAILURE;
    *ret_limit = (int64_t) limit;
    return 0;
}

struct signal_row {
    const char *name;
    int number;
};

/* Linux's numbers on x86-64 and aarch64, whatever the C library calls them; RTMIN is the kernel's 32 plus the
 * two that glibc keeps for itself. */
static const struct signal_row signals[] = {
    { "HUP", 1 },     { "INT", 2 },    { "QUIT", 3 },   { "ILL", 4 },   { "TRAP", 5 },  { "ABRT", 6 },
    { "BUS", 7 },     { "FPE", 8 },    { "KILL", 9 },   { "USR1", 10 }, { "SEGV", 11 }, { "USR2", 12 },
    { "PIPE", 13 },   { "ALRM", 14 },  { "TERM", 15 },  { "CHLD", 17 }, { "CONT", 18 }, { "STOP", 19 },
    { "TSTP", 20 },   { "TTIN", 21 },  { "TTOU", 22 },  { "URG", 23 },  { "XCPU", 24 }, { "XFSZ", 25 },
    { "VTALRM", 26 }, { "PROF", 27 },  { "WINCH", 28 }, { "IO", 29 },   { "PWR", 30 },  { "SYS", 31 },
    { "RTMIN", 34 },  { "RTMAX", 64 },
};

#define SIGNAL_REALTIME_FIRST 34
#define SIGNAL_LAST 64

int signal_from_name(const char *name) {
    uint64_t number;

    if (text_parse_u64(name, &number) == 0)
        return number >= 1 && number <= SIGNAL_LAST ? (int) number : -EINVAL;
    if (strncasecmp(name, "SIG", 3) == 0)
        name += 3;
    for (size_t i = 0; i < ELEMENTS(signals); i++)
        if (strcasecmp(name, signals[i].name) == 0)
            return signals[i].number;
    if (strncasecmp(name, "RTMIN+", 6) == 0 && text_parse_u64(name + 6, &number) == 0 &&
        number <= SIGNAL_LAST - SIGNAL_REALTIME_FIRST)
        return SIGNAL_REALTIME_FIRST + (int) number;
    if (strncasecmp(name, "RTMAX-", 6) == 0 && text_parse_u64(name + 6, &number) == 0 &&
        number <= SIGNAL_LAST - SIGNAL_REALTIME_FIRST)
        return SIGNAL_LAST - (int) number;
    return -EINVAL;
}
