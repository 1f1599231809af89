# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups v2: polderd boots a Debian VM with systemd, this build is installed in it, and tests/inside/ runs there.

Every test function of tests/inside/test_control_groups.py is one test here; test_hosts.py runs the whole suite in such a VM.
It gets the build through a shared directory, and has one processor: with two, QEMU 7.2's emulation may go on running an
instruction that the kernel has patched since, for ever."""
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as tree

import pytest

import guestlib
import polderlib
from polderlib import ROOT

INSIDE = ROOT / "tests/inside/test_control_groups.py"
NAMES = re.findall(r"^def (test_\w+)", INSIDE.read_text(), re.M)
BEFORE = [name for name in NAMES if name != "test_after_reboot"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")


def is_sanitized():
    return polderlib.build_option("b_sanitize") not in ("none", None, [])


@pytest.fixture(scope="module")
def guest(request):
    """A daemon with the VM "v2", in which this build is installed; the share is /polder inside."""
    if is_sanitized():
        pytest.skip("the VM has no sanitizer runtime; ./check runs this with the build without sanitizers")
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "import", guestlib.debian_disk(packages=guestlib.RUNTIME + guestlib.TESTING), "--name", "v2")
        subprocess.run(["meson", "install", "--no-rebuild", "--quiet", "-C", polderlib.build_directory()], check=True,
                       env={**os.environ, "DESTDIR": str(daemon.share / "root")}, capture_output=True)
        shutil.copy(INSIDE, daemon.share)
        daemon.polder("run", "--detach", "--name", "v2", "--kind", "vm", "--memory", "1G", "--volume",
                      f"{daemon.share}:/polder", "v2")
        daemon.wait_agent("v2")
        daemon.execute("v2", "sh", "-ec", "cp -a /polder/root/. /; systemd-sysusers; systemctl daemon-reload; systemctl start polderd")
        yield daemon


def run_inside(daemon, report, names, timeout):
    """Runs these tests in the VM; their outcome by name: None if passed, else the reason."""
    done = daemon.polder("exec", "v2", "--", "python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short",
                         f"--junitxml=/polder/{report}", *[f"/polder/{INSIDE.name}::{name}" for name in names],
                         status=None, timeout=timeout)
    path = daemon.share / report
    assert path.exists(), f"pytest in the VM: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return outcomes(path)


def outcomes(path):
    found = {}
    for case in tree.parse(path).getroot().iter("testcase"):
        bad = [part for kind in ("failure", "error", "skipped") if (part := case.find(kind)) is not None]
        found[case.get("name")] = "\n".join(f"{part.get('message')}\n{part.text}" for part in bad) or None
    return found


@pytest.fixture(scope="module")
def results(guest):
    found = run_inside(guest, "before.xml", BEFORE, 900)
    boot = guest.execute("v2", "cat", "/proc/sys/kernel/random/boot_id")
    guest.polder("restart", "v2", timeout=guestlib.BOOT)
    polderlib.eventually(lambda: guest.polder("exec", "v2", "--", "cat", "/proc/sys/kernel/random/boot_id", status=None).stdout
                         not in (boot, ""), guestlib.BOOT, "the reboot")
    found |= run_inside(guest, "after.xml", ["test_after_reboot"], 300)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_inside(results, name):
    assert name in results, "it did not run"
    assert results[name] is None, results[name]
