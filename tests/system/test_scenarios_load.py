# SPDX-License-Identifier: GPL-2.0-or-later
"""Many instances, and many clients that do what they like: figures are printed, correctness is asserted."""
import concurrent.futures
import random
import threading
import time

import pytest

from polderlib import DEADLINE, eventually

pytestmark = pytest.mark.scenario


def populate(daemon, count, start, clients=8):
    """Creates i00000 … and gives the seconds that it took."""
    numbers = iter(range(count))
    lock = threading.Lock()

    def work(_):
        client = daemon.client(timeout=300)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            reply = client.request("POST", f"/v1/instances?wait=60s{'&start=true' if start else ''}",
                                   {"name": f"i{number:05}", "spec": {"kind": "fake", "memory": 64 << 20}})
            assert reply.status == 200, reply
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return time.monotonic() - begun


def measure(daemon, count):
    lists = []
    for _ in range(5):
        begun = time.monotonic()
        shown = daemon.list()
        lists.append(time.monotonic() - begun)
        assert len(shown) == count
    begun = time.monotonic()
    pages, after = [], ""
    while True:
        page = daemon.get("/v1/instances?limit=1000&fields=name" + (f"&continue={after}" if after else ""))
        pages += [one["name"] for one in page["instances"]]
        after = page["continue"]
        if not after:
            break
    assert pages == sorted(set(pages)) and len(pages) == count
    return min(lists), time.monotonic() - begun


def load(daemon, count):
    spent = populate(daemon, count, start=True)
    listed, paged = measure(daemon, count)
    resident = daemon.resident()
    daemon.fsck()
    assert daemon.get("/v1/node")["memory"]["promised"] == count * (64 << 20)
    before = {one["name"]: (one["status"]["state"], one["status"]["pid"]) for one in daemon.list()}
    assert all(state == "running" for state, _ in before.values())
    daemon.kill9()
    begun = time.monotonic()
    daemon.start(deadline=300)
    ready = time.monotonic() - begun
    assert {one["name"]: (one["status"]["state"], one["status"]["pid"]) for one in daemon.list()} == before
    daemon.check_clean()
    print(f"\n{count} running fake instances: created and started at {count / spent:.0f}/s, whole list "
          f"{listed * 1000:.1f} ms with transfer and pages of 1,000 names {paged * 1000:.0f} ms, resident "
          f"{resident / 2**20:.1f} MiB, after kill -9 ready within {ready * 1000:.0f} ms and then resident "
          f"{daemon.resident() / 2**20:.1f} MiB")


def remove_all(daemon, names, clients=8):
    def work(share):
        client = daemon.client(timeout=300)
        for name in share:
            reply = client.request("DELETE", f"/v1/instances/{name}?force=true&purge=true&wait=60s")
            assert reply.status == 200, reply
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, [names[start::clients] for start in range(clients)]))
    assert daemon.list("?deleted=true") == []


def test_a_thousand(make_daemon):
    daemon = make_daemon(log_level="info").start()
    load(daemon, 1000)
    remove_all(daemon, [f"i{number:05}" for number in range(1000)])
    daemon.check_clean()


@pytest.mark.long
@pytest.mark.slow
def test_ten_thousand(make_daemon):
    daemon = make_daemon(log_level="info").start()
    load(daemon, 10000)
    remove_all(daemon, [f"i{number:05}" for number in range(10000)])
    daemon.check_clean()


def test_long_queue(make_daemon):
    """Five hundred wait for one place: it goes round in the order of arrival, and the API answers meanwhile."""
    daemon = make_daemon(arguments=["--overcommit-memory-fake", "100", "--memory-reserve", "0"], log_level="info").start()
    whole = daemon.get("/v1/node")["memory"]["physical"]
    for number in range(500):
        daemon.create(f"i{number:03}", start=True, wait=False, remove=True, memory=whole // 2 + 1,
                      labels={"run": "exit=0"})
        assert daemon.get("/v1/healthz" if False else "/v1/instances?limit=1")
    eventually(lambda: daemon.list("?deleted=true") == [], deadline=240)
    daemon.check_clean()


# ---- a model against the daemon ----

class Model:
    """Eight clients, each with names of its own and some that all fight for. What one client did to its own names must
    be what it finds; for the others every answer must at least be a legal one."""

    ACTIONS = ("create", "create-start", "start", "stop", "restart", "pause", "resume", "suspend", "delete", "purge",
               "undelete", "change", "show")

    def __init__(self, daemon, seed, client):
        self.client = daemon.client(timeout=120)
        self.random = random.Random(seed * 1000 + client)
        self.own = [f"own{client}-{number}" for number in range(3)]
        self.shared = [f"shared-{number}" for number in range(4)]
        self.state = {}  # of own names: state, or "trash"; absent: never made or purged
        self.cpus = {}
        self.history = []
        self.trash = {}

    def send(self, method, path, body=None, headers=None):
        mark = "&" if "?" in path else "?"
        reply = self.client.request(method, f"{path}{mark}wait=60s", body, headers)
        assert reply.status < 500 or reply.code in ("busy",), f"{method} {path}: {reply.body}"
        return reply

    def step(self):
        action = self.random.choice(self.ACTIONS)
        if self.random.random() < 0.3:
            self.request(action, self.random.choice(self.shared))
        else:
            self.checked(action, self.random.choice(self.own))

    def request(self, action, name):
        path = f"/v1/instances/{name}"
        if action in ("create", "create-start"):
            labels = {"polder.fake.run": self.random.choice(("delay=20ms,exit=1", "delay=5ms,exit=0"))} \
                if name.startswith("shared") and self.random.random() < 0.5 else {}
            spec = {"kind": "fake", "labels": labels}
            if name.startswith("shared"):
                spec["restart"] = self.random.choice(("no", "always", "on-failure"))
                spec["remove"] = self.random.random() < 0.2
            return self.send("POST", "/v1/instances" + ("?start=true" if action == "create-start" else ""),
                             {"name": name, "spec": spec})
        if action == "delete":
            return self.send("DELETE", path + "?force=true")
        if action == "purge":
            return self.send("DELETE", path + "?force=true&purge=true")
        if action == "change":
            return self.send("PATCH", path, {"spec": {"cpus": self.random.randint(1, 8)}})
        if action == "show":
            return self.client.request("GET", path)
        return self.send("POST", f"{path}/{action}")

    NEXT = {  # (state, action) -> next state; what is not here is refused
        ("created", "start"): "running", ("stopped", "start"): "running", ("running", "start"): "running",
        ("suspended", "start"): "running", ("created", "stop"): "created", ("stopped", "stop"): "stopped",
        ("running", "stop"): "stopped", ("paused", "stop"): "stopped", ("suspended", "stop"): "stopped",
        ("created", "restart"): "running", ("stopped", "restart"): "running", ("running", "restart"): "running",
        ("paused", "restart"): "running", ("suspended", "restart"): "running", ("running", "pause"): "paused",
        ("paused", "pause"): "paused", ("paused", "resume"): "running", ("running", "resume"): "running",
        ("suspended", "resume"): "running", ("running", "suspend"): "suspended", ("paused", "suspend"): "suspended",
        ("suspended", "suspend"): "suspended",
    }

    def checked(self, action, name):
        state = self.state.get(name)
        reply = self.request(action, name)
        self.history.append((action, name, state, reply.status))
        alive = state not in (None, "trash")
        if action in ("create", "create-start"):
            expected = (409, state) if alive else (200, "running" if action == "create-start" else "created")
            if state == "trash" and reply.status == 200:
                self.trash[name] = self.trash.get(name, 0) + 1
        elif action == "undelete":
            trashed = state == "trash" or self.trash.get(name)
            if alive:
                expected = (409, state) if self.trash.get(name) else (200, state)
            else:
                expected = (200, "stopped") if trashed else (404, None)
                if trashed and state != "trash":
                    self.trash[name] -= 1
        elif action == "purge":
            expected = (200, None) if state else (404, None) if not self.trash.get(name) else (200, None)
            if not state and self.trash.get(name):
                self.trash[name] -= 1
            elif state == "trash" and self.trash.get(name):
                self.trash[name] -= 1
                expected = (200, "trash")
        elif not alive:
            expected = (404, state)
        elif action == "delete":
            expected = (200, "trash")
        elif action in ("change", "show"):
            expected = ((200, 202), state)
        else:
            following = self.NEXT.get((state, action))
            expected = (200, following) if following else (409, state)
        # Purging a living one leaves those in the trash that had its name before.
        if action == "purge" and alive and self.trash.get(name):
            expected = (200, "trash")
            self.trash[name] -= 1
        if action == "undelete" and not alive and state is None and self.trash.get(name, 0) >= 0:
            pass
        status, following = expected
        assert reply.status in (status if isinstance(status, tuple) else (status,)), (self.history[-30:], reply)
        if following is None:
            self.state.pop(name, None)
        else:
            self.state[name] = following
        shown = self.client.request("GET", f"/v1/instances/{name}")
        found = shown.json["status"]["state"] if shown.status == 200 else None
        assert found == (None if following == "trash" else following), (self.history[-30:], found)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_requests(make_daemon, seed):
    run_random(make_daemon, seed, seconds=4, kills=0)


@pytest.mark.long
@pytest.mark.slow
def test_random_requests_for_long(make_daemon):
    seed = int(time.time())
    print(f"seed {seed}")
    run_random(make_daemon, seed, seconds=120, kills=0)


def run_random(make_daemon, seed, seconds, kills):
    daemon = make_daemon(log_level="info").start()
    models = [Model(daemon, seed, client) for client in range(8)]
    end = time.monotonic() + seconds

    def work(model):
        count = 0
        while time.monotonic() < end:
            model.step()
            count += 1
        return count
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        steps = sum(pool.map(work, models))
    print(f"\nseed {seed}: {steps} requests")
    assert daemon.is_alive()
    for one in daemon.list("?name=shared"):
        daemon.request("POST", f"/v1/instances/{one['name']}/stop?wait={DEADLINE}s")
    eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"])
    daemon.check_clean()
    check_ledger(daemon)
    before = {one["assigned"]["uuid"]: one["status"]["state"] for one in daemon.list("?deleted=true")
              if one["name"].startswith("own")}
    daemon.restart(kill=True)
    eventually(lambda: not [one for one in daemon.get("/v1/operations")["operations"] if one["state"] == "running"])
    after = {one["assigned"]["uuid"]: one["status"]["state"] for one in daemon.list("?deleted=true")
             if one["name"].startswith("own")}
    assert after == before
    check_ledger(daemon)


def check_ledger(daemon):
    """What the node believes to have promised is what a recount gives."""
    node = daemon.get("/v1/node")
    holding = [one for one in daemon.list() if one["status"]["state"] in
               ("starting", "running", "paused", "suspending", "stopping")]
    assert node["instances"]["admitted"] == len(holding)
    assert node["memory"]["promised"] == sum(one["spec"]["memory"] for one in holding)
    assert node["cpus"]["promised_milli"] == round(sum(one["spec"]["cpus"] for one in holding) * 1000)
