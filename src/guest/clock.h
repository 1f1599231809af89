// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/common.h"

/* Sets the clock (microseconds since 1970, 0 leaves it alone) and stirs `entropy` (base64, at most
 * REQUEST_ENTROPY_MAX bytes, NULL for none) into the kernel's generator, which then forgets what it had
 * prepared. After boot, and above all after a resume or clone, when the guest's state exists more than once.
 */
int clock_apply(int64_t realtime_us, const char *entropy, struct reason *reason);
