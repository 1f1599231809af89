// SPDX-License-Identifier: GPL-2.0-or-later
/* polder-kvm-probe: does KVM here run an ordinary guest? Hosts exist where /dev/kvm opens, makes virtual
 * machines and runs real-mode code, and yet no ordinary guest. So this puts a tiny guest through real,
 * protected and long mode with paging, and asks for the model-specific register that QEMU's `-cpu host`
 * needs. Prints one line, the reason; exits 0 if an ordinary guest can run, 1 if not. The caller kills it
 * at a deadline: a guest that hangs never comes back from KVM_RUN. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __x86_64__
#include <linux/kvm.h>

#define GUEST_MEMORY (2 * 1024 * 1024)
#define GUEST_CODE 0x1000
#define GUEST_GDT 0x2000
#define GUEST_TABLES 0x3000 /* PML4, PDPT and one directory for each of two address ranges */
#define GUEST_SECOND UINT64_C(0x40000000)
#define RESULT_PORT 0xf4
#define RESULT_GOOD 0x5a
#define EXITS_MAX 64
#define MSR_ARCH_CAPABILITIES 0x10a
#define CPUID_ARCH_CAPABILITIES (1u << 29)
#define CPUID_ENTRIES 256

/* The guest. In long mode it writes through one mapping of a page and reads through another, uses SSE and
 * CPUID, and says so. */
extern const uint8_t guest_code[], guest_code_end[];
__asm__(".pushsection .rodata\n"
        ".globl guest_code, guest_code_end\n"
        "guest_code:\n"
        ".code16\n"
        "    cli\n"
        "    lgdtl 0x2100\n"
        "    movl %cr0, %eax\n"
        "    orl $1, %eax\n"
        "    movl %eax, %cr0\n"
        "    ljmpl $0x08, $(0x1000 + guest_protected - guest_code)\n"
        ".code32\n"
        "guest_protected:\n"
        "    movl $0x10, %eax\n"
        "    movl %eax, %ds\n"
        "    movl %eax, %es\n"
        "    movl %eax, %ss\n"
        "    movl $0x9000, %esp\n"
        "    movl %cr4, %eax\n"
        "    orl $0x620, %eax\n" /* PAE, OSFXSR, OSXMMEXCPT */
        "    movl %eax, %cr4\n"
        "    movl $0x3000, %eax\n"
        "    movl %eax, %cr3\n"
        "    movl $0xc0000080, %ecx\n"
        "    rdmsr\n"
        "    orl $0x100, %eax\n" /* EFER.LME */
        "    wrmsr\n"
        "    movl %cr0, %eax\n"
        "    andl $0xfffffffb, %eax\n"
        "    orl $0x80000002, %eax\n" /* PG, MP */
        "    movl %eax, %cr0\n"
        "    ljmpl $0x18, $(0x1000 + guest_long - guest_code)\n"
        ".code64\n"
        "guest_long:\n"
        "    movabsq $0x1122334455667788, %rax\n"
        "    movabsq $0x40008000, %rbx\n"
        "    movq %rax, (%rbx)\n"
        "    movq $0x8000, %rcx\n"
        "    cmpq (%rcx), %rax\n"
        "    jne guest_bad\n"
        "    movq %rax, %xmm0\n"
        "    paddq %xmm0, %xmm0\n"
        "    movq %xmm0, %rdx\n"
        "    addq %rax, %rax\n"
        "    cmpq %rdx, %rax\n"
        "    jne guest_bad\n"
        "    pushq %rax\n"
        "    popq %rdx\n"
        "    cmpq %rdx, %rax\n"
        "    jne guest_bad\n"
        "    xorl %eax, %eax\n"
        "    cpuid\n"
        "    rdtsc\n"
        "    movb $0x5a, %al\n"
        "    jmp guest_say\n"
        "guest_bad:\n"
        "    movb $1, %al\n"
        "guest_say:\n"
        "    movw $0xf4, %dx\n"
        "    outb %al, %dx\n"
        "    hlt\n"
        "guest_code_end:\n"
        ".popsection\n");

struct probe {
    int kvm, machine, processor;
    uint8_t *memory;
    struct kvm_run *run;
    struct kvm_cpuid2 *cpuid;
};

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    exit(1);
}

static void put64(uint8_t *memory, uint64_t at, uint64_t value) {
    memcpy(memory + at, &value, sizeof(value));
}

static void guest_load(uint8_t *memory) {
    /* null, 32-bit code, data, 64-bit code */
    const uint64_t descriptors[] = { 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff };
    const uint8_t pointer[] = { sizeof(descriptors) - 1, 0, GUEST_GDT & 0xff, GUEST_GDT >> 8, 0, 0 };
    const uint64_t present = 3, large = 0x80;

    memcpy(memory + GUEST_CODE, guest_code, (size_t) (guest_code_end - guest_code));
    memcpy(memory + GUEST_GDT, descriptors, sizeof(descriptors));
    memcpy(memory + GUEST_GDT + 0x100, pointer, sizeof(pointer));
    put64(memory, GUEST_TABLES, (GUEST_TABLES + 0x1000) | present);
    put64(memory, GUEST_TABLES + 0x1000, (GUEST_TABLES + 0x2000) | present);
    put64(memory, GUEST_TABLES + 0x1008, (GUEST_TABLES + 0x3000) | present);
    /* Both directories show the same 2 MiB. */
    put64(memory, GUEST_TABLES + 0x2000, large | present);
    put64(memory, GUEST_TABLES + 0x3000, large | present);
}

static void machine_make(struct probe *probe) {
    struct kvm_userspace_memory_region region = { .memory_size = GUEST_MEMORY };
    int size;

    probe->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (probe->kvm < 0)
        fail("/dev/kvm cannot be opened: %s", strerror(errno));
    if (ioctl(probe->kvm, KVM_GET_API_VERSION, 0) != 12)
        fail("/dev/kvm speaks another version of the interface");
    probe->machine = ioctl(probe->kvm, KVM_CREATE_VM, 0);
    if (probe->machine < 0)
        fail("KVM cannot make a virtual machine: %s", strerror(errno));
    probe->memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe->memory == MAP_FAILED)
        fail("no memory for the tiny guest: %s", strerror(errno));
    guest_load(probe->memory);
    region.userspace_addr = (uint64_t) (uintptr_t) probe->memory;
    if (ioctl(probe->machine, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        fail("KVM refuses guest memory: %s", strerror(errno));
    probe->processor = ioctl(probe->machine, KVM_CREATE_VCPU, 0);
    size = ioctl(probe->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (probe->processor < 0 || size < (int) sizeof(*probe->run))
        fail("KVM cannot make a virtual processor: %s", strerror(errno));
    probe->run = mmap(NULL, (size_t) size, PROT_READ | PROT_WRITE, MAP_SHARED, probe->processor, 0);
    if (probe->run == MAP_FAILED)
        fail("KVM's shared page cannot be mapped: %s", strerror(errno));
}

static void processor_prepare(struct probe *probe) {
    struct kvm_sregs segments;
    struct kvm_regs registers = { .rip = GUEST_CODE, .rflags = 2 };

    probe->cpuid = calloc(1, sizeof(*probe->cpuid) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    if (!probe->cpuid)
        fail("out of memory");
    probe->cpuid->nent = CPUID_ENTRIES;
    if (ioctl(probe->kvm, KVM_GET_SUPPORTED_CPUID, probe->cpuid) < 0 ||
        ioctl(probe->processor, KVM_SET_CPUID2, probe->cpuid) < 0)
        fail("KVM does not say which processor features a guest may have: %s", strerror(errno));
    if (ioctl(probe->processor, KVM_GET_SREGS, &segments) < 0)
        fail("KVM does not tell registers: %s", strerror(errno));
    segments.cs.base = 0;
    segments.cs.selector = 0;
    if (ioctl(probe->processor, KVM_SET_SREGS, &segments) < 0 ||
        ioctl(probe->processor, KVM_SET_REGS, &registers) < 0)
        fail("KVM refuses registers: %s", strerror(errno));
}

/* Which of the three modes it was in, for the reason. */
static const char *guest_mode(struct probe *probe) {
    struct kvm_sregs segments;

    if (ioctl(probe->processor, KVM_GET_SREGS, &segments) < 0 || !(segments.cr0 & 1))
        return "real mode";
    return segments.efer & 0x400 ? "long mode" : "protected mode";
}

static _Noreturn void stopped(struct probe *probe) {
    struct kvm_regs registers = { 0 };

    (void) ioctl(probe->processor, KVM_GET_REGS, &registers);
    if (probe->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        fail("KVM could not run an ordinary instruction in %s (internal error %u at 0x%llx)",
             guest_mode(probe), probe->run->internal.suberror, (unsigned long long) registers.rip);
    fail("the tiny guest stopped in %s with KVM's exit reason %u at 0x%llx", guest_mode(probe),
         probe->run->exit_reason, (unsigned long long) registers.rip);
}

static void guest_run(struct probe *probe) {
    for (unsigned i = 0; i < EXITS_MAX; i++) {
        if (ioctl(probe->processor, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            fail("KVM cannot run the tiny guest: %s", strerror(errno));
        }
        if (probe->run->exit_reason != KVM_EXIT_IO || probe->run->io.port != RESULT_PORT)
            stopped(probe);
        if (*((uint8_t *) probe->run + probe->run->io.data_offset) != RESULT_GOOD)
            fail("the tiny guest computed wrong values in long mode");
        return;
    }
    fail("the tiny guest made no progress");
}

static bool has_arch_capabilities(const struct kvm_cpuid2 *cpuid) {
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 7 && cpuid->entries[i].index == 0)
            return cpuid->entries[i].edx & CPUID_ARCH_CAPABILITIES;
    return false;
}

/* What QEMU does for `-cpu host`, where it asserts instead of failing. */
static void host_model_check(struct probe *probe) {
    _Alignas(struct kvm_msrs) uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)] = { 0 };
    struct kvm_msrs *request = (struct kvm_msrs *) room;

    request->nmsrs = 1;
    request->entries[0].index = MSR_ARCH_CAPABILITIES;
    if (!has_arch_capabilities(probe->cpuid) || ioctl(probe->kvm, KVM_GET_MSRS, request) != 1 ||
        request->entries[0].data == 0)
        return;
    if (ioctl(probe->processor, KVM_SET_MSRS, request) != 1)
        fail("KVM announces the register 0x10a and then refuses to set it, so QEMU's host processor model "
             "cannot start");
}

int main(void) {
    struct probe probe = { .kvm = -1 };

    machine_make(&probe);
    processor_prepare(&probe);
    host_model_check(&probe);
    guest_run(&probe);
    printf("a tiny guest ran in long mode\n");
    return 0;
}

#else
int main(void) {
    printf("there is no probe for this processor architecture\n");
    return 1;
}
#endif
