# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests/system/test_hosts.py runs inside a Debian VM: Polder's network beside the real Docker, ufw and firewalld.

"outside" is another host: a network namespace behind a veth pair, where the VM's default route leads."""
import os
import pathlib
import re
import subprocess

import pytest

from insidelib import Polder, run, wait_for

OUTSIDE, UPLINK, PORT = "198.51.100.1", "198.51.100.2", 8080
FACTS = {  # what has to work, and what doctor calls it
    "outside": "traffic of instances to the outside", "published": "published ports", "names": "name lookups of instances",
    "between": "traffic between instances",
}
polder = Polder()


def outside(*command, **options):
    return run("ip", "netns", "exec", "outside", *command, **options)


@pytest.fixture(scope="module", autouse=True)
def site():
    """The other host, with a web server, and two instances: "web" publishes its own, "client" asks."""
    for words in (["netns", "add", "outside"], ["link", "add", "up0", "type", "veth", "peer", "eth0", "netns", "outside"],
                  ["address", "add", f"{UPLINK}/24", "dev", "up0"], ["link", "set", "up0", "up"],
                  ["route", "add", "default", "via", OUTSIDE, "metric", "1"]):
        run("ip", *words)
    for words in (["address", "add", f"{OUTSIDE}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                  ["link", "set", "lo", "up"]):
        outside("ip", *words)
    pages = pathlib.Path("/var/tmp/outside")
    pages.mkdir(exist_ok=True)
    (pages / "index.html").write_text("from outside\n")
    server = subprocess.Popen(["ip", "netns", "exec", "outside", "busybox", "httpd", "-f", "-p", f"{OUTSIDE}:80", "-h", pages],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if polder("image", "show", "busybox", status=None).returncode != 0:
        polder("image", "build", "busybox")
    polder("run", "-d", "--kind", "container", "--name", "web", "--publish", f"{PORT}:80", "busybox", "--", "sh", "-c",
           "mkdir /www; echo from inside >/www/index.html; exec httpd -f -h /www")
    polder("run", "-d", "--kind", "container", "--name", "client", "busybox", "--", "sleep", "1000000")
    try:
        yield
    finally:
        for name in ("web", "client"):
            polder("rm", "--force", "--purge", name, status=None)
        polder("network", "reset", status=None)
        server.kill()
        server.wait()
        run("ip", "link", "delete", "up0", status=None)
        run("ip", "netns", "delete", "outside", status=None)


def fetch(port):
    """What another host gets from a port of this one; "" if nothing."""
    script = f"import urllib.request as r; print(r.urlopen('http://{UPLINK}:{port}/', timeout=4).read())"
    return outside("python3", "-c", script, status=None).stdout


def answers(fact):
    """Does this work now?"""
    if fact == "outside":
        return "from outside" in polder.sh("client", f"timeout 5 wget -q -O - http://{OUTSIDE}/", status=None)
    if fact == "published":
        return "from inside" in fetch(PORT)
    if fact == "names":
        return address("web") in polder.sh("client", "nslookup web", status=None)
    return "from inside" in polder.sh("client", f"timeout 5 wget -q -O - http://{address('web')}/", status=None)


def address(name):
    return polder.show(name)["assigned"]["address"].split("/")[0]


def all_answer():
    return all(answers(fact) for fact in FACTS)


def blockers():
    return [row for row in polder.findings() if row["level"] == "error" and row["topic"] == "network" and " blocks " in row["text"]]


def tables():
    """Polder's own table, but for its counters."""
    return re.sub(r"counter packets \d+ bytes \d+", "counter", run("nft", "list", "table", "inet", "polder").stdout)


class Docker:
    name = "docker"

    @staticmethod
    def start():
        run("systemctl", "unmask", "containerd", "docker.socket", "docker")
        run("systemctl", "start", "docker")

    @staticmethod
    def restarts():
        run("systemctl", "restart", "docker")

    @staticmethod
    def stop():
        run("systemctl", "stop", "docker.socket", "docker", "containerd")
        run("ip", "link", "delete", "docker0", status=None)


class Ufw:
    name = "ufw"

    @staticmethod
    def start():
        run("ufw", "--force", "enable")
        assert "Status: active" in run("ufw", "status").stdout

    @staticmethod
    def restarts():
        run("ufw", "reload")

    @staticmethod
    def stop():
        run("ufw", "--force", "reset")
        run("ufw", "disable")


class Firewalld:
    name = "firewalld"

    @staticmethod
    def start():
        run("systemctl", "unmask", "firewalld")
        run("systemctl", "start", "firewalld")
        run("firewall-cmd", "--state")

    @staticmethod
    def restarts():
        run("firewall-cmd", "--reload")
        run("systemctl", "restart", "firewalld")
        run("firewall-cmd", "--state")

    @staticmethod
    def stop():
        run("firewall-cmd", "--permanent", "--zone=trusted", "--remove-interface=polder0", status=None)
        run("systemctl", "stop", "firewalld")


@pytest.fixture(params=[Docker, Ufw, Firewalld], ids=lambda one: one.name)
def firewall(request):
    run("systemctl", "start", "polderd")
    wait_for(all_answer, "everything to work before")
    try:
        request.param.start()
        yield request.param
    finally:
        request.param.stop()
        # Whatever it left; Polder's own rules are written again.
        run("nft", "flush", "ruleset")
        for path in pathlib.Path("/proc/sys/net/bridge").glob("bridge-nf-call-iptables"):
            path.write_text("0")
        run("systemctl", "restart", "polderd")


def test_beside(firewall):
    """Each thing works, or doctor names who blocks it; doctor's advice is what makes it work; nothing of that is lost when
    the other one starts anew, and Polder's own rules neither."""
    own = tables()
    works = {fact: answers(fact) for fact in FACTS}
    found = blockers()
    for fact in FACTS:
        named = [row for row in found if FACTS[fact] in row["text"]]
        assert works[fact] != bool(named), (fact, works, found)
        assert all(firewall.name in row["text"] and row["advice"] for row in named), named
    for advice in dict.fromkeys(row["advice"] for row in found):
        run("sh", "-ec", advice)
    wait_for(all_answer, f"what doctor advised to help: {found}", 60)
    assert blockers() == []
    firewall.restarts()
    wait_for(all_answer, "everything after the other one's restart", 60)
    assert tables() == own and blockers() == []
    # New members and ports come and go as before.
    polder("run", "-d", "--kind", "container", "--name", "late", "--publish", "8081:80", "busybox", "--", "sh", "-c",
           "mkdir /www; echo late >/www/index.html; exec httpd -f -h /www")
    try:
        wait_for(lambda: "late" in fetch(8081), "the new port")
    finally:
        polder("rm", "--force", "--purge", "late")
    assert tables() == own
    run("systemctl", "restart", "polderd")
    wait_for(all_answer, "everything after polderd's restart", 60)
    assert tables() == own


def test_instances_that_start_beside(firewall):
    """polderd and its first instance come up when the other one is there already."""
    for advice in dict.fromkeys(row["advice"] for row in blockers()):
        run("sh", "-ec", advice)
    for name in ("web", "client"):
        polder("stop", name)
    run("systemctl", "restart", "polderd")
    for name in ("web", "client"):
        polder("start", name)
    # firewalld forgets interfaces that went away; doctor says so again.
    for advice in dict.fromkeys(row["advice"] for row in blockers()):
        run("sh", "-ec", advice)
    wait_for(all_answer, "everything", 60)


def test_containers_of_docker():
    """Both publish ports: each its own, and neither takes the other's."""
    run("systemctl", "start", "polderd")
    Docker.start()
    try:
        run("sh", "-ec", "mkdir -p /var/tmp/root/bin /var/tmp/root/www; cp /bin/busybox /var/tmp/root/bin; "
            "echo by docker >/var/tmp/root/www/index.html; tar c -C /var/tmp/root . | docker import - box")
        # AppArmor's tools are no dependency of Docker's package; the kernel's part alone makes it fail.
        run("docker", "run", "--detach", "--name", "theirs", "--security-opt", "apparmor=unconfined", "--publish", "8082:80", "box",
            "/bin/busybox", "httpd", "-f", "-h", "/www")
        for advice in dict.fromkeys(row["advice"] for row in blockers()):
            run("sh", "-ec", advice)
        wait_for(lambda: "by docker" in fetch(8082), "Docker's container")
        wait_for(all_answer, "everything", 60)
        done = polder("run", "-d", "--kind", "container", "--name", "late", "--publish", "8082:80", "busybox", "--", "sleep", "10",
                      status=None)
        assert done.returncode != 0 and "8082" in done.stderr and "docker-proxy" in done.stderr, done
        polder("rm", "--force", "--purge", "late", status=None)
        assert "by docker" in fetch(8082) and answers("published")
    finally:
        polder("rm", "--force", "--purge", "late", status=None)
        run("docker", "rm", "--force", "theirs", status=None)
        Docker.stop()
        run("nft", "flush", "ruleset")
        run("systemctl", "restart", "polderd")


def test_programs_are_real():
    for program in ("dockerd", "ufw", "firewalld"):
        assert any(os.access(f"{folder}/{program}", os.X_OK) for folder in ("/usr/sbin", "/usr/bin")), program
