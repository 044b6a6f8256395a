"""A device's traffic as a value; public as `hyperpy.testing.Recording`.

`hyperpy._replay` makes it and plays it, `hyperpy._recording_file` writes and reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, cast

from hyperpy.errors import HyperpyError

if TYPE_CHECKING:
    from os import PathLike

    from hyperpy import _hyperpy

__all__ = ["Event", "Kind", "Recording", "RecordingError"]

Kind: TypeAlias = Literal["read", "write", "timer", "line", "reset"]


class RecordingError(HyperpyError, ValueError):
    """A recording cannot be written, read or replayed.

    `file` is its path and `line` the number of the line that is wrong, from 1, or 0.
    """

    def __init__(self, message: str = "", *, file: str = "", line: int = 0, hint: str | None = None) -> None:
        where = f"{file}, line {line}: " if line else f"{file}: " if file else ""
        super().__init__(where + message, hint=hint)
        self.file = file
        self.line = line


class Event(NamedTuple):
    """Something that happened to a device.

    Arguments:
        time: nanoseconds of the machine's clock, or the bench's.
        kind: "read" and "write": an access of a guest; "timer": one of the device's fired; "line": its line `irq` was driven
            from elsewhere than these, such as a thread; "reset": the reset button.
        offset, size: of an access, in bytes.
        value: what was read or written; of a timer its deadline, of a line 1 for high.
        vcpu: whose access.
        irq: how the line `irq` changed meanwhile: True where it was asserted.
        stop: the reason of the `Stop` that it asked for.
        raised: the class of what a method raised.
    """

    time: int
    kind: Kind
    offset: int = 0
    size: int = 0
    value: int = 0
    vcpu: int = 0
    irq: tuple[bool, ...] = ()
    stop: str | None = None
    raised: str | None = None

    def __str__(self) -> str:
        match self.kind:
            case "read":
                what = f"read of {self.offset:#x}, {self.size} bytes: {self.value:#x}"
            case "write":
                what = f"write of {self.value:#x} to {self.offset:#x}, {self.size} bytes"
            case "timer":
                what = f"timer, due at {self.value} ns"
            case "line":
                what = f"line {'high' if self.value else 'low'}"
            case _:
                what = "reset"
        vcpu = f", vcpu {self.vcpu}" if self.vcpu else ""
        return f"{self.time} ns: {what}{vcpu}"


class Recording:
    """What `record` keeps of a device's traffic, from the first event on, for `replay`.

    As a context manager it ends with its block; `stop` ends it at any time. `device` is the name of the class, `size` the
    length of the device's range, `schema` and `state` what its `save` gave at the beginning (None of one that has no `save`),
    `begin` the time then, and `level` where its line `irq` was (None: it had none).
    """

    def __init__(
        self,
        *,
        device: str,
        size: int,
        begin: int = 0,
        level: bool | None = None,
        state: Any = None,
        schema: int | None = None,
        events: tuple[Event, ...] = (),
        dropped: int = 0,
    ) -> None:
        self.device, self.size, self.begin, self.level = device, size, begin, level
        self.state, self.schema = state, schema
        self._events, self._dropped = events, dropped
        self._recorder: _hyperpy.Recorder | None = None
        self._end: Callable[[], object] = lambda: None
        self._is_over = True

    def _fetch(self) -> None:
        if self._recorder is not None:
            told, self._dropped = self._recorder.events()
            if self._is_over:
                self._recorder = None  # it holds the same once more
            self._events = tuple(
                Event(ns, cast("Kind", kind), offset, size, value, vcpu, tuple(lines), stop, raised)
                for kind, ns, vcpu, (offset, size, value), lines, stop, raised in told
            )

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened, in the order in which it began. While it is recorded: so far."""
        self._fetch()
        return self._events

    @property
    def dropped(self) -> int:
        """How many events were not kept: those beyond the limit, and those from one on that never ended."""
        self._fetch()
        return self._dropped

    @property
    def is_over(self) -> bool:
        """Whether nothing more is kept."""
        return self._is_over

    def stop(self) -> None:
        """End it. What has begun is kept if it ends, and nothing that begins later."""
        self._end()
        self._is_over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self.events)

    def _fields(self) -> tuple[Any, ...]:
        what = self.device, self.size, self.schema, self.begin, self.level, self.state
        return (*what, self.events, self.dropped)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recording) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lost = f", {self.dropped} dropped" if self.dropped else ""
        return f"<recording of {self.device}: {len(self)} events{lost}{'' if self.is_over else ', goes on'}>"

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file: a JSON object per line.

        Raises:
            RecordingError: the saved state has something that no text stands for.
            OSError: the file cannot be written.
        """
        from hyperpy._recording_file import lines  # noqa: PLC0415 - it imports this

        text = "".join(f"{line}\n" for line in lines(self))
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recording:
        """Read one that `save` has written.

        Raises:
            RecordingError: it is damaged, or of another version. Whatever is in the file, it is this.
            OSError: the file cannot be read.
        """
        from hyperpy._recording_file import read  # noqa: PLC0415 - it imports this

        with Path(path).open("rb") as file:
            return read(file, str(path))
