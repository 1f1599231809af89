# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate placement: published figures on real traces, our own goals, bad files, any number of workers."""
import gzip
import json
import pathlib
import random
import re
import subprocess

import polderlib
import pytest

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared/data/openb"
needs_data = pytest.mark.skipif(not DATA.is_dir(),
                                reason="the traces are not at ../shared/data: they are not part of the project")


def simulate(mode, *words, status=0):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", mode, *map(str, words)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.stdout[-500:], done.stderr[-500:])
    return done


def results(mode, *words):
    return json.loads(simulate(mode, *words, "-o", "json").stdout)


# ---- GPU clusters ----

def openb(workload, *words):
    found = {}
    for row in results("placement", "--nodes", DATA / "openb_node_list_gpu_node.csv.gz",
                       "--pods", DATA / f"openb_pod_list_{workload}.csv.gz", *words):
        found.setdefault(row["score"], []).append(row["allocated"])
    return found


# FGD (USENIX ATC'23): GPUs allocated when arrivals reach 100 % and 130 %, means of ten seeds. Here one, so the
# tolerance is that of their spread; docs/engine-placement.md has all ten.
PUBLISHED = {
    "default": {"random": (86.30, 87.47), "best": (92.86, 93.08), "fgd": (95.23, 95.39)},
    "gpuspec33": {"dot": (79.82, 89.14), "gpu-clustering": (81.09, 92.12), "fgd": (87.84, 94.55)},
    "gpushare100": {"gpu-packing": (82.13, 82.57), "best": (84.62, 85.01), "fgd": (86.64, 86.90)},
}


@needs_data
@pytest.mark.parametrize("workload", PUBLISHED)
def test_published_figures(workload):
    published = PUBLISHED[workload]
    found = openb(workload, "--score", ",".join(published), "--seeds", 1)
    for score, expected in published.items():
        assert found[score] == pytest.approx(expected, abs=1.5), (workload, score)


@needs_data
@pytest.mark.parametrize("workload,seeds", [
    ("default", 1), ("gpuspec33", 1),
    *(pytest.param(workload, 10, marks=pytest.mark.long)
      for workload in ("cpu250", "default", "gpushare100", "gpuspec33", "multigpu50"))])
def test_polder_allocates_more_than_the_better_of_fgd_and_first(workload, seeds):
    found = openb(workload, "--score", "fgd,first,polder", "--seeds", seeds)
    for ours, fgd, first in zip(found["polder"], found["fgd"], found["first"]):
        assert ours > max(fgd, first), (workload, found)


@needs_data
def test_any_number_of_workers_gives_the_same_bytes():
    words = ("--nodes", DATA / "openb_node_list_gpu_node.csv.gz", "--pods", DATA / "openb_pod_list_multigpu50.csv.gz",
             "--score", "random,first,polder", "--seeds", 2)
    alone = simulate("placement", *words, "-o", "json").stdout
    assert alone == simulate("placement", *words, "-o", "json", "--jobs", 3).stdout
    assert alone == simulate("placement", *words, "-o", "json", "--jobs", 64).stdout


NODES = "sn,cpu_milli,memory_mib,gpu,model\nn1,96000,393216,8,G2\nn2,104000,524288,2,T4\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np1,4000,1024,1,500,\np2,8000,1024,2,1000,G2|T4\n"


def openb_files(tmp_path, nodes=NODES, pods=PODS):
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "pods.csv").write_text(pods)
    return ("--nodes", tmp_path / "nodes.csv", "--pods", tmp_path / "pods.csv")


def test_small_cluster_by_hand(tmp_path):
    # 10 GPUs; at 25 % of arrivals both pods have come at least once: 2.5 of 10 GPUs are promised.
    found = results("placement", *openb_files(tmp_path), "--score", "first", "--arrivals", "25", "--seeds", 1)
    assert found == [{"score": "first", "arrivals": 25, "seeds": 1, "allocated": 25.0}]


def random_cluster(tmp_path):
    dice = random.Random(7)
    nodes = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
        f"n{i},{dice.choice((32000, 96000))},{dice.choice((131072, 393216))},{dice.choice((0, 2, 4, 8))},{dice.choice('AB')}\n"
        for i in range(60))
    pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
        f"p{i},{dice.choice((1000, 4000, 8000))},{dice.choice((1024, 16384))},{gpus},"
        f"{0 if gpus == 0 else 1000 if gpus > 1 else dice.choice((250, 500, 1000))},{dice.choice(('', 'A', 'A|B')) if gpus else ''}\n"
        for i, gpus in enumerate(dice.choice((0, 1, 1, 2, 4)) for _ in range(300)))
    return openb_files(tmp_path, nodes, pods)


@pytest.mark.parametrize("score", ["first", "random", "fgd", "polder", "gpu-packing"])
def test_recorded_decisions_are_made_again(tmp_path, score):
    """From the file alone, each to the byte; the record changes no figure."""
    files, ledger = random_cluster(tmp_path), tmp_path / "ledger"
    words = (*files, "--score", score, "--seeds", 1, "--first-seed", 3)
    plain = simulate("placement", *words).stdout
    assert simulate("placement", *words, "--ledger", ledger).stdout == plain
    lines = ledger.read_text().splitlines()
    decisions = [json.loads(line) for line in lines if line.startswith('{"decision"')]
    assert [row["decision"] for row in decisions] == list(range(len(decisions))) and len(decisions) >= 300
    shown = json.loads(simulate("placement", "--replay", ledger, "-o", "json", "--why", 17).stdout)
    assert shown == {"decisions": len(decisions), "same": True, "why": decisions[17]}
    told = simulate("placement", "--replay", ledger, "--why", 17).stdout
    assert f"{len(decisions)} decisions made again: the same" in told and decisions[17]["to"] in told
    refused = next((row["decision"] for row in decisions if row["to"] is None), None)
    if refused is not None:
        told = simulate("placement", "--replay", ledger, "--why", refused).stdout
        assert "no node takes it" in told and re.search(r"\d+ nodes fail \w+", told)
    # Another node, a decision left out, another version, and what is no record: refused with the line.
    at = next(i for i, line in enumerate(lines) if '"decision":20,' in line)
    for change, named in (
            ([*lines[:at], re.sub(r'"to":[^,]*', '"to":"n0x"', lines[at]), *lines[at + 1:]], f"line {at + 1}: decision: made again"),
            (lines[:at] + lines[at + 1:], f"line {at + 1}: decision: made again"),
            ([lines[0].replace(":1,", ":9,", 1), *lines[1:]], "placements of version 9"),
            (lines[1:], "line 1: placements"),
            (["[]"], "line 1: line: it is no JSON object"),
            ([*lines, '{"decision":1,"about":99999}'], "about: there is no such pod"),
            ([lines[0], lines[1], lines[1]], "line 3: node"),
            ([lines[0], '{"pod":5}'], "line 2: pod"),
            ([*lines, lines[1]], "comes too late")):
        ledger.write_text("\n".join(change) + "\n")
        done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "placement", "--replay", ledger],
                              capture_output=True, text=True, check=False)
        assert done.returncode != 0 and named in done.stderr, (named, done.stderr[-300:])


def takes(node, pod):
    """Has the node room for it, GPUs of its model included? gpus: what is free of each, in thousandths."""
    return (node["cpus"] >= pod["cpus"] and node["memory"] >= pod["memory"] and
            (pod["gpus"] == 0 or (not pod["models"] or node["model"] in pod["models"]) and
             sum(free >= pod["milli"] for free in node["gpus"]) >= pod["gpus"]))


@pytest.mark.parametrize("score", ["first", "polder"])
def test_ten_thousand_nodes(tmp_path, score):
    """Read from the record: nobody promises more than it has, every hundredth decision is compared with a look at all nodes, and
    all are made again."""
    dice, ledger = random.Random(23), tmp_path / "ledger"
    nodes = [(f"n{i}", dice.choice((32, 64, 96)), dice.choice((128, 256, 384)), dice.choice((0, 2, 4, 8)), dice.choice("AB"))
             for i in range(10000)]
    pods = [(dice.choice((1, 4, 8)), dice.choice((1, 16)), gpus, 0 if gpus == 0 else 1000 if gpus > 1 else dice.choice((250, 500, 1000)),
             dice.choice(("", "A", "A|B")) if gpus else "") for gpus in (dice.choice((0, 1, 1, 2, 4)) for _ in range(20000))]
    files = openb_files(
        tmp_path, "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"{name},{cpus}000,{gib * 1024},{gpus},{model}\n"
                                                                 for name, cpus, gib, gpus, model in nodes),
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
            f"p{i},{cpus}000,{gib * 1024},{gpus},{milli},{models}\n" for i, (cpus, gib, gpus, milli, models) in enumerate(pods)))
    found, = results("placement", *files, "--score", score, "--seeds", 1, "--arrivals", 100, "--ledger", ledger)
    wanted = [{"cpus": cpus, "memory": gib, "gpus": gpus, "milli": milli, "models": models} for cpus, gib, gpus, milli, models in pods]
    kinds = {name: (cpus, gib, gpus, model) for name, cpus, gib, gpus, model in nodes}
    free, count, allocated = {}, 0, 0
    for line in map(json.loads, ledger.read_text().splitlines()):
        if "node" in line:
            cpus, gib, gpus, model = kinds[line["node"]]
            free[line["node"]] = {"cpus": cpus, "memory": gib, "gpus": [1000] * gpus, "model": model}
        if "decision" not in line:
            continue
        pod = wanted[line["about"]]
        if line["decision"] % 100 == 0:
            able = [name for name, node in free.items() if takes(node, pod)]
            assert len(able) == 10000 - sum(line["refused"].values()), line
            assert line["to"] == (able[0] if score == "first" and able else line["to"]) and (line["to"] is None or line["to"] in able)
        count += 1
        if line["to"] is None:
            continue
        node, chosen = free[line["to"]], [i for i in range(8) if line["gpus"] >> i & 1]
        assert takes(node, pod) and len(chosen) == pod["gpus"], line
        node["cpus"] -= pod["cpus"]
        node["memory"] -= pod["memory"]
        for gpu in chosen:
            node["gpus"][gpu] -= pod["milli"]
            allocated += pod["milli"]
        assert all(left >= 0 for left in node["gpus"]), line
    assert len(free) == 10000 and count > 20000
    assert found["allocated"] == pytest.approx(allocated / (sum(kind[2] for kind in kinds.values()) * 10), abs=.01)
    assert json.loads(simulate("placement", "--replay", ledger, "-o", "json").stdout) == {"decisions": count, "same": True, "why": None}


def test_record_options_are_checked(tmp_path):
    files = openb_files(tmp_path)
    assert "one run" in simulate("placement", *files, "--ledger", tmp_path / "x", status=2).stderr
    assert "--why goes with --replay" in simulate("placement", *files, "--why", 1, status=2).stderr
    assert "from its file" in simulate("placement", *files, "--replay", tmp_path / "x", status=2).stderr
    words = (*files, "--score", "first", "--seeds", 1, "--arrivals", 25)
    simulate("placement", *words, "--ledger", tmp_path / "ledger")
    assert "decision '77'" in simulate("placement", "--replay", tmp_path / "ledger", "--why", 77, status=1).stderr


@pytest.mark.parametrize("nodes,pods,named", [
    (NODES, PODS + "p3,4000,1024,1\n", r"pods\.csv, line 4: row: it has 4 fields"),
    (NODES, PODS + "p3,many,1024,1,500,\n", r"pods\.csv, line 4: cpu_milli: 'many'"),
    (NODES, PODS + "p3,4000,-1,1,500,\n", r"pods\.csv, line 4: memory_mib: '-1'"),
    (NODES, PODS + "p3,4000,1024,2,500,\n", r"pods\.csv, line 4: gpu_milli"),
    (NODES, PODS + "p3,4000,1024,1,0,\n", r"pods\.csv, line 4: gpu_milli"),
    (NODES, PODS + "p3,4000,1024,99999999999999999999,1000,\n", r"pods\.csv, line 4: num_gpu"),
    (NODES + "n3,96000,393216,17,G2\n", PODS, r"nodes\.csv, line 4: gpu: '17'"),
    (NODES.replace("model", "kind"), PODS, r"nodes\.csv, line 1: model: there is no such column"),
    ("", PODS, r"nodes\.csv, line 0: file: it is empty"),
    (NODES, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np1,1,1,0,0\n", "nothing in it has a GPU"),
])
def test_bad_rows_are_named(tmp_path, nodes, pods, named):
    assert re.search(named, simulate("placement", *openb_files(tmp_path, nodes, pods), status=2).stderr)


def test_unknown_columns_are_told(tmp_path):
    """Once for each file, however many runs there are, and no more of the names than a line shows."""
    strange = [f"more{i}" for i in range(9)]
    nodes = "".join(line + (",colour" if i == 0 else ",red") + "\n" for i, line in enumerate(NODES.splitlines()))
    pods = "".join(line + "," + ",".join(strange + ["x" * 99] if i == 0 else ["1"] * 10) + "\n" for i, line in enumerate(PODS.splitlines()))
    words = openb_files(tmp_path, nodes, pods)
    done = simulate("placement", *words, "--score", "first,best", "--arrivals", "25", "--seeds", 2)
    assert done.stderr.splitlines() == [f"{words[1]}: columns not used: colour",
                                        f"{words[3]}: columns not used: {', '.join(strange[:8])} and 2 more"]
    plain = simulate("placement", *openb_files(tmp_path), "--score", "first,best", "--arrivals", "25", "--seeds", 2)
    assert plain.stderr == "" and plain.stdout == done.stdout
    words = openb_files(tmp_path, NODES.replace("model", "model,\033[31m" + "y" * 50).replace("G2\n", "G2,1\n").replace("T4\n", "T4,1\n"))
    told = simulate("placement", *words, "--score", "first", "--arrivals", "25", "--seeds", 1).stderr
    assert told == f"{words[1]}: columns not used: ?[31m{'y' * 35}...\n"
    many = NODES.replace("model", "model" + ",z" * 40)
    assert "line 1: header: it has more than 32 columns" in simulate("placement", *openb_files(tmp_path, many), status=2).stderr


def test_truncated_packing_of_pods(tmp_path):
    words = openb_files(tmp_path)
    rows = "".join(f"p{i},{4000 + i % 97},1024,1,{1 + i % 1000},\n" for i in range(20000))
    (tmp_path / "pods.csv").write_bytes(gzip.compress((PODS + rows).encode())[:-3000])
    assert re.search(r"pods\.csv, line \d+: file", simulate("placement", *words, status=2).stderr)


@pytest.mark.parametrize("words,named", [
    (("--score", "frist"), "frist"), (("--seeds", "0"), "seeds"), (("--arrivals", "130,100"), "must rise"),
    (("--jobs", "99999"), "jobs"), (("--colour", "red"), "--colour"), (("--score",), "lacks its value"),
])
def test_bad_options_of_placement(tmp_path, words, named):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "placement",
                           *map(str, openb_files(tmp_path)), *words], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2) and named in done.stderr


def test_report_is_one_page(tmp_path):
    page = tmp_path / "report.html"
    simulate("placement", *openb_files(tmp_path), "--score", "first,polder", "--arrivals", "50,100", "--seeds", 2,
             "--report", page)
    text = page.read_text()
    assert text.count("<svg") == text.count("</svg>") >= 2 and "http" not in text and "nan" not in text.lower()
    for word in ("Allocation", "Fragmentation", "polder"):
        assert word in text
