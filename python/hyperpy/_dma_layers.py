"""What can stand before the native half of a device's memory: what tells a recorder of each access, and what answers from a recording.

Who puts them there is `hyperpy._record` and `hyperpy._replay`; the hooks of a bench are in `hyperpy._bench_memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hyperpy._deed import Deed
from hyperpy.dma import DmaMemory, Range
from hyperpy.errors import MemoryAccessError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy import _hyperpy

__all__ = ["Layer", "feed", "tell"]

_U64 = 1 << 64


class Layer:
    """Stands before what has the memory. Whatever the device calls comes down to `gather` and `scatter`."""

    def __init__(self, native: _hyperpy.Dma) -> None:
        self._native = native

    @property
    def is_usable(self) -> bool:
        return self._native.is_usable

    def revoke(self) -> None:
        self._native.revoke()

    def check(self, ranges: list[Range], is_write: bool) -> None:
        self._native.check(ranges, is_write)

    def read(self, gpa: int, size: int) -> bytes:
        return self.gather([(gpa, size)])

    def read_into(self, gpa: int, into: memoryview) -> None:
        raise NotImplementedError

    def read_int(self, gpa: int, size: int, big_endian: bool) -> int:
        return int.from_bytes(self.gather([(gpa, size)]), _order(big_endian))

    def write(self, gpa: int, data: Buffer) -> None:
        self.scatter([(gpa, memoryview(data).nbytes)], data)

    def write_int(self, gpa: int, size: int, value: int, big_endian: bool) -> None:
        self.scatter([(gpa, size)], value.to_bytes(size, _order(big_endian)))

    def gather(self, ranges: list[Range]) -> bytes:
        raise NotImplementedError

    def scatter(self, ranges: list[Range], data: Buffer) -> int:
        raise NotImplementedError


def _order(big_endian: bool) -> Any:
    return "big" if big_endian else "little"


class _ToldDma(Layer):
    """Tells a recorder of each access, with what came of it."""

    def __init__(self, native: _hyperpy.Dma, recorder: _hyperpy.Recorder) -> None:
        super().__init__(native)
        self._recorder = recorder

    def gather(self, ranges: list[Range]) -> bytes:
        data: bytes = self._done(False, ranges, b"", self._native.gather, ranges)
        self._recorder.memory(False, ranges, data, None)
        return data

    def read_into(self, gpa: int, into: memoryview) -> None:
        ranges = [(gpa, into.nbytes)]
        self._done(False, ranges, b"", self._native.read_into, gpa, into)
        self._recorder.memory(False, ranges, bytes(into), None)

    # An integer is read and written whole, which a copy of its bytes might not be.
    def read_int(self, gpa: int, size: int, big_endian: bool) -> int:
        ranges = [(gpa, size)]
        value: int = self._done(False, ranges, b"", self._native.read_int, gpa, size, big_endian)
        self._recorder.memory(False, ranges, value.to_bytes(size, _order(big_endian)), None)
        return value

    def write_int(self, gpa: int, size: int, value: int, big_endian: bool) -> None:
        ranges, data = [(gpa, size)], value.to_bytes(size, _order(big_endian))
        self._done(True, ranges, data, self._native.write_int, gpa, size, value, big_endian)
        self._recorder.memory(True, ranges, data, None)

    def scatter(self, ranges: list[Range], data: Buffer) -> int:
        copy = _fixed(data)
        count: int = self._done(True, ranges, copy, self._native.scatter, ranges, copy)
        self._recorder.memory(True, ranges, copy, None)
        return count

    def _done(
        self, is_write: bool, ranges: list[Range], data: bytes, do: Callable[..., Any], *how: Any
    ) -> Any:
        try:
            return do(*how)
        except MemoryAccessError as error:
            self._recorder.memory(is_write, ranges, data, (error.message, error.address, error.size))
            raise


def _fixed(data: Buffer) -> bytes:
    """What nobody changes while it is written and kept."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("buffer is not contiguous\n\nhint: make a copy with bytes(...)")
    return view.tobytes()


class _FedDma(Layer):
    """Answers from a recording: `did` gets what the device does, and returns what is recorded of that; None: memory is asked."""

    def __init__(self, native: _hyperpy.Dma, did: Callable[[Deed], Deed | None]) -> None:
        super().__init__(native)
        self._did = did

    def gather(self, ranges: list[Range]) -> bytes:
        deed = self._told("read", ranges)
        return self._native.gather(ranges) if deed is None else deed.data

    def read_into(self, gpa: int, into: memoryview) -> None:
        if into.readonly:
            raise BufferError(
                "buffer cannot be written\n\nhint: a contiguous one, such as a bytearray, that is not read-only"
            )
        deed = self._told("read", [(gpa, into.nbytes)])
        if deed is None:
            self._native.read_into(gpa, into)
        else:
            into[:] = deed.data

    def scatter(self, ranges: list[Range], data: Buffer) -> int:
        copy = _fixed(data)
        deed = self._told("write", ranges, copy)
        return self._native.scatter(ranges, copy) if deed is None else len(copy)

    def _told(self, kind: Any, ranges: list[Range], data: bytes = b"") -> Deed | None:
        if not all(0 <= number < _U64 for each in ranges for number in each):
            raise OverflowError  # as memory does, which does not come to be recorded
        deed = self._did(Deed(kind, ranges=tuple(ranges), data=data))
        if deed is not None and deed.refused is not None:
            message, address, size = deed.refused
            raise MemoryAccessError(
                message, address=address, size=size, hint="so it was when it was recorded"
            )
        return deed


def tell(memory: DmaMemory, recorder: _hyperpy.Recorder | None) -> None:
    """Have a recorder told of what a device does to its memory, or nobody."""
    _put(memory, _ToldDma, recorder)


def feed(memory: DmaMemory, did: Callable[[Deed], Deed | None] | None) -> None:
    """Have a device's memory answered from a recording, or by itself."""
    _put(memory, _FedDma, did)


def _put(memory: DmaMemory, kind: Any, whom: object) -> None:
    native: Any = memory._native
    inner = native._native if isinstance(native, kind) else native
    memory._native = inner if whom is None else kind(inner, whom)
