# SPDX-License-Identifier: GPL-2.0-or-later
"""A FUSE file system that shows a directory and, as long as a file FLAG exists, answers nothing: whoever asks
and is killed sleeps on. Run as: hangfs.py DIRECTORY MOUNTPOINT FLAG. Ends when it is unmounted."""
import os
import sys
import time

import fusepy


class HangingFiles(fusepy.Operations):
    def __init__(self, root, flag):
        self.root = root
        self.flag = flag

    def __call__(self, operation, path, *arguments):
        while os.path.exists(self.flag):
            time.sleep(0.05)
        return getattr(self, operation)(self.root + path, *arguments)

    def inside(self, path):
        return self.root + path

    def getattr(self, path, handle=None):
        found = os.lstat(path)
        return {key: getattr(found, key) for key in ("st_atime", "st_ctime", "st_mtime", "st_mode", "st_nlink", "st_size", "st_uid",
                                                     "st_gid", "st_blocks", "st_ino")}

    def readdir(self, path, handle):
        return [".", "..", *os.listdir(path)]

    def statfs(self, path):
        found = os.statvfs(path)
        return {key: getattr(found, key) for key in ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files",
                                                     "f_frsize", "f_namemax")}

    def create(self, path, mode, info=None):
        return os.open(path, os.O_RDWR | os.O_CREAT, mode)

    def open(self, path, flags):
        return os.open(path, flags & ~os.O_APPEND)  # the kernel says where each write goes

    def read(self, path, size, offset, handle):
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        return os.pwrite(handle, data, offset)

    def truncate(self, path, length, handle=None):
        os.truncate(path, length)

    def fsync(self, path, only_data, handle):
        os.fsync(handle)

    def release(self, path, handle):
        os.close(handle)

    def rename(self, old, new):
        os.rename(old, self.inside(new))

    def link(self, target, source):
        os.link(self.inside(source), target)

    def symlink(self, target, source):
        os.symlink(source, target)

    def chown(self, path, user, group):
        os.chown(path, user, group, follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(path, times)

    def mkdir(self, path, mode):
        os.mkdir(path, mode)

    chmod, unlink, rmdir, readlink = (staticmethod(function) for function in (os.chmod, os.unlink, os.rmdir, os.readlink))


if __name__ == "__main__":
    fusepy.FUSE(HangingFiles(os.path.realpath(sys.argv[1]), sys.argv[3]), sys.argv[2], foreground=True, allow_other=True,
              default_permissions=True, attr_timeout=0, entry_timeout=0, negative_timeout=0)
