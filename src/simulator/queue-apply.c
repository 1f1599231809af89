// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/queue-apply.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/program.h"
#include "base/text.h"
#include "simulator/queue-tune.h"

/* Beside an installed polder-simulate, or in the tree that it was built in. */
static char *polder_path(void) {
    static const char *const places[] = { "../../bin/polder", "../cli/polder" };

    return program_beside(places, ELEMENTS(places));
}

static int words_of(const struct queue_run *choice, char ***ret) {
    const char *const words[] = { "polder", "node", "set", "--policy", choice->policy->name, "--backfill",
                                  backfill_names[choice->backfill], "--estimates", estimate_names[choice->estimate] };
    _cleanup_list_ char **list = NULL;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(words); i++)
        r = list_add(&list, words[i]);
    for (const struct policy_parameter_row *row = policy_parameter_rows; r >= 0 && row->name; row++) {
        if (!queue_tune_has(choice, row))
            continue;
        r = list_add(&list, "--parameter");
        if (r >= 0)
            r = list_addf(&list, "%s=%.6g", row->name, *(const double *) ((const char *) &choice->parameters + row->offset));
    }
    if (r >= 0)
        *ret = STEAL_PTR(list);
    return r;
}

static int run(char **words, struct error *error) {
    _cleanup_free_ char *path = polder_path();
    int status, r;
    pid_t pid;

    if (!path)
        return error_set(error, ERROR_HOST_LACKS, "polder", "it is installed with polder-simulate: install Polder again");
    fflush(stdout);
    r = posix_spawn(&pid, path, NULL, NULL, words, environ);
    if (r != 0)
        return error_errno(error, -r, "starting %s", path);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return error_errno(error, -errno, "waiting for %s", path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int queue_apply(const struct queue_run *choice, bool now, struct error *error) {
    _cleanup_list_ char **words = NULL;
    _cleanup_free_ char *line = NULL;
    int r;

    if (choice->estimate == ESTIMATE_ACTUAL) {
        if (now)
            return error_set(error, ERROR_BAD_VALUE, "--apply", "actual", "no daemon knows how long a run will take");
        return 0;
    }
    r = words_of(choice, &words);
    line = r < 0 ? NULL : list_join(words, " ");
    if (!line)
        return error_errno(error, -ENOMEM, "preparing the command");
    printf("\n%s: %s\n", now ? "applied by" : "to apply it", line);
    return now ? run(words, error) : 0;
}
