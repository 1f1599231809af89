// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "manager/manager.h"

/* The manager's functions as the API calls them, over nothing: instances that exist only as texts, commands that echo.
 * What was called is counted. */

struct manager *fake_manager_new(unsigned instances);
void fake_manager_free(struct manager *manager);
unsigned fake_manager_calls(const struct manager *manager);   /* changes that reached the manager */
unsigned fake_manager_streams(const struct manager *manager); /* streams that are open now */
