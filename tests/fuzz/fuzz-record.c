// SPDX-License-Identifier: GPL-2.0-or-later
/* Any bytes as what polderd recorded: refused with file and line, or jobs that a simulation can take. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/profile.h"
#include "simulator/ledger-log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct swf_log log = { 0 };
    _cleanup_input_ struct input *input = NULL;
    char path[64];
    int fd = memfd_create("record", MFD_CLOEXEC);

    assert(fd >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (write(fd, data, size) != (ssize_t) size || input_open(path, &input, &error) < 0 ||
        ledger_log_read(input, 0, NULL, &log, &error) < 0) {
        assert(error.code != 0);
        close(fd);
        return 0;
    }
    close(fd);
    assert(log.count > 0 && log.processors > 0 && log.part == LEDGER_PART);
    for (size_t i = 0; i < log.count; i++) {
        const struct swf_job *job = &log.jobs[i];
        assert(job->run > 0 && job->requested >= job->run && job->requested <= TIME_FOREVER);
        assert(job->processors > 0 && job->processors <= log.processors && job->memory <= log.memory);
        assert(job->submitted >= (i > 0 ? log.jobs[i - 1].submitted : 0));
    }
    swf_done(&log);
    return 0;
}
