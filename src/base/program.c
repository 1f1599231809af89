// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/program.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

char *program_beside(const char *const places[], size_t count) {
    char self[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (size < 0)
        return NULL;
    self[size] = '\0';
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    for (size_t i = 0; i < count; i++) {
        _cleanup_free_ char *path = text_format("%s/%s", self, places[i]);
        if (path && access(path, X_OK) == 0)
            return STEAL_PTR(path);
    }
    return NULL;
}
