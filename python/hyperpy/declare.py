"""Registers as declarations: what a device's class body says, and Rust serves.

    class Uart(Device):
        data = Register(0x0, width=1)
        line_status = Register(0x5, width=1, access="ro", reset=0x60, ready=Field(0), empty=Field(5))

Here is what can be declared. What a class body makes of it is in `hyperpy._layout`, how an instance sees its registers in
`hyperpy._register_views`; accesses are served by the core (crates/hyperpy-core/src/regfile).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, overload

from hyperpy._register_views import ArrayView, FifoView, RamView, Value, checked
from hyperpy.errors import DeclarationError
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy._layout import Hooks

__all__ = ["AccessKind", "Block", "Counter", "Field", "Fifo", "Indexed", "Ram", "Register"]

AccessKind: TypeAlias = Literal["rw", "ro", "wo", "w1c", "w0c", "w1s", "rc", "rs"]
_KINDS = ("rw", "ro", "wo", "w1c", "w0c", "w1s", "rc", "rs")
_WIDTHS = (1, 2, 4, 8)
_F = TypeVar("_F", bound=Callable[..., Any])
_B = TypeVar("_B", bound="Block")
_MOST = 1 << 16


class Field:
    """Bits of a register that have a name.

    Arguments:
        low: number of its lowest bit.
        width: how many bits.
        access: what accesses do to it, if not what the register says: see `Register`.
        reset: what it holds at power-on.
        enum: an IntEnum of its values: reading the attribute gives its members.
        doc: what it is for.

    Example:
        >>> from hyperpy import Device, Field, Register
        >>> class Timer(Device):
        ...     control = Register(0x0, enable=Field(0), mode=Field(4, width=2, reset=1))
        >>> timer = Timer()
        >>> timer.control.enable = 1
        >>> timer.control.mode, hex(timer.control)
        (1, '0x11')
    """

    def __init__(
        self,
        low: int,
        width: int = 1,
        *,
        access: AccessKind | None = None,
        reset: int = 0,
        enum: type[IntEnum] | None = None,
        doc: str = "",
    ) -> None:
        self.low, self.width = operator.index(low), operator.index(width)
        self.access, self.reset, self.enum, self.doc = access, operator.index(reset), enum, doc
        if self.low < 0 or not 1 <= self.width <= 64:
            raise DeclarationError(
                f"no such bits: {low} and {width} of them", hint="from bit 0, 1 or more of them"
            )
        if not 0 <= self.reset < 1 << self.width:
            raise DeclarationError(
                f"reset value is wider than its {width} bits: {reset:#x}",
                hint="give more bits, or a smaller value",
            )
        _check_access(access)

    @property
    def mask(self) -> int:
        """Its bits in the register."""
        return ((1 << self.width) - 1) << self.low


def _check_access(access: object) -> None:
    if access is not None and access not in _KINDS:
        raise DeclarationError(f"no such access: {access!r}", hint=f"one of {', '.join(_KINDS)}")


class Bits:
    """A field of a register in a class body, for `when=`."""

    def __init__(self, register: Register, field: Field, equals: int) -> None:
        self.register, self.field, self.equals = register, field, equals

    def __eq__(self, other: object) -> Bits:  # type: ignore[override] # as in SQL builders: `when=lcr.dlab == 1`
        return Bits(self.register, self.field, operator.index(other))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]


class Declared:
    """What all declarations have: a name, a place, and the line where they were made."""

    name: str = ""
    offset: int | None
    _is_declaration: ClassVar[bool] = True
    count: int | None = None
    stride: int = 0

    def __init__(self, doc: str) -> None:
        self.doc = doc
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __repr__(self) -> str:
        place = "" if self.offset is None else f" at {self.offset:#x}"
        return f"<{type(self).__name__} {self.name or '?'}{place}>"


class Hooked(Declared):
    """A declaration whose accesses a device's methods can want to know of."""

    def on_read(self, method: _F) -> _F:
        """Mark the method that is asked when a guest reads it: `method(self)`, for an array `method(self, index)`.

        What it returns the guest reads; None: what the register holds. Whatever a read does to the register is done
        before.
        """
        return self._hook(method, "read", 0)

    def on_write(self, method: _F) -> _F:
        """Mark the method that is told of a guest's writes: `method(self, value)`, for an array `(self, index, value)`.

        The register holds already what the write makes of it. `value` is what a write of the whole register that does
        the same would be: of a narrower one the other bits are what leaves them as they are. Return `Stop("why")` to
        stop the machine.
        """
        return self._hook(method, "write", 0)

    def on_write_if(self, mask: int) -> Callable[[_F], _F]:
        """Mark the method that is told of writes which have one of these bits as 1; all others call no Python."""
        if operator.index(mask) <= 0:
            raise DeclarationError(f"no bits to look for: {mask:#x}", hint="a mask of bits, such as 0x1")
        return lambda method: self._hook(method, "write", mask)

    def _hook(self, method: _F, kind: str, mask: int) -> _F:
        if not callable(method):
            raise DeclarationError(
                f"not a method: {method!r}", hint=f"@{self.name or 'name'}.on_{kind} above a `def`"
            )
        hooks: list[tuple[Hooked, str, int]] = method.__dict__.setdefault("_hooks", [])
        hooks.append((self, kind, mask))
        return method


class Register(Hooked):
    """A register: its attribute is the value that guests see, and can be set while they run.

    Arguments:
        offset: where it is, in bytes from the start of the device's range.
        width: 1, 2, 4 or 8 bytes.
        reset: what it holds at power-on.
        access: what a guest's accesses do to its bits. "rw": reads show and writes store them; "ro": writes are dropped;
            "wo": reads as 0; "w1c", "w0c", "w1s": written ones clear, zeros clear, ones set; "rc", "rs": a read clears,
            sets them. Fields can each have their own.
        mask: bits that exist; others read as 0 and are not written. All of them, or those of the fields if there are any.
        count: for an array of them: how many.
        stride: bytes from one of the array to the next; its width if it is left out.
        order: "big" if its first byte is the most significant.
        when: a field that must be set for it to be here: `when=line_control.dlab`, or `when=mode.bank == 2`. Others can
            share the place; one without `when` is there for all other values.
        doc: what it is for.
        fields: each a name and its `Field`; those whose names are no argument can be given by name.

    Raises:
        DeclarationError: it cannot be: a field outside the width, a reset value outside the mask.

    Example:
        >>> from hyperpy import Device, Field, Register
        >>> class Doorbell(Device):
        ...     count = Register(0x0, access="ro")
        ...     ring = Register(0x4, access="wo")
        ...
        ...     @ring.on_write
        ...     def _ring(self, value: int) -> None:
        ...         self.count += 1
        >>> bell = Doorbell()
        >>> bell.count, bell.size
        (0, 8)
    """

    def __init__(
        self,
        offset: int | None,
        *,
        width: int = 4,
        reset: int = 0,
        access: AccessKind = "rw",
        mask: int | None = None,
        count: int | None = None,
        stride: int | None = None,
        order: Literal["little", "big"] = "little",
        when: Bits | None = None,
        doc: str = "",
        fields: Mapping[str, Field] | None = None,
        **named: Field,
    ) -> None:
        super().__init__(doc)
        self.offset, self.width, self.access, self.order, self.when = offset, width, access, order, when
        self.fields = {**(fields or {}), **named}
        _check_place(offset, width, count)
        _check_access(access)
        self.count = None if count is None else operator.index(count)
        self.stride = width if stride is None else operator.index(stride)
        if order not in ("little", "big"):
            raise DeclarationError(f"no such byte order: {order!r}", hint='"little" or "big"')
        if self.count is not None and self.stride < width:
            raise DeclarationError(
                f"registers of the array overlap: stride {stride}", hint=f"at least {width}"
            )
        self._check_fields()
        union = 0
        for field in self.fields.values():
            union |= field.mask
        everything = (1 << 8 * width) - 1
        self.mask = operator.index(mask) if mask is not None else union or everything
        if not 0 <= self.mask <= everything or union & ~self.mask:
            raise DeclarationError(
                f"mask is wider than the register, or lacks a field: {self.mask:#x}", hint="leave it out"
            )
        self.reset = operator.index(reset)
        for field in self.fields.values():
            self.reset |= field.reset << field.low
        if self.reset & ~self.mask or self.reset < 0:
            raise DeclarationError(
                f"reset value has bits outside the mask: {self.reset:#x} of {self.mask:#x}",
                hint="give these bits a field, or a wider mask",
            )
        if when is not None and not isinstance(when, Bits):
            raise DeclarationError(
                f"not a condition: {when!r}", hint="when=control.bank, or when=control.bank == 2"
            )

    def _check_fields(self) -> None:
        taken = 0
        for name, field in self.fields.items():
            if not isinstance(field, Field):
                raise DeclarationError(
                    f"not a field or an argument: {name}={field!r}", hint="fields are Field(low, width)"
                )
            if field.low + field.width > 8 * self.width:
                raise DeclarationError(
                    f"field leaves the register: {name}, bits {field.low} to {field.low + field.width - 1}",
                    hint=f"it has {8 * self.width} bits",
                )
            if taken & field.mask:
                raise DeclarationError(
                    f"field overlaps another: {name}, bit {field.low}", hint="give it other bits"
                )
            taken |= field.mask

    def __getattr__(self, name: str) -> Bits:
        fields: dict[str, Field] = self.__dict__.get("fields", {})
        if name not in fields:
            own = self.__dict__.get("name") or "?"
            raise AttributeError(
                f"register has no field {name!r}: {own}\n\nhint: its fields: {', '.join(fields) or 'none'}"
            )
        return Bits(self, fields[name], (1 << fields[name].width) - 1)

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> Any: ...

    def __get__(self, device: Any, owner: type) -> Any:
        if device is None:
            return self
        cell = device._first_cell + owner._cell_numbers[self]  # type: ignore[attr-defined]
        if self.count is not None:
            return ArrayView(device._register_file, cell, self)
        value = device._register_file.get(cell)
        return Value(value, device._register_file, cell, self) if self.fields else value

    def __set__(self, device: Any, value: int) -> None:
        if self.count is not None:
            raise AttributeError(
                f"{self.name} is an array of registers\n\nhint: set one: {self.name}[0] = ..."
            )
        cell = device._first_cell + type(device)._cell_numbers[self]
        device._register_file.set(cell, checked(self, value), self.mask)


class Fifo(Hooked):
    """A queue behind a register: each access of a guest moves one item. Its attribute is a `FifoView`.

    Arguments:
        offset, width, when, doc: as for `Register`.
        depth: how many items it holds.
        access: "ro": the guest's reads take what the device has put in; "wo": its writes put in what the device takes.
        overflow: what happens to one item too many: "drop" loses it, "overwrite" the oldest.
        empty: what a read of an empty one gives.

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
        when: Bits | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(doc)
        _check_place(offset, width, None)
        self.offset, self.width, self.access, self.when = offset, width, access, when
        self.depth, self.overflow, self.empty = operator.index(depth), overflow, operator.index(empty)
        if access not in ("ro", "wo"):
            raise DeclarationError(
                f"a queue has no such access: {access!r}", hint='"ro" or "wo": who takes from it'
            )
        if overflow not in ("drop", "overwrite"):
            raise DeclarationError(f"no such overflow: {overflow!r}", hint='"drop" or "overwrite"')
        if not 1 <= self.depth <= _MOST:
            raise DeclarationError(f"depth is out of range: {depth}", hint=f"from 1 to {_MOST}")
        if not 0 <= self.empty < 1 << 8 * width:
            raise DeclarationError(
                f"value of the empty queue is too wide: {empty:#x}", hint=f"it has {width} bytes"
            )

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> FifoView: ...

    def __get__(self, device: Any, owner: type) -> Any:
        if device is None:
            return self
        return FifoView(device._register_file, device._first_cell + owner._cell_numbers[self], self)  # type: ignore[attr-defined]

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is a queue\n\nhint: {self.name}.push(item)")


class Counter(Hooked):
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
        super().__init__(doc)
        _check_place(offset, width, None)
        self.offset, self.width, self.access, self.when, self.hz = (
            offset,
            width,
            access,
            when,
            operator.index(hz),
        )
        if access not in ("ro", "rw"):
            raise DeclarationError(f"a counter has no such access: {access!r}", hint='"ro" or "rw"')
        if not 1 <= self.hz < 1 << 63:
            raise DeclarationError(f"rate is out of range: {hz}", hint="counts a second, from 1")

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> int: ...

    def __get__(self, device: Any, owner: type) -> Any:
        if device is None:
            return self
        return device._register_file.get(device._first_cell + owner._cell_numbers[self])  # type: ignore[attr-defined]

    def __set__(self, device: Any, value: int) -> None:
        cell = device._first_cell + type(device)._cell_numbers[self]
        everything = (1 << 8 * self.width) - 1
        device._register_file.set(cell, operator.index(value) & everything, everything)


class Ram(Declared):
    """A window of memory that belongs to the device: guests access it at any width. Its attribute is a `RamView`.

    Arguments:
        offset, doc: as for `Register`.
        size: bytes, or "4K".
        access: "rw", "ro" or "wo".
    """

    def __init__(
        self, offset: int, size: int | str, *, access: Literal["rw", "ro", "wo"] = "rw", doc: str = ""
    ) -> None:
        super().__init__(doc)
        _check_place(offset, 1, None)
        self.offset, self.access, self.size = offset, access, parse_size(size)
        if access not in ("rw", "ro", "wo"):
            raise DeclarationError(f"a window has no such access: {access!r}", hint='"rw", "ro" or "wo"')

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> RamView: ...

    def __get__(self, device: Any, owner: type) -> Any:
        if device is None:
            return self
        return RamView(device._register_file, device._first_cell + owner._cell_numbers[self], self.size)  # type: ignore[attr-defined]

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
    _cell_numbers: ClassVar[Mapping[Declared, int]] = {}
    _cells: ClassVar[int] = 0
    _told: ClassVar[Hooks] = {}
    _blocks: Mapping[Blocks[Any], list[Any]]

    @classmethod
    def at(
        cls, offset: int, *, count: int | None = None, stride: int | None = None, doc: str = ""
    ) -> Blocks[Self]:
        """Put the group at an offset of a device, or an array of `count`, `stride` bytes apart."""
        return Blocks(cls, offset, count, stride, doc)

    def __init_subclass__(cls, **more: Any) -> None:
        from hyperpy._layout import number_cells  # noqa: PLC0415 - it imports this

        super().__init_subclass__(**more)
        number_cells(cls)


class Blocks(Declared, Generic[_B]):
    """A `Block` in a device; made by `Block.at`."""

    def __init__(
        self, kind: type[_B], offset: int | None, count: int | None, stride: int | None, doc: str
    ) -> None:
        super().__init__(doc)
        _check_place(offset, 1, count)
        self.kind, self.offset, self.count = kind, offset, count
        self.asked_stride = stride

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> Any: ...

    def __get__(self, device: Any, owner: type) -> Any:
        if device is None:
            return self
        blocks = device._blocks[self]
        return blocks if self.count is not None else blocks[0]

    def __set__(self, device: Any, value: object) -> None:
        raise AttributeError(f"{self.name} is a block of registers\n\nhint: set one of its registers")


class Indexed(Declared):
    """Registers behind a port: one register says which of them another one leads to, as a PC's CMOS memory is reached.

    Arguments:
        offset: where the data port is.
        index: the register that holds the number.
        count: how many registers are behind the port: an array, whose attribute is used as that of `Register(count=)`.
        width: of each, and of the port.
        mask: bits of the index that count.
        step: added to the index after each access.
        access: as for `Register`, of all of them.
        reset: what each holds at power-on.
        doc: what they are for.

    Example:
        >>> from hyperpy import Device, Indexed, Register
        >>> class Cmos(Device):
        ...     index = Register(0x0, width=1)
        ...     data = Indexed(0x1, index=index, count=128, width=1, mask=0x7F)
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
        super().__init__(doc)
        if not isinstance(index, Register):
            raise DeclarationError(
                f"not a register: {index!r}", hint="index= is the register that holds the number"
            )
        self.behind = Register(None, width=width, access=access, reset=reset, count=count, order=order)
        self.offset, self.width, self.access, self.when, self.order = offset, width, access, when, order
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

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> ArrayView: ...

    def __get__(self, device: Any, owner: type) -> Any:
        return self if device is None else self.behind.__get__(device, owner)

    def __set__(self, device: Any, value: int) -> None:
        self.behind.__set__(device, value)


def _check_place(offset: int | None, width: int, count: int | None) -> None:
    if width not in _WIDTHS:
        raise DeclarationError(f"no register has this width: {width!r}", hint="1, 2, 4 or 8 bytes")
    if offset is not None and not 0 <= operator.index(offset) < 1 << 63:
        raise DeclarationError(
            f"offset is out of range: {offset}", hint="bytes from the start of the device, from 0"
        )
    if count is not None and not 1 <= operator.index(count) <= _MOST:
        raise DeclarationError(f"number of registers is out of range: {count}", hint=f"from 1 to {_MOST}")


def declarations(namespaces: Iterable[Mapping[str, Any]]) -> dict[str, Declared]:
    """Return what class bodies declare, those of later ones in place of earlier ones of the same name."""
    found: dict[str, Declared] = {}
    for namespace in namespaces:
        for name, value in namespace.items():
            found.pop(name, None)
            if isinstance(value, Declared):
                found[name] = value
    return found
