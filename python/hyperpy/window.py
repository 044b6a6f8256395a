"""Windows: ranges of one device that are attached at places of their own, on either bus.

    class Card(Device):
        regs, ports = Window(0x100), Window(8)
        control = Register(regs[0x0])
        index = Register(ports[0x0], width=1)

    m.attach(Card(), mmio={"regs": 0xFE00_0000}, pio={"ports": 0x300})

A device stays one: its registers are saved, reset and shown together, and refer to each other across windows. To the core a
window is a part of one range; where it begins in it is laid out here, and nobody else need know.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, overload

from hyperpy.errors import DeclarationError
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from hyperpy._declaration import Declared
    from hyperpy.device import Device, Stop

__all__ = ["BoundWindow", "Window"]

_F = TypeVar("_F", bound=Callable[..., Any])
# Each window begins at a page, so that no register's bytes touch another's, and offsets can be read.
_APART = 4096


class Offset(int):
    """A place in a window, for a declaration."""

    window: Window

    def __repr__(self) -> str:
        return f"{self.window.name or '?'}[{int(self):#x}]"


class Window:
    """A range of a device that `Machine.attach` puts at a place of its own, by its name.

    In the class body `window[offset]` is a place in it, wherever a declaration takes an offset. A class that has windows has
    all of its registers in them. In a device, `card.window[offset]` is the number by which `DeviceBench` makes an access there.

    Arguments:
        size: bytes, or "4K"; None: up to the end of its last register.
        doc: what it is for.

    Example:
        >>> import hyperpy
        >>> class Clockwork(hyperpy.Device):
        ...     regs, ports = hyperpy.Window(0x100), hyperpy.Window(4)
        ...     ticks = hyperpy.Register(regs[0x10])
        ...     wind = hyperpy.Register(ports[0x0], width=1, access="wo")
        ...
        ...     @wind.on_write
        ...     def _wind(self, turns: int) -> None:
        ...         self.ticks += 60 * turns
        >>> code = bytes([0xB0, 2, 0xE6, 0x80, 0xF4])  # mov al, 2; out 0x80, al; hlt
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     clock = m.attach(Clockwork(), mmio={"regs": 0xFE00_0000}, pio={"ports": 0x80})
        ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
        ...     print(m.run(timeout=1.0), clock.ticks)
        Exit.Halt(vcpu=0) 120
    """

    name: str = ""
    _is_declaration: ClassVar[bool] = True

    def __init__(self, size: int | str | None = None, *, doc: str = "") -> None:
        self.size = None if size is None else parse_size(size)
        self.doc = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __getitem__(self, offset: int) -> int:
        """Return a place in it, for a declaration: bytes from its start."""
        place = Offset(operator.index(offset))
        place.window = self
        return place

    def on_read(self, method: _F) -> _F:
        """Mark the method that answers a guest's reads of what no register takes: `method(self, offset, size)`.

        `offset` counts from the start of the window; all else is as for `Device.read`.
        """
        return self._hook(method, "read")

    def on_write(self, method: _F) -> _F:
        """Mark the method that takes a guest's writes to what no register takes: `method(self, offset, size, value)`."""
        return self._hook(method, "write")

    def _hook(self, method: _F, kind: str) -> _F:
        if not callable(method):
            raise DeclarationError(
                f"not a method: {method!r}", hint=f"@{self.name or 'window'}.on_{kind} above a `def`"
            )
        hooks: list[tuple[Window, str]] = method.__dict__.setdefault("_window_hooks", [])
        hooks.append((self, kind))
        self.__dict__.setdefault("_marks", []).append((kind, getattr(method, "__name__", "?")))
        return method

    @overload
    def __get__(self, device: None, owner: type) -> Window: ...
    @overload
    def __get__(self, device: object, owner: type) -> BoundWindow: ...

    def __get__(self, device: Any, owner: type) -> Window | BoundWindow:
        if device is None:
            return self
        return next(BoundWindow(part) for part in owner._windows if part.name == self.name)  # type: ignore[attr-defined]

    def __set__(self, device: object, value: object) -> None:
        raise AttributeError(f"{self.name} is a window\n\nhint: m.move(device, ...) puts it elsewhere")

    def __repr__(self) -> str:
        size = "" if self.size is None else f", {self.size:#x} bytes"
        return f"<Window {self.name or '?'}{size}>"


class Part(NamedTuple):
    """A window of a class: its place in the device's own range, and who takes what no register does."""

    name: str
    origin: int
    size: int
    on_read: str | None
    on_write: str | None
    doc: str


_NOBODYS = Part("", 0, 0, None, None, "")


class BoundWindow:
    """A window of a device: `name` and `size`, and places in it for `DeviceBench`.

    Example:
        >>> from hyperpy import Device, Register, Window
        >>> from hyperpy.testing import DeviceBench
        >>> class Card(Device):
        ...     regs, ports = Window(0x100), Window(8)
        ...     data = Register(ports[0x4])
        >>> bench = DeviceBench(Card())
        >>> bench.write32(bench.device.ports[0x4], 7)
        >>> bench.device.data, bench.device.ports
        (7, <window ports, 0x8 bytes>)
    """

    __slots__ = ("_origin", "name", "size")

    def __init__(self, part: Part) -> None:
        self.name, self.size, self._origin = part.name, part.size, part.origin

    def __getitem__(self, offset: int) -> int:
        """Return the number of a place in it in the device's own range."""
        if not 0 <= operator.index(offset) < self.size:
            raise IndexError(
                f"offset leaves the window {self.name}: {offset:#x}\n\nhint: it has {self.size:#x} bytes"
            )
        return self._origin + offset

    def __repr__(self) -> str:
        return f"<window {self.name}, {self.size:#x} bytes>"


def parts_of(
    cls: type, declared: Iterable[Declared[Any]], span: Callable[[Declared[Any]], int]
) -> tuple[Part, ...]:
    """Lay out the windows of a class; nothing for one that has none. `span` is how many bytes a declaration takes.

    Raises:
        DeclarationError: a register is in none of them or leaves its own, or a window has no size.
    """
    windows: dict[str, Window] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            windows.pop(name, None)
            if isinstance(value, Window):
                windows[name] = value
    placed = [one for one in declared if one.offset is not None]
    ends = dict.fromkeys(windows, 0)
    for one in placed:
        name = one.offset.window.name if isinstance(one.offset, Offset) else ""
        if not (name or windows):
            continue
        if name not in windows:
            hint = (
                f"its windows: {', '.join(windows) or 'none'}; Register(window[0x0]) is at the start of one"
            )
            raise DeclarationError(
                f"{cls.__name__}: register is in no window of the class: {one.name} ({one.where})", hint=hint
            )
        end, size = int(one.offset or 0) + span(one), windows[name].size
        if size is not None and end > size:
            raise DeclarationError(
                f"{cls.__name__}: register leaves its window: {one.name} ({one.where}), {one.offset!r}",
                hint=f"{name} has {size:#x} bytes",
            )
        ends[name] = max(ends[name], end)
    hooks = _hooks_of(cls)
    parts, origin = [], 0
    for name, window in windows.items():
        length = window.size or ends[name]
        if not length:
            raise DeclarationError(
                f"{cls.__name__}: size of a window is not known: {name}", hint="Window(0x1000), or a register"
            )
        parts.append(Part(name, origin, length, *hooks.get(window, (None, None)), window.doc))
        origin = (origin + length + _APART - 1) // _APART * _APART
    return tuple(parts)


def _hooks_of(cls: type) -> dict[Window, tuple[str | None, str | None]]:
    found: dict[Window, tuple[str | None, str | None]] = {}
    for base in reversed(cls.__mro__):
        for name, method in base.__dict__.items():
            for window, kind in getattr(method, "_window_hooks", ()):
                read, write = found.get(window, (None, None))
                found[window] = (name, write) if kind == "read" else (read, name)
    return found


def check(cls: type[Device], has_size: bool) -> None:
    """Give a class with windows its accesses, and refuse one that has others.

    Raises:
        DeclarationError: it has a `size`, or its own `read` or `write`: these could not tell its windows apart.
    """
    from hyperpy.device import Device  # noqa: PLC0415 - it is being imported where this is

    if has_size:
        raise DeclarationError(
            f"{cls.__name__}: a class with windows has a size", hint="Window(0x1000) has one"
        )
    for name, usual, ours in (("read", Device.read, read), ("write", Device.write, write)):
        if getattr(cls, name) not in (usual, ours):
            raise DeclarationError(
                f"{cls.__name__}: a class with windows has its own `{name}`",
                hint=f"@{cls._windows[0].name}.on_{name} above a method: it gets offsets in that window",
            )
    if any(part.on_read or part.on_write for part in cls._windows):
        cls.read, cls.write = read, write  # type: ignore[method-assign]


def end_of(parts: tuple[Part, ...]) -> int:
    """Bytes of the device's own range that the windows take."""
    return parts[-1].origin + parts[-1].size


def place_of(offset: int, parts: Iterable[Part]) -> int:
    """Return the place of a declaration in the device's own range."""
    if not isinstance(offset, Offset):
        return offset
    origin = next((part.origin for part in parts if part.name == offset.window.name), None)
    if origin is None:
        hint = "offsets in a block count from its start: Block.at(window[0x10]) puts it into a window"
        raise DeclarationError(f"a block's register is in a window: {offset!r}", hint=hint)
    return origin + int(offset)


def shown(offset: int, parts: tuple[Part, ...]) -> str:
    """Return a place in the device's own range as a person would write it."""
    for part in reversed(parts):
        if part.origin <= offset:
            return f"{part.name}[{offset - part.origin:#x}]"
    return f"{offset:#x}"


def _at(device: Any, offset: int, size: int) -> tuple[Part, int]:
    """The window of an access and the place in it; no access of a guest leaves it, but a bench has the room between."""
    part: Part = next(part for part in reversed(device._windows) if part.origin <= offset)
    offset -= part.origin
    return (part if offset + size <= part.size else _NOBODYS), offset


def read(self: Any, offset: int, size: int, /) -> int:
    """`Device.read` of a class with windows: what no register takes."""
    part, place = _at(self, offset, size)
    if part.on_read is None:
        return (1 << (8 * size)) - 1
    value: int = getattr(self, part.on_read)(place, size)
    return value


def write(self: Any, offset: int, size: int, value: int, /) -> Stop | None:
    """`Device.write` of a class with windows."""
    part, place = _at(self, offset, size)
    if part.on_write is None:
        return None
    asked: Stop | None = getattr(self, part.on_write)(place, size, value)
    return asked


Where = Mapping[str, int]


def named(
    device: object, bus: str, where: int | Where | None, parts: tuple[Part, ...]
) -> Iterator[tuple[Part | None, int]]:
    """Yield which windows `mmio=` or `pio=` are about, and their addresses; None stands for a device without windows.

    Raises:
        TypeError: it is not of the form that the device's class wants.
    """
    kind = type(device).__name__
    if where is None:
        return
    if not isinstance(where, Mapping):
        if len(parts) > 1:
            names = ", ".join(f'"{part.name}": ADDRESS' for part in parts)
            raise TypeError(
                f"{kind} has several windows\n\nhint: {bus}={{{names}}}, those that are on this bus"
            )
        yield (parts[0] if parts else None), _address(bus, where)
        return
    for name, base in where.items():
        part = next((part for part in parts if part.name == name), None)
        if part is None:
            names = ", ".join(part.name for part in parts) or f"none; {bus}=ADDRESS"
            raise TypeError(f"{kind} has no window {name!r}\n\nhint: its windows: {names}")
        yield part, _address(bus, base)


def _address(bus: str, where: object) -> int:
    try:
        return operator.index(where)  # type: ignore[arg-type] # whatever a script gives
    except TypeError:
        example = "0x300" if bus == "pio" else "0xFE00_0000"
        raise TypeError(f"not a place on a bus: {bus}={where!r}\n\nhint: a number: {bus}={example}") from None
