"""What a fuzzer has found; public as `hyperpy.fuzz.Crash`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy._fuzz_findings import Key, Kind, key_of

if TYPE_CHECKING:
    from hyperpy._fuzz_device import DeviceFuzzer

__all__ = ["Crash"]

# Executions that a crash is made small with, at most.
_BUDGET = 5000


class Crash:
    """What a fuzzer has found: an input, and what it does to the device."""

    def __init__(self, fuzzer: DeviceFuzzer, input: bytes, key: Key, error: BaseException) -> None:
        self._fuzzer, self.input, self.key, self.error = fuzzer, input, key, error

    @property
    def kind(self) -> Kind:
        """What was found."""
        return self.key.kind

    @property
    def operations(self) -> tuple[str, ...]:
        """The input as text, an operation each."""
        return tuple(map(str, self._fuzzer._native.decode(self.input)))

    def minimize(self) -> Crash:
        """Return the same finding with as few operations as possible, each as simple as possible."""
        fuzzer = self._fuzzer

        def is_same(error: BaseException) -> bool:
            return key_of(error, fuzzer._host.files) == self.key

        small = fuzzer._native.minimize(fuzzer._host, self.input, is_same, _BUDGET)
        return Crash(fuzzer, small, self.key, self.error)

    def __repr__(self) -> str:
        return f"<crash: {self.kind}, {self.key.raised} at {', '.join(self.key.where) or '?'}>"
