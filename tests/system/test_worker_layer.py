# SPDX-License-Identifier: GPL-2.0-or-later
"""Layers from strangers (attacks A56 to A60, A65): what is refused, what is dropped, what is kept, and that nothing
outside the layer's directory changes."""
import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile

import pytest

from workerlib import (END, OCI, digest, directory, file, hardlink, header, import_rootfs, long_name, octal, padded,
                       pax, record, symlink, tree_state, unpack)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the worker needs root to make its jail")

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


@pytest.fixture
def place(tmp_path):
    """A layer's directory with a canary beside it that must be the same afterwards."""
    canary = tmp_path / "canary"
    (canary / "etc").mkdir(parents=True)
    (canary / "etc" / "secret").write_text("secret")
    (canary / "fifo-target").write_text("keep")
    root = tmp_path / "layer"
    root.mkdir()
    before = tree_state(canary)
    yield root
    assert tree_state(canary) == before
    assert sorted(os.listdir(tmp_path)) in (["blob", "canary", "layer"], ["canary", "layer"])


def refused(answer, *codes):
    assert answer.status == 1 and answer.code in codes, answer
    assert answer.error["message"], answer
    return answer.error


# ---- A56: ways out of the directory ----

@pytest.mark.parametrize("name", [b"../x", b"../../etc/cron.d/x", b"a/../../x", b"/etc/x", b"//etc/x", b"..", b"a/..",
                                  b"a/../../../../../../../../tmp/x", b"./../canary/etc/x"])
@pytest.mark.parametrize("make", [file, directory, lambda n: symlink(n, b"x")])
def test_path_that_leaves_is_refused(place, name, make):
    error = refused(unpack(place, make(name) + END), "path-unsafe", "tar-contradiction")
    assert error["kind"] == "bad-image"
    assert error["field"] == name.decode()


@pytest.mark.parametrize("target", [b"/", b"../canary", b"../../../../../..", b"/proc/self/root", b"/proc/self/fd/3"])
def test_entry_through_a_link_is_refused(place, target):
    data = symlink(b"a", target) + file(b"a/etc/secret", b"evil") + END
    refused(unpack(place, data), "path-unsafe")


def test_entry_through_a_chain_of_links_is_refused(place):
    data = directory(b"d") + symlink(b"d/one", b"../..") + symlink(b"two", b"d/one") + file(b"two/canary/x") + END
    refused(unpack(place, data), "path-unsafe")


def test_directory_over_a_link_replaces_the_link(place):
    canary = place.parent / "canary"
    mode = canary.stat().st_mode
    data = symlink(b"a", b"../canary") + directory(b"a", mode=0o777, uid=5) + file(b"a/new", b"x") + END
    assert unpack(place, data).status == 0
    assert not (place / "a").is_symlink() and (place / "a" / "new").read_text() == "x"
    assert canary.stat().st_mode == mode


def test_link_over_a_full_directory_replaces_it(place):
    data = directory(b"a") + file(b"a/b/c", b"x") + symlink(b"a", b"../canary") + END
    assert unpack(place, data).status == 0
    assert (place / "a").is_symlink()
    refused(unpack(fresh(place), data[:-1024] + file(b"a/b/c", b"y") + END), "path-unsafe")


def fresh(place):
    shutil.rmtree(place)
    place.mkdir()
    return place


def test_file_over_a_link_does_not_write_through(place):
    data = symlink(b"a", b"../canary/etc/secret") + file(b"a", b"evil") + END
    assert unpack(place, data).status == 0
    assert not (place / "a").is_symlink() and (place / "a").read_bytes() == b"evil"


@pytest.mark.parametrize("target", [b"/etc/passwd", b"../canary/etc/secret", b"missing", b"dir", b".", b"..",
                                    b"out/etc/secret", b"null", b"gone"])
def test_hard_link_to_something_else_is_refused(place, target):
    data = (directory(b"dir") + symlink(b"out", b"../canary") + file(b".wh.gone") + hardlink(b"link", target) + END)
    refused(unpack(place, data), "link-unsafe", "path-unsafe")


def test_hard_link_to_a_link_links_the_link(place):
    data = symlink(b"a", b"../canary/etc/secret") + hardlink(b"b", b"a") + END
    assert unpack(place, data).status == 0
    assert os.readlink(place / "b") == "../canary/etc/secret" and os.lstat(place / "b").st_nlink == 2


def test_hard_link_over_itself_and_over_a_directory(place):
    data = (file(b"a", b"1") + hardlink(b"a", b"a") + directory(b"d") + file(b"d/x") + hardlink(b"d", b"a") + END)
    assert unpack(place, data).status == 0
    assert (place / "d").read_bytes() == b"1" and (place / "a").stat().st_nlink == 2


def test_hard_link_beneath_what_it_replaces_is_refused(place):
    data = directory(b"d") + file(b"d/x", b"1") + hardlink(b"d", b"d/x") + END
    refused(unpack(place, data), "io", "link-unsafe")


def test_nothing_is_written_where_the_directory_is_not_empty(place):
    (place / "there").write_text("x")
    refused(unpack(place, file(b"a") + END), "usage")
    (place / "there").unlink()


# ---- A57: headers that two programs read differently ----

def test_pax_size_that_contradicts_is_refused(place):
    inner = file(b"smuggled", b"evil")
    data = pax((b"size", b"0")) + header(b"a", size=len(inner)) + inner + END
    refused(unpack(place, data), "tar-contradiction")


def test_pax_size_for_large_files_only_replaces_what_does_not_fit(place):
    data = pax((b"size", b"3")) + header(b"a", size=0) + padded(b"abc") + END
    refused(unpack(place, data), "tar-contradiction")
    data = pax((b"size", b"3")) + file(b"a", b"abc") + END
    assert unpack(fresh(place), data).status == 0


@pytest.mark.parametrize("field", [b"\xff" * 12, b"\xff" * 11 + b"\x00", b"\x80" + b"\xff" * 11, b"-0000000001\0",
                                   b"999999999999", b"0000000000x\0", b"\0" * 12])
def test_size_out_of_range_is_refused(place, field):
    refused(unpack(place, header(b"a", size_field=field) + END), "tar-malformed")


def test_base_256_size_is_read(place):
    field = b"\x80" + (5).to_bytes(11, "big")
    assert unpack(place, header(b"a", size_field=field) + padded(b"hello") + END).status == 0
    assert (place / "a").read_text() == "hello"


@pytest.mark.parametrize("first,second", [(pax((b"path", b"p")), long_name(b"q")), (long_name(b"q"), pax((b"path", b"p"))),
                                          (long_name(b"q"), long_name(b"r")), (pax((b"path", b"p")), pax((b"path", b"q")))])
def test_two_extension_headers_for_one_entry_are_refused(place, first, second):
    refused(unpack(place, first + second + file(b"a") + END), "tar-contradiction")


@pytest.mark.parametrize("pairs", [[(b"path", b"a\0b")], [(b"path", b"a"), (b"path", b"b")], [(b"path", b"")],
                                   [(b"linkpath", b"x\0")], [(b"size", b"-1")], [(b"size", b"1e3")],
                                   [(b"size", b"99999999999999999999")], [(b"path", b"p" * 5000)]])
def test_bad_pax_records_are_refused(place, pairs):
    refused(unpack(place, pax(*pairs) + file(b"a") + END), "tar-malformed", "tar-contradiction", "path-too-long")


@pytest.mark.parametrize("body", [b"5 a=b\n", b"999999 path=x\n", b"path=x\n", b"11 path=x", b"-1 path=x\n",
                                  b"3 \n", b"00000000011 path=x\n", b"10 path=x\n1"])
def test_broken_pax_lengths_are_refused(place, body):
    data = header(b"P", b"x", len(body)) + padded(body) + file(b"a") + END
    refused(unpack(place, data), "tar-malformed")


def test_huge_pax_record_is_refused(place):
    data = header(b"P", b"x", 1 << 30) + b"1" * 65536
    refused(unpack(place, data), "tar-malformed")
    refused(unpack(fresh(place), pax((b"comment", b"c" * 70000)) + file(b"a") + END), "tar-malformed")


@pytest.mark.parametrize("pair", [(b"path", b"x"), (b"size", b"1"), (b"uid", b"0"), (b"SCHILY.xattr.user.x", b"1")])
def test_global_pax_header_must_not_describe_entries(place, pair):
    refused(unpack(place, pax(pair, kind=b"g") + file(b"a") + END), "tar-unsupported")


def test_global_pax_comment_is_ignored(place):
    assert unpack(place, pax((b"comment", b"0123"), kind=b"g") + file(b"a") + END).status == 0


@pytest.mark.parametrize("data", [
    header(b"s", b"S", 512) + b"\0" * 512,
    pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + file(b"s", b"1\n0\n1\n"),
    pax((b"GNU.sparse.map", b"0,1,4096,1"), (b"GNU.sparse.size", b"1048576")) + file(b"s", b"ab"),
    pax((b"SCHILY.realsize", b"1099511627776")) + file(b"s", b"ab"),
    header(b"m", b"M", 0), header(b"v", b"V", 0), header(b"c", b"7", 0), header(b"d", b"D", 0), header(b"?", b"\xff", 0)])
def test_sparse_and_strange_types_are_refused(place, data):
    refused(unpack(place, data + END), "tar-unsupported")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_data_behind_an_entry_that_is_no_file_is_refused(place, kind):
    inner = file(b"smuggled", b"evil")
    data = file(b"x") + header(b"a", kind, len(inner), link=b"x") + inner + END
    refused(unpack(place, data), "tar-contradiction")


def test_wrong_checksum_and_no_tar_at_all(place):
    block = bytearray(file(b"a"))
    block[0] ^= 1
    refused(unpack(place, bytes(block) + END), "tar-malformed")
    refused(unpack(place, b"this is not a tar" * 100), "tar-malformed")
    refused(unpack(place, b"\1" * 10), "truncated")


# ---- A58: devices, ids, attributes, counts, names ----

def test_devices_and_fifos_are_dropped(place):
    data = (header(b"null", b"3", major=1, minor=3) + header(b"sda", b"4", major=8) + header(b"fake", b"3") +
            header(b"pipe", b"6") + file(b"real") + header(b"real", b"3", major=1, minor=3) + file(b"a") + END)
    answer = unpack(place, data)
    assert answer.status == 0, answer
    assert os.listdir(place) == ["a"]
    assert answer.result["dropped"] == {"devices": 4, "fifos": 1, "xattrs": 0}


@pytest.mark.parametrize("uid", [65536, 100000, 2097151])
def test_ids_beyond_the_range_are_refused(place, uid):
    error = refused(unpack(place, file(b"a", uid=uid) + END), "owner-out-of-range")
    assert error["field"] == "a"
    refused(unpack(fresh(place), pax((b"gid", str(uid).encode())) + file(b"a") + END), "owner-out-of-range")


@pytest.mark.parametrize("field", [b"\x80\0\0\0\xff\xff\xff\xff", b"\xff" * 8])
def test_ids_of_32_bits_and_negative_ones_are_refused(place, field):
    refused(unpack(place, file(b"a", uid_field=field) + END), "owner-out-of-range")


def test_ownership_mode_and_attributes_are_kept(place):
    data = (file(b"a", b"x", uid=1000, gid=65535, mode=0o4755) + directory(b"t", mode=0o1777) +
            pax((b"SCHILY.xattr.security.capability", CAPABILITY), (b"SCHILY.xattr.user.note", b"n")) + file(b"c", uid=7) +
            symlink(b"l", b"nowhere") + END)
    answer = unpack(place, data)
    assert answer.status == 0, answer
    status = (place / "a").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 65535, 0o4755)
    assert status.st_mtime == 1000000000 and (place / "t").stat().st_mtime == 1000000000
    assert os.lstat(place / "l").st_mtime == 1000000000
    assert stat.S_IMODE((place / "t").stat().st_mode) == 0o1777
    assert os.getxattr(place / "c", "security.capability") == CAPABILITY
    assert os.getxattr(place / "c", "user.note") == b"n"
    assert answer.result["toplevel"] == {}


@pytest.mark.parametrize("name", [b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"user.overlay.opaque",
                                  b"user.overlay.redirect", b"security.selinux", b"security.ima", b"user.",
                                  b"system.posix_acl_access", b"trusted.md5sum"])
def test_other_attributes_are_dropped(place, name):
    answer = unpack(place, pax((b"SCHILY.xattr." + name, b"y")) + directory(b"d") + END)
    assert answer.status == 0, answer
    assert os.listxattr(place / "d") == []
    assert answer.result["dropped"]["xattrs"] == 1


@pytest.mark.parametrize("value", [b"", b"x", CAPABILITY + b"\x01\0\0\0", b"\1\0\0\3" + CAPABILITY[4:] + b"\xe8\3\0\0"])
def test_damaged_capabilities_are_refused(place, value):
    refused(unpack(place, pax((b"SCHILY.xattr.security.capability", value)) + file(b"a") + END), "xattr-invalid")


def test_entry_cap(place):
    data = b"".join(file(b"f%d" % number) for number in range(101)) + END
    refused(unpack(place, data, "--max-entries", 100), "limit-entries")
    assert unpack(fresh(place), data, "--max-entries", 101).status == 0


def test_name_and_depth_caps(place):
    assert unpack(place, long_name(b"n" * 255) + file(b"x") + END).status == 0
    refused(unpack(fresh(place), long_name(b"n" * 256) + file(b"x") + END), "path-too-long")
    refused(unpack(fresh(place), pax((b"path", b"d/" * 1000 + b"x")) + file(b"x") + END), "path-too-long")
    refused(unpack(fresh(place), pax((b"path", b"d" * 200 + b"/" + b"e" * 4000)) + file(b"x") + END), "path-too-long")
    deep = b"d/" * 255 + b"x"
    data = pax((b"path", deep)) + file(b"x") + symlink(b"d", b"nowhere") + END
    answer = unpack(fresh(place), data)
    assert answer.status == 0 and answer.result["implied_directories"] == 255
    assert os.listdir(place) == ["d"]


def test_names_in_two_encodings(place):
    data = (pax((b"path", "Főtanúsítvány".encode())) + file(b"x") + file("ü".encode()) + file(b"\xff\xfe") +
            file(b"line\nfeed") + END)
    answer = unpack(place, data)
    assert answer.status == 0, answer
    assert sorted(os.listdir(os.fsencode(place))) == sorted([b"line\nfeed", b"\xff\xfe", "ü".encode(),
                                                             "Főtanúsítvány".encode()])


def test_message_never_carries_control_characters(place):
    error = refused(unpack(place, file(b"../\x1b]52;c;x\x07\xff") + END), "path-unsafe")
    assert error["field"] == "../\\x1b]52;c;x\\x07\\xff"


def test_duplicates_last_one_counts(place):
    data = (file(b"a", b"1") + file(b"a", b"2") + directory(b"a") + file(b"a/x") + file(b"a", b"3") + END)
    assert unpack(place, data).status == 0
    assert (place / "a").read_text() == "3"


# ---- whiteouts ----

def test_whiteouts_and_opaque_directories(place):
    data = (directory(b"d") + file(b"d/.wh.gone") + directory(b"o") + file(b"o/.wh..wh..opq") + file(b"o/new") +
            file(b"late/.wh.x") + file(b"late/x/y") + directory(b"early") + file(b".wh.early") + file(b"both") +
            file(b".wh.both") + file(b".wh..wh.aufs") + END)
    answer = unpack(place, data)
    assert answer.status == 0, answer
    gone = os.lstat(place / "d" / "gone")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(place / "o", "user.overlay.opaque") == b"y"
    assert os.getxattr(place / "late" / "x", "user.overlay.opaque") == b"y"
    assert os.getxattr(place / "early", "user.overlay.opaque") == b"y"
    assert (place / "both").is_file()
    assert sorted(os.listdir(place)) == ["both", "d", "early", "late", "o"]


def test_overlay_honours_the_whiteouts(place, tmp_path_factory):
    work = tmp_path_factory.mktemp("overlay")
    lower = work / "lower"
    for name in ("d/gone", "d/stays", "o/old"):
        (lower / name).parent.mkdir(parents=True, exist_ok=True)
        (lower / name).write_text("lower")
    data = directory(b"d") + file(b"d/.wh.gone") + directory(b"o") + file(b"o/.wh..wh..opq") + file(b"o/new") + END
    assert unpack(place, data).status == 0
    for name in ("upper", "work", "merged"):
        (work / name).mkdir()
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"userxattr,lowerdir={place}:{lower},"
                    f"upperdir={work}/upper,workdir={work}/work", work / "merged"], check=True)
    try:
        assert os.listdir(work / "merged" / "d") == ["stays"]
        assert os.listdir(work / "merged" / "o") == ["new"]
    finally:
        subprocess.run(["umount", work / "merged"], check=True)


@pytest.mark.parametrize("name", [b".wh.", b".wh...", b".wh..", b"d/.wh.", b".wh.d/x", b".wh..wh.plnk/1.2"])
def test_bad_whiteouts_are_refused(place, name):
    refused(unpack(place, file(name) + END), "whiteout-invalid")


def test_whiteout_with_content_is_refused(place):
    refused(unpack(place, file(b".wh.x", b"data") + END), "whiteout-invalid")
    refused(unpack(fresh(place), symlink(b".wh.x", b"/") + END), "whiteout-invalid")


# ---- A60: bombs, truncation, digests, garbage ----

def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


PLAIN = file(b"a", b"hello" * 1000) + END


@pytest.mark.parametrize("compress,media", [(gzip.compress, OCI + "+gzip"), (None, OCI), (zstd, OCI + "+zstd"),
                                            (gzip.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
                                            (None, "application/vnd.docker.image.rootfs.diff.tar")])
def test_each_compression(place, compress, media):
    answer = unpack(place, PLAIN, compress=compress, media=media)
    assert answer.status == 0, answer
    assert answer.result["diff_id"] == digest(PLAIN) and answer.result["bytes"] == len(PLAIN)
    assert answer.result["entries"] == 1 and answer.result["size_on_disk"] >= 5000


@pytest.mark.parametrize("media", [OCI, OCI + "+zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                                   "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "text/plain", ""])
def test_media_type_that_lies_is_refused(place, media):
    refused(unpack(place, PLAIN, media=media), "media-type")


def test_wrong_digests_are_refused(place):
    other = digest(b"other")
    refused(unpack(place, PLAIN, wanted_digest=other), "digest-mismatch")
    refused(unpack(fresh(place), PLAIN, diff_id=other), "diff-id-mismatch")


@pytest.mark.parametrize("bad", ["sha256:../../x", "sha256:" + "a" * 63, "md5:" + "a" * 64, "sha256:" + "A" * 64, "", "a" * 64])
def test_malformed_digest_is_refused(place, bad):
    refused(unpack(place, PLAIN, wanted_digest=bad or "x"), "usage")


@pytest.mark.parametrize("compress,media", [(gzip.compress, OCI + "+gzip"), (zstd, OCI + "+zstd")])
@pytest.mark.parametrize("cut", [1, 5, 9, 30])
def test_truncated_stream_is_refused(place, compress, media, cut):
    refused(unpack(place, PLAIN, compress=lambda data: compress(data)[:-cut], media=media), "truncated")


@pytest.mark.parametrize("compress,media", [(gzip.compress, OCI + "+gzip"), (zstd, OCI + "+zstd")])
@pytest.mark.parametrize("tail", [b"garbage", b"\0" * 512, b"\x1f", b"\x1f\x8b\x08"])
def test_trailing_garbage_is_refused(place, compress, media, tail):
    refused(unpack(place, PLAIN, compress=lambda data: compress(data) + tail, media=media), "trailing-data",
            "compression-invalid", "truncated")


def test_data_after_the_archive_is_refused(place):
    refused(unpack(place, PLAIN + b"x"), "trailing-data")
    refused(unpack(fresh(place), PLAIN + file(b"more")), "trailing-data")
    refused(unpack(fresh(place), file(b"a") + b"\0" * 512 + file(b"b") + END), "trailing-data")
    assert unpack(fresh(place), PLAIN + b"\0" * 8192).status == 0


def test_gzip_members(place):
    pieces = [PLAIN[at:at + 512] for at in range(0, len(PLAIN), 512)]
    assert unpack(place, PLAIN, compress=lambda _: b"".join(map(gzip.compress, pieces))).status == 0
    empty = gzip.compress(b"")
    refused(unpack(fresh(place), PLAIN, compress=lambda data: empty * 1000 + gzip.compress(data)),
            "compression-invalid")


def test_gzip_checksum_is_looked_at(place):
    blob = bytearray(gzip.compress(PLAIN))
    blob[-6] ^= 1
    refused(unpack(place, PLAIN, compress=lambda _: bytes(blob)), "compression-invalid")


def bomb(size):
    return header(b"zeros", size=size) + b"\0" * size + END


def test_total_cap(place):
    refused(unpack(place, bomb(8 << 20), "--max-bytes", 1 << 20), "limit-bytes")
    assert sum(path.stat().st_size for path in place.rglob("*")) <= 2 << 20


def test_ratio_cap(place):
    refused(unpack(place, bomb(512 << 20), "--max-ratio", 20), "limit-ratio")


def test_zstd_window_bomb_is_refused(place):
    """A frame that asks for a window of 2 GiB."""
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + struct.pack("<I", (10 << 3) | 1)[:3] + b"0123456789"
    refused(unpack(place, PLAIN, compress=lambda _: frame, media=OCI + "+zstd"), "compression-invalid")


def test_compressed_twice_is_refused(place):
    refused(unpack(place, PLAIN, compress=lambda data: gzip.compress(gzip.compress(data))), "tar-malformed", "truncated")
    refused(unpack(place, PLAIN, compress=lambda data: zstd(zstd(data)), media=OCI + "+zstd"), "compression-invalid",
            "tar-malformed", "truncated")


def test_cpu_limit_ends_it(place):
    refused(unpack(place, bomb(1 << 30), "--limit-cpu", 1, "--max-ratio", 100000), "limit-cpu")


def test_full_disk_is_told(place):
    small = place.parent / "canary" / "etc"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        error = refused(unpack(place, bomb(4 << 20), tmp=place.parent), "no-space")
        assert error["field"] == "zeros" and error["kind"] == "no-space"
    finally:
        subprocess.run(["umount", place], check=True)
    assert small.is_dir()


# ---- rootfs-tar-import ----

@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd, lzma.compress, bz2.compress])
def test_rootfs_of_each_compression(place, compress):
    answer = import_rootfs(place, compress(PLAIN))
    assert answer.status == 0, answer
    assert answer.result["diff_id"] == digest(PLAIN)
    assert (place / "a").read_bytes() == b"hello" * 1000


def test_rootfs_cut_anywhere_is_refused(place):
    data = file(b"a", b"x" * 700) + file(b"b")
    refused(import_rootfs(place, data), "truncated")
    for cut in (100, 512, 800, 1024, 1536, 1600):
        refused(import_rootfs(fresh(place), data[:cut]), "truncated")
    refused(import_rootfs(fresh(place), b""), "truncated")


def test_toplevel_kinds_are_told(place):
    data = (symlink(b"dev", b"/dev") + directory(b"proc") + file(b"sys") + file(b".wh.run") + symlink(b"lib", b"usr/lib") +
            END)
    assert import_rootfs(place, data).result["toplevel"] == {"dev": "link", "proc": "dir", "sys": "file",
                                                             "run": "whiteout", "lib": "link"}


def test_layers_own_directory(place):
    assert import_rootfs(place, directory(b"./", mode=0o700, uid=9) + file(b"./a") + END).status == 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o700 and place.stat().st_uid == 9
    refused(import_rootfs(fresh(place), symlink(b"./", b"/") + END), "path-unsafe")
    refused(import_rootfs(fresh(place), symlink(b".", b"/") + END), "path-unsafe")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_honest_archives_of_each_form(place, form):
    """What Python's tarfile writes, with names too long for a plain header where the form allows it."""
    stream = io.BytesIO()
    long = "d" * 60 + "/" + ("e" * 60 if form == tarfile.USTAR_FORMAT else "e" * 200)
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, kind, link in [("dir", tarfile.DIRTYPE, ""), ("dir/f", tarfile.REGTYPE, ""), (long, tarfile.REGTYPE, ""),
                                 ("s", tarfile.SYMTYPE, "t" * 90), ("h", tarfile.LNKTYPE, "dir/f")]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime = kind, link, 1234567890.5
            archive.addfile(member)
    answer = import_rootfs(place, stream.getvalue())
    assert answer.status == 0, answer
    assert (place / long).is_file() and os.readlink(place / "s") == "t" * 90


def test_same_as_gnu_tar(place, tmp_path_factory):
    """A real tree comes out as GNU tar unpacks it: names, types, modes, owners, times, links, sizes, content."""
    other = tmp_path_factory.mktemp("tar")
    blob = other / "perl.tar.gz"
    subprocess.run(["tar", "-C", "/usr/share", "-czf", blob, "perl5", "doc/bash", "doc/tar"], check=True)
    (other / "out").mkdir()
    subprocess.run(["tar", "-C", other / "out", "-xpzf", blob], check=True)
    assert import_rootfs(place, blob.read_bytes()).status == 0
    assert listing(place / "perl5") == listing(other / "out" / "perl5")
    assert listing(place / "doc" / "bash") == listing(other / "out" / "doc" / "bash")
    subprocess.run(["diff", "-r", "--no-dereference", place, other / "out"], check=True)


def listing(path):
    found = subprocess.run(["find", ".", "-printf", r"%p %y %m %U:%G %T@ %l\n"], cwd=path, stdout=subprocess.PIPE, check=True)
    return sorted(found.stdout.splitlines())
