"""Who a copy of a machine is: its name, its seed and what is derived from it, and how its clock goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.kvm.conftest import Boot
from tests.programs import elf

import hyperpy
from hyperpy import ClockSetting, Device, Exit, Identity, Linux, Machine, Register, Window

RUN = 20.0
GENERATION = 0xE_0028  # 16 bytes of the VM generation id, where ACPI tells of them
DAY = 86_400 * 10**9


class Nic(Device):
    """Takes an address of its own, and notes what it was told and when."""

    mac = Register(0x0, width=8, access="ro")
    saved_attributes = ()

    def __init__(self) -> None:
        self.told: list[Any] = []

    def forked(self, parent: Nic, identity: Identity, /) -> None:
        self.mac = int.from_bytes(identity.mac(), "little")
        self.told = [parent, identity, self.clock.now]


class TwoWindows(Device):
    """The same with windows."""

    first, second = Window(0x10), Window(0x10)
    mac = Register(first[0x0], width=8, access="ro")
    saved_attributes = ()
    forked = Nic.forked  # type: ignore[assignment]

    def __init__(self) -> None:
        self.told: list[Any] = []


def generation(machine: Machine) -> bytes:
    return machine.memory.read(GENERATION, 16)


def test_fork_tells_each_device_the_name_and_the_seed_and_where_it_is(boot: Boot) -> None:
    m = boot()
    nic, other = m.attach(Nic(), mmio=0xFE00_0000), m.attach(Nic(), pio=0x80)
    windows = m.attach(TwoWindows(), mmio={"second": 0xFE10_0000}, pio={"first": 0x90})
    with m.fork(name="child", seed=5) as child:
        for device, place in ((nic, "mmio 0xfe000000"), (other, "port 0x80")):
            mine = child.copy_of(device)
            assert mine.told[:2] == [device, Identity("child", 5, place)]
            assert mine.mac == int.from_bytes(Identity("", 5, place).mac(), "little")
        assert child.copy_of(windows).told[1].device in ("port 0x90", "mmio 0xfe100000")
        macs = {int(child.copy_of(device).mac) for device in (nic, other, windows)}
        assert len(macs) == 3
        assert (child.name, child.identity) == ("child", Identity("child", 5))
    assert (m.identity, nic.told, nic.mac) == (None, [], 0)


def test_copies_with_one_seed_are_alike_and_with_others_or_none_are_not() -> None:
    with Machine(memory="4M", name="boss") as m:
        m.load(Linux(elf(b"\xfa\xf4")))  # cli; hlt
        nic = m.attach(Nic(), pio=0x500)
        children = [m.fork(seed=seed) for seed in (1, 1, 2, None, None, 2**128 - 1)]
        ids = [generation(child) for child in children]
        macs = [int(child.copy_of(nic).mac) for child in children]
        seeds = [child.identity.seed for child in children]
        assert [child.name for child in children] == [f"boss.{number}" for number in range(1, 7)]
        for child in children:
            child.close()
        assert (ids[0], macs[0], seeds[0]) == (ids[1], macs[1], seeds[1])
        assert [len(set(found[1:])) for found in (ids, macs, seeds)] == [5, 5, 5]
        assert generation(m) == bytes(16)
        # As it was the one that a random seed gave.
        with m.fork(seed=seeds[3]) as again:
            assert (generation(again), again.copy_of(nic).mac) == (ids[3], macs[3])
            # And a copy of a copy is somebody else.
            with again.fork() as grandchild:
                assert (grandchild.identity.seed != seeds[3], generation(grandchild) != ids[3]) == (
                    True,
                    True,
                )
                assert grandchild.copy_of(again.copy_of(nic)).mac != macs[3]
            # Or Linux would not notice: also with the same seed, generation for generation.
            with again.fork(seed=seeds[3]) as same, same.fork(seed=seeds[3]) as later:
                assert len({*map(generation, (m, again, same, later))}) == 4


def test_clock_of_a_copy_goes_on_from_its_parents_or_as_the_script_says(boot: Boot) -> None:
    m = boot("again: jmp again")
    nic = m.attach(Nic(), pio=0x80)
    m.clock.scale = 2.0
    m.run(timeout=0.01)
    then = m.clock.now
    for setting, now, scale in (
        (None, then, 2.0),
        (ClockSetting(), then, 2.0),
        (ClockSetting(scale=0.5), then, 0.5),
        (ClockSetting(ahead=5), then + 5, 2.0),
        (ClockSetting(DAY, 0), then + DAY, 0.0),
    ):
        with m.fork(clock=setting) as child:
            assert (child.clock.now, child.clock.scale, m.clock.now, m.clock.scale) == (now, scale, then, 2.0)
            assert child.copy_of(nic).told[2] == now  # before its devices are told


def test_clock_of_a_copy_of_a_started_machine_is_set_before_it_runs_and_fires_what_is_due(boot: Boot) -> None:
    class Alarm(Device):
        size = 1
        saved_attributes = ("rung",)

        def __init__(self) -> None:
            self.rung: list[int] = []

        def ring(self) -> None:
            self.rung.append(self.clock.now)

    m = boot("again: jmp again")
    alarm = m.attach(Alarm(), pio=0x80)
    m.clock.after(DAY, alarm.ring)
    m.start()
    with m.fork(clock=ClockSetting(ahead=2 * DAY)) as child:
        mine = child.copy_of(alarm)
        deadline = time.monotonic() + RUN
        while not mine.rung and time.monotonic() < deadline:
            assert child.state == "running"
            child.wait(timeout=0.01)
        assert mine.rung[0] >= 2 * DAY
    assert (m.state, alarm.rung) == ("running", [])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed is out of range: -1"),
        ({"seed": 2**128}, ValueError, "seed is out of range"),
        ({"seed": 1.5}, TypeError, "float"),
        ({"clock": 2.0}, TypeError, r"not a setting of a clock: 2\.0"),
    ],
)
def test_identity_that_cannot_be_is_refused_and_leaves_no_copy(
    boot: Boot, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    m = boot()
    m.clock.step(1000)
    used = hyperpy.budget().memory_used
    with pytest.raises(error, match=message):
        m.fork(**options)
    assert (hyperpy.budget().memory_used, m.state) == (used, "created")
    assert m.run(timeout=RUN) == Exit.Halt(vcpu=0)


def test_forked_that_raises_is_raised_by_the_fork_and_leaves_no_copy(boot: Boot) -> None:
    class Shy(Nic):
        def forked(self, parent: Nic, identity: Identity, /) -> None:
            raise LookupError(identity.name)

    m = boot()
    m.attach(Shy(), pio=0x80)
    with pytest.raises(LookupError, match="nobody") as raised:
        m.fork(name="nobody")
    assert raised.value.__notes__ == ["in `forked` of Shy at port 0x80, called of a copy of the machine"]
    assert m.run(timeout=RUN) == Exit.Halt(vcpu=0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"scale": -1.0}, ValueError, "scale of a clock is out of range: -1.0"),
        ({"scale": float("nan")}, ValueError, "scale of a clock is out of range: nan"),
        ({"scale": "x"}, TypeError, "not supported between"),
        ({"ahead": -1}, ValueError, "not a number of nanoseconds: -1"),
        ({"ahead": 1 << 64}, ValueError, "not a number of nanoseconds"),
        ({"ahead": 1.5}, TypeError, "float"),
    ],
)
def test_setting_of_a_clock_that_cannot_be_is_refused(
    values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ClockSetting(**values)


def test_fork_that_is_refused_for_its_seed_takes_no_number(boot: Boot) -> None:
    m = boot()
    with pytest.raises(ValueError, match="seed is out of range"):
        m.fork(seed=-1)
    with m.fork() as child:
        assert child.name.endswith(".1")
