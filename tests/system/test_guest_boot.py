# SPDX-License-Identifier: GPL-2.0-or-later
"""A real microVM under software emulation, driven over the wire: what polder-guest promises in protocol.h.

Needs qemu-system-x86_64, mkfs.erofs, mkfs.ext4, busybox-static, a kernel with its modules (POLDER_TEST_KERNEL_DIR with
boot/vmlinuz-* and lib/modules/*, else the host's /boot) and a build (POLDER_BUILD_DIR, else ./build).
"""
import glob
import io
import os
import shutil
import struct
import subprocess
import tarfile
import time

import pytest

import guestwire as gw
from guestwire import MAIN, Machine

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/home/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1001:\nextra:x:2000:web\n"


def need(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not path:
        pytest.skip(f"{program} is not installed")
    return path


def find_kernel():
    """(bzImage, module directory) of the newest kernel that has both."""
    for base in filter(None, [os.environ.get("POLDER_TEST_KERNEL_DIR"), "/"]):
        for image in sorted(glob.glob(os.path.join(base, "boot/vmlinuz-*")), reverse=True):
            version = os.path.basename(image).removeprefix("vmlinuz-")
            modules = os.path.join(base, "lib/modules", version)
            if os.path.exists(os.path.join(modules, "modules.dep.bin")):
                return image, modules
    pytest.skip("no kernel with modules (POLDER_TEST_KERNEL_DIR or /boot; modules.dep comes from depmod)")


def built(name):
    for base in filter(None, [os.environ.get("POLDER_BUILD_DIR"), "build"]):
        path = os.path.join(base, "src/guest", name)
        if os.access(path, os.X_OK):
            return path
    pytest.skip(f"{name} is not built (POLDER_BUILD_DIR)")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    need("qemu-system-x86_64")
    busybox = need("busybox")
    place = tmp_path_factory.mktemp("guest")
    bzimage, modules = find_kernel()
    mkinitramfs, guest = built("polder-mkinitramfs"), built("polder-guest")
    kernel, initramfs, root, disk = (str(place / name) for name in ("vmlinux", "initramfs", "root.erofs", "disk"))
    subprocess.run([mkinitramfs, "--vmlinux", bzimage, "--output", kernel], check=True)
    subprocess.run([mkinitramfs, "--modules", modules, "--guest", guest, "--output", initramfs], check=True)
    tree = place / "tree"
    for name in ("bin", "etc", "home/web", "root", "usr", "var"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    for name in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if name != "busybox":
            (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "etc/group").write_text(GROUP)
    # An image's traps: links where the agent writes.
    (tree / "etc/resolv.conf").symlink_to("/etc/passwd")
    (tree / "etc/hosts").symlink_to("/nowhere/hosts")
    (tree / "bin/no-interpreter").write_text("#!/nowhere/sh\n")
    (tree / "bin/no-interpreter").chmod(0o755)
    (tree / "bin/plain").write_text("not a program\n")
    (tree / "bin/garbage").write_bytes(b"\0garbage")
    (tree / "bin/garbage").chmod(0o755)
    subprocess.run([need("mkfs.erofs"), root, str(tree)], check=True, capture_output=True)
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run([need("mkfs.ext4"), "-q", "-F", disk], check=True)
    return place, kernel, initramfs, root, disk


@pytest.fixture
def boot(images, tmp_path):
    machines = []

    def make(**options):
        _, kernel, initramfs, root, disk = images
        if options.pop("with_disk", False):
            options["disk"] = disk
        machines.append(Machine(str(tmp_path), kernel, initramfs, root, **options))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture(scope="module")
def shared(images, tmp_path_factory):
    """One running machine for the tests that leave it as they found it."""
    _, kernel, initramfs, root, _ = images
    machine = Machine(str(tmp_path_factory.mktemp("vm")), kernel, initramfs, root)
    try:
        wire = machine.connect()
        state = wire.hello()
        assert not state["started"]
        wire.start(["/bin/sleep", "1000000"], hostname="web-1", search="polder.internal", dns=["10.1.2.1"],
                   hosts=[{"address": "10.1.2.9", "name": "db db.internal"}],
                   network=[{"mac": "52:54:00:12:34:56", "address": "10.1.2.3/24", "gateway": "10.1.2.1",
                             "mtu": 1400}],
                   mounts=[{"type": "tmpfs", "target": "/data/cache", "size": 1 << 20}])
        yield wire
    finally:
        machine.close()


def test_exit_code_poweroff(boot):
    vm = boot()
    wire = vm.connect()
    state = wire.hello()
    assert state["version"] == 1 and state["booted"] and len(state["boot_id"]) == 36
    wire.start(["sh", "-c", "echo out; echo err >&2; exit 7"])
    main = wire.stream(MAIN)
    wire.wait(lambda: main.exit)
    assert (bytes(main.stdout), bytes(main.stderr)) == (b"out\n", b"err\n")
    assert main.exit == {"code": 7} and main.ended == {gw.STDOUT, gw.STDERR}
    wire.send(gw.ACK, MAIN)
    assert vm.wait_exit() == 0


@pytest.mark.parametrize("args,code,word", [
    (["nowhere"], 127, "not found"), (["/bin/nowhere"], 127, "No such file"), (["/bin/plain"], 126, "denied"),
    (["/bin"], 126, "directory"), (["/bin/garbage"], 126, "format"), (["no-interpreter"], 127, "No such file"),
])
def test_start_errors(shared, args, code, word):
    result = shared.run(20, args)
    assert result.exit["code"] == code and word in result.exit["error"]


def test_main_start_error(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["/nowhere"])
    main = wire.finish(MAIN)
    assert main.exit["code"] == 127 and "nowhere" in main.exit["error"]
    assert vm.wait_exit() == 0


def test_setup_error(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["/bin/true"], network=[{"mac": "52:54:00:00:00:01", "address": "10.0.0.1/8"}])
    main = wire.finish(MAIN)
    assert main.exit["code"] == 125 and "52:54:00:00:00:01" in main.exit["error"]
    assert vm.wait_exit() == 0


def output(wire, script, **fields):
    result = wire.run(21, ["/bin/sh", "-c", script], **fields)
    assert result.exit == {"code": 0}, (result.exit, bytes(result.stderr))
    return bytes(result.stdout).decode()


def test_settings(shared):
    assert output(shared, "hostname; cat /etc/hostname") == "web-1\nweb-1\n"
    hosts = output(shared, "cat /etc/hosts")
    assert "10.1.2.3\tweb-1\n" in hosts and "10.1.2.9\tdb db.internal\n" in hosts
    assert output(shared, "cat /etc/resolv.conf") == "search polder.internal\nnameserver 10.1.2.1\n"
    assert output(shared, "cat /etc/passwd") == PASSWD  # resolv.conf was a link to it


def test_network(shared):
    address = output(shared, "ip addr show eth0")
    assert "inet 10.1.2.3/24 brd 10.1.2.255" in address and "mtu 1400" in address and ",UP" in address
    assert "default via 10.1.2.1 dev eth0" in output(shared, "ip route")
    assert "LOOPBACK,UP" in output(shared, "ip addr show lo")


def test_mounts_and_clock(shared):
    assert "tmpfs /data/cache tmpfs" in output(shared, "cat /proc/mounts")
    assert abs(int(output(shared, "date +%s")) - time.time()) < 600
    for path in ("/dev/shm", "/dev/pts", "/sys/fs/cgroup", "/proc", "/dev/mqueue"):
        assert f" {path} " in output(shared, "cat /proc/mounts")
    assert output(shared, "echo through > /dev/stdout") == "through\n"


def test_main_is_pid_one(shared):
    assert output(shared, "tr '\\0' ' ' < /proc/1/cmdline") == "/bin/sleep 1000000 "
    assert "polder" not in output(shared, "ps")


def test_environment(shared):
    lines = output(shared, "env", env=["A=b c", "HOME="]).splitlines()
    assert {"A=b c", "HOME=/root", "HOSTNAME=web-1",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} <= set(lines)
    assert "TERM=xterm" not in lines


@pytest.mark.parametrize("user,shown", [
    ("web", "1000 1001 1001 2000 /home/web"), ("web:extra", "1000 2000 2000 /home/web"),
    ("1000", "1000 1001 1001 2000 /home/web"), ("5:6", "5 6 6 /"), ("", "0 0 0 /root"), ("77", "77 0 0 /"),
])
def test_users(shared, user, shown):
    assert output(shared, "echo $(id -u) $(id -g) $(id -G) $HOME", user=user).strip() == shown


@pytest.mark.parametrize("user", ["nobody", "0:nogroup", "2147483647", "99999999999", "web:2147483648"])
def test_bad_users(shared, user):
    result = shared.run(22, ["/bin/true"], user=user)
    assert result.exit["code"] == 126 and result.exit["error"]


def test_unprivileged_reopens_stdout(shared):
    assert output(shared, "echo mine > /dev/stdout", user="web") == "mine\n"


def test_working_directory(shared):
    assert output(shared, "pwd", cwd="/home/web") == "/home/web\n"
    assert shared.run(23, ["/bin/true"], cwd="/not/there").exit["code"] == 126


def test_stdin(shared):
    data = os.urandom(1 << 20)
    result = shared.run(24, ["/bin/cat"], data=data)
    assert bytes(result.stdout) == data and result.exit == {"code": 0}


def test_stdin_nobody_reads(shared):
    """Input for a program that never reads stops at the window; others go on."""
    shared.streams.pop(25, None)
    shared.send(gw.EXEC, 25, {"args": ["/bin/sleep", "1000"], "stdin": True})
    for _ in range(4):
        shared.send(gw.STDIN, 25, bytes(65536))
    assert output(shared, "echo fine") == "fine\n"
    assert shared.stream(25).credits <= 65536 * 2
    shared.send(gw.STDIN, 25, bytes(65536))
    shared.send(gw.STDIN, 25, bytes(65536))
    shared.wait(lambda: shared.stream(25).errors)
    shared.stream(25).errors.clear()
    shared.send(gw.SIGNAL, 25, {"signal": 9})
    assert shared.finish(25).exit == {"code": 137, "signal": 9}


def test_signal(shared):
    shared.streams.pop(26, None)
    shared.send(gw.EXEC, 26, {"args": ["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"]})
    shared.wait(lambda: b"ready" in shared.stream(26).stdout)
    shared.send(gw.SIGNAL, 26, {"signal": 10})
    assert shared.finish(26).exit == {"code": 9}


def test_terminal(shared):
    shared.streams.pop(27, None)
    shared.send(gw.EXEC, 27, {"args": ["/bin/sh"], "tty": True, "stdin": True, "rows": 30, "columns": 90})
    stream = shared.stream(27)
    shared.write(27, b"stty size; tty; echo T=$TERM\n")
    shared.wait(lambda: b"30 90\r\n" in stream.stdout and b"/dev/pts/" in stream.stdout and b"T=xterm" in
                stream.stdout)
    shared.send(gw.RESIZE, 27, {"rows": 40, "columns": 100})
    shared.write(27, b"stty size\n")
    shared.wait(lambda: b"40 100\r\n" in stream.stdout)
    shared.write(27, b"sh -c 'trap \"echo caught; exit\" INT; echo $((6*7)) ready; while :; do sleep 0.1; done'\n")
    shared.wait(lambda: b"42 ready\r\n" in stream.stdout)
    shared.write(27, b"\x03")
    shared.wait(lambda: b"caught\r\n" in stream.stdout)
    shared.write(27, b"echo after $((40+2))\n")
    shared.wait(lambda: b"after 42" in stream.stdout)
    shared.write(27, b"exit 5\n")
    assert shared.finish(27).exit == {"code": 5}
    assert not stream.stderr


def test_background_child_outlives_exec(shared):
    result = shared.run(28, ["sh", "-c", "(sleep 2; echo late; echo alive > /data/cache/late) & echo now"])
    assert result.exit == {"code": 0} and bytes(result.stdout) == b"now\n"
    output(shared, "for i in $(seq 300); do [ -s /data/cache/late ] && exit 0; sleep 0.2; done; exit 1")


def test_unread_channel_does_not_block(shared):
    """A channel without credit stops at its window while others work."""
    shared.credit = False
    shared.streams.pop(29, None)
    shared.send(gw.EXEC, 29, {"args": ["/bin/cat", "/dev/zero"]})
    stream = shared.stream(29)
    shared.wait(lambda: stream.total == gw.WINDOW)
    for _ in range(3):
        assert output(shared, "echo fine") == "fine\n"
    assert stream.total == gw.WINDOW
    shared.send(gw.SIGNAL, 29, {"signal": 9})
    shared.credit = True
    at = len(stream.stdout)
    shared.send(gw.CREDIT, 29, struct.pack("<I", gw.WINDOW))
    assert shared.finish(29).exit == {"code": 137, "signal": 9}
    assert stream.total - at <= 1 << 20


def test_many_channels(shared):
    for channel in range(100, 100 + 63):
        shared.send(gw.EXEC, channel, {"args": ["/bin/cat"], "stdin": True})
    shared.send(gw.EXEC, 200, {"args": ["/bin/true"]})
    shared.wait(lambda: shared.stream(200).errors)
    for channel in range(100, 100 + 63):
        shared.write(channel, b"%d" % channel)
        shared.send(gw.STDIN, channel)
    for channel in range(100, 100 + 63):
        result = shared.finish(channel)
        assert result.exit == {"code": 0} and bytes(result.stdout) == b"%d" % channel


def test_memory(shared):
    shared.send(gw.MEMORY, 0)
    shared.wait(lambda: shared.memory)
    assert 0 < shared.memory["available"] < shared.memory["total"] < 256 << 20


@pytest.mark.parametrize("kind,channel,payload,word", [
    (gw.EXEC, 40, b"{", "malformed"), (gw.EXEC, 40, b"[]", "object"), (gw.EXEC, 40, b'{"args":"x"}', "list"),
    (gw.EXEC, 40, b'{"args":["x"],"surprise":1}', "surprise"), (gw.EXEC, 40, b'{"args":["x\\u0000y"]}', "control"),
    (gw.EXEC, 1, b'{"args":["x"]}', "taken"), pytest.param(gw.EXEC, 40, b"[" * 60000, "malformed", id="deep"), (gw.STDIN, 41, b"x", "41"),
    (gw.SIGNAL, MAIN, b'{"signal":65}', "between"), (gw.SIGNAL, MAIN, b'{"signal":0}', "0"),
    (gw.CREDIT, MAIN, b"abc", "credit"), (gw.CREDIT, MAIN, b"\xff\xff\xff\xff", "credit"), (gw.EXIT, MAIN, b"", "8"),
    (gw.ACK, MAIN, b"", "acknowledge"), (gw.POWER, 0, b'{"action":"explode"}', "poweroff"),
    (gw.CLOCK, 0, b'{"entropy":"???"}', "base64"), (gw.HELLO, 0, b"polder-guest/1 ", "hello"),
])
def test_bad_requests(shared, kind, channel, payload, word):
    stream = shared.stream(channel)
    stream.errors.clear()
    shared.send(kind, channel, payload)
    shared.wait(lambda: stream.errors)
    assert word in stream.errors[0]
    stream.errors.clear()
    assert output(shared, "echo fine") == "fine\n"


@pytest.mark.parametrize("noise", [b"\xff" * 100, struct.pack("<IBBHI", 70000, 5, 0, 0, 1), bytes(5000),
                                   struct.pack("<IBBHI", 0, 99, 0, 0, 1), struct.pack("<IBBHI", 0, 5, 1, 0, 1)])
def test_noise_then_hello(shared, noise):
    shared.socket.sendall(noise)
    shared.hello()
    assert output(shared, "echo fine") == "fine\n"


def test_hello_behind_unfinished_frame(shared):
    """The former daemon died in the middle of a frame."""
    shared.socket.sendall(gw.frame(gw.STDIN, MAIN, bytes(5000))[:3000])
    shared.hello()
    assert output(shared, "echo fine") == "fine\n"


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(value)
                info.mode, info.uid, info.gid, info.mtime = 0o640, 1000, 1001, 1234567890
                tar.addfile(info, io.BytesIO(value))
            else:
                info.linkname = value
                info.mode = 0o755
                tar.addfile(info)
    return buffer.getvalue()


def test_put_and_get(shared):
    big = os.urandom(3 << 20)
    name = "ünï/" + "long-" * 40 + ".txt"
    data = tar_of(("ünï", tarfile.DIRTYPE, ""), (name, tarfile.REGTYPE, b"text"), ("ünï/big", tarfile.REGTYPE, big),
                  ("ünï/link", tarfile.SYMTYPE, "big"), ("ünï/hard", tarfile.LNKTYPE, "ünï/big"))
    output(shared, "mkdir -p /put")
    result = shared.transfer(gw.PUT, 50, "/put", data)
    assert result.exit == {"code": 0}
    assert output(shared, "stat -c '%a %u %g %Y %h' /put/ünï/big; readlink /put/ünï/link") == \
        "640 1000 1001 1234567890 2\nbig\n"
    result = shared.transfer(gw.GET, 51, "/put/ünï")
    assert result.exit == {"code": 0}
    with tarfile.open(fileobj=io.BytesIO(bytes(result.stdout))) as tar:
        names = {member.name: member for member in tar.getmembers()}
        assert set(names) == {"ünï", name, "ünï/big", "ünï/link", "ünï/hard"}
        assert tar.extractfile("ünï/big").read() == big and tar.extractfile("ünï/hard").read() == big
        assert names["ünï/link"].linkname == "big" and names["ünï/big"].uid == 1000
    output(shared, "rm -r /put")


def test_get_of_root_leaves_kernel_files_out(shared):
    result = shared.transfer(gw.GET, 52, "/")
    assert result.exit == {"code": 0}
    with tarfile.open(fileobj=io.BytesIO(bytes(result.stdout))) as tar:
        names = tar.getnames()
    assert "./etc/passwd" in names and "./proc" in names and not any(n.startswith("./proc/") for n in names)


@pytest.mark.parametrize("path,word", [("/nowhere", "No such file"), ("relative/../../nowhere", "No such file")])
def test_get_errors(shared, path, word):
    result = shared.transfer(gw.GET, 53, path)
    assert result.exit["code"] == 1 and word in result.exit["error"]


def test_put_attack(shared):
    data = tar_of(("in", tarfile.SYMTYPE, "/etc"), ("in/evil", tarfile.REGTYPE, b"x"))
    output(shared, "mkdir -p /put2")
    result = shared.transfer(gw.PUT, 54, "/put2", data)
    assert result.exit["code"] == 1 and "refused" in result.exit["error"]
    assert output(shared, "ls /etc/evil 2>&1; true").startswith("ls:")
    result = shared.transfer(gw.PUT, 55, "/put2", b"no archive at all" * 1000)
    assert result.exit["code"] == 1
    output(shared, "rm -r /put2")


def test_reconnect(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; done; exit 3"])
    wire.wait(lambda: wire.stream(MAIN).total > 50000)
    wire.close()  # mid-stream
    wire = vm.connect()
    state = wire.hello()
    assert state["started"]
    main = wire.stream(MAIN)
    wire.wait(lambda: main.total > 1000)
    wire.close()
    wire = vm.connect()
    wire.hello()
    main = wire.stream(MAIN)
    wire.wait(lambda: main.exit)
    assert main.exit == {"code": 3} and main.stdout.endswith(b"line 100000\n")
    # Without acknowledgement the result stays, however often the daemon comes back.
    for _ in range(3):
        wire.close()
        wire = vm.connect()
        assert wire.hello()["exited"]
        main = wire.stream(MAIN)
        wire.wait(lambda: main.exit)
        assert main.exit == {"code": 3}
    assert vm.process.poll() is None
    wire.send(gw.ACK, MAIN)
    assert vm.wait_exit() == 0


def test_backlog_while_nobody_listens(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sh", "-c", "echo go; read x; yes 0123456789abcde | head -c 4194304; echo; echo last; exit 4"],
               stdin=True)
    wire.wait(lambda: b"go" in wire.stream(MAIN).stdout)
    wire.send(gw.STDIN, MAIN, b"\n")
    wire.close()
    end = time.monotonic() + gw.DEADLINE
    # Until it has ended, connecting anew each time; between two the output must not stop it. A hang-up has to last a
    # second before the agent believes it.
    while True:
        wire = vm.connect()
        state = wire.hello()
        if state.get("exited") or time.monotonic() > end:
            break
        wire.close()
        time.sleep(2)
    main = wire.stream(MAIN)
    wire.wait(lambda: main.exit)
    assert main.exit == {"code": 4} and main.stdout.endswith(b"\nlast\n")
    assert len(main.stdout) <= gw.WINDOW and state["output_offset"] > 3 << 20
    assert state["output_offset"] + len(main.stdout) == 4194304 + len(b"go\n\nlast\n")
    wire.send(gw.ACK, MAIN)
    assert vm.wait_exit() == 0


def test_repeated_start_is_harmless_and_execs_are_orphaned(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sleep", "100000"])
    wire.send(gw.EXEC, 16, {"args": ["sh", "-c", "cat; yes | head -c 3000000; exit 6"], "stdin": True})
    wire.send(gw.MEMORY, 0)
    wire.wait(lambda: wire.memory)
    wire.close()
    wire = vm.connect()
    assert 16 in wire.hello()["channels"]
    wire.start(["false"])
    wire.wait(lambda: wire.stream(16).exit)
    assert wire.stream(16).exit == {"code": 6} and wire.stream(16).total == 0
    wire.send(gw.ACK, 16)
    assert output(wire, "echo fine") == "fine\n"
    wire.send(gw.POWER, 0, {"action": "poweroff", "grace_ms": 500})  # sleep, as pid 1, ignores SIGTERM
    main = wire.stream(MAIN)
    wire.wait(lambda: main.exit)
    assert main.exit == {"code": 137, "signal": 9}
    assert vm.wait_exit() == 0  # also without an acknowledgement


def test_power_before_start(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.send(gw.POWER, 0, {"action": "poweroff"})
    assert vm.wait_exit() == 0


@pytest.mark.parametrize("command,signal", [("poweroff", 2), ("reboot", 1)])
def test_power_off_from_inside(boot, command, signal):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sh", "-c", f"{command} -f; sleep 100000"])
    main = wire.finish(MAIN)
    assert main.exit == {"code": 128 + signal, "signal": signal}
    assert vm.wait_exit() == 0


def test_end_of_main_ends_execs(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sleep", "100000"])
    wire.send(gw.EXEC, 16, {"args": ["sleep", "100000"]})
    wire.send(gw.SIGNAL, MAIN, {"signal": 9})
    main, helper = wire.stream(MAIN), wire.stream(16)
    wire.wait(lambda: main.exit and helper.exit)
    assert main.exit == helper.exit == {"code": 137, "signal": 9}
    wire.send(gw.ACK, MAIN)
    assert vm.wait_exit() == 0


def test_shared_directory(boot, images, tmp_path):
    virtiofsd = shutil.which("virtiofsd", path="/usr/lib/qemu:/usr/libexec:/usr/bin")
    if not virtiofsd:
        pytest.skip("virtiofsd is not installed")
    directory, sock = tmp_path / "share", str(tmp_path / "fs.sock")
    directory.mkdir()
    (directory / "given").write_text("from the host")
    server = subprocess.Popen([virtiofsd, f"--socket-path={sock}", "-o", f"source={directory}", "-o",
                               "sandbox=chroot"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + gw.DEADLINE
        while not os.path.exists(sock):
            if server.poll() is not None or time.monotonic() > end:
                pytest.skip("virtiofsd does not run here")
            time.sleep(0.05)
        vm = boot(extra=["-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-machine",
                         "memory-backend=mem", "-chardev", f"socket,id=fs,path={sock}", "-device",
                         "vhost-user-fs-device,chardev=fs,tag=m0"])
        wire = vm.connect()
        wire.hello()
        wire.start(["sh", "-c", "cat /data/here/given; echo back > /data/here/answer; touch /ro/x"], mounts=[
            {"type": "virtiofs", "tag": "m0", "target": "/data/here"},
            {"type": "virtiofs", "tag": "m0", "target": "/ro", "readonly": True}])
        main = wire.finish(MAIN)
        assert main.stdout == b"from the host" and b"Read-only" in main.stderr, main.exit
        assert (directory / "answer").read_text() == "back\n"
        assert vm.wait_exit() == 0
    finally:
        server.kill()
        server.wait()


def test_transfers_of_a_container(images, tmp_path):
    """The same program in another root, as the daemon runs it for containers."""
    if os.geteuid() != 0:
        pytest.skip("needs root to change the root directory")
    guest = os.open(built("polder-guest"), os.O_RDONLY)
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "link").symlink_to("/in")

    def run_in_root(direction, path, data=b""):
        out, err = tmp_path / "out", tmp_path / "err"
        source = tmp_path / "source"
        source.write_bytes(data)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(source, os.O_RDONLY), 0)
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
            os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            os.chroot(root)
            os.chdir("/")
            try:
                os.execve(guest, ["polder-guest", "archive", direction, path], {})
            finally:
                os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, out.read_bytes(), err.read_text()

    assert run_in_root("put", "/link", tar_of(("f", tarfile.REGTYPE, b"x")))[0] == 0
    assert (root / "in/f").read_text() == "x"
    code, data, _ = run_in_root("get", "/in")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert code == 0 and tar.getnames() == ["in", "in/f"]
    code, _, error = run_in_root("put", "/in", tar_of(("../evil", tarfile.REGTYPE, b"x")))
    assert code == 1 and "refused" in error and not (root / "evil").exists()
    assert run_in_root("get", "/nothing")[0] == 1
    os.close(guest)


def test_disk_keeps_changes(boot, images):
    for expected in ("1", "2"):
        vm = boot(with_disk=True)
        wire = vm.connect()
        wire.hello()
        wire.start(["sh", "-c", "echo x >> /var/count; wc -l < /var/count; sync; exit 0"])
        main = wire.finish(MAIN)
        assert main.stdout.decode().strip() == expected
        assert vm.wait_exit() == 0
    check = subprocess.run([need("e2fsck"), "-fn", images[4]], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    header = subprocess.run([need("dumpe2fs"), "-h", images[4]], capture_output=True, text=True).stdout
    assert "needs_recovery" not in header


def test_readonly_root(boot):
    vm = boot()
    wire = vm.connect()
    wire.hello()
    wire.start(["sh", "-c", "touch /x; echo $?; echo y > /tmp2/y && cat /tmp2/y; cat /etc/hostname"],
               readonly_root=True, hostname="fixed", mounts=[{"type": "tmpfs", "target": "/tmp2"}])
    main = wire.finish(MAIN)
    assert main.stdout.decode() == "1\ny\nfixed\n" and b"Read-only" in main.stderr
    assert vm.wait_exit() == 0


def test_a_gigabyte_in_bounded_memory(boot):
    vm = boot(memory="128M")
    wire = vm.connect(keep=False)
    wire.hello()
    wire.start(["dd", "if=/dev/zero", "bs=64k", "count=16384"])
    main = wire.stream(MAIN)
    least = 1 << 40
    for step in range(1, 9):
        wire.wait(lambda: main.total >= step * (1 << 27), 600)
        wire.memory = None
        wire.send(gw.MEMORY, 0)
        wire.wait(lambda: wire.memory)
        least = min(least, wire.memory["available"])
    wire.wait(lambda: main.exit, 600)
    assert main.total >= 1 << 30 and main.exit == {"code": 0}  # and dd's own report
    assert least > 24 << 20
    wire.send(gw.ACK, MAIN)
    assert vm.wait_exit() == 0
