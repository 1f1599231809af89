# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU driver with real machines: prepares what they start from and runs each test of tests/unit/test-qemu-driver.c.

Needs QEMU, mkfs.erofs, mke2fs, busybox-static and a kernel (POLDER_TEST_KERNEL_DIR, else the host's); the tests of VMs also a
Debian disk (made once in POLDER_TEST_CACHE) and, for the one that boots a CD, the package ipxe."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import guestlib
import polderlib
from polderlib import ROOT

SOURCE = ROOT / "tests/unit/test-qemu-driver.c"
ISO = pathlib.Path("/usr/lib/ipxe/ipxe.iso")


def names_of(kind):
    return sorted(set(re.findall(kind + r"_TEST\((test_\w+)\)", SOURCE.read_text())))


def program():
    path = polderlib.build_directory() / "tests/unit/test-qemu-driver"
    if os.geteuid() != 0:
        pytest.skip("QEMU's jail needs root")
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


def run(*words):
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A directory with the parts of a microVM, and the programs that the driver starts."""
    place = tmp_path_factory.mktemp("machines")
    build = polderlib.build_directory()
    image, modules = guestlib.kernel_files()
    run(build / "src/guest/polder-mkinitramfs", "--vmlinux", image, "--output", place / "vmlinux")
    run(build / "src/guest/polder-mkinitramfs", "--modules", modules, "--guest", build / "src/guest/polder-guest",
        "--output", place / "initramfs")
    run(ROOT / "libexec/polder-build-busybox", "--output", place)
    (place / "root").mkdir()
    run("tar", "-C", place / "root", "-xf", place / "rootfs.tar")
    run("mkfs.erofs", "-zlz4", place / "root.erofs", place / "root")
    run("truncate", "-s", "1G", place / "blank.ext4")
    run("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-F", place / "blank.ext4")
    libexec = place / "libexec"
    libexec.mkdir()
    (libexec / "polder-kvm-probe").symlink_to(build / "src/host/polder-kvm-probe")
    (libexec / "polder-seed").symlink_to(build / "src/drivers/qemu/polder-seed")
    if ISO.exists():
        shutil.copy(ISO, place / "boot.iso")
    return place


@pytest.fixture(scope="module")
def disk(machines):
    """Adds a Debian disk."""
    shutil.copy(guestlib.debian_disk(), machines / "disk.qcow2")
    return machines


def machine_test(place, name, deadline):
    environment = dict(os.environ, POLDER_TEST_MACHINES=str(place), POLDER_TEST_LIBEXEC=str(place / "libexec"))
    done = subprocess.run([program(), name], env=environment, timeout=deadline, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "[       OK ]" in done.stdout, done.stdout


@pytest.mark.parametrize("name", names_of("MICROVM"))
def test_microvm(machines, name):
    machine_test(machines, name, 300)


# test_vm.py does what these do through the daemon; each boots a Debian of its own.
LONG = ("test_vm", "test_vm_uefi")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in names_of(r"\bVM")])
def test_vm(disk, name):
    machine_test(disk, name, 2 * guestlib.BOOT)


@pytest.mark.skipif(not ISO.exists(), reason="needs the package ipxe")
@pytest.mark.parametrize("name", names_of("ISO"))
def test_iso(disk, name):
    machine_test(disk, name, 300)
