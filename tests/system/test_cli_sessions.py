# SPDX-License-Identifier: GPL-2.0-or-later
"""run, exec, attach, logs and cp against real containers: exit codes, standard streams, terminals, signals, detaching."""
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from polderlib import DEADLINE, eventually
from test_cli import Command


@pytest.fixture(scope="module")
def daemon_with_image():
    """One daemon with the busybox image for the whole file."""
    import polderlib
    if os.geteuid() != 0:
        pytest.skip("polderd needs root")
    if not (polderlib.build_directory() / "src/daemon/polderd").exists():
        pytest.skip("no polderd in the build")
    daemon = polderlib.Daemon(fake=False).start()
    Command(daemon)("image", "build", "busybox")
    yield daemon
    daemon.close()


@pytest.fixture
def polder(daemon_with_image):
    command = Command(daemon_with_image)
    yield command
    left = command.out("ls", "-q").split()
    if left:
        command("rm", "-f", "--purge", "-q", *left)


def test_exit_codes(polder):
    assert polder("run", "--rm", "busybox", "true").stdout == ""
    polder("run", "--rm", "busybox", "sh", "-c", "exit 7", status=7)
    polder("run", "--rm", "busybox", "sh", "-c", "(sh -c 'kill -9 $$'); exit $?", status=137)
    assert "not found" in polder.error("run", "--rm", "busybox", "no-such-program", status=127)
    assert polder.error("run", "--rm", "busybox", "/etc", status=126)
    assert polder.error("run", "--rm", "--memory", "1T", "busybox", "true", status=125)
    assert polder.out("ls", "-q") == ""


def test_streams(polder):
    done = polder("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert polder.out("run", "--rm", "-i", "busybox", "cat", input="typed") == "typed"
    # Without -i nothing is sent: the program sees the end at once.
    assert polder.out("run", "--rm", "busybox", "cat", input="typed") == ""


def test_much_output(polder):
    """Megabytes through the socket, to a reader that is slow at first."""
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    command = polder.start("run", "--rm", "busybox", "sh", "-c", script)
    time.sleep(1)
    out, _ = command.communicate(timeout=4 * DEADLINE)
    assert command.returncode == 0
    assert out.splitlines() == [f"line {i}" for i in range(20000)]


def test_exec(polder):
    polder("run", "-d", "--name", "w", "--env", "OWN=1", "busybox", "sleep", "1000")
    assert polder.out("exec", "w", "echo", "hi") == "hi\n"
    polder("exec", "w", "sh", "-c", "exit 3", status=3)
    polder("exec", "w", "no-such-program", status=127)
    polder("exec", "w", "/etc", status=126)
    assert polder.out("exec", "-e", "A=b", "-w", "/tmp", "-u", "1000:1001", "w", "--", "sh", "-c",
                      "echo $A $OWN; pwd; id -u; id -g") == "b 1\n/tmp\n1000\n1001\n"
    data = "x" * 3_000_000
    assert polder.out("exec", "-i", "w", "wc", "-c", input=data).strip() == str(len(data))
    assert polder.out("exec", "-i", "w", "cat", input=data) == data
    polder("stop", "-f", "w")
    assert "cannot" in polder.error("exec", "w", "true", status=125)


def test_terminal(polder):
    """-t gives a terminal of the caller's size, in raw mode, with the exit code."""
    status, shown = polder.terminal("run", "--rm", "-it", "busybox", "sh", typed=b"stty size; exit 5\n", wanted=b"#")
    assert status == 5 and b"24 100" in shown
    polder("run", "-d", "--name", "w", "busybox", "sleep", "1000")
    status, shown = polder.terminal("exec", "-it", "w", "sh", typed=b"stty size; tty; exit 6\n", wanted=b"#")
    assert status == 6 and b"24 100" in shown and b"/dev/" in shown
    assert "no terminal" in polder.error("exec", "-it", "w", "sh", status=125)


def test_detach_and_attach(polder):
    """ctrl-p ctrl-q leaves it running; attach comes back; a lone ctrl-p arrives."""
    status, shown = polder.terminal("run", "-it", "--name", "w", "busybox", "sh", typed=b"\x10\x11", wanted=b"#")
    assert status == 0 and b"polder attach w" in shown
    assert polder.daemon.state_of("w") == "running"
    status, shown = polder.terminal("attach", "w", typed=b"echo a$((40+2))b; exit 9\n", wanted=None)
    assert status == 9 and b"a42b" in shown
    assert polder.out("wait", "w") == "9\n"


def test_signals_are_passed_on(polder):
    script = "trap 'echo got; exit 4' INT; echo ready; while :; do sleep 0.1; done"
    command = polder.start("run", "--rm", "busybox", "sh", "-c", script)
    assert command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=DEADLINE)
    assert out == "got\n" and command.returncode == 4


def test_third_interrupt_in_a_row_leaves(polder):
    """As in docker: a main process that has no handler ignores signals, and the person at the keyboard shall get away."""
    command = polder.start("run", "--name", "w", "busybox", "sh", "-c", "trap '' INT; echo ready; sleep 1000")
    assert command.stdout.readline() == "ready\n"
    for _ in range(3):
        assert command.poll() is None
        command.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, told = command.communicate(timeout=DEADLINE)
    assert "polder attach w" in told and polder.daemon.state_of("w") == "running"


def test_killed_client_leaves_the_instance(polder):
    command = polder.start("run", "--name", "w", "busybox", "sh", "-c", "echo ready; sleep 1000")
    assert command.stdout.readline() == "ready\n"
    command.kill()
    command.wait()
    command.stdout.close()
    command.stderr.close()
    assert polder.out("exec", "w", "echo", "here") == "here\n"
    assert polder.daemon.state_of("w") == "running"


def test_kill_and_wait(polder):
    polder("run", "-d", "--name", "w", "busybox", "sh", "-c",
           "trap 'exit 12' USR1; touch /ready; while :; do sleep 0.1; done")
    eventually(lambda: polder("exec", "w", "test", "-e", "/ready", status=None).returncode == 0, what="the trap")
    polder("kill", "-s", "USR1", "w")
    assert polder.out("wait", "w") == "12\n"


def test_logs(polder):
    polder("run", "-d", "--name", "w", "busybox", "sh", "-c",
           "echo one; echo two >&2; printf '\\033[31mred\\n'; sleep 1; echo last")
    followed = polder.start("logs", "-f", "w")
    out, err = followed.communicate(timeout=DEADLINE)
    assert out == "one\n\033[31mred\nlast\n" and err == "two\n"
    assert polder.out("logs", "-n", "1", "w") == "last\n"
    assert polder.out("logs", "-t", "-n", "1", "w").split()[0].startswith("20")
    # A terminal is not driven by what an instance printed.
    assert b"\033[31m" not in polder.terminal("logs", "w")[1]


def test_copy(polder, tmp_path):
    polder("run", "-d", "--name", "w", "busybox", "sleep", "1000")
    source = tmp_path / "site"
    (source / "deep").mkdir(parents=True)
    (source / "index.html").write_text("hello")
    (source / "deep" / "naïve & [odd] name").write_text("x")
    (source / "link").symlink_to("index.html")
    polder("cp", source, "w:/tmp")
    assert polder.out("exec", "w", "cat", "/tmp/site/link") == "hello"
    polder("cp", source, "w:/tmp/renamed")
    assert polder.out("exec", "w", "cat", "/tmp/renamed/deep/naïve & [odd] name") == "x"
    polder("cp", source / "index.html", "w:/tmp/other.html")
    assert polder.out("exec", "w", "cat", "/tmp/other.html") == "hello"
    polder("cp", "w:/tmp/site", tmp_path / "back")
    assert (tmp_path / "back" / "index.html").read_text() == "hello"
    assert os.readlink(tmp_path / "back" / "link") == "index.html"
    polder("cp", "w:/tmp/other.html", tmp_path)
    assert (tmp_path / "other.html").read_text() == "hello"
    done = subprocess.run(polder.words("cp", "w:/tmp/site", "-"), env=polder.environment, capture_output=True, check=True)
    assert "site/index.html" in tarfile.open(fileobj=io.BytesIO(done.stdout)).getnames()
    assert "/nothing" in polder.error("cp", "w:/nothing", tmp_path)
    polder("stop", "--force", "w")
    polder("cp", "w:/tmp/other.html", tmp_path / "later")
    assert (tmp_path / "later").read_text() == "hello"
    assert "one side" in polder.error("cp", "a", "b", status=2)
    assert "there is no file" in polder.error("cp", tmp_path / "nothing", "w:/tmp")
    assert "there is no instance" in polder.error("cp", "none:/x", tmp_path)


def test_progress_of_a_copy(polder, tmp_path):
    """What is copied so far, and of how much where that is known, once it takes a second."""
    slow = tmp_path / "bin" / "tar"
    slow.parent.mkdir()
    # One tar pauses amid what it sends, the other before it takes anything.
    slow.write_text(f"#!/bin/sh\ncase $1 in -c) {shutil.which('tar')} \"$@\" | (head -c 4096; sleep 2; cat);; "
                    f"*) sleep 2; exec {shutil.which('tar')} \"$@\";; esac\n")
    slow.chmod(0o755)
    polder("run", "-d", "--name", "w", "busybox", "sleep", "1000")
    source = tmp_path / "bytes"
    source.write_bytes(bytes(1 << 20))
    patient = Command(polder.daemon)
    patient.environment["PATH"] = f"{slow.parent}:{patient.environment['PATH']}"
    status, shown = patient.terminal("cp", source, "w:/tmp/bytes")
    assert status == 0 and re.search(rb"w:/tmp/bytes: copying \[[= ]+\] \d+% .* of 1MiB", shown), shown
    status, shown = patient.terminal("cp", "w:/tmp/bytes", tmp_path / "back")
    assert status == 0 and re.search(rb"w:/tmp/bytes: copying [0-9.]+[KM]iB", shown), shown
    assert (tmp_path / "back").read_bytes() == bytes(1 << 20)
    assert b"copying" not in patient.terminal("cp", "-q", source, "w:/tmp/again")[1]
    assert "\r" not in patient("cp", source, "w:/tmp/last").stderr


def test_hostile_copy(polder, tmp_path):
    """Links inside an instance do not lead out of the target directory, nor into the host."""
    polder("run", "-d", "--name", "w", "busybox", "sh", "-c",
           "mkdir -p /d/sub; ln -s /etc/passwd /d/p; ln -s ../../../../tmp /d/up; chmod 4755 /bin/busybox;"
           "cp /bin/busybox /d/suid; chmod 4755 /d/suid; touch /ready; sleep 1000")
    eventually(lambda: polder("exec", "w", "test", "-e", "/ready", status=None).returncode == 0, what="the files")
    target = tmp_path / "out"
    polder("cp", "w:/d", target)
    assert os.path.islink(target / "p") and os.path.islink(target / "up")
    assert os.stat(target / "suid").st_mode & 0o7000 == 0
    assert os.stat(target / "suid").st_uid == os.geteuid()
    (tmp_path / "f").write_text("new")
    passwd = pathlib.Path("/etc/passwd").read_bytes()
    polder("cp", tmp_path / "f", "w:/d/p", status=None)
    assert pathlib.Path("/etc/passwd").read_bytes() == passwd


def test_foreground_removes(polder):
    """--rm: the instance is gone when the command returns."""
    for _ in range(5):
        polder("run", "--rm", "--name", "same", "busybox", "true")
        assert polder.out("ls", "-q", "--deleted") == ""
