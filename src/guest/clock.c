// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/base64.h"
#include "guest/request.h"

static int entropy_stir(const char *text, struct reason *reason) {
    _cleanup_close_ int fd = -EBADF;
    uint8_t data[REQUEST_ENTROPY_MAX];
    union {
        struct rand_pool_info info;
        uint8_t bytes[sizeof(struct rand_pool_info) + REQUEST_ENTROPY_MAX];
    } pool;
    ssize_t size = base64_decode(text, data, sizeof(data));
    int r = 0;

    if (size < 0)
        return reason_set(reason, -EINVAL, "the entropy is not base64 of at most %d bytes",
                          REQUEST_ENTROPY_MAX);
    fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return reason_set(reason, -errno, "cannot open /dev/urandom");
    pool.info.entropy_count = (int) size * 8;
    pool.info.buf_size = (int) size;
    memcpy(pool.bytes + sizeof(pool.info), data, (size_t) size);
    if (ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        r = reason_set(reason, -errno, "cannot reseed the random generator");
    explicit_bzero(data, sizeof(data));
    explicit_bzero(&pool, sizeof(pool));
    return r;
}

int clock_apply(int64_t realtime_us, const char *entropy, struct reason *reason) {
    struct timespec now = { .tv_sec = realtime_us / 1000000, .tv_nsec = realtime_us % 1000000 * 1000 };

    if (realtime_us > 0 && clock_settime(CLOCK_REALTIME, &now) < 0)
        return reason_set(reason, -errno, "cannot set the clock");
    return entropy && *entropy ? entropy_stir(entropy, reason) : 0;
}
