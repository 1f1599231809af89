// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/buffer.h"

/* The OpenAPI 3.1 description of every route, as JSON text. -ENOMEM. */
int openapi_build(struct buffer *out);
