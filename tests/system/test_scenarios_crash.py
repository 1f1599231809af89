# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 at every fail point: a recording run lists the points that a request passes; then for each point the same
state is brought back, the daemon killed there, and started again. After that the store is consistent, the list tells
the truth, nothing is left behind, and the request, sent again, succeeds."""
import pathlib
import shutil

import pytest

import polderlib
from polderlib import eventually

pytestmark = pytest.mark.scenario

# Passed many times by everything that is written; the short walk takes one pass of each.
IDS = "POLDER_FAILPOINTS"


class Request:
    """One request of the walk: what is there before it, what is sent, and in which states the instance may be found
    after a crash (None: it does not exist)."""

    def __init__(self, method, path, body=None, setup=(), labels=None, undone=(), done=(), spec=None, gone_is_done=False):
        self.method = method
        self.path = path
        self.body = body
        self.setup = setup
        self.labels = labels
        self.undone = undone
        self.done = done
        self.spec = spec or {}
        self.gone_is_done = gone_is_done  # sent again it may answer that there is nothing left to do it to

    def prepare(self, daemon):
        for step in self.setup:
            if step == "create":
                daemon.create("web", labels=self.labels, **self.spec)
            elif step == "delete":
                daemon.delete("web")
            else:
                daemon.act("web", step)

    def send(self, daemon):
        mark = "&" if "?" in self.path else "?"
        return daemon.request(self.method, f"{self.path}{mark}wait=60s", self.body)


def post(action, body=None, **more):
    return Request("POST", f"/v1/instances/web/{action}", body, **more)


def create(start, **spec):
    return Request("POST", "/v1/instances" + ("?start=true" if start else ""),
                   {"name": "web", "spec": dict(spec, kind="fake")}, undone=(None,),
                   done=("running",) if start else ("created",), gone_is_done=True)


REQUESTS = {
    "create": create(False),
    "create-and-start": create(True),
    "start": post("start", setup=("create",), undone=("created", "stopped"), done=("running",)),
    "stop": post("stop", setup=("create", "start"), undone=("running",), done=("stopped",)),
    "restart": post("restart", setup=("create", "start"), undone=("running",), done=("running",)),
    "pause": post("pause", setup=("create", "start"), undone=("running",), done=("paused",)),
    "resume": post("resume", setup=("create", "start", "pause"), undone=("paused",), done=("running",)),
    "suspend": post("suspend", setup=("create", "start"), undone=("running",), done=("suspended",)),
    "restore": post("resume", setup=("create", "start", "suspend"), undone=("suspended",), done=("running",)),
    "stop-suspended": post("stop", setup=("create", "start", "suspend"), undone=("suspended",), done=("stopped",)),
    "delete": Request("DELETE", "/v1/instances/web", setup=("create",), undone=("created",), done=("deleted",),
                      gone_is_done=True),
    "delete-by-force": Request("DELETE", "/v1/instances/web?force=true", setup=("create", "start"), undone=("running",),
                               done=("deleted",), gone_is_done=True),
    "purge": Request("DELETE", "/v1/instances/web?force=true&purge=true", setup=("create", "start"),
                     undone=("running",), done=(None,), gone_is_done=True),
    "purge-from-trash": Request("DELETE", "/v1/instances/web?purge=true", setup=("create", "delete"),
                                undone=("deleted",), done=(None,), gone_is_done=True),
    "undelete": post("undelete", setup=("create", "delete"), undone=("deleted",), done=("stopped",)),
    "change": Request("PATCH", "/v1/instances/web", {"spec": {"cpus": 2}}, setup=("create", "start"),
                      undone=("running",), done=("running",)),
    "rename": Request("PATCH", "/v1/instances/web", {"name": "newer"}, setup=("create",), undone=("created",),
                      done=("created",), gone_is_done=True),
    "end-and-remove": post("start", setup=("create",), labels={"run": "exit=3"}, spec={"remove": True},
                           undone=("created", "stopped"), done=(None, "running", "failed"), gone_is_done=True),
    "end-and-restart": post("start", setup=("create",), labels={"run": "exit=3"}, spec={"restart": "always"},
                            undone=("created", "stopped"), done=("running", "failed", "queued", "starting")),
}


@pytest.fixture
def failpoints():
    if not polderlib.build_option("failpoints"):
        pytest.skip("this build has no fail points (meson -Dfailpoints=true)")


class Walk:
    def __init__(self, daemon, request):
        self.daemon = daemon
        self.request = request
        self.kept = daemon.directory / "kept"
        self.daemon.start()
        request.prepare(daemon)
        self.daemon.kill9()  # what was acknowledged survives that
        self.kept.mkdir()
        for path in (daemon.state, daemon.run):
            shutil.copytree(path, self.kept / path.name, symlinks=True, ignore=lambda _, names: [
                name for name in names if name.endswith(".sock")])

    def again(self):
        """The state from before the request."""
        for path in (self.daemon.state, self.daemon.run):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self.kept / path.name, path, symlinks=True)

    def settle(self):
        """Until what the request set off is over, its last records too."""
        self.daemon.fsck()
        self.daemon.fsck()

    def passes(self):
        """(name, number of the pass) of each fail point that the request passes."""
        record = self.daemon.directory / "record"
        record.unlink(missing_ok=True)
        self.again()
        self.daemon.environment = {"POLDER_FAILPOINTS_RECORD": str(record)}
        self.daemon.start()
        before = record.read_text().split() if record.exists() else []
        reply = self.request.send(self.daemon)
        assert reply.status == 200, reply
        self.settle()
        after = record.read_text().split()
        self.daemon.kill9()
        found, counts = [], {}
        for position, name in enumerate(after):
            counts[name] = counts.get(name, 0) + 1
            if position >= len(before):
                found.append((name, counts[name]))
        return found

    def crash_at(self, name, number):
        self.again()
        self.daemon.environment = {"POLDER_FAILPOINTS": f"{name}=kill@{number}"}
        acknowledged = False
        try:
            self.daemon.start()
            acknowledged = self.request.send(self.daemon).status == 200
            self.settle()
        except (OSError, AssertionError, ValueError, Exception) as error:  # the connection goes with the daemon
            if self.daemon.is_alive() and not isinstance(error, OSError):
                eventually(lambda: not self.daemon.is_alive(), 5, f"death at {name}@{number} after {error}")
        if self.daemon.is_alive():
            self.daemon.kill9()  # this time the pass was not reached: timing decides how writes are grouped
        self.daemon.environment = {}
        self.daemon.start()
        self.check(f"{name}@{number}", acknowledged)
        self.daemon.stop()

    def found(self):
        return {one["name"]: one for one in self.daemon.list("?deleted=true")}

    def check(self, where, acknowledged):
        daemon, request = self.daemon, self.request
        eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"])
        daemon.check_clean()
        found = self.found()
        assert len(found) <= 1, (where, found)
        state = next(iter(found.values()))["status"]["state"] if found else None
        allowed = request.done if acknowledged else request.undone + request.done
        assert state in allowed, f"killed at {where}: it is {state}, not one of {allowed}"
        for one in found.values():
            self.check_truth(where, one)
        owned = {one["assigned"]["uuid"] for one in found.values()}
        for folder in (daemon.run / "i", daemon.state / "instances"):
            left = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            assert left <= owned, f"killed at {where}: {folder} keeps {left - owned}"
        reply = request.send(daemon)
        answers = (200, 404, 409) if request.gone_is_done else (200,)
        assert reply.status in answers, f"killed at {where}: sent again it answers {reply}"
        final = self.found()
        state = next(iter(final.values()))["status"]["state"] if final else None
        assert state in request.done, f"killed at {where}: sent again it is {state}"
        daemon.check_clean()

    def check_truth(self, where, one):
        """For a fake instance the file in its directory stands for the process."""
        if one["spec"]["kind"] != "fake" or one["spec"]["restart"] != "no" or one["spec"]["remove"]:
            return
        life = self.daemon.run / "i" / one["assigned"]["uuid"] / "fake"
        runs = life.read_text().split()[0] if life.exists() else "absent"
        expected = {"running": "running", "paused": "paused"}.get(one["status"]["state"], "absent")
        assert runs == expected, f"killed at {where}: it is called {one['status']['state']}, but is {runs}"


def walk(make_daemon, request, chosen):
    """Crashes at each pass of which chosen(name, seen before) says so."""
    daemon = make_daemon(log_level="info")
    steps = Walk(daemon, request)
    passes = steps.passes()
    assert passes, "nothing was recorded"
    seen = set()
    for name, number in passes:
        if chosen(name, name in seen):
            seen.add(name)
            steps.crash_at(name, number)
    daemon.start()
    return seen


@pytest.mark.parametrize("name", list(REQUESTS))
def test_short_walk(make_daemon, failpoints, name):
    """Each point once."""
    walk(make_daemon, REQUESTS[name], lambda point, again: not again and not point.startswith("store-"))


@pytest.mark.parametrize("name", ["create-and-start", "stop"])
def test_nothing_is_acknowledged_before_its_commit(make_daemon, failpoints, name):
    """Right before and right after each commit: an answer that was given holds (I1)."""
    seen = walk(make_daemon, REQUESTS[name], lambda point, _: point in ("store-before-commit", "store-after-commit"))
    assert len(seen) == 2, seen


@pytest.mark.long
@pytest.mark.parametrize("name", list(REQUESTS))
def test_full_walk(make_daemon, failpoints, name):
    """Each pass of each point, those of the store's files too."""
    walk(make_daemon, REQUESTS[name], lambda point, again: True)


# ---- images ----

def busybox(daemon):
    reply = daemon.request("POST", "/v1/images?wait=60s", {"source": "busybox", "type": "build"})
    assert reply.status == 200, reply
    return reply.json["result"]


class ImageRequest:
    gone_is_done = True

    def __init__(self, send, setup=None, done=None):
        self.send = send
        self.prepare = setup or (lambda daemon: None)
        self.done = done


IMAGE_REQUESTS = {
    "build": ImageRequest(lambda daemon: daemon.request("POST", "/v1/images?wait=60s",
                                                        {"source": "busybox", "type": "build"}),
                          done=lambda images: any("busybox" in str(one["aliases"]) for one in images)),
    "tag": ImageRequest(lambda daemon: daemon.request("POST", "/v1/images/busybox/tag", {"alias": "other"}), busybox,
                        lambda images: any("other" in one["aliases"] for one in images)),
    "remove": ImageRequest(lambda daemon: daemon.request("DELETE", "/v1/images/busybox"), busybox,
                           lambda images: not images),
}


class ImageWalk(Walk):
    def passes(self):
        record = self.daemon.directory / "record"
        record.unlink(missing_ok=True)
        self.again()
        self.daemon.environment = {"POLDER_FAILPOINTS_RECORD": str(record)}
        self.daemon.start()
        before = len(record.read_text().split()) if record.exists() else 0
        reply = self.request.send(self.daemon)
        assert reply.status in (200, 204), reply
        self.settle()
        after = record.read_text().split()
        self.daemon.kill9()
        return [(name, after[:position + 1].count(name)) for position, name in enumerate(after) if position >= before]

    def check(self, where, acknowledged):
        daemon = self.daemon
        daemon.check_clean()
        images = daemon.get("/v1/images")["images"]
        if acknowledged:
            assert self.request.done(images), f"killed at {where}: what was acknowledged is not there"
        reply = self.request.send(daemon)
        assert reply.status in (200, 204, 404, 409), f"killed at {where}: sent again it answers {reply}"
        assert self.request.done(daemon.get("/v1/images")["images"]), f"killed at {where}"
        daemon.check_clean()
        work = pathlib.Path(daemon.state) / "images" / "work"
        assert not work.is_dir() or not list(work.iterdir()), f"killed at {where}: {list(work.iterdir())}"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", list(IMAGE_REQUESTS))
def test_image_walk(make_daemon, failpoints, name):
    if shutil.which("busybox") is None and not pathlib.Path("/bin/busybox").exists():
        pytest.skip("busybox-static is not installed")
    daemon = make_daemon(log_level="info")
    steps = ImageWalk(daemon, IMAGE_REQUESTS[name])
    seen = set()
    for point, number in steps.passes():
        if point not in seen and not point.startswith("store-"):
            seen.add(point)
            steps.crash_at(point, number)
    daemon.start()


# ---- crashes without a script ----

def test_what_was_acknowledged_survives(make_daemon):
    """Requests from eight clients, kill -9 at any moment, ten times over: each answer that was given holds."""
    import concurrent.futures
    import itertools
    import random
    import time
    daemon = make_daemon().start()
    place = daemon.state.stat().st_ino
    numbers = itertools.count()
    for round_number in range(10):
        acknowledged = []

        def work(_):
            try:
                while True:
                    name = f"i{next(numbers)}"
                    if daemon.request("POST", "/v1/instances?start=true&wait=60s",
                                      {"name": name, "spec": {"kind": "fake"}}).status == 200:
                        acknowledged.append((name, "running"))
                    if daemon.request("POST", f"/v1/instances/{name}/stop?wait=60s").status == 200:
                        acknowledged.append((name, "stopped"))
            except Exception:
                return
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(work, one) for one in range(8)]
            time.sleep(random.Random(round_number).uniform(0.05, 0.4))
            daemon.kill9()
            concurrent.futures.wait(futures)
        daemon.start()
        eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"])
        daemon.check_clean()
        assert daemon.state.stat().st_ino == place, "somebody else removed this test's directory while it ran"
        for name, state in dict(acknowledged).items():
            reply = daemon.request("GET", f"/v1/instances/{name}")
            found = reply.json["status"]["state"] if reply.status == 200 else reply
            # The one that was acknowledged running may have been told to stop when the daemon died.
            assert found == state or (state, found) == ("running", "stopped"), (name, state, found)


def test_store_that_is_missing(make_daemon):
    """Its file system is not mounted, or somebody tidied up: instances that only the missing store knows are no orphans.
    Nothing of them is touched, and with the store everything is as it was."""
    daemon = make_daemon().start()
    daemon.create("web", start=True)
    before = daemon.instance("web")["status"]
    daemon.stop()
    away = daemon.directory / "away"
    daemon.state.rename(away)
    assert daemon.spawn().wait_gone() == 1
    assert "is new and empty, but instances are here" in daemon.log(), daemon.log()
    life = next((daemon.run / "i").glob("*/fake")).read_text().split()
    assert life[0] == "running"
    shutil.rmtree(daemon.state)
    away.rename(daemon.state)
    daemon.start()
    after = daemon.instance("web")["status"]
    assert all(after[field] == before[field] for field in ("state", "pid", "started", "restarts")), (before, after)
    daemon.check_clean()


def test_running_instances_outlive_the_daemon(daemon):
    """Kill, restart, kill: same pid, same start, one start each."""
    for number in range(20):
        daemon.create(f"i{number}", start=True)
    daemon.act("i3", "pause")
    daemon.act("i4", "suspend")
    daemon.act("i5", "stop")
    before = {one["name"]: one["status"] for one in daemon.list()}
    for kill in (True, False, True):
        daemon.restart(kill=kill)
        after = {one["name"]: one["status"] for one in daemon.list()}
        for name, status in before.items():
            for field in ("state", "pid", "started", "restarts", "exit_code"):
                assert after[name][field] == status[field], (name, field, status, after[name])
        daemon.check_clean()
    daemon.act("i3", "resume")
    daemon.act("i4", "resume")


def test_an_end_while_nobody_looks(daemon):
    daemon.create("job", start=True, labels={"run": "delay=1h,exit=5"})
    daemon.create("again", start=True, restart="always", labels={"run": "delay=1h,exit=5"})
    daemon.create("once", start=True, remove=True, labels={"run": "delay=1h,exit=5"})
    daemon.kill9()
    for path in (daemon.run / "i").glob("*/fake"):
        pid = path.read_text().split()[1]
        path.write_text(f"ended {pid} 0 5 0\n")
    daemon.start()
    status = daemon.instance("job")["status"]
    assert status["state"] == "failed" and status["exit_code"] == 5
    eventually(lambda: daemon.instance("again")["status"]["restarts"] == 1 and daemon.state_of("again") == "running")
    eventually(lambda: daemon.state_of("once") is None)


def test_a_queued_start_is_kept_when_the_first_look_fails(make_daemon):
    """Nothing of it was on the host, so it did not end: it waits on, is not removed, and runs when there is room."""
    daemon = make_daemon(arguments=["--overcommit-memory-fake", "100", "--memory-reserve", "0"]).start()
    whole = daemon.get("/v1/node")["memory"]["physical"]
    daemon.create("hog", start=True, memory=whole * 4 // 5)
    daemon.create("waits", start=True, memory=whole // 2, remove=True, labels={"adopt": "fail=2"}, wait=False)
    daemon.wait_state("waits", "queued")
    daemon.restart(kill=True)
    assert daemon.state_of("waits") in ("created", "queued")
    eventually(lambda: daemon.state_of("waits") == "queued", what="it waits for room again")
    daemon.act("hog", "stop")
    daemon.wait_state("waits", "running")


def test_what_cannot_be_taken_over_is_left_alone(make_daemon):
    daemon = make_daemon().start()
    daemon.create("mute", start=True, labels={"adopt": "fail=2"})
    daemon.create("fine", start=True)
    pid = daemon.instance("mute")["status"]["pid"]
    daemon.restart(kill=True)
    shown = daemon.instance("mute")["status"]
    assert shown["state"] == "running" and shown["reason"] == "program-failed", shown
    eventually(lambda: "reason" not in daemon.instance("mute")["status"])
    assert daemon.instance("mute")["status"]["pid"] == pid
    # A driver that is not there any more: the record stays, and is clear about it.
    daemon.fake = False
    daemon.restart()
    shown = daemon.instance("mute")["status"]
    assert shown["state"] == "running" and shown["reason"] == "not-supported", shown
    assert daemon.problem(422, "POST", "/v1/instances/mute/stop?wait=60s")["code"] == "not-supported"
    daemon.fake = True
    daemon.restart()
    eventually(lambda: daemon.instance("mute")["status"]["pid"] == pid)
