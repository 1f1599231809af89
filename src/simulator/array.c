// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/array.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/text.h"

static bool is_mapped(const struct array *array) {
    return array->size > ARRAY_IN_MEMORY;
}

/* Not every file system knows files without a name. */
static int file_without_name(void) {
    const char *directory = getenv("TMPDIR");

    directory = directory && *directory ? directory : "/var/tmp";
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd < 0 ? -errno : fd;
    _cleanup_free_ char *path = text_format("%s/polder-XXXXXX", directory);
    fd = path ? mkostemp(path, O_CLOEXEC) : -1;
    if (fd < 0)
        return path ? -errno : -ENOMEM;
    (void) unlink(path);
    return fd;
}

static int grow_in_memory(struct array *array, size_t size) {
    char *larger = realloc(array->data, size);

    if (!larger)
        return -ENOMEM;
    memset(larger + array->size, 0, size - array->size);
    array->data = larger;
    array->size = size;
    return 0;
}

/* From the heap into a file. */
static int move(struct array *array, size_t size) {
    _cleanup_close_ int fd = file_without_name();
    int r = fd < 0 ? fd : -posix_fallocate(fd, 0, (off_t) size);
    void *data;

    if (r < 0)
        return r;
    data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        return -errno;
    if (array->size > 0)
        memcpy(data, array->data, array->size);
    free(array->data);
    *array = (struct array){ data, size, STEAL_FD(fd) };
    return 0;
}

static int grow_in_file(struct array *array, size_t size) {
    int r = -posix_fallocate(array->fd, (off_t) array->size, (off_t) (size - array->size));
    void *data;

    if (r < 0)
        return r;
    data = mremap(array->data, array->size, size, MREMAP_MAYMOVE);
    if (data == MAP_FAILED)
        return -errno;
    array->data = data;
    array->size = size;
    return 0;
}

int array_grow(struct array *array, size_t size) {
    if (size <= array->size)
        return 0;
    if (is_mapped(array))
        return grow_in_file(array, size);
    return size > ARRAY_IN_MEMORY ? move(array, size) : grow_in_memory(array, size);
}

void array_done(struct array *array) {
    if (is_mapped(array)) {
        (void) munmap(array->data, array->size);
        close_fd(array->fd);
    } else {
        free(array->data);
    }
    *array = (struct array){ 0 };
}
