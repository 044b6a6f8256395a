"""What a guest fuzzer is told: where inputs go, where an execution ends, what is a crash, what is coverage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hyperpy import _hyperpy
from hyperpy._fuzz_findings import FuzzError
from hyperpy._fuzz_input import InputDevice
from hyperpy.exits import Exit

__all__ = ["REGISTERS", "Plan"]

REGISTERS = (
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rsp",
    "rbp",
    *(f"r{number}" for number in range(8, 16)),
)
# Most bytes of an input (crates/hyperpy-core/src/fuzz/mod.rs).
LONGEST = 1 << 16
_EXCEPTIONS = 32
_ALWAYS = ("Shutdown", "FailEntry", "InternalError")
_LONGEST_MS = 1e9


@dataclass
class Plan:
    """All of it, as the core takes it."""

    places: list[tuple[str, int, int, str]] = field(default_factory=list)
    has_devices: bool = False
    stops: list[int] = field(default_factory=list)
    crashes: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    exits: list[str] = field(default_factory=lambda: list(_ALWAYS))
    window: tuple[int, int, bool] | None = None
    ms: float = 1000.0
    instructions: int | None = None
    hangs: bool = True
    steps: bool = False
    comparisons: bool = True
    by: str | None = None
    input: _hyperpy.FuzzInput = field(default_factory=_hyperpy.FuzzInput)

    def input_at(self, gpa: int | None, gva: int | None, max_len: int, length_register: str | None) -> None:
        """See `GuestFuzzer.input_at`."""
        at = gpa if gva is None else gva
        if at is None or (gpa is not None and gva is not None):
            raise TypeError("an input goes to one address\n\nhint: gpa=0x20000, or gva=")
        if not 0 <= at < 1 << 64:
            raise ValueError(f"address of the input is out of range: {at:#x}\n\nhint: an address of 64 bits")
        if not 1 <= max_len <= LONGEST:
            raise ValueError(f"length of an input is out of range: {max_len}\n\nhint: 1 to {LONGEST}")
        if length_register is not None:
            _check_register(length_register)
        self.places.append(("gpa" if gva is None else "gva", at, max_len, length_register or ""))

    def input_register(self, name: str) -> None:
        """See `GuestFuzzer.input_register`."""
        _check_register(name)
        self.places.append(("register", 0, 0, name))

    def input_device(self, device: Any) -> None:
        """See `GuestFuzzer.input_device`."""
        if isinstance(device, type):
            hint = "the object that was attached"
            raise TypeError(f"not a device, but a class: {device.__name__}\n\nhint: {hint}")
        if isinstance(device, InputDevice):
            device.fuzz_input.follow(self.input)
        else:
            try:
                device.fuzz_input = self.input
            except (AttributeError, TypeError) as error:
                hint = "the object that was attached, which takes attributes"
                raise TypeError(f"device takes no input: {device!r:.60}\n\nhint: {hint}") from error
        self.has_devices = True

    def crash_on(self, exits: Iterable[Any], vectors: Iterable[int], addresses: list[int]) -> None:
        """See `GuestFuzzer.crash_on`."""
        for kind in exits:
            name = getattr(kind, "__name__", "")
            if getattr(Exit, name, None) is not kind:
                hint = "a class, such as Exit.Mmio"
                raise TypeError(f"no class of Exit: {kind!r:.60}\n\nhint: {hint}")
            if name == "Timeout":
                hint = "limit(ms=..., hangs=True): what does not end is a hang"
                raise ValueError(f"no end of an execution: Exit.{name}\n\nhint: {hint}")
            if name not in self.exits:
                self.exits.append(name)
        for vector in vectors:
            if not 0 <= vector < _EXCEPTIONS:
                raise ValueError(f"no such exception: {vector}\n\nhint: 0 to 31, such as 6, 13 and 14")
            self.vectors.append(vector)
        self.crashes += addresses

    def limit(self, ms: float | None, instructions: int | None, hangs: bool | None) -> None:
        """See `GuestFuzzer.limit`."""
        if ms is not None:
            if not 0 < ms <= _LONGEST_MS or math.isnan(ms):
                raise ValueError(f"limit in milliseconds is out of range: {ms}\n\nhint: above 0, such as 50")
            self.ms = ms
        if instructions is not None:
            if not 0 < instructions < 1 << 62:
                raise ValueError(f"limit of instructions is out of range: {instructions}\n\nhint: above 0")
            self.instructions = instructions
        if hangs is not None:
            self.hangs = hangs

    def cover(
        self,
        blocks: list[int],
        window: tuple[int, int] | None,
        layout: str,
        steps: bool | None,
        comparisons: bool | None,
        by: str | None,
    ) -> None:
        """See `GuestFuzzer.cover`."""
        if layout not in {"counters", "kcov"}:
            raise ValueError(f"no such layout of a window: {layout}\n\nhint: counters, or kcov")
        if by not in {None, "hlt", "int3"}:
            raise ValueError(f"no such instruction for breakpoints: {by}\n\nhint: hlt, or int3")
        self.blocks += blocks
        if window is not None:
            gpa, size = window
            self.window = gpa, size, layout == "kcov"
        self.steps = self.steps if steps is None else steps
        self.comparisons = self.comparisons if comparisons is None else comparisons
        self.by = by or self.by

    def check(self) -> None:
        """Raise a `FuzzError` if nobody takes anything of an input."""
        if not self.all_places:
            hint = "say where inputs go: input_at(gpa=..., max_len=...), input_register(name) or input_device(device)"
            raise FuzzError("guest gets no input", hint=hint)

    @property
    def all_places(self) -> list[tuple[str, int, int, str]]:
        """Who takes of an input, in order."""
        return [*self.places, ("devices", 0, 0, "")] if self.has_devices else self.places

    def calls(self) -> list[str]:
        """The calls of a fuzzer's methods, as code, that tell it the same; devices are left out."""
        calls = []
        for kind, at, most, register in self.places:
            if kind == "register":
                calls.append(f"input_register({register!r})")
            else:
                length = f", length_register={register!r}" if register else ""
                calls.append(f"input_at({kind}={at:#x}, max_len={most}{length})")
        if self.stops:
            calls.append(f"stop_at({', '.join(map(hex, self.stops))})")
        exits = "".join(f"Exit.{name}, " for name in self.exits if name not in _ALWAYS)
        calls += [
            f"crash_on({exits}vectors={self.vectors}, addresses={self.crashes})",
            f"limit(ms={self.ms}, instructions={self.instructions}, hangs={self.hangs})",
            f"cover(breakpoints={self.blocks}, steps={self.steps}, comparisons={self.comparisons}, by={self.by!r})",
        ]
        if self.window is not None:
            gpa, size, is_kcov = self.window
            calls.append(f"cover(window=({gpa:#x}, {size:#x}), layout={'kcov' if is_kcov else 'counters'!r})")
        return calls

    def native(
        self,
        machine: _hyperpy.Machine,
        base: _hyperpy.Snapshot,
        seed: int,
        texts: list[bytes],
        numbers: list[int],
    ) -> _hyperpy.GuestFuzzer:
        """The core's fuzzer of it."""
        return _hyperpy.GuestFuzzer(
            machine,
            base,
            seed,
            texts,
            numbers,
            self.input,
            self.all_places,
            (self.blocks, self.stops, self.crashes),
            bytes(self.vectors),
            self.exits,
            self.window,
            (self.ms / 1000, self.instructions),
            (self.hangs, self.steps, self.comparisons, self.by),
        )


def _check_register(name: str) -> None:
    if name not in REGISTERS:
        raise ValueError(f"no such general register: {name!r:.40}\n\nhint: one of {', '.join(REGISTERS)}")
