"""What `bench.device` measures of a device: which accesses, how they are called, the guest that makes them. No KVM is asked."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Block, Counter, Device, Field, Fifo, Ram, Register, Stop, bench, disassemble
from hyperpy._bench_own import _loop, cases_of_device
from hyperpy.testing import Access


class Everything(Device):
    control = Register(0x0, access="wo")
    kept = Register(0x4, reset=0x1234)
    status = Register(0x8, access="w1c")
    version = Register(0xC, access="ro")
    mixed = Register(0x10, access="ro", clear=Field(0, access="w1c"))
    taken = Register(0x14, access="rc")
    many = Register(0x18, count=4)
    queue = Fifo(0x28, depth=4, access="wo")
    ticks = Counter(0x30, hz=1000)
    window = Ram(0x40, 16)


class Plain(Device):
    size = 2


def named(device: object, **options: Any) -> list[str]:
    options = {"accesses": None, "bus": "mmio", "size": None, "irq": False} | options
    cases = cases_of_device(device, **options)
    half = len(cases) // 2
    assert [case.name for case in cases[half:]] == [f"{case.name}-alone" for case in cases[:half]]
    return [case.name for case in cases[:half]]


def test_every_register_is_read_and_written_as_guests_can() -> None:
    assert named(Everything()) == [
        "control-write",
        *("kept-read", "kept-write"),
        *("status-read", "status-write"),
        "version-read",
        *("mixed-read", "mixed-write"),
        "taken-read",
        *("many[0]-read", "many[0]-write"),
        "queue-write",
        "ticks-read",
        *("window-read", "window-write"),
    ]


def test_register_that_keeps_what_is_written_is_written_with_what_it_holds() -> None:
    cases = cases_of_device(Everything(), None, "mmio", None, False)
    titles = {case.name: case.title for case in cases}
    assert titles["kept-write"] == "write of 0x1234, offset 0x4, 4 bytes, on mmio"
    assert titles["status-write"] == "write of 0x0, offset 0x8, 4 bytes, on mmio"


def test_registers_of_blocks_are_called_by_their_block_and_those_of_banks_are_left_out() -> None:
    class Channel(Block):
        address = Register(0x0)

    class Dma(Device):
        bank = Register(0x0, width=1, second=Field(0))
        channel = Channel.at(0x8)
        hidden = Register(0x4, when=bank.second)

    assert named(Dma()) == ["bank-read", "bank-write", "channel.address-read", "channel.address-write"]


def test_device_that_declares_nothing_is_accessed_at_its_start() -> None:
    assert named(Plain()) == ["0x0-read", "0x0-write"]
    assert named(Plain(), accesses=[(1, 1)]) == ["0x1-read"]


def test_given_accesses_are_called_by_their_register_or_as_they_are_given() -> None:
    given = [(0x4, 4, 7), Access(0x4, 4, 9), (0x4, 2), (0x44, 1)]
    assert named(Everything(), accesses=given) == ["kept-write", "kept-write-2", "kept-read", "0x44-read"]
    assert named(Everything(), accesses={"go": (0x0, 4, 1)}) == ["go"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accesses": [(0x50, 4)]}, ValueError, "0x50"),
        ({"accesses": [(0x0, 1, 256)]}, ValueError, "256|0x100"),
        ({"accesses": [(0x0, 8)], "bus": "pio"}, ValueError, "no guest makes such an access"),
        ({"accesses": [(0x0, 3)]}, ValueError, "no guest makes such an access"),
        ({"bus": "usb"}, ValueError, "no such bus"),
        ({"accesses": [7]}, TypeError, "not an access"),
        ({"accesses": {"a": (1,)}}, TypeError, "not an access"),
        ({"rounds": 0}, ValueError, "number of rounds"),
        ({"count": 1}, ValueError, "number of operations"),
    ],
)
def test_access_that_cannot_be_measured_is_refused_before_anything_is(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bench.device(Everything(), **options)


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(TypeError, match="not a device"):
        bench.device(5)
    with pytest.raises(TypeError, match="not a machine"):
        bench.measure(lambda: 5)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_round_without_length_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="length of a round"):
        bench.measure(lambda: None, seconds=seconds)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("access", "bus", "expected"),
    [
        (Access(4, 1, 0x12), "mmio", "mov [rbx], r12b"),
        (Access(4, 2, 0x12), "mmio", "mov [rbx], r12w"),
        (Access(4, 4, 0x12), "mmio", "mov [rbx], r12d"),
        (Access(4, 8, 0x12), "mmio", "mov [rbx], r12"),
        (Access(4, 1), "mmio", "mov r13b, [rbx]"),
        (Access(4, 2), "mmio", "mov r13w, [rbx]"),
        (Access(4, 4), "mmio", "mov r13d, [rbx]"),
        (Access(4, 8), "mmio", "mov r13, [rbx]"),
        (Access(4, 1, 0x12), "pio", "out dx, al"),
        (Access(4, 2, 0x12), "pio", "out dx, ax"),
        (Access(4, 4, 0x12), "pio", "out dx, eax"),
        (Access(4, 1), "pio", "in al, dx"),
        (Access(4, 2), "pio", "in ax, dx"),
        (Access(4, 4), "pio", "in eax, dx"),
    ],
)
def test_guest_makes_the_access(access: Access, bus: Any, expected: str) -> None:
    text = [instruction.text for instruction in disassemble(_loop(access, bus, False).code, address=0x1000)]
    assert expected in text
    place = "mov ebx, 0xc0000004" if bus == "mmio" else "mov edx, 0x1004"
    assert place in text
    if access.value is not None:
        assert "mov r12, 0x12" in text


# -- a device alone --------------------------------------------------------------------------------------------------


class Bell(Device):
    ring = Register(0x0, access="wo")
    rung = 0

    @ring.on_write
    def _ring(self, value: int) -> Stop | None:
        self.irq.pulse()
        self.rung += 1
        return Stop("loud") if value else None


def test_device_alone_is_accessed_as_often_as_it_says_and_gets_back_what_it_was_lent() -> None:
    bell = Bell()
    cases = {case.name: case for case in cases_of_device(bell, [(0, 4, 1)], "mmio", None, False)}
    opened = cases["ring-write-alone"].hyperpy
    assert not isinstance(opened, str)
    with opened() as side:
        before = bell.rung
        times = side.batch(3)
        assert len(times) == 3
        assert min(times) > 0
        assert bell.rung - before == 3 * side._calls  # type: ignore[attr-defined]
        assert side._bench.irq.history == []  # type: ignore[attr-defined]
    assert not bell.irq
