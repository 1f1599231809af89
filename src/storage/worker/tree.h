// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "layerpath.h"
#include "report.h"

/* The directory that a layer is unpacked into. Each parent is opened beneath the directory's descriptor
 * without following any link; the entry itself is then reached by its one name in that parent. Nothing is
 * ever opened by a path that the layer could have changed the meaning of. */

/* Marks a directory that hides what lower layers hold in it. The user. name needs no CAP_SYS_ADMIN to write;
 * overlayfs honours it with the mount option userxattr. */
#define OVERLAY_OPAQUE "user.overlay.opaque"

struct tree {
    int root_fd;   /* borrowed */
    int parent_fd; /* the parent of the entry at hand, or -1; what it removes lies beneath it, so it stays
                      right */
    char parent[TAR_PATH_MAX + 1];
    uint64_t implied_directories; /* parents that no entry of the layer described */
};

void tree_init(struct tree *tree, int root_fd);
void tree_done(struct tree *tree);

/* The directory `path` (clean, see struct layer_path; "" = root) as an O_PATH descriptor that stays valid
 * until the next call with this tree. Missing directories are made, 0755 root. A link on the way is refused.
 */
int tree_parent(struct tree *tree, const char *path, int *ret_fd, struct failure *failure);

/* True if `path` is a directory now. Makes nothing. */
bool tree_has_directory(const struct tree *tree, const char *path);

/* Removes whatever is at `name` in parent_fd, a whole tree if need be, without following links. Nothing there
 * is success. */
int tree_vacate(int parent_fd, const char *name, struct failure *failure);

/* Makes a directory or keeps the one that is there; anything else in its place is removed, and a directory
 * that replaces a whiteout becomes opaque. Returns a readable descriptor. */
int tree_directory(int parent_fd, const char *name, int *ret_fd, struct failure *failure);

/* Creates a new file, replacing what is there. Returns a writable descriptor. */
int tree_file(int parent_fd, const char *name, int *ret_fd, struct failure *failure);

/* Hides `name` of the lower layers: a 0:0 character device, or the opaque mark if this layer has a directory
 * there already; a file that is there hides it by itself. */
int tree_whiteout(int parent_fd, const char *name, struct failure *failure);

int tree_set_opaque(int directory_fd, struct failure *failure);

/* Makes `name` a hard link of the file or link `target` (clean parent and name) of this layer. */
int tree_hardlink(struct tree *tree, int parent_fd, const char *name, const struct layer_path *target,
                  struct failure *failure);

/* Makes a symbolic link, whose text is kept as it is and never followed here. */
int tree_symlink(int parent_fd, const char *name, const char *text, struct failure *failure);

bool is_whiteout(mode_t mode, dev_t device);

struct tree_usage {
    uint64_t bytes;   /* on disk, hard links counted once */
    uint64_t entries; /* in the finished tree */
};

/* Counts what is beneath root_fd. */
int tree_measure(int root_fd, struct tree_usage *ret, struct failure *failure);
