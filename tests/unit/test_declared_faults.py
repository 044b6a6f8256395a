"""Accesses of every size at every offset to devices with every kind of register, by a bench and on a machine's bus."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.declared import BASE, Bell, Dma, Link, Queues, Timer

from hyperpy import Device, DeviceError, Exit
from hyperpy.testing import DeviceBench, Read, ScriptedMachine, Write

DEVICES = [Bell, Dma, Link, Queues, Timer]
RULES = ["exact", "split", "widen", "refuse"]
AROUND = 9


def ruled(kind: type[Device], rule: str) -> Device:
    """A device of a class, under another rule."""
    made: Device = type(kind.__name__, (kind,), {"access_rule": rule})()
    return made


def accesses(size: int) -> list[tuple[int, int]]:
    """Each access that the device gets."""
    return [(offset, width) for width in range(1, 9) for offset in range(size - width + 1)]


@pytest.mark.fault(13, 14)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", DEVICES)
def test_declared_device_takes_every_access_and_only_refuse_raises(kind: type[Device], rule: str) -> None:
    bench = DeviceBench(ruled(kind, rule))
    refused = []
    for offset, width in accesses(bench.size):
        for value in (None, 0, (1 << 8 * width) - 1, 0x1122_3344_5566_7788 & (1 << 8 * width) - 1):
            try:
                if value is None:
                    assert 0 <= bench.read(offset, width) < 1 << 8 * width
                else:
                    bench.write(offset, width, value)
            except DeviceError as error:
                refused.append((f"{offset:#x}, {width} bytes", str(error)))
    assert bool(refused) == (rule == "refuse")
    assert [text for place, text in refused if place not in text] == []
    other = ruled(kind, rule)
    other.load(bench.device.save())  # what guests have left is a state that can be
    assert other.save() == bench.device.save()
    bench.reset()
    assert bench.device.save() == ruled(kind, rule).save()


@pytest.mark.fault(13, 14)
@pytest.mark.parametrize("kind", DEVICES)
def test_access_that_leaves_a_declared_device_on_the_bus_is_nobodys_and_all_others_are_served(
    kind: type[Device],
) -> None:
    device = ruled(kind, "split")
    places = [
        (offset, width) for width in range(1, 9) for offset in range(-AROUND, (device.size or 0) + AROUND)
    ]
    inside = [offset >= 0 and offset + width <= (device.size or 0) for offset, width in places]
    script: list[Read | Write] = [Read(mmio=BASE + offset, size=width) for offset, width in places]
    script += [Write(0x55, mmio=BASE + offset, size=width) for offset, width in places]
    with ScriptedMachine(script, unclaimed="ones") as m:
        m.attach(device, mmio=BASE)
        ends = [m.run(timeout=60.0)]
        while ends[-1] != Exit.Halt(0):  # Bell stops where its ring is written
            ends.append(m.run(timeout=60.0))
        assert all(isinstance(end, Exit.Stopped) for end in ends[:-1])
        assert m.stats.hits["unclaimed"] == 2 * inside.count(False)
        assert m.stats.hits["register"] + m.stats.hits["python"] == 2 * inside.count(True)
        for read, (_, width), is_inside in zip(m.reads, places, inside, strict=True):
            assert is_inside or read == (1 << 8 * width) - 1


def test_field_that_the_script_sets_while_a_guest_writes_the_register_is_kept() -> None:
    device = Timer()
    with ScriptedMachine([Write(0x01, mmio=BASE + 4, size=1, times=1 << 40)]) as m:
        m.attach(device, mmio=BASE)
        m.start()
        for turn in range(20_000):
            device.control.done = turn & 1
            # The guest writes the byte below, and nobody else writes this one.
            assert device.control.done == turn & 1
        m.pause()
        assert m.stats.hits["register"] > 0
        assert device.control == 0x101


def calls_of(device: Device, script: list[Read | Write]) -> tuple[int, int]:
    """How many Python functions a run calls on its thread, and how many accesses registers served."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with ScriptedMachine(script) as m:
        m.attach(device, mmio=BASE)
        sys.setprofile(count)
        try:
            m.run(timeout=60.0)
        finally:
            sys.setprofile(None)
        return calls, m.stats.hits["register"]


@pytest.mark.parametrize("times", [1, 5000])
def test_accesses_that_need_no_method_call_no_python_function_however_many(times: int) -> None:
    script: list[Read | Write] = [
        access
        for offset, size in [(0x00, 4), (0x04, 4), (0x0C, 2), (0x11, 1), (0x18, 8), (0x22, 4), (0x24, 4)]
        for access in (
            Read(mmio=BASE + offset, size=size, times=times),
            Write(3, mmio=BASE + offset, size=size, times=times),
        )
    ]
    of_none, _ = calls_of(Timer(), [])
    assert calls_of(Timer(), script) == (of_none, 14 * times)
    # The counter counts.
    called, _ = calls_of(Bell(), [Write(0x100, mmio=BASE + 8, times=3)])
    assert called > of_none + 2
