"""The devices in Rust of a PC one by one, for `DeviceFuzzer` and `DeviceBench`; public as `hyperpy.fuzz.stock` and `hyperpy.fuzz.STOCK`.

They have no machine: their time is the bench's, and they drive no line of it. How each is made is in the native module (`fuzz/stock.rs`).
"""

from __future__ import annotations

from typing import ClassVar

from hyperpy import _hyperpy
from hyperpy._fuzz_findings import FuzzError
from hyperpy._fuzz_shape import event
from hyperpy.device import _Stock

__all__ = ["STOCK", "stock"]


class _OnBench(_Stock):
    """A device that the native module makes by its name."""

    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(_hyperpy.StockDevice.on_bench(self.name))


class Uart(_OnBench):
    """The 16550A of COM1: 8 ports. What arrives on the line is an event."""

    name = "uart"

    @event(max_bytes=64)
    def receive(self, data: bytes) -> None:
        """Bytes arrive."""
        self._native.event(0, data)


class Rtc(_OnBench):
    """The clock with its CMOS memory: index and data port."""

    name = "rtc"


class I8042(_OnBench):
    """The keyboard's controller: its data port at 0, and its command port at 4."""

    name = "i8042"


class AcpiEvent(_OnBench):
    """ACPI's PM1a event block. The power button is an event."""

    name = "acpi-event"

    @event
    def press(self) -> None:
        """Somebody presses the power button."""
        self._native.event(0, b"")


class AcpiControl(_OnBench):
    """ACPI's PM1a control block."""

    name = "acpi-control"


class AcpiTimer(_OnBench):
    """ACPI's PM timer."""

    name = "acpi-timer"


class ResetRegister(_OnBench):
    """The reset register at port 0xcf9."""

    name = "reset-register"


class FwCfg(_OnBench):
    """fw_cfg with a file of 16 bytes and an empty one."""

    name = "fw-cfg"


class DebugConsole(_OnBench):
    """The debug console's port."""

    name = "debug-console"


class DebugExit(_OnBench):
    """The debug-exit ports."""

    name = "debug-exit"


_ALL: dict[str, type[_OnBench]] = {
    cls.name: cls
    for cls in (
        Uart,
        Rtc,
        I8042,
        AcpiEvent,
        AcpiControl,
        AcpiTimer,
        ResetRegister,
        FwCfg,
        DebugConsole,
        DebugExit,
    )
}
STOCK: tuple[str, ...] = tuple(_ALL)
"""Names of the devices that `stock` knows."""


def stock(name: str) -> type[_OnBench]:
    """Return the class of one of hyperpy's own devices in Rust, for a `DeviceFuzzer` or a `DeviceBench`.

    What is called makes a fresh device. It has no machine: its time is the bench's, the interrupt that it drives leads nowhere. What comes from outside the guest, such
    as bytes on a serial line, is an `event`. `make fuzz-build` builds a native module in which the code of these devices counts as coverage.

    Arguments:
        name: one of `hyperpy.fuzz.STOCK`: "uart", "rtc", "i8042", "acpi-event", "acpi-control", "acpi-timer", "reset-register", "fw-cfg",
            "debug-console" or "debug-exit".

    Raises:
        FuzzError: there is no such device.

    Example:
        >>> from hyperpy import fuzz
        >>> from hyperpy.testing import DeviceBench
        >>> report = fuzz.DeviceFuzzer(fuzz.stock("uart"), seed=1).run(executions=1000)
        >>> report.crashes
        ()
        >>> bench = DeviceBench(fuzz.stock("rtc")())
        >>> bench.write8(0, 0x32)  # the century
        >>> hex(bench.read8(1))
        '0x20'
    """
    found = _ALL.get(name)
    if found is None:
        raise FuzzError(f"no such device: {name:.40}", hint=f"one of {', '.join(STOCK)}")
    return found
