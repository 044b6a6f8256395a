"""A device's clock and memory where it has none: false, and every use says what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Clock, Device, DeviceError, DmaMemory, Register
from hyperpy.testing import DeviceBench, ScriptedMachine, Write

BASE = 0xFE00_0000


class Copier(Device):
    """Reads guest memory, and asks for it or forgets to."""

    go = Register(0x0, access="wo")

    @go.on_write
    def _go(self, gpa: int) -> None:
        self.memory.read(gpa, 4)


class Asking(Copier):
    dma = True


def test_memory_that_a_class_has_not_asked_for_is_told_by_the_run_with_the_access() -> None:
    with ScriptedMachine([Write(0x1000, mmio=BASE)]) as m:
        m.attach(Copier(), mmio=BASE)
        with pytest.raises(DeviceError, match="device has no memory here: Copier") as caught:
            m.run(timeout=5.0)
    assert caught.value.hint == "`dma = True` in its class asks for guest memory"
    assert "write of 0x1000" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "use", [lambda d: d.clock.after(1, print), lambda d: d.clock.now, lambda d: d.memory.read(0, 1)]
)
def test_clock_and_memory_before_attach_are_false_and_their_use_is_an_error_with_a_way(use: Any) -> None:
    device = Asking()
    assert not device.clock
    assert not device.memory
    assert not hasattr(device.memory, "__len__")
    with pytest.raises(DeviceError, match="device has no (clock|memory) here: Asking") as caught:
        use(device)
    assert caught.value.hint == "attach it to a machine, or put it on a DeviceBench"
    assert repr(device.clock) == "<no clock of Asking>"


def test_what_was_lent_is_there_and_afterwards_as_before() -> None:
    device = Asking()
    with DeviceBench(device):
        assert isinstance(device.clock, Clock)
        assert isinstance(device.memory, DmaMemory)
    with pytest.raises(DeviceError, match="no clock here"):
        device.clock.step(1)
    with ScriptedMachine([]) as m:
        m.attach(Device(), mmio=BASE, size=4)
        with pytest.raises(DeviceError, match="overlaps"):
            m.attach(device, mmio=BASE)
        with pytest.raises(DeviceError, match="no memory here"):
            device.memory.read(0, 1)
        with pytest.raises(DeviceError, match="no clock here"):
            device.clock.step(1)
        m.attach(device, mmio=BASE + 0x100)
        assert device.memory.read(0, 1) == b"\0"
        assert device.clock.now == 0
