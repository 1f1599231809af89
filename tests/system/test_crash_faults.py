# SPDX-License-Identifier: GPL-2.0-or-later
"""Power loss (F18). What records the writes is preloaded, so this runs on a build without sanitizers."""
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import sqlite3
import struct
import subprocess

import pytest

import polderlib

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="polderd needs root")
SHIMS = pathlib.Path(__file__).parent / "shims"


@pytest.fixture
def preload(tmp_path):
    """preload(NAME): a library made from shims/NAME.c, for LD_PRELOAD."""
    if polderlib.build_option("b_sanitize") not in (None, "none", []):
        pytest.skip("a preloaded library and a preloaded sanitizer do not go together")

    def make(name):
        library = tmp_path / f"{name}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIMS / f"{name}.c"), "-ldl"], check=True)
        return str(library)
    return make


# ---- F18: power loss ----

class Record:
    """What shims/record.c wrote, and what clients were told between: ("ack", name, state)."""
    HEAD = struct.Struct("=c3xIIQ")

    def __init__(self, path):
        self.path = path
        self.entries = []

    def acknowledge(self, name, state):
        """Written by the client that got the answer, so every sync that came before it stands before it."""
        text = json.dumps([name, state]).encode()
        with open(self.path, "ab", buffering=0) as file:
            file.write(self.HEAD.pack(b"A", 0, len(text), 0) + text)

    def read(self):
        data, at = self.path.read_bytes(), 0
        while at < len(data):
            operation, name, size, offset = self.HEAD.unpack_from(data, at)
            at += self.HEAD.size
            path = data[at:at + name].decode()
            self.entries.append((operation.decode(), path, offset, data[at + name:at + name + size]))
            at += name + size
        return self


def applied(content, operation, offset, data):
    if content is None:
        content = b""
    if operation == "T":
        return content[:offset].ljust(offset, b"\0")
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data):]


class Disk:
    """What a disk may hold after the power went: everything that was synced, and of the rest whatever it likes."""

    def __init__(self):
        self.synced = {}
        self.waiting = collections.defaultdict(list)

    def take(self, operation, path, offset, data):
        if operation == "S" and path == "":  # of the directory: which files there are
            for name, operations in self.waiting.items():
                if any(one[0] == "U" for one in operations):
                    self.synced.pop(name, None)
                    self.waiting[name] = operations[max(at for at, one in enumerate(operations) if one[0] == "U") + 1:]
        elif operation == "S":
            for one in self.waiting.pop(path, []):
                self.synced[path] = None if one[0] == "U" else applied(self.synced.get(path), *one)
        else:
            self.waiting[path].append((operation, offset, data))

    def after_power_loss(self, chance, keep):
        """`keep` is "nothing", "all" or "some" of what was not synced; of some, a write may have come half."""
        files = dict(self.synced)
        for path, operations in self.waiting.items():
            for operation, offset, data in operations:
                if keep == "nothing" or (keep == "some" and chance.random() < 0.5):
                    continue
                if keep == "some" and operation == "W" and chance.random() < 0.3:
                    data = data[:chance.randrange(0, len(data) + 1) // 512 * 512]
                files[path] = None if operation == "U" else applied(files.get(path), operation, offset, data)
        return {path: content for path, content in files.items() if content is not None}


def put_files(files, directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in files.items():
        if not name.endswith(("-shm", ".lock", ".reserve")):  # not what it promises to keep
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o600)  # as it was


def names_of(directory):
    """Instances by name and state, read without the daemon; None while there is no store yet."""
    database = sqlite3.connect(directory / "store.db")
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'item'").fetchall():
            return {}
        rows = database.execute("SELECT value FROM item WHERE key LIKE '/instances/%'").fetchall()
        index = database.execute("SELECT count(*) FROM item WHERE key LIKE '/names/%'").fetchone()[0]
        found = {one["name"]: one["status"]["state"] for one in (json.loads(row[0]) for row in rows)}
        assert index == len([state for state in found.values() if state != "deleted"]), found
        return found
    finally:
        database.close()


ORDER = ("running", "stopped", "deleted", None)  # of the states through which record_requests brings an instance


def check_acknowledged(acknowledged, found, where):
    """What was answered is there, or what came after it: that may have been written, and its answer not have come."""
    for name, state in acknowledged.items():
        now = found.get(name)
        if state == "running":
            assert now or ORDER.index(now) > 0 and step_of(name) % 4 == 3, f"{where}: {name} was acknowledged and is not there"
        elif state == "stopped" and step_of(name) % 4 == 1:
            assert now == "stopped", f"{where}: {name} was acknowledged as stopped and is {now}"
        else:
            assert now in ORDER[ORDER.index(state):], f"{where}: {name} was acknowledged as {state} and is {now}"


def step_of(name):
    return int(name.rsplit("-", 1)[1])


def record_requests(daemon, record, rounds):
    """Six clients: create, start, stop, delete, purge."""
    def client(number):
        for step in range(rounds):
            name = f"i{number}-{step}"
            daemon.create(name, start=True)
            record.acknowledge(name, "running")
            if step % 4 == 0:
                continue
            daemon.act(name, "stop")
            record.acknowledge(name, "stopped")
            if step % 4 > 1:
                daemon.delete(name, purge=step % 4 == 3)
                record.acknowledge(name, None if step % 4 == 3 else "deleted")
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(client, range(6)))


@pytest.mark.parametrize("rounds", [12, pytest.param(120, marks=pytest.mark.long)], ids=["short", "long"])
def test_power_loss(make_daemon, preload, tmp_path, rounds):
    """The writes and syncs of a busy daemon are recorded; the power goes at random moments, and all, none or any part of
    what was not synced is there. Whatever was answered before is in the store, which is sound; polderd starts from it."""
    daemon = make_daemon(log_level="info")
    record = Record(tmp_path / "record")
    daemon.environment = {"LD_PRELOAD": preload("record"), "RECORD": str(record.path), "PLACE": f"{daemon.state}/"}
    daemon.start()
    record_requests(daemon, record, rounds)
    daemon.stop()
    daemon.environment = {}
    entries = record.read().entries
    assert {"W", "S", "A"} <= {entry[0] for entry in entries}
    chance = random.Random(18)
    looked_at = set(chance.sample(range(len(entries)), min(len(entries), 250 if rounds < 100 else 3000)))
    started_from = set(chance.sample(sorted(looked_at), 6))
    disk, acknowledged, place = Disk(), {}, tmp_path / "after"
    for number, (operation, path, offset, data) in enumerate(entries):
        if operation == "A":
            name, state = json.loads(data)
            acknowledged[name] = state
        else:
            disk.take(operation, path, offset, data)
        for keep in ("nothing", "all", "some") if number in looked_at else ():
            put_files(disk.after_power_loss(chance, keep), place)
            if (place / "store.db").exists():
                check_acknowledged(acknowledged, names_of(place), f"entry {number}, {keep}")
            else:
                assert not acknowledged
            if number in started_from and keep == "some":
                put_files(disk.after_power_loss(chance, keep), daemon.state)
                shutil.rmtree(daemon.run)  # a host that lost its power has a new one
                daemon.start()
                check_acknowledged(acknowledged, {one["name"]: one["status"]["state"] for one in daemon.list("?deleted=true")},
                                   f"entry {number}, started")
                daemon.check_clean()
                daemon.kill9()
    daemon.start()
