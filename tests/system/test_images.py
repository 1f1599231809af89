# SPDX-License-Identifier: GPL-2.0-or-later
"""Images from files, URLs and builds, through the API: what comes in, what is refused (attacks A44-A50, A64), and that
nothing is left of either a refusal or a kill -9."""
import ctypes
import gzip
import http.server
import json
import os
import shutil
import struct
import subprocess
import threading
import time
import urllib.parse

import pytest

from imagelib import (Image, Layer, WAIT, digest, footprint, images, names_in, refuse, settle, tar_of, upload,
                      upload_refused, wipe)
from polderlib import Daemon, build_option, eventually
from test_registry import killed_at, walk_needs_failpoints

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed"),
]
SECRET = b"polder-canary-" + b"5e1f" * 8


@pytest.fixture(scope="module")
def daemon():
    daemon = Daemon().start()
    yield daemon
    daemon.close()


@pytest.fixture(autouse=True)
def clean(daemon):
    yield
    wipe(daemon)
    daemon.check_clean()


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def disk(tmp_path, form="qcow2", size="8M", content=b"", name=None, options=None):
    """A disk image of this format whose first bytes are `content`."""
    raw = tmp_path / "raw"
    with open(raw, "wb") as file:
        file.write(content)
        file.truncate(8 << 20)
    path = tmp_path / (name or f"disk.{form}")
    words = ["convert", "-f", "raw", "-O", form]
    qemu_img(*words, *(["-o", options] if options else []), raw, path)
    if size != "8M":
        qemu_img("resize", "-f", form, path, size)
    return path


def content_of(daemon, image):
    path = daemon.state / "images/disks" / image["digest"].split(":")[1]
    return subprocess.run(["qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"if={path}", "of=/dev/stdout", "bs=512", "count=1"],
                          capture_output=True, check=False), path


# ---- disks that are welcome ----

@pytest.mark.parametrize("declared", [False, True], ids=["probed", "declared"])
@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vdi", "vhdx", "raw"])
def test_disk_formats(daemon, tmp_path, form, declared):
    boot = b"\xeb\x3c" + b"boot loader".ljust(508, b"\0") + b"\x55\xaa"
    path = disk(tmp_path, form, content=boot)
    data = path.read_bytes()
    more = {"format": form} if declared else {}
    image = upload(daemon, data, type="disk", alias="d", checksum=digest(data), **more)
    assert image["type"] == "disk" and image["aliases"] == ["d"] and image["virtual_size"] == 8 << 20
    stored = daemon.state / "images/disks" / image["digest"].split(":")[1]
    assert stored.stat().st_mode & 0o777 == 0o400 and digest(stored.read_bytes()) == image["digest"]
    back = tmp_path / "back"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", stored, back)
    assert back.read_bytes()[:512] == boot
    info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", stored], capture_output=True, check=True).stdout)
    assert info["format"] == "qcow2" and "backing-filename" not in info
    # The same bytes again are the same image.
    assert upload(daemon, data, type="disk", alias="e", **more)["digest"] == image["digest"]
    assert images(daemon)[0]["aliases"] == ["d", "e"]


def iso(tmp_path):
    maker = shutil.which("xorriso") or shutil.which("genisoimage") or shutil.which("mkisofs")
    if not maker:
        data = bytearray(64 * 2048)
        data[16 * 2048:16 * 2048 + 7] = b"\1CD001\1"
        struct.pack_into("<I", data, 16 * 2048 + 80, 64)
        data[17 * 2048:17 * 2048 + 7] = b"\xffCD001\1"
        return bytes(data)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    words = [maker, *(["-as", "mkisofs"] if maker.endswith("xorriso") else []), "-quiet", "-o", tmp_path / "iso", tmp_path / "tree"]
    subprocess.run(words, check=True, capture_output=True)
    return (tmp_path / "iso").read_bytes()


def test_boot_medium(daemon, tmp_path):
    data = iso(tmp_path)
    image = upload(daemon, data, type="iso", alias="cd", checksum=digest(data))
    assert image["type"] == "iso" and image["digest"] == digest(data) and image["virtual_size"] == len(data)
    assert (daemon.state / "images/isos" / digest(data)[7:]).read_bytes() == data
    upload_refused(daemon, bytes(1 << 20), "bad-image", type="iso")
    upload_refused(daemon, disk(tmp_path).read_bytes(), "bad-image", type="iso")


def test_pages_and_filters(daemon, tmp_path):
    """Oldest first; a page goes on behind an image that is gone."""
    made = [upload(daemon, tar_of({"n": str(number).encode()}), type="rootfs", alias=f"tree-{number}")["digest"] for number in range(5)]
    made.append(upload(daemon, disk(tmp_path).read_bytes(), type="disk", alias="disk")["digest"])

    def page(query=""):
        return daemon.get("/v1/images" + query)
    assert [image["digest"] for image in page()["images"]] == made and page()["continue"] is None
    first = page("?limit=2")
    assert [image["digest"] for image in first["images"]] == made[:2]
    daemon.expect(204, "DELETE", "/v1/images/tree-1")
    second = page(f"?limit=3&continue={first['continue']}")
    assert [image["digest"] for image in second["images"]] == made[2:5]
    last = page(f"?limit=3&continue={second['continue']}")
    assert [image["digest"] for image in last["images"]] == made[5:] and last["continue"] is None
    assert [image["digest"] for image in page("?type=disk")["images"]] == made[5:]
    assert [image["digest"] for image in page("?name=tree-&limit=1")["images"]] == made[:1]
    assert page("?name=ree")["images"] == [] and page("?type=iso")["images"] == []
    for query in ("limit=-1", "type=x", "continue=x", "continue=1-" + "g" * 64, "continue=-" + "0" * 64, "offset=1"):
        assert daemon.request("GET", "/v1/images?" + query).status == 400, query


def test_rootfs(daemon):
    tar = tar_of({"bin/": ("dir",), "bin/sh": b"#!", "etc/": ("dir",), "lib": ("link", "usr/lib")})
    for data in (tar, gzip.compress(tar)):
        image = upload(daemon, data, type="rootfs", alias="r", checksum=digest(data))
        assert image["type"] == "oci" and len(image["layers"]) == 1 and image["config"]["command"] == ["/bin/sh"]
        assert image["layers"][0]["diff_id"] == digest(tar)
    assert len(images(daemon)) == 1
    for data in (b"", b"no tar", tar[:700], gzip.compress(tar)[:-5], tar_of({"../../x": b""})):
        upload_refused(daemon, data, "bad-image", "bad-request", type="rootfs")


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_archives(daemon, kind):
    image = Image([{"a": b"1"}, {"b": b"2"}], {"Cmd": ["/x"]}, docker=kind == "docker-archive")
    data = image.oci_archive() if kind == "oci" else image.docker_archive()
    added = upload(daemon, data, type=kind, alias="archive", checksum=digest(data))
    assert [layer["diff_id"] for layer in added["layers"]] == [layer.diff_id for layer in image.layers]
    assert added["config"]["command"] == ["/x"]
    assert upload(daemon, data, type=kind)["aliases"] == ["archive"], "without an alias it gets none"
    upload_refused(daemon, data, "bad-digest", type=kind, checksum="sha256:" + "0" * 64)
    image.layers[0].blob = image.layers[0].tar = b"other" * 300
    broken = image.oci_archive() if kind == "oci" else image.docker_archive()
    for bad in (b"x", data[:2000], broken, tar_of({"index.json": b"{}"}), tar_of({"manifest.json": ("link", "/etc/shadow")}),
                tar_of({"index.json": ("link", "/etc/shadow"), "oci-layout": b"{}"}), tar_of({"../../../../etc/x": b"1"})):
        problem = upload_refused(daemon, bad, "bad-image", type=kind)
        assert "root:" not in problem["detail"]


# ---- options ----

@pytest.mark.parametrize("query, code", [
    ({"checksum": "sha256:" + "0" * 64}, "bad-digest"), ({"checksum": "sha256:00"}, "bad-value"),
    ({"checksum": "md5:" + "0" * 32}, "bad-value"), ({"format": "vmdk"}, "bad-image"), ({"format": "exe"}, "bad-value"),
    ({"format": "json:{}"}, "bad-value"), ({"alias": "../x"}, "bad-value"), ({"alias": "sha256:" + "0" * 64}, "bad-value"),
    ({"type": "floppy"}, "bad-value"), ({"colour": "red"}, "unknown-field"),
    ({"type": "rootfs", "format": "raw"}, "not-supported"), ({"type": "iso", "format": "raw"}, "not-supported"),
    ({"type": "oci", "format": "qcow2"}, "not-supported"), ({"type": "disk", "platform": "linux/amd64"}, "not-supported"),
    ({"type": "oci", "platform": "amd64"}, "bad-value")])
def test_options_are_checked(daemon, tmp_path, query, code):
    upload_refused(daemon, disk(tmp_path).read_bytes(), code, **query)


@pytest.mark.parametrize("body, code", [
    ({"source": "busybox", "checksum": "sha256:" + "0" * 64}, "not-supported"), ({"source": "busybox", "kernel": "cloud"}, "not-supported"),
    ({"source": "busybox", "tls_verify": False}, "not-supported"), ({"source": "busybox", "auth": "{}"}, "not-supported"),
    ({"source": "busybox", "platform": "linux/amd64"}, "not-supported"), ({"source": "debian:../x"}, "bad-source"),
    ({"source": "debian:bookworm;id"}, "bad-source"), ({"source": "debian:x", "variant": "y"}, "bad-value"),
    ({"source": "windows"}, "bad-source"), ({"source": ""}, "missing-field"), ({"source": "/etc/passwd"}, "bad-source"),
    ({"source": "oci:/etc"}, "bad-source"), ({}, "missing-field"), ({"source": 5}, "bad-type"),
    ({"source": "busybox", "type": "import"}, "bad-source"), ({"source": "busybox", "type": "pull"}, "bad-source"),
    ({"source": "docker://x/y", "checksum": "sha256:" + "0" * 64}, "not-supported"),
    ({"source": "https://example.org/x", "tls_verify": False}, "not-supported"),
    ({"source": "https://example.org/x", "content": "oci"}, "bad-value"), ({"source": "busybox", "content": "iso"}, "not-supported"),
    ({"source": "docker://x/y", "content": "disk"}, "not-supported")])
def test_requests_are_checked(daemon, body, code):
    refuse(daemon, body, (code,))


# ---- disks that are refused ----

def patched(data, *changes):
    data = bytearray(data)
    for offset, value in changes:
        data[offset:offset + len(value)] = value
    return bytes(data)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    path.write_bytes(SECRET + bytes(1 << 20))
    return path


def test_external_references(daemon, tmp_path, canary):
    backed, data_file = tmp_path / "backed.qcow2", tmp_path / "data.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", canary, backed)
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/external,data_file_raw=on", data_file, "1M")
    hostile = [backed.read_bytes(), data_file.read_bytes()]
    plain = disk(tmp_path).read_bytes()
    for name in (str(canary), "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(canary)}}),
                 "nbd://127.0.0.1:1/x", "/dev/zero"):
        text = name.encode()
        hostile.append(patched(plain, (8, struct.pack(">QI", 600, len(text))), (600, text)))
    vmdk = b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n" \
           b"RW 2048 FLAT \"%s\" 0\n" % str(canary).encode()
    hostile.append(vmdk.ljust(65536, b"\0"))
    for data in hostile:
        for more in ({}, {"format": "qcow2"}):
            problem = upload_refused(daemon, data, "bad-image", type="disk", **more)
            assert SECRET.decode() not in json.dumps(problem)
    assert SECRET not in b"".join(path.read_bytes() for path in (daemon.state / "images").rglob("*") if path.is_file())


QCOW2_LIES = {
    "size-8-EiB": [(24, struct.pack(">Q", 1 << 63))], "size-zero": [(24, bytes(8))],
    "cluster-bits-0": [(20, struct.pack(">I", 0))], "cluster-bits-63": [(20, struct.pack(">I", 63))],
    "l1-size": [(36, struct.pack(">I", 1 << 31))], "l1-offset": [(40, struct.pack(">Q", 1 << 62))],
    "l1-overlaps": [(40, struct.pack(">Q", 0))], "refcount-order": [(96, struct.pack(">I", 255))],
    "header-length-0": [(100, struct.pack(">I", 0))], "header-length": [(100, struct.pack(">I", 0xffffffff))],
    "snapshots": [(60, struct.pack(">I", 0xffffffff))], "version": [(4, struct.pack(">I", 9))],
    "encrypted": [(32, struct.pack(">I", 2))], "incompatible": [(72, struct.pack(">Q", 1 << 40))],
}


@pytest.mark.parametrize("lie", QCOW2_LIES)
def test_lying_qcow2(daemon, tmp_path, lie):
    upload_refused(daemon, patched(disk(tmp_path).read_bytes(), *QCOW2_LIES[lie]), "bad-image", type="disk")


@pytest.mark.parametrize("form, offset, value", [
    ("vdi", 0x170, struct.pack("<Q", 1 << 62)), ("vdi", 0x154, struct.pack("<I", 0xffffffff)),
    ("vmdk", 12, struct.pack("<Q", 1 << 60)), ("vhdx", 0x30000, b"\xff" * 64), ("vhdx", 0x10000, b"\xff" * 0x11000)],
    ids=["vdi-size", "vdi-blocks", "vmdk-size", "vhdx-region", "vhdx-headers"])
def test_lying_headers(daemon, tmp_path, form, offset, value):
    data = patched(disk(tmp_path, form).read_bytes(), (offset, value))
    upload_refused(daemon, data, "bad-image", type="disk", format=form)


def test_truncated_and_grown(daemon, tmp_path):
    for form in ("qcow2", "vdi", "vhdx", "vmdk"):
        data = disk(tmp_path, form, content=os.urandom(4 << 20)).read_bytes()
        for size in (10, 500, len(data) // 2):
            upload_refused(daemon, data[:size], "bad-image", type="disk", format=form)


def test_two_signatures(daemon, tmp_path):
    both = bytearray(disk(tmp_path).read_bytes().ljust(64 * 2048, b"\0"))
    both[16 * 2048:16 * 2048 + 7] = b"\1CD001\1"
    upload_refused(daemon, bytes(both), "bad-image", type="disk")
    upload_refused(daemon, bytes(both), "bad-image", type="iso")


def test_a_raw_disk_that_looks_like_another(daemon, tmp_path, canary):
    """A guest may write any header into its own disk: only the declared format counts, and two readings are refused."""
    backed = tmp_path / "backed.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", canary, backed)
    upload_refused(daemon, backed.read_bytes().ljust(1 << 20, b"\0"), "bad-image", type="disk", format="raw")


def test_empty_and_broken_uploads(daemon):
    upload_refused(daemon, b"", "bad-request", "bad-image", type="disk")
    import socket
    before = footprint(daemon)
    for size in (0, 1000):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(daemon.socket))
            connection.sendall(b"POST /v1/images/upload?type=disk HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream"
                               b"\r\nContent-Length: 1000000\r\n\r\n" + b"x" * size)
    settle(daemon, before)


# ---- downloads ----

@pytest.mark.parametrize("url", [
    "file:///etc/passwd", "gopher://example.org/x", "unix:///run/x", "ftp://example.org/x", "http://127.0.0.1:1/x.img",
    "http://localhost/x.img", "http://2130706433/x.img", "http://0x7f000001/x.img", "http://0x7f.1/x.img", "http://127.1/x.img",
    "http://0177.0.0.1/x.img", "http://[::1]/x.img", "http://[::ffff:127.0.0.1]/x.img", "http://169.254.169.254/latest",
    "http://0.0.0.0/x.img", "http://224.0.0.1/x.img", "http://user:secret@example.org/x.img", "http:///x.img", "http://",
    "http://example.org:99999/x", "http://example.org:x/", "http://exa mple.org/", "http://example.org/\"x\"",
    "http://-x/y", "HTTP://127.0.0.1/x", "http://127.0.0.1.:80/x"])
def test_urls_that_are_never_fetched(daemon, url):
    refuse(daemon, {"source": url, "type": "import"}, ("bad-source", "bad-value"))


SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def do_GET(self):
        self.server.seen = getattr(self.server, "seen", []) + [self.path]
        path = self.path.split("?")[0]
        moved = {"/to-loopback": "http://127.0.0.1:8080/disk", "/to-file": "file:///etc/passwd", "/round": "/round",
                 "/moved/disk.img": "/disk", "/to-metadata": "http://169.254.169.254/x"}
        if path in moved:
            self.send_response(302); self.send_header("Location", moved[path]); self.send_header("Content-Length", "0")
            self.end_headers(); return
        if path in ("/missing", "/secret"):
            self.send_response(404); self.end_headers(); return
        if path == "/seen":
            data = json.dumps(self.server.seen).encode()
        else:
            data = open(sys.argv[1] + path, "rb").read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + (1000 if path == "/short" else 0)))
        self.end_headers(); self.wfile.write(data)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


class Namespaced(Daemon):
    """In a network namespace with a peer: 198.51.100.1 here, a web server at 198.51.100.2."""

    def __init__(self, namespace):
        self.namespace = namespace
        super().__init__()

    def command(self):
        return ["nsenter", f"--net=/proc/{self.namespace}/ns/net", *super().command()]


@pytest.fixture(scope="module")
def downloader(tmp_path_factory):
    files = tmp_path_factory.mktemp("web")
    for name in ("disk", "short", "disk.img", "disk.tar"):
        shutil.copy(disk(files, "qcow2", name="made"), files / name)
    (files / "root.tar").write_bytes(tar_of({"bin/": ("dir",), "f": b"from the web"}))
    shutil.copy(files / "root.tar", files / "root")
    (files / "medium").write_bytes(iso(files))
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) for _ in range(2)]
    own = os.readlink("/proc/self/ns/net")
    for holder in holders:
        eventually(lambda pid=holder.pid: os.readlink(f"/proc/{pid}/ns/net") != own, what="the namespace")

    def inside(number, *words):
        return ["nsenter", f"--net=/proc/{holders[number].pid}/ns/net", *words]
    commands = [(0, "ip link add name here type veth peer name there netns " + str(holders[1].pid)), (0, "ip link set lo up"),
                (0, "ip addr add 198.51.100.1/24 dev here"), (0, "ip link set here up"), (1, "ip addr add 198.51.100.2/24 dev there"),
                (1, "ip link set there up"), (1, "ip link set lo up")]
    for number, words in commands:
        subprocess.run(inside(number, *words.split()), check=True)
    web = subprocess.Popen(inside(1, "/usr/bin/python3", "-c", SERVER, str(files)))
    daemon = Namespaced(holders[0].pid)
    try:
        daemon.start()
        yield daemon
        daemon.close()
    finally:
        for process in [web, *holders]:
            process.kill()
            process.wait()


def fetch(daemon, path, **more):
    body = {"source": f"http://198.51.100.2:8080{path}", "type": "import", **more}
    reply = daemon.request("POST", f"/v1/images?wait={WAIT}s", body)
    end = time.monotonic() + 30
    while reply.json.get("code") == "bad-source" and "onnect" in reply.json["detail"] and time.monotonic() < end:
        time.sleep(0.2)  # the web server is starting
        reply = daemon.request("POST", f"/v1/images?wait={WAIT}s", body)
    return reply.json


def test_downloads(downloader):
    image = fetch(downloader, "/disk.img?token=secret")["result"]
    assert image["type"] == "disk" and image["aliases"] == ["disk.img"] and "secret" not in json.dumps(image)
    assert fetch(downloader, "/moved/disk.img", alias="moved")["result"]["digest"] == image["digest"]
    assert fetch(downloader, "/root.tar")["result"]["type"] == "oci"
    wipe(downloader)
    # What it is may be said where its name does not say so, and against its name.
    assert fetch(downloader, "/medium", content="iso", alias="cd")["result"]["type"] == "iso"
    assert fetch(downloader, "/root", content="rootfs", alias="tree")["result"]["type"] == "oci"
    assert fetch(downloader, "/disk.tar", content="disk", alias="bytes")["result"]["type"] == "disk"
    wipe(downloader)
    for path, word in (("/to-loopback", "this host"), ("/to-file", "http"), ("/round", "too often"), ("/missing", "404"),
                       ("/to-metadata", "this host"), ("/short", "")):
        problem = fetch(downloader, path)
        assert problem["code"] == "bad-source" and word in problem["detail"], (path, problem)
        settle(downloader, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))
    assert fetch(downloader, "/disk.img", checksum="sha256:" + "0" * 64)["code"] == "bad-digest"
    assert fetch(downloader, "/disk.img", format="vmdk")["code"] == "bad-image"
    wipe(downloader)


# ---- builds, damage, kill -9 ----

def test_busybox(daemon):
    if not os.path.exists("/bin/busybox"):
        pytest.skip("busybox-static is not installed")
    image = daemon.change("POST", "/v1/images", {"source": "busybox"})["result"]
    assert image["aliases"] == ["busybox"] and image["type"] == "oci" and image["source"] == "build:busybox"
    daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build", "alias": "b:2"})
    assert len(images(daemon)) == 1, "a build of the same is the same"


def test_damage_is_found(daemon, tmp_path):
    image = upload(daemon, disk(tmp_path).read_bytes(), type="disk", alias="d")
    path = daemon.state / "images/disks" / image["digest"].split(":")[1]
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(patched(good, (len(good) - 10, b"\1")))
    assert "digest" in json.dumps(daemon.fsck()["problems"])
    path.write_bytes(good)
    orphan = daemon.state / "images/layers" / ("0" * 64)
    orphan.mkdir()
    assert "belongs to no image" in json.dumps(daemon.fsck()["problems"])
    daemon.restart()
    settle(daemon)
    assert not orphan.exists(), "what no record owns goes at the next start"
    path.unlink()
    assert "missing" in json.dumps(daemon.fsck()["problems"])


def test_killed_while_importing(tmp_path):
    walk_needs_failpoints()
    data = disk(tmp_path).read_bytes()
    for point in ("import-after-convert", "import-after-rename", "image-before-commit", "image-after-commit"):
        killed_at(point, lambda daemon: None, lambda daemon, again=False: upload(daemon, data, type="disk", alias="d"))
    tar = tar_of({"f": b"1"})
    for point in ("layer-before-publish", "layer-after-publish", "image-before-commit"):
        killed_at(point, lambda daemon: None, lambda daemon, again=False: upload(daemon, tar, type="rootfs", alias="r"))


def test_killed_while_building():
    walk_needs_failpoints()
    for point in ("build-before-builder", "layer-after-publish"):
        killed_at(point, lambda daemon: None, lambda daemon, again=False: daemon.change("POST", "/v1/images", {"source": "busybox"}))


def test_full_disk(tmp_path):
    daemon = Daemon()
    daemon.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0711", "polder-test", daemon.state], check=True)
    daemon.mounts = [str(daemon.state)]
    try:
        daemon.start()
        upload_refused(daemon, disk(tmp_path, content=os.urandom(8 << 20)).read_bytes() * 4, "no-space", "bad-image", type="disk")
        upload_refused(daemon, tar_of({"f": os.urandom(13 << 20)}), "no-space", type="rootfs")
        upload(daemon, tar_of({"f": b"small"}), type="rootfs", alias="small")
        wipe(daemon)
        daemon.close()
    finally:
        if daemon.is_alive():
            daemon.kill9()
        subprocess.run(["umount", "-l", daemon.state], check=True)
