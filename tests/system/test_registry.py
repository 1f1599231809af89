# SPDX-License-Identifier: GPL-2.0-or-later
"""Pulling: from Debian's docker-registry, and from one that lies, stalls and breaks off (attacks A60-A62, A66, F29)."""
import base64
import contextlib
import gzip
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse

import pytest

import imagelib
from imagelib import (DOCKER_LAYER, DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, FakeRegistry, Image, Layer, Proxy, Registry,
                      digest, footprint, images, index_bytes, kept, names_in, pull, pull_refused, settle, tar_of, wipe)
from polderlib import DEADLINE, Daemon, build_option, eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
]


@pytest.fixture(scope="module")
def daemon():
    daemon = Daemon().start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("registry") / "r")
    yield registry
    registry.close()


@pytest.fixture
def fake():
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def clean(daemon):
    yield
    wipe(daemon)
    daemon.check_clean()


def simple(text=b"content", **options):
    return Image([{"etc/": ("dir",), "file": text}], **options)


def get(daemon, name):
    return daemon.request("GET", "/v1/images/" + urllib.parse.quote(name, safe=""))


def layer_file(daemon, image, name):
    """The content of a file in the topmost layer that has it."""
    for layer in reversed(image["layers"]):
        path = daemon.state / "images/layers" / layer["diff_id"].split(":")[1] / name
        if path.exists():
            return path.read_bytes()
    return None


# ---- what must work ----

@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_media_types(daemon, registry, docker, compression):
    if docker and compression != "gzip":
        pytest.skip("docker schema 2 knows gzip alone")
    image = Image([Layer({"file": compression.encode()}, compression, docker)], docker=docker)
    pulled = pull(daemon, registry.push(f"types-{compression}:{'docker' if docker else 'oci'}", image))
    assert pulled["digest"] == image.digest and pulled["type"] == "oci" and pulled["architecture"] == "amd64"
    assert [layer["diff_id"] for layer in pulled["layers"]] == [layer.diff_id for layer in image.layers]
    assert layer_file(daemon, pulled, "file") == compression.encode()


def test_configuration_is_kept(daemon, registry):
    config = {"Entrypoint": ["/bin/a", "b c"], "Cmd": ["d\ne"], "Env": ["A=b", "PATH=/x"], "User": "5:6", "WorkingDir": "/w",
              "StopSignal": "SIGINT", "Volumes": {"/data": {}, "../up": {}, "/a/../../b": {}}, "ExposedPorts": {"80/tcp": {}},
              "Labels": {"org.systemd.property.X": "'y'", "colour": "\x1b[31mred"}}
    image = pull(daemon, registry.push("config:1", Image([{"f": b""}], config)))["config"]
    assert image["entrypoint"] == ["/bin/a", "b c"] and image["command"] == ["d\ne"]
    assert image["environment"] == ["A=b", "PATH=/x"] and image["user"] == "5:6" and image["working_directory"] == "/w"
    assert image["stop_signal"] == "SIGINT" and image["exposed"] == ["80/tcp"]
    assert image["volumes"] == ["/data"], "a volume is beneath the root"
    assert image["labels"]["org.systemd.property.X"] == "'y'"
    daemon.restart()
    assert images(daemon)[0]["config"] == image


def test_tag_digest_and_names(daemon, registry):
    image = simple()
    registry.push("names:latest", image)
    registry.push("names:v1", image)
    pull(daemon, f"docker://{registry.host}/names")
    pull(daemon, f"docker://{registry.host}/names:v1")
    by_digest = pull(daemon, f"docker://{registry.host}/names@{image.digest}")
    assert len(images(daemon)) == 1
    host = registry.host
    assert sorted(by_digest["aliases"]) == sorted([f"{host}/names", f"{host}/names:v1", f"{host}/names@{image.digest}"])
    for name in (f"{host}/names", f"{host}/names:latest", f"{host}/names:v1", image.digest, image.digest[7:20],
                 image.digest[:20]):
        assert get(daemon, name).status == 200, name
    assert get(daemon, f"{host}/names:v2").status == 404
    # A name alone goes; the last one takes the image with it.
    daemon.expect(204, "DELETE", "/v1/images/" + urllib.parse.quote(f"{host}/names:latest", safe=""))
    assert get(daemon, f"{host}/names").status == 404 and get(daemon, f"{host}/names:v1").status == 200
    daemon.expect(204, "DELETE", "/v1/images/" + urllib.parse.quote(f"{host}/names:v1", safe=""))
    daemon.expect(204, "DELETE", "/v1/images/" + urllib.parse.quote(f"{host}/names@{image.digest}", safe=""))
    assert images(daemon) == []


def test_a_tag_that_moves(daemon, registry):
    old, new = simple(b"old"), simple(b"new")
    source = registry.push("moves:1", old)
    pull(daemon, source, alias="app")
    registry.push("moves:1", new)
    assert pull(daemon, source, alias="app")["digest"] == new.digest
    assert {image["digest"]: image["aliases"] for image in images(daemon)} == {old.digest: [], new.digest: ["app"]}
    daemon.restart(kill=True)
    assert {image["digest"]: image["aliases"] for image in images(daemon)} == {old.digest: [], new.digest: ["app"]}
    removed = daemon.expect(200, "POST", "/v1/images/prune", {}).json
    assert removed["removed"] == [old.digest] and removed["bytes"] > 0
    removed = daemon.expect(200, "POST", "/v1/images/prune", {"all": True}).json
    assert removed["removed"] == [new.digest]


def test_no_alias_shadows_a_digest(daemon, registry):
    one, two = simple(b"1"), simple(b"2")
    pull(daemon, registry.push("shadow:1", one))
    pull(daemon, registry.push("shadow:2", two))
    place = "/v1/images/" + urllib.parse.quote(one.digest, safe="") + "/tag"
    assert daemon.problem(400, "POST", place, {"alias": two.digest})["code"] == "bad-value"
    assert get(daemon, two.digest).json["digest"] == two.digest
    for alias in ("", "../x", "-x", "a b", "a\n", "x/", "x" * 256, "\x1b[31m"):
        assert daemon.problem((400, 413), "POST", place, {"alias": alias})["code"]


def test_platforms_of_an_index(daemon, registry):
    parts = [simple(name.encode(), architecture=name) for name in ("amd64", "arm64", "riscv64")]
    for part in parts:
        registry.push(f"index:{part.config['architecture']}", part)
    registry.push_manifest("index", "all", index_bytes(parts), OCI_INDEX)
    source = f"docker://{registry.host}/index:all"
    assert pull(daemon, source)["digest"] == parts[0].digest
    assert pull(daemon, source, platform="linux/arm64", alias="arm")["architecture"] == "arm64"
    assert pull(daemon, f"docker://{registry.host}/index@{digest(index_bytes(parts))}", alias="by-digest")["digest"] == parts[0].digest
    pull_refused(daemon, source, "registry", platform="linux/s390x")
    for platform in ("windows/amd64", "linux", "linux/", "--help", "linux/$(id)"):
        pull_refused(daemon, source, "bad-value", platform=platform)


def test_authentication(daemon, tmp_path):
    if not shutil.which("htpasswd"):
        pytest.skip("htpasswd is not installed")
    registry = Registry(tmp_path / "r", users={"user": "geheim"})
    try:
        source = registry.push("private:1", simple())

        def auth(password):
            return json.dumps({"auths": {registry.host: {"auth": base64.b64encode(f"user:{password}".encode()).decode()}}})
        pull_refused(daemon, source, "registry")
        pull_refused(daemon, source, "registry", auth=auth("falsch"))
        pull_refused(daemon, source, "registry", auth="{no json")
        assert pull(daemon, source, auth=auth("geheim"))["source"] == source
        secret = base64.b64encode(b"user:geheim").decode()
        assert secret not in daemon.log() and secret not in json.dumps(daemon.audit()) + json.dumps(images(daemon))
    finally:
        registry.close()


def test_tls(daemon, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True,
                   capture_output=True)
    registry = Registry(tmp_path / "r", tls=(tmp_path / "cert", tmp_path / "key"))
    try:
        source = registry.push("tls:1", simple())
        problem = pull_refused(daemon, source, "registry", tls_verify=True)
        assert "certificate" in problem["detail"]
        assert pull(daemon, source, tls_verify=False)["digest"]
    finally:
        registry.close()


def test_many_layers_and_repeated_ones(daemon, registry):
    layers = [Layer({f"f{i}": str(i).encode(), "last": str(i).encode()}) for i in range(120)]
    empty = Layer(b"\0" * 1024)
    image = Image(layers[:60] + [empty] + layers[60:] + [empty, layers[3]])
    pulled = pull(daemon, registry.push("many:1", image))
    assert len(pulled["layers"]) == 123
    assert len(os.listdir(daemon.state / "images/layers")) == 121
    too_many = Image([Layer({f"g{i}": b""}) for i in range(129)])
    assert "128" in pull_refused(daemon, registry.push("many:2", too_many), "bad-image")["detail"]


def test_layers_are_stored_once(daemon, registry):
    base = Layer({"base": os.urandom(300000)})
    one, two = Image([base, {"one": b"1"}]), Image([base, {"two": b"2"}])
    pull(daemon, registry.push("shared:1", one), alias="one")
    inode = os.stat(daemon.state / "images/layers" / base.diff_id[7:]).st_ino
    pull(daemon, registry.push("shared:2", two), alias="two")
    assert os.stat(daemon.state / "images/layers" / base.diff_id[7:]).st_ino == inode
    assert len(os.listdir(daemon.state / "images/layers")) == 3
    daemon.expect(204, "DELETE", "/v1/images/one")
    assert sorted(os.listdir(daemon.state / "images/layers")) == sorted(layer.diff_id[7:] for layer in two.layers)
    freed = daemon.expect(200, "POST", "/v1/images/prune", {"all": True}).json
    assert freed["bytes"] >= 300000


def test_parallel_pulls_of_one_layer(daemon, registry):
    base = Layer({"base": os.urandom(3000000)})
    sources = [registry.push(f"parallel:{i}", Image([base, {"x": str(i).encode()}])) for i in range(4)] * 2
    clients = [daemon.client(imagelib.WAIT) for _ in sources]
    replies = [None] * len(sources)

    def one(i):
        replies[i] = clients[i].request("POST", f"/v1/images?wait={imagelib.WAIT}s",
                                        {"source": sources[i], "tls_verify": False, "alias": f"p{i}"})
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(sources))]
    for thread in threads:
        thread.start()
    # Removing at the same time must not take a layer from under them.
    for _ in range(20):
        daemon.request("POST", "/v1/images/prune", {})
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert all(reply.json["state"] == "done" for reply in replies), replies
    assert len(images(daemon)) == 4
    assert len(os.listdir(daemon.state / "images/layers")) == 5
    daemon.check_clean()


def test_canceled_pull_leaves_nothing(daemon, fake):
    source = fake.offer("slow", "1", simple())
    fake.faults["/blobs/"] = lambda handler, *_: stall(handler)
    operation = daemon.expect(202, "POST", "/v1/images", {"source": source, "tls_verify": False}).json
    eventually(lambda: any("/blobs/" in path for path in fake.seen), what="the download")
    daemon.expect((200, 202, 204), "DELETE", f"/v1/operations/{operation['id']}")
    assert daemon.wait_operation(operation)["state"] == "canceled"
    settle(daemon, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))
    assert skopeos(daemon) == []


def skopeos(daemon):
    """skopeo processes that work for this daemon, found by the directory in their mount table."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/exe").endswith("/skopeo") and \
                    str(daemon.directory) in open(f"/proc/{name}/mountinfo", encoding="utf-8").read():
                found.append(int(name))
        except OSError:
            pass
    return found


# ---- a registry that fails ----

def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"x" * 1000)
    handler.wfile.flush()
    time.sleep(600)
    return True


def cut(share):
    def fault(handler, _, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:int(len(data) * share)])
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()
        handler.close_connection = True
        return True
    return fault


def status(number, **headers):
    def fault(handler, *_):
        handler.send(number, b'{"errors":[{"code":"DENIED","message":"no \\u001b[31mred"}]}', **headers)
        return True
    return fault


def wrong_end(handler, media_type, data):
    handler.send(200, data[:-8] + bytes(8), media_type)
    return True


@pytest.mark.parametrize("fault", [cut(0), cut(0.5), cut(0.99), status(500), status(404), status(401), status(403),
                                   wrong_end], ids=["reset-0", "reset-50", "reset-99", "500", "404", "401", "403", "digest"])
def test_registry_faults(daemon, fake, fault):
    image = Image([{"a": os.urandom(200000)}, {"b": os.urandom(200000)}])
    source = fake.offer("faulty", "1", image)
    fake.faults[image.layers[1].digest] = fault
    problem = pull_refused(daemon, source, "registry")
    assert "\x1b" not in problem["detail"]
    fake.faults.clear()
    assert pull(daemon, source)["digest"] == image.digest


def test_fault_that_passes(daemon, fake):
    """One refusal is no failure: the pull tries again."""
    image = simple()
    source = fake.offer("flaky", "1", image)
    counts = []

    def once(handler, *_):
        counts.append(1)
        return len(counts) == 1 and status(503)(handler)
    fake.faults[image.layers[0].digest] = once
    assert pull(daemon, source)["digest"] == image.digest


def test_nobody_there(daemon):
    pull_refused(daemon, f"docker://127.0.0.1:{imagelib.free_port()}/x:1", "registry")
    pull_refused(daemon, "docker://name.invalid/x:1", "registry")


@pytest.mark.parametrize("source", ["docker://", "docker:///x", "docker://-x", "docker://a/../b", "docker://a b", "docker://x;id",
                                    "docker://" + "x" * 300, "docker://x@sha256:1", "docker://user:pass@host/x",
                                    "docker://host/x?y", "docker://../../etc"])
def test_references_that_are_none(daemon, source):
    pull_refused(daemon, source, "bad-source", "bad-value", "registry")


def test_stalled_registry_is_left(daemon, fake):
    image = simple(b"stalls")
    source = fake.offer("stalled", "1", image)
    fake.faults[image.layers[0].digest] = lambda handler, *_: stall(handler)
    operation = daemon.expect(202, "POST", "/v1/images", {"source": source, "tls_verify": False}).json
    path = f"/v1/operations/{operation['id']}"
    eventually(lambda: daemon.get(path)["state"] != "running", 200, "giving up on the registry")
    assert daemon.get(path)["error"]["code"] == "registry"
    assert skopeos(daemon) == []


# ---- going on where a pull broke off (F29) ----

@pytest.fixture
def proxy(registry, daemon):
    daemon.expect(200, "POST", "/v1/images/prune", {})
    proxy = Proxy(registry)
    yield proxy
    proxy.close()


def layered(count=3, size=200000):
    return Image([{f"f{i}": os.urandom(size)} for i in range(count)])


def deny(proxy, image, *layers):
    """The registry refuses these layers, which is not tried again."""
    for layer in layers:
        proxy.faults[image.layers[layer].digest] = status(404)


@pytest.mark.parametrize("share", [pytest.param(0, marks=pytest.mark.long), 0.3, pytest.param(0.99, marks=pytest.mark.long)])
def test_broken_pull_goes_on(daemon, registry, proxy, share):
    image = layered()
    source = proxy.source(registry.push(f"resume:{int(share * 100)}", image))
    first, second, third = (layer.digest for layer in image.layers)
    proxy.faults[second] = cut(share)
    pull_refused(daemon, source, "registry")
    asked = proxy.blobs_asked_for()
    assert asked.count(first) == asked.count(third) == 1 and asked.count(second) >= 3, "each retry went on"
    assert images(daemon) == [] and {first, third} <= set(kept(daemon)) and second not in kept(daemon)
    daemon.check_clean()
    proxy.faults.clear()
    assert pull(daemon, source)["digest"] == image.digest
    assert set(proxy.blobs_asked_for()) - {digest(image.config_bytes)} == {second}
    assert layer_file(daemon, images(daemon)[0], "f0")
    settle(daemon)
    assert kept(daemon) == []


def test_passing_fault_costs_one_layer(daemon, registry, proxy):
    """Within one pull: after a broken connection only what is missing is asked for again."""
    image = layered()
    source = proxy.source(registry.push("resume:once", image))
    times = []

    def once(handler, media_type, data):
        times.append(1)
        return len(times) == 1 and cut(0.5)(handler, media_type, data)
    proxy.faults[image.layers[1].digest] = once
    assert pull(daemon, source)["digest"] == image.digest
    asked = proxy.blobs_asked_for()
    assert [asked.count(layer.digest) for layer in image.layers] == [1, 2, 1]
    assert kept(daemon) == []


def test_other_tag_takes_what_it_shares(daemon, registry, proxy):
    old = layered()
    new = Image([old.layers[0], {"g": b"new"}])
    deny(proxy, old, 1, 2)
    pull_refused(daemon, proxy.source(registry.push("resume:old", old)), "registry")
    source = proxy.source(registry.push("resume:new", new))
    proxy.seen.clear()
    assert pull(daemon, source)["digest"] == new.digest
    assert old.layers[0].digest not in proxy.blobs_asked_for()


def test_canceled_pull_goes_on(daemon, registry, proxy):
    image = layered()
    source = proxy.source(registry.push("resume:canceled", image))
    proxy.faults[image.layers[1].digest] = lambda handler, *_: stall(handler)
    operation = daemon.expect(202, "POST", "/v1/images", {"source": source, "tls_verify": False}).json
    eventually(lambda: any(image.layers[1].digest in path for path in proxy.seen), what="the second layer")
    daemon.expect((200, 202, 204), "DELETE", f"/v1/operations/{operation['id']}")
    assert daemon.wait_operation(operation)["state"] == "canceled"
    settle(daemon, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))
    proxy.faults.clear()
    proxy.seen.clear()
    assert pull(daemon, source)["digest"] == image.digest
    assert image.layers[0].digest not in proxy.blobs_asked_for() and kept(daemon) == []


def test_killed_pull_goes_on(daemon, registry, proxy):
    image = layered()
    source = proxy.source(registry.push("resume:killed", image))
    proxy.faults[image.layers[1].digest] = lambda handler, *_: stall(handler)
    daemon.expect(202, "POST", "/v1/images", {"source": source, "tls_verify": False})
    eventually(lambda: any(image.layers[1].digest in path for path in proxy.seen) and skopeos(daemon), what="the second layer")
    daemon.kill9()
    eventually(lambda: not skopeos(daemon), what="the end of skopeo")
    daemon.start()
    settle(daemon, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))
    daemon.check_clean()
    assert kept(daemon) == [image.layers[0].digest]
    proxy.faults.clear()
    proxy.seen.clear()
    assert pull(daemon, source)["digest"] == image.digest
    assert image.layers[0].digest not in proxy.blobs_asked_for() and kept(daemon) == []


@pytest.mark.parametrize("point", ["pull-after-skopeo", "layer-after-publish", "image-before-commit"])
def test_killed_after_the_download(registry, point):
    """All had come: the repetition asks for the manifest, and for a configuration at most."""
    walk_needs_failpoints()
    image = layered(2)
    source = registry.push(f"resume:{point}", image)
    daemon, proxy = Daemon(), Proxy(registry)
    daemon.environment["POLDER_FAILPOINTS"] = f"{point}=kill@1"
    try:
        daemon.start()
        with pytest.raises(Exception):
            pull(daemon, proxy.source(source))
        assert daemon.wait_gone() == -9
        del daemon.environment["POLDER_FAILPOINTS"]
        daemon.start()
        daemon.check_clean()
        proxy.seen.clear()
        assert pull(daemon, proxy.source(source))["digest"] == image.digest
        assert set(proxy.blobs_asked_for()) <= {digest(image.config_bytes)}
        assert kept(daemon) == []
    finally:
        proxy.close()
        daemon.close()


def break_off(daemon, registry, proxy, tag):
    """A pull of which two layers come, and the one between them is refused: (image, source)."""
    image = layered()
    source = proxy.source(registry.push(f"resume:{tag}", image))
    deny(proxy, image, 1)
    pull_refused(daemon, source, "registry")
    return image, source


def test_altered_part_is_not_used(daemon, registry, proxy):
    image, source = break_off(daemon, registry, proxy, "altered")
    place = daemon.state / "images/downloads"
    for name in names_in(place):
        if name.endswith(image.layers[0].digest[7:]):
            data = bytearray((place / name).read_bytes())
            data[1000] ^= 1
            (place / name).write_bytes(data)
        elif name.endswith(image.layers[2].digest[7:]):  # as somebody would who wants a file of theirs read
            (place / name).unlink()
            (place / name).symlink_to("/etc/passwd")
    proxy.faults.clear()
    proxy.seen.clear()
    assert pull(daemon, source)["digest"] == image.digest
    assert {layer.digest for layer in image.layers} <= set(proxy.blobs_asked_for())
    assert "is not what it was" in daemon.log() and kept(daemon) == []


@contextlib.contextmanager
def opens_fail(daemon, path):
    """Whatever opens this has too many files open."""
    log = daemon.directory / "strace"
    log.unlink(missing_ok=True)
    process = subprocess.Popen(["strace", "-f", "-b", "execve", "-qq", "-o", log, "-P", path, "-p", str(daemon.pid), "-e", "trace=openat",
                                "-e", "inject=openat:error=EMFILE"], stdin=subprocess.DEVNULL)
    try:
        tasks = pathlib.Path(f"/proc/{daemon.pid}/task")
        eventually(lambda: all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks.iterdir()), what="strace")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)
    assert "(INJECTED)" in log.read_text()


def test_part_that_cannot_be_checked_stays(daemon, registry, proxy):
    """Neither is a part lost for want of file descriptors, nor does a pull fail because of what earlier ones left."""
    if build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("sanitizers make system calls of their own, and end at the first that fails")
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    image, source = break_off(daemon, registry, proxy, "unchecked")
    first, second, third = (layer.digest for layer in image.layers)
    assert {first, third} <= set(kept(daemon))
    place = daemon.state / "images/downloads"
    deny(proxy, image, 0)
    for path in (next(place / name for name in names_in(place) if name.endswith(first[7:])), place):
        with opens_fail(daemon, path):
            pull_refused(daemon, source, "registry")
        assert first in kept(daemon)
    assert "cannot be checked" in daemon.log() and "cannot be looked at" in daemon.log()
    proxy.faults.clear()
    proxy.seen.clear()
    assert pull(daemon, source)["digest"] == image.digest
    asked = proxy.blobs_asked_for()
    assert first not in asked and second in asked


def test_parts_are_bounded(daemon, registry, proxy):
    """What is old goes by itself, and all of it by `image prune`, which tells how much that was."""
    image, _ = break_off(daemon, registry, proxy, "bounds")
    place = daemon.state / "images/downloads"
    assert {os.stat(place / name).st_uid for name in names_in(place)} == {0} and os.stat(place).st_mode & 0o77 == 0
    old = next(name for name in names_in(place) if name.endswith(image.layers[0].digest[7:]))
    os.utime(place / old, (0, time.time() - 4 * 24 * 3600))
    daemon.restart()
    eventually(lambda: image.layers[0].digest not in kept(daemon), what="the old part to go")
    assert image.layers[2].digest in kept(daemon)
    pruned = daemon.expect(200, "POST", "/v1/images/prune", {}).json
    assert pruned["bytes"] >= 200000 and pruned["removed"] == [] and kept(daemon) == []


def test_bad_images_leave_no_parts(daemon, registry, proxy):
    image = layered(2)
    image.config["rootfs"]["diff_ids"][1] = "sha256:" + "b" * 64
    pull_refused(daemon, proxy.source(registry.push("resume:bad", image)), "bad-image")
    assert kept(daemon) == []


# ---- manifests that lie (A61) ----

def changed(change, image=None):
    image = image or simple()
    image.change = change
    return image


def set_layer(**values):
    return lambda manifest: manifest["layers"][0].update(values)


LIES = {
    "digest-path": set_layer(digest="sha256:../../../../etc/passwd"),
    "digest-short": set_layer(digest="sha256:" + "a" * 63),
    "digest-md5": set_layer(digest="md5:" + "a" * 32),
    "digest-upper": set_layer(digest="sha256:" + "A" * 64),
    "digest-empty": set_layer(digest=""),
    "digest-number": set_layer(digest=5),
    "size-wrong": set_layer(size=1),
    "size-huge": set_layer(size=2**63 - 1),
    "size-negative": set_layer(size=-5),
    "media-type": set_layer(mediaType="application/vnd.example.squashfs"),
    "both": lambda manifest: manifest.update(manifests=[{"mediaType": OCI_MANIFEST, "digest": "sha256:" + "a" * 64, "size": 3}]),
    "no-config": lambda manifest: manifest.pop("config"),
    "config-path": lambda manifest: manifest["config"].update(digest="sha256:../manifest.json"),
    "config-size": lambda manifest: manifest["config"].update(size=1),
    "layers-object": lambda manifest: manifest.update(layers={}),
    "no-layers": lambda manifest: manifest.update(layers=[]),
    "more-layers": lambda manifest: manifest["layers"].append(manifest["layers"][0]),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_manifest(daemon, fake, lie):
    pull_refused(daemon, fake.offer("lies", "1", changed(LIES[lie])))


@pytest.mark.parametrize("manifest", [b"", b"null", b"[]", b"{}", b'"x"', b"{" * 5000, b"\xff\xfe", b'{"schemaVersion":1}',
                                      b"x" * (5 << 20)], ids=["empty", "null", "list", "object", "text", "deep", "binary",
                                                               "schema-1", "5-MiB"])
def test_manifest_that_is_none(daemon, fake, manifest):
    pull_refused(daemon, fake.offer("none", "1", simple(), manifest=manifest))


def test_layers_kept_elsewhere(daemon, fake):
    elsewhere = FakeRegistry()
    try:
        image = changed(lambda manifest: manifest["layers"][0].update(
            mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=[f"http://{elsewhere.host}/layer"]),
            simple(docker=True))
        elsewhere.contents["/layer"] = ("application/octet-stream", image.layers[0].blob)
        pull_refused(daemon, fake.offer("foreign", "1", image))
    finally:
        elsewhere.close()


def test_index_that_names_itself_and_nests(daemon, fake):
    inner = digest(simple().manifest_bytes)
    for depth in range(8):
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": OCI_INDEX if depth else OCI_MANIFEST, "digest": inner, "size": 10,
             "platform": {"architecture": "amd64", "os": "linux"}}]}).encode()
        source = fake.offer("nested", "1", simple(), manifest=manifest, media_type=OCI_INDEX)
        inner = digest(manifest)
    pull_refused(daemon, source)


# ---- layers and configurations that lie (A60, A66) ----

def test_wrong_diff_id(daemon, fake):
    image = simple()
    image.config["rootfs"]["diff_ids"] = ["sha256:" + "b" * 64]
    pull_refused(daemon, fake.offer("diff", "1", image), "bad-image")


@pytest.mark.parametrize("make", [lambda blob: blob[:-9], lambda blob: blob + b"rubbish", lambda blob: b"\x1f\x8b" + bytes(50),
                                  lambda blob: gzip.compress(b"no tar at all" * 100)],
                         ids=["truncated", "trailing", "damaged", "no-tar"])
def test_damaged_layer(daemon, fake, make):
    layer = Layer({"f": os.urandom(3000)})
    tar = layer.tar
    layer.blob = make(layer.blob)
    layer.digest = digest(layer.blob)
    if layer.blob.startswith(b"\x1f\x8b") and b"no tar" not in tar:
        try:
            layer.diff_id = digest(gzip.decompress(layer.blob))
        except (OSError, EOFError):
            pass
    pull_refused(daemon, fake.offer("damaged", "1", Image([layer])), "bad-image")


def test_bomb(daemon, fake):
    layer = Layer(gzip.compress(b""), "none", media_type=OCI_LAYER + "+gzip")
    layer.blob = gzip.compress(tar_of({"zeros": bytes(900 << 20)}), 9)
    layer.digest = digest(layer.blob)
    layer.diff_id = "sha256:" + "c" * 64
    pull_refused(daemon, fake.offer("bomb", "1", Image([layer])), "bad-image")


@pytest.mark.parametrize("files", [{"../../escape": b"x"}, {"/absolute/../../x": b"x"},
                                   {"a": ("link", "/"), "a/etc/polder-test-escape": b"x"}], ids=["dots", "absolute", "link"])
def test_layer_that_leaves_its_root(daemon, fake, files):
    source = fake.offer("escape", "1", Image([files]))
    reply = daemon.request("POST", f"/v1/images?wait={imagelib.WAIT}s", {"source": source, "tls_verify": False})
    assert not os.path.exists("/etc/polder-test-escape") and not os.path.exists("/escape")
    assert reply.status == 200 or reply.json["code"] == "bad-image"


CONFIGS = {
    "many-variables": {"Env": [f"A{i}=b" for i in range(100000)]},
    "long-entrypoint": {"Entrypoint": ["x" * (10 << 20)]},
    "large": {"Env": [f"A{i}=" + "x" * 1000 for i in range(3000)]},
    "user-newline": {"User": "0:0\n"},
    "user-long": {"User": "x" * 1000},
    "signal-negative": {"StopSignal": "-1"},
    "signal-word": {"StopSignal": "SIGNONE"},
    "signal-number": {"StopSignal": "9999999999"},
    "directory-relative": {"WorkingDir": "../../proc/self/fd/7"},
    "command-text": {"Cmd": "rm -rf /"},
    "command-numbers": {"Cmd": [1, 2]},
    "null-in-text": {"Cmd": ["a\0b"]},
    "volumes-many": {"Volumes": {f"/v{i}": {} for i in range(1000)}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_configuration(daemon, fake, name):
    problem = pull_refused(daemon, fake.offer("config", "1", Image([{"f": b""}], CONFIGS[name])))
    assert len(problem["detail"]) < 2000


def test_configuration_that_is_no_linux(daemon, fake):
    image = simple()
    image.config["os"] = "windows"
    pull_refused(daemon, fake.offer("windows", "1", image))
    image = simple()
    image.config = b"[" * 4000
    pull_refused(daemon, fake.offer("deep", "1", image))


# ---- credentials and other hosts (A62) ----

@pytest.fixture
def elsewhere():
    """A registry at an address that is no loopback, as another host's would be."""
    address = "198.51.100.77"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    registry = FakeRegistry(address)
    yield registry
    registry.close()
    subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


def lead(fake, other, image):
    """`fake` gives everything of `image` but the layer, for which it leads to `other`; the source to pull."""
    source = fake.offer("moved", "1", image)
    path = f"/v2/moved/blobs/{image.layers[0].digest}"
    other.contents[path] = fake.contents[path]
    fake.faults[path] = lambda handler, *_: handler.send(307, Location=f"http://{other.host}{path}") or True
    return source


def test_credentials_stay_at_their_host(daemon, fake, elsewhere):
    auth = json.dumps({"auths": {fake.host: {"auth": base64.b64encode(b"user:secret").decode()}}})
    image = simple()
    assert pull(daemon, lead(fake, elsewhere, image), auth=auth)["digest"] == image.digest
    assert elsewhere.headers and not any("Authorization" in headers for headers in elsewhere.headers)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "0.0.0.0", "127.3.2.1"])
def test_redirect_to_this_host(daemon, elsewhere, fake, name):
    """`elsewhere` is asked, and leads to a service of this host: it never hears of it, and the reason is named."""
    image = simple()
    place = type("Place", (), {"host": f"{name}:{fake.host.split(':')[1]}", "contents": fake.contents})
    problem = pull_refused(daemon, lead(elsewhere, place, image), "registry")
    assert "this host or its link" in problem["detail"] and fake.host.split(":")[1] in problem["detail"]
    assert fake.seen == []


@pytest.mark.parametrize("to", ["{other}", "169.254.169.254", "[::1]:2379", "[fe80::1%25lo]"])
def test_realm_on_this_host(daemon, fake, to):
    """A registry that wants a token names who gives it: not some other port of the host that it is on, nor the link."""
    other = FakeRegistry()
    try:
        realm = f'Bearer realm="http://{to.format(other=other.host)}/token",service="x"'
        fake.offer("private", "1", simple())
        fake.faults["/v2/"] = lambda handler, *_: handler.send(401, WWW_Authenticate=realm) or True
        begun = time.monotonic()
        problem = pull_refused(daemon, f"docker://{fake.host}/private:1", "registry")
        assert "this host or its link" in problem["detail"] or "fe80" in to, problem
        assert other.seen == [] and time.monotonic() - begun < 60
    finally:
        other.close()


def test_registry_on_this_host_by_name(daemon, fake):
    """What a person writes down is theirs to reach."""
    image = simple()
    source = fake.offer("mine", "1", image).replace("127.0.0.1", "localhost")
    assert pull(daemon, source)["digest"] == image.digest


def test_endless_redirects(daemon, fake):
    image = simple()
    source = fake.offer("round", "1", image)
    fake.faults["/blobs/"] = lambda handler, *_: handler.send(307, Location=handler.path) or True
    pull_refused(daemon, source, "registry")


# ---- kill -9 and full disks ----

def walk_needs_failpoints():
    if not build_option("failpoints"):
        pytest.skip("this build has no fail points")


def recorded(run):
    """The fail points that run(daemon) passes, in order, each once."""
    daemon = Daemon(environment={})
    daemon.environment["POLDER_FAILPOINTS_RECORD"] = str(daemon.directory / "passed")
    try:
        daemon.start()
        start = (daemon.directory / "passed").read_text().split() if (daemon.directory / "passed").exists() else []
        run(daemon)
        passed = (daemon.directory / "passed").read_text().split()[len(start):]
        return list(dict.fromkeys(name for name in passed if name.split("-")[0] in ("image", "pull", "layer", "import", "build")))
    finally:
        daemon.close()


def killed_at(point, prepare, run):
    """kill -9 at the point; after a restart the store is consistent, and the same request works."""
    daemon = Daemon()
    try:
        daemon.start()
        prepare(daemon)
        before = [footprint(daemon)]
        daemon.stop()
        daemon.environment["POLDER_FAILPOINTS"] = f"{point}=kill@1"
        daemon.start()
        with pytest.raises(Exception):
            run(daemon)
        assert daemon.wait_gone() == -9, point
        assert skopeos(daemon) == [] or eventually(lambda: not skopeos(daemon), what="the end of skopeo")
        del daemon.environment["POLDER_FAILPOINTS"]
        daemon.start()
        settle(daemon)
        daemon.check_clean()
        run(daemon, again=True)
        before.append(footprint(daemon))
        settle(daemon)
        daemon.check_clean()
        daemon.restart()
        assert footprint(daemon) == before[1]
    finally:
        daemon.close()


def test_killed_while_pulling(registry):
    walk_needs_failpoints()
    source = registry.push("killed:1", Image([{"a": b"1"}, {"b": b"2"}]))

    def run(daemon, again=False):
        assert pull(daemon, source, alias="x")["aliases"] == ["x"]
    points = recorded(run)
    assert {"pull-before-skopeo", "pull-after-skopeo", "layer-before-publish", "layer-after-publish", "image-before-commit",
            "image-after-commit"} <= set(points), points
    for point in points:
        killed_at(point, lambda daemon: None, run)


def test_killed_while_removing(registry):
    walk_needs_failpoints()
    source = registry.push("killed:2", Image([{"a": b"1"}, {"c": b"2"}]))

    def run(daemon, again=False):
        daemon.expect((204, 404) if again else 204, "DELETE", "/v1/images/x")
        assert images(daemon) == []
    for point in ("image-remove-before-commit", "image-remove-after-commit"):
        killed_at(point, lambda daemon: pull(daemon, source, alias="x"), run)


def test_killed_in_the_middle_of_a_download(daemon, fake):
    image = simple()
    source = fake.offer("middle", "1", image)
    fake.faults[image.layers[0].digest] = lambda handler, *_: stall(handler)
    daemon.expect(202, "POST", "/v1/images", {"source": source, "tls_verify": False})
    eventually(lambda: any("/blobs/" in path for path in fake.seen) and skopeos(daemon), what="the download")
    daemon.kill9()
    eventually(lambda: not skopeos(daemon), what="the end of skopeo")
    daemon.start()
    settle(daemon, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))
    fake.faults.clear()
    assert pull(daemon, source)["digest"] == image.digest


@pytest.fixture
def small_disk(tmp_path):
    """A daemon whose state lies on 48 MiB."""
    daemon = Daemon()
    daemon.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=0711", "polder-test", daemon.state], check=True)
    daemon.mounts = [str(daemon.state)]
    try:
        yield daemon.start()
        daemon.close()
    finally:
        if daemon.is_alive():
            daemon.kill9()
        subprocess.run(["umount", "-l", daemon.state], check=True)


def test_full_disk(small_disk, registry):
    data = os.urandom(30 << 20)
    small = registry.push("full:small", simple())
    download = registry.push("full:download", Image([{"large": data}, {"more": os.urandom(30 << 20)}]))
    unpacked = registry.push("full:unpack", Image([{"large": data}]))
    pull(small_disk, small)
    pull_refused(small_disk, download, "no-space")
    pull_refused(small_disk, unpacked, "no-space")
    assert kept(small_disk) == []
    # What frees room works, and so does the daemon afterwards.
    free = os.statvfs(small_disk.state)
    with open(small_disk.state / "filler", "wb", buffering=0) as filler:
        for _ in range(free.f_bavail):
            try:
                filler.write(b"x" * free.f_bsize)
            except OSError:
                break
    small_disk.expect(204, "DELETE", "/v1/images/" + urllib.parse.quote(small[len("docker://"):], safe=""))
    os.unlink(small_disk.state / "filler")
    pull(small_disk, small)
    small_disk.check_clean()
    wipe(small_disk)
