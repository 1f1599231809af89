# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of polderd at the fail points of image imports (F01): a recording run lists what an import passes; then, for each
pass, the store is emptied but for a bystander, polderd killed there and started again. After that records and files agree, the
image is there whole or not at all, the bystander is as it was, nothing is left of the work, and the same import succeeds."""
import os
import shutil

import pytest

from imagelib import Image, WAIT, footprint, settle, tar_of, upload
from polderlib import eventually
from test_images import disk, downloader, fetch, iso  # noqa: F401, a fixture
from test_scenarios_crash import failpoints  # noqa: F401, a fixture

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root"),
    pytest.mark.skipif(not shutil.which("qemu-img") or not shutil.which("skopeo"), reason="qemu-img or skopeo is not installed"),
]
LAYERS = [{"a": b"1"}, {"b": b"2"}]
SOURCES = ("disk", "iso", "rootfs", "oci", "docker-archive", "download", "busybox")


def content(source, tmp_path):
    if source == "disk":
        return disk(tmp_path).read_bytes()
    if source == "iso":
        return iso(tmp_path)
    if source == "rootfs":
        return tar_of({"bin/": ("dir",), "f": b"1"})
    image = Image(LAYERS, {"Cmd": ["/x"]}, docker=source == "docker-archive")
    return image.oci_archive() if source == "oci" else image.docker_archive()


class Walk:
    """The imports of one source; `data` is what is uploaded."""

    def __init__(self, daemon, source, tmp_path):
        self.daemon, self.source = daemon, source
        self.data = content(source, tmp_path) if source not in ("download", "busybox") else None
        if not daemon.is_alive():
            daemon.start()
        upload(daemon, tar_of({"beside": b"x"}), type="rootfs", alias="bystander")
        self.before = footprint(daemon)

    def send(self):
        if self.source == "download":
            found = fetch(self.daemon, "/disk.img", alias="made")
            assert "result" in found, found
            found = found["result"]
        elif self.source == "busybox":
            found = self.daemon.change("POST", "/v1/images", {"source": "busybox", "type": "build", "alias": "made"}, wait=WAIT)["result"]
        else:
            found = upload(self.daemon, self.data, type=self.source, alias="made")
        assert found["aliases"] == ["made"], found
        self.daemon.fsck()

    def restart(self, **environment):
        if self.daemon.is_alive():
            self.daemon.stop()
        self.daemon.environment = environment
        self.daemon.start()

    def forget(self):
        if any("made" in aliases for _, aliases in footprint(self.daemon)[0]):
            self.daemon.expect(204, "DELETE", "/v1/images/made")
        settle(self.daemon, self.before)

    def passes(self):
        """(name, number of its pass since the start) of each point that the import passes, but those of the store's files."""
        record = self.daemon.directory / "record"
        record.unlink(missing_ok=True)
        self.restart(POLDER_FAILPOINTS_RECORD=str(record))
        begun = len(record.read_text().split()) if record.exists() else 0
        self.send()
        names = record.read_text().split()
        self.restart()
        self.done = footprint(self.daemon)
        self.forget()
        return [(name, names[:position + 1].count(name)) for position, name in enumerate(names)
                if position >= begun and not name.startswith(("store-", "writer-"))]

    def crash_at(self, name, number):
        where = f"killed at {name}@{number}"
        self.restart(POLDER_FAILPOINTS=f"{name}=kill@{number}")
        try:
            self.send()
        except Exception as error:  # the connection goes with the daemon
            eventually(lambda: not self.daemon.is_alive(), 10, f"{where}: death after {error!r}")
        else:
            raise AssertionError(f"{where}: it was never reached")
        self.daemon.environment = {}
        self.daemon.start()
        settle(self.daemon)
        self.daemon.check_clean()
        found = footprint(self.daemon)
        assert found in (self.before, self.done), f"{where}: {found}"
        self.send()
        settle(self.daemon)
        assert footprint(self.daemon) == self.done, f"{where}: after the same import once more"
        self.restart()
        self.daemon.check_clean()
        assert footprint(self.daemon) == self.done, f"{where}: after a start"
        self.forget()


def walk(daemon, source, tmp_path, chosen=lambda point: True):
    steps = Walk(daemon, source, tmp_path)
    passes = [(name, number) for name, number in steps.passes() if chosen(name)]
    assert len(passes) >= 1, "nothing was recorded"
    for name, number in passes:
        steps.crash_at(name, number)
    daemon.expect(204, "DELETE", "/v1/images/bystander")
    return {name for name, _ in passes}


# One on either side of what makes the image seen.
@pytest.mark.parametrize("source, point", [("iso", "import-after-rename"), ("docker-archive", "image-after-commit")])
def test_sample(make_daemon, failpoints, tmp_path, source, point):  # noqa: F811
    walk(make_daemon(log_level="info"), source, tmp_path, lambda name: name == point)


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
def test_walk(make_daemon, failpoints, request, tmp_path, source):  # noqa: F811
    daemon = request.getfixturevalue("downloader") if source == "download" else make_daemon(log_level="info")
    if source == "busybox" and not os.path.exists("/bin/busybox"):
        pytest.skip("busybox-static is not installed")
    seen = walk(daemon, source, tmp_path)
    assert {"image-before-commit", "image-after-commit"} <= seen, seen
