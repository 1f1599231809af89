// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "report.h"

/* A gate in front of the archive reader. It sees the same bytes first, walks the 512-byte structure with the
 * strictest reading (a header that two programs could read differently is refused) and leaves one fact per
 * entry. The unpacker compares each entry of the archive reader with its fact, so that one interpretation is
 * left. */

#define TAR_PATH_MAX 4095
#define TAR_RECORD_MAX (64u << 10)   /* one PAX record */
#define TAR_RECORDS_MAX (256u << 10) /* all PAX records of one entry */
#define TAR_SIZE_MAX (1ULL << 60)

struct tar_fact {
    uint64_t size;
    char type; /* of the ustar header; '\0' has become '0' */
    char *path, *link;
};

enum tar_state {
    TAR_HEADER,
    TAR_BODY,    /* file data or padding, of no interest here */
    TAR_RECORDS, /* PAX records or a GNU long name */
    TAR_ENDED,   /* only zeros may follow */
};

/* What extension headers say about the next entry. */
struct tar_pending {
    bool has_pax, has_gnu_path, has_gnu_link, has_size;
    uint64_t size;
    char *path, *link;
};

struct tarcheck {
    enum tar_state state;
    uint8_t block[512];
    size_t block_used;
    unsigned zero_blocks;
    uint64_t body_left;
    char records_type;
    char *records;
    size_t records_size, records_used;
    struct tar_pending pending;
    struct tar_fact *facts; /* queue: facts[first..count) */
    size_t facts_first, facts_count, facts_room;
    uint64_t entries;
};

void tarcheck_init(struct tarcheck *check);
void tarcheck_done(struct tarcheck *check);

/* Looks at the next bytes of the stream, in pieces of any size. */
int tarcheck_feed(struct tarcheck *check, const void *data, size_t size, struct failure *failure);

/* At the end of the stream: refuses one that stops inside an entry and, if need_mark, one without
 * end-of-archive blocks. */
int tarcheck_finish(const struct tarcheck *check, bool need_mark, struct failure *failure);

/* Takes the oldest fact; false if there is none. The strings belong to the caller (tar_fact_done). */
bool tarcheck_take_fact(struct tarcheck *check, struct tar_fact *ret);
void tar_fact_done(struct tar_fact *fact);
