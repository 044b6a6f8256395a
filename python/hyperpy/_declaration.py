"""What every declaration is made of: its place and name, its fields, the methods that want to know; and the plain register.

The public module is `hyperpy.declare`, which has the other kinds and tells what they are for.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, overload

from hyperpy._delivery import delivery_of
from hyperpy._field import AccessKind, Field, check_access, check_arguments, whole
from hyperpy._register_views import ArrayView, Value, checked
from hyperpy._selection import Key, Selection, Where
from hyperpy._words import nearest
from hyperpy.errors import DeclarationError

__all__ = ["MOST", "AccessKind", "Bits", "Declared", "Field", "Hooked", "Register", "declarations"]

MOST = 1 << 16
_WIDTHS = (1, 2, 4, 8)
# Modules whose lines are not where a declaration was written.
_OURS = ("hyperpy._declaration", "hyperpy.declare")
_MARKS = ("on_read", "on_write", "on_write_if")
_F = TypeVar("_F", bound=Callable[..., Any])
_V = TypeVar("_V")


class Bits:
    """A field of a register in a class body, for `when=`."""

    def __init__(self, register: Register, field: Field, equals: int) -> None:
        self.register, self.field, self.equals = register, field, equals

    def __eq__(self, other: object) -> Bits:  # type: ignore[override] # as in SQL builders: `when=lcr.dlab == 1`
        value = whole("when", other)
        if not 0 <= value < 1 << self.field.width:
            raise DeclarationError(
                f"field never has this value: {value:#x}", hint=f"it has {self.field.width} bits"
            )
        return Bits(self.register, self.field, value)

    __hash__ = None  # type: ignore[assignment]


class Declared(Generic[_V]):
    """What all declarations have: a name, a place, the line where they were made, and an attribute's value in a device."""

    name: str = ""
    count: int | None = None
    stride: int = 0
    _is_declaration: ClassVar[bool] = True

    def __init__(
        self,
        offset: int | None,
        width: int,
        doc: str,
        *,
        count: int | None = None,
        when: Bits | None = None,
    ) -> None:
        given: object = width
        if isinstance(given, bool) or not isinstance(given, int) or width not in _WIDTHS:
            raise DeclarationError(f"no register has this width: {width!r}", hint="1, 2, 4 or 8 bytes")
        if offset is not None and not 0 <= whole("offset", offset) < 1 << 63:
            raise DeclarationError(
                f"offset is out of range: {offset}", hint="bytes from the start of the device, from 0"
            )
        if count is not None and not 1 <= whole("count", count) <= MOST:
            raise DeclarationError(f"number of registers is out of range: {count}", hint=f"from 1 to {MOST}")
        if when is not None and not isinstance(when, Bits):
            raise DeclarationError(
                f"not a condition: {when!r}",
                hint='when=control.bank, or when=control.bank == 2; a field that is called as an argument is: control["mask"]',
            )
        self.offset, self.width, self.doc, self.when = offset, width, doc, when
        self.count = None if count is None else operator.index(count)
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") in _OURS:
            frame = frame.f_back
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __repr__(self) -> str:
        place = "" if self.offset is None else f" at {self.offset:#x}"
        return f"<{type(self).__name__} {self.name or '?'}{place}>"

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> _V: ...

    def __get__(self, device: Any, owner: type) -> Any:
        return self if device is None else self._view(device, self._cell(device))

    def _cell(self, device: Any) -> int:
        """The number of its first register in a device, or in a block of one."""
        try:
            cell: int = device._first_cell + type(device)._cell_numbers[self]
        except (AttributeError, KeyError):
            raise AttributeError(
                f"{type(device).__name__} has nothing declared as {self.name or '?'} ({self.where})"
                "\n\nhint: declare it in the body of a class that derives from Device or Block"
            ) from None
        return cell

    def _view(self, device: Any, cell: int) -> _V:
        """What its attribute is."""
        raise NotImplementedError


class Hooked(Declared[_V]):
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
        """Mark the method that is told of writes which have one of these bits as 1; all others call no Python.

        Of a narrow access only the bits count that it gives.
        """
        if callable(mask):
            raise DeclarationError(
                "on_write_if marks without a mask",
                hint=f"@{self.name or 'name'}.on_write_if(0x1) above a `def`",
            )
        checked = self._checked_mask(mask)
        return lambda method: self._hook(method, "write", checked)

    def _checked_mask(self, mask: int) -> int:
        if not 0 < whole("mask", mask) < 1 << 8 * self.width:
            raise DeclarationError(
                f"no bits to look for: {mask:#x}", hint=f"a mask of bits such as 0x1, of {self.width} bytes"
            )
        return operator.index(mask)

    def _hook(self, method: _F, kind: str, mask: int, where: Where = None) -> _F:
        if not callable(method):
            raise DeclarationError(
                f"not a method: {method!r}", hint=f"@{self.name or 'name'}.on_{kind} above a `def`"
            )
        hooks: list[tuple[Hooked[Any], str, int, Where]] = method.__dict__.setdefault("_hooks", [])
        hooks.append((self, kind, mask, where))
        # The class looks for it when it is made: a second `def` of the same name would take its place without a word.
        self.__dict__.setdefault("_marks", []).append((kind, getattr(method, "__name__", "?")))
        return method


class Register(Hooked[Any]):
    """A register: its attribute is the value that guests see, and can be set while they run.

    Arguments:
        offset: where it is, in bytes from the start of the device's range.
        width: 1, 2, 4 or 8 bytes.
        reset: what it holds at power-on.
        access: what a guest's accesses do to its bits. "rw": reads show and writes store them; "ro": writes are dropped;
            "wo": reads as 0; "w1c", "w0c", "w1s": written ones clear, zeros clear, ones set; "rc", "rs": a read clears,
            sets them. Fields can each have their own.
        mask: bits that exist; others read as 0 and are not written. All of them, or those of the fields if there are any.
        count: for an array of them: how many. Some of them can have methods of their own: `@lights[3].on_write`,
            `@lights[4:8].on_read`; see `Indexed`.
        stride: bytes from one of the array to the next; its width if it is left out.
        order: "big" if its first byte is the most significant.
        when: a field that must be set for it to be here: `when=line_control.dlab`, or `when=mode.bank == 2`. Others can
            share the place; one without `when` is there for all other values. A field that is called as an argument is, is
            `when=mode["reset"]`.
        posted: the guest does not wait for `on_write`, which is called later, for each write in order: before any other method
            of the device, and within 50 ms.
        stream: the same for a write-only register, and its writes wait in the kernel: they cost no exit.
        doorbell: a write to it, which must be write-only, is a signal: no exit, and `on_write` is called on a thread of the
            machine's. Several may come as one. The method gets None, since nobody knows the value.
        match: the value, or values, that ring the doorbell, each told as itself; all others are served as ever.
        doc: what it is for.
        fields: each a name and its `Field`, such as `{"reset": Field(0)}`; those whose names are no argument can be given by name.

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
        posted: bool = False,
        stream: bool = False,
        doorbell: bool = False,
        match: int | Iterable[int] | None = None,
        doc: str = "",
        fields: Mapping[str, Field] | None = None,
        **named: Field,
    ) -> None:
        check_arguments(locals())
        if twice := sorted((fields or {}).keys() & named):
            raise DeclarationError(f"field is given twice: {twice[0]}", hint="in `fields`, or by its name")
        super().__init__(offset, width, doc, count=count, when=when)
        self.access, self.order = access, order
        self.fields = {**(fields or {}), **named}
        check_access(access)
        self.stride = width if stride is None else whole("stride", stride)
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
        self.mask = whole("mask", mask) if mask is not None else union or everything
        if not 0 <= self.mask <= everything or union & ~self.mask:
            raise DeclarationError(
                f"mask is wider than the register, or lacks a field: {self.mask:#x}", hint="leave it out"
            )
        self.reset = whole("reset", reset)
        for field in self.fields.values():
            self.reset |= field.reset << field.low
        if self.reset & ~self.mask or self.reset < 0:
            raise DeclarationError(
                f"reset value has bits outside the mask: {self.reset:#x} of {self.mask:#x}",
                hint="give these bits a field, or a wider mask",
            )

        self.delivery = delivery_of(self, posted=posted, stream=stream, doorbell=doorbell, match=match)

    def _check_fields(self) -> None:
        taken = 0
        for name, field in self.fields.items():
            if not isinstance(field, Field):
                raise DeclarationError(
                    f"not a field or an argument: {name}={field!r}",
                    hint=f"{nearest(name, Register.__init__.__kwdefaults__)} fields are Field(low, width)".lstrip(),
                )
            if hasattr(int, name):
                raise DeclarationError(
                    f"field cannot be called so: {name}", hint="every int has an attribute of that name"
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
        return self._field(name)

    def _field(self, name: str) -> Bits:
        fields: dict[str, Field] = self.__dict__.get("fields", {})
        if name not in fields:
            # A class body that is still read has not named it yet.
            own = self.__dict__.get("name") or self.__dict__.get("where", "?")
            meant = None if name.startswith("_") else nearest(name, [*fields, *_MARKS])
            hint = meant or f"its fields: {', '.join(fields) or 'none'}"
            raise AttributeError(f"register has no field {name!r}: {own}\n\nhint: {hint}")
        return Bits(self, fields[name], (1 << fields[name].width) - 1)

    # Arrays are selected from, not gone through.
    __iter__ = None

    @overload
    def __getitem__(self, key: str) -> Bits: ...
    @overload
    def __getitem__(self, key: Key) -> Selection: ...
    def __getitem__(self, key: str | Key) -> Bits | Selection:
        return self._field(key) if isinstance(key, str) else Selection(self, key)

    def _view(self, device: Any, cell: int) -> Any:
        if self.count is not None:
            return ArrayView(device._register_file, cell, self)
        value = device._register_file.get(cell)
        return Value(value, device._register_file, cell, self) if self.fields else value

    def __set__(self, device: Any, value: int) -> None:
        if self.count is not None:
            raise AttributeError(
                f"{self.name} is an array of registers\n\nhint: set one: {self.name}[0] = ..."
            )
        device._register_file.set(self._cell(device), checked(self, value), self.mask)


def declarations(namespaces: Iterable[Mapping[str, Any]]) -> dict[str, Declared[Any]]:
    """Return what class bodies declare, those of later ones in place of earlier ones of the same name."""
    found: dict[str, Declared[Any]] = {}
    for namespace in namespaces:
        for name, value in namespace.items():
            found.pop(name, None)
            if isinstance(value, Declared):
                found[name] = value
    return found
