# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on what instances are made from and leave behind: cloud-init data (A38), a disk with two writers (A54), ids and
storage that are given again (A101), secrets (A102). The VMs here have an empty disk and stay in their firmware."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import threading
import time

import pytest

import guestlib
import polderlib
from polderlib import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def host(request):
    with guestlib.host_daemon(request) as daemon:
        daemon.polder("image", "build", "busybox")
        blank = daemon.directory / "blank.raw"
        with open(blank, "wb") as file:
            file.truncate(MEBIBYTE)
        daemon.polder("image", "import", blank, "--name", "blank")
        yield daemon


@pytest.fixture(autouse=True)
def clean(host):
    yield
    for instance in host.list("?deleted=true"):
        host.request("DELETE", f"/v1/instances/{instance['assigned']['uuid']}?force=true&purge=true&wait=60s")


def machine(host, name="seeded", start=True, **spec):
    host.create(name, start=start, kind="vm", image="blank", memory=64 * MEBIBYTE, network="none", **spec)
    return host.state / "instances" / host.instance(name)["assigned"]["uuid"]


# ---- cloud-init data (A38) ----

def seed_files(path):
    """{name: content} of the ISO, read by a program that is not ours."""
    listed = subprocess.run(["bsdtar", "-tf", path], check=True, capture_output=True, text=True).stdout.split()
    return {name.removeprefix("./"): subprocess.run(["bsdtar", "-xOf", path, name], check=True, capture_output=True).stdout
            for name in listed if name != "."}


@pytest.mark.parametrize("user_data", [
    "#cloud-config\nusers: [\n", "---\n...\n---\n!!python/object/apply:os.system ['id']\n", "%YAML 9.9\n\t- &a [*a, *a]\n",
    "meta-data 5\nabcde\nuser-data 3\nxyz", "no line end", "\n" * 1000, "#!/bin/sh\nrm -rf /\n", "é漢字\U0001f600\n",
    "Content-Type: multipart/mixed; boundary=\"b\"\n\n--b\nx\n--b--\n", "{{ds.meta_data}} {% include '/etc/shadow' %}\n",
    "x" * (65536 - 1)], ids=range(11))
def test_user_data_is_opaque(host, user_data):
    """Whatever it is, the guest gets these very bytes, beside three other files of which it has changed nothing."""
    key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8 a"b: [c] {d} #e \\n %f'
    place = machine(host, user_data=user_data, ssh_keys=[key], hostname="else-where")
    files = seed_files(place / "seed.iso")
    assert sorted(files) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert files["user-data"] == user_data.encode()
    uuid = host.instance("seeded")["assigned"]["uuid"]
    assert json.loads(files["meta-data"]) == {"instance-id": uuid, "local-hostname": "else-where", "public-keys": [key]}
    assert json.loads(files["network-config"]) == {"config": "disabled"}
    assert files["vendor-data"] == b"#cloud-config\n{}\n"
    with open(place / "seed.iso", "rb") as iso:
        iso.seek(32768 + 40)
        assert iso.read(32).rstrip(b" \0").lower() == b"cidata"
    assert (place / "seed.iso").stat().st_mode & 0o077 == 0
    assert "rm -rf" not in host.log() and "apply:os.system" not in host.log()


@pytest.mark.parametrize("field, value", [
    ("user_data", "x" * (MEBIBYTE + 1)), ("user_data", "a\0b"), ("user_data", "a\x1b[2J"), ("user_data", "\x01\x02"),
    ("hostname", "a\nruncmd: [id]"), ("hostname", "a b"), ("hostname", "-a"), ("hostname", "é"), ("hostname", "x" * 64),
    ("hostname", "a\"b"), ("hostname", "a: b"), ("ssh_keys", ["ssh-ed25519 AAAA\nssh-rsa BBBB"]), ("ssh_keys", ["hunter2"]),
    ("ssh_keys", ["ssh-ed25519 AAAA"] * 65), ("ssh_keys", ["ssh-ed25519 " + "A" * MEBIBYTE]), ("ssh_keys", [""])])
def test_seed_values_refused(host, field, value):
    body = {"name": "seeded", "spec": {"kind": "vm", "image": "blank", field: value}}
    before = host.resident()
    problem = host.problem((400, 413), "POST", "/v1/instances", body)
    assert "hunter2" not in json.dumps(problem) or field != "user_data"
    assert host.state_of("seeded") is None and host.resident() - before < 32 * MEBIBYTE


@pytest.mark.parametrize("data", [b"user-data 5\nabc", b"user-data -1\n", b"user-data 99999999999999999999\n", b"../x 1\na", b"a/b 1\na",
                                  b"user-data 5 \nabcde", b"X" * 1000, b"user-data 4194305\n", b"\0" * 100])
def test_seed_program_refuses_bad_input(tmp_path, data):
    """It reads what the daemon writes; anything else is an error of its own, and no image."""
    program = polderlib.build_directory() / "src/drivers/polder-seed"
    if not program.exists():
        program = next(polderlib.build_directory().glob("src/drivers/**/polder-seed"))
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run([program], input=data, stderr=subprocess.PIPE, check=False, timeout=60,
                              preexec_fn=lambda: os.dup2(out.fileno(), 3), close_fds=False)
    assert done.returncode == 1 and b"polder-seed:" in done.stderr, done
    assert (tmp_path / "out").stat().st_size == 0


# ---- one disk, two writers (A54, I3) ----

def qemus_of(host, name):
    uuid = host.instance(name)["assigned"]["uuid"]
    return [pid for pid in guestlib.processes_of(uuid) if "qemu-system" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]


def test_one_writer_of_a_disk(host):
    """The disk of a running machine is locked against every other QEMU, image tool included, and is free afterwards."""
    disk = machine(host) / "disk.qcow2"
    write = ["qemu-io", "-f", "qcow2", "-c", "write 0 4096", str(disk)]
    done = subprocess.run(write, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "lock" in done.stderr, done
    assert subprocess.run(["qemu-img", "resize", "-f", "qcow2", disk, "2M"], capture_output=True, check=False).returncode != 0
    host.act("seeded", "stop", {"timeout": "0s"})
    assert subprocess.run(write, capture_output=True, check=False).returncode == 0


def test_started_by_many_at_once(host):
    machine(host, start=False)
    clients = [host.client() for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda client: client.request("POST", "/v1/instances/seeded/start?wait=60s"), clients))
    assert any(reply.status == 200 for reply in replies)
    assert all(reply.status in (200, 409) for reply in replies), replies
    assert len(qemus_of(host, "seeded")) == 1
    host.restart(kill=True)
    host.request("POST", "/v1/instances/seeded/start?wait=60s")
    assert len(qemus_of(host, "seeded")) == 1


# ---- ids and storage, given again (A101) ----

def test_ids_of_the_living_and_of_the_trash(host):
    """What one that lives or lies in the trash has, uid range, uuid and address, is nobody else's, across kill -9 too."""
    def make(numbers):
        for number in numbers:
            host.create(f"i{number}", kind="container", image="busybox", command=["true"])
    make(range(12))
    for number in range(0, 12, 3):
        host.delete(f"i{number}")
    for number in range(1, 12, 3):
        host.delete(f"i{number}", purge=True)
    make([0, 1, 3, 4])  # names of trashed and of removed ones
    host.restart(kill=True)
    make(range(20, 26))
    everybody = host.list("?deleted=true")
    assert len(everybody) == 12 - 4 + 4 + 6
    for field in ("uuid", "uid_base", "address", "mac"):
        values = [one["assigned"][field] for one in everybody if one["assigned"].get(field)]
        assert len(set(values)) == len(values) >= 12, (field, values)
    bases = sorted(one["assigned"]["uid_base"] for one in everybody)
    assert all(later - earlier >= 65536 for earlier, later in zip(bases, bases[1:]))
    trashed = next(one for one in everybody if one["status"]["state"] == "deleted" and one["name"].startswith("i0"))
    problem = host.problem(409, "POST", f"/v1/instances/{trashed['assigned']['uuid']}/undelete?wait=60s")
    assert problem["code"] == "exists", problem
    assert host.instance("i0")["status"]["state"] != "deleted"


SECRET = "kaninchen-8412"


def files_with(place, text=SECRET):
    found = subprocess.run(["grep", "-rlaF", "--devices=skip", text, *map(str, place)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_storage_that_was_somebody_elses(host):
    """A second instance of the same name finds nothing of the first, on its disk or beneath it."""
    for options in ({}, {"disk": 32 * MEBIBYTE}):
        host.create("box", start=True, kind="container", image="busybox", network="none",
                    command=["sh", "-c", f"echo {SECRET} > /kept; sync; sleep 1000"], **options)
        eventually(lambda: SECRET in host.polder("exec", "box", "--", "cat", "/kept", status=None).stdout)
        first = host.instance("box")["assigned"]
        host.delete("box", purge=True)
        assert not (host.state / "instances" / first["uuid"]).exists() and not (host.run / "i" / first["uuid"]).exists()
        assert guestlib.processes_of(first["uuid"]) == []
        host.create("box", start=True, kind="container", image="busybox", network="none", command=["sleep", "1000"], **options)
        second = host.instance("box")["assigned"]
        assert second["uuid"] != first["uuid"]
        assert host.polder("exec", "box", "--", "cat", "/kept", status=None).returncode == 1
        assert files_with([host.state / "instances"]) == []
        host.delete("box", purge=True)


# ---- secrets (A102) ----

class Watch(threading.Thread):
    """Looks at the command line and environment of every process on the host, again and again. What runs inside a
    container has its environment there, where the host's root alone may look."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.looked, self.over = set(), 0, False
        self.own = os.readlink("/proc/self/ns/pid")

    def run(self):
        while not self.over:
            for entry in pathlib.Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if int(entry.name) == os.getpid() or os.readlink(entry / "ns/pid") != self.own:
                        continue
                    for name in ("cmdline", "environ"):
                        if SECRET.encode() in (entry / name).read_bytes():
                            self.found.add(f"{name} of {(entry / 'cmdline').read_bytes()[:200]}")
            self.looked += 1
            time.sleep(0.05)


def others_may_read(path):
    return subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-r", path],
                          check=False).returncode == 0


def test_secrets_stay_where_they_belong(host):
    """A password in the environment of a container and of a microVM, and in a machine's user data: in no log, process
    list, audit, event, error or reply to readers, and in no file that others may read."""
    watch = Watch()
    watch.start()
    try:
        for kind in ("container", "microvm"):
            host.create(f"s-{kind}", start=True, kind=kind, image="busybox", network="none", memory=128 * MEBIBYTE, disk=32 * MEBIBYTE,
                        environment={"PASSWORD": SECRET}, command=["sleep", "1000"])
        host.create("s-vm", start=True, kind="vm", image="blank", network="none", memory=64 * MEBIBYTE,
                    user_data=f"#cloud-config\npassword: {SECRET}\n")
        assert SECRET in host.execute("s-container", "env"), "it is there for the program that needs it"
        host.request("PATCH", "/v1/instances/s-container", {"spec": {"environment": {"A\nB": SECRET}}})
        host.request("PATCH", "/v1/instances/s-vm", {"spec": {"user_data": SECRET + "\0"}})
        host.restart(kill=True)
        rounds = watch.looked
        eventually(lambda: watch.looked > rounds + 2)
    finally:
        watch.over = True
        watch.join()
    assert watch.found == set()
    assert SECRET not in host.log()
    assert SECRET not in json.dumps(host.audit()) + json.dumps(host.fsck()) + json.dumps(host.get("/v1/operations"))
    reader = host.client(reader=True)
    for path in ("", "?deleted=true", "?fields=spec", "?fields=spec.environment,spec.user_data", "/s-container", "/s-microvm", "/s-vm"):
        reply = reader.request("GET", "/v1/instances" + path)
        assert reply.status == 200 and SECRET.encode() not in reply.body, path
    assert reader.request("GET", "/v1/instances/s-container").json["spec"]["command"] == ["sleep", "1000"]
    assert SECRET in json.dumps(host.instance("s-container")), "who may change it may see it"
    for path in ("/metrics", "/v1/doctor", "/v1/node"):
        assert SECRET.encode() not in host.request("GET", path).body
    kept = files_with([host.state, host.run])
    assert kept, "the store at least"
    assert not [path for path in kept if others_may_read(path)]
    limits = pathlib.Path(f"/proc/{host.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4] == "0"
