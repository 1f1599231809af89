# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue in the daemon: order, rules that change live, ETAs and reasons, decisions and their replay, what-if, and giving
way without loss. The fake driver plays instances; capacity is made small by overcommit ratios."""
import json
import os
import time

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


@pytest.mark.parametrize("settings,word", [
    ({"policy": "srtff"}, "srtf"), ({"policy": ""}, None), ({"backfill": "eazy"}, "easy"), ({"estimates": "actual"}, "predicted"),
    ({"parameters": {"rr.quantum": "nan"}}, "finite"), ({"parameters": {"rr.quantum": "0"}}, "above zero"),
    ({"parameters": {"rr.quantum": "inf"}}, "finite"), ({"parameters": {"alarm": "-1"}}, "between"),
    ({"parameters": {"no.such": "1"}}, "no.such"), ({"policy": "rr", "backfill": "conservative"}, "round robin"),
    ({"parameters": {"polder.time": "0", "polder.size": "0"}}, "fcfs"), ({"colour": "red"}, "colour"),
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
