// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "cli/command.h"

/* Each command's file ends in its row. */

#define GROUP_INSTANCES "Instances"
#define GROUP_INSIDE "Inside an instance"
#define GROUP_IMAGES "Images"
#define GROUP_NODE "The node"
#define GROUP_MORE "More"

extern const struct command command_run, command_create, command_ls, command_show, command_start, command_stop,
    command_restart, command_allocation, command_pause, command_resume, command_suspend, command_rm, command_undelete, command_exec,
    command_attach, command_console, command_logs, command_cp, command_set, command_kill, command_wait, command_image,
    command_node, command_network, command_events, command_ops, command_audit, command_doctor, command_lifecycle,
    command_fsck, command_advise, command_optimize, command_queue, command_why, command_what_if, command_simulate, command_version, command_completion, command_man, command_help;
