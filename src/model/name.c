// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/instance.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

#define NAME_MAX_BYTES 63

static bool is_name_edge(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool name_is_valid(const char *name) {
    size_t length = name ? strnlen(name, NAME_MAX_BYTES + 1) : 0;

    if (length == 0 || length > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_name_edge(name[i]) && name[i] != '-')
            return false;
    return is_name_edge(name[0]) && is_name_edge(name[length - 1]);
}

int name_check(const char *name, struct error *error) {
    if (name_is_valid(name))
        return 0;
    return error_set(error, ERROR_BAD_NAME, name);
}

void name_invent(char *text, size_t size) {
    static const char *const qualities[] = {
        "amber", "bold",   "brave",  "brisk", "calm",  "clear",  "clever", "cosy",  "crisp",
        "eager", "early",  "fair",   "fleet", "fond",  "fresh",  "gentle", "glad",  "golden",
        "grand", "happy",  "hardy",  "keen",  "kind",  "lively", "loyal",  "lucid", "mellow",
        "merry", "mild",   "nimble", "noble", "proud", "quick",  "quiet",  "rapid", "ready",
        "rosy",  "silver", "smart",  "snug",  "solid", "spry",   "steady", "stout", "sunny",
        "swift", "tidy",   "vivid",  "warm",  "wise",  "witty",  "zesty",
    };
    static const char *const animals[] = {
        "badger", "bat",   "bear",  "beaver", "bison",  "boar",  "camel", "carp",  "cat",   "colt",
        "crane",  "crow",  "deer",  "dingo",  "dove",   "eagle", "eel",   "egret", "elk",   "falcon",
        "ferret", "finch", "fox",   "frog",   "gecko",  "goose", "hare",  "hawk",  "heron", "ibex",
        "jay",    "koala", "lark",  "lynx",   "marten", "mole",  "moose", "newt",  "orca",  "otter",
        "owl",    "panda", "quail", "raven",  "robin",  "seal",  "stoat", "stork", "swan",  "tiger",
        "toad",   "trout", "vole",  "whale",  "wolf",   "wren",
    };
    unsigned char bytes[3];

    random_bytes(bytes, sizeof(bytes));
    snprintf(text, size, "%s-%s-%02x", qualities[bytes[0] % ELEMENTS(qualities)],
             animals[bytes[1] % ELEMENTS(animals)], bytes[2]);
}
