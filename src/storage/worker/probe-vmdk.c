// SPDX-License-Identifier: GPL-2.0-or-later
/* VMDK 4 sparse extents with the descriptor inside: monolithicSparse and streamOptimized. Everything else of
 * VMDK has its data in other files. */
#include <errno.h>
#include <string.h>

#include "probe.h"

#define SECTOR 512u
#define DESCRIPTOR_MAX (20u * SECTOR) /* what QEMU reads of it */
#define AT_END UINT64_MAX             /* the grain directory's place is in the footer */
#define FLAG_COMPRESSED (1u << 16)
#define FLAG_MARKERS (1u << 17)

struct vmdk {
    uint32_t version, flags, entries_per_table;
    uint64_t capacity, grain, descriptor_offset, descriptor_size, directory; /* sectors */
    uint16_t compression;
};

static int malformed(struct failure *failure, const char *field, const char *what) {
    return fail(failure, FAILURE_DISK_MALFORMED, field, "%s", what);
}

static int read_header(const struct disk *disk, uint64_t offset, struct vmdk *header,
                       struct failure *failure) {
    uint8_t raw[SECTOR];
    if (disk_read(disk, offset, raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    if (memcmp(raw, "KDMV", 4) != 0)
        return malformed(failure, "footer", "its footer is no VMDK header");
    *header = (struct vmdk){
        .version = get_le32(raw + 4),
        .flags = get_le32(raw + 8),
        .capacity = get_le64(raw + 12),
        .grain = get_le64(raw + 20),
        .descriptor_offset = get_le64(raw + 28),
        .descriptor_size = get_le64(raw + 36),
        .entries_per_table = get_le32(raw + 44),
        .directory = get_le64(raw + 56),
        .compression = get_le16(raw + 77),
    };
    return 0;
}

static int check_header(const struct vmdk *header, struct failure *failure) {
    if (header->version < 1 || header->version > 3)
        return fail(failure, FAILURE_DISK_FEATURE, "version", "VMDK version %u is not supported",
                    header->version);
    /* With a capacity of 0, QEMU takes the embedded descriptor for one that names other files. */
    if (header->capacity == 0)
        return fail(failure, FAILURE_DISK_EXTERNAL, "capacity", "its data is in other files");
    if (header->capacity > 1ULL << 50)
        return fail(failure, FAILURE_DISK_SIZE, "virtual_size", "its virtual size is absurd");
    if (header->grain < 1 || header->grain > 0x8000 || (header->grain & (header->grain - 1)))
        return malformed(failure, "grain_size", "its grain size is no power of two up to 16 MiB");
    if (header->entries_per_table != 512)
        return malformed(failure, "entries_per_table", "its grain tables do not have 512 entries");
    bool is_compressed = header->flags & FLAG_COMPRESSED;
    if (header->compression > 1 || is_compressed != (header->compression == 1))
        return fail(failure, FAILURE_DISK_FEATURE, "compression", "its compression is unknown");
    return 0;
}

/* ---- the descriptor ---- */

static const char *const subtypes[] = { "monolithicSparse", "streamOptimized" };

static int check_type(const char *text, struct disk_facts *facts, struct failure *failure) {
    const char *type = strcasestr(text, "createType");
    if (!type || strcasestr(type + 1, "createType"))
        return malformed(failure, "createType", "its descriptor has no createType, or several");
    type += strlen("createType");
    type += strspn(type, " \t=\"");
    for (size_t i = 0; i < ELEMENTS(subtypes); i++) {
        size_t length = strlen(subtypes[i]);
        if (strncmp(type, subtypes[i], length) == 0 && type[length] == '"') {
            facts->subtype = subtypes[i];
            return 0;
        }
    }
    return fail(failure, FAILURE_DISK_EXTERNAL, "createType", "its type keeps data in other files: '%.32s'",
                type);
}

static bool line_starts_with(const char *line, const char *word) {
    return strncasecmp(line, word, strlen(word)) == 0 &&
           (line[strlen(word)] == ' ' || line[strlen(word)] == '\t');
}

/* Exactly one extent, sparse, and named like a file in the same place. */
static int check_extents(char *text, struct failure *failure) {
    unsigned extents = 0;
    for (char *rest = text, *line; (line = strsep(&rest, "\r\n"));) {
        line += strspn(line, " \t");
        if (!line_starts_with(line, "RW") && !line_starts_with(line, "RDONLY") &&
            !line_starts_with(line, "NOACCESS"))
            continue;
        extents++;
        if (!strstr(line, " SPARSE ") || strchr(line, '/') || strchr(line, '\\'))
            return fail(failure, FAILURE_DISK_EXTERNAL, "extent", "it has an extent in another file: '%.64s'",
                        line);
    }
    return extents == 1
               ? 0
               : fail(failure, FAILURE_DISK_EXTERNAL, "extent", "it has %u extents, not one", extents);
}

static int check_descriptor_text(char *text, struct disk_facts *facts, struct failure *failure) {
    if (strcasestr(text, "parentFileNameHint"))
        return fail(failure, FAILURE_DISK_EXTERNAL, "parentFileNameHint", "it depends on a parent image");
    const char *parent = strcasestr(text, "parentCID");
    if (parent) {
        parent += strlen("parentCID");
        parent += strspn(parent, " \t=");
        if (strncasecmp(parent, "ffffffff", 8) != 0)
            return fail(failure, FAILURE_DISK_EXTERNAL, "parentCID", "it depends on a parent image");
    }
    if (strcasestr(text, "encryption.keySafe"))
        return fail(failure, FAILURE_DISK_ENCRYPTED, "encryption.keySafe", "it is encrypted");
    int r = check_type(text, facts, failure);
    return r < 0 ? r : check_extents(text, failure);
}

/* QEMU reads 20 sectors whatever the header says, up to the first NUL; so does this. */
static int check_descriptor(const struct disk *disk, const struct vmdk *header, struct disk_facts *facts,
                            struct failure *failure) {
    char text[DESCRIPTOR_MAX + 1];
    if (header->descriptor_offset == 0 || header->descriptor_offset > 1 << 20 ||
        header->descriptor_size == 0 || header->descriptor_size > 20)
        return malformed(failure, "descriptor", "its descriptor is missing or misplaced");
    uint64_t offset = header->descriptor_offset * SECTOR;
    if (!disk_holds(disk, offset, header->descriptor_size * SECTOR))
        return malformed(failure, "descriptor", "its descriptor lies beyond the end of the file");
    size_t size = disk_holds(disk, offset, DESCRIPTOR_MAX) ? DESCRIPTOR_MAX : (size_t) (disk->size - offset);
    if (disk_read(disk, offset, text, size, failure) < 0)
        return -EBADMSG;
    text[size] = 0;
    size_t length = strlen(text);
    if (length >= DESCRIPTOR_MAX)
        return malformed(failure, "descriptor", "its descriptor has no end");
    return check_descriptor_text(text, facts, failure);
}

/* ---- the grain directory ---- */

static int check_directory(const struct disk *disk, const struct vmdk *header, struct failure *failure) {
    uint64_t per_entry = header->grain * header->entries_per_table;
    uint64_t entries = header->capacity / per_entry + (header->capacity % per_entry != 0);
    if (entries > 8u << 20)
        return malformed(failure, "grain_size", "its grain directory would be absurdly large");
    if (header->directory > disk->size / SECTOR || !disk_holds(disk, header->directory * SECTOR, entries * 4))
        return malformed(failure, "grain_directory", "its grain directory lies beyond the end of the file");
    return 0;
}

static int check_footer(const struct disk *disk, struct vmdk *header, struct failure *failure) {
    struct vmdk footer;
    if (disk->size < 3 * SECTOR)
        return malformed(failure, "footer", "its footer is missing");
    if (read_header(disk, disk->size - 2 * SECTOR, &footer, failure) < 0 ||
        check_header(&footer, failure) < 0)
        return -EBADMSG;
    if (footer.directory == AT_END || footer.capacity != header->capacity || footer.grain != header->grain)
        return malformed(failure, "footer", "its footer contradicts its header");
    header->directory = footer.directory;
    return 0;
}

int probe_vmdk(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    struct vmdk header;
    if (read_header(disk, 0, &header, failure) < 0 || check_header(&header, failure) < 0 ||
        check_descriptor(disk, &header, facts, failure) < 0)
        return -EBADMSG;
    if (header.directory == AT_END && check_footer(disk, &header, failure) < 0)
        return -EBADMSG;
    facts->virtual_size = header.capacity * SECTOR;
    return check_directory(disk, &header, failure);
}
