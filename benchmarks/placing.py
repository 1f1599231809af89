# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast the engine places, by benchmarks/placement.c."""
import json
import subprocess


def measure(build, report, page):
    words = [build / "benchmarks/bench-placement", *([page] if page else [])]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    for name, what, goal in (("plain_1000", "placing on 1,000 nodes, ledger on, one core", "≥ 500,000/s"),
                             ("constrained_10000", "placing on 10,000 nodes with constraints, ledger on, one core",
                              "≥ 50,000/s, p99 < 1 ms")):
        row, without = found[name], found[f"{name}_without_ledger"]
        report.figure(what, f"{row['rate']:,}/s (p99 {row['p99_us']:.1f} µs)", goal)
        cost = 100 * (1 - row["rate"] / without["rate"])
        report.figure("the same: what the ledger costs", f"{cost:.0f} %", "≤ 15 %", f"{without['rate']:,}/s without")
    for what, column in (("nodes", "growth_nodes"), ("instances on 3,000 nodes", "growth_instances")):
        for size, plain, bound in found.get(column, []):
            report.figure(f"placing with {size:,} {what}", f"{plain:.2f} µs", "", f"with constraints {bound:.2f} µs")
    report.figure("placing: memory per node", f"{found['bytes_per_node']} bytes", "≤ 500 bytes")
