"""One row of `hyperpy bench` before it is measured: what it is called, how each side of it is opened, what it shall keep to.

Which rows there are is in `_bench_buses`, `_bench_others` and `_bench_cases`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyperpy._bench_floor import Floor
from hyperpy._bench_guests import FloorGuest, Guest, Loop, Side
from hyperpy.machine import Machine

__all__ = ["Case", "guest"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row: how each side is opened, or why there is none.

    `group` is what it is shown with. `target` is how much of C's time hyperpy's shall take at most, `target_ns` how many
    nanoseconds. `alone` says that all is done by one thread, which then stays on one processor; `most` bounds
    operations in a round.
    """

    group: str
    name: str
    title: str
    hyperpy: Callable[[], Side] | str
    floor: Callable[[], Side] | str
    target: float | None = None
    target_ns: float | None = None
    alone: bool = True
    most: int = 1000


def guest(
    group: str,
    name: str,
    title: str,
    loop: Loop | Callable[[], Loop],
    attach: Callable[[Machine], object] | str | None = None,
    prepare: Callable[[Floor], object] | str | None = None,
    target: float | None = None,
    *,
    alone: bool = True,
) -> Case:
    """A row of a guest's operation. A text in place of `attach` or `prepare` says why that side has none.

    A function in place of the loop is called when it is measured: its bytes depend on the host.
    """

    def made() -> Loop:
        return loop if isinstance(loop, Loop) else loop()

    return Case(
        group,
        name,
        title,
        attach if isinstance(attach, str) else lambda: Guest(made(), attach),
        prepare if isinstance(prepare, str) else lambda: FloorGuest(made(), prepare),
        target,
        alone=alone,
    )
