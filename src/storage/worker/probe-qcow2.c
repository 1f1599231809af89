// SPDX-License-Identifier: GPL-2.0-or-later
/* The qcow2 header (docs/interop/qcow2.txt of QEMU), its extensions and the place of its tables. */
#include <errno.h>
#include <string.h>

#include "probe.h"

#define INCOMPATIBLE_COMPRESSION \
    (1ULL << 3)                       /* the one incompatible feature that is harmless: zstd clusters */
#define L1_MAX (32u << 20)            /* bytes; QEMU's own limit */
#define REFCOUNT_TABLE_MAX (8u << 20) /* bytes; QEMU's own limit */
#define SNAPSHOTS_MAX 256
#define SNAPSHOT_MIN 40 /* bytes of one entry of the snapshot table */

struct qcow2 {
    uint32_t version, cluster_bits, crypt_method, l1_size, refcount_clusters, snapshots, refcount_order,
        header_length;
    uint64_t backing_offset, size, l1_offset, refcount_offset, snapshots_offset, incompatible;
    uint32_t backing_size;
    uint8_t compression;
    uint64_t cluster; /* bytes */
};

struct region {
    const char *name;
    uint64_t offset, size;
};

static int malformed(struct failure *failure, const char *field, const char *what) {
    return fail(failure, FAILURE_DISK_MALFORMED, field, "%s", what);
}

static int read_header(const struct disk *disk, struct qcow2 *header, struct failure *failure) {
    uint8_t raw[112] = { 0 };
    if (disk_read(disk, 0, raw, 72, failure) < 0)
        return -EBADMSG;
    header->version = get_be32(raw + 4);
    if (header->version != 2 && header->version != 3)
        return fail(failure, FAILURE_DISK_FEATURE, "version", "qcow version %u is not supported",
                    header->version);
    if (header->version == 3 && disk_read(disk, 0, raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    header->backing_offset = get_be64(raw + 8);
    header->backing_size = get_be32(raw + 16);
    header->cluster_bits = get_be32(raw + 20);
    header->size = get_be64(raw + 24);
    header->crypt_method = get_be32(raw + 32);
    header->l1_size = get_be32(raw + 36);
    header->l1_offset = get_be64(raw + 40);
    header->refcount_offset = get_be64(raw + 48);
    header->refcount_clusters = get_be32(raw + 56);
    header->snapshots = get_be32(raw + 60);
    header->snapshots_offset = get_be64(raw + 64);
    header->incompatible = get_be64(raw + 72);
    header->refcount_order = header->version == 3 ? get_be32(raw + 96) : 4;
    header->header_length = header->version == 3 ? get_be32(raw + 100) : 72;
    header->compression = header->header_length > 104 ? raw[104] : 0;
    return 0;
}

static int check_header(struct qcow2 *header, struct failure *failure) {
    if (header->cluster_bits < 9 || header->cluster_bits > 21)
        return malformed(failure, "cluster_bits", "its cluster size is not between 512 bytes and 2 MiB");
    header->cluster = 1ULL << header->cluster_bits;
    if (header->backing_offset != 0 || header->backing_size != 0)
        return fail(failure, FAILURE_DISK_EXTERNAL, "backing_file", "it depends on a backing file");
    if (header->incompatible & 1ULL << 2)
        return fail(failure, FAILURE_DISK_EXTERNAL, "incompatible_features",
                    "its data is in an external data file");
    if (header->incompatible & ~INCOMPATIBLE_COMPRESSION)
        return fail(failure, FAILURE_DISK_FEATURE, "incompatible_features",
                    "it uses features (0x%llx) that are refused", (unsigned long long) header->incompatible);
    bool is_zstd = header->incompatible & INCOMPATIBLE_COMPRESSION;
    if (header->compression > 1 || is_zstd != (header->compression == 1))
        return fail(failure, FAILURE_DISK_FEATURE, "compression_type", "its compression type is unknown");
    if (header->crypt_method != 0)
        return fail(failure, FAILURE_DISK_ENCRYPTED, "crypt_method", "it is encrypted");
    if (header->refcount_order > 6)
        return malformed(failure, "refcount_order", "its reference counts are wider than 64 bits");
    if (header->version == 3 && (header->header_length < 104 || header->header_length % 8 != 0 ||
                                 header->header_length > header->cluster || header->header_length > 4096))
        return malformed(failure, "header_length", "its header length is out of range");
    if (header->size == 0 || header->size > 1ULL << 62)
        return fail(failure, FAILURE_DISK_SIZE, "virtual_size", "its virtual size is 0 or absurd");
    return 0;
}

/* ---- extensions ---- */

enum extension {
    EXTENSION_END = 0,
    EXTENSION_BACKING_FORMAT = 0xe2792acaU,
    EXTENSION_FEATURE_NAMES = 0x6803f857,
    EXTENSION_BITMAPS = 0x23852875,
    EXTENSION_ENCRYPTION = 0x0537be77,
    EXTENSION_DATA_FILE = 0x44415441,
};

static int check_extension(uint32_t type, struct failure *failure) {
    switch (type) {
    case EXTENSION_FEATURE_NAMES:
    case EXTENSION_BITMAPS:
        return 0;
    case EXTENSION_BACKING_FORMAT:
        return fail(failure, FAILURE_DISK_EXTERNAL, "extension", "it names the format of a backing file");
    case EXTENSION_DATA_FILE:
        return fail(failure, FAILURE_DISK_EXTERNAL, "extension", "it names an external data file");
    case EXTENSION_ENCRYPTION:
        return fail(failure, FAILURE_DISK_ENCRYPTED, "extension", "it has an encryption header");
    default:
        return fail(failure, FAILURE_DISK_FEATURE, "extension", "it has an unknown header extension (0x%x)",
                    type);
    }
}

static int check_extensions(const struct disk *disk, const struct qcow2 *header, struct failure *failure) {
    uint64_t offset = header->header_length;
    for (unsigned count = 0; offset + 8 <= header->cluster; count++) {
        uint8_t head[8];
        if (disk_read(disk, offset, head, sizeof(head), failure) < 0)
            return -EBADMSG;
        uint32_t type = get_be32(head);
        uint64_t length = get_be32(head + 4);
        if (type == EXTENSION_END)
            return 0;
        if (count == 16)
            return malformed(failure, "extension", "it has too many header extensions");
        if (check_extension(type, failure) < 0)
            return -EBADMSG;
        offset += 8 + ((length + 7) & ~7ULL);
        if (offset > header->cluster)
            return malformed(failure, "extension", "a header extension is longer than the header's cluster");
    }
    return 0;
}

/* ---- tables ---- */

static bool overlap(const struct region *a, const struct region *b) {
    return a->size && b->size && a->offset < b->offset + b->size && b->offset < a->offset + a->size;
}

static int check_region(const struct disk *disk, const struct qcow2 *header, const struct region *region,
                        struct failure *failure) {
    if (region->size == 0)
        return 0;
    if (region->offset == 0 || region->offset % header->cluster != 0)
        return malformed(failure, region->name, "a table does not start at a cluster");
    if (!disk_holds(disk, region->offset, region->size))
        return malformed(failure, region->name, "a table lies beyond the end of the file");
    return 0;
}

static int check_regions(const struct disk *disk, const struct qcow2 *header, struct failure *failure) {
    const struct region regions[] = {
        { "header", 0, header->cluster },
        { "l1_table", header->l1_offset, (uint64_t) header->l1_size * 8 },
        { "refcount_table", header->refcount_offset, (uint64_t) header->refcount_clusters * header->cluster },
        { "snapshots", header->snapshots_offset, (uint64_t) header->snapshots * SNAPSHOT_MIN },
    };
    for (size_t i = 1; i < ELEMENTS(regions); i++) {
        if (check_region(disk, header, &regions[i], failure) < 0)
            return -EBADMSG;
        for (size_t k = 0; k < i; k++)
            if (overlap(&regions[i], &regions[k]))
                return malformed(failure, regions[i].name, "its tables overlap");
    }
    return 0;
}

static int check_tables(const struct disk *disk, const struct qcow2 *header, struct failure *failure) {
    uint64_t per_l1_entry = header->cluster * (header->cluster / 8);
    uint64_t needed = header->size / per_l1_entry + (header->size % per_l1_entry != 0);
    if ((uint64_t) header->l1_size * 8 > L1_MAX || needed > header->l1_size)
        return malformed(failure, "l1_size", "its first-level table does not fit its virtual size");
    if (header->refcount_clusters == 0 ||
        (uint64_t) header->refcount_clusters * header->cluster > REFCOUNT_TABLE_MAX)
        return malformed(failure, "refcount_table", "its reference count table has an absurd size");
    if (header->snapshots > SNAPSHOTS_MAX)
        return malformed(failure, "snapshots", "it claims too many snapshots");
    return check_regions(disk, header, failure);
}

/* A first-level entry points at a cluster of the file that is not one of the tables. */
static int check_l1_entry(const struct disk *disk, const struct qcow2 *header, uint64_t entry,
                          struct failure *failure) {
    const uint64_t reserved = 0x7f000000000001ffULL;
    uint64_t offset = entry & 0x00fffffffffffe00ULL;
    if (entry & reserved)
        return malformed(failure, "l1_table", "an entry uses reserved bits");
    if (offset == 0)
        return 0;
    const struct region l2 = { "l2", offset, header->cluster };
    const struct region l1 = { "l1", header->l1_offset, (uint64_t) header->l1_size * 8 };
    const struct region counts = { "refcounts", header->refcount_offset,
                                   (uint64_t) header->refcount_clusters * header->cluster };
    if (offset % header->cluster != 0 || offset < header->cluster || !disk_holds(disk, offset, 8))
        return malformed(failure, "l1_table", "an entry points at no cluster of the file");
    if (overlap(&l2, &l1) || overlap(&l2, &counts))
        return malformed(failure, "l1_table", "an entry points into a table");
    return 0;
}

static int check_l1(const struct disk *disk, const struct qcow2 *header, struct failure *failure) {
    uint8_t chunk[8192];
    uint64_t left = (uint64_t) header->l1_size * 8, offset = header->l1_offset;
    while (left > 0) {
        size_t size = left < sizeof(chunk) ? (size_t) left : sizeof(chunk);
        if (disk_read(disk, offset, chunk, size, failure) < 0)
            return -EBADMSG;
        for (size_t i = 0; i < size; i += 8)
            if (check_l1_entry(disk, header, get_be64(chunk + i), failure) < 0)
                return -EBADMSG;
        offset += size;
        left -= size;
    }
    return 0;
}

/* Data and tables are written in sectors at least, except a table at the very end: a file that ends elsewhere
 * has something appended to it. */
static int check_end(const struct disk *disk, const struct qcow2 *header, struct failure *failure) {
    uint64_t l1_end = header->l1_offset + (uint64_t) header->l1_size * 8;
    if (disk->size % 512 == 0 || disk->size == l1_end || header->snapshots > 0)
        return 0;
    return fail(failure, FAILURE_TRAILING, "", "something is appended to the image");
}

int probe_qcow2(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    struct qcow2 header = { 0 };
    if (read_header(disk, &header, failure) < 0 || check_header(&header, failure) < 0 ||
        check_extensions(disk, &header, failure) < 0 || check_tables(disk, &header, failure) < 0 ||
        check_l1(disk, &header, failure) < 0 || check_end(disk, &header, failure) < 0)
        return -EBADMSG;
    facts->virtual_size = header.size;
    facts->snapshots = header.snapshots;
    return 0;
}
