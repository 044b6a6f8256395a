"""What all tests share: where a test may run, and that a machine left open is a failure.

Tests below tests/kvm use the host's /dev/kvm, tests below tests/lab want one that runs kernels. A test whose place lacks
what it needs is skipped with a reason; with HYPERPY_NO_SKIPS=1 the run then fails (scripts/totals.py counts).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # so that `tests.guests` is found however pytest is called


@pytest.hookimpl
def pytest_configure() -> None:
    # Ignored where a shell or nohup has put the run into the background, for every program that a test starts too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from hyperpy.doctor import kernel_code_is_native

    for item in items:
        # Into the JUnit report, where scripts/faults.py reads them.
        item.user_properties += [("fault", row) for mark in item.iter_markers("fault") for row in mark.args]
        folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if folder in {"kvm", "lab"}:
            item.add_marker(getattr(pytest.mark, folder))
        if folder == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            item.add_marker(pytest.mark.skip(reason="needs a /dev/kvm that can be opened"))
        if folder == "lab" and not kernel_code_is_native():
            item.add_marker(pytest.mark.skip(reason="needs a KVM that runs kernels: `make test-lab`"))
