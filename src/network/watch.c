// SPDX-License-Identifier: GPL-2.0-or-later
/* What members need is made again when somebody else ended it: dnsmasq that died, rules that were flushed (as
 * nftables.service does when it is reloaded). */
#include <fcntl.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "network/internal.h"
#include "network/netfilter.h"

#define RESTART_DELAY_MAX (60 * CLOCK_SECOND)

struct watch {
    struct network *network;
    int pidfd; /* of its own: the loop watches a descriptor once */
    unsigned generation;
};

static int dnsmasq_watch(struct network *network);

/* Until it runs again, or nobody needs it any more. */
static void dnsmasq_restart(struct network *network, unsigned generation) {
    uint64_t delay = CLOCK_SECOND / 4;

    for (;;) {
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_free_ char *sentence = NULL;
        int r;

        if (fiber_sleep(delay) < 0 || network_lock(network, NULL) < 0)
            return;
        if (network->watch_generation != generation) {
            network_unlock(network);
            return;
        }
        r = network_ensure_dnsmasq(network, &error);
        if (r >= 0)
            r = dnsmasq_watch(network);
        network_unlock(network);
        if (r >= 0)
            return;
        sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_error("restarting dnsmasq: %s", sentence ? sentence : "out of memory");
        delay = delay * 2 < RESTART_DELAY_MAX ? delay * 2 : RESTART_DELAY_MAX;
    }
}

static int watch_main(void *userdata) {
    struct watch *watch = userdata;
    struct network *network = watch->network;

    if (fiber_wait_fd(watch->pidfd, EPOLLIN, DEADLINE_NONE) > 0 &&
        network->watch_generation == watch->generation) {
        log_warning("dnsmasq ended; starting it again");
        dnsmasq_restart(network, watch->generation);
    }
    close_fd(watch->pidfd);
    free(watch);
    network_unref(network);
    return 0;
}

/* A new watcher; the one before has nothing to do from here on. */
static int dnsmasq_watch(struct network *network) {
    struct watch *watch = calloc(1, sizeof(*watch));
    int r;

    if (!watch)
        return -ENOMEM;
    /* Never cancelled from here: it may be the caller. Its generation tells it. */
    network->watch_generation++;
    fiber_unref(STEAL_PTR(network->watch));
    *watch = (struct watch){ .network = network,
                             .pidfd = fcntl(network->dnsmasq.pidfd, F_DUPFD_CLOEXEC, 3),
                             .generation = network->watch_generation };
    r = watch->pidfd < 0 ? -errno : fiber_start(&network->watch, "dnsmasq", watch_main, watch);
    if (r < 0) {
        close_fd(watch->pidfd);
        free(watch);
        return r;
    }
    network->references++;
    return 0;
}

/* --- rules are flushed ------------------------------------------------------------------------------- */

static void rules_restore(struct network *network) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;

    if (network_lock(network, NULL) < 0)
        return;
    /* Our own replacing looks like a deletion too, but leaves the tables there. */
    if (network->count > 0 && network->rules_loaded && netfilter_has_tables() == 0) {
        log_warning("somebody deleted Polder's nftables tables; writing them again");
        if (network_load_rules(network, &error) < 0) {
            sentence = error_sentence(&error, LANGUAGE_ENGLISH);
            log_error("%s", sentence ? sentence : "out of memory");
        }
    }
    network_unlock(network);
}

static int guard_main(void *userdata) {
    struct network *network = userdata;
    _cleanup_close_ int fd = network->guard_fd;

    network->guard_fd = -EBADF;
    while (fiber_wait_fd(fd, EPOLLIN, DEADLINE_NONE) > 0)
        if (netfilter_watch_read(fd))
            rules_restore(network);
    network_unref(network);
    return 0;
}

static int guard_start(struct network *network) {
    int r;

    if (network->guard)
        return 0;
    r = netfilter_watch_open(&network->guard_fd);
    if (r >= 0)
        r = fiber_start(&network->guard, "network guard", guard_main, network);
    if (r < 0) {
        network->guard_fd = close_fd(network->guard_fd);
        return r;
    }
    network->references++;
    return 0;
}

/* --- both -------------------------------------------------------------------------------------------- */

int network_watch(struct network *network) {
    int r = guard_start(network);

    return r < 0 ? r : dnsmasq_watch(network);
}

static void fiber_stop(struct fiber **fiber) {
    if (!*fiber)
        return;
    fiber_cancel(*fiber);
    fiber_unref(*fiber);
    *fiber = NULL;
}

void network_watch_stop(struct network *network) {
    network->watch_generation++;
    fiber_stop(&network->guard);
    fiber_stop(&network->watch);
}
