"""What a guest fuzzer has found; public as `hyperpy.fuzz.GuestCrash`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer

__all__ = ["Found", "GuestCrash"]


class Found(NamedTuple):
    """A finding as the core tells of it."""

    what: str
    vectors: bytes
    detail: int
    rip: int
    error_code: int | None
    cr2: int
    stack_hash: int
    callers: list[int]


class GuestCrash:
    """An input that breaks the guest."""

    def __init__(self, fuzzer: GuestFuzzer, input: bytes, found: Found) -> None:
        self._fuzzer, self.input, self._found = fuzzer, input, found

    @property
    def kind(self) -> str:
        return self._found.what if self._found.what in {"exception", "address", "hang"} else "exit"

    @property
    def exit(self) -> str | None:
        return self._found.what if self.kind == "exit" else None
