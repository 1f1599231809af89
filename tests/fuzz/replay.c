// SPDX-License-Identifier: GPL-2.0-or-later
/* Runs a fuzz target over files kept from earlier, without a fuzzer: replay FILE|DIRECTORY… */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
    struct stat status;
    FILE *file = fopen(path, "re");
    if (!file || fstat(fileno(file), &status) < 0) {
        perror(path);
        return 1;
    }
    size_t size = (size_t) status.st_size;
    /* Exactly as large as the input, so that a sanitizer sees a read behind its end. */
    uint8_t *data = malloc(size ? size : 1);
    int r = !data || fread(data, 1, size, file) != size;
    fclose(file);
    if (r == 0)
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    return r;
}

static int replay_directory(const char *path, unsigned *count) {
    DIR *directory = opendir(path);
    int failed = !directory;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char file[4096];
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        if (entry->d_name[0] == '.')
            continue;
        failed |= replay_file(file);
        ++*count;
    }
    if (directory)
        closedir(directory);
    return failed;
}

int main(int count, char **words) {
    unsigned inputs = 0;
    int failed = 0;
    for (int i = 1; i < count; i++) {
        struct stat status;
        if (stat(words[i], &status) == 0 && S_ISDIR(status.st_mode)) {
            failed |= replay_directory(words[i], &inputs);
        } else {
            failed |= replay_file(words[i]);
            inputs++;
        }
    }
    printf("%u inputs replayed\n", inputs);
    return failed || inputs == 0;
}
