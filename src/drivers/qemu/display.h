// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"

/* The screen of a VM that was created with graphics. QEMU itself listens nowhere: who connects to the socket
 * RUN_PATH/vnc, which is root's alone, or comes by the API, is handed to it as a connected descriptor. The socket is
 * there while the machine runs and this polderd has it; connections outlive polderd, as they are QEMU's by then. */

#define DISPLAY_NAME "vnc"

struct display;
struct machine;

/* Listens, in place of what an earlier daemon left there. */
int display_open(struct machine *machine, struct display **ret);
/* Takes the socket away; connections stay. NULL is fine. Also off fibers. */
void display_free(struct display *display);
/* Where it listens; lives as long as the display. NULL without one. */
const char *display_path(const struct display *display);
/* Fiber: hands a connected socket, which stays the caller's, to QEMU as a viewer. BUSY when there is no connection. */
int display_hand(struct machine *machine, int fd, struct error *error);
