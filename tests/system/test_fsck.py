# SPDX-License-Identifier: GPL-2.0-or-later
"""`polder fsck --deep` on what instances keep: each fault is planted once, is told with its object, and is gone when it is
mended. Of a container, a microVM and a VM that rest; the VM's disk counts as a boot sector does."""
import contextlib
import os
import shutil
import subprocess

import pytest

import guestlib
from polderlib import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="module")
def host(request):
    if not guestlib.kernel_directory():
        pytest.skip("no kernel for microVMs")
    with guestlib.host_daemon(request) as daemon:
        daemon.directory.chmod(0o711)  # as /var is
        daemon.polder("image", "build", "busybox")
        daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")
        for kind in ("container", "microvm"):
            daemon.polder("run", "--detach", "--kind", kind, "--name", kind, "--network", "none", "busybox", "--", "sh", "-c",
                          "echo mine > /kept; exec sleep 1000")
            eventually(lambda: daemon.execute(kind, "cat", "/kept", status=None) == "mine\n", 120, "its file")
            daemon.polder("stop", "--force", kind)
        daemon.polder("run", "--kind", "vm", "--name", "vm", "--memory", "64M", "--network", "none", "ticker")
        daemon.polder("stop", "--force", "vm")
        daemon.polder("create", "--kind", "vm", "--name", "never-ran", "--memory", "64M", "--network", "none", "ticker")
        daemon.check_clean()
        yield daemon


def place(host, name):
    return host.state / "instances" / host.instance(name)["assigned"]["uuid"]


def problems(host):
    return host.fsck()["problems"]


def told(host, *words):
    """The planted fault is the only one, and is told with all these words."""
    found = problems(host)
    assert len(found) == 1 and all(word in found[0] for word in words), found


@contextlib.contextmanager
def changed(path):
    """A copy is put back at the end, with its mode."""
    kept = path.with_name(path.name + ".kept")
    subprocess.run(["cp", "-a", "--sparse=always", path, kept], check=True)
    try:
        yield path
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        kept.rename(path)


# ---- disks (I5) ----

@pytest.mark.parametrize("name, file", [("container", "upper"), ("microvm", "disk.raw"), ("vm", "disk.qcow2")])
def test_missing_disk(host, name, file):
    path = place(host, name) / file
    if not path.exists():  # a project quota or a volume: elsewhere
        pytest.skip(f"{file} is not how this host keeps it")
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        told(host, f"'{name}'", "missing")
    finally:
        aside.rename(path)
    host.check_clean()


def test_overlay_with_a_bad_head(host):
    with changed(place(host, "vm") / "disk.qcow2") as disk:
        for offset, data, word in ((0, b"\0" * 8, "header"), (16, b"\xff\xff\xff\xff", "stands on")):
            with open(disk, "r+b") as file:
                before = os.pread(file.fileno(), len(data), offset)
                os.pwrite(file.fileno(), data, offset)
                told(host, "'vm'", word)
                os.pwrite(file.fileno(), before, offset)
    host.check_clean()


def test_overlay_that_stands_on_another_file(host):
    """Whoever broke out of QEMU could write that; it is told and not opened."""
    with changed(place(host, "vm") / "disk.qcow2") as disk:
        host.host("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", disk)
        told(host, "'vm'", "does not stand on its image")
    host.check_clean()


def test_overlay_with_damaged_tables(host):
    with changed(place(host, "vm") / "disk.qcow2") as disk:
        with open(disk, "r+b") as file:
            table = int.from_bytes(os.pread(file.fileno(), 8, 40), "big")
            # Its first table of clusters is at an offset that nothing can be at.
            os.pwrite(file.fileno(), (0x80000000deadbe00).to_bytes(8, "big"), table)
        told(host, "'vm'", "disk.qcow2", "damaged")
    host.check_clean()


def test_suspended_without_its_memory(host):
    host.polder("run", "--kind", "vm", "--name", "asleep", "--memory", "64M", "--network", "none", "ticker")
    host.polder("suspend", "asleep")
    try:
        host.check_clean()
        kept = list(place(host, "asleep").glob("memory*"))
        assert kept
        for path in kept:
            path.rename(path.with_name("aside-" + path.name))
        told(host, "'asleep'", "memory")
        for path in kept:
            path.with_name("aside-" + path.name).rename(path)
        host.check_clean()
        host.polder("resume", "asleep")
        host.check_clean()
    finally:
        host.polder("rm", "--force", "--purge", "asleep")


# ---- what others may read (I9) ----

def test_what_a_container_wrote_is_nobody_elses(host):
    kept = next(place(host, "container").rglob("kept"))
    assert kept.stat().st_mode & 0o004, "it is everybody's inside"
    assert subprocess.run([*NOBODY, "cat", kept], capture_output=True, check=False).returncode != 0
    # As an earlier polderd left it: told, and mended by the next start.
    for folder in (place(host, "container"), host.state / "instances"):
        folder.chmod(0o711)
    assert subprocess.run([*NOBODY, "cat", kept], capture_output=True, check=False).returncode == 0
    found = problems(host)
    assert any("read" in one and str(kept) in one for one in found), found
    host.polder("start", "container")
    host.check_clean()
    host.polder("stop", "--force", "container")


@pytest.mark.parametrize("where", ["store.db", "ledger", "run"])
def test_files_that_others_may_read(host, where):
    path = {"store.db": host.state / "store.db", "ledger": host.state / "ledger", "run": host.run / "lock"}[where]
    mode = path.stat().st_mode & 0o7777
    path.chmod(0o755 if path.is_dir() else 0o644)
    inside = path / "planted" if path.is_dir() else path
    try:
        if path.is_dir():
            inside.write_text("x")
            inside.chmod(0o644)
        told(host, "others", str(inside))
    finally:
        if path.is_dir():
            inside.unlink()
        path.chmod(mode)
    host.check_clean()


def test_a_pid_file_is_no_secret(host):
    """quickstart, and service managers, leave one in the run directory."""
    path = host.run / "pid"
    path.write_text("1\n")
    path.chmod(0o644)
    try:
        host.check_clean()
    finally:
        path.unlink()


def test_places_that_others_may_write_to(host):
    folder = host.state / "images"
    mode = folder.stat().st_mode & 0o7777
    folder.chmod(0o733)
    try:
        told(host, "write", str(folder))
    finally:
        folder.chmod(mode)
    host.check_clean()
