"""What is off its bus: the map shows it as disabled, and a machine's spec keeps it so."""

from __future__ import annotations

import re

import pytest

from hyperpy import Device, MachineSpec, Register, SpecError, Window
from hyperpy.exits import Exit
from hyperpy.spec import DeviceSpec
from hyperpy.testing import Read, ScriptedMachine


class Card(Device):
    """Two windows."""

    low, high = Window(4), Window(4)
    kept = Register(high[0x0], reset=0x77)


class Plain(Device):
    """Without windows."""

    size = 4


def _rows(m: ScriptedMachine) -> list[tuple[str, int, str]]:
    return [(row.name, row.base, row.rung) for row in m.map.rows if row.space != "memory"]


def test_map_shows_what_is_disabled_at_its_place_as_disabled() -> None:
    with ScriptedMachine([]) as m:
        card, plain = m.attach(Card(), pio={"low": 0x80, "high": 0x90}), m.attach(Plain(), mmio=0xFE00_0000)
        m.disable(card, "low")
        m.disable(plain)
        assert _rows(m) == [
            ("Card.low", 0x80, "disabled"), ("Card.high", 0x90, "register"), ("Plain", 0xFE00_0000, "disabled"),
        ]  # fmt: skip
        assert "pio 0x80 0x83 0x4 disabled Card.low" in re.sub(" +", " ", str(m.map))
        m.move(card, pio={"low": 0xA0})
        m.enable(plain)
        assert _rows(m) == [
            ("Card.high", 0x90, "register"), ("Card.low", 0xA0, "disabled"), ("Plain", 0xFE00_0000, "python"),
        ]  # fmt: skip
        m.attach(Plain(), pio=0xA0, name="other")
        assert {row for row in _rows(m) if row[1] == 0xA0} == {
            ("Card.low", 0xA0, "disabled"), ("other", 0xA0, "python"),
        }  # fmt: skip
        m.detach(card)
        assert [row[0] for row in _rows(m)] == ["other", "Plain"]


def _devices(m: ScriptedMachine) -> tuple[DeviceSpec, ...]:
    return m.spec.devices


def test_spec_of_a_machine_keeps_what_is_disabled() -> None:
    with ScriptedMachine([]) as m:
        card, plain = m.attach(Card(), pio={"low": 0x80, "high": 0x90}), m.attach(Plain(), mmio=0xFE00_0000)
        assert [device.disabled for device in _devices(m)] == [(), ()]
        m.disable(card, "low")
        m.disable(plain)
        assert [device.disabled for device in _devices(m)] == [("low",), True]
        m.disable(card)
        assert [device.disabled for device in _devices(m)] == [True, True]
        m.enable(card)
        m.enable(plain)
        assert [device.disabled for device in _devices(m)] == [(), ()]


def test_spec_with_what_is_disabled_is_written_and_read() -> None:
    spec = MachineSpec.from_toml(
        """
        [[devices]]
        model = "a:B"
        pio = { low = 0x80, high = 0x90 }
        disabled = ["low"]

        [[devices]]
        model = "a:B"
        mmio = 0xfe000000
        disabled = true
        """
    )
    assert [device.disabled for device in spec.devices] == [("low",), True]
    assert MachineSpec.from_toml(spec.to_toml()) == spec == MachineSpec.from_json(spec.to_json())
    both = DeviceSpec(model="a:B", pio={"low": 0x80, "high": 0x90}, disabled=("low", "high"))
    assert both.disabled is True
    none = DeviceSpec(model="a:B", pio=0x80, disabled=())
    assert (none.disabled, "disabled" in MachineSpec(devices=(none,)).to_toml()) == ((), False)


@pytest.mark.parametrize("pio", [0x80, {"low": 0x80}])
def test_spec_that_disables_a_window_without_a_place_is_refused(pio: int | dict[str, int]) -> None:
    with pytest.raises(SpecError, match="no such window: 'high'") as caught:
        DeviceSpec(model="a:B", pio=pio, disabled=("high",))
    assert (caught.value.path, bool(caught.value.hint)) == ("disabled", True)
    with pytest.raises(SpecError, match="not true or false: 'low'"):
        DeviceSpec(model="a:B", pio=pio, disabled="low")  # type: ignore[arg-type]


def test_check_of_a_spec_lets_something_else_be_where_a_window_is_disabled() -> None:
    exit_port = DeviceSpec(model="debug-exit", pio=0x80)
    assert MachineSpec(devices=(exit_port, exit_port)).check() != []
    off = DeviceSpec(model="debug-exit", pio=0x80, disabled=True)
    assert MachineSpec(devices=(exit_port, off)).check() == []


def test_device_attached_as_disabled_is_nobodys_until_it_is_enabled() -> None:
    with ScriptedMachine([Read(pio=0x90, size=1), Read(pio=0x90, size=1)], unclaimed="exit") as m:
        other = m.attach(Plain(), pio=0x90, name="other")
        card = m._attach(Card(), {"low": 0x80, "high": 0x90}, None, None, None, None, ("high",))
        m.disable(other)
        assert isinstance(m.run(timeout=10.0), Exit.Pio)
        m.enable(card)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads[-1] == 0x77
        m.detach(card)
        assert _rows(m) == [("other", 0x90, "disabled")]
