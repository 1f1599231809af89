# SPDX-License-Identifier: GPL-2.0-or-later
"""image pull, import, ls, show, tag, rm and prune, and console, as they are typed: against a real registry and real files."""
import hashlib
import json
import os
import shutil
import subprocess

import pytest

import imagelib
import polderlib
from polderlib import ROOT
from test_cli import Command

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
]


@pytest.fixture(scope="module")
def polder():
    daemon = polderlib.Daemon(fake=False).start()
    yield Command(daemon)
    daemon.close()


@pytest.fixture(scope="module")
def busybox(tmp_path_factory):
    """An OCI image that runs."""
    place = tmp_path_factory.mktemp("busybox")
    subprocess.run([ROOT / "libexec/polder-build-busybox", "--output", place], check=True, stdout=subprocess.DEVNULL)
    return imagelib.Image([(place / "rootfs.tar").read_bytes()],
                          {"Cmd": ["/bin/sh", "-c", "echo from the registry"], "Env": ["PATH=/bin:/usr/bin"]})


@pytest.fixture
def registry(tmp_path, busybox):
    registry = imagelib.Registry(tmp_path / "registry", users={"somebody": "secret"})
    registry.push("team/box:1", busybox)
    yield registry
    registry.process.kill()
    registry.process.wait()


def names(polder):
    return {name for image in json.loads(polder.out("image", "ls", "-o", "json")) for name in image["aliases"]}


def test_pull_run_and_remove(polder, registry, busybox, tmp_path):
    source = f"docker://{registry.host}/team/box:1"
    denied = polder.error("image", "pull", source, "--no-tls-verify")
    assert "team/box" in denied and "secret" not in denied, denied
    wrong = polder.error("image", "pull", source, "--no-tls-verify", "--creds", "somebody:nonsense")
    assert "nonsense" not in wrong, wrong
    assert "missing/box" in polder.error("image", "pull", f"docker://{registry.host}/missing/box:1", "--no-tls-verify",
                                         "--creds", "somebody:secret")

    credentials = tmp_path / "auth.json"
    credentials.write_text(json.dumps({"auths": {registry.host: {"auth": "c29tZWJvZHk6c2VjcmV0"}}}))
    polder("image", "pull", source, "--no-tls-verify", "--authfile", credentials, "--name", "box")
    assert "box" in names(polder)
    assert polder.out("run", "--rm", "box") == "from the registry\n"
    assert polder.out("run", "--rm", "box", "echo", "another") == "another\n"
    shown = json.loads(polder.out("image", "show", "box", "-o", "json"))
    assert busybox.digest in json.dumps(shown), shown

    polder("image", "tag", "box", "other:2")
    assert {"box", "other:2"} <= names(polder)
    polder("image", "rm", "box")
    assert "other:2" in names(polder) and "box" not in names(polder)
    assert polder.out("run", "--rm", "other:2") == "from the registry\n"
    polder("image", "rm", "other:2")
    polder("image", "prune")
    assert names(polder) == set()


def test_progress_is_for_terminals(polder, registry):
    arguments = ["image", "pull", f"docker://{registry.host}/team/box:1", "--no-tls-verify", "--creds", "somebody:secret"]
    silent = polder(*arguments, "--name", "plain")
    assert "\x1b" not in silent.stdout + silent.stderr and "\r" not in silent.stdout + silent.stderr
    assert polder.out(*arguments, "--name", "quiet", "--quiet").strip() == "quiet"
    status, shown = polder.terminal(*arguments, "--name", "shown")
    assert status == 0, shown
    for name in ("plain", "quiet", "shown"):
        polder("image", "rm", name)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    return path


def test_import_of_a_disk(polder, disk, tmp_path):
    right = hashlib.sha256(disk.read_bytes()).hexdigest()
    wrong = polder.error("image", "import", disk, "--checksum", "sha256:" + "0" * 64)
    assert right in wrong or "0" * 64 in wrong, wrong
    assert "sha512" in polder.error("image", "import", disk, "--checksum", "sha512:00", status=2)
    assert names(polder) == set()
    polder("image", "import", disk, "--checksum", f"sha256:{right}", "--name", "old-server")
    assert names(polder) == {"old-server"}
    polder("image", "rm", "old-server")
    polder("image", "import", disk)
    assert names(polder) == {"disk"}
    polder("image", "rm", "disk")

    assert "/nowhere.qcow2" in polder.error("image", "import", "/nowhere.qcow2")
    nothing = tmp_path / "notes.txt"
    nothing.write_text("these are notes\n")
    assert "notes" in polder.error("image", "import", nothing)
    assert names(polder) == set()


def test_import_of_archives(polder, busybox, tmp_path):
    archive = tmp_path / "image.tar"
    archive.write_bytes(busybox.oci_archive())
    unpacked = tmp_path / "layout"
    unpacked.mkdir()
    subprocess.run(["tar", "-C", unpacked, "-xf", archive], check=True)
    polder("image", "import", f"oci:{unpacked}", "--name", "layout")
    assert polder.out("run", "--rm", "layout") == "from the registry\n"
    tree = tmp_path / "rootfs.tar"
    tree.write_bytes(busybox.layers[0].tar)
    polder("image", "import", tree, "--name", "tree")
    assert polder.out("run", "--rm", "tree", "echo", "from a tree") == "from a tree\n"
    done = polder("image", "rm", "layout", "nothing", "tree", status=None)  # whatever became of the one before
    assert done.returncode == 1 and done.stdout.split() == ["layout", "tree"] and "nothing" in done.stderr, done
    assert "tree" not in polder.out("image", "ls")


def architecture(polder, name):
    return json.loads(polder.out("image", "show", name, "-o", "json"))["architecture"]


def test_pull_of_archives(polder, busybox, tmp_path):
    """oci:DIRECTORY and docker-archive:FILE, with a choice among platforms; what fits none of them is refused by its name."""
    layout, saved = tmp_path / "layout", tmp_path / "saved.tar"
    other = imagelib.Image(busybox.layers, busybox.config["config"], architecture="arm64")
    imagelib.write_layout(layout, [other, busybox])
    saved.write_bytes(busybox.docker_archive())
    polder("image", "pull", f"oci:{layout}/")
    assert architecture(polder, "layout") == "amd64"
    assert polder.out("run", "--rm", "layout") == "from the registry\n"
    polder("image", "pull", f"oci:{layout}", "--platform", "linux/arm64", "--name", "arm")
    assert architecture(polder, "arm") == "arm64"
    polder("image", "import", layout, "--platform", "linux/arm64", "--name", "arm-too")
    assert architecture(polder, "arm-too") == "arm64"
    assert "s390x" in polder.error("image", "pull", f"oci:{layout}", "--platform", "linux/s390x")
    polder("image", "pull", f"docker-archive:{saved}", "--platform", "linux/amd64")
    assert polder.out("run", "--rm", "saved") == "from the registry\n"
    # One image alone is of one platform.
    refused = polder.error("image", "pull", f"docker-archive:{saved}", "--platform", "linux/arm64", "--name", "wrong")
    assert "linux/amd64" in refused and "linux/arm64" in refused, refused
    # Several images without an index of their platforms are several images.
    (layout / "index.json").write_bytes(imagelib.index_bytes([other, busybox]))
    assert "names several images" in polder.error("image", "pull", f"oci:{layout}", "--name", "several")
    assert names(polder) == {"layout", "arm", "arm-too", "saved"}
    polder("image", "rm", *names(polder))


@pytest.mark.parametrize("words, told", [
    (["pull", "oci:{layout}", "--authfile", "/etc/hostname"], "--authfile"), (["pull", "oci:{layout}", "--creds", "a:b"], "--creds"),
    (["pull", "docker-archive:{file}", "--no-tls-verify"], "--no-tls-verify"),
    (["pull", "docker-archive:{layout}"], "docker-archive"), (["import", "docker-archive:{file}", "--type", "disk"], "--type disk"),
    (["import", "{layout}", "--type", "disk"], "disk is one file"), (["import", "{layout}", "--checksum", "sha256:" + "0" * 64], "--checksum"),
    (["import", "https://example.org/x", "--type", "oci"], "--type oci"),
    (["import", "https://example.org/x", "--platform", "linux/arm64"], "--platform")])
def test_options_without_effect_are_refused(polder, busybox, tmp_path, words, told):
    imagelib.write_layout(tmp_path / "layout", [busybox])
    (tmp_path / "file").write_bytes(busybox.docker_archive())
    places = {"layout": tmp_path / "layout", "file": tmp_path / "file"}
    assert told in polder.error("image", *(word.format(**places) for word in words), status=2)
    assert names(polder) == set()


def test_console_of_what_has_none(polder, busybox, tmp_path):
    tree = tmp_path / "rootfs.tar"
    tree.write_bytes(busybox.layers[0].tar)
    polder("image", "import", tree, "--name", "console")
    assert "there is no" in polder.error("console", "nobody")
    polder("run", "-d", "--name", "shell", "console", "sleep", "1000")
    told = polder.error("console", "shell").splitlines()
    assert len(told) == 1 and "'polder attach'" in told[0], told
    polder("rm", "-f", "--purge", "shell")
    polder("image", "rm", "console")
