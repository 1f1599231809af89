// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"

/* Ends everything, writes all data out and ends the virtual machine. disk_fd: where the writable disk is
 * mounted, or -EBADF. With ACPI the kernel switches the machine off; without it (microvm with acpi=off) a
 * power-off would only halt the processor, so the machine is reset instead, which makes a QEMU started with
 * -no-reboot exit just the same. */
_noreturn_ void power_off(int disk_fd);
