// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/progress.h"

#include <stdio.h>
#include <unistd.h>

#define BAR_WIDTH 40

void progress_show(const char *what, double share) {
    int full = (int) ((share < 0 ? 0 : share > 1 ? 1 : share) * BAR_WIDTH);

    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f%%", what, full, "########################################",
            BAR_WIDTH - full, "", share * 100);
    fflush(stderr);
}

void progress_end(void) {
    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
}
