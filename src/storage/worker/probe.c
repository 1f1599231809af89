// SPDX-License-Identifier: GPL-2.0-or-later
#include "probe.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "jail.h"

uint16_t get_le16(const uint8_t *data) {
    return (uint16_t) (data[0] | data[1] << 8);
}

uint32_t get_le32(const uint8_t *data) {
    return get_le16(data) | (uint32_t) get_le16(data + 2) << 16;
}

uint64_t get_le64(const uint8_t *data) {
    return get_le32(data) | (uint64_t) get_le32(data + 4) << 32;
}

uint32_t get_be32(const uint8_t *data) {
    return (uint32_t) data[0] << 24 | (uint32_t) data[1] << 16 | (uint32_t) data[2] << 8 | data[3];
}

uint64_t get_be64(const uint8_t *data) {
    return (uint64_t) get_be32(data) << 32 | get_be32(data + 4);
}

bool disk_holds(const struct disk *disk, uint64_t offset, uint64_t size) {
    return offset <= disk->size && size <= disk->size - offset;
}

int disk_read(const struct disk *disk, uint64_t offset, void *buffer, size_t size, struct failure *failure) {
    if (!disk_holds(disk, offset, size))
        return fail(failure, FAILURE_DISK_MALFORMED, "",
                    "its header points beyond its end (%zu bytes at %llu)", size,
                    (unsigned long long) offset);
    if (disk->fd < 0) {
        memcpy(buffer, disk->data + offset, size);
        return 0;
    }
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(disk->fd, (char *) buffer + done, size - done, (off_t) (offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_errno(failure, n < 0 ? errno : EIO, "", "reading the image");
        done += (size_t) n;
    }
    return 0;
}

int disk_from_fd(int fd, struct disk *ret, struct failure *failure) {
    struct stat status;
    if (fstat(fd, &status) < 0)
        return fail_errno(failure, errno, "", "reading the image");
    if (!S_ISREG(status.st_mode))
        return fail(failure, FAILURE_USAGE, "--input-fd", "a disk image must be a regular file");
    *ret = (struct disk){ .fd = fd, .size = (uint64_t) status.st_size };
    return 0;
}

/* ---- signatures ---- */

typedef int (*probe_function)(const struct disk *disk, struct disk_facts *facts, struct failure *failure);

static int probe_plain(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    (void) failure;
    facts->virtual_size = disk->size;
    return 0;
}

struct signature {
    const char *format;
    const char *bytes;
    size_t length;
    int64_t offset;       /* negative: from the end */
    probe_function probe; /* NULL: recognised in order to be refused */
};

#define SIGNATURE(format, bytes, offset, probe) \
    { format, bytes, sizeof(bytes) - 1, offset, probe }

/* The first rows can be used; the others are named so that the refusal says what it is, and so that an image
 * that is two things at once is found out. */
static const struct signature signatures[] = {
    SIGNATURE("qcow2", "QFI\xfb", 0, probe_qcow2),
    SIGNATURE("vmdk", "KDMV", 0, probe_vmdk),
    SIGNATURE("vdi", "\x7f\x10\xda\xbe", 64, probe_vdi),
    SIGNATURE("vhdx", "vhdxfile", 0, probe_vhdx),
    SIGNATURE("vpc", "conectix", 0, probe_vpc),
    SIGNATURE("vpc", "conectix", -512, probe_vpc),
    SIGNATURE("iso", "CD001", 0x8001, probe_plain),
    SIGNATURE("iso", "BEA01", 0x8001, probe_plain), /* UDF */
    SIGNATURE("qed", "QED\0", 0, NULL),
    SIGNATURE("luks", "LUKS\xba\xbe", 0, NULL),
    SIGNATURE("parallels", "WithoutFreeSpace", 0, NULL),
    SIGNATURE("parallels", "WithouFreSpacExt", 0, NULL),
    SIGNATURE("bochs", "Bochs Virtual HD Image", 0, NULL),
    SIGNATURE("cow", "OOOM", 0, NULL),
    SIGNATURE("vmdk3", "COWD", 0, NULL),
    SIGNATURE("seSparse vmdk", "\xbe\xba\xfe\xca", 0, NULL),
    SIGNATURE("vmdk descriptor", "# Disk DescriptorFile", 0, NULL),
    SIGNATURE("dmg", "koly", -512, NULL),
    SIGNATURE("json: reference", "json:", 0, NULL),
    SIGNATURE("gzip", "\x1f\x8b\x08", 0, NULL),
    SIGNATURE("xz", "\xfd\x37zXZ", 0, NULL),
    SIGNATURE("zstd", "\x28\xb5\x2f\xfd", 0, NULL),
    SIGNATURE("bzip2", "BZh", 0, NULL),
    SIGNATURE("zip", "PK\3\4", 0, NULL),
    SIGNATURE("zip", "PK\5\6", -22, NULL),
    SIGNATURE("7z", "7z\xbc\xaf\x27\x1c", 0, NULL),
    SIGNATURE("tar", "ustar", 257, NULL),
    SIGNATURE("elf", "\177ELF", 0, NULL),
};

static bool signature_is_there(const struct disk *disk, const struct signature *signature) {
    char found[32];
    struct failure ignored = { 0 };
    uint64_t offset = (uint64_t) signature->offset;
    if (signature->offset < 0) {
        if (disk->size < (uint64_t) -signature->offset)
            return false;
        offset = disk->size - (uint64_t) -signature->offset;
    }
    if (!disk_holds(disk, offset, signature->length) ||
        disk_read(disk, offset, found, signature->length, &ignored) < 0)
        return false;
    return memcmp(found, signature->bytes, signature->length) == 0;
}

/* To QEMU a text is a VMDK descriptor if its first line that is no comment and not blank is "version=…". */
static bool is_vmdk_descriptor(const struct disk *disk) {
    char text[2049];
    struct failure ignored = { 0 };
    size_t size = disk->size < sizeof(text) - 1 ? (size_t) disk->size : sizeof(text) - 1;
    if (disk_read(disk, 0, text, size, &ignored) < 0)
        return false;
    text[size] = 0;
    for (const char *line = text; *line;) {
        line += strspn(line, " \r\n\t");
        if (*line != '#')
            return strncasecmp(line, "version", 7) == 0 || strncasecmp(line, "createType", 10) == 0;
        line += strcspn(line, "\n");
    }
    return false;
}

/* A boot sector or partition table in front of something that is not raw: as raw it would be another disk. */
static bool has_boot_sector(const struct disk *disk) {
    static const struct signature boot = SIGNATURE("mbr", "\x55\xaa", 510, NULL);
    static const struct signature table = SIGNATURE("gpt", "EFI PART", 512, NULL);
    return signature_is_there(disk, &boot) || signature_is_there(disk, &table);
}

static int refuse_second(const char *first, const char *second, struct failure *failure) {
    return fail(failure, FAILURE_DISK_AMBIGUOUS, "format", "it is a %s image and a %s image at once", first,
                second);
}

static int find_signature(const struct disk *disk, const struct signature **ret, struct failure *failure) {
    static const struct signature raw = { .format = "raw", .probe = probe_plain };
    static const struct signature descriptor = { .format = "vmdk descriptor" };
    const struct signature *found = is_vmdk_descriptor(disk) ? &descriptor : NULL;
    for (size_t i = 0; i < ELEMENTS(signatures); i++) {
        if (!signature_is_there(disk, &signatures[i]))
            continue;
        if (found && strcmp(found->format, signatures[i].format) != 0)
            return refuse_second(found->format, signatures[i].format, failure);
        if (!found || signatures[i].probe)
            found = &signatures[i];
    }
    *ret = found ? found : &raw;
    return 0;
}

/* The formats whose first bytes are those of the disk itself. */
static bool starts_like_raw(const struct disk_facts *facts) {
    bool is_fixed_vpc = strcmp(facts->format, "vpc") == 0 && strcmp(facts->subtype, "fixed") == 0;
    return is_fixed_vpc || strcmp(facts->format, "raw") == 0 || strcmp(facts->format, "iso") == 0;
}

static int refuse_format(const char *format, struct failure *failure) {
    if (strcmp(format, "vmdk descriptor") == 0)
        return fail(failure, FAILURE_DISK_EXTERNAL, "format",
                    "it is a VMDK descriptor, whose data is in other files; give a single-file VMDK");
    if (strcmp(format, "luks") == 0)
        return fail(failure, FAILURE_DISK_ENCRYPTED, "format", "it is encrypted (LUKS)");
    if (strcmp(format, "tar") == 0)
        return fail(failure, FAILURE_DISK_UNKNOWN, "format",
                    "it is a tar archive: of an OVA unpack it and give the .vmdk inside, of files say --type rootfs");
    if (strcmp(format, "gzip") == 0 || strcmp(format, "xz") == 0)
        return fail(failure, FAILURE_DISK_UNKNOWN, "format", "it is compressed: unpack it with %s -d first", format);
    return fail(failure, FAILURE_DISK_UNKNOWN, "format", "%s is not a disk image format that can be used",
                format);
}

static int check_size(const struct disk_facts *facts, uint64_t max_virtual, struct failure *failure) {
    /* Most likely no disk at all: the formats that have a header were ruled out by it. */
    if (strcmp(facts->format, "raw") == 0 && facts->virtual_size % 512 != 0)
        return fail(failure, FAILURE_DISK_SIZE, "",
                    "it is no disk: it has no header of qcow2, VMDK, VDI, VHDX, VPC or ISO, and a raw disk's size would be a "
                    "multiple of 512 bytes, not %llu",
                    (unsigned long long) facts->virtual_size);
    if (facts->virtual_size == 0 || facts->virtual_size % 512 != 0)
        return fail(failure, FAILURE_DISK_SIZE, "virtual_size",
                    "its virtual size %llu is not a multiple of 512 above 0",
                    (unsigned long long) facts->virtual_size);
    if (facts->virtual_size > max_virtual)
        return fail(failure, FAILURE_DISK_SIZE, "virtual_size",
                    "its virtual size %llu exceeds the limit of %llu",
                    (unsigned long long) facts->virtual_size, (unsigned long long) max_virtual);
    return 0;
}

int disk_probe(const struct disk *disk, const char *declared, uint64_t max_virtual, struct disk_facts *ret,
               struct failure *failure) {
    const struct signature *signature = NULL;
    struct disk_facts facts = { 0 };
    if (disk->size == 0)
        return fail(failure, FAILURE_TRUNCATED, "", "the image is empty");
    if (find_signature(disk, &signature, failure) < 0)
        return -EBADMSG;
    if (!signature->probe)
        return refuse_format(signature->format, failure);
    if (declared && strcmp(declared, signature->format) != 0)
        return fail(failure, FAILURE_DISK_MISMATCH, "format", "it is declared as '%s' but is %s", declared,
                    signature->format);
    facts.format = signature->format;
    if (signature->probe(disk, &facts, failure) < 0 || check_size(&facts, max_virtual, failure) < 0)
        return -EBADMSG;
    if (!starts_like_raw(&facts) && has_boot_sector(disk))
        return refuse_second(facts.format, "raw boot disk", failure);
    *ret = facts;
    return 0;
}

int command_probe_disk(struct options *options, struct failure *failure) {
    struct disk disk;
    struct disk_facts facts;
    if (jail_confine(JAIL_PURE, options, 1 << 20, failure) < 0 ||
        disk_from_fd(options->input_fd, &disk, failure) < 0 ||
        disk_probe(&disk, options->declared, options->max_virtual, &facts, failure) < 0)
        return -EBADMSG;
    struct json_object *result = json_object_new_object();
    json_object_object_add(result, "format", json_object_new_string(facts.format));
    if (facts.subtype)
        json_object_object_add(result, "subtype", json_object_new_string(facts.subtype));
    json_object_object_add(result, "virtual_size", json_object_new_uint64(facts.virtual_size));
    json_object_object_add(result, "file_size", json_object_new_uint64(disk.size));
    json_object_object_add(result, "snapshots", json_object_new_uint64(facts.snapshots));
    return report_result_take(result);
}
