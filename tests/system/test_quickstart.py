# SPDX-License-Identifier: GPL-2.0-or-later
"""./quickstart as a new user types it, on a copy of the tree and in a network of its own with a way out, twice."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

import polderlib
from polderlib import ROOT

pytestmark = pytest.mark.long
PATIENCE = 2400  # builds Polder and a Debian disk; machines under test are slow and shared
KINDS = {"box": "container", "micro": "microvm", "machine": "vm"}


class Host:
    """Namespaces of network and mounts; what is sent out goes through slirp4netns, so nothing outside changes."""

    def __init__(self, directory):
        self.directory = directory
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
                                        "ip link set lo up; echo; exec sleep 100000"], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.way_out = subprocess.Popen(["slirp4netns", "--configure", "--mtu=65520", str(self.holder.pid), "tap0"],
                                        stdout=open(directory / "slirp.log", "wb"), stderr=subprocess.STDOUT)
        polderlib.eventually(lambda: b"tap0" in self.run("ip", "-br", "address", "show", "up").stdout, what="a way out")
        self.environment = dict(os.environ, POLDER_PREFIX=str(directory / "usr"), POLDER_STATE=str(directory / "state"),
                                POLDER_RUN=str(directory / "run"), POLDER_LOG=str(directory / "quickstart.log"),
                                POLDER_SOCKET=str(directory / "run/polder.sock"))

    def run(self, *words, timeout=polderlib.DEADLINE * 4):
        return subprocess.run(["nsenter", "-t", str(self.holder.pid), "-n", "-m", *words], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=timeout, env=getattr(self, "environment", None))

    def polder(self, *words):
        done = self.run(str(self.directory / "usr/bin/polder"), *words)
        assert done.returncode == 0, (words, done)
        return done.stdout.decode()

    def quickstart(self):
        done = self.run(str(self.directory / "tree/quickstart"), timeout=PATIENCE)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    @property
    def daemon(self):
        return int((self.directory / "run/pid").read_text())

    def close(self):
        if (self.directory / "run/polder.sock").exists():
            for name in self.polder("ls", "--quiet").split():
                self.polder("rm", "--force", "--purge", name)
            self.polder("network", "reset")
            os.kill(self.daemon, signal.SIGTERM)
        for process in (self.way_out, self.holder):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("quickstart needs root")
    if not shutil.which("slirp4netns"):
        pytest.skip("slirp4netns is not installed")
    directory = pathlib.Path(subprocess.run(["mktemp", "-d", "/tmp/pq-XXXXXX"], capture_output=True, text=True,
                                            check=True).stdout.strip())
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout
    (directory / "tree").mkdir()
    subprocess.run(["cpio", "-0pdm", "--quiet", str(directory / "tree")], input=names, cwd=ROOT, check=True)
    host = Host(directory)
    yield host
    host.close()
    shutil.rmtree(directory, ignore_errors=True)


def boots(host):
    """What tells one life of an instance from the next: its kernel's, and its first process's start."""
    script = "cat /proc/sys/kernel/random/boot_id; cut -d ' ' -f 22 /proc/1/stat"
    return {name: host.polder("exec", name, "--", "sh", "-c", script) for name in KINDS}


def check_shown(shown):
    steps = re.findall(r"^\[(\d)/9\] (.*) … done \(\d+s\)$", shown, re.M)
    assert [number for number, _ in steps] == list("123456789"), shown
    table = shown[shown.index("$ polder ls\n"):]
    for column in ("NAME", "KIND", "STATE", "NODE", "IP", "CPU", "MEMORY", "UPTIME"):
        assert column in table.splitlines()[1].split(), table
    for name, kind in KINDS.items():
        assert re.search(rf"^{name} +{kind} +running +\S+ +\d+\.\d+\.\d+\.\d+ ", table, re.M), table
        assert re.search(rf"^\$ polder exec {name} -- uname -sr\nLinux \d", table, re.M), table
    assert re.search(r"^Ready after \d+ s\. Next, try:$", table, re.M)
    assert len(re.findall(r"^  polder ", table, re.M)) >= 5


def test_twice_and_after_the_daemon_died(host):
    check_shown(host.quickstart())
    listed = {row["name"]: row for row in json.loads(host.polder("ls", "-o", "json"))}
    assert {name: row["assigned"]["kind"] for name, row in listed.items()} == KINDS
    lives = boots(host)

    check_shown(host.quickstart())
    again = {row["name"]: row for row in json.loads(host.polder("ls", "-o", "json"))}
    assert {name: row["assigned"]["uuid"] for name, row in again.items()} == \
        {name: row["assigned"]["uuid"] for name, row in listed.items()}
    assert boots(host) == lives, "the second run restarted what ran"

    os.kill(host.daemon, signal.SIGKILL)
    host.polder("version", "--help")
    check_shown(host.quickstart())
    assert boots(host) == lives, "what ran did not outlive the daemon"
    assert host.polder("fsck", "--deep").strip() == "clean"


def test_what_it_says_to_try_works(host):
    assert "Linux" in host.polder("run", "--rm", "busybox", "--", "uname", "-a")
    assert "Linux" in host.polder("run", "--rm", "--kind", "microvm", "busybox", "--", "uname", "-a")
    host.polder("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "--", "httpd", "-f", "-h", "/etc")
    polderlib.eventually(lambda: host.run("curl", "-sf", "http://127.0.0.1:8080/hostname").stdout.strip() == b"web",
                         what="the published port")
    host.polder("suspend", "micro")
    assert json.loads(host.polder("show", "micro", "-o", "json"))["status"]["state"] == "suspended"
    host.polder("start", "micro")
    assert "Linux" in host.polder("exec", "micro", "--", "uname")
    assert "kvm" in host.polder("doctor")
