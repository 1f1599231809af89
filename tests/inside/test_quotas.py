# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests/system/test_hosts.py runs inside a Debian VM: `--disk` of containers on file systems with quotas. Each file
system lies in a file; a polderd of its own has its state there."""
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from insidelib import Polder, run, wait_for

MIB = 1 << 20
FILE_SYSTEMS = {  # how it is made, mount options, and whether it has quotas
    "xfs": (["mkfs.xfs", "-q"], "prjquota", True),
    "xfs-none": (["mkfs.xfs", "-q"], "noquota", False),
    "xfs-counting": (["mkfs.xfs", "-q"], "pqnoenforce", False),
    "ext4": (["mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"], "prjquota", True),
    "ext4-counting": (["mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"], "defaults", False),
    "btrfs": (["mkfs.btrfs", "-q"], "defaults", True),
    "btrfs-none": (["mkfs.btrfs", "-q"], "defaults", False),
}


class World:
    def __init__(self, kind):
        make, options, self.has_quota = FILE_SYSTEMS[kind]
        self.kind = kind
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="quota-", dir="/var/tmp"))
        self.mount = self.place / "mount"
        self.mount.mkdir()
        run("truncate", "-s", "700M", self.place / "image")
        run(*make, self.place / "image")
        run("mount", "-o", f"loop,{options}", self.place / "image", self.mount)
        if kind == "btrfs":
            run("btrfs", "quota", "enable", self.mount)
        self.polder = Polder(self.place / "run/polder.sock")
        self.log = open(self.place / "log", "ab")
        self.process = None
        self.start()
        self.polder("image", "build", "busybox")

    def start(self):
        (self.place / "polderd.conf").touch(mode=0o600)
        self.process = subprocess.Popen(["polderd", "--config", self.place / "polderd.conf", "--state", self.mount / "state",
                                         "--run", self.place / "run", "--no-network"], stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL)
        wait_for(lambda: self.polder("ls", status=None).returncode == 0, "polderd to answer")

    def close(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
        run("umount", self.mount)
        shutil.rmtree(self.place)

    def state(self, name):
        return self.mount / "state/instances" / self.polder.show(name)["assigned"]["uuid"]


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def world(request):
    world = World(request.param)
    try:
        yield world
    finally:
        for name in world.polder("ls", "--quiet", "--deleted", status=None).stdout.split():
            world.polder("rm", "--force", "--purge", name, status=None)
        world.close()


@pytest.fixture
def container(world):
    """container(name, options…): one that runs, removed at the end."""
    made = []

    def start(name, *options):
        made.append(name)
        world.polder("run", "-d", "--kind", "container", "--network", "none", "--stop-timeout", "1s", "--name", name,
                     *options, "busybox", "--", "sleep", "100000")

    yield start
    for name in made:
        world.polder("rm", "--force", "--purge", name, status=None)


def write(world, name, mebibytes, path="/big"):
    """Bytes that are there after an attempt to write so much, and what was said."""
    done = world.polder.execute(name, "dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={mebibytes}", "conv=fsync",
                                status=None)
    return int(world.polder.sh(name, f"stat -c %s {path} 2>/dev/null || echo 0")), done.stderr


def test_disk_is_bounded(world, container):
    container("one", "--disk", "48M")
    container("free")
    size, words = write(world, "one", 100)
    assert 24 * MIB <= size <= 48 * MIB and re.search("quota|No space", words), (size, words)
    assert (world.state("one") / "disk.ext4").exists() == (not world.has_quota), "quotas are used where they are on, and only there"
    # Its own bound, nobody else's.
    assert write(world, "free", 100)[0] == 100 * MIB
    world.polder.sh("free", "rm /big; sync")
    # What it deletes it can write again, and a second start changes nothing.
    world.polder.sh("one", "rm /big; sync")
    wait_for(lambda: write(world, "one", 20, "/again")[0] == 20 * MIB, "room again")
    world.polder("restart", "one")
    size, words = write(world, "one", 100)
    assert size <= 28 * MIB and re.search("quota|No space", words), (size, words)


def test_many_small_files_count(world, container):
    container("small", "--disk", "32M")
    world.polder.sh("small", "i=0; while [ $i -lt 100 ]; do dd if=/dev/zero of=/f$i bs=1M count=1 2>/dev/null; i=$((i+1)); "
                    "done; sync; true")
    total = sum(int(size) for size in world.polder.sh("small", "stat -c %s /f*").split())
    assert 16 * MIB <= total <= 32 * MIB, total


def test_limit_set_later_counts_what_was_written(world, container):
    container("later")
    assert write(world, "later", 30)[0] == 30 * MIB
    world.polder("stop", "later")
    done = world.polder("set", "later", "--disk", "50M", status=None)
    started = world.polder("start", "later", status=None) if done.returncode == 0 else done
    if not world.has_quota:
        assert started.returncode != 0 and "disk size after it ran without one" in started.stderr, started
        return
    assert started.returncode == 0, started
    size, words = write(world, "later", 60, "/more")
    assert size <= 20 * MIB and re.search("quota|No space", words), (size, words)
    assert world.polder.sh("later", "stat -c %s /big") == f"{30 * MIB}\n", "what it wrote before is still there"
    # Lifted again.
    world.polder("stop", "later")
    world.polder("set", "later", "--disk", "0")
    world.polder("start", "later")
    assert write(world, "later", 60, "/more")[0] == 60 * MIB


def test_new_limit(world, container):
    container("grown", "--disk", "32M")
    assert write(world, "grown", 60)[0] <= 32 * MIB
    world.polder("stop", "grown")
    world.polder("set", "grown", "--disk", "64M")
    world.polder("start", "grown")
    world.polder.sh("grown", "rm -f /big; sync")
    size = wait_for(lambda: (size := write(world, "grown", 100)[0]) > 36 * MIB and size, "the larger disk")
    assert size <= 64 * MIB, size


def test_limits_survive_a_killed_daemon(world, container):
    container("kept", "--disk", "32M")
    world.process.kill()
    world.process.wait(60)
    world.start()
    assert write(world, "kept", 60)[0] <= 32 * MIB
    world.polder("restart", "kept")
    world.polder.sh("kept", "rm -f /big; sync")
    assert write(world, "kept", 60)[0] <= 32 * MIB


def test_nothing_stays(world, container):
    container("gone", "--disk", "32M")
    where = world.state("gone")
    # Deeper than what is removed in place.
    world.polder.sh("gone", "d=/; i=0; while [ $i -lt 60 ]; do mkdir $d/d; d=$d/d; i=$((i+1)); done; echo deep >$d/file")
    world.polder("rm", "--force", "--purge", "gone")
    assert not where.exists()
    loops = run("losetup", "--noheadings", "--output", "BACK-FILE").stdout
    assert str(where) not in loops
    world.polder("fsck", "--deep")
