"""Registers as declarations: what a device's class body says, and Rust serves.

    class Uart(Device):
        data = Register(0x0, width=1)
        line_status = Register(0x5, width=1, access="ro", reset=0x60, ready=Field(0), empty=Field(5))

Here are the kinds beside the plain register, which is in `hyperpy._declaration` with what all of them share. What a class body
makes of it is in `hyperpy._layout`, how an instance sees its registers in `hyperpy._register_views`; accesses are served by
the core (crates/hyperpy-core/src/regfile).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from hyperpy._declaration import MOST, AccessKind, Bits, Declared, Field, Hooked, Register
from hyperpy._delivery import delivery_of
from hyperpy._field import whole
from hyperpy._register_views import ArrayView, FifoView, RamView
from hyperpy._selection import Key, Selection
from hyperpy.errors import DeclarationError
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy._layout import Hooks

__all__ = ["AccessKind", "Block", "Counter", "Field", "Fifo", "FifoLevel", "Indexed", "Ram", "Register"]

_F = TypeVar("_F", bound=Callable[..., Any])
_B = TypeVar("_B", bound="Block")


class Fifo(Hooked[FifoView]):
    """A queue behind a register: each access of a guest moves one item, however many of its bytes it covers.

    Its attribute is a `FifoView`, by which the device puts in and takes. Guests see how many items there are at a
    `FifoLevel`.

    Arguments:
        offset, width, when, doc: as for `Register`.
        depth: how many items it holds, up to 65536.
        access: "ro": the guest's reads take what the device has put in; "wo": its writes put in what the device takes.
        overflow: what happens to one item too many: "drop" loses it, "overwrite" the oldest.
        empty: what a read of an empty one gives.
        stream: the guest does not wait for its writes ("wo"): they wait in the kernel and cost no exit, as those of a `Register`. They
            are in the queue before the guest's next access of the device is served.
        threshold: which accesses are told to the method that is marked by `on_write` ("wo"): those that leave at least
            so many items; by `on_read` ("ro"): at most so many. All of them, if it is left out. Others call no Python.

    Example:
        >>> from hyperpy import Device, Fifo
        >>> class Link(Device):
        ...     received = Fifo(0x0, depth=16, access="ro")
        ...     sent = Fifo(0x0, depth=16, access="wo")
        >>> link = Link()
        >>> link.received.push(0x41), link.received.level
        (True, 1)
    """

    def __init__(
        self,
        offset: int | None,
        *,
        depth: int,
        access: Literal["ro", "wo"],
        width: int = 1,
        overflow: Literal["drop", "overwrite"] = "drop",
        empty: int = 0,
        threshold: int | None = None,
        stream: bool = False,
        when: Bits | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(offset, width, doc, when=when)
        self.access = access
        self.depth, self.overflow, self.empty = whole("depth", depth), overflow, whole("empty", empty)
        told_of_all = self.depth if access == "ro" else 0
        self.threshold = told_of_all if threshold is None else whole("threshold", threshold)
        if access not in ("ro", "wo"):
            raise DeclarationError(
                f"a queue has no such access: {access!r}", hint='"ro" or "wo": who takes from it'
            )
        if overflow not in ("drop", "overwrite"):
            raise DeclarationError(f"no such overflow: {overflow!r}", hint='"drop" or "overwrite"')
        if not 1 <= self.depth <= MOST:
            raise DeclarationError(f"depth is out of range: {depth}", hint=f"from 1 to {MOST}")
        if not 0 <= self.empty < 1 << 8 * width:
            raise DeclarationError(
                f"value of the empty queue is too wide: {empty:#x}", hint=f"it has {width} bytes"
            )
        if not 0 <= self.threshold <= self.depth:
            raise DeclarationError(
                f"threshold is out of range: {threshold}", hint=f"from 0 to the depth, {self.depth}"
            )
        self.delivery = delivery_of(self, stream=stream)

    def _view(self, device: Any, cell: int) -> FifoView:
        return FifoView(device._register_file, cell, self)

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is a queue\n\nhint: {self.name}.push(item)")


class FifoLevel(Declared[int]):
    """A register in which guests read how many items are in a queue.

    Arguments:
        offset, width, when, doc: as for `Register`.
        fifo: the queue, declared in the same class.

    Example:
        >>> from hyperpy import Device, Fifo, FifoLevel
        >>> class Link(Device):
        ...     received = Fifo(0x0, depth=16, access="ro")
        ...     waiting = FifoLevel(0x4, received)
        >>> link = Link()
        >>> link.received.push(0x41), link.waiting
        (True, 1)
    """

    access = "ro"

    def __init__(
        self, offset: int, fifo: Fifo, *, width: int = 4, when: Bits | None = None, doc: str = ""
    ) -> None:
        super().__init__(offset, width, doc, when=when)
        if not isinstance(fifo, Fifo):
            raise DeclarationError(f"not a queue: {fifo!r}", hint="give a Fifo of the same class")
        if fifo.depth >= 1 << 8 * width:
            raise DeclarationError(
                f"level of a queue of {fifo.depth} does not fit: {width} bytes", hint="give it a larger width"
            )
        self.register = fifo

    def _view(self, device: Any, cell: int) -> int:
        shown: int = device._register_file.get(cell)
        return shown

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is the level of a queue\n\nhint: {self.register.name}.push(item)")


class Counter(Hooked[int]):
    """A register that counts the machine's time (`Machine.clock`): it stands still while the machine does.

    Arguments:
        offset, width, when, doc: as for `Register`.
        hz: counts a second, from 1.
        access: "ro", or "rw" if guests can set it.
    """

    def __init__(
        self,
        offset: int | None,
        *,
        hz: int,
        width: int = 8,
        access: Literal["ro", "rw"] = "ro",
        when: Bits | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(offset, width, doc, when=when)
        self.access, self.hz = access, whole("hz", hz)
        if access not in ("ro", "rw"):
            raise DeclarationError(f"a counter has no such access: {access!r}", hint='"ro" or "rw"')
        if not 1 <= self.hz < 1 << 63:
            raise DeclarationError(f"rate is out of range: {hz}", hint="counts a second, from 1")

    def _view(self, device: Any, cell: int) -> int:
        shown: int = device._register_file.get(cell)
        return shown

    def __set__(self, device: Any, value: int) -> None:
        everything = (1 << 8 * self.width) - 1
        device._register_file.set(self._cell(device), operator.index(value) & everything, everything)


class Ram(Declared[RamView]):
    """A window of memory that belongs to the device: guests access it at any width. Its attribute is a `RamView`.

    Arguments:
        offset, doc: as for `Register`.
        size: bytes, or "4K".
        access: "rw", "ro" or "wo".
    """

    def __init__(
        self, offset: int, size: int | str, *, access: Literal["rw", "ro", "wo"] = "rw", doc: str = ""
    ) -> None:
        super().__init__(offset, 1, doc)
        self.access, self.size = access, parse_size(size)
        if access not in ("rw", "ro", "wo"):
            raise DeclarationError(f"a window has no such access: {access!r}", hint='"rw", "ro" or "wo"')

    def _view(self, device: Any, cell: int) -> RamView:
        return RamView(device._register_file, cell, self.size)

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is a window of memory\n\nhint: {self.name}[0:4] = b'...'")


class Block:
    """A group of registers that a device has at an offset, perhaps several times: a subclass declares them as a device does.

    Its methods can be marked by `on_read` and `on_write`; in them `self.device` is the device and `self.index` which of
    the blocks it is.

    Example:
        >>> from hyperpy import Block, Device, Register
        >>> class Channel(Block):
        ...     address = Register(0x0)
        ...     length = Register(0x4)
        >>> class Dma(Device):
        ...     channels = Channel.at(0x100, count=4, stride=0x10)
        >>> dma = Dma()
        >>> dma.channels[2].address = 0x8000
        >>> dma.size, dma.channels[2].address
        (312, 32768)
    """

    device: Any
    index: int
    _register_file: _hyperpy.RegisterFile
    _first_cell: int
    _cell_numbers: ClassVar[Mapping[Declared[Any], int]] = {}
    _cells: ClassVar[int] = 0
    _told: ClassVar[Hooks] = {}
    _blocks: Mapping[Blocks[Any], list[Any]]

    def __new__(cls, *_: object, **__: object) -> Self:
        """Refuse: a device makes its blocks."""
        raise TypeError(
            f"a block is not made by its class: {cls.__name__}\n\nhint: {cls.__name__}.at(0x100, count=4) in a device's class"
        )

    @classmethod
    def at(
        cls, offset: int, *, count: int | None = None, stride: int | None = None, doc: str = ""
    ) -> Blocks[Self]:
        """Put the group at an offset of a device, or an array of `count`, `stride` bytes apart."""
        return Blocks(cls, offset, count, stride, doc)

    def __repr__(self) -> str:
        from hyperpy._register_text import of_block  # noqa: PLC0415 - it imports this

        return of_block(self)

    def __init_subclass__(cls, **more: Any) -> None:
        from hyperpy._layout import number_cells  # noqa: PLC0415 - it imports this

        super().__init_subclass__(**more)
        number_cells(cls)


class Blocks(Declared[Any], Generic[_B]):
    """A `Block` in a device; made by `Block.at`."""

    def __init__(
        self, kind: type[_B], offset: int | None, count: int | None, stride: int | None, doc: str
    ) -> None:
        super().__init__(offset, 1, doc, count=count)
        self.kind, self.asked_stride = kind, stride
        if stride is not None and whole("stride", stride) < 0:
            raise DeclarationError(
                f"stride is below 0: {stride}", hint="bytes from one block to the next; leave it out"
            )

    def _view(self, device: Any, cell: int) -> Any:
        blocks = device._blocks[self]
        return blocks if self.count is not None else blocks[0]

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is a block of registers\n\nhint: set one of its registers")


class Indexed(Declared[ArrayView]):
    """Registers behind a port: one register says which of them another one leads to, as a PC's CMOS memory is reached.

    Methods are marked for all of them, or by number for some: the others call no Python. `@data[0x0C].on_read` marks one for
    register 0x0C, as if that were declared alone; `@data[1, 3, 5].on_write` and `@data[0x0E:0x80].on_write` for several, whose
    method gets the number of the register first, as one for all does.

    Arguments:
        offset: where the data port is.
        index: the register that holds the number.
        count: how many registers are behind the port: an array, whose attribute is used as that of `Register(count=)`.
        width: of each, and of the port.
        mask: bits of the index that count, the lowest of them as 1; those that it has, if it is left out. A number that
            leads nowhere reads as 0.
        step: added to the number after each access, within `mask`; perhaps below 0.
        access: as for `Register`, of all of them.
        reset: what each holds at power-on.
        doc: what they are for.

    Example:
        >>> from hyperpy import Device, Indexed, Register
        >>> class Cmos(Device):
        ...     index = Register(0x0, width=1)
        ...     data = Indexed(0x1, index=index, count=128, width=1, mask=0x7F)
        ...     changes = 0
        ...
        ...     @data[0x0E:].on_write
        ...     def _changed(self, index: int, value: int) -> None:
        ...         self.changes += 1
        >>> cmos = Cmos()
        >>> cmos.data[0x0D] = 0x80
        >>> cmos.data[0x0D]
        128
    """

    def __init__(
        self,
        offset: int,
        *,
        index: Register,
        count: int,
        width: int = 1,
        mask: int | None = None,
        step: int = 0,
        access: AccessKind = "rw",
        reset: int = 0,
        order: Literal["little", "big"] = "little",
        when: Bits | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(offset, width, doc, when=when)
        if not isinstance(index, Register):
            raise DeclarationError(
                f"not a register: {index!r}", hint="index= is the register that holds the number"
            )
        self.behind = Register(None, width=width, access=access, reset=reset, count=count, order=order)
        self.access, self.order = access, order
        self.register, self.step = index, operator.index(step)
        self.bits = index.mask if mask is None else operator.index(mask)

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.behind.name = self.name

    @property
    def on_read(self) -> Callable[[_F], _F]:
        """As `Register.on_read`; the method gets the number of the register first."""
        return self.behind.on_read

    @property
    def on_write(self) -> Callable[[_F], _F]:
        """As `Register.on_write`; the method gets the number of the register first."""
        return self.behind.on_write

    # As for `Register`.
    __iter__ = None

    def __getitem__(self, key: Key) -> Selection:
        return Selection(self.behind, key)

    def _view(self, device: Any, cell: int) -> ArrayView:
        view: ArrayView = self.behind.__get__(device, type(device))
        return view

    def __set__(self, device: Any, value: int) -> None:
        self.behind.__set__(device, value)
