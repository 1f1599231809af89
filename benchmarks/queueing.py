# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast the engine's queue is, by benchmarks/queue.c."""
import json
import subprocess


def measure(build, report, page=None):
    found = json.loads(subprocess.run([build / "benchmarks/bench-queue", *([page] if page else [])], check=True, stdout=subprocess.PIPE).stdout)
    for policy in ("fcfs", "sjf", "polder"):
        row = found[f"arrival_{policy}"]
        report.figure(f"queue: an arrival among {found['waiting']:,} that wait, {policy}",
                      f"{row['median_us']:.2f} µs (p99 {row['p99_us']:.2f} µs)", "< 20 µs",
                      f"all ordered anew and a pass: {row['pass_ms']:.1f} ms")
    report.figure("queue: memory for each that waits", f"{max(found[f'arrival_{p}']['bytes'] for p in ('fcfs', 'sjf', 'polder'))} bytes",
                  "< 200 bytes")
    report.figure("queue: 300,000 jobs under EASY", f"{found['replay_fcfs_requested_300000']['seconds']:.2f} s", "< 1 s",
                  f"polder, learning: {found['replay_polder_learning_300000']['seconds']:.2f} s")
    for (size, *arrivals), (_, *passes) in zip(found.get("growth_arrival_us", []), found.get("growth_pass_ms", [])):
        report.figure(f"queue with {size:,} that wait: an arrival, fcfs, sjf, polder", " / ".join(f"{x:.2f}" for x in arrivals) + " µs", "",
                      "a pass over all: " + " / ".join(f"{x:.2f}" for x in passes) + " ms")
