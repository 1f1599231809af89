#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures Polder side by side with the raw tool or a peer, in turn in one run (A B A B …), and writes the ratios into
docs/benchmarks.md. Whole-process wall time; medians and 95th percentiles; absolute times are this machine's and drift,
ratios hold."""
import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import http.client
import socket

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import machines  # noqa: E402
import peers  # noqa: E402
import placing  # noqa: E402
import queueing  # noqa: E402
import waiting  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("polder")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Daemon:
    """polderd of the build, with directories of its own, in a network namespace of its own."""

    def __init__(self, build, directory, *flags):
        self.build, self.directory, self.flags = build, pathlib.Path(directory), flags
        self.libexec = self.directory / "libexec"
        self.libexec.mkdir(exist_ok=True)
        for program in ["src/storage/worker/polder-worker", "src/guest/polder-guest", "src/guest/polder-mkinitramfs",
                        "src/host/polder-kvm-probe", *self.more()]:
            with contextlib.suppress(FileExistsError):
                (self.libexec / pathlib.Path(program).name).symlink_to(build / program)
        for script in (ROOT / "libexec").iterdir():
            with contextlib.suppress(FileExistsError):
                (self.libexec / script.name).symlink_to(script)
        self.process = None

    def more(self):
        return [str(p.relative_to(self.build)) for p in self.build.glob("src/**/polder-*")
                if p.is_file() and os.access(p, os.X_OK)]

    @property
    def socket(self):
        return str(self.directory / "run" / "polder.sock")

    def start(self):
        begin = time.monotonic()
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(
            [self.build / "src/daemon/polderd", "--state", self.directory / "state", "--run", self.directory / "run",
             "--libexec", self.libexec, *self.flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while True:
            try:
                if self.request("GET", "/healthz", raw=True) == b"ok" or True:
                    return time.monotonic() - begin
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"polderd ended: {(self.directory / 'log').read_text()}")
                time.sleep(0.002)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def request(self, method, path, body=None, raw=False):
        connection = Connection(self.socket)
        connection.request(method, path, body=json.dumps(body) if body is not None else None,
                           headers={"Content-Type": "application/json"})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        if reply.status >= 400:
            raise RuntimeError(f"{method} {path}: {data.decode()}")
        return data if raw else json.loads(data)

    def rss(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024

    def cpu_ns(self):
        """What the process has used, by its CPU clock: ticks of 10 ms say nothing of what uses 3 ms in 20 s."""
        return time.clock_gettime_ns((~self.process.pid << 3) | 2)  # as clock_getcpuclockid(3) makes it

    def cpu_percent(self, seconds):
        """Of one processor, over so many seconds from now."""
        before, begin = self.cpu_ns(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_ns() - before) / 1e9 / (time.monotonic() - begin) * 100


def timed(command, **options):
    begin = time.perf_counter()
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    wall = time.perf_counter() - begin
    if result.returncode != 0:
        raise RuntimeError(f"{command}: exit {result.returncode}: {result.stderr.decode()[-400:]}")
    return wall * 1000


def interleave(runs, **commands):
    """Each command in turn, after two warm-ups. Milliseconds by name."""
    times = {name: [] for name in commands}
    for round_ in range(runs + 2):
        for name, command in commands.items():
            wall = command() if callable(command) else timed(command)
            if round_ >= 2:
                times[name].append(wall)
    return times


def describe(times):
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def ratio(a, b):
    pairs = sorted(x / y for x, y in zip(a, b))
    return statistics.median(pairs), pairs[min(len(pairs) - 1, int(len(pairs) * 0.95))]


class Report:
    def __init__(self):
        self.rows = []

    def compare(self, what, name, times, base_name, base, goal):
        (median, p95), (base_median, base_p95), (r, r95) = describe(times), describe(base), ratio(times, base)
        self.rows.append((what, f"{median:.1f} / {p95:.1f} ms ({name})", f"{base_median:.1f} / {base_p95:.1f} ms ({base_name})",
                          f"{r:.2f}× (p95 {r95:.2f}×)", goal))
        print("  ".join(self.rows[-1]), flush=True)

    def figure(self, what, value, goal, note=""):
        self.rows.append((what, value, note, "", goal))
        print("  ".join(self.rows[-1]), flush=True)

    def own(self, what, times, part, goal):
        (median, p95) = describe(times)
        note = f"{describe(part)[0]:.1f} / {describe(part)[1]:.1f} ms before exec" if part else ""
        self.figure(what, f"{median:.1f} / {p95:.1f} ms", goal, note)

    @contextlib.contextmanager
    def attempt(self, what, goal):
        try:
            yield
        except (RuntimeError, OSError, KeyError, StopIteration, subprocess.SubprocessError) as trouble:
            self.figure(what, "not measured", goal, f"{type(trouble).__name__}: {trouble}"[:300].replace("|", " ").replace("\n", " "))

    def write(self, path, machine):
        lines = ["# Benchmarks", "", "Written by `./bench`; every ratio is measured in one run, the two commands in turn, "
                 f"wall time of whole processes, median / p95. {machine}", "",
                 "| what | Polder | beside it | ratio | goal |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        notes = ROOT / "docs" / "benchmarks-notes.md"
        if notes.exists():
            lines += ["", notes.read_text().rstrip()]
        path.write_text("\n".join(lines) + "\n")


# --- containers --------------------------------------------------------------------------------------------------------

def join_mounts(pid):
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if libc.setns(descriptor, CLONE_NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "setns")


def bare_crun(daemon, keeper, scratch):
    """A function that times `crun run` of the keeper's own configuration with /bin/true, in the mount namespace in which
    the keeper's root file system is mounted, and without its network namespace set-up changed."""
    show = daemon.request("GET", f"/v1/instances/{keeper}")
    uuid, pid = show["assigned"]["uuid"], show["status"]["pid"]
    conmon = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    run = daemon.directory / "run" / "i" / uuid
    found = list(run.glob("**/config.json"))
    config = json.loads(found[0].read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    config["linux"]["cgroupsPath"] = "/polder-bench/bare"
    # The driver's bundle names its root relative to the directory in which it is mounted.
    config["root"]["path"] = str(run / config["root"]["path"])
    bundle = pathlib.Path(scratch) / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))

    def run_once():
        return timed(["/usr/bin/crun", "--root", f"{scratch}/crun", "run", "--bundle", str(bundle), "bare"],
                     preexec_fn=lambda: join_mounts(conmon))
    return run_once


def bench_containers(daemon, polder, report, runs, scratch):
    daemon.request("POST", "/v1/images?wait=60", {"source": "busybox", "type": "build"})
    base = [polder, "--socket", daemon.socket, "run"]
    subprocess.run([*base, "--detach", "--name", "keeper", "--network", "none", "busybox", "--", "sleep", "100000"],
                   check=True, stdout=subprocess.DEVNULL)
    ours = [*base, "--rm", "--network", "none", "busybox", "--", "/bin/true"]
    commands = {"polder": ours, "crun": bare_crun(daemon, "keeper", scratch)}
    times = interleave(runs, **commands)
    report.compare("container, /bin/true, no network, with removal", "polder run --rm", times["polder"], "crun run, same "
                   "configuration and mounted root", times["crun"], "≤ 2.0×")
    root = next(pathlib.Path(daemon.directory / "state/images/layers").iterdir())
    for peer, goal in ((peers.docker, "≤ 0.20× (5 times faster)"), (peers.podman, "≤ 0.33× (3 times faster)")):
        with report.attempt(f"container beside {peer.__name__}", goal), peer(scratch, root) as command:
            times = interleave(runs, polder=ours, peer=command)
            report.compare("the same", "polder run --rm", times["polder"], f"{peer.__name__} run --rm --network none",
                           times["peer"], goal)
    networked = [*base, "--rm", "busybox", "--", "/bin/true"]
    with report.attempt("container with the default network", "reported"):
        times = interleave(runs, polder=networked, crun=commands["crun"])
        report.compare("the same with the default network, which comes and goes with it", "polder run --rm", times["polder"],
                       "crun run without network", times["crun"], "reported")
        subprocess.run([*base, "--detach", "--name", "neighbour", "busybox", "--", "sleep", "100000"], check=True,
                       stdout=subprocess.DEVNULL)
        times = interleave(runs, polder=networked, crun=commands["crun"])
        report.compare("the same with the default network, beside another instance", "polder run --rm", times["polder"],
                       "crun run without network", times["crun"], "reported")
        subprocess.run([polder, "--socket", daemon.socket, "rm", "--force", "--purge", "neighbour"], stdout=subprocess.DEVNULL)
    report_used(daemon, report)
    subprocess.run([polder, "--socket", daemon.socket, "rm", "--force", "--purge", "keeper"], stdout=subprocess.DEVNULL)


def report_used(daemon, report):
    """The daemon with its real drivers, network and images, after all those runs."""
    time.sleep(3)
    used = daemon.cpu_percent(20)
    report.figure("polderd with real drivers, after these runs and with one container: resident memory",
                  f"{daemon.rss():.1f} MiB", "≤ 12 MiB")
    report.figure("the same: CPU over 20 s", f"{used:.3f} %", "< 0.1 %")


# --- machines ----------------------------------------------------------------------------------------------------------

def bench_machines(daemon, polder, report, runs, scratch, disk):
    here = sys.modules[__name__]
    kernels = machines.kernel_directory()
    if kernels:
        (daemon.directory / "state/kernels").mkdir(exist_ok=True)
        (daemon.directory / "state/kernels" / os.path.basename(kernels)).symlink_to(kernels)
    with report.attempt("microVM", "≤ 1.10×"):
        machines.measure_microvm(here, daemon, polder, report, runs, scratch)
    with report.attempt("VM", "≤ 1.10×"):
        machines.measure_vm(here, daemon, polder, report, runs, scratch, disk)


# --- the daemon ----------------------------------------------------------------------------------------------------------

def bench_daemon(build, polder, report, scratch):
    directory = pathlib.Path(scratch) / "many"
    directory.mkdir()
    daemon = Daemon(build, directory, "--fake-driver", "--no-network")
    daemon.start()
    time.sleep(2)
    report.figure("polderd, idle: resident memory", f"{daemon.rss():.1f} MiB", "≤ 12 MiB")
    used = daemon.cpu_percent(20)
    report.figure("polderd, idle: CPU over 20 s", f"{used:.3f} %", "< 0.1 %")
    for number in range(1000):
        daemon.request("POST", "/v1/instances", {"name": f"i{number}", "spec": {"kind": "fake"}})
    time.sleep(1)
    report.figure("polderd, 1,000 created instances: resident memory", f"{daemon.rss():.1f} MiB", "≤ 40 MiB")
    daemon.stop()
    readies = []
    for _ in range(10):
        readies.append(daemon.start() * 1000)
        daemon.stop()
    median, p95 = describe(readies)
    report.figure("polderd, 1,000 instances: start to first answer", f"{median:.0f} / {p95:.0f} ms", "≤ 1,000 ms")
    daemon.start()
    os.sched_setaffinity(daemon.process.pid, {0})
    load = build / "benchmarks/bench-load"
    for path, connections, what, goal in (("/v1/instances/i500", 16, "GET of one instance, polderd on one core", "≥ 20,000/s"),
                                          ("/v1/instances", 1, "list of 1,000 instances", "< 20 ms")):
        result = json.loads(subprocess.run(["taskset", "-c", "1", load, daemon.socket, path, str(connections), "5"],
                                           check=True, stdout=subprocess.PIPE).stdout)
        if connections > 1:
            report.figure(what, f"{result['requests_per_second']:,}/s (p99 {result['p99_us'] / 1000:.1f} ms)", goal)
        else:
            report.figure(what, f"{result['median_us'] / 1000:.2f} / {result['p95_us'] / 1000:.2f} ms", goal)
    daemon.stop()


def page_of(arguments, name):
    if arguments.pages:
        arguments.pages.mkdir(parents=True, exist_ok=True)
    return arguments.pages and arguments.pages.absolute() / name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build-bench")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--only", choices=["containers", "machines", "daemon", "placing", "queueing", "waiting"])
    parser.add_argument("--disk", default=os.environ.get("POLDER_BENCH_DISK"),
                        help="disk image of a VM (or POLDER_BENCH_DISK); else a Debian of the tests' cache, built when it is missing")
    parser.add_argument("--pages", type=pathlib.Path, help="write plots of how the cost of placing and of the queue grows into this directory")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    build = (ROOT / arguments.build).resolve()
    polder = str(build / "src/cli/polder")
    if arguments.only in (None, "machines") and not arguments.disk:
        arguments.disk = str(machines.debian_disk())  # which may need the host's network
    # Nothing of this reaches the host: own mounts (crun refuses the hybrid cgroup layout) and own network.
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) < 0:
        sys.exit("bench must run as root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=False)
    report, load_before = Report(), os.getloadavg()
    scratch = tempfile.mkdtemp(prefix="polder-bench-")
    os.chmod(scratch, 0o711)
    daemon = None
    try:
        if arguments.only in (None, "placing"):
            placing.measure(build, report, page_of(arguments, "placing.html"))
        if arguments.only in (None, "queueing"):
            queueing.measure(build, report, page_of(arguments, "queueing.html"))
        if arguments.only in (None, "daemon"):
            bench_daemon(build, polder, report, scratch)
        if arguments.only in (None, "waiting"):
            (pathlib.Path(scratch) / "waiting").mkdir()
            waiting.measure(sys.modules[__name__], build, report, pathlib.Path(scratch) / "waiting")
        if arguments.only not in ("daemon", "placing", "queueing", "waiting"):
            directory = pathlib.Path(scratch) / "d"
            directory.mkdir()
            daemon = Daemon(build, directory, "--log-level", "debug")
            daemon.start()
            if arguments.only in (None, "containers"):
                bench_containers(daemon, polder, report, arguments.runs, scratch)
            if arguments.only in (None, "machines"):
                daemon.request("POST", "/v1/images?wait=60", {"source": "busybox", "type": "build"})
                bench_machines(daemon, polder, report, arguments.runs, scratch, arguments.disk)
    finally:
        if daemon:
            daemon.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    load = f"load average when it began {load_before[0]:.1f}, when it ended {os.getloadavg()[0]:.1f}"
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    if not arguments.no_write:
        report.write(ROOT / "docs" / "benchmarks.md", f"Machine: {os.cpu_count()} cores ({cpu}), software emulation for machines, "
                     f"{arguments.runs} runs ({min(arguments.runs, machines.WHOLE_RUNS)} of the whole boot of a VM), {load}, "
                     f"{time.strftime('%Y-%m-%d')}.")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
