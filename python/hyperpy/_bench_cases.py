"""What `hyperpy bench` measures: a row for each kind of exit and verb, each done by hyperpy and by C.

A row that is a guest's operation is a few lines: its bytes, and what hyperpy attaches. See `_bench_guests` for the loop
around it and for the registers that it may change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyperpy._bench_floor import Floor
from hyperpy._bench_guests import FloorGuest, Guest, Loop, _Side
from hyperpy.device import DebugConsole, DebugExit, Device
from hyperpy.machine import Machine, Unclaimed

__all__ = ["CASES", "Case"]

_PORT = 0x80
_GPA = 0xFE00_0000


@dataclass(frozen=True, slots=True)
class Case:
    """One row: how each side is opened, or why there is none.

    `alone` says that all is done by one thread, which then stays on one processor; `most` bounds operations in a round.
    """

    name: str
    title: str
    hyperpy: Callable[[], _Side] | str
    floor: Callable[[], _Side] | str
    alone: bool = True
    most: int = 1000


class _Plain(Device):
    """The least that methods can do."""

    size = 8

    def read(self, offset: int, size: int, /) -> int:
        return 7

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


def _guest(
    name: str,
    title: str,
    loop: Loop,
    attach: Callable[[Machine], object] | str | None = None,
    prepare: Callable[[Floor], object] | str | None = None,
    most: int = 1000,
) -> Case:
    """A row of a guest's operation. A text in place of `attach` or `prepare` says why that side has none."""
    return Case(
        name,
        title,
        attach if isinstance(attach, str) else lambda: Guest(loop, attach),
        prepare if isinstance(prepare, str) else lambda: FloorGuest(loop, prepare),
        most=most,
    )


# Accesses of one byte: out 0x80, al; in al, 0x80; mov [rbx], al; mov al, [rbx].
_AT = b"\xbb" + _GPA.to_bytes(4, "little")
_OUT, _IN = Loop(b"\xe6\x80"), Loop(b"\xe4\x80")
_STORE, _LOAD = Loop(b"\x88\x03", prologue=_AT), Loop(b"\x8a\x03", prologue=_AT)


def _put(machine: Machine, device: object, is_pio: bool) -> None:
    machine.attach(device, pio=_PORT if is_pio else None, mmio=None if is_pio else _GPA)


def _policy(machine: Machine, policy: Unclaimed) -> None:
    machine.unclaimed = policy


# Who answers an access, by rung of the dispatch ladder, and how a machine gets it: on ports or in mmio, for writes or reads.
_RUNGS: tuple[tuple[str, str, Callable[[Machine, bool, bool], object]], ...] = (
    (
        "rust",
        "a device in Rust",
        lambda m, is_pio, is_write: _put(m, DebugConsole(m.console) if is_write else DebugExit(), is_pio),
    ),
    ("python", "a method of a Python device", lambda m, is_pio, _: _put(m, _Plain(), is_pio)),
    ("ones", 'nobody, unclaimed="ones"', lambda m, *_: _policy(m, "ones")),
    ("exit", 'the script: run() returns, unclaimed="exit"', lambda m, *_: _policy(m, "exit")),
)
_ACCESSES = (
    ("pio-out", "write to a port", _OUT, True, True),
    ("pio-in", "read of a port", _IN, True, False),
    ("mmio-write", "write to mmio", _STORE, False, True),
    ("mmio-read", "read of mmio", _LOAD, False, False),
)


def _answered(
    attach: Callable[[Machine, bool, bool], object], is_pio: bool, is_write: bool
) -> Callable[[Machine], object]:
    return lambda machine: attach(machine, is_pio, is_write)


def _cases() -> list[Case]:
    cases = [_guest("clock", "nothing: what each guest's row has in it for reading the clock", Loop(b""))]
    for rung, who, attach in _RUNGS:
        for access, what, loop, is_pio, is_write in _ACCESSES:
            title = f"{what}, answered by {who}"
            cases.append(_guest(f"{access}-{rung}", title, loop, _answered(attach, is_pio, is_write)))
    return cases


CASES: dict[str, Case] = {case.name: case for case in _cases()}
