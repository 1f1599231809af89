# SPDX-License-Identifier: GPL-2.0-or-later
"""What instances get of processors and memory: worked out by hand here, and found in the kernel. Each formula by itself is
in test_formulas.py."""
import os
import re
import time

import pytest

import guestlib
from allocationlib import IDLE, allocation, change, container, cpu_seconds, kernel_value, metric, weight_in_kernel
from allocationlib import daemon, node  # noqa: F401 (fixtures)
from polderlib import eventually, group_value

BUSY = ["sh", "-c", "while :; do :; done"]
LAST = max(os.sched_getaffinity(0))
FIRST = min(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")


# ---- floors ----------------------------------------------------------------------------------------------------------

def test_floor_by_hand_and_in_the_kernel(daemon):
    """Water filling over one processor: equal scores, a floor of 0.8: grants 0.2 and 0.8, so the level is 0.2 of the resource
    for each unit of score, and the floor needs 0.8 / 0.2 = 4 times the weight."""
    plain = container(daemon, "plain", cpus=1, cpuset=str(FIRST), weight_beta=0)
    assert weight_in_kernel(plain) == kernel_value(100)
    floored = container(daemon, "floored", cpus=1, cpuset=str(FIRST), allocation="hybrid", cpu_reservation=0.8, weight_beta=0)
    eventually(lambda: weight_in_kernel(floored) == kernel_value(400), what="the lifted weight")
    told, other = allocation(daemon, "floored"), allocation(daemon, "plain")
    assert told["pool"] == {"processors": str(FIRST), "capacity_milli": 1000, "instances": 2}
    assert told["cpu"]["granted_milli"] == 800 and other["cpu"]["granted_milli"] == 200
    assert told["cpu"]["lifted_by_floor"] and not other["cpu"]["lifted_by_floor"]
    assert told["cpu"]["contended"] and told["cpu"]["share_ppm"] == 800000
    assert weight_in_kernel(plain) == kernel_value(100)
    change(daemon, "floored", cpu_reservation=0.5)  # the floor that equal shares keep anyway
    eventually(lambda: weight_in_kernel(floored) == kernel_value(100), what="the plain weight")


# ---- modes --------------------------------------------------------------------------------------------------------------

def test_hybrid_floor_of_memory(daemon):
    uuid = container(daemon, "kept", memory="64M", allocation="hybrid", memory_reservation="32M")
    assert int(group_value(uuid, "memory.min", "memory.soft_limit_in_bytes")) == 32 << 20
    assert int(group_value(uuid, "memory.max", "memory.limit_in_bytes")) == 64 << 20
    change(daemon, "kept", memory_reservation="48M")
    assert int(group_value(uuid, "memory.min", "memory.soft_limit_in_bytes")) == 48 << 20
    plain = container(daemon, "plain", memory="64M")
    assert int(group_value(plain, "memory.min", "memory.soft_limit_in_bytes")) == 0
    told = allocation(daemon, "kept")["memory"]
    assert (told["floor"], told["requested"], told["limit"]) == (48 << 20, 64 << 20, 64 << 20)


def test_limits_above_the_request(daemon):
    uuid = container(daemon, "bursts", cpus=0.5, cpu_limit=1.5, memory="64M", memory_limit="96M")
    quota = group_value(uuid, "cpu.max", "cpu.cfs_quota_us").split()
    assert int(quota[0]) == 150000
    assert int(group_value(uuid, "memory.max", "memory.limit_in_bytes")) == 96 << 20
    change(daemon, "bursts", cpu_limit=0, memory_limit=0)
    assert int(group_value(uuid, "cpu.max", "cpu.cfs_quota_us").split()[0]) == 50000
    assert int(group_value(uuid, "memory.max", "memory.limit_in_bytes")) == 64 << 20
    told = allocation(daemon, "bursts")["cpu"]
    assert told["limit_milli"] == told["requested_milli"] == 500


def test_cpuset_is_where_it_runs(daemon):
    uuid = container(daemon, "there", cpuset=str(LAST))
    assert group_value(uuid, "cpuset.cpus") == str(LAST)
    change(daemon, "there", cpuset=str(FIRST))
    assert group_value(uuid, "cpuset.cpus") == str(FIRST)
    refused = daemon.problem(422, "POST", "/v1/instances?dry_run=true", {"name": "nowhere", "spec": {
        "kind": "container", "image": "busybox", "cpuset": "1000", "command": IDLE}})
    assert refused["code"] == "impossible"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) != 2, reason="worked out for two processors")
def test_fixed_owns_its_processor(daemon):
    """The fixed one gets the last processor; everybody else, who runs or comes, is kept off it until it ends."""
    before = container(daemon, "before")
    owner = container(daemon, "owner", cpus=1, memory="64M", allocation="fixed")
    assert group_value(owner, "cpuset.cpus") == str(LAST)
    assert int(group_value(owner, "memory.min", "memory.soft_limit_in_bytes")) == 64 << 20
    eventually(lambda: group_value(before, "cpuset.cpus") == str(FIRST), what="making way")
    after = container(daemon, "after")
    assert group_value(after, "cpuset.cpus") == str(FIRST)
    assert allocation(daemon, "after")["pool"]["capacity_milli"] == 1000
    assert allocation(daemon, "owner")["pool"] == {"processors": str(LAST), "capacity_milli": 1000, "instances": 1}

    spec = {"kind": "container", "image": "busybox", "network": "none", "command": IDLE, "allocation": "fixed"}
    daemon.create("second", **spec)
    daemon.expect(202, "POST", "/v1/instances/second/start", {})
    eventually(lambda: "to be guaranteed to it" in daemon.instance("second")["status"].get("message", ""), what="its reason")
    assert daemon.state_of("second") == "queued" and "owner" in daemon.instance("second")["status"]["message"]
    assert "--allocation dynamic" in daemon.get("/v1/instances/second/why")["if"]["sentence"]
    reply = daemon.request("POST", "/v1/instances?start=true&wait=60s", {"name": "intruder", "spec": {
        "kind": "container", "image": "busybox", "network": "none", "command": IDLE, "cpuset": str(LAST)}})
    assert reply.status == 507 and reply.code == "no-room", reply
    refused = daemon.problem(422, "POST", "/v1/instances", {"name": "third", "spec": spec | {"cpus": 2}})
    assert refused["code"] == "impossible"

    daemon.restart(kill=True)  # a new daemon finds whose it is
    daemon.wait_state("owner", "running")
    eventually(lambda: allocation(daemon, "after")["pool"]["capacity_milli"] == 1000, what="the pool")
    assert group_value(owner, "cpuset.cpus") == str(LAST)
    daemon.delete("owner", purge=True)
    everything = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if LAST - FIRST != 1 else f"{FIRST}-{LAST}"
    daemon.wait_state("second", "running")
    assert group_value(daemon.instance("second")["assigned"]["uuid"], "cpuset.cpus") == str(LAST)
    daemon.delete("second", purge=True)
    eventually(lambda: group_value(before, "cpuset.cpus") in ("", everything), what="the way back")
    eventually(lambda: group_value(after, "cpuset.cpus") in ("", everything), what="the way back")


def test_guarantees_never_exceed_what_there_is(daemon):
    memory = daemon.get("/v1/node")["memory"]
    there = memory["physical"] - memory["reserved"]
    part = there * 6 // 10 >> 20 << 20
    spec = {"kind": "fake", "memory": part, "allocation": "hybrid", "memory_reservation": part}
    daemon.create("first", start=True, **spec)
    daemon.create("second", **spec)
    daemon.expect(202, "POST", "/v1/instances/second/start", {})
    eventually(lambda: "to be guaranteed to it" in daemon.instance("second")["status"].get("message", ""), what="its reason")
    daemon.act("second", "stop")
    daemon.create("third", start=True, kind="fake", memory=part, allocation="hybrid", memory_reservation="64M")
    reply = daemon.request("PATCH", "/v1/instances/third?wait=60s", {"spec": {"memory_reservation": part}})
    assert reply.status == 507 and reply.code == "no-room", reply
    assert daemon.instance("third")["spec"]["memory_reservation"] == 64 << 20
    change(daemon, "third", memory_reservation="128M")


def usage(uuid):
    return int(group_value(uuid, "memory.current", "memory.usage_in_bytes"))


# ---- memory that is short ---------------------------------------------------------------------------------------------

def all_but(size):
    """For --memory-reserve: what the host has, but `size` bytes, which is less than anything that runs here takes: memory is short."""
    total = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo", encoding="ascii").read()).group(1)) << 10
    return str(total - size)


def need(told):
    """What nobody is brought below."""
    return min(max(told["used"] + told["used"] // 8 + (32 << 20), told["floor"]), told["limit"])


@pytest.mark.slow
@pytest.mark.parametrize("kind,memory,floor", [("microvm", 384, 240), pytest.param("vm", 512, 384, marks=pytest.mark.long)])
def test_balloon_moves_by_itself(request, kind, memory, floor):
    """A guest gives memory back while the host is short of it, no more than it can do without and never below its floor, and gets
    it back; what the guest sees is what counts. The daemon is restarted to change what the host keeps for itself."""
    with guestlib.host_daemon(request, arguments=[f"--overcommit-memory-{kind}", "400"]) as daemon:
        daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
        arguments = list(daemon.arguments)

        def total():  # 0 while its agent has not found the new daemon yet
            told = re.search(r"MemTotal:\s+(\d+)", daemon.polder("exec", "m", "--", "cat", "/proc/meminfo", status=None).stdout)
            return int(told.group(1)) << 10 if told else 0

        def sees(size):
            return eventually(lambda: abs(total() - size) <= 12 << 20, 180, f"{size >> 20} MiB (now {total() >> 20}: "
                              f"{allocation(daemon, 'm')['memory']})")

        if kind == "vm":
            daemon.polder("image", "import", guestlib.debian_disk(), "--name", "debian")
        what = ["debian"] if kind == "vm" else ["busybox", "--", *IDLE]
        daemon.polder("run", "--detach", "--name", "m", "--kind", kind, "--network", "none", "--memory", f"{memory}M", "--allocation",
                      "hybrid", "--memory-reservation", f"{floor}M", *what)
        whole = eventually(total, guestlib.BOOT, "its agent")
        daemon.arguments = [*arguments, "--memory-reserve", all_but((floor + 16) << 20)]
        daemon.restart()
        daemon.wait_state("m", "running")
        sees(whole - ((memory - floor) << 20))
        told = allocation(daemon, "m")["memory"]
        assert told["short"] and told["used"] < need(told) == told["need"] == told["floor"] == floor << 20
        assert abs(told["granted"] - told["need"]) <= 16 << 20
        change(daemon, "m", memory_reservation=f"{floor - 32}M")  # the input that changes
        sees(whole - ((memory - floor + 32) << 20))
        change(daemon, "m", memory_reservation="16M")   # what it uses and some room count now
        told = eventually(lambda: (now := allocation(daemon, "m")["memory"])["need"] < (floor - 32) << 20 and
                          abs(now["granted"] - now["need"]) <= 24 << 20 and now, 180, "what it needs")
        assert told["need"] == need(told) > told["floor"]
        assert daemon.execute("m", "echo", "well") == "well\n"
        daemon.arguments = arguments
        daemon.restart()
        daemon.wait_state("m", "running")
        sees(whole)
        assert not allocation(daemon, "m")["memory"]["short"]


def test_containers_give_back_what_they_keep_of_files(make_daemon):
    """What a container keeps of files is asked back while memory is short, but not below its reservation."""
    daemon = make_daemon(fake=False, arguments=["--memory-reserve", all_but(128 << 20), "--overcommit_memory_container", "1000"])
    daemon.start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    write = ["sh", "-c", "dd if=/dev/zero of=/data bs=1M count=100 conv=fsync 2>/dev/null; cat /data >/dev/null; exec sleep 100000"]
    kept = container(daemon, "kept", command=write, memory="256M", allocation="hybrid", memory_reservation="120M")
    eventually(lambda: usage(kept) > 90 << 20, what="its pages")
    plain = container(daemon, "plain", command=write, memory="256M")
    eventually(lambda: allocation(daemon, "plain")["memory"]["granted"] < 128 << 20, what="asking back")
    eventually(lambda: usage(plain) < 60 << 20, what="giving back")
    told = allocation(daemon, "plain")["memory"]
    assert told["short"] and abs(told["granted"] - told["need"]) <= 16 << 20 and told["need"] == need(told)
    assert usage(kept) > 90 << 20 and allocation(daemon, "kept")["memory"]["granted"] >= 120 << 20
    assert daemon.instance("plain")["status"]["state"] == daemon.instance("kept")["status"]["state"] == "running"


# ---- little to do ----------------------------------------------------------------------------------------------------

def test_nothing_is_written_where_nothing_changes(daemon):
    uuids = [container(daemon, f"c{i}", weight_beta=0) for i in range(3)]
    passes = metric(daemon, "polder_allocator_passes_total")
    eventually(lambda: metric(daemon, "polder_allocator_passes_total") > passes, what="a pass")
    written = metric(daemon, "polder_allocator_writes_total")
    passes = metric(daemon, "polder_allocator_passes_total")
    eventually(lambda: metric(daemon, "polder_allocator_passes_total") >= passes + 2, what="two passes")
    assert metric(daemon, "polder_allocator_writes_total") == written
    change(daemon, "c1", priority=50)
    assert [weight_in_kernel(uuid) for uuid in uuids] == [kernel_value(w) for w in (100, 550, 100)]


@pytest.mark.long
def test_ten_thousand_cost_little(make_daemon):
    daemon = make_daemon(log_level="warning").start()
    for i in range(10000):
        daemon.expect(202, "POST", "/v1/instances?start=true", {"name": f"f{i}", "spec": {"kind": "fake", "priority": i % 201 - 100}})
    eventually(lambda: daemon.expect(200, "GET", "/metrics").body.count(b'polder_instances{state="running"} 10000\n') == 1, 300,
               "all running")
    passes = metric(daemon, "polder_allocator_passes_total")
    eventually(lambda: metric(daemon, "polder_allocator_passes_total") >= passes + 2, what="two passes")
    assert metric(daemon, "polder_allocator_pass_seconds") < 0.1
    assert metric(daemon, "polder_allocator_writes_total") == 0
    told = allocation(daemon, "f0")
    assert told["pool"]["instances"] == 10000


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a fixed instance leaves one processor to others")
def test_fixed_microvm_is_allocated_whole(request):
    """Its memory is there at the start and its processor is its own; a dynamic one of the same size takes what it touches."""
    with guestlib.host_daemon(request) as daemon:
        daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
        resident = {}
        for mode in ("dynamic", "fixed"):
            daemon.polder("run", "--detach", "--name", mode, "--kind", "microvm", "--network", "none", "--memory", "384M", "--allocation", mode,
                          "busybox", "--", "sleep", "100000")
            status = open(f"/proc/{daemon.instance(mode)['status']['pid']}/status", encoding="ascii").read()
            resident[mode] = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) << 10
        assert resident["fixed"] >= 384 << 20 > resident["dynamic"], resident
        uuid = {mode: daemon.instance(mode)["assigned"]["uuid"] for mode in resident}
        assert group_value(uuid["fixed"], "cpuset.cpus") == str(LAST)
        eventually(lambda: group_value(uuid["dynamic"], "cpuset.cpus") != str(LAST), what="making way")
        pid = daemon.instance("fixed")["status"]["pid"]
        for thread in os.listdir(f"/proc/{pid}/task"):  # helper threads are pinned with it
            assert os.sched_getaffinity(int(thread)) == {LAST}


# ---- what they really get --------------------------------------------------------------------------------------------

def shares_got(uuids, seconds, poll=0.2):
    """Parts of the processor time that these groups used together, over so many seconds of it."""
    before = {name: cpu_seconds(uuid) for name, uuid in uuids.items()}

    def used():
        now = {name: cpu_seconds(uuid) - before[name] for name, uuid in uuids.items()}
        return now if sum(now.values()) >= seconds else None

    end = time.monotonic() + 40 * seconds + 60
    while not (now := used()):
        assert time.monotonic() < end, "they do not get the processor"
        time.sleep(poll)
    return {name: value / sum(now.values()) for name, value in now.items()}


def check_shares(daemon, uuids, seconds, tolerance=0.03):
    wished = {name: allocation(daemon, name)["cpu"]["share_ppm"] / 1e6 for name in uuids}
    assert abs(sum(wished.values()) - 1) < 0.001, wished
    got = shares_got(uuids, seconds)
    for name in uuids:
        assert abs(got[name] - wished[name]) <= tolerance * wished[name], (name, got, wished)


def test_busy_containers_get_their_shares(daemon):
    """Measured in processor time, so what else the machine does counts for nothing. Short; the long one goes to 1:100."""
    spec = {"cpus": 1, "cpuset": str(FIRST), "weight_beta": 0, "command": BUSY}
    uuids = {"one": container(daemon, "one", **spec), "four": container(daemon, "four", weight_alpha=4, **spec),
             "half": container(daemon, "half", allocation="hybrid", cpu_reservation=0.5, **spec)}
    # By hand: the floor takes 0.5; 1:4 share the rest.
    eventually(lambda: allocation(daemon, "half")["cpu"]["share_ppm"] in range(495000, 505000), what="half of it")
    assert allocation(daemon, "four")["cpu"]["share_ppm"] in range(395000, 405000)
    check_shares(daemon, uuids, 8)


@pytest.mark.long
@pytest.mark.parametrize("ratio", [1, 2, 5, 10, 30, 100])
def test_ratios_from_1_to_100(daemon, ratio):
    spec = {"cpus": 1, "cpuset": str(FIRST), "weight_beta": 0, "command": BUSY}
    uuids = {"low": container(daemon, "low", weight_alpha=0.5, **spec), "high": container(daemon, "high", weight_alpha=0.5 * ratio, **spec)}
    told = allocation(daemon, "high")["cpu"]["share_ppm"]
    assert abs(told - 1e6 * ratio / (1 + ratio)) < 2
    check_shares(daemon, uuids, 60)


@pytest.mark.long
@pytest.mark.parametrize("parts", [(1, 4, 20), (1, 1, 100)])
@pytest.mark.parametrize("kind", ["microvm", "vm"])
def test_busy_machines_get_their_shares(request, kind, parts):
    """Emulated machines with QEMU's helper threads, on one processor for a minute."""
    with guestlib.host_daemon(request) as daemon:
        image = "busybox"
        if kind == "vm":
            image = "debian"
            daemon.polder("image", "import", guestlib.debian_disk(), "--name", image)
        else:
            daemon.change("POST", "/v1/images", {"source": image, "type": "build"})
        names = {f"m{number}": part / 2 for number, part in enumerate(parts)}
        for name, alpha in names.items():
            command = ["--", *BUSY] if kind == "microvm" else []
            daemon.polder("run", "--detach", "--name", name, "--kind", kind, "--network", "none", "--weight-alpha", alpha, "--weight-beta",
                          "0", "--memory", "256M", image, *command)
            if kind == "vm":
                daemon.wait_agent(name)
                daemon.execute(name, "sh", "-c", "nohup sh -c 'while :; do :; done' >/dev/null 2>&1 &")
        for name in names:  # on one processor only now, so that they boot in reasonable time
            change(daemon, name, cpuset=str(FIRST))
        uuids = {name: daemon.instance(name)["assigned"]["uuid"] for name in names}
        eventually(lambda: abs(allocation(daemon, "m2")["cpu"]["share_ppm"] - 1e6 * parts[2] / sum(parts)) < 2, what="its part")
        check_shares(daemon, uuids, 60)
