# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests/system/test_cgroup2.py runs inside a Debian VM: an installed polderd under systemd, on control groups v2.

Not for any other machine: it stops, kills and restarts the system's own polderd."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

GENEROUS = 120  # seconds; the machine is emulated
PARENT = pathlib.Path("/sys/fs/cgroup/polder")
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done"


def polder(*arguments, status=0):
    done = subprocess.run(["polder", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=GENEROUS, env={**os.environ, "NO_COLOR": "1"})
    if status is not None:
        assert done.returncode == status, f"polder {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def systemctl(*arguments):
    return subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True, timeout=GENEROUS).stdout


def wait_for(condition, what):
    end = time.monotonic() + GENEROUS
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {GENEROUS} s"
        time.sleep(0.1)


def show(name):
    return json.loads(polder("show", name).stdout)


def state(name):
    return show(name)["status"]["state"]


def group(name):
    return PARENT / show(name)["assigned"]["uuid"]


def read(path):
    return pathlib.Path(path).read_text().strip()


def values(path):
    """A file such as cpu.stat: lines of "name number"."""
    return {line.split()[0]: int(line.split()[1]) for line in read(path).splitlines()}


def count(name):
    text = polder("exec", name, "--", "cat", "/tmp/count", status=None).stdout.strip()
    return int(text) if text.isdigit() else 0


def daemon_pid():
    return int(systemctl("show", "--property=MainPID", "--value", "polderd"))


@pytest.fixture(scope="module", autouse=True)
def busybox():
    """The image, once; it may be there from before a reboot."""
    if polder("image", "show", "busybox", status=None).returncode != 0:
        polder("image", "build", "busybox")


@pytest.fixture
def container():
    """container(name, options…, command=[…]): a running container, removed at the end."""
    made = []

    def start(name, *options, command=("sh", "-c", COUNTER), run=("-d", "--kind", "container")):
        made.append(name)
        polder("run", *run, "--name", name, "--stop-timeout", "1s", *options, "busybox", "--", *command)
        return group(name)

    yield start
    for name in made:
        polder("rm", "--force", "--purge", name, status=None)


def test_control_groups_are_version_2():
    assert "cgroup2" in next(line for line in read("/proc/mounts").splitlines() if " /sys/fs/cgroup " in line)
    assert not pathlib.Path("/sys/fs/cgroup/memory").exists()


def test_doctor_says_version_2():
    findings = polder("doctor", status=None).stdout
    assert re.search(r"ok +cgroup: control groups version 2\n +every limit works", findings), findings


def test_unit_is_active():
    assert systemctl("is-active", "polderd").strip() == "active"
    assert read(f"/proc/{daemon_pid()}/cgroup") == "0::/system.slice/polderd.service"
    assert os.readlink(f"/proc/{daemon_pid()}/exe") == "/usr/local/sbin/polderd"


def test_run_gives_output_and_exit_code():
    done = polder("run", "--rm", "--kind", "container", "busybox", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert polder("ls", "--quiet").stdout == ""


def test_limits_are_written(container):
    where = container("limits", "--cpus", "0.5", "--memory", "64M", "--pids-limit", "50", "--io-read", "1M", "--io-write", "2M")
    assert read(where / "cpu.max") == "50000 100000"
    assert read(where / "cpu.weight") == "50"  # 100 a processor
    assert read(where / "memory.max") == str(64 << 20)
    assert read(where / "memory.swap.max") == "0"
    assert read(where / "pids.max") == "50"
    assert re.search(r"rbps=1048576 wbps=2097152", read(where / "io.max"))
    assert str(show("limits")["status"]["pid"]) in read(where / "cgroup.procs").split()


def test_set_changes_limits_live(container):
    where = container("live", "--cpus", "0.5", "--memory", "64M", "--pids-limit", "50", "--io-write", "2M")
    pid = show("live")["status"]["pid"]
    polder("set", "live", "--cpus", "1.5", "--memory", "96M", "--pids-limit", "30", "--io-write", "3M", "--io-read", "1M",
           "--priority", "20")
    assert read(where / "cpu.max") == "150000 100000"
    assert int(read(where / "cpu.weight")) > 100
    assert read(where / "memory.max") == str(96 << 20)
    assert read(where / "pids.max") == "30"
    assert re.search(r"rbps=1048576 wbps=3145728", read(where / "io.max"))
    polder("set", "live", "--pids-limit", "0", "--io-write", "0", "--io-read", "0")
    assert read(where / "pids.max") == "max"
    assert "bps=1" not in read(where / "io.max") and "bps=3" not in read(where / "io.max")
    assert show("live")["status"]["pid"] == pid


def test_guaranteed_memory_is_written(container):
    """What a group is guaranteed counts only as far as its parent is guaranteed it."""
    where = container("floor", "--allocation", "hybrid", "--memory", "96M", "--memory-reservation", "48M", "--memory-limit", "128M")
    assert read(where / "memory.min") == str(48 << 20) and read(where / "memory.max") == str(128 << 20)
    wait_for(lambda: int(read(PARENT / "memory.min")) == 48 << 20, "the parent's part")
    other = container("other", "--allocation", "hybrid", "--memory", "64M", "--memory-reservation", "64M")
    assert read(other / "memory.min") == str(64 << 20)
    wait_for(lambda: int(read(PARENT / "memory.min")) == 112 << 20, "the parent's part")
    polder("rm", "--force", "--purge", "other")
    wait_for(lambda: int(read(PARENT / "memory.min")) == 48 << 20, "the parent's part")


@contextlib.contextmanager
def configured(line):
    """polderd with a line more in its configuration."""
    place = pathlib.Path("/etc/polder/polderd.conf")
    place.parent.mkdir(exist_ok=True)
    before = place.read_text() if place.exists() else ""
    try:
        place.write_text(before + line + "\n")
        systemctl("restart", "polderd")
        yield
    finally:
        place.write_text(before)
        systemctl("restart", "polderd")


def test_memory_is_asked_back(container):
    """While memory is short a container keeps less of files, but what it uses and some room; then it may have all again."""
    write = "dd if=/dev/zero of=/data bs=1M count=60 conv=fsync 2>/dev/null; cat /data >/dev/null; touch /done; exec sleep 100000"
    where = container("files", "--memory", "96M", command=("sh", "-c", write))
    wait_for(lambda: polder("exec", "files", "--", "test", "-e", "/done", status=None).returncode == 0, "60 MiB written")
    assert read(where / "memory.high") == "max" and int(read(where / "memory.current")) > 55 << 20
    total = int(re.search(r"MemTotal: +(\d+)", read("/proc/meminfo")).group(1)) << 10
    with configured(f"memory_reserve = {total - (64 << 20)}"):  # nothing has as much left
        wait_for(lambda: read(where / "memory.high") != "max", "being asked")
        wait_for(lambda: int(read(where / "memory.current")) < 50 << 20, "giving back")
        told = json.loads(polder("allocation", "files", "-o", "json").stdout)["memory"]
        assert told["short"] and 32 << 20 < told["need"] <= told["granted"] < 60 << 20
        assert state("files") == "running"
    wait_for(lambda: read(where / "memory.high") == "max", "all of it")


@contextlib.contextmanager
def swap(mebibytes):
    place = pathlib.Path("/swap")
    try:
        subprocess.run(["fallocate", "-l", f"{mebibytes}M", place], check=True)
        place.chmod(0o600)
        subprocess.run(["mkswap", "-q", place], check=True)
        subprocess.run(["swapon", place], check=True)
        yield
    finally:
        subprocess.run(["swapoff", place], check=False)
        place.unlink(missing_ok=True)


HOLDS = f"dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null; {COUNTER}"  # memory that only swap can take
PREEMPTIVE = """queue_policy = priority:preemptive
queue_residency = 0
queue_parameters = yield.prior=0
queue_backfill = none
memory_reserve = 0
overcommit_memory_container = 100
overcommit_cpu_container = 1000"""


def test_giving_way_by_swap(container):
    """A container that must make room of memory goes to the host's swap, holds nothing meanwhile, and goes on where it was."""
    total = int(re.search(r"MemTotal: +(\d+)", read("/proc/meminfo")).group(1)) >> 10
    size = f"{total * 6 // 10}M"
    with swap(total), configured(PREEMPTIVE):
        low = container("low", "--memory", size, "--priority", "-10", "--cpus", "0.5", command=("sh", "-c", HOLDS))
        wait_for(lambda: count("low") > 3, "its counter")
        assert int(read(low / "memory.current")) > 45 << 20 and read(low / "memory.swap.max") == "0"
        before, pid = count("low"), show("low")["status"]["pid"]
        high = container("high", "--memory", size, "--priority", "10", "--cpus", "0.5", command=("sleep", "100000"))
        wait_for(lambda: state("high") == "running", "its room")
        assert state("low") == "paused" and show("low")["status"]["preemptions"] == 1
        assert int(read(low / "memory.current")) < max(16 << 20, total * 6 // 10 << 17)  # an eighth may stay
        assert int(read(low / "memory.swap.current")) > 40 << 20
        assert json.loads(polder("node", "show", "-o", "json").stdout)["memory"]["promised"] < total * 7 // 10 << 20
        polder("fsck", "--deep")
        assert "gave way" in polder("resume", "low", status=None).stderr and state("low") == "paused"
        for number in (signal.SIGTERM, signal.SIGKILL):  # the room is not given away twice
            old = daemon_pid()
            os.kill(old, number)
            if number == signal.SIGTERM:
                systemctl("restart", "polderd")
            wait_for(lambda: daemon_pid() not in (0, old) and polder("ls", status=None).returncode == 0, "polderd again")
            wait_for(lambda: state("high") == "running", "taking over")
            assert state("low") == "paused" and int(read(low / "memory.swap.current")) > 40 << 20
            wait_for(lambda: "high" not in (rows := [row["name"] for row in json.loads(polder("queue", "-o", "json").stdout)["queue"]])
                     and "low" in rows, "waiting for its room")
        polder("rm", "--force", "--purge", "high")
        assert not high.exists()
        wait_for(lambda: state("low") == "running", "going on")
        wait_for(lambda: count("low") > before, "its counter")
        assert show("low")["status"]["pid"] == pid and read(low / "memory.swap.max") == "0"


def test_without_swap_nobody_is_paused_for_memory(container):
    total = int(re.search(r"MemTotal: +(\d+)", read("/proc/meminfo")).group(1)) >> 10
    assert "SwapTotal:             0 kB" in read("/proc/meminfo")
    with configured(PREEMPTIVE):
        container("low", "--memory", f"{total * 6 // 10}M", "--priority", "-10", "--cpus", "0.1")
        container("high", "--memory", f"{total * 6 // 10}M", "--priority", "10", "--cpus", "0.1", run=("-d", "--no-wait", "--kind", "container"))
        wait_for(lambda: state("high") == "queued", "waiting")
        told = json.loads(polder("why", "high", "-o", "json").stdout)["could_give_way"]["who"]
        assert [(row["name"], row["reason"]) for row in told] == [("low", "memory")], told
        assert state("low") == "running"


def test_processors_are_owned(container):
    """Where there is one to spare, fixed allocation owns it and everybody else makes way; where not, it is refused."""
    where = container("shared", "--cpus", "0.5", "--memory", "64M")
    if os.cpu_count() < 2:
        done = polder("run", "--name", "owner", "--kind", "container", "--allocation", "fixed", "--memory", "64M", "busybox", "--",
                      "true", status=125)
        assert "1 of processors to guarantee, and no node could ever give more than 0" in done.stderr
        polder("rm", "--force", "--purge", "owner", status=None)
        return
    owner = container("owner", "--allocation", "fixed", "--memory", "64M")
    assert read(owner / "memory.min") == str(64 << 20) and read(owner / "cpuset.cpus") == "1"
    wait_for(lambda: read(where / "cpuset.cpus") == "0", "making way")
    polder("rm", "--force", "--purge", "owner")
    wait_for(lambda: read(where / "cpuset.cpus") in ("", "0-1"), "the way back")


def test_weights_are_written(container):
    """R_requested x C_priority x S_weight by hand: 100 x 0.5 x 2.8 x 0.5; and the I/O weight is alpha x P = 0.5 x 280."""
    where = container("weighed", "--cpus", "0.5", "--priority", "20", "--weight-alpha", "0.5", "--weight-beta", "0")
    assert read(where / "cpu.weight") == "70"
    if (where / "io.weight").exists():
        assert read(where / "io.weight") == "default 140"
    polder("set", "weighed", "--cpus", "1")
    wait_for(lambda: read(where / "cpu.weight") == "140", "its new weight")
    told = json.loads(polder("allocation", "weighed", "-o", "json").stdout)
    assert told["cpu"]["control_group"]["file"] == "cpu.weight" and told["cpu"]["control_group"]["value"] == 140


def test_cpu_limit_holds(container):
    where = container("busy", "--cpus", "0.2", command=("sh", "-c", "while :; do :; done & while :; do :; done"))
    before = values(where / "cpu.stat")
    after = wait_for(lambda: (now := values(where / "cpu.stat"))["nr_periods"] >= before["nr_periods"] + 30 and now, "30 periods")
    periods = after["nr_periods"] - before["nr_periods"]
    # A slice of the quota may be handed out before it is charged: 5 ms a processor.
    assert after["usage_usec"] - before["usage_usec"] <= (periods + 2) * 20000 + 4 * 5000 * 2
    assert after["nr_throttled"] - before["nr_throttled"] >= periods // 2


def test_memory_limit_kills_and_is_reported(container):
    container("hungry", "--memory", "24M", command=("tail", "/dev/zero"))
    wait_for(lambda: state("hungry") == "failed", "the kill")
    status = show("hungry")["status"]
    assert status["out_of_memory"] is True and status["exit_code"] == 137, status


def test_pids_limit_holds(container):
    where = container("forks", "--pids-limit", "20", command=(
        "sh", "-c", "i=0; while [ $i -lt 40 ]; do i=$((i+1)); (sleep 1000 &) ; done; sleep 1000"))
    wait_for(lambda: values(where / "pids.events")["max"] > 0, "a refused fork")
    assert int(read(where / "pids.current")) <= 20


def written(name, flag):
    """Seconds that 4 MiB take."""
    begin = time.monotonic()
    polder("exec", name, "--", "dd", "if=/dev/zero", "of=/written", "bs=64k", "count=64", flag)
    return time.monotonic() - begin


def test_io_limit_holds_for_direct_writes(container):
    container("direct", "--io-write", "1M")
    assert written("direct", "oflag=direct") >= 3


def test_io_limit_holds_for_buffered_writes(container):
    container("buffered", "--io-write", "1M")
    assert written("buffered", "conv=fsync") >= 3


def test_pause_freezes_and_resume_thaws(container):
    where = container("frozen")
    wait_for(lambda: count("frozen") > 0, "counting")
    polder("pause", "frozen")
    assert read(where / "cgroup.freeze") == "1"
    wait_for(lambda: values(where / "cgroup.events")["frozen"] == 1, "the freeze")
    file = pathlib.Path(f"/proc/{show('frozen')['status']['pid']}/root/tmp/count")
    stood = file.read_text()
    time.sleep(2)
    assert file.read_text() == stood and state("frozen") == "paused"
    polder("resume", "frozen")
    wait_for(lambda: count("frozen") > int(stood), "counting on")
    assert state("frozen") == "running"


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it ended since the group was read
        return ""


def test_exec_is_within_the_limits(container):
    where = container("exec")
    running = subprocess.Popen(["polder", "exec", "exec", "--", "sleep", "1000"], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: any("sleep\0001000\0" == command_line(pid) for pid in read(where / "cgroup.procs").split()),
                 "the command in the group")
    finally:
        running.kill()
        running.wait()
    assert polder("exec", "exec", "--", "sh", "-c", "exit 9", status=9)


def test_systemd_leaves_the_groups_alone(container):
    """systemd takes controllers away from groups whose units do not ask for them; ours are in use, so they stay."""
    where = container("reload", "--cpus", "0.5", "--memory", "64M")
    systemctl("daemon-reload")
    systemctl("daemon-reexec")
    subprocess.run(["systemd-run", "--wait", "--property=CPUWeight=50", "--property=MemoryMax=64M", "true"], check=True,
                   capture_output=True, timeout=GENEROUS)
    assert read(where / "cpu.max") == "50000 100000" and read(where / "memory.max") == str(64 << 20)
    assert {"cpu", "memory", "io", "pids"} <= set(read(PARENT / "cgroup.subtree_control").split())


def test_restart_of_the_daemon_leaves_containers_running(container):
    container("lives")
    pid, daemon = show("lives")["status"]["pid"], daemon_pid()
    wait_for(lambda: count("lives") > 0, "counting")
    systemctl("restart", "polderd")
    assert daemon_pid() != daemon
    before = count("lives")
    assert show("lives")["status"]["pid"] == pid and state("lives") == "running" and before > 0
    wait_for(lambda: count("lives") > before, "counting on")


def test_killed_daemon_comes_back_and_adopts(container):
    where = container("adopted", "--memory", "64M")
    pid, daemon = show("adopted")["status"]["pid"], daemon_pid()
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: daemon_pid() not in (0, daemon) and polder("ls", status=None).returncode == 0, "systemd to start it again")
    assert show("adopted")["status"]["pid"] == pid and state("adopted") == "running"
    polder("set", "adopted", "--memory", "80M")
    assert read(where / "memory.max") == str(80 << 20)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: state("adopted") == "failed", "the end to be seen")
    assert show("adopted")["status"]["exit_code"] == 137


def test_end_while_the_daemon_is_down_is_reported(container):
    container("alone", command=("sh", "-c", "trap 'echo last words; exit 5' TERM; while :; do sleep 0.1; done"))
    pid = show("alone")["status"]["pid"]
    systemctl("stop", "polderd")
    try:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "its end")
    finally:
        systemctl("start", "polderd")
    assert show("alone")["status"]["exit_code"] == 5 and state("alone") == "failed"
    assert "last words" in polder("logs", "alone").stdout


def test_names_and_traffic_beside_networkd(container):
    container("server", command=("sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -h /www"))
    container("client", command=("sleep", "1000"))
    answer = wait_for(lambda: polder("exec", "client", "--", "wget", "-q", "-O", "-", "http://server/", status=None).stdout,
                      "an answer")
    assert answer == "hello\n"


def test_rm_leaves_nothing(container):
    where = container("gone")
    mounts = len(read("/proc/mounts").splitlines())
    uuid = show("gone")["assigned"]["uuid"]
    polder("stop", "gone")
    assert state("gone") == "stopped"
    polder("rm", "--purge", "gone")
    assert not where.exists()
    assert len(read("/proc/mounts").splitlines()) <= mounts
    for base in ("/var/lib/polder", "/run/polder", "/sys/fs/cgroup"):
        left = subprocess.run(["find", base, "-name", f"*{uuid}*"], capture_output=True, text=True, check=True).stdout
        assert left == ""
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert uuid not in running and "conmon" not in running
    assert [entry.name for entry in PARENT.iterdir() if entry.is_dir()] == []
    polder("fsck", "--deep")


# The two halves of a reboot of the host; the VM is restarted between them.

def test_before_reboot():
    systemctl("enable", "polderd")
    polder("run", "-d", "--name", "again", "--restart", "always", "busybox", "--", "sh", "-c", COUNTER)
    polder("run", "-d", "--name", "once", "busybox", "--", "sh", "-c", COUNTER)
    wait_for(lambda: count("again") > 0 and count("once") > 0, "counting")
    pathlib.Path("/var/tmp/boot-id").write_text(read("/proc/sys/kernel/random/boot_id"))
    os.sync()


def test_after_reboot():
    assert read("/proc/sys/kernel/random/boot_id") != read("/var/tmp/boot-id")
    wait_for(lambda: state("again") == "running", "the restart policy")
    wait_for(lambda: count("again") > 0, "counting")
    assert state("once") == "failed", show("once")["status"]
    polder("start", "once")
    wait_for(lambda: count("once") > 0, "counting")
    for name in ("again", "once"):
        polder("rm", "--force", "--purge", name)
    with contextlib.suppress(FileNotFoundError):
        assert [entry.name for entry in PARENT.iterdir() if entry.is_dir()] == []
    polder("fsck", "--deep")
