# SPDX-License-Identifier: GPL-2.0-or-later
"""polder optimize: plans from measured use, applied by ordinary requests, refused when the state has changed, empty when they
were applied. The fake driver plays instances that use what their labels say; one test has real containers."""
import os
import re
import subprocess

import pytest
import guestlib
import polderlib
from polderlib import build_directory, eventually, group_value

CPUS = os.cpu_count()
QUICK = {"observe": "1s", "cooldown": "0"}


def plan(daemon, **body):
    return daemon.expect(200, "POST", "/v1/optimize/plans", {**QUICK, **body}).json


def steps(answer):
    return {step["instance"]: step for step in answer["plan"]["steps"]}


def kept(answer):
    return {one["instance"]: one["why"] for one in answer["plan"]["kept"]}


def plan_with(daemon, *names, **body):
    """A plan once everybody was measured for long enough."""
    found = []

    def ready():
        found[:] = [plan(daemon, **body)]
        return "measuring" not in kept(found[0]).values()
    eventually(ready, what="measured")
    assert sorted(steps(found[0])) == sorted(names), found[0]["plan"]
    return found[0]


def create(daemon, name, use, cpus=1, memory="1G", wait=True, keep=False, **spec):
    daemon.create(name, cpus=cpus, memory=memory, labels={"run": use}, **spec)
    if keep:
        daemon.change("PATCH", f"/v1/instances/{name}", {"spec": {"labels": {"polder.optimize": "off"}}})
    if wait:
        daemon.act(name, "start")
    else:
        daemon.begin(name, "start")
        eventually(lambda: daemon.state_of(name) == "queued", what=f"{name} waits")


def apply(daemon, answer):
    return daemon.change("POST", f"/v1/optimize/plans/{answer['id']}/apply", {})


def spec_of(daemon, name):
    return daemon.instance(name)["spec"]


@pytest.fixture
def node(make_daemon):
    """Fake instances take what they ask for."""
    if CPUS < 2:
        pytest.skip("worked out for two processors")
    return make_daemon(arguments=["--overcommit_cpu_fake", "100", "--overcommit_memory_fake", "100"]).start()


@pytest.mark.scenario
def test_promises_follow_use(node):
    create(node, "fat", "cpu=0.05,memory=100M", cpus=1, memory="1G")
    create(node, "fits", "cpu=0.09,memory=60M", cpus=0.1, memory="64M")
    create(node, "mine", "cpu=0.05,memory=100M", memory="1G", cpus=0.5, keep=True)
    early = plan(node, observe="1h")
    assert steps(early) == {} and kept(early) == {"fat": "measuring", "fits": "measuring", "mine": "pinned"}
    before = node.get("/v1/node")
    answer = plan_with(node, "fat")
    step = steps(answer)["fat"]
    assert (step["action"], step["reason"], step["cost"]["bytes"]) == ("resize", "uses-less", 0)
    assert step["before"] == {"cpus_milli": 1000, "memory": 1 << 30}
    # 0.05 x 1.25 is below the least that is promised; 100 MiB x 1.25 = 125, in steps of 4 MiB.
    assert step["after"] == {"cpus_milli": 100, "memory": 128 << 20}
    assert step["gain"] == {"cpus_milli": 900, "memory": (1 << 30) - (128 << 20)}
    assert "used at most" in step["message"] and "limit" in step["constraint"]
    assert spec_of(node, "fat")["cpus"] == 1  # a plan changes nothing
    assert node.get(f"/v1/optimize/plans/{answer['id']}")["plan"] == answer["plan"]
    done = apply(node, answer)
    assert done["result"]["steps"] == [{"instance": "fat", "action": "resize", "done": True, "message": None}]
    spec = spec_of(node, "fat")
    assert (spec["cpus"], spec["cpu_limit"], spec["memory"]) == (0.1, 1, 128 << 20)
    after = node.get("/v1/node")
    assert before["memory"]["promised"] - after["memory"]["promised"] == step["gain"]["memory"]
    assert before["cpus"]["promised_milli"] - after["cpus"]["promised_milli"] == 900
    # By ordinary requests, in the name of whoever applied it.
    rows = [(row["action"], row["object"], row["result"]) for row in node.audit()]
    assert ("instance.change", "instances/fat", "ok") in rows
    assert ("optimize.apply", f"plans/{answer['id']}", "ok") in rows
    why = node.get("/v1/instances/fat/why")["optimizer"]
    assert (why["plan"], why["step"]) == (answer["id"], step)
    assert node.get("/v1/instances/fits/why")["optimizer"] is None
    # Measured anew, nothing is left to do; and by default it cools down first.
    assert kept(plan(node, cooldown="30m"))["fat"] == "cools"
    plan_with(node)


@pytest.mark.scenario
def test_more_than_promised_is_promised(node):
    create(node, "eager", "cpu=0.8,memory=55M", cpus=0.1, memory="64M", cpu_limit=1)
    create(node, "starved", "cpu=0.5,memory=55M", cpus=0.1, memory="64M")
    answer = plan_with(node, "eager")
    assert steps(answer)["eager"]["after"]["cpus_milli"] == 1000  # 0.8 x 1.25
    assert kept(answer)["starved"] == "at-limit"
    apply(node, answer)
    assert spec_of(node, "eager")["cpus"] == 1
    plan_with(node)


@pytest.mark.scenario
def test_refused_when_the_state_changed(node):
    create(node, "fat", "cpu=0.05,memory=100M")
    create(node, "other", "cpu=0.09,memory=60M", cpus=0.1, memory="64M")
    answer = plan_with(node, "fat")
    node.change("PATCH", "/v1/instances/other", {"spec": {"priority": 5}})
    path = f"/v1/optimize/plans/{answer['id']}/apply"
    problem = node.problem(412, "POST", path, {})
    assert problem["code"] == "stale" and "other has changed" in problem["detail"]
    answer = plan_with(node, "fat")
    node.create("newcomer")
    path = f"/v1/optimize/plans/{answer['id']}/apply"
    assert "newcomer was created" in node.problem(412, "POST", path, {})["detail"]
    node.delete("newcomer", purge=True)
    apply(node, plan_with(node, "fat"))
    assert "applied already" in node.problem(412, "POST", path.replace(answer["id"], plan_applied(node)), {})["detail"]
    node.problem(404, "POST", "/v1/optimize/plans/0123456789ab/apply", {})
    node.problem(404, "GET", "/v1/optimize/plans/none")
    assert any(row["action"] == "optimize.apply" and row["result"] != "ok" for row in node.audit())


def plan_applied(daemon):
    return next(row["object"].split("/")[1] for row in daemon.audit()
                if row["action"] == "optimize.apply" and row["result"] == "ok")


@pytest.mark.scenario
def test_who_idles_makes_room(node):
    """Two that idle hold all memory, and use it; a third waits. The less important of the two goes to disk."""
    total = node.get("/v1/node")["memory"]
    half = (total["physical"] - total["reserved"]) // 2 >> 20 << 20
    create(node, "idle-1", f"cpu=0.001,memory={half}", cpus=0.1, memory=half)
    create(node, "idle-2", f"cpu=0.001,memory={half}", cpus=0.1, memory=half, priority=-5)
    create(node, "eager", "cpu=0.05,memory=10M", cpus=0.1, memory=half, wait=False)
    answer = plan_with(node, "idle-2")
    step = steps(answer)["idle-2"]
    assert (step["action"], step["reason"], step["cost"]["bytes"]) == ("suspend", "idles", half)
    assert answer["plan"]["waiting"]["instance"] == "eager" and answer["plan"]["waiting"]["fits_afterwards"]
    assert "eager waits" in step["message"] and "priority" in step["constraint"]
    apply(node, answer)
    node.wait_state("eager", "running")
    assert (node.state_of("idle-1"), node.state_of("idle-2")) == ("running", "suspended")
    assert steps(plan_with(node, "eager"))["eager"]["action"] == "resize"  # it asks for far more than it uses
    assert kept(plan(node))["idle-2"] == "rests"


@pytest.mark.scenario
@pytest.mark.skipif(CPUS < 2, reason="a fixed instance leaves one processor to others")
def test_what_is_fixed_stays(node):
    """It idles and holds what somebody of its priority waits for, but its room is its own."""
    total = node.get("/v1/node")["memory"]
    room = (total["physical"] - total["reserved"]) >> 20 << 20
    create(node, "fixed", "cpu=0.001,memory=10M", cpus=1, memory=room // 2, allocation="fixed")
    create(node, "eager", "cpu=0.05,memory=10M", cpus=0.1, memory=room, wait=False)
    answer = plan_with(node)
    assert kept(answer) == {"fixed": "reserved", "eager": "rests"}
    assert answer["plan"]["waiting"]["instance"] == "eager" and not answer["plan"]["waiting"]["fits_afterwards"]


def preemptive_node(make_daemon):
    return make_daemon(arguments=["--overcommit_cpu_fake", "100", "--overcommit_memory_fake", "100", "--queue_policy", "srtf",
                                  "--queue_residency", "0", "--queue_backfill", "none"]).start()


@pytest.mark.scenario
def test_who_is_paused_has_its_memory(make_daemon):
    """The long one gave way: it waits for processors, and not for the memory that it keeps."""
    daemon = preemptive_node(make_daemon)
    total = daemon.get("/v1/node")["memory"]
    most = (total["physical"] - total["reserved"]) * 2 // 3 >> 20 << 20
    daemon.create("long", start=True, cpus=CPUS, memory=most, duration="1h")
    daemon.create("short", start=True, cpus=CPUS, memory="16M", duration="1m", wait=False)
    daemon.wait_state("long", "paused")
    daemon.wait_state("short", "running")
    waiting = plan(daemon)["plan"]["waiting"]
    assert waiting["instance"] == "long"
    assert waiting["lacks"]["cpus_milli"] > 0 and waiting["lacks"]["memory"] == 0


@pytest.mark.scenario
def test_what_was_taken_is_given_back(make_daemon):
    """Up to what it was promised before, also after a restart of polderd and after it was paused for others; but never above
    what its owner decided since."""
    daemon = preemptive_node(make_daemon)
    create(daemon, "fat", f"cpu={CPUS * 0.85:.2f},memory=100M", cpus=CPUS, memory="1G", duration="1h")
    apply(daemon, plan_with(daemon, "fat"))
    assert spec_of(daemon, "fat")["memory"] == 128 << 20
    use = f"cpu={CPUS * 0.85:.2f},memory=150M"
    daemon.change("PATCH", "/v1/instances/fat", {"spec": {"labels": {"polder.fake.run": use}}})
    daemon.restart()  # it uses more from here on, up to what it has
    daemon.create("short", start=True, cpus=CPUS, memory="16M", duration="1s", labels={"run": "delay=2s,exit=0"}, wait=False)
    daemon.wait_state("short", "stopped")
    daemon.wait_state("fat", "running")
    assert daemon.instance("fat")["status"]["preemptions"] == 1
    answer = plan_with(daemon, "fat")
    step = steps(answer)["fat"]
    assert (step["reason"], step["after"]["memory"]) == ("uses-more", 160 << 20)  # 128 MiB x 1.25
    apply(daemon, answer)
    daemon.change("PATCH", "/v1/instances/fat", {"spec": {"memory": 100 << 20}})
    assert kept(plan_with(daemon))["fat"] == "at-limit"


@pytest.mark.scenario
def test_what_is_not_needed_any_more_is_left(node):
    total = node.get("/v1/node")["memory"]
    room = (total["physical"] - total["reserved"]) >> 20 << 20
    create(node, "idle", f"cpu=0.001,memory={room}", cpus=0.1, memory=room)
    create(node, "eager", "cpu=0.05,memory=10M", cpus=0.1, memory="64M", wait=False, keep=True)
    answer = plan_with(node, "idle")
    node.act("eager", "stop")
    assert "eager has changed" in node.problem(412, "POST", f"/v1/optimize/plans/{answer['id']}/apply", {})["detail"]
    plan_with(node)
    assert node.state_of("idle") == "running"


@pytest.mark.scenario
def test_bad_requests_and_permissions(node):
    for body in ({"observe": "0s"}, {"observe": "soon"}, {"cooldown": "-1s"}, {"colour": "red"}):
        node.problem(400, "POST", "/v1/optimize/plans", body)
    reader = node.client(reader=True)
    assert reader.request("POST", "/v1/optimize/plans", {}).status == 403
    assert reader.request("POST", "/v1/optimize/plans/x/apply", {}).status == 403
    ids = [plan(node)["id"] for _ in range(20)]  # only the last sixteen are kept
    assert reader.request("GET", f"/v1/optimize/plans/{ids[-1]}").status == 200
    assert node.get(f"/v1/optimize/plans/{ids[0]}")["state"] == "recorded"  # from the ledger, to be looked at alone
    node.problem(404, "POST", f"/v1/optimize/plans/{ids[0]}/apply", {})
    for none in ("000000000000", "%22", "x"):
        node.problem(404, "GET", f"/v1/optimize/plans/{none}")


def command(daemon, *words, status=0):
    done = subprocess.run([build_directory() / "src/cli/polder", "--socket", daemon.socket, "optimize", *words],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=polderlib.DEADLINE,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == status, done
    return done.stdout + done.stderr


@pytest.mark.scenario
def test_plans_are_told_after_a_restart(node):
    create(node, "fat", "cpu=0.05,memory=100M")
    answer = plan_with(node, "fat")
    apply(node, answer)
    before = node.get("/v1/instances/fat/why")["optimizer"]
    node.restart()
    again = node.get(f"/v1/optimize/plans/{answer['id']}")
    assert (again["state"], again["made"], again["actor"]) == ("recorded", answer["made"], "root")
    assert again["plan"] == answer["plan"] and again["applied"] == [before]
    assert node.get("/v1/instances/fat/why")["optimizer"] == before
    shown = subprocess.run([build_directory() / "src/cli/polder", "--socket", node.socket, "why", answer["id"]], text=True,
                           capture_output=True, timeout=polderlib.DEADLINE, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert f"plan {answer['id']}: recorded" in shown.stdout and f"(plan {answer['id']}, applied by root): resize" in shown.stdout
    node.problem(404, "POST", f"/v1/optimize/plans/{answer['id']}/apply", {})
    # The queue's decisions around it are made again as ever.
    number = node.get("/v1/decisions/1?replay=true")
    assert number["same"] is True


@pytest.mark.scenario
def test_command(node):
    create(node, "fat", "cpu=0.05,memory=100M")
    answer = plan_with(node, "fat")
    shown = command(node, "show", answer["id"])
    assert "fat" in shown and "0.1 cpus, 128MiB" in shown and f"apply {answer['id']}" in shown
    assert "resize fat" in command(node, "apply", answer["id"])
    done = subprocess.run([build_directory() / "src/cli/polder", "--socket", node.socket, "why", "fat"], capture_output=True,
                          text=True, timeout=polderlib.DEADLINE, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert f"by the optimiser (plan {answer['id']}, applied by root): resize, for in " in done.stdout
    assert "applied already" in command(node, "apply", answer["id"], status=1)
    shown = command(node, "plan", "-o", "wide", "--cooldown", "0")
    assert "nothing to do" in shown and "fat stays as it is: it was not measured" in shown
    assert "cooldown" in command(node, "plan", "--cooldown", "soon", status=2)


# ---- real ones ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def host(make_daemon):
    daemon = make_daemon(fake=False).start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    return daemon


def test_real_containers(host):
    """One sleeps and one counts: the first is promised less, keeps its limits and goes on; the other stays as it is."""
    common = {"kind": "container", "image": "busybox", "network": "none", "stop_timeout": "0s"}
    host.create("sleeps", start=True, cpus=1, memory="256M", command=["sleep", "100000"], **common)
    host.create("counts", start=True, cpus=0.2, memory="16M", command=["sh", "-c", "while :; do :; done"], **common)
    found = []

    def measured():
        found[:] = [plan(host, observe="5s")]
        return "sleeps" in steps(found[0]) and kept(found[0]).get("counts") in ("at-limit", "fits")
    eventually(measured, what="measured")
    step = steps(found[0])["sleeps"]
    assert step["after"]["cpus_milli"] == 100 and step["after"]["memory"] < 64 << 20
    assert step["used"]["memory_peak"] > 0
    pid = host.instance("sleeps")["status"]["pid"]
    uuid = host.instance("sleeps")["assigned"]["uuid"]
    limit = int(group_value(uuid, "memory.max", "memory.limit_in_bytes"))
    promised = host.get("/v1/node")["memory"]["promised"]
    apply(host, found[0])
    spec = spec_of(host, "sleeps")
    assert (spec["cpus"], spec["cpu_limit"], spec["memory_limit"]) == (0.1, 1, 256 << 20)
    assert host.get("/v1/node")["memory"]["promised"] == promised - (step["before"]["memory"] - step["after"]["memory"])
    assert int(group_value(uuid, "memory.max", "memory.limit_in_bytes")) == limit  # only the promise shrinks
    assert host.instance("sleeps")["status"]["pid"] == pid and host.state_of("sleeps") == "running"
    eventually(lambda: "measuring" not in kept(plan(host, observe="5s")).values(), what="measured anew")
    assert "sleeps" not in steps(plan(host, observe="5s"))


@pytest.mark.long
def test_real_microvm(request):
    """An idle microVM gives memory back through its balloon: the guest sees less, goes on, and nothing more is planned."""
    with guestlib.host_daemon(request) as daemon:
        daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
        daemon.polder("run", "--detach", "--name", "m", "--kind", "microvm", "--network", "none", "--memory", "640M", "busybox",
                      "--", "sleep", "100000")

        def total():
            return int(re.search(r"MemTotal:\s+(\d+)", daemon.execute("m", "cat", "/proc/meminfo")).group(1)) << 10

        whole, found = total(), []

        def planned():
            found[:] = [plan(daemon, observe="10s")]
            return "m" in steps(found[0])
        eventually(planned, 180, "a step")
        after = steps(found[0])["m"]["after"]["memory"]
        assert after <= 480 << 20  # at most 0.75 of what it had
        apply(daemon, found[0])
        assert spec_of(daemon, "m")["memory"] == after
        eventually(lambda: abs(whole - (640 << 20) + after - total()) <= 16 << 20, 180, f"{after >> 20} MiB less")
        assert daemon.execute("m", "echo", "well") == "well\n"
        eventually(lambda: "measuring" not in kept(plan(daemon, observe="10s")).values(), 180, "measured anew")
        left = steps(plan(daemon, observe="10s")).get("m", {"after": {"memory": after}})
        assert left["after"]["memory"] == after
