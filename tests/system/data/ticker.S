# SPDX-License-Identifier: GPL-2.0-or-later
# A boot sector for VMs of tests: counts on the first serial line, a number of four letters from "aaaa" to "pppp" about
# nine times a second, writes to its disk each time, and switches the machine off when its power button is pressed. The
# count is in a register alone.
    .code16
    .globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    movw $0x602, %dx        # the power management events that q35's firmware put there: report the button
    inw %dx, %ax
    orb $1, %ah
    outw %ax, %dx
    xorw %bx, %bx
count:
    incw %bx
    movw $4, %cx
letter:
    rolw $4, %bx
    movb %bl, %al
    andb $15, %al
    addb $'a', %al
    call put
    loop letter
    movb $'\n', %al
    call put
    pushw %bx
    movw $0x8000, %bx       # what is there, to the second sector of the first disk
    movw $0x0301, %ax
    movw $2, %cx
    movw $0x80, %dx
    int $0x13
    popw %bx
    hlt                     # until the clock's next interrupts, 18 a second
    hlt
    movw $0x600, %dx
    inw %dx, %ax
    testb $1, %ah
    jz count
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx
off:
    hlt
    jmp off
put:
    pushw %ax
    movw $0x3fd, %dx
busy:
    inb %dx, %al
    testb $0x20, %al
    jz busy
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret
    .org 510
    .word 0xaa55
