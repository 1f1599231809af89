# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that this one is not: a Debian VM with systemd and control groups v2, booted by Polder itself, in which this build
is installed. tests/inside/ runs there: quotas of xfs, ext4 and btrfs, Polder beside the real Docker, ufw and firewalld. Then
the whole suite, but for what runs machines. And Debian as it comes, in which tools/install-packages has to be enough.

The VM has one processor: see test_cgroup2.py. Each group of tests there is one test here; where POLDER_TEST_RESULTS names a
directory, tools/summarize-tests finds and counts the single ones."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time
import xml.etree.ElementTree as tree

import pytest

import guestlib
import polderlib
import test_quickstart
from polderlib import ROOT, eventually

SERVICES = "docker docker.socket containerd firewalld ufw docker-registry apache-htcacheclean".split()
USER_DATA = "#cloud-config\nbootcmd:\n" + "".join(f"  - [systemctl, mask, {name}]\n" for name in SERVICES)
SLOW = 10  # times slower than here
HOURS = 3600

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")]


@pytest.fixture(scope="module")
def machine(request):
    """A daemon with the VM "host", in which this build is installed; the share is /polder inside."""
    if polderlib.build_option("b_sanitize") not in ("none", None, []):
        pytest.skip("the VM has no sanitizer runtime; ./check --long runs this with the build without sanitizers")
    packages = guestlib.RUNTIME + guestlib.TESTING + guestlib.SUITE + guestlib.FIREWALLS + guestlib.FILE_SYSTEMS
    disk = guestlib.debian_disk(packages=packages)
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "import", disk, "--name", "host")
        subprocess.run(["meson", "install", "--no-rebuild", "--quiet", "-C", polderlib.build_directory()], check=True,
                       env={**os.environ, "DESTDIR": str(daemon.share / "root")}, capture_output=True)
        shutil.copytree(ROOT / "tests/inside", daemon.share / "inside")
        daemon.polder("run", "--detach", "--name", "host", "--kind", "vm", "--memory", "3G", "--disk", "16G",
                      "--user-data", USER_DATA, "--volume", f"{daemon.share}:/polder", "host")
        daemon.wait_agent("host")
        inside(daemon, "cp -a /polder/root/. /; systemd-sysusers; systemctl daemon-reload; systemctl start polderd")
        yield daemon


def inside(daemon, script, **options):
    """Runs a script of the shell in the VM."""
    return daemon.execute("host", "sh", "-ec", script, **options)


def run_long(daemon, name, script, seconds):
    """Runs a script as a service of the VM, so that nothing waits on a connection for hours; its output is in the share."""
    path = daemon.share / f"{name}.sh"
    path.write_text(f"{script}\n")
    inside(daemon, f"systemd-run --quiet --unit=test-{name} --property=TasksMax=infinity --property=LimitNOFILE=65536 "
           f"--property=Delegate=yes --setenv=HOME=/root sh -c 'sh /polder/{name}.sh >/polder/{name}.log 2>&1; echo $? >/polder/{name}.status'")
    status = daemon.share / f"{name}.status"
    eventually(lambda: status.exists() and status.read_text().strip(), seconds, f"{name} to end")
    return int(status.read_text())


def report(daemon, name, path):
    """Counts what a report of pytest or meson says; fails with what failed."""
    log = (daemon.share / f"{name}.log").read_text(errors="replace")
    assert path.exists(), log[-5000:]
    results = os.environ.get("POLDER_TEST_RESULTS")
    if results:
        shutil.copy(path, pathlib.Path(results) / f"system-inside-{name}.xml")
    failed, passed = {}, 0
    for case in tree.parse(path).getroot().iter("testcase"):
        bad = [part for kind in ("failure", "error") if (part := case.find(kind)) is not None]
        if bad:
            reason = "\n".join(f"{part.get('message')}\n{part.text}" for part in bad)
            failed[f"{case.get('classname')}.{case.get('name')}"] = reason[-3000:]
        elif case.find("skipped") is None:
            passed += 1
    print(f"{name}: {passed} passed in the VM\n{log[-1500:]}")
    assert passed and not failed, "\n".join(f"--- {key}\n{reason}" for key, reason in failed.items())


def pytest_inside(daemon, name, words, seconds, environment=""):
    run_long(daemon, name, f"cd /var/tmp; {environment} python3 -m pytest -q -p no:cacheprovider --tb=short -rs "
             f"--junitxml=/var/tmp/{name}.xml {words}; status=$?; cp /var/tmp/{name}.xml /polder/; exit $status", seconds)
    report(daemon, name, daemon.share / f"{name}.xml")


# ---- what this machine cannot be ----

def test_quotas(machine):
    pytest_inside(machine, "quotas", "/polder/inside/test_quotas.py", 2 * HOURS)


def test_firewalls(machine):
    pytest_inside(machine, "firewalls", "/polder/inside/test_firewalls.py", 2 * HOURS)


# ---- the whole suite ----

def pack(target, directory, *excluded):
    subprocess.run(["tar", "cf", target, *[f"--exclude={name}" for name in excluded], "-C", directory, "."], check=True)


@pytest.fixture(scope="module")
def suite(machine):
    """Sources and build at the paths that the tests know."""
    build = polderlib.build_directory().resolve()
    pack(machine.share / "sources.tar", ROOT, "./.git", "./build*")
    pack(machine.share / "build.tar", build, "*.a", "*.o", "*.tmp", "./meson-logs/*")
    inside(machine, f"systemctl stop polderd; mkdir -p {ROOT} {build}; tar xf /polder/sources.tar -C {ROOT}; "
           f"tar xf /polder/build.tar -C {build}; ln -sfn {build} /polder-build")
    return build


def test_unit_tests(machine, suite):
    run_long(machine, "unit", f"cd {suite}; POLDER_TEST_DEADLINE={polderlib.DEADLINE * SLOW} meson test --no-rebuild "
             f"--num-processes 1 --timeout-multiplier {4 * SLOW}; "
             "status=$?; cp meson-logs/testlog.junit.xml /polder/unit.xml; exit $status", 2 * HOURS)
    report(machine, "unit", machine.share / "unit.xml")


GROUPS = {  # files of tests/system; what runs machines is skipped there (conftest.py)
    "containers": "test_container.py test_cli_sessions.py test_options.py",
    "images": "test_images.py test_registry.py test_worker_disk.py test_worker_layer.py",
    "network": "test_network_layer.py",
    "surroundings": "test_surroundings.py test_newcomer.py test_api.py test_api_protocol.py test_cli.py",
    "scenarios": "test_scenarios_lifecycle.py test_scenarios_faults.py test_scenarios_crash.py test_scenarios_load.py",
    "crashes": "test_crash_drivers.py",
    "faults": "test_faults_host.py test_attacks.py test_figures.py",
    "allocation": "test_allocation.py test_advise.py test_optimize.py test_placement.py test_queue.py test_queue_real.py",
    "simulator": "test_simulate_placement.py test_simulate_planetlab.py test_simulate_queue.py test_simulate_roadef.py "
                 "test_simulate_vms.py test_formulas.py",
}


def group_files(group):
    """The files of a group; "others" has what no group names."""
    if group != "others":
        return GROUPS[group].split()
    named = {name for files in GROUPS.values() for name in files.split()}
    return sorted(path.name for path in (ROOT / "tests/system").glob("test_*.py") if path.name not in named)


@pytest.mark.parametrize("group", [*GROUPS, "others"])
def test_system_tests(machine, suite, group):
    files = " ".join(str(ROOT / "tests/system" / name) for name in group_files(group))
    environment = (f"POLDER_BUILD={suite} POLDER_BUILD_DIR={suite} POLDER_TEST_NESTED=1 "
                   f"POLDER_TEST_DEADLINE={polderlib.DEADLINE * SLOW}")
    pytest_inside(machine, group, f"-m 'not long' {files}", 4 * HOURS, environment)


# ---- Debian as it comes ----

def in_chroot(root, script, **options):
    """Runs a script in it, in namespaces of its own but for the network, from which packages come."""
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-ec",
             f"mount --bind {root} {root}; cd {root}; mount -t proc proc proc; mount --rbind /dev dev; mount --rbind /sys sys; "
             "pivot_root . mnt; exec chroot . /bin/sh -ec \"$0\"", script]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                          env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                               "DEBIAN_FRONTEND": "noninteractive"}, **options)
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """A tar of Debian's smallest system."""
    root = tmp_path_factory.mktemp("smallest")
    done = subprocess.run([ROOT / "libexec/polder-build-debian", "--suite", "bookworm", "--variant", "container", "--output",
                           root], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    yield root / "rootfs.tar"
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def fresh(smallest, tmp_path_factory):
    """Debian's smallest system, with this host's way to its archive, and the sources of Polder in /polder."""
    root = tmp_path_factory.mktemp("fresh")
    system = root / "system"
    system.mkdir()
    subprocess.run(["tar", "xpf", smallest, "-C", system], check=True)
    for name in ("apt.conf.d", "sources.list.d", "auth.conf.d"):
        shutil.copytree(pathlib.Path("/etc/apt") / name, system / "etc/apt" / name, dirs_exist_ok=True)
    for name in ("apt/auth.conf", "resolv.conf", "hosts"):
        if os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", system / "etc" / name)
    (system / "etc/apt/sources.list").unlink()
    (system / "etc/dpkg/dpkg.cfg.d").mkdir(exist_ok=True)
    (system / "etc/dpkg/dpkg.cfg.d/unsafe").write_text("force-unsafe-io\n")  # thrown away afterwards
    pack(root / "sources.tar", ROOT, "./.git", "./build*")
    (system / "polder").mkdir()
    subprocess.run(["tar", "xf", root / "sources.tar", "-C", system / "polder"], check=True)
    yield system
    shutil.rmtree(root, ignore_errors=True)


def test_fresh_debian_has_all_that_it_takes(fresh):
    """What tools/install-packages installs is enough to build, to run and to start a container: nothing but Debian."""
    assert in_chroot(fresh, "command -v gcc crun meson || true") == ""
    in_chroot(fresh, "cd /polder; tools/install-packages build", timeout=HOURS)
    assert in_chroot(fresh, "cd /polder; tools/install-packages build") == "", "nothing is missing afterwards"
    in_chroot(fresh, "cd /polder; meson setup /build -Dwerror=true -Dtests=false && ninja -C /build && meson install -C /build",
              timeout=2 * HOURS)
    found = in_chroot(fresh, "cd /; set -- --state /var/lib/polder --run /run/polder; unshare --net sh -ec '"
                      "ip link set lo up; polderd \"$@\" 2>/var/log/polderd.log & until polder ls >/dev/null 2>&1; do "
                      "kill -0 $! || { cat /var/log/polderd.log >&2; exit 1; }; sleep 0.2; done; "
                      "polder doctor --output csv || true; polder image build busybox >/dev/null; "
                      "polder run --rm --kind container busybox -- echo from a container; kill $!; wait $!' sh \"$@\"", timeout=HOURS)
    assert "from a container" in found, found
    assert "is not there" not in found, "doctor names a program that the packages did not bring:\n" + found


class FreshHost:
    """A host whose whole system is `root`: with its own network, whose way out is slirp4netns, its own processes and mounts. It
    is pivoted into, since crun refuses a chroot."""

    def __init__(self, root):
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child", "--propagation", "private", "sh", "-ec",
             f"mount --bind {root} {root}; cd {root}; mount -t proc proc proc; mount --rbind /dev dev; mount --rbind /sys sys; "
             "mount -t tmpfs tmpfs run; ip link set lo up; mkdir -p mnt; pivot_root . mnt; exec chroot . /bin/sh -c '"
             "umount -l /mnt; hostname fresh; echo; while :; do sleep 1000; done'"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.holder.stdout.readline()
        children = pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        self.pid = int(children[0])
        self.log = open(root.parent / "slirp.log", "wb")
        self.way_out = subprocess.Popen(["slirp4netns", "--configure", "--mtu=65520", str(self.pid), "tap0"], stdout=self.log,
                                        stderr=subprocess.STDOUT)
        eventually(lambda: "tap0" in pathlib.Path(f"/proc/{self.pid}/net/route").read_text(), what="a way out")

    def run(self, script, seconds=HOURS):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive",
                       "HOME": "/root", "POLDER_RUN": FRESH_RUN, "POLDER_SOCKET": f"{FRESH_RUN}/polder.sock"}
        done = subprocess.run(["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--uts", "--root", "--wd", "/bin/sh", "-ec",
                               script], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, env=environment,
                              check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def close(self):
        with contextlib.suppress(AssertionError):  # what of Polder is on the real host: control groups, loop devices
            self.run(f"if [ -S {FRESH_RUN}/polder.sock ]; then for one in $(polder ls --quiet); do polder rm --force --purge $one; done; "
                     f"polder network reset; kill $(cat {FRESH_RUN}/pid); fi")
        for process in (self.way_out, self.holder):
            process.kill()
            process.wait()
        self.log.close()


# Not the usual place: control groups are named after it, and those of a Polder of this host are not touched.
FRESH_RUN = "/run/polder-fresh"


def test_quickstart_on_fresh_debian(fresh):
    """./quickstart on Debian's smallest system: installs what it needs, builds, and ends with the three kinds side by side; and
    once more, which keeps what is there."""
    if not shutil.which("slirp4netns"):
        pytest.skip("slirp4netns is not installed")
    host, lives = FreshHost(fresh), []
    script = "cat /proc/sys/kernel/random/boot_id; cut -d ' ' -f 22 /proc/1/stat"
    try:
        assert host.run("command -v gcc crun qemu-system-x86_64 meson || true") == ""
        for _ in range(2):
            begun = time.monotonic()
            shown = host.run("cd /polder && ./quickstart")
            print(f"./quickstart on a fresh Debian: {time.monotonic() - begun:.0f} s")
            test_quickstart.check_shown(shown)
            lives.append([host.run(f"polder exec {name} -- sh -c \"{script}\"") for name in test_quickstart.KINDS])
        assert lives[0] == lives[1], "the second run restarted what ran"
        assert host.run("polder fsck --deep").strip() == "clean"
    finally:
        host.close()


# ---- a kernel with graphics ----

class Outward(guestlib.HostDaemon):
    """polderd in this host's own network, where packages come from; its instances have none."""

    def __init__(self):
        super().__init__()
        self.network = False
        self.inside = ["nsenter", f"--target={self.holder.pid}", "--mount"]


def test_generic_kernel():
    """`image build --kernel generic`: it boots, has drivers of real hardware, and a screen."""
    daemon, good = Outward(), False
    try:
        daemon.start()
        daemon.polder("image", "build", "debian:bookworm", "--variant", "disk", "--kernel", "generic", "--name", "generic",
                      timeout=HOURS)
        daemon.polder("run", "--detach", "--name", "generic", "--kind", "vm", "--memory", "768M", "--network", "none",
                      "--graphics", "generic")
        daemon.wait_agent("generic")
        release = daemon.execute("generic", "uname", "-r").strip()
        assert release.endswith("-amd64") and "cloud" not in release, release
        found = daemon.execute("generic", "find", f"/lib/modules/{release}", "-name", "*.ko*")
        modules = {pathlib.Path(line).name.split(".ko")[0] for line in found.split()}
        assert {"bochs", "e1000e", "nvme", "usb-storage"} <= modules
        eventually(lambda: "card0" in daemon.execute("generic", "ls", "/sys/class/drm", status=None), guestlib.BOOT, "a screen")
        good = True
    finally:
        daemon.close(check=good)
