# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that others can write to, users that may or may not ask, kernels that lack something, and instances that take what
they can get (attacks A25, A92, A106; fault F49)."""
import contextlib
import ctypes
import grp
import json
import os
import pathlib
import platform
import resource
import shutil
import socket
import stat
import struct
import subprocess
import time

import pytest

import polderlib
from polderlib import DEADLINE, Client, build_directory, eventually
from test_newcomer import doctor

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
containers = pytest.mark.skipif(not all(map(shutil.which, ("crun", "conmon", "busybox"))),
                                reason="crun, conmon or busybox is not installed")


def refused(daemon, words):
    """polderd must end by itself, and say why."""
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
    assert done.returncode != 0 and words in done.stderr, (words, done)
    return done.stderr


# ---- what others can write (A106) ----

CHANGES = {"everybody": lambda path, mode: os.chmod(path, mode | 0o002),
           "a-group": lambda path, mode: (os.chown(path, 0, NOBODY), os.chmod(path, mode | 0o020)),
           "another-owner": lambda path, mode: os.chown(path, NOBODY, 0)}


@pytest.mark.parametrize("change", CHANGES)
def test_configuration_that_others_can_write(make_daemon, change):
    daemon = make_daemon()
    path = daemon.directory / "polderd.conf"
    path.write_text("log_level = debug\n")
    path.chmod(0o600)
    CHANGES[change](path, 0o600)
    assert str(path) in refused(daemon, "that others cannot write")
    os.chown(path, 0, 0)
    path.chmod(0o644)
    daemon.start()


@pytest.mark.parametrize("change", CHANGES)
def test_directory_of_the_configuration(make_daemon, change):
    """Who can write the directory can put another file there."""
    daemon = make_daemon()
    place = daemon.directory / "etc"
    place.mkdir(mode=0o755)
    (place / "polderd.conf").write_text("")
    (place / "polderd.conf").chmod(0o600)
    words = daemon.command()
    words[words.index("--config") + 1] = str(place / "polderd.conf")
    CHANGES[change](place, 0o755)
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and str(place) in done.stderr and "others cannot write" in done.stderr, done


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["state", "run", "libexec"])
def test_directories_that_others_can_write(make_daemon, name, change):
    daemon = make_daemon()
    (daemon.directory / "polderd.conf").touch(mode=0o600)
    place = daemon.directory / name
    place.mkdir(exist_ok=True)
    CHANGES[change](place, 0o755)
    assert str(place) in refused(daemon, "others cannot write")
    os.chown(place, 0, 0)
    place.chmod(0o755)
    daemon.start()


@pytest.mark.parametrize("name", ["state", "run"])
def test_directories_that_are_links(make_daemon, name):
    daemon = make_daemon()
    (daemon.directory / "polderd.conf").touch(mode=0o600)
    (daemon.directory / "elsewhere").mkdir()
    (daemon.directory / name).symlink_to(daemon.directory / "elsewhere")
    refused(daemon, "it must be a directory")
    assert list((daemon.directory / "elsewhere").iterdir()) == []
    (daemon.directory / name).unlink()
    daemon.start()


def test_lock_that_is_a_link(make_daemon):
    daemon = make_daemon()
    (daemon.directory / "polderd.conf").touch(mode=0o600)
    victim = daemon.directory / "victim"
    daemon.run.mkdir()
    (daemon.run / "lock").symlink_to(victim)
    refused(daemon, "lock")
    assert not victim.exists()
    (daemon.run / "lock").unlink()
    daemon.start()


@containers
def test_environment_of_an_attacker(make_daemon):
    """Programs are called by their paths, and get nothing of the daemon's environment."""
    daemon = make_daemon(fake=False)
    bait, touched = daemon.directory / "bait", daemon.directory / "touched"
    bait.mkdir()
    for program in ("crun", "conmon", "busybox", "mount", "nft", "dnsmasq", "skopeo", "qemu-img", "tar", "bsdtar", "sh"):
        (bait / program).write_text(f"#!/bin/sh\n/bin/touch {touched}\n")
        (bait / program).chmod(0o755)
    daemon.environment = {"PATH": str(bait), "TMPDIR": str(bait), "HOME": str(bait), "SECRET_OF_THE_DAEMON": "glockenspiel",
                          "SQLITE_TMPDIR": str(bait), "XDG_RUNTIME_DIR": str(bait)}
    before = sorted(os.listdir(bait))
    daemon.before = None
    daemon.start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    daemon.create("box", start=True, kind="container", image="busybox", network="none", command=["sleep", "1000"])
    pid = daemon.instance("box")["status"]["pid"]
    parent = int(open(f"/proc/{pid}/stat", encoding="ascii").read().rsplit(") ", 1)[1].split()[1])
    for process in (pid, parent):
        assert b"glockenspiel" not in open(f"/proc/{process}/environ", "rb").read()
        assert str(bait).encode() not in open(f"/proc/{process}/environ", "rb").read()
    assert not touched.exists() and sorted(os.listdir(bait)) == before


# ---- who asks (A25, identity) ----

def as_user(function, uid=NOBODY, groups=()):
    """Calls function in a process of that user; returns what it returns, or the name of what it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setgroups(list(groups))
            os.setgid(NOBODY)
            os.setuid(uid)
            try:
                answer = function()
            except OSError as problem:
                answer = type(problem).__name__
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def asking(path, method, target, body=None):
    """A function that gives the status of one request."""
    return lambda: Client(path).request(method, target, body).status


@pytest.fixture
def shared(make_daemon):
    """(daemon, id of the group that may use it), with directories that everybody may pass."""
    group = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY))
    daemon = make_daemon(arguments=["--group", group.gr_name])
    daemon.directory.chmod(0o711)
    return daemon.start(), group.gr_gid


def test_member_of_the_group(shared):
    """May do everything; what it does is noted as its own."""
    daemon, group = shared
    status = os.stat(daemon.socket)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, group, 0o660)
    body = {"name": "mine", "spec": {"kind": "fake"}}
    for method, target, body in [("POST", "/v1/instances?start=true&wait=30s", body), ("GET", "/v1/instances/mine", None),
                                 ("POST", "/v1/instances/mine/stop?wait=30s", {}),
                                 ("PATCH", "/v1/instances/mine?wait=30s", {"spec": {"description": "ours"}}), ("GET", "/v1/audit", None),
                                 ("POST", "/v1/fsck", {}),
                                 ("DELETE", "/v1/instances/mine?purge=true&force=true&wait=30s", None)]:
        answer = as_user(asking(daemon.socket, method, target, body), groups=[group])
        assert answer in (200, 202), (method, target, answer)
    actors = {record["actor"] for record in daemon.audit() if "mine" in json.dumps(record)}
    assert actors and all(str(NOBODY) in actor for actor in actors), daemon.audit()


def test_user_outside_of_the_group(shared):
    daemon, _ = shared
    daemon.create("web")
    other = next(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid not in (0, os.stat(daemon.socket).st_gid))
    for groups in ((), (other,)):
        assert as_user(asking(daemon.socket, "GET", "/v1/instances"), groups=groups) == "PermissionError"
        assert as_user(asking(daemon.reader_socket, "GET", "/v1/instances/web"), groups=groups) == 200
        for method, target, body in [("POST", "/v1/instances/web/start", {}), ("DELETE", "/v1/instances/web", None),
                                     ("PATCH", "/v1/instances/web", {"spec": {"cpus": 2}}), ("GET", "/v1/instances/web/logs", None),
                                     ("POST", "/v1/instances", {"name": "x", "spec": {"kind": "fake"}})]:
            answer = as_user(asking(daemon.reader_socket, method, target, body), groups=groups)
            assert answer == 403 or (method, target) == ("GET", "/v1/instances/web/logs") and answer in (200, 403, 404), target
    assert daemon.state_of("web") == "created"
    # Neither may they put a socket of their own in the place of the daemon's.
    assert as_user(lambda: os.unlink(daemon.socket)) == "PermissionError"
    assert as_user(lambda: os.rename(daemon.reader_socket, daemon.socket)) == "PermissionError"


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "directory", "socket of another"])
def test_something_in_the_place_of_the_socket(make_daemon, kind):
    daemon = make_daemon()
    (daemon.directory / "polderd.conf").touch(mode=0o600)
    daemon.run.mkdir()
    victim = daemon.directory / "victim"
    if kind == "link":
        victim.write_text("precious")
    if "link" in kind:
        daemon.socket.symlink_to(victim)
    elif kind == "file":
        daemon.socket.write_text("precious")
    elif kind == "directory":
        daemon.socket.mkdir()
    else:
        socket.socket(socket.AF_UNIX).bind(str(daemon.socket))
        os.chown(daemon.socket, NOBODY, NOBODY)
    before = os.lstat(daemon.socket)
    assert str(daemon.socket) in refused(daemon, "no socket of ours")
    after = os.lstat(daemon.socket)
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    assert victim.exists() == (kind == "link") and (not victim.exists() or victim.read_text() == "precious")
    daemon.socket.rmdir() if kind == "directory" else daemon.socket.unlink()
    daemon.start()


def test_socket_that_was_replaced_stays(make_daemon):
    """What somebody put in the place of the socket meanwhile is not the daemon's to remove."""
    daemon = make_daemon().start()
    daemon.socket.unlink()
    daemon.socket.write_text("somebody's")
    daemon.stop()
    assert daemon.socket.read_text() == "somebody's" and not daemon.reader_socket.exists()
    daemon.socket.unlink()
    daemon.start()


# ---- kernels that lack something (F49) ----

CALLS = {"openat2": [437], "pidfds": [434], "mount_setattr": [442], "Landlock": [444, 445, 446]}


def without(numbers):
    """For preexec_fn: these system calls answer ENOSYS, as on a kernel that does not know them."""
    load, jump, give = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0)]
    lines += [(jump, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    lines += [(give, 0, 0, 0x7fff0000), (give, 0, 0, 0x00050000 | 38)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)

    def install():
        if libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")
    install.kept = code
    return install


def fake_life(daemon):
    daemon.create("fake", start=True)
    assert daemon.state_of("fake") == "running"
    daemon.act("fake", "restart")
    daemon.delete("fake", purge=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@containers
@pytest.mark.parametrize("feature", CALLS)
def test_system_calls_that_are_missing(make_daemon, feature):
    """doctor names it; what does not need it works; what needs it is refused with a reason, and leaves nothing."""
    daemon = make_daemon(arguments=["--fake-driver"], fake=False)
    daemon.start(preexec_fn=without(CALLS[feature]))
    found = doctor(daemon)[f"the kernel lacks {feature}"]
    assert found["reason"] and (found["advice"] or found["level"] == "note"), found
    assert found["level"] == ("note" if feature == "Landlock" else "error"), found
    fake_life(daemon)
    reply = daemon.request("POST", "/v1/images?wait=60s", {"source": "busybox", "type": "build"})
    if feature == "Landlock":
        assert reply.status == 200, reply
        daemon.create("box", start=True, kind="container", image="busybox", network="none", command=["sleep", "1000"])
        assert daemon.state_of("box") == "running"
        daemon.delete("box", purge=True)
    else:
        # Foreign bytes are not taken with less protection than on other kernels.
        assert reply.status in (422, 500) and reply.code in ("host-lacks", "program-failed"), reply
        assert "Function not implemented" in reply.json["detail"] and daemon.get("/v1/images")["images"] == [], reply
    assert daemon.is_alive()
    # Back on a kernel that has it, everything is as it should be.
    daemon.restart()
    assert not [text for text in doctor(daemon) if text.startswith("the kernel lacks ") and feature in text]
    for name in [row["name"] for row in daemon.list()]:
        daemon.delete(name, purge=True)


HIDDEN = {
    "user namespaces": 'echo 0 >"$hide/0"; mount --bind "$hide/0" /proc/sys/user/max_user_namespaces',
    "overlayfs": 'grep -v overlay /proc/filesystems >"$hide/fs"; mount --bind "$hide/fs" /proc/filesystems; '
                 'if [ -d /lib/modules ]; then mount -t tmpfs none /lib/modules; fi',
    "seccomp": "mount -t tmpfs none /proc/sys/kernel/seccomp",
    "tun": "mount -t tmpfs none /dev/net",
}


@pytest.mark.parametrize("feature", HIDDEN)
def test_features_that_are_missing(make_daemon, feature):
    if feature == "tun" and not os.path.isdir("/dev/net"):
        pytest.skip("there is no /dev/net to hide")
    daemon = make_daemon(before='hide=$(mktemp -d); mount -t tmpfs hidden "$hide"; ' + HIDDEN[feature]).start()
    found = doctor(daemon)[f"the kernel lacks {feature}"]
    assert found["level"] in ("warning", "error") and found["reason"] and found["advice"], found
    fake_life(daemon)


def test_no_control_groups(make_daemon):
    daemon = make_daemon(arguments=["--fake-driver"], fake=False, before="mount -t tmpfs none /sys/fs/cgroup").start()
    found = doctor(daemon)["no control groups are mounted"]
    assert found["level"] == "error" and found["reason"] and found["advice"]
    fake_life(daemon)
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    reply = daemon.request("POST", "/v1/instances?start=true&wait=60s",
                           {"name": "box", "spec": {"kind": "container", "image": "busybox", "network": "none",
                                                    "command": ["sleep", "1000"], "memory": "64M"}})
    # Limits that nothing enforces are refused, not forgotten.
    assert daemon.state_of("box") != "running" and "group" in reply.body.decode(), reply
    if daemon.state_of("box"):
        daemon.delete("box", purge=True)


@containers
def test_a_hard_limit_of_descriptors(make_daemon):
    """1024 are what an old service manager allows; every program that polderd starts must get along with them."""
    daemon = make_daemon(fake=False).start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)))
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    daemon.create("box", start=True, kind="container", image="busybox", network="none", command=["sleep", "1000"])
    assert daemon.state_of("box") == "running"
    daemon.delete("box", purge=True)


# ---- neighbours (A92) ----

BOMBS = {
    "processes": "bomb() { bomb | bomb & }; bomb; while :; do bomb; sleep 0.01; done",
    "descriptors": "i=0; while [ $i -lt 60 ]; do sh -c 'while exec 3<>/tmp/f$$; do for n in 4 5 6 7 8 9; do "
                   "eval \"exec $n</dev/zero\"; done; done' & i=$((i+1)); done; wait",
    "files": "while :; do i=0; while [ $i -lt 500 ]; do : >/tmp/$i; i=$((i+1)); done; done",
    "memory": "while :; do head -c 200M /dev/zero | tail; done",
}


def answer_times(daemon, count=15):
    """Seconds that a request and a command in the neighbour take, the median of each."""
    asked, executed = [], []
    for _ in range(count):
        begin = time.monotonic()
        daemon.expect(200, "GET", "/v1/instances/neighbour")
        asked.append(time.monotonic() - begin)
        begin = time.monotonic()
        done = subprocess.run([build_directory() / "src/cli/polder", "--socket", daemon.socket, "exec", "neighbour", "--", "true"],
                              capture_output=True, timeout=DEADLINE, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done
        executed.append(time.monotonic() - begin)
    return sorted(asked)[count // 2], sorted(executed)[count // 2]


def processes_in(uuid):
    """Those in the control groups of an instance, which come and go."""
    count = 0
    for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/{uuid}/pids.current"):
        with contextlib.suppress(OSError):
            count = max(count, int(path.read_text()))
    return count


@containers
@pytest.mark.alone
@pytest.mark.parametrize("bomb", BOMBS)
def test_neighbour_still_answers(make_daemon, bomb):
    """With limits as anybody would set them. The bounds leave room for a busy test machine: without the limits, a fork bomb
    makes the same commands fail or take minutes."""
    daemon = make_daemon(fake=False).start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    daemon.create("neighbour", start=True, kind="container", image="busybox", network="none", command=["sleep", "100000"])
    asked, executed = answer_times(daemon)
    daemon.create("bomb", start=True, kind="container", image="busybox", network="none", cpus=0.5, memory="64M", pids=200,
                  restart="always", command=["sh", "-c", BOMBS[bomb]])
    if bomb == "processes":
        eventually(lambda: processes_in(daemon.instance("bomb")["assigned"]["uuid"]) > 150, what="the bomb to go off")
    loaded_asked, loaded_executed = answer_times(daemon)
    assert loaded_asked < 10 * asked + 0.25, (asked, loaded_asked)
    assert loaded_executed < 10 * executed + 2, (executed, loaded_executed)
    daemon.delete("bomb", purge=True)
    daemon.delete("neighbour", purge=True)
