// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define UUID_TEXT_SIZE 37

/* A random UUID (version 4) from getrandom, lower case. */
void uuid_new(char text[UUID_TEXT_SIZE]);
bool uuid_is_valid(const char *text); /* 36 characters, lower case */
void random_bytes(void *data, size_t size);
/* `count` random bytes as 2·count hex digits plus NUL. */
void random_hex(char *text, size_t count);
