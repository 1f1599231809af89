# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of polderd at the fail points of requests to real containers, microVMs and VMs (F01): a recording run lists what
a request passes; then, for each point, the state from before is made anew, polderd killed there and started again. After
that records, host and files agree, the list tells the truth, a bystander runs on under the same pid, and the same request
succeeds and leaves nothing behind. The VMs boot a sector that counts on their serial line."""
import os
import re
import shutil

import pytest

import guestlib
from polderlib import eventually
from test_scenarios_crash import failpoints  # noqa: F401, a fixture

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("crun") or not shutil.which("conmon"), reason="crun or conmon is not installed"),
]
# Ends when it is told to, and keeps something in its memory alone.
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; echo kept > /dev/shm/mark 2>/dev/null || echo kept > /tmp/mark; "
                       "while :; do sleep 1 & wait $!; done"]
MARK = ["sh", "-c", "cat /dev/shm/mark /tmp/mark 2>/dev/null"]
WAIT = 90


class Request:
    """What is there before it, what is sent, the states that may be found after a crash (None: it does not exist), and
    those after the request has come to its end."""

    def __init__(self, method, path, setup, undone, done, body=None, keeps_memory=False):
        self.method = method
        self.path = path
        self.setup = setup
        self.undone = undone
        self.done = done
        self.body = body
        self.keeps_memory = keeps_memory


def post(action, setup, undone, done, **more):
    return Request("POST", f"/v1/instances/web/{action}?", setup, undone, done, **more)


REQUESTS = {
    "run": Request("POST", "/v1/instances?start=true&", (), (None,), ("running",), body="create"),
    "start": post("start", ("create",), ("created", "stopped"), ("running",)),
    "stop": post("stop", ("create", "start"), ("running",), ("stopped",)),
    "restart": post("restart", ("create", "start"), ("running",), ("running",)),
    "pause": post("pause", ("create", "start"), ("running",), ("paused",)),
    "suspend": post("suspend", ("create", "start"), ("running",), ("suspended",), keeps_memory=True),
    "restore": post("resume", ("create", "start", "suspend"), ("suspended",), ("running",), keeps_memory=True),
    "rm": Request("DELETE", "/v1/instances/web?force=true&purge=true&", ("create", "start"), ("running",), (None,)),
}


def specification(kind):
    if kind == "vm":
        return {"kind": kind, "image": "ticker", "network": "default", "memory": "64MiB", "stop_timeout": "5s"}
    return {"kind": kind, "image": "busybox", "network": "default", "command": COMMAND, "memory": "128MiB", "stop_timeout": "5s"}


class Walk:
    def __init__(self, daemon, kind, request):
        self.daemon = daemon
        self.kind = kind
        self.request = request
        self.bystander = daemon.instance("bystander")["status"] if daemon.state_of("bystander") else None

    # ---- steps ----

    def specification(self):
        return specification(self.kind)

    def prepare(self):
        for step in self.request.setup:
            if step == "create":
                self.daemon.create("web", **self.specification())
            else:
                self.daemon.act("web", step, wait=WAIT)
            if step == "start":
                eventually(self.numbers if self.kind == "vm" else lambda: self.memory() == "kept", WAIT, "the command's first step")

    def memory(self):
        return self.daemon.polder("exec", "web", "--", *MARK, status=None).stdout.strip()

    def numbers(self):
        """All that a VM has counted; four letters sort as their numbers do."""
        return re.findall("^[a-p]{4}$", self.daemon.polder("logs", "web").stdout, re.M)

    def check_memory(self, where):
        """It is there again as soon as the guest's agent has found the new daemon; a VM counts on from where it was."""
        if self.kind != "vm":
            eventually(lambda: self.memory() == "kept", WAIT, f"killed at {where}: what it had in memory")
            return
        last = self.numbers()[-1]
        eventually(lambda: self.numbers()[-1] != last, WAIT, f"killed at {where}: that it counts on")
        numbers = self.numbers()
        assert numbers == sorted(numbers), f"killed at {where}: it counted {numbers}"

    def send(self):
        body = {"name": "web", "spec": self.specification()} if self.request.body == "create" else self.request.body
        return self.daemon.request(self.request.method, f"{self.request.path}wait={WAIT}s", body)

    def remove(self):
        if self.daemon.state_of("web"):
            self.daemon.delete("web", purge=True)

    def restart(self, **environment):
        if self.daemon.is_alive():
            self.daemon.stop()
        self.daemon.environment = environment
        self.daemon.start()

    def passes(self):
        """(name, number of its pass since the start) of each point that the request passes, but those of the store's
        files: the fake driver's walk visits those."""
        record = self.daemon.directory / "record"
        record.unlink(missing_ok=True)
        self.prepare()
        self.restart(POLDER_FAILPOINTS_RECORD=str(record))
        before = len(record.read_text().split()) if record.exists() else 0
        reply = self.send()
        assert reply.status == 200, reply
        self.daemon.fsck()
        names = record.read_text().split()
        found = [(name, names[:position + 1].count(name)) for position, name in enumerate(names) if position >= before]
        self.restart()
        self.remove()
        return [(name, number) for name, number in found if not name.startswith(("store-", "writer-"))]

    def crash_at(self, name, number):
        self.prepare()
        self.restart(POLDER_FAILPOINTS=f"{name}=kill@{number}")
        acknowledged = died = False
        try:
            acknowledged = self.send().status == 200
            self.daemon.fsck()
        except Exception as error:  # the connection goes with the daemon
            died = eventually(lambda: not self.daemon.is_alive(), 10, f"death at {name}@{number} after {error!r}")
        self.daemon.kill9()
        self.daemon.environment = {}
        self.daemon.start()
        self.check(f"{name}@{number}", acknowledged)
        self.remove()
        return died

    # ---- what must hold ----

    def settled(self):
        eventually(lambda: not [one for one in self.daemon.get("/v1/operations")["operations"] if one["state"] == "running"],
                   WAIT, "the end of what was interrupted")
        self.daemon.check_clean()
        listed = {one["name"]: one for one in self.daemon.list("?deleted=true")}
        if self.bystander:
            other = listed.pop("bystander")["status"]
            assert all(other[field] == self.bystander[field] for field in ("state", "pid", "started", "restarts")), other
        assert set(listed) <= {"web"}, listed
        return listed.get("web")

    def check_truth(self, where, one):
        processes = guestlib.processes_of(one["assigned"]["uuid"])
        state, pid = one["status"]["state"], one["status"].get("pid")
        if state in ("running", "paused"):
            assert pid in processes, f"killed at {where}: {state}, but {pid} is not among {processes}"
            assert self.kind == "container" or processes == [pid], f"killed at {where}: {processes}"
            stale = list((self.daemon.state / "instances" / one["assigned"]["uuid"]).glob("memory*"))
            assert not stale, f"killed at {where}: it runs, and {stale} could be taken for its memory"
        else:
            assert not processes, f"killed at {where}: {state}, but {processes} run"

    def check_places(self, where):
        owned = {one["assigned"]["uuid"] for one in self.daemon.list("?deleted=true")}
        for folder in (self.daemon.run / "i", self.daemon.state / "instances"):
            left = {path.name for path in folder.iterdir()} - owned
            assert not left, f"killed at {where}: {folder} keeps {left}"

    def check(self, where, acknowledged):
        request = self.request
        found = self.settled()
        state = found["status"]["state"] if found else None
        allowed = request.done if acknowledged else request.undone + request.done
        assert state in allowed, f"killed at {where}: it is {state}, not one of {allowed}"
        if found:
            self.check_truth(where, found)
        self.check_places(where)
        if request.keeps_memory and state == "running":
            self.check_memory(where)
        reply = self.send()
        again = (200, 404) if request.done == (None,) else (200, 409) if request.body == "create" else (200,)
        assert reply.status in again, f"killed at {where}: sent again it answers {reply}"
        found = self.settled()
        state = found["status"]["state"] if found else None
        assert state in request.done, f"killed at {where}: sent again it is {state}"
        if found:
            self.check_truth(where, found)
        if request.keeps_memory and state == "suspended":
            self.daemon.act("web", "resume", wait=WAIT)
        if request.keeps_memory:
            self.check_memory(where)
        self.check_places(where)


@pytest.fixture(scope="module", params=["container", "microvm", "vm"])
def host(request):
    if request.param == "microvm" and not guestlib.kernel_directory():
        pytest.skip("no kernel for microVMs")
    with guestlib.host_daemon(request, log_level="info") as daemon:
        daemon.polder("image", "build", "busybox")
        if request.param == "vm":
            daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")
        daemon.create("bystander", start=True, **specification(request.param))
        daemon.kind = request.param
        yield daemon


def visit(host, name, chosen, kind_of_walk=Walk):
    if name in ("suspend", "restore") and host.kind == "container":
        pytest.skip("a container's memory cannot be written to disk")
    walk = kind_of_walk(host, host.kind, REQUESTS[name])
    passes = walk.passes()
    assert passes, "nothing was recorded"
    seen, missed = set(), []
    for point, number in passes:
        if not chosen(point, point in seen):
            continue
        seen.add(point)
        if not walk.crash_at(point, number):
            missed.append(f"{point}@{number}")
    # What ends an instance races with what was asked for, so a pass may be counted differently; not most of them.
    assert len(missed) * 2 <= len(seen), f"never reached: {missed} of {seen}"


# Each driver's own points, and one on either side of what the manager does around them.
SAMPLE = {"run": ("container-created", "network-veth-made", "qemu-started"), "stop": ("stop-after-driver",),
          "suspend": ("qemu-memory-saved",),
          "rm": ("network-port-removed", "release-before-cgroup"), "restore": ("qemu-memory-loaded",)}


@pytest.mark.parametrize("name", list(SAMPLE))
def test_sample(host, failpoints, name):  # noqa: F811
    visit(host, name, lambda point, again: not again and point in SAMPLE[name])


@pytest.mark.long
@pytest.mark.parametrize("name", list(REQUESTS))
def test_walk(host, failpoints, name):  # noqa: F811
    visit(host, name, lambda point, again: True)


# ---- the first on the network, and the last ----

class LonelyWalk(Walk):
    """Nobody else is there: bridge, rules and the server of names and addresses come and go with the one instance."""

    def prepare(self):
        self.daemon.polder("network", "reset")
        super().prepare()


@pytest.fixture(scope="module")
def lonely(request):
    with guestlib.host_daemon(request, log_level="info") as daemon:
        daemon.polder("image", "build", "busybox")
        daemon.kind = "container"
        yield daemon


@pytest.mark.parametrize("name, points", [("run", ("network-bridge-made",)), ("rm", ("network-dnsmasq-stopped",))])
def test_sample_of_the_network(lonely, failpoints, name, points):  # noqa: F811
    visit(lonely, name, lambda point, again: not again and point in points, LonelyWalk)


@pytest.mark.long
@pytest.mark.parametrize("name", ["run", "rm"])
def test_walk_of_the_network(lonely, failpoints, name):  # noqa: F811
    visit(lonely, name, lambda point, again: point.startswith("network-"), LonelyWalk)


# ---- the first microVM of an image ----

class FreshWalk(Walk):
    """Nothing was made of images and kernels yet: the root image, the initramfs, and what the image's own kernel becomes."""

    def specification(self):
        return {**super().specification(), "image": self.daemon.image, "network": "none"}

    def prepare(self):
        for place in ("images/erofs", "images/kernels", "kernels/.made"):
            for path in (self.daemon.state / place).glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        super().prepare()

    def passes(self):
        found = super().passes()
        self.made = set(guestlib.made_files(self.daemon))
        return found

    def check(self, where, acknowledged):
        super().check(where, acknowledged)
        made = set(guestlib.made_files(self.daemon))
        assert made == self.made, f"killed at {where}: sent again it made {made}, not {self.made}"
        places = [self.daemon.state / "images" / place for place in ("staging", "discarded")]
        eventually(lambda: not [path for place in places for path in place.iterdir()], WAIT, f"killed at {where}: what it left to go")


@pytest.fixture(scope="module")
def fresh(request, tmp_path_factory):
    if not guestlib.kernel_directory():
        pytest.skip("no kernel for microVMs")
    with guestlib.host_daemon(request, log_level="info") as daemon:
        daemon.polder("image", "build", "busybox")
        guestlib.kernel_image(daemon, tmp_path_factory.mktemp("image"), "own-kernel")
        daemon.kind = "microvm"
        yield daemon


@pytest.mark.long
@pytest.mark.parametrize("image, points", [("busybox", ("erofs-before-rename", "kernel-between")),
                                           ("own-kernel", ("image-kernel-before-publish",))])
def test_what_is_made_once_for_microvms(fresh, failpoints, image, points):  # noqa: F811
    seen = []

    def chosen(point, again):
        if point in points and not again:
            seen.append(point)
        return point in points and not again
    fresh.image = image
    visit(fresh, "run", chosen, FreshWalk)
    assert sorted(seen) == sorted(points)
