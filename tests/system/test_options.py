# SPDX-License-Identifier: GPL-2.0-or-later
"""Every option on every kind: it has its effect, or it is refused by type. No accepted option is without effect."""
import json
import os
import pathlib
import subprocess

import pytest

import polderlib

# A value other than the default for each field of the spec. Fields that say what and where it runs are set by each test.
VALUES = {
    "cpus": 0.5, "memory": "128M", "disk": "64M", "command": ["sh", "-c", "sleep 1000"], "entrypoint": ["/bin/env"],
    "environment": {"GREETING": "hi there"}, "labels": {"team": "blue"}, "user": "65534:65534",
    "working_directory": "/var/spot", "hostname": "elsewhere", "tty": True, "stdin_open": True, "read_only": True,
    "remove": True, "mounts": [{"type": "tmpfs", "target": "/scratch", "size": 1048576}], "network": "none",
    "publish": [{"host_port": 18080, "port": 80}], "restart": "always", "restart_limit": 3, "priority": 7,
    "duration": "80s", "timeout": "90s", "stop_timeout": "3s", "stop_signal": "SIGINT", "pids": 33, "io_read": 1048576,
    "io_write": 1048576, "network_in": 1048576, "network_out": 2097152, "log_size": 131072, "firmware": "uefi", "cdrom": "medium", "graphics": True,
    "user_data": "#cloud-config\n{}\n", "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8 me@here"],
    "description": "what it is for", "allocation": "fixed", "cpu_reservation": 0.5, "cpu_limit": 2, "memory_limit": 1 << 30,
    "memory_reservation": 32 << 20, "cpuset": "0", "weight_alpha": 0.5, "weight_beta": 5, "control_rate": 40,
    # What these bring about: test_placement.py, and test-constraints.c.
    "node_labels": ["machine!=none"], "features": ["fpu"], "tolerations": ["gpu"], "affinity": ["app=db"],
    "anti_affinity": ["app=web"], "spread": ["app=web:node"],
}
NEEDS = {"cpu_reservation": {"allocation": "hybrid"}, "memory_reservation": {"allocation": "hybrid"}}
REFUSED = {
    "container": {"firmware", "cdrom", "graphics", "user_data", "ssh_keys", "control_rate"},
    "microvm": {"firmware", "cdrom", "graphics", "user_data", "ssh_keys", "pids", "memory_limit"},
    "vm": {"command", "entrypoint", "environment", "user", "working_directory", "tty", "stdin_open", "read_only", "stop_signal",
           "pids", "mounts", "memory_limit"},
}


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory):
    """One daemon with the busybox image, in a network namespace of its own."""
    daemon = polderlib.Daemon(fake=False, network=True, before="true")
    kernels = pathlib.Path(daemon.state / "kernels")
    source = os.environ.get("POLDER_TEST_KERNEL_DIR")
    daemon.command_base = daemon.command
    daemon.command = lambda: ["unshare", "--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh", *daemon.command_base()]
    if source:
        kernels.mkdir(parents=True)
        (kernels / pathlib.Path(source).name).symlink_to(source)
    daemon.start()
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build"})
    yield daemon
    daemon.close()


def polder(daemon, *words, **options):
    return subprocess.run([polderlib.build_directory() / "src/cli/polder", "--socket", daemon.socket, *words],
                          capture_output=True, text=True, timeout=polderlib.DEADLINE, stdin=subprocess.DEVNULL, **options)


def fields(daemon):
    schema = daemon.get("/v1/openapi.json")
    def find(node):
        if isinstance(node, dict):
            if "io_write" in node.get("properties", {}) and "firmware" in node["properties"]:
                return node["properties"]
            for child in node.values():
                found = find(child)
                if found:
                    return found
        if isinstance(node, list):
            for child in node:
                found = find(child)
                if found:
                    return found
        return None
    return set(find(schema))


def test_every_field_has_a_value_here(module_daemon):
    assert fields(module_daemon) - {"kind", "image"} == set(VALUES)


@pytest.mark.parametrize("kind", ["container", "microvm", "vm"])
def test_refused_by_type_or_taken(module_daemon, kind):
    for name, value in VALUES.items():
        spec = {"kind": kind, "image": "busybox", name: value} | NEEDS.get(name, {})
        reply = module_daemon.request("POST", "/v1/instances?dry_run=true", {"name": "probe", "spec": spec})
        if name in REFUSED[kind]:
            assert reply.status == 422 and reply.code == "not-supported" and name in reply.json["detail"], (kind, name, reply)
        elif name == "restart_limit":
            # Contradicts the default policy: refused by name.
            assert reply.status == 400 and reply.json["parameters"][0] == name, reply
        elif name == "allocation" and os.cpu_count() == 1:
            # One processor is left to everybody else, so none can be given away.
            assert reply.code == "impossible" and "processors to guarantee" in reply.json["detail"], (kind, reply)
        elif kind == "vm":
            # Taken by the kind; what is refused then is the image, which has no boot loader.
            assert reply.code in (None, "not-supported", "not-found"), (kind, name, reply)
            assert reply.code is None or "image" in reply.json["detail"] or "medium" in reply.json["detail"], (name, reply)
        else:
            assert reply.status == 200, (kind, name, reply)
    assert module_daemon.request("GET", "/v1/instances/probe").status == 404


@pytest.mark.parametrize("kind", ["container", "microvm"])
def test_process_options_inside(module_daemon, kind):
    result = polder(module_daemon, "run", "--rm", "--kind", kind, "--network", "none", "--env", "GREETING=hi there", "--user",
                    "65534:65534", "--workdir", "/var/spot", "--hostname", "elsewhere", "--entrypoint", "/bin/sh", "busybox", "--",
                    "-c", "echo $GREETING; id -u; id -g; pwd; hostname; echo $0 >&2; exit 9")
    assert result.stdout.splitlines() == ["hi there", "65534", "65534", "/var/spot", "elsewhere"], result
    assert result.stderr.strip().endswith("/bin/sh") and result.returncode == 9, result


@pytest.mark.parametrize("kind", ["container", "microvm"])
def test_root_and_mount_options_inside(module_daemon, kind):
    result = polder(module_daemon, "run", "--rm", "--kind", kind, "--network", "none", "--read-only", "--mount",
                    "type=tmpfs,target=/scratch,size=1m", "busybox", "--", "sh", "-c",
                    "touch /new 2>&1; dd if=/dev/zero of=/scratch/big bs=64k count=100 2>/dev/null; stat -c %s /scratch/big")
    lines = result.stdout.splitlines()
    assert "Read-only file system" in lines[0], result
    assert 0 < int(lines[-1]) <= 1048576, result


@pytest.mark.parametrize("kind", ["container", "microvm"])
def test_disk_is_bounded(module_daemon, kind):
    result = polder(module_daemon, "run", "--rm", "--kind", kind, "--network", "none", "--disk", "64M", "busybox", "--", "sh",
                    "-c", "dd if=/dev/zero of=/big bs=1M count=200 2>&1; stat -c %s /big")
    assert int(result.stdout.splitlines()[-1]) <= 64 << 20, result
    assert "No space left" in result.stdout or "quota" in result.stdout.lower(), result


def group_files(daemon, name):
    """The instance's control group files by name, from whatever hierarchies there are."""
    uuid = daemon.instance(name)["assigned"]["uuid"]
    found = {}
    for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/{uuid}"):
        for file in path.iterdir():
            if file.is_file():
                found.setdefault(file.name, file)
    return found


def group_value(files, *names):
    for name in names:
        if name in files:
            return files[name].read_text().strip()
    raise AssertionError(f"none of {names} in {sorted(files)}")


def test_limits_reach_the_kernel_and_change_live(module_daemon):
    daemon = module_daemon
    daemon.create("limited", start=True, kind="container", image="busybox", network="none", cpus=0.5, memory="128M", pids=33,
                  command=["sleep", "1000"])
    files = group_files(daemon, "limited")
    quota = group_value(files, "cpu.max", "cpu.cfs_quota_us").split()
    period = quota[1] if len(quota) > 1 else group_value(files, "cpu.cfs_period_us")
    assert int(quota[0]) / int(period) == 0.5
    assert int(group_value(files, "memory.max", "memory.limit_in_bytes")) == 128 << 20
    assert int(group_value(files, "pids.max")) == 33
    assert polder(daemon, "set", "limited", "--cpus", "1.5", "--memory", "192M", "--pids-limit", "44").returncode == 0
    quota = group_value(files, "cpu.max", "cpu.cfs_quota_us").split()
    assert int(quota[0]) / int(period) == 1.5
    assert int(group_value(files, "memory.max", "memory.limit_in_bytes")) == 192 << 20
    assert int(group_value(files, "pids.max")) == 44
    frozen = polder(daemon, "set", "limited", "--read-only")
    assert frozen.returncode != 0 and "read_only" in frozen.stderr, frozen
    daemon.delete("limited", purge=True)


def test_io_limits_slow_direct_writes(module_daemon):
    """On cgroup v1 the limit holds for direct I/O; doctor says what escapes. Compared with the same writes unlimited."""
    daemon = module_daemon
    if not any(pathlib.Path("/sys/fs/cgroup").glob("blkio/blkio.throttle.write_bps_device")) and \
            not pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("this kernel has no I/O controller")
    command = ["sh", "-c", "read a x </proc/uptime; dd if=/dev/zero of=/data bs=256k count=32 oflag=direct 2>/dev/null; "
               "read b x </proc/uptime; echo $a $b"]
    result = polder(daemon, "run", "--rm", "--network", "none", "--io-write", "2M", "busybox", "--", *command)
    before, after = map(float, result.stdout.split())
    # 8 MiB at 2 MiB/s take four seconds; a burst may shorten the beginning.
    assert after - before > 2, result
    doctor = json.dumps(daemon.get("/v1/doctor"))
    assert "buffered" in doctor or "version 2" in doctor


def test_stop_signal_and_timeouts(module_daemon):
    daemon = module_daemon
    daemon.create("polite", start=True, kind="container", image="busybox", network="none", stop_signal="SIGINT",
                  command=["sh", "-c", "trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done"])
    polderlib.eventually(lambda: "ready" in polder(daemon, "logs", "polite").stdout, what="its trap")
    daemon.act("polite", "stop")
    assert daemon.instance("polite")["status"]["exit_code"] == 5
    daemon.create("stubborn", start=True, kind="container", image="busybox", network="none", stop_timeout="1s",
                  command=["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    polderlib.eventually(lambda: "ready" in polder(daemon, "logs", "stubborn").stdout, what="its trap")
    daemon.act("stubborn", "stop")
    assert daemon.instance("stubborn")["status"]["exit_code"] == 137
    daemon.create("limited-time", start=True, kind="container", image="busybox", network="none", timeout="1s",
                  command=["sleep", "1000"])
    daemon.wait_state("limited-time", "stopped", "failed")
    for name in ("polite", "stubborn", "limited-time"):
        daemon.delete(name, purge=True)


def test_restart_and_remove(module_daemon):
    daemon = module_daemon
    daemon.create("again", start=True, kind="container", image="busybox", network="none", restart="on-failure", restart_limit=2,
                  command=["false"])
    polderlib.eventually(lambda: daemon.instance("again")["status"]["restarts"] == 2 and
                         daemon.state_of("again") == "failed", what="two restarts")
    daemon.delete("again", purge=True)
    daemon.create("gone", start=True, kind="container", image="busybox", network="none", remove=True, command=["true"])
    polderlib.eventually(lambda: daemon.request("GET", "/v1/instances/gone").status == 404, what="its removal")


def test_labels_priority_description_are_kept_and_found(module_daemon):
    daemon = module_daemon
    daemon.change("POST", "/v1/instances", {"name": "told", "spec": {
        "kind": "container", "image": "busybox", "labels": {"team": "blue"}, "priority": 7, "description": "what it is for"}})
    spec = daemon.instance("told")["spec"]
    assert (spec["labels"], spec["priority"], spec["description"]) == ({"team": "blue"}, 7, "what it is for")
    assert [i["name"] for i in daemon.list("?label=team=blue")] == ["told"]
    assert polder(daemon, "ls", "-q", "--label", "team=blue").stdout.split() == ["told"]
    daemon.delete("told", purge=True)


@pytest.mark.parametrize("kind", ["container", "microvm"])
def test_published_port_answers(module_daemon, kind):
    daemon = module_daemon
    daemon.create("web", start=True, kind=kind, image="busybox", publish=[{"host_port": 18080, "port": 80}],
                  command=["sh", "-c", "echo hello >/tmp/index.html; exec httpd -f -h /tmp"])
    fetch = ["nsenter", "-t", str(daemon.pid), "-n", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:18080/"]
    polderlib.eventually(lambda: subprocess.run(fetch, capture_output=True, text=True).stdout == "hello\n", what="the page")
    taken = daemon.request("POST", "/v1/instances?start=true&wait=60", {"name": "thief", "spec": {
        "kind": "container", "image": "busybox", "publish": [{"host_port": 18080, "port": 80}], "command": ["true"]}})
    assert taken.status == 409 and taken.code == "in-use", taken
    daemon.delete("web", purge=True)
    daemon.request("DELETE", "/v1/instances/thief?force=true&purge=true&wait=60")


def test_log_size_bounds_the_log(module_daemon):
    daemon = module_daemon
    daemon.create("loud", start=True, kind="container", image="busybox", network="none", log_size=131072,
                  command=["sh", "-c", "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done"])
    daemon.wait_state("loud", "stopped")
    state = daemon.state / "instances" / daemon.instance("loud")["assigned"]["uuid"]
    size = sum(path.stat().st_size for path in state.glob("log*"))
    assert 0 < size <= 131072 + 65536, size
    assert polder(daemon, "logs", "--tail", "1", "loud").stdout == "line 39999\n"
    daemon.delete("loud", purge=True)
