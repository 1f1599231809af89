# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate queue: published results on real logs to the last digit, textbook cases by hand, bad logs."""
import gzip
import json
import pathlib
import subprocess

import polderlib
import pytest

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared/data/swf"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the logs are not at ../shared/data: they are not part of the project")


def simulate(*words, status=0):
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "queue", *map(str, words)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.stdout[-500:], done.stderr[-500:])
    return done


def results(*words):
    return json.loads(simulate(*words, "-o", "json").stdout)


def jobs_of(path):
    with gzip.open(path, "rt") as file:
        return [list(map(float, line.split())) for line in file if not line.startswith(";")]


# The study "Improving backfilling by using machine learning" (SC'15): mean bounded slowdown, and when each job started.
PUBLISHED = [
    ("KTH-SP2.easy-result", "easy", "requested", "92.5765"),
    ("KTH-SP2.easy-actual-result", "easy", "actual", "71.7224"),
    ("KTH-SP2.easy-sjbf-actual-result", "easy-sjbf", "actual", "49.8477"),
    ("KTH-SP2.easy-plus-plus-result", "easy-sjbf", "predicted", "63.5007"),
    ("SDSC-SP2.easy-result", "easy", "requested", "87.8703"),
]


@needs_data
@pytest.mark.parametrize("name,backfill,estimates,published", PUBLISHED)
def test_each_job_starts_when_the_study_says(name, backfill, estimates, published):
    path = DATA / f"{name}.swf.gz"
    result = results("--policy", "fcfs", "--backfill", backfill, "--estimates", estimates, "--semantics", "pyss",
                     "--per-job", path)[0]
    starts = {int(job[0]): int(job[1] + job[2]) for job in jobs_of(path)}
    wrong = [number for number, start, _ in result["jobs"] if starts[number] != start]
    assert len(result["jobs"]) == len(starts) and not wrong, (len(wrong), wrong[:5])
    assert f"{result['bsld']:.4f}" == published


@needs_data
def test_other_published_averages():
    kth = results("--policy", "fcfs", "--backfill", "easy,easy-sjbf", "--semantics", "pyss", DATA / "KTH-SP2.easy-result.swf.gz")
    assert [f"{r['bsld']:.4f}" for r in kth] == ["92.5765", "69.4054"]
    assert (f"{kth[0]['wait']:.2f}", f"{kth[0]['utilisation']:.4f}", kth[0]["wait_max"]) == ("6836.87", "0.6856", 262194)
    sdsc = results("--policy", "fcfs", "--backfill", "easy", "--semantics", "pyss", DATA / "SDSC-SP2.easy-result.swf.gz")[0]
    assert (f"{sdsc['wait']:.2f}", f"{sdsc['utilisation']:.4f}", sdsc["wait_max"]) == ("20497.76", "0.8229", 459740)
    batch = results("--policy", "fcfs", "--backfill", "none", "--semantics", "batch", DATA / "KTH-SP2.easy-result.swf.gz")[0]
    assert f"{batch['bsld']:.4f}" == "6814.9733"


@needs_data
def test_any_number_of_workers_gives_the_same_bytes():
    words = ("--policy", "fcfs,sjf,wfp3", "--backfill", "easy,none", "-o", "json", DATA / "KTH-SP2.easy-result.swf.gz")
    assert simulate("--workers", 1, *words).stdout == simulate("--workers", 3, *words).stdout


# ---- small cases ----

def swf(path, jobs, processors=1):
    """jobs: (submitted, run time, processors)."""
    rows = [f"{number} {submitted} -1 {run} {size} -1 -1 {size} {run} -1 1 1 1 -1 -1 -1 -1 -1"
            for number, (submitted, run, size) in enumerate(jobs, 1)]
    path.write_text(f"; MaxProcs: {processors}\n" + "\n".join(rows) + "\n")
    return path


def ends(path, *words):
    return [end for _, _, end in sorted(results(*words, "--backfill", "none", "--per-job", path)[0]["jobs"])]


# Silberschatz, Operating System Concepts: mean waiting times 17, 7 and 6.5, from the end of each process.
@pytest.mark.parametrize("policy,jobs,expected", [
    ("fcfs", [(0, 24, 1), (0, 3, 1), (0, 3, 1)], [24, 27, 30]),
    ("sjf", [(0, 6, 1), (0, 8, 1), (0, 7, 1), (0, 3, 1)], [9, 24, 16, 3]),
    ("sjf", [(0, 8, 1), (1, 4, 1), (2, 9, 1), (3, 5, 1)], [8, 12, 26, 17]),
    ("srtf", [(0, 8, 1), (1, 4, 1), (2, 9, 1), (3, 5, 1)], [17, 5, 26, 10]),
])
def test_textbook(tmp_path, policy, jobs, expected):
    assert ends(swf(tmp_path / "log.swf", jobs), "--policy", policy) == expected


# Four processors: a long job of three, then one of four that must wait, then what may go ahead of it. By hand: with EASY
# the job of 4 starts at 10; the one that ends by then goes ahead, the one that would not waits.
def test_backfilling_by_hand(tmp_path):
    path = swf(tmp_path / "log.swf", [(0, 10, 3), (1, 10, 4), (2, 6, 1), (3, 9, 1)], 4)
    starts = {backfill: [start for _, start, _ in sorted(results("--policy", "fcfs", "--backfill", backfill, "--semantics",
                                                                 "batch", "--per-job", path)[0]["jobs"])]
              for backfill in ("none", "easy", "easy-sjbf", "conservative", "greedy")}
    assert starts == {"none": [0, 10, 20, 20], "easy": [0, 10, 2, 20], "easy-sjbf": [0, 10, 2, 20],
                      "conservative": [0, 10, 2, 20], "greedy": [0, 17, 2, 8]}


@pytest.mark.parametrize("text,field", [
    ("1 0 -1 10\n", "line 2"),
    ("1 0 -1 ten 1 -1 -1 1 10 -1 1 1 1 -1 -1 -1 -1 -1\n", "line 2"),
    ("1 0 -1 1e999 1 -1 -1 1 10 -1 1 1 1 -1 -1 -1 -1 -1\n", "line 2"),
    ("", "jobs"),
])
def test_bad_logs_are_named(tmp_path, text, field):
    path = tmp_path / "bad.swf"
    path.write_text("; MaxProcs: 4\n" + text)
    assert field in simulate(path, status=2).stderr


def test_truncated_packing(tmp_path):
    whole = swf(tmp_path / "log.swf", [(i, 10 + i % 7, 1) for i in range(20000)], 4).read_bytes()
    path = tmp_path / "log.swf.gz"
    path.write_bytes(gzip.compress(whole)[:-2000])
    assert "line " in simulate(path, status=2).stderr


@pytest.mark.parametrize("words,named", [
    (("--policy", "fcf"), "did you mean fcfs"), (("--backfill", "lazy"), "lazy"), (("--set", "rr.quantum=nan"), "rr.quantum"),
    (("--set", "rr.quantum=0"), "rr.quantum"), (("--set", "polder.time=inf"), "polder.time"), 
    (("--estimates", "hoped"), "hoped"), (("--semantics", "mine"), "mine"), (("--workers", "0"), "workers"),
])
def test_bad_options_are_named(tmp_path, words, named):
    assert named in simulate(*words, swf(tmp_path / "log.swf", [(0, 1, 1)]), status=2).stderr


def test_unknown_parameter(tmp_path):
    assert "'nosuch'" in simulate("--set", "nosuch=1", swf(tmp_path / "log.swf", [(0, 1, 1)]), status=1).stderr
