# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups v2: polderd boots a Debian VM with systemd, this build is installed in it, and tests/inside/ runs there.

Every test function of tests/inside/test_control_groups.py is one test here. `long` runs the unit tests and the scenarios in it
as well. The VM gets the build through a shared directory."""
import os
import pathlib
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
        daemon.polder("run", "--detach", "--name", "v2", "--kind", "vm", "--cpus", "2", "--memory", "1G", "--volume",
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


# ---- the whole suite ----

def meson_inside(daemon):
    """The build directory and the sources at the paths that the tests know; what they write goes to a copy."""
    build = polderlib.build_directory()
    script = (f"mkdir -p {ROOT} {build}; tar xf /polder/sources.tar -C {ROOT}; tar xf /polder/build.tar -C {build}; "
              f"cd {build}; meson test --no-rebuild --num-processes 2 --timeout-multiplier 20; "
              f"cp {build}/meson-logs/testlog.junit.xml /polder/unit.xml")
    daemon.execute("v2", "sh", "-c", script, timeout=7200, status=None)
    return outcomes(daemon.share / "unit.xml")


def pack(target, directory, *excluded):
    subprocess.run(["tar", "cf", target, *[f"--exclude={name}" for name in excluded], "-C", directory, "."], check=True)


@pytest.mark.long
def test_unit_tests_inside(guest):
    build = polderlib.build_directory()
    pack(guest.share / "sources.tar", ROOT, "./.git", "./build*")
    pack(guest.share / "build.tar", build, "*.a", "*.o")
    found = meson_inside(guest)
    failed = {name: reason for name, reason in found.items() if reason}
    assert found and not failed, failed


@pytest.mark.long
def test_scenarios_inside(guest):
    build = polderlib.build_directory()
    guest.execute("v2", "systemctl", "stop", "polderd")
    assert guest.execute("v2", "test", "-d", str(ROOT / "tests"), status=None) == ""
    guest.execute("v2", "env", f"POLDER_BUILD={build}", f"POLDER_BUILD_DIR={build}", "python3", "-m", "pytest", "-q", "-p",
                  "no:cacheprovider", "--tb=short", "-m", "scenario", "--junitxml=/polder/scenarios.xml",
                  str(pathlib.Path(ROOT) / "tests/system"), timeout=14400, status=None)
    failed = {name: reason for name, reason in outcomes(guest.share / "scenarios.xml").items() if reason}
    assert not failed, failed
