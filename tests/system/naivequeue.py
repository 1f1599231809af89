# SPDX-License-Identifier: GPL-2.0-or-later
"""A second queue, written for being obvious rather than fast, to compare the engine's with: all is recomputed at every moment
from lists. Jobs are (submitted, run, requested, processors); the result is when each starts. One processor for those that take
turns is a list of its own below: the result is when each ends."""
import math
import struct

CHANGING = ("xf", "wfp3", "unicep")  # with time


def rounded(value):
    """To 40 bits of the mantissa: what differs by less is equal, and numbers decide."""
    bits = struct.unpack("<Q", struct.pack("<d", abs(float(value))))[0]
    size = struct.unpack("<d", struct.pack("<Q", (bits + 2048) // 4096 * 4096))[0]
    return size if value >= 0 else -size


def score(policy, job, now):
    """The smallest is first. Time is r, processors n, wait w, submission s (where that is 0, its logarithm is -1)."""
    s, _, r, n = job
    w, logarithm = now - s, math.log10(s) if s > 0 else -1
    formulas = {
        "fcfs": lambda: s, "sjf": lambda: r, "saf": lambda: r * n, "sjf:demand": lambda: n, "xf": lambda: -(w + r) / r,
        "wfp3": lambda: -(w / r) ** 3 * n, "unicep": lambda: -w / ((math.log2(n) if n > 1 else 1e-9) * r),
        "f1": lambda: math.log10(r) * n + 870 * logarithm, "f2": lambda: math.sqrt(r) * n + 25600 * logarithm,
        "f3": lambda: r * n + 6860000 * logarithm, "f4": lambda: r * math.sqrt(n) + 530000 * logarithm,
    }
    return rounded(formulas[policy]())


class Queue:
    def __init__(self, jobs, processors, policy, backfill):
        self.jobs, self.processors, self.policy, self.backfill = jobs, processors, policy, backfill
        self.starts, self.waiting, self.planned, self.loose = {}, [], {}, False

    def running(self, now):
        return [j for j, start in self.starts.items() if start + self.jobs[j][1] > now]

    def free(self, now):
        return self.processors - sum(self.jobs[j][3] for j in self.running(now))

    def expected(self, j, now):
        return max(self.starts[j] + self.jobs[j][2], now + 1)

    def order(self, now):
        return sorted(self.waiting, key=lambda j: (score(self.policy, self.jobs[j], now), j))

    def start(self, j, now):
        self.starts[j] = now
        self.waiting.remove(j)

    def reservation(self, j, now):
        """The first moment at which enough is free, if what was requested is used up, and how much is left over then."""
        for moment in sorted({self.expected(k, now) for k in self.running(now)}):
            room = self.free(now) + sum(self.jobs[k][3] for k in self.running(now) if self.expected(k, now) <= moment)
            if room >= self.jobs[j][3]:
                return moment, room - self.jobs[j][3]
        raise AssertionError("it never fits")

    def go_ahead(self, now):
        order = self.order(now)
        shadow, extra = float("inf"), self.processors
        if not order:
            return
        if self.backfill != "greedy":
            shadow, extra = self.reservation(order[0], now)
        behind = order[1:]
        if self.backfill == "easy-sjbf":
            behind.sort(key=lambda j: (self.jobs[j][2], j))
        for j in behind:
            _, _, requested, size = self.jobs[j]
            if size > self.free(now):
                continue
            if now + requested > shadow:
                if size > extra:
                    continue
                extra -= size
            self.start(j, now)

    # conservative
    def used(self, moment, now):
        taken = sum(self.jobs[k][3] for k in self.running(now) if moment < self.expected(k, now))
        return taken + sum(self.jobs[k][3] for k in self.waiting
                           if k in self.planned and self.planned[k] <= moment < self.planned[k] + self.jobs[k][2])

    def plan(self, j, now):
        self.planned.pop(j, None)
        ends = {self.expected(k, now) for k in self.running(now)}
        ends |= {self.planned[k] + self.jobs[k][2] for k in self.waiting if k in self.planned}
        begins = {self.planned[k] for k in self.waiting if k in self.planned}
        _, _, requested, size = self.jobs[j]
        for moment in sorted({now} | {e for e in ends if e > now}):
            points = {moment} | {p for p in ends | begins if moment < p < moment + requested}
            if all(self.used(p, now) + size <= self.processors for p in points):
                self.planned[j] = moment
                return
        raise AssertionError("it never fits")

    def conservative(self, now):
        if self.loose or self.policy in CHANGING:
            if self.policy in CHANGING:  # an order that changes: all anew
                self.planned.clear()
            before = dict(self.planned)
            for j in self.order(now):
                self.plan(j, now)
            self.loose = before != self.planned  # one that moved may have made room for one before it
        for j in self.order(now):
            if self.planned[j] <= now:
                self.start(j, now)
                self.planned.pop(j)

    def decide(self, now):
        if self.backfill == "conservative":
            return self.conservative(now)
        for j in self.order(now):
            if self.jobs[j][3] > self.free(now):
                break
            self.start(j, now)
        if self.backfill != "none":
            self.go_ahead(now)

    def simulate(self):
        coming = sorted(range(len(self.jobs)), key=lambda j: (self.jobs[j][0], j))
        now = -1
        while coming or self.waiting:
            moments = [self.jobs[coming[0]][0]] if coming else []
            moments += [start + self.jobs[j][1] for j, start in self.starts.items() if start + self.jobs[j][1] > now]
            now = min(moments)
            self.loose |= any(start + self.jobs[j][1] == now < start + self.jobs[j][2] for j, start in self.starts.items())
            while coming and self.jobs[coming[0]][0] == now:
                self.waiting.append(coming.pop(0))
                if self.backfill == "conservative":
                    self.plan(self.waiting[-1], now)
            self.decide(now)
        return [self.starts[j] for j in range(len(self.jobs))]


def turns(jobs, quantum):
    """One processor, round robin: whoever comes at the end of a burst stands before whoever had it. When each ends."""
    coming, ready = sorted(range(len(jobs)), key=lambda j: (jobs[j][0], j)), []
    left, ends, now = [job[1] for job in jobs], [None] * len(jobs), 0

    def arrive():
        while coming and jobs[coming[0]][0] <= now:
            ready.append(coming.pop(0))

    while coming or ready:
        if not ready:
            now = jobs[coming[0]][0]
        arrive()
        j = ready.pop(0)
        burst = min(quantum, left[j])
        now, left[j] = now + burst, left[j] - burst
        arrive()
        if left[j]:
            ready.append(j)
        else:
            ends[j] = now
    return ends


def shortest_left(jobs):
    """One processor, second by second: the least of what is expected to be left, then the smaller number. When each ends."""
    left, done, ends, now = [job[1] for job in jobs], [0] * len(jobs), [None] * len(jobs), 0
    while None in ends:
        there = [j for j, job in enumerate(jobs) if job[0] <= now and left[j]]
        if there:
            j = min(there, key=lambda k: (max(0, jobs[k][2] - done[k]), k))
            left[j], done[j] = left[j] - 1, done[j] + 1
            if not left[j]:
                ends[j] = now + 1
        now += 1
    return ends
