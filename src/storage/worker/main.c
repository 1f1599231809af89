// SPDX-License-Identifier: GPL-2.0-or-later
/* polder-worker: does for polderd whatever touches foreign bytes of images, once, in a jail, and ends.
 *
 *   polder-worker COMMAND --input-fd N [--option value]…
 *
 * It is given open descriptors, never a path, and answers in JSON lines (report.h). */
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "jail.h"

struct command {
    const char *name;
    unsigned bit;
    enum jail_profile profile;
    jail_function run;
};

static const struct command commands[] = {
    { "unpack-layer", COMMAND_UNPACK, JAIL_UNPACK, command_unpack_layer },
    { "rootfs-tar-import", COMMAND_IMPORT, JAIL_UNPACK, command_import_rootfs },
    { "verify-blob", COMMAND_VERIFY, JAIL_PURE, command_verify_blob },
    { "probe-disk", COMMAND_PROBE, JAIL_PURE, command_probe_disk },
    { "convert-disk", COMMAND_CONVERT, JAIL_CONVERT, command_convert_disk },
    { "check-disk", COMMAND_CHECK, JAIL_CONVERT, command_check_disk },
};

static const struct command *command_find(const char *name) {
    for (size_t i = 0; name && i < ELEMENTS(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

int main(int count, char **words) {
    struct failure failure = { 0 };
    struct options options;
    clearenv();
    setlocale(LC_CTYPE, "C.UTF-8"); /* names in PAX headers are UTF-8 */
    const struct command *command = command_find(count > 1 ? words[1] : NULL);
    if (!command) {
        fail(&failure, FAILURE_USAGE, count > 1 ? words[1] : "", "not a command of polder-worker");
        return report_failure(&failure);
    }
    if (options_parse(&options, command->bit, count - 2, words + 2, &failure) < 0)
        return report_failure(&failure);
    return jail_run(&options, command->profile, command->run);
}
