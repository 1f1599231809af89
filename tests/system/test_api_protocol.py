# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server alone: what it refuses before any handler runs (attacks A01 to A28), its limits and deadlines, and its
WebSockets. The manager behind it only counts what reaches it."""
import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import threading
import time

import pytest
import websockets

from apilib import Harness, connect, converse, raw, run, statuses
from polderlib import DEADLINE, build_directory, eventually

pytestmark = pytest.mark.scenario

START = b"POST /v1/instances/web-1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def harness():
    if not (build_directory() / "tests/unit/api-harness").exists():
        pytest.skip("no api-harness in the build")
    server = Harness()
    yield server
    server.close()


# --- framing (A01, A02, A04, A08) ------------------------------------------------------------------------------------

SMUGGLED = {
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + START,
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + START,
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(START) + START,
    "two equal lengths": b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + START,
    "chunked twice": b"Transfer-Encoding: chunked, chunked-false\r\n\r\n0\r\n\r\n" + START,
    "blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + START,
    "tab before the colon": b"Content-Length\t: 0\r\n\r\n" + START,
    "signed length": b"Content-Length: +0\r\n\r\n" + START,
    "bare LF": b"X: y\n\r\n" + START,
    "bare CR": b"X: y\rContent-Length: 5\r\n\r\n" + START,
    "NUL": b"X: a\0b\r\n\r\n" + START,
    "folded": b"X: a\r\n b\r\n\r\n" + START,
    "blank in a name": b"X Y: a\r\n\r\n" + START,
    "no colon": b"garbage\r\n\r\n" + START,
    "two hosts": b"Host: a\r\n\r\n" + START,
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_smuggling(harness, name):
    answer = raw(harness.socket, b"POST /v1/instances/web-1/stop HTTP/1.1\r\nHost: x\r\n" + SMUGGLED[name])
    assert statuses(answer) == [400]
    assert b"Connection: close" in answer
    assert harness.end()["calls"] == 0


def test_old_protocol(harness):
    assert statuses(raw(harness.socket, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")) == [400]
    assert statuses(raw(harness.socket, b"GET /healthz HTTP/1.0\r\n\r\n")) == [200]
    assert statuses(raw(harness.socket, b"GET /healthz HTTP/0.9\r\n\r\n")) == [400]
    assert statuses(raw(harness.socket, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == [400]


def test_body_on_a_read(harness):
    """A GET's body is not the next request."""
    answer = raw(harness.socket, b"GET /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(START) + START)
    assert statuses(answer) == [400]
    assert harness.end()["calls"] == 0


@pytest.mark.parametrize("text", [b"zz\r\n", b"-1\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n!", b"fffffffffffffffff\r\n"])
def test_broken_chunks(harness, text):
    answer = raw(harness.socket, b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\n" + text, end=True)
    assert statuses(answer) in ([400], [])
    assert harness.end()["calls"] == 0


def test_pipeline(harness):
    """Requests in one write are answered in order, one after the other."""
    answer = raw(harness.socket, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + START +
                 b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [200] * 50 + [202, 404]


def test_chunked_body(harness):
    body = b'{"name":"web-2","spec":{}}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    answer = raw(harness.socket, b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert statuses(answer) == [202]


# --- limits -----------------------------------------------------------------------------------------------------------

def test_header_limits(harness):
    line = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    assert statuses(raw(harness.socket, line + b"A: " + b"x" * 9000 + b"\r\n\r\n")) == [431]
    assert statuses(raw(harness.socket, line + b"A: b\r\n" * 10000 + b"\r\n")) == [431]
    assert statuses(raw(harness.socket, line + b"".join(b"A%d: %s\r\n" % (i, b"x" * 4000) for i in range(20)))) == [431]
    assert statuses(raw(harness.socket, b"GET /" + b"x" * 10000 + b" HTTP/1.1\r\n\r\n")) == [431]
    assert statuses(raw(harness.socket, b"x" * 100000)) == [431]
    assert harness.request("GET", "/healthz").status == 200


def test_large_bodies(harness):
    """10 MB is refused before it is read, and a client that sends it all the same gets the reply."""
    reply = harness.request("POST", "/v1/instances", b"x" * 10_000_000, {"Content-Type": "application/json"})
    assert reply.status == 413 and reply.code == "too-large"
    head = (b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(harness.socket))
        connection.settimeout(DEADLINE)
        connection.sendall(head + b"Content-Length: 10000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    endless = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 65536 + b"\r\n"
    assert statuses(raw(harness.socket, endless + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 20)) == [413]
    assert harness.end()["calls"] == 0


@pytest.mark.parametrize("part", [b"{}", b"[]", b"1", b'""', b'{"a":[]}'])
def test_json_of_many_values(harness, part):
    """A mebibyte of small values would take hundreds when parsed."""
    body = b'{"spec":{"labels":[' + b",".join([part] * (1_000_000 // (len(part) + 1))) + b"]}}"
    before = harness.resident()
    reply = harness.request("POST", "/v1/instances", body, {"Content-Type": "application/json"})
    assert reply.status == 400, reply
    assert harness.resident() - before < 32 << 20
    assert harness.end()["calls"] == 0


def test_deep_json(harness):
    reply = harness.request("POST", "/v1/instances", b"[" * 100_000 + b"]" * 100_000,
                            {"Content-Type": "application/json"})
    assert reply.status == 400 and reply.code == "bad-json"


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"x"', b'{"spec":{}} x', b'{"name":1,"spec":{}}',
                                  b'{"spec":{},"project":"p"}', b'{"spec":{},"assigned":{}}', b"\xff\xfe", b'{"a":"\\u0000"}'])
def test_malformed_bodies(harness, body):
    reply = harness.request("POST", "/v1/instances", body, {"Content-Type": "application/json"})
    assert reply.status == 400, reply
    assert harness.end()["calls"] == 0


# --- addresses (A09, A10, A21) -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [
    "/v1/instances/..%2f..%2fetc", "/v1/instances/%00", "/v1//instances", "/v1/./instances", "/v1/../healthz",
    "/v1/instances/%c0%ae%c0%ae", "/v1/instances/%2e%2e", "/v1/instances/x%0d%0aSet-Cookie:a", "/v1/instances/%",
    "/v1/instances/" + "x" * 4000, "/v1/instances?limit=-1", "/v1/instances?limit=1e9", "/v1/instances?limit=99999999",
    "/v1/instances?limit=1&limit=2", "/v1/instances?unknown=1", "/v1/instances?name=%00", "/healthz?x"])
def test_hostile_addresses(harness, path):
    reply = harness.request("GET", path)
    assert reply.status == 400, reply
    assert reply.code


@pytest.mark.parametrize("path", ["/v1/instances/%252e%252e", "/v1/instances/web-1;x=1", "/v1/instances/web-1.",
                                  "/v1/instances/WEB-1", "/v2/instances", "/v1/instance", "/etc/passwd", "http://x/healthz"])
def test_absent_addresses(harness, path):
    assert harness.request("GET", path).status == 404


def test_methods(harness):
    reply = harness.request("PUT", "/v1/instances/web-1")
    assert reply.status == 405 and set(reply.headers["allow"].split(", ")) == {"GET", "PATCH", "DELETE"}
    assert harness.request("OPTIONS", "/v1/instances").status == 405
    assert harness.request("TRACE", "/v1/instances").status == 405
    assert statuses(raw(harness.socket, b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")) == [400]
    assert statuses(raw(harness.socket, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n")) == [404]


def test_head(harness):
    reply, full = harness.request("HEAD", "/v1/instances/web-1"), harness.request("GET", "/v1/instances/web-1")
    assert reply.status == 200 and reply.body == b""
    assert reply.headers["content-length"] == str(len(full.body)) and reply.headers["etag"] == full.headers["etag"]


# --- browsers, hosts, media types (A12, A13, A14) ---------------------------------------------------------------------

@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"},
                                     {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
def test_pages_are_refused(harness, headers):
    reply = harness.request("POST", "/v1/instances/web-1/start", headers=headers)
    assert reply.status == 403 and reply.code == "cross-site"
    assert harness.request("GET", "/v1/instances", headers=headers).status == 403
    assert harness.end()["calls"] == 0


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "",
                                  "application/jsonp", "application/merge-patch+json"])
def test_media_types(harness, kind):
    reply = harness.request("POST", "/v1/instances", b'{"spec":{}}', {"Content-Type": kind})
    assert reply.status == 415 and reply.code == "bad-media-type"
    assert harness.end()["calls"] == 0


def test_json_with_charset(harness):
    assert harness.request("POST", "/v1/instances", b'{"spec":{}}',
                           {"Content-Type": "Application/JSON; charset=utf-8"}).status == 202
    assert harness.request("PATCH", "/v1/instances/web-1", b'{"spec":{}}',
                           {"Content-Type": "application/merge-patch+json"}).status == 202


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_uploads_are_no_forms(harness, kind):
    assert harness.request("POST", "/v1/images/upload", b"data", {"Content-Type": kind}).status == 415


def test_host_means_nothing_here(harness):
    for host in ("evil.example", "127.0.0.1.nip.io", "localhost"):
        assert harness.request("GET", "/healthz", headers={"Host": host}).status == 200
    assert statuses(raw(harness.socket, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")) == [200]


def test_if_match(harness):
    body = b'{"spec":{}}'
    headers = {"Content-Type": "application/json"}
    tag = harness.request("GET", "/v1/instances/web-1").headers["etag"]
    assert harness.request("GET", "/v1/instances/web-1", headers={"If-None-Match": tag}).status == 304
    assert harness.request("PATCH", "/v1/instances/web-1", body, {**headers, "If-Match": '"0"'}).status == 412
    assert harness.request("PATCH", "/v1/instances/web-1", body, {**headers, "If-Match": tag}).status == 202


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_idempotency_keys(harness, key):
    reply = harness.request("POST", "/v1/instances", b'{"spec":{}}',
                            {"Content-Type": "application/json", "Idempotency-Key": key})
    assert reply.status == 400


def test_operations(harness):
    reply = harness.request("POST", "/v1/instances/web-1/start?wait=30")
    assert reply.status == 200 and reply.json["state"] == "done"
    reply = harness.request("POST", "/v1/instances/web-1/suspend?wait=30")
    assert reply.status == 507 and reply.json["operation"]["state"] == "failed"
    reply = harness.request("POST", "/v1/instances/web-1/start")
    assert reply.status == 202
    operation = harness.request("GET", reply.headers["location"] + "?wait=30").json
    assert operation["state"] == "done"
    assert harness.request("GET", "/v1/operations/" + "0" * 36).status == 404


# --- who asks (A25, A28) ------------------------------------------------------------------------------------------------

def test_reader_socket(harness):
    """Each route refuses who lacks its permission, over the readers' socket."""
    paths = harness.request("GET", "/v1/openapi.json").json["paths"]
    count = 0
    for path, methods in paths.items():
        for method, row in methods.items():
            target = path.replace("{name}", "web-1").replace("{id}", "0" * 36)
            if row["x-permission"] == "view":
                continue
            reply = harness.request(method.upper(), target, reader=True)
            assert reply.status == 403 and reply.code == "forbidden", (method, path, reply)
            count += 1
    assert count >= 25
    assert harness.request("GET", "/v1/instances", reader=True).status == 200
    assert harness.end()["calls"] == 0


def test_socket_modes(harness):
    assert os.stat(harness.socket).st_mode & 0o777 == 0o660
    assert os.stat(harness.reader_socket).st_mode & 0o777 == 0o666


def test_passed_descriptors(harness):
    """Descriptors that a client sends along are closed, not kept."""
    before = harness.descriptors()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(harness.socket))
        for _ in range(20):
            socket.send_fds(connection, [b"G"], [0] * 253)
            time.sleep(0)
        eventually(lambda: harness.descriptors() <= before + 2, what="the descriptors to be closed")
    assert harness.request("GET", "/healthz").status == 200


def test_second_server_is_refused(harness):
    """A socket that somebody answers at is never replaced; a dead one is."""
    command = [str(build_directory() / "tests/unit/api-harness"), str(harness.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1 and "answers there" in done.stderr
    assert harness.request("GET", "/healthz").status == 200
    harness.process.kill()
    harness.process.wait()
    assert harness.socket.exists()
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(harness), what="an answer at the replaced socket")
    finally:
        second.terminate()
        second.wait(DEADLINE)
    harness.socket.write_text("not a socket")
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1 and "no socket of ours" in done.stderr
    assert harness.socket.read_text() == "not a socket"


def answers(server):
    try:
        return server.request("GET", "/healthz").status == 200
    except OSError:
        return False


# --- slow and many (A05, A20, EMFILE) ------------------------------------------------------------------------------------

def test_slow_heads(harness):
    """A head that comes byte by byte is given up; others are served meanwhile."""
    slow = []
    for _ in range(200):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(harness.socket))
        connection.sendall(b"GET /hea")
        slow.append(connection)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(harness.socket))
    end = time.monotonic() + DEADLINE
    answered = set()
    while len(answered) < len(slow) and time.monotonic() < end:
        for number, connection in enumerate(slow):
            if number not in answered:
                with contextlib.suppress(OSError):
                    connection.sendall(b"l")
                if select.select([connection], [], [], 0)[0]:
                    answered.add(number)
        assert harness.request("GET", "/healthz").status == 200
        time.sleep(0.5)
    assert len(answered) == len(slow)
    assert slow[0].recv(65536).startswith(b"HTTP/1.1 408")
    silent.settimeout(DEADLINE)
    assert silent.recv(10) == b""
    for connection in slow:
        connection.close()


def dribble(harness, head, count, seconds, length=4000):
    """`count` clients send a body of which a byte comes now and then; the replies they get, and how long the last took."""
    clients, answers, begun = [], {}, time.monotonic()
    for _ in range(count):
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].connect(str(harness.socket))
        clients[-1].sendall(head + b"Content-Length: %d\r\n\r\n" % length)
    while len(answers) < count and time.monotonic() - begun < seconds:
        for number, client in enumerate(clients):
            if number not in answers:
                with contextlib.suppress(OSError):
                    client.sendall(b" ")
                if select.select([client], [], [], 0)[0]:
                    answers[number] = client.recv(65536)
        assert harness.request("GET", "/healthz").status == 200
        time.sleep(0.5)
    for client in clients:
        client.close()
    return answers, time.monotonic() - begun


def test_slow_bodies(harness):
    """A body that comes byte by byte is given up like a head, and whoever sends quickly is served meanwhile."""
    head = b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answers, taken = dribble(harness, head, 100, DEADLINE)
    assert len(answers) == 100 and all(answer.startswith(b"HTTP/1.1 408") for answer in answers.values())
    assert taken > 10
    assert harness.request("POST", "/v1/instances", b'{"spec":{}}', {"Content-Type": "application/json"}).status == 202
    assert harness.end()["calls"] == 1


@pytest.mark.long
def test_slow_uploads(harness):
    """A byte now and then does not keep an upload for ever, nor does it to say nothing."""
    head = b"POST /v1/images/upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    answers, taken = dribble(harness, head, 50, 2 * DEADLINE, 10 ** 9)
    assert len(answers) == 50 and all(answer.startswith(b"HTTP/1.1 408") for answer in answers.values())
    assert 25 < taken


BODY = b'{"name":"web-2","spec":{}}'


@pytest.mark.parametrize("body, headers, status, calls", [
    (b"", b"Content-Length: 0\r\n", 400, 0),  # none at all, where one is required
    (b"", b"Transfer-Encoding: chunked\r\n", 400, 0),
    (BODY, b"Content-Length: %d\r\n" % (len(BODY) - 1), 400, 0),  # what is cut off is not read from elsewhere
    (BODY + b"{}", b"Content-Length: %d\r\n" % (len(BODY) + 2), 400, 0),  # nor is a second document
    (b" " * (1 << 20) + BODY, b"", 413, 0),  # longer than what is looked at
    (BODY, b"Content-Encoding: gzip\r\n", 202, 1),  # it is never unpacked, by nobody
    (b'{"name":"web-2","name":"web-3","spec":{}}', b"", 202, 1)],
    ids=["empty", "no chunks", "cut", "two documents", "too long", "encoded", "a name twice"])
def test_one_body_for_all(harness, body, headers, status, calls):
    """What is authorised and checked is what is acted on: one object, parsed once (A08)."""
    if b"Length" not in headers and b"chunked" not in headers:
        headers += b"Content-Length: %d\r\n" % len(body)
    sent = b"0\r\n\r\n" if b"chunked" in headers else body
    answer = raw(harness.socket, b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Connection: close\r\n" + headers + b"\r\n" + sent)
    assert statuses(answer)[0] == status, answer
    assert harness.end()["calls"] == calls


def test_connection_limit(harness):
    """One socket full of idle clients does not lock root out."""
    crowd = []
    try:
        for _ in range(1100):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(harness.reader_socket))
            crowd.append(connection)
        eventually(lambda: b"503" in crowd[-1].recv(200), what="a refusal")
        assert harness.request("GET", "/healthz").status == 200
    finally:
        for connection in crowd:
            connection.close()
    eventually(lambda: harness.request("GET", "/healthz", reader=True).status == 200, what="room again")


def test_out_of_descriptors():
    """Without descriptors the accept loop rests instead of spinning, and recovers."""
    server = Harness(limit=64)
    crowd = []
    try:
        for _ in range(120):
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.connect(str(server.socket))
            crowd.append(connection)
        time.sleep(1)
        before = server.cpu_ticks()
        time.sleep(2)
        assert server.cpu_ticks() - before < 40
        for connection in crowd:
            connection.close()
        eventually(lambda: server.request("GET", "/healthz").status == 200, what="an answer")
    finally:
        server.close()


def test_client_that_never_reads(harness):
    """Replies pile up in the socket, not in the server."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(harness.socket))
        connection.setblocking(False)
        request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                connection.sendall(request)
        assert harness.request("GET", "/healthz").status == 200
        with open(f"/proc/{harness.process.pid}/status") as status:
            resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        assert resident < 400_000 if "asan" in str(build_directory()) else resident < 32_000


# --- streams ----------------------------------------------------------------------------------------------------------------

def test_events(harness):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(harness.socket))
        connection.sendall(b"GET /v1/events?type=instance. HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b": events" not in answer:
            answer += connection.recv(65536)
        assert b"text/event-stream" in answer
        harness.request("POST", "/v1/instances/web-1/start")
        while b"event: instance.action" not in answer:
            answer += connection.recv(65536)
        last = int(answer.rsplit(b"id: ", 1)[1].split(b"\n")[0])
    harness.request("POST", "/v1/instances/web-1/stop")
    answer = raw_until(harness.socket, f"GET /v1/events?since={last} HTTP/1.0\r\n\r\n".encode(), b"data: ")
    assert answer.count(b"event: instance.action") == 1
    # The ring of this manager holds 16: who comes late learns how many it missed.
    for _ in range(40):
        harness.request("POST", "/v1/instances/web-1/start")
    answer = raw_until(harness.socket, f"GET /v1/events?since={last} HTTP/1.0\r\n\r\n".encode(), b"\nid: ")
    assert b"event: lagged" in answer


def raw_until(path, data, part):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(path))
        connection.sendall(data)
        answer = b""
        while part not in answer:
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
        return answer


def test_file_stream(harness):
    reply = harness.request("GET", "/v1/instances/web-1/files?path=/x")
    assert reply.status == 200 and reply.body == b"tar" * 300_000
    assert harness.request("GET", "/v1/instances/web-1/files?path=/missing").status == 404
    assert harness.request("GET", "/v1/instances/web-1/files?path=relative").status == 400
    assert harness.request("GET", "/v1/instances/web-1/files").status == 400
    assert harness.request("PUT", "/v1/instances/web-1/files?path=/d", b"x" * 200_000,
                           {"Content-Type": "application/x-tar"}).status == 204
    assert harness.end()["streams"] == 0


def test_cut_upload(harness):
    """A client that goes away in the middle of an upload leaves no file behind."""
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(harness.socket))
            connection.sendall(b"POST /v1/images/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
                               b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 5000)
    def left():
        return [name for name in os.listdir("/tmp") if name.startswith(f"polder-upload-{harness.process.pid}")]
    eventually(lambda: not left(), what="the cut uploads to go")
    assert harness.end()["calls"] == 0


def test_exec(harness):
    address = "/v1/instances/web-1/exec"
    text = bytes(range(256)) * 100
    out, _, last = run(converse(harness.socket, address, {"command": ["cat"]},
                                [b"\0" + text, json.dumps({"resize": {"rows": 5, "columns": 7}}),
                                 json.dumps({"stdin": "close"})]))
    assert out == text + b"size 5x7\n" and last == {"exit": {"code": 0}}
    assert run(converse(harness.socket, address, {"command": ["exit", "7"]}))[2] == {"exit": {"code": 7}}
    assert run(converse(harness.socket, address, {"command": ["missing"]}))[2]["error"]["code"] == "no-command"
    assert harness.end()["streams"] == 0


@pytest.mark.parametrize("first", [{}, {"command": []}, {"command": "x"}, {"command": ["x"], "extra": 1}, [], "x",
                                   {"command": ["cat"], "rows": -1}, {"command": ["cat"], "rows": 100000}])
def test_exec_refuses(harness, first):
    last = run(converse(harness.socket, "/v1/instances/web-1/exec", first))[2]
    assert last["error"]["status"] == 400
    assert harness.end()["streams"] == 0


@pytest.mark.parametrize("message", [b"\1stdin", b"", "{", '{"resize":{}}', '{"signal":"SIGWHAT"}', '{"other":1}',
                                     b"\0" + b"x" * 70_000])
def test_bad_messages(harness, message):
    async def talk():
        with contextlib.suppress(websockets.ConnectionClosed):
            return (await converse(harness.socket, "/v1/instances/web-1/exec", {"command": ["cat"]}, [message]))[2]
    last = run(talk())
    assert last is None or last["error"]["status"] == 400
    eventually(lambda: harness.request("GET", "/healthz").status == 200)
    assert harness.end()["streams"] == 0


def test_handshakes(harness):
    base = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "polder.stream.v1"}
    def ask(**changes):
        headers = {**base, **{name.replace("_", "-"): value for name, value in changes.items()}}
        text = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
        return statuses(raw(harness.socket, f"GET /v1/instances/web-1/exec HTTP/1.1\r\nHost: x\r\n{text}\r\n".encode()))
    assert ask(Sec_WebSocket_Version="8") == [400]
    assert ask(Sec_WebSocket_Key=None) == [400]
    assert ask(Sec_WebSocket_Key="short") == [400]
    assert ask(Sec_WebSocket_Key="!" * 24) == [400]
    assert ask(Sec_WebSocket_Protocol="chat") == [400]
    assert ask(Sec_WebSocket_Protocol=None) == [400]
    assert ask(Upgrade="h2c") == [400]
    assert ask(Origin="https://evil.example") == [403]
    reply = harness.request("GET", "/v1/instances/web-1/exec")
    assert reply.status == 400
    # A missing instance is told before the protocol changes.
    with pytest.raises(websockets.InvalidStatusCode) as failure:
        run(converse(harness.socket, "/v1/instances/none/exec", {}))
    assert failure.value.status_code == 404
    assert harness.end()["streams"] == 0


def test_backpressure(harness):
    """A command that prints for ever waits for a client that does not read, and ends when it leaves."""
    async def watch():
        stream = await connect(harness.socket, "/v1/instances/web-1/exec", max_queue=1)
        await stream.send(json.dumps({"command": ["yes"]}))
        await stream.recv()
        await asyncio.sleep(1)
        before = harness.cpu_ticks()
        await asyncio.sleep(1)
        assert harness.cpu_ticks() - before < 30
        stream.transport.abort()
    run(watch())
    eventually(lambda: harness.request("GET", "/healthz").status == 200)
    assert harness.end()["streams"] == 0


def test_vanished_clients(harness):
    """Streams of clients that are killed are freed."""
    before = harness.descriptors()
    async def leave():
        for command in ("cat", "yes"):
            for _ in range(10):
                stream = await connect(harness.socket, "/v1/instances/web-1/exec")
                await stream.send(json.dumps({"command": [command]}))
                stream.transport.abort()
    run(leave())
    eventually(lambda: harness.descriptors() <= before, what="the connections to be freed")
    assert harness.end()["streams"] == 0


def test_attach(harness):
    out, _, last = run(converse(harness.socket, "/v1/instances/web-1/attach?start=true", {"rows": 10, "columns": 20},
                                [b"\0hello", json.dumps({"stdin": "close"})]))
    assert out == b"hello" and last == {"exit": {"code": 0}}
    assert harness.end() == {"calls": 1, "streams": 0}


def test_stop_ends_streams(harness):
    """SIGTERM does not wait for streams that would never end."""
    async def stay():
        async with connect(harness.socket, "/v1/instances/web-1/exec") as stream:
            await stream.send(json.dumps({"command": ["cat"]}))
            await asyncio.get_running_loop().run_in_executor(None, harness.end)
            with contextlib.suppress(websockets.ConnectionClosed):
                await asyncio.wait_for(stream.recv(), DEADLINE)
    run(stay())


def test_stampede(harness):
    """Many threads at once: every reply belongs to its request."""
    problems = []
    def work(number):
        for step in range(30):
            reply = harness.request("GET", f"/v1/instances/none-{number}-{step}")
            if reply.status != 404 or f"none-{number}-{step}" not in reply.json["detail"]:
                problems.append(reply)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
