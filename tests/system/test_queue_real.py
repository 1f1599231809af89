# SPDX-License-Identifier: GPL-2.0-or-later
"""Real batch jobs under every policy: each counts, and what it counted never goes back nor is left out, however often it
gave way to others. Processors are scarce for containers, which are paused; memory for microVMs, which go to disk."""
import os
import pathlib
import subprocess

import pytest

import guestlib
import polderlib
from polderlib import eventually

CPUS = os.cpu_count()
POLICIES = ["polder", "fcfs", "sjf", "sjf:demand", "saf", "srtf", "rr", "priority", "priority:preemptive", "dynamic", "wfp3",
            "unicep", "f1", "f2", "f3", "f4", "xf"]
QUICK = ["polder", "srtf"]
PREEMPTIVE = {"srtf", "rr", "priority:preemptive"}


def count_to(number, pause):
    """Prints 1 to number, a line each."""
    return ["sh", "-c", f"i=0; while [ $i -lt {number} ]; do i=$((i+1)); echo $i; sleep {pause}; done"]


def counted(daemon, name):
    done = subprocess.run([polderlib.build_directory() / "src/cli/polder", "--socket", daemon.socket, "logs", name],
                          capture_output=True, text=True, check=False, timeout=polderlib.DEADLINE, stdin=subprocess.DEVNULL)
    return [int(line) for line in done.stdout.split() if line.isdigit()]


@pytest.fixture(scope="module")
def host():
    """Containers may take the node's real processors, and microVMs have room for one at a time."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    daemon = polderlib.Daemon(fake=False, network=False, arguments=[
        "--overcommit_cpu_container", "100", "--overcommit_memory_container", "100000", "--queue_residency", "0",
        "--memory_reserve", str(memory - (400 << 20)), "--queue_parameters", "rr.quantum=1"])
    kernel = guestlib.kernel_directory()
    if kernel:
        (daemon.state / "kernels").mkdir(parents=True)
        (daemon.state / "kernels" / pathlib.Path(kernel).name).symlink_to(kernel)
    daemon.start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    yield daemon
    daemon.close()


def begin(daemon, name, **spec):
    daemon.create(name, image="busybox", network="none", **spec)
    daemon.begin(name, "start")


def run_batch(daemon, policy, number):
    """Three jobs that each want all processors; each later one comes before the earlier ones under a preemptive policy."""
    reply = daemon.request("PATCH", "/v1/node", {"queue": {"policy": policy, "backfill": "none"}})
    assert reply.status == 200, reply
    names = [f"{policy.replace(':', '-')}-{letter}" for letter in "abc"]
    for position, name in enumerate(names):
        begin(daemon, name, kind="container", cpus=CPUS, memory="32M", duration=f"{1000 // 10 ** position}s",
              priority=position * 10, command=count_to(number, 0.1))
        if position == 0:
            eventually(lambda: len(counted(daemon, names[0])) >= 3, what="the first one counts")
    for name in names:
        daemon.wait_state(name, "stopped", "failed", deadline=4 * polderlib.DEADLINE)
        assert counted(daemon, name) == list(range(1, number + 1)), (policy, name)
        assert daemon.instance(name)["status"]["exit_code"] == 0
    gave_way = sum(daemon.instance(name)["status"]["preemptions"] for name in names)
    assert (gave_way > 0) == (policy in PREEMPTIVE), (policy, gave_way)
    for name in names:
        daemon.delete(name, purge=True)


@pytest.mark.parametrize("policy", QUICK)
def test_containers_lose_no_work(host, policy):
    run_batch(host, policy, 25)


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_containers_lose_no_work_under_every_policy(host, policy):
    run_batch(host, policy, 40)


@pytest.mark.long
def test_the_alarm_rings(host):
    """Under `dynamic` one that was overtaken and has waited beyond the alarm goes first; what gave way goes on with its count."""
    reply = host.request("PATCH", "/v1/node", {"queue": {"policy": "dynamic", "backfill": "none", "parameters": {"alarm": "15"}}})
    assert reply.status == 200, reply
    spec = {"kind": "container", "cpus": CPUS, "memory": "32M", "duration": "100s"}
    begin(host, "alarm-first", command=["sleep", "1000"], **spec)
    host.wait_state("alarm-first", "running")
    begin(host, "alarm-low", command=count_to(20, 0.1), **spec)
    begin(host, "alarm-high", command=count_to(400, 0.1), priority=50, **spec)
    host.wait_state("alarm-high", "queued")
    host.delete("alarm-first", purge=True)
    host.wait_state("alarm-high", "running")
    for name, number in (("alarm-low", 20), ("alarm-high", 400)):
        host.wait_state(name, "stopped", "failed", deadline=4 * polderlib.DEADLINE)
        assert counted(host, name) == list(range(1, number + 1)), name
    assert host.instance("alarm-high")["status"]["preemptions"] >= 1
    low, high = (host.instance(name)["status"]["finished"] for name in ("alarm-low", "alarm-high"))
    assert low < high
    for name in ("alarm-low", "alarm-high"):
        host.delete(name, purge=True)
    reply = host.request("PATCH", "/v1/node", {"queue": {"policy": "polder", "parameters": {"alarm": "225000"}}})
    assert reply.status == 200, reply


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_microvms_lose_no_work(host, policy):
    """Memory is scarce: who gives way goes to disk, and comes back with its count; under the other policies the second waits."""
    reply = host.request("PATCH", "/v1/node", {"queue": {"policy": policy, "backfill": "none",
                                                         "parameters": {"rr.quantum": "20"}}})
    assert reply.status == 200, reply
    names = [f"vm-{policy.replace(':', '-')}-{letter}" for letter in "ab"]
    begin(host, names[0], kind="microvm", memory="256M", duration="1h", priority=0, command=count_to(60, 1))
    eventually(lambda: len(counted(host, names[0])) >= 3, guestlib.BOOT, "the first one counts")
    begin(host, names[1], kind="microvm", memory="256M", duration="10s", priority=10, command=count_to(20, 1))
    for name, number in zip(names, (60, 20)):
        host.wait_state(name, "stopped", "failed", deadline=guestlib.BOOT)
        assert counted(host, name) == list(range(1, number + 1)), name
    assert (host.instance(names[0])["status"]["preemptions"] >= 1) == (policy in PREEMPTIVE)
    for name in names:
        host.delete(name, purge=True)
