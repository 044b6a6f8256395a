"""What the tests on the host's KVM share: machines that are closed at the end, and guests written in the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from tests.guests import Mode, assemble

from hyperpy import Flat, Machine


class Boot(Protocol):
    """Makes a machine that has loaded a guest, given in assembly, at 0x1000."""

    def __call__(self, source: str = "hlt", mode: Mode = "real", **options: Any) -> Machine: ...


@pytest.fixture
def boot() -> Iterator[Boot]:
    with contextlib.ExitStack() as machines:

        def make(source: str = "hlt", mode: Mode = "real", **options: Any) -> Machine:
            machine = machines.enter_context(Machine(**{"memory": "2M", **options}))
            machine.load(Flat(assemble(source, mode), at=0x1000, mode=mode))
            return machine

        yield make
