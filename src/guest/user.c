// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/user.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One line of passwd or group, cut at its colons in place. Missing fields are "". */
#define FIELDS_MAX 7

static const char empty[] = "";

static void line_split(char *line, const char *fields[FIELDS_MAX]) {
    for (size_t i = 0; i < FIELDS_MAX; i++) {
        char *field = line ? strsep(&line, ":") : NULL;
        fields[i] = field ? field : empty;
    }
}

/* The next line that is neither blank nor a comment; *cursor becomes NULL after the last. */
static char *line_next(char **cursor) {
    while (*cursor) {
        char *line = strsep(cursor, "\n");
        line += strspn(line, " \t");
        if (*line && *line != '#')
            return line;
    }
    return NULL;
}

static int file_read(int root_fd, const char *path, char **ret_text, struct reason *reason) {
    size_t size;
    int r = read_regular_file(root_fd, path, USER_FILE_MAX, ret_text, &size);

    if (r == -ENOENT || r == -ENOTDIR) {
        *ret_text = strdup("");
        return *ret_text ? 0 : -ENOMEM;
    }
    if (r == -EINVAL)
        return reason_set(reason, r, "%s is not a regular file", path);
    if (r < 0)
        return reason_set(reason, r, "cannot read %s", path);
    return 0;
}

static int id_parse(const char *text, const char *what, uint32_t *ret, struct reason *reason) {
    uint64_t id;
    int r = parse_number(text, USER_ID_MAX, &id);

    if (r == -ERANGE)
        return reason_set(reason, -EINVAL, "%s %s is out of range (0 to %u)", what, text, USER_ID_MAX);
    if (r < 0)
        return r;
    *ret = (uint32_t) id;
    return 0;
}

/* Looks `name` (or, without a name, ret->uid) up and fills uid, gid and home; name_found gets the login name
 * of the row. 1: found; 0: not. */
static int passwd_find(char *text, const char *name, struct user *ret, const char **ret_name) {
    for (char *line; (line = line_next(&text));) {
        const char *fields[FIELDS_MAX];
        uint64_t uid, gid;

        line_split(line, fields);
        if (parse_number(fields[2], USER_ID_MAX, &uid) < 0 || parse_number(fields[3], USER_ID_MAX, &gid) < 0)
            continue;
        if (name ? strcmp(fields[0], name) != 0 : uid != ret->uid)
            continue;
        ret->uid = (uid_t) uid;
        ret->gid = (gid_t) gid;
        if (fields[5][0] == '/')
            snprintf(ret->home, sizeof(ret->home), "%s", fields[5]);
        *ret_name = fields[0];
        return 1;
    }
    return 0;
}

static bool has_member(const char *members, const char *name) {
    size_t length = strlen(name);

    while (*members) {
        size_t size = strcspn(members, ",");
        if (size == length && memcmp(members, name, size) == 0)
            return true;
        members += size + (members[size] == ',');
    }
    return false;
}

static int groups_collect(char *text, const char *login, struct user *ret, struct reason *reason) {
    for (char *line; (line = line_next(&text));) {
        const char *fields[FIELDS_MAX];
        uint64_t gid;

        line_split(line, fields);
        if (parse_number(fields[2], USER_ID_MAX, &gid) < 0 || !has_member(fields[3], login))
            continue;
        if (ret->group_count == USER_GROUPS_MAX)
            return reason_set(reason, -EINVAL, "user %s is in more than %d groups", login, USER_GROUPS_MAX);
        ret->groups[ret->group_count++] = (gid_t) gid;
    }
    return 0;
}

static int group_find(char *text, const char *name, gid_t *ret) {
    for (char *line; (line = line_next(&text));) {
        const char *fields[FIELDS_MAX];
        uint64_t gid;

        line_split(line, fields);
        if (strcmp(fields[0], name) == 0 && parse_number(fields[2], USER_ID_MAX, &gid) == 0) {
            *ret = (gid_t) gid;
            return 0;
        }
    }
    return -ENOENT;
}

static int group_resolve(int root_fd, const char *group, const char *login, struct user *ret,
                         struct reason *reason) {
    _cleanup_free_ char *text = NULL;
    int r;

    if (group) {
        r = id_parse(group, "group id", &ret->gid, reason);
        if (r == 0 || (reason && reason->text[0]))
            return r;
    } else if (!login)
        return 0;
    r = file_read(root_fd, "/etc/group", &text, reason);
    if (r < 0)
        return r;
    if (!group)
        return groups_collect(text, login, ret, reason);
    if (group_find(text, group, &ret->gid) < 0)
        return reason_set(reason, -EINVAL, "unable to find group %s in /etc/group", group);
    return 0;
}

int user_resolve(int root_fd, const char *specification, struct user *ret, struct reason *reason) {
    struct reason local = REASON_INIT;
    _cleanup_free_ char *copy = strdup(specification ? specification : "");
    _cleanup_free_ char *text = NULL;
    const char *login = NULL;
    char *group, *name = copy;
    bool is_name = false;
    int r;

    if (!reason)
        reason = &local;
    if (!copy)
        return -ENOMEM;
    memset(ret, 0, sizeof(*ret));
    strcpy(ret->home, "/");
    group = strchr(copy, ':');
    if (group)
        *group++ = '\0';
    if (*name) {
        r = id_parse(name, "user id", &ret->uid, reason);
        if (r < 0 && reason->text[0])
            return r;
        is_name = r < 0;
    }
    r = file_read(root_fd, "/etc/passwd", &text, reason);
    if (r < 0)
        return r;
    if (!passwd_find(text, is_name ? name : NULL, ret, &login) && is_name)
        return reason_set(reason, -EINVAL, "unable to find user %s in /etc/passwd", name);
    return group_resolve(root_fd, group && *group ? group : NULL, login, ret, reason);
}
