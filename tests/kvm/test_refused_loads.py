"""A load that is refused: memory, registers, devices, interrupt controllers and policy are as they were."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from tests.programs import elf

import hyperpy
from hyperpy import (
    BootError,
    DebugExit,
    Device,
    DeviceError,
    Exit,
    Firmware,
    Flat,
    Linux,
    Machine,
    Multiboot,
    Pvh,
    StateError,
)

RUN = 10.0
SPIN = bytes([0xEB, 0xFE])
HALT = bytes([0xFA, 0xF4])  # cli; hlt
FIRMWARE = bytes(0x1000 - 16) + HALT.ljust(16, b"\x90")


class Port(Device):
    """A device that keeps nothing."""

    size = 1

    def read(self, offset: int, size: int, /) -> int:
        return 0

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


class Strange:
    """An image of a script's own, which attaches a device and then finds that it cannot be loaded."""

    def load_into(self, machine: Machine) -> None:
        machine.attach_pc()
        machine.attach(Port(), mmio=0xFE00_0000, irq=5)
        raise LookupError("strange")


def standing(m: Machine) -> list[Any]:
    """What a load changes."""
    memory = [
        (gpa, m.memory.read(gpa, size))
        for gpa, size, kind, *_ in m._native.memory.regions()
        if kind != "mmio"
    ]
    return [m.state, m.unclaimed, m._native.irqchip, m.routes, m.map.rows, m.map.interrupts, memory]


REFUSED: dict[str, tuple[hyperpy.Image, type[Exception]]] = {
    "linux that is none": (Linux(b"none"), BootError),
    "linux with a command line that is too long": (Linux(elf(HALT), cmdline="x" * 5000), BootError),
    "linux whose initrd does not fit": (Linux(elf(HALT), initrd=bytes(4 << 20)), BootError),
    "pvh without its note": (Pvh(elf(HALT)), BootError),
    "multiboot without its header": (Multiboot(gzip.compress(b"none")), BootError),
    "firmware of half a page": (Firmware(bytes(0x800)), BootError),
    "firmware without code": (Firmware(bytes(0x1000)), BootError),
    "firmware with a file that is none": (Firmware(FIRMWARE, files={"x" * 99: b""}), ValueError),
    "flat code beyond memory": (Flat(HALT, at=0x8000_0000), BootError),
    "an image that raises": (Strange(), LookupError),
}


@pytest.mark.fault(41)
@pytest.mark.parametrize("image", REFUSED)
@pytest.mark.parametrize("vcpus_exist", [False, True])
def test_refused_load_changes_nothing(image: str, vcpus_exist: bool) -> None:
    wrong, error = REFUSED[image]
    with Machine(memory="2M", irqchip=vcpus_exist) as m:
        m.attach(Port(), pio=0x99)
        m.load(Flat(HALT, mode="real"))
        registers = m.vcpus[0].regs.all() if vcpus_exist else {}
        before = standing(m)
        with pytest.raises(error):
            m.load(wrong)
        assert standing(m) == before
        if vcpus_exist:
            assert m.vcpus[0].regs.all() == registers
            m.load(Linux(elf(SPIN)))
            assert m.run(0.05) == Exit.Timeout()
            assert "uart com1" in {row.name for row in m.map.rows}
        else:  # without interrupt controllers, as it was made
            assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize(("port", "irqchip"), [(0x3F8, False), (0x510, False), (0x402, False), (0x402, True)])
def test_firmware_where_a_device_is_changes_nothing(port: int, irqchip: bool) -> None:
    with Machine(memory="2M", irqchip=irqchip) as m:
        device = m.attach(DebugExit(), pio=port)
        before = standing(m)
        with pytest.raises(DeviceError, match="overlaps DebugExit"):
            m.load(Firmware(FIRMWARE))
        assert standing(m) == before
        m.detach(device)
        m.load(Firmware(FIRMWARE))
        assert m.run(RUN) == Exit.Halt(0)


def test_refused_load_keeps_what_the_load_before_has_brought() -> None:
    with Machine(memory="2M") as m:
        m.load(Firmware(FIRMWARE, files={"one": b"1"}))
        before = standing(m)
        with pytest.raises(BootError):
            m.load(Firmware(bytes(0x1000), files={"two": b"2"}))
        assert standing(m) == before
        assert m.run(RUN) == Exit.Halt(0)


def test_attach_pc_that_is_refused_asks_for_no_interrupt_controllers() -> None:
    with Machine(memory="1M") as m:
        m.attach(DebugExit(), pio=0x3F8)
        before = standing(m)
        with pytest.raises(DeviceError):
            m.attach_pc()
        assert standing(m) == before


@pytest.mark.parametrize("image", [Linux(elf(HALT)), Strange(), Firmware(FIRMWARE)])
def test_load_into_a_machine_that_runs_attaches_nothing_meanwhile(image: hyperpy.Image) -> None:
    with Machine(memory="2M", irqchip=True) as m:
        m.load(Flat(SPIN, mode="real"))
        m.start()
        before = m.map.rows
        with pytest.raises(StateError, match="cannot load: the machine is running"):
            m.load(image)
        assert m.map.rows == before
