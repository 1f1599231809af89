# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's side of src/guest/protocol.h, for tests, and a microVM to speak it with.

Not a test by itself: test_guest_boot.py uses it, and `python3 guestwire.py KERNEL INITRAMFS ROOT` boots by hand.
"""
import ctypes
import json
import mmap
import os
import re
import secrets
import select
import socket
import struct
import subprocess
import sys
import time

HELLO, STATE, START, EXEC, STDIN, STDOUT, STDERR, EXIT, ACK, SIGNAL, RESIZE, CLOCK, GET, PUT, CREDIT, POWER, \
    MEMORY, ERROR = range(1, 19)
PORT_NAME = "org.polder.guest.0"
MAGIC = b"polder-guest/1 "
FRAME_MAX = 64 * 1024
WINDOW = 256 * 1024
MAIN = 1
FIRST = 16
DEADLINE = 120  # seconds; generous, software emulation on a busy host is slow


def frame(kind, channel, payload=b""):
    if isinstance(payload, (dict, list)):
        payload = json.dumps(payload).encode()
    return struct.pack("<IBBHI", len(payload), kind, 0, 0, channel) + payload


class Stream:
    """What one channel has said so far."""

    def __init__(self):
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.total = 0
        self.ended = set()
        self.exit = None
        self.errors = []
        self.credits = 0  # bytes of our stdin the guest has taken
        self.sent = 0


class Wire:
    """One connection to the agent. With keep=False output is counted but not stored."""

    def __init__(self, path, credit=True, keep=True):
        self.path = path
        self.credit = credit
        self.keep = keep
        self.buffer = bytearray()
        self.streams = {}
        self.state = None
        self.memory = None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def close(self):
        self.socket.close()

    def stream(self, channel):
        return self.streams.setdefault(channel, Stream())

    def send(self, kind, channel, payload=b""):
        self.socket.sendall(frame(kind, channel, payload))

    def hello(self, deadline=DEADLINE):
        nonce = secrets.token_hex(16).encode()
        self.send(HELLO, 0, MAGIC + nonce)
        answer = frame(HELLO, 0, MAGIC + nonce)
        end = time.monotonic() + deadline
        while answer not in self.buffer:
            self._fill(end)
        del self.buffer[:self.buffer.index(answer) + len(answer)]
        self.wait(lambda: self.state is not None, deadline)
        return self.state

    def _fill(self, end):
        left = end - time.monotonic()
        if left <= 0 or not select.select([self.socket], [], [], left)[0]:
            raise TimeoutError("the guest did not answer in time")
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the guest is gone")
        self.buffer += data

    def _take(self):
        if len(self.buffer) < 12:
            return False
        length, kind, flags, zero, channel = struct.unpack_from("<IBBHI", self.buffer)
        assert flags == 0 and zero == 0 and length <= FRAME_MAX, "a malformed frame"
        if len(self.buffer) < 12 + length:
            return False
        payload = bytes(self.buffer[12:12 + length])
        del self.buffer[:12 + length]
        self._handle(kind, channel, payload)
        return True

    def _handle(self, kind, channel, payload):
        stream = self.stream(channel)
        if kind in (STDOUT, STDERR):
            stream.total += len(payload)
            if not payload:
                stream.ended.add(kind)
            elif self.keep:
                (stream.stdout if kind == STDOUT else stream.stderr).extend(payload)
            if payload and self.credit:
                self.send(CREDIT, channel, struct.pack("<I", len(payload)))
        elif kind == EXIT:
            stream.exit = json.loads(payload)
        elif kind == CREDIT:
            stream.credits += struct.unpack("<I", payload)[0]
        elif kind == STATE:
            self.state = json.loads(payload)
        elif kind == MEMORY:
            self.memory = json.loads(payload)
        elif kind == ERROR:
            stream.errors.append(json.loads(payload)["error"])
        else:
            raise AssertionError(f"frame of type {kind} from the guest")

    def wait(self, condition, deadline=DEADLINE):
        end = time.monotonic() + deadline
        while not condition():
            if not self._take():
                self._fill(end)

    def start(self, args, **fields):
        process = {"args": args}
        for name in ("env", "user", "cwd", "tty", "stdin", "rows", "columns"):
            if name in fields:
                process[name] = fields.pop(name)
        self.send(START, MAIN, {"process": process, "realtime_us": int(time.time() * 1e6),
                                "entropy": "A" * 43 + "=", **fields})

    def write(self, channel, data):
        """Sends stdin within the window, taking what comes meanwhile."""
        stream = self.stream(channel)
        for at in range(0, len(data), 32768):
            part = data[at:at + 32768]
            self.wait(lambda: stream.sent + len(part) - stream.credits <= WINDOW)
            self.send(STDIN, channel, part)
            stream.sent += len(part)

    def run(self, channel, args, data=None, **fields):
        """An exec from start to acknowledgement."""
        self.streams.pop(channel, None)
        self.send(EXEC, channel, {"args": args, "stdin": data is not None, **fields})
        if data is not None:
            self.write(channel, data)
            self.send(STDIN, channel)
        return self.finish(channel)

    def transfer(self, kind, channel, path, data=None):
        self.streams.pop(channel, None)
        self.send(kind, channel, {"path": path})
        if data is not None:
            self.write(channel, data)
            self.send(STDIN, channel)
        return self.finish(channel)

    def finish(self, channel, deadline=DEADLINE):
        stream = self.stream(channel)
        self.wait(lambda: stream.exit is not None or stream.errors, deadline)
        if stream.exit is not None:
            self.send(ACK, channel)
        return stream


def tsc_khz():
    """The rate of rdtsc, which a guest under software emulation cannot find out by itself."""
    code = bytes.fromhex("0f31" "48c1e220" "4809d0" "c3")  # rdtsc; shl rdx,32; or rax,rdx; ret
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    best = None
    for _ in range(5):
        t0, c0 = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), rdtsc()
        time.sleep(0.05)
        t1, c1 = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), rdtsc()
        if best is None or t1 - t0 < best[0]:
            best = (t1 - t0, (c1 - c0) * 1_000_000 // (t1 - t0))
    return best[1]


class Machine:
    """QEMU microvm with the root image, and the agent's socket."""

    def __init__(self, directory, kernel, initramfs, root, disk=None, memory="256M", acpi=True, netdev=True,
                 extra=()):
        self.agent = os.path.join(directory, "agent.sock")
        self.console = os.path.join(directory, "console.log")
        append = (f"console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz={tsc_khz()} cryptomgr.notests noreplace-smp "
                  "8250.nr_uarts=1")
        self.command = [
            "qemu-system-x86_64", "-M", "microvm,acpi=%s,rtc=on" % ("on" if acpi else "off"), "-accel", "tcg",
            "-cpu", "max", "-smp", "1", "-m", memory, "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-kernel", kernel, "-initrd", initramfs, "-append", append,
            # Modern virtio: a vhost-user device (virtiofs) refuses the legacy transport.
            "-global", "virtio-mmio.force-legacy=false",
            "-serial", f"file:{self.console}",
            "-blockdev", f"driver=file,node-name=f0,filename={root},read-only=on",
            "-blockdev", "driver=raw,node-name=d0,file=f0,read-only=on",
            "-device", "virtio-blk-device,drive=d0",  # the first named is vda
        ]
        if disk:
            self.command += ["-blockdev", f"driver=file,node-name=f1,filename={disk}",
                             "-blockdev", "driver=raw,node-name=d1,file=f1",
                             "-device", "virtio-blk-device,drive=d1"]
        if netdev:
            self.command += ["-netdev", "user,id=n0,restrict=on",
                             "-device", "virtio-net-device,netdev=n0,mac=52:54:00:12:34:56"]
        self.command += [
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng0",
            "-device", "virtio-serial-device",
            "-chardev", f"socket,id=ag,path={self.agent},server=on,wait=off",
            "-device", f"virtserialport,chardev=ag,name={PORT_NAME},nr=1",
        ]
        self.command += extra
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)

    def connect(self, **options):
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return Wire(self.agent, **options)
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def wait_exit(self):
        return self.process.wait(DEADLINE)

    def console_text(self):
        with open(self.console, errors="replace") as file:
            return file.read()

    def resident_kb(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    import tempfile
    with tempfile.TemporaryDirectory() as place:
        vm = Machine(place, *sys.argv[1:4])
        try:
            wire = vm.connect()
            print("state", wire.hello(), "after %.2f s" % (time.monotonic() - vm.started))
            print("resident", vm.resident_kb(), "kB")
            wire.start(sys.argv[4:] or ["/bin/sh", "-c", "uname -a; id; ls -l /; ps; exit 7"], hostname="demo")
            result = wire.stream(MAIN)
            wire.wait(lambda: result.exit is not None)
            print(result.stdout.decode(), result.stderr.decode(), result.exit)
            wire.send(ACK, MAIN)
            print("qemu exited", vm.wait_exit(), "after %.2f s" % (time.monotonic() - vm.started))
        except (TimeoutError, ConnectionError) as error:
            print(error)
        finally:
            vm.close()
            print(vm.console_text())
