// SPDX-License-Identifier: GPL-2.0-or-later
/* polder-simulate: what `polder simulate` runs. It needs no daemon and no privilege. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "simulator/mode.h"

static const struct mode *const modes[] = {
    &placement_mode, &vms_mode, &packing_mode, &planetlab_mode, &queue_mode, &roadef_mode, NULL,
};

static int usage(FILE *stream) {
    fputs("Usage: polder simulate [MODE] [OPTIONS] FILE...\n\nModes (queue when none is named):\n", stream);
    for (const struct mode *const *mode = modes; *mode; mode++)
        fprintf(stream, "  %-14s %s\n", (*mode)->name, (*mode)->summary);
    fputs("\n'polder simulate MODE --help' tells the options of a mode.\n", stream);
    return stream == stdout ? 0 : 2;
}

/* The first word names the mode, also written as an option (--roadef); one that is none belongs to the mode `queue`. */
static const struct mode *mode_find(const char *name, int *ret_words) {
    if (text_starts(name, "--"))
        name += 2;
    *ret_words = 1;
    for (const struct mode *const *mode = modes; *mode; mode++)
        if (text_equal((*mode)->name, name))
            return *mode;
    *ret_words = 0;
    return &queue_mode;
}

int main(int count, char **words) {
    _cleanup_error_ struct error error = ERROR_INIT;
    const struct mode *mode;
    int named, r;

    if (count < 2)
        return usage(stderr);
    if (text_equal(words[1], "--help") || text_equal(words[1], "-h") || text_equal(words[1], "help"))
        return usage(stdout);
    mode = mode_find(words[1], &named);
    if (named && count > 2 && (text_equal(words[2], "--help") || text_equal(words[2], "-h"))) {
        printf("Usage: polder simulate %s %s", mode->name, mode->help);
        return 0;
    }
    r = mode->run(count - 1 - named, words + 1 + named, &error);
    if (r >= 0)
        return r;
    _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    fprintf(stderr, "polder simulate: %s\n", sentence ? sentence : strerror(-r));
    return error_exit_status(error.code);
}
