"""A test bench for one device: accesses, time, an interrupt line and memory, without a guest and without KVM.

Public as `hyperpy.testing.DeviceBench`. The accesses themselves are made in the core (crates/hyperpy-core/src/bench.rs); what a test gives
and gets is in `_bench_steps`.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from hyperpy import _hyperpy
from hyperpy._bench_lines import BenchLine, IrqChange, MessageSent, lend_lines
from hyperpy._bench_steps import Access, Batch, BenchSnapshot, Step, fields
from hyperpy._dma_layers import tell
from hyperpy._lent import NotLent, give_back
from hyperpy._living import Living
from hyperpy._prepared import prepared
from hyperpy.clock import Clock
from hyperpy.device import Device, Stop
from hyperpy.dma import wants_dma
from hyperpy.errors import StateError
from hyperpy.line import take_back
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from types import TracebackType

    from hyperpy._bench_memory import BenchMemory
    from hyperpy._recording import Recording
    from hyperpy.dma import DmaMemory
    from hyperpy.machine import Machine

__all__ = ["Access", "Batch", "BenchLine", "BenchSnapshot", "DeviceBench", "IrqChange", "MessageSent", "Step"]

_D = TypeVar("_D")
# An access has at most so many bytes.
_WIDEST = 8


# Those that are alive, for `record`.
benches: Living[DeviceBench[Any]] = Living()


class DeviceBench(Generic[_D]):
    """A device on a bench: accesses to it come from the test, and are answered as a guest's are. Needs no KVM.

    Any device will do: one with declared registers, one with `read` and `write`, or a stock device. What its methods
    raise is raised by the access, with a note that says which one it was. An interrupt line (`irq`; `lines` of a
    device with several, `messages` that it sends), a clock that the test steps (`clock`; timers fire on the way) and, for
    a device whose class says `dma = True`, guest memory (`memory`)
    stand in for a machine's: `device.irq`, `device.clock` and `device.memory`. Counters count the bench's clock.

    Arguments:
        device: what is tested; `bench.device` is it.
        size: length of its range in bytes, or "4K", if it does not know its own.
        memory: size of the guest memory, in bytes or "64G"; where it lies, `Machine` tells. It costs what is touched.
        name: for messages; the class's name if it is left out.

    Raises:
        TypeError: the object is no device, or its size is not known.

    Example:
        >>> from hyperpy import Counter, Device, Register, Stop
        >>> from hyperpy.testing import DeviceBench
        >>> class Alarm(Device):
        ...     limit = Register(0x0, reset=5)
        ...     ring = Register(0x4, access="wo")
        ...     elapsed = Counter(0x8, hz=1000)
        ...
        ...     @ring.on_write
        ...     def _ring(self, value: int) -> Stop | None:
        ...         self.irq.pulse()
        ...         return Stop("too loud") if value > self.limit else None
        >>> bench = DeviceBench(Alarm())
        >>> bench.write32(0x4, 3)
        >>> bench.clock.step(2_000_000)
        >>> bench.read64(0x8), bench.write32(0x4, 9)
        (2, Stop(reason='too loud'))
        >>> bench.irq.rises, bench.irq.history[0]
        (2, IrqChange(time=0, level=True))
    """

    def __init__(
        self,
        device: _D,
        *,
        size: int | str | None = None,
        memory: int | str = "1M",
        name: str | None = None,
    ) -> None:
        native, length, registers, calls = prepared(device, None if size is None else parse_size(size))
        self.device = device
        self.size: int = operator.index(length)
        self.stopped: Stop | None = None
        """The last `Stop` that a write returned, since the last `reset`."""
        self.clock = Clock.manual()
        self.lost_timers: list[str] = []
        """Of a bench that `fork` has made: what timers called that could not be set again."""
        self.messages: list[MessageSent] = []
        """The messages that the device sent (`hyperpy.Messages`), since the last `reset`."""
        self.lines, self._given = lend_lines(device, self.clock, self.messages)
        """A line for each that the device has, by name; `irq` is `lines["irq"]`."""
        self.irq = self.lines["irq"]
        self._memory_size = parse_size(memory)
        self._memory: BenchMemory | None = None
        self._plain = self._native = _hyperpy.Bench(
            native, self.size, name or type(device).__name__, self.clock._native, registers, calls
        )
        self._lend()
        benches.add(self)

    def _lend(self) -> None:
        device: Any = self.device
        with contextlib.suppress(AttributeError):  # it wants none, or its class has no place for it
            if isinstance(getattr(device, "clock", self), Clock | NotLent | None):
                device.clock = self.clock
        self._lent: DmaMemory | None = None
        if wants_dma(device):
            device.memory = self._lent = self.memory._for_device(device)

    def _watch(self, recorder: _hyperpy.Recorder | None, wires: Iterable[Any] = ()) -> None:
        """Have a recorder told of accesses, of timers, of what the device does by these lines and senders and to memory; or nobody."""
        self._native = self._plain if recorder is None else self._plain.recorded(recorder)
        for number, wire in enumerate(self._given.values() if recorder is None else wires):
            wire._record(recorder, number)
        if self._lent is not None:
            tell(self._lent, recorder)
        self.clock._native.record(recorder)

    @property
    def memory(self) -> BenchMemory:
        """Guest memory for the device's DMA, made when it is first wanted."""
        if self._memory is None:
            from hyperpy._bench_memory import BenchMemory  # noqa: PLC0415 - few devices have memory
            from hyperpy.testing import ScriptedMachine  # noqa: PLC0415 - it imports this

            machine = ScriptedMachine((), memory=self._memory_size)
            self._memory = BenchMemory(machine)
            # It goes with the bench.
            weakref.finalize(self, _let_go, machine)
        return self._memory

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset`: 1 to 8, in the device's range.

        Raises:
            ValueError: the access is not in the range: no guest's would reach the device.
            Exception: what the device raises; `DeviceError` for an answer that is no number of that size.
        """
        return self._native.read(offset, size)

    def read8(self, offset: int) -> int:
        """Read 1 byte, as `read`."""
        return self._native.read(offset, 1)

    def read16(self, offset: int) -> int:
        """Read 2 bytes, as `read`."""
        return self._native.read(offset, 2)

    def read32(self, offset: int) -> int:
        """Read 4 bytes, as `read`."""
        return self._native.read(offset, 4)

    def read64(self, offset: int) -> int:
        """Read 8 bytes, as `read`."""
        return self._native.read(offset, 8)

    def write(self, offset: int, size: int, value: int) -> Stop | None:
        """Write `size` bytes at `offset`, and return the `Stop` that the device asks for, or None.

        A stock device's other wishes are told in the same way, such as `Stop("reset")`.

        Raises:
            ValueError: the access is not in the range, or the value does not fit; OverflowError if it is below 0.
            Exception: what the device raises; `DeviceError` if it returns something else.
        """
        reason = self._native.write(offset, size, value)
        return None if reason is None else self._stop(reason)

    def write8(self, offset: int, value: int) -> Stop | None:
        """Write 1 byte, as `write`."""
        reason = self._native.write(offset, 1, value)
        return None if reason is None else self._stop(reason)

    def write16(self, offset: int, value: int) -> Stop | None:
        """Write 2 bytes, as `write`."""
        reason = self._native.write(offset, 2, value)
        return None if reason is None else self._stop(reason)

    def write32(self, offset: int, value: int) -> Stop | None:
        """Write 4 bytes, as `write`."""
        reason = self._native.write(offset, 4, value)
        return None if reason is None else self._stop(reason)

    def write64(self, offset: int, value: int) -> Stop | None:
        """Write 8 bytes, as `write`."""
        reason = self._native.write(offset, 8, value)
        return None if reason is None else self._stop(reason)

    def _stop(self, reason: str) -> Stop:
        self.stopped = Stop(reason)
        return self.stopped

    def compile(self, accesses: Iterable[Access | tuple[int, int] | tuple[int, int, int | None]]) -> Batch:
        """Check accesses once, to make them many times: `compile(...).run()`.

        Arguments:
            accesses: `Access`, or tuples: (offset, size) reads, (offset, size, value) writes.

        Raises:
            ValueError: an access is not in the device's range, or a value does not fit.

        Example:
            >>> from hyperpy import Device, Register
            >>> from hyperpy.testing import Access, DeviceBench
            >>> class Scratch(Device):
            ...     kept = Register(0x0)
            >>> bench = DeviceBench(Scratch())
            >>> batch = bench.compile([Access(0x0, 4, 0x1234), Access(0x0, 4), (0x1, 1)])
            >>> batch.run()
            [4660, 18]
        """
        return Batch(self, [fields(access) for access in accesses])

    def batch(self, accesses: Iterable[Access | tuple[int, int] | tuple[int, int, int | None]]) -> list[int]:
        """Make accesses in order, and return what the reads gave: `compile(accesses).run()`."""
        return self.compile(accesses).run()

    def play(self, sequence: Iterable[Access | Step]) -> list[int]:
        """Make accesses and steps of the clock in order, and return what the reads gave.

        It is as on a bus: an access that is not all in the device's range reaches nobody, and reads as all ones.

        Raises:
            ValueError: an access has not 1 to 8 bytes, or a value does not fit.
            Exception: what the device or a timer raises. What is left is not done.

        Example:
            >>> from hyperpy import Counter, Device
            >>> from hyperpy.testing import Access, DeviceBench, Step
            >>> class Watch(Device):
            ...     ms = Counter(0x0, hz=1000)
            >>> DeviceBench(Watch()).play([Access(0x0, 8), Step(5_000_000), Access(0x0, 8), Access(0x4, 8)])
            [0, 5, 18446744073709551615]
        """
        given = []
        for step in sequence:
            if isinstance(step, Step):
                self.clock.step(step.ns)
                continue
            offset, size, value = fields(step)
            is_inside = 0 <= offset <= self.size - size
            if is_inside or not 1 <= size <= _WIDEST:
                given += [self.read(offset, size)] if value is None else []
                if value is not None:
                    self.write(offset, size, value)
            elif value is None:
                given.append((1 << 8 * size) - 1)
        return given

    def reset(self) -> None:
        """Press the reset button: the device's power-on state; clock at 0, lines down; their history, messages and `stopped` are forgotten.

        Declared registers go back before the device's own `reset` is called, as in a machine. Memory stays.
        """
        self.stopped = None
        for line in self.lines.values():
            line.clear()
        self.messages.clear()
        self._native.reset()

    def snapshot(self) -> BenchSnapshot:
        """Return what the device, its clock with the timers, and its lines are, for `restore`. Memory is not in it.

        Raises:
            SnapshotError: the device cannot be saved; what its `save` raises is raised.

        Example:
            >>> from hyperpy import Device, Register
            >>> from hyperpy.testing import DeviceBench
            >>> class Latch(Device):
            ...     value = Register(0x0)
            >>> bench = DeviceBench(Latch())
            >>> bench.write32(0x0, 7)
            >>> base = bench.snapshot()
            >>> bench.write32(0x0, 8)
            >>> bench.restore(base)
            >>> bench.read32(0x0), base.state
            (7, {'schema': 1, 'registers': {'value': 7}})
        """
        levels = {name: line.level for name, line in self.lines.items()}
        return BenchSnapshot(self._plain.snapshot(), levels)

    def restore(self, snapshot: BenchSnapshot) -> None:
        """Make the device, its clock with the timers, and its lines what they were, as often as you like.

        Of a bench with the same kind of device it takes all but the timers.

        Raises:
            SnapshotError: the device does not take the state; what its `load` raises is raised.
        """
        if not isinstance(snapshot, BenchSnapshot):
            raise TypeError(f"not a snapshot of a bench: {snapshot!r}\n\nhint: bench.snapshot() gives one")
        self._native.restore(snapshot._native)
        self._set_lines(snapshot)

    def _set_lines(self, snapshot: BenchSnapshot) -> None:
        for name, line in self.lines.items():
            line.level = snapshot._levels.get(name, False)

    def fork(self, *, name: str = "copy", seed: int = 0) -> DeviceBench[_D]:
        """Return a bench with a copy of the device, as a copy of a machine has one: of the same state and time.

        Timers that call methods of the device call those of the copy there; others are in `lost_timers` of the new bench.
        Memory is not copied.

        Arguments:
            name: of the copy's identity, which `Device.forked` is told.
            seed: of its identity, from 0 to 2**128 - 1.

        Raises:
            DeviceError: nobody knows how to copy the device.
            SnapshotError: it cannot be saved.
            ValueError: the seed is out of range.
        """
        from hyperpy._cloning import copy_of  # noqa: PLC0415 - few tests copy
        from hyperpy.identity import Identity  # noqa: PLC0415 - as above

        identity = Identity(name, seed)
        base = self.snapshot()
        copy = DeviceBench(copy_of(self.device), size=self.size, memory=self._memory_size)
        copy.lost_timers = copy._native.restore(base._native, self.device, copy.device)
        copy._set_lines(base)
        made: Any = copy.device
        if isinstance(made, Device):
            made.forked(self.device, identity)  # type: ignore[arg-type] # of the same class
        return copy

    def record(self, *, limit: int = 1_000_000) -> Recording:
        """Keep what is asked of the device and what it answers, from now on: as `hyperpy.testing.record`."""
        from hyperpy._record import record_bench  # noqa: PLC0415 - it imports this

        return record_bench(self, limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Take back what the device was lent."""
        take_back(self.device, self._given)
        for name in ("clock", "memory"):
            lent = self._lent if name == "memory" else getattr(self, name)
            if lent is not None and getattr(self.device, name, None) is lent:
                give_back(self.device, name, None)

    def __repr__(self) -> str:
        return f"<bench of {self.device!r}, {self.size:#x} bytes, {self.clock.now} ns>"


def _let_go(machine: Machine) -> None:
    """Close the machine of a bench that is gone, perhaps by the collector, which comes inside of a device too."""
    try:
        machine.close()
    except StateError:
        machine._let_go()  # its memory goes with it
