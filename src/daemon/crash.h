// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

/* From now on a signal that ends polderd through a fault of its own (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT) first says on
 * standard error which it was, and where: one line for each function that was being called, as file(+offset), which addr2line
 * turns into source lines. That is all that stays: no core is written, since polderd's memory holds what guests trust it with.
 * Then the signal ends the process as it would have, and systemd starts it again. Not under sanitizers, which tell more. */
void crash_set_up(void);
