# SPDX-License-Identifier: GPL-2.0-or-later
"""Full virtual machines through the command and the API.

One Debian is booted for most tests, which run in the order in which they are written: under SeaBIOS and with a shared directory
first, after its QEMU was killed under OVMF and without. A foreign system is memtest86+ from Debian's package, recognised by its
screen."""
import asyncio
import json
import os
import pathlib
import time

import pytest

import apilib
import guestlib
from polderlib import DEADLINE, eventually, file_sizes

MEMTEST = pathlib.Path("/usr/lib/memtest86+/memtest86+x64.iso")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ2kG0mXyYvV3c2p5cZr9oZkW8JtYf1b0oJm0qGm1Qd somebody@here"
USER_DATA = """#cloud-config
users:
  - default
  - name: ada
    groups: sudo
write_files:
  - path: /etc/from-user-data
    content: it was read
"""
SIZE = 256 << 10  # of the log

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")]


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        daemon.polder("image", "import", guestlib.debian_disk(packages=guestlib.RUNTIME + guestlib.TESTING), "--name", "debian")
        yield daemon


@pytest.fixture(scope="module")
def debian(host):
    """The name of the VM that most tests share."""
    host.create("debian", start=True, kind="vm", image="debian", memory="640M", cpus=1, hostname="tower", graphics=True,
                log_size=SIZE, ssh_keys=[KEY], user_data=USER_DATA, disk="5G", publish=[{"host_port": 2222, "port": 22}],
                mounts=[{"type": "bind", "source": str(host.share), "target": "/share"},
                        {"type": "bind", "source": str(host.share), "target": "/fixed", "read_only": True}])
    host.wait_agent("debian")
    host.execute("debian", "systemctl", "is-system-running", "--wait", status=None)
    return "debian"


def pid_of(host, name):
    return host.instance(name)["status"]["pid"]


def inside(host, name, script):
    """A number that a shell script prints in the guest."""
    return float(host.execute(name, "sh", "-c", script))


def memory_inside(host, name):
    return int(inside(host, name, "awk '/MemTotal/ {print $2}' /proc/meminfo")) << 10


def test_boots_under_seabios_and_runs_commands(host, debian):
    assert host.execute(debian, "sh", "-c", "test -d /sys/firmware/efi && echo efi || echo bios") == "bios\n"
    done = host.polder("exec", debian, "--", "sh", "-c", "echo out; echo err >&2; exit 9", status=9)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    for words, status, wanted in [(["nosuch"], 127, "polder: 'nosuch' is not found in the instance\n"), (["/no/such"], 127, "not found"),
                                  (["/etc/passwd"], 126, "Permission denied")]:
        told = host.polder("exec", debian, "--", *words, status=status).stderr
        assert wanted in told and len(told.splitlines()) == 1, told
    # A variable's name may look like an option.
    shown = host.polder("exec", "-e", "-X=1", "-e", "A=b", debian, "--", "env").stdout.splitlines()
    assert {"-X=1", "A=b"} <= set(shown), shown
    assert host.polder("exec", "--interactive", debian, "--", "wc", "-c", stdin=None, input="x" * 10000).stdout.strip() == "10000"
    # Whose, where, with what; and docker's codes for what cannot be run.
    done = host.polder("exec", "-u", "daemon", "-w", "/var/tmp", "-e", "WORD=a b", debian, "--", "sh", "-c", "id -un; pwd; echo \"$WORD\"")
    assert done.stdout == "daemon\n/var/tmp\na b\n"
    assert "/no/such" in host.polder("exec", debian, "--", "/no/such", status=127).stderr
    assert host.polder("exec", debian, "--", "/etc/passwd", status=126).stderr
    assert "/missing" in host.polder("exec", "-w", "/missing", debian, "--", "pwd", status=126).stderr


def test_seed_sets_name_user_key_and_network(host, debian):
    assert host.execute(debian, "hostname") == "tower\n"
    assert host.execute(debian, "cat", "/home/debian/.ssh/authorized_keys").strip() == KEY
    assert host.execute(debian, "id", "-nG", "ada").split() == ["ada", "sudo"]
    assert host.execute(debian, "cat", "/etc/from-user-data") == "it was read"
    address = host.instance(debian)["assigned"]["address"]
    assert f" {address}/" in host.execute(debian, "ip", "-o", "-4", "address", "show", "eth0")


def test_disk_has_the_asked_size(host, debian):
    blocks, size = host.execute(debian, "stat", "-f", "-c", "%b %S", "/").split()
    assert int(blocks) * int(size) > 4 << 30


def test_list_tells_kind_state_and_address(host, debian):
    row = next(row for row in json.loads(host.polder("ls", "--output", "json").stdout) if row["name"] == debian)
    address = host.instance(debian)["assigned"]["address"]
    assert row["assigned"]["kind"] == "vm" and row["status"]["state"] == "running"
    eventually(lambda: address in host.instance(debian)["status"]["addresses"], 120, "the address that the guest agent tells")


def test_cp_both_ways(host, debian, tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "there").write_bytes(data)
    host.polder("cp", tmp_path / "there", f"{debian}:/root")
    host.polder("cp", f"{debian}:/root/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_cp_tells_what_is_wrong(host, debian, tmp_path):
    (tmp_path / "there").write_text("x")
    assert host.polder("cp", f"{debian}:/root/absent", tmp_path, status=1).stderr == "polder: there is no file '/root/absent'\n"
    assert host.polder("cp", tmp_path / "there", f"{debian}:/absent/", status=1).stderr == "polder: there is no directory '/absent/'\n"
    assert host.polder("cp", f"{debian}:/etc/fstab", f"{tmp_path}/fstab").stderr == "" and (tmp_path / "fstab").exists()


def test_cp_is_bounded_by_the_disk_alone(host, debian, tmp_path):
    """/run, where the files of commands are, is a small part of the memory. The guest agent needs a little of it, too."""
    host.polder("exec", debian, "--", "sh", "-c", "head -c 4G /dev/zero > /run/filled; truncate -s -262144 /run/filled")
    try:
        data = os.urandom(1_000_000)
        (tmp_path / "there").write_bytes(data)
        host.polder("cp", tmp_path / "there", f"{debian}:/root/beside")
        host.polder("cp", f"{debian}:/root/beside", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
    finally:
        host.polder("exec", debian, "--", "rm", "/run/filled")
    eventually(lambda: host.execute(debian, "sh", "-c", "ls /var/tmp | grep polder-exec; true") == "", DEADLINE, "an empty /var/tmp")


def test_shared_directory(host, debian):
    (host.share / "from-host").write_text("hello\n")
    assert host.execute(debian, "cat", "/share/from-host") == "hello\n"
    host.execute(debian, "sh", "-c", "echo there > /share/from-guest")
    assert (host.share / "from-guest").read_text() == "there\n"
    # The host keeps it from being written to, whatever the guest's root makes of the mount.
    assert host.execute(debian, "cat", "/fixed/from-host") == "hello\n"
    for before in ("true", "mount -o remount,rw /fixed"):
        assert host.polder("exec", debian, "--", "sh", "-c", f"{before}; touch /fixed/new", status=None).returncode != 0, before
    assert not (host.share / "new").exists()


def test_serial_console_asks_for_a_login(host, debian):
    async def attend():
        async with apilib.connect(host.socket, f"/v1/instances/{debian}/console") as stream:
            seen = b""
            await stream.send(b"\0\n")
            while b"login:" not in seen:
                message = await asyncio.wait_for(stream.recv(), DEADLINE * 2)
                seen += message[1:] if isinstance(message, bytes) else b""
            return seen
    assert b"tower login:" in asyncio.run(attend())
    assert "login:" in host.polder("logs", debian).stdout


def test_vnc_gives_a_picture(host, debian):
    banner, colours = asyncio.run(guestlib.screenshot(host, debian))
    assert banner == b"RFB 003.008\n" and sum(colours.values()) >= 640 * 400


def test_jail(host, debian):
    guestlib.check_jail(host, debian)


# ---- limits ----

def test_sizes_are_what_was_asked(host, debian):
    assert inside(host, debian, "nproc") == 1
    assert 0.75 * (640 << 20) < memory_inside(host, debian) <= 640 << 20
    assert guestlib.cpu_limit(host, debian) == 1


def test_set_changes_limits_of_a_running_vm(host, debian):
    whole = memory_inside(host, debian)
    host.polder("set", debian, "--cpus", "0.5", "--memory", "512M", "--io-write", "2M")
    assert guestlib.cpu_limit(host, debian) == 0.5
    assert memory_inside(host, debian) <= whole - (100 << 20)
    # The same bytes with and without the limit: 8 MiB at 2 MiB/s take four seconds, less what may come in a burst.
    write = ("read a x </proc/uptime; dd if=/dev/zero of=/root/zeros bs=256k count=32 oflag=direct 2>/dev/null; "
             "read b x </proc/uptime; rm /root/zeros; echo $a $b | awk '{print $2 - $1}'")
    assert inside(host, debian, write) > 2
    host.polder("set", debian, "--io-read", "2M")
    read = ("read a x </proc/uptime; dd if=/dev/vda of=/dev/null bs=256k count=32 iflag=direct 2>/dev/null; "
            "read b x </proc/uptime; echo $a $b | awk '{print $2 - $1}'")
    assert inside(host, debian, read) > 2
    host.polder("set", debian, "--cpus", "1", "--memory", "640M", "--io-write", "0", "--io-read", "0")
    assert guestlib.cpu_limit(host, debian) == 1
    eventually(lambda: memory_inside(host, debian) == whole, what="its memory to come back")


@pytest.mark.parametrize("words, field", [(["--cpus", "2"], "CPUs"), (["--memory", "1G"], "memory"), (["--pids-limit", "100"], "pids"),
                                          (["--disk", "6G"], "disk")])
def test_what_a_running_vm_cannot_change_is_refused(host, debian, words, field):
    before = host.instance(debian)["spec"]
    done = host.polder("set", debian, *words, status=None)
    assert done.returncode != 0 and field in done.stderr, done
    assert host.instance(debian)["spec"] == before


# ---- what a guest tells ----

def test_escapes_of_a_guest_reach_no_terminal(host, debian):
    evil = "web\x1b]0;owned\x07\x1b[2J"
    host.execute(debian, "python3", "-c", f"import socket; socket.sethostname({evil!r})")
    name = eventually(lambda: (found := host.instance(debian)["status"]["hostname"]).startswith("web") and found, 300,
                      "the name that the guest agent tells")
    assert name.isprintable() and "owned" in name, name
    host.execute(debian, "sh", "-c", r"printf 'before \033]52;c;aGk=\007\033[31mafter\n' > /dev/ttyS0")
    eventually(lambda: "after" in host.polder("logs", debian).stdout, what="the line in the log")
    for words in (["ls"], ["ls", "--output", "wide"], ["show", debian], ["logs", "--tail", "20", debian]):
        shown = guestlib.on_terminal(host, *words)
        assert not any(text in shown for text in ("\x1b]", "\x1b[31m", "\x1b[2J", "\x07")), (words, shown)
    host.execute(debian, "hostname", "tower")


# ---- the network of all three kinds ----

@pytest.fixture(scope="module")
def neighbours(host, debian):
    """A microVM, a container and the VM, each with a web server that says its name."""
    serve = "mkdir -p /www; echo {0} > /www/index.html; exec httpd -f -h /www"
    for name, kind in (("micro", "microvm"), ("box", "container")):
        host.polder("run", "--detach", "--kind", kind, "--name", name, "--publish", f"{8080 if kind == 'microvm' else 8081}:80",
                    "busybox", "--", "sh", "-c", serve.format(name))
    host.execute(debian, "sh", "-c", f"mkdir -p /www; echo {debian} > /www/index.html; "
                 "systemd-run --quiet python3 -m http.server --directory /www 80")
    fetch = ["timeout", "20", "wget", "-q", "-O", "-"]  # wget -T crashes in Debian's busybox
    yield {"micro": fetch, "box": fetch,
           debian: ["python3", "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"]}
    host.polder("rm", "--force", "--purge", "micro", "box")


@pytest.mark.parametrize("source", ["micro", "box", "debian"])
@pytest.mark.parametrize("target", ["micro", "box", "debian"])
def test_kinds_reach_each_other_by_name(host, neighbours, source, target):
    # A machine's own name is also its host name, which it may know as 127.0.0.1: that too reaches it.
    answer = eventually(lambda: host.polder("exec", source, "--", *neighbours[source], f"http://{target}/", status=None).stdout,
                        120, "an answer")
    assert answer == f"{target}\n"


@pytest.mark.parametrize("port, name", [(8080, "micro"), (8081, "box")])
def test_published_ports(host, neighbours, port, name):
    fetch = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{0}/', timeout=20).read().decode(), end='')"
    assert host.host("python3", "-c", fetch.format(port)).stdout == f"{name}\n"


def test_published_port_of_the_vm_is_its_ssh(host, debian):
    ask = "import socket; print(socket.create_connection(('127.0.0.1', 2222), 30).recv(8).decode())"
    assert host.host("python3", "-c", ask).stdout.startswith("SSH-2.0")


# ---- life ----

@pytest.fixture(scope="module")
def counter(host, debian):
    host.execute(debian, "systemd-run", "--quiet", "sh", "-c", guestlib.Counter.SCRIPT)
    counter = guestlib.Counter(host, debian)
    counter.wait_above(0)
    return counter


def test_pause_and_resume(host, debian, counter):
    host.polder("pause", debian)
    assert host.state_of(debian) == "paused"
    # The list answers from memory while the guest can say nothing.
    assert debian in host.polder("ls", "--quiet", timeout=5).stdout
    host.polder("resume", debian)
    counter.wait_above(counter.value())


def test_suspend_with_a_shared_directory_is_refused(host, debian, counter):
    done = host.polder("suspend", debian, status=None)
    assert done.returncode != 0 and "host directories" in done.stderr, done
    assert host.state_of(debian) == "running"
    counter.wait_above(counter.value())


def test_killed_daemon_adopts_and_the_log_stays_bounded(host, debian, counter):
    mark = host.share / "mark"
    # "a", as nothing else: each line that the console took leaves a byte in the shared directory.
    host.execute(debian, "systemd-run", "--quiet", "--unit", "printer", "sh", "-c",
                 "while :; do yes 'a line that is printed for ever' | head -c 16384 > /dev/ttyS0; printf a >> /share/mark; done")
    eventually(lambda: mark.exists() and mark.stat().st_size >= 4, 180, "64 KiB on the console")
    before, pid = counter.value(), pid_of(host, debian)
    host.kill9()
    time.sleep(5)
    host.start()
    assert host.state_of(debian) == "running" and pid_of(host, debian) == pid
    counter.wait_above(before)
    uuid = host.instance(debian)["assigned"]["uuid"]
    eventually(lambda: mark.stat().st_size >= 4 * SIZE / 16384, 300, "four times the log's size on the console")
    host.execute(debian, "systemctl", "stop", "printer")
    for place in (host.state / "instances" / uuid, host.run / "i" / uuid):
        sizes = file_sizes(place, without=["disk", "seed", "firmware"])
        assert sum(sizes.values()) <= 2 * SIZE + (1 << 20), sizes
    # The port writes byte by byte, yet the log's entries are lines, but for one here and there that was cut.
    flags = [line.split(b" ")[2:3] for line in (host.state / "instances" / uuid / "log").read_bytes().splitlines()]
    assert 0 < flags.count([b"P"]) + flags.count([b"F"]) and flags.count([b"P"]) < flags.count([b"F"]), flags


def test_killed_qemu_is_reported(host, debian, counter):
    os.kill(pid_of(host, debian), 9)
    host.wait_state(debian, "failed")
    status = host.instance(debian)["status"]
    assert status["pid"] == 0 and "QEMU" in status["message"], status


def test_boots_under_ovmf(host, debian):
    """The same disk, whose file systems were left in the middle of work; without the shared directory."""
    host.change("PATCH", f"/v1/instances/{debian}", {"spec": {"mounts": [], "firmware": "uefi"}})
    host.polder("start", debian)
    host.wait_agent(debian)
    assert host.execute(debian, "sh", "-c", "test -d /sys/firmware/efi && echo efi || echo bios") == "efi\n"
    assert host.execute(debian, "hostname") == "tower\n"
    guestlib.check_jail(host, debian)


def test_suspend_and_resume(host, debian):
    host.execute(debian, "systemd-run", "--quiet", "sh", "-c", guestlib.Counter.SCRIPT)
    counter = guestlib.Counter(host, debian)
    before, boot = counter.wait_above(0), host.execute(debian, "cat", "/proc/sys/kernel/random/boot_id")
    pid = pid_of(host, debian)
    host.polder("suspend", debian)
    assert host.state_of(debian) == "suspended" and not guestlib.is_alive(pid)
    asleep = time.monotonic()
    host.restart()
    assert host.state_of(debian) == "suspended"
    time.sleep(max(0, 5 - (time.monotonic() - asleep)))
    host.polder("resume", debian)
    host.wait_agent(debian)
    after = counter.value()
    assert before <= after < before + 1200, (before, after)
    assert host.execute(debian, "cat", "/proc/sys/kernel/random/boot_id") == boot
    assert guestlib.clock_is_right(host, debian)
    counter.wait_above(after)
    guestlib.check_jail(host, debian)


def test_stop_is_a_clean_shutdown(host, debian):
    # Seen by the test behind this one: what a guest writes to the head of its disk is data, even if it looks like another disk.
    header = guestlib.qcow2_that_names("/etc/passwd")
    write = f"import os; os.write(os.open('/dev/vda', os.O_WRONLY | os.O_SYNC), bytes.fromhex('{header.hex()}'))"
    host.execute(debian, "python3", "-c", write)
    host.polder("set", debian, "--stop-timeout", "3m")
    host.polder("stop", debian)
    assert host.state_of(debian) == "stopped"
    assert host.instance(debian)["status"]["exit_code"] == 0
    assert "power" in host.polder("logs", debian).stdout.lower()


def test_disk_whose_head_the_guest_wrote_is_what_it_was(host, debian):
    uuid = host.instance(debian)["assigned"]["uuid"]
    disk = host.state / "instances" / uuid / "disk.qcow2"
    host.polder("start", debian)
    guestlib.check_jail(host, debian)
    assert not any(path.startswith("/etc") for path in guestlib.open_files(host, debian))
    host.polder("stop", "--force", debian)
    found = json.loads(host.host("qemu-img", "info", "--output=json", disk).stdout)
    assert found["format"] == "qcow2" and found["backing-filename"].startswith(str(host.state / "images/disks")), found


def test_rm_leaves_nothing(host, debian):
    uuid = host.instance(debian)["assigned"]["uuid"]
    host.polder("rm", "--purge", debian)
    assert guestlib.processes_of(uuid) == []
    assert not list(host.state.rglob(f"*{uuid}*")) and not list(host.run.rglob(f"*{uuid}*"))
    host.check_clean()


# ---- a foreign system ----

@pytest.fixture(scope="module")
def memtest(host):
    host.polder("image", "import", MEMTEST, "--name", "memtest")
    assert json.loads(host.polder("image", "show", "memtest").stdout)["type"] == "iso"
    return "memtest"


@pytest.mark.parametrize("words", [["memtest"], ["--cdrom", "memtest", "debian"]], ids=["image", "cdrom"])
def test_foreign_system_starts_unmodified(host, memtest, words):
    host.polder("run", "--kind", "vm", "--name", "foreign", "--graphics", "--memory", "128M", "--network", "none", *words)
    try:
        def is_blue():
            _, colours = asyncio.run(guestlib.screenshot(host, "foreign"))
            blue = sum(count for colour, count in colours.items() if colour & 0xffff00 == 0 and colour > 0x80)
            return blue > sum(colours.values()) // 2
        eventually(is_blue, guestlib.BOOT, "memtest86+'s blue screen")
        instance = host.instance("foreign")
        assert instance["status"]["state"] == "running"
        # Without a network there is nothing of one, here or there.
        assert not instance["assigned"].get("address") and instance["status"]["addresses"] == []
        assert "/dev/net/tun" not in guestlib.open_files(host, "foreign")
    finally:
        host.polder("rm", "--force", "--purge", "foreign")


def test_medium_is_checked_and_kept(host, memtest):
    """Beside an image too: it must be there and be an ISO, and while an instance has it, it stays."""
    for words, reason in ((["--cdrom", "nowhere"], "nowhere"), (["--cdrom", "debian"], "ISO")):
        done = host.polder("create", "--kind", "vm", "--name", "holder", *words, "debian", status=None)
        assert done.returncode != 0 and reason in done.stderr, done
    host.polder("create", "--kind", "vm", "--name", "holder", "--cdrom", memtest, "debian")
    digest = host.instance("holder")["assigned"]["cdrom_digest"]
    assert digest == json.loads(host.polder("image", "show", memtest).stdout)["digest"]

    def is_kept():
        done = host.polder("image", "rm", digest, status=None)
        assert done.returncode == 0 or "use" in done.stderr, done
        return done.returncode != 0
    assert is_kept()
    host.restart()
    assert is_kept()
    # Another name is refused if it stands for nothing, and then the old one stays; none at all lets it go.
    host.problem(404, "PATCH", "/v1/instances/holder", {"spec": {"cdrom": "nowhere"}})
    assert is_kept() and host.instance("holder")["assigned"]["cdrom_digest"] == digest
    host.change("PATCH", "/v1/instances/holder", {"spec": {"cdrom": None}})
    assert not host.instance("holder")["assigned"].get("cdrom_digest")
    host.change("PATCH", "/v1/instances/holder", {"spec": {"cdrom": memtest}})
    assert is_kept()
    host.polder("rm", "--purge", "holder")
    assert not is_kept()
