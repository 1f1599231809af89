# SPDX-License-Identifier: GPL-2.0-or-later
"""The command against a daemon with the fake driver: shapes, formats, exit codes, suggestions, progress."""
import csv
import io
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import threading
import time

import pytest

from polderlib import DEADLINE, build_directory, eventually

pytestmark = pytest.mark.scenario


class Command:
    """`polder` with its environment."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.path = build_directory() / "src/cli/polder"
        self.environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "xterm",
                            "POLDER_SOCKET": str(daemon.socket), "ASAN_OPTIONS": "detect_leaks=0"}

    def words(self, *arguments):
        return [str(self.path), *map(str, arguments)]

    def __call__(self, *arguments, status=0, input=None, **environment):
        done = subprocess.run(self.words(*arguments), capture_output=True, text=True, timeout=10 * DEADLINE,
                              env={**self.environment, **environment}, errors="replace",
                              **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}))
        if status is not None:
            assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def out(self, *arguments, **options):
        return self(*arguments, **options).stdout

    def error(self, *arguments, status=1, **options):
        done = self(*arguments, status=status, **options)
        assert done.stderr
        return done.stderr

    def start(self, *arguments, **options):
        return subprocess.Popen(self.words(*arguments), env=self.environment, stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def terminal(self, *arguments, typed=b"", wanted=None, signal_after=None):
        """Runs it on a terminal of 24 x 100. Returns (exit status, all that it showed)."""
        child, master = pty.fork()
        if child == 0:
            os.execve(str(self.path), self.words(*arguments), self.environment)
        import fcntl
        import struct
        import termios
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        shown, end = b"", time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if typed and (wanted is None or wanted in shown):
                os.write(master, typed)
                typed = b""
            if signal_after and signal_after[0] in shown:
                os.kill(child, signal_after[1])
                signal_after = None
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        else:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(master)
        return os.waitstatus_to_exitcode(status), shown


@pytest.fixture
def polder(daemon):
    return Command(daemon)


def fake(polder, name, *flags):
    polder("run", "-d", "--kind", "fake", "--name", name, *flags, "fake")


# --- lists and formats ------------------------------------------------------------------------------------------------

def test_empty_list(polder):
    assert polder.out("ls").split() == ["NAME", "KIND", "STATE", "NODE", "IP", "CPU", "MEMORY", "UPTIME", "IMAGE"]
    assert polder.out("ls", "-q") == ""
    assert polder.out("ls", "-o", "json") == "[]\n"


def test_empty_answers_are_sentences(polder):
    """Where a table would be titles alone; what programs read stays as it was."""
    assert polder.out("optimize", "plan").splitlines() == ["nothing to do: no change that would help was found"]
    lines = polder.out("queue").splitlines()
    assert lines[0] == "nobody waits for room" and lines[1].startswith("0 waiting, 0 admitted")
    assert polder.out("what-if").splitlines()[0] == "nobody waits, and nobody would"
    assert polder.out("network", "flows").splitlines() == ["no traffic between instances was seen lately"]
    assert polder.out("queue", "-q") == "" and json.loads(polder.out("queue", "-o", "json"))["queue"] == []
    assert len(polder.out("queue", "-o", "csv").splitlines()) == 1 and "nobody" not in polder.out("queue", "-o", "csv")
    fake(polder, "one")
    assert polder.out("optimize", "plan").splitlines() == ["nothing to do: no change that would help was found",
                                                           "1 stays as it is (-o wide says why)"]


def test_formats(polder):
    fake(polder, "web-1", "--cpus", "1.5", "--memory", "512M", "--label", "tier=web")
    fake(polder, "db-1")
    lines = polder.out("ls").splitlines()
    assert lines[1].split()[0] == "db-1"
    assert re.match(r"web-1 +fake +running +\S+ +- +1\.5 +512MiB +\S+ +fake", lines[2])
    assert "UUID" not in lines[0] and "UUID" in polder.out("ls", "-o", "wide").splitlines()[0]
    assert polder.out("ls", "-q").split() == polder.out("ls", "-o", "name").split() == ["db-1", "web-1"]
    assert [row["name"] for row in json.loads(polder.out("ls", "--format", "json"))] == ["db-1", "web-1"]
    rows = list(csv.DictReader(io.StringIO(polder.out("ls", "-o=csv"))))
    assert rows[1]["NAME"] == "web-1" and rows[1]["CPU"] == "1.5"
    assert "- name: db-1" in polder.out("ps", "-oyaml").splitlines()
    assert polder.out("list", "--label", "tier=web", "-q").split() == ["web-1"]
    assert polder.out("ls", "--state", "stopped", "-q") == ""
    assert polder.out("ls", "we", "-q").split() == ["web-1"]


def test_yaml_is_yaml(polder):
    yaml = pytest.importorskip("yaml")
    fake(polder, "web-1", "--label", "a=yes", "--label", "b=1", "--label", "c=x: y # z", "--label", "d=",
         "--description", "- 'quoted' \"text\"")
    assert yaml.safe_load(polder.out("show", "web-1", "-o", "yaml")) == json.loads(polder.out("show", "web-1"))


def test_no_colours_unless_terminal(polder):
    fake(polder, "web-1")
    assert "\033" not in polder.out("ls")
    status, shown = polder.terminal("ls")
    assert status == 0 and b"\033[" in shown
    polder.environment["NO_COLOR"] = "1"
    assert b"\033[" not in polder.terminal("ls")[1]


def test_foreign_text_is_escaped(polder):
    """What a guest or another user wrote cannot drive the terminal."""
    for word in ("\033[2J", "a\nb", "\u202egnp.exe", "\x9b31m"):
        text = polder.error("show", word, status=None)
        assert "\033" not in text and "\u202e" not in text and "\x9b" not in text


# --- errors -------------------------------------------------------------------------------------------------------------

def test_suggestions(polder):
    fake(polder, "web-1")
    fake(polder, "database")
    assert "did you mean 'web-1'?" in polder.error("show", "web-11")
    assert "did you mean 'database'?" in polder.error("stop", "databsae")
    assert "did you mean 'ls'?" in polder.error("lss", status=2)
    assert "did you mean '--memory'?" in polder.error("run", "--memry", "1", "x", status=125)


def test_exit_codes(polder):
    assert polder.error("show", "nothing", status=1)
    assert polder.error("ls", "--nothing", status=2)
    assert polder.error("ls", "-o", "xml", status=2)
    assert polder.error("run", "missing-image", "--kind", "container", status=125)
    assert polder.error("exec", "nothing", "true", status=125)
    assert "does not run" in polder.error("ls", "--socket", "/nowhere/polder.sock", status=125)
    assert polder("start", "a", "b", status=1).stderr.count("there is no instance") == 2


def test_missing_image_tells_how_to_pull(polder):
    text = polder.error("run", "nginx", status=125)
    assert "polder image pull docker://docker.io/library/nginx" in text


def test_chinese(polder):
    assert "没有" in polder.error("show", "nothing", LC_ALL="zh_CN.UTF-8")
    assert "没有" in polder.error("show", "nothing", "--language", "zh")
    assert "there is no" in polder.error("show", "nothing", "--language", "en", LC_ALL="zh_CN.UTF-8")


def test_several_names(polder):
    fake(polder, "a")
    fake(polder, "b")
    done = polder("stop", "a", "nothing", "b", status=1)
    assert done.stdout.split() == ["a", "b"]
    assert polder.daemon.state_of("b") == "stopped"
    done = polder("set", "a", "nothing", "b", "--description", "both", status=1)
    assert done.stdout.split() == ["a", "b"] and "'nothing'" in done.stderr
    assert {polder.daemon.instance(name)["spec"]["description"] for name in ("a", "b")} == {"both"}


# --- changes ------------------------------------------------------------------------------------------------------------

def test_life(polder):
    assert polder.out("create", "--kind", "fake", "--name", "web-1", "fake") == "web-1\n"
    for verb, state in [("start", "running"), ("pause", "paused"), ("resume", "running"), ("suspend", "suspended"),
                        ("resume", "running"), ("restart", "running"), ("stop", "stopped")]:
        assert polder.out(verb, "web-1") == "web-1\n"
        assert polder.daemon.state_of("web-1") == state
    assert "possible now" in polder.error("pause", "web-1")
    polder("rm", "web-1")
    assert polder.out("ls", "-q") == ""
    assert polder.out("ls", "--deleted", "-q") == "web-1\n"
    polder("undelete", "web-1")
    assert polder.out("ls", "-q") == "web-1\n"
    polder("rm", "--purge", "web-1")
    assert polder.out("ls", "--deleted", "-q") == ""


def test_set(polder):
    fake(polder, "web-1", "--label", "old=1")
    polder("set", "web-1", "--memory", "64M", "--label", "new=2", "--unlabel", "old", "--priority", "7")
    spec = json.loads(polder.out("show", "web-1"))["spec"]
    assert spec["memory"] == 64 << 20 and spec["labels"] == {"new": "2"} and spec["priority"] == 7
    polder("set", "web-1", "--unset", "priority", "--if-unchanged")
    assert json.loads(polder.out("show", "web-1"))["spec"]["priority"] == 0
    assert json.loads(polder.out("set", "--dry-run", "web-1", "--memory", "1G"))["spec"]["memory"] == 1 << 30
    assert json.loads(polder.out("show", "web-1"))["spec"]["memory"] == 64 << 20
    assert "say what to set" in polder.error("set", "web-1", status=2)
    polder("stop", "web-1")
    polder("set", "web-1", "--rename", "shop")
    assert polder.out("ls", "-q") == "shop\n"


def test_dry_run(polder):
    shown = json.loads(polder.out("create", "--dry-run", "--kind", "fake", "--name", "web-1", "fake"))
    assert shown["name"] == "web-1" and shown["assigned"]["kind"] == "fake"
    assert polder.out("ls", "-q") == ""


def test_wait(polder):
    fake(polder, "web-1", "--label", "polder.fake.run=delay=500ms,exit=5")
    assert polder.out("wait", "web-1") == "5\n"
    assert polder.out("wait", "web-1", "--for", "failed", "--time", "30s") == "5\n"
    fake(polder, "web-2")
    assert "did not finish" in polder.error("wait", "web-2", "--time", "200ms")


def test_no_wait_and_ops(polder):
    polder("create", "--kind", "fake", "--name", "slow", "--label", "polder.fake.start=delay=1s", "fake")
    operation = polder.out("start", "--no-wait", "slow").strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", operation)
    assert operation in polder.out("ops", "ls")
    assert json.loads(polder.out("ops", "show", operation))["type"] == "instance.start"
    polder("ops", "wait", operation)
    assert polder.daemon.state_of("slow") == "running"


def test_cancel(polder):
    polder("create", "--kind", "fake", "--name", "stuck", "--label", "polder.fake.start=hang", "fake")
    operation = polder.out("start", "--no-wait", "stuck").strip()
    polder("ops", "cancel", operation)
    assert "canceled" in polder.error("ops", "wait", operation, status=None)


def test_interrupt_detaches(polder):
    """Ctrl-C during an operation leaves it alone and says how to follow it."""
    polder("create", "--kind", "fake", "--name", "slow", "--label", "polder.fake.start=delay=3s", "fake")
    command = polder.start("start", "slow")
    eventually(lambda: polder.daemon.state_of("slow") == "starting", what="the start")
    time.sleep(1.5)
    command.send_signal(signal.SIGINT)
    _, text = command.communicate(timeout=DEADLINE)
    assert command.returncode == 130
    operation = re.search(r"polder ops wait ([0-9a-f-]{36})", text).group(1)
    polder("ops", "wait", operation)
    assert polder.daemon.state_of("slow") == "running"


def test_progress(polder):
    """A bar on a terminal for what takes over a second, a line a step elsewhere, nothing for what is quick."""
    polder("create", "--kind", "fake", "--name", "slow", "--label", "polder.fake.start=delay=2s", "fake")
    status, shown = polder.terminal("start", "slow")
    assert status == 0 and b"\r\033[K" in shown
    polder("stop", "slow")
    done = polder("start", "slow")
    assert "slow" in done.stderr and "\r" not in done.stderr
    polder("stop", "slow")
    assert polder("start", "-q", "slow").stderr == ""
    fake(polder, "fast")
    assert polder("restart", "fast").stderr == ""


def test_progress_of_an_upload(polder, tmp_path):
    """Bytes sent and in all, once that takes a second."""
    disk = tmp_path / "slow.raw"
    disk.write_bytes(bytes(16 << 20))
    process = polder.daemon.process
    os.kill(process.pid, signal.SIGSTOP)  # a daemon that takes nothing for two seconds
    going_on = threading.Timer(2, os.kill, (process.pid, signal.SIGCONT))
    going_on.start()
    try:
        status, shown = polder.terminal("image", "import", disk, "--name", "slow")
    finally:
        going_on.join()
    assert status == 0 and re.search(rb"slow: sending \[[= ]+\] \d+% .* of 16MiB", shown), shown
    quick = polder("image", "import", disk, "--name", "again")
    assert "\r" not in quick.stderr, quick.stderr
    polder("image", "rm", "slow", "again")


def test_check_is_an_operation(polder):
    assert polder.out("fsck", "--deep") == "clean\n"
    operation = json.loads(polder.out("ops", "ls", "-o", "json"))[0]
    assert (operation["type"], operation["state"]) == ("node.check", "done") and operation["result"] == {"clean": True, "problems": []}


def test_operations_are_filtered(polder):
    fake(polder, "web-1")
    fake(polder, "web-2")
    polder("stop", "web-1")
    rows = list(csv.DictReader(io.StringIO(polder.out("ops", "ls", "--type", "instance", "--object", "web-1", "--state", "done", "-o", "csv"))))
    assert rows[0]["TYPE"] == "instance.stop" and {row["OBJECT"] for row in rows} == {"instances/web-1"}
    assert len(polder.out("ops", "ls", "-q", "-n", "1").split()) == 1
    assert polder.out("image", "ls", "-q", "--type", "iso", "nothing") == ""


def test_logs(polder):
    fake(polder, "web-1", "--label", "polder.fake.run=output=hello")
    polder("logs", "web-1", status=None)
    assert "there is no instance" in polder.error("logs", "nothing")


# --- the rest -------------------------------------------------------------------------------------------------------------

def test_events(polder):
    fake(polder, "web-1")
    shown = polder.out("events", "--since", "0", "--type", "instance.running", "-n", "1")
    assert "instance.running" in shown and "web-1" in shown
    event = json.loads(polder.out("events", "--since", "0", "-n", "1", "-o", "json"))
    assert event["id"] and event["type"]
    first = ("events", "--since", "0", "-n", "2", "-o")
    events = [json.loads(line) for line in polder.out(*first, "json").splitlines()]
    ids = [str(event["id"]) for event in events]
    assert [line.split(": ", 1)[1] for line in polder.out(*first, "yaml").splitlines() if line.startswith("id: ")] == ids
    rows = list(csv.DictReader(io.StringIO(polder.out(*first, "csv"))))
    assert [(row["ID"], row["TYPE"]) for row in rows] == [(str(event["id"]), event["type"]) for event in events]
    assert polder.out(*first, "name").splitlines() == [event["object"] for event in events]
    assert [line.split()[0] for line in polder.out(*first, "wide").splitlines()] == ids


def test_versions(polder):
    both = json.loads(polder.out("version", "-o", "json"))
    assert both["client"] == both["server"]
    assert f"client: \"{both['client']}\"" in polder.out("version", "-o", "yaml")
    rows = list(csv.DictReader(io.StringIO(polder.out("version", "-o", "csv"))))
    assert rows == [{"PROGRAM": name, "VERSION": both["server"]} for name in ("polder", "polderd")]
    assert polder.out("version", "-o", "name").split() == [both["server"]] * 2
    assert polder.out("version", "-o", "wide").split()[:2] == ["PROGRAM", "VERSION"]


def test_audit(polder):
    fake(polder, "web-1")
    polder.error("stop", "nothing")
    def rows_now():
        return list(csv.DictReader(io.StringIO(polder.out("audit", "-o", "csv"))))
    eventually(lambda: any(row["RESULT"] == "not-found" for row in rows_now()), what="the refusal's record")
    rows = rows_now()
    assert {row["ACTOR"] for row in rows} <= {"root", "polderd"}
    assert int(rows[0]["ID"]) > int(rows[-1]["ID"])
    assert any(row["ACTION"] == "instance.create" for row in rows)
    assert len(list(csv.DictReader(io.StringIO(polder.out("audit", "-n", "1", "-o", "csv"))))) == 1


def test_node(polder):
    shown = polder.out("node", "show")
    assert "CPUs" in shown and "promised" in shown
    assert json.loads(polder.out("node", "show", "-o", "json"))["cpus"]
    assert "running" in polder.out("lifecycle")
    assert polder.out("fsck") == "clean\n"
    assert polder.out("fsck", "--deep") == "clean\n"
    assert "kinds" in polder("doctor", status=None).stdout
    assert "NAME" in polder.out("network", "show")
    assert "polderd" in polder.out("version")
    assert polder.out("image", "ls").startswith("NAME")


def test_reader_can_look(polder):
    """Who may not open the administrators' socket still sees, and is told why changes are refused."""
    fake(polder, "web-1")
    command = f"exec setpriv --reuid=65534 --regid=65534 --clear-groups {polder.path}"
    os.chmod(polder.daemon.directory, 0o755)
    os.chmod(polder.daemon.run, 0o755)
    def as_nobody(words):
        return subprocess.run(["sh", "-c", f"{command} {words}"], env=polder.environment, capture_output=True, text=True)
    shown = as_nobody("ls -q")
    if "not found" in shown.stderr or "denied" in shown.stderr.lower() and shown.returncode == 127:
        pytest.skip("the build cannot be read by others")
    assert shown.stdout == "web-1\n", shown.stderr
    refused = as_nobody("stop web-1")
    assert refused.returncode == 1 and "lacks the permission 'operate'" in refused.stderr


def test_help(polder):
    overview = polder.out("--help")
    for command in ("run", "image", "doctor"):
        assert f"  {command} " in overview
        assert "Usage: polder " + command in polder.out(command, "--help")
    assert polder.out("help", "image", "pull") == polder.out("image", "pull", "-h")
    assert "Usage" in polder.error("image", status=2)


def test_man_pages(polder, tmp_path):
    polder("man", tmp_path)
    pages = sorted(path.name for path in tmp_path.iterdir())
    assert {"polder.1", "polder-run.1", "polder-image-pull.1"} <= set(pages)
    if shutil.which("man"):
        for page in pages:
            done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(tmp_path / page)],
                                  capture_output=True, text=True)
            assert done.returncode == 0 and not done.stderr, (page, done.stderr)


def complete(polder, script, *words):
    """What bash would offer for the last word."""
    program = (f"source {script}; COMP_WORDS=({' '.join(repr(word) for word in words)}); "
               f"COMP_CWORD={len(words) - 1}; _polder; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True,
                          env={**polder.environment, "PATH": f"{polder.path.parent}:{os.environ['PATH']}"})
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


def test_bash_completion(polder, tmp_path):
    script = tmp_path / "polder.bash"
    script.write_text(polder.out("completion", "bash"))
    fake(polder, "web-1")
    assert "suspend" in complete(polder, script, "polder", "su")
    assert set(complete(polder, script, "polder", "image", "p")) == {"pull", "prune"}
    assert complete(polder, script, "polder", "stop", "we") == ["web-1"]
    assert "--memory" in complete(polder, script, "polder", "run", "--mem")
    assert complete(polder, script, "polder", "run", "--kind", "mi") == ["microvm"]
    assert set(complete(polder, script, "polder", "ls", "-o", "")) == {"table", "wide", "json", "yaml", "csv", "name"}
    assert "--platform" in complete(polder, script, "polder", "image", "pull", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_completions(polder, tmp_path, shell):
    script = tmp_path / "script"
    script.write_text(polder.out("completion", shell))
    assert "suspend" in script.read_text()
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: its syntax was not checked")
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_full_output_is_told(polder):
    fake(polder, "web-1")
    with open("/dev/full", "w") as full:
        done = subprocess.run(polder.words("ls", "-q"), env=polder.environment, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode != 0 and b"writing" in done.stderr


def test_starts_quickly(polder):
    """No heavy library is linked: what is needed for a table is loaded when one is printed."""
    needed = subprocess.run(["readelf", "-d", str(polder.path)], capture_output=True, text=True, check=True).stdout
    for library in ("libcurl", "libsystemd", "libsmartcols", "libarchive", "libgnutls", "libsqlite"):
        assert library not in needed
