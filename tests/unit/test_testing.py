"""Machines that play a script: what users test their devices with, without KVM."""

from __future__ import annotations

from typing import Any

import pytest
from tests.devices import Notes

from hyperpy import Device, Exit
from hyperpy.testing import Read, ScriptedMachine, Write

MMIO = 0xFE00_0000


def test_script_reaches_the_device_in_order_and_ends_in_a_halt() -> None:
    script = [
        Read(mmio=MMIO + 4), Write(7, mmio=MMIO + 8, size=8), Read(pio=0x83, size=1, times=2), Write(9, pio=0x80, times=3),
    ]  # fmt: skip
    with ScriptedMachine(script) as m:
        device = m.attach(Notes(), mmio=MMIO)
        m.attach(device, pio=0x80)
        assert m.run(1.0) == Exit.Halt(0)
    assert device.seen == [(4, 4), (8, 8, 7), (3, 1), (3, 1), *[(0, 4, 9)] * 3]
    assert m.reads == [4, 3, 3]


def test_script_past_every_device_is_an_exit_that_can_be_answered() -> None:
    with ScriptedMachine([Read(pio=0x99, size=2), Write(1, mmio=MMIO)]) as m:
        access = m.run(1.0)
        assert access == Exit.Pio(0, 0x99, 2, False, 0)
        assert isinstance(access, Exit.Pio)
        m.answer(access, 0x1234)
        assert m.run(1.0) == Exit.Mmio(0, MMIO, 4, True, 1)
        assert m.reads == [0x1234]


def test_device_that_stops_or_raises_does_as_under_kvm() -> None:
    class Broken(Device):
        size = 1

        def read(self, offset: int, size: int, /) -> int:
            raise ZeroDivisionError

    with ScriptedMachine([Write(0xFF, pio=0x70, size=1), Read(pio=0x80, size=1)]) as m:
        m.attach(Notes(), pio=0x70)
        m.attach(Broken(), pio=0x80)
        assert m.run(1.0) == Exit.Stopped(0, "last")
        with pytest.raises(ZeroDivisionError) as raised:
            m.run(1.0)
        assert "device Broken: read of port 0x80, 1 bytes, vcpu 0" in raised.value.__notes__[0]
        assert m.run(1.0) == Exit.Halt(0)
        assert m.reads == [0xFF]


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Read(), "one bus"),
        (Read(pio=1, mmio=1), "one bus"),
        (Read(pio=0x10000, size=1), "out of range"),
        (Read(mmio=-1), "out of range"),
        (Read(pio=0, size=8), "no guest makes"),
        (Read(mmio=0, size=9), "no guest makes"),
        (Write(256, pio=0, size=1), "too wide"),
        (Write(-1, pio=0, size=1), "too wide"),
    ],
)
def test_access_that_no_guest_makes_is_refused(access: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScriptedMachine([access])


def test_machine_without_kept_reads_runs_many_and_keeps_none() -> None:
    with ScriptedMachine([Read(mmio=MMIO, times=10_000)], keep_reads=False) as m:
        device = m.attach(Notes(), mmio=MMIO)
        assert m.run(10.0) == Exit.Halt(0)
        assert len(device.seen) == 10_000
        assert m.reads == []
        assert m.stats.hits["python"] == 10_000
