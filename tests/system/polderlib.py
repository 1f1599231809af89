# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts the real polderd with directories of its own and talks to it as any client does.

POLDER_BUILD names the build directory (default: build-gcc, then build). Needs root, as polderd does. A test takes the
`daemon` fixture, or `make_daemon` when it needs other options or several daemons; both are in conftest.py."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from uuid import uuid4

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Seconds that a wait may take before it counts as hung; sanitizers and busy machines are slow, emulated ones slower.
DEADLINE = int(os.environ.get("POLDER_TEST_DEADLINE", "60"))
# Inside a machine that is emulated, machines would be emulated twice: POLDER_TEST_NESTED says so.
NESTED = "it runs machines, and this is one: emulation within emulation takes hours"
PROGRAMS = {  # what polderd looks for in its libexec directory, and where a build keeps it
    "polder-guest": "src/guest", "polder-mkinitramfs": "src/guest", "polder-worker": "src/storage/worker",
    "polder-kvm-probe": "src/host", "polder-probe": "src/host", "polder-seed": "src/drivers",
}
SANITIZER = re.compile(r"(ERROR: \w+Sanitizer|runtime error:|Sanitizer: )")


def build_directory():
    named = os.environ.get("POLDER_BUILD")
    if named:
        return pathlib.Path(named)
    for name in ("build-gcc", "build"):
        if (ROOT / name / "src/daemon/polderd").exists():
            return ROOT / name
    return ROOT / "build"


def build_option(name):
    """A meson option of the build under test, such as 'failpoints' or 'b_sanitize'."""
    listed = subprocess.run(["meson", "introspect", "--buildoptions", str(build_directory())], capture_output=True,
                            text=True, check=True)
    return next((row["value"] for row in json.loads(listed.stdout) if row["name"] == name), None)


def file_sizes(place, without=()):
    """The sizes of a directory's files by name, but for those whose names begin as said. What writes there may rename them."""
    sizes = {}
    for path in pathlib.Path(place).iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.name.startswith(tuple(without)):
                sizes[path.name] = path.stat().st_size
    return sizes


def eventually(condition, deadline=DEADLINE, what="the condition"):
    """Waits until condition() is true and returns its value."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come true within {deadline} s"
        time.sleep(0.02)


def group_files(uuid):
    """An instance's control group files by name, from whatever hierarchies there are."""
    found = {}
    for place, folders, _ in os.walk("/sys/fs/cgroup"):  # which passes over what others remove meanwhile
        if uuid in folders:
            for file in (pathlib.Path(place) / uuid).iterdir():
                if file.is_file():
                    found.setdefault(file.name, file)
    return found


def group_value(uuid, *names):
    """The text of the first of these control files that there is."""
    files = group_files(uuid)
    for name in names:
        if name in files:
            return files[name].read_text().strip()
    raise AssertionError(f"none of {names} in {sorted(files)}")


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The stable code of a problem, or None."""
        return self.json.get("code") if "problem+json" in self.headers.get("content-type", "") else None

    def __repr__(self):
        return f"Reply({self.status}, {self.body[:600]!r})"


class Client:
    """One kept connection to one socket; not for several threads at once."""

    def __init__(self, path, timeout=DEADLINE):
        self.path = path
        self.timeout = timeout
        self.connection = None
        self.used = 0

    def request(self, method, path, body=None, headers=None):
        sent = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if time.monotonic() - self.used > 20:  # the server ends connections that rest too long
            self.close()
        if self.connection is None:
            self.connection = Connection(self.path, self.timeout)
        self.used = time.monotonic()
        try:
            self.connection.request(method, path, body, sent)
            answer = self.connection.getresponse()
            data = answer.read()
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Failure(AssertionError):
    """An answer that the test did not expect."""

    def __init__(self, what, reply):
        super().__init__(f"{what}: {reply}")
        self.reply = reply


class Daemon:
    """One polderd. `arguments` go to its command line, `environment` adds to its environment, `before` is a shell
    fragment that runs in a private mount namespace before it (for tests that change what the daemon sees)."""

    def __init__(self, directory=None, fake=True, network=False, arguments=(), environment=None, before=None,
                 log_level="debug"):
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
        self.state = self.directory / "state"
        self.run = self.directory / "run"
        self.log_path = self.directory / "log"
        self.fake = fake
        self.network = network
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.before = before
        self.log_level = log_level
        self.process = None
        self.local = threading.local()
        self.clients = []
        self.expect_sanitizer_silence = True
        self.link_programs()

    # ---- the process ----

    def link_programs(self):
        libexec = self.directory / "libexec"
        libexec.mkdir(parents=True, exist_ok=True)
        found = [build_directory() / folder / name for name, folder in PROGRAMS.items()]
        found += list((ROOT / "libexec").iterdir()) + list((build_directory() / "src").glob("*/polder-*"))
        for path in found + list((build_directory() / "src").glob("*/*/polder-*")):
            link = libexec / path.name
            if path.is_file() and not link.exists():
                link.symlink_to(path)

    def command(self):
        words = [str(build_directory() / "src/daemon/polderd"), "--state", str(self.state), "--run", str(self.run),
                 "--libexec", str(self.directory / "libexec"), "--log-level", self.log_level, "--config",
                 str(self.directory / "polderd.conf")]
        if self.fake:
            words.append("--fake-driver")
        if not self.network:
            words.append("--no-network")
        words += [str(word) for word in self.arguments]
        if self.before:
            script = f"set -e; {self.before}; exec \"$@\""
            words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"] + words
        return words

    def spawn(self, **more):
        """Starts the process and does not wait for it."""
        (self.directory / "polderd.conf").touch(mode=0o600)
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1",
                           UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1")
        environment.update(self.environment)
        self.drop_clients()
        log = open(self.log_path, "ab")
        more.setdefault("stderr", log)
        try:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, env=environment,
                                            start_new_session=True, **more)
        finally:
            log.close()
        return self

    def start(self, deadline=DEADLINE, **more):
        self.spawn(**more)
        self.wait_ready(deadline)
        return self

    def wait_ready(self, deadline=DEADLINE):
        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"polderd ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            try:
                return self.request("GET", "/healthz").status == 200
            except OSError:
                return False
        eventually(answers, deadline, "an answer from polderd")

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait_gone(self, deadline=DEADLINE):
        self.process.wait(deadline)
        self.drop_clients()
        return self.process.returncode

    def kill9(self):
        if self.is_alive():
            self.signal(signal.SIGKILL)
        return self.wait_gone()

    def stop(self, deadline=DEADLINE):
        if self.is_alive():
            self.signal(signal.SIGTERM)
        return self.wait_gone(deadline)

    def restart(self, kill=False):
        self.kill9() if kill else self.stop()
        return self.start()

    @property
    def pid(self):
        return self.process.pid

    def resident(self):
        """Resident memory in bytes."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- requests ----

    @property
    def socket(self):
        return self.run / "polder.sock"

    @property
    def reader_socket(self):
        return self.run / "polder-ro.sock"

    def client(self, timeout=DEADLINE, reader=False):
        """A connection of its own; closed with the daemon."""
        client = Client(self.reader_socket if reader else self.socket, timeout)
        self.clients.append(client)
        return client

    def drop_clients(self):
        for client in self.clients:
            client.close()
        self.clients = []
        self.local = threading.local()

    def request(self, method, path, body=None, headers=None):
        """On this thread's connection; a request that a daemon restart broke is not repeated."""
        if not hasattr(self.local, "client"):
            self.local.client = self.client(3 * DEADLINE)  # longer than any request is to wait
        return self.local.client.request(method, path, body, headers)

    def expect(self, status, method, path, body=None, headers=None):
        reply = self.request(method, path, body, headers)
        allowed = status if isinstance(status, tuple) else (status,)
        if reply.status not in allowed:
            raise Failure(f"{method} {path} should give {status}", reply)
        return reply

    def get(self, path):
        return self.expect(200, "GET", path).json

    def problem(self, status, method, path, body=None, headers=None):
        """The problem of a request that must be refused."""
        reply = self.expect(status, method, path, body, headers)
        assert "problem+json" in reply.headers.get("content-type", ""), reply
        problem = reply.json
        assert problem["status"] == reply.status and problem["code"] and problem["detail"], problem
        return problem

    def change(self, method, path, body=None, headers=None, wait=DEADLINE):
        """A change that must succeed: its finished operation."""
        mark = "&" if "?" in path else "?"
        reply = self.expect((200, 202), method, f"{path}{mark}wait={wait}s", body, headers)
        operation = reply.json
        if operation.get("state") != "done":
            raise Failure(f"{method} {path} should be done", reply)
        return operation

    # ---- instances ----

    def may_run(self, kind):
        """Skips what would run a machine inside of one."""
        if kind in ("vm", "microvm") and not self.fake and os.environ.get("POLDER_TEST_NESTED"):
            import pytest  # others than tests use this file, too
            pytest.skip(NESTED)

    def create(self, name=None, start=False, labels=None, wait=True, headers=None, **spec):
        spec.setdefault("kind", "fake")
        self.may_run(spec["kind"])
        if labels:  # the fake driver's script, without its prefix: {"run": "delay=1s,exit=3"}
            spec["labels"] = {f"polder.fake.{key}": value for key, value in labels.items()}
        body = {"spec": spec}
        if name:
            body["name"] = name
        path = "/v1/instances" + ("?start=true" if start else "")
        if wait:
            return self.change("POST", path, body, headers)
        return self.expect(202, "POST", path, body, headers).json

    def act(self, name, action, body=None, wait=DEADLINE):
        return self.change("POST", f"/v1/instances/{name}/{action}", body, wait=wait)

    def begin(self, name, action, body=None):
        """Starts an action and returns its operation while it may still run."""
        return self.expect(202, "POST", f"/v1/instances/{name}/{action}", body).json

    def operation(self, identifier, wait=0):
        return self.get(f"/v1/operations/{identifier}" + (f"?wait={wait}s" if wait else ""))

    def wait_operation(self, operation, wait=DEADLINE):
        done = self.operation(operation["id"], wait)
        assert done["state"] != "running", done
        return done

    def delete(self, name, force=True, purge=False):
        query = urllib.parse.urlencode({"force": str(force).lower(), "purge": str(purge).lower()})
        return self.change("DELETE", f"/v1/instances/{name}?{query}")

    def instance(self, name):
        return self.get(f"/v1/instances/{name}")

    def state_of(self, name):
        reply = self.request("GET", f"/v1/instances/{name}")
        return reply.json["status"]["state"] if reply.status == 200 else None

    def wait_state(self, name, *states, deadline=DEADLINE):
        return eventually(lambda: self.state_of(name) in states, deadline, f"{name} in {states} "
                          f"(now {self.state_of(name)})")

    def list(self, query=""):
        return self.get("/v1/instances" + query)["instances"]

    def audit(self, limit=1000):
        return self.get(f"/v1/audit?limit={limit}")["audit"]

    def fsck(self, repair=False):
        return self.expect(200, "POST", "/v1/fsck", {"deep": True, "repair": repair}).json

    def check_clean(self):
        found = self.fsck()
        assert found["clean"] and not found["problems"], found["problems"]

    # ---- the end ----

    def leftovers(self):
        """What a daemon that owns no instance any more must not leave: processes, mounts, runtime files."""
        found = []
        place = str(self.directory) + "/"
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(place.encode() in word for word in words):
                found.append(f"process {entry.name}: {b' '.join(words).decode(errors='replace')}")
        for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            if place in line and line.split()[1] not in self.own_mounts():
                found.append(f"mount {line}")
        for folder in (self.run / "i", self.state / "instances"):
            if folder.is_dir():
                found += [f"directory {path}" for path in folder.iterdir()]
        return found

    def own_mounts(self):
        return getattr(self, "mounts", [])

    def close(self, check=True):
        """Removes every instance, checks that nothing is left, and ends. After a failed test nothing is checked."""
        try:
            if check and self.is_alive():
                for instance in self.list("?deleted=true"):
                    identifier = instance["assigned"]["uuid"]
                    self.request("DELETE", f"/v1/instances/{identifier}?force=true&purge=true&wait=60s")
                self.check_clean()
                assert self.stop() == 0, self.log()[-2000:]
                assert not self.leftovers(), self.leftovers()
            if check and self.expect_sanitizer_silence:
                assert not SANITIZER.search(self.log()), self.log()[-6000:]
        finally:
            if self.is_alive():
                self.kill9()
            self.drop_clients()
        if check:
            shutil.rmtree(self.directory, ignore_errors=True)


def fake_boot(daemon):
    """Another boot id, seen by the daemon alone."""
    path = daemon.directory / f"boot-{uuid4()}"
    path.write_text(f"{uuid4()}\n")
    return f"mount --bind {path} /proc/sys/kernel/random/boot_id"


def reboot(daemon):
    """What a reboot leaves: the state directory, and nothing at the run directory."""
    daemon.kill9()
    shutil.rmtree(daemon.run)
    daemon.before = fake_boot(daemon)
    daemon.start()
