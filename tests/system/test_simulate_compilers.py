# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate built anew by gcc and clang at each level of optimisation: the same bytes in every mode."""
import io
import pathlib
import random
import shutil
import subprocess
import tarfile

import polderlib
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEVELS = ("-O0", "-O2", "-O3")
POLICIES = "polder,fcfs,sjf,sjf:demand,saf,srtf,priority,priority:preemptive,dynamic,wfp3,unicep,f1,f2,f3,f4,xf"


def build(directory, compiler, level):
    """All of the engine and the simulator, as the project builds them but for the level; the layers below from the build."""
    program, libraries = directory / f"{compiler}{level}", polderlib.build_directory() / "src"
    sources = [*sorted((ROOT / "src/engine").glob("*.c")), *sorted((ROOT / "src/simulator").glob("*.c"))]
    subprocess.run([compiler, level, "-w", "-std=gnu17", "-D_GNU_SOURCE", "-ffp-contract=off", "-fno-strict-aliasing", "-I", ROOT / "src",
                    "-I", "/usr/include/json-c", "-o", program, *sources, libraries / "model/libmodel.a", libraries / "base/libbase.a",
                    libraries / "model/libmodel.a", libraries / "base/libbase.a", "-ljson-c", "-larchive", "-lsystemd", "-lm", "-lpthread"],
                   check=True)
    return program


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    if b"__asan_" in (polderlib.build_directory() / "src/base/libbase.a").read_bytes():
        pytest.skip("the build's libraries are instrumented, other compilers' objects cannot be linked with them")
    directory = tmp_path_factory.mktemp("programs")
    found = [build(directory, compiler, level) for compiler in filter(shutil.which, ("gcc", "clang")) for level in LEVELS]
    assert len(found) >= len(LEVELS)
    return found


def write(path, text):
    path.write_text(text)
    return path


def jobs(path, count):
    """Several owners with habits of their own, requests too long, priorities, and memory that nobody counts."""
    dice, now, rows = random.Random(3), 0, []
    for number in range(1, count + 1):
        now += dice.choice((0, 0, 7, 60, 400))
        owner = dice.randrange(1, 7)
        run = int(dice.choice((1, 20, 300, 900)) * owner * dice.uniform(.5, 2)) + 1
        rows.append(f"{number} {now} -1 {run} {dice.randrange(1, 40)} -1 -1 -1 {run * dice.choice((1, 3, 10))} -1 1 {owner} 1 "
                    f"{owner % 3} {dice.randrange(1, 6)} -1 -1 -1")
    return write(path, "; MaxProcs: 64\n" + "\n".join(rows) + "\n")


def cluster(directory):
    dice = random.Random(7)
    nodes = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
        f"n{i},{dice.choice((32000, 96000))},{dice.choice((131072, 393216))},{dice.choice((0, 2, 4, 8))},{dice.choice('AB')}\n"
        for i in range(80))
    pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
        f"p{i},{dice.choice((1000, 4000, 8000))},{dice.choice((1024, 16384))},{gpus},"
        f"{0 if gpus == 0 else 1000 if gpus > 1 else dice.randrange(1, 1001)},{dice.choice(('', 'A', 'A|B')) if gpus else ''}\n"
        for i, gpus in enumerate(dice.choice((0, 1, 1, 2, 4)) for _ in range(400)))
    return "--nodes", write(directory / "nodes.csv", nodes), "--pods", write(directory / "pods.csv", pods)


def vms(path):
    dice, now, rows = random.Random(11), 0, []
    for number in range(1500):
        now += dice.expovariate(1 / 300)
        rows.append(f"v{number},{now:.3f},{now + dice.paretovariate(1.2) * 600:.3f},{dice.choice((.5, 1, 2, 4, 8))},"
                    f"{dice.choice((.25, 1, 3, 16))},c{dice.randrange(20)}")
    return write(path, "id,create,delete,cpus,memory,class\n" + "\n".join(rows) + "\n")


def planetlab(path):
    dice = random.Random(13)
    with tarfile.open(path, "w:gz") as tar:
        for number in range(60):
            level, lines = dice.randrange(5, 60), []
            for _ in range(288):
                level = min(100, max(1, level + dice.randrange(-12, 13)))
                lines.append(f"{level}\n")
            member, text = tarfile.TarInfo(f"vm{number:02}"), "".join(lines).encode()
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return path


def roadef(directory):
    """12 machines, 150 processes in 75 services, three resources, of which one is transient, and a balance."""
    dice, machines, processes, services = random.Random(17), 12, 150, 75
    home = [number % machines for number in range(processes)]
    needs = [[dice.randrange(1, 40) for _ in range(3)] for _ in range(processes)]
    lines = ["3", "1 10", "0 7", "0 1", str(machines)]
    for machine in range(machines):
        used = [sum(needs[p][r] for p in range(processes) if home[p] == machine) for r in range(3)]
        lines.append(f"{machine % 3} {machine % 4} " + " ".join(str(use + 150) for use in used) + " " +
                     " ".join(str(use * dice.randrange(70, 110) // 100) for use in used) + " " +
                     " ".join(str(0 if machine == other else 1 + (machine * other) % 5) for other in range(machines)))
    # Two of a service are numbered apart by 75, machines repeat by 12: never on one machine.
    lines += [str(services), *["0 0"] * services, str(processes)]
    lines += [f"{p % services} " + " ".join(map(str, needs[p])) + f" {dice.randrange(1, 9)}" for p in range(processes)]
    lines += ["1", "0 1 2", "20", "1 1 1"]
    return (write(directory / "model", "\n".join(lines) + "\n"), write(directory / "start", " ".join(map(str, home)) + "\n"))


def cases(directory):
    log = jobs(directory / "log.swf", 260)
    every = ("--backfill", "none,easy,easy-sjbf,conservative,greedy", "--estimates", "requested,actual,predicted,history,learning")
    page = ("--report", "PAGE")
    items = write(directory / "items.csv", "".join(f"{a},{b}\n" for a, b in ((random.Random(i).randrange(20, 100), random.Random(-i - 1)
                                                                              .randrange(20, 100)) for i in range(120))))
    return {
        "queue": ("queue", "--policy", POLICIES, *every, "--per-job", "-o", "json", log),
        "round robin": ("queue", "--policy", "rr", "--set", "rr.quantum=37", "--backfill", "none,easy,easy-sjbf,greedy", "--estimates",
                        "requested,history,learning", "--per-job", "-o", "json", log),
        "pyss": ("queue", "--policy", "fcfs,polder,wfp3", "--backfill", "easy,easy-sjbf", "--estimates", "requested,predicted",
                 "--semantics", "pyss", "--per-job", "-o", "json", log),
        "rlscheduler": ("queue", "--policy", "fcfs,polder,wfp3,f1", "--backfill", "none,easy", "--semantics", "rlscheduler", "--sequence",
                        "10:100", "--sequence", "90:100", "-o", "json", log),
        "tuner": ("queue", "--tune", "p95", "--tune-steps", 8, "--policy", "polder,dynamic", "--estimates", "history", log),
        "queue report": ("queue", "--policy", "polder,sjf", *page, log),
        "placement": ("placement", *cluster(directory), "--seeds", 2, "-o", "json"),
        "placement decisions": ("placement", *cluster(directory), "--seeds", 1, "--score", "polder", "--ledger", "PAGE"),
        "placement report": ("placement", *cluster(directory), "--seeds", 2, "--score", "fgd,polder", *page),
        "vms": ("vms", "--node", "cpus=8,memory=16", "-o", "json", vms(directory / "vms.csv")),
        "vms generated": ("vms", "--generate", "vms=2000,days=3,seed=4", "--policy", "first,dot,polder", *page),
        "packing": ("packing", "--capacity", "150,150", "-o", "json", items),
        "planetlab": ("planetlab", planetlab(directory / "day.tar.gz"), "--hosts", 50, "--policy",
                      "THR-MMT-0.8,IQR-MMT-1.5,MAD-MMT-2.5,LR-MMT-1.2,LR-MC-1.2,LR-MU-1.2,LR-RS-1.2,NPA,polder", "-o", "json"),
        "roadef": ("roadef", *roadef(directory), "--steps", 300000, "--save", "PAGE", "-o", "json"),
    }


def output(program, words, page):
    page.unlink(missing_ok=True)
    done = subprocess.run([program, *[str(page) if word == "PAGE" else str(word) for word in words]], capture_output=True, check=False)
    assert done.returncode == 0, (words[:3], done.stderr[-400:])
    return done.stdout + (page.read_bytes() if page.exists() else b"")


@pytest.mark.long
def test_any_compiler_gives_the_same_bytes(programs, tmp_path):
    for name, words in cases(tmp_path).items():
        found = {program.name: output(program, words, tmp_path / "page") for program in programs}
        assert len(next(iter(found.values()))) > 50, name
        first = next(iter(found))
        assert [other for other in found if found[other] != found[first]] == [], (name, first)
