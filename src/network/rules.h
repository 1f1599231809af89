// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "base/buffer.h"
#include "network/member.h"
#include "network/subnet.h"

/* The text of nftables transactions. No I/O: golden files in tests/golden/network hold the output. Everything
 * in it comes from numbers and from names of our own making (member.h), never from a user's text. */

struct rules {
    const char *bridge; /* checked at network_new */
    struct subnet subnet;
};

/* Both tables whole, for these members, replacing whatever there was, in one transaction. */
void rules_add_all(struct buffer *out, const struct rules *rules, struct member *const *members,
                   size_t count);
/* Elements of one member, for tables that hold none of it. */
void rules_add_member(struct buffer *out, const struct member *member);
/* Takes out what rules_add_member put in; fails as a whole if anything of it is missing. */
void rules_remove_member(struct buffer *out, const struct member *member);
/* Deletes both tables; absent ones are no error. */
void rules_remove_all(struct buffer *out);
