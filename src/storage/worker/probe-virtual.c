// SPDX-License-Identifier: GPL-2.0-or-later
/* VDI (VirtualBox), VHD ("vpc", Virtual PC) and VHDX (Hyper-V). */
#include <errno.h>
#include <string.h>

#include "probe.h"

static int malformed(struct failure *failure, const char *field, const char *what) {
    return fail(failure, FAILURE_DISK_MALFORMED, field, "%s", what);
}

static bool is_zero(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (data[i])
            return false;
    return true;
}

/* ---- VDI ---- */

enum {
    VDI_VERSION = 0x44,
    VDI_HEADER_SIZE = 0x48,
    VDI_TYPE = 0x4c,
    VDI_MAP = 0x154,
    VDI_DATA = 0x158,
    VDI_SECTOR_SIZE = 0x168,
    VDI_DISK_SIZE = 0x170,
    VDI_BLOCK_SIZE = 0x178,
    VDI_BLOCK_EXTRA = 0x17c,
    VDI_BLOCKS = 0x180,
    VDI_ALLOCATED = 0x184,
    VDI_UUID_LINK = 0x1a8,
    VDI_UUID_PARENT = 0x1b8,
};

#define VDI_BLOCK (1u << 20)

static int check_vdi_blocks(const struct disk *disk, const uint8_t *raw, uint64_t size,
                            struct failure *failure) {
    uint32_t blocks = get_le32(raw + VDI_BLOCKS), map = get_le32(raw + VDI_MAP),
             data = get_le32(raw + VDI_DATA);
    if (get_le32(raw + VDI_SECTOR_SIZE) != 512 || get_le32(raw + VDI_BLOCK_SIZE) != VDI_BLOCK ||
        get_le32(raw + VDI_BLOCK_EXTRA) != 0)
        return fail(failure, FAILURE_DISK_FEATURE, "block_size", "its sector or block size is unusual");
    if (size > 1ULL << 50 || blocks != (size + VDI_BLOCK - 1) / VDI_BLOCK ||
        get_le32(raw + VDI_ALLOCATED) > blocks)
        return malformed(failure, "blocks", "its number of blocks does not fit its size");
    if (map < 512 || map % 512 != 0 || data % 512 != 0 || !disk_holds(disk, map, (uint64_t) blocks * 4) ||
        data < map + (uint64_t) blocks * 4)
        return malformed(failure, "map", "its block map is misplaced");
    /* The last block need not be whole. */
    uint64_t allocated = get_le32(raw + VDI_ALLOCATED);
    if (allocated > 0 && !disk_holds(disk, data + (allocated - 1) * VDI_BLOCK, 1))
        return fail(failure, FAILURE_TRUNCATED, "blocks", "it is cut off: %llu blocks should be there",
                    (unsigned long long) allocated);
    return 0;
}

int probe_vdi(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    uint8_t raw[512];
    if (disk_read(disk, 0, raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    uint32_t type = get_le32(raw + VDI_TYPE), header_size = get_le32(raw + VDI_HEADER_SIZE);
    if (get_le32(raw + VDI_VERSION) != 0x10001)
        return fail(failure, FAILURE_DISK_FEATURE, "version", "its VDI version is not 1.1");
    if (header_size < 0x180 || header_size > 512)
        return malformed(failure, "header_size", "its header length is out of range");
    if (type != 1 && type != 2)
        return fail(failure, FAILURE_DISK_EXTERNAL, "type", "it is neither a dynamic nor a fixed image");
    if (!is_zero(raw + VDI_UUID_LINK, 16) || !is_zero(raw + VDI_UUID_PARENT, 16))
        return fail(failure, FAILURE_DISK_EXTERNAL, "parent", "it depends on a parent image");
    facts->virtual_size = get_le64(raw + VDI_DISK_SIZE);
    facts->subtype = type == 1 ? "dynamic" : "fixed";
    return check_vdi_blocks(disk, raw, facts->virtual_size, failure);
}

/* ---- VHD ---- */

enum {
    VPC_VERSION = 12,
    VPC_DATA = 16,
    VPC_SIZE = 48,
    VPC_TYPE = 60,
    VPC_CHECKSUM = 64,
    VPC_FIXED = 2,
    VPC_DYNAMIC = 3,
    VPC_FOOTER = 512,
    VPC_DYNAMIC_HEADER = 1024,
};

static bool vpc_sum_is_right(const uint8_t *raw, size_t size, size_t at) {
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += i >= at && i < at + 4 ? 0 : raw[i];
    return ~sum == get_be32(raw + at);
}

static int check_vpc_dynamic(const struct disk *disk, const uint8_t *footer, uint64_t size,
                             struct failure *failure) {
    uint8_t raw[VPC_DYNAMIC_HEADER];
    if (disk_read(disk, get_be64(footer + VPC_DATA), raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    uint64_t table = get_be64(raw + 16);
    uint32_t entries = get_be32(raw + 28), block = get_be32(raw + 32);
    if (memcmp(raw, "cxsparse", 8) != 0 || !vpc_sum_is_right(raw, sizeof(raw), 36))
        return malformed(failure, "dynamic_header", "its dynamic header is damaged");
    if (!is_zero(raw + 40, 16))
        return fail(failure, FAILURE_DISK_EXTERNAL, "parent", "it depends on a parent image");
    if (block < 4096 || block > 16u << 20 || (block & (block - 1)))
        return malformed(failure, "block_size", "its block size is no power of two up to 16 MiB");
    if (size > 1ULL << 50 || (uint64_t) entries * block < size ||
        !disk_holds(disk, table, (uint64_t) entries * 4))
        return malformed(failure, "table", "its block table does not fit its size");
    return 0;
}

/* A dynamic image starts with a copy of its footer; a fixed one is the raw disk followed by the footer. */
int probe_vpc(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    uint8_t raw[VPC_FOOTER];
    if (disk->size < VPC_FOOTER || disk_read(disk, disk->size - VPC_FOOTER, raw, sizeof(raw), failure) < 0)
        return malformed(failure, "footer", "its footer is missing");
    if (memcmp(raw, "conectix", 8) != 0 || !vpc_sum_is_right(raw, sizeof(raw), VPC_CHECKSUM))
        return malformed(failure, "footer", "its footer is missing or damaged");
    uint32_t type = get_be32(raw + VPC_TYPE);
    if (get_be32(raw + VPC_VERSION) != 0x10000)
        return fail(failure, FAILURE_DISK_FEATURE, "version", "its VHD version is not 1.0");
    facts->virtual_size = get_be64(raw + VPC_SIZE);
    facts->subtype = type == VPC_FIXED ? "fixed" : "dynamic";
    if (type == VPC_DYNAMIC)
        return check_vpc_dynamic(disk, raw, facts->virtual_size, failure);
    if (type != VPC_FIXED)
        return fail(failure, FAILURE_DISK_EXTERNAL, "type",
                    "it depends on a parent image, or its type is unknown");
    return facts->virtual_size == disk->size - VPC_FOOTER
               ? 0
               : malformed(failure, "size", "its size contradicts the file's");
}

/* ---- VHDX ---- */

#define KIB 1024u
#define VHDX_REGIONS_AT (192u * KIB)
#define VHDX_TABLE (64u * KIB)
#define VHDX_REGIONS_MAX 32
#define VHDX_ITEMS_MAX 32

static const uint8_t guid_metadata[16] = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                           0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
static const uint8_t guid_bat[16] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                      0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const uint8_t guid_file_parameters[16] = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                                  0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
static const uint8_t guid_size[16] = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                       0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
static const uint8_t guid_sector_size[16] = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                              0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };
static const uint8_t guid_physical_sector_size[16] = { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                                       0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 };
static const uint8_t guid_page_83[16] = { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                          0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 };

struct vhdx {
    uint64_t metadata, metadata_size, bat, bat_size;
    uint64_t size;
    uint32_t block, sector;
};

/* A log that must be replayed would change the image while it is read. The newer of two headers counts. */
static int check_vhdx_log(const struct disk *disk, struct failure *failure) {
    uint8_t raw[2][80];
    uint64_t sequence[2] = { 0 };
    bool is_there[2];
    for (size_t i = 0; i < 2; i++) {
        if (disk_read(disk, (i + 1) * 64 * KIB, raw[i], sizeof(raw[i]), failure) < 0)
            return -EBADMSG;
        is_there[i] = memcmp(raw[i], "head", 4) == 0;
        sequence[i] = get_le64(raw[i] + 8);
    }
    if (!is_there[0] && !is_there[1])
        return malformed(failure, "header", "both headers are damaged");
    size_t newer = is_there[1] && (!is_there[0] || sequence[1] > sequence[0]);
    if (!is_zero(raw[newer] + 48, 16))
        return fail(failure, FAILURE_DISK_FEATURE, "log",
                    "it was not closed cleanly: its log must be replayed first");
    return 0;
}

static int take_vhdx_region(const struct disk *disk, const uint8_t *entry, struct vhdx *vhdx,
                            struct failure *failure) {
    uint64_t offset = get_le64(entry + 16), size = get_le32(entry + 24);
    if (offset < 1024 * KIB || offset % (1024 * KIB) != 0 || !disk_holds(disk, offset, size))
        return malformed(failure, "regions", "a region lies outside the file");
    if (memcmp(entry, guid_metadata, 16) == 0) {
        vhdx->metadata = offset;
        vhdx->metadata_size = size;
    } else if (memcmp(entry, guid_bat, 16) == 0) {
        vhdx->bat = offset;
        vhdx->bat_size = size;
    } else if (get_le32(entry + 28) & 1) {
        return fail(failure, FAILURE_DISK_FEATURE, "regions", "it requires an unknown region");
    }
    return 0;
}

static int read_vhdx_regions(const struct disk *disk, struct vhdx *vhdx, struct failure *failure) {
    uint8_t raw[16 + 32 * VHDX_REGIONS_MAX];
    if (disk_read(disk, VHDX_REGIONS_AT, raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    uint32_t count = get_le32(raw + 8);
    if (memcmp(raw, "regi", 4) != 0 || count > VHDX_REGIONS_MAX)
        return malformed(failure, "regions", "its region table is damaged");
    for (uint32_t i = 0; i < count; i++)
        if (take_vhdx_region(disk, raw + 16 + 32 * i, vhdx, failure) < 0)
            return -EBADMSG;
    bool is_overlapping =
        vhdx->metadata < vhdx->bat + vhdx->bat_size && vhdx->bat < vhdx->metadata + vhdx->metadata_size;
    if (!vhdx->metadata || !vhdx->bat || vhdx->metadata_size < VHDX_TABLE || is_overlapping)
        return malformed(failure, "regions", "its region table is incomplete or contradicts itself");
    return 0;
}

static int take_vhdx_item(const struct disk *disk, const uint8_t *entry, struct vhdx *vhdx,
                          struct failure *failure) {
    uint8_t value[8] = { 0 };
    uint32_t offset = get_le32(entry + 16), length = get_le32(entry + 20);
    bool is_known = memcmp(entry, guid_file_parameters, 16) == 0 || memcmp(entry, guid_size, 16) == 0 ||
                    memcmp(entry, guid_sector_size, 16) == 0 ||
                    memcmp(entry, guid_physical_sector_size, 16) == 0 || memcmp(entry, guid_page_83, 16) == 0;
    if (!is_known) /* among them the locator of a parent */
        return fail(failure, FAILURE_DISK_EXTERNAL, "metadata", "it has a metadata item that is refused");
    if (offset < VHDX_TABLE || length < 4 || (uint64_t) offset + length > vhdx->metadata_size)
        return malformed(failure, "metadata", "a metadata item lies outside its region");
    if (disk_read(disk, vhdx->metadata + offset, value, length < 8 ? length : 8, failure) < 0)
        return -EBADMSG;
    if (memcmp(entry, guid_file_parameters, 16) == 0) {
        vhdx->block = get_le32(value);
        if (get_le32(value + 4) & 2)
            return fail(failure, FAILURE_DISK_EXTERNAL, "parent", "it depends on a parent image");
    }
    if (memcmp(entry, guid_size, 16) == 0)
        vhdx->size = get_le64(value);
    if (memcmp(entry, guid_sector_size, 16) == 0)
        vhdx->sector = get_le32(value);
    return 0;
}

static int read_vhdx_metadata(const struct disk *disk, struct vhdx *vhdx, struct failure *failure) {
    uint8_t raw[32 + 32 * VHDX_ITEMS_MAX];
    if (disk_read(disk, vhdx->metadata, raw, sizeof(raw), failure) < 0)
        return -EBADMSG;
    uint32_t count = get_le16(raw + 10);
    if (memcmp(raw, "metadata", 8) != 0 || count > VHDX_ITEMS_MAX)
        return malformed(failure, "metadata", "its metadata table is damaged");
    for (uint32_t i = 0; i < count; i++)
        if (take_vhdx_item(disk, raw + 32 + 32 * i, vhdx, failure) < 0)
            return -EBADMSG;
    return 0;
}

static int check_vhdx(const struct vhdx *vhdx, struct failure *failure) {
    if (vhdx->block < 1024 * KIB || vhdx->block > 256 * 1024 * KIB || (vhdx->block & (vhdx->block - 1)))
        return malformed(failure, "block_size", "its block size is no power of two from 1 to 256 MiB");
    if (vhdx->sector != 512 && vhdx->sector != 4096)
        return malformed(failure, "sector_size", "its sector size is neither 512 nor 4096");
    if (vhdx->size > 64ULL << 40) /* the format's own limit */
        return fail(failure, FAILURE_DISK_SIZE, "virtual_size", "its virtual size exceeds 64 TiB");
    if ((vhdx->size / vhdx->block + 1) * 8 > vhdx->bat_size)
        return malformed(failure, "bat", "its block table does not fit its size");
    return 0;
}

int probe_vhdx(const struct disk *disk, struct disk_facts *facts, struct failure *failure) {
    struct vhdx vhdx = { 0 };
    if (check_vhdx_log(disk, failure) < 0 || read_vhdx_regions(disk, &vhdx, failure) < 0 ||
        read_vhdx_metadata(disk, &vhdx, failure) < 0 || check_vhdx(&vhdx, failure) < 0)
        return -EBADMSG;
    facts->virtual_size = vhdx.size;
    return 0;
}
