// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

/* Stacks and the switch between them: our own instructions on x86-64 and aarch64, ucontext elsewhere, with the
 * sanitizers told of each switch. Used by fiber.c alone. */

struct stack {
    struct stack *next; /* in a pool */
    char *memory;       /* the mapping; its lowest page is a guard */
    size_t size;
};

struct stack_switch {
    void *pointer;       /* saved stack pointer (or ucontext) while switched away */
    struct stack *stack; /* NULL for the thread's own stack */
    void (*entry)(void *userdata);
    void *userdata;
    void *fake_stack; /* AddressSanitizer's */
    void *thread;     /* ThreadSanitizer's */
    const void *bottom; /* of the stack switched away from, as AddressSanitizer tells it */
    size_t bottom_size;
};

struct stack *stack_new(void);
void stack_free(struct stack *stack);
/* The next switch_enter into context starts entry(userdata), which must end with switch_leave. */
void switch_prepare(struct stack_switch *context, void (*entry)(void *userdata), void *userdata);
void switch_enter(struct stack_switch *from, struct stack_switch *to);
/* The last switch out of a finished context. */
void switch_leave(struct stack_switch *from, struct stack_switch *to) __attribute__((noreturn));
