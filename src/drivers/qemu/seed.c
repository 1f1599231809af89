// SPDX-License-Identifier: GPL-2.0-or-later
/* What cloud-init reads. All documents but the user's own are JSON, which is YAML, so that nothing needs
 * escaping by hand. */
#include "drivers/qemu/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/process.h"
#include "base/text.h"
#include "drivers/qemu/guestrequest.h"
#include "network/network.h"

#define PROGRAM_DEADLINE (30 * CLOCK_SECOND)
#define DEFAULT_USER_DATA "#cloud-config\n{}\n"

static void emit_meta_data(struct emitter *emitter, const struct driver_instance *instance) {
    emit_object(emitter);
    emit_key_text(emitter, "instance-id", instance->assigned->uuid);
    emit_key_text(emitter, "local-hostname", guest_hostname(instance));
    if (instance->spec->ssh_keys)
        emit_key_list(emitter, "public-keys", instance->spec->ssh_keys);
    emit_object_end(emitter);
}

static void emit_static_address(struct emitter *emitter, const struct driver_instance *instance,
                                const struct network *network) {
    _cleanup_free_ char *address = text_format("%s/%u", instance->assigned->address, network_prefix(network));
    const char *gateway = network_gateway(network), *domain = network_domain(network);

    emit_key_list(emitter, "addresses", (char *const[]){ address, NULL });
    emit_key_text(emitter, "gateway4", gateway);
    emit_key(emitter, "nameservers");
    emit_object(emitter);
    emit_key_list(emitter, "addresses", (char *const[]){ (char *) gateway, NULL });
    if (domain)
        emit_key_list(emitter, "search", (char *const[]){ (char *) domain, NULL });
    emit_object_end(emitter);
}

static void emit_network(struct emitter *emitter, const struct driver_instance *instance,
                         const struct network *network) {
    emit_object(emitter);
    if (!instance->assigned->mac || text_equal(instance->spec->network, "none")) {
        emit_key_text(emitter, "config", "disabled");
        emit_object_end(emitter);
        return;
    }
    emit_key_integer(emitter, "version", 2);
    emit_key(emitter, "ethernets");
    emit_object(emitter);
    emit_key(emitter, "eth0");
    emit_object(emitter);
    emit_key(emitter, "match");
    emit_object(emitter);
    emit_key_text(emitter, "macaddress", instance->assigned->mac);
    emit_object_end(emitter);
    emit_key_text(emitter, "set-name", "eth0");
    if (instance->assigned->address && network && network_gateway(network))
        emit_static_address(emitter, instance, network);
    else
        emit_key_boolean(emitter, "dhcp4", true);
    emit_object_end(emitter);
    emit_object_end(emitter);
    emit_object_end(emitter);
}

static void emit_mount(struct emitter *emitter, const struct instance_mount *mount, size_t index) {
    _cleanup_free_ char *source = mount->type == MOUNT_BIND ? text_format("m%zu", index) : strdup("tmpfs");
    _cleanup_free_ char *size =
            mount->size > 0 ? text_format(",size=%llu", (unsigned long long) mount->size) : strdup("");
    _cleanup_free_ char *options = text_format("%s,nofail%s", mount->read_only ? "ro" : "rw",
                                               mount->type == MOUNT_TMPFS && size ? size : "");

    emit_array(emitter);
    emit_text(emitter, source);
    emit_text(emitter, mount->target);
    emit_text(emitter, mount->type == MOUNT_BIND ? "virtiofs" : "tmpfs");
    emit_text(emitter, options);
    emit_text(emitter, "0");
    emit_text(emitter, "0");
    emit_array_end(emitter);
}

/* What is ours to configure in the guest; the user's own data goes before it. */
static void emit_vendor_data(struct buffer *out, const struct driver_instance *instance) {
    const struct instance_mount *mounts = instance->spec->mounts.items;
    struct emitter emitter = EMITTER_INIT(out);

    buffer_add_text(out, "#cloud-config\n");
    emit_object(&emitter);
    if (instance->spec->mounts.count > 0) {
        emit_key(&emitter, "mounts");
        emit_array(&emitter);
        for (size_t i = 0; i < instance->spec->mounts.count; i++)
            emit_mount(&emitter, &mounts[i], i);
        emit_array_end(&emitter);
    }
    emit_object_end(&emitter);
    buffer_add_text(out, "\n");
}

static void add_file(struct buffer *out, const char *name, const char *data, size_t size) {
    buffer_addf(out, "%s %zu\n", name, size);
    buffer_add(out, data, size);
}

static int files_make(const struct qemu *qemu, const struct driver_instance *instance, struct buffer *out) {
    _cleanup_buffer_ struct buffer meta = BUFFER_INIT, network = BUFFER_INIT, vendor = BUFFER_INIT;
    struct emitter meta_emitter = EMITTER_INIT(&meta), network_emitter = EMITTER_INIT(&network);
    const char *user = instance->spec->user_data ? instance->spec->user_data : DEFAULT_USER_DATA;

    emit_meta_data(&meta_emitter, instance);
    emit_network(&network_emitter, instance, qemu->context.network);
    emit_vendor_data(&vendor, instance);
    if (meta.failed || network.failed || vendor.failed)
        return -ENOMEM;
    add_file(out, "meta-data", meta.data, meta.size);
    add_file(out, "network-config", network.data, network.size);
    add_file(out, "user-data", user, strlen(user));
    add_file(out, "vendor-data", vendor.data, vendor.size);
    return out->failed ? -ENOMEM : 0;
}

static int program_run(const char *program, const struct buffer *input, int target, struct error *error) {
    char *const arguments[] = { (char *) "polder-seed", NULL };
    const struct process_fd fds[] = { { .source = target, .target = 3 } };
    const struct process_spec spec = { .program = program, .arguments = arguments, .fds = fds, .fd_count = 1,
                                       .die_with_parent = true };
    const struct process_run run = { .input = input->data, .input_size = input->size,
                                     .deadline = deadline_in(PROGRAM_DEADLINE) };

    return process_run(&spec, &run, error);
}

int seed_make(const struct qemu *qemu, const struct driver_instance *instance, const char *path,
              struct error *error) {
    _cleanup_free_ char *program = text_format("%s/polder-seed", qemu->context.libexec_path);
    _cleanup_free_ char *temporary = text_format("%s.tmp", path);
    _cleanup_buffer_ struct buffer input = BUFFER_INIT;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (instance->spec->user_data && strlen(instance->spec->user_data) > SEED_USER_DATA_MAX)
        return error_set(error, ERROR_TOO_LARGE, "user_data", "1 MiB");
    if (!program || !temporary)
        return -ENOMEM;
    r = files_make(qemu, instance, &input);
    if (r < 0)
        return r;
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    r = program_run(program, &input, fd, error);
    if (r >= 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0)
        (void) unlink(temporary);
    return r;
}
