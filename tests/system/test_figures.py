# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds that hold on any machine, however busy: memory, processor time used at rest, processes, and who is asked.

What depends on the machine's speed is measured by ./bench instead."""
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

import guestlib
import polderlib
from polderlib import eventually
from test_scenarios_load import populate

MIB = 1 << 20
SANITIZED = polderlib.build_option("b_sanitize") not in ("none", [], None)
pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers multiply memory")


def processor_time(pid):
    """Nanoseconds that a process and its threads have run."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def used(pid, seconds):
    """Share of one processor that it used, in percent."""
    before, begun = processor_time(pid), time.monotonic()
    time.sleep(seconds)  # a span to measure over, not a wait for something
    return (processor_time(pid) - before) / 1e7 / (time.monotonic() - begun)


def is_at_rest(pid):
    """While nobody asks anything. One span of several is enough: what else a host does only adds to what is counted."""
    return any(used(pid, 6) < 0.1 for _ in range(5))


def settled(daemon):
    """Until it does nothing any more: probes and findings at the start take their time."""
    eventually(lambda: used(daemon.pid, 1) < 0.1, 120, "polderd to come to rest")


def test_idle(make_daemon):
    daemon = make_daemon(log_level="info").start()
    settled(daemon)
    assert daemon.resident() <= 12 * MIB
    assert is_at_rest(daemon.pid)


def test_a_thousand_created(make_daemon):
    daemon = make_daemon(log_level="info").start()
    populate(daemon, 1000, start=False)
    settled(daemon)
    print(f"\nresident with 1,000 created instances: {daemon.resident() / MIB:.1f} MiB")
    assert daemon.resident() <= 40 * MIB
    assert is_at_rest(daemon.pid)


@pytest.fixture(scope="module")
def host(request):
    if os.geteuid() != 0:
        pytest.skip("polderd needs root")
    if guestlib.kernel_directory() is None:
        pytest.skip("no kernel for microVMs: set POLDER_TEST_KERNEL_DIR")
    with guestlib.host_daemon(request, log_level="info") as daemon:
        daemon.polder("image", "build", "busybox")
        for kind in ("container", "microvm"):
            daemon.polder("run", "--detach", "--name", kind, "--kind", kind, "busybox", "--", "sleep", "100000")
        # An empty disk: it stays in its firmware, and says nothing.
        with open(daemon.directory / "blank.raw", "wb") as file:
            file.truncate(MIB)
        daemon.polder("image", "import", daemon.directory / "blank.raw", "--name", "blank")
        daemon.polder("run", "--name", "vm", "--kind", "vm", "--memory", "64M", "--graphics", "blank")
        yield daemon


def programs_of(host):
    """By pid, the programs of all processes of this daemon's host: in its network, or named in words or groups."""
    found = {}
    network = os.readlink(f"/proc/{host.holder.pid}/ns/net")
    uuids = [one["assigned"]["uuid"] for one in host.list()]
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            groups = (entry / "cgroup").read_text()
            if int(entry.name) == host.holder.pid:
                continue
            if os.readlink(entry / "ns/net") == network or str(host.directory) in words or any(uuid in words + groups for uuid in uuids):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:
            continue
    return found


def test_no_process_beside_what_runs(host):
    """Per machine QEMU alone, per container conmon and what it runs; for all of them polderd and dnsmasq."""
    def shown():
        return sorted(programs_of(host).values())
    wanted = sorted(["polderd", "conmon", "sleep", "qemu-system-x86", "qemu-system-x86", "dnsmasq"])
    eventually(lambda: shown() == wanted, what=f"just {wanted} (now {shown()})")


def test_memory_and_rest_with_real_instances(host):
    settled(host)
    assert host.resident() <= 12 * MIB
    assert is_at_rest(host.pid)


def test_a_list_asks_nobody(host, tmp_path):
    """While lists and looks are answered, polderd writes to those who asked and to nobody else."""
    host.request("GET", "/v1/instances")
    settled(host)
    trace = tmp_path / "trace"
    calls = "write,writev,sendto,sendmsg,sendmmsg,connect,openat,open"
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-yy", "-e", f"trace={calls}", "-o", trace, "-p", str(host.pid)],
                              stderr=subprocess.PIPE)
    try:
        eventually(lambda: "TracerPid:\t0" not in pathlib.Path(f"/proc/{host.pid}/status").read_text(), what="strace to attach")
        for path in ("/v1/instances", "/v1/instances?limit=1", "/v1/instances/microvm", "/v1/instances/vm", "/v1/instances/container",
                     "/v1/operations", "/v1/images"):
            host.get(path)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(polderlib.DEADLINE)
    lines = [line for line in trace.read_text().splitlines() if re.match(r"\d+ +\w+\(", line)]
    others = [line for line in lines if str(host.socket) not in line and "eventfd" not in line]
    assert len(lines) > len(others), lines
    assert others == [], others


def test_a_list_while_a_machine_is_deaf(host):
    """A QEMU that does not answer holds up neither lists nor looks nor other instances."""
    pid = host.instance("microvm")["status"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(20):
            states = {one["name"]: one["status"]["state"] for one in host.list()}
            assert states == {"container": "running", "microvm": "running", "vm": "running"}
            assert host.instance("microvm")["status"]["pid"] == pid
        assert host.execute("container", "echo", "here").strip() == "here"
    finally:
        os.kill(pid, signal.SIGCONT)
    host.wait_agent("microvm")
