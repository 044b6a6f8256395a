"""Devices in snapshots and copies of machines: registers, attributes, lines, timers, and devices that cannot be saved or copied."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kvm.conftest import Boot

from hyperpy import Device, Exit, Identity, Line, Machine, Ram, Register
from hyperpy.errors import DeviceError, SnapshotError

RUN = 20.0
# Rings the bell at port 0x81 and halts, again and again.
RINGS = """
again:
    out 0x81, al
    hlt
    jmp again
"""


class Bell(Device):
    """Counts rings in a register, and keeps them in an attribute."""

    count = Register(0x0, width=1, access="ro")
    ring = Register(0x1, width=1)
    saved_attributes = ("rings", "timer")

    def __init__(self, color: str = "red", *, every: int = 0) -> None:
        self.color, self.every = color, every
        self.rings: list[int] = []
        self.timer: Any = None
        self.late: list[str] = []

    @ring.on_write
    def _ring(self, value: int) -> None:
        self.count += 1
        self.rings.append(int(self.count))
        if self.every:
            self.timer = self.clock.after(self.every, self.tell)

    def tell(self) -> None:
        self.late.append(self.color)

    def forked(self, parent: Bell, identity: Identity) -> None:
        self.color = f"{parent.color}'"


def ring(machine: Machine, times: int = 1) -> None:
    for _ in range(times):
        assert machine.run(timeout=RUN) == Exit.Halt(vcpu=0)


def test_restore_puts_registers_and_named_attributes_back(boot: Boot) -> None:
    m = boot(RINGS)
    bell = m.attach(Bell(), pio=0x80)
    ring(m, 2)
    base = m.snapshot()
    ring(m, 3)
    bell.color = "blue"
    m.restore(base)
    # What the class does not name stays.
    assert (bell.count, bell.rings, bell.color) == (2, [1, 2], "blue")
    bell.rings.append(99)
    m.restore(base)
    assert bell.rings == [1, 2]


def test_fork_gives_the_copy_devices_of_its_own(boot: Boot) -> None:
    m = boot(RINGS)
    bell = m.attach(Bell("green"), pio=0x80, name="bell")
    ring(m, 2)
    with m.fork(name="copy") as child:
        mine = child.copy_of(bell)
        assert (mine.count, mine.rings, mine.color) == (2, [1, 2], "green'")
        assert (mine is bell, mine.rings is bell.rings) == (False, False)
        ring(child, 2)
        ring(m)
        assert (mine.count, bell.count) == (4, 3)
        assert [row.name for row in child.map.rows] == [row.name for row in m.map.rows]


def test_fork_carries_timers_that_call_methods_of_devices_and_names_the_others(boot: Boot) -> None:
    m = boot("out 0x81, al\nagain: jmp again", irqchip=False)
    bell = m.attach(Bell(every=40_000_000), pio=0x80)
    heard: list[str] = []
    m.clock.after(10**12, lambda: heard.append("mine"))
    m.run(timeout=0.02)
    with m.fork() as child:
        assert child.stats.fork is not None
        assert len(child.stats.fork.lost_timers) == 1
        assert "lambda" in child.stats.fork.lost_timers[0]
        mine = child.copy_of(bell)
        assert mine.timer.active
        while not mine.late:
            child.run(timeout=0.02)
        assert (mine.late, bell.late) == (["red'"], [])
    while not bell.late:
        m.run(timeout=0.02)


def test_restore_sets_timers_again_that_have_fired_since(boot: Boot) -> None:
    m = boot("out 0x81, al\nagain: jmp again")
    bell = m.attach(Bell(every=40_000_000), pio=0x80)
    m.run(timeout=0.02)
    base, then = m.snapshot(), m.clock.now
    for number in (1, 2, 3):
        while len(bell.late) < number:
            m.run(timeout=0.02)
        m.restore(base)
        assert m.clock.now == then
        assert bell.timer.active


class Plain:
    """A device without declarations."""

    size = 1

    def __init__(self) -> None:
        self.value = 0

    def read(self, offset: int, size: int) -> int:
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.value += 1


class Saved(Plain):
    """The same with a state of its own."""

    def save(self) -> dict[str, int]:
        return {"value": self.value}

    def load(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def test_device_without_a_state_is_named_and_nothing_changes(boot: Boot) -> None:
    m = boot(RINGS)
    m.attach(Plain(), pio=0x81, name="plain")
    ring(m)
    for verb in (m.snapshot, m.fork):
        with pytest.raises(SnapshotError, match=r"device plain at port 0x81 cannot be saved") as caught:
            verb()
        assert "save(self)" in str(caught.value)
    ring(m)
    assert m.state == "paused"


def test_device_with_a_state_of_its_own_is_saved_and_copied_by_it(boot: Boot) -> None:
    m = boot(RINGS)
    device = m.attach(Saved(), pio=0x81)
    ring(m, 2)
    base = m.snapshot()
    ring(m)
    m.restore(base)
    assert device.value == 2
    with m.fork() as child:
        ring(child)
        assert (child.copy_of(device).value, device.value) == (3, 2)


@pytest.mark.parametrize("verb", ["save", "load"])
def test_exception_of_a_devices_own_method_is_raised_itself(boot: Boot, verb: str) -> None:
    class Fails(Saved):
        broken = False

    def fail(self: Fails, *state: object) -> None:
        if Fails.broken:
            raise KeyError("inside")
        return getattr(Saved, verb)(self, *state)  # type: ignore[no-any-return]

    setattr(Fails, verb, fail)
    m = boot(RINGS)
    m.attach(Fails(), pio=0x81, name="fails")
    ring(m)
    base = m.snapshot()
    Fails.broken = True
    with pytest.raises(KeyError, match="inside") as caught:
        m.snapshot() if verb == "save" else m.restore(base)
    assert f"device fails: {verb}" in caught.value.__notes__
    # A restore that failed leaves no guest that runs by half; and it can be tried again.
    assert m.state == ("paused" if verb == "save" else "stopped")
    Fails.broken = False
    m.restore(base)
    ring(m)
    assert m.errors == []


def test_state_that_is_no_plain_data_is_an_error_that_names_where(boot: Boot) -> None:
    class Odd(Saved):
        def save(self) -> Any:
            return {"inner": [1, object()]}

    m = boot(RINGS)
    m.attach(Odd(), pio=0x81, name="odd")
    with pytest.raises((SnapshotError, TypeError), match="inner"):
        m.snapshot()


def test_device_that_cannot_be_made_again_is_an_error_and_the_machine_goes_on(boot: Boot) -> None:
    class Needs(Saved):
        def __init__(self, value: int) -> None:
            self.value = value

    m = boot(RINGS)
    m.attach(Needs(3), pio=0x81)
    with pytest.raises(DeviceError, match=r"device cannot be copied: .*Needs") as caught:
        m.fork()
    assert "clone" in str(caught.value)
    ring(m)


class Lines(Device):
    """Two lines and a window of memory."""

    low, high = Line(), Line()
    pick = Register(0x0, width=1)
    data = Ram(0x10, size=0x10)

    @pick.on_write
    def _pick(self, value: int) -> None:
        if value:
            self.high.raise_()
        else:
            self.high.lower()


def test_lines_are_as_high_as_they_were_in_the_machine_and_in_its_copy(boot: Boot) -> None:
    m = boot("mov al, 1\nout 0x80, al\nout 0xf0, al\nmov al, 0\nout 0x80, al\nout 0xf0, al", irqchip=True)
    lines = m.attach(Lines(), pio=0x80, irq={"low": 5, "high": 6})
    m.run(timeout=RUN)
    base = m.snapshot()
    assert lines.high.level
    m.run(timeout=RUN)
    assert not lines.high.level
    m.restore(base)
    assert (lines.high.level, lines.low.level) == (True, False)
    with m.fork() as child:
        assert child.copy_of(lines).high.level
        child.run(timeout=RUN)
        assert (child.copy_of(lines).high.level, lines.high.level) == (False, True)


def test_window_that_is_disabled_is_so_in_the_copy(boot: Boot) -> None:
    m = boot()
    lines = m.attach(Lines(), pio=0x80)
    m.disable(lines)
    with m.fork() as child:
        assert [row for row in child.map.rows if row.space == "pio" and row.name == "Lines"] == [
            row for row in m.map.rows if row.space == "pio" and row.name == "Lines"
        ]
        child.enable(child.copy_of(lines))
        assert any(row.name == "Lines" for row in child.map.rows)


class Fails(Device):
    """Raises what it was told to at each write."""

    saved_attributes = ()

    def __init__(self) -> None:
        self.why = "first"

    def write(self, offset: int, size: int, value: int) -> None:
        raise ValueError(self.why)


def test_exception_that_nobody_was_told_of_before_a_restore_is_not_raised_after_it(boot: Boot) -> None:
    m = boot("out 0x80, al\nhlt")
    device = m.attach(Fails(), pio=0x80, size=1)
    base = m.snapshot()
    m.start()
    while m.state == "running":
        pass
    m.restore(base)
    assert [str(error) for error in m.errors] == ["first"]
    device.why = "second"
    with pytest.raises(ValueError, match="second"):
        m.run(timeout=RUN)


def test_fork_has_a_device_at_all_of_its_places_and_one_copy_of_it() -> None:
    class Twice(Device):
        size = 8
        stateless = True

    with Machine(memory="1M") as m:
        device = m.attach(Twice(), mmio=0xD000_0000, name="first")
        m.attach(device, mmio=0xD000_1000, name="second")
        m.attach(device, pio=0x300)
        with m.fork() as copy:
            places = [(place, facts["base"], facts["name"]) for place, (_, facts) in copy._attached.items()]
            assert [(base, name) for _, base, name in places] == [
                (0xD000_0000, "first"),
                (0xD000_1000, "second"),
                (0x300, "Twice"),
            ]
            of = {id(copied): copied for copied, _ in copy._attached.values()}
            assert len(of) == 1
            assert device not in of.values()
