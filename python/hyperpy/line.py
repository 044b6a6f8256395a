"""Interrupt lines and messages, as a device's class declares them.

    class Nic(Device):
        received = Line(level=True)
        sent = Line()

Every `Device` has one line more, `irq`. Which gsi, or which message, a line is in a machine, `Machine.attach` says:
`m.attach(nic, mmio=0xFE00_0000, irq={"received": 5, "sent": 6})`. Where gsis lead is in `hyperpy.irq`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias, TypeVar, overload

from hyperpy import _hyperpy
from hyperpy.errors import DeviceError

__all__ = ["IrqLine", "Line", "MessageSender", "Messages"]

IrqLine: TypeAlias = _hyperpy.IrqLine
MessageSender: TypeAlias = _hyperpy.MessageSender
_D = TypeVar("_D")


class Line:
    """An interrupt line of a device, declared in its class. Its attribute is an `IrqLine` once it is connected.

    `raise_()` asserts it: a level-triggered line interrupts until `lower()` takes it down. `pulse()` is one rising edge: up, and
    down again. `set(level)` does either, by a bool, and `level` says whether this device asserts it.

    All of them may be called from any thread at any time. Until it is connected a line is false, as in `if self.sent:`; to
    lower it does nothing then, and to raise it is a `DeviceError`.

    Arguments:
        level: whether it is level-triggered, as `Device.irq_level` says of `irq`: shown in `m.map`, and told to an operating
            system.
        doc: what it is for.

    Example:
        >>> from hyperpy import Device, Line, Register
        >>> from hyperpy.testing import DeviceBench
        >>> class Link(Device):
        ...     sent = Line()
        ...     data = Register(0x0, access="wo")
        ...
        ...     @data.on_write
        ...     def _data(self, value: int) -> None:
        ...         self.sent.pulse()
        >>> bench = DeviceBench(Link())
        >>> bench.write32(0x0, 1)
        >>> bench.lines["sent"].rises
        1
    """

    name: str = ""

    def __init__(self, *, level: bool = False, doc: str = "") -> None:
        self.level, self.doc = bool(level), doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> IrqLine: ...

    # A connected one is in the instance's own dictionary, which comes first.
    def __get__(self, device: object, owner: type) -> Any:
        return self if device is None else _NotConnected(owner.__name__, self.name)

    if TYPE_CHECKING:

        def __set__(self, device: object, line: IrqLine) -> None: ...

    def __repr__(self) -> str:
        return f"<line {self.name or '?'}{', level' if self.level else ''}>"


class _NotConnected:
    """What a line is before it is connected."""

    __slots__ = ("_name", "_owner")
    gsi, level = None, False

    def __init__(self, owner: str, name: str) -> None:
        self._owner, self._name = owner, name

    def __bool__(self) -> bool:
        return False

    def raise_(self) -> NoReturn:
        how = "irq=GSI" if self._name == "irq" else f'irq={{"{self._name}": GSI}}'
        raise DeviceError(
            f"line is not connected: {self._owner}.{self._name}", hint=f"attach the device with {how}"
        )

    pulse = raise_

    def lower(self) -> None:
        """It is low."""

    def set(self, level: bool) -> None:
        if level:
            self.raise_()

    def __repr__(self) -> str:
        return f"<line {self._name}, not connected>"


class Messages:
    """Declares that a device sends messages of its own choice (SDM vol. 3, 11.11), as one with MSI or MSI-X does.

    Its attribute is a `MessageSender` once the device is attached: `send(address, data)` says whether a local APIC took the
    message. A guest may have chosen both: what reaches nobody is lost, as in hardware, and `send` gives False. For a
    message that is known when the device is attached, `irq=Msi(address, data)` needs no declaration.

    Arguments:
        doc: what they are for.

    Example:
        >>> from hyperpy import Device, Messages, Register
        >>> from hyperpy.testing import DeviceBench
        >>> class Completer(Device):
        ...     msi = Messages()
        ...     address = Register(0x0, width=8)
        ...     data = Register(0x8)
        ...     go = Register(0xC, access="wo")
        ...
        ...     @go.on_write
        ...     def _go(self, value: int) -> None:
        ...         self.msi.send(self.address, self.data)
        >>> bench = DeviceBench(Completer())
        >>> bench.batch([(0x0, 8, 0xFEE0_0000), (0x8, 4, 0x41), (0xC, 4, 1)])
        []
        >>> bench.messages
        [MessageSent(time=0, address=4276092928, data=65)]
    """

    name: str = ""

    def __init__(self, *, doc: str = "") -> None:
        self.doc = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    if TYPE_CHECKING:

        @overload
        def __get__(self, device: None, owner: type) -> Self: ...
        @overload
        def __get__(self, device: object, owner: type) -> MessageSender: ...

    def __get__(self, device: object, owner: type) -> Any:
        return self if device is None else _NoSender(owner.__name__, self.name)

    if TYPE_CHECKING:

        def __set__(self, device: object, sender: MessageSender) -> None: ...

    def __repr__(self) -> str:
        return f"<messages {self.name or '?'}>"


class _NoSender:
    """What sends messages before the device is attached."""

    def __init__(self, owner: str, name: str) -> None:
        self._owner, self._name = owner, name

    def __bool__(self) -> bool:
        return False

    def send(self, address: int, data: int) -> NoReturn:
        raise DeviceError(
            f"messages are sent by a device that is not attached: {self._owner}.{self._name}",
            hint="attach it to a machine, or put it on a DeviceBench",
        )


def declared(kind: type, what: type[_D]) -> dict[str, _D]:
    """Return the lines, or the messages, that a class declares, by name; those of subclasses in place of their bases'."""
    found: dict[str, _D] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            found.pop(name, None)
            if isinstance(value, what):
                found[name] = value
    return found


def take_back(device: object, given: dict[str, Any]) -> None:
    """Disconnect what a device was given, where it still has it."""
    lines = {**declared(type(device), Line), **declared(type(device), Messages)}
    for name, thing in given.items():
        if getattr(device, name, None) is not thing:
            continue
        if name in lines:
            delattr(device, name)
        else:
            setattr(device, name, None)
