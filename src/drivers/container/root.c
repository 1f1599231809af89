// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/container/internal.h"
#include "network/network.h"
#include "storage/storage.h"

static const char *beneath(const char *path, const char *root) {
    size_t length = strlen(root);

    while (length > 1 && root[length - 1] == '/')
        length--;
    if (length == 1 && *root == '/')
        return path[1] ? path + 1 : ".";
    if (strncmp(path, root, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return NULL;
    path += length + strspn(path + length, "/");
    return *path ? path : ".";
}

static int not_allowed(const struct container_driver *driver, const char *path, struct error *error) {
    _cleanup_free_ char *roots = list_join(driver->mount_roots, ", ");

    return error_set(error, ERROR_NOT_ALLOWED_PATH, path, text_is_empty(roots) ? "none" : roots);
}

/* Opened beneath the allowed root in one step and then used through the descriptor: no link leads out of the root, and
 * nothing can be swapped after the check. */
static int open_source(const struct container_driver *driver, const char *path, struct error *error) {
    for (char *const *root = driver->mount_roots; root && *root; root++) {
        const char *rest = beneath(path, *root);
        _cleanup_close_ int directory = -EBADF;
        int fd;

        if (!rest)
            continue;
        directory = open(*root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = directory < 0 ? -errno : file_open_beneath(directory, rest, O_PATH | O_CLOEXEC, 0, false);
        if (fd >= 0)
            return fd;
        if (fd == -EXDEV || fd == -ELOOP)
            return not_allowed(driver, path, error);
        if (fd == -ENOENT || fd == -ENOTDIR)
            return error_set(error, ERROR_NOT_FOUND, "host path", path);
        return error_errno(error, fd, "opening %s", path);
    }
    return not_allowed(driver, path, error);
}

static int prepare_mount(const struct container_driver *driver, const struct instance_mount *mount,
                         struct rootfs_mount *ret, struct error *error) {
    struct stat status;

    if (mount->type != MOUNT_BIND)
        return 0;
    ret->name = mount->source;
    ret->read_only = mount->read_only;
    ret->fd = open_source(driver, mount->source ? mount->source : "", error);
    if (ret->fd < 0)
        return ret->fd;
    if (fstat(ret->fd, &status) < 0)
        return error_errno(error, -errno, "looking at %s", mount->source);
    ret->directory = S_ISDIR(status.st_mode);
    if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode))
        return error_set(error, ERROR_NOT_SUPPORTED, "a mount", "devices and FIFOs", mount->source);
    return 0;
}

static int prepare_mounts(struct container *container, struct prepared_root *root, struct error *error) {
    const struct field_array *mounts = &container->instance->spec->mounts;
    const struct instance_mount *items = mounts->items;
    int r = 0;

    root->mounts = calloc(mounts->count + 1, sizeof(*root->mounts));
    if (!root->mounts)
        return error_errno(error, -ENOMEM, "preparing mounts");
    for (size_t i = 0; i < mounts->count; i++)
        root->mounts[i].fd = -EBADF;
    root->request.mounts = root->mounts;
    root->request.mount_count = mounts->count;
    for (size_t i = 0; r >= 0 && i < mounts->count; i++)
        r = prepare_mount(container->driver, &items[i], &root->mounts[i], error);
    return r;
}

/* As Docker writes them; without a network there is no name server to name. */
static int prepare_files(struct container *container, struct prepared_root *root) {
    const struct driver_instance *instance = container->instance;
    const struct network *network = container->driver->context.network;
    const char *address = instance->assigned->address, *name = container_hostname(instance);
    bool connected = network && address && !text_equal(instance->spec->network, "none");
    const char *gateway = connected ? network_gateway(network) : NULL;
    const char *domain = connected ? network_domain(network) : NULL;

    root->hostname = text_format("%s\n", name);
    root->hosts = text_format("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
                              "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n"
                              "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n%s%s%s%s",
                              connected ? address : "", connected ? "\t" : "", connected ? name : "",
                              connected ? "\n" : "");
    root->resolver = text_format("%s%s%s%s%s%s", gateway ? "nameserver " : "", gateway ? gateway : "",
                                 gateway ? "\n" : "", domain ? "search " : "", domain ? domain : "", domain ? "\n" : "");
    if (!root->hostname || !root->hosts || !root->resolver)
        return -ENOMEM;
    root->request.hostname = root->hostname;
    root->request.hosts = root->hosts;
    root->request.resolver = root->resolver;
    return 0;
}

int prepared_root_init(struct container *container, bool with_mounts, struct prepared_root *ret, struct error *error) {
    const struct driver_instance *instance = container->instance;
    int64_t base = instance->assigned->uid_base;
    int r;

    *ret = (struct prepared_root){ .request = { .run_path = container->run_path, .uid_base = base } };
    if (base < CONTAINER_IDS || base > UINT32_MAX - CONTAINER_IDS)
        return error_errno(error, -EINVAL, "using the ids from %lld", (long long) base);
    r = storage_layer_paths(container->driver->context.storage, instance->image, &ret->layers, error);
    if (r < 0)
        return r;
    ret->request.layers = ret->layers;
    r = disk_prepare(container->driver->context.storage, container->state_path, instance->spec->disk, (uint32_t) base,
                     &ret->request.disk, error);
    if (r < 0 || !with_mounts)
        return r;
    ret->request.program = CRUN_PROGRAM;
    r = prepare_files(container, ret);
    return r < 0 ? error_errno(error, r, "preparing the files of the container") : prepare_mounts(container, ret, error);
}

void prepared_root_done(struct prepared_root *root) {
    for (size_t i = 0; root->mounts && i < root->request.mount_count; i++)
        close_fd(root->mounts[i].fd);
    free(root->mounts);
    list_free(root->layers);
    free(root->hosts);
    free(root->hostname);
    free(root->resolver);
    disk_done(&root->request.disk);
    *root = (struct prepared_root){ 0 };
}
