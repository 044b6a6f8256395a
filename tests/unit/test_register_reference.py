"""The Markdown reference of a class, and how blocks and windows are shown: what a driver's author reads."""

from __future__ import annotations

from enum import IntEnum

from hyperpy import Block, Counter, Device, Field, Fifo, FifoLevel, Indexed, Line, Ram, Register, Window
from hyperpy.testing import DeviceBench


class Mode(IntEnum):
    """Values of a field."""

    IDLE = 0
    RUN = 1


class Lane(Block):
    """Registers in a block in a block."""

    weight = Register(0x0, width=2, count=4)


class Channel(Block):
    """Registers that come several times."""

    address = Register(0x0, width=8, doc="where | what")
    control = Register(0x8, go=Field(0, doc="start"), mode=Field(4, 2, enum=Mode))
    lanes = Lane.at(0x10, count=2)


class Engine(Device):
    """Has one of everything.

    And more to say of it.
    """

    regs, ports = Window(0x200, doc="all but the index"), Window(8)
    done = Line(level=True, doc="a channel has ended")
    ident = Register(regs[0x0], access="ro", reset=0x1234, order="big", doc="who it is")
    bank = Register(regs[0x4], select=Field(2, 2))
    low = Register(regs[0x8], mask=0x0FF0, when=bank.select == 2)
    kick = Register(regs[0xC], access="wo", doorbell=True, match=range(2))
    later = Register(regs[0x10], posted=True)
    ticks = Counter(regs[0x18], hz=1_000_000)
    queue = Fifo(regs[0x20], depth=4, access="wo")
    waiting = FifoLevel(regs[0x24], queue)
    ram = Ram(regs[0x40], 64)
    channels = Channel.at(regs[0x80], count=3, stride=0x40, doc="one for each disk")
    index = Register(ports[0x0], width=1)
    data = Indexed(ports[0x1], index=index, count=16, step=1, doc="configuration")

    @kick.on_write
    @later.on_write
    def _wrote(self, value: int) -> None: ...


REFERENCE = """\
# Engine

Has one of everything.

| offset | register | bytes | access | at reset | what it is |
|---|---|---|---|---|---|
| `regs[0x0]` | `ident` | 4 | ro | 0x1234 | who it is; big-endian |
| `regs[0x4]` | `bank` | 4 | rw | 0x0 |  |
| `regs[0x8]` | `low` | 4 | rw | 0x0 | there while `bank.select` is 0x2; has the bits 0xff0 |
| `regs[0xc]` | `kick` | 4 | wo | 0x0 | doorbell for 0x0, 0x1 |
| `regs[0x10]` | `later` | 4 | rw | 0x0 | posted |
| `regs[0x18]` | `ticks` | 8 | ro |  | counts 1,000,000 a second |
| `regs[0x20]` | `queue` | 1 | wo, queue of 4 |  |  |
| `regs[0x24]` | `waiting` | 4 | ro |  | how many items are in `queue` |
| `regs[0x40]` | `ram` | 0x40 | rw |  |  |
| `regs[0x80]` + n * 0x40 | `channels[0…2]` | 0x20 | block |  | one for each disk |
| `regs[0x80]` + n * 0x40 | `channels[0…2].address` | 8 | rw | 0x0 | where \\| what |
| `regs[0x88]` + n * 0x40 | `channels[0…2].control` | 4 | rw | 0x0 |  |
| `regs[0x90]` + n * 0x40 + m * 0x8 + k * 0x2 | `channels[0…2].lanes[0…1].weight[0…3]` | 2 | rw | 0x0 |  |
| `ports[0x0]` | `index` | 1 | rw | 0x0 |  |
| `ports[0x1]` | `data` | 1 | rw, port |  | configuration; leads to that of `data` whose number is in `index`, which each access moves by 1 |
| behind the port | `data[0…15]` | 1 | rw | 0x0 |  |

## Windows

| window | bytes | what it is |
|---|---|---|
| `regs` | 0x200 | all but the index |
| `ports` | 0x8 |  |

## Interrupts

| line | trigger | what it is |
|---|---|---|
| `done` | level | a channel has ended |

## bank

| bits | field | access | at reset | what it is |
|---|---|---|---|---|
| 3:2 | `select` | rw | 0x0 |  |

## channels[0…2].control

| bits | field | access | at reset | what it is |
|---|---|---|---|---|
| 0 | `go` | rw | 0x0 | start |
| 5:4 | `mode` | rw | 0x0 | 0 IDLE, 1 RUN |
"""


def test_reference_of_a_class_says_what_its_declarations_say() -> None:
    assert Engine.markdown() == REFERENCE


def test_reference_tells_every_register_that_guests_reach_at_its_offset() -> None:
    shown = {
        "regs[0x0]": [0x0],
        "regs[0x88]": [0x88, 0xC8, 0x108],
        "regs[0x90]": [0x90 + 0x40 * n + 8 * m + 2 * k for n in range(3) for m in range(2) for k in range(4)],
    }
    offsets = {place.offset for place in Engine._places}
    for first, places in shown.items():
        assert f"| `{first}`" in Engine.markdown()
        assert set(places) <= offsets


def test_block_is_shown_with_its_own_registers() -> None:
    engine = Engine()
    engine.channels[1].control.go = 1
    engine.channels[1].lanes[0].weight[2] = 7
    assert repr(engine.channels[1]) == "<Channel address=0x0, control=0x1 (go)>"
    assert repr(engine.channels[1].lanes[0]) == "<Lane weight=[0x0, 0x0, 0x7, 0x0]>"


def test_explain_writes_places_in_windows_as_the_class_does() -> None:
    bench = DeviceBench(Engine())
    bench.write8(bench.device.ports[0x0], 3)
    bench.read32(bench.device.regs[0x0])
    told = bench.device.explain()
    assert (told["index"].offset, told["index"].place) == (bench.device.ports[0x0], "ports[0x0]")
    lines = str(told).splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["ident", "regs[0x0]"], ["index", "ports[0x0]"]]
    assert "<td>ports[0x0]</td>" in told._repr_html_()
