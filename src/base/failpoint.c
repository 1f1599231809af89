// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/failpoint.h"

#ifdef POLDER_FAILPOINTS

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define RULES_MAX 64

enum rule_action {
    RULE_KILL,
    RULE_ERROR,
    RULE_DELAY,
};

struct rule {
    char name[64];
    enum rule_action action;
    unsigned value; /* errno or milliseconds */
    unsigned pass;  /* acts at this pass only; 0: at every one */
    atomic_uint passed;
};

/* Filled once from the environment; only the counters change. */
static struct rule rules[RULES_MAX];
static unsigned rule_count;
static int record_fd = -1;

/* "name=kill@2", "name=error:28", "name=delay:500@1" */
static void rule_parse(char *text) {
    struct rule *rule = &rules[rule_count];
    char *action = strchr(text, '=');
    char *pass;

    if (!action || rule_count == RULES_MAX || (size_t) (action - text) >= sizeof(rule->name))
        return;
    *action++ = '\0';
    strcpy(rule->name, text);
    pass = strchr(action, '@');
    if (pass)
        *pass++ = '\0';
    rule->pass = pass ? (unsigned) strtoul(pass, NULL, 10) : 0;
    if (text_equal(action, "kill"))
        rule->action = RULE_KILL;
    else if (text_starts(action, "error:"))
        rule->action = RULE_ERROR;
    else if (text_starts(action, "delay:"))
        rule->action = RULE_DELAY;
    else
        return;
    if (rule->action != RULE_KILL)
        rule->value = (unsigned) strtoul(strchr(action, ':') + 1, NULL, 10);
    rule_count++;
}

static void rules_read(void) {
    const char *record = getenv("POLDER_FAILPOINTS_RECORD");
    const char *text = getenv("POLDER_FAILPOINTS");
    _cleanup_list_ char **parts = NULL;

    if (record)
        record_fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (!text || list_split(text, ",", &parts) < 0)
        return;
    for (size_t i = 0; parts && parts[i]; i++)
        rule_parse(parts[i]);
}

static int rule_act(const struct rule *rule) {
    struct timespec delay = { .tv_sec = rule->value / 1000, .tv_nsec = rule->value % 1000 * 1000000L };

    switch (rule->action) {
    case RULE_KILL:
        kill(getpid(), SIGKILL);
        pause();
        return 0;
    case RULE_ERROR:
        return -(int) rule->value;
    case RULE_DELAY:
        nanosleep(&delay, NULL);
        return 0;
    }
    return 0;
}

static void record(const char *name) {
    _cleanup_free_ char *line = NULL;

    if (record_fd < 0)
        return;
    line = text_format("%s\n", name);
    if (line && write(record_fd, line, strlen(line)) < 0)
        return;
}

int failpoint_hit(const char *name) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, rules_read);
    record(name);
    for (unsigned i = 0; i < rule_count; i++) {
        unsigned pass;

        if (strcmp(rules[i].name, name) != 0)
            continue;
        pass = atomic_fetch_add(&rules[i].passed, 1) + 1;
        if (rules[i].pass == 0 || rules[i].pass == pass) {
            int r = rule_act(&rules[i]);

            if (r < 0)
                return r;
        }
    }
    return 0;
}

#endif
