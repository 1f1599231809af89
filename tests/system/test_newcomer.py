# SPDX-License-Identifier: GPL-2.0-or-later
"""What a new user meets: mistyped image names, commands that cannot run, media to boot from, what doctor names, the
configuration's lines, and what an installation brings along."""
import json
import os
import socket
import subprocess
import threading

import pytest

import polderlib
from polderlib import DEADLINE, build_directory
from test_cli import Command, complete
from test_images import iso


@pytest.fixture(scope="module")
def daemon_with_image():
    if os.geteuid() != 0:
        pytest.skip("polderd needs root")
    daemon = polderlib.Daemon(fake=True).start()
    Command(daemon)("image", "build", "busybox")
    yield daemon
    daemon.close()


@pytest.fixture
def polder(daemon_with_image):
    command = Command(daemon_with_image)
    yield command
    left = command.out("ls", "--deleted", "-q").split()
    if left:
        command("rm", "-f", "--purge", "-q", *left)


# --- images ---------------------------------------------------------------------------------------------------------------

def test_mistyped_image_is_told_once(polder):
    for words, status in [(("run", "busbox", "true"), 125), (("create", "busbox"), 1), (("image", "show", "busbox"), 1),
                          (("image", "rm", "busbox"), 1), (("image", "tag", "busbox", "other"), 1)]:
        lines = polder.error(*words, status=status).splitlines()
        assert lines == ["polder: there is no image 'busbox'", "polder: did you mean 'busybox'?"], words


def test_missing_image_tells_how_to_get_it(polder):
    for name, wanted in [("nginx", "polder image pull docker://docker.io/library/nginx'"),
                         ("team/tool:1", "polder image pull docker://docker.io/team/tool:1'"),
                         ("ghcr.io/team/tool", "polder image pull docker://ghcr.io/team/tool'"),
                         ("debian:trixie", "polder image build debian:trixie'")]:
        lines = polder.error("run", name, status=125).splitlines()
        assert len(lines) == 2 and wanted in lines[1], lines


def test_image_in_use_names_the_instance(polder):
    polder("create", "--name", "web", "--kind", "container", "busybox")
    assert polder.error("image", "rm", "busybox").splitlines() == ["polder: image 'busybox' is in use by the instance 'web'"]
    polder("rm", "web")
    assert "the instance 'web', which is in the trash" in polder.error("image", "rm", "busybox")


def test_run_without_image_says_what_to_name(polder):
    text = polder.error("run", status=125)
    assert "polder run busybox" in text and "--cdrom" in text


def test_a_medium_needs_no_image(polder, tmp_path):
    """--kind auto takes the machine, and the ISO stands in for the image; what is no ISO is refused, and nobody falls."""
    daemon = polder.daemon
    medium = tmp_path / "medium.iso"
    medium.write_bytes(iso(tmp_path))
    polder("image", "import", medium, "--name", "medium", "-q")
    shown = daemon.expect(200, "POST", "/v1/instances?dry_run=true", {"spec": {"cdrom": "medium"}}).json
    assert shown["assigned"]["kind"] == "vm" and shown["assigned"]["why_kind"]
    polder("create", "--name", "installer", "--cdrom", "medium")
    assert daemon.instance("installer")["assigned"]["image_digest"].startswith("sha256:")
    assert "'installer'" in polder.error("image", "rm", "medium")
    for kind in ("vm", "auto"):
        assert "no ISO" in polder.error("create", "--kind", kind, "--cdrom", "busybox", status=2)
        assert "there is no image 'absent'" in polder.error("create", "--kind", kind, "--cdrom", "absent")
    assert "'image' is required" in polder.error("create", "--kind", "container", "--cdrom", "medium", status=2)
    assert daemon.is_alive()
    polder("rm", "--purge", "installer")
    polder("image", "rm", "medium")


def test_wrong_words_are_told_before_an_image_is_sent(polder, tmp_path):
    """Of a terabyte nobody could wait for the end."""
    disk = tmp_path / "large.raw"
    with open(disk, "wb") as file:
        file.truncate(1 << 40)
    for words, wanted in [(("--format", "qcow3"), "'format' cannot be 'qcow3'"), (("--checksum", "md5:aa"), "'checksum' cannot be 'md5:aa'"),
                          (("--name", "a b"), "cannot be 'a b'")]:
        assert wanted in polder.error("image", "import", disk, *words, status=2)


def test_directory_that_is_no_layout_is_not_sent(polder, tmp_path):
    with open(tmp_path / "large.raw", "wb") as file:
        file.truncate(1 << 40)
    assert "it has no index.json" in polder.error("image", "import", f"{tmp_path}/", status=2)


def test_archives_tell_what_to_do(polder, tmp_path):
    (tmp_path / "a.ovf").write_text("<Envelope/>")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "a.ova", "a.ovf"], check=True)
    assert "give the .vmdk inside" in polder.error("image", "import", tmp_path / "a.ova")
    subprocess.run(["gzip", "-k", tmp_path / "a.ova"], check=True)
    assert "gzip -d" in polder.error("image", "import", tmp_path / "a.ova.gz")
    (tmp_path / "disk.raw").write_bytes(b"\1" * 4096)
    assert "format: it is declared as 'qcow2' but is raw" in polder.error("image", "import", tmp_path / "disk.raw", "--format", "qcow2")


# --- commands that cannot run ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command, status, text", [
    ("no-such-program", 127, "'no-such-program' is not found in the instance"),
    ("/no/such/program", 127, "'/no/such/program' is not found in the instance"),
    ("/etc", 126, "'/etc' cannot be executed: it is no regular file"),
    ("/etc/passwd", 126, "'/etc/passwd' cannot be executed: Permission denied")])
def test_unrunnable_commands_give_one_line(polder, command, status, text):
    polder("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    done = polder("exec", "box", command, status=status)
    assert done.stdout == "" and done.stderr == f"polder: {text}\n"
    ended, shown = polder.terminal("exec", "-t", "box", command)
    assert ended == status and len(shown.splitlines()) == 1 and text.encode() in shown


def test_errors_of_commands_are_their_own(polder):
    """What a command prints first is never taken for the starter's words, however short it lives."""
    polder("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    for _ in range(20):
        done = polder("exec", "box", "sh", "-c", "echo first >&2; exit 3", status=3)
        assert done.stderr == "first\n"
    done = polder("exec", "box", "sh", "-c", "echo one >&2; sleep 0.2; echo two >&2")
    assert done.stderr == "one\ntwo\n"


def test_progress_in_words(polder):
    polder("run", "-d", "--kind", "fake", "--name", "slow", "--label", "polder.fake.stop=delay=2s", "fake")
    assert polder("stop", "slow").stderr == "polder: stopping slow\n"


def test_filters_take_known_words(polder):
    assert "--state takes one of" in polder.error("ls", "--state", "runing", status=2)
    assert "--kind takes one of" in polder.error("ls", "--kind", "jail", status=2)


def test_help_lists_values(polder):
    for words, wanted in [(("run",), "on-failure[:TIMES]"), (("run",), "container, microvm, vm"),
                          (("image", "import"), "vhdx"), (("image", "build"), "both")]:
        assert wanted in " ".join(polder.out(*words, "--help").split())
    for words in (("run",), ("set",), ("doctor",), ("image", "pull")):
        for line in polder.out(*words, "--help").splitlines():
            assert len(line) <= 112 and line == line.rstrip(), line
    assert polder.out("--version") == polder.out("version")


# --- doctor ---------------------------------------------------------------------------------------------------------------

def doctor(daemon):
    return {item["text"]: item for item in daemon.get("/v1/doctor")}


def test_doctor_names_missing_helpers(make_daemon):
    daemon = make_daemon().start()
    assert "Polder's own helper programs are installed" in doctor(daemon)
    for name in ("polder-enter", "polder-worker", "polder-guest", "polder-seed"):
        path = daemon.directory / "libexec" / name
        path.unlink()
        found = doctor(daemon)[f"{path} is not there"]
        assert found["level"] == "error" and found["reason"].startswith("needed for ") and found["advice"]


def hidden(*paths):
    """A shell fragment that makes programs vanish, for what is started by it."""
    script = []
    for number, folder in enumerate(sorted({os.path.dirname(os.path.realpath(path)) for path in paths})):
        place = f'"$hide"/{number}'
        names = [os.path.basename(path) for path in paths if os.path.dirname(os.path.realpath(path)) == folder]
        script += [f"mkdir -p {place}/upper {place}/work"]
        script += [f"mknod {place}/upper/{name} c 0 0" for name in names]
        script += [f"mount -t overlay overlay -o lowerdir={folder},upperdir={place}/upper,workdir={place}/work {folder}"]
    return 'hide=$(mktemp -d); mount -t tmpfs hidden "$hide"; ' + "; ".join(script)


def test_doctor_names_missing_programs(make_daemon):
    programs = ["/usr/bin/crun", "/usr/bin/conmon", "/usr/bin/qemu-system-x86_64", "/usr/bin/skopeo", "/usr/sbin/dnsmasq",
                "/usr/lib/qemu/virtiofsd"]
    there = [path for path in programs if os.path.exists(path)]
    assert there
    daemon = make_daemon(before=hidden(*there)).start()
    findings = doctor(daemon)
    for path in there:
        found = findings[f"{path} is not there"]
        assert found["reason"] and found["advice"].startswith("apt-get install "), found
    told = [one for one in daemon.get("/v1/doctor") if "skopeo" in one["text"] + (one["reason"] or "")]
    assert len(told) == 1, f"each package once: {told}"
    assert findings["container instances cannot run"]["reason"] if "/usr/bin/crun" in there else True


# --- the configuration ----------------------------------------------------------------------------------------------------

def polderd(*arguments, cwd=None):
    return subprocess.run([build_directory() / "src/daemon/polderd", *arguments], capture_output=True, text=True, cwd=cwd,
                          timeout=DEADLINE)


def test_several_mount_roots_on_a_line(make_daemon, tmp_path):
    roots = [tmp_path / name for name in ("one", "two", "three")]
    for root in roots:
        root.mkdir()
    daemon = make_daemon()
    (daemon.directory / "polderd.conf").write_text(f"mount_roots = {roots[0]}  {roots[1]}\nmount_roots = {roots[2]}\n")
    os.chmod(daemon.directory / "polderd.conf", 0o600)
    daemon.start()
    for root in roots:
        daemon.create(root.name, mounts=[{"source": str(root), "target": "/inside"}])
        daemon.delete(root.name, purge=True)
    problem = daemon.problem(403, "POST", "/v1/instances",
                             {"spec": {"kind": "fake", "mounts": [{"source": str(tmp_path), "target": "/x"}]}})
    assert all(str(root) in problem["detail"] for root in roots)


@pytest.mark.parametrize("name", ["state", "run", "libexec", "mount-roots"])
def test_relative_paths_are_refused(tmp_path, name):
    done = polderd(f"--{name}", "somewhere", cwd=tmp_path)
    assert done.returncode == 2 and "give an absolute path" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_configuration_errors_name_file_and_line(tmp_path):
    path = tmp_path / "polderd.conf"
    path.write_text("# comment\nmount_roots = /srv home\n")
    path.chmod(0o600)
    done = polderd("--config", str(path))
    assert done.returncode == 2 and f"{path}, line 2" in done.stderr and "absolute" in done.stderr


# --- what an installation brings ------------------------------------------------------------------------------------------

def test_installation_brings_completions_and_man_pages(polder, tmp_path):
    done = subprocess.run(["meson", "install", "-C", str(build_directory()), "--no-rebuild", "--destdir", str(tmp_path)],
                          capture_output=True, text=True, timeout=10 * DEADLINE)
    assert done.returncode == 0, done.stderr
    share = next(path for path in tmp_path.rglob("share") if (path / "man").is_dir())
    pages = {path.name for path in (share / "man/man1").iterdir()}
    assert {"polder.1", "polder-run.1", "polder-image-pull.1"} <= pages
    assert "suspend" in (share / "fish/vendor_completions.d/polder.fish").read_text()
    assert (share / "zsh/site-functions/_polder").read_text().startswith("#compdef polder")
    script = share / "bash-completion/completions/polder"
    assert set(complete(polder, script, "polder", "image", "p")) == {"pull", "prune"}
    installed = {path.name for path in tmp_path.rglob("polder-*") if path.parent.name == "polder"}
    assert {"polder-enter", "polder-worker", "polder-guest", "polder-mkinitramfs", "polder-seed", "polder-kvm-probe",
            "polder-build-busybox", "polder-build-debian"} <= installed


# --- words that read badly ------------------------------------------------------------------------------------------------

def test_usage_names_the_whole_command(polder):
    assert "see 'polder image build --help'" in polder.error("image", "build", status=2)
    assert "see 'polder image pull --help'" in polder.error("image", "pull", "--colour", "x", status=2)
    assert "did you mean '--platform'?" in polder.error("image", "pull", "--platfrm", "x", status=2)


def test_errors_say_it_once_and_whole(polder):
    assert polder.error("console", "nobody", status=None).splitlines()[0] == "polder: there is no instance 'nobody'"
    assert "cannot be 'B B'" in polder.error("image", "tag", "busybox", "B B", status=2)
    pulled = polder.error("image", "pull", "docker://127.0.0.1:1/x", status=None)
    assert "connection refused" in pulled and "\\" not in pulled


def test_text_that_names_a_file(polder, tmp_path):
    (tmp_path / "data.yaml").write_text("#cloud-config\n{}\n")
    for flag in ("--user-data", "--ssh-key"):
        told = polder.error("create", "--kind", "vm", flag, tmp_path / "data.yaml", "busybox", status=2)
        assert told == f"polder: '{flag}' takes the text itself: give '@{tmp_path}/data.yaml' for what is in that file\n"


def test_what_cannot_change_now_tells_when(polder):
    polder("run", "-d", "--name", "web", "--kind", "fake", "fake")
    assert "'disk' cannot change while the instance runs: stop it first" in polder.error("set", "web", "--disk", "2G")
    assert "'name' cannot change while the instance runs: stop it first" in polder.error("set", "web", "--rename", "shop")


def test_reply_that_breaks_off(tmp_path):
    """What goes wrong in the middle of an archive cannot be told in HTTP; that it went wrong can."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()

    def answer():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-tar\r\n\r\n200\r\n" + b"\0" * 512 + b"\r\n")
        connection.close()
    server = threading.Thread(target=answer)
    server.start()
    done = subprocess.run([build_directory() / "src/cli/polder", "--socket", tmp_path / "sock", "cp", "web:/x", "-"], capture_output=True,
                          timeout=DEADLINE)
    server.join()
    listener.close()
    assert done.returncode == 125 and b"it broke its reply off in the middle; its log says why" in done.stderr, done


def test_what_is_empty_takes_one_line(polder):
    text = '[{"a" : \\ }]'
    polder("create", "--name", "web", "--kind", "fake", "--label", f"k={text}", "fake")
    shown = polder.out("show", "web")
    assert '"mounts": [],' in shown and json.loads(shown)["spec"]["labels"] == {"k": text}


def test_operations_tell_why_they_failed(polder):
    polder("create", "--name", "web", "--kind", "fake", "--label", "polder.fake.start=fail=1", "fake")
    polder("start", "web", status=None)
    rows = [line for line in polder.out("ops", "ls", "-o", "wide").splitlines() if "instance.start" in line and "/web " in line]
    assert rows and "failed" in rows[0] and not rows[0].endswith(" -"), rows
    assert not any("%" in line for line in polder.out("ops", "ls").splitlines() if " done " in line)


def test_plans_leave_the_trash_alone(polder):
    polder("create", "--name", "web", "--kind", "fake", "fake")
    polder("rm", "web")
    assert "more stay" not in polder.out("optimize", "plan")


def test_what_is_new_has_no_position_yet(polder):
    row = polder.out("what-if", "--add", "1").splitlines()[1].split()
    assert row[:3] == ["new", "1", "-"], row
