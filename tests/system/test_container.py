# SPDX-License-Identifier: GPL-2.0-or-later
"""Containers by the real daemon, crun and conmon: what a process in one sees, what it may do, how it ends, what goes in and
out, and what outlives the daemon (attacks A41, A42, A65, A84, A85, A104; faults F08, F28)."""
import asyncio
import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.parse

import pytest
import websockets

from apilib import connect, converse, run as run_async
from imagelib import Image, Layer, upload
from polderlib import DEADLINE, Client, Daemon, build_option, eventually, file_sizes, group_value

BUSYBOX = pathlib.Path("/bin/busybox")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("crun") or not shutil.which("conmon"), reason="crun or conmon is not installed"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox-static is not installed"),
]
APPLETS = ("sh", "cat", "echo", "id", "env", "pwd", "ls", "true", "false", "sleep", "kill", "mount", "umount", "mknod", "stat",
           "yes", "head", "dd", "tty", "stty", "ip", "ln", "rm", "mkdir", "mv", "readlink", "hostname", "touch", "chown", "su",
           "unshare", "tail", "grep", "wc", "seq", "printf", "ps", "test", "nslookup", "ping")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\nother:x:1001:7:o:/o:/bin/sh\n"
GROUP = b"root:x:0:\nstaff:x:50:app,other\napp:x:1000:\nmore:x:60:app\n"


def base_layer():
    files = {f"{name}/": ("dir",) for name in ("bin", "etc", "tmp", "root", "home", "home/app", "dev", "proc", "sys", "var")}
    files["bin/busybox"] = BUSYBOX.read_bytes()
    files.update({f"bin/{name}": ("link", "busybox") for name in APPLETS})
    files.update({"etc/passwd": PASSWD, "etc/group": GROUP, "not-executable": ("file", b"x", 0o644), "no-program": b"x"})
    layer = Layer(files)
    return layer


@pytest.fixture(scope="module")
def base():
    return base_layer()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host directory that the daemon may share, and one that it may not."""
    place = tmp_path_factory.mktemp("host")
    for name in ("allowed", "secret"):
        (place / name).mkdir()
        (place / name / "file").write_text(f"from {name}\n")
        (place / name).chmod(0o777)
    place.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def daemon(base, host):
    daemon = Daemon(fake=False, arguments=["--mount-roots", host / "allowed"]).start()
    upload(daemon, Image([base], {"Cmd": ["sh"]}).oci_archive(), type="oci", alias="base")
    yield daemon
    daemon.close()


@pytest.fixture
def name(daemon, request):
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-60:].strip("-")
    if not daemon.is_alive():  # a test that ends it and fails before it starts it anew shall be the only one
        daemon.start()
    yield name
    assert daemon.is_alive(), daemon.log()[-3000:]
    if daemon.state_of(name):
        daemon.delete(name, purge=True)


def spec(*command, **more):
    return {"kind": "container", "image": "base", "network": "none", "command": list(command), **more}


async def talk(path, address, first, data):
    """Sends input while output is read: (output, errors, last message)."""
    outputs, last = {1: b"", 2: b""}, None
    async with connect(path, address) as stream:
        await stream.send(json.dumps(first))

        async def feed():
            for at in range(0, len(data), 60000):
                await stream.send(b"\0" + data[at:at + 60000])
            await stream.send(json.dumps({"stdin": "close"}))
        feeding = asyncio.ensure_future(feed() if data is not None else asyncio.sleep(0))
        while last is None:
            message = await asyncio.wait_for(stream.recv(), DEADLINE)
            if isinstance(message, str):
                last = json.loads(message)
            else:
                outputs[message[0]] += message[1:]
        with contextlib.suppress(websockets.ConnectionClosed):
            await feeding
    return outputs[1], outputs[2], last


def run(daemon, name, *command, input=None, **more):
    """Creates, attaches, starts, waits: (output, errors, exit code)."""
    daemon.create(name, **spec(*command, stdin_open=input is not None, **more))
    out, errors, last = run_async(talk(daemon.socket, f"/v1/instances/{name}/attach?start=true", {}, input))
    assert last and "exit" in last, (out, errors, last, daemon.log()[-2000:])
    return out, errors, last["exit"]["code"]


def execute(daemon, name, *command, input=None, whole=False, **more):
    first = {"command": list(command), "stdin": input is not None, **more}
    out, errors, last = run_async(talk(daemon.socket, f"/v1/instances/{name}/exec", first, input))
    if whole:
        return last
    assert last and "exit" in last, (out, errors, last)
    return out, errors, last["exit"]["code"]


def sh(daemon, name, script, **more):
    out, errors, code = execute(daemon, name, "sh", "-c", script, **more)
    assert code == 0, (script, out, errors, code)
    return out.decode()


def sleeper(daemon, name, **more):
    daemon.create(name, start=True, **spec("sleep", "100000", **more))
    return daemon.instance(name)


def init_pid(daemon, name):
    """The first process of the container, by its cgroup and its parent, conmon."""
    uuid = daemon.instance(name)["assigned"]["uuid"]
    return int((daemon.run / "i" / uuid / "init.pid").read_text())


def start_ticks(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def monitor_pid(daemon, name):
    return int(re.search(r"PPid:\s+(\d+)", pathlib.Path(f"/proc/{init_pid(daemon, name)}/status").read_text()).group(1))


def exit_code(daemon, name):
    return daemon.get(f"/v1/instances/{name}/wait?for=exited&timeout=60s")["exit_code"]


def logged(daemon, name):
    reply = daemon.expect(200, "GET", f"/v1/instances/{name}/logs")
    return [json.loads(line) for line in reply.body.splitlines()]


# ---- output, input, exit codes ----

@pytest.mark.parametrize("command, code", [(["true"], 0), (["false"], 1), (["sh", "-c", "exit 42"], 42),
                                           (["sh", "-c", "exit 255"], 255), (["sh", "-c", "kill -9 $$; sleep 9"], None),
                                           (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137)])
def test_exit_codes(daemon, name, command, code):
    if code is None:
        daemon.create(name, start=True, **spec("sleep", "1000"))
        daemon.expect((200, 202, 204), "POST", f"/v1/instances/{name}/signal", {"signal": "SIGKILL"})
        assert exit_code(daemon, name) == 137
        return
    out, errors, found = run(daemon, name, *command)
    assert (out, errors.replace(b"Killed\n", b""), found) == (b"", b"", code)
    shown = daemon.instance(name)
    assert shown["status"]["state"] == ("failed" if code else "stopped") and shown["status"]["exit_code"] == code
    assert exit_code(daemon, name) == code


def test_streams_are_separate_and_whole(daemon, name):
    out, errors, code = run(daemon, name, "sh", "-c", "echo out; echo err >&2; yes | head -c 3000000; printf 'no newline'")
    assert code == 0 and errors == b"err\n"
    assert out == b"out\n" + b"y\n" * 1500000 + b"no newline"
    lines = logged(daemon, name)
    assert lines[-1]["text"].rstrip("\n").endswith("no newline")


def test_input_to_its_end(daemon, name):
    data = os.urandom(1 << 20)
    out, errors, code = run(daemon, name, "cat", input=data)
    assert code == 0 and out == data


def test_no_input_is_empty(daemon, name):
    assert run(daemon, name, "cat") == (b"", b"", 0)


def test_terminal(daemon, name):
    daemon.create(name, **spec("sh", "-c", "tty; stty size; echo err >&2; read line; echo got $line; exit 5", tty=True, stdin_open=True))

    async def converse_by_terminal():
        out = b""
        async with connect(daemon.socket, f"/v1/instances/{name}/attach?start=true") as stream:
            await stream.send(json.dumps({"rows": 33, "columns": 99}))
            sent = False
            while True:
                message = await asyncio.wait_for(stream.recv(), DEADLINE)
                if isinstance(message, str):
                    return out, json.loads(message)
                assert message[0] == 1, "a terminal has one stream"
                out += message[1:]
                if b"err" in out and not sent:
                    sent = True
                    await stream.send(b"\0hello\n")
    out, last = run_async(converse_by_terminal())
    assert last["exit"]["code"] == 5, last
    assert b"/dev/pts/0\r\n33 99\r\nerr\r\n" in out and b"got hello\r\n" in out


def test_signals_and_stop(daemon, name):
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo ready; while true; do sleep 0.1; done"
    daemon.create(name, start=True, **spec("sh", "-c", script))
    eventually(lambda: any("ready" in line["text"] for line in logged(daemon, name)), what="ready")
    daemon.expect((200, 202, 204), "POST", f"/v1/instances/{name}/signal", {"signal": "USR1"})
    eventually(lambda: any("usr1" in line["text"] for line in logged(daemon, name)), what="the signal")
    assert daemon.problem(400, "POST", f"/v1/instances/{name}/signal", {"signal": "SIGNONE"})["code"]
    daemon.act(name, "stop")
    assert exit_code(daemon, name) == 3 and daemon.state_of(name) == "stopped"
    daemon.act(name, "start")
    assert daemon.state_of(name) == "running"


@pytest.mark.parametrize("command, code", [(["nothing-here"], "no-command"), (["/nothing/here"], "no-command"),
                                           (["/not-executable"], "not-executable"), (["/etc"], "not-executable")])
def test_commands_that_cannot_run(daemon, name, command, code):
    daemon.create(name, **spec(*command))
    reply = daemon.request("POST", f"/v1/instances/{name}/start?wait=60s", {})
    assert reply.status == 422 and reply.code == code, reply
    assert daemon.state_of(name) in ("created", "stopped", "failed")
    assert not (daemon.run / "i" / daemon.instance(name)["assigned"]["uuid"] / "init.pid").exists()


# ---- exec ----

def test_exec(daemon, name):
    sleeper(daemon, name, environment={"A": "1"})
    assert execute(daemon, name, "sh", "-c", "echo out; echo err >&2; exit 7") == (b"out\n", b"err\n", 7)
    assert execute(daemon, name, "cat", input=b"x" * 300000) == (b"x" * 300000, b"", 0)
    assert sh(daemon, name, "echo $A$B; pwd", environment=["B=2"], working_directory="/home") == "12\n/home\n"
    assert execute(daemon, name, "sh", "-c", "kill -9 $$")[2] == 137
    assert b"/dev/pts/" in execute(daemon, name, "tty", tty=True)[0]
    # crun gives the terminal its size beside the process, which is told of it (SIGWINCH).
    out, _, code = execute(daemon, name, "sh", "-c", "until stty size 2>/dev/null; do sleep 0.1; done", tty=True, rows=11, columns=22)
    assert (out, code) == (b"11 22\r\n", 0)
    assert execute(daemon, name, "nothing-here", whole=True)["error"]["code"] == "no-command"
    assert execute(daemon, name, "/etc", whole=True)["error"]["code"] == "not-executable"
    for directory in ("/missing", "/bin/sh", "bin"):
        told = execute(daemon, name, "pwd", whole=True, working_directory=directory)["error"]
        assert told["code"] == "bad-value" and f"'working_directory' cannot be '{directory}'" in told["detail"], told
    assert "1\n" == sh(daemon, name, "ps | grep -c '[s]leep 100000'"), "nothing of an exec is left"
    for bad in ({"command": []}, {"command": "sh"}, {"command": ["sh"], "colour": 1}, {"command": ["a\0b"]}, {}):
        last = run_async(converse(daemon.socket, f"/v1/instances/{name}/exec", bad))[2]
        assert last and "error" in last, (bad, last)


def test_exec_right_after_the_start(daemon, name):
    """Between its release and its execve the first process is still crun, whose namespaces nobody may enter: exec waits for
    the latter. Here it takes long, since the process is stopped before it is released."""
    if not build_option("failpoints"):
        pytest.skip("this build has no fail points (meson -Dfailpoints=true)")
    daemon.create(name, **spec("sleep", "100000"))
    pid_file = daemon.run / "i" / daemon.instance(name)["assigned"]["uuid"] / "init.pid"
    daemon.stop()
    daemon.environment = {"POLDER_FAILPOINTS": "container-created=delay:3000"}
    try:
        daemon.start()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            starting = pool.submit(Client(daemon.socket).request, "POST", f"/v1/instances/{name}/start?wait={DEADLINE}s", {})
            init = int(eventually(lambda: pid_file.exists() and pid_file.read_text(), what="the first process"))
            os.kill(init, signal.SIGSTOP)
            assert starting.result().status == 200
            executing = pool.submit(execute, daemon, name, "echo", "here")
            time.sleep(0.5)
            assert not executing.done(), executing.result()
            os.kill(init, signal.SIGCONT)
            assert executing.result() == (b"here\n", b"", 0)
    finally:
        daemon.stop()
        daemon.environment = {}
        daemon.start()


def test_many_at_once_in_one(daemon, name):
    """Each is in the container's groups, however their starts interleave."""
    sleeper(daemon, name)
    alone = sh(daemon, name, "cat /proc/self/cgroup")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for shown in pool.map(lambda _: sh(daemon, name, "cat /proc/self/cgroup"), range(64)):
            assert shown == alone


def test_exec_without_room_for_a_process(daemon, name, tmp_path):
    """It is told, and nothing runs elsewhere: crun 1.8 goes on in the host's namespaces, nearly to the end."""
    daemon.create(name, start=True, **spec("sh", "-c", "for i in 1 2 3 4; do sleep 100000 & done; wait", pids=5))
    uuid = daemon.instance(name)["assigned"]["uuid"]
    eventually(lambda: group_value(uuid, "pids.current") == "5", what="five processes")
    for terminal in (False, True):
        last = execute(daemon, name, "touch", str(tmp_path / "marker"), whole=True, tty=terminal)
        assert "error" in last, last
        assert last["error"]["code"] == "not-executable" and "no room" in last["error"]["detail"], last
        assert not (tmp_path / "marker").exists()


def test_files_of_one_that_ends_at_this_moment(daemon, name):
    """Its first process is gone, and conmon has not told yet: whoever wants files waits for that, and gets them."""
    sleeper(daemon, name)
    monitor, init = monitor_pid(daemon, name), init_pid(daemon, name)
    os.kill(monitor, signal.SIGSTOP)
    try:
        os.kill(init, signal.SIGKILL)
        eventually(lambda: "State:\tZ" in pathlib.Path(f"/proc/{init}/status").read_text(), what="its end")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            reading = pool.submit(Client(daemon.socket).request, "GET", f"/v1/instances/{name}/files?path=/etc/passwd")
            time.sleep(0.5)
            assert not reading.done(), reading.result()
            os.kill(monitor, signal.SIGCONT)
            reply = reading.result()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(monitor, signal.SIGCONT)
    assert reply.status == 200 and b"app:x:1000" in reply.body, reply


def test_exec_that_nobody_reads(daemon, name):
    """A85: the client goes, what it started goes too, descriptors come back."""
    sleeper(daemon, name)
    before = daemon.descriptors()
    for _ in range(20):
        run_async(converse(daemon.socket, f"/v1/instances/{name}/exec", {"command": ["yes"]}, keep=100))
    eventually(lambda: sh(daemon, name, "ps | grep -c '[y]es$' || true").strip() == "0", what="the end of yes")
    eventually(lambda: daemon.descriptors() <= before + 3, what="closed descriptors")


# ---- users (A42) ----

@pytest.mark.parametrize("user, seen", [
    (None, "0:0:0"), ("1000", "1000:1000:1000 50 60"), ("app", "1000:1000:1000 50 60"), ("app:root", "1000:0:0"), ("1000:50", "1000:50:50"),
    ("other", "1001:7:7 50"), ("4242", "4242:0:0"), ("4242:77", "4242:77:77"), ("0", "0:0:0")])
def test_users(daemon, name, user, seen):
    more = {"user": user} if user else {}
    out, errors, code = run(daemon, name, "sh", "-c", "echo $(id -u):$(id -g):$(id -G); echo $HOME", **more)
    assert code == 0, errors
    lines = out.decode().splitlines()
    groups = sorted(set(lines[0].split(":")[2].split()))
    assert lines[0].rsplit(":", 1)[0] == seen.rsplit(":", 1)[0] and groups == sorted(seen.rsplit(":", 1)[1].split()), lines
    assert lines[1] == {"0": "/root", "1000": "/home/app", "1001": "/o"}.get(seen.split(":")[0], "/")


@pytest.mark.parametrize("user", ["4294967296", "4294967295", "-1", "65536", "99999999999999999999", "nobody-here", "root:nogroup-here",
                                  "0x0", "app:", ":", "root:4294967295", "a b", "../x", "1.5"])
def test_users_that_are_none(daemon, name, user):
    reply = daemon.request("POST", "/v1/instances?wait=60s", {"name": name, "spec": spec("id", user=user)})
    if reply.status in (200, 202):
        reply = daemon.request("POST", f"/v1/instances/{name}/start?wait=60s", {})
    if user == "app:" and reply.status == 200:
        return
    assert 400 <= reply.status < 500 and reply.code not in (None, "internal"), (user, reply)


@pytest.mark.parametrize("kind", ["fifo", "link", "huge", "directory", "binary"])
def test_hostile_passwd(daemon, base, name, kind):
    files = {"link": {"etc/passwd": ("link", "/proc/self/environ"), "etc/group": ("link", "/etc/passwd")},
             "huge": {"etc/passwd": b"x" * (3 << 20)}, "directory": {"etc/passwd/": ("dir",)},
             "binary": {"etc/passwd": os.urandom(5000), "etc/group": os.urandom(5000)}, "fifo": {}}[kind]
    layer = Layer(files)
    if kind == "fifo":
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("etc/passwd")
            info.type = tarfile.FIFOTYPE
            tar.addfile(info)
        layer = Layer(out.getvalue())
    upload(daemon, Image([base, layer]).oci_archive(), type="oci", alias=f"passwd-{kind}")
    for user in ("app", "12"):
        daemon.create(name, **spec("id", user=user, image=f"passwd-{kind}"))
        began = time.monotonic()
        reply = daemon.request("POST", f"/v1/instances/{name}/start?wait=60s", {})
        assert reply.status in (200, 400, 404, 422) and time.monotonic() - began < 30, reply
        assert daemon.request("GET", "/healthz").status == 200
        daemon.delete(name, purge=True)


# ---- what the image says ----

def test_image_configuration(daemon, base, name):
    config = {"Entrypoint": ["echo", "e p"], "Cmd": ["default"], "Env": ["A=image", "B=image", "PATH=/bin:/x"], "User": "app",
              "WorkingDir": "/made/by/us", "Labels": {"run.oci.systemd.force_cgroup_v1": "/x", "org.systemd.property.Foo": "1",
                                                      "esc": "\x1b]0;title\x07"}}
    upload(daemon, Image([base], config).oci_archive(), type="oci", alias="configured")

    def one(*command, **more):
        daemon.create(name, **spec(*command, image="configured", **more))
        out = run_async(converse(daemon.socket, f"/v1/instances/{name}/attach?start=true", {}))[0]
        daemon.delete(name, purge=True)
        return out
    body = {"name": name, "spec": {"kind": "container", "image": "configured", "network": "none"}}
    daemon.change("POST", "/v1/instances", body)
    out, _, last = run_async(converse(daemon.socket, f"/v1/instances/{name}/attach?start=true", {}))
    assert out == b"e p default\n" and last["exit"]["code"] == 0
    daemon.delete(name, purge=True)
    assert one("other", "x") == b"e p other x\n"
    script = "echo $A $B $C; pwd; id -u; stat -c %u .; echo $PATH"
    out = one("-c", script, entrypoint=["sh"], environment={"B": "mine", "C": "3"}).decode().splitlines()
    assert out[:3] == ["image mine 3", "/made/by/us", "1000"] and out[4] == "/bin:/x"


def test_annotations_and_labels_never_reach_crun(daemon, base, name):
    labels = {"run.oci.hooks.stderr": "/x", "org.systemd.property.ExecStart": "'x'", "io.podman.annotations.x": "y"}
    image = Image([base], {"Cmd": ["sleep", "1000"], "Labels": labels})
    image.change = lambda manifest: manifest.update(annotations=labels)
    upload(daemon, image.oci_archive(), type="oci", alias="annotated")
    daemon.create(name, start=True, **spec("sleep", "1000", image="annotated"))
    uuid = daemon.instance(name)["assigned"]["uuid"]
    bundle = json.loads((daemon.run / "i" / uuid / "config.json").read_text())
    assert list(bundle["annotations"]) == ["run.oci.seccomp_bpf_data"]
    assert "hooks" not in bundle and "intelRdt" not in bundle["linux"]
    for label in labels:
        assert label not in json.dumps(bundle)


@pytest.mark.parametrize("target", ["dev", "proc", "sys", "etc"])
@pytest.mark.parametrize("to", ["/", "../../../..", "/proc/self/fd/7"])
def test_top_level_links_are_refused(daemon, base, name, target, to):
    """A65: the image replaces a directory that the runtime mounts on by a link."""
    files = {f"{part}/": ("dir",) for part in ("bin", "dev", "proc", "sys", "etc") if part != target}
    files.update({"bin/busybox": BUSYBOX.read_bytes(), "bin/sh": ("link", "busybox"), target: ("link", to)})
    alias = f"link-{target}-{len(to)}"
    upload(daemon, Image([files]).oci_archive(), type="oci", alias=alias)
    before = {path: os.lstat(path) for path in ("/dev", "/proc", "/sys", "/etc/hostname", "/etc/resolv.conf")}
    daemon.create(name, **spec("sh", "-c", "true", image=alias))
    reply = daemon.request("POST", f"/v1/instances/{name}/start?wait=60s", {})
    assert reply.status == 422 and reply.code == "bad-image", reply
    for path, status in before.items():
        now = os.lstat(path)
        assert (now.st_ino, now.st_mode, now.st_ctime_ns if path.startswith("/etc") else 0) == \
            (status.st_ino, status.st_mode, status.st_ctime_ns if path.startswith("/etc") else 0)


@pytest.mark.parametrize("path", ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "work", "dev/null", "dev/console"])
def test_links_in_the_way_of_runtime_files(daemon, base, name, path, host):
    target = str(host / "secret/file")
    layer = {path: ("link", target)} if not path.startswith("dev/") else {"dev/": ("dir",), path: ("link", target)}
    upload(daemon, Image([base, layer]).oci_archive(), type="oci", alias="in-the-way")
    daemon.create(name, **spec("sh", "-c", "echo x > /dev/null; echo y > /etc/hosts; true", image="in-the-way",
                               **({"working_directory": "/work"} if path == "work" else {})))
    daemon.request("POST", f"/v1/instances/{name}/start?wait=60s", {})
    eventually(lambda: daemon.state_of(name) != "running", what="its end")
    assert (host / "secret/file").read_text() == "from secret\n"


# ---- walls ----

def test_namespaces_and_ids(daemon, name):
    instance = sleeper(daemon, name)
    pid, first = init_pid(daemon, name), instance["assigned"]["uid_base"]
    for kind in ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    for which in ("uid_map", "gid_map"):
        assert pathlib.Path(f"/proc/{pid}/{which}").read_text().split() == ["0", str(first), "65536"]
    assert first >= 65536 and os.stat(f"/proc/{pid}").st_uid == first
    # Another instance has other ids.
    other = sleeper(daemon, name[:50] + "-2")["assigned"]["uid_base"]
    daemon.delete(name[:50] + "-2", purge=True)
    assert abs(other - first) >= 65536
    assert sh(daemon, name, "cat /proc/1/comm; ps | wc -l").split()[0] == "sleep"
    assert sh(daemon, name, "stat -c %u:%g /bin/busybox /etc/passwd").split() == ["0:0", "0:0"]
    assert sh(daemon, name, "ls /sys/class/net").split() == ["lo"]


DOCKER_CAPABILITIES = {"chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap", "setpcap",
                       "net_bind_service", "sys_chroot", "kill", "audit_write"}
NUMBERS = dict(chown=0, dac_override=1, fowner=3, fsetid=4, kill=5, setgid=6, setuid=7, setpcap=8, net_bind_service=10,
               net_raw=13, sys_chroot=18, mknod=27, audit_write=29, setfcap=31)


def test_privileges(daemon, name):
    sleeper(daemon, name)
    allowed = sum(1 << NUMBERS[capability] for capability in DOCKER_CAPABILITIES)
    for which in ("self", "1"):
        status = dict(line.split(":\t", 1) for line in sh(daemon, name, f"cat /proc/{which}/status").splitlines() if ":\t" in line)
        for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[field], 16) & ~allowed == 0, (which, field, status[field])
        assert status["CapInh"].strip("0") == "" and status["CapAmb"].strip("0") == ""
        assert status["Seccomp"].strip() == "2"
    status = sh(daemon, name, "cat /proc/self/status", user="app")
    assert "CapEff:\t0000000000000000" in status and "CapPrm:\t0000000000000000" in status
    for script in ("mount -t tmpfs x /tmp", "mount -o remount,rw /sys", "umount /proc", "mknod /tmp/m b 8 0 && cat /tmp/m", "unshare -m true",
                   "unshare -U true", "echo 1 > /proc/sys/kernel/panic", "echo b > /proc/sysrq-trigger", "echo x > /sys/kernel/uevent_helper",
                   "cat /proc/kcore | head -c 1 | grep .", "ls /sys/firmware/* 2>&1 | grep -q . && ls /sys/firmware/acpi",
                   "cat /proc/keys | grep .", "cat /proc/timer_list | grep .", "hostname other-name && hostname -F /nothing"):
        assert execute(daemon, name, "sh", "-c", script)[2] != 0, script
    devices = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
               "urandom", "zero"}
    assert set(sh(daemon, name, "ls /dev").split()) <= devices
    mounts = {line.split()[1]: line.split()[3].split(",") for line in sh(daemon, name, "cat /proc/mounts").splitlines()}
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts["/sys"]) and {"nosuid", "nodev", "noexec"} <= set(mounts["/proc"])
    for path in ("/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"):
        assert not os.path.exists(path) or "ro" in mounts[path], path


SYSCALLS = {"kexec_load": 246, "init_module": 175, "delete_module": 176, "bpf": 321, "perf_event_open": 298, "add_key": 248,
            "keyctl": 250, "request_key": 249, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "settimeofday": 164,
            "userfaultfd": 323, "open_by_handle_at": 304, "quotactl": 179, "setns": 308, "unshare": 272, "move_mount": 429,
            "open_tree": 428, "fsopen": 430, "mount_setattr": 442, "pivot_root": 155, "acct": 163,
            "ioperm": 173, "iopl": 172, "lookup_dcookie": 212, "nfsservctl": 180}


def test_system_calls(daemon, base, name, tmp_path):
    """What moby's default profile refuses without further capabilities is refused here, whatever its arguments."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("a C compiler is not installed")
    source = tmp_path / "calls.c"
    numbers = ", ".join(f'{{"{key}", {value}}}' for key, value in SYSCALLS.items())
    source.write_text("""#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <sys/socket.h>
int main(void) { struct { const char *name; long number; } calls[] = { %s };
for (unsigned i = 0; i < sizeof(calls) / sizeof(*calls); i++) { errno = 0;
long r = syscall(calls[i].number, -1L, -1L, -1L, -1L, -1L, -1L); printf("%%s %%ld %%d\\n", calls[i].name, r, errno); }
errno = 0; long r = syscall(SYS_clone, 0x10000000L, 0L, 0L, 0L, 0L); printf("clone-newuser %%ld %%d\\n", r, errno);
r = socket(AF_VSOCK, SOCK_STREAM, 0); printf("vsock %%ld %%d\\n", r, errno); return 0; }
""" % numbers)
    if subprocess.run([compiler, "-static", "-o", tmp_path / "calls", source], capture_output=True).returncode != 0:
        pytest.skip("a static C library is not installed")
    layer = Layer({"calls": (tmp_path / "calls").read_bytes()})
    upload(daemon, Image([base, layer]).oci_archive(), type="oci", alias="calls")
    out, _, code = run(daemon, name, "/calls", image="calls")
    assert code == 0
    taken = []
    for line in out.decode().splitlines():
        call, result, number = line.split()
        if result != "-1" or int(number) not in (1, 38):
            taken.append((call, result, number))
    assert not taken, "neither EPERM nor ENOSYS"


def test_read_only_and_mounts(daemon, name, host):
    sleeper(daemon, name, read_only=True, mounts=[
        {"type": "bind", "source": str(host / "allowed"), "target": "/shared"},
        {"type": "bind", "source": str(host / "allowed/file"), "target": "/one", "read_only": True},
        {"type": "tmpfs", "target": "/scratch", "size": "1M"}])
    assert execute(daemon, name, "touch", "/new")[2] != 0 and execute(daemon, name, "touch", "/etc/new")[2] != 0
    assert sh(daemon, name, "cat /shared/file /one") == "from allowed\n" * 2
    assert execute(daemon, name, "sh", "-c", "echo x > /one")[2] != 0
    sh(daemon, name, "echo inside > /shared/made")
    assert (host / "allowed/made").read_text() == "inside\n" and (host / "allowed/made").stat().st_uid == 0, "ids are mapped"
    assert execute(daemon, name, "dd", "if=/dev/zero", "of=/scratch/x", "bs=64k", "count=100")[2] != 0
    (host / "allowed/made").unlink()


def test_sources_outside_the_roots(daemon, name, host):
    for link, to in (("up", "../secret"), ("absolute", str(host / "secret")), ("etc", "/etc")):
        path = host / "allowed" / link
        if not path.is_symlink():
            path.symlink_to(to)
    for source in (host / "secret", "/etc", "/", host / "allowed/../secret", host / "allowed/up", host / "allowed/absolute/file",
                   host / "allowed/etc/shadow", str(host / "allowed") + "x", "/proc/1/root"):
        reply = daemon.request("POST", "/v1/instances?start=true&wait=60s", {"name": name, "spec": spec(
            "true", mounts=[{"type": "bind", "source": str(source), "target": "/m"}])})
        assert 400 <= reply.status < 500 and reply.code in ("path-not-allowed", "bad-value"), (source, reply)
        if daemon.state_of(name):
            daemon.delete(name, purge=True)
    reply = daemon.request("POST", "/v1/instances?start=true&wait=60s", {"name": name, "spec": spec(
        "true", mounts=[{"type": "bind", "source": str(host / "allowed/none"), "target": "/m"}])})
    assert reply.status == 404, reply


# ---- limits ----

def cgroup_value(daemon, name, *names):
    uuid = daemon.instance(name)["assigned"]["uuid"]
    for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/{uuid}"):
        for file in names:
            if (path / file).exists():
                return (path / file).read_text()
    raise AssertionError(f"no {names} for {uuid}")


def test_cpu_limit(daemon, name):
    daemon.create(name, start=True, **spec("sh", "-c", "while true; do :; done", cpus=0.2))

    def throttled():
        found = re.search(r"nr_throttled (\d+)", cgroup_value(daemon, name, "cpu.stat"))
        return found and int(found.group(1)) > 10
    eventually(throttled, what="throttling")


def test_memory_limit_is_told(daemon, name):
    out, errors, code = run(daemon, name, "sh", "-c", "x=$(yes | head -c 300000000); echo survived", memory="32M")
    status = daemon.instance(name)["status"]
    assert b"survived" not in out and (code == 137 or code != 0)
    assert status.get("oom") or "memory" in json.dumps(status).lower(), status


def test_pids_limit(daemon, name):
    sleeper(daemon, name, pids=12)
    out, errors, code = execute(daemon, name, "sh", "-c", "for i in $(seq 40); do sleep 5 & done; wait")
    assert b"fork" in errors.lower() and code != 0, (out, errors, code)
    assert cgroup_value(daemon, name, "pids.max").strip() == "12"


def log_bytes(daemon, uuid):
    return sum(size for name, size in file_sizes(daemon.state / "instances" / uuid).items() if name.startswith("log"))


def test_log_is_bounded_even_without_the_daemon(daemon, name):
    limit = 256 << 10
    daemon.create(name, start=True, **spec("sh", "-c", "i=0; while true; do i=$((i+1)); echo line $i; done", log_size=limit))
    uuid = daemon.instance(name)["assigned"]["uuid"]
    eventually(lambda: log_bytes(daemon, uuid) > limit // 4, what="a log")
    daemon.kill9()
    sizes, end = [], time.monotonic() + 4
    while time.monotonic() < end:
        sizes.append(log_bytes(daemon, uuid))
        time.sleep(0.02)
    daemon.start()
    sizes.append(log_bytes(daemon, uuid))
    assert max(sizes) <= 2 * limit + (64 << 10), max(sizes)
    assert daemon.state_of(name) == "running"
    first = int(logged(daemon, name)[-1]["text"].split()[1])
    eventually(lambda: int(logged(daemon, name)[-1]["text"].split()[1]) > first, what="that the log goes on")


# ---- files in and out (A104) ----

def put(daemon, name, path, tar):
    return daemon.request("PUT", f"/v1/instances/{name}/files?path={urllib.parse.quote(path)}", tar, {"Content-Type": "application/x-tar"})


def get(daemon, name, path):
    return daemon.request("GET", f"/v1/instances/{name}/files?path={urllib.parse.quote(path)}")


def made_tar(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path.replace("__", "/"))
            info.size, info.uid, info.gid, info.mode = len(data), 1000, 1000, 0o640
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_copy(daemon, name, running):
    daemon.create(name, start=running, **spec("sleep", "100000"))
    data = os.urandom(700000)
    assert put(daemon, name, "/home", made_tar(a=data, sub__b=b"2")).status == 204
    reply = get(daemon, name, "/home/a")
    assert reply.status == 200
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as tar:
        member = tar.getmembers()[0]
        assert tar.extractfile(member).read() == data and member.mode & 0o777 == 0o640
    with tarfile.open(fileobj=io.BytesIO(get(daemon, name, "/home").body)) as tar:
        assert any(entry.endswith("sub/b") for entry in tar.getnames())
    assert get(daemon, name, "/nothing").status == 404
    assert put(daemon, name, "/nothing/here", made_tar(a=b"")).status == 404
    if running:
        assert sh(daemon, name, "stat -c %u:%g:%a /home/a; cat /home/sub/b").split()[1] == "2"


def test_copy_stays_inside(daemon, name, host):
    sleeper(daemon, name)
    secret = host / "secret/file"
    sh(daemon, name, f"ln -s {host}/secret /tmp/absolute; ln -s ../../../../../../..{host}/secret /tmp/relative; "
                     f"ln -s {secret} /tmp/file; ln -s /proc/self/root/.. /tmp/proc; ln -s /proc/1/root{host}/secret /tmp/one")
    for path in ("/tmp/absolute/file", "/tmp/relative/file", "/tmp/proc" + str(secret), "/../../.." + str(secret), "/tmp/one/file"):
        reply = get(daemon, name, path)
        assert b"from secret" not in reply.body, path
    for path in ("/tmp/absolute", "/tmp/relative", "/tmp/one", "/../../.." + str(host / "secret")):
        put(daemon, name, path, made_tar(file=b"changed", new=b"x"))
    put(daemon, name, "/tmp", made_tar(file=b"changed", absolute__file=b"changed", relative__new=b"x", **{"..__..__..__escape": b"x"}))
    assert secret.read_text() == "from secret\n" and sorted(os.listdir(host / "secret")) == ["file"]
    assert not os.path.exists("/escape")


def test_copy_while_the_way_is_swapped(daemon, name, host):
    script = "mkdir -p /tmp/d; echo inside > /tmp/d/file; while true; do mv /tmp/d /tmp/e; ln -s %s /tmp/d; rm /tmp/d; mv /tmp/e /tmp/d; done"
    daemon.create(name, start=True, **spec("sh", "-c", script % (host / "secret")))
    for _ in range(60):
        assert b"from secret" not in get(daemon, name, "/tmp/d/file").body
        put(daemon, name, "/tmp/d", made_tar(file2=b"x"))
    assert (host / "secret/file").read_text() == "from secret\n" and os.listdir(host / "secret") == ["file"]
    assert daemon.request("GET", "/healthz").status == 200


# ---- deaths ----

def test_adopted_after_kill(daemon, name):
    daemon.create(name, start=True, **spec("sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"))
    pid = init_pid(daemon, name)
    ticks = start_ticks(pid)
    daemon.restart(kill=True)
    assert daemon.state_of(name) == "running" and init_pid(daemon, name) == pid and start_ticks(pid) == ticks
    assert sh(daemon, name, "echo still here") == "still here\n"
    count = len(logged(daemon, name))
    eventually(lambda: len(logged(daemon, name)) > count, what="more output")
    numbers = [int(line["text"]) for line in logged(daemon, name)]
    assert numbers == list(range(1, len(numbers) + 1)), "no line is lost"
    daemon.act(name, "stop", {"timeout": "1s"})
    assert daemon.state_of(name) == "stopped" and not os.path.exists(f"/proc/{pid}")


def test_exit_while_the_daemon_is_down(daemon, name, host):
    script = "while [ ! -e /shared/go ]; do sleep 0.1; done; echo last words; exit 23"
    daemon.create(name, start=True, **spec("sh", "-c", script, mounts=[
        {"type": "bind", "source": str(host / "allowed"), "target": "/shared"}]))
    pid = init_pid(daemon, name)
    daemon.kill9()
    (host / "allowed/go").touch()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="its end")
    (host / "allowed/go").unlink()
    daemon.start()
    daemon.wait_state(name, "failed")
    assert exit_code(daemon, name) == 23 and logged(daemon, name)[-1]["text"].strip() == "last words"


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_conmon_killed(daemon, name, down):
    """F08: it is ended and its code unknown, or goes on and is told to run; it is never started twice."""
    sleeper(daemon, name)
    pid, monitor = init_pid(daemon, name), monitor_pid(daemon, name)
    assert "conmon" in pathlib.Path(f"/proc/{monitor}/comm").read_text()
    if down:
        daemon.kill9()
    os.kill(monitor, signal.SIGKILL)
    if down:
        daemon.start()

    def settled():
        state = daemon.state_of(name)
        alive = os.path.exists(f"/proc/{pid}") and " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
        return (state in ("stopped", "failed") and not alive) or (state == "running" and alive)
    eventually(settled, what="a state that is true")
    if daemon.state_of(name) == "running":
        daemon.act(name, "stop", {"timeout": "1s"})
    daemon.act(name, "start")
    assert daemon.state_of(name) == "running" and sh(daemon, name, "echo again") == "again\n"


def test_init_killed(daemon, name):
    sleeper(daemon, name)
    os.kill(init_pid(daemon, name), signal.SIGKILL)
    assert exit_code(daemon, name) == 137
    daemon.wait_state(name, "failed")


def test_reused_pid(daemon, name):
    """F28: while the daemon is down its container ends, and the pid in its files is somebody else's."""
    sleeper(daemon, name)
    uuid = daemon.instance(name)["assigned"]["uuid"]
    pid = init_pid(daemon, name)
    daemon.kill9()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="its end")
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        for path in (daemon.run / "i" / uuid).iterdir():
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 65536:
                text = path.read_bytes()
                if re.search(rb"\b%d\b" % pid, text):
                    path.write_bytes(re.sub(rb"\b%d\b" % pid, str(stranger.pid).encode(), text))
        daemon.start()
        daemon.wait_state(name, "stopped", "failed")
        daemon.delete(name, purge=True)
        assert stranger.poll() is None, "a process that is not ours was killed"
    finally:
        stranger.kill()
        stranger.wait()


def test_nothing_is_left(daemon, name):
    def mounts():
        return [line for line in open("/proc/self/mountinfo", encoding="utf-8") if "polder" in line or str(daemon.directory) in line]
    before = mounts(), sorted(os.listdir(daemon.run / "i")), sorted(os.listdir(daemon.state / "instances"))
    uuids = []
    for _ in range(3):
        uuids.append(sleeper(daemon, name)["assigned"]["uuid"])
        daemon.delete(name, purge=True)
    assert (mounts(), sorted(os.listdir(daemon.run / "i")), sorted(os.listdir(daemon.state / "instances"))) == before
    for uuid in uuids:
        assert not list(pathlib.Path("/sys/fs/cgroup").glob(f"**/{uuid}*"))
    daemon.check_clean()


# ---- images in use ----

def test_image_in_use_stays(daemon, base, name):
    image = upload(daemon, Image([base, {"mine": b"1"}]).oci_archive(), type="oci", alias="used")
    daemon.create(name, **spec("cat", "/mine", image="used"))
    place = "/v1/images/used"
    assert daemon.problem(409, "DELETE", place)["code"] == "in-use"
    assert image["digest"] not in daemon.expect(200, "POST", "/v1/images/prune", {"all": True}).json["removed"]
    upload(daemon, Image([base], {"Cmd": ["sh"]}).oci_archive(), type="oci", alias="base")
    # The name moves on; what uses the image keeps it, in the trash too.
    upload(daemon, Image([base, {"mine": b"2"}]).oci_archive(), type="oci", alias="used")
    daemon.restart(kill=True)
    assert image["digest"] not in daemon.expect(200, "POST", "/v1/images/prune", {}).json["removed"]
    out, _, last = run_async(converse(daemon.socket, f"/v1/instances/{name}/attach?start=true", {}))
    assert out == b"1" and last["exit"]["code"] == 0
    daemon.delete(name, purge=True)
    assert image["digest"] in daemon.expect(200, "POST", "/v1/images/prune", {}).json["removed"]


def test_layers_that_repeat_and_hide(daemon, base, name):
    """The same layer twice, whiteouts and opaque directories, seen from inside."""
    one = Layer({"d/": ("dir",), "d/old": b"old", "f": b"1"})
    hide = Layer({"d/.wh..wh..opq": b"", "d/new": b"new", ".wh.f": b""})
    empty = Layer(b"\0" * 1024)
    upload(daemon, Image([base, one, empty, hide, empty]).oci_archive(), type="oci", alias="hidden")
    out, errors, code = run(daemon, name, "sh", "-c", "ls /d; test -e /f || echo gone", image="hidden")
    assert (out, code) == (b"new\ngone\n", 0), errors
    daemon.delete(name, purge=True)
    upload(daemon, Image([base, one, hide, one]).oci_archive(), type="oci", alias="again")
    out, errors, code = run(daemon, name, "sh", "-c", "ls /d; cat /f", image="again")
    assert (out, code) == (b"new\nold\n1", 0), errors


# ---- network ----

class Networked(Daemon):
    def command(self):
        return ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *super().command()]


def test_network(base):
    if not shutil.which("dnsmasq"):
        pytest.skip("dnsmasq is not installed")
    daemon = Networked(fake=False, network=True)
    try:
        daemon.start()
        upload(daemon, Image([base], {"Cmd": ["sh"]}).oci_archive(), type="oci", alias="base")
        for name, network in (("one", "default"), ("two", "default"), ("alone", "none")):
            daemon.create(name, start=True, **spec("sleep", "100000", network=network))
        address = daemon.instance("two")["assigned"]["address"].split("/")[0]
        assert address in sh(daemon, "two", "ip -4 addr")
        eventually(lambda: execute(daemon, "one", "ping", "-c", "1", "-W", "2", "two")[2] == 0, what="a ping by name")
        assert execute(daemon, "alone", "ping", "-c", "1", "-W", "1", address)[2] != 0
        assert sh(daemon, "alone", "ls /sys/class/net").split() == ["lo"]
        for name in ("one", "two", "alone"):
            daemon.delete(name, purge=True)
        daemon.expect((200, 202, 204), "POST", "/v1/network/reset", {})
    finally:
        daemon.close()
