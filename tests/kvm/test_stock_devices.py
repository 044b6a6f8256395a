"""Stock devices under every access that a guest can make, and one with a bug."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.guests import assemble

import hyperpy
from hyperpy import DebugExit, Device, DeviceError, Exit, Machine, _hyperpy

RUN = 10.0
TABLE = 0x2000
# For each port of the table, up to one that is 0: accesses of every width.
WALK = """
    mov si, 0x2000
next: lodsw
    test ax, ax
    jz end
    mov dx, ax
    {access}
    jmp next
end: cli
    hlt
"""
READ = "in al, dx\n in ax, dx\n in eax, dx"
WRITE = "mov eax, {value:#x}\n out dx, al\n out dx, ax\n out dx, eax"
VALUES = (0, 0xFFFF_FFFF, 0x5555_5555, 0xAAAA_AAAA, 0xFEFE_FEFE)


def _pc(access: str, ports: list[int]) -> Machine:
    m = Machine(memory="1M", irqchip=True, unclaimed="ones")
    m.attach_pc()
    m.attach(DebugExit(), pio=0xF4)
    m.load(hyperpy.Flat(assemble(WALK.format(access=access)), at=0x1000, mode="real"))
    m.memory.write(TABLE, struct.pack(f"<{len(ports) + 1}H", *ports, 0))
    return m


def _regions() -> list[tuple[int, int]]:
    """First port and length of every stock device."""
    with _pc("", []) as m:
        found = [(row.base, row.size) for row in m.map.rows if (row.space, row.rung) == ("pio", "rust")]
    assert len(found) >= 6
    return found


def _ports() -> list[int]:
    """Every port of theirs, and those from which an access reaches into one or out of it."""
    return sorted({port for base, size in _regions() for port in range(base - 3, base + size + 1)})


@pytest.mark.fault(13)
def test_stock_devices_read_at_every_offset_and_width_answer_and_leave_the_guest_running() -> None:
    inside = sum(max(0, size - width + 1) for _, size in _regions() for width in (1, 2, 4))
    with _pc(READ, _ports()) as m:
        assert m.run(RUN) == Exit.Halt(0)
        assert m.stats.hits["rust"] == inside


@pytest.mark.fault(13)
@pytest.mark.parametrize("value", VALUES)
def test_stock_devices_written_at_every_offset_and_width_end_a_machine_only_as_told(value: int) -> None:
    """Power-off, reset and debug exit are what these values can mean; a machine of its own goes on behind each."""
    left = _ports()
    ends: set[str] = set()
    while left:
        with _pc(WRITE.format(value=value), left) as m:
            end = m.run(RUN)
            assert isinstance(end, Exit.Halt | Exit.Stopped | Exit.SystemEvent), end
            # lodsw has gone past the port that did it.
            done = (m.vcpus[0].regs.rsi - TABLE) // 2
            if isinstance(end, Exit.Halt):
                break
            ends.add(type(end).__name__)
            left = left[done:]
    assert "Stopped" in ends


@pytest.mark.fault(50)
@pytest.mark.parametrize("access", ["in al, 0x80", "out 0x80, al"])
@pytest.mark.parametrize("how", ["run", "start"])
def test_device_in_rust_that_panics_is_a_device_error_and_closes_its_machine_alone(
    boot: Any, capfd: pytest.CaptureFixture[str], access: str, how: str
) -> None:
    m, other = boot(f"{access}\n hlt"), boot("again: in al, 0x99\n jmp again")
    _hyperpy.attach(
        m._native, _hyperpy.StockDevice.panicking(), "buggy", [(True, 0x80, 1, 0, "buggy", True)], []
    )
    if how == "start":
        m.start()
    with pytest.raises(DeviceError, match="device buggy panicked: a (read|write) that panics") as raised:
        m.run(RUN) if how == "run" else m.wait(RUN)
    assert raised.value.hint
    assert m.state == "closed"
    with pytest.raises(hyperpy.StateError):
        m.run(RUN)
    m.close()
    other.attach(Device(), pio=0x98, size=1)
    assert isinstance(other.run(RUN), Exit.Pio)
    assert capfd.readouterr().out == ""
