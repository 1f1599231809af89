# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong around QEMU: it stands still or answers slowly, its disk's host is full, its process id is another's by
now, its guest writes what looks like another disk. The VMs here have an empty disk and stay in their firmware."""
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest

import guestlib
import polderlib
from polderlib import DEADLINE, eventually

COUNT = ["sh", "-c", guestlib.Counter.SCRIPT]
UNRESPONSIVE = 10  # seconds within which it must be told

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")


def add_images(daemon):
    daemon.polder("image", "build", "busybox")
    blank = daemon.directory / "blank.raw"
    with open(blank, "wb") as file:
        file.truncate(16 << 20)
    daemon.polder("image", "import", blank, "--name", "blank")


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        add_images(daemon)
        yield daemon


@pytest.fixture
def machine(host):
    """machine(name, kind, options…): a running one, removed at the end, whatever state its QEMU is in."""
    made = []

    def start(name, kind="microvm", *options):
        made.append(name)
        if kind == "vm":
            host.polder("run", "--kind", "vm", "--name", name, "--memory", "64M", "--network", "none", *options, "blank")
        else:
            host.polder("run", "--detach", "--kind", "microvm", "--name", name, "--network", "none", *options, "busybox", "--", *COUNT)
        return name

    yield start
    for name in made:
        host.polder("rm", "--force", "--purge", name, status=None)


def pid_of(host, name):
    return host.instance(name)["status"]["pid"]


def is_unresponsive(host, name):
    return host.instance(name)["status"]["unresponsive"]


def shown_state(host, name):
    """What `polder ls` has in its column STATE."""
    rows = host.polder("ls", timeout=5).stdout.splitlines()
    position = rows[0].index("STATE")
    return next(row for row in rows if row.split()[0] == name)[position:].split()[0]


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# ---- QEMU stands still ----

def test_stopped_qemu_is_told_and_comes_back(host, machine):
    machine("still")
    machine("empty", "vm")
    machine("neighbour")
    counter, other = guestlib.Counter(host, "still"), guestlib.Counter(host, "neighbour")
    counter.wait_above(0)
    with stopped(pid_of(host, "still")), stopped(pid_of(host, "empty")):
        begun = time.monotonic()
        for name in ("still", "empty"):
            eventually(lambda: is_unresponsive(host, name), UNRESPONSIVE, f"{name} to be unresponsive")
        assert time.monotonic() - begun < UNRESPONSIVE
        for name in ("still", "empty"):
            status = host.instance(name)["status"]
            assert status["state"] == "running" and status["reason"] == "unresponsive", status
            assert "stopped by a signal" in status["message"], status
            assert shown_state(host, name) == "unresponsive"
        assert shown_state(host, "neighbour") == "running"
        # Nobody else waits for it.
        other.wait_above(other.value())
        # What asks QEMU fails in time, and is not done later.
        done = host.polder("pause", "still", status=None, timeout=30)
        assert done.returncode != 0 and "QEMU" in done.stderr, done
        assert host.state_of("still") == "running"
    for name in ("still", "empty"):
        eventually(lambda: not is_unresponsive(host, name), UNRESPONSIVE, f"{name} to answer again")
        status = host.instance(name)["status"]
        assert status["state"] == "running" and not status.get("message") and not status.get("reason"), status
        assert shown_state(host, name) == "running"
    counter.wait_above(counter.value())


def test_stopped_qemu_is_killed_and_restarted_once(host, machine):
    machine("killed", "microvm", "--restart", "on-failure:1")
    for name, kill in (("killed", ["kill", "killed"]), ("gone", ["stop", "--force", "gone"]), ("asked", ["stop", "--time", "2s", "asked"])):
        if name != "killed":
            machine(name, "vm")
        pid = pid_of(host, name)
        with stopped(pid):
            eventually(lambda: is_unresponsive(host, name), UNRESPONSIVE, "it to be unresponsive")
            host.polder(*kill, timeout=30)
            eventually(lambda: not guestlib.is_alive(pid), what="the end of QEMU")
    for name in ("gone", "asked"):
        assert host.state_of(name) == "stopped" and not is_unresponsive(host, name)
    # Killed by hand: that is an end like any other, after which it is restarted as told, once.
    eventually(lambda: host.instance("killed")["status"]["restarts"] == 1 and host.state_of("killed") == "running", what="the restart")
    time.sleep(2)
    assert host.instance("killed")["status"]["restarts"] == 1 and not is_unresponsive(host, "killed")


def test_paused_guest_is_not_unresponsive(host, machine):
    machine("resting")
    host.polder("pause", "resting")
    time.sleep(UNRESPONSIVE)
    status = host.instance("resting")["status"]
    assert status["state"] == "paused" and not status["unresponsive"] and not status.get("message"), status
    assert shown_state(host, "resting") == "paused"


def test_daemon_starts_beside_a_stopped_qemu(host, machine):
    """It is taken over as what it is, and everybody else is not kept waiting for it."""
    machine("held")
    machine("free")
    counter, other = guestlib.Counter(host, "held"), guestlib.Counter(host, "free")
    counter.wait_above(0)
    pid = pid_of(host, "held")
    with stopped(pid):
        host.kill9()
        host.start()
        assert host.state_of("held") == "running" and pid_of(host, "held") == pid
        eventually(lambda: is_unresponsive(host, "held"), UNRESPONSIVE, "it to be unresponsive")
        other.wait_above(other.value())
    eventually(lambda: not is_unresponsive(host, "held"), DEADLINE, "it to answer again")
    counter.wait_above(counter.value())
    host.polder("pause", "held")
    host.polder("resume", "held")


def test_watching_costs_nothing(host, machine):
    for name in ("one", "two", "three"):
        machine(name, "vm")
    host.list()

    def ticks():
        fields = pathlib.Path(f"/proc/{host.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def used():
        before, begun = ticks(), time.monotonic()
        time.sleep(20)  # a span to measure over, not a wait for something
        return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)
    # A tick of the clock that counts is 0.05 % of 20 s. What else a host does only adds to what is counted.
    assert any(used() <= 0.002 for _ in range(4))


# ---- QMP that is slow ----

class SlowMonitor:
    """Stands between polderd and a QEMU: the greeting and each answer come late, and byte for byte."""

    def __init__(self, path, delay):
        self.path, self.real, self.delay = path, path.with_name("qmp.real"), delay
        path.rename(self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.over = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                client, _ = self.listener.accept()
                threading.Thread(target=self.pass_on, args=(client,), daemon=True).start()

    def pass_on(self, client):
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as real:
            real.connect(str(self.real))
            threading.Thread(target=self.copy, args=(client, real), daemon=True).start()
            while data := real.recv(4096):
                if self.over.wait(self.delay):
                    break
                for byte in data:
                    client.sendall(bytes([byte]))
                    time.sleep(0.001)

    @staticmethod
    def copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.over.set()
        self.listener.close()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.real.rename(self.path)


def test_slow_monitor_slows_nobody_else(host, machine):
    machine("slow")
    machine("quick")
    quick = guestlib.Counter(host, "quick")
    quick.wait_above(0)
    pid = pid_of(host, "slow")
    host.kill9()
    monitor = SlowMonitor(host.run / "i" / next(path.name for path in (host.run / "i").iterdir() if path.name in cgroup_of(pid)) / "qmp.sock", 20)
    try:
        begun = time.monotonic()
        host.start()
        assert time.monotonic() - begun < 20, "the start waited for one machine"
        eventually(lambda: is_unresponsive(host, "slow"), UNRESPONSIVE, "it to be unresponsive")
        quick.wait_above(quick.value())
        begun = time.monotonic()
        assert host.polder("pause", "slow", status=None, timeout=40).returncode != 0
        assert time.monotonic() - begun < 30
        # Its guest is reached by another way, and what ends it needs no QMP.
        assert host.execute("slow", "echo", "here") == "here\n"
        host.polder("stop", "--force", "slow", timeout=30)
        assert not guestlib.is_alive(pid)
    finally:
        monitor.close()


def cgroup_of(pid):
    return pathlib.Path(f"/proc/{pid}/cgroup").read_text()


# ---- a process id that is another's ----

def process_with_id(pid, tries=500):
    """A process that has just this id; None if others were always faster."""
    last = pathlib.Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(tries):
        last.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    return None


@pytest.mark.alone
def test_reused_id_is_not_touched(host, machine):
    machine("former")
    pid = pid_of(host, "former")
    host.kill9()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not pathlib.Path(f"/proc/{pid}").exists(), what="the end of QEMU")
    stranger = process_with_id(pid)
    if stranger is None:
        pytest.skip("the process id could not be taken: the host starts processes faster")
    try:
        host.start()
        # It ended, or was started anew where its start had not been written down yet.
        eventually(lambda: host.state_of("former") == "failed" or pid_of(host, "former") not in (0, pid), what="the end of the former")
        assert stranger.poll() is None and pid_of(host, "former") != pid
        host.polder("rm", "--force", "--purge", "former")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# ---- no room for what a guest writes ----

@pytest.fixture(scope="module")
def narrow_host(request):
    """A daemon whose instances' directories lie on a file system of 48 MiB."""
    daemon = guestlib.HostDaemon()
    place = daemon.state / "instances"
    place.mkdir(parents=True)
    daemon.host("mount", "-t", "tmpfs", "-o", "size=48M,mode=0711", "tmpfs", place)
    before = request.session.testsfailed
    try:
        add_images(daemon.start())
        yield daemon
    finally:
        daemon.host("umount", "--lazy", place)  # the daemon has its own
        daemon.close(check=request.session.testsfailed == before)


@pytest.fixture
def narrow(narrow_host):
    """A daemon with a microVM "narrow" that writes more than there is room for as soon as it has a file /go."""
    script = ("yes a line of some length | head -c 1048576 > /piece; until [ -e /go ]; do sleep 0.1; done; "
              "for i in $(seq 64); do cat /piece; done > /big; sync; md5sum /big > /sum; sync; while :; do sleep 1; done")
    narrow_host.host("mount", "-o", "remount,size=48M", narrow_host.state / "instances")
    narrow_host.polder("run", "--detach", "--kind", "microvm", "--name", "narrow", "--network", "none", "--disk", "1G", "busybox", "--", "sh",
                       "-c", script)
    yield narrow_host
    narrow_host.polder("rm", "--force", "--purge", "narrow")


def message(host):
    return host.instance("narrow")["status"].get("message") or ""


def test_guest_whose_disk_has_no_room_waits(narrow):
    """It stands still and tells why, gets no error and loses nothing; with room it goes on by itself."""
    host = narrow
    host.execute("narrow", "touch", "/go")
    eventually(lambda: message(host), guestlib.BOOT, "the complaint")
    status = host.instance("narrow")["status"]
    assert status["state"] == "running" and "no room" in status["message"], status
    # polderd can do what it could before.
    assert host.polder("ls", timeout=5).stdout
    host.kill9()
    host.start()
    eventually(lambda: "no room" in message(host), guestlib.BOOT, "the complaint after a start")
    host.host("mount", "-o", "remount,size=200M", host.state / "instances")
    eventually(lambda: not message(host), guestlib.BOOT, "it to go on")
    piece = (b"a line of some length\n" * (1 << 20))[:1 << 20]
    found = eventually(lambda: host.polder("exec", "narrow", "--", "cat", "/sum", status=None).stdout.split(), guestlib.BOOT, "the sum")
    assert found[0] == hashlib.md5(64 * piece).hexdigest()


def test_guest_whose_disk_has_no_room_is_ended(narrow):
    host = narrow
    pid = pid_of(host, "narrow")
    host.execute("narrow", "touch", "/go")
    eventually(lambda: "no room" in message(host), guestlib.BOOT, "the complaint")
    host.polder("stop", "--time", "1s", "narrow", timeout=60)
    assert host.state_of("narrow") == "stopped" and not guestlib.is_alive(pid)


# ---- a guest without an agent ----

def test_resume_waits_for_no_agent(host):
    """It goes on where it was at once; nobody waits for an agent that is not there to set its clock."""
    host.polder("image", "import", guestlib.ticker(host.directory), "--name", "ticker")
    host.polder("run", "--kind", "vm", "--name", "ticker", "--memory", "64M", "--network", "none", "ticker")
    try:
        eventually(lambda: "aaab" in host.polder("logs", "ticker").stdout, guestlib.BOOT, "the first numbers")
        host.polder("suspend", "ticker")
        begun = time.monotonic()
        host.polder("resume", "ticker")
        assert time.monotonic() - begun < 8
        last = host.polder("logs", "ticker").stdout.split()[-1]
        eventually(lambda: host.polder("logs", "ticker").stdout.split()[-1] > last, what="it to count on")
    finally:
        host.polder("rm", "--force", "--purge", "ticker")


# ---- storage that answers nothing ----

@contextlib.contextmanager
def hanging_storage(request, *parts):
    """A daemon of which these parts lie on file systems that hang when they are told to: (daemon, their list)."""
    pytest.importorskip("fusepy", reason="python3-fusepy is not installed")
    daemon = guestlib.HostDaemon(arguments=["--fake-driver"])
    storages = [guestlib.HangingStorage(daemon, daemon.state / part) for part in parts]
    before = request.session.testsfailed
    try:
        yield daemon, storages
    finally:
        for storage in storages:
            storage.go_on()
        if request.session.testsfailed > before:
            print(f"--- {daemon.log_path} ends with:\n{daemon.log()[-8000:]}")
        daemon.close(check=False)  # its end is the file systems' as well
        for storage in storages:
            storage.process.wait(DEADLINE)


def start_with_ticker(daemon):
    add_images(daemon.start())
    daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")


@pytest.fixture(scope="module")
def hanging(request):
    """A daemon whose instances' directories lie on a file system that hangs when it is told to: (daemon, file system)."""
    with hanging_storage(request, "instances") as (daemon, (storage,)):
        start_with_ticker(daemon)
        yield daemon, storage


def bounded(host, *words):
    """Runs a command that must fail in time, and tells how."""
    done = host.polder(*words, status=None, timeout=60)
    assert done.returncode != 0 and "waits for a disk" in done.stderr, done


@pytest.mark.long
def test_disk_that_hangs(hanging):
    """QEMU's threads sleep in the kernel: that is told, asking it to end fails in time, nobody else waits; and when the disk
    answers again, all that was asked for has come true."""
    host, storage = hanging
    write = "while :; do date > /written; sync; sleep 0.1; done"
    rest = guestlib.Counter.SCRIPT.replace("/tmp", "/dev/shm")
    host.create("other", start=True)
    host.create("waits")
    host.polder("run", "--kind", "vm", "--name", "counts", "--memory", "64M", "--network", "none", "ticker")
    for name, script in (("writes", write), ("rests", rest)):
        host.polder("run", "--detach", "--kind", "microvm", "--name", name, "--network", "none", "busybox", "--", "sh", "-c", script)
    resting = guestlib.Counter(host, "rests")
    resting.place = "/dev/shm/count"
    eventually(lambda: "aaac" in host.polder("logs", "counts").stdout, guestlib.BOOT, "the first numbers")
    resting.wait_above(0)
    pids = {name: pid_of(host, name) for name in ("counts", "writes")}
    patient = []
    storage.hang()
    try:
        for name in pids:
            eventually(lambda: is_unresponsive(host, name), UNRESPONSIVE, f"{name} to be unresponsive")
            status = host.instance(name)["status"]
            assert status["state"] == "running" and "disk" in status["message"], status
            assert shown_state(host, name) == "unresponsive"
        for words in (("logs", "counts"), ("fsck", "--deep")):  # they wait, and nobody else
            patient.append(subprocess.Popen([polderlib.build_directory() / "src/cli/polder", *words], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, env=host.command_environment(), text=True))
        for _ in range(20):
            begun = time.monotonic()
            assert len(host.list()) == 5
            assert time.monotonic() - begun < 5
        host.act("other", "pause")
        host.act("other", "resume")
        host.begin("waits", "start")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda words: bounded(host, *words), (("stop", "--force", "counts"), ("rm", "--force", "--purge", "writes"))))
        assert all(pathlib.Path(f"/proc/{pid}").exists() for pid in pids.values()) and host.state_of("rests") == "running"
        resting.wait_above(resting.value())
        assert host.state_of("waits") == "starting"
    finally:
        storage.go_on()
    eventually(lambda: host.state_of("counts") == "stopped", what="the stop")
    eventually(lambda: host.state_of("writes") is None, what="the removal")
    assert not any(guestlib.is_alive(pid) for pid in pids.values())
    eventually(lambda: not is_unresponsive(host, "rests"), UNRESPONSIVE, "it to rest")
    host.wait_state("waits", "running")
    assert all(one.wait(DEADLINE) is not None for one in patient) and "aaac" in patient[0].stdout.read()
    patient[1].stdout.close()
    host.check_clean()
    host.polder("start", "counts")
    host.polder("rm", "--force", "--purge", "counts", "rests", "other", "waits")


def test_image_store_that_hangs(request):
    """Who starts or fetches something waits for it; lists, what runs and what needs no image go on; afterwards all is done."""
    with hanging_storage(request, "images") as (daemon, (storage,)):
        start_with_ticker(daemon)
        for name in ("counts", "waits"):
            daemon.polder("create", "--kind", "vm", "--name", name, "--memory", "64M", "--network", "none", "ticker")
        daemon.polder("start", "counts")
        eventually(lambda: "aaac" in daemon.polder("logs", "counts").stdout, guestlib.BOOT, "the first numbers")
        storage.hang()
        daemon.begin("waits", "start")
        patient = [subprocess.Popen([polderlib.build_directory() / "src/cli/polder", *words], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, env=daemon.command_environment())
                   for words in (("image", "import", daemon.directory / "blank.raw", "--name", "again"), ("fsck", "--deep"),
                                 ("image", "rm", "busybox"))]
        for _ in range(20):
            begun = time.monotonic()
            assert len(daemon.list()) >= 2 and daemon.get("/v1/images")["images"]
            assert time.monotonic() - begun < 5
        daemon.create("other", start=True)
        daemon.act("other", "stop")
        last = daemon.polder("logs", "counts").stdout.split()[-1]
        eventually(lambda: daemon.polder("logs", "counts").stdout.split()[-1] > last, what="it to count on")
        assert daemon.state_of("waits") == "starting" and all(one.poll() is None for one in patient)
        storage.go_on()
        daemon.wait_state("waits", "running")
        assert [one.wait(DEADLINE) for one in patient] == [0, 0, 0]
        daemon.check_clean()
        daemon.polder("rm", "--force", "--purge", "counts", "waits", "other")


@contextlib.contextmanager
def all_hanging(request):
    """A daemon whose images and instances lie on file systems that hang together: (daemon, function to hang, to go on)."""
    with hanging_storage(request, "images", "instances") as (daemon, parts):
        yield daemon, lambda: [part.hang() for part in parts], lambda: [part.go_on() for part in parts]


START = 30  # seconds that a start may take beside storage that hangs


@pytest.mark.long
def test_start_while_storage_hangs(request):
    """polderd starts while the file systems of the images and of the instances answer nothing: it is there soon, has taken over
    what runs, tells of each thing what it waits for, can be stopped and started again; and afterwards all goes on by itself."""
    with all_hanging(request) as (host, hang, go_on):
        host.start()
        host.polder("image", "import", guestlib.ticker(host.directory), "--name", "ticker")
        host.polder("create", "--kind", "vm", "--name", "waits", "--memory", "64M", "--network", "none", "ticker")
        host.create("trashed", kind="vm", image="ticker", memory=64 << 20, network="none")
        host.delete("trashed")
        for name in ("counts", "ended"):
            host.polder("run", "--kind", "vm", "--name", name, "--memory", "64M", "--network", "none", "ticker")
        host.create("other", start=True)
        eventually(lambda: "aaab" in host.polder("logs", "counts").stdout, guestlib.BOOT, "the first numbers")
        pids = {name: pid_of(host, name) for name in ("counts", "ended")}
        host.kill9()
        os.kill(pids["ended"], signal.SIGKILL)
        # With all its threads, which close its files: or those would hang, and it with them.
        eventually(lambda: len(threads_of(pids["ended"])) < 2 and not guestlib.is_alive(pids["ended"]), what="the end of QEMU")
        hang()
        for again in (False, True):
            begun = time.monotonic()
            host.start()
            assert time.monotonic() - begun < START
            check_beside_hanging_storage(host, pids["counts"])
            if not again:
                host.begin("waits", "start")
            waits = eventually(lambda: host.instance("waits")["status"].get("message"), what="what it waits for")
            # After a start its own disk is asked first.
            assert f"{host.state}/{'instances' if again else 'images'}" in waits, waits
            assert host.state_of("waits") == ("created" if again else "starting")
            assert not [one for one in host.get("/v1/operations")["operations"] if one["state"] == "failed"]
            problem = host.problem(504, "POST", "/v1/instances/ended/restart?wait=60s", {})
            assert problem["code"] == "unresponsive" and str(host.state) in problem["detail"], problem
            begun = time.monotonic()
            assert host.stop() == 0
            assert time.monotonic() - begun < START
        host.start()
        go_on()
        host.wait_state("waits", "running")
        eventually(lambda: host.instance("ended")["status"].get("reason") != "unresponsive", what="the other to be known")
        host.polder("image", "import", guestlib.ticker(host.directory), "--name", "again")
        assert host.instance("counts")["status"]["pid"] == pids["counts"]
        host.polder("undelete", "trashed")
        host.check_clean()
        host.polder("rm", "--force", "--purge", "waits", "counts", "ended", "other", "trashed")


@pytest.mark.long
def test_restore_is_canceled_while_storage_hangs(request):
    """Nothing was touched yet: it is suspended again at once, and restored when the storage answers."""
    with all_hanging(request) as (host, hang, go_on):
        host.start()
        host.polder("image", "import", guestlib.ticker(host.directory), "--name", "ticker")
        host.polder("run", "--kind", "vm", "--name", "kept", "--memory", "64M", "--network", "none", "ticker")
        eventually(lambda: "aaab" in host.polder("logs", "kept").stdout, guestlib.BOOT, "the first numbers")
        host.act("kept", "suspend")
        hang()
        operation = host.begin("kept", "start")
        eventually(lambda: "does not answer" in host.instance("kept")["status"].get("message", ""), what="what it waits for")
        assert host.request("DELETE", f"/v1/operations/{operation['id']}").status in (200, 202)
        eventually(lambda: host.state_of("kept") == "suspended", what="it is as before")
        assert host.operation(operation["id"], 60)["state"] == "canceled"
        go_on()
        host.act("kept", "start")
        assert host.state_of("kept") == "running"
        host.polder("rm", "--force", "--purge", "kept")


def threads_of(pid):
    try:
        return os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []


def check_beside_hanging_storage(host, pid):
    """What needs no storage works, what asks for all is told in time, and doctor names the places."""
    for _ in range(5):
        begun = time.monotonic()
        assert len(host.list()) == 4 and host.get("/v1/images")["images"]
        assert time.monotonic() - begun < 5
    assert host.state_of("counts") == "running" and pid_of(host, "counts") == pid
    status = host.instance("ended")["status"]
    assert status["reason"] == "unresponsive" and str(host.state) in status["message"], status
    host.act("other", "pause")
    host.act("other", "resume")
    found = host.polder("doctor", status=None, timeout=30).stdout
    for place in ("images", "instances"):
        assert f"{host.state}/{place}" in found, found


@pytest.mark.long
def test_trash_while_the_image_store_hangs(request):
    """Each minute the trash is emptied and the image store tidied: that the second never ends does not keep the first from it."""
    pytest.importorskip("fusepy", reason="python3-fusepy is not installed")
    daemon = guestlib.HostDaemon(arguments=["--fake-driver", "--trash", "1s"])
    storage = guestlib.HangingStorage(daemon, daemon.state / "images")
    try:
        daemon.start()
        for name in ("first", "second"):
            daemon.create(name)
        storage.hang()
        for name in ("first", "second"):  # the second one only after the sweep that began to tidy
            daemon.delete(name)
            eventually(lambda: name not in {one["name"] for one in daemon.list("?deleted=true")}, 180, f"the end of {name}")
        storage.go_on()
        daemon.check_clean()
    finally:
        storage.go_on()
        daemon.close(check=False)
        storage.process.wait(DEADLINE)
