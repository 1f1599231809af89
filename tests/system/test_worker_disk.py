# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images from strangers (attacks A44, A45, A48 to A50, A54): only what the header's own parser accepts reaches
qemu-img, which sees nothing of the host but the image."""
import gzip
import os
import pathlib
import shutil
import struct
import subprocess
import time

import pytest

from workerlib import digest, run_worker, tree_state

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the worker needs root to make its jail"),
              pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img (qemu-utils) is not installed")]

MIB = 1 << 20
EXTERNAL, MALFORMED, SIZE = "disk-external-reference", "disk-malformed", "disk-size"


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A raw disk with some content, and the same in each format."""
    place = tmp_path_factory.mktemp("images")
    raw = bytearray(4 * MIB)
    raw[510:512] = b"\x55\xaa"
    raw[MIB:2 * MIB] = os.urandom(MIB)
    (place / "raw").write_bytes(raw)
    for name, form, *options in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vpc", "vpc"),
                                 ("stream", "vmdk", "-o", "subformat=streamOptimized"), ("packed", "qcow2", "-c"),
                                 ("zstd", "qcow2", "-c", "-o", "compression_type=zstd"),
                                 ("fixed", "vpc", "-o", "subformat=fixed"), ("old", "qcow2", "-o", "compat=0.10"),
                                 ("static", "vdi", "-o", "static=on"), ("small", "qcow2", "-o", "cluster_size=512"),
                                 ("large", "qcow2", "-o", "cluster_size=2M")]:
        qemu_img("convert", "-f", "raw", "-O", form, *options, place / "raw", place / name)
    # As other programs write it: the grain directory's place is in a footer.
    stream = (place / "stream").read_bytes()
    (place / "footer").write_bytes(stream[:56] + b"\xff" * 8 + stream[64:] + struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") +
                                   stream[:512] + b"\0" * 512)
    return place


@pytest.fixture
def place(tmp_path):
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(b"secret" * 1000)
    before = tree_state(canary)
    yield tmp_path
    assert tree_state(canary) == before


def probe(path, *options):
    fd = os.open(path, os.O_RDONLY)
    try:
        return run_worker("probe-disk", *options, input=fd)
    finally:
        os.close(fd)


def convert(path, target, *options):
    input_fd, output_fd = os.open(path, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return run_worker("convert-disk", *options, input=input_fd, output=output_fd)
    finally:
        os.close(input_fd)
        os.close(output_fd)


def refused(answer, *codes):
    assert answer.status == 1 and answer.code in codes, answer
    assert answer.error["message"], answer


FORMATS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "vpc": "vpc", "stream": "vmdk",
           "packed": "qcow2", "zstd": "qcow2", "fixed": "vpc", "old": "qcow2", "static": "vdi", "small": "qcow2",
           "large": "qcow2"}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognised_and_converted(images, place, name):
    answer = probe(images / name, "--declared", FORMATS[name])
    assert answer.status == 0 and answer.result["format"] == FORMATS[name], answer
    if FORMATS[name] != "vpc":  # whose sizes are whole cylinders
        assert answer.result["virtual_size"] == 4 * MIB
    answer = convert(images / name, place / "out")
    assert answer.status == 0 and answer.result["format"] == "qcow2", answer
    qemu_img("compare", "-f", "qcow2", "-F", "raw", place / "out", images / "raw")


def test_compare_notices_a_difference(images, place):
    """The oracle of the test above can fail."""
    shutil.copy(images / "raw", place / "other")
    with open(place / "other", "r+b") as disk:
        disk.seek(MIB)
        disk.write(b"changed")
    assert subprocess.run(["qemu-img", "compare", images / "raw", place / "other"], stdout=subprocess.DEVNULL).returncode == 1


def test_iso_is_recognised(place):
    data = bytearray(40960)
    data[0x8001:0x8006] = b"CD001"
    (place / "iso").write_bytes(data)
    assert probe(place / "iso").result["format"] == "iso"
    refused(probe(place / "iso", "--declared", "qcow2"), "disk-format-mismatch")


# ---- A44, A45: other files ----

def make_foreign(place, name):
    path = place / name
    secret = place / "canary" / "secret"
    if name == "backing":
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", path, "1M")
    elif name == "json-backing":
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{secret}"}}}}',
                 "-F", "raw", path, "1M")
    elif name == "data-file":
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={place}/data", path, "1M")
    elif name == "data-file-raw":
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={place}/data,data_file_raw=on", path, "1M")
    elif name == "flat":
        qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    elif name == "two-gb":
        qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", path, "1M")
    elif name == "vmdk-parent":
        qemu_img("create", "-q", "-f", "vmdk", place / "parent", "1M")
        qemu_img("create", "-q", "-f", "vmdk", "-b", place / "parent", "-F", "vmdk", path)
    elif name == "vmdk-absolute":
        path.write_text(f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
                        f'RW 8 FLAT "{secret}" 0\n')
    elif name == "vmdk-comment":
        path.write_text(f'#\n# hidden\n \nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "{secret}" 0\n')
    return path


@pytest.mark.parametrize("name", ["backing", "json-backing", "data-file", "data-file-raw", "flat", "two-gb", "vmdk-parent",
                                  "vmdk-absolute", "vmdk-comment"])
def test_image_that_names_another_file_is_refused(place, name):
    path = make_foreign(place, name)
    refused(probe(path), EXTERNAL)
    refused(convert(path, place / "out"), EXTERNAL)
    assert (place / "out").stat().st_size == 0


def patched(images, place, name, *patches):
    """A copy of an image with (offset, bytes) patches."""
    data = bytearray((images / name).read_bytes())
    for offset, content in patches:
        if offset < 0:
            offset += len(data)
        data[offset:offset + len(content)] = content
    path = place / "patched"
    path.write_bytes(data)
    return path


def descriptor_of(images, name):
    data = (images / name).read_bytes()
    return data.index(b"# Disk Desc"), data


@pytest.mark.parametrize("old,new", [(b"monolithicSparse", b"monolithicFlat\"\n"), (b"parentCID=ffffffff", b"parentCID=fffffffe"),
                                     (b" SPARSE ", b" FLAT   "), (b"# The Disk Data Base", b'parentFileNameHint="'),
                                     (b"# The Disk Data Base", b'RW 1 SPARSE "/etc/x"')])
def test_vmdk_descriptor_inside_that_names_files_is_refused(images, place, old, new):
    at = (images / "vmdk").read_bytes().index(old)
    refused(probe(patched(images, place, "vmdk", (at, new))), EXTERNAL, MALFORMED)


def test_vmdk_with_capacity_zero_is_refused(images, place):
    refused(probe(patched(images, place, "vmdk", (12, b"\0" * 8))), EXTERNAL)


def test_parents_of_other_formats_are_refused(images, place):
    refused(probe(patched(images, place, "vdi", (0x1b8, b"\1" * 16))), EXTERNAL)
    refused(probe(patched(images, place, "vdi", (0x4c, b"\4"))), EXTERNAL)
    footer = bytearray((images / "vpc").read_bytes()[-512:])
    footer[60:68] = struct.pack(">II", 4, 0)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xffffffff)
    refused(probe(patched(images, place, "vpc", (-512, footer))), EXTERNAL)


def test_qcow2_extension_with_a_data_file_name_is_refused(images, place):
    refused(probe(patched(images, place, "qcow2", (112, struct.pack(">II", 0x44415441, 8) + b"/etc/x\0\0"))), EXTERNAL)
    refused(probe(patched(images, place, "qcow2", (112, struct.pack(">II", 0xe2792aca, 8) + b"raw\0\0\0\0\0"))), EXTERNAL)
    refused(probe(patched(images, place, "qcow2", (112, struct.pack(">II", 0x12345678, 8)))), "disk-unsupported-feature")
    refused(probe(patched(images, place, "qcow2", (112, struct.pack(">II", 0x6803f857, 0xffffffff)))), MALFORMED)


# ---- A48: absurd numbers ----

def be32(number):
    return struct.pack(">I", number)


def be64(number):
    return struct.pack(">Q", number)


QCOW2 = {
    "version 4": [(4, be32(4))], "cluster bits 0": [(20, be32(0))], "cluster bits 63": [(20, be32(63))],
    "cluster bits 22": [(20, be32(22))], "size 0": [(24, be64(0))], "size 2^63": [(24, be64(1 << 63))],
    "size 8 EiB": [(24, be64((1 << 63) - 512))], "size odd": [(24, be64(4 * MIB + 1))], "size 1 PiB": [(24, be64(1 << 50))],
    "encrypted aes": [(32, be32(1))], "encrypted luks": [(32, be32(2))], "L1 of 0": [(36, be32(0))],
    "L1 of 2^31": [(36, be32(1 << 31))], "L1 of 2^32-1": [(36, be32(0xffffffff))], "L1 at 0": [(40, be64(0))],
    "L1 outside": [(40, be64(1 << 40))], "L1 not aligned": [(40, be64(0x30001))], "L1 at 2^64": [(40, be64(2**64 - 65536))],
    "refcounts at 0": [(48, be64(0))], "refcounts outside": [(48, be64(1 << 50))], "refcounts none": [(56, be32(0))],
    "refcounts many": [(56, be32(0xffffffff))], "snapshots 2^32": [(60, be32(0xffffffff))],
    "snapshots outside": [(60, be32(2)), (64, be64(1 << 40))], "snapshots over header": [(60, be32(2)), (64, be64(0))],
    "dirty": [(72, be64(1))], "corrupt": [(72, be64(2))], "data file": [(72, be64(4))], "bit 63": [(72, be64(1 << 63))],
    "compression without bit": [(104, b"\1")], "compression unknown": [(72, be64(8)), (104, b"\7")],
    "refcount order 255": [(96, be32(255))], "refcount order 7": [(96, be32(7))], "header length 0": [(100, be32(0))],
    "header length 2^32": [(100, be32(0xfffffff8))], "header length odd": [(100, be32(105))],
    "backing size alone": [(16, be32(5))], "backing offset alone": [(8, be64(200))],
}


@pytest.mark.parametrize("name", QCOW2)
def test_absurd_qcow2_is_refused_at_once(images, place, name):
    path = patched(images, place, "qcow2", *QCOW2[name])
    started = time.monotonic()
    refused(probe(path, "--max-virtual", 1 << 40, "--limit-memory", 16 * MIB), EXTERNAL, MALFORMED, SIZE, "disk-encrypted",
            "disk-unsupported-feature", "disk-format-unknown", "disk-format-ambiguous", "disk-format-mismatch")
    print(f"refused in {(time.monotonic() - started) * 1000:.1f} ms")


def test_overlapping_tables_are_refused(images, place):
    data = (images / "qcow2").read_bytes()
    refcounts = data[48:56]
    refused(probe(patched(images, place, "qcow2", (40, refcounts))), MALFORMED)
    l1 = struct.unpack(">Q", data[40:48])[0]
    for target in (l1, 0x10000 - 512, struct.unpack(">Q", refcounts)[0], 1 << 45):
        refused(probe(patched(images, place, "qcow2", (l1, be64(1 << 63 | target)))), MALFORMED)


OTHERS = {
    "vmdk": [[(4, b"\x09")], [(12, b"\xff" * 8)], [(20, b"\3")], [(20, b"\0" * 8)], [(44, b"\xff" * 4)], [(56, b"\xff" * 7)],
             [(28, b"\0" * 8)], [(28, b"\xff" * 8)], [(36, b"\xff" * 8)], [(77, b"\2")], [(56, b"\xff" * 8)]],
    "footer": [[(-1024, b"X")], [(-1024 + 12, b"\xff")], [(-1024 + 56, b"\xff" * 8)]],
    "vdi": [[(0x44, b"\2")], [(0x48, b"\xff" * 4)], [(0x154, b"\xff" * 4)], [(0x154, b"\0" * 4)], [(0x168, b"\1")],
            [(0x170, b"\0" * 8)], [(0x170, b"\xff" * 8)], [(0x178, b"\xff" * 4)], [(0x180, b"\xff" * 4)], [(0x184, b"\xff" * 4)]],
    "vhdx": [[(65536, b"X"), (131072, b"X")], [(196608, b"X")], [(196616, b"\xff" * 4)], [(196608 + 16 + 16, b"\xff" * 8)],
             [(196608 + 48 + 16, b"\xff" * 8)]],
    "vpc": [[(-512 + 48, b"\xff" * 8)], [(-512 + 16, b"\xff" * 8)], [(512, b"X")], [(512 + 28, b"\xff" * 4)]],
    "fixed": [[(-512 + 48, b"\xff" * 8)], [(-512 + 70, b"\xff")]],
}


@pytest.mark.parametrize("name,number", [(name, number) for name in OTHERS for number in range(len(OTHERS[name]))])
def test_absurd_headers_of_other_formats_are_refused(images, place, name, number):
    refused(probe(patched(images, place, name, *OTHERS[name][number])), MALFORMED, SIZE, EXTERNAL, "disk-unsupported-feature")


def test_vmdk_with_a_footer_is_accepted(images, place):
    assert probe(images / "footer").result["subtype"] == "streamOptimized"
    assert convert(images / "footer", place / "out").status == 0
    qemu_img("compare", "-f", "qcow2", "-F", "raw", place / "out", images / "raw")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "raw"])
def test_cut_images_never_crash_it(images, place, name):
    data = (images / name).read_bytes()
    for size in (1, 8, 72, 100, 511, 512, 1024, 65536, 196608, len(data) // 2):
        (place / "cut").write_bytes(data[:size])
        assert probe(place / "cut", "--declared", FORMATS[name]).status in (0, 1)


def test_sizes_of_raw(place):
    path = place / "raw"
    path.write_bytes(b"")
    refused(probe(path), "truncated")
    path.write_bytes(b"x" * 513)
    refused(probe(path), SIZE)
    os.truncate(path, 2 * MIB)
    refused(probe(path, "--max-virtual", MIB), SIZE)
    assert probe(path, "--max-virtual", 2 * MIB).status == 0


# ---- A49: bombs ----

def test_output_quota(images, place):
    answer = convert(images / "packed", place / "out", "--max-bytes", MIB)
    refused(answer, "limit-bytes")
    assert (place / "out").stat().st_size <= MIB


def test_sparse_sixteen_tebibytes_stay_sparse(place):
    with open(place / "raw", "wb") as disk:
        disk.truncate(1 << 40)
    answer = convert(place / "raw", place / "out", "--limit-cpu", 60)
    assert answer.status == 0 and answer.result["size_on_disk"] < 64 * MIB, answer


def test_cpu_limit(place):
    """Data without holes that takes qemu-img longer than a second to look at."""
    with open(place / "raw", "wb") as disk:
        block = os.urandom(16 * MIB)
        for _ in range(64):
            disk.write(block)
    answer = convert(place / "raw", place / "out", "--limit-cpu", 1)
    assert answer.status == 0 or answer.code == "limit-cpu", answer


# ---- A50: two things at once ----

def test_wrong_declaration_is_refused(images):
    for name, form in FORMATS.items():
        refused(probe(images / name, "--declared", "raw" if form != "raw" else "qcow2"), "disk-format-mismatch")


@pytest.mark.parametrize("name,patch", [("qcow2", (0x8001, b"CD001")), ("qcow2", (510, b"\x55\xaa")), ("qcow2", (512, b"EFI PART")),
                                        ("vmdk", (510, b"\x55\xaa")), ("qcow2", (64 * 1024 - 512 + 0, b"\0"))])
def test_polyglots_are_refused(images, place, name, patch):
    path = patched(images, place, name, patch)
    if patch[1] == b"\0":  # changes nothing: the oracle can say yes
        assert probe(path).status == 0
        return
    refused(probe(path), "disk-format-ambiguous")


def test_raw_with_a_second_signature_is_refused(place):
    data = bytearray(MIB)
    data[0x8001:0x8006] = b"CD001"
    data[-512:-504] = b"conectix"
    (place / "raw").write_bytes(data)
    refused(probe(place / "raw"), "disk-format-ambiguous")


def test_qcow2_with_something_appended_is_refused(images, place):
    qemu_img("create", "-q", "-f", "qcow2", place / "empty", "1G")
    for name in (place / "empty", images / "qcow2"):
        (place / "poly").write_bytes(name.read_bytes() + gzip.compress(b"x" * 100))
        refused(probe(place / "poly"), "trailing-data")


@pytest.mark.parametrize("content", [b'json:{"driver":"raw"}', b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\3\4",
                                     b"QED\0", b"LUKS\xba\xbe", b"QFI\xfb\0\0\0\1", b"COWD", b"\x7fELF", b"WithoutFreeSpace"])
def test_what_is_no_disk_is_named(place, content):
    (place / "x").write_bytes(content.ljust(MIB, b"\0"))
    refused(probe(place / "x", "--declared", "raw"), "disk-format-unknown", "disk-encrypted", "disk-format-mismatch")


# ---- A54 and the rest ----

def test_copy_with_digest(place):
    data = os.urandom(3 * MIB + 7)
    (place / "in").write_bytes(data)

    def copy(*options):
        input_fd, output_fd = os.open(place / "in", os.O_RDONLY), os.open(place / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            return run_worker("verify-blob", *options, input=input_fd, output=output_fd)
        finally:
            os.close(input_fd)
            os.close(output_fd)

    answer = copy("--digest", digest(data), "--sync")
    assert answer.result == {"bytes": len(data), "digest": digest(data)} and (place / "out").read_bytes() == data
    assert copy().result["digest"] == digest(data)
    refused(copy("--digest", digest(b"")), "digest-mismatch")
    refused(copy("--max-bytes", MIB), "limit-bytes")
    assert (place / "out").stat().st_size <= MIB


def test_memory_and_processor_needs_of_a_probe(images):
    for name in FORMATS:
        assert probe(images / name, "--limit-memory", 16 * MIB, "--limit-cpu", 1).status == 0


@pytest.mark.parametrize("words", [["--declared"], ["--unknown", "1"], ["--max-virtual", "-1"], ["--max-virtual", "0"],
                                   ["--max-virtual", "1e3"], ["--max-virtual", "99999999999999999999"], ["--sync"],
                                   ["--declared", "raw", "--declared", "raw"], ["--root-fd", "3"]])
def test_bad_options_are_refused(images, words):
    refused(probe(images / "raw", *words), "usage")


def test_descriptors_must_be_what_they_should_be(place):
    directory = os.open(place, os.O_RDONLY)
    try:
        refused(run_worker("probe-disk", input=directory), "usage")
    finally:
        os.close(directory)
    refused(run_worker("probe-disk"), "usage")
    refused(run_worker("nonsense"), "usage")


# ---- the jail itself ----

def status_of(pid):
    fields = {}
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def children(pid):
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def waiting_worker(place):
    """A worker in its jail that waits for more of its input."""
    from workerlib import worker_path
    read_end, write_end = os.pipe()
    output_fd = os.open(place / "out", os.O_RDWR | os.O_CREAT)
    process = subprocess.Popen([worker_path(), "verify-blob", "--input-fd", str(read_end), "--output-fd", str(output_fd)],
                               pass_fds=[read_end, output_fd], stdout=subprocess.PIPE)
    os.close(read_end)
    os.close(output_fd)
    os.write(write_end, b"x" * 100)
    end = time.monotonic() + 60
    while (place / "out").stat().st_size < 100:
        assert time.monotonic() < end, "the worker does not copy"
        time.sleep(0.01)
    yield process
    os.close(write_end)
    process.kill()
    process.wait()


def test_the_jail_from_outside(waiting_worker):
    inner, = children(waiting_worker.pid)
    status = status_of(inner)
    assert status["NoNewPrivs"] == "1"
    for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["Uid"].split() == ["65534"] * 4 and status["Groups"] == ""
    for name in ("mnt", "net", "ipc", "uts", "pid", "cgroup"):
        assert os.readlink(f"/proc/{inner}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name
    mounts = pathlib.Path(f"/proc/{inner}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1 and " - tmpfs " in mounts[0] and " ro," in mounts[0], mounts
    from workerlib import worker_path
    is_sanitized = b"__asan_init" in pathlib.Path(worker_path()).read_bytes()
    assert status["Seccomp"] == ("0" if is_sanitized else "2")  # a sanitizer's run time makes calls of its own


def test_the_jail_ends_with_its_parent(waiting_worker):
    inner, = children(waiting_worker.pid)
    fd = os.pidfd_open(inner)
    try:
        waiting_worker.kill()
        waiting_worker.wait()
        import select
        assert select.select([fd], [], [], 60)[0], "the inner process outlives its parent"
    finally:
        os.close(fd)
