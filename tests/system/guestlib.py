# SPDX-License-Identifier: GPL-2.0-or-later
"""For tests with real machines: a daemon that is alone on a host of its own, and Debian disks that are made once.

POLDER_TEST_CACHE names a directory that is kept between runs (default: /var/cache/polder-check)."""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import polderlib
from polderlib import ROOT, eventually

CACHE = pathlib.Path(os.environ.get("POLDER_TEST_CACHE", "/var/cache/polder-check"))
BOOT = 300  # seconds for an emulated Debian on a busy machine

# What polderd needs at run time on a host that only runs containers, and what its tests need.
RUNTIME = ("crun conmon busybox-static dnsmasq-base nftables procps e2fsprogs erofs-utils libarchive-tools libjson-c5 libsqlite3-0 "
           "libarchive13 libnl-3-200 libnl-route-3-200 libnftables1 libseccomp2 libcap-ng0 libisofs6 libwslay1 "
           "libhttp-parser2.9 libsmartcols1 libnettle8 libkmod2").split()
TESTING = "python3-pytest meson ninja-build libcmocka0".split()


def debian_disk(kernel="cloud", packages=()):
    """Path of a bootable Debian disk with these packages; built at the first use and after a change of the builder."""
    builder = ROOT / "libexec/polder-build-debian"
    key = hashlib.sha256(builder.read_bytes() + json.dumps([kernel, sorted(packages)]).encode()).hexdigest()[:16]
    target = CACHE / "debian" / f"{kernel}-{key}.qcow2"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                command = [builder, "--suite", "bookworm", "--variant", "disk", "--kernel", kernel, "--output", directory]
                done = subprocess.run(command + (["--include", ",".join(packages)] if packages else []), text=True,
                                      stdin=subprocess.DEVNULL, capture_output=True, check=False)
                assert done.returncode == 0, done.stderr[-3000:]
                (pathlib.Path(directory) / "disk.qcow2").rename(target)
    return target


def kernel_directory():
    """A directory with boot/vmlinuz-VERSION and lib/modules/VERSION for microVMs, or None: the host's own."""
    named = os.environ.get("POLDER_TEST_KERNEL_DIR")
    if named:
        return pathlib.Path(named)
    kept = sorted(path for path in (CACHE / "kernels").glob("*") if path.is_dir())
    return kept[-1] if kept else None


class HostDaemon(polderlib.Daemon):
    """polderd with its drivers and its network, in a mount and a network namespace that outlive it, as a host's do.

    What is in `share` may be mounted into instances."""

    def __init__(self, **options):
        super().__init__(fake=False, network=True, **options)
        self.share = self.directory / "share"
        self.share.mkdir()
        self.arguments += ["--mount-roots", str(self.share)]
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c",
             "ip link set lo up; echo; exec sleep infinity"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.holder.stdout.readline()
        self.inside = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]
        kernel = kernel_directory()
        if kernel:
            (self.state / "kernels").mkdir(parents=True)
            (self.state / "kernels" / kernel.name).symlink_to(kernel)

    def command(self):
        return [*self.inside, *super().command()]

    # ---- the command ----

    def polder(self, *arguments, status=0, timeout=BOOT, **options):
        """Runs the command; returns the finished process with text output. status None: any."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run([polderlib.build_directory() / "src/cli/polder", *map(str, arguments)], capture_output=True,
                              text=True, errors="replace", timeout=timeout, env=self.command_environment(), check=False, **options)
        if status is not None:
            assert done.returncode == status, f"polder {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def command_environment(self):
        return {**os.environ, "POLDER_SOCKET": str(self.socket), "NO_COLOR": "1", "LC_ALL": "C.UTF-8",
                "ASAN_OPTIONS": "detect_leaks=0"}

    def execute(self, name, *command, status=0, **options):
        """Runs a command in an instance; returns its standard output."""
        return self.polder("exec", name, "--", *command, status=status, **options).stdout

    def wait_agent(self, name):
        """Until commands can be run in a machine that boots."""
        eventually(lambda: self.polder("exec", name, "--", "true", status=None).returncode == 0, BOOT, f"{name}'s guest agent")

    def host(self, *command, **options):
        """Runs a command in the daemon's namespaces, as somebody on that host would."""
        options.setdefault("check", True)
        return subprocess.run([*self.inside, *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=60, **options)

    # ---- the end ----

    def leftovers(self):
        found = super().leftovers()
        for line in pathlib.Path(f"/proc/{self.holder.pid}/mounts").read_text().splitlines():
            if f"{self.directory}/" in line:
                found.append(f"mount {line}")
        return [line for line in found if "dnsmasq" not in line]  # it stays until the network is reset

    def close(self, check=True):
        try:
            if self.is_alive():
                with contextlib.suppress(OSError):
                    self.remove_all()
            super().close(check)
        finally:
            self.holder.kill()
            self.holder.wait()
            self.holder.stdout.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def remove_all(self):
        for instance in self.list("?deleted=true"):
            identifier = instance["assigned"]["uuid"]
            self.request("DELETE", f"/v1/instances/{identifier}?force=true&purge=true&wait=60s")
        self.request("POST", "/v1/network/reset", {})


@contextlib.contextmanager
def host_daemon(request, **options):
    """For a module's fixture: a started HostDaemon, whose log is shown if a test of the module failed."""
    daemon = HostDaemon(**options)
    before = request.session.testsfailed
    try:
        yield daemon.start()
    finally:
        failed = request.session.testsfailed > before
        if failed:
            print(f"--- {daemon.log_path} ends with:\n{daemon.log()[-12000:]}")
        daemon.close(check=not failed)


class Counter:
    """A number that something inside a guest writes to a file again and again."""

    SCRIPT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.1; done"

    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name

    def value(self):
        text = self.daemon.polder("exec", self.name, "--", "cat", "/tmp/count", status=None).stdout.strip()
        return int(text) if text.isdigit() else 0

    def wait_above(self, number, deadline=120):
        def above():
            value = self.value()
            return value if value > number else None
        return eventually(above, deadline, f"{self.name} to count above {number}")


def wall_clock():
    return time.time()
