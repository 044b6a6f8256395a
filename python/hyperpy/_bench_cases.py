"""What `hyperpy bench` measures: a row for each kind of exit and verb, each done by hyperpy and by C.

Rows of a guest's operations are in `_bench_buses` and `_bench_others`; here are those that are timed from outside, and all by name.
"""

from __future__ import annotations

from collections.abc import Callable

from hyperpy import _bench_buses, _bench_others
from hyperpy._bench_buses import COALESCED, MMIO, PORTS, RETURNED, STRINGS, Hooked, Plain
from hyperpy._bench_case import Case
from hyperpy._bench_floor import Floor
from hyperpy._bench_guests import COUNT, VECTOR, Side
from hyperpy._bench_others import INSTRUCTIONS, INTERRUPT
from hyperpy._bench_verbs import (
    GSI,
    MESSAGE,
    Attach,
    Call,
    FloorCall,
    FloorLife,
    FloorMaps,
    FloorThread,
    Kick,
    Life,
    Maps,
    Wake,
    kicked,
    woken,
)
from hyperpy.testing import Read, Write

__all__ = ["CASES", "Case"]

MACHINES, PYTHON = "machines", "Python, without KVM"
_NOTHING = "nothing in C is like it"
_CALLS = 1000
_PORT = 0x80
# What hyperpy keeps to: of C's time for a machine's life, and nanoseconds for an on_write method.
_OF_LIFE, _NS_OF_HOOK = 1.15, 400.0


def _message(floor: Floor) -> None:
    floor.tell("message", GSI, MESSAGE, VECTOR)


def _event(floor: Floor) -> None:
    _message(floor)
    floor.tell("irqfd", GSI)


def _wakes() -> list[Case]:
    def wake(
        name: str, title: str, hyperpy: Callable[[], Side] | str, prepare: Callable[[Floor], None]
    ) -> Case:
        def floor() -> Side:
            return FloorThread(woken, "wakes", GSI, prepare, is_told=True)

        return Case(INTERRUPT, name, title, hyperpy, floor, alone=False, most=40)

    raised = "while the guest sleeps; until its handler's access is out"
    return [
        wake("irq-wake", f"line raised {raised}", lambda: Wake(by_pulse=False), _message),
        wake("irqfd-wake", f"irqfd signalled {raised}", lambda: Wake(by_pulse=True), _event),
    ]


def _machines() -> list[Case]:
    return [
        Case(
            MACHINES,
            "kick",
            "pause() of a guest that computes; until it stands",
            Kick,
            lambda: FloorThread(kicked, "kicks", COUNT),
            alone=False,
            most=40,
        ),
        Case(
            MACHINES,
            "create-close",
            "machine made, loaded, run to its first exit, closed",
            lambda: Life(irqchip=False),
            lambda: FloorLife(irqchip=False),
            target=_OF_LIFE,
            most=100,
        ),
        Case(
            MACHINES,
            "create-close-irqchip",
            "the same with interrupt controllers and a PIT",
            lambda: Life(irqchip=True),
            lambda: FloorLife(irqchip=True),
            target=_OF_LIFE,
            most=100,
        ),
        Case(MACHINES, "map-change", "2 MiB of memory added and removed", Maps, FloorMaps, most=200),
        Case(MACHINES, "attach-detach", "Python device attached and detached", Attach, _NOTHING, most=200),
    ]


def _python() -> list[Case]:
    """Each sample is the mean of so many: a single one is shorter than what reads the clock can tell."""
    read, write = Read(pio=_PORT, size=1, times=_CALLS), Write(7, pio=_PORT, size=1, times=_CALLS)
    # What is called, the device and the access, and the method that C calls: how many numbers it takes, and whether it answers.
    rows = (
        ("read", "a device's read()", Plain, read, Plain().read, 2, True, None),
        ("write", "a device's write()", Plain, write, Plain().write, 3, False, None),
        ("on-read", "a declared register's on_read method", Hooked, read, Hooked()._read, 0, True, None),
        (
            *("on-write", "a declared register's on_write method", Hooked, write),
            *(Hooked()._written, 1, False, _NS_OF_HOOK),
        ),
    )

    def call(
        name: str,
        what: str,
        kind: type,
        access: Read | Write,
        method: Callable[..., object],
        arguments: int,
        has_answer: bool,
        target_ns: float | None,
    ) -> Case:
        return Case(
            PYTHON,
            f"python-call-{name}",
            f"attach to the interpreter and call of {what}, with dispatch; C without: mean of {_CALLS:,}",
            lambda: Call(kind(), access),
            lambda: FloorCall(method, arguments, has_answer=has_answer, times=_CALLS),
            target_ns=target_ns,
            most=50,
        )

    return [call(*row) for row in rows]


def _cases() -> list[Case]:
    """All of them, by group."""
    groups = (PORTS, MMIO, STRINGS, COALESCED, INSTRUCTIONS, RETURNED, INTERRUPT, MACHINES, PYTHON)
    cases = [*_bench_buses.cases(), *_bench_others.cases(), *_wakes(), *_machines(), *_python()]
    return sorted(cases, key=lambda case: groups.index(case.group))


CASES: dict[str, Case] = {case.name: case for case in _cases()}
