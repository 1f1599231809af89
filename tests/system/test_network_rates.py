# SPDX-License-Identifier: GPL-2.0-or-later
"""What an instance may take in and send by network: the option, the kernel's own words for it, and the bytes that pass.

Bytes are only ever found to be too many: how few pass says nothing on a busy machine."""
import json
import os
import subprocess

import pytest

import guestlib
import polderlib

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
MIB = 1 << 20
SENT = 3 * MIB
# Counts what comes, and sends as much as is measured.
SERVE = ["sh", "-c", f"nc -ll -p 7000 -e wc -c & exec nc -ll -p 7001 -e head -c {SENT} /dev/zero"]


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        tried = daemon.polder("run", "--rm", "--network-in", "1M", "busybox", "--", "true", status=None)
        if "token bucket" in tried.stderr:
            pytest.skip(tried.stderr)
        yield daemon


@pytest.fixture
def start(host):
    """start(kind, name, options…): one that serves, removed at the end."""
    made = []

    def run(kind, name, *options):
        made.append(name)
        host.polder("run", "--detach", "--kind", kind, "--name", name, *options, "busybox", "--", *SERVE)

    yield run
    for name in made:
        host.polder("rm", "--force", "--purge", name, status=None)


def port_of(host, name):
    return "pl" + host.instance(name)["assigned"]["uuid"].replace("-", "")[:10]


def in_force(host, name, port=None):
    """(bytes a second towards it, from it) as the kernel says; None is no limit."""
    port = port or port_of(host, name)
    queues = json.loads(host.host("tc", "-j", "qdisc", "show", "dev", port).stdout)
    table = json.loads(host.host("nft", "-j", "list", "table", "bridge", "polder").stdout)["nftables"]
    units = {"bytes": 1, "kbytes": 1 << 10, "mbytes": MIB, "gbytes": 1 << 30}
    inward = [queue["options"]["rate"] for queue in queues if queue["kind"] == "tbf"]
    outward = [item["limit"]["rate"] * units[item["limit"]["rate_unit"]] for item in table
               if item.get("limit", {}).get("name") == port]
    return (inward or [None])[0], (outward or [None])[0]


# Run in the host's network: sends or takes in bytes, says how many arrived and how long that took.
CLIENT = """
import socket, sys, time
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(600):
    try:
        connection = socket.create_connection((address, port), 5)
        break
    except OSError:
        time.sleep(0.1)
connection.settimeout(300)
start = time.monotonic()
if size:
    connection.sendall(bytes(size))
    connection.shutdown(socket.SHUT_WR)
    got = int(connection.makefile().read())
else:
    got = 0
    while True:
        data = connection.recv(65536)
        if not data:
            break
        got += len(data)
print(got, time.monotonic() - start)
"""


def seconds(host, name, inward):
    """How long SENT bytes take towards an instance, or from it."""
    address = host.instance(name)["assigned"]["address"]
    done = subprocess.run([*host.inside, "/usr/bin/python3", "-c", CLIENT, address, "7000" if inward else "7001",
                           str(SENT if inward else 0)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done
    got, took = done.stdout.split()
    assert int(got) == SENT, done
    return float(took)


@pytest.mark.parametrize("kind", ["container", pytest.param("microvm", marks=pytest.mark.long)])
def test_rates_hold_change_and_are_lifted(host, start, kind):
    start(kind, "slow", "--network-in", "1M", "--network-out", "1M")
    assert in_force(host, "slow") == (MIB, MIB)
    # Three seconds' worth, less what may come at once: 64 KiB, and what is sent 1.25 MiB.
    assert seconds(host, "slow", inward=True) > 2 and seconds(host, "slow", inward=False) > 1
    pid = host.instance("slow")["status"]["pid"]
    host.polder("set", "slow", "--network-in", "2M", "--network-out", "64K")
    assert in_force(host, "slow") == (2 * MIB, 64 << 10)
    assert seconds(host, "slow", inward=True) > 1
    host.restart(kill=True)
    assert in_force(host, "slow") == (2 * MIB, 64 << 10), "they outlive the daemon"
    spec = host.instance("slow")["spec"]
    assert (spec["network_in"], spec["network_out"]) == (2 * MIB, 64 << 10)
    told = [line for line in host.polder("allocation", "slow").stdout.splitlines() if line.startswith("Rates")]
    assert [line.split(maxsplit=1)[1] for line in told] == [
        "disk: read no limit, write no limit; network: in 2MiB/s, out 64KiB/s"], told
    host.polder("set", "slow", "--network-out", "0")
    assert in_force(host, "slow") == (2 * MIB, None)
    host.polder("set", "slow", "--network-in", "0")
    assert in_force(host, "slow") == (None, None)
    seconds(host, "slow", inward=True), seconds(host, "slow", inward=False)
    host.polder("set", "slow", "--network-out", "3M")
    assert in_force(host, "slow") == (None, 3 * MIB) and host.instance("slow")["status"]["pid"] == pid
    # Of one that does not run: from its next start on.
    host.polder("stop", "--force", "slow")
    host.polder("set", "slow", "--network-in", "5M")
    host.polder("start", "slow")
    assert in_force(host, "slow") == (5 * MIB, 3 * MIB)
    assert "nftables refused" not in host.log()


def test_what_is_refused_leaves_the_rates(host, start):
    """A change is one: its rates come back when another part of it is refused, with the machine as it was."""
    start("microvm", "whole", "--network-in", "1M")
    before = host.instance("whole")["spec"]
    done = host.polder("set", "whole", "--network-in", "2M", "--network-out", "2M", "--cpus", "3", status=None)
    assert done.returncode != 0 and "CPUs" in done.stderr, done
    assert in_force(host, "whole") == (MIB, None) and host.instance("whole")["spec"] == before
    assert seconds(host, "whole", inward=True) > 2
    host.polder("suspend", "whole")
    host.polder("set", "whole", "--network-out", "2M")
    host.polder("start", "whole")
    assert in_force(host, "whole") == (MIB, 2 * MIB), "a resumed one has what was asked meanwhile"


def test_rates_of_a_vm(host):
    """No guest is needed: its port is the host's."""
    host.may_run("vm")
    host.polder("image", "import", guestlib.ticker(host.directory), "--name", "ticker")
    host.polder("run", "--detach", "--kind", "vm", "--name", "big", "--memory", "64M", "--network-in", "1M", "--network-out", "2M",
                "ticker")
    try:
        assert in_force(host, "big") == (MIB, 2 * MIB)
        host.polder("set", "big", "--network-in", "3M", "--network-out", "0")
        assert in_force(host, "big") == (3 * MIB, None)
    finally:
        host.polder("rm", "--force", "--purge", "big")


def test_change_cut_off_before_it_reached_the_kernel(host, start):
    """The record says what is wished; the next start brings the port to it."""
    if not polderlib.build_option("failpoints"):
        pytest.skip("fail points are not compiled in")
    start("container", "cut", "--network-in", "1M", "--network-out", "1M")
    port = port_of(host, "cut")
    host.stop()
    host.environment["POLDER_FAILPOINTS"] = "change-after-commit=kill@1"
    try:
        host.start()
        host.polder("set", "cut", "--network-in", "2M", "--network-out", "0", status=None)
        host.wait_gone()
        assert in_force(host, "cut", port) == (MIB, MIB), "it did not get there"
    finally:
        del host.environment["POLDER_FAILPOINTS"]
        host.start()
    assert in_force(host, "cut") == (2 * MIB, None)


def test_refused_by_name(host):
    def refused(*words, field):
        done = host.polder("run", "--kind", "container", *words, "busybox", status=None)
        assert done.returncode == 125 and field in done.stderr, done

    refused("--network", "none", "--network-in", "1M", field="network_in")
    refused("--network", "none", "--network-out", "1M", field="network_out")
    for value in ("1", "4095", "13G", "-1", "fast", "1.5X"):
        refused("--network-in", value, field="network_in")
        refused("--network-out", value, field="network_out")
    host.polder("create", "--kind", "container", "--name", "still", "--network", "none", "--network-in", "0", "busybox")
    try:
        done = host.polder("set", "still", "--network-out", "1M", status=None)
        assert done.returncode != 0 and "network_out" in done.stderr, done
        host.polder("set", "still", "--network", "default", "--network-out", "1M")
        assert host.instance("still")["spec"]["network_out"] == MIB
    finally:
        host.polder("rm", "--force", "--purge", "still")
    assert host.list() == []
