"""Signals that come while machines are made: KVM gives up then, and hyperpy tries again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from hyperpy import Exit, Flat, Machine


@pytest.fixture
def alarms() -> Iterator[None]:
    """A signal with a Python handler every 0.3 ms."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.fault(37)
@pytest.mark.usefixtures("alarms")
def test_machine_made_while_signals_come_runs() -> None:
    for _ in range(300):
        with Machine(memory="1M") as m:
            m.load(Flat(b"\xf4", at=0x1000, mode="real"))
            assert isinstance(m.run(timeout=5), Exit.Halt)
