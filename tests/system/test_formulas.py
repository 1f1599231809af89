# SPDX-License-Identifier: GPL-2.0-or-later
"""Each formula of the engine, one test each (docs/engine.md, "The formulas", is the table): worked out by hand on given numbers,
found in what the daemon tells and, where there is one, in the kernel; and one changed input changes what really happens. The
fake driver plays instances where nothing of a guest matters; capacity is then made small by overcommit ratios."""
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import time

import pytest

import guestlib
import polderlib
from allocationlib import IDLE, allocation, change, container, kernel_value, priority_share, weight_in_kernel
from allocationlib import daemon, node  # noqa: F401 (fixtures)
from polderlib import eventually, group_files

CPUS = os.cpu_count()
WHOLE = ["--overcommit_cpu_fake", "100", "--queue_backfill", "none", "--queue_estimates", "requested"]
PATIENT = ["--queue_residency", "1h"]  # nobody gives way to anybody while the test looks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")


def metric_of(daemon, metric, name):
    """A metric of one instance."""
    text = daemon.expect(200, "GET", "/metrics").body.decode()
    found = re.search(rf'^{metric}\{{name="{name}",project="default",kind="[a-z]+",node="[^"]+"\}} (-?[0-9.]+)$', text, re.M)
    return float(found.group(1)) if found else None


def simulate(mode, *words):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", mode, *map(str, words), "-o", "json"],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# ---- the queue's side ------------------------------------------------------------------------------------------------

def enqueue(daemon, name, cpus=CPUS, **spec):
    """Wished running, and taken in hand; whether there is room or not."""
    daemon.create(name, cpus=cpus, memory="16M", **spec)
    daemon.begin(name, "start")
    eventually(lambda: daemon.state_of(name) not in ("created", "starting"), what=f"{name} is taken in hand")


def order(daemon):
    return [row["name"] for row in daemon.get("/v1/queue")["queue"]]


def rules(daemon, **settings):
    daemon.expect(200, "PATCH", "/v1/node", {"queue": settings})


def release(daemon, name="holder"):
    """Makes room, waits for who gets it, and returns the decision about him: what `polder why` prints."""
    waiting = order(daemon)
    daemon.act(name, "stop", {"force": True})
    started = eventually(lambda: [one for one in waiting if daemon.state_of(one) == "running"], what="somebody starts")
    decision = daemon.get(f"/v1/instances/{started[0]}/why")["decision"]
    assert decision["name"] == started[0]
    return decision


def candidates(decision):
    return {row["name"]: row for row in decision["candidates"]}


@contextlib.contextmanager
def waiting_room(daemon, *jobs):
    """A node that one instance fills, and jobs (name, spec) that wait."""
    enqueue(daemon, "holder")
    for name, spec in jobs:
        enqueue(daemon, name, **spec)
    yield
    for instance in daemon.list():
        daemon.delete(instance["name"], purge=True)


def test_finish_tags_of_round_robin(make_daemon):
    """T_next = T_current + B_burst / R_remaining. Virtual time is the tag of who was served last: 0 + 10/1 for the holder. A burst
    is 10 s; R is the weight that the priority earns: 1 at 0, 10 at 100."""
    daemon = make_daemon(arguments=["--queue_policy", "rr", "--queue_parameters", "rr.quantum=1000", *WHOLE, *PATIENT]).start()
    for strong, weak in ((100, 0), (0, 100)):  # the input that changes
        rules(daemon, policy="fcfs")           # virtual time begins anew
        rules(daemon, policy="rr")
        with waiting_room(daemon, ("a", {"priority": weak}), ("b", {"priority": strong})):
            weights = {"a": priority_share(weak) / 100, "b": priority_share(strong) / 100}
            rows = candidates(release(daemon))
            base = rows["a"]["tag"] - 1000 / weights["a"]
            assert {name: row["tag"] for name, row in rows.items()} == pytest.approx(
                {name: base + 1000 / weight for name, weight in weights.items()}, abs=1e-6)
            assert all(row["score"] == pytest.approx(row["tag"]) for row in rows.values())
            assert base >= 0 and daemon.state_of("b" if strong > weak else "a") == "running"


def test_waiting_account(make_daemon):
    """W_i = W_i + T_i: priority + ageing x W - fairness x use counts, the largest first (the score is its negative); W beyond the alarm
    goes first, whatever its priority."""
    daemon = make_daemon(arguments=["--queue_policy", "dynamic", *WHOLE, *PATIENT]).start()

    def first(*parameters):
        rules(daemon, parameters=dict(parameter.split("=") for parameter in parameters))
        with waiting_room(daemon, ("old", {"priority": 0, "duration": "1h"}), ("young", {"priority": 40, "duration": "1h"})):
            time.sleep(1.2)  # what is measured is waiting
            decision = release(daemon)
            return decision["name"], candidates(decision)

    winner, rows = first("dynamic.ageing=0.001", "dynamic.fairness=0")
    assert winner == "young"
    assert rows["old"]["waited"] > rows["young"]["waited"] >= 1.2
    for row in rows.values():
        assert row["score"] == pytest.approx(-(row["priority"] + 0.001 * row["waited"]), abs=1e-5)
    winner, rows = first("dynamic.ageing=1000000", "dynamic.fairness=0")
    assert winner == "old"
    for row in rows.values():
        assert row["score"] == pytest.approx(-(row["priority"] + 1e6 * row["waited"]), abs=2000)
    winner, rows = first("dynamic.ageing=0.001", "dynamic.fairness=0", "alarm=1")
    assert winner == "old" and rows["old"]["score"] < rows["young"]["score"] < -9e11


def test_completion_times(make_daemon):
    """T_i = the sum of T_j of those before it: each expected start is the sum of the run times before it, in the chosen order."""
    daemon = make_daemon(arguments=["--queue_policy", "fcfs", *WHOLE]).start()
    times = {"a": 300, "b": 200, "c": 100}
    enqueue(daemon, "holder", duration="600s")
    for name, seconds in times.items():
        enqueue(daemon, name, duration=f"{seconds}s")

    def check(expected_order):
        rows = daemon.get("/v1/queue")["queue"]
        assert [row["name"] for row in rows] == expected_order
        expected, left = 0, rows[0]["starts_in"]
        assert left == pytest.approx(600, abs=60)  # what the holder still needs
        for row in rows:
            assert row["starts_in"] == pytest.approx(left + expected, abs=0.01)
            why = daemon.get(f"/v1/instances/{row['name']}/why")
            assert why["starts_in"] == pytest.approx(left + expected, abs=30) and why["expected"] == times[row["name"]]
            expected += times[row["name"]]

    check(["a", "b", "c"])
    rules(daemon, policy="sjf")  # the chosen order
    check(["c", "b", "a"])
    assert release(daemon)["name"] == "c"


# Each policy's score, the smallest first, from what the decision says of a candidate: r expected, w waited, n processors, p priority.
SCORES = {
    "sjf": lambda r, w, n, p: r, "sjf:demand": lambda r, w, n, p: n / CPUS, "saf": lambda r, w, n, p: r * n,
    "srtf": lambda r, w, n, p: r, "priority": lambda r, w, n, p: -p, "xf": lambda r, w, n, p: -(w + r) / r,
    "wfp3": lambda r, w, n, p: -(w / r) ** 3 * n, "unicep": lambda r, w, n, p: -w / ((math.log2(n) if n > 1 else 1e-9) * r),
}


def test_queue_policies(make_daemon):
    """Each policy by its own formula: its score by hand, the smallest starts; the same jobs with their properties exchanged: the other."""
    daemon = make_daemon(arguments=[*WHOLE, *PATIENT]).start()
    large = {"duration": "1000s", "cpus": CPUS, "priority": -10}
    small = {"duration": "10s", "cpus": CPUS / 2 + 0.1, "priority": 10}

    for policy in ["fcfs", *SCORES]:
        rules(daemon, policy=policy)
        for jobs in ((("a", large), ("b", small)), (("a", small), ("b", large))):
            with waiting_room(daemon, *jobs):
                if policy in ("xf", "wfp3", "unicep"):
                    time.sleep(1.1)  # what waiting changes is looked at once a second
                decision = release(daemon)
                rows = candidates(decision)
                assert decision["policy"] == policy and set(rows) == {"a", "b"}
                for name, spec in jobs:
                    row = rows[name]
                    assert row["expected"] == int(spec["duration"][:-1]) and row["priority"] == spec["priority"]
                    if policy == "fcfs":
                        continue
                    score = SCORES[policy](row["expected"], row["waited"], row["size"], row["priority"])
                    assert row["score"] == pytest.approx(score, rel=0.02), (policy, row)  # waited is in whole milliseconds
                assert decision["name"] == min(rows, key=lambda name: rows[name]["score"]), (policy, rows)
                wanted = {"fcfs": "a"}.get(policy, "b" if jobs[1][1] is small else "a")
                assert decision["name"] == wanted, (policy, rows)


def test_preemption(make_daemon):
    """SRTF: what is left is the estimate less the work done. Who needs less than the one that runs still needs takes its place, and
    the work done stays done; who needs more waits."""
    daemon = make_daemon(arguments=["--queue_policy", "srtf", "--queue_residency", "0s", *WHOLE]).start()
    enqueue(daemon, "long", duration="1000s")
    enqueue(daemon, "longer", duration="1100s")
    time.sleep(1)
    assert (daemon.state_of("long"), daemon.state_of("longer")) == ("running", "queued")
    pid = daemon.instance("long")["status"]["pid"]
    enqueue(daemon, "short", duration="500s")  # the input that changes: 500 < 1000 - 1
    daemon.wait_state("short", "running")
    shown = daemon.instance("long")["status"]
    assert (shown["state"], shown["pid"], shown["preemptions"]) == ("paused", pid, 1)
    decision = release(daemon, "short")
    rows = candidates(decision)
    assert decision["name"] == "long" and 1 <= rows["long"]["done"] < 500
    for row in rows.values():
        assert row["score"] == pytest.approx(row["expected"] - row["done"], abs=0.01)
    daemon.wait_state("long", "running")
    assert daemon.instance("long")["status"]["pid"] == pid


def test_lifecycle(make_daemon):
    """S' = F(S, E): the table says where an event leads, that is where it leads, and what is not in it is refused with what is."""
    daemon = make_daemon().start()
    table = {(row["from"], row["event"]): row["to"] for row in daemon.get("/v1/lifecycle")["transitions"]}
    by_hand = {("created", "start"): "queued", ("running", "pause"): "paused", ("paused", "resume"): "running",
               ("running", "suspend"): "suspending", ("stopped", "delete"): "deleted"}
    assert by_hand.items() <= table.items() and ("created", "pause") not in table
    daemon.create("one")
    refused = daemon.problem(409, "POST", "/v1/instances/one/pause")
    assert "start" in refused["detail"], refused
    for action, state in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("suspend", "suspended"),
                          ("start", "running"), ("stop", "stopped")):
        daemon.act("one", action)
        assert daemon.state_of("one") == state
    refused = daemon.problem(409, "POST", "/v1/instances/one/resume")
    legal = {event for state, event in table if state == "stopped"}
    assert any(event in refused["detail"] for event in legal), (refused, legal)


# ---- placement, optimiser, advisor -----------------------------------------------------------------------------------

def vms(tmp_path, sizes, policy, node=10):
    trace = tmp_path / "vms.csv"
    trace.write_text("id,create,delete,cpus,memory\n" + "".join(f"{i},{i},9999,{size},1\n" for i, size in enumerate(sizes)))
    return simulate("vms", "--node", f"cpus={node},memory=64", "--predict", "no", "--policy", policy, trace)[0]["nodes"]


def test_placement(tmp_path):
    """Nodes of 10. Utilisation first (best fit): 7 | 6, then 3 beside the 7 and 4 beside the 6: two nodes. Capacity first (worst fit):
    the 3 beside the 6, and nothing has room for the 4: three. Demand first: 4 4 6 6 as they come need three nodes, the largest
    first two."""
    assert vms(tmp_path, [7, 6, 3, 4], "best") == 2 and vms(tmp_path, [7, 6, 3, 4], "worst") == 3
    assert vms(tmp_path, [7, 6, 3, 1], "worst") == 2  # the input that changes
    assert vms(tmp_path, [4, 4, 6, 6], "first") == 3
    items = tmp_path / "items"
    items.write_text("4,1\n4,1\n6,1\n6,1\n")
    assert simulate("packing", "--capacity", "10,10", items)["bfd-sum"] == 2


def test_optimiser(tmp_path):
    """Two machines, safety capacity 6 of 20, load costs 10: 6 + 3 + 3 on the first cost 10 x (12 - 6) = 60. The first process elsewhere
    costs 2 + 1 + 4 = 7 at weights of 1, and 2 x 30 + 1 + 4 = 65 at a weight of 30: then nothing moves."""
    model = "1\n0 10\n2\n0 0 20 6 0 4\n0 1 20 6 4 0\n3\n0 0\n0 0\n0 0\n3\n0 6 2\n1 3 1\n2 3 1\n0\n{} 1 1\n"
    (tmp_path / "start").write_text("0 0 0\n")
    for weight, total, moved in ((1, 7, 1), (30, 60, 0)):
        (tmp_path / "model").write_text(model.format(weight))
        found = simulate("roadef", tmp_path / "model", tmp_path / "start", "--steps", 20000)
        assert found["start"]["total"] == 60 and (found["found"]["total"], found["found"]["moved"]) == (total, moved), found


needs_qemu = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="without QEMU a container is the only kind")


@needs_qemu
def test_advisor_takes_the_disk_of_the_same_name(daemon, tmp_path):
    """A name is an OCI image and, with "-disk" behind it, a disk: what only a machine can do takes the disk, as `--kind vm` would."""
    daemon.get("/v1/doctor")
    if "excluded" in {kind["kind"]: kind for kind in daemon.get("/v1/advice?graphics=true")["kinds"]}["vm"]:
        pytest.skip("no VM can run here")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "8M"], check=True)
    wish = {"kind": "auto", "image": "busybox", "network": "none", "graphics": True}
    refused = daemon.problem(422, "POST", "/v1/instances", {"name": "screen", "spec": wish})
    assert "no container, since it has no screen" in refused["detail"] and "without a boot loader" in refused["detail"], refused
    polder = [polderlib.build_directory() / "src/cli/polder", "--socket", daemon.socket]
    subprocess.run([*polder, "image", "import", tmp_path / "disk.qcow2", "--name", "busybox-disk", "-q"], check=True, capture_output=True)
    daemon.create("screen", **wish)
    assigned = daemon.instance("screen")["assigned"]
    told = daemon.get("/v1/advice?image=busybox&graphics=true")
    assert (assigned["kind"], assigned["why_kind"]) == ("vm", told["why"]) and told["kind"] == "vm"
    assert assigned["image_digest"] == daemon.get("/v1/images/busybox-disk")["digest"]
    daemon.delete("screen", purge=True)
    subprocess.run([*polder, "image", "rm", "busybox-disk"], check=True, capture_output=True)


@needs_qemu
def test_advisor(daemon):
    """The total is the weighted mean of the scores of performance, resources, security, compatibility and cost, and the largest is
    advised. What is wished for rules kinds out: then `--kind auto` takes another."""
    daemon.get("/v1/doctor")  # when it answers the probes are done, and what can run here is known
    answer = daemon.get("/v1/advice?image=busybox")
    weights, kinds = answer["weights"], {kind["kind"]: kind for kind in answer["kinds"]}
    for kind in kinds.values():
        if "excluded" not in kind:
            whole = sum(weights.values())
            assert kind["total"] == (sum(weights[name] * score for name, score in kind["scores"].items()) + whole // 2) // whole
    assert answer["kind"] == max((kind for kind in kinds.values() if "excluded" not in kind), key=lambda kind: kind["total"])["kind"]
    for change_ in answer["changes"]:
        other = weights | {change_["criterion"]: change_["weight"]}
        asked = ",".join(f"{name}={weight}" for name, weight in other.items())
        assert daemon.get(f"/v1/advice?image=busybox&weights={asked}")["kind"] == change_["kind"] != answer["kind"]
    def auto(name, **spec):
        daemon.create(name, kind="auto", image="busybox", network="none", **spec)
        return daemon.instance(name)["assigned"]

    # It weighs what was asked for, and says so in the same words.
    for name, query, spec in (("auto", "", {}), ("large", "&memory=1G&cpus=2", {"memory": "1G", "cpus": 2})):
        told = daemon.get("/v1/advice?image=busybox" + query)
        chosen = auto(name, **spec)
        assert (chosen["kind"], chosen["why_kind"]) == (told["kind"], told["why"])
    assert daemon.instance("auto")["assigned"]["why_kind"] != chosen["why_kind"]
    # What only some kinds can do leaves those.
    assert auto("counted", pids=100)["kind"] == "container"
    if "excluded" in kinds["microvm"]:
        refused = daemon.problem(422, "POST", "/v1/instances", {"name": "paced", "spec": {
            "kind": "auto", "image": "busybox", "network": "none", "control_rate": 7}})
        assert "container does not support control_rate" in refused["detail"], refused
    else:
        chosen = auto("paced", control_rate=7)
        assert chosen["kind"] == "microvm" != answer["kind"] and "control_rate" in chosen["why_kind"], chosen
    refused = daemon.problem(422, "POST", "/v1/instances", {"name": "both", "spec": {
        "kind": "auto", "image": "busybox", "network": "none", "control_rate": 7, "pids": 100}})
    assert "no container, since container does not support control_rate" in refused["detail"], refused
    assert "no microvm, since microvm does not support pids" in refused["detail"], refused


# ---- the allocator's side --------------------------------------------------------------------------------------------

def test_score_by_hand_and_in_the_kernel(daemon):
    """R_allocated = R_requested x C_priority x S_weight; each input that changes changes the value in the kernel."""
    uuid = container(daemon, "one", cpus=0.5, priority=20, weight_beta=0)

    def check(cpus, priority, alpha):
        share = priority_share(priority)
        dynamic = max(1, int(alpha * share))              # R_i = alpha x P + beta x T, beta is 0
        factor_c, factor_s = share / 100, dynamic / share
        weight = round(100 * cpus * factor_c * factor_s)
        told = eventually(lambda: (a := allocation(daemon, "one"))["cpu"]["control_group"]["value"] == kernel_value(weight) and a,
                          what=f"the weight {weight}: {allocation(daemon, 'one')}")
        assert weight_in_kernel(uuid) == kernel_value(weight)
        assert told["cpu"]["requested_milli"] == cpus * 1000
        assert told["cpu"]["priority_factor_milli"] == factor_c * 1000
        assert abs(told["cpu"]["weight_factor_milli"] - factor_s * 1000) <= 0.5
        assert abs(told["cpu"]["score"] - cpus * 1000 * factor_c * factor_s) <= 1
        assert told["weight"]["in_force"] == dynamic
        assert told["cpu"]["control_group"]["expected"] == kernel_value(weight)
        why = daemon.get("/v1/instances/one/why")["allocation"]
        assert (why["requested_milli"], why["priority_factor_milli"]) == (cpus * 1000, factor_c * 1000)
        assert why["score"] == told["cpu"]["score"] and why["weight_factor_milli"] == told["cpu"]["weight_factor_milli"]
        return weight

    first = check(0.5, 20, 1)
    assert first == 140
    change(daemon, "one", cpus=1)
    assert check(1, 20, 1) == 280
    change(daemon, "one", priority=-50)
    assert check(1, -50, 1) == 18
    change(daemon, "one", priority=100, weight_alpha=0.25)
    assert check(1, 100, 0.25) == 250


def test_dynamic_weight_moves_with_age(daemon):
    """R_i = alpha x P + beta x T: P is 100, 36,000 an hour are 10 a second; at most twice, at least half of alpha x P. The
    weight in force is never a tenth away from the formula's for longer than until the next look, and moves by a tenth or more."""
    uuids = {"young": container(daemon, "young", weight_beta=-36000), "old": container(daemon, "old", weight_beta=36000),
             "still": container(daemon, "still", weight_beta=0)}
    ends = {"young": 50, "old": 200, "still": 100}

    def settled(name):
        told = allocation(daemon, name)["weight"]
        wished = told["alpha_milli"] / 1000 * told["priority_share"] + told["beta_per_hour"] * told["running_seconds"] / 3600
        wished = min(max(wished, 50), 200)
        assert abs(told["wished"] - wished) <= 10, told  # running_seconds are whole ones
        return wished == ends[name] and abs(told["in_force"] - wished) * 10 < told["in_force"]

    for name, uuid in uuids.items():
        eventually(lambda: settled(name), what=f"the weight {ends[name]} of {name}: {allocation(daemon, name)['weight']}")
        told = allocation(daemon, name)
        assert weight_in_kernel(uuid) == kernel_value(told["weight"]["in_force"])
        assert told["cpu"]["weight_factor_milli"] == told["weight"]["in_force"] * 10
        assert daemon.get(f"/v1/instances/{name}/why")["weight"]["in_force"] == told["weight"]["in_force"]
        assert metric_of(daemon, "polder_instance_weight", name) == told["weight"]["in_force"]
    change(daemon, "old", weight_beta=0)  # what somebody sets counts at once
    eventually(lambda: weight_in_kernel(uuids["old"]) == kernel_value(100), what="the plain weight")


def virtual(daemon, what):
    text = daemon.expect(200, "GET", "/metrics").body.decode()
    return {kind: float(value) for kind, value in re.findall(rf'^polder_virtual_{what}\{{kind="(\w+)",node="[^"]+"\}} ([0-9.]+)$', text, re.M)}


def test_virtual_capacity_by_hand(make_daemon):
    """V = P x C: 150 % of the processors may be promised to containers, and not a thousandth more."""
    daemon = make_daemon(fake=False, arguments=["--overcommit_cpu_container", "150"]).start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    physical = len(os.sched_getaffinity(0)) * 1000
    cpus = daemon.get("/v1/node")["cpus"]
    assert cpus["physical_milli"] == physical and cpus["virtual_milli"]["container"] == physical * 150 // 100
    memory = daemon.get("/v1/node")["memory"]
    for kind, percent in memory["overcommit_percent"].items():
        assert memory["virtual"][kind] == (memory["physical"] - memory["reserved"]) * percent // 100
    assert virtual(daemon, "cpus") == {"container": physical * 1.5 / 1000} | {kind: cpus["virtual_milli"][kind] / 1000
                                                                            for kind in ("microvm", "vm")}
    assert virtual(daemon, "memory_bytes") == memory["virtual"]
    container(daemon, "most", cpus=physical * 1.5 / 1000 - 0.01)
    assert daemon.get("/v1/node")["cpus"]["promised_milli"] == physical * 1.5 - 10
    container(daemon, "rest", cpus=0.01)
    daemon.create("more", kind="container", image="busybox", network="none", cpus=0.01, command=IDLE)
    daemon.begin("more", "start")
    daemon.wait_state("more", "queued")
    text = subprocess.run([polderlib.build_directory() / "src/cli/polder", "--socket", daemon.socket, "node", "show"],
                          capture_output=True, text=True, check=True).stdout
    assert f"{physical * 1.5 / 1000:g} to containers (x 150 %)" in text, text
    daemon.arguments[-1] = "200"  # the input that changes
    daemon.restart()
    daemon.wait_state("more", "running")
    assert virtual(daemon, "cpus")["container"] == physical * 2 / 1000


def test_requests_are_counted_over_all_runs(daemon):
    """V_i = V_i + D_i."""
    writes = ["sh", "-c", "dd if=/dev/zero of=/data bs=64k count=16 oflag=direct 2>/dev/null; sync; exec sleep 100000"]
    uuid = container(daemon, "writer", command=writes)
    files = group_files(uuid)
    if "io.stat" not in files and "blkio.throttle.io_serviced" not in files:
        pytest.skip("this kernel counts no requests")
    status = eventually(lambda: (s := daemon.instance("writer")["status"])["io_write_bytes"] >= 1 << 20 and s, what="1 MiB counted")
    assert status["io_writes"] >= 8
    daemon.act("writer", "restart", {"force": True})
    again = eventually(lambda: (s := daemon.instance("writer")["status"])["io_write_bytes"] >= 2 << 20 and s, what="2 MiB counted")
    assert again["io_writes"] >= status["io_writes"] + 8
    for name in ("io_reads", "io_writes", "io_read_bytes", "io_write_bytes"):
        assert metric_of(daemon, f"polder_instance_{name}_total", "writer") >= again[name]


@pytest.mark.slow
def test_control_budget_of_a_microvm(request):
    """C_m = P_m x R_m by hand; requests to polder-guest are counted, and wait when there are too many."""
    with guestlib.host_daemon(request) as daemon:
        daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
        daemon.polder("run", "--detach", "--name", "m", "--kind", "microvm", "--network", "none", "--priority", "50", "--control-rate",
                      "40", "busybox", "--", "sleep", "100000")
        told = allocation(daemon, "m")["requests"]
        assert told["control_budget_milli"] == told["control_priority_factor_milli"] * told["control_rate"]
        assert told["control_budget_milli"] == (100 + 9 * 50) / 100 * 40 * 1000
        why = daemon.get("/v1/instances/m/why")["control"]
        assert (why["control_budget_milli"], why["control_rate"]) == (220000, 40)
        assert "control channel: 220 messages a second: 5.5 for its priority x 40" in daemon.polder("why", "m").stdout
        before = told["control_calls"]
        for _ in range(3):
            assert daemon.execute("m", "echo", "hello") == "hello\n"
        told = allocation(daemon, "m")["requests"]
        assert told["control_calls"] >= before + 6 and told["control_waits"] == 0  # a request and an exit each
        eventually(lambda: daemon.instance("m")["status"]["control_calls"] >= before + 6, what="the counter in its status")
        change(daemon, "m", priority=0, control_rate=1)  # four at once, then one a second
        for _ in range(4):
            assert daemon.execute("m", "echo", "hello") == "hello\n"
        told = allocation(daemon, "m")["requests"]
        assert told["control_waits"] >= 3 and told["control_budget_milli"] == 1000
        assert metric_of(daemon, "polder_instance_control_calls_total", "m") >= before + 6


def test_traffic_between_instances(request):
    """C_c = P_c x R_c: packets times their size, counted by the bridge: 40 echo requests of 1400 + 8 + 20 bytes and their answers. Who
    exchanges most with whom is the hint about who had better stay together; more with somebody else changes it."""
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        for name in ("a", "b", "c"):
            daemon.polder("run", "--detach", "--name", name, "--kind", "container", "--stop-timeout", "0s", "busybox", "--", *IDLE)

        def ping(source, target, count):
            address = daemon.instance(target)["assigned"]["address"]
            daemon.execute(source, "ping", "-q", "-c", count, "-i", "0.05", "-s", "1400", address)

        def flows():
            answer = daemon.get("/v1/network/flows")
            return {(row["from"], row["to"]): row for row in answer["flows"]}, {row["name"]: row for row in answer["together"]}

        assert flows() == ({}, {})
        ping("a", "b", 40)
        found, together = flows()
        assert set(found) == {("a", "b"), ("b", "a")}
        for row in found.values():
            assert (row["packets"], row["bytes_per_packet"], row["bytes"]) == (40, 1428, 40 * 1428)
        assert (together["a"]["with"], together["a"]["bytes"], together["a"]["percent"]) == ("b", 2 * 40 * 1428, 100)

        def metric(what):
            text = daemon.expect(200, "GET", "/metrics").body.decode()
            return {(row[0], row[1]): int(row[2]) for row in re.findall(
                rf'^polder_flow_{what}_total\{{from="(\w+)",to="(\w+)",node="[^"]+"\}} (\d+)$', text, re.M)}

        # As of the reading that the last question began.
        eventually(lambda: metric("bytes") == {("a", "b"): 40 * 1428, ("b", "a"): 40 * 1428}, what="the bytes in /metrics")
        assert metric("packets") == {("a", "b"): 40, ("b", "a"): 40}
        ping("a", "c", 80)  # the input that changes
        found, together = flows()
        assert found["a", "c"]["bytes"] == 80 * 1428 and found["a", "b"]["bytes"] == 40 * 1428
        assert (together["a"]["with"], together["a"]["percent"], together["b"]["with"]) == ("c", 66, "a")
        eventually(lambda: metric("bytes").get(("a", "c")) == 80 * 1428, what="the bytes in /metrics")
        assert "a had better stay on one node with c: 66 % of its traffic" in daemon.polder("network", "flows").stdout
