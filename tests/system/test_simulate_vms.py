# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate vms and packing: VMs that come and go, bad traces, streams; published sums of vector bin packing."""
import gzip
import json
import os
import random
import re
import resource
import subprocess

import polderlib
import pytest


def simulate(mode, *words, status=0, **options):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", mode, *map(str, words)],
                          capture_output=True, text=True, check=False, **options)
    assert done.returncode == status, (done.stdout[-500:], done.stderr[-500:])
    return done


def results(mode, *words):
    return json.loads(simulate(mode, *words, "-o", "json").stdout)


# ---- VMs that come and go ----

HEAD = "id,create,delete,cpus,memory,class\n"


def trace(tmp_path, rows, head=HEAD):
    path = tmp_path / "vms.csv"
    path.write_text(head + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_by_hand(tmp_path):
    # Nodes of 4 CPUs. Two of 3 CPUs need two nodes; at 1 h one of 1 CPU fits beside the first; at 2 h the first ends,
    # the one of 1 CPU keeps its node open until 3 h, when the last is created, which ends the time.
    path = trace(tmp_path, [("a", 0, 7200, 3, 1, ""), ("b", 0, 3600, 3, 1, ""), ("c", 3600, 10800, 1, 1, ""),
                            ("d", 10800, 20000, 4, 1, "")])
    first, = results("vms", "--node", "cpus=4,memory=16", "--policy", "first", path)
    # a's node: 0 to 3 h; b's node: 0 to 1 h, after b ended at the very moment at which c came.
    assert (first["nodes"], first["node_hours"]) == (2, 4.0)
    assert first["packing"] == pytest.approx((3 * 2 + 3 * 1 + 1 * 2) / (4 * 4), abs=1e-4)
    assert (first["rows"], first["placed"], first["bound_nodes"]) == (4, 4, 2)


def test_lifetimes_align_ends(tmp_path):
    # Two classes learnt from pairs that start together: long ones live for a day, short ones for five minutes. A node
    # holds two. Those who do not predict put a short one beside a long one and two long ones on two nodes.
    rows, now = [], 0
    for number in range(400):
        now += 300
        lasting = number % 2
        rows.append((number, now, now + (86400 if lasting else 280), 2, 4, "long" if lasting else "short"))
    path = trace(tmp_path, rows)
    blind, = results("vms", "--node", "cpus=8,memory=64", "--policy", "polder", "--predict", "no", path)
    seeing, = results("vms", "--node", "cpus=8,memory=64", "--policy", "polder", path)
    assert seeing["nodes"] <= blind["nodes"] and seeing["node_hours"] <= blind["node_hours"]


def test_repairs_are_counted(tmp_path):
    path = trace(tmp_path, [("a", 0, "", 2, 1, ""), ("b", 5, 5, 2, 1, ""), ("c", 6, 9, 99, 1, ""), ("d", 7, 9, 2, 1, "")])
    done = simulate("vms", "--node", "cpus=4,memory=16", path)
    assert "4 rows; 1 without an end" in done.stdout and "1 that ended when they began" in done.stdout
    assert "1 larger than a node" in done.stdout


def test_numbered_columns_and_units(tmp_path):
    # Without a header, days and MiB, another order.
    path = trace(tmp_path, [(2048, 1, 0.5, 0), (2048, 1, 1, 0.25)], head="")
    found, = results("vms", "--columns", "memory=1,cpus=2,delete=3,create=4", "--time-unit", "d", "--memory-unit", "MiB",
                     "--node", "cpus=2,memory=2", "--policy", "first", path)
    assert (found["nodes"], found["node_hours"]) == (2, 6.0)


def test_unknown_columns_are_told(tmp_path):
    """Once, though each policy reads the file; also those that a mapping leaves out."""
    path = trace(tmp_path, [("a", 0, 10, 2, 1, "", "eu", 7)], head=HEAD.replace("class", "class,region,rank"))
    assert simulate("vms", "--workers", 3, path).stderr == f"{path}: columns not used: region, rank\n"
    done = simulate("vms", "--columns", "create=create,delete=delete,cpus=cpus,memory=memory", path)
    assert done.stderr == f"{path}: columns not used: id, class, region, rank\n"
    assert simulate("vms", trace(tmp_path, [("a", 0, 10, 2, 1, "")])).stderr == ""


@pytest.mark.parametrize("rows,named", [
    ([("a", 0, 10, 2)], r"vms\.csv, line 2: row: it has 4 fields"),
    ([("a", 0, 10, 2, 1, ""), ("b", "x", 10, 2, 1, "")], r"line 3: create: 'x'"),
    ([("a", 0, 10, -2, 1, "")], r"line 2: cpus: '-2'"), ([("a", 0, 10, "nan", 1, "")], r"line 2: cpus: 'nan'"),
    ([("a", 0, 10, 2, 0, "")], r"line 2: memory"), ([("a", 0, 10, 2, "1e99", "")], r"line 2: memory"),
    ([("a", 9, 3, 2, 1, "")], r"line 2: delete: it ends before it begins"),
    ([("a", 9, 10, 2, 1, ""), ("b", 3, 10, 2, 1, "")], r"line 3: create: rows must be in order"),
    ([("", 0, 10, 2, 1, "")], r"line 2: id: it is empty"), ([('"a"', 0, 10, 2, 1, "")], r"line 2: row: quoted"),
    ([("a", 0, 10, 2, 1, "x" * (1 << 20))], r"line 2: line: it is longer"),
])
def test_bad_rows(tmp_path, rows, named):
    assert re.search(named, simulate("vms", trace(tmp_path, rows), status=2).stderr)


@pytest.mark.parametrize("words,named", [
    (("--columns", "create=a,delete=b,cpus=c"), "are needed"), (("--columns", "create=1,delete=b,cpus=c,memory=d"), "numbers"),
    (("--columns", "colour=1"), "colour"), (("--columns", "id=a,id=b"), "twice"), (("--node", "cpus=0"), "cpus"),
    (("--columns", "create=x,delete=delete,cpus=cpus,memory=memory"), "line 1: x: there is no such column"),
    (("--policy", "bset"), "bset"), (("--time-unit", "weeks"), "ms, s, min"), (("--memory-unit", "s"), "B, MiB, GiB"),
    (("--generate", "vms=5"), "not both"), (("--predict", "maybe"), "--predict"),
])
def test_bad_options(tmp_path, words, named):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "vms", *words,
                           trace(tmp_path, [("a", 0, 1, 1, 1, "")])], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2) and named in done.stderr, done.stderr


def test_truncated_packing(tmp_path):
    rows = "".join(f"v{i},{i},{i + 100 + i % 977},1,2,c{i % 7}\n" for i in range(20000))
    path = tmp_path / "vms.csv.gz"
    path.write_bytes(gzip.compress((HEAD + rows).encode())[:-3000])
    assert re.search(r"vms\.csv\.gz, line \d+: file", simulate("vms", path, status=2).stderr)


def test_a_trace_larger_than_memory_allowed(tmp_path):
    """Half a million rows, 20 MB, through a pipe, while the program may have no more than 64 MiB of data."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [polderlib.build_directory() / "src/simulator/polder-simulate", "vms", "--policy", "first", "-o", "json", pipe]
    limit = None if polderlib.build_option("b_sanitize") not in ("none", [], "") else (lambda: resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20)))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit) as running:
        with open(pipe, "w", encoding="ascii") as file:
            file.write(HEAD)
            for i in range(500000):
                file.write(f"vm-{i:09d},{i},{i + 50 + i % 300},1,2,class-{i % 50}\n")
        out, err = running.communicate()
    assert running.returncode == 0, err
    assert json.loads(out)[0]["placed"] == 500000


def test_a_pipe_is_read_by_one_policy(tmp_path):
    """Several at once would each get a part of it."""
    os.mkfifo(tmp_path / "pipe")
    assert "name one --policy" in simulate("vms", tmp_path / "pipe", "--policy", "first,best", status=2).stderr


def test_any_number_of_workers_gives_the_same_bytes():
    words = ("--generate", "vms=5000,days=3,seed=4", "-o", "json")
    assert simulate("vms", *words).stdout == simulate("vms", *words, "--workers", 5).stdout


# Heavy-tailed lives, on seeds that nothing was chosen by: `polder` needs no more nodes than the best of the others,
# and keeps them open for less time.
@pytest.mark.parametrize("seed,vms", [(5, 20000), *(pytest.param(seed, 100000, marks=pytest.mark.long)
                                                    for seed in (5, 6, 7, 8))])
def test_fewest_nodes_and_hours(seed, vms):
    rows = results("vms", "--generate", f"vms={vms},days=30,seed={seed}", "--workers", 2, "--policy",
                   "first,best,l1,l2,dot,worst,polder")
    found = {row["policy"]: row for row in rows}
    ours = found.pop("polder")
    assert ours["nodes"] <= min(row["nodes"] for row in found.values())
    assert ours["node_hours"] < min(row["node_hours"] for row in found.values())


def test_report_shows_the_whole_time(tmp_path):
    """However many events there are, and whatever a policy adds to them: no stretch of time is thinned away."""
    page = tmp_path / "report.html"
    simulate("vms", "--generate", "vms=12000,days=5", "--policy", "first,polder", "--report", page)
    paths = [path for path in re.findall(r'class="line"[^>]* d="M76\.0 ([^"]*)"', page.read_text())]
    assert len(paths) == 4, paths
    for path in paths:
        places = [76.0, *map(float, re.findall(r"H([0-9.]+)", path))]
        steps = [after - before for before, after in zip(places, places[1:])]
        assert max(steps) < 30, (max(steps), len(places))


def test_report_is_one_page(tmp_path):
    page = tmp_path / "report.html"
    simulate("vms", "--generate", "vms=2000,days=2", "--report", page)
    text = page.read_text()
    assert text.count("<svg") == text.count("</svg>") == 2 and "http" not in text and "nan" not in text.lower()


# ---- vector bin packing ----

# Two-dimensional classes in the manner of Caprara and Toth, 200 items, sums over ten instances, Python's generator.
CLASSES = {1: (1000, 100, 400), 2: (1000, 1, 1000), 3: (1000, 200, 800), 6: (150, 20, 100), 7: (150, 20, 100),
           8: (150, 20, 100)}
POLICIES = ("bound", "ffd-prod", "ffd-sum", "ffd-max", "bfd-sum", "dot", "l2")
SUMS = {1: (506, 546, 541, 543, 541, 528, 525), 2: (1042, 1177, 1178, 1166, 1178, 1179, 1182),
        3: (1022, 1182, 1180, 1175, 1180, 1178, 1186), 6: (816, 873, 869, 888, 869, 860, 863),
        7: (812, 831, 830, 831, 830, 830, 831), 8: (818, 1037, 1017, 1000, 1017, 1006, 1043)}


def items(number, seed):
    generator = random.Random(100 * number + seed)
    _, least, most = CLASSES[number]
    for _ in range(200):
        first = generator.randint(least, most)
        second = (generator.randint(first - 10, first + 10) if number == 7 else
                  generator.randint(110 - first, 130 - first) if number == 8 else generator.randint(least, most))
        yield first, second


@pytest.mark.parametrize("number", CLASSES)
def test_vector_packing(tmp_path, number):
    paths = []
    for seed in range(10):
        paths.append(tmp_path / f"{seed}.csv")
        paths[-1].write_text("".join(f"{first},{second}\n" for first, second in items(number, seed)))
    capacity = CLASSES[number][0]
    found = results("packing", "--capacity", f"{capacity},{capacity}", *paths)
    assert tuple(found[policy] for policy in POLICIES) == SUMS[number]
    assert found["bound"] <= found["polder"] <= min(SUMS[number][1:])


@pytest.mark.parametrize("text,named", [("1,2\n3\n", r"line 2: row"), ("1,2\n3,x\n", r"line 2: size: 'x'"),
                                        ("1,2\n3,11\n", r"line 2: size: '11'"), ("", "no items")])
def test_bad_items(tmp_path, text, named):
    path = tmp_path / "items.csv"
    path.write_text(text)
    assert re.search(named, simulate("packing", "--capacity", "10,10", path, status=2).stderr)
