# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue in the daemon: order, rules that change live, ETAs and reasons, decisions and their replay, what-if, and giving
way without loss. The fake driver plays instances; capacity is made small by overcommit ratios."""
import concurrent.futures
import json
import os
import re
import socket
import sqlite3
import subprocess
import threading
import time

import polderlib
import pytest
from polderlib import eventually

pytestmark = pytest.mark.scenario
CPUS = os.cpu_count()


def small_node(make_daemon, *arguments):
    """Fake instances may take the node's real CPUs: each of these cpus is one of the node's."""
    return make_daemon(arguments=["--overcommit_cpu_fake", "100", *arguments]).start()


def create(daemon, name, run=None, cpus=CPUS, **spec):
    """Created, and started without waiting for it to run."""
    labels = {"run": run} if run else None
    daemon.create(name, cpus=cpus, memory="16M", labels=labels, **spec)
    daemon.begin(name, "start")
    eventually(lambda: daemon.state_of(name) not in ("created", "starting"), what=f"{name} is taken in hand")


def state(daemon, name):
    return daemon.state_of(name)


def set_queue(daemon, **settings):
    reply = daemon.request("PATCH", "/v1/node", {"queue": settings})
    assert reply.status == 200, reply
    return reply.json["queue"]


def wait_for(daemon, name, wanted):
    eventually(lambda: state(daemon, name) == wanted, what=f"{name} is {wanted}")


def stop(daemon, name):
    daemon.act(name, "stop", {"force": True})


def test_rules_change_live_and_stay(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "fcfs", "--queue_backfill", "none")
    assert daemon.request("GET", "/v1/node").json["queue"]["policy"] == "fcfs"
    create(daemon, "holder")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1m")
    assert [state(daemon, name) for name in ("holder", "long", "short")] == ["running", "queued", "queued"]
    assert set_queue(daemon, policy="sjf")["policy"] == "sjf"
    stop(daemon, "holder")
    wait_for(daemon, "short", "running")
    assert state(daemon, "long") == "queued"
    stop(daemon, "short")
    wait_for(daemon, "long", "running")
    audit = daemon.request("GET", "/v1/audit").json["audit"]
    assert any(row["action"] == "node.set" and row["result"] == "ok" for row in audit)
    daemon.restart()
    assert daemon.request("GET", "/v1/node").json["queue"]["policy"] == "sjf"


def test_rules_that_change_at_once_all_count(make_daemon):
    daemon = small_node(make_daemon)
    for turn in range(5):
        wanted = {"residency": 1000 * (turn + 1), "policy": ("sjf", "fcfs")[turn % 2], "backfill": ("none", "easy")[turn % 2]}
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda one: set_queue(daemon, **{one[0]: one[1]}), wanted.items()))
        shown = daemon.get("/v1/node")["queue"]
        assert {key: shown[key] for key in ("policy", "backfill")} == {key: wanted[key] for key in ("policy", "backfill")}
        daemon.restart(kill=True)
        again = daemon.get("/v1/node")["queue"]
        assert again == shown


def test_rules_that_cannot_be_kept_are_taken_back(make_daemon):
    if not polderlib.build_option("failpoints"):
        pytest.skip("this build has no fail points (meson -Dfailpoints=true)")
    daemon = make_daemon(arguments=["--overcommit_cpu_fake", "100", "--queue_policy", "fcfs", "--queue_backfill", "none"]).start()
    create(daemon, "holder", duration="1h")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1m")
    daemon.environment = {"POLDER_FAILPOINTS": "store-write=error:28"}
    daemon.restart()
    assert daemon.request("PATCH", "/v1/node", {"queue": {"policy": "sjf"}}).status >= 400
    assert daemon.get("/v1/node")["queue"]["policy"] == "fcfs"
    assert [row["name"] for row in queue_of(daemon)["queue"]] == ["long", "short"]
    daemon.kill9()
    daemon.environment = {}
    daemon.start()
    assert daemon.get("/v1/node")["queue"]["policy"] == "fcfs"


@pytest.mark.parametrize("settings,word", [
    ({"policy": "srtff"}, "srtf"), ({"policy": ""}, None), ({"backfill": "eazy"}, "easy"), ({"estimates": "actual"}, "predicted"),
    ({"parameters": {"rr.quantum": "nan"}}, "finite"), ({"parameters": {"rr.quantum": "0"}}, "above zero"),
    ({"parameters": {"rr.quantum": "inf"}}, "finite"), ({"parameters": {"alarm": "-1"}}, "between"),
    ({"parameters": {"no.such": "1"}}, "no.such"), ({"policy": "rr", "backfill": "conservative"}, "round robin"),
    ({"parameters": {"polder.time": "0", "polder.size": "0", "polder.urgency": "0"}}, "fcfs"), ({"colour": "red"}, "colour"),
])
def test_bad_rules_are_refused_by_name(daemon, settings, word):
    before = daemon.request("GET", "/v1/node").json["queue"]
    reply = daemon.request("PATCH", "/v1/node", {"queue": settings})
    if word is None:  # an empty text stands for the default
        assert reply.status == 200
        return
    assert reply.status in (400, 404), reply
    assert word in reply.json["detail"], reply
    assert daemon.request("GET", "/v1/node").json["queue"] == before


def test_backfilling_fills_gaps(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "fcfs", "--queue_backfill", "none")
    create(daemon, "holder", cpus=CPUS - 0.5, duration="1h")
    create(daemon, "large", duration="1h")
    create(daemon, "quick", cpus=0.5, duration="1m")
    create(daemon, "endless", cpus=0.5)
    assert state(daemon, "quick") == "queued"
    set_queue(daemon, backfill="easy")
    wait_for(daemon, "quick", "running")
    assert (state(daemon, "large"), state(daemon, "endless")) == ("queued", "queued")


def queue_of(daemon, limit=100):
    return daemon.get(f"/v1/queue?limit={limit}")


def test_order_and_expected_starts(make_daemon):
    """By hand: the holder is expected to end after an hour, then short runs a minute, then long two hours."""
    daemon = small_node(make_daemon, "--queue_policy", "sjf", "--queue_backfill", "none")
    create(daemon, "holder", duration="1h")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1m")
    create(daemon, "endless")
    answer = queue_of(daemon)
    assert (answer["policy"], answer["waiting"], answer["admitted"]) == ("sjf", 3, 1)
    rows = answer["queue"]
    # What has no end comes before batch, and then nobody knows when the others start.
    assert [(row["position"], row["name"]) for row in rows] == [(1, "endless"), (2, "short"), (3, "long")]
    assert rows[0]["starts_in"] == pytest.approx(3600, abs=60) and rows[1]["start"] is None
    daemon.act("endless", "stop")
    rows = queue_of(daemon)["queue"]
    assert [row["name"] for row in rows] == ["short", "long"]
    assert rows[0]["reason"] == "cpus" and "cpus" in rows[0]["message"] and rows[0]["expected"] == 60
    assert rows[0]["starts_in"] == pytest.approx(3600, abs=60)
    assert rows[1]["starts_in"] == pytest.approx(rows[0]["starts_in"] + 60, abs=0.01)
    assert queue_of(daemon, limit=1)["queue"][0]["name"] == "short"
    daemon.problem(400, "GET", "/v1/queue?limit=0")


def test_many_wait_and_the_queue_answers(make_daemon):
    daemon = small_node(make_daemon)
    create(daemon, "holder", duration="1h")
    for number in range(120):
        daemon.create(f"w{number}", cpus=CPUS, memory="16M", duration=f"{60 + number * 7 % 50}s", start=True, wait=False)
    eventually(lambda: queue_of(daemon)["waiting"] == 120, what="all wait")
    rows = queue_of(daemon, 1000)["queue"]
    assert [row["position"] for row in rows] == list(range(1, 121))
    starts = [row["starts_in"] for row in rows]
    assert starts == sorted(starts) and len({row["name"] for row in rows}) == 120


def test_what_would_let_it_start(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "fcfs", "--queue_backfill", "none")
    create(daemon, "batch-7", cpus=0.5, duration="1h")
    create(daemon, "holder", cpus=CPUS - 0.75, duration="1h")
    create(daemon, "waiting", cpus=0.75, duration="1m")
    create(daemon, "behind", cpus=0.1, duration="1m")
    why = daemon.get("/v1/instances/waiting/why")
    assert (why["waits"], why["position"], why["reason"]) == (True, 1, "cpus")
    assert why["if"]["fewer_cpus"] == 0.5 and why["if"]["suspended"] == "batch-7" and why["if"]["ahead"] is None
    assert why["if"]["sentence"] == "starts now if cpus were 0.5 less, or if batch-7 were suspended"
    told = why["could_give_way"]  # fcfs asks nobody, but who could is told
    assert (told["reason"], {row["name"] for row in told["who"]}) == ("policy", {"batch-7", "holder"})
    assert all((row["way"], row["reason"], row["asked_in"]) == ("pause", "policy", None) for row in told["who"])
    why = daemon.get("/v1/instances/behind/why")
    assert (why["position"], why["reason"], why["if"]["ahead"]) == (2, "order", "waiting")
    # It is true.
    daemon.expect(202, "POST", "/v1/instances/batch-7/suspend")
    wait_for(daemon, "waiting", "running")
    assert daemon.get("/v1/instances/waiting/why")["waits"] is False
    daemon.problem(404, "GET", "/v1/instances/nobody/why")


def test_what_if_tells_and_changes_nothing(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "fcfs", "--queue_backfill", "none")
    create(daemon, "holder", duration="1h")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1m")
    before = queue_of(daemon)["queue"]
    answer = daemon.get("/v1/what-if?policy=sjf")
    rows = {row["name"]: row for row in answer["queue"]}
    assert (rows["short"]["position_before"], rows["short"]["position_after"]) == (2, 1)
    assert rows["short"]["starts_in_after"] == pytest.approx(rows["long"]["starts_in_before"], abs=0.01)
    assert rows["long"]["starts_in_after"] == pytest.approx(rows["long"]["starts_in_before"] + 60, abs=0.01)
    rows = daemon.get(f"/v1/what-if?policy=sjf&add=3&kind=fake&cpus={CPUS}&duration=10s")["queue"]
    new = [row for row in rows if row["new"]]
    assert [row["position_after"] for row in new] == [1, 2, 3] and len(rows) == 5
    rows = {row["name"]: row for row in daemon.get(f"/v1/what-if?node_cpus={CPUS * 2}")["queue"]}
    assert rows["long"]["starts_in_after"] == 0
    after = queue_of(daemon)["queue"]
    assert [row["name"] for row in after] == [row["name"] for row in before] == ["long", "short"]
    assert "srtf" in daemon.problem(400, "GET", "/v1/what-if?policy=srtff")["detail"]
    daemon.problem(422, "GET", f"/v1/what-if?add=1&kind=fake&cpus={CPUS * 2}")


def thinking_node(make_daemon, delay, waiting):
    """Each question about the queue takes so many milliseconds on its worker thread; so many wait."""
    daemon = make_daemon(arguments=["--overcommit_cpu_fake", "100", "--queue_policy", "fcfs"],
                         environment={"POLDER_FAILPOINTS": f"thought-run=delay:{delay}"}).start()
    create(daemon, "holder", duration="1h")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda number: create(daemon, f"w{number}", duration="1m"), range(waiting)):
            pass
    return daemon


def ask(daemon, path):
    client = daemon.client()
    try:
        return client.request("GET", path)
    finally:
        client.close()


def test_questions_about_the_queue_hold_nobody_up(make_daemon):
    """While they are thought about everybody else is served; two at a time, the others in turn; who goes away meanwhile is told as he
    was; and polderd ends beside them."""
    daemon = thinking_node(make_daemon, 1000, 150)
    names = [row["name"] for row in queue_of(daemon, 1000)["queue"]]
    assert sorted(names) == sorted(f"w{number}" for number in range(150))
    paths = ["/v1/queue?limit=1000", "/v1/what-if?policy=sjf", "/v1/instances/w7/why", "/v1/what-if?add=10000&kind=fake&cpus=0.1",
             "/v1/queue?limit=1000"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        begun, reads = time.monotonic(), 0
        asked = [pool.submit(ask, daemon, path) for path in paths]
        while not any(future.done() for future in asked):
            assert state(daemon, "holder") == "running"
            reads += 1
        replies = [future.result() for future in asked]
        assert time.monotonic() - begun >= 3 and reads >= 10  # five questions of a second, two at a time
        assert [reply.status for reply in replies] == [200] * 5
        told = [[row["name"] for row in replies[number].json["queue"] if not row.get("new")] for number in (0, 1, 3, 4)]
        assert told == [names] * 4 and len(replies[3].json["queue"]) == 10150
        # It is about the moment when it was asked.
        asked = pool.submit(ask, daemon, "/v1/queue?limit=1000")
        time.sleep(0.5)
        for number in (3, 5, 7):
            daemon.delete(f"w{number}")
        daemon.change("PATCH", "/v1/instances/w9", {"spec": {"priority": 5}})
        rows = {row["name"]: row for row in asked.result().json["queue"]}
        assert {"w3", "w5", "w7", "w9"} <= set(rows) and rows["w9"]["priority"] == 0
        rows = {row["name"]: row for row in ask(daemon, "/v1/queue?limit=1000").json["queue"]}
        assert not {"w3", "w5", "w7"} & set(rows) and rows["w9"]["priority"] == 5


def test_questions_about_the_queue_whose_askers_leave(make_daemon):
    daemon = thinking_node(make_daemon, 500, 3)
    path = "/v1/what-if?add=5000&kind=fake&cpus=0.1"
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert len(daemon.get(path)["queue"]) == 5003
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert state(daemon, "holder") == "running"
        daemon.stop()  # while it thinks


PREEMPTIVE = ["--queue_residency", "0", "--queue_backfill", "none"]


def preemptions(daemon, name):
    return daemon.instance(name)["status"]["preemptions"]


def test_the_shorter_comes_first_and_nothing_is_lost(make_daemon):
    """srtf: processors alone are wanted, so the long one is paused; it goes on when the short one has ended."""
    daemon = small_node(make_daemon, "--queue_policy", "srtf", *PREEMPTIVE)
    create(daemon, "long", duration="1h")
    create(daemon, "short", run="delay=2s,exit=0", duration="1s")
    wait_for(daemon, "short", "running")
    shown = daemon.instance("long")
    assert (shown["status"]["state"], shown["status"]["preemptions"]) == ("paused", 1)
    eventually(lambda: daemon.instance("long")["status"].get("queue_position") == 1, what="it waits")
    row = queue_of(daemon)["queue"][0]
    assert (row["name"], row["paused"], row["reason"]) == ("long", True, "cpus")
    pid = shown["status"]["pid"]
    wait_for(daemon, "short", "stopped")
    wait_for(daemon, "long", "running")
    status = daemon.instance("long")["status"]
    assert (status["pid"], status["restarts"], status.get("queue_position")) == (pid, 0, 0) and status.get("reason") is None
    actions = [row["action"] for row in daemon.audit() if row["object"] == "instances/long" and row["result"] == "ok"]
    assert "instance.preempt" in actions and "instance.resume" in actions


def test_memory_is_freed_by_going_to_disk(make_daemon):
    daemon = make_daemon(arguments=["--overcommit-memory-fake", "100", "--memory-reserve", "0", "--queue_policy", "srtf",
                                    *PREEMPTIVE]).start()
    whole = daemon.get("/v1/node")["memory"]["physical"]
    daemon.expect(200, "PATCH", "/v1/node", {"labels": {"zone": "a"}})
    daemon.create("long", start=True, memory=whole * 3 // 4, duration="1h", node_labels=["zone=a"])
    daemon.create("short", start=True, memory=whole // 2, duration="1s", labels={"run": "delay=2s,exit=0"}, wait=False)
    # Nothing was measured: 10 s for a GiB to disk and back are supposed, and it works for four times that before it is asked.
    wait_for(daemon, "short", "queued")
    told = daemon.get("/v1/instances/short/why")["could_give_way"]
    ways = daemon.get("/v1/instances/long/why")["gives_way"]
    cost = ways["suspend"]["cost"]
    assert (told["reason"], told["more"], [row["name"] for row in told["who"]]) == ("not_yet", 0, ["long"])
    row = told["who"][0]
    assert (row["way"], row["frees"], row["reason"]) == ("suspend", "cpus and memory", "cost")
    assert row["cost"] == pytest.approx(cost, abs=0.01)
    assert ways["suspend"]["asked_in"] - 0.001 <= row["asked_in"] <= 4 * cost  # the one is told in whole milliseconds
    shown = polder(daemon, "why", "short").stdout
    assert "would not make enough room" in shown and re.search(r"^long +suspend +cpus and memory .* not worth", shown, re.M), shown
    assert cost == pytest.approx(0.2 + 10 * (whole * 3 // 4) / 2**30, rel=0.01) and 0 < ways["suspend"]["asked_in"] <= 4 * cost
    assert ways["measured"]["suspend"] == {"seconds_per_gib": 5, "times": 0}
    assert ways["pause"]["frees"] == "cpus" and ways["pause"]["cost"] == pytest.approx(0.2)
    daemon.expect(200, "PATCH", "/v1/node", {"labels": {"zone": None}})
    set_queue(daemon, parameters={"yield.prior": "0"})
    wait_for(daemon, "short", "running")
    assert daemon.state_of("long") == "queued" and preemptions(daemon, "long") == 1
    decision = daemon.get("/v1/instances/short/why")["decision"]
    asked = daemon.get(f"/v1/decisions/{decision['decision'] - 1}")["decision"]
    assert (asked["verdict"], asked["name"], asked["gives_way"]["for"]) == ("suspend", "long", "short")
    assert daemon.get("/v1/node")["memory"]["taken"] == pytest.approx(whole // 2, abs=1)
    wait_for(daemon, "short", "stopped")
    # Whoever gave way is not refused its way back for a label that went meanwhile.
    eventually(lambda: daemon.get("/v1/instances/long/why").get("reason") == "trait", what="it waits for the label")
    daemon.expect(200, "PATCH", "/v1/node", {"labels": {"zone": "a"}})
    wait_for(daemon, "long", "running")
    set_queue(daemon, parameters={"yield.prior": "10"})
    for restarts in range(2):  # what was measured counts, and is kept
        ways = daemon.get("/v1/instances/long/why")["gives_way"]
        assert [ways["measured"][what]["times"] for what in ("suspend", "restore")] == [1, 1]
        assert ways["suspend"]["cost"] < cost / 2
        if restarts == 0:
            daemon.restart()
            wait_for(daemon, "long", "running")


def test_who_cannot_give_way_runs_on(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "srtf", *PREEMPTIVE)
    daemon.create("long", start=True, cpus=CPUS, memory="16M", duration="1h", labels={"pause": "fail"})
    create(daemon, "short", duration="1s")
    eventually(lambda: any(row["action"] == "instance.preempt" and row["result"] != "ok" for row in daemon.audit()),
               what="the failed try is noted")
    time.sleep(2.5)  # two ticks: it is not tried again and again
    assert (daemon.state_of("long"), daemon.state_of("short"), preemptions(daemon, "long")) == ("running", "queued", 0)
    told = daemon.get("/v1/instances/short/why")["could_give_way"]
    assert told["reason"] == "too_little" and told["who"][0]["reason"] == "cannot"
    assert told["who"][0]["message"] == "it could not when it was asked"
    assert sum(row["action"] == "instance.preempt" for row in daemon.audit()) == 1
    daemon.act("long", "stop")
    wait_for(daemon, "short", "running")


def test_whose_place_cannot_be_kept_runs_on(make_daemon):
    """Paused already, when there is no memory to let it wait: it goes on at once, and is not asked again."""
    if not polderlib.build_option("failpoints"):
        pytest.skip("this build has no fail points (meson -Dfailpoints=true)")
    daemon = make_daemon(arguments=["--overcommit_cpu_fake", "100", "--queue_policy", "srtf", *PREEMPTIVE],
                         environment={"POLDER_FAILPOINTS": "preempt-yield=error:12@1"}).start()
    create(daemon, "long", duration="1h")
    create(daemon, "short", duration="1s")
    eventually(lambda: [row for row in daemon.audit() if row["object"] == "instances/long" and row["action"] == "instance.resume"],
               what="it goes on")
    wait_for(daemon, "long", "running")
    time.sleep(2.5)  # two ticks
    assert (daemon.state_of("long"), daemon.state_of("short")) == ("running", "queued")
    assert daemon.get("/v1/instances/long")["status"].get("reason") is None
    daemon.act("long", "stop")
    wait_for(daemon, "short", "running")


def test_nobody_gives_way_before_his_time(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "srtf", "--queue_residency", "1h", "--queue_backfill", "none")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1s")
    time.sleep(2.5)
    assert (daemon.state_of("long"), daemon.state_of("short")) == ("running", "queued")
    row = daemon.get("/v1/instances/short/why")["could_give_way"]["who"][0]
    assert (row["name"], row["way"], row["frees"], row["reason"]) == ("long", "pause", "cpus", "residency")
    assert 3500 < row["asked_in"] < 3600 and row["cost"] > 0
    set_queue(daemon, residency="0s")
    wait_for(daemon, "short", "running")
    assert daemon.state_of("long") == "paused"


@pytest.mark.parametrize("action,wanted", [("resume", "running"), ("stop", "stopped"), ("suspend", "suspended")])
def test_users_decide_about_who_gave_way(make_daemon, action, wanted):
    daemon = small_node(make_daemon, "--queue_policy", "srtf", *PREEMPTIVE)
    create(daemon, "long", duration="1h")
    create(daemon, "short", duration="1s")
    wait_for(daemon, "short", "running")
    set_queue(daemon, residency="1h")  # else the next tick asks it to give way again
    daemon.act("long", action)
    assert daemon.state_of("long") == wanted
    assert queue_of(daemon)["waiting"] == 0
    daemon.act("short", "stop")
    assert daemon.state_of("long") == wanted


@pytest.mark.parametrize("kill", [False, True])
def test_giving_way_survives_a_restart(make_daemon, kill):
    daemon = small_node(make_daemon, "--queue_policy", "srtf", *PREEMPTIVE)
    create(daemon, "long", duration="1h")
    create(daemon, "short", duration="1s")
    wait_for(daemon, "short", "running")
    assert daemon.state_of("long") == "paused"
    daemon.restart(kill=kill)
    wait_for(daemon, "short", "running")
    daemon.act("short", "stop")
    wait_for(daemon, "long", "running")


@pytest.mark.parametrize("end", ["resume", "restart"])
def test_a_time_limit_counts_no_pause_for_others(make_daemon, end):
    """Paused for longer than it may run; then its user has it go on beside the other, or polderd starts anew. It still has its time,
    and ends by its limit when that is over."""
    daemon = small_node(make_daemon, "--queue_policy", "priority:preemptive", *PREEMPTIVE)
    create(daemon, "long", duration="1h", timeout="8s")
    create(daemon, "short", duration="1h", priority=10)
    wait_for(daemon, "short", "running")
    assert daemon.state_of("long") == "paused"
    time.sleep(9)
    daemon.act("long", "resume") if end == "resume" else daemon.restart()
    wait_for(daemon, "long", "running")
    time.sleep(1)
    assert daemon.state_of("long") == "running"
    wait_for(daemon, "long", "stopped")


def test_priority_gives_way_to_higher_and_services_to_nobody(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "priority:preemptive", *PREEMPTIVE)
    create(daemon, "low", duration="1h", priority=0)
    create(daemon, "same", duration="1h", priority=0)
    time.sleep(1.5)
    assert daemon.state_of("low") == "running", "equals do not give way to each other"
    create(daemon, "high", duration="1h", priority=10)
    wait_for(daemon, "high", "running")
    create(daemon, "service", priority=-10)
    wait_for(daemon, "service", "running")
    create(daemon, "higher", duration="1h", priority=50)
    time.sleep(1.5)
    assert daemon.state_of("service") == "running", "services come before batch"
    order = [row["name"] for row in queue_of(daemon)["queue"]]
    assert order == ["higher", "high", "low", "same"]


def test_an_alarm_makes_others_give_way(make_daemon):
    """dynamic: one that came later went ahead into room that the first could not use; when that one's alarm rings, it gives way,
    and does not come back before it."""
    daemon = small_node(make_daemon, "--queue_policy", "dynamic", "--queue_backfill", "easy", "--queue_residency", "0")
    create(daemon, "runs", cpus=CPUS / 2, duration="1h")
    create(daemon, "large", cpus=CPUS * 3 / 4, duration="1h")
    create(daemon, "small", cpus=CPUS / 2, duration="30m")
    daemon.act("runs", "stop")
    assert [daemon.state_of(name) for name in ("large", "small")] == ["queued", "running"]
    set_queue(daemon, parameters={"alarm": "2"})
    wait_for(daemon, "large", "running")
    assert daemon.state_of("small") == "paused" and preemptions(daemon, "small") == 1
    asked = daemon.get("/v1/instances/small/why")["decision"]
    assert (asked["verdict"], asked["gives_way"]["for"]) == ("pause", "large")
    time.sleep(3)  # its own alarm rings: it came later
    assert daemon.state_of("large") == "running" and preemptions(daemon, "large") == 0
    daemon.act("large", "stop")
    wait_for(daemon, "small", "running")


def test_round_robin_takes_turns(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "rr", "--queue_parameters", "rr.quantum=1", *PREEMPTIVE)
    for name in ("a", "b", "c"):
        create(daemon, name, duration="1h")
    eventually(lambda: all(preemptions(daemon, name) >= 1 for name in ("a", "b", "c")), what="each had its turn")
    assert sum(daemon.state_of(name) == "running" for name in ("a", "b", "c")) <= 1


def run_once(daemon, name, label):
    """One run of the class, which ends by itself."""
    labels = {"polder.fake.run": "delay=300ms,exit=0", "class": label}
    daemon.change("POST", "/v1/instances", {"name": name, "spec": {"kind": "fake", "cpus": 0.01, "memory": "16M", "duration": "1s",
                                                                   "labels": labels}})
    daemon.begin(name, "start")
    wait_for(daemon, name, "stopped")


def test_what_was_learnt_outlives_the_daemon(make_daemon):
    """Two runs of a class of some 0.3 s are learnt from: one that waits is expected to take as long, also after restarts; a
    record that cannot be read is learnt anew."""
    daemon = small_node(make_daemon)
    assert daemon.get("/v1/node")["queue"]["estimates"] == "learning"
    create(daemon, "holder", cpus=CPUS - 0.5, duration="1h")
    for name, label in (("next", "quick"), ("other", "slow")):
        daemon.change("POST", "/v1/instances", {"name": name, "spec": {"kind": "fake", "cpus": CPUS, "memory": "16M",
                                                                       "labels": {"class": label}}})
        daemon.begin(name, "start")
        wait_for(daemon, name, "queued")
    assert daemon.get("/v1/instances/next/why")["expected"] is None
    run_once(daemon, "first", "quick")
    run_once(daemon, "second", "quick")
    eventually(lambda: daemon.get("/v1/instances/next/why")["expected"] is not None, what="it is expected anew")
    why = daemon.get("/v1/instances/next/why")
    assert 0.2 < why["expected"] < 60
    assert daemon.get("/v1/instances/other/why")["expected"] is None, "another class is not known to end"
    terms = why["terms"]
    assert (terms["patience"], terms["floor"], terms["time_power"]) == (20000, 1100, 1.1)
    assert abs(terms["time"] - why["expected"]) < 0.01 and 0 < terms["urgency"] < 0.11
    weight = terms["urgency"] ** terms["urgency_power"] / (terms["time"] + terms["floor"]) ** terms["time_power"]
    assert abs(terms["weight"] / weight - 1) < 1e-6
    assert abs(why["score"] / (-(terms["wait"] + terms["patience"]) * weight) - 1) < 1e-6
    daemon.restart()
    wait_for(daemon, "next", "queued")
    assert daemon.get("/v1/instances/next/why")["expected"] == why["expected"]
    daemon.stop()
    with sqlite3.connect(daemon.state / "store.db") as database:
        assert database.execute("UPDATE item SET value = ? WHERE key = '/learnt/default/runs'",
                                (b'{"version":1,"histories":[[1,2,-7,0,0,0,0,0,0]]}',)).rowcount == 1
    database.close()
    daemon.start()
    wait_for(daemon, "next", "queued")
    assert daemon.get("/v1/instances/next/why")["expected"] is None


def test_decisions_are_told_and_made_again(make_daemon):
    daemon = small_node(make_daemon, "--queue_policy", "sjf", "--queue_backfill", "easy")
    create(daemon, "holder", duration="1h")
    create(daemon, "long", duration="2h")
    create(daemon, "short", duration="1m")
    assert daemon.get("/v1/instances/long/why")["decision"] is None
    daemon.act("holder", "stop")
    wait_for(daemon, "short", "running")
    decision = daemon.get("/v1/instances/short/why")["decision"]
    assert (decision["verdict"], decision["name"], decision["policy"], decision["engine"]) == ("start", "short", "sjf", 4)
    assert [row["name"] for row in decision["candidates"]] == ["short", "long"]
    assert [row["score"] for row in decision["candidates"]] == [60, 7200] and decision["waiting"] == 2
    assert "release holder" in decision["input"]["delta"]
    number = decision["decision"]
    answer = daemon.get(f"/v1/decisions/{number}?replay=true")
    assert answer["same"] is True and answer["replayed"] == answer["decision"] == decision
    # It is there after a restart as well, whether that was orderly or not, and numbers go on.
    for kill in (False, True):
        daemon.restart(kill=kill)
        answer = daemon.get(f"/v1/decisions/{number}?replay=true")
        assert answer["same"] is True and answer["decision"] == decision
        daemon.act("short", "stop")
        wait_for(daemon, "long", "running")
        newer = daemon.get("/v1/instances/long/why")["decision"]["decision"]
        assert newer > number
        assert daemon.get(f"/v1/decisions/{newer}?replay=true")["same"] is True
        daemon.act("long", "stop")
        create(daemon, "short" + str(kill).lower(), duration="1m")
        daemon.act("short" + str(kill).lower(), "stop")
        daemon.act("short", "start")
        daemon.begin("long", "start")
        wait_for(daemon, "long", "queued")
    daemon.problem(404, "GET", "/v1/decisions/999999")
    daemon.problem(400, "GET", "/v1/decisions/x")


def test_the_ledger_is_in_order_whoever_looks(make_daemon):
    """Each look writes what was recorded until then, beside the daemon that does so every second: lines that came in another
    order would not be made again."""
    daemon = small_node(make_daemon, "--queue_policy", "fcfs")
    over = threading.Event()

    def look():
        seen = 0
        while not over.is_set() and seen < 2000:
            assert daemon.request("GET", "/v1/ledger").status == 200
            seen += 1
        return seen

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(look) for _ in range(4)]
        try:
            for number in range(12):
                create(daemon, f"a{number}", cpus=1, duration="1h")
                wait_for(daemon, f"a{number}", "running")
                daemon.act(f"a{number}", "stop", {"force": True})
        finally:
            over.set()
        assert all(look.result() > 0 for look in looks)
    lines = [json.loads(line) for line in daemon.request("GET", "/v1/ledger").body.splitlines()]
    numbers = [line["decision"] for line in lines if "decision" in line]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) >= 12
    for number in numbers[-12:]:
        assert daemon.get(f"/v1/decisions/{number}?replay=true")["same"] is True


def test_after_a_gap_another_file_begins(make_daemon):
    """What cannot be written costs the replay of what was decided meanwhile, and nothing else."""
    daemon = small_node(make_daemon)
    create(daemon, "before", cpus=0.5, duration="1h")
    number = daemon.get("/v1/instances/before/why")["decision"]["decision"]
    assert daemon.get(f"/v1/decisions/{number}?replay=true")["same"] is True
    ledger, away = daemon.state / "ledger", daemon.state / "ledger-away"
    files = sorted(file.name for file in ledger.glob("*.jsonl"))
    ledger.rename(away)
    for count in range(6):
        daemon.create(f"lost{count}", cpus=0.5, memory="16M", duration="1h", start=True)
        assert daemon.request("GET", "/v1/ledger").status == 200  # tries to write
        daemon.act(f"lost{count}", "stop", {"force": True})
    away.rename(ledger)
    create(daemon, "after", cpus=0.5, duration="1h")
    wait_for(daemon, "after", "running")
    daemon.act("before", "stop", {"force": True})
    assert daemon.request("GET", "/v1/ledger").status == 200
    daemon.begin("before", "start")
    wait_for(daemon, "before", "running")
    newer = daemon.get("/v1/instances/before/why")["decision"]["decision"]
    for told in (number, newer):
        assert daemon.get(f"/v1/decisions/{told}?replay=true")["same"] is True
    assert sorted(file.name for file in ledger.glob("*.jsonl"))[:len(files)] == files


def test_an_older_engines_decisions_are_refused_by_name(make_daemon):
    daemon = small_node(make_daemon)
    create(daemon, "a", duration="1m")
    number = daemon.get("/v1/instances/a/why")["decision"]["decision"]
    daemon.stop()
    newest = sorted((daemon.state / "ledger").glob("*.jsonl"))[-1]
    newest.write_text(newest.read_text().replace('{"checkpoint":4', '{"checkpoint":0', 1))
    daemon.start()
    assert "engine version 0" in daemon.problem(422, "GET", f"/v1/decisions/{number}?replay=true")["detail"]
    assert daemon.get(f"/v1/decisions/{number}")["decision"]["name"] == "a"


def test_the_ledger_is_bounded(make_daemon):
    daemon = small_node(make_daemon)
    create(daemon, "holder", duration="1h")
    for number in range(40):
        create(daemon, f"w{number}", duration="1m")
    for _ in range(3):
        daemon.restart()
    for _ in range(3):
        daemon.restart(kill=True)
    files = sorted((daemon.state / "ledger").glob("*.jsonl"))
    assert len(files) == 4 and sum(file.stat().st_size for file in files) < 4 * (1 << 20) + 4 * 41 * 1000


def polder(daemon, *words, status=0):
    done = subprocess.run([polderlib.build_directory() / "src/cli/polder", "--socket", daemon.socket, *map(str, words)],
                          capture_output=True, text=True, check=False, timeout=polderlib.DEADLINE, stdin=subprocess.DEVNULL)
    assert done.returncode == status, (done.stdout[-800:], done.stderr[-800:])
    return done


def record_of_a_day(make_daemon):
    """A long one and several short ones behind it, in the order of arrival; restarted in the middle."""
    daemon = small_node(make_daemon, "--queue_policy", "fcfs", "--queue_backfill", "none", "--queue_estimates", "requested")
    create(daemon, "long", run="delay=3s,exit=0", duration="1h")
    create(daemon, "withdrawn", duration="1h")
    for number in range(3):
        create(daemon, f"short-{number}", run="delay=1s,exit=0", duration="2s", cpus=CPUS / 2)
    daemon.act("withdrawn", "stop")
    wait_for(daemon, "long", "stopped")
    daemon.restart()
    for number in range(3):
        wait_for(daemon, f"short-{number}", "stopped")
    create(daemon, "stays", cpus=CPUS)
    set_queue(daemon, residency="31s")  # something that is recorded while it runs
    return daemon


def test_the_record_is_replayed_and_tuned(make_daemon, tmp_path):
    """What polderd recorded is a log for the simulator: who came, for what, and how long it ran. What the tuner finds on it is
    shown, and becomes the node's rules when that is wanted."""
    daemon = record_of_a_day(make_daemon)
    log = tmp_path / "record"
    polder(daemon, "queue", "--ledger", log)
    assert polder(daemon, "queue", "--ledger", "-").stdout.startswith('{"checkpoint":4')
    rows = json.loads(polder(daemon, "simulate", "queue", "-o", "json", "--per-job", "--policy", "fcfs,sjf", "--backfill", "none",
                             "--estimates", "requested", log).stdout)
    assert [row["count"] for row in rows] == [5, 5] and [row["processors"] for row in rows] == [CPUS, CPUS]
    runs = [end - start for _, start, end in rows[0]["jobs"]]
    assert runs[0] in range(3, 10) and all(run in range(1, 8) for run in runs[1:4])
    starts = [start for _, start, _ in rows[0]["jobs"]]
    assert starts[0] == 0 and all(start >= runs[0] for start in starts[1:]), "as it was: behind the long one"
    table = polder(daemon, "simulate", "queue", log).stdout
    assert f"5 jobs, {CPUS} processors" in table and "as it was: mean wait" in table
    assert "1 jobs still ran when the record ended: until then" in table and "1 jobs dropped: did not run" in table
    page = tmp_path / "report.html"
    polder(daemon, "simulate", "queue", "--policy", "fcfs", "--report", page, log)
    shown = page.read_text()
    assert f"<h2>record: 5 jobs, {CPUS} processors</h2>" in shown
    bars = re.findall(r'<path class="bar"[^>]* d="M[0-9.]+ ([0-9.]+)H[0-9.]+V([0-9.]+)H', shown)
    assert ("34.0", "268.0") in bars, "the long one has all of them, from the lowest row to the highest"
    shown = polder(daemon, "simulate", "queue", "--tune", "wait", "--tune-steps", "5", "--policy", "sjf,dynamic", "--estimates",
                   "requested", log).stdout
    before = daemon.get("/v1/node")["queue"]
    assert "to apply it: polder node set --policy " in shown and before["policy"] == "fcfs"
    applied = polder(daemon, "simulate", "queue", "--tune", "wait", "--tune-steps", "5", "--policy", "dynamic", "--estimates",
                     "learning", "--apply", log).stdout
    assert "applied by: polder node set --policy dynamic --backfill easy --estimates learning --parameter " in applied
    after = daemon.get("/v1/node")["queue"]
    assert (after["policy"], after["backfill"], after["estimates"]) == ("dynamic", "easy", "learning")
    assert float(after["parameters"]["dynamic.ageing"]) > 0 and "alarm" in after["parameters"]
    assert daemon.audit()[-1]["action"] == "node.set" or any(row["action"] == "node.set" for row in daemon.audit())
    problem = polder(daemon, "simulate", "queue", "--tune", "wait", "--tune-steps", "1", "--estimates", "actual", "--apply", log,
                     status=2).stderr
    assert "no daemon knows" in problem


@pytest.mark.parametrize("change,line,word", [
    (lambda lines: [lines[0].replace('"checkpoint":4', '"checkpoint":1')] + lines[1:], 1, "engine version 1"),
    (lambda lines: lines[1:], 1, "does not begin with a checkpoint"),
    (lambda lines: lines[:2] + ["{"] + lines[2:], 3, "no JSON object"),
    (lambda lines: lines[:2] + ["[]"], 3, "no JSON object"),
    (lambda lines: lines[:2] + ['{"do":"fly","now":1}'], 3, "'fly' is no event"),
    (lambda lines: lines[:2] + ['{"now":1}'], 3, "neither a checkpoint nor an event"),
    (lambda lines: lines[:2] + ['{"do":"run"}'], 3, "now: it is missing"),
    (lambda lines: lines[:2] + ['{"do":"submit","now":1,"id":"a","kind":77,"cpus":1}'], 3, "77 is no kind"),
    (lambda lines: lines[:2] + ['{"do":"submit","now":1,"id":"a","kind":1,"cpus":-5}'], 3, "absurd"),
    (lambda lines: lines[:2] + ['{"do":"submit","now":1,"kind":1,"cpus":5}'], 3, "id: it is missing"),
    (lambda lines: [lines[0].replace('"entries":[]', '"entries":[["a","b",[1,2]]]')], 1, "no state of this engine"),
])
def test_a_bad_record_is_refused_by_line(make_daemon, tmp_path, change, line, word):
    daemon = small_node(make_daemon)
    good, bad = tmp_path / "good", tmp_path / "bad"
    polder(daemon, "queue", "--ledger", good)
    lines = good.read_text().splitlines()
    lines.append('{"do":"run","now":1000}')
    bad.write_text("\n".join(change(lines)) + "\n")
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "queue", bad], capture_output=True,
                          text=True, check=False)
    assert done.returncode not in (0, 139, 134) and f"line {line}" in done.stderr and word in done.stderr, done.stderr
    assert str(bad) in done.stderr
