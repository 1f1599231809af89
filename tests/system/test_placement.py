# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an instance was placed, as `polder why` tells it: filters, score terms, what would have changed it; recorded with the
queue's decision, and made again to the same bytes, also after a restart. `polder advise` says the same."""
import os
import subprocess

import pytest
from polderlib import DEADLINE, build_directory, eventually

pytestmark = pytest.mark.scenario
CPUS = os.cpu_count()
GIB = 1 << 30


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
    node.create("first", start=True, cpus=0.5, memory="1G")
    node.create("second", start=True, cpus=0.5, memory="2G")
    placement = why(node, "second")["placement"]
    assert placement["node"] == capacity["name"] and placement["placement"] == why(node, "second")["decision"]["decision"]
    assert all(row["passed"] for row in filters(placement).values())
    assert list(filters(placement)) == ["closed", "taint", "trait", "cpu", "memory"]
    # What was free when it came: all but the first one's.
    seen, asked = placement["input"]["nodes"][0], placement["input"]["request"]
    room = capacity["memory"]["physical"] - capacity["memory"]["reserved"]
    assert seen["cpus_millionths"] == CPUS * 10**6 and seen["free_cpus_millionths"] == CPUS * 10**6 - 500000
    assert seen["memory"] == room and seen["free_memory"] == room - GIB
    assert "kind=fake" in seen["traits"] and asked["traits"] == ["kind=fake"]
    terms = placement["table"][0]["terms"]
    assert (terms["takes_cpus_millionths"], terms["takes_memory"]) == (500000, 2 * GIB)
    assert terms["left_cpus_millionths"] == (CPUS - 1) * 10**6 and terms["left_memory"] == room - 3 * GIB
    # By hand: floor(10,000 (1 - (c/C + m/M) / 2)), CPUs in thousandths, memory in MiB.
    cpu, memory, mib = (CPUS - 1) * 1000, (room - 3 * GIB) >> 20, room >> 20
    whole = 2 * CPUS * 1000 * mib
    assert placement["table"][0]["score"] == (whole - (cpu * mib + memory * CPUS * 1000)) * 10000 // whole
    shown = command(node, "why", "second")
    assert f"placed on {capacity['name']} by the score polder" in shown and "passes closed, taint, trait, cpu, memory" in shown


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
