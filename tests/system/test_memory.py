# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that runs out (F21): what refuses it is preloaded into polderd, so this runs on a build without sanitizers. A daemon
that lacks memory says so or ends; it never loses or half does what it told to be done, and what it could not tidy up at once it
tidies up later by itself."""
import contextlib
import itertools
import mmap
import os
import pathlib
import random
import struct
import subprocess

import pytest

import guestlib
import polderlib
from polderlib import eventually
from test_faults_host import check_nothing_left

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"), pytest.mark.scenario]
SHIM = pathlib.Path(__file__).parent / "shims" / "memory.c"
ALL = 10 ** 9
SHORTAGES = (1, 1, 2, 5, 30)  # how many allocations in a row fail


class Memory:
    """What a daemon's allocations come to, through the file that it shares with the preloaded library."""
    LEFT, FAILING, COUNTED, FAILED = (8 * number for number in range(4))

    def __init__(self, daemon, library):
        path = daemon.directory / "plan"
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.plan = mmap.mmap(file.fileno(), 4096)
        daemon.environment = {"LD_PRELOAD": library, "PLAN": str(path)}

    def put(self, place, value):
        self.plan[place:place + 8] = struct.pack("=q", value)

    def value(self, place):
        return struct.unpack("=q", self.plan[place:place + 8])[0]

    def refuse(self, first, many):
        """Allocation `first` from now on fails, and those that follow it: `many` in all."""
        self.put(self.FAILING, 0)
        for place, value in ((self.COUNTED, 0), (self.FAILED, 0), (self.LEFT, first), (self.FAILING, many)):
            self.put(place, value)

    def give(self):
        """From now on there is memory. How many allocations there were, and how many of them failed."""
        self.put(self.FAILING, 0)
        return self.value(self.COUNTED), self.value(self.FAILED)


@pytest.fixture
def library(tmp_path):
    if polderlib.build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("a preloaded library and a preloaded sanitizer do not go together")
    made = tmp_path / "memory.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(SHIM)], check=True)
    return str(made)


def configure(daemon):
    """A group in /etc/group: the C library's own search beyond that falls when it has no memory."""
    (daemon.directory / "polderd.conf").write_text("group = root\n")
    (daemon.directory / "polderd.conf").chmod(0o600)


@pytest.fixture
def short_of_memory(make_daemon, library):
    """A daemon that is not started yet, and its memory."""
    daemon = make_daemon(log_level="info")
    configure(daemon)
    return daemon, Memory(daemon, library)


def steps(name):
    """One instance's life as requests, and its state after each."""
    place, spec = f"/v1/instances/{name}", {"kind": "fake", "labels": {"team": "a", "polder.fake.run": "delay=1h"}}
    return [("POST", "/v1/instances?", {"name": name, "spec": spec}, "created"), ("POST", f"{place}/start?", None, "running"),
            ("PATCH", f"{place}?", {"spec": {"description": "a longer text " * 9, "labels": {"team": "b"}}}, "running"),
            ("POST", f"{place}/pause?", None, "paused"), ("POST", f"{place}/resume?", None, "running"),
            ("GET", "/v1/instances", None, "running"), ("GET", "/v1/queue", None, "running"),
            ("POST", f"{place}/suspend?", None, "suspended"), ("POST", f"{place}/start?", None, "running"),
            ("POST", f"{place}/restart?", None, "running"), ("POST", f"{place}/stop?", None, "stopped"),
            ("DELETE", f"{place}?purge=true&", None, None)]


def run_inside(daemon, name):
    polder = polderlib.build_directory() / "src/cli/polder"
    return subprocess.run([str(polder), "--socket", str(daemon.socket), "exec", name, "true"], capture_output=True, text=True,
                          timeout=polderlib.DEADLINE)


def steps_of_a_container(name):
    place = f"/v1/instances/{name}"
    spec = {"kind": "container", "image": "busybox", "command": ["sleep", "100000"], "memory": "64MiB", "stop_timeout": "1s"}
    return [("POST", "/v1/instances?start=true&", {"name": name, "spec": spec}, "running"),
            ("POST", f"{place}/pause?", None, "paused"), ("POST", f"{place}/resume?", None, "running"),
            ("POST", f"{place}/stop?", None, "stopped"), ("DELETE", f"{place}?purge=true&", None, None)]


# Without a network: libnftables ends the program that it is part of, and the C library's search for a user falls.
MACHINES = {"microvm": {"kind": "microvm", "image": "busybox", "command": ["sleep", "100000"], "memory": "128MiB", "stop_timeout": "1s",
                        "network": "none"},
            "vm": {"kind": "vm", "image": "ticker", "memory": "64MiB", "stop_timeout": "1s", "network": "none"}}


def steps_of_a_machine(kind):
    def steps_of_it(name):
        place = f"/v1/instances/{name}"
        return [("POST", "/v1/instances?start=true&", {"name": name, "spec": MACHINES[kind]}, "running"),
                ("POST", f"{place}/pause?", None, "paused"), ("POST", f"{place}/resume?", None, "running"),
                ("POST", f"{place}/suspend?", None, "suspended"), ("POST", f"{place}/start?", None, "running"),
                ("POST", f"{place}/stop?", None, "stopped"), ("DELETE", f"{place}?purge=true&", None, None)]
    return steps_of_it


def steps_have_commands(steps):
    """Whatever it is, "true" can be run in it; the VM here has no agent."""
    return steps("x")[0][2]["spec"]["kind"] != "vm"


def live(daemon, name, steps=steps):
    """The state that was told last of an instance that lives through its steps, or "unknown" after a failure; what failed."""
    told, failures = "unknown", []
    for method, path, body, state in steps(name):
        try:
            reply = daemon.request(method, path if method == "GET" else f"{path}wait=30s", body)
        except Exception as reason:  # it ended, could not keep this connection, or broke its answer off
            reply = reason
        if isinstance(reply, Exception):
            daemon.drop_clients()
            failures.append(f"{method} {path}: {reply!r}")
            told = "unknown"
            if daemon.process.poll() is not None:
                break
        elif reply.status == 200 and method == "GET":
            assert reply.json
        elif reply.status == 200:
            told = state
        elif reply.status == 202:  # a busy host; what becomes of it is looked at afterwards
            failures.append(f"{method} {path}: takes long")
            told = "unknown"
        else:
            assert reply.status in (404, 409, 500, 502, 503, 504, 507) and reply.code, f"{method} {path}: {reply}"
            failures.append(f"{method} {path}: {reply.code}")
            told = "unknown"
        if path.endswith("/resume?") and steps_have_commands(steps):
            run_inside(daemon, name)
    return told, failures


def ensure_started(daemon, where):
    eventually(lambda: daemon.process.poll() is not None or answers(daemon), what=f"{where}: an end or an answer")
    if daemon.process.poll() is not None:
        assert daemon.process.returncode >= 0, f"{where}: it died of signal {-daemon.process.returncode}\n{daemon.log()[-3000:]}"
        daemon.start()


def check_whole(daemon, name, told, where):
    """It answers, nothing is under way for ever, store and host agree, what was told is so, and the request repeated works."""
    ensure_started(daemon, where)
    eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"],
               what=f"{where}: the end of every operation")
    eventually(lambda: daemon.fsck()["clean"], what=f"{where}: a clean fsck")
    found = daemon.state_of(name)
    if told != "unknown":
        assert found == told, f"{where}: it was told {told} and is {found}"
    assert daemon.state_of("beside") == "running", where
    assert daemon.instance("beside")["spec"]["labels"] == {"a": "b"}, where
    if found:
        daemon.delete(name, purge=True)


def prepare(daemon, memory):
    daemon.start()
    daemon.create("beside", start=True)
    daemon.change("PATCH", "/v1/instances/beside", {"spec": {"labels": {"a": "b"}}})
    assert live(daemon, "first") == (None, [])
    memory.refuse(ALL, 1)
    assert live(daemon, "web") == (None, [])
    return memory.give()[0]


def walk(daemon, memory, numbers, chance):
    """Lives, in each of which one allocation fails, or some in a row."""
    hits = 0
    for number in numbers:
        many = chance.choice(SHORTAGES)
        memory.refuse(number, many)
        told, failures = live(daemon, "web")
        hits += memory.give()[1] > 0
        check_whole(daemon, "web", told, f"allocation {number}, {many} in all, {failures}")
    return hits


def test_requests(short_of_memory):
    """Somewhere in an instance's life there is no memory: each request is done, or says that it is not."""
    daemon, memory = short_of_memory
    total = prepare(daemon, memory)
    chance = random.Random(21)
    assert walk(daemon, memory, sorted(chance.sample(range(1, total), 60)), chance) > 40
    assert live(daemon, "web") == (None, [])


@pytest.mark.long
def test_requests_at_every_allocation(short_of_memory):
    """The same for one allocation after the other."""
    daemon, memory = short_of_memory
    walk(daemon, memory, range(1, prepare(daemon, memory)), random.Random(22))


def restart_refusable(daemon, library):
    """Started anew so that its memory can be refused, with a fake instance beside what is tried."""
    daemon.stop()
    configure(daemon)
    memory = Memory(daemon, library)
    daemon.start()
    daemon.create("beside", start=True)
    daemon.change("PATCH", "/v1/instances/beside", {"spec": {"labels": {"a": "b"}}})
    return memory


@pytest.mark.long
def test_requests_around_a_container(library, request):
    """The same with a real container, its control group and its network. libnftables ends the program that it is part of when
    it gets no memory; polderd then finds everything again."""
    with guestlib.host_daemon(request, arguments=["--fake-driver"], log_level="info") as daemon:
        daemon.polder("image", "build", "busybox")
        memory = restart_refusable(daemon, library)
        assert live(daemon, "first", steps_of_a_container) == (None, [])
        memory.refuse(ALL, 1)
        assert live(daemon, "web", steps_of_a_container) == (None, [])
        total, chance = memory.give()[0], random.Random(25)
        for number in sorted(chance.sample(range(1, total), 400)):
            many = chance.choice(SHORTAGES)
            memory.refuse(number, many)
            told, failures = live(daemon, "web", steps_of_a_container)
            memory.give()
            check_whole(daemon, "web", told, f"allocation {number}, {many} in all, {failures}")


@contextlib.contextmanager
def machine_host(request, library, kind):
    """A daemon whose memory can be refused, with the image for machines of this kind and a fake instance beside."""
    if kind == "microvm" and not guestlib.kernel_directory():
        pytest.skip("no kernel for microVMs")
    with guestlib.host_daemon(request, arguments=["--fake-driver"], log_level="info") as daemon:
        if kind == "vm":
            daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")
        else:
            daemon.polder("image", "build", "busybox")
        memory = restart_refusable(daemon, library)
        yield daemon, memory


def identifier_of(daemon, name):
    reply = daemon.request("GET", f"/v1/instances/{name}")
    return {reply.json["assigned"]["uuid"]} if reply.status == 200 else set()


@pytest.mark.parametrize("kind, count", [("vm", 6), pytest.param("vm", 300, marks=pytest.mark.long),
                                         pytest.param("microvm", 100, marks=pytest.mark.long)])
def test_requests_around_a_machine(library, request, kind, count):
    """The same with a real machine, paused, written to disk and read back; nothing of one that was removed is left."""
    with machine_host(request, library, kind) as (daemon, memory):
        alive = steps_of_a_machine(kind)
        assert live(daemon, "first", alive) == (None, [])
        memory.refuse(ALL, 1)
        assert live(daemon, "web", alive) == (None, [])
        total, chance = memory.give()[0], random.Random(f"{kind} {count}")
        for number in sorted(chance.sample(range(1, total), count)):
            many = chance.choice(SHORTAGES)
            where = f"allocation {number} of {total}, {many} in all"
            memory.refuse(number, many)
            told, failures = live(daemon, "web", alive)
            memory.give()
            ensure_started(daemon, where)
            known = identifier_of(daemon, "web")
            check_whole(daemon, "web", told, f"{where}, {failures}")
            check_nothing_left(daemon, known, where)


@pytest.mark.parametrize("kind, count", [("vm", 6), pytest.param("vm", 300, marks=pytest.mark.long),
                                         pytest.param("microvm", 200, marks=pytest.mark.long)])
def test_starts_beside_a_machine(library, request, kind, count):
    """polderd's start, while a machine runs, has no memory somewhere: sooner or later the machine is taken over as it is, with
    all the ways to it."""
    with machine_host(request, library, kind) as (daemon, memory):
        daemon.create("web", start=True, **MACHINES[kind])
        pid = daemon.instance("web")["status"]["pid"]
        daemon.stop()
        assert begin(daemon, memory, ALL, 1)
        total, chance = memory.give()[0], random.Random(f"start {kind} {count}")
        for number in sorted(chance.sample(range(1, total), count)):
            daemon.stop()
            where = f"a start, allocation {number} of {total}"
            begin(daemon, memory, number, chance.choice(SHORTAGES))
            ensure_started(daemon, where)
            reached(daemon, kind, pid, where)
            check_whole(daemon, "none", None, where)
        daemon.act("web", "suspend")
        daemon.act("web", "start")
        daemon.delete("web", purge=True)


def reached(daemon, kind, pid, where):
    """It is the same machine, is asked for something, and does it."""
    eventually(lambda: daemon.instance("web")["status"]["state"] == "running" and not daemon.instance("web")["status"].get("reason"),
               what=f"{where}: that it is taken over")
    assert daemon.instance("web")["status"]["pid"] == pid, where
    if kind == "microvm":
        eventually(lambda: run_inside(daemon, "web").returncode == 0, what=f"{where}: a command inside")
    for action in ("pause", "resume"):  # it may still be on its way to QEMU's monitor
        eventually(lambda: daemon.request("POST", f"/v1/instances/web/{action}?wait=30s").status == 200, what=f"{where}: {action}")


def begin(daemon, memory, number, many):
    """A start during which memory runs out: it starts, or ends by itself and says why. Whether it came up."""
    memory.refuse(number, many)
    daemon.spawn()
    eventually(lambda: daemon.process.poll() is not None or answers(daemon), what=f"allocation {number}: an end or an answer")
    memory.give()
    if daemon.process.poll() is None:
        return True
    assert daemon.process.returncode > 0, f"allocation {number}: it ended with {daemon.process.returncode}\n{daemon.log()[-3000:]}"
    return False


def answers(daemon):
    try:
        return daemon.client(timeout=5).request("GET", "/healthz").status == 200
    except Exception:
        return False


def start_again_and_again(daemon, memory, numbers, chance):
    for number in numbers:
        daemon.stop()
        begin(daemon, memory, number, chance.choice(SHORTAGES))
        check_whole(daemon, "none", None, f"a start, allocation {number}")


def allocations_of_a_start(daemon, memory):
    prepare(daemon, memory)
    daemon.create("idle")
    daemon.stop()
    assert begin(daemon, memory, ALL, 1)
    return memory.give()[0]


def test_starts(short_of_memory):
    """Somewhere in polderd's start there is no memory: it starts all the same or ends with an error, and takes over what runs
    when there is memory again."""
    daemon, memory = short_of_memory
    total, chance = allocations_of_a_start(daemon, memory), random.Random(23)
    start_again_and_again(daemon, memory, sorted(chance.sample(range(1, total), 25)), chance)


@pytest.mark.long
def test_starts_at_every_allocation(short_of_memory):
    daemon, memory = short_of_memory
    total, chance = allocations_of_a_start(daemon, memory), random.Random(24)
    step = max(1, total // 2000)
    start_again_and_again(daemon, memory, range(1, total, step), chance)


def test_no_memory_for_a_while(short_of_memory):
    """No allocation succeeds while instances end and clients ask. When there is memory again every end is found, each request
    is answered, and nothing waits for a restart of polderd."""
    daemon, memory = short_of_memory
    prepare(daemon, memory)
    for number in range(8):
        daemon.create(f"short{number}", start=True, labels={"run": "delay=2s,exit=0"})
    memory.refuse(1, ALL)
    client = daemon.client(timeout=1)
    for _ in itertools.repeat(None, 3):
        try:
            client.request("GET", "/v1/instances")
        except Exception:
            client.close()
    counted, failed = memory.give()
    assert failed > 0
    ensure_started(daemon, "without any memory")
    for number in range(8):
        daemon.wait_state(f"short{number}", "stopped")
        daemon.delete(f"short{number}", purge=True)
    check_whole(daemon, "none", None, "without any memory")
    assert live(daemon, "web") == (None, [])
