"""A machine's clock, and timers on it: time that stops when the machine does.

`Machine.clock` is one, and a device gets the machine's as `self.clock` when it is attached. The time, the timers and the
thread that fires them are in Rust (`clock.rs` and `clock/timers.rs` of the core).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from hyperpy import _hyperpy
from hyperpy._value import Value

__all__ = ["Clock", "ClockSetting", "Timer"]

_U64 = 1 << 64


class Timer:
    """A timer that `Clock.after`, `Clock.every` or `Clock.at` has set. It fires whether or not anybody keeps this object."""

    __slots__ = ("_native",)

    def __init__(self, native: _hyperpy.Timer) -> None:
        self._native = native

    @property
    def deadline(self) -> int:
        """When it fires next, in nanoseconds of its clock; when it was to fire last, once it is not active."""
        return self._native.deadline

    @property
    def active(self) -> bool:
        """Whether it will fire. A timer that fires once is not active any more in its own callback."""
        return self._native.active

    def cancel(self) -> bool:
        """Take it off; whether it was active. A callback that has begun runs to its end. Safe anywhere.

        Raises:
            StateError: in the child of a fork, for a machine's timer.
        """
        return self._native.cancel()

    def __eq__(self, other: object) -> bool:
        return self._native.number == other._native.number if isinstance(other, Timer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._native.number)

    def __repr__(self) -> str:
        return f"<Timer at {self.deadline} ns{'' if self.active else ', not active'}>"


class Clock:
    """Time in nanoseconds from a machine's start.

    It goes by while the machine runs and stands still while the machine does; `Machine.reset` sets it to 0. It never goes
    back, whatever happens to the host's time of day. `Clock.manual()` makes one without a machine, that only steps move.

    A machine's timers fire while it runs, in order of their deadlines and then of their creation, on one thread for the
    machine. The callback takes no arguments. It may set and cancel timers, drive interrupt lines and use memory; it may stop
    the machine by returning `Stop("why")`, or by `m.stop()`; verbs that would wait for it are refused, as inside a device.
    What it raises pauses the machine, and `run` raises it with a note that names the device and the timer. Times of `every`
    that are over when it fires are left out. `reset` and `close` take all timers off, `detach` those of the device. The
    thread holds the GIL for each call alone, and needs it.

    Example:
        >>> from hyperpy import Clock
        >>> clock, fired = Clock.manual(), []
        >>> timer = clock.every(100, lambda: fired.append(clock.now))
        >>> at_once = clock.at(0, lambda: fired.append("at once"))
        >>> clock.step(250)
        >>> fired, clock.now, timer
        (['at once', 100, 200], 250, <Timer at 300 ns>)
    """

    __slots__ = ("_native", "_of")

    def __init__(self, native: Any = None, of: tuple[int, int] | None = None) -> None:
        if not isinstance(native, _hyperpy.Clock):
            hint = "m.clock is a machine's; Clock.manual() makes one that only steps move"
            raise TypeError(f"a clock is not made by its class\n\nhint: {hint}")
        self._native: _hyperpy.Clock = native
        self._of = of  # the machine and the device whose clock it is

    @classmethod
    def manual(cls) -> Clock:
        """A clock without a machine, for tests of devices: it stands still until it is stepped."""
        return cls(_hyperpy.Clock.manual())

    @property
    def now(self) -> int:
        """Nanoseconds from the machine's start. Takes no lock.

        Raises:
            StateError: in the child of a fork, for a machine's clock. So do all others.
        """
        return self._native.now

    @property
    def scale(self) -> float:
        """Nanoseconds of this clock for one of the host's, while the machine runs: 1.0, or what was set; 0 stops it.

        Setting it takes effect from then on. A manual clock has it, and does not use it.

        Raises:
            ValueError: it is not a finite number from 0.
        """
        return self._native.scale

    @scale.setter
    def scale(self, scale: float) -> None:
        self._native.scale = scale

    def step(self, ns: int) -> None:
        """Move the time forward by `ns` nanoseconds, whether it goes by itself or not.

        A manual clock fires what is due on the way, in order, on this thread and with `now` at each deadline; what a callback
        raises is raised here, and the time stands at its deadline. On a machine's clock what is due fires at once while it
        runs, and else when it runs again.

        Raises:
            ValueError: not a number of nanoseconds, 0 to 2**64 - 1.
        """
        self._native.step(_ns(ns))

    def after(self, ns: int, callback: Callable[[], Any]) -> Timer:
        """Call `callback()` once, `ns` nanoseconds from now.

        Raises:
            ValueError: not a number of nanoseconds, 0 to 2**64 - 1.
            TypeError: the callback cannot be called.
            StateError: the machine is closed.

        Example:
            >>> import hyperpy
            >>> again = bytes([0xEB, 0xFE])  # again: jmp again
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(again, at=0x1000, mode="real"))
            ...     timer = m.clock.after(1_000_000, lambda: hyperpy.Stop("a millisecond"))
            ...     print(m.run(timeout=5.0), m.clock.now >= 1_000_000, timer.active)
            Exit.Stopped(vcpu=None, reason='a millisecond', status=None) True False
        """
        return self._arm("after", _ns(ns), callback)

    def every(self, ns: int, callback: Callable[[], Any]) -> Timer:
        """Call `callback()` again and again, each `ns` nanoseconds, from `ns` nanoseconds from now on.

        Raises:
            ValueError: not a number of nanoseconds, 1 to 2**64 - 1.
            TypeError: the callback cannot be called.
            StateError: the machine is closed.
        """
        if _ns(ns) == 0:
            raise ValueError(
                "period of a timer is 0 ns\n\nhint: at least 1, and a callback takes microseconds"
            )
        return self._arm("every", ns, callback)

    def at(self, ns: int, callback: Callable[[], Any]) -> Timer:
        """Call `callback()` once, when the time is `ns`; at once if that is over.

        Raises:
            ValueError: not a number of nanoseconds, 0 to 2**64 - 1.
            TypeError: the callback cannot be called.
            StateError: the machine is closed.
        """
        return self._arm("at", _ns(ns), callback)

    def _timer(self, number: int) -> Timer:
        """The timer that a saved state has by its number."""
        return Timer(self._native.timer(number))

    def _arm(self, when: str, ns: int, callback: Any) -> Timer:
        if not callable(callback):
            hint = "a function without arguments, such as self.tick"
            raise TypeError(f"not to be called: {callback!r}\n\nhint: {hint}")
        return Timer(self._native.arm(when, ns, callback))

    def __repr__(self) -> str:
        return f"<Clock at {self.now} ns>"


class ClockSetting(Value):
    """How the clock of a copy of a machine is to go on: `m.fork(clock=ClockSetting(scale=2.0))`.

    Attributes:
        ahead: nanoseconds by which it is ahead of the parent's, from 0: what is due by then fires when the copy runs.
        scale: nanoseconds of the clock for one of the host's, from 0; None for the parent's.
    """

    ahead: int = 0
    scale: float | None = None

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        _ns(self.ahead)
        if self.scale is not None and not 0 <= self.scale < math.inf:
            raise ValueError(
                f"scale of a clock is out of range: {self.scale}\n\nhint: a number from 0 up, such as 0.5"
            )

    def _apply(self, clock: Clock) -> None:
        """Set a clock that stands still."""
        if self.scale is not None:
            clock.scale = self.scale
        if self.ahead:
            clock.step(self.ahead)


def _ns(value: int) -> int:
    if not 0 <= operator.index(value) < _U64:
        raise ValueError(f"not a number of nanoseconds: {value}\n\nhint: 0 to 2**64 - 1")
    return value
