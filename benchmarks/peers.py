# SPDX-License-Identifier: GPL-2.0-or-later
"""Docker and podman, started for the measurement in the bench's own mount and network namespaces, with a state of their
own, and ended with it."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise RuntimeError(f"{program} is not installed")


def load(root, command):
    """The same root file system as an image of the peer."""
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    subprocess.run([*command, "import", "-", "polder-bench"], stdin=tar.stdout, check=True, **QUIET)
    tar.wait()


def wait_for(path, process, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("dockerd did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def docker(scratch, root):
    """Docker with overlay2, containerd and runc: its defaults. No bridge and no rules: networks are not compared."""
    need("dockerd", "docker", "containerd", "runc")
    here = pathlib.Path(scratch) / "docker"
    here.mkdir()
    command = [shutil.which("docker"), "-H", f"unix://{here}/socket"]
    daemon = subprocess.Popen(["dockerd", "--data-root", here / "data", "--exec-root", here / "exec", "-H", f"unix://{here}/socket",
                               "-p", here / "pid", "--iptables=false", "--ip6tables=false", "--bridge=none"],
                              stdin=subprocess.DEVNULL, **QUIET)
    try:
        wait_for(here / "socket", daemon)
        load(root, command)
        yield [*command, "run", "--rm", "--network", "none", "polder-bench", "/bin/true"]
    finally:
        daemon.terminate()
        daemon.wait()
        forget_mounts(here)


@contextlib.contextmanager
def podman(scratch, root):
    """podman with crun and overlay. Its default limits may be more than this host allows."""
    need("podman", "crun", "conmon")
    here = pathlib.Path(scratch) / "podman"
    here.mkdir()
    command = ["podman", "--root", str(here / "root"), "--runroot", str(here / "run"), "--tmpdir", str(here / "tmp"),
               "--cgroup-manager=cgroupfs", "--storage-driver=overlay"]
    try:
        load(root, command)
        yield [*command, "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
               "polder-bench", "/bin/true"]
    finally:
        forget_mounts(here)


def forget_mounts(here):
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4] for line in mounts]
    for point in sorted(points, reverse=True):
        if point.startswith(f"{here}{os.sep}"):
            subprocess.run(["umount", "-l", point], **QUIET)
