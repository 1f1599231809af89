// SPDX-License-Identifier: GPL-2.0-or-later
/* Any bytes as a disk image: refused with a cause, or accepted with facts that make sense. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "storage/worker/probe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint64_t max_virtual = 1ULL << 44;
    const struct disk disk = { .fd = -1, .data = data, .size = size };
    struct disk_facts facts = { 0 };
    struct failure failure = { 0 };
    int r = disk_probe(&disk, NULL, max_virtual, &facts, &failure);
    assert((r == 0) == (failure.code == FAILURE_NONE));
    if (r == 0) {
        assert(facts.format && facts.virtual_size > 0 && facts.virtual_size <= max_virtual);
        assert(facts.virtual_size % 512 == 0);
    } else {
        char safe[FAILURE_MESSAGE_MAX];
        text_make_safe(failure.message, safe, sizeof(safe));
        assert(strlen(safe) > 0 && !strchr(safe, '\x1b'));
    }
    return 0;
}
