"""What a device fuzzer can find: kinds, what is raised for each, and which findings are one.

Two findings are one if they are of one kind, raise one type, and the last lines in the device's own code are the same; of invariants and
panics, if what they say is the same but for numbers.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeAlias

from hyperpy.errors import DeviceError, HyperpyError

__all__ = [
    "FuzzError",
    "Growth",
    "Hang",
    "Invariant",
    "InvariantError",
    "Key",
    "Kind",
    "is_refused",
    "key_of",
    "kind_of",
    "printable",
]

Kind: TypeAlias = Literal["invariant", "exception", "hang", "memory", "panic", "exit", "address", "killed"]
"""What was found: an invariant does not hold; a method raises; an operation does not end; it takes too much memory; Rust panics;
a guest ends by an exit or at an address; the process that executes it is killed."""

# So many lines of the device's code tell findings apart.
_LINES = 3
# What varies in a text from one input to the next: bytes, numbers, addresses. Not what is part of a name, nor an invariant's number.
_BYTES = re.compile(r"""b(['"])(?:\\.|(?!\1).)*\1|\b(?=[a-f]*\d)[0-9a-f]{8,}\b""")
_NUMBER = re.compile(r"(?<!invariant )(?<![\w.])[-+]?\d\w*(?:\.\w+)?(?:[-+]\d+)?")
_ROW = re.compile(r"#(?:, #)+")
_HOW = "`crash.trace` tells how it comes to that"


class FuzzError(HyperpyError):
    """What a fuzzer cannot do: write a script that names a device's class which has no name, find a target in a file."""


class Hang(BaseException):
    """An operation does not end. Not an `Exception`, so that no device takes it for an error of its own."""


class Growth(Exception):  # noqa: N818 - what it is
    """An input makes the process take too much memory."""


class InvariantError(AssertionError):
    """An invariant does not hold after an input."""


class Invariant(NamedTuple):
    """What always holds: a function of the device that is false or raises if it does not."""

    holds: Callable[[Any], object]
    each: bool
    name: str

    def check(self, device: Any) -> None:
        """Raise an `InvariantError` if it does not hold."""
        try:
            if self.holds(device) is not False:
                return
        except Exception as error:
            raise InvariantError(
                f"invariant {self.name} raises {type(error).__name__}: {error}\n\nhint: {_HOW}"
            ) from error
        raise InvariantError(f"invariant {self.name} does not hold\n\nhint: {_HOW}")


class Key(NamedTuple):
    """What a finding is, as its first input says it; `same` tells two findings apart."""

    kind: Kind
    raised: str
    where: tuple[str, ...]

    @property
    def same(self) -> Key:
        """It without what varies in texts: findings of which this is equal are one."""
        if self.kind not in {"invariant", "panic"}:
            return self
        if (
            len(self.where) > 1
        ):  # an invariant that raises: what it says may be another thing each time, where it does so is not
            return self._replace(where=(self.where[0].partition(": ")[0], *self.where[1:]))
        return self._replace(where=tuple(_without_numbers(text) for text in self.where))


def kind_of(error: BaseException) -> Kind:
    """Say what a raised finding is."""
    match error:
        case InvariantError():
            return "invariant"
        case Hang():
            return "hang"
        case Growth() | MemoryError():
            return "memory"
        case DeviceError() if " panicked: " in error.message:
            return "panic"
        case _ if type(error).__name__ == "PanicException":  # of an extension module in Rust
            return "panic"
        case _:
            return "exception"


def is_refused(error: BaseException) -> bool:
    """Whether a device did what its `access_rule = "refuse"` says."""
    return isinstance(error, DeviceError) and ": no register takes this " in error.message


def key_of(error: BaseException, files: set[str]) -> Key:
    """Return what tells a finding from others; `files` have the device's code."""
    kind = kind_of(error)
    if kind == "invariant" and (cause := error.__cause__) is not None:
        head = str(error).partition("\n")[0]
        last = [
            f"{frame.f_code.co_qualname}:{line}" for frame, line in traceback.walk_tb(cause.__traceback__)
        ][-1:]
        return Key(kind, type(error).__name__, (head, *last))
    if kind in {"invariant", "panic"}:
        return Key(kind, type(error).__name__, (str(error).partition("\n")[0],))
    if kind == "hang":
        # Where a loop is found to be endless is any of its lines.
        return Key(
            kind, "", tuple(dict.fromkeys(name for name, _ in _frames(error.__traceback__, files)[-1:]))
        )
    lines = [f"{name}:{line}" for name, line in _frames(error.__traceback__, files)]
    return Key(kind, type(error).__name__, tuple(lines[-_LINES:]))


def printable(text: str) -> str:
    """Text without what would move a cursor, end a file of code, or not be text at all: a device may have made it of what a guest has sent."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _without_numbers(text: str) -> str:
    return _ROW.sub("#", _NUMBER.sub("#", _BYTES.sub("#", text)))


def _frames(trace: TracebackType | None, files: set[str]) -> list[tuple[str, int]]:
    """Functions and lines of the device's code, the innermost last."""
    return [
        (frame.f_code.co_qualname, line)
        for frame, line in traceback.walk_tb(trace)
        if frame.f_code.co_filename in files
    ]
