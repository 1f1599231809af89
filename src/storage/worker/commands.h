// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "options.h"
#include "report.h"

/* The subcommands, each run by jail_run inside its jail. They print their result and return 0, or fill
 * *failure and return a negative errno. */

/* An image layer or a plain root file system becomes the directory root_fd, which must be empty. */
int command_unpack_layer(struct options *options, struct failure *failure);
int command_import_rootfs(struct options *options, struct failure *failure);
/* Copies input_fd to output_fd with its digest computed, and compared if one was given. */
int command_verify_blob(struct options *options, struct failure *failure);
/* Says what kind of disk image input_fd is, or refuses it. */
int command_probe_disk(struct options *options, struct failure *failure);
/* The same, then makes a stand-alone qcow2 image of it in output_fd. */
int command_convert_disk(struct options *options, struct failure *failure);
/* Are the tables of the qcow2 image input_fd sound? Whatever it depends on is not opened. */
int command_check_disk(struct options *options, struct failure *failure);
