# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw HTTP and WebSockets over unix sockets, and the HTTP server alone over a manager that only counts."""
import asyncio
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile

import websockets

from polderlib import Client, DEADLINE, build_directory, eventually

PROTOCOL = "polder.stream.v1"


def raw(path, data, seconds=DEADLINE, end=False):
    """Sends bytes as they are and returns all that comes until the server closes the connection. A server that keeps it
    open fails the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


def statuses(answer):
    """Status codes of the replies in an answer, whose bodies have a Content-Length."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        found.append(int(lines[0].split()[1]))
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        answer = rest[length:]
    return found


def connect(path, address, protocol=PROTOCOL, **options):
    """An async context manager: a WebSocket to `address` on the socket at `path`. A client that leaves while more comes than
    it takes does not see the other side leave, so that it waits for all of close_timeout: no wait for a slow host."""
    return websockets.unix_connect(str(path), uri=f"ws://localhost{address}", subprotocols=[protocol],
                                   open_timeout=DEADLINE, close_timeout=10, max_size=None, compression=None, **options)


async def converse(path, address, first=None, messages=(), keep=None):
    """Sends messages, collects what comes until the end: (bytes of channel 1, bytes of channel 2, last JSON)."""
    outputs, last = {1: b"", 2: b""}, None
    async with connect(path, address) as stream:
        if first is not None:
            await stream.send(json.dumps(first))
        for message in messages:
            await stream.send(message)
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                message = await asyncio.wait_for(stream.recv(), DEADLINE)
                if isinstance(message, str):
                    last = json.loads(message)
                else:
                    outputs[message[0]] += message[1:]
                    if keep is not None and len(outputs[1]) >= keep:
                        break
    return outputs[1], outputs[2], last


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 4 * DEADLINE))


class Harness:
    """tests/unit/api-harness.c."""

    def __init__(self, instances=1, limit=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ph-", dir="/tmp"))
        self.socket = self.directory / "polder.sock"
        self.reader_socket = self.directory / "polder-ro.sock"
        command = [str(build_directory() / "tests/unit/api-harness"), str(self.directory), str(instances)]
        if limit:
            command = ["prlimit", f"--nofile={limit}", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        eventually(self.answers, what="the harness")

    def answers(self):
        """The socket is there before somebody listens on it."""
        try:
            return self.request("GET", "/healthz").status == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers=None, reader=False):
        client = Client(self.reader_socket if reader else self.socket)
        try:
            return client.request(method, path, body, headers)
        finally:
            client.close()

    def descriptors(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident(self):
        """The most memory that it ever had, in bytes."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))) * 1024

    def cpu_ticks(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def end(self):
        """Ends it and returns its counts: {"calls": N, "streams": N}."""
        self.process.terminate()
        words = self.process.communicate(timeout=DEADLINE)[0].split()
        assert self.process.returncode == 0
        return {words[0]: int(words[1]), words[2]: int(words[3])}

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
