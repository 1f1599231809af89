// SPDX-License-Identifier: GPL-2.0-or-later
/* States: HEADER collects 512 bytes; an entry's header leads to BODY (data and padding are skipped), an
 * extension header to RECORDS (collected, then decoded into `pending`) and on to BODY for its padding; two
 * zero blocks lead to ENDED. What `pending` holds is spent by the next entry's header. */
#include "tarcheck.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Offsets of the ustar header (POSIX.1-1988); GNU uses `prefix` for times. */
enum {
    AT_NAME = 0,
    AT_SIZE = 124,
    AT_CHECKSUM = 148,
    AT_TYPE = 156,
    AT_LINK = 157,
    AT_MAGIC = 257,
    AT_PREFIX = 345,
    NAME_LENGTH = 100,
    PREFIX_LENGTH = 155,
    SIZE_LENGTH = 12,
};

/* The largest size that eleven octal digits hold. */
#define OCTAL_SIZE_MAX 077777777777ULL

static void pending_clear(struct tar_pending *pending) {
    free(pending->path);
    free(pending->link);
    *pending = (struct tar_pending){ 0 };
}

void tarcheck_init(struct tarcheck *check) {
    *check = (struct tarcheck){ .state = TAR_HEADER };
}

void tar_fact_done(struct tar_fact *fact) {
    free(fact->path);
    free(fact->link);
    *fact = (struct tar_fact){ 0 };
}

void tarcheck_done(struct tarcheck *check) {
    struct tar_fact fact;
    while (tarcheck_take_fact(check, &fact))
        tar_fact_done(&fact);
    free(check->facts);
    free(check->records);
    pending_clear(&check->pending);
    tarcheck_init(check);
}

bool tarcheck_take_fact(struct tarcheck *check, struct tar_fact *ret) {
    if (check->facts_first == check->facts_count)
        return false;
    *ret = check->facts[check->facts_first++];
    if (check->facts_first == check->facts_count)
        check->facts_first = check->facts_count = 0;
    return true;
}

static int fact_add_take(struct tarcheck *check, struct tar_fact *fact, struct failure *failure) {
    if (check->facts_count == check->facts_room) {
        size_t room = check->facts_room ? check->facts_room * 2 : 64;
        struct tar_fact *facts = reallocarray(check->facts, room, sizeof(*facts));
        if (!facts) {
            tar_fact_done(fact);
            return fail_errno(failure, ENOMEM, "", "reading the archive");
        }
        check->facts = facts;
        check->facts_room = room;
    }
    check->facts[check->facts_count++] = *fact;
    check->entries++;
    return 0;
}

/* ---- numbers ---- */

static int parse_octal(const uint8_t *text, size_t length, uint64_t *ret) {
    size_t i = 0, digits = 0;
    uint64_t value = 0;
    while (i < length && text[i] == ' ')
        i++;
    for (; i < length && text[i] >= '0' && text[i] <= '7'; i++, digits++)
        value = value << 3 | (uint64_t) (text[i] - '0');
    for (; i < length; i++)
        if (text[i] != ' ' && text[i] != 0)
            return -EINVAL;
    *ret = value;
    return digits > 0 ? 0 : -EINVAL;
}

/* Octal, or GNU base-256: first byte 0x80 and the rest a positive number. 0xff would start a negative one. */
static int parse_size(const uint8_t *field, uint64_t *ret) {
    if (!(field[0] & 0x80))
        return parse_octal(field, SIZE_LENGTH, ret);
    if (field[0] != 0x80 || field[1] || field[2] || field[3])
        return -ERANGE;
    uint64_t value = 0;
    for (size_t i = 4; i < SIZE_LENGTH; i++)
        value = value << 8 | field[i];
    *ret = value;
    return value <= TAR_SIZE_MAX ? 0 : -ERANGE;
}

static int parse_decimal(const char *text, size_t length, uint64_t *ret) {
    uint64_t value = 0;
    if (length == 0 || length > 18)
        return -EINVAL;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (uint64_t) (text[i] - '0');
    }
    *ret = value;
    return 0;
}

static bool checksum_is_right(const uint8_t *block) {
    uint64_t expected, sum = 0;
    for (size_t i = 0; i < 512; i++)
        sum += i >= AT_CHECKSUM && i < AT_CHECKSUM + 8 ? ' ' : block[i];
    return parse_octal(block + AT_CHECKSUM, 8, &expected) == 0 && expected == sum;
}

static bool is_zero(const uint8_t *data, size_t size) {
    return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

/* ---- PAX records and GNU long names ---- */

static int take_text(char **target, const char *value, size_t length, const char *what,
                     struct failure *failure) {
    if (*target)
        return fail(failure, FAILURE_TAR_CONTRADICTION, what, "an entry gives it twice");
    if (length == 0)
        return fail(failure, FAILURE_TAR_MALFORMED, what, "it is empty");
    if (length > TAR_PATH_MAX)
        return fail(failure, FAILURE_PATH_TOO_LONG, what, "it has %zu bytes, more than %d", length,
                    TAR_PATH_MAX);
    if (memchr(value, 0, length))
        return fail(failure, FAILURE_TAR_MALFORMED, what, "it holds a NUL byte");
    *target = strndup(value, length);
    return *target ? 0 : fail_errno(failure, ENOMEM, what, "reading the archive");
}

static int take_size(struct tar_pending *pending, const char *value, size_t length, struct failure *failure) {
    if (pending->has_size)
        return fail(failure, FAILURE_TAR_CONTRADICTION, "size", "an entry gives it twice");
    pending->has_size = true;
    if (parse_decimal(value, length, &pending->size) < 0 || pending->size > TAR_SIZE_MAX)
        return fail(failure, FAILURE_TAR_MALFORMED, "size", "not a size: '%.*s'",
                    (int) (length < 40 ? length : 40), value);
    return 0;
}

static bool key_is(const char *key, size_t length, const char *name) {
    return strlen(name) == length && memcmp(key, name, length) == 0;
}

static bool key_starts(const char *key, size_t length, const char *prefix) {
    return strlen(prefix) <= length && memcmp(key, prefix, strlen(prefix)) == 0;
}

/* Keys that change how the bytes that follow are read in ways that programs do not agree on. */
static bool key_is_refused(const char *key, size_t length) {
    return key_starts(key, length, "GNU.sparse.") || key_starts(key, length, "GNU.volume.") ||
           key_starts(key, length, "GNU.dumpdir") || key_is(key, length, "SCHILY.realsize") ||
           key_is(key, length, "SUN.holesdata");
}

/* A global header must not set what an entry's own header says: programs disagree on whether it counts. */
static bool key_is_refused_globally(const char *key, size_t length) {
    static const char *const names[] = { "path", "linkpath", "size", "uid", "gid", "hdrcharset" };
    for (size_t i = 0; i < ELEMENTS(names); i++)
        if (key_is(key, length, names[i]))
            return true;
    return key_starts(key, length, "SCHILY.") || key_starts(key, length, "LIBARCHIVE.");
}

static int take_record(struct tarcheck *check, const char *key, size_t key_length, const char *value,
                       size_t value_length, struct failure *failure) {
    struct tar_pending *pending = &check->pending;
    if (key_is_refused(key, key_length))
        return fail(failure, FAILURE_TAR_UNSUPPORTED, "pax", "the record '%.*s' is not supported",
                    (int) (key_length < 64 ? key_length : 64), key);
    if (check->records_type == 'g') {
        if (key_is_refused_globally(key, key_length))
            return fail(failure, FAILURE_TAR_UNSUPPORTED, "pax", "a global '%.*s' is not supported",
                        (int) (key_length < 64 ? key_length : 64), key);
        return 0;
    }
    if (key_is(key, key_length, "path"))
        return take_text(&pending->path, value, value_length, "path", failure);
    if (key_is(key, key_length, "linkpath"))
        return take_text(&pending->link, value, value_length, "linkpath", failure);
    if (key_is(key, key_length, "size"))
        return take_size(pending, value, value_length, failure);
    return 0;
}

/* "LENGTH key=value\n", LENGTH counting the whole record. */
static int parse_record(struct tarcheck *check, const char **text, size_t *left, struct failure *failure) {
    const char *space = memchr(*text, ' ', *left < 8 ? *left : 8);
    uint64_t length;
    if (!space || parse_decimal(*text, (size_t) (space - *text), &length) < 0)
        return fail(failure, FAILURE_TAR_MALFORMED, "pax", "a record has no length");
    if (length > TAR_RECORD_MAX)
        return fail(failure, FAILURE_TAR_MALFORMED, "pax", "a record of %llu bytes is longer than %u",
                    (unsigned long long) length, TAR_RECORD_MAX);
    size_t head = (size_t) (space - *text) + 1;
    if (length > *left || length < head + 2 || (*text)[length - 1] != '\n')
        return fail(failure, FAILURE_TAR_MALFORMED, "pax", "a record's length is wrong");
    const char *key = space + 1, *end = *text + length - 1;
    const char *equals = memchr(key, '=', (size_t) (end - key));
    if (!equals || equals == key || memchr(key, 0, (size_t) (equals - key)))
        return fail(failure, FAILURE_TAR_MALFORMED, "pax", "a record has no key");
    *text += length;
    *left -= length;
    return take_record(check, key, (size_t) (equals - key), equals + 1, (size_t) (end - equals - 1), failure);
}

static int parse_long_name(struct tarcheck *check, struct failure *failure) {
    bool is_link = check->records_type == 'K';
    size_t length = check->records_size;
    while (length > 0 && check->records[length - 1] == 0)
        length--;
    struct tar_pending *pending = &check->pending;
    *(is_link ? &pending->has_gnu_link : &pending->has_gnu_path) = true;
    return take_text(is_link ? &pending->link : &pending->path, check->records, length,
                     is_link ? "linkpath" : "path", failure);
}

static int parse_records(struct tarcheck *check, struct failure *failure) {
    if (check->records_type == 'L' || check->records_type == 'K')
        return parse_long_name(check, failure);
    const char *text = check->records;
    size_t left = check->records_size;
    while (left > 0)
        if (parse_record(check, &text, &left, failure) < 0)
            return -EBADMSG;
    return 0;
}

/* ---- headers ---- */

static size_t field_length(const uint8_t *field, size_t room) {
    return strnlen((const char *) field, room);
}

/* The name in the header itself: POSIX splits a long one into prefix and name. */
static char *header_path(const uint8_t *block) {
    bool is_posix = memcmp(block + AT_MAGIC, "ustar", 6) == 0;
    size_t prefix = is_posix ? field_length(block + AT_PREFIX, PREFIX_LENGTH) : 0;
    bool has_slash = prefix > 0 && block[AT_PREFIX + prefix - 1] == '/';
    char *path = NULL;
    if (asprintf(&path, "%.*s%s%.*s", (int) prefix, block + AT_PREFIX, prefix && !has_slash ? "/" : "",
                 (int) field_length(block + AT_NAME, NAME_LENGTH), block + AT_NAME) < 0)
        return NULL;
    return path;
}

static int entry_size(const struct tar_pending *pending, uint64_t in_header, uint64_t *ret,
                      struct failure *failure) {
    *ret = in_header;
    if (!pending->has_size)
        return 0;
    /* Writers put 0 or the largest octal number where a size does not fit; anything else is two sizes for one
     * entry. */
    bool is_overflow = pending->size > OCTAL_SIZE_MAX && (in_header == 0 || in_header == OCTAL_SIZE_MAX);
    if (pending->size != in_header && !is_overflow)
        return fail(failure, FAILURE_TAR_CONTRADICTION, "size",
                    "the PAX header says %llu, the ustar header %llu", (unsigned long long) pending->size,
                    (unsigned long long) in_header);
    *ret = pending->size;
    return 0;
}

static int take_entry(struct tarcheck *check, char type, uint64_t in_header, struct failure *failure) {
    struct tar_pending *pending = &check->pending;
    struct tar_fact fact = { .type = type };
    if (entry_size(pending, in_header, &fact.size, failure) < 0)
        return -EBADMSG;
    fact.path = pending->path ? STEAL_PTR(pending->path) : header_path(check->block);
    fact.link = pending->link ? STEAL_PTR(pending->link)
                              : strndup((const char *) check->block + AT_LINK, NAME_LENGTH);
    pending_clear(pending);
    if (!fact.path || !fact.link) {
        tar_fact_done(&fact);
        return fail_errno(failure, ENOMEM, "", "reading the archive");
    }
    if (type != '0' && fact.size != 0)
        fail(failure, FAILURE_TAR_CONTRADICTION, fact.path, "an entry that is no file has %llu bytes of data",
             (unsigned long long) fact.size);
    size_t length = strlen(fact.path);
    if (type == '0' && length > 0 && fact.path[length - 1] == '/')
        fail(failure, FAILURE_TAR_CONTRADICTION, fact.path, "a file's name ends with a slash");
    if (failure->code) {
        tar_fact_done(&fact);
        return -EBADMSG;
    }
    check->body_left = (fact.size + 511) & ~511ULL;
    check->state = check->body_left ? TAR_BODY : TAR_HEADER;
    return fact_add_take(check, &fact, failure);
}

/* PAX and GNU extensions for one entry do not mix, and neither comes twice. */
static bool extension_is_in_order(const struct tar_pending *pending, char type) {
    switch (type) {
    case 'x':
        return !pending->has_pax && !pending->has_gnu_path && !pending->has_gnu_link;
    case 'L':
        return !pending->has_pax && !pending->has_gnu_path;
    case 'K':
        return !pending->has_pax && !pending->has_gnu_link;
    default: /* 'g' */
        return !pending->has_pax && !pending->has_gnu_path && !pending->has_gnu_link;
    }
}

static int begin_records(struct tarcheck *check, char type, uint64_t size, struct failure *failure) {
    if (!extension_is_in_order(&check->pending, type))
        return fail(failure, FAILURE_TAR_CONTRADICTION, "",
                    "extension headers of different kinds for one entry");
    bool is_pax = type == 'x' || type == 'g';
    if (size == 0 || size > (is_pax ? TAR_RECORDS_MAX : TAR_PATH_MAX + 1))
        return fail(failure, is_pax ? FAILURE_TAR_MALFORMED : FAILURE_PATH_TOO_LONG, "",
                    "an extension header of %llu bytes", (unsigned long long) size);
    if (type == 'x')
        check->pending.has_pax = true;
    free(check->records);
    check->records = malloc(size);
    if (!check->records)
        return fail_errno(failure, ENOMEM, "", "reading the archive");
    check->records_type = type;
    check->records_size = size;
    check->records_used = 0;
    check->state = TAR_RECORDS;
    return 0;
}

static int take_zero_block(struct tarcheck *check, struct failure *failure) {
    const struct tar_pending *pending = &check->pending;
    if (pending->has_pax || pending->has_gnu_path || pending->has_gnu_link)
        return fail(failure, FAILURE_TRUNCATED, "",
                    "the archive ends between an extension header and its entry");
    if (++check->zero_blocks == 2)
        check->state = TAR_ENDED;
    return 0;
}

static int take_header(struct tarcheck *check, struct failure *failure) {
    const uint8_t *block = check->block;
    uint64_t size;
    if (is_zero(block, sizeof(check->block)))
        return take_zero_block(check, failure);
    if (check->zero_blocks > 0)
        return fail(failure, FAILURE_TRAILING, "", "data after the end of the archive");
    if (memcmp(block + AT_MAGIC, "ustar", 6) != 0 && memcmp(block + AT_MAGIC, "ustar  ", 8) != 0)
        return fail(failure, FAILURE_TAR_MALFORMED, "", "this is not a tar archive, or it is damaged");
    if (!checksum_is_right(block))
        return fail(failure, FAILURE_TAR_MALFORMED, "", "a header's checksum is wrong");
    if (parse_size(block + AT_SIZE, &size) < 0)
        return fail(failure, FAILURE_TAR_MALFORMED, "size",
                    "a header's size is not a number or out of range");
    char type = block[AT_TYPE] ? (char) block[AT_TYPE] : '0';
    if (strchr("0123456", type))
        return take_entry(check, type, size, failure);
    if (strchr("xgLK", type))
        return begin_records(check, type, size, failure);
    return fail(failure, FAILURE_TAR_UNSUPPORTED, "type",
                "entries of type '%c' (sparse, multi-volume, …) are refused", type);
}

/* ---- the stream ---- */

static size_t smaller(uint64_t a, size_t b) {
    return a < b ? (size_t) a : b;
}

static int feed_header(struct tarcheck *check, const uint8_t *data, size_t size, size_t *ret,
                       struct failure *failure) {
    size_t take = smaller(sizeof(check->block) - check->block_used, size);
    memcpy(check->block + check->block_used, data, take);
    check->block_used += take;
    *ret = take;
    if (check->block_used < sizeof(check->block))
        return 0;
    check->block_used = 0;
    return take_header(check, failure);
}

static int feed_records(struct tarcheck *check, const uint8_t *data, size_t size, size_t *ret,
                        struct failure *failure) {
    size_t take = smaller(check->records_size - check->records_used, size);
    memcpy(check->records + check->records_used, data, take);
    check->records_used += take;
    *ret = take;
    if (check->records_used < check->records_size)
        return 0;
    check->body_left = -check->records_size & 511;
    check->state = check->body_left ? TAR_BODY : TAR_HEADER;
    return parse_records(check, failure);
}

static int feed_some(struct tarcheck *check, const uint8_t *data, size_t size, size_t *ret,
                     struct failure *failure) {
    switch (check->state) {
    case TAR_HEADER:
        return feed_header(check, data, size, ret, failure);
    case TAR_RECORDS:
        return feed_records(check, data, size, ret, failure);
    case TAR_BODY:
        *ret = smaller(check->body_left, size);
        check->body_left -= *ret;
        if (check->body_left == 0)
            check->state = TAR_HEADER;
        return 0;
    case TAR_ENDED:
        break;
    }
    *ret = size;
    return is_zero(data, size) ? 0 : fail(failure, FAILURE_TRAILING, "", "data after the end of the archive");
}

int tarcheck_feed(struct tarcheck *check, const void *data, size_t size, struct failure *failure) {
    const uint8_t *from = data;
    while (size > 0) {
        size_t taken = 0;
        int r = feed_some(check, from, size, &taken, failure);
        if (r < 0)
            return r;
        from += taken;
        size -= taken;
    }
    return 0;
}

int tarcheck_finish(const struct tarcheck *check, bool need_mark, struct failure *failure) {
    const struct tar_pending *pending = &check->pending;
    bool is_inside = check->state == TAR_BODY || check->state == TAR_RECORDS || check->block_used > 0;
    if (is_inside || pending->has_pax || pending->has_gnu_path || pending->has_gnu_link)
        return fail(failure, FAILURE_TRUNCATED, "", "the archive ends in the middle of an entry");
    if (check->state != TAR_ENDED && (need_mark || (check->entries == 0 && check->zero_blocks == 0)))
        return fail(failure, FAILURE_TRUNCATED, "", "the archive has no end mark");
    return 0;
}
