"""Devices with several windows: which access goes where, that the device stays one, and declarations that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.declared import BASE

from hyperpy import (
    Block,
    DeclarationError,
    Device,
    DeviceError,
    Field,
    Indexed,
    Ram,
    Register,
    Stop,
    Window,
)
from hyperpy.exits import Exit
from hyperpy.testing import DeviceBench, Read, ScriptedMachine, Write

PORTS, FRAME = 0x300, 0xF000_0000


class Lane(Block):
    """A block that is put into a window."""

    target = Register(0x0)
    go = Register(0x4, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        self.device.log.append((self.index, self.target, value))


class Card(Device):
    """Registers, ports and a frame buffer; the ports choose what the registers show."""

    regs, ports, frame = Window(0x100, doc="the registers"), Window(8), Window()
    control = Register(regs[0x0], enable=Field(0), doc="on and off")
    index = Register(ports[0x0], width=1, mask=0xFF, bank=Field(7))
    palette = Indexed(ports[0x1], index=index, count=4, width=1, mask=0x3)
    low = Register(regs[0x4], reset=1)
    high = Register(regs[0x4], reset=2, when=index.bank)
    lanes = Lane.at(regs[0x20], count=2, stride=0x10)
    pixels = Ram(frame[0x0], "4K")

    def __init__(self) -> None:
        self.log: list[Any] = []

    @control.on_write
    def _control(self, value: int) -> None:
        self.log.append(("control", value))

    def reset(self) -> None:
        super().reset()
        self.log.append("reset")


def _attach(m: ScriptedMachine, card: Any) -> Any:
    return m.attach(card, mmio={"regs": BASE, "frame": FRAME}, pio={"ports": PORTS})


def _run(card: Any, *script: Read | Write) -> list[int]:
    with ScriptedMachine(script, unclaimed="ones") as m:
        _attach(m, card)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        m.detach(card)
        return m.reads


def test_windows_on_both_buses_are_one_device() -> None:
    card = Card()
    reads = _run(
        card,
        Read(mmio=BASE + 4),
        Write(0x82, pio=PORTS, size=1),
        Read(mmio=BASE + 4),  # the other bank, which a port has chosen
        Write(0x55, pio=PORTS + 1, size=1),
        Write(1, mmio=BASE),
        Write(0x1234, mmio=BASE + 0x30),
        Write(9, mmio=BASE + 0x34),
        Write(0xABCD, mmio=FRAME + 0xFFC),
    )
    assert reads == [1, 2]
    assert (card.palette[2], card.control.enable, card.pixels[0xFFC:0xFFE]) == (0x55, 1, b"\xcd\xab")
    assert card.log == [("control", 1), (1, 0x1234, 9)]


@pytest.mark.fault(13)
def test_access_beside_a_window_or_across_its_end_is_nobodys() -> None:
    card = Card()
    reads = _run(
        card,
        Read(mmio=BASE + 0xFD),  # 4 bytes
        Read(mmio=BASE + 0x100),
        Read(pio=PORTS + 8, size=1),
        Read(pio=PORTS + 7, size=2),
        Read(mmio=FRAME + 0xFFD),
        Read(mmio=FRAME - 1, size=1),
        Read(mmio=BASE + 0xFC),  # the window's last bytes, where no register is
        Read(pio=PORTS + 7, size=1),
    )
    assert reads == [0xFFFF_FFFF, 0xFFFF_FFFF, 0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFF, 0, 0]
    everywhere = [
        access
        for size in (1, 2, 4)
        for offset in range(-3, 12)
        for access in (Read(pio=PORTS + offset, size=size), Write(0, pio=PORTS + offset, size=size))
    ]
    _run(card, *everywhere)


def test_window_that_is_left_out_is_not_there_until_it_is_attached() -> None:
    with ScriptedMachine([Read(mmio=BASE + 4), Read(pio=PORTS, size=1), Read(pio=PORTS, size=1)]) as m:
        card = m.attach(Card(), mmio={"regs": BASE})
        assert isinstance(m.run(timeout=10.0), Exit.Pio)
        m.attach(card, pio={"ports": PORTS})
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads == [1, 0xFF, 0]
        rows = [(row.name, row.base, row.size) for row in m.map.rows if row.space != "memory"]
        assert rows == [("Card.ports", PORTS, 8), ("Card.regs", BASE, 0x100)]
        m.detach(card)
        assert not any(row.space != "memory" for row in m.map.rows)


def test_device_with_windows_is_saved_loaded_reset_and_shown_as_one() -> None:
    card = Card()
    with ScriptedMachine([]) as m:
        _attach(m, card)
        card.control.enable, card.index, card.lanes[1].target = 1, 0x81, 7
        kept = card.save()
        m.reset()
        assert card.log == ["reset"]  # once, though at three places
        assert (card.control, card.index) == (0, 0)
        card.load(kept)
    assert (card.control.enable, card.index.bank, card.lanes[1].target) == (1, 1, 7)
    assert json.dumps({key: value for key, value in kept["registers"].items() if key != "pixels"})
    assert repr(card).startswith("<Card control=0x1 (enable), index=0x81 (bank), ")
    assert "| `regs[0x0]` | `control` | 4 | rw | 0x0 | on and off |" in Card.markdown()
    assert "<td>ports[0x0]</td>" in card._repr_html_()  # type: ignore[operator]


class Plain(Device):
    """Windows without registers: told which one, and where in it."""

    dma = True
    low, high, quiet = Window(0x10), Window("4K"), Window(4)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @low.on_read
    def _read_low(self, offset: int, size: int) -> int:
        self.log.append(("low", offset, size))
        return 0x11

    @high.on_read
    def _read_high(self, offset: int, size: int) -> int:
        self.log.append(("high", offset, size))
        return 0x22

    @high.on_write
    def _write_high(self, offset: int, size: int, value: int) -> Stop | None:
        self.log.append(("high", offset, size, value))
        return Stop("enough") if value == 5 else None


def test_window_without_registers_tells_its_methods_the_place_in_it() -> None:
    script = [
        Read(pio=0x80 + 0xC),
        Read(mmio=BASE + 0xFFF, size=1),
        Write(1, pio=0x80),
        Read(pio=0x90, size=1),
        Write(5, mmio=BASE + 8, size=8),
    ]
    with ScriptedMachine(script) as m:
        plain = m.attach(Plain(), pio={"low": 0x80, "quiet": 0x90}, mmio={"high": BASE})
        assert m.run(timeout=10.0) == Exit.Stopped(0, "enough")
        assert m.reads == [0x11, 0x22, 0xFF]
        assert plain.log == [("low", 0xC, 4), ("high", 0xFFF, 1), ("high", 8, 8, 5)]
        assert plain.memory is not None
        assert plain.memory.read(0, 1) == b"\0"


def test_methods_of_a_window_get_what_its_registers_do_not_take() -> None:
    class Mixed(Device):
        regs, more = Window(0x10), Window(0x10)
        known = Register(regs[0x0], reset=7)

        @regs.on_read
        def _other(self, offset: int, size: int) -> int:
            return 0x40 + offset

    script = [Read(mmio=BASE), Read(mmio=BASE + 8), Read(mmio=FRAME + 8)]
    with ScriptedMachine(script) as m:
        m.attach(Mixed(), mmio={"regs": BASE, "more": FRAME})
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads == [7, 0x48, 0xFFFF_FFFF]


def test_what_a_window_raises_is_named_with_its_place() -> None:
    class Strict(Device):
        access_rule = "refuse"
        regs, ports = Window(0x10), Window(8)
        data = Register(ports[0x4])

    with ScriptedMachine([Read(pio=PORTS + 5, size=2)]) as m:
        m.attach(Strict(), pio={"ports": PORTS}, name="lock")
        with pytest.raises(
            DeviceError, match=r"device lock: no register takes this read: ports\[0x5\], 2"
        ) as e:
            m.run(timeout=10.0)
        assert "device lock: read of port 0x305, 2 bytes" in e.value.__notes__[0]


def test_bench_reaches_windows_by_their_places() -> None:
    bench = DeviceBench(Card())
    card = bench.device
    bench.write8(card.ports[0x0], 0x80)
    bench.write32(card.regs[0x0], 1)
    assert (bench.read32(card.regs[0x4]), card.log) == (2, [("control", 1)])
    assert repr(card.ports) == "<window ports, 0x8 bytes>"
    for offset in (-1, 8):
        with pytest.raises(IndexError, match="leaves the window ports"):
            card.ports[offset]
    with pytest.raises(AttributeError, match="ports is a window"):
        card.ports = 5  # type: ignore[assignment]


def test_room_between_windows_on_a_bench_is_nobodys() -> None:
    bench = DeviceBench(Plain())
    plain = bench.device
    first, last = plain.low[0x0], plain.high[0xFFF]
    assert (bench.read32(first + 0x10), bench.read16(first + 0xF), bench.read16(last)) == (
        2**32 - 1,
        0xFFFF,
        0xFFFF,
    )
    bench.write32(last, 1)
    assert plain.log == []
    assert (bench.read8(last), plain.log) == (0x22, [("high", 0xFFF, 1)])


def test_attach_of_windows_is_all_or_nothing() -> None:
    with ScriptedMachine([]) as m:
        m.attach(Device(), pio=PORTS + 4, size=2, name="other")
        card = Card()
        for pio, told in (
            (PORTS, "overlaps other at 0x304: 0x300"),
            (0xFFFF, "leaves the bus"),
            (0x1_0000, "leaves"),
        ):
            with pytest.raises(DeviceError, match=told):
                m.attach(card, mmio={"regs": BASE}, pio={"ports": pio})
        with pytest.raises(DeviceError, match=r"overlaps Card\.regs"):
            m.attach(card, mmio={"regs": BASE, "frame": BASE + 0xFF})
        assert [row.name for row in m.map.rows if row.space != "memory"] == ["other"]
        with pytest.raises(DeviceError, match="not attached"):
            m.detach(card)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"mmio": BASE}, 'several windows\n\nhint: mmio={"regs": ADDRESS, "ports": ADDRESS'),
        ({"mmio": {"registers": BASE}}, "no window 'registers'\n\nhint: its windows: regs, ports, frame"),
        ({"mmio": {}}, "no window is given"),
        ({}, "sits on one bus"),
        ({"mmio": {"regs": BASE}, "size": 16}, "size of a device with windows"),
        ({"mmio": {"regs": "0x100"}}, "not a place on a bus: mmio='0x100'\n\nhint: a number"),
    ],
)
def test_attach_of_windows_that_are_not_named_right_is_a_type_error(where: dict[str, Any], told: str) -> None:
    with ScriptedMachine([]) as m, pytest.raises(TypeError) as caught:
        m.attach(Card(), **where)
    assert told in str(caught.value)


def test_names_of_windows_for_a_device_without_are_a_type_error() -> None:
    with (
        ScriptedMachine([]) as m,
        pytest.raises(TypeError, match="no window 'regs'\n\nhint: its windows: none"),
    ):
        m.attach(Device(), mmio={"regs": BASE}, size=4)


def test_class_with_one_window_is_attached_by_an_address() -> None:
    class One(Device):
        regs = Window()
        data = Register(regs[0x8], reset=5)

    with ScriptedMachine([Read(mmio=BASE + 8)]) as m:
        m.attach(One(), mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads == [5]
        assert [(row.name, row.size) for row in m.map.rows if row.space == "mmio"] == [("One.regs", 12)]


def test_subclass_adds_to_the_windows_of_its_base_and_replaces_them() -> None:
    class Base(Device):
        regs, more = Window(), Window(4)
        one = Register(regs[0x0], reset=1)

    class Larger(Base):
        regs = Window("8K")
        extra = Window(0x10)
        two = Register(regs[0x1FFC], reset=2)
        three = Register(extra[0x0], reset=3)

    script = [Read(mmio=BASE), Read(mmio=BASE + 0x1FFC), Read(mmio=FRAME)]
    with ScriptedMachine(script) as m:
        m.attach(Larger(), mmio={"regs": BASE, "extra": FRAME})
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads == [1, 2, 3]
    assert Base().regs.size == 4


def _outside() -> None:
    class Outside(Device):
        regs = Window(0x10)
        plain = Register(0x0)


def _leaves() -> None:
    class Leaves(Device):
        regs = Window(0x10)
        last = Register(regs[0xE])


def _unknown() -> None:
    class Unknown(Device):
        regs = Window()


def _sized() -> None:
    class Sized(Device):
        size = 0x100
        regs = Window(0x10)


def _own_read() -> None:
    class OwnRead(Device):
        regs = Window(0x10)

        def read(self, offset: int, size: int, /) -> int:
            return 0


def _own_write() -> None:
    class OwnWrite(Plain):
        def write(self, offset: int, size: int, value: int, /) -> None:
            pass


def _foreign() -> None:
    class Foreign(Device):
        other = Register(Card.regs[0x0])


def _twice() -> None:
    class Twice(Device):
        regs = Window(0x10)
        ports = Window(0x10)
        one = Register(ports[0x4])
        two = Register(ports[0x6])


def _in_a_block() -> None:
    class Odd(Block):
        one = Register(Card.regs[0x0])

    class Holder(Device):
        regs = Window(0x10)
        odd = Odd.at(regs[0x0])


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (_outside, r"register is in no window of the class: plain \(.*test_windows.py:\d+\)"),
        (_leaves, r"register leaves its window: last \(.*\), regs\[0xe\]\n\nhint: regs has 0x10 bytes"),
        (_unknown, "size of a window is not known: regs"),
        (_sized, "a class with windows has a size"),
        (_own_read, r"has its own `read`\n\nhint: @regs.on_read"),
        (_own_write, "has its own `write`"),
        (_foreign, "register is in no window of the class: other"),
        (_twice, r"registers overlap.*one \(ports\[0x4\], .*two \(ports\[0x6\]"),
        (_in_a_block, r"a block's register is in a window: regs\[0x0\]"),
    ],
)
def test_windows_that_cannot_be_are_declaration_errors(declare: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        declare()
