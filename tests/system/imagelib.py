# SPDX-License-Identifier: GPL-2.0-or-later
"""OCI and docker images made byte by byte, Debian's docker-registry, and a registry that misbehaves on request."""
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse

import polderlib

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(files):
    """A tar of {path: bytes, or ("dir",), ("link", target), ("file", bytes, mode)}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path.rstrip("/"))
            info.mode = 0o755
            if content[:1] == ("file",):
                info.mode, content = content[2], content[1]
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            info.type = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[content[0]]
            info.linkname = content[1] if content[0] == "link" else ""
            tar.addfile(info)
    return out.getvalue()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Layer:
    def __init__(self, tar, compression="gzip", docker=False, media_type=None):
        self.tar = tar if isinstance(tar, bytes) else tar_of(tar)
        self.blob = {"gzip": lambda d: gzip.compress(d, 1, mtime=0), "zstd": zstd, "none": lambda d: d}[compression](self.tar)
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
        self.media_type = media_type or (DOCKER_LAYER if docker else OCI_LAYER + suffix)
        self.digest = digest(self.blob)
        self.diff_id = digest(self.tar)

    def descriptor(self):
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.blob)}


class Image:
    """Everything of one image; `manifest` and `config` may be changed before `blobs()` is asked for."""

    def __init__(self, layers, config=None, docker=False, architecture="amd64", **more):
        self.layers = [layer if isinstance(layer, Layer) else Layer(layer, docker=docker) for layer in layers]
        self.config = {"architecture": architecture, "os": "linux", "config": config or {"Cmd": ["/bin/true"]},
                       "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]}, **more}
        self.docker = docker
        self.change = lambda manifest: None

    @property
    def config_bytes(self):
        return self.config if isinstance(self.config, bytes) else json.dumps(self.config).encode()

    @property
    def media_type(self):
        return DOCKER_MANIFEST if self.docker else OCI_MANIFEST

    @property
    def manifest_bytes(self):
        manifest = {"schemaVersion": 2, "mediaType": self.media_type,
                    "config": {"mediaType": DOCKER_CONFIG if self.docker else OCI_CONFIG,
                               "digest": digest(self.config_bytes), "size": len(self.config_bytes)},
                    "layers": [layer.descriptor() for layer in self.layers]}
        self.change(manifest)
        return json.dumps(manifest).encode()

    @property
    def digest(self):
        return digest(self.manifest_bytes)

    def blobs(self):
        return {digest(self.config_bytes): self.config_bytes, **{layer.digest: layer.blob for layer in self.layers}}

    def oci_archive(self):
        """A tar as `oci:` and oci-archive: have it."""
        manifest = self.manifest_bytes
        index = {"schemaVersion": 2, "manifests": [{"mediaType": self.media_type, "digest": digest(manifest),
                                                    "size": len(manifest)}]}
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(),
                 "blobs/": ("dir",), "blobs/sha256/": ("dir",)}
        for name, data in {**self.blobs(), digest(manifest): manifest}.items():
            files["blobs/sha256/" + name.split(":")[1]] = data
        return tar_of(files)

    def docker_archive(self):
        """A tar as `docker save` writes it."""
        name = digest(self.config_bytes).split(":")[1] + ".json"
        files = {name: self.config_bytes}
        layers = []
        for layer in self.layers:
            layers.append(layer.diff_id.split(":")[1] + ".tar")
            files[layers[-1]] = layer.tar
        files["manifest.json"] = json.dumps([{"Config": name, "RepoTags": ["x:y"], "Layers": layers}]).encode()
        return tar_of(files)


def index_bytes(images, docker=False):
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest_bytes),
         "platform": {"architecture": image.config["architecture"], "os": "linux"}} for image in images]}).encode()


def write_layout(directory, images):
    """An OCI layout in a directory: one index with all of them, as builders for several platforms write it."""
    inner = index_bytes(images)
    blobs = {digest(inner): inner}
    for image in images:
        blobs.update(image.blobs())
        blobs[image.digest] = image.manifest_bytes
    place = pathlib.Path(directory) / "blobs/sha256"
    place.mkdir(parents=True)
    for name, data in blobs.items():
        (place / name.split(":")[1]).write_bytes(data)
    (place.parent.parent / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (place.parent.parent / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": OCI_INDEX, "digest": digest(inner), "size": len(inner)}]}))


# ---- the real registry ----

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """Debian's docker-registry on a loopback port. `users` switches authentication on; `tls` is (certificate, key)."""

    def __init__(self, directory, users=None, tls=None):
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.tls, self.users = tls, users or {}
        (self.directory / "data").mkdir(parents=True)
        lines = ["version: 0.1", "storage:", "  filesystem:", f"    rootdirectory: {self.directory}/data", "http:",
                 f"  addr: {self.host}"]
        if tls:
            lines += ["  tls:", f"    certificate: {tls[0]}", f"    key: {tls[1]}"]
        if users:
            subprocess.run(["htpasswd", "-Bbc", f"{self.directory}/passwords", *next(iter(users.items()))], check=True,
                           capture_output=True)
            lines += ["auth:", "  htpasswd:", "    realm: test", f"    path: {self.directory}/passwords"]
        (self.directory / "config.yml").write_text("\n".join(lines) + "\n")
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", str(self.directory / "config.yml")],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if self.call("GET", "/v2/").status == 200:
                    return
            except OSError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("the registry does not answer")

    def call(self, method, path, body=None, headers=None):
        import base64
        import ssl
        headers = dict(headers or {})
        for user, password in self.users.items():
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if self.tls:
            connection = http.client.HTTPSConnection(self.host, timeout=60, context=ssl._create_unverified_context())
        else:
            connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        reply.body = reply.read()
        connection.close()
        return reply

    def push_blob(self, repository, data):
        if self.call("HEAD", f"/v2/{repository}/blobs/{digest(data)}").status == 200:
            return
        reply = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        assert reply.status == 202, reply.body
        place = urllib.parse.urlsplit(reply.getheader("Location"))
        reply = self.call("PUT", f"{place.path}?{place.query}&digest={digest(data)}", data,
                          {"Content-Type": "application/octet-stream"})
        assert reply.status == 201, reply.body

    def push_manifest(self, repository, reference, data, media_type):
        reply = self.call("PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": media_type})
        assert reply.status == 201, reply.body

    def push(self, name, image):
        """`name` is repository:tag; returns the source to pull."""
        repository, tag = name.split(":")
        for data in image.blobs().values():
            self.push_blob(repository, data)
        self.push_manifest(repository, tag, image.manifest_bytes, image.media_type)
        return f"docker://{self.host}/{name}"

    def close(self):
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


# ---- a registry that misbehaves ----

class FakeRegistry:
    """Serves `contents` {path: (media type, bytes)}; `faults` {path part: function(handler, media type, data)} act first
    and return True if they answered. `seen` holds the requests."""

    def __init__(self, address="127.0.0.1"):
        self.contents, self.faults, self.seen, self.headers = {}, {}, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def send(self, status, data=b"", media_type="application/json", **more):
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(data)))
                for name, value in more.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_GET(self):
                outer.seen.append(self.path)
                outer.headers.append(dict(self.headers))
                media_type, data = outer.content(self)
                for part, fault in outer.faults.items():
                    if part in self.path and fault(self, media_type, data):
                        return
                if self.path == "/v2/":
                    self.send(200, b"{}", Docker_Distribution_API_Version="registry/2.0")
                elif data is None:
                    self.send(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
                else:
                    self.send(200, data, media_type, Docker_Content_Digest=digest(data))

            do_HEAD = do_GET

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass

        self.server = Server((address, 0), Handler)
        self.host = f"{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def content(self, handler):
        return self.contents.get(handler.path, (None, None))

    def offer(self, repository, tag, image, manifest=None, media_type=None):
        manifest = manifest if manifest is not None else image.manifest_bytes
        for name, data in image.blobs().items():
            self.contents[f"/v2/{repository}/blobs/{name}"] = ("application/octet-stream", data)
        for reference in (tag, digest(manifest)):
            self.contents[f"/v2/{repository}/manifests/{reference}"] = (media_type or image.media_type, manifest)
        return f"docker://{self.host}/{repository}:{tag}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Proxy(FakeRegistry):
    """Stands before a real registry, whose replies `faults` may spoil."""

    def __init__(self, registry):
        super().__init__()
        self.registry = registry

    def content(self, handler):
        reply = self.registry.call("GET", handler.path, headers={"Accept": handler.headers.get("Accept", "*/*")})
        return (reply.getheader("Content-Type"), reply.body) if reply.status == 200 else (None, None)

    def source(self, source):
        """The way to `source`, one of the registry's, by here."""
        return source.replace(self.registry.host, self.host)

    def blobs_asked_for(self):
        """Digests, in order; forgets what was asked for."""
        asked = [path.rsplit("/", 1)[1] for path in self.seen if "/blobs/" in path]
        self.seen.clear()
        return asked


# ---- asking the daemon ----

WAIT = 2 * polderlib.DEADLINE


def pull(daemon, source, tls_verify=False, **more):
    """The finished operation's image."""
    return daemon.change("POST", "/v1/images", {"source": source, "type": "pull", "tls_verify": tls_verify, **more},
                         wait=WAIT)["result"]


def refuse(daemon, body, codes, path="/v1/images", headers=None):
    """The request must fail with one of these codes, as a clear client or registry error, and leave nothing."""
    before = footprint(daemon)
    mark = "&" if "?" in path else "?"
    reply = daemon.request("POST", f"{path}{mark}wait={WAIT}s", body, headers)
    assert "problem+json" in reply.headers.get("content-type", ""), reply
    problem = reply.json
    assert problem["code"] in codes, problem
    assert reply.status == problem["status"] != 500, problem
    assert str(daemon.directory) not in problem["detail"], f"an internal path is shown: {problem}"
    settle(daemon, before)
    return problem


def pull_refused(daemon, source, *codes, **more):
    body = {"source": source, "type": "pull", "tls_verify": False, **more}
    return refuse(daemon, body, codes or ("bad-image", "bad-digest", "registry"))


def upload(daemon, data, wait=WAIT, **query):
    query = urllib.parse.urlencode({**query, "wait": f"{wait}s"})
    return daemon.expect((200, 202), "POST", f"/v1/images/upload?{query}", data,
                         {"Content-Type": "application/octet-stream"}).json["result"]


def upload_refused(daemon, data, *codes, **query):
    return refuse(daemon, data, codes or ("bad-image",), "/v1/images/upload?" + urllib.parse.urlencode(query),
                  {"Content-Type": "application/octet-stream"})


def images(daemon):
    return daemon.get("/v1/images")["images"]


def names_in(path):
    return sorted(os.listdir(path)) if path.is_dir() else []


def footprint(daemon):
    """What the image store holds: records and files."""
    place = daemon.state / "images"
    return (sorted((image["digest"], tuple(image["aliases"])) for image in images(daemon)),
            {part: names_in(place / part) for part in ("layers", "disks", "isos", "erofs")})


def settle(daemon, expected=None):
    """Staging is empty, nothing that works on images is left, and (if given) the store holds what it held before."""
    place = daemon.state / "images"
    end = time.monotonic() + 60
    while names_in(place / "staging") or names_in(place / "discarded"):
        assert time.monotonic() < end, (names_in(place / "staging"), names_in(place / "discarded"))
        time.sleep(0.02)
    if expected is not None:
        assert footprint(daemon) == expected


def wipe(daemon):
    """No image and no file of one."""
    for image in images(daemon):
        daemon.expect(204, "DELETE", "/v1/images/" + urllib.parse.quote(image["digest"], safe=""))
    settle(daemon, ([], {"layers": [], "disks": [], "isos": [], "erofs": []}))


def kept(daemon):
    """Blobs that pulls left that broke off."""
    return sorted("sha256:" + name.split("-")[1] for name in names_in(daemon.state / "images/downloads"))
