"""What stands around a device that is fuzzed: it is put back before each input, and looked at after each.

The core calls it (`crates/hyperpy-python/src/fuzz/`): `begin`, `event`, `reset`, `check`, `end`, `held`. Nothing of one input may reach the next: a
device of which all that it has is known to be saved is put back by its state, and any other is made anew.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from hyperpy import _hyperpy
from hyperpy._device_bench import BenchSnapshot, DeviceBench
from hyperpy._fuzz_findings import Invariant
from hyperpy._fuzz_shape import Event, events_of, files_of
from hyperpy._register_state import own_attributes
from hyperpy.device import Device, _Stock
from hyperpy.dma import DmaMemory, wants_dma
from hyperpy.errors import SnapshotError

if TYPE_CHECKING:
    from hyperpy._bench_memory import BenchMemory

__all__ = ["FuzzBench", "Host"]

# An operation that runs more lines of the device's code does not end.
MOST_LINES = 250_000
# An input that makes the process take so much more memory than before is a finding.
MOST_GROWTH = 64 << 20
# Attributes of a device that count by what they hold at an input's end.
_SHOWN = 64
_SHORT = 32
# Of several in one attribute, so many are looked at.
_HELD = 16
_SEVERAL = (list, tuple, dict)


class _Lender:
    """Gives a device the memory of the fuzzer where a bench would give it its own."""

    def __init__(self, native: _hyperpy.FuzzMemory, limit: int) -> None:
        self._native, self._limit = native, limit

    def _for_device(self, device: object) -> DmaMemory:
        native: Any = self._native
        return DmaMemory(native, self._limit)


class FuzzBench(DeviceBench[Any]):
    """A bench whose memory is that of the fuzzer."""

    def __init__(self, device: Any, memory: _hyperpy.FuzzMemory | None, size: int | None) -> None:
        self._fuzzed = memory
        super().__init__(device, size=size)

    @property
    def memory(self) -> BenchMemory:
        """What a device's DMA reaches."""
        assert self._fuzzed is not None, "only a device with dma asks"
        limit = getattr(self.device, "dma_limit", 64 << 20)
        return cast("BenchMemory", _Lender(self._fuzzed, limit))


class Host:
    """A device, its bench, and what the core wants done to them."""

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        size: int | None,
        memory: int,
        double_fetch: bool,
        max_lines: int,
        max_growth: int,
    ) -> None:
        self._factory, self.asked_size, self.max_growth = factory, size, max_growth
        self.invariants: list[Invariant] = []
        device = factory()
        self.memory: _hyperpy.FuzzMemory | None = None
        if wants_dma(device):
            limit = getattr(device, "dma_limit", 64 << 20)
            self.memory = _hyperpy.FuzzMemory(memory, limit, double_fetch)
        self.bench_of = FuzzBench(device, self.memory, size)
        self.cls = type(device)
        self.is_stock = isinstance(device, _Stock)
        self.files = files_of(self.cls)
        self.events: list[Event] = events_of(self.cls)
        self.trail = _hyperpy.Trail(self.files, max_lines)
        self.base = self._saved()
        self._attributes = len(getattr(device, "__dict__", ()))

    @property
    def bench(self) -> _hyperpy.Bench:
        """The native bench."""
        return self.bench_of._plain

    @property
    def device(self) -> Any:
        """The device."""
        return self.bench_of.device

    @property
    def is_plain(self) -> bool:
        """Whether nobody in Python needs to be asked for anything."""
        return self.is_stock and not self.invariants

    @property
    def checks_each(self) -> bool:
        """Whether an invariant is looked at after each operation."""
        return any(invariant.each for invariant in self.invariants)

    def _saved(self) -> BenchSnapshot | None:
        """What puts the device back, if that is all of it."""
        if not self.is_stock and not self._is_all_saved():
            return None
        try:
            return self.bench_of.snapshot()
        except SnapshotError:
            return None

    def _is_all_saved(self) -> bool:
        """Whether a device of Python's has nothing that its state does not have."""
        device, cls = self.device, self.cls
        if not isinstance(device, Device) or cls.save is not Device.save or cls.load is not Device.load:
            return False
        if getattr(device, "_blocks", None) or any("__slots__" in vars(base) for base in cls.__mro__[:-1]):
            return False
        return not set(own_attributes(device, vars(device))) - set(cls.saved_attributes or ())

    # -- what the core calls ---------------------------------------------------------------------------------------------

    def begin(self) -> tuple[_hyperpy.Bench, _hyperpy.Clock]:
        """Put all back to what it was before every input."""
        bench = self.bench_of
        if self.base is None or len(getattr(self.device, "__dict__", ())) != self._attributes:
            self.bench_of = bench = FuzzBench(self._factory(), self.memory, self.asked_size)
        else:
            for line in bench.lines.values():
                line.history.clear()
            bench.messages.clear()
            bench.stopped = None
            if self.is_stock:
                self.device._native.begin()
            bench.restore(self.base)
        return bench._plain, bench.clock._native

    def event(self, number: int, data: bytes) -> None:
        """Do one of the host's events."""
        event = self.events[number]
        method = getattr(self.device, event.name)
        method(data) if event.most else method()

    def reset(self) -> None:
        """Reset the machine, as far as the device sees it."""
        self.bench_of.reset()

    def check(self) -> None:
        """Look at the invariants that hold after each operation."""
        for invariant in self.invariants:
            if invariant.each:
                invariant.check(self.device)

    def end(self) -> list[int]:
        """Look at all invariants, and return what the device's attributes hold, as features."""
        for invariant in self.invariants:
            invariant.check(self.device)
        found = []
        for name, value in list(getattr(self.device, "__dict__", {}).items())[:_SHOWN]:
            number = _number(value)
            if number is not None:
                found.append(zlib.crc32(name.encode(), 7) << 24 | number)
        return found

    def held(self) -> list[int]:
        """Return the numbers that the device's attributes are or have, which it may compare with what a guest writes."""
        found: list[int] = []
        for value in list(getattr(self.device, "__dict__", {}).values())[:_SHOWN]:
            # A subclass may do anything when it is looked at.
            several = list(islice(value, _HELD)) if type(value) in _SEVERAL else [value]
            found += [it for it in several if type(it) is int and 1 < it < 1 << 64]
        return found


def _number(value: object) -> int | None:
    """What something comes to as a feature; None: nothing."""
    match value:
        case None | bool():
            return 1 << 20 | (2 if value is None else int(value))
        case enum.Enum():
            # A flag of which no bit that is named is set has no name.
            return (
                2 << 20 | zlib.crc32(f"{value.name or value.value}".encode(errors="surrogatepass")) & 0xFFFFF
            )
        case int():
            return 3 << 20 | _coarse(abs(value)) | (0x100 if value < 0 else 0)
        case str() | bytes() if len(value) <= _SHORT:
            text = value.encode(errors="surrogatepass") if isinstance(value, str) else value
            return 4 << 20 | zlib.crc32(text) & 0xFFFF
        case list() | tuple() | dict() | set() | frozenset() | bytearray() | Sized():
            try:
                return 5 << 20 | _coarse(len(value))
            except Exception:
                return None
        case _:
            return None


def _coarse(value: int) -> int:
    """As the core's `coarse`."""
    return value if value < 16 else 12 + min(value.bit_length(), 200)
