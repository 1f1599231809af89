# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs polder-worker, and makes tar archives that no honest tar program writes."""
import gzip
import hashlib
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
OCI = "application/vnd.oci.image.layer.v1.tar"


def worker_path():
    named = os.environ.get("POLDER_WORKER")
    build = os.environ.get("POLDER_BUILD", str(ROOT / "build"))
    return named or os.path.join(build, "src/storage/worker/polder-worker")


class Answer:
    """What the worker said: exit status, the last line's content, the progress lines before it."""

    def __init__(self, status, lines, stderr):
        self.status = status
        self.stderr = stderr
        self.progress = [line["progress"] for line in lines[:-1]]
        last = lines[-1] if lines else {}
        self.result = last.get("result")
        self.error = last.get("error")

    @property
    def code(self):
        return self.error["code"] if self.error else None

    def __repr__(self):
        return f"Answer({self.status}, {self.result or self.error}, {self.stderr!r})"


def run_worker(command, *options, deadline=300, **descriptors):
    words = [worker_path(), command]
    for name, fd in descriptors.items():
        words += [f"--{name}-fd", str(fd)]
    done = subprocess.run(words + [str(option) for option in options], pass_fds=list(descriptors.values()),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=deadline)
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(lines) > 0, f"no answer: {done.returncode} {done.stderr!r}"
    answer = Answer(done.returncode, lines, done.stderr)
    assert all("progress" in line for line in lines[:-1]), lines
    assert (answer.result is not None) == (done.returncode == 0), answer
    assert b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr, done.stderr.decode()
    return answer


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


# ---- tar, byte by byte ----

def octal(number, width):
    return b"%0*o\0" % (width - 1, number)


def header(name, kind=b"0", size=0, link=b"", mode=0o644, uid=0, gid=0, magic=b"ustar\x0000", prefix=b"",
           size_field=None, major=0, minor=0, uid_field=None):
    fields = [name.ljust(100, b"\0")[:100], octal(mode, 8), uid_field or octal(uid, 8), octal(gid, 8),
              size_field or octal(size, 12), octal(1000000000, 12), b" " * 8, kind, link.ljust(100, b"\0")[:100],
              magic, b"root".ljust(32, b"\0"), b"root".ljust(32, b"\0"), octal(major, 8), octal(minor, 8),
              prefix.ljust(155, b"\0")]
    block = b"".join(fields).ljust(512, b"\0")
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(*pairs, kind=b"x"):
    body = b"".join(record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/x", kind, len(body)) + padded(body)


def file(name, data=b"", **options):
    return header(name, size=len(data), **options) + padded(data)


def directory(name, **options):
    return header(name, b"5", mode=options.pop("mode", 0o755), **options)


def symlink(name, target):
    return header(name, b"2", link=target, mode=0o777)


def hardlink(name, target):
    return header(name, b"1", link=target)


def long_name(name, kind=b"L"):
    return header(b"././@LongLink", kind, len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


END = b"\0" * 1024


def unpack(root, data, *options, compress=gzip.compress, media=OCI + "+gzip", wanted_digest=None, diff_id=None,
           tmp=None):
    """Unpacks tar bytes as a layer into the directory `root`, with right digests unless told otherwise."""
    blob = compress(data) if compress else data
    path = (tmp or root.parent) / "blob"
    path.write_bytes(blob)
    input_fd, root_fd = os.open(path, os.O_RDONLY), os.open(root, os.O_RDONLY)
    try:
        return run_worker("unpack-layer", "--digest", wanted_digest or digest(blob), "--diff-id",
                          diff_id or digest(data), "--media-type", media, *options, input=input_fd, root=root_fd)
    finally:
        os.close(input_fd)
        os.close(root_fd)


def import_rootfs(root, blob, *options):
    path = root.parent / "blob"
    path.write_bytes(blob)
    input_fd, root_fd = os.open(path, os.O_RDONLY), os.open(root, os.O_RDONLY)
    try:
        return run_worker("rootfs-tar-import", *options, input=input_fd, root=root_fd)
    finally:
        os.close(input_fd)
        os.close(root_fd)


def tree_state(path):
    """Everything about a tree that an attack could have changed."""
    state = {}
    for at, names, files in os.walk(path):
        for name in [""] + names + files:
            full = os.path.join(at, name)
            status = os.lstat(full)
            content = open(full, "rb").read() if os.path.isfile(full) and not os.path.islink(full) else None
            state[full] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink,
                           status.st_ctime_ns, content, tuple(os.listxattr(full, follow_symlinks=False)))
    return state
