# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate queue: published results on real logs to the last digit, textbook cases by hand, bad logs."""
import gzip
import json
import os
import pathlib
import random
import resource
import subprocess

import naivequeue
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
    more = results("--policy", "fcfs", "--backfill", "easy,easy-sjbf", "--estimates", "requested,actual,predicted", "--semantics", "pyss",
                   DATA / "SDSC-SP2.easy-result.swf.gz")
    assert {(r["backfill"], r["estimates"]): f"{r['bsld']:.4f}" for r in more if (r["backfill"], r["estimates"]) != ("easy", "predicted")} == {
        ("easy", "requested"): "87.8703", ("easy", "actual"): "70.4779", ("easy-sjbf", "requested"): "84.8889",
        ("easy-sjbf", "actual"): "56.8362", ("easy-sjbf", "predicted"): "79.3963"}
    batch = results("--policy", "fcfs", "--backfill", "none", "--semantics", "batch", DATA / "KTH-SP2.easy-result.swf.gz")[0]
    assert f"{batch['bsld']:.4f}" == "6814.9733"


# With actual times nothing ends early, and whether reservations are tried once or again does not matter.
@needs_data
def test_conservative_with_actual_times():
    found = results("--policy", "fcfs", "--backfill", "conservative", "--estimates", "actual", "--workers", 2,
                    *(DATA / f"{name}.easy-result.swf.gz" for name in ("KTH-SP2", "SDSC-SP2")))
    assert [f"{row['bsld']:.2f}" for row in found] == ["67.12", "66.83"]


# Below EASY-SJBF that knows run times beforehand, by what is known when they are submitted ("history") and what is learnt while
# they wait ("learning"), and nobody waits longer than 1.5 times the longest wait under EASY. docs/engine-queue.md has the rest.
@needs_data
@pytest.mark.parametrize("name,clairvoyant,longest", [("KTH-SP2.easy-result", 49.8477, 262194), ("SDSC-SP2.easy-result", 56.8362, 459740)])
def test_polder_is_better_than_clairvoyant_easy_sjbf(name, clairvoyant, longest):
    for result in results("--policy", "polder", "--backfill", "easy", "--estimates", "history,learning", DATA / f"{name}.swf.gz"):
        assert result["bsld"] < clairvoyant and result["wait_max"] <= 1.5 * longest, result


# Mean bounded slowdowns / waits of a matrix of policies, scheduling moment by moment: 98 cells, of which three of UNICEP are
# not reproduced (docs/engine-queue.md).
MATRIX_POLICIES = ("fcfs", "sjf", "saf", "f1", "f2", "f3", "f4", "wfp3", "unicep", "xf")
MATRIX = {
    ("KTH-SP2", "requested", "none"): "6815.0/353776 135.3/13333 91.1/15274 131.1/26139 177.7/42958 109.4/19903 69.7/8492 401.3/36764 223.6/24985 294.5/29446",
    ("KTH-SP2", "requested", "easy"): "92.7/6835 42.3/4599 39.1/5651 58.9/6388 50.9/6652 43.8/5853 43.5/5684 54.3/5157 52.8/5413 50.9/5069",
    ("KTH-SP2", "requested", "easy-sjbf"): "69.4/5904 42.3/4599 38.9/5339 58.3/6376 51.8/6618 44.3/5499 43.5/4956 52.7/5104 50.2/5142 50.6/4996",
    ("KTH-SP2", "requested", "greedy"): "71.5/5719 51.3/5248 59.7/5644 67.1/6208 61.0/5784 55.1/5474 53.6/5329 52.0/5153 51.7/4996 54.6/5319",
    ("SDSC-SP2", "requested", "none"): "13823.5/1535569 400.6/177137 192.1/145355 275.2/177716 258.7/177917 224.7/152833 156.2/107005 1979.0/505048 965.2/359911 1296.9/390162",
    ("SDSC-SP2", "requested", "easy"): "87.8/20571 71.3/33953 100.8/65143 168.2/102758 131.6/82456 96.8/66907 88.4/56205 51.7/16479 49.9/17750 53.5/17367",
    ("SDSC-SP2", "requested", "easy-sjbf"): "83.0/20420 71.3/33953 95.4/62631 176.4/111953 134.7/87297 103.9/73143 86.8/55032 53.4/16383 53.8/20252 54.0/17078",
    ("SDSC-SP2", "requested", "greedy"): "85.2/20400 70.2/37827 68.4/42646 155.7/87271 86.5/49245 70.7/42869 71.2/42115 55.3/22330 58.2/26791 57.7/24139",
    ("KTH-SP2", "actual", "none"): "6815.0/353776 46.2/12192 24.5/14094",
    ("KTH-SP2", "actual", "easy"): "71.7/6328 22.0/3793 25.5/4498",
    ("KTH-SP2", "actual", "easy-sjbf"): "49.8/5436 22.0/3793 27.1/4851",
    ("SDSC-SP2", "actual", "none"): "13823.5/1535569 22.5/123521 14.4/80757",
    ("SDSC-SP2", "actual", "easy"): "70.5/17337 17.7/19306 15.7/34069",
    ("SDSC-SP2", "actual", "easy-sjbf"): "56.8/16307 17.7/19306 15.0/36925",
}


@needs_data
@pytest.mark.parametrize("log", ["KTH-SP2", "SDSC-SP2"])
def test_policy_matrix(log):
    found = {}
    for estimates, policies, backfills in (("requested", MATRIX_POLICIES, "none,easy,easy-sjbf,greedy"),
                                           ("actual", MATRIX_POLICIES[:3], "none,easy,easy-sjbf")):
        for row in results("--policy", ",".join(policies), "--backfill", backfills, "--estimates", estimates, "--workers", 2,
                           DATA / f"{log}.easy-result.swf.gz"):
            found[estimates, row["backfill"], row["policy"]] = f"{row['bsld']:.1f}/{row['wait']:.0f}"
    expected = {(estimates, backfill, policy): cell for (name, estimates, backfill), row in MATRIX.items() if name == log
                for policy, cell in zip(MATRIX_POLICIES, row.split())}
    assert len(found) == len(expected) == 49
    differs = {"KTH-SP2": {("requested", "none", "unicep"): "223.6/24983", ("requested", "easy", "unicep"): "52.8/5414"},
               "SDSC-SP2": {("requested", "easy", "unicep"): "49.7/17725"}}
    assert {key: found[key] for key, cell in expected.items() if found[key] != cell} == differs[log]


SEQUENCES = [word for start in (1981, 2756, 4299, 8850, 3316, 2714, 5228, 7762, 4022, 7085) for word in ("--sequence", f"{start}:1024")]


# RLScheduler's table (SC'20): its own figures of policies without a clock, and its RL column where polder is below it.
@needs_data
def test_rlscheduler_protocol():
    lublin = results("--policy", "fcfs,sjf,f1,wfp3,unicep", "--backfill", "none,easy", "--semantics", "rlscheduler", *SEQUENCES,
                     DATA / "lublin_256.swf.gz")
    assert {(r["policy"], r["backfill"]): float(f"{r['bsld']:.2f}") for r in lublin} == {
        ("fcfs", "none"): pytest.approx(7273.8, abs=.1), ("fcfs", "easy"): 235.82, ("sjf", "none"): 277.35, ("sjf", "easy"): 73.31,
        ("f1", "none"): 258.37, ("f1", "easy"): 75.07, ("wfp3", "none"): pytest.approx(19754, abs=1), ("wfp3", "easy"): 133.87,
        ("unicep", "none"): pytest.approx(22275, abs=1), ("unicep", "easy"): 307.23}
    sdsc = results("--policy", "polder,fcfs", "--backfill", "none,easy", "--estimates", "learning", "--semantics", "rlscheduler",
                   *SEQUENCES, DATA / "SDSC-SP2-1998-4.2-cln.swf.gz")
    bsld = {(r["policy"], r["backfill"]): r["bsld"] for r in sdsc}
    assert bsld["polder", "none"] < 466.44 and bsld["polder", "easy"] < 548.01


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


BUSY = 1200000  # lines: their jobs do not fit in the memory that the program may have below


def busy_lines(swapped=False):
    """A line a second, on a machine that is never full; pairs of them the wrong way round, if asked."""
    for i in range(BUSY):
        number = i ^ 1 if swapped else i
        yield f"{number + 1} {number} 0 {60 + number % 240} {1 + number % 7} -1 -1 {1 + number % 7} 300 -1 1 {number % 50} 1 1 1 1 -1 -1\n"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_log_larger_than_memory_allowed(tmp_path, swapped):
    """Through a pipe, while the program may have no more than 64 MiB of data; the jobs alone are 86 MB. What stands on the disk
    instead is gone afterwards."""
    log, place = tmp_path / "log.swf", tmp_path / "place"
    place.mkdir()
    with log.open("w", encoding="ascii") as file:
        file.write("; MaxProcs: 2000\n")
        file.writelines(busy_lines(swapped))
    words = [polderlib.build_directory() / "src/simulator/polder-simulate", "queue", "--policy", "fcfs", "-o", "json", "/dev/stdin"]
    limit = (None if polderlib.build_option("b_sanitize") not in ("none", [], "")
             else lambda: resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20)))
    with subprocess.Popen(["cat", log], stdout=subprocess.PIPE) as source, \
            subprocess.Popen(words, stdin=source.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
                             env={**os.environ, "TMPDIR": str(place)}) as running:
        source.stdout.close()  # so that cat ends when nobody reads any more
        out, err = running.communicate()
    assert running.returncode == 0, err
    found = json.loads(out)[0]
    assert found["count"] == BUSY and found["wait_max"] == 0 and found["wait_p95"] == 0
    work = sum((60 + i % 240) * (1 + i % 7) for i in range(BUSY))
    end = max(i + 60 + i % 240 for i in range(BUSY - 500, BUSY))
    assert abs(found["utilisation"] - work / (2000 * end)) < 1e-9
    assert not list(place.iterdir())


def test_no_room_for_a_large_log(tmp_path):
    """The error comes before the first job is simulated, and says where there is no room."""
    place = tmp_path / "place"
    place.mkdir()
    log = tmp_path / "log.swf"
    with log.open("w", encoding="ascii") as file:
        file.write("; MaxProcs: 2000\n")
        file.writelines(busy_lines())
    script = 'mount -t tmpfs -o size=8M none "$1" && TMPDIR=$1 exec "$2" queue "$3"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", place,
                           polderlib.build_directory() / "src/simulator/polder-simulate", log],
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "no space left" in done.stderr and "$TMPDIR" in done.stderr, done


def test_a_half_without_jobs_is_refused(tmp_path):
    log = tmp_path / "log.swf"
    log.write_text("; MaxProcs: 4\n1 0 0 5 1 -1 -1 1 10 -1 1 1 1 1 1 1 -1 -1\n")
    assert "--part" in simulate(log, "--part", "first", status=2).stderr
    assert results(log, "--part", "second")[0]["count"] == 1


@pytest.mark.parametrize("words,named", [
    (("--policy", "fcf"), "did you mean fcfs"), (("--backfill", "lazy"), "lazy"), (("--set", "rr.quantum=nan"), "rr.quantum"),
    (("--set", "rr.quantum=0"), "rr.quantum"), (("--set", "polder.time=inf"), "polder.time"), 
    (("--estimates", "hoped"), "hoped"), (("--semantics", "mine"), "mine"), (("--workers", "0"), "workers"),
])
def test_bad_options_are_named(tmp_path, words, named):
    assert named in simulate(*words, swf(tmp_path / "log.swf", [(0, 1, 1)]), status=2).stderr


# As polderd, by the same check: among other policies, other backfilling, and by the tuner as well.
@pytest.mark.parametrize("words", [("--policy", "rr", "--backfill", "conservative"), ("--policy", "fcfs,rr", "--backfill", "easy,conservative"),
                                   ("--tune", "wait", "--policy", "rr", "--backfill", "conservative")])
def test_round_robin_takes_no_reservations(tmp_path, words):
    refused = simulate(*words, swf(tmp_path / "log.swf", [(0, 1, 1), (0, 2, 1)]), status=2).stderr
    assert "'backfill' cannot be 'conservative'" in refused and "round robin" in refused, refused


def test_unknown_parameter(tmp_path):
    assert "'nosuch'" in simulate("--set", "nosuch=1", swf(tmp_path / "log.swf", [(0, 1, 1)]), status=1).stderr


# ---- the vectors: 204 sets of jobs with priorities, and when each ends ----

VECTORS = DATA.parent / "queue-vectors.json.gz"
VECTOR_POLICIES = [("fcfs", "fcfs"), ("sjf", "sjf"), ("srtf", "srtf"), ("priority", "prio_np"), ("priority:preemptive", "prio_p"),
                   ("xf", "hrrn"), ("dynamic", "aging10_np")]


@pytest.mark.skipif(not VECTORS.exists(), reason="the vectors are not at ../shared/data: they are not part of the project")
def test_vectors(tmp_path):
    vectors = json.load(gzip.open(VECTORS))
    logs = []
    for at, vector in enumerate(vectors):
        logs.append(tmp_path / f"{at}.swf")
        logs[-1].write_text("; MaxProcs: 1\n" + "\n".join(
            f"{number} {submitted} -1 {run} 1 -1 -1 1 {run} -1 1 1 1 -1 {priority} -1 -1 -1"
            for number, (submitted, run, priority) in enumerate(vector["jobs"], 1)) + "\n")
    runs = [(["--policy", ",".join(policy for policy, _ in VECTOR_POLICIES), "--set", "dynamic.ageing=0.1", "--set",
              "dynamic.step=10", "--set", "alarm=1e9"], dict(VECTOR_POLICIES))]
    runs += [(["--policy", "rr", "--set", f"rr.quantum={quantum}"], {"rr": f"rr{quantum}"}) for quantum in (1, 2, 4, 10)]
    wrong, right = [], 0
    for words, names in runs:
        for cell in results(*words, "--backfill", "none", "--per-job", *logs):
            vector, name = vectors[int(pathlib.Path(cell["log"]).stem)], names[cell["policy"]]
            if [end for _, _, end in sorted(cell["jobs"])] == vector["expect"][name]["completion"]:
                right += 1
            else:
                wrong.append((vector["name"], name))
    assert not wrong and right == 204 * 11, (right, wrong[:10])


# ---- against a second queue, and what must always hold ----

POLICIES, BACKFILLS = ("fcfs", "sjf", "saf", "sjf:demand", "xf", "wfp3", "unicep", "f1", "f2", "f3", "f4"), ("none", "easy", "easy-sjbf", "conservative", "greedy")


def write_jobs(path, jobs, processors):
    path.write_text(f"; MaxProcs: {processors}\n" + "\n".join(
        f"{number} {submitted} -1 {run} {size} -1 -1 {size} {requested} -1 1 1 1 -1 -1 -1 -1 -1"
        for number, (submitted, run, requested, size) in enumerate(jobs, 1)) + "\n")
    return path


def random_jobs(chance, processors, exact):
    jobs, now = [], 0
    for _ in range(chance.randrange(1, 25)):
        now += chance.choice((0, 0, 1, 3, 10))
        run = chance.choice((1, 2, 5, 9, 20, 40))
        jobs.append((now, run, run if exact else run * chance.choice((1, 1, 2, 5)), chance.randrange(1, processors + 1)))
    return jobs


def starts_of(cell):
    return [start for _, start, _ in sorted(cell["jobs"])]


def shrink(jobs, fails):
    """The smallest set found that still fails: without this job, with less of it."""
    again, tries = True, 0
    while again and tries < 500:
        again, tries = False, tries + len(jobs) * 4
        for at in range(len(jobs)):
            smaller = [jobs[:at] + jobs[at + 1:]]
            submitted, run, requested, size = jobs[at]
            smaller += [jobs[:at] + [job] + jobs[at + 1:] for job in (
                (submitted, run, run, size), (submitted, 1, requested, size), (submitted, run, requested, 1)) if job != jobs[at]]
            found = next((candidate for candidate in smaller if candidate and fails(candidate)), None)
            if found:
                jobs, again = found, True
                break
    return jobs


def free_at(jobs, starts, processors, moment):
    return processors - sum(size for (_, run, _, size), start in zip(jobs, starts) if start <= moment < start + run)


def violations(jobs, starts, processors, policy, backfill):
    """What holds of every schedule, seen from outside."""
    moments = sorted(set(starts) | {start + run for (_, run, _, _), start in zip(jobs, starts)})
    for moment in moments:
        free = free_at(jobs, starts, processors, moment)
        waiting = [j for j, job in enumerate(jobs) if job[0] <= moment < starts[j]]
        if free < 0:
            yield f"more than there is at {moment}"
        if backfill == "greedy" and any(jobs[j][3] <= free for j in waiting):
            yield f"something that fits waits at {moment}"
        if waiting and policy == "fcfs" and jobs[min(waiting)][3] <= free:
            yield f"the first waits although it fits at {moment}"
    if policy != "fcfs" or backfill not in ("easy", "easy-sjbf"):
        return
    for j, (submitted, _, _, size) in enumerate(jobs):
        first = max([submitted] + [starts[k] for k in range(j)])
        if starts[j] <= first:
            continue
        busy = [(start + requested, taken) for (_, run, requested, taken), start in zip(jobs, starts)
                if start <= first < start + run and start < starts[j]]
        # Those that run when it becomes the first; those that go ahead at that moment must not delay it.
        room, shadow = processors - sum(taken for _, taken in busy), None
        for end, taken in sorted(busy):
            room += taken
            if room >= size:
                shadow = end
                break
        if shadow is None or starts[j] > shadow:
            yield f"job {j + 1} was first at {first} and had a reservation at {shadow}, but started at {starts[j]}"


@pytest.mark.parametrize("exact", [True, False])
def test_against_the_naive_queue(tmp_path, exact):
    chance, processors = random.Random(20 + exact), 6
    sets = [random_jobs(chance, processors, exact) for _ in range(30)]
    logs = [write_jobs(tmp_path / f"{at}.swf", jobs, processors) for at, jobs in enumerate(sets)]

    def problems(jobs, cell):
        starts = starts_of(cell)
        expected = naivequeue.Queue(jobs, processors, cell["policy"], cell["backfill"]).simulate()
        found = list(violations(jobs, starts, processors, cell["policy"], cell["backfill"]))
        return found + ([f"starts {starts}, naively {expected}"] if starts != expected else [])

    words = ("--policy", ",".join(POLICIES), "--backfill", ",".join(BACKFILLS), "--semantics", "batch", "--per-job")
    for cell in results(*words, *logs):
        jobs = sets[int(pathlib.Path(cell["log"]).stem)]
        if cell["backfill"] == "conservative" and cell["policy"] not in ("fcfs", *naivequeue.CHANGING):
            continue  # in what order those that come at one moment reserve is not defined
        if problems(jobs, cell):
            def again(smaller):
                return problems(smaller, results("--policy", cell["policy"], "--backfill", cell["backfill"], "--semantics",
                                                 "batch", "--per-job", write_jobs(tmp_path / "small.swf", smaller, processors))[0])
            least = shrink(jobs, again)
            pytest.fail(f"{cell['policy']}, {cell['backfill']}, {processors} processors, "
                        f"(submitted, run, requested, processors): {least}: {again(least)}")


# One processor, where who gives way to whom leaves no choice.
def test_taking_turns_against_the_naive_queue(tmp_path):
    chance = random.Random(31)
    sets = [[(submitted, run, requested, 1) for submitted, run, requested, _ in random_jobs(chance, 1, at % 2)] for at in range(40)]
    logs = [write_jobs(tmp_path / f"{at}.swf", jobs, 1) for at, jobs in enumerate(sets)]
    taken_off = 0
    for quantum in (1, 3, 7, 100):
        for cell in results("--policy", "rr", "--backfill", "none", "--set", f"rr.quantum={quantum}", "--per-job", *logs):
            jobs = sets[int(pathlib.Path(cell["log"]).stem)]
            taken_off += cell["preemptions"]
            assert [end for _, _, end in sorted(cell["jobs"])] == naivequeue.turns(jobs, quantum), (quantum, jobs)
    for cell in results("--policy", "srtf", "--backfill", "none", "--per-job", *logs):
        jobs = sets[int(pathlib.Path(cell["log"]).stem)]
        taken_off += cell["preemptions"]
        assert [end for _, _, end in sorted(cell["jobs"])] == naivequeue.shortest_left(jobs), jobs
    assert taken_off > 1000


def check_stretches(cell, jobs, processors):
    """Whoever was taken off goes on where he was: all of his run time, within start and end, and never beside himself; and what
    all that run at a moment hold is there."""
    stretches = [[] for _ in jobs]
    for number, begin, end in cell["stretches"]:
        stretches[number - 1].append((begin, end))
    assert len(cell["stretches"]) == len(jobs) + cell["preemptions"]
    for (_, start, end), (submitted, run, _, _), own in zip(sorted(cell["jobs"]), jobs, stretches):
        assert own[0][0] == start >= submitted and own[-1][1] == end and end - start >= run, cell["policy"]
        assert sum(after - before for before, after in own) == run, cell["policy"]
        assert all(before <= after for before, after in own) and all(a[1] <= b[0] for a, b in zip(own, own[1:])), cell["policy"]
    changes = sorted([(begin, 1, jobs[number - 1][3]) for number, begin, end in cell["stretches"] if begin < end] +
                     [(end, 0, -jobs[number - 1][3]) for number, begin, end in cell["stretches"] if begin < end])
    held = 0
    for _, _, change in changes:
        held += change
        assert 0 <= held <= processors, (cell["policy"], cell["backfill"])


# Who gives way loses nothing, and what he gave is promised once: several processors, all that take somebody off.
@pytest.mark.parametrize("seed", range(3))
def test_nobody_who_gives_way_loses_anything(tmp_path, seed):
    chance, now, rows, jobs = random.Random(40 + seed), 0, [], []
    for number in range(1, 121):
        now += chance.choice((0, 0, 1, 3, 10))
        run, size = chance.choice((1, 2, 5, 9, 20, 40)), chance.randrange(1, 9)
        jobs.append((now, run, run * chance.choice((1, 1, 2, 5)), size))
        rows.append(f"{number} {now} -1 {run} {size} -1 -1 {size} {jobs[-1][2]} -1 1 {chance.randrange(4)} 1 -1 {chance.randrange(5)} -1 -1 -1")
    log = tmp_path / "log.swf"
    log.write_text("; MaxProcs: 8\n" + "\n".join(rows) + "\n")
    seen = {}
    for policies, backfills in (("srtf,priority:preemptive", BACKFILLS), ("rr", [b for b in BACKFILLS if b != "conservative"])):
        for cell in results("--policy", policies, "--backfill", ",".join(backfills), "--estimates", "requested,actual,history,learning",
                            "--set", "rr.quantum=3", "--per-job", log):
            seen[cell["policy"]] = seen.get(cell["policy"], 0) + cell["preemptions"]
            if cell["preemptions"]:
                check_stretches(cell, jobs, 8)
    assert len(seen) == 3 and min(seen.values()) > 50, seen


# Conservative: whoever comes later delays nobody, if requests are exact: each starts as if it were the last to come.
def test_conservative_delays_nobody(tmp_path):
    chance = random.Random(5)
    sets = [random_jobs(chance, 6, True) for _ in range(40)]
    logs, asked = [], []
    for at, jobs in enumerate(sets):
        for count in {len(jobs), max(1, len(jobs) // 2), max(1, len(jobs) - 1)}:
            asked.append((at, count))
            logs.append(write_jobs(tmp_path / f"{at}-{count}.swf", jobs[:count], 6))
    cells = results("--policy", "fcfs", "--backfill", "conservative", "--per-job", *logs)
    found = {key: starts_of(cell) for key, cell in zip(asked, cells)}
    for (at, count), starts in found.items():
        assert starts == found[at, len(sets[at])][:count], sets[at]


# Every policy with every backfilling and estimate: all jobs run, never more than there is.
@pytest.mark.parametrize("estimates", ["requested", "actual", "predicted", "history", "learning"])
def test_every_combination_is_a_schedule(tmp_path, estimates):
    chance = random.Random(9)
    jobs = [job for _ in range(4) for job in random_jobs(chance, 8, False)]
    jobs = sorted((submitted, run, requested, size) for submitted, run, requested, size in jobs)
    names = "polder,fcfs,sjf,sjf:demand,saf,srtf,priority,priority:preemptive,dynamic,wfp3,unicep,f1,f2,f3,f4,xf"
    cells = results("--policy", names, "--backfill", ",".join(BACKFILLS), "--estimates", estimates, "--per-job",
                    write_jobs(tmp_path / "log.swf", jobs, 8))
    assert len(cells) == 16 * 5
    for cell in cells:
        assert len(cell["jobs"]) == len(jobs)
        if cell["preemptions"]:
            continue
        for (_, start, end), (submitted, run, _, _) in zip(sorted(cell["jobs"]), jobs):
            assert start >= submitted and end == start + run, cell["policy"]
        for _, moment, _ in cell["jobs"]:
            assert free_at(jobs, starts_of(cell), 8, moment) >= 0, cell["policy"]


# ---- the tuner ----

# Short jobs beside long ones on one processor: shortest first has the smaller slowdown, and the tuner finds that out.
def test_tuner_proposes_what_serves_best(tmp_path):
    chance, now, jobs = random.Random(4), 0, []
    for _ in range(400):
        now += chance.randrange(0, 60)
        run = chance.choice((1, 5, 100))
        jobs.append((now, run, run, 1))
    log = write_jobs(tmp_path / "log.swf", jobs, 1)
    words = ("--tune", "bsld", "--policy", "fcfs,sjf", "--backfill", "easy,none", log)
    text = simulate(*words).stdout
    assert "proposed: --policy sjf --backfill" in text
    values = {line.split()[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith(("fcfs", "sjf"))}
    assert values["fcfs"] == 0 and values["sjf"] < -0.5
    assert [line.split()[1] for line in text.splitlines() if line.startswith(str(log))] == ["first", "second", "whole"]
    assert simulate(*words).stdout == text


def test_tuner_searches_parameters(tmp_path):
    chance = random.Random(6)
    jobs = sorted(job for _ in range(6) for job in random_jobs(chance, 8, False))
    text = simulate("--tune", "fairness", "--tune-steps", 12, "--policy", "polder", write_jobs(tmp_path / "log.swf", jobs, 8)).stdout
    assert "--set polder.patience=" in text and "--set alarm=" in text and "--set rr.quantum" not in text
    assert "--tune" in simulate("--tune", "luck", write_jobs(tmp_path / "log.swf", jobs, 8), status=2).stderr


def test_tuner_spares_moves(tmp_path):
    """By the slowdown alone, SRTF; by moves one that takes nobody off, and of those the one with the smaller slowdown."""
    chance, now, jobs = random.Random(8), 0, []
    for _ in range(300):
        now += chance.randrange(0, 60)
        run = chance.choice((1, 5, 100))
        jobs.append((now, run, run, 1))
    log = write_jobs(tmp_path / "log.swf", jobs, 1)
    words = ("--policy", "srtf,fcfs,sjf", "--backfill", "none", log)
    assert results(*words)[0]["preemptions"] > 10
    assert "proposed: --policy srtf " in simulate("--tune", "bsld", *words).stdout
    text = simulate("--tune", "moves", *words).stdout
    assert "proposed: --policy sjf " in text
    values = {line.split()[0]: float(line.split()[-1]) for line in text.splitlines() if line.startswith(("fcfs ", "sjf ", "srtf "))}
    assert values["fcfs"] == values["sjf"] == 0 < values["srtf"]
