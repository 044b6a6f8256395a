"""Devices that are moved, disabled and detached while two vcpus hammer them: no access is lost or served twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from tests.guests import assemble

from hyperpy import Device, Exit, Machine, Window

RUN = 60.0
LEFT, RIGHT = 0x300, 0x310
PROGRESS, END = 0x7000, 0x7010

# Each turn of vcpu n writes n << 24 | turn to both places; it ends when it is told to.
TURNS = f"""
    mov ebx, {{vcpu:#x}} << 24
again:
    inc ebx
    mov eax, ebx
    mov dx, {LEFT}
    out dx, eax
    mov dx, {RIGHT}
    out dx, eax
    mov [{PROGRESS} + 4 * {{vcpu}}], ebx
    cmp byte ptr [{END}], 0
    je again
    cli
    hlt
"""
START = """
    mov dword ptr [0xfee000f0], 0x1ff
    mov dword ptr [0xfee00310], 0x01000000
    mov dword ptr [0xfee00300], 0x4500
    mov dword ptr [0xfee00300], 0x4608
"""


class Card(Device):
    """Counts every value that is written, by either window."""

    one, other = Window(4), Window(4)

    def __init__(self) -> None:
        self.seen: list[int] = []

    @one.on_write
    @other.on_write
    def _write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(value)


@pytest.fixture
def hammered(boot: Any) -> Machine:
    """Two vcpus at it."""
    m: Machine = boot(START + TURNS.format(vcpu=0), "protected", vcpus=2)
    m.memory.write(0x8000, assemble(TURNS.format(vcpu=1), "real", 0x8000))
    return m


def _turns(m: Machine) -> list[int]:
    progress = memoryview(m.memory.read(PROGRESS, 8)).cast("I")
    return [value & 0xFF_FFFF for value in progress]


def _wait_for_turns(m: Machine, more: int) -> None:
    """Until both vcpus have made as many turns from now on."""
    wanted, end = [turn + more for turn in _turns(m)], time.monotonic() + RUN
    while any(turn < least for turn, least in zip(_turns(m), wanted, strict=True)):
        assert time.monotonic() < end
        time.sleep(0.001)


def _end(m: Machine) -> list[int]:
    m.memory.write(END, b"\1")
    assert isinstance(m.wait(RUN), Exit.Halt)
    return _turns(m)


def _written(turns: list[int]) -> Counter[int]:
    """Every value, once for each of the two places."""
    return Counter({vcpu << 24 | turn: 2 for vcpu in range(2) for turn in range(1, turns[vcpu] + 1)})


@pytest.mark.fault(17)
def test_windows_that_change_places_a_thousand_times_serve_every_access_once(hammered: Machine) -> None:
    m, card = hammered, Card()
    m.attach(card, pio={"one": LEFT, "other": RIGHT})
    m.start()
    _wait_for_turns(m, 10)
    for turn in range(1000):
        one, other = (LEFT, RIGHT) if turn % 2 else (RIGHT, LEFT)
        m.move(card, pio={"one": one, "other": other})
    _wait_for_turns(m, 10)
    turns = _end(m)
    assert Counter(card.seen) == _written(turns)
    assert m.stats.hits["unclaimed"] == 0


@pytest.mark.fault(17)
def test_device_that_goes_to_and_fro_serves_each_access_or_leaves_it_to_nobody(hammered: Machine) -> None:
    m, card, nobodys = hammered, Card(), list[int]()
    lock = threading.Lock()

    def keep(access: Any) -> None:
        with lock:
            nobodys.append(access.value)

    m.unclaimed = keep
    m.attach(card, pio={"one": LEFT})
    m.start()
    _wait_for_turns(m, 10)
    for turn in range(1000):
        if turn % 3 == 2:
            m.disable(card)
            m.enable(card)
        else:
            m.move(card, pio={"one": RIGHT if turn % 2 else LEFT})
    turns = _end(m)
    assert Counter(card.seen) + Counter(nobodys) == _written(turns)
    assert card.seen
    assert nobodys


@pytest.mark.fault(17)
@pytest.mark.parametrize("verb", ["detach", "disable"])
def test_no_access_is_served_once_a_device_is_off_the_bus(hammered: Machine, verb: str) -> None:
    m, card = hammered, Card()
    m.unclaimed = "ones"
    m.attach(card, pio={"one": LEFT, "other": RIGHT})
    m.start()
    _wait_for_turns(m, 10)
    getattr(m, verb)(card)
    served = len(card.seen)
    _wait_for_turns(m, 100)
    assert len(card.seen) == served
    assert Counter(card.seen) < _written(_end(m))
