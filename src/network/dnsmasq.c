// SPDX-License-Identifier: GPL-2.0-or-later
/* Model: the directory holds
 *   hosts/UUID    "10.117.0.5 web-1.polder.internal web-1"
 *   dhcp/UUID     "52:54:0a:75:00:05,10.117.0.5"
 *   leases        dnsmasq's own
 *   dnsmasq.pid   written by dnsmasq itself, before we know that it runs
 *   dnsmasq.json  our record: pid, start ticks, boot id and arguments
 * dnsmasq puts itself into the background when it is ready, so a started and an adopted one are alike:
 * neither is our child. Between its start and our record only the pid file tells of it; such a one is ended
 * at the next start. */
#include "network/dnsmasq.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/failpoint.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#define PROGRAM "/usr/sbin/dnsmasq"
#define START_TIMEOUT (20 * CLOCK_SECOND)
#define STOP_GRACE (3 * CLOCK_SECOND)
#define LEASES_LIMIT (8U << 20)
#define RECORD_LIMIT 16384
/* Where its directory appears inside its mount namespace: a directory that every Debian has. */
#define INSIDE "/mnt"

/* --- files ------------------------------------------------------------------------------------------- */

static char *own_path(const struct dnsmasq_options *options, const char *kind, const char *name) {
    return text_format("%s/%s%s%s", options->directory, kind, *name ? "/" : "", name);
}

int dnsmasq_prepare(const struct dnsmasq_options *options, struct error *error) {
    static const char *const kinds[] = { "hosts", "dhcp" };

    for (size_t i = 0; i < ELEMENTS(kinds); i++) {
        _cleanup_free_ char *path = own_path(options, kinds[i], "");
        int r = path ? file_make_directories(AT_FDCWD, path, 0755) : -ENOMEM;

        if (r < 0 && r != -EEXIST)
            return error_errno(error, r, "creating %s", path ? path : options->directory);
    }
    return 0;
}

static int own_write(const struct dnsmasq_options *options, const char *kind, const char *name,
                     const char *text) {
    _cleanup_free_ char *path = own_path(options, kind, name);

    return path && text ? file_write_atomic(AT_FDCWD, path, text, strlen(text), 0644, false) : -ENOMEM;
}

static int own_remove(const struct dnsmasq_options *options, const char *kind, const char *name) {
    _cleanup_free_ char *path = own_path(options, kind, name);

    if (!path)
        return -ENOMEM;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int dnsmasq_member_add(const struct dnsmasq_options *options, const struct member *member) {
    char address[ADDRESS_TEXT_SIZE], mac[MAC_TEXT_SIZE];
    _cleanup_free_ char *hosts = NULL, *dhcp = NULL;
    int r;

    address_format(member->address, address);
    hosts = text_format("%s %s.%s %s\n", address, member->name, options->domain, member->name);
    dhcp = text_format("%s,%s\n", mac_format(member->mac, mac), address);
    r = own_write(options, "dhcp", member->uuid, dhcp);
    FAILPOINT("network-dhcp-written");
    return r < 0 ? r : own_write(options, "hosts", member->uuid, hosts);
}

int dnsmasq_member_remove(const struct dnsmasq_options *options, const char *uuid) {
    int r = own_remove(options, "hosts", uuid), k = own_remove(options, "dhcp", uuid);

    return r < 0 ? r : k;
}

/* Names beside UUIDs are temporary files of a crash: removed on the way. */
static int members_read(const struct dnsmasq_options *options, const char *kind, char ***list) {
    _cleanup_free_ char *path = own_path(options, kind, "");
    DIR *directory = path ? opendir(path) : NULL;
    const struct dirent *entry;
    int r = 0;

    if (!directory)
        return path && errno == ENOENT ? 0 : -errno;
    while (r >= 0 && (entry = readdir(directory))) {
        if (uuid_is_valid(entry->d_name))
            r = list_has(*list, entry->d_name) ? 0 : list_add(list, entry->d_name);
        else if (text_starts(entry->d_name, ".") && text_ends(entry->d_name, ".tmp"))
            (void) unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
    return r;
}

int dnsmasq_members(const struct dnsmasq_options *options, char ***ret_uuids) {
    _cleanup_list_ char **list = NULL;
    int r = members_read(options, "hosts", &list);

    if (r >= 0)
        r = members_read(options, "dhcp", &list);
    if (r < 0)
        return r;
    *ret_uuids = STEAL_PTR(list);
    return 0;
}

int dnsmasq_reload(const struct process *process) {
    return process_signal(process, SIGHUP);
}

/* --- leases ------------------------------------------------------------------------------------------ */

struct lease {
    uint8_t mac[6];
    char client_id[3 * 255]; /* "ff:01:…" or "*" */
};

/* "1763722000 52:54:0a:75:00:05 10.117.0.5 name 01:52:…" per line. */
static bool lease_read_line(char *line, uint32_t address, struct lease *ret) {
    char *rest = line, *fields[5];
    uint32_t value;

    for (size_t i = 0; i < ELEMENTS(fields); i++) {
        fields[i] = strsep(&rest, " ");
        if (!fields[i])
            return false;
    }
    if (address_parse(fields[2], &value) < 0 || value != address || mac_parse(fields[1], ret->mac) < 0)
        return false;
    snprintf(ret->client_id, sizeof(ret->client_id), "%s", fields[4]);
    return true;
}

static bool lease_find(const struct dnsmasq_options *options, uint32_t address, struct lease *ret) {
    _cleanup_free_ char *path = own_path(options, "leases", ""), *text = NULL;
    char *rest, *line;

    if (!path || file_read(AT_FDCWD, path, LEASES_LIMIT, &text, NULL) < 0)
        return false;
    for (rest = text; (line = strsep(&rest, "\n"));)
        if (lease_read_line(line, address, ret))
            return true;
    return false;
}

bool dnsmasq_is_leased(const struct dnsmasq_options *options, uint32_t address, const uint8_t mac[6]) {
    struct lease lease;

    return lease_find(options, address, &lease) && memcmp(lease.mac, mac, 6) != 0;
}

/* "01:52:54" -> bytes; how many. "*" is none. */
static size_t client_id_parse(const char *text, uint8_t *bytes, size_t limit) {
    size_t count = 0;
    unsigned value;

    for (; count < limit && sscanf(text, "%2x", &value) == 1; text += 3) {
        bytes[count++] = (uint8_t) value;
        if (strlen(text) < 3)
            break;
    }
    return count;
}

#define RELEASE_SIZE 576
#define RELEASE_OPTIONS 236

/* dnsmasq forgets a lease before its time only when the client says so; it has no other door without D-Bus.
 * So its DHCPRELEASE is said for a client that is gone: a fixed form (RFC 2131, table 5). Returns its size.
 */
static size_t release_make(const struct lease *lease, uint32_t address, uint32_t server,
                           uint8_t packet[RELEASE_SIZE]) {
    static const uint8_t start[] = { 1, 1, 6, 0 }, options[] = { 99, 130, 83, 99, 53, 1, 7, 54, 4 };
    uint32_t wire = htonl(address), server_wire = htonl(server);
    size_t size = RELEASE_OPTIONS + sizeof(options), count;

    memset(packet, 0, RELEASE_SIZE);
    memcpy(packet, start, sizeof(start));
    memcpy(packet + 12, &wire, 4);
    memcpy(packet + 28, lease->mac, 6);
    memcpy(packet + RELEASE_OPTIONS, options, sizeof(options));
    memcpy(packet + size, &server_wire, 4);
    size += 4;
    count = client_id_parse(lease->client_id, packet + size + 2, 255);
    if (count > 0) {
        packet[size] = 61;
        packet[size + 1] = (uint8_t) count;
        size += 2 + count;
    }
    packet[size++] = 255;
    return size < 300 ? 300 : size; /* BOOTP's smallest */
}

void dnsmasq_release(const struct dnsmasq_options *options, uint32_t address) {
    _cleanup_close_ int fd = -EBADF;
    uint32_t server = subnet_gateway(options->subnet);
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons(67),
                              .sin_addr.s_addr = htonl(server) };
    struct lease lease;
    uint8_t packet[RELEASE_SIZE];
    size_t size;

    if (!lease_find(options, address, &lease))
        return;
    size = release_make(&lease, address, server, packet);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, options->bridge, (socklen_t) strlen(options->bridge)) < 0)
        return;
    (void) sendto(fd, packet, size, MSG_DONTWAIT, (const struct sockaddr *) &to, sizeof(to));
}

/* --- start ------------------------------------------------------------------------------------------- */

struct identity {
    char user[64], group[64];
    uid_t uid;
    gid_t gid;
};

static int identity_find(struct identity *ret, struct error *error) {
    const struct passwd *user = getpwnam("dnsmasq");
    const struct group *group;

    if (!user)
        user = getpwnam("nobody");
    if (!user || user->pw_uid == 0)
        return error_set(error, ERROR_HOST_LACKS, "the user 'dnsmasq'", "install the package dnsmasq-base");
    snprintf(ret->user, sizeof(ret->user), "%s", user->pw_name);
    ret->uid = user->pw_uid;
    ret->gid = user->pw_gid;
    group = getgrgid(ret->gid);
    snprintf(ret->group, sizeof(ret->group), "%s", group ? group->gr_name : "nogroup");
    return 0;
}

static int arguments_make(const struct dnsmasq_options *options, const struct identity *identity,
                          char ***ret) {
    static const char *const fixed[] = {
        PROGRAM,
        "--conf-file=",
        "--bind-interfaces",
        "--except-interface=lo",
        "--no-hosts",
        "--domain-needed",
        "--dhcp-ignore=tag:!known",
        "--dhcp-ignore-names",
        "--dhcp-authoritative",
        "--dhcp-no-override",
        "--no-ping",
        "--quiet-dhcp",
        "--cache-size=1000",
        "--pid-file=" INSIDE "/dnsmasq.pid",
        "--dhcp-leasefile=" INSIDE "/leases",
        "--hostsdir=" INSIDE "/hosts",
        "--dhcp-hostsdir=" INSIDE "/dhcp",
    };
    char network[ADDRESS_TEXT_SIZE], mask[ADDRESS_TEXT_SIZE];
    uint32_t bits = subnet_mask(options->subnet.prefix);
    _cleanup_list_ char **list = NULL;
    int r = 0;

    address_format(options->subnet.address, network);
    address_format(bits, mask);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(fixed); i++)
        r = list_add(&list, fixed[i]);
    if (r < 0 || (r = list_addf(&list, "--user=%s", identity->user)) < 0 ||
        (r = list_addf(&list, "--group=%s", identity->group)) < 0 ||
        (r = list_addf(&list, "--interface=%s", options->bridge)) < 0 ||
        (r = list_addf(&list, "--domain=%s", options->domain)) < 0 ||
        (r = list_addf(&list, "--local=/%s/", options->domain)) < 0 ||
        (r = list_addf(&list, "--dhcp-range=%s,static,%s,1h", network, mask)) < 0 ||
        (r = list_addf(&list, "--dhcp-lease-max=%u", ~bits)) < 0 ||
        (r = list_addf(&list, "--dhcp-option=option:mtu,%u", options->mtu)) < 0 ||
        (r = list_addf(&list, "--dhcp-option=option:domain-search,%s", options->domain)) < 0)
        return r;
    *ret = STEAL_PTR(list);
    return 0;
}

/* In the child: a mount namespace that shows everything read-only and the directory at INSIDE. System calls
 * only. */
static int dnsmasq_confine(void *userdata) {
    struct mount_attr locked = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID };
    int directory = *(const int *) userdata, tree;

    /* The directory belongs to the mount namespace it was opened in: taken before leaving that. */
    tree = open_tree(directory, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0)
        return -errno;
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -errno;
    if (mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &locked, sizeof(locked)) < 0 ||
        move_mount(tree, "", AT_FDCWD, INSIDE, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    close(tree);
    return 0;
}

/* dnsmasq opens it as root but writes it as its own user. */
static int leases_prepare(int directory, const struct identity *identity) {
    _cleanup_close_ int fd = openat(directory, "leases",
                                    O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0644);

    if (fd < 0 || fchown(fd, identity->uid, identity->gid) < 0)
        return -errno;
    return 0;
}

static int pid_read(const struct dnsmasq_options *options, uint64_t *ret) {
    _cleanup_free_ char *path = own_path(options, "dnsmasq.pid", ""), *text = NULL;
    int r = path ? file_read(AT_FDCWD, path, 32, &text, NULL) : -ENOMEM;

    if (r < 0)
        return r;
    text[strcspn(text, "\n")] = '\0';
    return text_parse_u64(text, ret) < 0 || *ret < 2 || *ret > INT32_MAX ? -ESRCH : 0;
}

static int record_write(const struct dnsmasq_options *options, const struct process *process,
                        char *const *arguments) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);
    _cleanup_free_ char *joined = list_join(arguments, " ");

    emit_object(&emitter);
    emit_key_integer(&emitter, "pid", process->pid);
    emit_key_unsigned(&emitter, "start_ticks", process->start_ticks);
    emit_key_text(&emitter, "boot_id", clock_boot_id());
    emit_key_text(&emitter, "arguments", joined);
    emit_object_end(&emitter);
    return text.failed || !joined ? -ENOMEM : own_write(options, "dnsmasq.json", "", text.data);
}

static int record_read(const struct dnsmasq_options *options, struct process *ret, char **ret_arguments) {
    _cleanup_free_ char *path = own_path(options, "dnsmasq.json", ""), *text = NULL;
    _cleanup_json_ struct json_object *json = NULL;
    int r = path ? file_read(AT_FDCWD, path, RECORD_LIMIT, &text, NULL) : -ENOMEM;

    if (r < 0 || json_parse(text, strlen(text), &json, NULL) < 0)
        return r == -ENOMEM ? r : -ESRCH;
    if (!text_equal(json_text(json, "boot_id", ""), clock_boot_id()))
        return -ESRCH;
    r = process_adopt((pid_t) json_integer(json, "pid", 0), (uint64_t) json_integer(json, "start_ticks", 0),
                      ret);
    if (r >= 0 && ret_arguments && !(*ret_arguments = strdup(json_text(json, "arguments", "")))) {
        process_done(ret);
        return -ENOMEM;
    }
    return r;
}

int dnsmasq_adopt(const struct dnsmasq_options *options, struct process *ret) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    _cleanup_free_ char *running = NULL, *wanted = NULL;
    _cleanup_list_ char **arguments = NULL;
    struct identity identity;

    if (record_read(options, &process, &running) < 0 || identity_find(&identity, NULL) < 0 ||
        arguments_make(options, &identity, &arguments) < 0)
        return -ESRCH;
    wanted = list_join(arguments, " ");
    if (!text_equal(running, wanted))
        return -ESRCH;
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

/* Is the process of the pid file a dnsmasq of ours, in our network? A pid alone may long belong to somebody
 * else. */
static bool is_our_dnsmasq(const struct dnsmasq_options *options, pid_t pid) {
    _cleanup_free_ char *path = text_format("/proc/%d/cmdline", (int) pid), *text = NULL;
    _cleanup_free_ char *interface = text_format("--interface=%s", options->bridge);
    _cleanup_free_ char *net = text_format("/proc/%d/ns/net", (int) pid);
    struct stat theirs, ours;
    size_t size = 0;
    bool found = false;

    if (!path || !interface || !net || file_read(AT_FDCWD, path, RECORD_LIMIT, &text, &size) < 0 ||
        !text_equal(text, PROGRAM) || stat(net, &theirs) < 0 || stat("/proc/self/ns/net", &ours) < 0)
        return false;
    for (size_t at = 0; at < size; at += strlen(text + at) + 1)
        found = found || text_equal(text + at, interface);
    return found && theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

/* Ends what runs unrecorded, or with other options. */
static void leftover_end(const struct dnsmasq_options *options) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    uint64_t pid, ticks;

    if (record_read(options, &process, NULL) < 0 &&
        (pid_read(options, &pid) < 0 || proc_start_time((pid_t) pid, &ticks) < 0 ||
         process_adopt((pid_t) pid, ticks, &process) < 0 || !is_our_dnsmasq(options, (pid_t) pid)))
        return;
    (void) process_end(&process, STOP_GRACE);
}

static int dnsmasq_run(const struct dnsmasq_options *options, char **arguments,
                       const struct identity *identity, struct error *error) {
    _cleanup_close_ int directory = open(options->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct process_spec spec = { .program = PROGRAM,
                                 .program_fd = -EBADF,
                                 .arguments = arguments,
                                 .setup = dnsmasq_confine,
                                 .userdata = &directory };
    struct process_run run = { .limit = 4096, .deadline = deadline_in(START_TIMEOUT) };
    int r;

    if (directory < 0)
        return error_errno(error, -errno, "opening %s", options->directory);
    r = leases_prepare(directory, identity);
    if (r < 0)
        return error_errno(error, r, "preparing the leases of dnsmasq");
    if (access(PROGRAM, X_OK) < 0)
        return error_set(error, ERROR_HOST_LACKS, PROGRAM, "install the package dnsmasq-base");
    return process_run(&spec, &run, error);
}

int dnsmasq_start(const struct dnsmasq_options *options, struct process *ret, struct error *error) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    _cleanup_list_ char **arguments = NULL;
    struct identity identity;
    uint64_t pid = 0, ticks = 0;
    int r = identity_find(&identity, error);

    if (r < 0)
        return r;
    leftover_end(options);
    r = arguments_make(options, &identity, &arguments);
    if (r < 0)
        return error_errno(error, r, "starting dnsmasq");
    r = dnsmasq_run(options, arguments, &identity, error);
    if (r < 0)
        return r;
    FAILPOINT("network-dnsmasq-started");
    r = pid_read(options, &pid);
    if (r >= 0)
        r = proc_start_time((pid_t) pid, &ticks);
    if (r >= 0)
        r = process_adopt((pid_t) pid, ticks, &process);
    if (r >= 0)
        r = record_write(options, &process, arguments);
    if (r < 0)
        return error_errno(error, r, "taking over dnsmasq");
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

int dnsmasq_stop(const struct dnsmasq_options *options, struct process *process) {
    static const char *const files[] = { "dnsmasq.json", "dnsmasq.pid", "leases" };
    int r = 0;

    if (process->pidfd >= 0)
        r = process_end(process, STOP_GRACE);
    process_done(process);
    leftover_end(options);
    FAILPOINT("network-dnsmasq-stopped");
    for (size_t i = 0; i < ELEMENTS(files); i++)
        (void) own_remove(options, files[i], "");
    return r;
}
