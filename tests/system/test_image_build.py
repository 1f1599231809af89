# SPDX-License-Identifier: GPL-2.0-or-later
"""What `polder image build` makes: is it well-formed, and does it start on a bare QEMU.

The Debian disk is built once and kept in POLDER_TEST_CACHE (else a temporary directory); a disk that is there already
is used as it is. Nothing here is timed: every wait ends when its condition holds or its generous deadline passes.
"""
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time

import pytest

LIBEXEC = os.environ.get("POLDER_LIBEXEC_DIR") or os.path.join(os.path.dirname(__file__), "../../libexec")
OVMF_CODE, OVMF_VARS = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
BOOT_DEADLINE = 420
MAC = "52:54:00:00:aa:01"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMt2n0ZtZVd3T2Zt0a8h2Xq8iXyqv9o0k5lD0VtqPolD test@polder"
PROGRESS = re.compile(r"progress (\d{1,3}) \S.*")


def need(*names):
    for name in names:
        if not (os.path.exists(name) if name.startswith("/") else
                shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")):
            pytest.skip(f"{name} is not installed")


def build(name, *arguments, deadline=1800):
    return subprocess.run([os.path.join(LIBEXEC, name), *arguments], timeout=deadline, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def check_progress(result):
    """Only progress lines on stdout, never backwards, the last one is 100."""
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    percents = [int(PROGRESS.fullmatch(line).group(1)) for line in lines]
    assert percents == sorted(percents) and percents[-1] == 100


# ---- busybox ----

@pytest.fixture(scope="module")
def busybox(tmp_path_factory):
    need("bsdtar", "busybox")
    place = tmp_path_factory.mktemp("busybox")
    check_progress(build("polder-build-busybox", "--output", str(place)))
    return place


def test_busybox_tree(busybox):
    with tarfile.open(busybox / "rootfs.tar") as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        assert all(member.uid == 0 for member in members.values())
        assert members["tmp"].mode & 0o7777 == 0o1777
        assert members["root"].mode & 0o7777 == 0o700
        assert members["etc/shadow"].mode & 0o7777 == 0o640
        for directory in ("bin", "sbin", "dev", "proc", "sys", "usr/bin"):
            assert members[directory].isdir()
        assert members["bin/sh"].issym() and members["bin/sh"].linkname == "busybox"
        assert members["usr/bin/env"].linkname == "../../bin/busybox"
        assert tar.extractfile("./etc/passwd").read().startswith(b"root:x:0:0:")
        assert b"hosts: files dns" in tar.extractfile("./etc/nsswitch.conf").read()


def test_busybox_runs(busybox, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    subprocess.run(["tar", "-xpf", busybox / "rootfs.tar", "-C", tmp_path], check=True)
    script = "id -un && env -i /usr/bin/env true && ls -d /tmp && echo fine | grep fine"
    done = subprocess.run(["chroot", tmp_path, "/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "root\n/tmp\nfine\n"


def test_busybox_is_reproducible(busybox, tmp_path):
    check_progress(build("polder-build-busybox", "--output", str(tmp_path)))
    assert (tmp_path / "rootfs.tar").read_bytes() == (busybox / "rootfs.tar").read_bytes()
    assert os.listdir(tmp_path) == ["rootfs.tar"]


# ---- wrong arguments ----

@pytest.mark.parametrize("program, arguments, status, message", [
    ("polder-build-busybox", ["--output"], 2, "--output needs a value"),
    ("polder-build-busybox", ["--wrong"], 2, "--wrong"),
    ("polder-build-busybox", ["--output", "/nowhere/at/all"], 1, "not a directory"),
    ("polder-build-busybox", ["--output", "PLACE", "--busybox", "/nowhere"], 1, "busybox-static"),
    ("polder-build-debian", ["--output", "PLACE"], 2, "--suite"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "../bookworm"], 2, "--suite"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "nosuchrelease", "--wrong"], 2, "--wrong"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "bookworm", "--kernel", "x"], 2, "--kernel"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "bookworm", "--variant", "x"], 2, "--variant"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "bookworm", "--include", "a;b"], 2, "--include"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "bookworm", "--size", "1G"], 2, "--size"),
    ("polder-build-debian", ["--output", "PLACE", "--suite", "bookworm", "--size", "9999999G"], 2, "--size"),
    ("polder-build-debian", ["--output", "/nowhere/at/all", "--suite", "bookworm"], 1, "not a directory"),
])
def test_refuses(program, arguments, status, message, tmp_path):
    result = build(program, *[str(tmp_path) if argument == "PLACE" else argument for argument in arguments])
    assert result.returncode == status
    assert message in result.stderr
    assert os.listdir(tmp_path) == []


# ---- Debian ----

@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    place = os.environ.get("POLDER_TEST_CACHE")
    if not place:
        return str(tmp_path_factory.mktemp("cache"))
    os.makedirs(place, exist_ok=True)
    return place


@pytest.fixture(scope="module")
def debian(cache, tmp_path_factory):
    """Paths of (disk.qcow2, rootfs.tar)."""
    disk, rootfs = os.path.join(cache, "debian-bookworm-cloud.qcow2"), os.path.join(cache, "debian-bookworm.tar")
    if os.path.exists(disk) and os.path.exists(rootfs):
        return disk, rootfs
    if os.geteuid() != 0:
        pytest.skip("building Debian needs root")
    need("mmdebstrap", "mkfs.ext4", "mkfs.vfat", "mcopy", "sfdisk", "grub-mkimage", "qemu-img",
         "/usr/lib/grub/i386-pc/boot.img", "/usr/lib/grub/x86_64-efi/moddep.lst")
    place = tmp_path_factory.mktemp("debian")
    check_progress(build("polder-build-debian", "--suite", "bookworm", "--output", str(place), "--variant", "both"))
    assert sorted(os.listdir(place)) == ["disk.qcow2", "rootfs.tar"]
    shutil.move(place / "rootfs.tar", rootfs)
    shutil.move(place / "disk.qcow2", disk)
    return disk, rootfs


@pytest.mark.slow
def test_debian_container(debian):
    with tarfile.open(debian[1]) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        sources = tar.extractfile("./etc/apt/sources.list").read().decode()
    assert members["tmp"].mode & 0o7777 == 0o1777
    assert members["etc/shadow"].gid == 42
    assert "etc/resolv.conf" not in members and "etc/hostname" not in members and "etc/machine-id" not in members
    assert not [name for name in members if "mmdebstrap" in name or re.match(r"(dev|proc|sys)/.", name)]
    assert not [name for name in members if name.startswith("usr/share/man/man")]
    assert re.search(r"^deb .*bookworm main", sources, re.M) and "@" not in sources


@pytest.mark.slow
def test_debian_partitions(debian, tmp_path):
    need("sfdisk", "qemu-img")
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", debian[0], raw], check=True)
    table = json.loads(subprocess.run(["sfdisk", "-J", raw], check=True, capture_output=True).stdout)["partitiontable"]
    assert table["label"] == "gpt"
    assert [part["type"] for part in table["partitions"]] == [
        "21686148-6449-6E6F-744E-656564454649",  # BIOS boot
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",  # EFI system
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",  # root, x86-64
    ]
    start = table["partitions"][2]["start"] * 512
    subprocess.run(["sfdisk", "--verify", "--quiet", raw], check=True)
    subprocess.run(["e2fsck", "-fn", f"{raw}?offset={start}"], check=True, capture_output=True)
    with open(raw, "rb") as disk:
        assert disk.read(512)[0x66:0x68] == b"\x90\x90"
        disk.seek(start + 1024 + 120)
        assert disk.read(16).rstrip(b"\0") == b"root"


class Guest:
    """One QEMU q35 with the serial console in a file and the guest agent on a socket."""

    def __init__(self, disk, place, firmware, seed):
        self.place = place
        self.serial = place / "serial"
        self.serial.touch()
        overlay = place / "overlay.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay, "6G"], check=True)
        command = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "768M", "-nodefaults",
            "-no-user-config", "-display", "none", "-device", "VGA",
            "-drive", f"if=none,id=d0,format=qcow2,cache=unsafe,file={overlay}",
            "-device", "virtio-blk-pci,drive=d0,bootindex=1",
            "-netdev", "user,id=n0,restrict=on",
            "-device", "virtio-net-pci,netdev=n0,romfile=,mac=" + MAC,
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
            "-chardev", f"socket,id=ga,path={place}/ga,server=on,wait=off", "-serial", f"file:{self.serial}",
        ]
        if firmware == "ovmf":
            shutil.copy(OVMF_VARS, place / "vars.fd")
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}",
                        "-drive", f"if=pflash,format=raw,file={place}/vars.fd"]
        if seed:
            command += ["-drive", "if=none,id=seed,readonly=on,format=raw,file.driver=vvfat,"
                        f"file.dir={seed},file.label=cidata", "-device", "virtio-blk-pci,drive=seed"]
        with open(place / "qemu.err", "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
        self.agent, self.buffer = None, b""

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def alive(self):
        assert self.process.poll() is None, (self.place / "qemu.err").read_text()

    def connect(self):
        """The request waits in the channel until the agent starts, so it is sent once."""
        deadline = time.monotonic() + BOOT_DEADLINE
        while not self.agent:
            self.alive()
            assert time.monotonic() < deadline
            agent = socket.socket(socket.AF_UNIX)
            try:
                agent.connect(str(self.place / "ga"))
                self.agent = agent
            except OSError:
                agent.close()
                time.sleep(0.1)
        assert self.ask("guest-sync", deadline=BOOT_DEADLINE, id=4711) == 4711

    def ask(self, command, deadline=120, **arguments):
        self.agent.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        end = time.monotonic() + deadline
        while b"\n" not in self.buffer:
            self.alive()
            self.agent.settimeout(max(0.1, end - time.monotonic()))
            self.buffer += self.agent.recv(65536)
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply = json.loads(line)
        assert "return" in reply, reply
        return reply["return"]

    def shell(self, script, deadline=180):
        pid = self.ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})["pid"]
        end = time.monotonic() + deadline
        while True:
            status = self.ask("guest-exec-status", pid=pid)
            if status["exited"]:
                return status["exitcode"], base64.b64decode(status.get("out-data", "")).decode()
            assert time.monotonic() < end, script
            time.sleep(0.5)

    def wait_serial(self, pattern):
        end = time.monotonic() + BOOT_DEADLINE
        while not re.search(pattern, self.serial.read_text(errors="replace")):
            self.alive()
            assert time.monotonic() < end, self.serial.read_text(errors="replace")[-2000:]
            time.sleep(0.5)


@pytest.fixture
def boot(debian, tmp_path):
    need("qemu-system-x86_64", "qemu-img")
    guests = []

    def start(firmware, seed=None):
        if firmware == "ovmf":
            need(OVMF_CODE, OVMF_VARS)
        guests.append(Guest(debian[0], tmp_path, firmware, seed))
        return guests[-1]

    yield start
    for guest in guests:
        guest.close()


@pytest.fixture
def seed(tmp_path):
    place = tmp_path / "seed"
    place.mkdir()
    (place / "meta-data").write_text("instance-id: one\nlocal-hostname: web-1\n")
    # By hardware address: cloud-init 22.4 takes any other match for the name of the card.
    (place / "network-config").write_text(
        "version: 2\nethernets:\n  card:\n    match: {macaddress: '%s'}\n    addresses: [10.0.2.77/24]\n"
        "    gateway4: 10.0.2.2\n    nameservers: {addresses: [10.0.2.3]}\n" % MAC)
    (place / "user-data").write_text(
        "#cloud-config\nusers:\n  - name: alice\n    sudo: ALL=(ALL) NOPASSWD:ALL\n    shell: /bin/bash\n"
        f"    ssh_authorized_keys: ['{KEY}']\n"
        "write_files:\n  - {path: /etc/written, content: 'yes', owner: 'alice:alice', defer: true}\n"
        "runcmd:\n  - [sh, -c, 'id -un > /var/lib/ran']\n")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_debian_boots_with_seed(firmware, boot, seed):
    guest = boot(firmware, seed)
    guest.connect()
    assert guest.ask("guest-get-host-name")["host-name"] == "web-1"
    assert guest.shell("test -d /sys/firmware/efi")[0] == (0 if firmware == "ovmf" else 1)
    assert guest.shell("cat /home/alice/.ssh/authorized_keys")[1].strip() == KEY
    assert guest.shell("runuser -u alice -- sudo -n id -u") == (0, "0\n")
    guest.wait_serial(r"web-1 login:")
    assert guest.shell("cloud-init status --wait", deadline=BOOT_DEADLINE)[1].strip(" .\n") == "status: done"
    assert guest.shell("cat /etc/written; stat -c ' %U' /etc/written; cat /var/lib/ran")[1] == "yes alice\nroot\n"
    assert guest.shell("test -z \"$(systemctl --failed --quiet --plain --no-legend)\"")[0] == 0
    cards = guest.ask("guest-network-get-interfaces")
    assert "10.0.2.77" in [address["ip-address"] for card in cards for address in card.get("ip-addresses", [])]
    assert guest.shell("resolvectl dns | grep -c 10.0.2.3")[1] == "1\n"
    assert guest.shell("ss -Hltn sport = :22 | grep -c 0.0.0.0 && ls /etc/ssh/ssh_host_ed25519_key")[0] == 0
    # The overlay is larger than the image: the root has grown with it.
    assert int(guest.shell("df --output=size -BM / | tail -n 1")[1].strip(" M\n")) > 5500


@pytest.mark.slow
def test_debian_boots_without_seed(boot):
    guest = boot("seabios")
    guest.wait_serial(r"debian login:")
    guest.connect()
    assert re.fullmatch(r"[0-9a-f]{32}\n", guest.shell("cat /etc/machine-id")[1])
    assert "10.0.2.15" in guest.shell("hostname --all-ip-addresses")[1]
