# SPDX-License-Identifier: GPL-2.0-or-later
"""For tests with real machines: a daemon that is alone on a host of its own, and Debian disks that are made once.

POLDER_TEST_CACHE names a directory that is kept between runs (default: /var/cache/polder-check)."""
import asyncio
import collections
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time

import pytest

import apilib
import polderlib
from polderlib import ROOT, eventually

CACHE = pathlib.Path(os.environ.get("POLDER_TEST_CACHE", "/var/cache/polder-check"))
BOOT = max(900, 5 * polderlib.DEADLINE)  # seconds for an emulated Debian on a busy machine

# What polderd needs at run time on a host that only runs containers, and what its tests need.
RUNTIME = ("crun conmon busybox-static dnsmasq-base nftables procps e2fsprogs erofs-utils libarchive-tools libjson-c5 libsqlite3-0 "
           "libarchive13 libnl-3-200 libnl-route-3-200 libnftables1 libseccomp2 libcap-ng0 libisofs6 libwslay1 "
           "libhttp-parser2.9 libsmartcols1 libnettle8 libkmod2").split()
TESTING = "python3-pytest meson ninja-build libcmocka0".split()
# What the whole suite takes, but for machines; and what else rules over a host's network.
SUITE = ("skopeo docker-registry qemu-utils jq socat bsdextrautils strace sqlite3 python3-jsonschema python3-websockets python3-yaml "
         "gcc libc6-dev binutils zsh fish apache2-utils openssl zstd man-db xorriso genisoimage curl xz-utils libacl1 zlib1g "
         "libzstd1").split()
FIREWALLS = "docker.io ufw firewalld iptables".split()
FILE_SYSTEMS = "xfsprogs btrfs-progs".split()


def debian_disk(kernel="cloud", packages=()):
    """Path of a bootable Debian disk with these packages; built at the first use and after a change of the builder."""
    builder = ROOT / "libexec/polder-build-debian"
    key = hashlib.sha256(builder.read_bytes() + json.dumps([kernel, sorted(packages)]).encode()).hexdigest()[:16]
    target = CACHE / "debian" / f"{kernel}-{key}.qcow2"
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                command = [builder, "--suite", "bookworm", "--variant", "disk", "--kernel", kernel, "--output", directory]
                done = subprocess.run(command + (["--include", ",".join(packages)] if packages else []), text=True,
                                      stdin=subprocess.DEVNULL, capture_output=True, check=False)
                assert done.returncode == 0, done.stderr[-3000:]
                (pathlib.Path(directory) / "disk.qcow2").rename(target)
    return target


def ticker(directory):
    """Path of a disk that counts on the serial line and obeys the power button; see data/ticker.S."""
    place = pathlib.Path(directory)
    source = pathlib.Path(__file__).parent / "data/ticker.S"
    subprocess.run(["as", "--32", "-o", place / "ticker.o", source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", place / "ticker.raw", place / "ticker.o"], check=True)
    os.truncate(place / "ticker.raw", 1 << 20)
    return place / "ticker.raw"


def kernel_directory():
    """A directory with boot/vmlinuz-VERSION and lib/modules/VERSION for microVMs, or None: the host's own."""
    named = os.environ.get("POLDER_TEST_KERNEL_DIR")
    if named:
        return pathlib.Path(named)
    kept = sorted(path for path in (CACHE / "kernels").glob("*") if path.is_dir())
    return kept[-1] if kept else None


def kernel_files():
    """(image, modules directory) of the newest kernel for microVMs; skips the test without one."""
    base = kernel_directory() or pathlib.Path("/")
    for image in sorted(base.glob("boot/vmlinuz-*"), reverse=True):
        modules = base / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if modules.is_dir():
            return image, modules
    return pytest.skip("no kernel with modules")


def kernel_image(host, place, name, break_it=False):
    """Imports a root file system of busybox that brings a kernel with its modules."""
    image, modules = kernel_files()
    root = place / name
    subprocess.run([ROOT / "libexec/polder-build-busybox", "--output", place], check=True, capture_output=True)
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", place / "rootfs.tar"], check=True)
    (root / "boot").mkdir(exist_ok=True)
    shutil.copy(image, root / "boot" / image.name)
    (root / "usr/lib").mkdir(parents=True, exist_ok=True)
    where = root / ("lib" if (root / "lib").is_dir() and not (root / "lib").is_symlink() else "usr/lib")
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    shutil.copytree(modules, where / "modules" / modules.name, symlinks=True, ignore=shutil.ignore_patterns("build", "source", "sound", "gpu"))
    if break_it:
        (where / "modules" / modules.name / "modules.dep.bin").write_bytes(b"no index")
    archive = place / f"{name}.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    host.polder("image", "import", archive, "--name", name, timeout=600)
    return modules.name


def made_files(host):
    """What was made of kernels and images for microVMs: path, inode and time of change."""
    places = [host.state / "kernels/.made", host.state / "images/erofs", host.state / "images/kernels"]
    found = {path: path.stat() for place in places for path in place.rglob("*") if path.is_file()}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items()}


class HostDaemon(polderlib.Daemon):
    """polderd with its drivers and its network, in a mount and a network namespace that outlive it, as a host's do.

    What is in `share` may be mounted into instances."""

    def __init__(self, **options):
        super().__init__(tempfile.mkdtemp(prefix="ph-", dir="/tmp"), fake=False, network=True, **options)
        self.share = self.directory / "share"
        self.share.mkdir()
        self.arguments += ["--mount-roots", str(self.share)]
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c",
             "ip link set lo up; echo; exec sleep infinity"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.holder.stdout.readline()
        self.inside = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]
        kernel = kernel_directory()
        if kernel:
            (self.state / "kernels").mkdir(parents=True)
            (self.state / "kernels" / kernel.name).symlink_to(kernel)

    def command(self):
        return [*self.inside, *super().command()]

    # ---- the command ----

    def polder(self, *arguments, status=0, timeout=BOOT, **options):
        """Runs the command; returns the finished process with text output. status None: any."""
        options.setdefault("stdin", subprocess.DEVNULL)
        if "--kind" in arguments:
            self.may_run(arguments[arguments.index("--kind") + 1])
        done = subprocess.run([polderlib.build_directory() / "src/cli/polder", *map(str, arguments)], capture_output=True,
                              text=True, errors="replace", timeout=timeout, env=self.command_environment(), check=False, **options)
        if status is not None:
            assert done.returncode == status, f"polder {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def command_environment(self):
        return {**os.environ, "POLDER_SOCKET": str(self.socket), "NO_COLOR": "1", "LC_ALL": "C.UTF-8",
                "ASAN_OPTIONS": "detect_leaks=0"}

    def execute(self, name, *command, status=0, **options):
        """Runs a command in an instance; returns its standard output."""
        return self.polder("exec", name, "--", *command, status=status, **options).stdout

    def wait_agent(self, name):
        """Until commands can be run in a machine that boots."""
        eventually(lambda: self.polder("exec", name, "--", "true", status=None).returncode == 0, BOOT, f"{name}'s guest agent")

    def host(self, *command, **options):
        """Runs a command in the daemon's namespaces, as somebody on that host would."""
        options.setdefault("check", True)
        return subprocess.run([*self.inside, *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=60, **options)

    # ---- the end ----

    def leftovers(self):
        found = super().leftovers()
        for line in pathlib.Path(f"/proc/{self.holder.pid}/mounts").read_text().splitlines():
            if f"{self.directory}/" in line and line.split()[1] not in self.own_mounts():
                found.append(f"mount {line}")
        return [line for line in found if "dnsmasq" not in line]  # it stays until the network is reset

    def close(self, check=True):
        known = set()
        try:
            if self.is_alive():
                known = {instance["assigned"]["uuid"] for instance in self.list("?deleted=true")}
                for identifier in known:
                    self.request("DELETE", f"/v1/instances/{identifier}?force=true&purge=true&wait={polderlib.DEADLINE - 20}s")
                self.request("POST", "/v1/network/reset", {})
            super().close(check)
        finally:
            self.end_everything(known)
            self.holder.stdout.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def end_everything(self, identifiers):
        """Whatever went wrong, no process stays: those of the instances, and those that live in this host's network."""
        if self.is_alive():
            self.kill9()
        own = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        for identifier in identifiers:
            for pid in processes_of(identifier):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/net") == own:
                    os.kill(int(entry.name), signal.SIGKILL)
        self.holder.wait()


@contextlib.contextmanager
def host_daemon(request, **options):
    """For a module's fixture: a started HostDaemon, whose log is shown if a test of the module failed."""
    daemon = HostDaemon(**options)
    before = request.session.testsfailed
    try:
        yield daemon.start()
    finally:
        failed = request.session.testsfailed > before
        if failed:
            print(f"--- {daemon.log_path} ends with:\n{daemon.log()[-12000:]}")
        daemon.close(check=not failed)


class HangingStorage:
    """A FUSE file system at a place of a daemon's host that answers nothing while it hangs; see hangfs.py."""

    def __init__(self, daemon, place):
        self.daemon, self.place = daemon, place
        self.flag = daemon.directory / f"{place.name}-hangs"
        behind = daemon.directory / f"behind-{place.name}"
        for folder in (behind, place):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
        script = pathlib.Path(__file__).parent / "hangfs.py"
        self.process = subprocess.Popen([*daemon.inside, "/usr/bin/python3", script, behind, place, self.flag], stdin=subprocess.DEVNULL)
        eventually(lambda: f" {place} fuse" in pathlib.Path(f"/proc/{daemon.holder.pid}/mounts").read_text(), what="the file system")
        daemon.mounts = [*daemon.own_mounts(), str(place)]

    def hang(self):
        self.flag.touch()

    def go_on(self):
        self.flag.unlink(missing_ok=True)


class Counter:
    """A number that something inside a guest writes to a file again and again."""

    SCRIPT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.1; done"
    place = "/tmp/count"

    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name

    def value(self):
        text = self.daemon.polder("exec", self.name, "--", "cat", self.place, status=None).stdout.strip()
        return int(text) if text.isdigit() else 0

    def wait_above(self, number, deadline=120):
        def above():
            value = self.value()
            return value if value > number else None
        return eventually(above, deadline, f"{self.name} to count above {number}")


def clock_is_right(daemon, name, tolerance=2):
    """The guest's wall clock is the host's, as far as asking takes."""
    before = time.time()
    inside = int(daemon.execute(name, "date", "+%s"))
    return before - tolerance <= inside <= time.time() + tolerance


def is_alive(pid):
    """A zombie is not: a process whose parent died may have an init that does not wait for it."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of(uuid):
    """Ids of the processes in the control groups of an instance."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if uuid in (entry / "cgroup").read_text() and is_alive(entry.name):
                found.append(int(entry.name))
    return found


# ---- what an instance has of the host ----

def group_value(daemon, name, *files):
    """The words of the first of these files that the control groups of an instance have; of all hierarchies."""
    uuid = daemon.instance(name)["assigned"]["uuid"]
    for file in files:
        for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/{uuid}/{file}"):
            return path.read_text().split()
    raise AssertionError(f"none of {files}")


def cpu_limit(daemon, name):
    """Processors that its control group may use; None: as many as there are."""
    words = group_value(daemon, name, "cpu.max", "cpu.cfs_quota_us")
    period = int(words[1]) if len(words) > 1 else int(group_value(daemon, name, "cpu.cfs_period_us")[0])
    return None if words[0] in ("max", "-1") else int(words[0]) / period


def qcow2_that_names(path):
    """The head of a qcow2 disk of version 2 with a backing file: 72 bytes and the name."""
    name = path.encode()
    return struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72, len(name), 16, 1 << 30, 0, 1, 0x30000, 0x10000, 1, 0, 0) + name


def on_terminal(daemon, *words):
    """What the command shows on a terminal of 200 columns, as text; control characters stay."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (50, 200))
    process = subprocess.Popen([polderlib.build_directory() / "src/cli/polder", *map(str, words)], stdin=subprocess.DEVNULL,
                               stdout=inner, stderr=inner, env=daemon.command_environment())
    os.close(inner)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while data := os.read(outer, 65536):
            seen += data
    os.close(outer)
    assert process.wait(polderlib.DEADLINE) == 0, seen
    return seen.decode(errors="replace")


# ---- what QEMU may see of the host ----

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts")


def jail_faults(daemon, name, allowed_files):
    """What is wrong with the jail of an instance's QEMU, as a list of sentences. `allowed_files` are prefixes of the paths
    that it may have open."""
    instance = daemon.instance(name)
    process = pathlib.Path("/proc") / str(instance["status"]["pid"])
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    base = instance["assigned"]["uid_base"]
    wanted = {"Uid": "\t".join([str(base)] * 4), "Gid": "\t".join([str(base)] * 4), "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
              **{f"Cap{kind}": "0" * 16 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}}
    faults = [f"{key} is {status.get(key, '').strip()!r}" for key, value in wanted.items()
              if status.get(key, "").strip() != value]
    faults += [f"its {kind} namespace is not its own" for kind in NAMESPACES for other in (os.getpid(), daemon.pid)
               if os.readlink(process / "ns" / kind) == os.readlink(f"/proc/{other}/ns/{kind}")]
    faults += mount_faults(process) + open_file_faults(process, allowed_files)
    return faults


def mount_faults(process):
    """The root is an empty tmpfs that nobody can write to; beneath it the program, its libraries and firmware, read-only."""
    allowed = ("/usr/lib", "/usr/bin/qemu-system-x86_64", "/usr/share/qemu", "/usr/share/seabios", "/usr/share/OVMF", "/usr/share/ovmf")
    faults = []
    for line in (process / "mountinfo").read_text().splitlines():
        words = line.split()
        target, options, filesystem = words[4], words[5].split(","), words[words.index("-") + 1]
        if target in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/kvm"):
            good = filesystem == "devtmpfs" and "nosuid" in options
        elif target == "/proc":
            good = filesystem == "proc" and "hidepid=invisible" in line
        elif target == "/":
            good = filesystem == "tmpfs" and "ro" in options
        else:
            good = target.startswith(allowed) and {"ro", "nosuid", "nodev"} <= set(options)
        if not good:
            faults.append(f"mount {line}")
    return faults


def open_file_faults(process, allowed_files):
    """It holds no directory, and no file but devices and what was given to it."""
    kinds = ("pipe:", "socket:", "anon_inode:", "/memfd:", "/dev/null", "/null", "/dev/net/tun", "/dev/kvm", "/dev/urandom")
    faults = []
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(entry)
            if os.path.isdir(entry):
                faults.append(f"the directory {target} is open")
            elif not target.startswith((*kinds, *map(str, allowed_files))):
                faults.append(f"{target} is open")
    return faults


def allowed_files(daemon, name):
    """Of one instance: its own directories, and what is shared, which is open for reading only (see can_write)."""
    uuid = daemon.instance(name)["assigned"]["uuid"]
    return [daemon.state / "instances" / uuid, daemon.run / "i" / uuid, daemon.state / "images", daemon.state / "kernels",
            "/usr/share/OVMF", "/usr/share/qemu", "/usr/share/seabios"]


def open_files(daemon, name):
    process = pathlib.Path("/proc") / str(daemon.instance(name)["status"]["pid"])
    return {os.readlink(entry) for entry in (process / "fd").iterdir()}


def writable_files(daemon, name):
    """Paths that QEMU has open for writing, but for devices, pipes and sockets."""
    process = pathlib.Path("/proc") / str(daemon.instance(name)["status"]["pid"])
    found = set()
    for entry in (process / "fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            flags = int(re.search(r"flags:\s+(\d+)", entry.read_text()).group(1), 8)
            target = os.readlink(process / "fd" / entry.name)
            if flags & os.O_ACCMODE != os.O_RDONLY and target.startswith("/") and not target.startswith(("/dev", "/memfd:", "/null")):
                found.add(target)
    return found


FILE_SERVER_CAPABILITIES = sum(1 << number for number in (0, 1, 2, 3, 4, 6, 7, 8, 18, 27, 31))


def file_server_faults(daemon, pid):
    """(what is wrong with the jail of a virtiofsd, may it write to its directory)."""
    process = pathlib.Path("/proc") / str(pid)
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    wanted = {"NoNewPrivs": "1", "Seccomp": "2", "Groups": ""}
    faults = [f"{key} is {status.get(key, '').strip()!r}" for key, value in wanted.items() if status.get(key, "").strip() != value]
    faults += [f"Cap{kind} is {status[f'Cap{kind}']}" for kind in ("Prm", "Eff", "Bnd")
               if int(status[f"Cap{kind}"], 16) & ~FILE_SERVER_CAPABILITIES]
    faults += [f"its {kind} namespace is not its own" for kind in NAMESPACES for other in (os.getpid(), daemon.pid)
               if os.readlink(process / "ns" / kind) == os.readlink(f"/proc/{other}/ns/{kind}")]
    # It changed its root into the shared directory: that mount is all it can reach.
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    shared = [words for words in mounts if words[4] in ("/", "/share") and words[words.index("-") + 1] != "tmpfs"]
    if len(shared) != 1 or not {"nosuid", "nodev"} <= set(shared[0][5].split(",")):
        faults.append(f"its mounts are {mounts}")
    return faults, bool(shared) and "rw" in shared[0][5].split(",")


def check_jail(daemon, name):
    allowed = allowed_files(daemon, name)
    assert jail_faults(daemon, name, allowed) == []
    assert all(path.startswith((str(allowed[0]), str(allowed[1]))) for path in writable_files(daemon, name)), writable_files(daemon, name)


# ---- RFB, as much as a screenshot takes ----

class Screen:
    """A WebSocket with raw RFB bytes."""

    def __init__(self, stream):
        self.stream = stream
        self.data = b""

    async def read(self, size):
        while len(self.data) < size:
            self.data += await asyncio.wait_for(self.stream.recv(), polderlib.DEADLINE)
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    async def begin(self):
        """The banner; afterwards width and height are known."""
        banner = await self.read(12)
        await self.stream.send(b"RFB 003.008\n")
        kinds = await self.read((await self.read(1))[0])
        assert 1 in kinds, kinds
        await self.stream.send(b"\x01")
        assert await self.read(4) == b"\0\0\0\0"
        await self.stream.send(b"\x01")
        head = await self.read(24)
        await self.read(int.from_bytes(head[20:24], "big"))
        self.width, self.height = int.from_bytes(head[0:2], "big"), int.from_bytes(head[2:4], "big")
        # Little-endian 32-bit pixels 00RRGGBB, raw.
        await self.stream.send(b"\0\0\0\0" + bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]))
        await self.stream.send(b"\x02\0\0\x01" + (0).to_bytes(4, "big"))
        return banner

    async def pixels(self):
        """How many pixels there are of each colour, 0xRRGGBB."""
        await self.stream.send(b"\x03\0" + struct.pack(">HHHH", 0, 0, self.width, self.height))
        count = collections.Counter()
        while True:
            if (kind := (await self.read(1))[0]) != 0:
                await self.read({2: 0, 1: 0}[kind])
                continue
            for _ in range(int.from_bytes((await self.read(3))[1:], "big")):
                _, _, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
                assert encoding == 0
                data = await self.read(width * height * 4)
                count.update(value & 0xffffff for (value,) in struct.iter_unpack("<I", data))
            return count


async def screenshot(daemon, name):
    """(banner, colours) of an instance's screen."""
    async with apilib.connect(daemon.socket, f"/v1/instances/{name}/vnc", protocol="binary") as stream:
        screen = Screen(stream)
        banner = await screen.begin()
        return banner, await screen.pixels()
