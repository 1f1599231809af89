// SPDX-License-Identifier: GPL-2.0-or-later
/* polder-seed: writes an ISO 9660 image with the label "cidata" to descriptor 3, from files that come on
 * standard input, each as a line "NAME SIZE" and SIZE bytes. A program of its own, so that polderd does not
 * carry libisofs. Contents are opaque; names are of this project's own making. */
#define LIBISOFS_WITHOUT_LIBBURN
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <libisofs/libisofs.h>

#define OUTPUT_FD 3
#define FILES_MAX 8
#define FILE_MAX (4 * 1024 * 1024)
#define BLOCK 2048

static int fail(const char *what) {
    fprintf(stderr, "polder-seed: %s\n", what);
    return 1;
}

/* 1: a file was added; 0: no more; -1: bad input. */
static int file_add(IsoImage *image) {
    char name[64], end;
    unsigned long size;
    IsoStream *stream;
    IsoFile *file;
    uint8_t *data;
    int fields = scanf("%63[a-z-] %lu%c", name, &size, &end);

    if (fields == EOF)
        return 0;
    if (fields != 3 || end != '\n' || size > FILE_MAX)
        return -1;
    data = malloc(size + 1);
    if (!data || fread(data, 1, size, stdin) != size || iso_memory_stream_new(data, size, &stream) < 0) {
        free(data);
        return -1;
    }
    /* The stream owns the data from here on. */
    return iso_tree_add_new_file(iso_image_get_root(image), name, stream, &file) < 0 ? -1 : 1;
}

static bool write_all(const uint8_t *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(OUTPUT_FD, data, size);

        if (n <= 0)
            return false;
        data += n;
        size -= (size_t) n;
    }
    return true;
}

static int image_write(IsoImage *image) {
    struct burn_source *source;
    IsoWriteOpts *options;
    uint8_t block[BLOCK];
    int r;

    if (iso_write_opts_new(&options, 0) < 0)
        return fail("out of memory");
    iso_write_opts_set_iso_level(options, 3);
    iso_write_opts_set_rockridge(options, 1);
    iso_write_opts_set_joliet(options, 1);
    if (iso_image_create_burn_source(image, options, &source) < 0)
        return fail("the image cannot be laid out");
    while ((r = source->read_xt(source, block, BLOCK)) == BLOCK)
        if (!write_all(block, BLOCK))
            return fail("the image cannot be written");
    source->free_data(source);
    free(source);
    iso_write_opts_free(options);
    return r < 0 ? fail("the image cannot be made") : 0;
}

int main(void) {
    IsoImage *image;
    int r;

    if (iso_init() < 0 || iso_image_new("cidata", &image) < 0)
        return fail("libisofs does not start");
    while ((r = file_add(image)) > 0)
        ;
    if (r < 0)
        return fail("the input is wrong");
    r = image_write(image);
    iso_image_unref(image);
    iso_finish();
    return r;
}
