# SPDX-License-Identifier: GPL-2.0-or-later
"""For the tests that run inside the VM: the installed command, and waiting."""
import json
import os
import subprocess
import time

GENEROUS = 180  # seconds; the machine is emulated


def run(*command, status=0, timeout=GENEROUS, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, **options)
    if status is not None:
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Polder:
    """The command, for the daemon behind one socket."""

    def __init__(self, socket="/run/polder/polder.sock"):
        self.environment = {**os.environ, "NO_COLOR": "1", "POLDER_SOCKET": str(socket)}

    def __call__(self, *arguments, status=0, **options):
        return run("polder", *arguments, status=status, env=self.environment, **options)

    def show(self, name):
        return json.loads(self("show", name).stdout)

    def execute(self, name, *command, status=0):
        return self("exec", name, "--", *command, status=status)

    def sh(self, name, script, status=0):
        return self.execute(name, "sh", "-c", script, status=status).stdout

    def findings(self):
        """What doctor says."""
        done = self("doctor", "--output", "json", status=None)
        return json.loads(done.stdout)


def wait_for(condition, what, seconds=GENEROUS):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)
