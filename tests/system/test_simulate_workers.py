# SPDX-License-Identifier: GPL-2.0-or-later
"""polder-simulate with threads: the same bytes for any number, one option for it in every mode, and a bar on a terminal."""
import io
import os
import pty
import random
import subprocess
import tarfile

import polderlib
import pytest

PROGRAM = "src/simulator/polder-simulate"


def simulate(*words, **options):
    return subprocess.run([polderlib.build_directory() / PROGRAM, *map(str, words)], capture_output=True, text=True, check=False, **options)


def planetlab(path, text=None):
    with tarfile.open(path, "w:gz") as tar:
        for number in range(24):
            lines = text or "".join(f"{(number * 37 + step * 17) % 60 + 1}\n" for step in range(288))
            member = tarfile.TarInfo(f"vm{number:02}")
            member.size = len(lines)
            tar.addfile(member, io.BytesIO(lines.encode()))
    return path


@pytest.fixture
def cases(tmp_path):
    dice = random.Random(2)

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    nodes = write("nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"n{i},64000,262144,{i % 3 * 2},A\n" for i in range(40)))
    pods = write("pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
        f"p{i},{dice.choice((1000, 4000))},2048,1,{dice.choice((250, 500, 1000))},\n" for i in range(200)))
    log = write("log.swf", "; MaxProcs: 8\n" + "".join(
        f"{i} {i * 5} -1 {dice.randrange(1, 90)} 2 -1 -1 {dice.randrange(1, 9)} 100 -1 1 1 1 -1 -1 -1 -1 -1\n" for i in range(1, 200)))
    items = [write(f"{at}.csv", "".join(f"{dice.randrange(20, 100)},{dice.randrange(20, 100)}\n" for _ in range(80))) for at in range(9)]
    model = write("model", "1\n0 10\n2\n0 0 20 6 0 4\n0 1 20 6 4 0\n3\n0 0\n0 0\n0 0\n3\n0 6 2\n1 3 1\n2 3 1\n0\n1 1 1\n")
    return {
        "placement": ("placement", "--nodes", nodes, "--pods", pods, "--seeds", 3),
        "vms": ("vms", "--generate", "vms=3000,days=2,seed=3"),
        "packing": ("packing", "--capacity", "150,150", *items),
        "planetlab": ("planetlab", planetlab(tmp_path / "day.tar.gz"), "--hosts", 16),
        "queue": ("queue", "--policy", "fcfs,sjf,polder", "--backfill", "none,easy", log),
        "tuner": ("queue", "--tune", "fairness", "--tune-steps", 6, "--policy", "sjf,dynamic,polder", "--backfill", "none,easy", log, log),
        "roadef": ("roadef", model, write("start", "0 0 0\n"), "--steps", 40000),
    }


def test_any_number_gives_the_same_bytes(cases):
    """Also the number of processors, which is taken where none is named."""
    for mode, words in cases.items():
        usual = simulate(*words)
        assert usual.returncode == 0 and usual.stderr == "" and usual.stdout, (mode, usual.stderr)
        for number in (1, 2, 5, 64):
            assert simulate(*words, "--workers", number).stdout == usual.stdout, (mode, number)
        assert simulate(*words, preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})).stdout == usual.stdout
        assert "--workers" in simulate(*words, "--workers", 0).stderr and "--workers N" in simulate(words[0], "--help").stdout
    assert simulate(*cases["placement"], "--jobs", 3).stdout == simulate(*cases["placement"]).stdout


def test_the_first_that_fails_is_told(cases, tmp_path):
    """By whichever thread it was met, and however many others fail as well."""
    bad = [tmp_path / f"bad{at}.csv" for at in range(6)]
    for path in bad:
        path.write_text("1,2\n3\n")
    for number in (1, 2, 7, 64):
        for _ in range(5):
            refused = simulate(*cases["packing"], *bad, "--workers", number)
            assert refused.returncode == 2 and f"{bad[0]}, line 2: row" in refused.stderr, refused.stderr


@pytest.mark.parametrize("mode,what", [("placement", "placing"), ("packing", "packing"), ("planetlab", "simulating"), ("queue", "simulating"),
                                       ("tuner", "comparing"),
                                       ("roadef", "searching")])
def test_a_bar_on_a_terminal(cases, mode, what):
    """It grows, it is taken away at the end, and it is nowhere in the result."""
    plain = simulate(*cases[mode]).stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen([polderlib.build_directory() / PROGRAM, *map(str, cases[mode])], stdout=subprocess.PIPE, stderr=theirs,
                          text=True) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side was closed
                break
            if not part:
                break
            shown += part
        assert running.stdout.read() == plain
    os.close(ours)
    assert running.returncode == 0
    shares = [int(part.split("]")[1].split("%")[0]) for part in shown.decode().split("\r") if part.startswith(what + " [")]
    assert len(shares) > 1 and shares == sorted(shares) and shares[-1] == 100, (mode, shown[-300:])
    assert shown.endswith(b"\r\x1b[K")
