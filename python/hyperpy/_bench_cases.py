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
_NO_EVENT = "hyperpy raises lines by KVM_IRQ_LINE"
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
        wake("irq-wake", f"line raised {raised}", Wake, _message),
        wake("irqfd-wake", f"irqfd signalled {raised}", _NO_EVENT, _event),
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
    read, write = Read(pio=_PORT, size=1, times=_CALLS), Write(7, pio=_PORT, size=1, times=_CALLS)
    rows = (
        ("read", "a device's read()", Plain, read, None),
        ("write", "a device's write()", Plain, write, None),
        ("on-read", "a declared register's on_read method", Hooked, read, None),
        ("on-write", "a declared register's on_write method", Hooked, write, _NS_OF_HOOK),
    )

    def call(name: str, what: str, kind: type, access: Read | Write, target_ns: float | None) -> Case:
        title = f"dispatch, attach to the interpreter, and call of {what}: mean of {_CALLS:,}"
        return Case(
            PYTHON,
            f"python-call-{name}",
            title,
            lambda: Call(kind(), access),
            _NOTHING,
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
