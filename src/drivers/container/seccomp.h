// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

/* The system call filter of containers, compiled for this machine, as base64 text. Takes about 20 ms: a job. */
int seccomp_filter_text(char **ret);
