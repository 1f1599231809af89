# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host runs out of, or takes away: room in the run directory (F12), memory and processor of polderd itself (F24,
F25), ids and loop devices (F48), storage that hangs (F44); and a store that goes to a newer schema while instances run (F38)."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import uuid

import pytest

import guestlib
import polderlib
from polderlib import DEADLINE, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
MEBIBYTE = 1 << 20
ENDLESS = ["sleep", "100000"]


@contextlib.contextmanager
def prepared(request, *commands, run=None, mounts=()):
    """A daemon with every driver, the fake one too, on a host of its own where these commands ran before it started."""
    daemon = guestlib.HostDaemon(arguments=["--fake-driver"])
    daemon.run = run or daemon.run
    daemon.mounts = [mount.format(**vars(daemon)) for mount in mounts]
    try:
        for folder in (daemon.state / "instances", daemon.run):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
        for command in commands:
            daemon.host("sh", "-c", command.format(**vars(daemon)))
        daemon.start()
        daemon.polder("image", "build", "busybox")
        yield daemon
    except BaseException:
        print(f"--- {daemon.log_path} ends with:\n{daemon.log()[-8000:]}")
        daemon.close(check=False)
        raise
    daemon.close()


def container(daemon, name, start=True, **options):
    options.setdefault("command", ENDLESS)
    return daemon.create(name, start=start, kind="container", image="busybox", network="none", **options)


def store_rows(daemon, statement, *values):
    with sqlite3.connect(daemon.state / "store.db") as database:
        return database.execute(statement, values).fetchall()


# ---- F12: the run directory alone is full ----

@pytest.fixture
def small_place():
    """A tmpfs that was there before the daemon's host came to be, so that both see it."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=711", "polder-test", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


def test_full_run_directory(request, small_place):
    """What runs goes on and can be stopped and removed, a start is refused for what it is and leaves nothing, a daemon that
    dies comes back, and with room all is as before."""
    with prepared(request, run=small_place / "run") as daemon:
        for name in ("one", "two"):
            container(daemon, name)
            daemon.create(f"fake-{name}", start=True)
        daemon.host("sh", "-c", f"head -c 4M /dev/zero > {small_place}/filler || true")
        for kind in ("container", "fake"):
            problem = daemon.problem(507, "POST", "/v1/instances?start=true&wait=60s",
                                     {"name": f"no-{kind}", "spec": {"kind": kind, "network": "none", "image": "busybox"}})
            assert problem["code"] == "no-space", problem
            assert daemon.state_of(f"no-{kind}") in ("failed", "stopped")
            assert guestlib.processes_of(daemon.instance(f"no-{kind}")["assigned"]["uuid"]) == []
        assert daemon.state_of("one") == daemon.state_of("fake-one") == "running"
        daemon.act("two", "stop", {"timeout": "0s"})
        daemon.delete("two", purge=True)
        pid = daemon.instance("one")["status"]["pid"]
        daemon.restart(kill=True)
        assert daemon.state_of("one") == "running" and daemon.instance("one")["status"]["pid"] == pid
        assert daemon.state_of("fake-one") == "running"
        (small_place / "filler").unlink()
        for name in ("no-container", "no-fake"):
            daemon.act(name, "start")
        daemon.check_clean()


# ---- F44: storage that hangs ----

def test_storage_that_hangs(request):
    """The file system of instances' disks freezes. Reads, other instances and what is on other file systems go on, however
    many starts wait for it; afterwards those go on too, and nothing was lost."""
    mount = ("truncate -s 256M {directory}/disk.img && mkfs.ext4 -q {directory}/disk.img && "
             "mount -o loop {directory}/disk.img {state}/instances && chmod 711 {state}/instances")
    with prepared(request, mount, mounts=["{state}/instances"]) as daemon:
        place = daemon.state / "instances"
        container(daemon, "old", cpus=0.1)
        container(daemon, "stopped", start=False, cpus=0.1)
        daemon.create("other", start=True)
        daemon.host("fsfreeze", "--freeze", place)
        try:
            for number in range(8):  # more than there are threads for such work
                daemon.create(f"waits{number}", start=True, wait=False, kind="container", image="busybox", network="none",
                              command=ENDLESS, cpus=0.1)
            daemon.begin("stopped", "start")
            eventually(lambda: all(daemon.state_of(f"waits{number}") == "starting" for number in range(8)))
            for _ in range(20):
                begun = time.monotonic()
                assert len(daemon.list()) == 11 and daemon.get("/v1/instances/old")["status"]["state"] == "running"
                assert time.monotonic() - begun < 5
            daemon.create("new", start=True)
            daemon.act("other", "stop")
            daemon.act("new", "pause")
            daemon.delete("other")
            assert daemon.execute("old", "cat", "/proc/uptime", timeout=DEADLINE)
            assert not any(daemon.state_of(f"waits{number}") == "running" for number in range(8))
        finally:
            daemon.host("fsfreeze", "--unfreeze", place)
        for name in [f"waits{number}" for number in range(8)] + ["stopped"]:
            daemon.wait_state(name, "running")
        daemon.check_clean()


def test_start_while_storage_is_frozen(request):
    """polderd starts while the file systems of images and instances are frozen: a running container is taken over and can be
    used, a start waits and says for what, and goes on by itself."""
    mount = ("for part in instances images; do mkdir -p {state}/$part && truncate -s 256M {directory}/$part.img && "
             "mkfs.ext4 -q {directory}/$part.img && mount -o loop {directory}/$part.img {state}/$part && chmod 711 {state}/$part; done")
    with prepared(request, mount, mounts=["{state}/instances", "{state}/images"]) as daemon:
        container(daemon, "old")
        container(daemon, "stopped", start=False)
        pid = daemon.instance("old")["status"]["pid"]
        daemon.kill9()
        for part in ("images", "instances"):
            daemon.host("fsfreeze", "--freeze", daemon.state / part)
        try:
            begun = time.monotonic()
            daemon.start()
            assert time.monotonic() - begun < 30
            assert daemon.instance("old")["status"]["pid"] == pid and daemon.state_of("old") == "running"
            assert daemon.execute("old", "cat", "/proc/uptime", timeout=DEADLINE)
            daemon.begin("stopped", "start")
            message = eventually(lambda: daemon.instance("stopped")["status"].get("message"), what="what it waits for")
            assert f"{daemon.state}/images" in message, message
            # A wish that is taken back is not done when the storage answers.
            daemon.act("stopped", "stop", {"timeout": "0s"})
            assert daemon.state_of("stopped") == "stopped"
            daemon.begin("stopped", "start")
        finally:
            for part in ("images", "instances"):
                daemon.host("fsfreeze", "--unfreeze", daemon.state / part)
        daemon.wait_state("stopped", "running")
        daemon.check_clean()


def test_start_while_the_store_is_frozen(make_daemon):
    """Without its store polderd can do nothing: it says what it waits for, has systemd wait with it, ends when it is told to,
    and starts when the store answers."""
    daemon = make_daemon(log_level="info")
    daemon.state.mkdir(parents=True)
    image = daemon.directory / "state.img"
    with open(image, "wb") as file:
        file.truncate(64 * MEBIBYTE)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, daemon.state], check=True)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(daemon.directory / "notify"))
    notified.settimeout(DEADLINE)
    frozen = False
    try:
        daemon.state.chmod(0o711)
        daemon.environment = {**daemon.environment, "NOTIFY_SOCKET": str(daemon.directory / "notify")}
        for last in (False, True):
            subprocess.run(["fsfreeze", "--freeze", daemon.state], check=True)
            frozen = True
            daemon.spawn()
            told = notified.recv(4096).decode()
            assert "EXTEND_TIMEOUT_USEC=" in told and f"{daemon.state}/store.db" in told, told
            assert f"{daemon.state}/store.db" in daemon.log()
            if not last:
                daemon.signal(signal.SIGTERM)
                assert daemon.wait_gone() == 0
            subprocess.run(["fsfreeze", "--unfreeze", daemon.state], check=True)
            frozen = False
        while "READY=1" not in told:
            told = notified.recv(4096).decode()
        daemon.wait_ready()
        daemon.create("one", start=True)
        daemon.delete("one", purge=True)
        daemon.check_clean()
        assert daemon.stop() == 0
    finally:
        if frozen:
            subprocess.run(["fsfreeze", "--unfreeze", daemon.state], check=True)
        if daemon.is_alive():
            daemon.kill9()
        notified.close()
        subprocess.run(["umount", "--lazy", daemon.state], check=True)


# ---- F24, F25: the daemon's own memory and processor ----

class Group:
    """A control group of a version 1 or 2 hierarchy, for polderd alone; what it starts has groups of its own."""

    def __init__(self, controller):
        root = pathlib.Path("/sys/fs/cgroup")
        self.version = 1 if (root / controller / "tasks").exists() else 2
        if self.version == 2 and controller not in (root / "cgroup.controllers").read_text().split():
            pytest.skip(f"no controller '{controller}' here")
        if self.version == 2:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        self.path = (root / controller if self.version == 1 else root) / f"polder-test-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()

    def write(self, first, second, value):
        (self.path / (first if self.version == 1 else second)).write_text(str(value))

    def take(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self):
        eventually(lambda: not (self.path / "cgroup.procs").read_text().split())
        self.path.rmdir()


@pytest.fixture
def group():
    made = []

    def make(controller):
        made.append(Group(controller))
        return made[-1]
    yield make
    for one in made:
        one.remove()


def may_protect_itself():
    return subprocess.run(["sh", "-c", "echo -500 > /proc/self/oom_score_adj"], check=False, capture_output=True).returncode == 0


def test_protection_is_not_inherited(request):
    """polderd is spared when the kernel looks for memory; what it runs is not, nor what runs that."""
    with prepared(request) as daemon:
        container(daemon, "box")
        daemon.host("truncate", "-s", "1M", daemon.directory / "blank.raw")
        daemon.polder("image", "import", daemon.directory / "blank.raw", "--name", "blank")
        daemon.create("machine", start=True, kind="vm", image="blank", network="none", memory=64 * MEBIBYTE)
        if may_protect_itself():
            assert int(pathlib.Path(f"/proc/{daemon.pid}/oom_score_adj").read_text()) == -500
        for name in ("box", "machine"):
            instance = daemon.instance(name)
            own = {pid: int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text())
                   for pid in guestlib.processes_of(instance["assigned"]["uuid"])
                   if "conmon" not in pathlib.Path(f"/proc/{pid}/comm").read_text()}
            assert instance["status"]["pid"] in own and set(own.values()) == {0}, own


def test_daemon_without_memory(group, make_daemon):
    """Its own memory has a limit, and it runs into it: the kernel ends it, nothing that runs is touched, and all that was
    acknowledged is there when it comes back."""
    limited = group("memory")
    daemon = make_daemon(log_level="info").start()
    for number in range(10):
        daemon.create(f"run{number}", start=True)
    limited.take(daemon.pid)
    limited.write("memory.limit_in_bytes", "memory.max", daemon.resident() + 12 * MEBIBYTE)
    acknowledged = []
    while daemon.is_alive() and len(acknowledged) < 1000:
        name = f"big{len(acknowledged)}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = daemon.request("POST", "/v1/instances?wait=20s", {"name": name, "spec": {
                "kind": "fake", "labels": {f"l{part}": "x" * 4000 for part in range(15)}}})
            if reply.status == 503:
                break
            assert reply.status == 200, reply
            acknowledged.append(name)
        daemon.drop_clients()
    assert len(acknowledged) < 1000, "it never ran into the limit"
    if daemon.is_alive():
        limited.write("memory.limit_in_bytes", "memory.max", -1 if limited.version == 1 else "max")
    else:
        assert daemon.process.returncode == -signal.SIGKILL, daemon.log()[-2000:]
        daemon.start()
    assert len(acknowledged) > 3
    assert set(acknowledged) <= {one["name"] for one in daemon.list()}
    assert all(daemon.state_of(f"run{number}") == "running" for number in range(10))
    daemon.check_clean()


def test_daemon_without_processor(group, make_daemon):
    """With a hundredth of a processor it still answers, and blames nobody else for what it does not get."""
    limited = group("cpu")
    daemon = make_daemon(log_level="info").start()
    for number in range(50):
        daemon.create(f"run{number}", start=True)
    daemon.create("ends", start=True, labels={"run": "delay=2s,exit=3"})
    limited.take(daemon.pid)
    if limited.version == 1:
        limited.write("cpu.cfs_quota_us", "", 1000)
    else:
        limited.write("", "cpu.max", "1000 100000")
    client = daemon.client(timeout=2 * DEADLINE)
    for _ in range(5):
        assert client.request("GET", "/healthz").status == 200
        assert len(client.request("GET", "/v1/instances").json["instances"]) == 51
    reply = client.request("POST", "/v1/instances?start=true&wait=60s", {"name": "new", "spec": {"kind": "fake"}})
    assert reply.status == 200, reply
    limited.write("cpu.cfs_quota_us", "cpu.max", -1 if limited.version == 1 else "max")
    daemon.wait_state("ends", "failed")
    assert daemon.instance("ends")["status"]["exit_code"] == 3
    states = {one["name"]: one["status"]["state"] for one in daemon.list()}
    assert [name for name, state in states.items() if state != "running"] == ["ends"]
    daemon.check_clean()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_says_where(make_daemon, number):
    """Without a core, and so that a reader of the journal can name the functions; instances go on, and the next polderd takes over."""
    if polderlib.build_option("b_sanitize") not in ("none", None, []):
        pytest.skip("sanitizers report instead")
    daemon = make_daemon().start()
    daemon.create("fake", start=True)
    daemon.drop_clients()
    daemon.signal(number)
    assert daemon.process.wait(DEADLINE) == -number
    text = daemon.log()
    assert re.search(rf"ends by signal {int(number)}, sent by process {os.getpid()}; instances run on\. It was in:", text), text[-2000:]
    frames = re.findall(r"polderd\(\+0x([0-9a-f]+)\)", text)
    assert frames, text[-2000:]
    named = subprocess.run(["addr2line", "-f", "-e", polderlib.build_directory() / "src/daemon/polderd", *frames],
                           capture_output=True, text=True, check=True).stdout
    assert {"fiber_main", "main"} & set(named.split()), named  # a fiber of its own, or the loop between two
    daemon.start()
    assert daemon.state_of("fake") == "running"


def test_stalled_daemon_blames_no_machine(request):
    """polderd stands still for longer than a machine may take to answer: that is not the machine's fault."""
    with prepared(request) as daemon:
        daemon.host("truncate", "-s", "1M", daemon.directory / "blank.raw")
        daemon.polder("image", "import", daemon.directory / "blank.raw", "--name", "blank")
        daemon.create("machine", start=True, kind="vm", image="blank", network="none", memory=64 * MEBIBYTE, restart="always")
        pid = daemon.instance("machine")["status"]["pid"]
        daemon.signal(signal.SIGSTOP)
        time.sleep(13)
        daemon.signal(signal.SIGCONT)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            status = daemon.instance("machine")["status"]
            assert status["state"] == "running" and not status["unresponsive"] and status["pid"] == pid, status
            time.sleep(0.1)


# ---- F48: what there is a number of ----

def test_ids_run_out(make_daemon):
    """Every range of user ids is somebody's: told so, nothing half made, and one that is given back is enough."""
    daemon = make_daemon(log_level="info").start()
    daemon.create("first")
    assigned = daemon.instance("first")["assigned"]
    daemon.stop()
    (key, value), = store_rows(daemon, "SELECT key, value FROM item WHERE key LIKE '/instances/%'")
    (name_key, name_value), = store_rows(daemon, "SELECT key, value FROM item WHERE key LIKE '/names/%'")
    ranges = (0x7fffffff - 1000013824) // 65536
    with sqlite3.connect(daemon.state / "store.db") as database:
        for number in range(1, ranges):
            identifier, name = str(uuid.UUID(int=uuid.UUID(assigned["uuid"]).int ^ (number << 80))), f"n{number}"

            def renamed(text):
                return text.replace(assigned["uuid"], identifier).replace("first", name)
            record = json.loads(value)
            taken = 1000013824 + 65536 * number if 1000013824 + 65536 * number != assigned["uid_base"] else 1000013824
            record.update(name=name, assigned={**record["assigned"], "uuid": identifier, "uid_base": taken})
            database.execute("INSERT INTO item (key, value, revision) VALUES (?, ?, 1)", (renamed(key), json.dumps(record).encode()))
            database.execute("INSERT INTO item (key, value, revision) VALUES (?, ?, 1)",
                             (renamed(name_key), renamed(name_value.decode()).encode()))
    daemon.start(deadline=4 * DEADLINE)
    assert len(daemon.list()) == ranges
    for _ in range(3):
        problem = daemon.problem(507, "POST", "/v1/instances?start=true", {"name": "more", "spec": {"kind": "fake"}})
        assert problem["code"] == "exhausted", problem
        assert daemon.state_of("more") is None
    daemon.delete("n77", purge=True)
    daemon.create("more", start=True)
    freed = {1000013824 + 65536 * 77} if assigned["uid_base"] != 1000013824 + 65536 * 77 else {1000013824}
    assert daemon.instance("more")["assigned"]["uid_base"] in freed
    daemon.act("more", "stop")
    assert daemon.stop() == 0
    shutil.rmtree(daemon.state)  # or each of them would be removed by a request of its own
    shutil.rmtree(daemon.run)


def test_loop_devices_run_out(request):
    """No loop device for a container's disk: said so, nothing left, and the next that needs none starts."""
    with prepared(request, "mount -t tmpfs none /dev/shm", "mount --bind /dev/null /dev/loop-control",
                  "for one in /dev/loop[0-9]*; do mount --bind /dev/null $one; done") as daemon:
        body = {"name": "bounded", "spec": {"kind": "container", "image": "busybox", "network": "none", "command": ENDLESS,
                                            "disk": 32 * MEBIBYTE}}
        problem = daemon.problem(507, "POST", "/v1/instances?start=true&wait=60s", body)
        assert problem["code"] == "exhausted" and "loop device" in problem["detail"], problem
        assert daemon.state_of("bounded") == "failed"
        assert guestlib.processes_of(daemon.instance("bounded")["assigned"]["uuid"]) == []
        container(daemon, "plain")
        assert daemon.execute("plain", "echo", "there") == "there\n"
        daemon.check_clean()


# ---- F02: system calls that fail ----

CALLS = {"openat": ("EIO", "EMFILE"), "write": ("EIO", "ENOSPC"), "pwrite64": ("EIO", "ENOSPC"), "fdatasync": ("EIO",),
         "fsync": ("EIO",), "mkdirat": ("ENOSPC",), "mkdir": ("ENOSPC",), "rename": ("EIO",), "renameat": ("EIO",), "renameat2": ("EIO",),
         "unlink": ("EIO",), "unlinkat": ("EIO",), "accept4": ("EMFILE",), "sendto": ("ENOBUFS",), "recvfrom": ("ENOMEM",),
         "epoll_ctl": ("ENOMEM",), "epoll_wait": ("EINTR",), "timerfd_settime": ("ENOMEM",), "mmap": ("ENOMEM",), "read": ("EIO",),
         "ftruncate": ("EIO",), "fallocate": ("ENOSPC",), "getrandom": ("EINTR",), "fcntl": ("EIO",), "pread64": ("EIO",)}
# What polderd and its children on their way to another program call besides for a real instance; "?": where there is such a call.
HOST_CALLS = {"?clone3": ("EAGAIN",), "clone": ("EAGAIN",), "vfork": ("EAGAIN",), "execve": ("ENOMEM", "EIO"), "waitid": ("EINTR",),
              "pidfd_open": ("EMFILE",), "pidfd_send_signal": ("EPERM",), "kill": ("EPERM",), "mount": ("EPERM", "ENOMEM"),
              "umount2": ("EBUSY",), "fsopen": ("ENOMEM",), "fsconfig": ("ENOMEM",), "fsmount": ("ENOMEM",), "move_mount": ("ENOMEM",),
              "open_tree": ("ENOMEM",), "mount_setattr": ("EPERM",), "openat2": ("EIO", "EMFILE"), "socket": ("EMFILE",), "connect": ("EAGAIN",),
              "bind": ("ENOMEM",), "sendmsg": ("ENOBUFS",), "recvmsg": ("ENOMEM",), "socketpair": ("EMFILE",), "pipe2": ("EMFILE",),
              "eventfd2": ("EMFILE",), "unshare": ("ENOSPC",), "setns": ("EPERM",), "ioctl": ("EIO",), "prctl": ("EPERM",),
              "symlinkat": ("ENOSPC",), "symlink": ("ENOSPC",), "linkat": ("EIO",), "fchownat": ("EIO",), "fchown": ("EIO",),
              "chmod": ("EIO",), "fchmod": ("EIO",), "rmdir": ("EBUSY",), "getdents64": ("EIO",), "fstat": ("EIO",), "newfstatat": ("EIO",),
              "statx": ("EIO",), "flock": ("EIO",), "dup3": ("EMFILE",), "dup2": ("EBUSY",), "mknodat": ("ENOSPC",)}


class Injection:
    """strace on the daemon: the N-th call of a kind, counted from now on, fails, or kills it."""

    def __init__(self, daemon, call, action, number):
        self.log = daemon.directory / "strace"
        self.log.unlink(missing_ok=True)
        # Not the other programs that it starts: those it lets go at their execve.
        self.process = subprocess.Popen(["strace", "-f", "-b", "execve", "-qq", "-o", self.log, "-p", str(daemon.pid), "-e",
                                         f"trace={call}", "-e", f"inject={call}:{action}:when={number}"],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        eventually(lambda: self.process.poll() is not None or self.is_attached(daemon), what="strace to be there")

    def is_attached(self, daemon):
        with contextlib.suppress(OSError):
            tasks = list(pathlib.Path(f"/proc/{daemon.pid}/task").iterdir())
            return tasks and all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks)
        return True

    def end(self):
        """Whether it did anything."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(DEADLINE)
        self.process.stderr.close()
        return self.log.exists() and "(INJECTED)" in self.log.read_text(errors="replace") or "SIGKILL" in self.log.read_text(errors="replace")


def life(daemon, name, **spec):
    """One instance's life. The state that was acknowledged last, or "unknown"."""
    acknowledged = "unknown"
    steps = [("POST", "/v1/instances?start=true&", {"name": name, "spec": spec or {"kind": "fake"}}, "running"),
             ("POST", f"/v1/instances/{name}/pause?", None, "paused"), ("POST", f"/v1/instances/{name}/resume?", None, "running"),
             ("PATCH", f"/v1/instances/{name}?", {"spec": {"description": "x"}}, "running"),
             ("POST", f"/v1/instances/{name}/stop?", None, "stopped"), ("DELETE", f"/v1/instances/{name}?purge=true&", None, "gone")]
    for method, path, body, state in steps:
        try:
            reply = daemon.request(method, f"{path}wait={20 if not spec else DEADLINE - 20}s", body)
        except Exception:  # it ended, or this connection was given up
            daemon.drop_clients()
            eventually(lambda: not daemon.is_alive() or answers(daemon), what="an end or an answer")
            acknowledged = "unknown"
            if not daemon.is_alive():
                return acknowledged
            continue
        if reply.status == 200:
            acknowledged = state
        else:
            assert "problem+json" in reply.headers.get("content-type", "") or reply.status == 202, reply
            acknowledged = "unknown"
    return acknowledged


def answers(daemon):
    try:
        return daemon.client(timeout=5).request("GET", "/healthz").status == 200
    except Exception:
        return False


def check_after(daemon, name, acknowledged, where, killed=False):
    """It answers or has ended by its own decision; started again, the store is whole and what was acknowledged is so."""
    if not daemon.is_alive():
        code = daemon.process.returncode
        assert code >= 0 or (killed and code == -signal.SIGKILL), f"{where}: it died of signal {-code}\n{daemon.log()[-3000:]}"
        daemon.start()
    else:
        assert answers(daemon), f"{where}: it lives and does not answer"
    eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"],
               what=f"{where}: the end of all operations")
    state = daemon.state_of(name)
    if acknowledged == "gone":
        assert state is None, f"{where}: it was removed and is {state}"
    elif acknowledged != "unknown":
        assert state == acknowledged, f"{where}: it was {acknowledged} and is {state}"
    assert daemon.state_of("beside") == "running", where
    found = daemon.fsck(repair=True)
    assert found["clean"] or daemon.fsck()["clean"], (where, found)
    if state:
        daemon.delete(name, purge=True)


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.long)], ids=["short", "long"])
def test_system_calls_that_fail(make_daemon, count):
    """The N-th system call of a kind fails, or polderd is killed at it, somewhere in an instance's life."""
    if polderlib.build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("sanitizers make system calls of their own, and end at the first that fails")
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    daemon = make_daemon(log_level="info").start()
    daemon.create("beside", start=True)
    chance, hits = random.Random(2), 0
    for number in range(count):
        call = chance.choice(sorted(CALLS))
        killed = chance.random() < 0.3
        action = "signal=KILL" if killed else f"error={chance.choice(CALLS[call])}"
        injection = Injection(daemon, call, action, chance.choice((1, 1, 2, 3, 5, 8, 13, 30)))
        try:
            acknowledged = life(daemon, "web")
        finally:
            hits += bool(injection.end())
        check_after(daemon, "web", acknowledged, f"round {number}, {call}, {action}", killed)
    assert hits > count // 4, hits


REAL = {
    "container": {"kind": "container", "image": "busybox", "network": "default", "command": ENDLESS, "memory": "64MiB",
                  "stop_timeout": "1s"},
    "microvm": {"kind": "microvm", "image": "busybox", "network": "default", "command": ENDLESS, "memory": "128MiB",
                "stop_timeout": "1s"},
    "vm": {"kind": "vm", "image": "ticker", "network": "default", "memory": "64MiB", "stop_timeout": "1s"},
}


def check_nothing_left(daemon, identifiers, where):
    """Of removed instances neither a process nor a directory nor a mount."""
    for uuid in identifiers:
        eventually(lambda: not guestlib.processes_of(uuid), what=f"{where}: the end of {guestlib.processes_of(uuid)}")
        assert not (daemon.run / "i" / uuid).exists() and not (daemon.state / "instances" / uuid).exists(), where
        assert uuid not in pathlib.Path(f"/proc/{daemon.holder.pid}/mounts").read_text(), where


@pytest.mark.parametrize("kind, count", [("container", 12), pytest.param("container", 400, marks=pytest.mark.long),
                                         pytest.param("microvm", 100, marks=pytest.mark.long),
                                         pytest.param("vm", 100, marks=pytest.mark.long)])
def test_system_calls_that_fail_around_real_instances(request, kind, count):
    """The same while polderd sets up, ends and removes a container or a machine; another one beside it runs on."""
    if polderlib.build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("sanitizers make system calls of their own, and end at the first that fails")
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    if kind == "microvm" and not guestlib.kernel_directory():
        pytest.skip("POLDER_TEST_KERNEL_DIR names no kernel")
    calls, chance, hits = {**CALLS, **HOST_CALLS}, random.Random(f"{kind} {count}"), 0
    with prepared(request) as daemon:
        if kind == "vm":
            daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")
        beside = daemon.create("beside", start=True, **REAL["container"]) and daemon.instance("beside")["status"]["pid"]
        for number in range(count):
            call = chance.choice(sorted(calls))
            killed = chance.random() < 0.2
            action = "signal=KILL" if killed else f"error={chance.choice(calls[call])}"
            where = f"round {number}, {call}, {action}"
            injection = Injection(daemon, call, action, chance.choice((1, 1, 2, 3, 5, 8, 13, 30)))
            try:
                acknowledged = life(daemon, "web", **REAL[kind])
                known = {one["assigned"]["uuid"] for one in daemon.list() if one["name"] == "web"} if daemon.is_alive() else set()
            finally:
                hits += bool(injection.end())
            check_after(daemon, "web", acknowledged, where, killed)
            check_nothing_left(daemon, known, where)
            assert daemon.instance("beside")["status"]["pid"] == beside and guestlib.is_alive(beside), where
        assert hits >= count // 4, hits


def test_signals_that_are_refused(request):
    """A process that cannot be ended is not waited for: the N-th signal that polderd sends is refused."""
    if polderlib.build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("sanitizers make system calls of their own, and end at the first that fails")
    with prepared(request) as daemon:
        daemon.create("beside", start=True, **REAL["container"])
        for number, call in ((1, "kill"), (2, "kill"), (1, "pidfd_send_signal"), (2, "pidfd_send_signal")):
            injection = Injection(daemon, call, "error=EPERM", number)
            try:
                acknowledged = life(daemon, "web", **REAL["container"])
            finally:
                injection.end()
            check_after(daemon, "web", acknowledged, f"{call} {number}")


# ---- F38: a newer schema, while instances run ----

STEP = "ALTER TABLE item ADD COLUMN note TEXT NOT NULL DEFAULT ''; UPDATE item SET note = 'carried over';"


def needs_failpoints():
    if not polderlib.build_option("failpoints"):
        pytest.skip("this build has no fail points")


def schema_of(daemon):
    return store_rows(daemon, "PRAGMA user_version")[0][0]


@pytest.mark.parametrize("point", [None, "schema-before-commit", "schema-after-commit"])
def test_upgrade_with_running_instances(request, point):
    """A polderd that knows one schema more finds a store and containers of the one before: it carries the store over, keeps
    a copy, and takes every instance over as it runs, also when it is killed on the way. The older one then refuses, touches
    nothing, and starts again with the copy."""
    needs_failpoints()
    with prepared(request) as daemon:
        container(daemon, "box", command=["sh", "-c", guestlib.Counter.SCRIPT])
        container(daemon, "idle", start=False)
        for number in range(5):
            daemon.create(f"fake{number}", start=True)
        daemon.delete("fake4")
        before = {one["name"]: (one["spec"], one["assigned"], one["status"]["state"], one["status"].get("pid"))
                  for one in daemon.list("?deleted=true")}
        counter = guestlib.Counter(daemon, "box")
        counter.wait_above(0)
        old = schema_of(daemon)
        daemon.kill9()
        daemon.environment = {"POLDER_SCHEMA_STEP": STEP}
        if point:
            daemon.environment["POLDER_FAILPOINTS"] = f"{point}=kill@1"
            daemon.spawn()
            assert daemon.wait_gone() == -signal.SIGKILL
            del daemon.environment["POLDER_FAILPOINTS"]
        daemon.start()
        assert schema_of(daemon) == old + 1 and (daemon.state / f"store.db.schema-{old}").exists()
        assert store_rows(daemon, "SELECT count(*) FROM item WHERE note = 'carried over'")[0][0] > 7
        after = {one["name"]: (one["spec"], one["assigned"], one["status"]["state"], one["status"].get("pid"))
                 for one in daemon.list("?deleted=true")}
        assert after == before
        counter.wait_above(counter.value())
        daemon.check_clean()
        daemon.stop()
        daemon.environment = {}
        daemon.spawn()
        assert daemon.wait_gone() == 1 and f"schema {old + 1}" in daemon.log()
        for path in daemon.state.glob("store.db-*"):
            path.unlink()
        shutil.copy(daemon.state / f"store.db.schema-{old}", daemon.state / "store.db")
        daemon.start()
        assert daemon.instance("box")["status"]["pid"] == before["box"][3]
        counter.wait_above(counter.value())


KEPT = pathlib.Path(__file__).parent / "data/store-schema-1.sql"


def test_store_of_the_first_release(make_daemon):
    """A store as the first release left it, with instances that ran, were stopped and were trashed: this polderd takes them
    over. The dump is never made anew; only the boot id and the host's name in it stand for this host's, and what is in the
    trash was put there now, or it would be overdue."""
    daemon = make_daemon(log_level="info")
    daemon.state.mkdir(parents=True)
    (daemon.run / "i").mkdir(parents=True)
    for path in (daemon.state, daemon.run, daemon.run / "i"):
        path.chmod(0o711)
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = KEPT.read_text().replace("@BOOT@", boot).replace("@NODE@", os.uname().nodename)
    text = re.sub('(?<="deleted":")2[^"]*', time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), text)
    with sqlite3.connect(daemon.state / "store.db") as database:
        database.executescript(text)
    database.close()
    (daemon.state / "store.db").chmod(0o600)
    records = [json.loads(row[0]) for row in store_rows(daemon, "SELECT value FROM item WHERE key LIKE '/instances/%'")]
    for record in records:
        if record["status"]["state"] == "running":
            place = daemon.run / "i" / record["assigned"]["uuid"]
            place.mkdir(mode=0o711)
            (place / "fake").write_text(f"running {record['status']['pid']} 0 -1 0\n")
    daemon.start()
    found = {one["name"]: one for one in daemon.list("?deleted=true")}
    assert set(found) == {record["name"] for record in records} and len(found) >= 4
    for record in records:
        one = found[record["name"]]
        assert one["spec"] == {**one["spec"], **record["spec"]} and one["assigned"]["uuid"] == record["assigned"]["uuid"]
        assert one["status"]["state"] == record["status"]["state"], one
        if record["status"]["state"] == "running":
            assert one["status"]["pid"] == record["status"]["pid"]
    assert daemon.audit(), "and who did what"
    daemon.check_clean()
    running = next(name for name, one in found.items() if one["status"]["state"] == "running")
    daemon.act(running, "restart")
