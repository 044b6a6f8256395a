"""Lines and messages of devices: declared, connected by `attach`, taken back, and on a bench (`hyperpy.line`)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.devices import Plain

from hyperpy import (
    Device,
    DeviceError,
    DeviceSpec,
    Line,
    MachineSpec,
    Messages,
    Msi,
    Register,
    SpecError,
    StateError,
)
from hyperpy.testing import DeviceBench, IrqChange, MessageSent, ScriptedMachine

ADDRESS = 0xFEE0_0000


class Nic(Device):
    """Three lines and messages; what is written says which of them it uses."""

    received = Line(level=True, doc="a packet has come")
    sent = Line()
    msi = Messages()
    command = Register(0x0, access="wo")
    acknowledge = Register(0x4, access="wo")

    @command.on_write
    def _command(self, value: int) -> None:
        match value:
            case 1:
                self.received.raise_()
            case 2:
                self.sent.pulse()
            case 3:
                self.irq.pulse()
            case _:
                self.msi.send(ADDRESS, value)

    @acknowledge.on_write
    def _acknowledge(self, value: int) -> None:
        self.received.lower()


class Old(Plain):
    """Not a `Device`, and with attributes for its lines."""

    irq: Any = None
    other: Any = None


# -- before they are connected ---------------------------------------------------------------------------------------


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda d: d.irq.raise_(), r"line is not connected: Nic\.irq\n\nhint: .*irq=GSI"),
        (lambda d: d.irq.pulse(), r"line is not connected: Nic\.irq"),
        (lambda d: d.sent.set(True), r'line is not connected: Nic\.sent\n\nhint: .*irq=\{"sent": GSI\}'),
        (lambda d: d.msi.send(ADDRESS, 0x41), r"not attached: Nic\.msi\n\nhint: attach it"),
    ],
)
def test_line_that_is_not_connected_is_an_error_that_says_how_to_connect_it(use: Any, message: str) -> None:
    device = Nic()
    with pytest.raises(DeviceError, match=f"(?s){message}"):
        use(device)
    with ScriptedMachine([]) as m:
        m.attach(device, mmio=ADDRESS - 0x1000, irq={"received": 5})
        if "Nic.msi" not in message.replace("\\", ""):
            with pytest.raises(DeviceError, match=f"(?s){message}"):
                use(device)


def test_level_of_a_line_that_is_not_connected_cannot_be_set_as_an_attribute() -> None:
    with pytest.raises(AttributeError, match="read-only"):
        Device().irq.level = True  # type: ignore[misc]


def test_line_that_is_not_connected_is_false_and_low_and_can_be_lowered() -> None:
    device = Nic()
    device.irq.lower()
    device.sent.set(False)
    assert (bool(device.irq), device.sent.level, device.sent.gsi, bool(device.msi)) == (
        False,
        False,
        None,
        False,
    )
    assert repr(device.sent) == "<line sent, not connected>"


def test_declarations_are_there_for_who_looks() -> None:
    assert (Nic.received.name, Nic.received.level, Nic.sent.level, Nic.received.doc) == (
        "received", True, False, "a packet has come",
    )  # fmt: skip
    assert (repr(Nic.received), repr(Nic.msi)) == ("<line received, level>", "<messages msi>")


# -- connected -------------------------------------------------------------------------------------------------------


def test_attach_connects_lines_by_name_and_detach_takes_them_back() -> None:
    with ScriptedMachine([]) as m:
        device = m.attach(Nic(), mmio=0x1000_0000, irq={"received": 5, "sent": Msi(ADDRESS, 0x41)})
        assert (device.received.gsi, device.sent.gsi, bool(device.irq)) == (5, None, False)
        assert repr(device.received) == "IrqLine(gsi=5)"
        assert repr(device.sent) == "IrqLine(message 0x41 to 0xfee00000)"
        line = device.received
        line.raise_()
        assert line.level
        m.detach(device)
        assert (bool(device.received), bool(device.sent), bool(device.msi), line.level) == (False,) * 4


def test_attach_with_a_number_or_a_message_connects_irq() -> None:
    with ScriptedMachine([]) as m:
        assert m.attach(Device(), pio=0x80, size=1, irq=5).irq.gsi == 5
        assert m.attach(Device(), pio=0x81, size=1, irq=Msi(ADDRESS, 0x41)).irq.gsi is None
        old = m.attach(Old(), pio=0x82, size=1, irq={"irq": 6, "other": 7})
        assert (old.irq.gsi, old.other.gsi) == (6, 7)
        m.detach(old)
        assert (old.irq, old.other) == (None, None)


def test_line_that_is_replaced_at_a_second_place_is_lowered() -> None:
    with ScriptedMachine([]) as m:
        device = m.attach(Device(), pio=0x80, size=1, irq=5)
        first = device.irq
        first.raise_()
        m.attach(device, pio=0x90, size=1, irq=6)
        assert (first.level, device.irq.gsi) == (False, 6)


@pytest.mark.parametrize(
    ("irq", "error", "message"),
    [
        ({"send": 5}, DeviceError, "Nic has no such line: send\n\nhint: its lines: irq, received, sent;"),
        ({"received": 5, "sent": 24}, DeviceError, "no such interrupt line: 24"),
        ({"sent": "5"}, TypeError, "not an interrupt: '5'\n\nhint: give a gsi, Msi"),
        (5.0, TypeError, "not an interrupt: 5.0"),
        (Msi(0x1000, 0x41), ValueError, "message reaches no local APIC: 0x1000"),
        ({"sent": Msi(ADDRESS, 3)}, ValueError, "message has a vector below 0x10: 0x3"),
        (Msi(-1, 0x41), ValueError, "number is out of range"),
    ],
)
def test_attach_to_what_is_no_interrupt_is_refused_and_changes_nothing(
    irq: Any, error: type[Exception], message: str
) -> None:
    with ScriptedMachine([]) as m:
        device = Nic()
        with pytest.raises(error) as caught:
            m.attach(device, mmio=0x1000_0000, irq=irq)
        assert message in str(caught.value)
        assert [bool(line) for line in (device.irq, device.received, device.sent)] == [False] * 3
        assert not any(row.name == "Nic" for row in m.map.rows)


def test_attach_that_fails_gives_back_the_lines_that_were_there() -> None:
    with ScriptedMachine([]) as m:
        device = m.attach(Nic(), mmio=0x1000_0000, irq={"sent": 5})
        before = device.sent
        with pytest.raises(DeviceError, match="overlaps"):
            m.attach(device, mmio=0x1000_0000, irq={"sent": 6, "received": 7})
        assert device.sent is before
        assert not device.received


def test_messages_ask_for_controllers_when_the_device_is_attached() -> None:
    with ScriptedMachine([]) as m:
        m.run(timeout=1.0)
        with pytest.raises(StateError, match="already exist"):
            m.attach(Nic(), mmio=0x1000_0000)


def test_map_and_spec_know_lines_by_their_names() -> None:
    with ScriptedMachine([]) as m:
        m.attach(Nic(), mmio=0x1000_0000, irq={"received": 5, "sent": 6, "irq": Msi(ADDRESS, 0x41)})
        shown = {row.gsi: (row.triggers, row.devices) for row in m.map.interrupts}
        assert (shown[5], shown[6]) == ((("level",), ("Nic",)), (("edge",), ("Nic",)))
        with pytest.raises(SpecError, match="its lines have no spec"):
            m.spec  # noqa: B018 - the property raises


def test_spec_has_the_lines_of_a_device_by_their_names() -> None:
    lines = {"received": 5, "sent": 6}
    with ScriptedMachine([]) as m:
        m.attach(Nic(), mmio=0x1000_0000, irq=lines)
        spec = m.spec
    assert spec.devices[0].irq == lines
    assert MachineSpec.from_toml(spec.to_toml()) == spec == MachineSpec.from_json(spec.to_json())
    assert spec.check() == []


def test_check_of_a_spec_looks_at_each_line() -> None:
    def wrong(**lines: int) -> list[str]:
        model = f"{Nic.__module__}:Nic"
        spec = MachineSpec(devices=(DeviceSpec(model=model, mmio=0x1000_0000, irq=lines),))
        return [str(finding).splitlines()[0] for finding in spec.check()]

    assert wrong(received=5, sent=6) == []
    assert wrong(received=30) == ["devices[0].irq.received: leads nowhere: gsi 30"]
    assert wrong(recieved=5) == [f"devices[0].irq.recieved: {Nic.__module__}:Nic has no such line"]
    (shared,) = wrong(received=5, sent=5)
    assert shared.startswith("devices[0].irq.sent: gsi 5 is shared with")
    for lines in ({}, {"received": "x"}, {"received": 5000}):
        with pytest.raises(SpecError):
            DeviceSpec(model="a:B", mmio=0, irq=lines)  # type: ignore[arg-type]


# -- on a bench ------------------------------------------------------------------------------------------------------


def test_bench_keeps_the_history_of_each_line_and_of_messages() -> None:
    device = Nic()
    with DeviceBench(device) as bench:
        bench.write32(0x0, 1)
        bench.clock.step(10)
        for value in (2, 3, 0x41):
            bench.write32(0x0, value)
        assert bench.lines["received"].history == [IrqChange(0, True)]
        bench.write32(0x4, 1)
        assert bench.lines["received"].history == [IrqChange(0, True), IrqChange(10, False)]
        assert bench.lines["sent"].history == [IrqChange(10, True), IrqChange(10, False)]
        assert (bench.irq is bench.lines["irq"], bench.irq.rises) == (True, 1)
        assert bench.messages == [MessageSent(10, ADDRESS, 0x41)]
        bench.write32(0x0, 1)
        bench.reset()
        assert [line.history for line in bench.lines.values()] == [[], [], []]
        assert (bench.lines["received"].level, bench.messages) == (False, [])
    assert [bool(thing) for thing in (device.irq, device.sent, device.msi)] == [False] * 3
