"""Attaching and detaching: where a device can be, and when it comes and goes while guests and other threads run."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from tests.devices import Plain, Recorder

from hyperpy import BootError, Device, DeviceError, Exit, Firmware, Machine

pytestmark = pytest.mark.core

MMIO = 0xFE00_0000
RUN = 10.0


def test_attach_any_device_returns_it(boot: Any) -> None:
    device = Recorder()
    assert boot().attach(device, pio=0x80) is device


def test_device_on_both_buses_gets_both_and_detaches_from_both(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n out 0x80, al\n mov [rbx], al\n hlt", "long")
    device = m.attach(m.attach(Recorder(), pio=0x80), mmio=MMIO)
    m.run(RUN)
    assert len(device.writes) == 2
    m.detach(device)
    assert [row for row in m.map.rows if row.space != "memory"] == []


@pytest.mark.fault(40)
def test_device_where_the_kernel_answers_is_refused_by_name(boot: Any) -> None:
    for place, size, told in (
        ({"pio": 0x20}, 1, "lies over 8259 (in the kernel) at 0x20: 0x20 + 0x1"),
        ({"mmio": 0xFEC0_0010}, 4, "lies over I/O APIC (in the kernel) at 0xfec00000"),
        ({"mmio": 0xFEFF_F000}, 1, "lies over pages that KVM keeps for itself at 0xfeffc000"),
    ):
        with Machine(memory="1M", irqchip=True) as m, pytest.raises(DeviceError, match=re.escape(told)):
            m.attach(Recorder(), size=size, **place)
    m = boot("hlt")
    with pytest.raises(ValueError, match="lies over pages that KVM keeps for itself"):
        m.memory.add(0xFEFF_C000, "4K")
    m.attach(Recorder(), pio=0x43)
    for wants in (lambda: m.attach(Recorder(), pio=0x80, irq=5), m.attach_pc):
        with pytest.raises(DeviceError, match="Recorder at 0x43 lies over pit"):
            wants()


@pytest.mark.fault(40)
def test_firmware_over_a_device_is_refused(boot: Any) -> None:
    m = boot("hlt")
    m.attach(Recorder(), mmio=0xFFFD_0000)
    with pytest.raises(BootError, match="lies over device Recorder at 0xfffd0000"):
        m.load(Firmware(bytes(0x3FFF0) + b"\xf4" * 16))


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ({}, TypeError, "one bus"),
        ({"pio": 0x80, "mmio": MMIO}, TypeError, "one bus"),
        ({"pio": "0x80"}, TypeError, "not a place on a bus: pio='0x80'"),
        ({"pio": 0x80, "size": 0}, DeviceError, "empty: 0x80"),
        ({"pio": 0x80, "size": -1}, DeviceError, "leaves the bus"),
        ({"pio": -1}, DeviceError, "leaves the bus: -0x1"),
        ({"pio": 0x10000}, DeviceError, "leaves the bus: 0x10000"),
        ({"pio": 0xFFF1}, DeviceError, "leaves the bus: 0xfff1"),
        ({"mmio": 2**64 - 8}, DeviceError, "leaves the bus"),
        ({"mmio": 2**64}, DeviceError, "leaves the bus"),
        ({"pio": 0x4F1}, DeviceError, "overlaps Recorder at 0x500: 0x4f1"),
        ({"pio": 0x50F}, DeviceError, "overlaps Recorder at 0x500: 0x50f"),
        ({"mmio": 0x1FFFFC}, DeviceError, "over memory ram"),
        ({"pio": 0x80, "irq": 24}, DeviceError, "no such interrupt line: 24"),
        ({"pio": 0x80, "irq": -1}, DeviceError, "no such interrupt line: -1"),
        ({"pio": 0x80, "irq": "5"}, TypeError, "not an interrupt: '5'"),
    ],
)
def test_attach_at_a_wrong_place_is_refused(boot: Any, place: Any, error: type[Exception], says: str) -> None:
    m = boot()
    m.attach(Recorder(), pio=0x500)
    before = m.map
    device = Recorder()
    with pytest.raises(error, match=says):
        m.attach(device, **place)
    assert m.map == before
    assert not device.irq


@pytest.mark.parametrize("thing", [object(), Recorder, 5, None, lambda offset, size: 0])
def test_attach_of_what_is_no_device_is_refused(boot: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match="hint:"):
        boot().attach(thing, pio=0x80, size=1)


def test_attach_without_a_size_says_how_to_give_one(boot: Any) -> None:
    with pytest.raises(TypeError, match="give size=BYTES"):
        boot().attach(Plain(), pio=0x80)


def test_attach_with_a_size_in_words_takes_it(boot: Any) -> None:
    m = boot()
    m.attach(Plain(), mmio=MMIO, size="4K")
    assert m.map.rows[-1].size == 4096


def test_attach_of_many_regions_keeps_all(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov [rbx + 16 * 4095 + 1], al\n hlt", "long")
    devices = [m.attach(Recorder(), mmio=MMIO + 16 * i) for i in range(4096)]
    m.run(RUN)
    assert devices[-1].writes == [(1, 1, 0)]


def test_detach_of_a_stranger_is_refused(boot: Any) -> None:
    with pytest.raises(DeviceError, match="not attached"):
        boot().detach(Recorder())


def test_detach_before_a_run_leaves_the_access_to_nobody(boot: Any) -> None:
    m = boot("in al, 0x80\n hlt")
    device = m.attach(Recorder(), pio=0x80)
    m.detach(device)
    assert m.run(RUN) == Exit.Pio(0, 0x80, 1, False, 0)
    m.attach(device, pio=0x80)


@pytest.mark.fault(17)
def test_detach_while_another_thread_runs_waits_until_the_device_is_left(boot: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Device):
        size = 1
        left = False

        def write(self, offset: int, size: int, value: int) -> None:
            inside.set()
            assert go_on.wait(RUN)
            self.left = True

    m = boot("out 0x80, al\n again: in al, 0x90\n jmp again", unclaimed="ones")
    slow = m.attach(Slow(), pio=0x80)
    m.start()
    assert inside.wait(RUN)
    detached = threading.Event()

    def detach() -> None:
        m.detach(slow)
        assert slow.left
        detached.set()

    thread = threading.Thread(target=detach)
    thread.start()
    assert not detached.is_set()
    go_on.set()
    assert detached.wait(RUN)
    thread.join()
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")


@pytest.mark.fault(17, 35)
def test_detach_of_one_device_by_two_threads_is_done_by_one(boot: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            inside.set()
            assert go_on.wait(RUN)

    m = boot("out 0x80, al\n hlt")
    slow = m.attach(Slow(), pio=0x80)
    m.start()
    assert inside.wait(RUN)
    refused: list[Exception] = []
    one_is_refused = threading.Event()

    def detach() -> None:
        try:
            m.detach(slow)  # the first one waits for the guest to leave it
        except Exception as error:
            refused.append(error)
            one_is_refused.set()

    threads = [threading.Thread(target=detach) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert one_is_refused.wait(RUN)
    go_on.set()
    for thread in threads:
        thread.join(RUN)
    assert [type(error) for error in refused] == [DeviceError]
    assert "hint: " in str(refused[0])
    assert m.wait(RUN) == Exit.Halt(0)
    m.attach(slow, pio=0x80)


@pytest.mark.fault(35)
@pytest.mark.parametrize("look", [lambda m: m.map, lambda m: m._listed()], ids=["map", "tables"])
def test_device_attached_while_another_thread_looks_disturbs_nobody(boot: Any, look: Any) -> None:
    """Here on the same thread: by a device that is asked for a fact while the list is gone through."""

    class Asked(Device):
        size = 1
        acpi_hid = "PNP0501"

        @property
        def irq_level(self) -> bool:
            m.attach(Recorder(), mmio=MMIO + 16 * len(m._attached))
            return False

    m = boot()
    m.attach(Asked(), pio=0x80, irq=5)
    m.attach(Recorder(), pio=0x90)
    look(m)
    assert len(m._attached) == 3


@pytest.mark.fault(17)
def test_detach_inside_its_own_callback_is_done_at_once(boot: Any) -> None:
    m = boot("out 0x80, al\n out 0x80, al\n hlt")

    class Once(Device):
        size = 1
        calls = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.calls += 1
            m.detach(self)

    once = m.attach(Once(), pio=0x80)
    assert m.run(RUN) == Exit.Pio(0, 0x80, 1, True, 0)
    assert once.calls == 1


@pytest.mark.fault(17)
def test_attach_inside_a_callback_takes_effect_at_the_next_access(boot: Any) -> None:
    m = boot("out 0x80, al\n out 0x90, al\n hlt")
    late = Recorder()

    class Opens(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            m.attach(late, pio=0x90)

    m.attach(Opens(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert late.writes == [(0, 1, 0)]


@pytest.mark.fault(17)
def test_device_that_moves_itself_in_its_own_callback_is_found_where_it_went(boot: Any) -> None:
    m = boot("mov al, 1\n out 0x80, al\n out 0x80, al\n mov al, 2\n out 0x90, al\n hlt", unclaimed="ones")

    class Moves(Device):
        size = 1

        def __init__(self) -> None:
            self.writes: list[int] = []

        def write(self, offset: int, size: int, value: int) -> None:
            self.writes.append(value)
            m.detach(self)
            m.attach(self, pio=0x90)

    moves = m.attach(Moves(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert moves.writes == [1, 2]
    assert [row.base for row in m.map.rows if row.space == "pio"] == [0x90]


def test_detach_of_the_last_reference_frees_the_device(boot: Any) -> None:
    import gc
    import weakref

    m = boot("out 0x80, al\n hlt")
    device = m.attach(Recorder(), pio=0x80)
    m.run(RUN)
    m.detach(device)
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None
