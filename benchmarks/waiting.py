# SPDX-License-Identifier: GPL-2.0-or-later
"""How long polderd stands still while it thinks about a long queue: reads at a steady rate, each counted from the moment when it
was due, while 10,000 instances of the fake driver wait and somebody asks why, what if, or for a forecast of 1,000, or changes so
much that the ledger begins another file with a checkpoint of all of them. Reader and polderd's loop run at real-time priority, since
what else runs on the machine is not what is measured; polderd's worker threads and those that ask do not, and the reader is a process
of its own, since it would wait for the interpreter while others look at what they got."""
import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import threading
import time

WAITING, RATE, SECONDS = 10000, 500, 10


def fill(daemon):
    cpus = os.cpu_count()

    def add(name):
        daemon.request("POST", "/v1/instances?start=true",
                       {"name": name, "spec": {"kind": "fake", "cpus": cpus, "memory": 16 << 20}})

    add("holder")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: add(f"w{number}"), range(WAITING)))
    while (waiting := daemon.request("GET", "/v1/queue?limit=1")["waiting"]) < WAITING:
        time.sleep(0.2)
    return waiting


def keep_doing(work, done):
    """Times of one after another, in milliseconds, until done."""
    times = []
    while not done.is_set():
        begin = time.perf_counter()
        work(len(times))
        times.append((time.perf_counter() - begin) * 1000)
    return times


def before_others(pid=0):
    os.sched_setscheduler(pid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def read_steadily(connection, seconds):
    connection, late, begin = connection(), [], time.perf_counter()
    for number in range(int(seconds * RATE)):
        due = begin + number / RATE
        time.sleep(max(0, due - time.perf_counter()))
        connection.request("GET", "/v1/instances/holder")
        connection.getresponse().read()
        late.append((time.perf_counter() - due) * 1000)
    return sorted(late)


def reads_during(bench, daemon, work=None, enough=lambda: True):
    done, late = threading.Event(), []
    with concurrent.futures.ProcessPoolExecutor(1, initializer=before_others) as readers, concurrent.futures.ThreadPoolExecutor(1) as pool:
        readers.submit(os.getpid).result()  # it is there before the other thread is
        other = pool.submit(keep_doing, work, done) if work else None
        while not late or not enough():
            late += readers.submit(read_steadily, functools.partial(bench.Connection, daemon.socket), SECONDS).result()
        done.set()
        times = sorted(other.result()) if other else []
    late.sort()
    return {"p99": late[len(late) * 99 // 100], "worst": late[-1], "count": len(late)}, times


def measure_engine(build, report):
    found = json.loads(subprocess.run([build / "benchmarks/bench-engine"], check=True, stdout=subprocess.PIPE).stdout)
    for what, on_loop, elsewhere in (("a pass over", found["run"], None),
                                     ("'why' of one of", found["yielders"] + found["copy"], found["trial"]),
                                     ("'what-if' over", found["copy"], found["suppose"]),
                                     ("a forecast of 1,000 of", found["excerpt"], found["foresee"]),
                                     ("a checkpoint of", found["snapshot"], found["write"])):
        report.figure(f"{what} {found['waiting']:,} that wait: polderd stands still for", f"{on_loop:.1f} ms", "< 5 ms",
                      f"{elsewhere:.1f} ms more on a worker thread" if elsewhere else "")


def measure(bench, build, report, directory):
    measure_engine(build, report)
    daemon = bench.Daemon(build, directory, "--fake-driver", "--no-network", "--overcommit_cpu_fake", "100")
    daemon.start()
    before_others(daemon.process.pid)
    try:
        daemon.request("POST", "/v1/instances", {"name": "holder", "spec": {"kind": "fake", "memory": 16 << 20}})
        found, _ = reads_during(bench, daemon)
        report.figure("reads while nobody waits: p99", f"{found['p99']:.2f} ms (worst {found['worst']:.1f} ms)", "",
                      f"{found['count']:,} at {RATE}/s")
        daemon.request("DELETE", "/v1/instances/holder?purge=true&wait=10s")
        waiting = fill(daemon)
        ledger = pathlib.Path(directory) / "state" / "ledger"
        files = {path.name for path in ledger.iterdir()}
        change = bench.Connection(daemon.socket)
        last = f"w{WAITING // 2}"

        def alter(number):
            change.request("PATCH", f"/v1/instances/w{number % WAITING}", json.dumps({"spec": {"memory": (17 + number // WAITING) << 20}}),
                           {"Content-Type": "application/merge-patch+json"})
            reply = change.getresponse()
            body = reply.read()
            if reply.status >= 400:
                raise RuntimeError(body.decode())

        found, _ = reads_during(bench, daemon)
        report.figure(f"reads while {waiting:,} wait: p99", f"{found['p99']:.2f} ms (worst {found['worst']:.1f} ms)", "< 5 ms",
                      f"{found['count']:,} at {RATE}/s")
        for what, path in (("'why' is asked of one in the middle", f"/v1/instances/{last}/why"),
                           ("'what-if' is asked about another policy", "/v1/what-if?policy=sjf"),
                           ("a forecast of 1,000 is asked for", "/v1/queue?limit=1000")):
            found, times = reads_during(bench, daemon, lambda _, path=path: daemon.request("GET", path, raw=True))
            report.figure(f"the same, while {what}", f"{found['p99']:.2f} ms (worst {found['worst']:.1f} ms)",
                          "< 5 ms", f"{len(times)} answers, median {times[len(times) // 2]:.0f} ms")
        found, times = reads_during(bench, daemon, alter, lambda: {path.name for path in ledger.iterdir()} - files)
        report.figure("the same, while requests change until the ledger makes a checkpoint",
                      f"{found['p99']:.2f} ms (worst {found['worst']:.1f} ms)", "< 5 ms", f"{len(times)} changes")
    finally:
        daemon.stop()
