"""The part of `Machine` that gives out how a round ended: its exit, and what devices have raised.

The core hands both over as plain values. A mixin, as `_attach` is.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from hyperpy.errors import GuestFault
from hyperpy.exits import AnyExit, Exit

if TYPE_CHECKING:
    from hyperpy import _hyperpy

# How many exceptions `Machine.errors` keeps: each holds its traceback, and by that a device's frames.
_MOST_ERRORS = 64


class Outcomes:
    """What `Machine` has of it."""

    _native: _hyperpy.Machine
    errors: list[BaseException]
    errors_dropped: int

    def _standing(self) -> str | None:
        """Why the machine stands still, for a message; None while it runs."""
        state = self._native.state
        if state == "running":
            return None
        ended = None if state == "closed" else self._native.ended()
        if ended is None:
            return "not started" if state == "created" else state
        kind, fields = ended
        return f"{state}: {fields if kind == 'error' else getattr(Exit, kind)(*fields)!r}"

    def _exit(self, outcome: tuple[str, Any]) -> AnyExit:
        kind, fields = outcome
        if kind == "raised":
            self._raise(fields)
        result: AnyExit = getattr(Exit, kind)(*fields)
        return result

    def _keep(self, raised: list[BaseException]) -> None:
        """Into `errors`, whose oldest ones make room."""
        self.errors += raised
        excess = max(0, len(self.errors) - _MOST_ERRORS)
        del self.errors[:excess]
        self.errors_dropped += excess

    def _raise(self, raised: list[BaseException]) -> NoReturn:
        """Raise the first of several exceptions of devices; the others are in its notes, all of them in `errors`."""
        self._keep(raised)
        for error in raised:
            if isinstance(error, GuestFault) and error.regs is None:
                from hyperpy.fault import fill  # noqa: PLC0415 - few scripts need it

                fill(self, error)  # it was raised inside a device, where nothing can be seen
        first, *later = raised
        for other in later:
            with contextlib.suppress(AttributeError):
                first.add_note(f"then {type(other).__name__}: {other}")
        raise first
