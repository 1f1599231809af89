# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an instance was placed, as `polder why` tells it: filters, score terms, what would have changed it; recorded with the
queue's decision, and made again to the same bytes, also after a restart. `polder advise` says the same."""
import os
import subprocess

import pytest
from polderlib import DEADLINE, build_directory, eventually, reboot

pytestmark = pytest.mark.scenario
CPUS = os.cpu_count()
PART = 256 << 20  # small enough for any host


@pytest.fixture
def node(make_daemon):
    """Fake instances take what they ask for."""
    return make_daemon(arguments=["--overcommit_cpu_fake", "100", "--overcommit_memory_fake", "100"]).start()


def why(daemon, name):
    return daemon.get(f"/v1/instances/{name}/why")


def filters(placement):
    return {row["filter"]: row for row in placement["table"][0]["filters"]}


def command(daemon, *words):
    done = subprocess.run([build_directory() / "src/cli/polder", "--socket", daemon.socket, *words], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=DEADLINE,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done
    return done.stdout


def test_why_it_is_here(node):
    capacity = node.get("/v1/node")
    node.create("first", start=True, cpus=0.5, memory="256M")
    node.create("second", start=True, cpus=0.5, memory="512M")
    placement = why(node, "second")["placement"]
    assert placement["node"] == capacity["name"] and placement["placement"] == why(node, "second")["decision"]["decision"]
    assert all(row["passed"] for row in filters(placement).values())
    assert list(filters(placement)) == ["closed", "taint", "trait", "cpu", "memory"]
    # What was free when it came: all but the first one's.
    seen, asked = placement["input"]["nodes"][0], placement["input"]["request"]
    room = capacity["memory"]["physical"] - capacity["memory"]["reserved"]
    assert seen["cpus_millionths"] == CPUS * 10**6 and seen["free_cpus_millionths"] == CPUS * 10**6 - 500000
    assert seen["memory"] == room and seen["free_memory"] == room - PART
    assert "kind=fake" in seen["traits"] and asked["traits"] == ["kind=fake"]
    terms = placement["table"][0]["terms"]
    assert (terms["takes_cpus_millionths"], terms["takes_memory"]) == (500000, 2 * PART)
    assert terms["left_cpus_millionths"] == (CPUS - 1) * 10**6 and terms["left_memory"] == room - 3 * PART
    # By hand: floor(10,000 (1 - (c/C + m/M) / 2)), CPUs in thousandths, memory in MiB.
    cpu, memory, mib = (CPUS - 1) * 1000, (room - 3 * PART) >> 20, room >> 20
    whole = 2 * CPUS * 1000 * mib
    assert placement["table"][0]["score"] == (whole - (cpu * mib + memory * CPUS * 1000)) * 10000 // whole
    shown = command(node, "why", "second")
    assert f"placed on {capacity['name']} by the score polder" in shown and "passes closed, taint, trait, cpu, memory" in shown


@pytest.mark.skipif(CPUS < 2, reason="worked out for two processors")
def test_what_is_missing(node):
    capacity = node.get("/v1/node")
    node.create("holder", start=True, cpus=CPUS - 0.5, memory="64M")
    node.create("waits", cpus=1.5, memory="64M")
    node.begin("waits", "start")
    eventually(lambda: node.state_of("waits") == "queued", what="it waits")
    placement = why(node, "waits")["placement"]
    assert placement["node"] is None and placement["placement"] == 0
    assert filters(placement)["cpu"] == {"filter": "cpu", "passed": False, "sentence": "has too few CPUs left",
                                         "lacks_millionths": 1000000}
    assert filters(placement)["memory"]["passed"]
    assert placement["if"] == f"it would fit on {capacity['name']} if it asked for 1 cpus less"
    shown = command(node, "why", "waits")
    assert "no node takes it now" in shown and "it has too few CPUs left (1 more needed)" in shown
    # It is true: asked for that much less, it starts; and the record is that of its start then.
    node.change("PATCH", "/v1/instances/waits", {"spec": {"cpus": 0.5}})
    node.wait_state("waits", "running")
    placement = why(node, "waits")["placement"]
    assert placement["placement"] > 0 and placement["if"].startswith("with more than 0 cpus or ")


def test_made_again(node):
    for number in range(3):
        node.create(f"one-{number}", start=True, cpus=0.1 * (number + 1), memory="64M")
    placements = [why(node, f"one-{number}")["placement"] for number in range(3)]
    numbers = [placement["placement"] for placement in placements]
    assert len(set(numbers)) == 3

    def check():
        for number, placement in zip(numbers, placements):
            answer = node.get(f"/v1/decisions/{number}?replay=true")
            assert answer["same"] is True and answer["placement_same"] is True and answer["placement"] == placement
            assert node.get(f"/v1/decisions/{number}")["placement"] == placement
    check()
    assert "made again: the same" in command(node, "why", str(numbers[0]), "--replay")
    node.restart()
    check()  # from the files
    assert why(node, "one-0")["placement"] is None  # it was not this polderd that placed it


def test_advice_agrees(node):
    """What is advised is placed here if there is room for it now; whoever starts it finds the same."""
    kind = node.get("/v1/advice?cpus=1&memory=64M")["kind"]
    advice = node.get("/v1/advice?cpus=1&memory=64M")
    assert advice["placement"]["node"] == advice["node"]
    assert advice["placement"]["input"]["request"] == {"name": None, "kind": kind, "cpus_millionths": 10**6, "memory": 64 << 20,
                                                       "traits": [f"kind={kind}"], "refused": [], "tolerated": []}
    assert "placed on" in command(node, "advise", "--cpus", "1", "--memory", "64M")
    total = node.get("/v1/node")["memory"]
    node.create("holder", start=True, cpus=0.1, memory=(total["physical"] - total["reserved"]) >> 20 << 20)
    after = node.get("/v1/advice?cpus=1&memory=64M")["placement"]
    assert after["node"] is None and filters(after)["memory"]["lacks"] > 0


# --- what an instance may ask for -----------------------------------------------------------------------------------------

def refused(daemon, *words):
    done = subprocess.run([build_directory() / "src/cli/polder", "--socket", daemon.socket, *words], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=DEADLINE,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode != 0, done
    return done.stderr


def small(daemon, name, start=True, **spec):
    body = {"name": name, "spec": {"kind": "fake", "cpus": 0.1, "memory": "64M", **spec}}
    return daemon.change("POST", "/v1/instances" + ("?start=true" if start else ""), body)


def wait_queued(daemon, name, reason):
    """It is created, started, and waits for this."""
    daemon.begin(name, "start")
    eventually(lambda: daemon.state_of(name) == "queued" and why(daemon, name).get("reason") == reason,
               what=f"{name} waits for {reason}")
    return why(daemon, name)


def set_node(daemon, **settings):
    return daemon.expect(200, "PATCH", "/v1/node", settings).json


def test_labels_of_the_node(node):
    name = node.get("/v1/node")["name"]
    command(node, "node", "set", "--label", "zone=a", "--label", "disk=ssd")
    assert node.get("/v1/node")["labels"] == {"zone": "a", "disk": "ssd"}
    shown = command(node, "node", "show")
    assert "disk=ssd" in shown and "zone=a" in shown and f"node={name}" in shown
    small(node, "here", node_labels=["zone=a", "disk!=hdd", "machine=" + os.uname().machine])
    node.wait_state("here", "running")
    placement = why(node, "here")["placement"]
    assert {"zone=a", "kind=fake"} < set(placement["input"]["request"]["traits"])
    assert placement["input"]["request"]["refused"] == ["disk=hdd"]
    # What no node has is refused at once, with what it is; and nothing is left of it.
    for extra, part in (({"node_labels": ["zone=b"]}, "none has the label zone=b"),
                        ({"node_labels": ["zone!=a"]}, "each has the label zone=a"),
                        ({"features": ["warp-drive"]}, "none has the feature warp-drive")):
        problem = node.expect(422, "POST", "/v1/instances", {"name": "there", "spec": {"kind": "fake", **extra}}).json
        assert problem["code"] == "unplaceable" and part in problem["detail"], problem
    assert node.request("GET", "/v1/instances/there").status == 404
    # Kept over a restart; what runs, runs on when the label goes; what then is started again is refused.
    node.restart()
    assert node.get("/v1/node")["labels"]["zone"] == "a"
    command(node, "node", "set", "--label", "zone-")
    assert node.get("/v1/node")["labels"] == {"disk": "ssd"} and node.state_of("here") == "running"
    node.act("here", "stop")
    assert "none has the label zone=a" in refused(node, "start", "here")
    assert any(row["action"] == "node.set" and row["object"] == "node" for row in node.get("/v1/audit")["audit"])
    assert "polderd sets the labels" in refused(node, "node", "set", "--label", "machine=sparc")


def test_those_that_wait_follow_the_labels(node):
    """A label that is taken away makes those wait that waited; set again, they start."""
    command(node, "node", "set", "--label", "zone=a", "--taint", "busy")
    small(node, "bound", start=False, node_labels=["zone=a"], restart="always")
    wait_queued(node, "bound", "taint")
    set_node(node, labels={"zone": None}, taints={"busy": None})
    eventually(lambda: why(node, "bound").get("reason") == "trait", what="it waits for the label")
    answer = why(node, "bound")
    assert "lacks zone=a" in answer["message"] and "zone=a" in answer["if"]["sentence"]
    assert answer["placement"]["node"] is None and "would take it if it had zone=a" in answer["placement"]["if"]
    node.restart()  # it waited already: it goes on doing so
    eventually(lambda: node.state_of("bound") == "queued", what="it waits again")
    command(node, "node", "set", "--label", "zone=a")
    node.wait_state("bound", "running")
    # Nobody is there to be refused a start that only follows what was wished before.
    command(node, "node", "set", "--label", "zone-")
    reboot(node)
    eventually(lambda: node.state_of("bound") == "queued" and why(node, "bound").get("reason") == "trait", what="it waits")
    command(node, "node", "set", "--label", "zone=a")
    node.wait_state("bound", "running")


def test_taints(node):
    name = node.get("/v1/node")["name"]
    small(node, "old")
    command(node, "node", "set", "--taint", "maintenance", "--taint", "gpu=yes:NoSchedule")
    assert node.get("/v1/node")["taints"] == {"maintenance": "", "gpu": "yes"}
    assert "gpu=yes" in command(node, "node", "show")
    assert node.state_of("old") == "running"
    small(node, "plain", start=False)
    answer = wait_queued(node, "plain", "taint")
    assert answer["message"].endswith(f"{name} has the taint gpu=yes, which it does not tolerate")
    failed = filters(answer["placement"])["taint"]
    assert not failed["passed"]
    assert answer["placement"]["if"] == \
        f"{name} would take it if it had not the taint gpu=yes and it had not the taint maintenance"
    small(node, "tough", tolerations=["maintenance", "gpu=yes"])
    node.wait_state("tough", "running")
    assert set(why(node, "tough")["placement"]["input"]["request"]["tolerated"]) == {"maintenance", "gpu=yes"}
    shown = command(node, "why", "plain")
    assert "has the taint gpu=yes" in shown and "if the taint were gone" in shown
    assert "plain" in command(node, "queue")
    # Tolerated after all, by set; the other taint is gone meanwhile.
    command(node, "node", "set", "--taint", "gpu-")
    command(node, "set", "plain", "--toleration", "maintenance")
    node.wait_state("plain", "running")
    for effect in ("NoExecute", "PreferNoSchedule"):
        assert "keeps new instances away (NoSchedule) and nothing else" in \
            refused(node, "node", "set", "--taint", f"x=y:{effect}")
        assert "keeps new instances away" in refused(node, "node", "set", "--taint", f"x:{effect}")
    node.restart()
    assert node.get("/v1/node")["taints"] == {"maintenance": ""}


def test_affinity(node):
    small(node, "web", start=False, labels={"app": "web"}, affinity=["app=db"])
    answer = wait_queued(node, "web", "affinity")
    assert "must be near app=db, and no such is here" in answer["message"]
    assert answer["placement"]["if"].endswith("would take it if something with app=db ran in that node")
    assert filters(answer["placement"])["affinity"]["groups"] == ["app=db"]
    small(node, "db", labels={"app": "db"})
    node.wait_state("web", "running")
    answer = why(node, "web")
    assert answer["placement"]["input"]["nodes"][0]["members"] == {"app=db": 1}
    number = answer["placement"]["placement"]
    node.act("db", "stop")  # looked at when it starts, and not again
    assert node.state_of("web") == "running"
    again = node.get(f"/v1/decisions/{number}?replay=true")
    assert again["same"] and again["placement_same"]


def test_anti_affinity(node):
    for number in (1, 2):
        small(node, f"web-{number}", start=False, labels={"app": "web"}, anti_affinity=["app=web"])
    node.act("web-1", "start")
    answer = wait_queued(node, "web-2", "anti-affinity")
    assert "it keeps away from app=web, and web-1 is here" in answer["message"]
    assert answer["if"]["sentence"] == "starts if web-1 was not there"
    assert "would take it if nothing with app=web ran in that node" in answer["placement"]["if"]
    # For both sides; and who is barred is in nobody's way.
    small(node, "shy", anti_affinity=["name=noisy"])
    small(node, "noisy", start=False)
    answer = wait_queued(node, "noisy", "anti-affinity")
    assert "shy is here, and keeps away from name=noisy" in answer["message"]
    assert "nothing with anti-affinity to name=noisy ran" in answer["placement"]["if"]
    queue = node.get("/v1/queue")
    assert [row["name"] for row in queue["queue"]] == ["web-2", "noisy"] and queue["queue"][0]["start"] is None
    small(node, "other")
    node.wait_state("other", "running")
    # A restarted polderd knows who is there.
    node.restart()
    eventually(lambda: why(node, "web-2").get("reason") == "anti-affinity", what="it waits again")
    node.act("web-1", "stop")
    node.wait_state("web-2", "running")
    node.delete("shy")
    node.wait_state("noisy", "running")


def test_spread(node):
    small(node, "a", start=False, labels={"app": "a"}, spread=["app=a:zone"])
    answer = wait_queued(node, "a", "spread")
    assert "has no label that says in which it lies" in answer["message"]
    assert answer["placement"]["if"].endswith("would take it if it lay in a zone")
    command(node, "node", "set", "--label", "zone=z")
    node.wait_state("a", "running")
    assert why(node, "a")["placement"]["input"]["nodes"][0]["zone"] == "z"


def test_contradictions_are_named(node):
    cases = ((("--node-label", "zone=a", "--node-label", "zone=b"), "'node_labels'", "contradicts zone=b"),
             (("--node-label", "zone=a", "--node-label", "zone!=a"), "'node_labels'", "contradicts zone!=a"),
             (("--affinity", "app=x", "--anti-affinity", "app=x"), "'anti_affinity'", "near and away at once"),
             (("--affinity", "app=x:node", "--anti-affinity", "app=x:zone"), "'anti_affinity'", "near and away at once"),
             (("--anti-affinity", "app=x:zone", "--spread", "app=x"), "'spread'", "leave one of them out"),
             (("--anti-affinity", "name=me"), "'anti_affinity'", "cannot keep away from itself"),
             (("--affinity", "=x"), "'affinity", "name=NAME"),
             (("--node-label", "kind!=vm"), "'node_labels", "asked for with --kind"))
    for words, field, reason in cases:
        text = refused(node, "create", "--kind", "fake", "--name", "me", *words, "fake")
        assert field in text and reason in text, text
    # A circle: none of them could be first.
    small(node, "one", start=False, labels={"app": "one"}, affinity=["app=two"])
    small(node, "two", start=False, labels={"app": "two"}, affinity=["name=three"])
    text = refused(node, "create", "--kind", "fake", "--name", "three", "--affinity", "app=one", "fake")
    assert "none of them can be first: three must be near app=one, that is one, which must be near app=two, that is two, " \
           "which must be near name=three, that is three" in text
    # With another that can be first, it is none; and changed later, it is refused likewise.
    small(node, "free", start=False, labels={"app": "one"})
    small(node, "three", start=False, affinity=["app=one"])
    assert "none of them can be first" in refused(node, "set", "free", "--affinity", "name=three")
    # What others closed since is no reason to refuse another change.
    node.delete("free", purge=True)
    assert node.change("PATCH", "/v1/instances/one", {"spec": {"memory": "32M"}})
    # Nor may a name bring about what the field may not say.
    small(node, "away", start=False, anti_affinity=["name=me"])
    text = refused(node, "set", "away", "--rename", "me")
    assert "'anti_affinity'" in text and "cannot keep away from itself" in text, text


def test_the_trash_is_in_no_circle(node):
    for name, other in (("one", "two"), ("four", "five")):
        small(node, name, start=False, labels={"app": name}, affinity=[f"app={other}"])
    # It closes none,
    node.delete("one")
    assert [row["status"]["state"] for row in node.list("?deleted=true") if row["name"] == "one"] == ["deleted"]
    small(node, "two", start=False, labels={"app": "two"}, affinity=["app=one"])
    # and hides none.
    small(node, "free", start=False, labels={"app": "four"})
    node.delete("free")
    assert "none of them can be first" in refused(node, "create", "--kind", "fake", "--name", "five", "--label", "app=five",
                                                  "--affinity", "app=four", "fake")


def test_levels_of_anti_affinity(node):
    """By a zone in which the node does not lie nobody keeps away; by the node itself another still does."""
    small(node, "far", anti_affinity=["app=a:zone"])
    small(node, "near", anti_affinity=["app=a"])
    for name in ("far", "near"):
        node.wait_state(name, "running")
    small(node, "a", start=False, labels={"app": "a"})
    assert "near is here, and keeps away from app=a" in wait_queued(node, "a", "anti-affinity")["message"]
    assert "nothing with anti-affinity to app=a ran" in why(node, "a")["placement"]["if"]
    set_node(node, labels={"zone": "z"})
    eventually(lambda: set(filters(why(node, "a")["placement"])["anti-affinity"]["groups"]) ==
               {"anti-affinity to app=a:zone", "anti-affinity to app=a"}, what="both keep away from it")
    node.delete("near")
    assert "anti-affinity to app=a:zone" in why(node, "a")["placement"]["if"]
    set_node(node, labels={"zone": None})
    node.wait_state("a", "running")


def test_recorded_and_replayed(node):
    """Each decision with constraints in between is made again from the ledger, to the byte."""
    command(node, "node", "set", "--label", "zone=a")
    small(node, "db", labels={"app": "db"}, node_labels=["zone=a"])
    small(node, "web", labels={"app": "web"}, affinity=["app=db"], anti_affinity=["app=web"])
    small(node, "late", start=False, anti_affinity=["app=web"])
    wait_queued(node, "late", "anti-affinity")
    command(node, "node", "set", "--taint", "busy")
    node.act("web", "stop")
    command(node, "node", "set", "--taint", "busy-")
    node.wait_state("late", "running")
    numbers = [why(node, name)["decision"]["decision"] for name in ("db", "late")]
    for _ in range(2):
        for number in numbers:
            answer = node.get(f"/v1/decisions/{number}?replay=true")
            assert answer["same"] and answer["placement_same"], answer
        node.restart()


def test_what_if_the_node_were_otherwise(node):
    name = node.get("/v1/node")["name"]
    command(node, "node", "set", "--label", "zone=a")
    small(node, "bound", node_labels=["zone=a"])
    small(node, "tough", tolerations=["old"])
    small(node, "shy", anti_affinity=["name=late"])
    small(node, "late", start=False)
    wait_queued(node, "late", "anti-affinity")
    # Gone: the honest answer with one node.
    answer = node.get(f"/v1/what-if?without_node={name}")
    told = answer["placement"]
    assert told["refused_then"] == 4 and told["refused_now"] == 1
    assert told["message"] == f"{name} is the only node: nobody could run, and the 3 that run would end"
    assert all(row["then"] == "closed" for row in told["instances"])
    assert [(row["name"], row["position_after"], row["starts_in_after"]) for row in answer["queue"]] == [("late", 0, None)]
    assert node.expect(404, "GET", "/v1/what-if?without_node=elsewhere").json["code"] == "not-found"
    # Tainted, or in another zone.
    told = node.get("/v1/what-if?taints=old")["placement"]
    assert {row["name"]: row["then"] for row in told["instances"]} == {"bound": "taint", "shy": "taint", "late": "taint"}
    told = node.get("/v1/what-if?node_labels=zone%3Db,disk%3Dssd")["placement"]
    assert {row["name"]: (row["now"], row["then"]) for row in told["instances"]} == \
        {"bound": (None, "trait"), "late": ("anti-affinity", "anti-affinity")}
    assert node.get("/v1/what-if?node_labels=zone-")["placement"]["refused_then"] == 2
    assert "lacks zone=a" in command(node, "what-if", "--node-label", "zone-", "--taint", "x-")
    assert "nobody could run" in command(node, "what-if", "--without-node", name)
    # Nothing changed, and those that are added meet the taints that there are.
    assert node.get("/v1/node")["labels"] == {"zone": "a"} and node.get("/v1/node")["taints"] == {}
    command(node, "node", "set", "--taint", "old")
    added = [row for row in node.get("/v1/what-if?add=2&cpus=0.1&memory=16M&kind=fake")["queue"] if row["new"]]
    assert [row["starts_in_after"] for row in added] == [None, None]
    added = [row for row in node.get("/v1/what-if?add=2&cpus=0.1&memory=16M&kind=fake&taints=old-")["queue"] if row["new"]]
    assert all(row["starts_in_after"] is not None for row in added), added
    # More than are looked at in a row.
    for number in range(40):
        small(node, f"more-{number}", start=False, tolerations=["old"])
        node.begin(f"more-{number}", "start")
    eventually(lambda: node.get("/v1/what-if?taints=new")["placement"]["refused_then"] == 44, what="all are told of")
