// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "report.h"

/* Recognises disk images from their headers alone, with bounded reads, and refuses whatever would make a
 * later tool open something else than the image itself, or spend memory or time that its size does not
 * justify. */

/* Where the image's bytes come from: a file, or memory in tests. */
struct disk {
    int fd;              /* -1: memory */
    const uint8_t *data; /* of `size` bytes if fd is -1 */
    uint64_t size;
};

struct disk_facts {
    const char *format;    /* "qcow2", "raw", "iso", "vmdk", "vdi", "vhdx", "vpc": static text */
    const char *subtype;   /* "streamOptimized", "dynamic", …, or NULL: static text */
    uint64_t virtual_size; /* bytes */
    uint64_t snapshots;    /* internal ones of a qcow2; a conversion keeps the active state alone */
};

/* `declared` is what the user called it, or NULL; max_virtual caps the virtual size in bytes. */
int disk_probe(const struct disk *disk, const char *declared, uint64_t max_virtual, struct disk_facts *ret,
               struct failure *failure);

/* Opens fd as a disk; it must be a regular file. */
int disk_from_fd(int fd, struct disk *ret, struct failure *failure);

/* ---- for the parsers of the formats ---- */

/* Reads exactly `size` bytes; what lies beyond the end of the image fails as "disk-malformed". */
int disk_read(const struct disk *disk, uint64_t offset, void *buffer, size_t size, struct failure *failure);

/* True if [offset, offset + size) is within the image. */
bool disk_holds(const struct disk *disk, uint64_t offset, uint64_t size);

uint16_t get_le16(const uint8_t *data);
uint32_t get_le32(const uint8_t *data);
uint64_t get_le64(const uint8_t *data);
uint32_t get_be32(const uint8_t *data);
uint64_t get_be64(const uint8_t *data);

int probe_qcow2(const struct disk *disk, struct disk_facts *facts, struct failure *failure);
int probe_vmdk(const struct disk *disk, struct disk_facts *facts, struct failure *failure);
int probe_vdi(const struct disk *disk, struct disk_facts *facts, struct failure *failure);
int probe_vhdx(const struct disk *disk, struct disk_facts *facts, struct failure *failure);
int probe_vpc(const struct disk *disk, struct disk_facts *facts, struct failure *failure);
