"""A device's traffic as a value; public as `hyperpy.testing.Recording`.

`hyperpy._record` makes it and `hyperpy._replay` plays it, `hyperpy._recording_file` writes and reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, cast

from hyperpy._deed import Deed, DeedKind
from hyperpy.errors import HyperpyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from hyperpy import _hyperpy

__all__ = ["Deed", "Event", "Kind", "Recording", "RecordingError"]

Kind: TypeAlias = Literal["read", "write", "told", "timer", "reset", "line", "message", "memory"]


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
        kind: "read" and "write": an access of a guest; "told": the method of a posted register, or of a stream, was called
            for a write before; "timer": one of the device's fired; "reset": the reset button. And what the device did
            elsewhere than in these, such as in a thread of its own: "line": drove a line; "message": sent one; "memory": read or
            wrote guest memory.
        offset, size: of an access, in bytes.
        value: what was read or written, or the method was told; of a timer its deadline.
        vcpu: whose access.
        did: what the device did meanwhile, in order: to its lines, by messages, to guest memory.
        stop: the reason of the `Stop` that it asked for.
        raised: the class of what a method raised.
        later: of a write, whether its method was told later: there is a "told" of it then, unless the recording ended before.
    """

    time: int
    kind: Kind
    offset: int = 0
    size: int = 0
    value: int = 0
    vcpu: int = 0
    did: tuple[Deed, ...] = ()
    stop: str | None = None
    raised: str | None = None
    later: bool = False

    @property
    def irq(self) -> tuple[bool, ...]:
        """How the line `irq` changed meanwhile: True where it was asserted."""
        return tuple(bool(deed.value) for deed in self.did if deed.kind == "line" and deed.name == "irq")

    def __str__(self) -> str:
        match self.kind:
            case "read":
                what = f"read of {self.offset:#x}, {self.size} bytes: {self.value:#x}"
            case "write" | "told":
                told = "told of the " if self.kind == "told" else ""
                what = f"{told}write of {self.value:#x} to {self.offset:#x}, {self.size} bytes"
            case "timer":
                what = f"timer, due at {self.value} ns"
            case "reset":
                what = "reset"
            case _:
                what = ", ".join(map(str, self.did))
        vcpu = f", vcpu {self.vcpu}" if self.vcpu else ""
        return f"{self.time} ns: {what}{vcpu}"


class Recording:
    """What `record` keeps of a device's traffic, from the first event on, for `replay`.

    As a context manager it ends with its block; `stop` ends it at any time. `device` is the name of the class, `size` the
    length of the device's range, `schema` and `state` what its `save` gave at the beginning (None of one that has no `save`),
    and `begin` the time then. `lines` has the lines that it could drive, by name, each with whether it was high. `messages`
    has by name what sends messages: the (address, data) of a line that sends always the same one, None where the device
    chooses; it is None in a recording that an older hyperpy has written, which knows of the line `irq` alone. `memory` says
    whether what the device does to guest memory is kept.
    """

    def __init__(
        self,
        *,
        device: str,
        size: int,
        begin: int = 0,
        lines: Mapping[str, bool] | None = None,
        messages: Mapping[str, tuple[int, int] | None] | None = None,
        memory: bool = False,
        state: Any = None,
        schema: int | None = None,
        events: tuple[Event, ...] = (),
        dropped: int = 0,
    ) -> None:
        self.device, self.size, self.begin = device, size, begin
        self.lines, self.messages, self.memory = dict(lines or {}), messages, memory
        self.state, self.schema = state, schema
        self._events, self._dropped = events, dropped
        self._names: tuple[str, ...] = ()  # of lines and what sends messages, as the recorder numbers them
        self._recorder: _hyperpy.Recorder | None = None
        self._fetching = Lock()
        self._end: Callable[[], object] = lambda: None
        self._is_over = True

    def _fetch(self) -> None:
        with self._fetching:
            if self._recorder is not None:
                told, self._dropped = self._recorder.events(len(self._events))
                if self._is_over:
                    self._recorder = None  # it holds the same once more
                self._events += tuple(map(self._event, told))

    def _event(self, told: tuple[Any, ...]) -> Event:
        kind, ns, vcpu, (offset, size, value), done, stop, raised, later = told
        did = tuple(map(self._deed, done))
        if kind == "deed":
            kind = did[0].kind if did[0].kind in ("line", "message") else "memory"
        return Event(ns, kind, offset, size, value, vcpu, did, stop, raised, later)

    def _deed(self, done: tuple[Any, ...]) -> Deed:
        kind, number, flag, address, data, ranges, moved, refused = done
        match cast("DeedKind", kind):
            case "line":
                return Deed("line", self._names[number], int(flag))
            case "message":
                return Deed("message", self._names[number], data, address, flag)
        return Deed(kind, ranges=tuple(ranges), data=moved, refused=refused)

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
        what = self.device, self.size, self.schema, self.begin, self.state
        return (*what, self.lines, self.messages, self.memory, self.events, self.dropped)

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
