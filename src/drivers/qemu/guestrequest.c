// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/guestrequest.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/guestport.h"
#include "network/network.h"

struct process_values {
    char *const *arguments;
    char *const *environment; /* of the image and instance */
    char *const *more;        /* added, replacing equal names */
    const char *user, *directory;
    bool tty, stdin_open;
    const struct exec_terminal *terminal;
};

const char *guest_hostname(const struct driver_instance *instance) {
    return text_is_empty(instance->spec->hostname) ? instance->name : instance->spec->hostname;
}

static bool name_in(const char *pair, char *const *list) {
    size_t size = strchrnul(pair, '=') - pair + 1;

    for (; list && *list; list++)
        if (strncmp(pair, *list, size) == 0)
            return true;
    return false;
}

static void emit_environment(struct emitter *emitter, const struct process_values *values) {
    emit_key(emitter, "env");
    emit_array(emitter);
    for (char *const *pair = values->environment; pair && *pair; pair++)
        if (!name_in(*pair, values->more))
            emit_text(emitter, *pair);
    for (char *const *pair = values->more; pair && *pair; pair++)
        emit_text(emitter, *pair);
    emit_array_end(emitter);
}

static void emit_process(struct emitter *emitter, const struct process_values *values) {
    emit_object(emitter);
    emit_key_list(emitter, "args", values->arguments);
    emit_environment(emitter, values);
    if (!text_is_empty(values->user))
        emit_key_text(emitter, "user", values->user);
    if (!text_is_empty(values->directory))
        emit_key_text(emitter, "cwd", values->directory);
    emit_key_boolean(emitter, "tty", values->tty);
    emit_key_boolean(emitter, "stdin", values->stdin_open);
    if (values->terminal && values->terminal->rows > 0 && values->terminal->columns > 0) {
        emit_key_unsigned(emitter, "rows", values->terminal->rows);
        emit_key_unsigned(emitter, "columns", values->terminal->columns);
    }
    emit_object_end(emitter);
}

static void emit_network(struct emitter *emitter, const struct driver_instance *instance,
                         const struct network *network) {
    const char *gateway = network ? network_gateway(network) : NULL;
    bool there = gateway && instance->assigned->mac && instance->assigned->address &&
                 !text_equal(instance->spec->network, "none");

    emit_key(emitter, "network");
    emit_array(emitter);
    if (there) {
        _cleanup_free_ char *address =
                text_format("%s/%u", instance->assigned->address, network_prefix(network));

        emit_object(emitter);
        emit_key_text(emitter, "mac", instance->assigned->mac);
        emit_key_text(emitter, "address", address);
        emit_key_text(emitter, "gateway", gateway);
        emit_key_unsigned(emitter, "mtu", network_mtu(network));
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
    if (!there)
        return;
    emit_key_list(emitter, "dns", (char *const[]){ (char *) gateway, NULL });
    if (network_domain(network))
        emit_key_text(emitter, "search", network_domain(network));
    emit_key(emitter, "hosts");
    emit_array(emitter);
    emit_object(emitter);
    emit_key_text(emitter, "address", instance->assigned->address);
    emit_key_text(emitter, "name", guest_hostname(instance));
    emit_object_end(emitter);
    emit_array_end(emitter);
}

static void emit_mounts(struct emitter *emitter, const struct instance_spec *spec) {
    const struct instance_mount *mounts = spec->mounts.items;

    emit_key(emitter, "mounts");
    emit_array(emitter);
    for (size_t i = 0; i < spec->mounts.count; i++) {
        _cleanup_free_ char *tag = text_format("m%zu", i);

        emit_object(emitter);
        emit_key_text(emitter, "type", mounts[i].type == MOUNT_BIND ? "virtiofs" : "tmpfs");
        emit_key_text(emitter, "target", mounts[i].target);
        if (mounts[i].type == MOUNT_BIND)
            emit_key_text(emitter, "tag", tag);
        else if (mounts[i].size > 0)
            emit_key_unsigned(emitter, "size", mounts[i].size);
        emit_key_boolean(emitter, "readonly", mounts[i].read_only);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

int guest_start_request(const struct driver_instance *instance, const struct network *network,
                        const struct exec_terminal *terminal, char **ret) {
    const struct process_settings *process = &instance->process;
    const struct process_values values = {
        .arguments = process->arguments,
        .environment = process->environment,
        .user = process->user,
        .directory = process->working_directory,
        .tty = process->tty,
        .stdin_open = process->stdin_open,
        .terminal = terminal,
    };
    struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key(&emitter, "process");
    emit_process(&emitter, &values);
    emit_key_text(&emitter, "hostname", guest_hostname(instance));
    emit_key_integer(&emitter, "stop_signal", process->stop_signal);
    emit_network(&emitter, instance, network);
    emit_mounts(&emitter, instance->spec);
    emit_key_boolean(&emitter, "readonly_root", instance->spec->read_only);
    guestport_emit_clock(&emitter);
    emit_object_end(&emitter);
    return buffer_take(&out, ret);
}

int guest_exec_request(const struct driver_instance *instance, const struct exec_request *request,
                       char **ret) {
    const struct process_settings *process = &instance->process;
    const struct process_values values = {
        .arguments = request->arguments,
        .environment = process->environment,
        .more = request->environment,
        .user = request->user ? request->user : process->user,
        .directory = request->working_directory ? request->working_directory : process->working_directory,
        .tty = request->tty,
        .stdin_open = request->stdin_open,
        .terminal = &request->terminal,
    };
    struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_process(&emitter, &values);
    return buffer_take(&out, ret);
}
