# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines: Polder beside the very command line that it gave to QEMU, run by hand, and beside a minimal one.

By hand means: the same arguments, descriptors of the same files at the same numbers (a fresh copy of each writable disk),
no jail, no record, no log; this script plays the daemon's part towards QEMU and the guest."""
import contextlib
import fcntl
import json
import os
import pathlib
import re
import select
import socket
import stat
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
from guestlib import debian_disk, kernel_directory  # noqa: E402, F401
import guestwire  # noqa: E402

CONSOLE_OUT, CONSOLE_IN, QMP, AGENT = 5, 6, 3, 4  # enum machine_fd
FIRST_LINE = b"GRUB loading"  # from the disk; later lines are mixed with those of a second terminal
PROMPT = b"login:"  # the whole boot: its kernel is quiet until then
WHOLE_RUNS = 10  # a boot takes a minute under software emulation
MARK = re.compile(r"instance '([^']+)': (.+), ([0-9.]+) s after boot$")


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Recipe:
    """What Polder gave to a QEMU that runs: its arguments and which file each descriptor is."""

    def __init__(self, pid, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        self.arguments = [argument.decode() for argument in self.arguments]
        self.paths, self.writable = {}, {}
        sets = [int(re.match(r"fd=(\d+)", value).group(1)) for option, value in zip(self.arguments, self.arguments[1:])
                if option == "-add-fd"]
        seen = []
        for number in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
            path = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.stat(path).st_mode) and os.stat(path).st_ino not in [s[1] for s in seen]:
                    seen.append((os.readlink(path), os.stat(path).st_ino))
        files = [path for path, _ in seen]
        if "-kernel" in self.arguments:
            self.paths[9], self.paths[10] = files.pop(0), files.pop(0)
        # QEMU moves the descriptors of its sets, in the order of its arguments.
        for number, path in zip([n for n in sets if n not in (CONSOLE_OUT, CONSOLE_IN)], files):
            self.paths[number] = path

    def keep_disks(self):
        """The instance's own disks, as they are now. Each run by hand gets a copy of the writable ones."""
        for number, path in self.paths.items():
            if "/instances/" in path:
                self.paths[number] = str(self.directory / f"disk-{number}")
                subprocess.run(["cp", "--sparse=always", path, self.paths[number]], check=True)
                if not path.endswith(".iso"):
                    self.writable[number] = self.paths[number]

    def minimal(self, root):
        """The least that shows the same first sign of life."""
        serial = ["-chardev", f"file,id=console,path=/dev/fdset/{CONSOLE_OUT},append=on", "-serial", "chardev:console"]
        common = ["-nodefaults", "-display", "none", "-m", self.after("-m"), "-add-fd", f"fd={CONSOLE_OUT},set={CONSOLE_OUT}"]
        if 9 in self.paths:
            return [self.arguments[0], "-machine", "microvm,auto-kernel-cmdline=off", *common, *serial, "-kernel", "/proc/self/fd/9", "-initrd",
                    "/proc/self/fd/10", "-append", self.after("-append"), "-global", "virtio-mmio.force-legacy=false",
                    "-drive", f"file={root},format=raw,readonly=on,if=none,id=root", "-device", "virtio-blk-device,drive=root",
                    "-device", "virtio-serial-device", "-chardev", f"socket,id=agent,fd={AGENT},server=on,wait=off",
                    "-device", "virtserialport,chardev=agent,nr=1,name=org.polder.guest.0"]
        return [self.arguments[0], "-machine", "q35,graphics=off", *common, *serial, "-snapshot", "-drive", f"file={root},format=qcow2,if=virtio"]

    def after(self, option):
        return self.arguments[self.arguments.index(option) + 1]


class Hand:
    """One QEMU by hand."""

    def __init__(self, recipe, arguments=None):
        here = recipe.directory
        self.sources = {}
        for number, name in ((QMP, "qmp"), (AGENT, "agent")):
            path = here / name
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1)
            self.sources[number] = listener.detach()
        self.console, self.sources[CONSOLE_OUT] = os.pipe()
        self.sources[CONSOLE_IN], self.console_in = os.pipe()
        for number, path in recipe.paths.items():
            if number in recipe.writable:
                path = here / f"run-{number}"
                subprocess.run(["cp", "--sparse=always", recipe.writable[number], path], check=True)
            writable = number in recipe.writable
            self.sources[number] = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        lifted = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for number, fd in self.sources.items()}
        self.here = here
        self.begin = time.perf_counter()
        self.pid = os.posix_spawn(recipe.arguments[0], arguments or recipe.arguments, os.environ, file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(here / "errors"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            *[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in sorted(lifted.items())]])
        for fd in [*lifted.values(), *self.sources.values()]:
            os.close(fd)

    def since(self):
        return (time.perf_counter() - self.begin) * 1000

    def first_line(self, wanted=FIRST_LINE):
        said = b""
        while wanted not in said:
            if not select.select([self.console], [], [], 120)[0]:
                raise RuntimeError(f"the machine by hand says nothing more after {said[-200:]!r}")
            said += os.read(self.console, 65536)
        return self.since()

    def prompt(self):
        return self.first_line(PROMPT)

    def hello(self):
        self.wire = guestwire.Wire(str(self.here / "agent"))
        self.wire.hello()
        return self.since()

    def run(self, command):
        """hello, the command, its end, the guest's power-off, QEMU's end: what `run --rm` does."""
        control = socket.socket(socket.AF_UNIX)
        control.connect(str(self.here / "qmp"))
        lines = control.makefile("rwb")
        lines.readline()
        lines.write(b'{"execute":"qmp_capabilities"}\n')
        lines.flush()
        hello = self.hello()
        self.wire.start(command)
        self.wire.finish(guestwire.MAIN)
        while b"SHUTDOWN" not in lines.readline():
            pass
        lines.write(b'{"execute":"quit"}\n')
        lines.flush()
        os.waitpid(self.pid, 0)
        self.pid = None
        return hello, self.since()

    def close(self):
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.console)
        os.close(self.console_in)


def by_hand(recipe, step, arguments=None):
    hand = Hand(recipe, arguments)
    try:
        return step(hand)
    finally:
        hand.close()


class Marks:
    """The times in polderd's debug log, of what was added since the last look."""

    def __init__(self, log):
        self.log, self.at = log, log.stat().st_size

    def take(self):
        with open(self.log, errors="replace") as log:
            log.seek(self.at)
            found = {what: float(when) for _, what, when in filter(None, (
                match and match.groups() for match in map(MARK.search, log.read().splitlines())))}
            self.at = log.tell()
        return found


def own_microvm(begin, marks, end):
    """Before exec of QEMU, from the guest's exit to its durable acknowledgement, and from QEMU's end to ours."""
    return ((marks["QEMU runs"] - begin) + (marks["its exit is acknowledged"] - marks["the guest told its exit"]) +
            (end - marks["QEMU ended"])) * 1000


def measure_microvm(bench, daemon, polder, report, runs, scratch):
    base = [polder, "--socket", daemon.socket, "run", "--kind", "microvm", "--network", "none"]
    command = [*base, "--rm", "busybox", "--", "/bin/true"]
    bench.timed(command)  # makes the kernel's and the image's files
    subprocess.run([*base, "--detach", "--name", "recipe", "busybox", "--", "sleep", "100000"], check=True,
                   stdout=subprocess.DEVNULL)
    pid = daemon.request("GET", "/v1/instances/recipe")["status"]["pid"]
    recipe = Recipe(pid, pathlib.Path(scratch) / "microvm")
    subprocess.run([polder, "--socket", daemon.socket, "stop", "recipe"], check=True, stdout=subprocess.DEVNULL)
    recipe.keep_disks()
    root = next(path for path in recipe.paths.values() if "/images/" in path)
    marks = Marks(daemon.directory / "log")
    times = {name: [] for name in ("whole", "own", "before", "hello", "hand", "hand-hello", "minimal-hello")}
    for round_ in range(runs + 1):
        begin = boottime()
        whole = bench.timed(command)
        end, found = boottime(), marks.take()
        hand_hello, hand = by_hand(recipe, lambda hand: hand.run(["/bin/true"]))
        minimal = by_hand(recipe, Hand.hello, recipe.minimal(root))
        row = {"whole": whole, "own": own_microvm(begin, found, end), "before": (found["QEMU runs"] - begin) * 1000,
               "hello": (found["the guest answers"] - begin) * 1000, "hand": hand, "hand-hello": hand_hello,
               "minimal-hello": minimal}
        for name, value in row.items() if round_ else ():
            times[name].append(value)
    subprocess.run([polder, "--socket", daemon.socket, "rm", "--force", "--purge", "recipe"], stdout=subprocess.DEVNULL)
    report.own("microVM: Polder's own time, of which before exec of QEMU", times["own"], times["before"], "≤ 60 ms")
    report.compare("microVM, /bin/true, no network, with removal", "polder run --rm", times["whole"],
                   "the same QEMU command line by hand", times["hand"], "≤ 1.10×")
    report.compare("microVM, until the guest answers", "polder run", times["hello"], "the same command line by hand",
                   times["hand-hello"], "≤ 1.10×")
    report.compare("QEMU's command line for a microVM, until the guest answers", "ours, by hand", times["hand-hello"],
                   "a minimal one", times["minimal-hello"], "reported")


def logged(path):
    """What a log says without its prefixes: a console comes byte by byte, each in a line of its own marked P."""
    if not path.exists():
        return b""
    parts = [line.split(b" ", 3) for line in path.read_bytes().split(b"\n")]
    return b"".join(part[3] + (b"\n" if part[2] == b"F" else b"") for part in parts if len(part) == 4)


def vm_start(polder, daemon, name, wanted=FIRST_LINE):
    """Starts a VM and waits for something that it says, which polderd writes to the instance's log."""
    begin = boottime()
    subprocess.run([polder, "--socket", daemon.socket, "run", "--detach", "--name", name, "--kind", "vm", "--network", "none",
                    "--memory", "512M", "bench-disk"], check=True, stdout=subprocess.DEVNULL)
    show = daemon.request("GET", f"/v1/instances/{name}")
    log = daemon.directory / "state/instances" / show["assigned"]["uuid"] / "log"
    while wanted not in logged(log):
        time.sleep(0.002 if wanted == FIRST_LINE else 0.05)
        if boottime() - begin > 300:
            raise RuntimeError("the virtual machine says nothing")
    return begin, boottime(), show["status"]["pid"]


def measure_vm(bench, daemon, polder, report, runs, scratch, disk):
    subprocess.run([polder, "--socket", daemon.socket, "image", "import", disk, "--name", "bench-disk"], check=True,
                   stdout=subprocess.DEVNULL)
    _, _, pid = vm_start(polder, daemon, "recipe")
    recipe = Recipe(pid, pathlib.Path(scratch) / "vm")
    recipe.keep_disks()
    remove = [polder, "--socket", daemon.socket, "rm", "--force", "--purge"]
    subprocess.run([*remove, "recipe"], check=True, stdout=subprocess.DEVNULL)
    marks = Marks(daemon.directory / "log")
    times = {name: [] for name in ("first", "own", "hand", "minimal")}
    for round_ in range(runs + 1):
        begin, first, _ = vm_start(polder, daemon, "measured")
        found = marks.take()
        subprocess.run([*remove, "measured"], check=True, stdout=subprocess.DEVNULL)
        row = {"first": (first - begin) * 1000, "own": (found["QEMU runs"] - begin) * 1000,
               "hand": by_hand(recipe, Hand.first_line),
               "minimal": by_hand(recipe, Hand.first_line, recipe.minimal(disk))}
        for name, value in row.items() if round_ else ():
            times[name].append(value)
    whole = {"ours": [], "hand": []}
    for _ in range(min(runs, WHOLE_RUNS)):
        begin, prompt, _ = vm_start(polder, daemon, "measured", PROMPT)
        subprocess.run([*remove, "measured"], check=True, stdout=subprocess.DEVNULL)
        whole["ours"].append((prompt - begin) * 1000)
        whole["hand"].append(by_hand(recipe, Hand.prompt))
    report.own("VM: Polder's own time, all of it before exec of QEMU", times["own"], None, "≤ 60 ms")
    report.compare("VM, until its boot loader's first line", "polder run", times["first"],
                   "the same QEMU command line by hand", times["hand"], "reported")
    report.compare("VM, the whole boot, until it asks for a login", "polder run", whole["ours"],
                   "the same QEMU command line by hand", whole["hand"], "≤ 1.10×")
    report.compare("QEMU's command line for a VM, until its boot loader's first line", "ours, by hand", times["hand"], "a minimal one",
                   times["minimal"], "reported")
