"""Registers with `posted`, `stream` and `doorbell`: declarations, what methods are told and when, on a bench and scripted."""

from __future__ import annotations

from typing import Any

import pytest
from tests.declared import BASE

from hyperpy import DeclarationError, Device, Field, Register, StateError, Stop, Window
from hyperpy.exits import Exit
from hyperpy.testing import DeviceBench, Read, ScriptedMachine, Write

PORTS = 0x300


class Ring(Device):
    """One register of each delivery, and one that is told at once."""

    tail = Register(0x00, posted=True)
    data = Register(0x04, access="wo", stream=True)
    kick = Register(0x08, access="wo", doorbell=True)
    queue = Register(0x0C, access="wo", width=2, doorbell=True, match=(1, 2))
    sync = Register(0x10)
    lanes = Register(0x20, count=4, posted=True)
    kicks = Register(0x30, access="wo", count=2, doorbell=True)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @tail.on_write
    def _tail(self, value: int) -> Stop | None:
        self.log.append(("tail", value, self.tail))
        return Stop("full") if value == 0xFF else None

    @data.on_write
    def _data(self, value: int) -> None:
        self.log.append(("data", value))

    @kick.on_write
    def _kick(self, value: None) -> None:
        self.log.append(("kick", value))

    @queue.on_write
    def _queue(self, value: int) -> None:
        self.log.append(("queue", value))

    @sync.on_write
    def _sync(self, value: int) -> None:
        self.log.append(("sync", value))

    @lanes.on_write
    def _lanes(self, index: int, value: int) -> None:
        self.log.append((index, value))

    @kicks.on_write
    def _kicks(self, index: int, value: None) -> None:
        self.log.append(("kicks", index, value))


def scripted(*writes: tuple[int, int] | int) -> tuple[Ring, ScriptedMachine]:
    script = [
        Read(mmio=BASE + it) if isinstance(it, int) else Write(it[1], mmio=BASE + it[0]) for it in writes
    ]
    m = ScriptedMachine(script)
    return m.attach(Ring(), mmio=BASE), m


# -- on a machine ----------------------------------------------------------------------------------------------------


def test_posted_writes_call_no_method_before_another_one_does_and_then_come_in_order() -> None:
    ring, m = scripted((0, 1), (0, 2), 0x00, (0x24, 7), (0x10, 3), (0, 4))
    with m:
        assert m.run(timeout=10.0) == Exit.Halt(0)
        # The register holds the last value when the first one is told.
        assert ring.log == [("tail", 1, 2), ("tail", 2, 2), (1, 7), ("sync", 3), ("tail", 4, 4)]
        assert m.reads == [2]
        assert m.stats.hits["register"] == 5
        assert m.stats.hits["python"] == 1


def test_posted_write_that_raises_or_stops_ends_the_run_and_the_others_are_told() -> None:
    class Picky(Ring):
        def _tail(self, value: int) -> Stop | None:
            if value == 0xBAD:
                raise ValueError("no such tail")
            return super()._tail(value)

        Ring.tail.on_write(_tail)

    with ScriptedMachine([Write(value, mmio=BASE) for value in (1, 0xBAD, 2)]) as m:
        ring = m.attach(Picky(), mmio=BASE, name="ring")
        with pytest.raises(ValueError, match="no such tail") as caught:
            m.run(timeout=10.0)
        assert caught.value.__notes__ == [
            f"device ring: write of 0xbad to mmio {BASE:#x}, 4 bytes, vcpu 0, made before and told of later"
        ]
        assert [entry[1] for entry in ring.log] == [1, 2]
        assert m.run(timeout=10.0) == Exit.Halt(0)
    ring, m = scripted((0, 0xFF), (0, 1))
    with m:
        assert m.run(timeout=10.0) == Exit.Stopped(0, "full")
        assert [entry[1] for entry in ring.log] == [0xFF, 1]


def test_verb_that_waits_is_refused_in_a_method_that_is_called_later() -> None:
    class Curious(Ring):
        machine: ScriptedMachine

        def _tail(self, value: int) -> None:
            with pytest.raises(StateError, match="inside a device callback"):
                self.machine.pause()
            self.log.append(value)

        Ring.tail.on_write(_tail)

    with ScriptedMachine([Write(1, mmio=BASE)]) as m:
        ring = Curious()
        ring.machine = m
        m.attach(ring, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert ring.log == [1]


def test_posted_writes_beyond_the_queue_are_all_told() -> None:
    ring, m = scripted(*((0, value) for value in range(0x100, 0x400)))
    with m:
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert [entry[1] for entry in ring.log] == list(range(0x100, 0x400))


def test_device_that_detaches_itself_in_a_posted_write_is_told_of_those_before() -> None:
    class Leaving(Ring):
        machine: ScriptedMachine

        def _sync(self, value: int) -> None:
            self.machine.detach(self)

        Ring.sync.on_write(_sync)

    script = [Write(1, mmio=BASE), Write(2, mmio=BASE + 0x10), Write(3, mmio=BASE)]
    with ScriptedMachine(script, unclaimed="ones") as m:
        ring = Leaving()
        ring.machine = m
        m.attach(ring, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert ring.log == [("tail", 1, 1)]


def test_reset_of_a_machine_leaves_no_posted_write_behind() -> None:
    ring, m = scripted((0, 1), (0, 2))
    with m:
        m.run(timeout=10.0)
        m.reset()
        assert (len(ring.log), ring.tail, ring._register_file.hits(0)) == (2, 0, (0, 2, 2))


class Card(Device):
    """Two windows: a register that is told at once in the first, a posted one in the second."""

    regs, ports = Window(0x100), Window(8)
    sync = Register(regs[0x10])
    tail = Register(ports[0x4], posted=True)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @sync.on_write
    def _sync(self, value: int) -> None:
        self.log.append(("sync", value))

    @tail.on_write
    def _tail(self, value: int) -> None:
        self.log.append(("tail", value))
        if value == 0xBAD:
            raise ValueError("no such tail")


def test_posted_write_to_a_second_window_is_told_before_methods_of_the_first_and_by_its_own_address() -> None:
    script = [
        *(Write(value, pio=PORTS + 4) for value in (1, 0xBAD)),
        Write(2, mmio=BASE + 0x10),
        Write(3, pio=PORTS + 4),
    ]
    with ScriptedMachine(script) as m:
        card = m.attach(Card(), name="card", mmio={"regs": BASE}, pio={"ports": PORTS})
        with pytest.raises(ValueError, match="no such tail") as caught:
            m.run(timeout=10.0)
        assert caught.value.__notes__ == [
            f"device card: write of 0xbad to port {PORTS + 4:#x}, 4 bytes, vcpu 0, made before and told of later"
        ]
        assert card.log == [("tail", 1), ("tail", 0xBAD), ("sync", 2)]
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert card.log[3:] == [("tail", 3)]


def test_posted_writes_of_a_device_that_a_callback_moves_come_once_and_in_order() -> None:
    class Moving(Ring):
        machine: ScriptedMachine

        def _sync(self, value: int) -> None:
            super()._sync(value)
            self.machine.move(self, mmio=BASE + value)

        Ring.sync.on_write(_sync)

    script = [
        *(Write(value, mmio=BASE) for value in (1, 2)),
        Write(0x1000, mmio=BASE + 0x10),
        Write(3, mmio=BASE),
        *(Write(value, mmio=BASE + 0x1000) for value in (4, 5)),
    ]
    with ScriptedMachine(script, unclaimed="ones") as m:
        ring = Moving()
        ring.machine = m
        m.attach(ring, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert [entry[:2] for entry in ring.log] == [
            ("tail", 1),
            ("tail", 2),
            ("sync", 0x1000),
            ("tail", 4),
            ("tail", 5),
        ]
        assert m.stats.hits["unclaimed"] == 1


def test_statistics_tell_what_a_guest_waited_for_and_how_often_methods_were_called() -> None:
    ring, m = scripted((0, 1), (0, 2), 0x00, (0x04, 3), (0x10, 4))
    with m:
        assert m.run(timeout=10.0) == Exit.Halt(0)
        # Scripted, there is no ring.
        assert (m.stats.hits["register"], m.stats.hits["python"]) == (3, 2)
        assert m.stats.devices[0].hits == {"kernel": 0, "register": 1, "python": 4, "unclaimed": 0}
        use = {row.register: (row.rung, row.reads, row.writes, row.calls) for row in ring.explain()}
        assert use["tail"] == ("register", 1, 2, 2)
        assert use["data"] == ("kernel", 0, 1, 1)
        assert use["sync"] == ("register/python", 0, 1, 1)


# -- on a bench ------------------------------------------------------------------------------------------------------


def test_bench_serves_every_write_at_once_and_tells_of_doorbells_what_a_guest_would() -> None:
    bench = DeviceBench(Ring())
    bench.write32(0x00, 1)
    bench.write32(0x04, 2)
    bench.write32(0x08, 3)
    bench.write16(0x0C, 1)
    bench.write16(0x0C, 9)  # none that rings: an exit
    bench.write32(0x34, 4)
    assert bench.device.log == [
        ("tail", 1, 1), ("data", 2), ("kick", None), ("queue", 1), ("queue", 9), ("kicks", 1, None),
    ]  # fmt: skip
    assert bench.write32(0x00, 0xFF) == Stop("full")
    assert bench.batch([(0x00, 4, 5), (0x00, 4)]) == [5]
    assert bench.device.log[-1] == ("tail", 5, 5)


# -- declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"posted": True, "stream": True}, "writes are told of in several ways: posted, stream"),
        ({"stream": True}, "register with stream=True is not write-only: rw"),
        ({"doorbell": True, "access": "w1c"}, "register with doorbell=True is not write-only: w1c"),
        ({"stream": True, "access": "wo", "go": Field(0, access="rw")}, "not write-only: rw"),
        ({"match": 1}, "match without a doorbell: 1"),
        ({"doorbell": True, "access": "wo", "match": "x"}, "not a value to match: 'x'"),
        ({"doorbell": True, "access": "wo", "match": ()}, "none, or not apart"),
        ({"doorbell": True, "access": "wo", "match": (1, 1)}, "none, or not apart"),
        ({"doorbell": True, "access": "wo", "match": 1 << 32}, "wider than the register: 0x100000000"),
        ({"doorbell": True, "access": "wo", "match": -1}, "wider than the register: -0x1"),
        ({"doorbell": True, "access": "wo", "match": range(1 << 40)}, "too many doorbells"),
        ({"doorbell": True, "access": "wo", "count": 257}, "too many doorbells: 257 registers"),
    ],
)
def test_declaration_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as caught:
        Register(0x0, **arguments)
    assert caught.value.hint


def test_register_whose_writes_bypass_the_device_shares_its_place_with_none() -> None:
    with pytest.raises(
        DeclarationError, match=r"(?s)shares a place: 0x4: \w+ \(0x4, .*\) and \w+ \(0x4, .*no `when`"
    ):

        class Banked(Device):
            control = Register(0x0, bank=Field(0))
            data = Register(0x4, access="wo", stream=True)
            other = Register(0x4, when=control.bank)

    with pytest.raises(DeclarationError, match="a doorbell has no bits to look for: kick"):

        class Masked(Device):
            kick = Register(0x0, access="wo", doorbell=True)

            @kick.on_write_if(1)
            def _kick(self, value: int) -> None: ...
