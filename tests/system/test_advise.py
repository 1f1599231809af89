# SPDX-License-Identifier: GPL-2.0-or-later
"""The advisor, asked through the API and the command; and that the simulator starts from the command."""
import json
import shutil
import subprocess

import polderlib
import pytest


@pytest.fixture(scope="module")
def daemon():
    daemon = polderlib.Daemon()
    daemon.start()
    yield daemon
    daemon.close()


def polder(daemon, *words, status=0):
    done = subprocess.run([polderlib.build_directory() / "src/cli/polder", "--socket", str(daemon.socket), *words],
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def advice(daemon, query=""):
    return daemon.expect(200, "GET", "/v1/advice" + query).json


def total(kind, weights):
    """The weighted mean, by hand."""
    whole = sum(weights.values())
    return (sum(weights[name] * score for name, score in kind["scores"].items()) + whole // 2) // whole


def test_scores_add_up(daemon):
    answer = advice(daemon)
    kinds = {kind["kind"]: kind for kind in answer["kinds"]}
    assert set(kinds) == {"container", "microvm", "vm"} and "boot loader" in kinds["vm"]["excluded"]
    possible = {name: kind for name, kind in kinds.items() if "excluded" not in kind}
    for kind in possible.values():
        assert kind["total"] == total(kind, answer["weights"])
    assert answer["kind"] == max(possible, key=lambda name: possible[name]["total"])


def test_size(daemon):
    answer = advice(daemon, "?memory=2G")
    kinds = {kind["kind"]: kind for kind in answer["kinds"]}
    assert kinds["container"]["size"] == {"cpus_milli": 1000, "cpus_why": "the default", "memory": 2 << 30, "memory_why": "asked for",
                                          "message": "1 CPU (the default), 2GiB (asked for)"}
    assert kinds["container"]["memory"] == 2 << 30
    kinds = {kind["kind"]: kind for kind in advice(daemon, "?cpus=0.5")["kinds"]}
    size = kinds["container"]["size"]
    assert (size["cpus_milli"], size["cpus_why"], size["memory"], size["memory_why"]) == (500, "asked for", 256 << 20, "the default")
    shown = polder(daemon, "advise", "-m", "2G").stdout
    assert "SIZE" in shown and "1 CPU (the default), 2GiB (asked for)" in shown, shown


def test_what_would_change_it_does(daemon):
    answer = advice(daemon, "?untrusted=true")
    assert answer["weights"]["security"] == 8
    for change in answer["changes"]:
        weights = ",".join(f"{name}={change['weight'] if name == change['criterion'] else weight}"
                           for name, weight in answer["weights"].items())
        assert advice(daemon, "?weights=" + weights)["kind"] == change["kind"]


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="without QEMU there is no other kind")
def test_what_rules_a_kind_out(daemon):
    kinds = {kind["kind"]: kind for kind in advice(daemon, "?own_kernel=true")["kinds"]}
    assert "shares the host's kernel" in kinds["container"]["excluded"]
    kinds = {kind["kind"]: kind for kind in advice(daemon, "?graphics=true")["kinds"]}
    assert "no screen" in kinds["microvm"]["excluded"]


@pytest.mark.parametrize("query,field", [("?weights=security=11", "security"), ("?weights=speed=1", "weights"),
                                         ("?weights=performance=0,resources=0,security=0,compatibility=0,cost=0", "weights"),
                                         ("?cpus=nan", "cpus"), ("?memory=-1", "memory"), ("?unknown=1", "unknown")])
def test_refused_by_name(daemon, query, field):
    reply = daemon.request("GET", "/v1/advice" + query)
    assert reply.status == 400 and f"'{field}'" in reply.json["detail"], reply


def test_unknown_image(daemon):
    daemon.problem(404, "GET", "/v1/advice?image=nosuch")


def test_command(daemon):
    shown = polder(daemon, "advise", "--untrusted").stdout
    assert "SECURITY" in shown and "weights: performance 3, resources 3, security 8" in shown
    assert json.loads(polder(daemon, "advise", "-o", "json").stdout)["kind"] in ("container", "microvm")
    assert "'security' cannot be '11'" in polder(daemon, "advise", "--weigh", "security=11", status=2).stderr


def test_simulator_starts(daemon):
    assert "Modes (queue when none is named):" in polder(daemon, "simulate", "help").stdout
    assert "there is no file 'nomode'" in polder(daemon, "simulate", "nomode", status=1).stderr
