"""A reset is the restore of the power-on snapshot: two ways to one state, by hash and by difference, and what is known to differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.guests import START_OTHERS, assemble
from tests.kvm.conftest import Boot
from tests.programs import elf

from hyperpy import (
    Counter,
    Device,
    Exit,
    Fifo,
    IoApicPin,
    Linux,
    Machine,
    Ram,
    Register,
    Snapshot,
    Stop,
)

RUN = 20.0
# What time alone moves, and no hash has. (Of local APICs: the counts.)
TIME = re.compile(
    r"vcpus\[\d\]\.state\.(msrs\.IA32_TSC|lapic\.CURRENT_COUNT)|vm\.clock_ns|devices\[.acpi pm timer.\]\.state\.time_ns"
)
# Counts in memory and rings, again and again.
ROUND = """
again:
    inc dword ptr [0x180000]
    out 0x80, al
    jmp again
"""
# Changes registers of each kind.
REGISTERS = """
    mov eax, 0x12345678
    mov dr0, eax
    mov dword ptr [0x8000], eax
    mov ecx, 0x174
    xor edx, edx
    wrmsr
    mov ax, ds
    mov es, ax
    std
"""
# Programs the local and the I/O APIC, and starts the other vcpu.
APICS = f"""
    mov word ptr [0x8000], 0xfeeb
    mov dword ptr [0xfee000f0], 0x1ff
    mov dword ptr [0xfee003e0], 0xb
    mov dword ptr [0xfee00320], 0x10040
    mov dword ptr [0xfee00380], 0x100000
    mov dword ptr [0xfec00000], 0x14
    mov dword ptr [0xfec00010], 0x10031
    {START_OTHERS}
"""
# The UART (looped back, with a byte received), the PIT (ticks, and nobody takes it), the 8259s, the RTC, the i8042, ACPI.
PORTS = [
    *[(0x3FB, 0x83), (0x3F8, 3), (0x3FB, 3), (0x3F9, 5), (0x3FC, 0x1B), (0x3F8, ord("x"))],
    *[(0x43, 0x34), (0x40, 0x00), (0x40, 0x02), (0x61, 1)],
    *[(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0x55), (0xA0, 0x11), (0xA1, 0x28)],
    *[(0x70, 0x0B), (0x71, 0x42), (0x70, 0x0C)],
    *[(0x64, 0xD1), (0x60, 0xDD), (0x64, 0x60)],
    *[(0x602, 0x21), (0x604, 1)],
]


def out(*writes: tuple[int, int]) -> str:
    return "\n".join(f"mov dx, {port:#x}\n mov al, {value:#x}\n out dx, al" for port, value in writes)


class Bell(Device):
    """Stops the guest each time that it comes round."""

    size = 1
    stateless = True

    def write(self, offset: int, size: int, value: int, /) -> Stop:
        return Stop("there")


class Kinds(Device):
    """Registers of each kind, a line, and attributes that its class names."""

    control = Register(0x0, reset=0x11)
    received = Fifo(0x8, depth=4, access="wo")
    buffer = Ram(0x10, size=8)
    ms = Counter(0x20, hz=1_000_000)
    irq_level = True
    saved_attributes = ("writes", "timer")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.writes: list[int] = []
        self.timer: Any = None

    @control.on_write
    def _control(self, value: int) -> None:
        self.writes.append(value)
        self.timer = self.clock.after(10**12, self.begin)
        self.irq.raise_()


class Careful(Kinds):
    """Its reset puts all of it back."""

    def reset(self) -> None:
        self.begin()


class Own:
    """No `Device`: with a state, and methods for it, of its own."""

    size = 1

    def __init__(self) -> None:
        self.count = 0

    def read(self, offset: int, size: int) -> int:
        return self.count

    def write(self, offset: int, size: int, value: int) -> None:
        self.count += 1

    def reset(self) -> None:
        self.count = 0

    def save(self) -> dict[str, int]:
        return {"count": self.count}

    def load(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def changes(old: Snapshot, new: Snapshot) -> list[str]:
    """What differs beside time."""
    found = old.diff(new)
    paths = [change.path for change in found.state if not TIME.fullmatch(change.path)]
    return paths + [f"{part.region} {part.gpa:#x}" for part in found.pages] + list(found.regions)


def rounds(m: Machine) -> None:
    for _ in range(3):
        assert m.run(timeout=RUN) == Exit.Stopped(vcpu=0, reason="there")


def compare(m: Machine, work: Callable[[Machine], None] = rounds) -> tuple[list[str], list[str]]:
    """In what a reset, and a restore, differ from the power-on state after some work, whichever comes first."""
    power_on = m.snapshot()
    found: list[list[str]] = []
    for back in (m.reset, lambda: m.restore(power_on), m.reset, lambda: m.restore(power_on)):
        work(m)
        assert m.snapshot().hash() != power_on.hash()  # or this shows nothing
        back()
        assert m.state == "created"
        now = m.snapshot()
        found.append(changes(power_on, now))
        assert (now.hash() == power_on.hash()) == (found[-1] == [])
    assert found[:2] == found[2:]
    return found[0], found[1]


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_bare_guest_is_after_a_reset_what_it_was_at_power_on(boot: Boot, mode: Any) -> None:
    # In real mode with addresses of 16 bits.
    code = (REGISTERS + ROUND).replace("0x180000", "0x9000") if mode == "real" else REGISTERS + ROUND
    m = boot(code if mode != "long" else code.replace("dr0, eax", "dr0, rax"), mode)
    m.attach(Bell(), pio=0x80)
    assert compare(m) == ([], [])


def test_machine_with_controllers_stock_devices_and_two_vcpus_is_what_it_was(boot: Boot) -> None:
    m = boot(APICS + out(*PORTS) + REGISTERS + ROUND, "protected", vcpus=2)
    m.attach_pc()
    m.attach(Bell(), pio=0x80)
    assert compare(m) == ([], [])


def test_machine_with_a_loaded_operating_system_is_what_it_was() -> None:
    with Machine(memory="4M", vcpus=2) as m:
        m.attach(Bell(), pio=0x80)
        m.load(Linux(elf(assemble(out(*PORTS) + ROUND, "long", 0x100000)), cmdline="console=ttyS0"))
        assert compare(m) == ([], [])


DRIVEN = out((0x100, 7), (0x108, 3), (0x110, 5), (0x180, 1)) + "\n mov dx, 0x120\n in eax, dx\n"


def test_machine_with_devices_in_python_is_what_it_was(boot: Boot) -> None:
    m = boot(DRIVEN + ROUND, "protected")
    m.attach(Careful(), pio=0x100, irq=5)
    m.attach(Own(), pio=0x180)
    m.attach(Bell(), pio=0x80)
    assert compare(m) == ([], [])


def test_attribute_that_a_devices_reset_leaves_is_what_differs(boot: Boot) -> None:
    m = boot(DRIVEN + ROUND, "protected")
    m.attach(Kinds(), pio=0x100, irq=5)
    m.attach(Own(), pio=0x180)
    m.attach(Bell(), pio=0x80)
    # The timer is off: of it only the object is there still.
    after_reset, after_restore = compare(m)
    assert after_restore == []
    assert [path.split("attributes.")[1] for path in after_reset] == ["writes[0]", "timer"]
    assert all(path.startswith("devices[Kinds].state") for path in after_reset)


def test_reset_keeps_what_the_console_has_said_and_what_the_battery_does(boot: Boot) -> None:
    said = out((0x3F8, ord("x")), (0x70, 0x50), (0x71, 0x77))
    m = boot(said + ROUND, "protected", vcpus=2)
    m.attach_pc()
    m.attach(Bell(), pio=0x80)
    power_on = m.snapshot()
    rounds(m)
    m.reset()
    assert set(changes(power_on, m.snapshot())) == {"console.end", "console.text", "devices[rtc].state.bytes"}
    m.restore(power_on)
    assert m.snapshot() == power_on


def test_reset_keeps_what_the_script_has_set_and_a_restore_puts_it_back(boot: Boot) -> None:
    m = boot(ROUND, "protected", vcpus=2)
    m.attach_pc()
    m.attach(Bell(), pio=0x80)
    power_on = m.snapshot()
    rounds(m)
    m.route(5, IoApicPin(9))
    m.clock.scale = 2.0
    m.reset()
    assert set(changes(power_on, m.snapshot())) == {"lines.routes", "clock.scale"}
    m.restore(power_on)
    assert changes(power_on, m.snapshot()) == []


def test_time_after_a_reset_begins_at_none_and_no_timer_is_left(boot: Boot) -> None:
    m = boot(ROUND, "protected")
    m.attach(Bell(), pio=0x80)
    power_on = m.snapshot()
    timer = m.clock.after(10**12, print)
    rounds(m)
    assert m.clock.now > 0
    m.reset()
    assert (m.clock.now, timer.active, m.snapshot().state["clock"]) == (0, False, power_on.state["clock"])


def test_snapshot_has_the_time_stamp_counter_of_its_own_moment(boot: Boot) -> None:
    """Not of that of the snapshot before: timers of the guest would be late by what is between them.

    Where the host's counter is not stable, as in the labs, KVM's own readings go back: so it is no test for every KVM.
    """
    m = boot("again: hlt; jmp again")
    for _ in range(3):
        m.run(timeout=RUN)
        before = m.vcpus[0].msrs[0x10]
        counter = m.snapshot().state["vcpus"][0]["state"]["msrs"]["IA32_TSC"]
        assert before <= counter <= m.vcpus[0].msrs[0x10]
