# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of allocation and of formulas share: containers of busybox, and what the kernel says of them."""
import os
import re

import polderlib
import pytest
from polderlib import group_files, group_value

IDLE = ["sleep", "100000"]


@pytest.fixture(scope="module")
def node():
    """A daemon with the busybox image."""
    daemon = polderlib.Daemon(fake=True)
    daemon.start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(node):
    yield node
    for instance in node.list():
        node.delete(instance["name"], purge=True)


def container(daemon, name, command=IDLE, **spec):
    daemon.create(name, start=True, kind="container", image="busybox", network="none", command=command, stop_timeout="0s", **spec)
    return daemon.instance(name)["assigned"]["uuid"]


def change(daemon, name, **spec):
    daemon.change("PATCH", f"/v1/instances/{name}", {"spec": spec})


def allocation(daemon, name):
    return daemon.get(f"/v1/instances/{name}/allocation")


def weight_in_kernel(uuid):
    return int(group_value(uuid, "cpu.weight", "cpu.shares"))


def kernel_value(weight):
    """What a weight is in the kernel's file: a weight of 100 is 1024 shares of version 1."""
    version2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return weight if version2 else (weight * 1024 + 50) // 100


def cpu_seconds(uuid):
    files = group_files(uuid)
    if "cpuacct.usage" in files:
        return int(files["cpuacct.usage"].read_text()) / 1e9
    return int(re.search(r"usage_usec (\d+)", files["cpu.stat"].read_text()).group(1)) / 1e6


def metric(daemon, name):
    text = daemon.expect(200, "GET", "/metrics").body.decode()
    return float(re.search(rf"^{name} ([0-9.]+)$", text, re.M).group(1))


def priority_share(priority):
    """P: 100 at priority 0, 1000 at 100, and as far below for the opposite."""
    factor = 100 + 9 * min(abs(priority), 100)
    return 10000 // factor if priority < 0 else factor
