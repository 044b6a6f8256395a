"""Where interrupts lead: routes of a gsi, seen by the guest that gets them (docs/faults.md, row 46), and the map of it all."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.guests import guest

from hyperpy import (
    Device,
    DeviceError,
    Exit,
    Flat,
    IoApicPin,
    Machine,
    MachineSpec,
    Msi,
    PicInput,
    StateError,
)

RUN = 10.0
VECTOR = 0x40


class Source(Device):
    """The device of pic.S and msi.S: says when the guest is ready, and how often it was served."""

    size = 3

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.served = threading.Semaphore(0)

    def read(self, offset: int, size: int) -> int:
        self.served.release()
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 2:
            self.ready.set()
        elif offset == 0:
            self.served.release()


def started(m: Machine, name: str, mode: Any, times: int, gsi: int) -> Source:
    m.load(Flat(guest(name, mode), mode=mode))
    m.memory.write(0x3000, bytes([times, 0, 0]))
    source = m.attach(Source(), pio=0x300, irq=gsi)
    m.start()
    assert source.ready.wait(RUN)
    return source


def test_route_leads_a_gsi_to_another_input(boot: Any) -> None:
    m = boot()
    m.route(20, PicInput(5))
    source = started(m, "pic", "real", 2, 20)
    source.irq.pulse()
    assert source.served.acquire(timeout=RUN)
    # While it runs: the gsi that led there before the change does nothing any more, another one does.
    m.route(20)
    m.route(21, IoApicPin(21), PicInput(5))
    source.irq.pulse()
    other = m.attach(Device(), pio=0x310, size=1, irq=21)
    other.irq.pulse()
    assert source.served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert not source.served.acquire(blocking=False)


def test_route_to_a_message_reaches_the_local_apic(boot: Any) -> None:
    m = boot(irqchip=True)
    m.route(24, Msi(0xFEE0_0000, VECTOR))
    source = started(m, "msi", "long", 3, 24)
    for _ in range(3):
        source.irq.pulse()
        assert source.served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 3


@pytest.mark.fault(46)
def test_irq_raised_for_a_gsi_that_leads_nowhere_is_the_guests_to_miss(boot: Any) -> None:
    m = boot()
    source = started(m, "pic", "real", 1, 5)
    m.route(5)
    for _ in range(100):
        source.irq.set(True)
        source.irq.set(False)
    m.route(5, PicInput(5))
    source.irq.pulse()
    assert m.wait(RUN) == Exit.Halt(0)
    assert source.served.acquire(blocking=False)
    assert not source.served.acquire(blocking=False)


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    ("gsi", "targets", "message"),
    [
        (-1, (), "no such gsi: -1"),
        (4096, (), "no such gsi: 4096"),
        (2**40, (), f"no such gsi: {2**40}"),
        (5, (IoApicPin(24),), "no such pin of the I/O APIC: 24"),
        (5, (IoApicPin(2**32 + 1),), "no such pin"),
        (5, (IoApicPin(-1),), "number is out of range"),
        (5, (PicInput(16),), "no such input of the 8259s: 16"),
        (5, (Msi(0x1000, VECTOR),), "message reaches no local APIC: 0x1000"),
        (5, (Msi(0xFEE0_0000, 0x1_0040),), "message data has reserved bits: 0x10040"),
        (5, (Msi(0xFEE0_0000, 0xF),), "message has a vector below 0x10: 0xf"),
        (5, (Msi(0xFEE0_0000, 2**32),), "number is out of range"),
        (5, (Msi(0xFEE0_0000, VECTOR), PicInput(5)), "gsi 5 cannot lead to both"),
        (5, (PicInput(1), PicInput(2)), "gsi 5 cannot lead to both"),
    ],
)
@pytest.mark.fault(46)
def test_route_out_of_range_is_refused_and_changes_nothing(
    boot: Any, gsi: int, targets: tuple[Any, ...], message: str
) -> None:
    m = boot()
    before = m.routes
    with pytest.raises(ValueError, match="(?s)" + message + ".*\n\nhint: "):
        m.route(gsi, *targets)
    assert m.routes == before


@pytest.mark.parametrize("thing", [5, None, "pin 5", IoApicPin])
def test_route_to_what_is_no_target_is_refused(boot: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match="not a target of an interrupt"):
        boot().route(5, thing)


def test_route_too_late_for_controllers_or_after_close_is_refused(boot: Any) -> None:
    m = boot()
    m.run(0)
    with pytest.raises(StateError, match="already exist"):
        m.route(5, PicInput(5))
    m = boot(irqchip=True)
    m.close()
    with pytest.raises(StateError, match="closed"):
        m.route(5, PicInput(5))


@pytest.mark.fault(46)
def test_attach_with_a_gsi_that_leads_nowhere_is_refused(boot: Any) -> None:
    m = boot()
    m.route(5)
    for gsi in (5, 24, -1):
        device = Device()
        with pytest.raises(DeviceError, match=rf"(?s)no such interrupt line: {gsi}\n.*m\.route"):
            m.attach(device, pio=0x300, size=1, irq=gsi)
        assert not device.irq


def test_map_shows_interrupts_of_the_kernel_stock_devices_and_ones_own(boot: Any) -> None:
    class Level(Device):
        size = 1
        irq_level = True

    m = boot()
    assert m.map.interrupts == ()
    m.attach_pc()
    m.route(24, Msi(0xFEE0_0000, VECTOR))
    m.route(7)
    level = Level()
    m.attach(level, pio=0x300, irq=9, name="card")
    m.attach(Device(), pio=0x301, size=1, irq=24)
    shown = {row.gsi: (row.triggers, row.targets, row.devices) for row in m.map.interrupts}
    assert shown == {
        0: (("edge",), ("I/O APIC pin 0", "8259 input 0"), ("pit (in the kernel)",)),
        4: (("edge",), ("I/O APIC pin 4", "8259 input 4"), ("uart com1",)),
        7: ((), (), ()),
        9: (("level",), ("I/O APIC pin 9", "8259 input 9"), ("acpi pm1a event", "card")),
        24: (("edge",), ("message 0x40 to 0xfee00000",), ("Device",)),
    }
    assert "\n 24  edge     message 0x40 to 0xfee00000    Device" in str(m.map)
    m.detach(level)
    assert m.map.interrupts[3].devices == ("acpi pm1a event",)


KERNELS = {
    ("pio", 0x20, 2, "8259 (in the kernel)"),
    ("pio", 0x40, 4, "pit (in the kernel)"),
    ("pio", 0x61, 1, "pit speaker (in the kernel)"),
    ("pio", 0xA0, 2, "8259 (in the kernel)"),
    ("pio", 0x4D0, 2, "8259 elcr (in the kernel)"),
    ("mmio", 0xFEC0_0000, 0x1000, "I/O APIC (in the kernel)"),
    ("mmio", 0xFEE0_0000, 0x1000, "local APIC (in the kernel)"),
}


def kernels(m: Machine) -> set[tuple[str, int, int, str]]:
    return {(row.space, row.base, row.size, row.name) for row in m.map.rows if row.rung == "kernel"}


@pytest.mark.parametrize(
    "asked",
    [
        lambda: Machine(memory="1M", irqchip=True),
        lambda: Machine(memory="1M", vcpus=2),
        lambda: MachineSpec(memory="1M", irqchip=True).make(),
        lambda: MachineSpec(memory="1M", pc=True).make(),
    ],
    ids=["irqchip", "vcpus", "spec", "spec of a pc"],
)
def test_map_shows_what_the_kernel_answers_and_each_of_it_is_refused(asked: Callable[[], Machine]) -> None:
    with asked() as m:
        assert kernels(m) == KERNELS
        places = [(row.space, row.base) for row in m.map.rows if row.space != "memory"]
        assert places == sorted(places, key=lambda place: (place[0] == "mmio", place[1]))
        for space, base, size, name in KERNELS:
            for at in (base, base + size - 1):
                with pytest.raises(DeviceError, match=re.escape(f"lies over {name}")):
                    m.attach(Device(), size=1, **{space: at})  # type: ignore[arg-type]
    assert kernels(m) == KERNELS  # also when it is closed


def test_map_shows_what_the_kernel_answers_once_something_has_asked_for_it(boot: Any) -> None:
    m = boot()
    assert kernels(m) == set()
    device = m.attach(Device(), pio=0x61, size=1)
    with pytest.raises(DeviceError, match="lies over pit speaker"):
        m.attach_pc()
    assert kernels(m) == set()
    m.detach(device)
    m.attach(Device(), pio=0x300, size=1, irq=5)
    assert kernels(m) == KERNELS
