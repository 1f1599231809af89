# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of an instance through the API: legal and illegal requests, operations, restarts, limits, the queue."""
import concurrent.futures
import time

import pytest

from polderlib import eventually

pytestmark = pytest.mark.scenario


def test_whole_life(daemon):
    daemon.create("web")
    assert daemon.state_of("web") == "created"
    for action, state in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("suspend", "suspended"),
                          ("resume", "running"), ("restart", "running"), ("suspend", "suspended"),
                          ("start", "running"), ("stop", "stopped"), ("start", "running")):
        operation = daemon.act("web", action)
        assert operation["type"] == f"instance.{action}" and operation["object"] == "instances/web"
        assert daemon.state_of("web") == state, action
    first = daemon.instance("web")["assigned"]["uuid"]
    daemon.problem(409, "DELETE", "/v1/instances/web?wait=60s")
    daemon.delete("web")
    daemon.problem(404, "GET", "/v1/instances/web")
    assert [one["status"]["state"] for one in daemon.list("?deleted=true")] == ["deleted"]
    daemon.act("web", "undelete")
    shown = daemon.instance("web")
    assert shown["assigned"]["uuid"] == first and shown["status"]["state"] == "stopped"
    daemon.delete("web", purge=True)
    assert daemon.list("?deleted=true") == []


# Every state that an instance can be kept in, how to bring it there, and the script it needs.
STATES = {
    "created": ([], {}),
    "running": (["start"], {}),
    "paused": (["start", "pause"], {}),
    "suspended": (["start", "suspend"], {}),
    "stopped": (["start", "stop"], {}),
    "failed": (["start"], {"start": "fail"}),
    "deleted": (["start", "stop", "delete"], {}),
    "queued": (["start"], {}),
    "starting": (["start"], {"start": "hang"}),
    "stopping": (["start", "stop"], {"stop": "delay=1h"}),
    "suspending": (["start", "suspend"], {"suspend": "delay=1h"}),
}
REQUESTS = ("start", "stop", "pause", "resume", "suspend", "delete", "undelete")
# Wished already: legal beyond the table, so that a request can be repeated after a crash.
REPEATED = {("running", "resume")} | {(state, "undelete") for state in STATES if state != "deleted"}


def bring(daemon, name, state):
    steps, labels = STATES[state]
    whole = daemon.get("/v1/node")["memory"]["physical"]
    if state == "queued":
        daemon.create("hog", start=True, memory=whole * 4 // 5)
    daemon.create(name, labels=labels, memory=whole // 2 if state == "queued" else 64 << 20)
    for step in steps:
        if step == "delete":
            daemon.delete(name)
        else:
            daemon.expect(202, "POST", f"/v1/instances/{name}/{step}")
            expected = {"start": ("running", "failed", "queued", "starting"), "stop": ("stopped", "stopping"),
                        "pause": ("paused",), "suspend": ("suspended", "suspending")}[step]
            daemon.wait_state(name, *expected)
    if state == "deleted":
        return daemon.list("?deleted=true")[-1]["assigned"]["uuid"]
    daemon.wait_state(name, state)  # "starting" was enough above
    return name


@pytest.mark.parametrize("state", list(STATES))
def test_requests_follow_the_table(make_daemon, state):
    """Each request in each state: legal by /v1/lifecycle, or answered with what is."""
    daemon = make_daemon(arguments=["--overcommit-memory-fake", "100", "--memory-reserve", "0"]).start()
    table = daemon.get("/v1/lifecycle")
    legal = {(row["from"], row["event"]) for row in table["transitions"]}
    for request in REQUESTS:
        name = bring(daemon, f"one-{request}", state)
        allowed = (state, request) in legal or (state, request) in REPEATED
        if state in ("starting", "stopping", "suspending"):
            # Another request is under way: what is asked next waits for it, or takes it back. Asked dry, it is judged.
            target = f"/v1/instances/{name}"
            reply = daemon.request("DELETE", target + "?dry_run=true") if request == "delete" else \
                daemon.request("POST", f"{target}/{request}?dry_run=true")
        elif request == "delete":
            reply = daemon.request("DELETE", f"/v1/instances/{name}?wait=60s")
        elif request in ("start", "undelete") and state == "queued":
            reply = daemon.request("POST", f"/v1/instances/{name}/{request}")
        else:
            reply = daemon.request("POST", f"/v1/instances/{name}/{request}?wait=60s")
        if state == "failed" and request == "start":
            assert reply.status == 500 and reply.code == "program-failed", reply
        elif state == "deleted" and request != "undelete":
            assert reply.status == 404, reply  # nobody names what is in the trash but to undelete or purge it
        elif allowed:
            assert reply.status in (200, 202), (state, request, reply)
        else:
            problem = reply.json
            assert (reply.status, problem["code"]) == (409, "wrong-state"), (state, request, reply)
            assert problem["parameters"][0] == state and problem["parameters"][1] == request
            offered = set(problem["parameters"][2].split(", "))
            assert offered & {event for at, event in legal if at == state} or "delete with force" in str(offered)
        for one in daemon.list("?deleted=true"):
            daemon.request("DELETE", f"/v1/instances/{one['assigned']['uuid']}?force=true&purge=true&wait=60s")
        assert daemon.list("?deleted=true") == []


def test_requests_are_repeatable(daemon):
    daemon.create("a")
    for action in ("start", "start", "pause", "pause", "resume", "resume", "suspend", "suspend", "start", "stop", "stop"):
        daemon.act("a", action)
    daemon.delete("a")
    daemon.act("a", "undelete")
    daemon.act("a", "undelete")


def test_remove_at_the_end(daemon):
    daemon.create("once", start=True, remove=True, labels={"run": "delay=50ms,exit=7"})
    waited = daemon.get("/v1/instances/once/wait?for=removed&timeout=60s") if daemon.state_of("once") else None
    if waited:
        assert waited["exit_code"] == 7 and waited["state"] == "removed"
    eventually(lambda: daemon.list("?deleted=true") == [])
    # A restart of one that goes at its end keeps it.
    daemon.create("again", start=True, remove=True)
    daemon.act("again", "restart")
    assert daemon.state_of("again") == "running"
    daemon.act("again", "stop")
    eventually(lambda: daemon.list("?deleted=true") == [])


def test_waits(daemon):
    daemon.create("job", labels={"run": "delay=300ms,exit=3"})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waits = [pool.submit(daemon.get, f"/v1/instances/job/wait?for={goal}&timeout=60s")
                 for goal in ("running", "exited", "failed")]
        daemon.act("job", "start")
        running, exited, failed = [wait.result() for wait in waits]
    assert running["state"] in ("running", "failed")
    assert exited["exit_code"] == failed["exit_code"] == 3
    assert daemon.problem(504, "GET", "/v1/instances/job/wait?for=running&timeout=50ms")["code"] == "timeout"
    assert daemon.problem(400, "GET", "/v1/instances/job/wait?for=sideways")["code"] == "bad-value"
    daemon.problem(404, "GET", "/v1/instances/nobody/wait")


# ---- operations ----

def test_operation_is_followed_and_cancelled(daemon):
    daemon.create("slow", labels={"start": "hang"})
    operation = daemon.begin("slow", "start")
    daemon.wait_state("slow", "starting")
    still = daemon.operation(operation["id"])
    assert still["state"] == "running" and still["finished"] is None
    reply = daemon.expect(200, "DELETE", f"/v1/operations/{operation['id']}?wait=60s")
    assert reply.json["state"] == "canceled" and reply.json["error"]["code"] == "canceled"
    assert daemon.state_of("slow") == "stopped"
    # The wish went with it: nothing starts when the daemon comes back.
    daemon.restart(kill=True)
    assert daemon.state_of("slow") == "stopped"
    assert any(one["object"] == "instances/slow" for one in daemon.get("/v1/operations")["operations"]) is False
    daemon.problem(404, "GET", f"/v1/operations/{operation['id']}")


def test_stop_takes_back_a_start(daemon):
    for labels in ({"start": "hang"}, {"start": "delay=1h"}):
        daemon.create("slow", labels=labels)
        start = daemon.begin("slow", "start")
        daemon.wait_state("slow", "starting")
        daemon.act("slow", "stop")
        assert daemon.wait_operation(start)["state"] == "canceled"
        assert daemon.state_of("slow") == "stopped"
        daemon.delete("slow", purge=True)


def test_force_does_not_wait_for_a_gentle_stop(daemon):
    daemon.create("stubborn", start=True, labels={"stop": "hang"})
    gentle = daemon.begin("stubborn", "stop", {"timeout": "1h"})
    daemon.wait_state("stubborn", "stopping")
    daemon.act("stubborn", "stop", {"force": True})
    assert daemon.wait_operation(gentle)["state"] in ("canceled", "done")
    assert daemon.instance("stubborn")["status"]["exit_code"] == 137
    assert daemon.state_of("stubborn") == "stopped"


def test_failed_steps_leave_what_was(daemon):
    daemon.create("a", start=True, labels={"stop": "fail=1", "pause": "fail=1", "suspend": "fail=1"})
    for action in ("pause", "suspend", "stop"):
        problem = daemon.problem(500, "POST", f"/v1/instances/a/{action}?wait=60s")
        assert problem["code"] == "program-failed" and problem["subject"] == "instance 'a'", problem
        assert problem["operation"]["state"] == "failed"
        assert daemon.state_of("a") == "running"
        daemon.check_clean()
        daemon.act("a", action)
        daemon.act("a", "start" if action != "pause" else "resume")
    # What cannot be restored is still suspended: its memory is on disk.
    daemon.create("b", start=True, labels={"restore": "fail=1"})
    daemon.act("b", "suspend")
    daemon.problem(500, "POST", "/v1/instances/b/resume?wait=60s")
    assert daemon.state_of("b") == "suspended"
    daemon.act("b", "resume")
    assert daemon.state_of("b") == "running"


def test_many_starts_at_once_start_once(daemon):
    daemon.create("a", labels={"start": "delay=200ms"})
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: daemon.act("a", "start"), range(20)))
    assert all(reply["state"] == "done" for reply in replies)
    assert daemon.instance("a")["status"]["pid"] == 1
    starts = [row for row in daemon.audit() if row["action"] == "instance.start"]
    assert len(starts) == 20 and all(row["result"] == "ok" for row in starts)


# ---- creating ----

def test_one_key_makes_one_instance(daemon):
    def create(_):
        return daemon.request("POST", "/v1/instances?start=true&wait=60s", {"spec": {"kind": "fake"}},
                              {"Idempotency-Key": "order-66"})
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(create, range(100)))
    assert {reply.status for reply in replies} == {200}, {reply.status for reply in replies}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert len(daemon.list()) == 1
    # Also over a restart, and after it is gone; another request may not use the key.
    name = daemon.list()[0]["name"]
    daemon.restart(kill=True)
    assert create(0).json["object"] == f"instances/{name}"
    daemon.delete(name, purge=True)
    assert create(0).status == 200 and daemon.list() == []
    problem = daemon.problem(400, "POST", "/v1/instances", {"spec": {"kind": "fake", "cpus": 2}},
                             {"Idempotency-Key": "order-66"})
    assert problem["parameters"][0] == "Idempotency-Key"


def test_a_client_that_leaves_creates_once(daemon):
    """The request was sent, the client is gone before the answer: with its key it finds what it made."""
    client = daemon.client()
    client.request("GET", "/healthz")
    body = '{"name":"once","spec":{"kind":"fake"}}'
    client.connection.sock.sendall((f"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                                    f"Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
    client.close()
    eventually(lambda: daemon.state_of("once"))
    again = daemon.change("POST", "/v1/instances", {"name": "once", "spec": {"kind": "fake"}}, {"Idempotency-Key": "k"})
    assert again["object"] == "instances/once" and len(daemon.list()) == 1


def test_one_name_is_given_once(daemon):
    def create(_):
        return daemon.request("POST", "/v1/instances?wait=60s", {"name": "web", "spec": {"kind": "fake"}}).status
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        statuses = sorted(pool.map(create, range(30)))
    assert statuses == [200] + [409] * 29
    daemon.check_clean()


def test_dry_runs_leave_nothing(daemon):
    before = daemon.audit()
    reply = daemon.expect(200, "POST", "/v1/instances?dry_run=true", {"name": "a", "spec": {"kind": "fake", "cpus": 2}})
    assert reply.json["spec"]["cpus"] == 2 and reply.json["assigned"]["kind"] == "fake"
    assert daemon.list("?deleted=true") == [] and daemon.audit() == before
    daemon.create("a")
    text = daemon.request("GET", "/v1/instances/a").body
    daemon.expect(200, "PATCH", "/v1/instances/a?dry_run=true", {"spec": {"cpus": 3}})
    daemon.expect(200, "POST", "/v1/instances/a/start?dry_run=true")
    daemon.expect(200, "DELETE", "/v1/instances/a?dry_run=true")
    assert daemon.request("GET", "/v1/instances/a").body == text
    assert daemon.problem(409, "POST", "/v1/instances/a/pause?dry_run=true")["code"] == "wrong-state"
    assert daemon.problem(409, "POST", "/v1/instances?dry_run=true", {"name": "a", "spec": {"kind": "fake"}})["code"] == "exists"


def test_impossible_is_refused_at_once(make_daemon):
    daemon = make_daemon(arguments=["--overcommit-cpu-fake", "100", "--overcommit-memory-fake", "100"]).start()
    for spec, resource in (({"cpus": 900}, "cpus"), ({"memory": "15T"}, "memory")):
        problem = daemon.problem(422, "POST", "/v1/instances", {"name": "big", "spec": dict(spec, kind="fake")})
        assert problem["code"] == "impossible" and resource in problem["parameters"], problem
    assert daemon.list() == []
    daemon.create("a")
    assert daemon.problem(422, "PATCH", "/v1/instances/a", {"spec": {"cpus": 900}})["code"] == "impossible"


# ---- changing ----

def test_if_match(daemon):
    daemon.create("a")
    etag = daemon.request("GET", "/v1/instances/a").headers["etag"]
    daemon.expect((200, 202), "PATCH", "/v1/instances/a", {"spec": {"description": "one"}}, {"If-Match": etag})
    problem = daemon.problem(412, "PATCH", "/v1/instances/a", {"spec": {"description": "two"}}, {"If-Match": etag})
    assert problem["code"] == "changed"
    for method, path in (("POST", "/v1/instances/a/start"), ("DELETE", "/v1/instances/a")):
        assert daemon.problem(412, method, path, headers={"If-Match": etag})["code"] == "changed"
    daemon.expect((200, 202), "PATCH", "/v1/instances/a", {"spec": {"description": "two"}}, {"If-Match": "*"})
    # What merely happens to it does not count.
    etag = daemon.request("GET", "/v1/instances/a").headers["etag"]
    daemon.act("a", "start")
    daemon.expect((200, 202), "PATCH", "/v1/instances/a", {"spec": {"description": "three"}}, {"If-Match": etag})
    assert daemon.instance("a")["spec"]["description"] == "three"


def test_no_update_is_lost(daemon):
    """Fifty clients add a label each, with If-Match and again when refused: all fifty are there."""
    daemon.create("a")

    def add(number):
        while True:
            shown = daemon.request("GET", "/v1/instances/a")
            labels = dict(shown.json["spec"]["labels"], **{f"client{number}": "here"})
            reply = daemon.request("PATCH", "/v1/instances/a", {"spec": {"labels": labels}},
                                   {"If-Match": shown.headers["etag"]})
            assert reply.status in (200, 202, 412), reply
            if reply.status != 412:
                return
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        list(pool.map(add, range(50)))
    shown = daemon.instance("a")
    assert set(shown["spec"]["labels"]) == {f"client{number}" for number in range(50)}
    assert shown["assigned"]["generation"] == 51


def test_only_the_wish_is_written(daemon):
    daemon.create("a")
    for body in ({"status": {"state": "running"}}, {"assigned": {"uuid": "x"}}, {"id": 1}, {"project": "other"},
                 {"spec": {"state": "running"}}, {"spec": {"created": "now"}}, {"control": {"power": "running"}}):
        problem = daemon.problem(400, "PATCH", "/v1/instances/a", body)
        assert problem["code"] in ("unknown-field", "read-only-field"), problem
        problem = daemon.problem(400, "POST", "/v1/instances", dict({"name": "b", "spec": {"kind": "fake"}}, **body))
        assert problem["code"] in ("unknown-field", "read-only-field"), problem
    assert daemon.problem(409, "PATCH", "/v1/instances/a", {"spec": {"kind": "vm"}})["code"] in ("frozen-field",)
    for name in ("../etc", "a\r\nSet-Cookie: x", "a\0b", "A", "-a", "a" * 64, ""):
        for problem in (daemon.problem(400, "PATCH", "/v1/instances/a", {"name": name}),
                        daemon.problem(400, "POST", "/v1/instances", {"name": name, "spec": {"kind": "fake"}})):
            assert problem["code"] in ("bad-name", "bad-value", "bad-json"), problem


def test_rename(daemon):
    daemon.create("old")
    daemon.create("taken")
    daemon.expect((200, 202), "PATCH", "/v1/instances/old", {"name": "new"})
    daemon.problem(404, "GET", "/v1/instances/old")
    assert daemon.instance("new")["name"] == "new"
    assert daemon.problem(409, "PATCH", "/v1/instances/new", {"name": "taken"})["code"] == "exists"
    daemon.act("new", "start")
    assert daemon.problem(409, "PATCH", "/v1/instances/new", {"name": "newer"})["code"] == "frozen-field"
    daemon.create("old")
    daemon.check_clean()
    daemon.restart(kill=True)
    assert [one["name"] for one in daemon.list()] == ["new", "old", "taken"]
    daemon.check_clean()


def test_undelete_beside_a_new_one(daemon):
    daemon.create("web")
    daemon.delete("web")
    daemon.create("web")
    assert daemon.problem(409, "POST", "/v1/instances/web/undelete?wait=60s")["code"] == "exists"
    daemon.expect((200, 202), "PATCH", "/v1/instances/web", {"name": "newer"})
    daemon.act("web", "undelete")
    assert [one["name"] for one in daemon.list()] == ["newer", "web"]
    daemon.check_clean()


# ---- ends, restarts, limits ----

def test_restart_policies(daemon):
    daemon.create("no", start=True, labels={"run": "exit=1"})
    daemon.create("failing", start=True, restart="on-failure", restart_limit=2, labels={"run": "exit=1"})
    daemon.create("done", start=True, restart="on-failure", labels={"run": "exit=0"})
    daemon.create("always", start=True, restart="always", labels={"run": "exit=0"})
    eventually(lambda: daemon.instance("failing")["status"]["restarts"] == 2 and daemon.state_of("failing") == "failed")
    eventually(lambda: daemon.instance("always")["status"]["restarts"] >= 2)
    daemon.act("always", "stop")
    restarts = daemon.instance("always")["status"]["restarts"]
    assert daemon.state_of("no") == "failed" and daemon.instance("no")["status"]["restarts"] == 0
    assert daemon.state_of("done") == "stopped" and daemon.instance("done")["status"]["restarts"] == 0
    time.sleep(1)
    status = daemon.instance("always")["status"]
    assert status["state"] == "stopped" and status["restarts"] == restarts, "a stop ends the restarts"


def test_back_off_grows(daemon):
    """Each restart of one that ends at once comes after a longer pause: 0.1, 0.2, 0.4, 0.8 s …"""
    begun = time.monotonic()
    daemon.create("crash", start=True, restart="always", labels={"run": "exit=1"})
    eventually(lambda: daemon.instance("crash")["status"]["restarts"] >= 4)
    assert time.monotonic() - begun >= 1.4
    # The pause goes on over a restart of the daemon, and the counting too.
    daemon.restart(kill=True)
    eventually(lambda: daemon.instance("crash")["status"]["restarts"] >= 6)
    daemon.act("crash", "stop")
    assert daemon.state_of("crash") in ("stopped", "failed")


def test_time_limit(daemon):
    daemon.create("limited", start=True, timeout="300ms", restart="always")
    daemon.wait_state("limited", "stopped")
    time.sleep(0.5)
    assert daemon.state_of("limited") == "stopped", "the limit is no reason to restart"
    daemon.create("later", start=True, timeout="1h")
    daemon.expect((200, 202), "PATCH", "/v1/instances/later", {"spec": {"timeout": "100ms"}})
    daemon.wait_state("later", "stopped")
    assert any(row["actor"] == "polderd" and row["action"] == "instance.stop" for row in daemon.audit())


def test_how_it_ended_is_told(daemon):
    daemon.create("oom", start=True, labels={"run": "exit=137,oom"})
    daemon.wait_state("oom", "failed")
    status = daemon.instance("oom")["status"]
    assert status["out_of_memory"] and status["exit_code"] == 137 and status["finished"]
    daemon.create("sig", start=True)
    daemon.expect(204, "POST", "/v1/instances/sig/signal", {"signal": "SIGKILL"})
    daemon.wait_state("sig", "failed")
    assert daemon.instance("sig")["status"]["exit_code"] == 137
    assert daemon.problem(409, "POST", "/v1/instances/sig/signal", {"signal": "SIGTERM"})["code"] == "wrong-state"


# ---- the queue ----

def queue_daemon(make_daemon):
    """A node whose fake instances may take 100 % of its memory, in order of arrival; four fifths are taken by 'hog'."""
    daemon = make_daemon(arguments=["--overcommit-memory-fake", "100", "--memory-reserve", "0", "--queue-policy", "fcfs",
                                    "--queue-backfill", "none"]).start()
    whole = daemon.get("/v1/node")["memory"]["physical"]
    daemon.create("hog", start=True, memory=whole * 4 // 5)
    return daemon, whole


def test_queue_keeps_the_order_and_tells_why(make_daemon):
    daemon, whole = queue_daemon(make_daemon)
    operations = []
    for name, share in (("first", 2), ("second", 2), ("small", 100)):
        operations.append(daemon.create(name, start=True, memory=whole // share, wait=False))
        daemon.wait_state(name, "queued")
    status = daemon.instance("first")["status"]
    assert status["reason"] == "no-room" and "memory" in status["message"] and status["queue_position"] == 1
    status = eventually(lambda: daemon.instance("small")["status"])
    assert status["queue_position"] == 3 and status["reason"] == "busy", "it would fit, but others wait before it"
    assert daemon.get("/v1/node")["instances"]["queued"] == 3
    assert all(daemon.operation(one["id"])["step"] == "waiting for room" for one in operations)
    # Over a crash the order stays.
    daemon.restart(kill=True)
    for position, name in enumerate(("first", "second", "small"), 1):
        eventually(lambda: daemon.instance(name)["status"]["queue_position"] == position)
    daemon.act("hog", "stop")
    for name in ("first", "second"):
        daemon.wait_state(name, "running")
    assert daemon.state_of("small") == "queued"
    daemon.act("second", "stop")
    daemon.wait_state("small", "running")
    assert daemon.instance("small")["status"].get("reason") is None
    daemon.check_clean()


def test_queued_starts_are_taken_back(make_daemon):
    daemon, whole = queue_daemon(make_daemon)
    waiting = daemon.create("a", start=True, memory=whole // 2, wait=False)
    daemon.create("b", memory=whole // 2)
    second = daemon.begin("b", "start")
    daemon.wait_state("b", "queued")
    again = daemon.begin("b", "start")
    daemon.act("a", "stop")
    assert daemon.wait_operation(waiting)["state"] == "canceled"
    assert daemon.state_of("a") == "stopped"
    eventually(lambda: daemon.instance("b")["status"]["queue_position"] == 1)
    daemon.expect(200, "DELETE", f"/v1/operations/{again['id']}?wait=60s")
    assert daemon.state_of("b") == "queued", "the first request still waits"
    daemon.expect(200, "DELETE", "/v1/instances/b?wait=60s")
    assert daemon.wait_operation(second)["state"] == "canceled"
    assert daemon.get("/v1/node")["instances"]["queued"] == 0
    # One that was suspended is suspended again, its memory kept.
    daemon.create("c", start=True, memory="1M" if whole < 2**20 else "64M")
    daemon.act("c", "suspend")
    daemon.create("filler", start=True, memory=whole // 5 - 32 * 2**20)
    resume = daemon.begin("c", "resume")
    daemon.wait_state("c", "queued")
    daemon.expect(200, "DELETE", f"/v1/operations/{resume['id']}?wait=60s")
    assert daemon.state_of("c") == "suspended"
    daemon.begin("c", "resume")
    daemon.wait_state("c", "queued")
    daemon.restart(kill=True)
    daemon.wait_state("c", "queued")
    daemon.act("filler", "stop")
    daemon.wait_state("c", "running")
    assert [row for row in daemon.audit() if row["action"] == "instance.resume"]
    daemon.check_clean()


def test_limits_count_in_the_ledger(make_daemon):
    daemon, whole = queue_daemon(make_daemon)
    daemon.create("a", start=True, memory="64M")
    promised = daemon.get("/v1/node")["memory"]["promised"]
    daemon.expect((200, 202), "PATCH", "/v1/instances/a", {"spec": {"memory": "128M"}})
    assert daemon.get("/v1/node")["memory"]["promised"] == promised + (64 << 20)
    problem = daemon.problem(507, "PATCH", "/v1/instances/a", {"spec": {"memory": whole // 2}})
    assert problem["code"] == "no-room"
    assert daemon.instance("a")["spec"]["memory"] == 128 << 20
    assert daemon.get("/v1/node")["memory"]["promised"] == promised + (64 << 20)
    # What waits may become small enough.
    daemon.create("b", memory=whole // 2)
    daemon.begin("b", "start")
    daemon.wait_state("b", "queued")
    daemon.expect((200, 202), "PATCH", "/v1/instances/b", {"spec": {"memory": "64M"}})
    daemon.wait_state("b", "running")
    daemon.check_clean()
