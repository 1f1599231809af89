# SPDX-License-Identifier: GPL-2.0-or-later
"""MicroVMs through the command and the API: the same OCI image as a container, a life of its own while polderd is away."""
import json
import os
import pathlib
import time

import pytest

import guestlib
from polderlib import eventually

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
    host.polder("exec", "tools", "--", "/no/such", status=127)
    data = os.urandom(3_000_000)
    (tmp_path / "there").write_bytes(data)
    host.polder("cp", tmp_path / "there", "tools:/tmp")
    host.polder("cp", "tools:/tmp/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert host.polder("cp", "tools:/no/such", tmp_path, status=None).returncode != 0


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
        sizes = {path.name: path.stat().st_size for path in place.iterdir() if path.is_file() and not path.name.startswith("disk")}
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
