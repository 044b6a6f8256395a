"""Testing a device without a guest and without KVM.

A `DeviceBench` has one device: a test reads and writes its registers, steps its clock and looks at its interrupt line. A
`ScriptedMachine` is a `Machine` whose processor makes the accesses that a script gives, instead of running code. All
else is what it is under KVM: buses, dispatch, exceptions with their notes, exits, statistics.

From a device's declaration come Hypothesis strategies of `accesses` to it and of `sequences` of them, legal, nearly legal and
hostile ones, and a `state_machine` that looks for a way to break it. `record` keeps what happened to a device, and `replay` drives
another one from it. Strategies and state machines want Hypothesis: `pip install hypothesis`.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy._bench_lines import BenchLine, IrqChange, MessageSent
from hyperpy._bench_memory import BenchMemory
from hyperpy._deed import Deed
from hyperpy._device_bench import Access, Batch, DeviceBench, Step
from hyperpy._record import record
from hyperpy._recording import Event, Recording, RecordingError
from hyperpy._replay import Divergence, replay
from hyperpy.machine import Machine

if TYPE_CHECKING:
    from hyperpy._state_machine import DeviceMachine, state_machine
    from hyperpy._strategies import accesses, sequences

__all__ = [
    "Access",
    "Batch",
    "BenchLine",
    "BenchMemory",
    "Deed",
    "DeviceBench",
    "DeviceMachine",
    "Divergence",
    "Event",
    "IrqChange",
    "MessageSent",
    "Read",
    "Recording",
    "RecordingError",
    "ScriptedMachine",
    "Step",
    "Write",
    "accesses",
    "record",
    "replay",
    "sequences",
    "state_machine",
]
# Where what needs Hypothesis is.
_DRAWN = {
    "DeviceMachine": "_state_machine",
    "accesses": "_strategies",
    "sequences": "_strategies",
    "state_machine": "_state_machine",
}

_PORTS = 0x10000
_PIO_SIZES = (1, 2, 4)
_MMIO_SIZES = range(1, 9)


def __getattr__(name: str) -> object:
    """Import what needs Hypothesis when it is first wanted."""
    if name not in _DRAWN:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}\n\nhint: `{__name__}.__all__` lists what there is"
        )
    try:
        return getattr(importlib.import_module(f"hyperpy.{_DRAWN[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "hypothesis":
            raise
        raise ModuleNotFoundError(
            f"hypothesis is not installed, of which {name} is made\n\nhint: pip install hypothesis",
            name="hypothesis",
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_DRAWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A read by the guest, of `size` bytes.

    Arguments:
        pio: port, 0 to 0xffff. Exactly one of `pio` and `mmio` is given.
        mmio: gpa.
        size: 1, 2 or 4 bytes on ports, 1 to 8 in memory.
        times: how often in a row.
    """

    pio: int | None = None
    mmio: int | None = None
    size: int = 4
    times: int = 1


@dataclass(frozen=True, slots=True)
class Write:
    """A write of `value` by the guest; the other arguments are those of `Read`."""

    value: int
    pio: int | None = field(default=None, kw_only=True)
    mmio: int | None = field(default=None, kw_only=True)
    size: int = field(default=4, kw_only=True)
    times: int = field(default=1, kw_only=True)


class ScriptedMachine(Machine):
    """A machine that makes the accesses of a script, and then halts. No KVM is needed, and no guest code runs.

    Arguments:
        script: `Read` and `Write`, in order.
        keep_reads: whether `reads` is kept; False for measurements.
        options: those of `Machine`, but for `vcpus`, which is 1.

    Raises:
        ValueError: an access that no guest can make.

    Example:
        >>> from hyperpy import Device
        >>> from hyperpy.testing import Read, ScriptedMachine, Write
        >>> class Adder(Device):
        ...     size = 8
        ...     total = 0
        ...
        ...     def read(self, offset: int, size: int) -> int:
        ...         return self.total
        ...
        ...     def write(self, offset: int, size: int, value: int) -> None:
        ...         self.total += value
        >>> script = [Write(40, mmio=0xFE00_0004), Write(2, mmio=0xFE00_0004), Read(mmio=0xFE00_0000)]
        >>> with ScriptedMachine(script) as m:
        ...     adder = m.attach(Adder(), mmio=0xFE00_0000)
        ...     print(m.run(timeout=1.0), m.reads)
        Exit.Halt(vcpu=0) [42]
    """

    def __init__(self, script: Iterable[Read | Write], *, keep_reads: bool = True, **options: Any) -> None:
        self._script = _hyperpy.Script([_play_from_access(access) for access in script], keep_reads)
        super().__init__(**{"memory": "1M", **options, "vcpus": 1})

    @property
    def reads(self) -> list[int]:
        """What the reads gave to the guest so far, in order."""
        return self._script.reads()

    def _make_native(self, *arguments: Any) -> _hyperpy.Machine:
        return _hyperpy.Machine(*arguments, script=self._script)  # type: ignore[misc] # as many as it takes


def _play_from_access(access: Read | Write) -> tuple[bool, int, int, int | None, int]:
    if not isinstance(access, Read | Write):
        raise TypeError(f"not an access: {access!r}\n\nhint: Read(mmio=0x1000), Write(1, pio=0x80)")
    if (access.pio is None) == (access.mmio is None):
        raise ValueError(f"an access is on one bus: {access!r}\n\nhint: give pio=PORT or mmio=ADDRESS")
    is_pio, address = (True, access.pio) if access.pio is not None else (False, access.mmio)
    address = operator.index(address)  # type: ignore[arg-type]
    if not 0 <= address < (_PORTS if is_pio else 1 << 64):
        raise ValueError(f"address is out of range: {address:#x}\n\nhint: ports go from 0 to 0xffff")
    if access.size not in (_PIO_SIZES if is_pio else _MMIO_SIZES):
        raise ValueError(
            f"no guest makes such an access: {access!r}\n\nhint: 1, 2 or 4 bytes on ports, 1 to 8 in memory"
        )
    if operator.index(access.times) < 1:
        raise ValueError(f"number of times is out of range: {access!r}\n\nhint: 1 or more")
    value = access.value if isinstance(access, Write) else None
    if value is not None and not 0 <= operator.index(value) < 1 << (8 * access.size):
        raise ValueError(
            f"value is too wide for {access.size} bytes: {value:#x}\n\nhint: give a larger size, or fewer bits"
        )
    return is_pio, address, access.size, value, operator.index(access.times)
