// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/json.h"

/* What somebody is told, compared with a file beneath tests/golden; POLDER_GOLDEN_UPDATE=1 rewrites that for review. */

void golden_compare(const char *path, const char *text);
/* The same with one value a line, and the object is freed. */
void golden_compare_json(const char *path, struct json_object *json);
