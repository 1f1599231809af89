// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/machine.h"

/* The largest user data taken; cloud-init would read it as one document. */
#define SEED_USER_DATA_MAX (1024 * 1024)

/* Fiber: writes the NoCloud seed (label "cidata": meta-data, user-data, network-config) at `path`, anew at
 * each start. The instance id in it is the uuid, so cloud-init does its first-boot work once. */
int seed_make(const struct qemu *qemu, const struct driver_instance *instance, const char *path,
              struct error *error);
