// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "store/store.h"

/* What every implementation of store.h must do. The tests start from an empty store and run on a fiber. */
struct store_contract {
    /* Opens a fresh, empty store into *ret. */
    int (*open)(struct store **ret);
    void (*close)(struct store *store);
};

/* Runs the suite under cmocka; returns the number of failures. */
int store_contract_run(const struct store_contract *contract);

/* Runs function(userdata) on a fiber until it returns, then gives the process a fresh loop; needs loop_init before. */
void on_fiber(void (*function)(void *userdata), void *userdata);
