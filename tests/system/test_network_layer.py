# SPDX-License-Identifier: GPL-2.0-or-later
"""The network layer with a real kernel, a real dnsmasq and real nftables, all inside network namespaces of its own.

A "host" namespace runs tests/unit/network-harness, "outside" is another host joined to it by a veth pair, and members
are namespaces that the layer attaches as it attaches containers. Nothing of this leaves those namespaces.
"""
import ctypes
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid as uuids
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBC = ctypes.CDLL(None, use_errno=True)
OUTSIDE, UPLINK = "198.51.100.1", "198.51.100.2"
DEADLINE = max(20, int(os.environ.get("POLDER_TEST_DEADLINE", "0")))


def find_harness():
    places = [Path(os.environ["POLDER_BUILD_DIR"])] if "POLDER_BUILD_DIR" in os.environ else \
        sorted(p for p in ROOT.iterdir() if (p / "build.ninja").exists())
    for place in places:
        if (place / "tests/unit/network-harness").exists():
            return place / "tests/unit/network-harness"
    return None


HARNESS = find_harness()
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(HARNESS is None, reason="tests/unit/network-harness is not built (set POLDER_BUILD_DIR)"),
]


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


class Namespace:
    """A network namespace held by a sleeping process."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 100000"],
                                       stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.path = f"/proc/{self.holder.pid}/ns/net"

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()

    def call(self, function, *arguments):
        """Runs function in a thread that is in this namespace; what it opens belongs there."""
        out = {}

        def main():
            try:
                fd = os.open(self.path, os.O_RDONLY)
                if LIBC.setns(fd, 0x40000000) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(fd)
                out["value"] = function(*arguments)
            except BaseException as problem:  # handed on to the caller
                out["problem"] = problem

        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        if "problem" in out:
            raise out["problem"]
        return out["value"]

    def run(self, *command, check=True):
        return subprocess.run(["nsenter", f"--net={self.path}", *command], capture_output=True, text=True, check=check)

    def read(self, path):
        return self.run("cat", path).stdout.strip()

    def socket(self, *arguments):
        return self.call(socket.socket, *arguments)


class Harness:
    def __init__(self, host, directory, subnet="", resolver=None, failpoints=None):
        self.host = host
        environment = {"PATH": os.environ["PATH"]}
        if failpoints:
            environment["POLDER_FAILPOINTS"] = failpoints
        resolver = resolver or "/dev/null"
        # A mount namespace for its own resolv.conf, which dnsmasq reads.
        script = f'mount --make-rprivate /; mount --bind {resolver} $(readlink -f /etc/resolv.conf); exec "$@"'
        self.process = subprocess.Popen(
            ["nsenter", f"--net={host.path}", "unshare", "-m", "sh", "-c", script, "sh", HARNESS, directory / "run",
             directory / "state", subnet], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def __call__(self, verb, **fields):
        self.process.stdin.write(json.dumps({"do": verb, **fields}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def ok(self, verb, **fields):
        answer = self(verb, **fields)
        assert answer["result"] >= 0, answer
        return answer

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait(DEADLINE)
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.close()


class Site:
    """A host, another host, and what was made on them."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "run").mkdir()
        (directory / "state").mkdir()
        self.host, self.outside = Namespace(), Namespace()
        self.namespaces = [self.host, self.outside]
        self.sockets, self.harness, self.members = [], None, {}
        self.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns",
                      str(self.outside.holder.pid))
        self.host.run("ip", "address", "add", UPLINK + "/24", "dev", "up0")
        self.host.run("ip", "link", "set", "up0", "up")
        self.host.run("ip", "route", "add", "default", "via", OUTSIDE)
        self.outside.run("ip", "address", "add", OUTSIDE + "/24", "dev", "out0")
        self.outside.run("ip", "link", "set", "out0", "up")
        self.resolver = directory / "resolv.conf"
        self.resolver.write_text(f"nameserver {OUTSIDE}\n")

    def start(self, adopt=True, **options):
        if self.harness:
            self.harness.close()
        self.harness = Harness(self.host, self.directory, resolver=self.resolver, **options)
        if adopt:
            self.harness.ok("adopt", members=list(self.members.values()))
        return self.harness

    def namespace(self):
        namespace = Namespace()
        self.namespaces.append(namespace)
        return namespace

    def member(self, name, ports=(), **more):
        """A member's record, with an address of its own."""
        uuid = str(uuids.uuid4())
        answer = self.harness.ok("allocate", uuid=uuid, taken=[m["address"] for m in self.members.values()])
        return {"uuid": uuid, "name": name, "mac": answer["mac"], "address": answer["address"], "ports": list(ports),
                **more}

    def attach(self, name, ports=(), **more):
        member = self.member(name, ports, **more)
        namespace = self.namespace()
        self.harness.ok("attach", netns=namespace.path, **member)
        self.members[member["uuid"]] = member
        namespace.uuid, namespace.address, namespace.mac = member["uuid"], member["address"], member["mac"]
        namespace.record = member
        return namespace

    def detach(self, namespace):
        self.harness.ok("detach", uuid=namespace.uuid)
        del self.members[namespace.uuid]

    def serve(self, namespace, port, udp=False, reply=b"hello"):
        """Answers with the reply and the address it was asked from."""
        listener = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        self.sockets.append(listener)

        def main():
            try:
                while True:
                    if udp:
                        data, peer = listener.recvfrom(2048)
                        listener.sendto(reply + b" " + peer[0].encode(), peer)
                    else:
                        connection, peer = listener.accept()
                        connection.sendall(reply + b" " + peer[0].encode())
                        connection.close()
            except (OSError, TypeError):  # closed meanwhile
                return

        if not udp:
            listener.listen(64)
        threading.Thread(target=main, daemon=True).start()
        return listener

    def close(self):
        if self.harness and self.harness.process.poll() is None:
            for uuid in list(self.members):
                self.harness("detach", uuid=uuid)
            self.harness("reset")
            self.harness.close()
        # A killed harness leaves its dnsmasq: ended by the pid it recorded.
        try:
            os.kill(self.dnsmasq_pid(), signal.SIGKILL)
        except (OSError, ValueError, KeyError):
            pass
        for listener in self.sockets:
            listener.close()
        for namespace in self.namespaces:
            namespace.close()

    def dnsmasq_pid(self):
        return json.loads((self.directory / "run/network/dnsmasq.json").read_text())["pid"]


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


def ask(namespace, address, port, udp=False, timeout=3):
    """What the server there says, or None."""
    client = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        client.connect((address, port))
        if udp:
            client.send(b"x")
        return client.recv(2048).decode()
    except OSError:
        return None
    finally:
        client.close()


def resolve(namespace, server, name, timeout=5):
    """The first A record, "" for none, None for no answer."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0\0\1\0\1"
    client = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(timeout)
    try:
        client.sendto(struct.pack(">6H", random.randrange(65536), 0x100, 1, 0, 0, 0) + question, (server, 53))
        answer = client.recv(2048)
    except OSError:
        return None
    finally:
        client.close()
    if struct.unpack(">H", answer[6:8])[0] == 0:
        return ""
    return socket.inet_ntoa(answer[-4:])


def rules(site):
    return site.host.run("nft", "list", "ruleset").stdout


def links(namespace):
    return [link["ifname"] for link in json.loads(namespace.run("ip", "-j", "link").stdout)]


# --- addresses, names, the way out -------------------------------------------------------------------------------

def test_two_members_and_the_outside(site):
    site.start()
    web, db = site.attach("web-1"), site.attach("db")
    gateway = site.harness.ok("show")["network"]["gateway"]
    site.serve(db, 5432)
    site.serve(site.outside, 80)
    assert ask(web, db.address, 5432) == f"hello {web.address}"
    assert ask(web, OUTSIDE, 80) == f"hello {UPLINK}", "masqueraded"
    for name, expected in {"db": db.address, "db.polder.internal": db.address, "web-1": web.address,
                           "nobody": "", "nobody.polder.internal": ""}.items():
        assert wait_until(lambda: resolve(web, gateway, name) == expected, name)
    eth0 = json.loads(web.run("ip", "-j", "address", "show", "eth0").stdout)[0]
    assert eth0["address"] == web.mac
    assert [a["local"] for a in eth0["addr_info"]] == [web.address], "IPv4 only"
    # Nobody outside reaches a member or its resolver by routing through the host.
    site.outside.run("ip", "route", "add", "10.0.0.0/8", "via", UPLINK)
    assert ask(site.outside, db.address, 5432, timeout=1) is None
    assert resolve(site.outside, gateway, "db", timeout=1) is None
    site.detach(db)
    assert wait_until(lambda: resolve(web, gateway, "db") == "", "the name goes with the member")


def test_upstream_names(site):
    listener = site.outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((OUTSIDE, 53))
    site.sockets.append(listener)

    def main():
        try:
            while True:
                data, peer = listener.recvfrom(2048)
                listener.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:data.index(b"\0", 12) + 5] +
                                b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("203.0.113.9"), peer)
        except OSError:
            return

    threading.Thread(target=main, daemon=True).start()
    site.start()
    web = site.attach("web-1")
    assert resolve(web, site.harness.ok("show")["network"]["gateway"], "www.example.org") == "203.0.113.9"


def udhcpc(namespace):
    return namespace.run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "2", "-s", "/bin/true",
                         check=False)


def test_dhcp_one_lease_for_each_member(site):
    site.start()
    web, gone = site.attach("web-1"), site.attach("gone")
    answer = udhcpc(web)
    assert f"lease of {web.address} obtained" in answer.stderr + answer.stdout
    leases = site.directory / "run/network/leases"
    wait_until(lambda: web.address in leases.read_text(), "a lease is written")
    udhcpc(gone)
    wait_until(lambda: gone.address in leases.read_text(), "a second lease")
    site.detach(gone)
    wait_until(lambda: gone.address not in leases.read_text(), "the lease goes with the member")
    # A94: random client ids, then random hardware addresses, from one port.
    sender = web.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
    sender.bind(("eth0", 0))
    mac = bytes.fromhex(web.mac.replace(":", ""))
    for i in range(3000):
        client = mac if i % 2 else bytes([0x52, 0x54]) + random.randbytes(4)
        sender.send(dhcp_discover(mac, client, random.randbytes(8)))
    sender.close()
    other = site.attach("other")
    assert "obtained" in udhcpc(other).stderr, "dnsmasq still serves"
    lines = [line for line in leases.read_text().splitlines() if line]
    assert len(lines) == 2, lines


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip_packet(source, target, protocol, payload):
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton(source),
                         socket.inet_aton(target))
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def udp_packet(source, target, source_port, target_port, data):
    return ip_packet(source, target, 17, struct.pack(">4H", source_port, target_port, 8 + len(data), 0) + data)


def frame(target, source, kind, payload):
    return target + source + struct.pack(">H", kind) + payload.ljust(46, b"\0")


def dhcp_discover(mac, client, identifier):
    body = struct.pack(">BBBBIHH16s", 1, 1, 6, 0, random.getrandbits(32), 0, 0x8000, b"") + client.ljust(16, b"\0") + \
        bytes(192) + b"\x63\x82\x53\x63\x35\1\1\x3d" + bytes([len(identifier)]) + identifier + b"\xff"
    return frame(b"\xff" * 6, mac, 0x800, udp_packet("0.0.0.0", "255.255.255.255", 68, 67, body))


# --- published ports ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bridge_netfilter", ["1", "0"])
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_published_port_from_everywhere(site, udp, bridge_netfilter):
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if switch.exists():
        site.host.run("sh", "-c", f"echo {bridge_netfilter} > {switch}")
    elif bridge_netfilter == "1":
        pytest.skip("this kernel has no bridge netfilter")
    site.start()
    kind = "udp" if udp else "tcp"
    web = site.attach("web-1", [f"{kind}:8080:80", f"{kind}:127.0.0.1:8081:80"])
    other = site.attach("other")
    gateway = site.harness.ok("show")["network"]["gateway"]
    site.serve(web, 80, udp)
    assert ask(site.outside, UPLINK, 8080, udp) == f"hello {OUTSIDE}", "another host, whose address stays"
    assert ask(site.host, UPLINK, 8080, udp) == f"hello {UPLINK}", "the host's own address"
    assert ask(site.host, "127.0.0.1", 8080, udp) == f"hello {gateway}", "loopback"
    assert ask(site.host, gateway, 8080, udp), "the gateway's address"
    assert ask(other, UPLINK, 8080, udp) == f"hello {gateway}", "another instance"
    assert ask(other, gateway, 8080, udp) == f"hello {gateway}", "another instance, by the gateway"
    assert ask(web, UPLINK, 8080, udp) == f"hello {gateway}", "itself"
    assert ask(web, gateway, 8080, udp) == f"hello {gateway}", "itself, by the gateway"
    # Published on loopback only.
    assert ask(site.host, "127.0.0.1", 8081, udp) == f"hello {gateway}"
    assert ask(site.outside, UPLINK, 8081, udp, timeout=1) is None
    assert ask(other, UPLINK, 8081, udp, timeout=1) is None
    # Ports change while it runs.
    site.harness.ok("update", **{**web.record, "ports": [f"{kind}:9090:80"]})
    assert ask(site.outside, UPLINK, 9090, udp)
    assert ask(site.outside, UPLINK, 8080, udp, timeout=1) is None
    site.detach(web)
    assert ask(site.outside, UPLINK, 9090, udp, timeout=1) is None


def test_loopback_of_the_host_stays_closed(site):
    """route_localnet is on for the bridge; a member must not profit."""
    site.start()
    web = site.attach("web-1")
    listener = site.host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 7777))
    listener.settimeout(1)
    site.sockets.append(listener)
    web.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    web.run("ip", "route", "add", "127.0.0.1/32", "via", site.harness.ok("show")["network"]["gateway"], "table", "100")
    sender = web.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
    sender.bind(("eth0", 0))
    bridge = json.loads(site.host.run("ip", "-j", "link", "show", "polder0").stdout)[0]["address"]
    sender.send(frame(bytes.fromhex(bridge.replace(":", "")), bytes.fromhex(web.mac.replace(":", "")), 0x800,
                      udp_packet(web.address, "127.0.0.1", 1000, 7777, b"x")))
    sender.close()
    with pytest.raises(TimeoutError):
        listener.recv(10)


def test_dns_stays_when_a_member_publishes_port_53(site):
    site.start()
    dns = site.attach("dns", ["udp:53:53"])
    site.serve(dns, 53, udp=True)
    gateway = site.harness.ok("show")["network"]["gateway"]
    assert wait_until(lambda: resolve(dns, gateway, "dns") == dns.address, "its own resolver")
    assert ask(site.outside, UPLINK, 53, udp=True) == f"hello {OUTSIDE}"


def test_conflicting_ports_are_refused_by_name(site):
    site.start()
    first = site.attach("first", ["tcp:8080:80", "udp:127.0.0.1:53:53"])
    for port in ["tcp:8080:81", "tcp:127.0.0.1:8080:80", "udp:53:53"]:
        answer = site.harness("attach", netns=site.namespace().path, **site.member("second", [port]))
        assert answer["code"] == "in-use" and "instance 'first'" in answer["error"], answer
        assert port.split(":")[-2] in answer["error"]
    answer = site.harness("attach", netns=site.namespace().path, **site.member("second", ["tcp:1:1", "tcp:1:2"]))
    assert answer["code"] == "in-use"
    for udp in (False, True):
        listener = site.serve(site.host, 8090, udp)
        for address in ("", "127.0.0.1:"):
            answer = site.harness("attach", netns=site.namespace().path,
                                  **site.member("second", [f"{'udp' if udp else 'tcp'}:{address}8090:80"]))
            assert answer["code"] == "in-use" and f"pid {os.getpid()}" in answer["error"], answer
        listener.close()
    answer = site.harness("attach", netns=site.namespace().path, **site.member("second", ["tcp:203.0.113.1:80:80"]))
    assert answer["code"] == "bad-value" and "203.0.113.1" in answer["error"], answer
    assert len(site.harness.ok("orphans", known=[first.uuid])["found"]) == 0, "a refused one leaves nothing"
    # The same member again is no conflict with itself.
    site.harness.ok("attach", netns=first.path, **first.record)
    site.harness.ok("update", **first.record)
    # Another protocol or address is none either.
    site.attach("third", ["udp:8080:80", "udp:127.0.0.2:53:53"])


# --- who may say what --------------------------------------------------------------------------------------------

def flows(site):
    """Packets that the bridge counted, by the hardware addresses of sender and receiver."""
    rows = json.loads(site.host.run("nft", "-j", "list", "set", "bridge", "polder", "flows").stdout)["nftables"]
    found = next(row["set"].get("elem", []) for row in rows if "set" in row)
    return {tuple(one["elem"]["val"]["concat"]): one["elem"]["counter"]["packets"] for one in found}


def test_invented_receivers_are_not_counted(site):
    """Frames for nobody are flooded to each port; they fill no table. One for a member that is flooded counts once."""
    site.start()
    bad, victim, third = site.attach("bad"), site.attach("victim"), site.attach("third")
    mine, theirs = (bytes.fromhex(one.mac.replace(":", "")) for one in (bad, victim))
    sender = bad.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
    sender.bind(("eth0", 0))
    quiet = victim.socket(socket.AF_INET, socket.SOCK_DGRAM)  # so that the victim answers nothing by itself
    quiet.bind(("0.0.0.0", 2))
    seen = third.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
    seen.bind(("eth0", 0))
    seen.settimeout(DEADLINE)
    packet = udp_packet(bad.address, victim.address, 1, 2, b"x" * 40)
    for number in range(50):
        sender.send(frame(b"\x52\x54\x01\x02" + struct.pack(">H", number), mine, 0x800, packet))
    sender.send(frame(b"\xff" * 6, mine, 0x800, packet))
    while seen.recv(2048)[:6] != b"\xff" * 6:  # all before it came through, to where they were not for
        pass
    for _ in range(7):
        sender.send(frame(theirs, mine, 0x800, packet))
    wait_until(lambda: flows(site) == {(bad.mac, victim.mac): 7}, "the one flow that there is")
    for one in (sender, quiet, seen):
        one.close()


def arp(operation, sender_mac, sender, target_mac, target):
    return struct.pack(">HHBBH", 1, 0x800, 6, 4, operation) + sender_mac + socket.inet_aton(sender) + target_mac + \
        socket.inet_aton(target)


def test_forged_frames_are_dropped(site):
    site.start()
    bad, victim = site.attach("bad"), site.attach("victim")
    network = site.harness.ok("show")["network"]
    mine, theirs = (bytes.fromhex(m.mac.replace(":", "")) for m in (bad, victim))
    everybody = b"\xff" * 6
    sender = bad.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sender.bind(("eth0", 0))
    watcher = victim.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    watcher.bind(("eth0", 0))
    watcher.settimeout(0.3)
    quiet = victim.socket(socket.AF_INET, socket.SOCK_DGRAM)  # so that the victim answers nothing by itself
    quiet.bind(("0.0.0.0", 2))
    echo = bad.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    echo.bind(("eth0", 0))
    mark = b"forged-frame-%d"
    offer = struct.pack(">BBBBIHH", 2, 1, 6, 0, 7, 0, 0).ljust(236, b"\0") + b"\x63\x82\x53\x63\x35\1\2\xff"
    six = struct.pack(">IHBB", 6 << 28, 40, 58, 255) + bytes(32)
    forged = {
        "source MAC": frame(theirs, b"\x02\0\0\0\0\1", 0x800, udp_packet(bad.address, victim.address, 1, 2, mark)),
        "victim's MAC": frame(everybody, theirs, 0x800, udp_packet(bad.address, victim.address, 1, 2, mark)),
        "source IP": frame(theirs, mine, 0x800, udp_packet("10.117.0.77", victim.address, 1, 2, mark)),
        "gateway's IP": frame(theirs, mine, 0x800, udp_packet(network["gateway"], victim.address, 53, 2, mark)),
        "no IP": frame(theirs, mine, 0x800, udp_packet("0.0.0.0", victim.address, 1, 2, mark)),
        "ARP reply": frame(theirs, mine, 0x806, arp(2, mine, network["gateway"], theirs, victim.address)),
        "ARP sender MAC": frame(theirs, mine, 0x806, arp(2, b"\x02\0\0\0\0\1", bad.address, theirs, victim.address)),
        "gratuitous ARP": frame(everybody, mine, 0x806, arp(1, mine, victim.address, everybody, victim.address)),
        "reverse ARP": frame(everybody, mine, 0x8035, arp(4, mine, bad.address, theirs, victim.address)),
        "DHCP offer": frame(everybody, mine, 0x800, udp_packet(bad.address, "255.255.255.255", 67, 68, offer)),
        "DHCP offer from another port": frame(theirs, mine, 0x800,
                                              udp_packet(bad.address, victim.address, 4000, 68, offer)),
        "IPv6 RA": frame(b"\x33\x33\0\0\0\1", mine, 0x86dd, six + b"\x86" + mark),
        "IPv6 NA": frame(theirs, mine, 0x86dd, six + b"\x88" + mark),
        "IPv6 extension headers": frame(theirs, mine, 0x86dd, struct.pack(">IHBB", 6 << 28, 16, 0, 255) + bytes(48)),
        "VLAN": frame(theirs, mine, 0x8100, b"\0\5\x08\0" + udp_packet(bad.address, victim.address, 1, 2, mark)),
        "VLAN 0": frame(theirs, mine, 0x8100, b"\0\0\x08\0" + udp_packet(bad.address, victim.address, 1, 2, mark)),
        "QinQ": frame(theirs, mine, 0x88a8, b"\0\5\x81\0\0\5\x08\0" + udp_packet(bad.address, victim.address, 1, 2, mark)),
        "spanning tree": frame(b"\1\x80\xc2\0\0\0", mine, 38, b"\x42\x42\x03" + bytes(35)),
        "MPLS": frame(theirs, mine, 0x8847, mark),
        "a fragment": frame(theirs, mine, 0x800, fragment("10.117.0.77", victim.address)),
    }
    # The kernel of the sender adds a tag by hardware offload, too (where it has VLAN devices).
    tagged = bad.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    if bad.run("ip", "link", "add", "link", "eth0", "name", "eth0.7", "type", "vlan", "id", "7",
               check=False).returncode == 0:
        bad.run("ip", "link", "set", "eth0.7", "up")
        tagged.bind(("eth0.7", 0))
        forged["VLAN by offload"] = None

    def received(wanted):
        end = time.monotonic() + DEADLINE
        seen = []
        while time.monotonic() < end:
            try:
                got = watcher.recv(4096)
            except TimeoutError:
                continue
            if got[6:12] in (mine, theirs, b"\x02\0\0\0\0\1") and got[12:14] != b"\x08\x06" or got[6:12] == mine:
                seen.append(got)
            if wanted in got:
                return seen
        raise AssertionError("the honest frame never came")

    def honest(text):
        return frame(theirs, mine, 0x800, udp_packet(bad.address, victim.address, 1, 2, text))

    for name, data in forged.items():
        (sender if data else tagged).send(data or honest(b"tagged"))
        end = b"honest after " + name.encode()
        sender.send(honest(end))
        seen = received(end)
        assert len(seen) == 1, f"{name}: {seen}"
    # What is allowed: a real ARP request, an address probe; and a broadcast does not come back by its own port.
    sender.send(frame(everybody, mine, 0x806, arp(1, mine, bad.address, bytes(6), victim.address)))
    sender.send(frame(everybody, mine, 0x806, arp(1, mine, "0.0.0.0", bytes(6), bad.address)))
    sender.send(honest(b"the end"))
    assert len(received(b"the end")) == 3
    while select.select([echo], [], [], 0.2)[0]:
        data, source = echo.recvfrom(4096)
        assert source[2] == 4 or data[6:12] != mine, "only what it sent itself (PACKET_OUTGOING)"
    for opened in (sender, watcher, echo, tagged, quiet):
        opened.close()


def fragment(source, target):
    whole = bytearray(ip_packet(source, target, 17, b"second half"))
    whole[6:8] = struct.pack(">H", 100)
    whole[10:12] = b"\0\0"
    whole[10:12] = struct.pack(">H", checksum(bytes(whole[:20])))
    return bytes(whole)


# --- taps --------------------------------------------------------------------------------------------------------

def test_tap(site):
    site.start()
    peer = site.attach("peer")
    member = site.member("vm-1")
    answer = site.harness.ok("tap", **member)
    site.members[member["uuid"]] = member
    pidfd = os.pidfd_open(site.harness.process.pid)
    fd = LIBC.syscall(438, pidfd, answer["fd"], 0)
    os.close(pidfd)
    assert fd >= 0
    mac = bytes.fromhex(member["mac"].replace(":", ""))
    theirs = bytes.fromhex(peer.mac.replace(":", ""))
    os.set_blocking(fd, False)
    os.write(fd, bytes(10) + frame(b"\xff" * 6, b"\x02\0\0\0\0\1", 0x806, arp(1, b"\x02\0\0\0\0\1", "10.117.0.99",
                                                                        bytes(6), peer.address)))
    os.write(fd, bytes(10) + frame(b"\xff" * 6, mac, 0x806, arp(1, mac, member["address"], bytes(6), peer.address)))
    replies = []

    def replied():
        try:
            data = os.read(fd, 4096)[10:]
            if data[12:14] == b"\x08\x06" and data[20:22] == b"\0\2":
                replies.append(data)
        except BlockingIOError:
            pass
        return replies

    wait_until(replied, "an ARP reply")
    assert replies[0][22:28] == theirs and replies[0][:6] == mac, "the forged request was not answered"
    os.close(fd)
    site.harness.ok("detach", uuid=member["uuid"])
    del site.members[member["uuid"]]
    assert "pl" + member["uuid"].replace("-", "")[:10] not in links(site.host)


# --- collisions --------------------------------------------------------------------------------------------------

def test_subnet_that_collides(site):
    site.host.run("ip", "route", "add", "10.117.0.0/16", "via", OUTSIDE)
    site.host.run("ip", "address", "add", "10.118.0.9/24", "dev", "up0")
    site.start()
    assert site.harness.ok("allocate", uuid=str(uuids.uuid4()))["address"].startswith("10.119.0.")
    # The choice is kept …
    site.host.run("ip", "route", "delete", "10.117.0.0/16")
    site.start()
    assert site.harness.ok("allocate", uuid=str(uuids.uuid4()))["address"].startswith("10.119.0.")
    # … until it collides when the bridge is to be made.
    member = site.member("web-1")
    site.host.run("ip", "route", "add", "10.119.0.0/24", "via", OUTSIDE)
    answer = site.harness("attach", netns=site.namespace().path, **member)
    assert answer["code"] == "bad-value" and "10.117.0.0/24" in answer["error"], answer
    site.attach("web-1")
    # A configured subnet is refused with the reason.
    site.harness.ok("detach", uuid=list(site.members.popitem())[0])
    site.harness.ok("reset")
    site.start(subnet="10.118.0.0/16")
    answer = site.harness("allocate", uuid=str(uuids.uuid4()))
    assert answer["code"] == "in-use" and "up0" in answer["error"], answer


def test_addresses_run_out(site):
    site.start(subnet="10.9.8.0/29")
    site.serve(site.outside, 80)
    members = [site.attach(f"m-{i}") for i in range(5)]
    assert len({m.address for m in members}) == 5
    answer = site.harness("allocate", uuid=str(uuids.uuid4()), taken=[])
    assert answer["code"] == "exhausted", answer
    assert ask(members[4], OUTSIDE, 80)
    answer = site.harness("attach", netns=site.namespace().path,
                          **{**members[0].record, "uuid": str(uuids.uuid4()), "name": "thief"})
    assert answer["code"] == "in-use" and "m-0" in answer["error"]


# --- beside others -----------------------------------------------------------------------------------------------

def findings(site, level="error"):
    return [f for f in site.harness.ok("findings")["findings"] if f["level"] == level]


def test_docker_like_forward_policy_is_named(site):
    site.start()
    web = site.attach("web-1", ["tcp:8080:80"])
    site.serve(site.outside, 80)
    site.serve(web, 80)
    assert not findings(site)
    site.host.run("iptables-nft", "-N", "DOCKER-USER")
    site.host.run("iptables-nft", "-A", "FORWARD", "-j", "DOCKER-USER")
    site.host.run("iptables-nft", "-P", "FORWARD", "DROP")
    assert ask(web, OUTSIDE, 80, timeout=1) is None
    found = findings(site)
    assert any("FORWARD" in f["text"] and "outside" in f["text"] for f in found), found
    assert any("published" in f["text"] for f in found), found
    assert all("DOCKER-USER" in f["advice"] for f in found if "docker" in f["text"]), found
    for command in found[0]["advice"].replace("iptables", "iptables-nft").split(";"):
        site.host.run(*command.split())
    assert ask(web, OUTSIDE, 80) and ask(site.outside, UPLINK, 8080), "the advice helps"
    assert not findings(site)


def test_input_policy_is_named(site):
    site.start()
    web = site.attach("web-1")
    site.host.run("nft", "add table inet strict; add chain inet strict in { type filter hook input priority 0; "
                  "policy drop; }; add rule inet strict in iifname lo accept")
    assert resolve(web, site.harness.ok("show")["network"]["gateway"], "web-1", timeout=1) is None
    texts = [f["text"] for f in findings(site)]
    assert any("inet strict" in t and "DHCP" in t for t in texts) and any("name lookups" in t for t in texts), texts
    site.host.run("nft", "insert", "rule", "inet", "strict", "in", "iifname", "polder0", "accept")
    assert not findings(site)


def test_legacy_iptables_is_named(site):
    site.start()
    site.attach("web-1")
    if site.host.run("iptables-legacy", "-P", "FORWARD", "DROP", check=False).returncode:
        pytest.skip("this kernel has no iptables-legacy")
    assert any("iptables-legacy" in f["text"] for f in findings(site))


def test_flushed_ruleset_is_written_again(site):
    site.start()
    web, bad = site.attach("web-1", ["tcp:8080:80"]), site.attach("bad")
    site.serve(web, 80)
    for command in ["flush ruleset", "delete table bridge polder", "delete table inet polder"]:
        site.host.run("nft", *command.split())
        wait_until(lambda: "table bridge polder" in rules(site) and "table inet polder" in rules(site), command)
        assert ask(site.outside, UPLINK, 8080)
    other = site.attach("other")
    assert ask(other, UPLINK, 8080)
    # A change that is refused is made whole.
    site.host.run("nft", "flush", "set", "bridge", "polder", "senders")
    site.detach(bad)
    assert ask(site.outside, UPLINK, 8080)


def test_udp_flows_follow_the_published_port(site):
    site.start()
    keep = site.attach("keep")
    client = site.outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    client.connect((UPLINK, 8080))
    site.sockets.append(client)

    def try_once():
        try:
            client.send(b"x")
            return client.recv(100).decode().split()[0]
        except OSError:
            return None

    assert try_once() is None, "nothing is published yet"
    first = site.attach("first", ["udp:8080:80"])
    site.serve(first, 80, udp=True, reply=b"first")
    assert try_once() == "first", "a flow from before"
    second = site.attach("second")  # while the first is there: another address
    site.serve(second, 80, udp=True, reply=b"second")
    site.detach(first)
    site.harness.ok("update", **{**second.record, "ports": ["udp:8080:80"]})
    assert try_once() == "second"
    third = site.attach("third")
    site.serve(third, 80, udp=True, reply=b"third")
    site.harness.ok("update", **{**second.record, "ports": []})
    site.harness.ok("update", **{**third.record, "ports": ["udp:8080:80"]})
    assert try_once() == "third"
    assert keep.address in rules(site)


def test_forwarding(site):
    site.host.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    site.start()
    web = site.attach("web-1")
    assert site.host.read("/proc/sys/net/ipv4/ip_forward") == "1"
    assert any("ip_forward" in f["text"] for f in findings(site, "note"))
    site.detach(web)
    site.start()
    site.harness.ok("reset")
    assert site.host.read("/proc/sys/net/ipv4/ip_forward") == "0"


# --- life and death ----------------------------------------------------------------------------------------------

def test_nothing_stays_but_the_bridge(site):
    before = rules(site)
    site.start()
    members = [site.attach(f"m-{i}", [f"tcp:{9000 + i}:80"]) for i in range(3)]
    pid = site.dnsmasq_pid()
    assert site.harness("reset")["code"] == "in-use"
    for member in members:
        site.detach(member)
    assert rules(site) == before
    assert "polder0" in links(site.host)
    assert not [name for name in links(site.host) if name.startswith("pl") and name != "polder0"]
    assert not Path(f"/proc/{pid}/ns/net").exists() or os.readlink(f"/proc/{pid}/ns/net") != os.readlink(site.host.path)
    assert not (site.directory / "run/network").exists()
    assert site.host.read("/proc/sys/net/ipv4/conf/polder0/route_localnet") == "0"
    site.harness.ok("reset")
    assert "polder0" not in links(site.host)
    assert not list((site.directory / "state").iterdir())
    site.harness.ok("reset")
    site.harness.ok("detach", uuid=str(uuids.uuid4()))
    site.attach("again")


def test_dnsmasq_is_adopted(site):
    site.start()
    web = site.attach("web-1", ["tcp:8080:80"])
    site.serve(web, 80)
    pid = site.dnsmasq_pid()
    site.harness.kill()
    site.harness = None
    assert ask(site.outside, UPLINK, 8080), "all goes on without the daemon"
    gateway = site.start().ok("show")["network"]["gateway"]
    assert site.dnsmasq_pid() == pid and site.harness.ok("show")["network"]["dnsmasq"]
    assert ask(site.outside, UPLINK, 8080)
    new = site.attach("new")
    assert wait_until(lambda: resolve(web, gateway, "new") == new.address, "the adopted one learns names")
    # A record of another process with the same pid is no dnsmasq of ours.
    record = site.directory / "run/network/dnsmasq.json"
    data = json.loads(record.read_text())
    site.harness.kill()
    site.harness = None
    record.write_text(json.dumps({**data, "pid": os.getpid()}))
    site.start()
    assert wait_until(lambda: resolve(web, gateway, "new") == new.address, "a new one serves")


def test_dnsmasq_is_restarted(site):
    site.start()
    web = site.attach("web-1")
    gateway = site.harness.ok("show")["network"]["gateway"]
    pid = site.dnsmasq_pid()
    for _ in range(2):
        os.kill(site.dnsmasq_pid(), signal.SIGKILL)
        wait_until(lambda: site.dnsmasq_pid() != pid, "a new dnsmasq")
        pid = site.dnsmasq_pid()
        assert wait_until(lambda: resolve(web, gateway, "web-1") == web.address, "it serves")


def test_dnsmasq_is_unprivileged(site):
    site.start()
    site.attach("web-1")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{site.dnsmasq_pid()}/status").read_text().splitlines())
    assert "0" not in status["Uid"].split()
    # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW at most.
    assert int(status["CapEff"], 16) & ~(1 << 10 | 1 << 12 | 1 << 13) == 0
    assert status["NoNewPrivs"].strip() == "1"
    mounts = [line.split() for line in Path(f"/proc/{site.dnsmasq_pid()}/mountinfo").read_text().splitlines()]
    writable = [m[4] for m in mounts if "ro" not in m[5].split(",")]
    assert writable == ["/mnt"], writable


STEPS = ["network-marked", "network-bridge-made", "network-rules-loaded", "network-bridge-up", "network-dnsmasq-started",
         "network-rules-added", "network-dhcp-written", "network-files-written", "network-veth-made",
         "network-port-configured"]
END_STEPS = ["network-port-removed", "network-member-left", "network-dnsmasq-stopped", "network-rules-removed"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_attaching(site, step):
    site.start(failpoints=f"{step}=kill@1")
    member = site.member("web-1", ["tcp:8080:80"])
    namespace = site.namespace()
    try:
        answer = site.harness("attach", netns=namespace.path, **member)
    except EOFError:
        pass
    else:
        pytest.skip(f"fail points are not compiled in: {answer}")
    site.harness.kill()
    site.harness = None
    # The instance did not start: what was made goes.
    site.start()
    site.harness.ok("orphans", known=[], remove=True)
    assert site.harness.ok("orphans", known=[])["found"] == []
    assert "polder" not in rules(site) and not (site.directory / "run/network").exists()
    assert not [name for name in links(site.host) if name.startswith("pl") and name != "polder0"]
    # And trying again succeeds.
    site.harness.ok("attach", netns=namespace.path, **member)
    site.members[member["uuid"]] = member
    site.serve(namespace, 80)
    assert ask(site.outside, UPLINK, 8080)


@pytest.mark.parametrize("step", END_STEPS)
def test_killed_while_detaching(site, step):
    site.start(failpoints=f"{step}=kill@1")
    web = site.attach("web-1", ["tcp:8080:80"])
    try:
        answer = site.harness("detach", uuid=web.uuid)
    except EOFError:
        pass
    else:
        pytest.skip(f"fail points are not compiled in: {answer}")
    site.harness.kill()
    site.harness, site.members = None, {}
    site.start()
    site.harness.ok("orphans", known=[], remove=True)
    assert "polder" not in rules(site) and not (site.directory / "run/network").exists()
    site.attach("web-1", ["tcp:8080:80"])


def test_a_member_that_stays_when_another_is_orphaned(site):
    site.start()
    stays, lost = site.attach("stays", ["tcp:8080:80"]), site.attach("lost", ["tcp:8081:80"])
    site.serve(stays, 80)
    site.harness.kill()
    site.harness = None
    del site.members[lost.uuid]
    site.start()
    assert [f.split()[0] for f in site.harness.ok("orphans", known=[stays.uuid])["found"]] == ["interface"]
    site.harness.ok("orphans", known=[stays.uuid], remove=True)
    assert site.harness.ok("orphans", known=[stays.uuid])["found"] == []
    assert lost.address not in rules(site) and ask(site.outside, UPLINK, 8080)


# --- rates -------------------------------------------------------------------------------------------------------

def flow(site, source, target, address, port, seconds=2.0):
    """Bytes per second from a socket in source to one in target."""
    listener = target.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen()
    sender = source.socket(socket.AF_INET, socket.SOCK_STREAM)
    sender.settimeout(DEADLINE)
    sender.connect((address, port))
    receiver = listener.accept()[0]
    stop = threading.Event()

    def push():
        try:
            while not stop.is_set():
                sender.send(bytes(65536))
        except OSError:
            return

    thread = threading.Thread(target=push)
    thread.start()
    start, total = time.monotonic(), 0
    receiver.settimeout(DEADLINE)
    while time.monotonic() - start < seconds:
        total += len(receiver.recv(65536))
    rate = total / (time.monotonic() - start)
    stop.set()
    receiver.close()
    thread.join()
    sender.close()
    listener.close()
    return rate


def test_rates(site):
    site.start()
    answer = site.harness("attach", netns=site.namespace().path, **site.member("probe", rate_in=1000000))
    if answer["result"] < 0:
        assert answer["code"] == "host-lacks", answer
        pytest.skip(answer["error"])
    slow = site.attach("slow", rate_in=1000000, rate_out=1500000)
    assert flow(site, site.host, slow, slow.address, 6000) < 1500000
    assert flow(site, slow, site.outside, OUTSIDE, 6001) < 2500000
    site.harness.ok("update", **{**slow.record, "rate_in": 0, "rate_out": 0})
    assert flow(site, site.host, slow, slow.address, 6002) > 5000000
    assert flow(site, slow, site.outside, OUTSIDE, 6003) > 5000000
    assert "limit pl" + slow.uuid.replace("-", "")[:10] not in rules(site)


def port_of(member):
    return "pl" + member.uuid.replace("-", "")[:10]


def queues(site, member):
    """(kind, handle, bytes a second) of what was put before a member's port."""
    found = json.loads(site.host.run("tc", "-j", "qdisc", "show", "dev", port_of(member)).stdout)
    return [(q["kind"], q["handle"], q["options"].get("rate")) for q in found if q.get("handle") != "0:"]


def limits(site):
    """Bytes a second by port, of what members send."""
    units = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}
    found = json.loads(site.host.run("nft", "-j", "list", "table", "bridge", "polder").stdout)["nftables"]
    return {item["limit"]["name"]: item["limit"]["rate"] * units[item["limit"]["rate_unit"]] for item in found if "limit" in item}


def table_handles(site):
    return re.findall(r"table \w+ polder \{ # handle (\d+)", site.host.run("nft", "-a", "list", "ruleset").stdout)


def test_rates_change_in_place(site):
    """One small transaction each: nothing is written anew, and who is not asked about keeps his."""
    site.start()
    slow, other = site.attach("slow", rate_in=1000000, rate_out=1 << 20), site.attach("other", rate_in=5000, rate_out=4096)
    handles = table_handles(site)
    assert queues(site, slow) == [("tbf", "1:", 1000000)] and limits(site) == {port_of(slow): 1 << 20, port_of(other): 4096}
    site.host.run("nft", "add", "rule", "bridge", "polder", "guard", "counter", "comment", "kept")
    for inward, outward in ((2000000, 3 << 20), (12 << 30, 12 << 30), (4096, 0), (0, 4096), (0, 0), (70000, 1 << 30)):
        site.harness.ok("update", **{**slow.record, "rate_in": inward, "rate_out": outward})
        assert queues(site, slow) == ([("tbf", "1:", inward)] if inward else [])
        assert limits(site) == {port_of(other): 4096, **({port_of(slow): outward} if outward else {})}
        assert queues(site, other) == [("tbf", "1:", 5000)]
    assert table_handles(site) == handles and "kept" in rules(site)
    # The most that is taken limits nothing here, and the least still lets one talk.
    site.harness.ok("update", **{**slow.record, "rate_in": 12 << 30, "rate_out": 12 << 30})
    assert flow(site, slow, site.host, site.harness.ok("show")["network"]["gateway"], 6004) > 1000000
    assert flow(site, site.host, slow, slow.address, 6005) > 1000000
    site.serve(other, 80)
    assert ask(site.host, other.address, 80)


def test_rates_that_did_not_reach_the_port(site):
    """As after a crash between a change's record and the port: what is adopted is made true."""
    site.start()
    slow, free, own = site.attach("slow", rate_in=1000000), site.attach("free"), site.attach("own")
    site.harness.kill()
    site.harness = None
    site.host.run("tc", "qdisc", "del", "dev", port_of(slow), "root")
    site.host.run("tc", "qdisc", "add", "dev", port_of(free), "root", "handle", "1:", "tbf", "rate", "1mbit", "burst", "65536",
                  "limit", "70000")
    site.host.run("tc", "qdisc", "add", "dev", port_of(own), "root", "handle", "7:", "tbf", "rate", "8mbit", "burst", "65536",
                  "limit", "70000")
    for member, inward, outward in ((slow, 1500000, 1 << 21), (free, 0, 0)):
        site.members[member.uuid] = {**member.record, "rate_in": inward, "rate_out": outward}
    site.start()
    assert queues(site, slow) == [("tbf", "1:", 1500000)] and limits(site) == {port_of(slow): 1 << 21}
    assert queues(site, free) == [] and queues(site, own) == [("tbf", "7:", 1000000)], "somebody else's stays"
    site.harness.ok("update", **{**slow.record, "rate_in": 0, "rate_out": 0})
    assert queues(site, slow) == [] and limits(site) == {}
    stranger = site.member("stranger", rate_in=1000000)
    assert site.harness("update", **stranger)["code"] == "not-found"


# --- figures (printed, no limit) ---------------------------------------------------------------------------------

def resident(site):
    pid = site.harness.process.pid
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def test_figures(site):
    site.start()
    idle = resident(site)
    first = site.member("first")
    start = site.harness.ok("attach", netns=site.namespace().path, **first)["microseconds"]
    site.members[first["uuid"]] = first
    used, attach, detach = resident(site), [], []
    for i in range(20):
        member, namespace = site.member(f"m-{i}", [f"tcp:{9000 + i}:80"]), site.namespace()
        attach.append(site.harness.ok("attach", netns=namespace.path, **member)["microseconds"])
        detach.append(site.harness.ok("detach", uuid=member["uuid"])["microseconds"])
    attach.sort()
    detach.sort()
    print(f"\nfirst attach {start / 1000:.1f} ms; attach {attach[10] / 1000:.2f} ms; detach {detach[10] / 1000:.2f} ms; "
          f"resident {idle} -> {used} KiB")


def test_programs_are_there():
    for program in ("dnsmasq", "nft", "ip", "nsenter", "unshare", "busybox"):
        assert shutil.which(program), f"{program} is missing"
