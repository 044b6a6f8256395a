"""A device that keeps what it is told of writes that cost no exit, and how to wait for them."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Protocol

from hyperpy import Device, Register

RUN = 10.0
BOUND = 0.1
PORT, GPA = 0x300, 0xFE00_0000


class Logs(Protocol):
    """What keeps a log."""

    @property
    def log(self) -> Sized: ...


class Logger(Device):
    """Keeps the values of a stream, of a posted register, and of one that is told of at once."""

    data = Register(0x0, access="wo", stream=True)
    tail = Register(0x4, posted=True)
    sync = Register(0x8)

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    @data.on_write
    def _data(self, value: int) -> None:
        self.log.append(("data", value))

    @tail.on_write
    def _tail(self, value: int) -> None:
        self.log.append(("tail", value))

    @sync.on_write
    def _sync(self, value: int) -> None:
        self.log.append(("sync", value))

    @property
    def values(self) -> list[int]:
        return [value for _, value in self.log]


def wait_for(logger: Logs, writes: int) -> None:
    until = time.monotonic() + RUN
    while len(logger.log) < writes:
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.001)
