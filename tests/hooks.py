"""A device whose every hook does what a test wants, where a guest reaches each, and what a hook may answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hyperpy import Block, Device, DeviceError, Fifo, Indexed, Register, Stop

PORTS = 0x100


class Channel(Block):
    """Its hooks are the block's own methods."""

    asked = Register(0x0, reset=7)
    told = Register(0x4)

    @asked.on_read
    def _asked(self) -> Any:
        return self.device.call()

    @told.on_write
    def _is_told(self, value: int) -> Any:
        return self.device.call()


class Hooked(Device):
    """A hook of each kind; all of them call `act` and return what it does."""

    size = 0x60
    asked = Register(0x0, reset=7)
    told = Register(0x4)
    told_if = Register(0x8)
    array = Register(0x10, count=2, reset=7)
    index = Register(0x20, width=1)
    data = Indexed(0x21, index=index, count=4, width=1, reset=7)
    queue = Fifo(0x28, depth=4, access="wo", width=4)
    channels = Channel.at(0x30, count=2)
    arm = Register(0x50, access="wo")
    repeat = Register(0x54, access="wo")

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act, self.calls = act, 0

    def call(self) -> Any:
        """What every hook does."""
        self.calls += 1
        return self.act()

    @asked.on_read
    def _asked(self) -> Any:
        return self.call()

    @told.on_write
    def _is_told(self, value: int) -> Any:
        return self.call()

    @told_if.on_write_if(1)
    def _told_if(self, value: int) -> Any:
        return self.call()

    @array.on_read
    def _array_read(self, index: int) -> Any:
        return self.call()

    @array.on_write
    def _array_written(self, index: int, value: int) -> Any:
        return self.call()

    @data.on_read
    def _data_read(self, index: int) -> Any:
        return self.call()

    @data.on_write
    def _data_written(self, index: int, value: int) -> Any:
        return self.call()

    @queue.on_write
    def _queue(self, value: int) -> Any:
        return self.call()

    @arm.on_write
    def _arm(self, value: int) -> None:
        assert self.clock is not None
        self.clock.after(0, self.tick)

    @repeat.on_write
    def _repeat(self, value: int) -> None:
        assert self.clock is not None
        self.clock.every(1000, self.tick)

    def tick(self) -> Any:
        """What a timer calls."""
        return self.call()


class Hook(NamedTuple):
    """Where a guest reaches a hook: offset, size, and whether by a write; a timer is armed by one."""

    kind: str
    offset: int
    size: int = 4

    @property
    def is_read(self) -> bool:
        """Whether what it answers is read by the guest."""
        return self.kind == "read"


HOOKS = {
    "on_read": Hook("read", 0x0),
    "on_read of an array": Hook("read", 0x14),
    "on_read behind a port": Hook("read", 0x21, 1),
    "on_read of a block": Hook("read", 0x38),
    "on_write": Hook("write", 0x4),
    "on_write_if": Hook("write", 0x8),
    "on_write of an array": Hook("write", 0x14),
    "on_write behind a port": Hook("write", 0x21, 1),
    "on_write of a queue": Hook("write", 0x28),
    "on_write of a block": Hook("write", 0x3C),
    "timer": Hook("timer", 0x50),
    "timer that repeats": Hook("timer", 0x54),
}


class Odd(Exception):
    """An exception of the tests' own."""


class Sullen:
    """A number that will not say which."""

    def __index__(self) -> int:
        raise Odd("no number")

    def __repr__(self) -> str:
        return "Sullen()"


class Huge:
    """A number that is none of a register's."""

    def __index__(self) -> int:
        return 1 << 64


class Unshown:
    """What cannot even be shown in a message."""

    def __repr__(self) -> str:
        raise Odd("not to be shown")


def raises() -> None:
    """What a hook does that raises."""
    raise Odd("mine")


HELD = "what the register holds"
STOPS = "the machine stops"


class Case(NamedTuple):
    """What a hook does, and what comes of it: a value, an exception, or one of the above."""

    act: Callable[[], Any]
    read: Any
    write: Any
    timer: Any = None

    def expected(self, hook: Hook) -> Any:
        """Of this hook."""
        return getattr(self, hook.kind)


CASES = {
    "raises": Case(raises, Odd, Odd, Odd),
    "None": Case(lambda: None, HELD, None),
    "str": Case(lambda: "7", DeviceError, DeviceError),
    "bytes": Case(lambda: b"7", DeviceError, DeviceError),
    "negative": Case(lambda: -1, DeviceError, DeviceError),
    "2**64": Case(lambda: 1 << 64, DeviceError, DeviceError),
    "2**4000": Case(lambda: 1 << 4000, DeviceError, DeviceError),
    "wider than the register": Case(lambda: 1 << 32, DeviceError, DeviceError),
    "True": Case(lambda: True, 1, DeviceError),
    "False": Case(lambda: False, 0, DeviceError),
    "float": Case(lambda: 1.0, DeviceError, DeviceError),
    "list": Case(list, DeviceError, DeviceError),
    "__index__ raises": Case(Sullen, Odd, DeviceError),
    "__index__ is huge": Case(Huge, DeviceError, DeviceError),
    "__repr__ raises": Case(Unshown, Odd, Odd),
    "Stop": Case(lambda: Stop("now"), DeviceError, STOPS, STOPS),
    "class Stop": Case(lambda: Stop, DeviceError, DeviceError),
}
