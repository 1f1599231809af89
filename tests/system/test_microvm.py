# SPDX-License-Identifier: GPL-2.0-or-later
"""MicroVMs through the command and the API: the same OCI image as a container, a life of its own while polderd is away."""
import asyncio
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import termios
import time

import pytest

import apilib
import guestlib
import polderlib
from polderlib import DEADLINE, eventually
from test_cli import Command

COUNT = ["sh", "-c", guestlib.Counter.SCRIPT]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        yield daemon


@pytest.fixture
def microvm(host):
    """microvm(name, options…, command=[…]): a running one, removed at the end."""
    made = []

    def start(name, *options, command=COUNT):
        made.append(name)
        host.polder("run", "--detach", "--kind", "microvm", "--name", name, *options, "busybox", "--", *command)
        return name

    yield start
    for name in made:
        host.polder("rm", "--force", "--purge", name, status=None)


def pid_of(host, name):
    return host.instance(name)["status"]["pid"]


def test_run_gives_output_streams_and_exit_code(host):
    done = host.polder("run", "--rm", "--kind", "microvm", "--env", "WORD=hello", "--user", "65534:65534", "--workdir", "/tmp",
                       "busybox", "--", "sh", "-c", "echo $WORD; id -u; pwd; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("hello\n65534\n/tmp\n", "err\n")
    assert host.list() == []


def test_standard_input_reaches_the_command(host):
    done = host.polder("run", "--rm", "--interactive", "--kind", "microvm", "busybox", "--", "wc", "-c", stdin=None, input="x" * 100000)
    assert done.stdout.strip() == "100000"


def test_same_image_as_a_container(host, microvm):
    microvm("same", command=["sleep", "1000"])
    host.polder("run", "--detach", "--kind", "container", "--name", "box", "busybox", "--", "sleep", "1000")
    try:
        digests = {host.instance(name)["assigned"]["image_digest"] for name in ("same", "box")}
        assert len(digests) == 1
        listing = ["sh", "-c", "cd /; find bin etc usr -type f -o -type l | sort"]
        assert host.execute("same", *listing).count("\n") >= 200
        # Names and resolver are each instance's own.
        own = {"etc/hosts", "etc/hostname", "etc/resolv.conf"}
        assert (set(host.execute("same", *listing).split()) ^ set(host.execute("box", *listing).split())) <= own
        assert "cloud" in host.execute("same", "uname", "-r") and "cloud" not in host.execute("box", "uname", "-r")
    finally:
        host.polder("rm", "--force", "--purge", "box")


def test_exec_and_cp(host, microvm, tmp_path):
    microvm("tools", "--hostname", "elsewhere")
    assert host.execute("tools", "hostname") == "elsewhere\n"
    assert host.polder("exec", "tools", "--", "sh", "-c", "echo bad >&2; exit 9", status=9).stderr == "bad\n"
    assert "/no/such" in host.polder("exec", "tools", "--", "/no/such", status=127).stderr, "it says why"
    assert "/missing" in host.polder("exec", "-w", "/missing", "tools", "--", "pwd", status=126).stderr
    data = os.urandom(3_000_000)
    (tmp_path / "there").write_bytes(data)
    host.polder("cp", tmp_path / "there", "tools:/tmp")
    host.polder("cp", "tools:/tmp/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert host.polder("cp", "tools:/no/such", tmp_path, status=None).returncode != 0


def test_terminal_and_signals(host, microvm):
    polder = Command(host)
    microvm("tty", "--network", "none")
    status, shown = polder.terminal("exec", "-it", "tty", "sh", typed=b"stty size; tty; exit 6\n", wanted=b"#")
    assert status == 6 and b"24 100" in shown and b"/dev/" in shown, shown
    command = polder.start("run", "--rm", "--kind", "microvm", "--network", "none", "busybox", "sh", "-c",
                           "trap 'echo got; exit 4' INT; echo ready; while :; do sleep 0.1; done")
    assert command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=DEADLINE)[0] == "got\n" and command.returncode == 4


def test_console_is_raw_and_gives_the_terminal_back(host, microvm):
    microvm("seen", "--network", "none", command=["sh", "-c", r"while :; do printf 'tick \033]0;title\007' > /dev/ttyS0; sleep 0.2; done"])
    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    process = subprocess.Popen([polderlib.build_directory() / "src/cli/polder", "console", "seen"], stdin=inner, stdout=inner, stderr=inner,
                               env=host.command_environment())
    seen = b""
    while b"tick \x1b]0;title\x07" not in seen:
        seen += os.read(outer, 65536)
    assert termios.tcgetattr(inner) != before
    os.write(outer, b"\x1d")
    while process.poll() is None:
        if select.select([outer], [], [], 0.1)[0]:
            os.read(outer, 65536)
    assert process.returncode == 0 and termios.tcgetattr(inner) == before
    os.close(outer)
    os.close(inner)


def test_jail(host, microvm):
    microvm("jailed")
    guestlib.check_jail(host, "jailed")


def test_shared_directory(host, microvm):
    place = host.share / "micro"
    place.mkdir()
    (place / "from-host").write_text("hello\n")
    microvm("sharing", "--volume", f"{place}:/data", "--volume", f"{place}:/fixed:ro")
    assert host.execute("sharing", "cat", "/data/from-host") == "hello\n"
    host.execute("sharing", "sh", "-c", "echo there > /data/from-guest; ln -s /etc/passwd /data/link")
    assert (place / "from-guest").read_text() == "there\n"
    assert host.execute("sharing", "cat", "/data/link").startswith("root:x:0:0") and os.readlink(place / "link") == "/etc/passwd"
    assert host.polder("exec", "sharing", "--", "touch", "/fixed/x", status=None).returncode != 0
    uuid = host.instance("sharing")["assigned"]["uuid"]
    assert len(guestlib.processes_of(uuid)) == 3  # QEMU and a virtiofsd for each mount
    host.polder("rm", "--force", "--purge", "sharing")
    eventually(lambda: guestlib.processes_of(uuid) == [], what="the end of each virtiofsd")


def test_pause_and_resume(host, microvm):
    counter = guestlib.Counter(host, microvm("paused"))
    counter.wait_above(0)
    host.polder("pause", "paused")
    assert host.state_of("paused") == "paused"
    assert host.polder("exec", "paused", "--", "true", status=None).returncode != 0
    used = cpu_ticks(pid_of(host, "paused"))
    time.sleep(2)
    assert cpu_ticks(pid_of(host, "paused")) - used <= 20
    host.polder("resume", "paused")
    now = counter.value()
    counter.wait_above(now)


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_suspend_and_resume(host, microvm):
    """The counter goes on where it was, in the same boot, and the clock has caught up."""
    counter = guestlib.Counter(host, microvm("asleep"))
    before = counter.wait_above(20)
    boot = host.execute("asleep", "cat", "/proc/sys/kernel/random/boot_id")
    pid = pid_of(host, "asleep")
    host.polder("suspend", "asleep")
    assert host.state_of("asleep") == "suspended" and not guestlib.is_alive(pid)
    time.sleep(5)
    host.restart()
    assert host.state_of("asleep") == "suspended"
    host.polder("resume", "asleep")
    after = counter.value()
    assert before <= after < before + 600, (before, after)
    assert host.execute("asleep", "cat", "/proc/sys/kernel/random/boot_id") == boot
    assert guestlib.clock_is_right(host, "asleep")
    counter.wait_above(after)
    assert not [path for path in (host.state / "instances").glob("*/memory*")]
    guestlib.check_jail(host, "asleep")


def test_suspended_over_a_reboot_of_the_host(host, microvm):
    """Its memory is on disk; what was at the runtime directory is gone, and the boot is another."""
    counter = guestlib.Counter(host, microvm("asleep", "--network", "none"))
    before = counter.wait_above(5)
    boot = host.execute("asleep", "cat", "/proc/sys/kernel/random/boot_id")
    host.polder("suspend", "asleep")
    host.polder("network", "reset")  # what a reboot would end, and killing polderd does not
    polderlib.reboot(host)
    try:
        assert host.state_of("asleep") == "suspended"
        host.polder("resume", "asleep")
        host.wait_agent("asleep")
        after = counter.value()
        assert before <= after < before + 600, (before, after)
        assert host.execute("asleep", "cat", "/proc/sys/kernel/random/boot_id") == boot
        assert guestlib.clock_is_right(host, "asleep")
        counter.wait_above(after)
        host.check_clean()
    finally:
        host.polder("rm", "--force", "--purge", "asleep", status=None)
        host.stop()
        host.before = None
        host.start()


@pytest.mark.long
def test_qemu_that_dies_while_somebody_attaches_to_what_it_restores(host, microvm):
    """Its memory is loaded, and it is gone before its terminal is handed out: an error for who asked, and polderd goes on."""
    if not polderlib.build_option("failpoints"):
        pytest.skip("this build has no fail points (meson -Dfailpoints=true)")
    uuid = host.instance(microvm("brief"))["assigned"]["uuid"]
    host.polder("suspend", "brief")
    host.stop()
    record = host.directory / "passed"
    host.environment.update(POLDER_FAILPOINTS="qemu-memory-loaded=delay:8000", POLDER_FAILPOINTS_RECORD=str(record))
    try:
        host.start()
        daemon = host.pid

        async def attach():
            asking = asyncio.create_task(apilib.converse(host.socket, "/v1/instances/brief/attach?start=true", {}))
            while not record.exists() or "qemu-memory-loaded" not in record.read_text().split():
                assert not asking.done(), asking.result()
                await asyncio.sleep(0.05)
            killed = guestlib.processes_of(uuid)
            for pid in killed:  # polderd stands still meanwhile
                os.kill(pid, signal.SIGKILL)
            return killed, await asking

        killed, (_, _, last) = apilib.run(attach())
        assert killed and last and "error" in last, (killed, last)
        host.wait_state("brief", "failed")
        assert host.is_alive() and host.pid == daemon
        assert "QEMU" in host.instance("brief")["status"]["message"]
    finally:
        host.environment.clear()
        host.restart(kill=True)
    host.polder("start", "brief")
    assert host.execute("brief", "echo", "well") == "well\n"


def test_killed_daemon_adopts(host, microvm):
    counter = guestlib.Counter(host, microvm("adopted"))
    before, pid = counter.wait_above(0), pid_of(host, "adopted")
    host.kill9()
    host.start()
    assert host.state_of("adopted") == "running" and pid_of(host, "adopted") == pid
    after = counter.wait_above(before)
    host.polder("stop", "adopted")
    assert host.state_of("adopted") in ("stopped", "failed") and not guestlib.is_alive(pid)
    assert after > before


def test_exit_code_and_last_words_survive_a_dead_daemon(host, microvm):
    gate = host.share / "gate"
    gate.mkdir()
    microvm("orphan", "--volume", f"{gate}:/gate",
            command=["sh", "-c", "until [ -e /gate/open ]; do sleep 0.1; done; echo last words; touch /gate/over; exit 42"])
    host.kill9()
    (gate / "open").touch()
    eventually((gate / "over").exists, what="the command's end")
    time.sleep(2)
    host.start()
    host.wait_state("orphan", "stopped", "failed")
    assert host.instance("orphan")["status"]["exit_code"] == 42
    assert "last words" in host.polder("logs", "orphan").stdout


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/ttyS0"])
def test_logs_stay_bounded_while_the_daemon_is_down(host, microvm, target):
    limit = 256 << 10
    progress = host.share / "progress"
    progress.mkdir(exist_ok=True)
    name = "chatty" + target[-1].lower()
    microvm(name, "--log-size", "256K", "--volume", f"{progress}:/progress",
            command=["sh", "-c", f"while :; do yes 'a line that is printed for ever' | head -c 65536; echo x >> /progress/{name}; "
                                 f"done > {target}"])
    mark = progress / name
    eventually(lambda: mark.exists() and mark.stat().st_size >= 2 * 6, 120, "128 KiB of output")
    host.kill9()
    # The guest may stand still once nobody takes its output; it must not fill the host's disk.
    time.sleep(6)
    uuid = None
    host.start()
    host.wait_state(name, "running")
    uuid = host.instance(name)["assigned"]["uuid"]
    seen = mark.stat().st_size
    eventually(lambda: mark.stat().st_size > seen + 2 * 6, 120, "the guest to print on")
    for place in (host.state / "instances" / uuid, host.run / "i" / uuid):
        sizes = polderlib.file_sizes(place, without=["disk"])
        assert sum(sizes.values()) <= 2 * limit + (1 << 20), sizes
    assert host.polder("exec", name, "--", "true", status=None).returncode == 0


def test_killed_qemu_is_reported_and_restarted_as_told(host, microvm):
    microvm("fragile", "--restart", "on-failure:1")
    first = pid_of(host, "fragile")
    os.kill(first, 9)
    eventually(lambda: host.instance("fragile")["status"]["restarts"] == 1 and host.state_of("fragile") == "running",
               what="the restart")
    assert pid_of(host, "fragile") != first
    os.kill(pid_of(host, "fragile"), 9)
    host.wait_state("fragile", "failed")
    status = host.instance("fragile")["status"]
    assert status["restarts"] == 1 and "QEMU" in status["message"], status


def test_stop_signal_and_timeout(host, microvm):
    microvm("polite", "--stop-signal", "SIGUSR1", command=[
        "sh", "-c", "trap 'echo bye; exit 3' USR1; echo ready; while :; do sleep 0.1; done"])
    eventually(lambda: "ready" in host.polder("logs", "polite").stdout, what="the trap")
    host.polder("stop", "polite")
    assert host.instance("polite")["status"]["exit_code"] == 3
    assert "bye" in host.polder("logs", "polite").stdout
    microvm("deaf", "--stop-timeout", "1s", command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    host.polder("stop", "deaf")
    assert host.instance("deaf")["status"]["exit_code"] == 137


def test_rm_leaves_nothing(host, microvm):
    microvm("gone")
    instance = host.instance("gone")
    uuid = instance["assigned"]["uuid"]
    assert guestlib.processes_of(uuid) == [instance["status"]["pid"]]
    host.polder("rm", "--force", "--purge", "gone")
    assert guestlib.processes_of(uuid) == []
    assert not list(host.state.rglob(f"*{uuid}*")) and not list(host.run.rglob(f"*{uuid}*"))
    links = json.loads(host.host("ip", "-j", "link").stdout)
    assert {link["ifname"] for link in links if link.get("operstate") == "UP" and link["ifname"] != "lo"} <= {"polder0"}, links
    host.check_clean()


# ---- limits ----

def inside(host, name, script):
    return float(host.execute(name, "sh", "-c", script))


def memory_inside(host, name):
    return int(inside(host, name, "awk '/MemTotal/ {print $2}' /proc/meminfo")) << 10


def test_limits_and_their_change_while_it_runs(host, microvm):
    microvm("sized", "--cpus", "1.5", "--memory", "192M", "--network", "none", "--priority", "7")
    assert inside(host, "sized", "nproc") == 2 and guestlib.cpu_limit(host, "sized") == 1.5
    whole = memory_inside(host, "sized")
    assert 100 << 20 < whole <= 192 << 20
    weight = guestlib.group_value(host, "sized", "cpu.weight", "cpu.shares")
    microvm("plain", "--network", "none")
    assert guestlib.group_value(host, "plain", "cpu.weight", "cpu.shares") != weight
    host.polder("set", "sized", "--cpus", "0.5", "--memory", "128M", "--io-write", "2M", "--priority", "0")
    assert guestlib.cpu_limit(host, "sized") == 0.5
    assert memory_inside(host, "sized") <= whole - (50 << 20)
    # Half of the processors that "plain" asks for, at the same priority: half of its weight.
    halved, full = (int(guestlib.group_value(host, name, "cpu.weight", "cpu.shares")[0]) for name in ("sized", "plain"))
    assert abs(halved - full / 2) <= 1 + full / 50, (halved, full)
    # 8 MiB at 2 MiB/s take four seconds, less what may come in a burst.
    write = ("read a x </proc/uptime; dd if=/dev/zero of=/zeros bs=256k count=32 oflag=direct 2>/dev/null; "
             "read b x </proc/uptime; rm /zeros; echo $a $b | awk '{print $2 - $1}'")
    assert inside(host, "sized", write) > 2
    host.polder("set", "sized", "--io-write", "0")
    before = host.instance("sized")["spec"]
    for words, field in ((["--cpus", "3"], "CPUs"), (["--memory", "1G"], "memory"), (["--pids-limit", "100"], "pids")):
        done = host.polder("set", "sized", *words, status=None)
        assert done.returncode != 0 and field in done.stderr, done
    assert host.instance("sized")["spec"] == before
    host.polder("set", "sized", "--memory", "192M")
    eventually(lambda: memory_inside(host, "sized") == whole, what="its memory to come back")
    # With several processors too, and while it gets half of one, its clock is the host's.
    assert host.execute("sized", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource").startswith(("tsc", "kvm"))
    assert guestlib.clock_is_right(host, "sized")


def test_no_network(host, microvm):
    """Of each kind: no card but the loopback, no address, and nothing of it on the host."""
    links = host.host("ip", "-j", "link").stdout
    microvm("alone", "--network", "none")
    host.polder("run", "--detach", "--kind", "container", "--name", "apart", "--network", "none", "busybox", "--", "sleep", "1000")
    try:
        for name in ("alone", "apart"):
            assert host.execute(name, "ls", "/sys/class/net").split() == ["lo"]
            assert not host.instance(name)["assigned"].get("address") and host.instance(name)["status"]["addresses"] == []
            assert host.polder("exec", name, "--", "ping", "-c", "1", "-W", "1", "10.0.0.1", status=None).returncode != 0
        assert {link["ifname"] for link in json.loads(host.host("ip", "-j", "link").stdout)} == {link["ifname"] for link in json.loads(links)}
        done = host.polder("run", "--kind", "microvm", "--network", "none", "--publish", "8080:80", "busybox", status=None)
        assert done.returncode == 125 and "network" in done.stderr, done
    finally:
        host.polder("rm", "--force", "--purge", "apart")


# ---- what it starts from ----

def test_initramfs_and_root_are_made_once(host, microvm):
    microvm("first", "--network", "none")
    made = guestlib.made_files(host)
    assert [path.suffix for path in made if path.parent.name == ".made"].count(".cpio") == 1
    assert len([path for path in made if path.parent.name == "erofs"]) == 1
    microvm("second", "--network", "none")
    host.restart()
    microvm("third", "--network", "none")
    assert guestlib.made_files(host) == made


def run_image(host, image, *words):
    return host.polder("run", "--rm", "--kind", "microvm", "--network", "none", image, "--", *words, timeout=600)


def test_kernel_of_the_image(host, tmp_path):
    version = guestlib.kernel_image(host, tmp_path, "own-kernel")
    digest = json.loads(host.polder("image", "show", "own-kernel").stdout)["digest"].removeprefix("sha256:")
    place = host.state / "images/kernels" / digest
    kept = [(path, path.readlink()) for path in (host.state / "kernels").iterdir() if path.is_symlink()]
    for path, _ in kept:
        path.unlink()
    try:  # the host has none, but what is in /boot
        host.polder("run", "--detach", "--kind", "microvm", "--name", "own", "--network", "none", "own-kernel", "--", "sleep", "1000",
                    timeout=600)
        assert host.execute("own", "uname", "-r") == f"{version}\n"
        assert (place / "version").read_text() == version
        guestlib.check_jail(host, "own")
        made = guestlib.made_files(host)
        host.polder("rm", "--force", "--purge", "own")
        assert run_image(host, "own-kernel", "uname", "-r").stdout == f"{version}\n"
        assert guestlib.made_files(host) == made
    finally:
        for path, target in kept:
            path.symlink_to(target)
    host.check_clean()
    host.polder("image", "rm", "own-kernel")
    assert not place.exists()
    host.check_clean()


def test_unusable_kernel_of_the_image(host, tmp_path):
    """Then the host's serves, and the log tells why."""
    guestlib.kernel_image(host, tmp_path, "bad-kernel", break_it=True)
    assert run_image(host, "bad-kernel", "echo", "up").stdout == "up\n"
    digest = json.loads(host.polder("image", "show", "bad-kernel").stdout)["digest"].removeprefix("sha256:")
    assert (host.state / "images/kernels" / digest / "version").read_text() == ""
    assert "its own is of no use" in host.log()
    host.polder("image", "rm", "bad-kernel")


# ---- a guest that means ill ----

def test_virtiofsd_is_jailed(host, microvm):
    place = host.share / "jailed"
    place.mkdir()
    microvm("served", "--network", "none", "--volume", f"{place}:/data", "--volume", f"{place}:/fixed:ro")
    servers = [pid for pid in guestlib.processes_of(host.instance("served")["assigned"]["uuid"])
               if "virtiofsd" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(servers) == 2
    writable = set()
    for pid in servers:
        faults, can_write = guestlib.file_server_faults(host, pid)
        assert faults == []
        writable.add(can_write)
    assert writable == {True, False}


def test_disk_whose_head_the_guest_wrote(host, microvm):
    """Its disk is raw by its record. What the guest makes it look like is never believed, and nobody mounts it here."""
    microvm("liar", "--network", "none")
    header = guestlib.qcow2_that_names("/etc/passwd")
    text = "".join(f"\\x{byte:02x}" for byte in header)
    host.execute("liar", "sh", "-c", f"printf '{text}' | dd of=/dev/vdb conv=notrunc 2>/dev/null; touch /kept; sync")
    host.polder("restart", "liar")
    guestlib.check_jail(host, "liar")
    assert not any(path.startswith("/etc") for path in guestlib.open_files(host, "liar"))
    read = host.execute("liar", "sh", "-c", f"ls /kept; head -c {len(header)} /dev/vdb | od -An -v -tx1 | tr -d ' \\n'").split()
    assert read == ["/kept", header.hex()]
    uuid = host.instance("liar")["assigned"]["uuid"]
    host.execute("liar", "sh", "-c", "head -c 65536 /dev/urandom | dd of=/dev/vdb conv=notrunc 2>/dev/null; sync")
    done = host.polder("restart", "liar", status=None)
    assert done.returncode != 0 or host.state_of("liar") == "running", done
    assert uuid not in host.host("cat", "/proc/self/mountinfo").stdout and uuid not in host.host("losetup", "--list").stdout


def test_escapes_of_a_guest_reach_no_terminal(host, microvm):
    """What it prints, and the last words of a guest that panics."""
    microvm("evil", "--network", "none", command=["sh", "-c", r"printf 'before \033]52;c;aGk=\007\033[31mafter\n'; while :; do sleep 0.1; done"])
    eventually(lambda: "after" in host.polder("logs", "evil").stdout, what="what it printed")
    # A file or a pipe gets it as it was printed.
    assert host.polder("logs", "evil").stdout == "before \x1b]52;c;aGk=\x07\x1b[31mafter\n"
    host.polder("exec", "evil", "--", "sh", "-c", r"printf 'last \033]0;owned\007words\n' > /dev/ttyS0; echo c > /proc/sysrq-trigger", status=None)
    host.wait_state("evil", "failed")
    for words in (["logs", "evil"], ["ls"], ["ls", "--output", "wide"], ["show", "evil"]):
        shown = guestlib.on_terminal(host, *words)
        assert "\x1b]" not in shown and "\x1b[31m" not in shown and "\x07" not in shown, (words, shown)
