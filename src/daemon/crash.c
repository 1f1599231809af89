// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/crash.h"

#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Deep enough for the way from a request through a fiber to the system call. */
#define DEPTH 48
#define STACK_SIZE (64 << 10)

#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif

static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

/* Nothing below may allocate or take a lock: whatever was under way may have held it. */

static void say(const char *text) {
    (void) !write(STDERR_FILENO, text, strlen(text));
}

static void say_number(uint64_t value, unsigned base) {
    char text[24], *at = text + sizeof(text) - 1;

    *at = '\0';
    do {
        *--at = "0123456789abcdef"[value % base];
        value /= base;
    } while (value > 0);
    say(base == 16 ? "0x" : "");
    say(at);
}

static void on_crash(int signal, siginfo_t *info, void *context _unused_) {
    void *calls[DEPTH];

    say("polderd " POLDER_VERSION " ends by signal ");
    say_number((uint64_t) signal, 10);
    if (info->si_code > 0 && info->si_code != SI_KERNEL) { /* the kernel tells no address of some */
        say(" at address ");
        say_number((uint64_t) (uintptr_t) info->si_addr, 16);
    } else if (info->si_code <= 0 && info->si_pid != getpid()) {
        say(", sent by process ");
        say_number((uint64_t) info->si_pid, 10);
    }
    say("; instances run on. It was in:\n");
    backtrace_symbols_fd(calls, backtrace(calls, DEPTH), STDERR_FILENO); /* last: a broken stack may end it here */
    (void) raise(signal); /* the handler is gone: the default ends the process */
}

void crash_set_up(void) {
#if !defined(__SANITIZE_ADDRESS__) && !HAS_FEATURE(address_sanitizer)
    static char stack[STACK_SIZE]; /* the one that overflowed may be the reason */
    struct sigaction action = { .sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | SA_NODEFER };
    void *call;

    (void) backtrace(&call, 1); /* loads what it takes, which cannot be done later */
    (void) sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL);
    for (size_t i = 0; i < ELEMENTS(signals); i++)
        (void) sigaction(signals[i], &action, NULL);
#endif
}
