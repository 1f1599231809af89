// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/commands.h"

/* The order is that of the help; the commands of a group stand together. */
const struct command *const commands[] = {
    &command_run, &command_create, &command_ls, &command_show, &command_start, &command_stop, &command_restart,
    &command_pause, &command_resume, &command_suspend, &command_set, &command_kill, &command_wait, &command_rm,
    &command_undelete, &command_allocation,
    &command_exec, &command_attach, &command_console, &command_logs, &command_cp, &command_image,
    &command_node, &command_network, &command_events, &command_ops, &command_audit, &command_doctor, &command_advise, &command_optimize, &command_queue, &command_why, &command_what_if,
    &command_fsck,
    &command_lifecycle, &command_simulate, &command_version, &command_completion, &command_man, &command_help, 0,
};
