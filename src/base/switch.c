// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/switch.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SWITCH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SWITCH_ASAN 1
#endif
#endif
#ifdef SWITCH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE (1024 * 1024)
#else
#define STACK_SIZE (256 * 1024)
#endif
#define GUARD_SIZE 4096

struct stack *stack_new(void) {
    struct stack *stack = calloc(1, sizeof(*stack));
    size_t size = STACK_SIZE + GUARD_SIZE;
    char *memory;

    if (!stack)
        return NULL;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_SIZE, PROT_NONE) < 0) {
        if (memory != MAP_FAILED)
            (void) munmap(memory, size);
        free(stack);
        return NULL;
    }
    stack->memory = memory;
    stack->size = size;
    return stack;
}

void stack_free(struct stack *stack) {
    if (!stack)
        return;
    (void) munmap(stack->memory, stack->size);
    free(stack);
}

#ifdef SWITCH_ASAN
static void sanitizer_before(struct stack_switch *from, struct stack_switch *to, int leaving) {
    const void *bottom = to->stack ? to->stack->memory + GUARD_SIZE : to->bottom;
    size_t size = to->stack ? to->stack->size - GUARD_SIZE : to->bottom_size;

    __sanitizer_start_switch_fiber(leaving ? NULL : &from->fake_stack, bottom, size);
}
static void sanitizer_after(struct stack_switch *self, struct stack_switch *previous) {
    const void *bottom;
    size_t size;

    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &size);
    if (previous && !previous->stack) {
        previous->bottom = bottom;
        previous->bottom_size = size;
    }
}
#else
#define sanitizer_before(from, to, leaving) ((void) 0)
#define sanitizer_after(self, previous) ((void) 0)
#endif

/* Who switched to the running context: the sanitizer learns the thread's own stack from it. */
static _Thread_local struct stack_switch *switched_from;

static _Thread_local struct stack_switch *starting;

__attribute__((used, noreturn)) static void switch_start(void) {
    struct stack_switch *self = starting;

    sanitizer_after(self, switched_from);
    self->entry(self->userdata);
    abort();
}

#if defined(__x86_64__)
void switch_raw(void **save, void *load);
__asm__(".text\n.globl switch_raw\n.hidden switch_raw\n.type switch_raw,@function\n"
        "switch_raw:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  subq $8, %rsp\n  stmxcsr (%rsp)\n  fnstcw 4(%rsp)\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  ldmxcsr (%rsp)\n  fldcw 4(%rsp)\n  addq $8, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n.size switch_raw,.-switch_raw\n");

static void *stack_begin(struct stack *stack) {
    uint64_t *top = (uint64_t *) (stack->memory + stack->size);
    uint32_t control[2] = { 0x1f80, 0x037f };

    *--top = 0;                               /* keeps the alignment of a call */
    *--top = (uint64_t) (uintptr_t) switch_start;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    *--top = (uint64_t) control[0] | (uint64_t) control[1] << 32;
    return top;
}
#elif defined(__aarch64__)
void switch_raw(void **save, void *load);
__asm__(".text\n.globl switch_raw\n.hidden switch_raw\n.type switch_raw,@function\n"
        "switch_raw:\n"
        "  sub sp, sp, #176\n"
        "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n  add sp, sp, #176\n  ret\n.size switch_raw,.-switch_raw\n");

static void *stack_begin(struct stack *stack) {
    uint64_t *frame = (uint64_t *) (stack->memory + stack->size - 176 - 16);

    for (int i = 0; i < 22; i++)
        frame[i] = 0;
    frame[11] = (uint64_t) (uintptr_t) switch_start;
    return frame;
}
#else
#include <ucontext.h>

static void switch_raw(void **save, void *load) {
    ucontext_t self;

    *save = &self;
    (void) swapcontext(&self, load);
}

static void *stack_begin(struct stack *stack) {
    ucontext_t *context = (ucontext_t *) (stack->memory + stack->size - sizeof(ucontext_t) - 64);

    (void) getcontext(context);
    context->uc_stack.ss_sp = stack->memory + GUARD_SIZE;
    context->uc_stack.ss_size = stack->size - GUARD_SIZE - sizeof(ucontext_t) - 128;
    context->uc_link = NULL;
    makecontext(context, switch_start, 0);
    return context;
}
#endif

void switch_prepare(struct stack_switch *context, void (*entry)(void *userdata), void *userdata) {
#ifdef SWITCH_ASAN
    __asan_unpoison_memory_region(context->stack->memory + GUARD_SIZE, context->stack->size - GUARD_SIZE);
#endif
    context->entry = entry;
    context->userdata = userdata;
    context->fake_stack = NULL;
    context->pointer = stack_begin(context->stack);
}

void switch_enter(struct stack_switch *from, struct stack_switch *to) {
    switched_from = from;
    starting = to;
    sanitizer_before(from, to, 0);
    switch_raw(&from->pointer, to->pointer);
    sanitizer_after(from, switched_from);
}

void switch_leave(struct stack_switch *from, struct stack_switch *to) {
    switched_from = from;
    sanitizer_before(from, to, 1);
    switch_raw(&from->pointer, to->pointer);
    abort();
}
