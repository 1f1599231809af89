# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for tests of the real daemon. Whoever needs more of the daemon adds it to polderlib.Daemon."""
import os
import re

import pytest

import polderlib


def pytest_configure(config):
    for marker in ("scenario: the real daemon with the fake driver", "slow: takes more than half a minute",
                   "long: only for ./check --long",
                   "alone: takes what others would get (process ids, processor time), so that none may run beside it"):
        config.addinivalue_line("markers", marker)


# Inside a machine (see polderlib.NESTED): modules that run machines. Others skip where they would start one.
MACHINES = re.compile(r"test_(cgroup2|fsck|hosts|quickstart|qemu_driver|machine\w*|guest_boot|image_build|crash_faults|vm|microvm)$")


def runs_machines(item):
    parameters = getattr(item, "callspec", None)
    return item.name == "test_a_medium_needs_no_image" or "microvm" in item.name or \
        bool(MACHINES.match(item.module.__name__.rpartition(".")[2])) or \
        bool(parameters and {"vm", "microvm"} & {value for value in parameters.params.values() if isinstance(value, str)})


def pytest_collection_modifyitems(items):
    if os.environ.get("POLDER_TEST_NESTED"):
        for item in items:
            if runs_machines(item):
                item.add_marker(pytest.mark.skip(reason=polderlib.NESTED))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture
def make_daemon(request):
    """A function that makes a Daemon (polderlib) which is checked and ended after the test; not yet started."""
    if os.geteuid() != 0:
        pytest.skip("polderd needs root")
    if not (polderlib.build_directory() / "src/daemon/polderd").exists():
        pytest.skip(f"no polderd in {polderlib.build_directory()}; set POLDER_BUILD")
    daemons = []

    def make(*arguments, **options):
        daemons.append(polderlib.Daemon(*arguments, **options))
        return daemons[-1]

    yield make
    failed = getattr(request.node, "report_call", None) is None or request.node.report_call.failed
    for daemon in daemons:
        if failed:
            print(f"--- {daemon.log_path} ends with:\n{daemon.log()[-6000:]}")
        daemon.close(check=not failed)


@pytest.fixture
def daemon(make_daemon):
    """A running polderd with the fake driver and no network."""
    return make_daemon().start()
