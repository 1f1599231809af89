# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be asked of VMs that are no more than a boot sector which counts on its serial line (guestlib.ticker) or an empty
disk: the socket for VNC viewers, and options whose effect needs no more of a guest, beside the other kinds."""
import os
import pathlib
import socket
import stat
import subprocess

import pytest

import guestlib
from polderlib import DEADLINE, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
BANNER = b"RFB 003.008\n"


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        daemon.polder("image", "import", guestlib.ticker(daemon.directory), "--name", "ticker")
        blank = daemon.directory / "blank.raw"
        with open(blank, "wb") as file:
            file.truncate(1 << 20)
        daemon.polder("image", "import", blank, "--name", "blank")
        yield daemon


@pytest.fixture
def machine(host):
    """machine(name, options…, image="blank"): a running VM, removed at the end."""
    made = []

    def start(name, *options, image="blank"):
        made.append(name)
        host.polder("run", "--kind", "vm", "--name", name, "--memory", "64M", "--network", "none", *options, image)
        return name

    yield start
    for name in made:
        host.polder("rm", "--force", "--purge", name, status=None)


# ---- VNC on a unix socket ----

def look(path):
    """A viewer that has got as far as the first picture's size: its connection and that size."""
    viewer = socket.socket(socket.AF_UNIX)
    viewer.settimeout(DEADLINE)
    viewer.connect(str(path))

    def read(size):
        data = viewer.recv(size, socket.MSG_WAITALL)
        assert len(data) == size, data
        return data
    assert read(12) == BANNER
    viewer.sendall(BANNER)
    assert b"\x01" in read(read(1)[0])  # no password: who may reach the socket is root
    viewer.sendall(b"\x01")
    assert read(4) == bytes(4)
    viewer.sendall(b"\x01")
    head = read(24)
    read(int.from_bytes(head[20:24], "big"))
    return viewer, (int.from_bytes(head[0:2], "big"), int.from_bytes(head[2:4], "big"))


def asks_for_a_picture(viewer):
    """The answer to a request for the picture comes on a connection that has begun."""
    viewer.sendall(b"\x03\0\0\0\0\0\0\x10\0\x10")
    return viewer.recv(1) == b"\0"


def vnc_of(host, name):
    return host.instance(name)["status"].get("vnc")


def test_vnc_viewers_connect_to_a_socket(host, machine):
    machine("seen", "--graphics")
    path = pathlib.Path(vnc_of(host, "seen"))
    assert path == host.run / "i" / host.instance("seen")["assigned"]["uuid"] / "vnc"
    assert str(path) in host.polder("show", "seen").stdout
    mode = path.stat()
    assert stat.S_ISSOCK(mode.st_mode) and mode.st_mode & 0o777 == 0o600 and mode.st_uid == 0
    # Several at once; one stays while the others come and go.
    first, size = look(path)
    others = [look(path) for _ in range(6)]
    # The firmware may change the mode between two of them.
    assert all(one[0] >= 640 and one[1] >= 400 for one in (size, *(other[1] for other in others)))
    for other, _ in others:
        other.close()
    assert asks_for_a_picture(first)
    # It is QEMU's: it stays when polderd is killed. The next one listens at the same place.
    host.kill9()
    host.start()
    assert host.state_of("seen") == "running"
    assert asks_for_a_picture(first)
    assert pathlib.Path(vnc_of(host, "seen")) == path and path.stat().st_mode & 0o777 == 0o600
    again, size = look(path)
    assert asks_for_a_picture(again)
    guestlib.check_jail(host, "seen")
    host.polder("stop", "--force", "seen")
    assert not path.exists() and not vnc_of(host, "seen")
    assert first.recv(1) in (b"", b"\0") and again.recv(1) in (b"", b"\0")
    first.close()
    again.close()


def test_vnc_socket_goes_with_polderd_and_qemu(host, machine):
    machine("seen", "--graphics")
    machine("unseen")
    path = pathlib.Path(vnc_of(host, "seen"))
    assert not vnc_of(host, "unseen")
    assert not (host.run / "i" / host.instance("unseen")["assigned"]["uuid"] / "vnc").exists()
    host.stop()
    assert not path.exists()
    host.start()
    look(path)[0].close()
    os.kill(host.instance("seen")["status"]["pid"], 9)
    host.wait_state("seen", "failed")
    eventually(lambda: not path.exists(), what="the socket to go")
    assert not vnc_of(host, "seen")
    # Suspended to disk and back it is there as before.
    host.polder("start", "seen")
    host.polder("suspend", "seen")
    assert not path.exists() and not vnc_of(host, "seen")
    host.polder("resume", "seen")
    viewer, _ = look(path)
    assert asks_for_a_picture(viewer)
    viewer.close()


# ---- a guest that does not shut down ----

def test_guest_that_does_not_shut_down(host, machine):
    """It has 90 s unless told otherwise; who waits is told until when, and afterwards what was done."""
    machine("deaf")
    assert host.instance("deaf")["spec"]["stop_timeout"] == "1m30s"
    done = host.polder("stop", "--time", "3s", "deaf")
    assert "after 3s its power is cut" in done.stderr, done.stderr
    status = host.instance("deaf")["status"]
    assert status["state"] == "stopped" and "did not shut down within 3s: its power was cut" in status["message"], status
    # Only a container's files are reached while it does not run.
    for words in (("/etc/hostname", "deaf:/tmp"), ("deaf:/etc/hostname", "-")):
        refused = host.polder("cp", *words, status=1).stderr
        assert "it is stopped" in refused and "possible now: start" in refused, refused
    host.polder("start", "deaf")
    host.polder("stop", "--force", "deaf")
    assert "power" not in host.instance("deaf")["status"]["message"]
    host.polder("set", "deaf", "--stop-timeout", "5s")
    assert host.instance("deaf")["spec"]["stop_timeout"] == "5s"
    host.polder("set", "deaf", "--unset", "stop-timeout")
    assert host.instance("deaf")["spec"]["stop_timeout"] == "1m30s"


# ---- options of each kind ----

KINDS = ["container", "microvm", "vm"]
READ = ("dd if=/dev/zero of=/data bs=256k count=32 2>/dev/null; sync; read a x </proc/uptime; "
        "dd if=/data of=/dev/null bs=256k iflag=direct 2>/dev/null; read b x </proc/uptime; echo $a $b | awk '{print $2 - $1}'")


@pytest.fixture
def create(host):
    """create(name, kind, …): a started one of that kind that runs for ever, removed at the end."""
    made = []

    def start(name, kind, **spec):
        made.append(name)
        what = {"image": "ticker", "memory": "64M"} if kind == "vm" else {"image": "busybox", "memory": "128M", "command": ["sleep", "1000"]}
        host.create(name, start=True, kind=kind, network="none", **{**what, **spec})
        return host.instance(name)["status"]["pid"]

    yield start
    for name in made:
        host.polder("rm", "--force", "--purge", name, status=None)


@pytest.mark.parametrize("kind", KINDS)
def test_timeout_ends_it(host, create, kind):
    pid = create("timed", kind, timeout="1s", stop_timeout="1s", restart="always")
    host.wait_state("timed", "stopped", "failed")
    status = host.instance("timed")["status"]
    assert status["pid"] == 0 and status["restarts"] == 0 and not guestlib.is_alive(pid), status
    assert status["finished"] >= status["started"]
    host.polder("set", "timed", "--timeout", "0s")
    host.polder("start", "timed")
    assert host.state_of("timed") == "running"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_remove_takes_it_away_when_it_ends(host, create, kind, end):
    pid = create("passing", kind, remove=True, stop_timeout="1s")
    uuid = host.instance("passing")["assigned"]["uuid"]
    if end == "kill":
        os.kill(pid, 9)
    else:
        host.polder("stop", "passing", status=None)
    eventually(lambda: host.state_of("passing") is None, what="its removal")
    eventually(lambda: not (host.state / "instances" / uuid).exists() and not guestlib.processes_of(uuid), what="what it had to go")
    host.check_clean()


@pytest.mark.parametrize("kind", KINDS)
def test_restart_on_failure_as_often_as_told(host, create, kind):
    first = create("again", kind, restart="on-failure", restart_limit=1)
    os.kill(first, 9)
    eventually(lambda: host.instance("again")["status"]["restarts"] == 1 and host.state_of("again") == "running", what="its restart")
    second = host.instance("again")["status"]["pid"]
    assert second != first and guestlib.is_alive(second)
    os.kill(second, 9)
    host.wait_state("again", "failed")
    assert host.instance("again")["status"]["restarts"] == 1


@pytest.mark.parametrize("kind", ["container", "microvm"])
def test_io_read_slows_direct_reads(host, create, kind):
    """Of a VM: test_vm.py. 8 MiB at 2 MiB/s take four seconds, less what may come in a burst."""
    create("reader", kind, io_read="2M")  # no disk of a size: what a loop device reads may be in the host's memory
    assert float(host.execute("reader", "sh", "-c", READ)) > 2
    host.polder("set", "reader", "--io-read", "0")
    eventually(lambda: float(host.execute("reader", "sh", "-c", READ)) < 2, what="the same reads to be faster without a limit")


# ---- UDP through polderd ----

@pytest.fixture(scope="module")
def udp(host):
    """A static program in the shared directory that asks and answers."""
    source = pathlib.Path(__file__).parent / "data/udp.c"
    subprocess.run(["gcc", "-static", "-O1", "-o", host.share / "udp", source], check=True)
    host.share.chmod(0o755)
    return host.share / "udp"


@pytest.fixture(scope="module")
def talkers(host, udp):
    """A container and a microVM, each with a published UDP port behind which it answers, and a container that only asks."""
    made = []
    for name, kind, words in (("box", "container", ["--publish", "5301:53/udp"]), ("micro", "microvm", ["--publish", "5302:53/udp"]),
                              ("asker", "container", [])):
        made.append(name)
        host.polder("run", "--detach", "--kind", kind, "--name", name, "--volume", f"{host.share}:/share:ro", *words, "busybox", "--",
                    *(["/share/udp", "serve", "53"] if words else ["sleep", "1000"]))
    gateway = host.execute("asker", "sh", "-c", "ip route | awk '/^default/ {print $3}'").strip()
    yield gateway
    host.polder("rm", "--force", "--purge", *made)


@pytest.mark.parametrize("name, port", [("box", 5301), ("micro", 5302)])
def test_published_udp_port_answers_from_everywhere(host, udp, talkers, name, port):
    for address in ("127.0.0.1", talkers):
        assert host.host(udp, "ask", address, port, "host").stdout.startswith("host from "), address
    other = "micro" if name == "box" else "box"
    for source in ("asker", other, name):
        answer = host.execute(source, "/share/udp", "ask", talkers, str(port), source)
        assert answer.startswith(f"{source} from "), (source, answer)
    # A daemon that was killed takes nothing with it, and its successor none either.
    host.kill9()
    assert host.host(udp, "ask", "127.0.0.1", port, "alone").stdout.startswith("alone from ")
    host.start()
    assert host.host(udp, "ask", "127.0.0.1", port, "again").stdout.startswith("again from ")
