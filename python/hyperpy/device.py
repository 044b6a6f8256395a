"""Devices: what answers a guest's accesses to a range of a bus.

Any object with `read(offset, size)` and `write(offset, size, value)` can be attached; `Device` is the base class that
says so and gives defaults. The stock devices that are written in Rust and attached by name are here too. Where they
are attached, and how the machine reacts, is in `hyperpy.machine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    runtime_checkable,
)

from hyperpy import _hyperpy
from hyperpy._lent import Lent
from hyperpy._made import Made, holds_declarations, recording
from hyperpy._value import Value
from hyperpy.errors import DeclarationError
from hyperpy.line import IrqLine, Line

if TYPE_CHECKING:
    from hyperpy._declaration import Declared
    from hyperpy._layout import Hooks, Placed
    from hyperpy.clock import Clock
    from hyperpy.dma import DmaMemory
    from hyperpy.explain import Explanation
    from hyperpy.identity import Identity
    from hyperpy.window import Part

__all__ = ["DebugConsole", "DebugExit", "Device", "DeviceLike", "Stop"]

AccessRule: TypeAlias = Literal["exact", "split", "widen", "refuse"]
_IDS = {"acpi_hid", "acpi_cid", "acpi_uid"}


class Stop(Value):
    """Returned by a device's `write`: every vcpu stops, and `run` returns `Exit.Stopped` with this reason."""

    reason: str = ""

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        check_reason(self.reason)


def check_reason(reason: object) -> None:
    """Raise a TypeError for what cannot be shown as the reason of a stop."""
    if not isinstance(reason, str):
        raise TypeError(f'not a reason: {reason!r}\n\nhint: text: Stop("why"), m.stop("why")')


@runtime_checkable
class DeviceLike(Protocol):
    """What `Machine.attach` wants of an object."""

    def read(self, offset: int, size: int, /) -> int:
        """Answer a read."""

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        """Take a write."""


def _make_blocks(device: Device) -> dict[Any, list[Any]]:
    from hyperpy._layout import make_blocks  # noqa: PLC0415 - most programs declare nothing

    return make_blocks(device, device)


class Device:
    """A device written in Python.

    Override `read` and `write`. `offset` counts bytes from the start of the device's range; `size` is 1 to 8 bytes
    (an access across a page comes in two parts); values are little-endian integers of that size. Both run on the
    thread of the vcpu that made the access, two vcpus may be in them at once, and none of the machine's verbs that
    would wait for that vcpu can be used inside them. What they raise, `Machine.run` raises.

    Class attributes:
        size: length of the device's range in bytes, if every instance has the same.
        access_rule: what becomes of accesses that fit no declared register: "split", "widen", "exact" or "refuse". Each is
            told in the guide to devices, "Accesses that fit no register".
        schema: number of the form of what `save` returns.
        acpi_hid: hardware id (ACPI 6.5, 6.1.5) to list the device under, so that an operating system finds it: an EISA
            id ("PNP0501") or an ACPI id ("QEMU0002").
        acpi_cid: one id, or several, of what it is compatible with, for drivers that do not know `acpi_hid`.
        acpi_uid: a number or text that tells it from others of its `acpi_hid`; None: they are numbered.
        irq_level: whether its interrupt is level-triggered (True) or edge-triggered.
        saved_attributes: names of the attributes that are state beside its registers: plain data, and timers of its clock. `()`
            says that none is; None that nobody has said so yet, and a snapshot then refuses one that has attributes.
        stateless: whether it has nothing to be saved.
        dma: whether it reads and writes guest memory: True gives it `memory`.
        dma_limit: most bytes that it reads from guest memory at once.

    `irq` is its interrupt line, which `Machine.attach(..., irq=n)` connects: `self.irq.pulse()`, or `raise_()` and
    `lower()`. A device with several declares them (`hyperpy.line`). `clock` is the machine's clock
    once it is attached (`hyperpy.clock`): what is set by it are this device's timers, and `detach` takes them off. `memory` is
    guest memory as the device reaches it, from `attach` to `detach`, if its class says `dma = True` (`hyperpy.dma`). Before, both
    are false, and using them is a `DeviceError` that says what is missing.

    Example:
        >>> import hyperpy
        >>> class Doorbell(hyperpy.Device):
        ...     size = 8
        ...     rings = 0
        ...
        ...     def write(self, offset: int, size: int, value: int) -> hyperpy.Stop | None:
        ...         self.rings += 1
        ...         return hyperpy.Stop("enough") if self.rings == 2 else None
        >>> code = bytes([0xE6, 0x80, 0xEB, 0xFC])  # again: out 0x80, al; jmp again
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     bell = m.attach(Doorbell(), pio=0x80)
        ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
        ...     print(m.run(timeout=1.0), bell.rings)
        Exit.Stopped(vcpu=0, reason='enough', status=None) 2
    """

    size: ClassVar[int | None] = None
    access_rule: ClassVar[AccessRule] = "split"
    schema: ClassVar[int] = 1
    saved_attributes: ClassVar[Sequence[str] | None] = None
    stateless: ClassVar[bool] = False
    acpi_hid: ClassVar[str | None] = None
    acpi_cid: ClassVar[str | Sequence[str] | None] = None
    acpi_uid: ClassVar[int | str | None] = None
    irq_level: ClassVar[bool] = False
    dma: ClassVar[bool] = False
    dma_limit: ClassVar[int] = 64 << 20
    if TYPE_CHECKING:
        irq: IrqLine
        memory: DmaMemory
        clock: Clock
    else:
        irq = Line()
        memory = Lent()
        clock = Lent()

    _layout: ClassVar[_hyperpy.RegisterLayout | None] = None
    _cell_numbers: ClassVar[Mapping[Declared[Any], int]] = {}
    _cells: ClassVar[int] = 0
    _told: ClassVar[Hooks] = {}
    _places: ClassVar[tuple[Placed, ...]] = ()
    _computed_size: ClassVar[int | None] = None
    _windows: ClassVar[tuple[Part, ...]] = ()
    _first_cell: ClassVar[int] = 0
    _register_file = Made(lambda device: _hyperpy.RegisterFile(device._layout))
    _blocks = Made(_make_blocks)
    _calls = Made(lambda device: _hyperpy.Calls(device._layout))

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if isinstance(cls.saved_attributes, str):
            raise DeclarationError(
                f"{cls.__name__}: saved_attributes is text: {cls.saved_attributes!r}",
                hint=f'a name alone is no tuple: saved_attributes = ("{cls.saved_attributes}",)',
            )
        if "__init__" in cls.__dict__ and (cls.__new__ is object.__new__ or hasattr(cls.__new__, "_records")):
            cls.__new__ = recording(cls.__init__)  # type: ignore[method-assign]
        if not _IDS.isdisjoint(cls.__dict__):
            from hyperpy._acpi import check  # noqa: PLC0415 - few devices are listed

            check(cls)
        if (
            cls._cell_numbers
            or cls._windows
            or any(
                getattr(value, "_is_declaration", False) or holds_declarations(value)
                for value in cls.__dict__.values()
            )
        ):
            from hyperpy._layout import declare  # noqa: PLC0415 - most programs declare nothing

            declare(cls)

    @classmethod
    def _has_own_accesses(cls) -> bool:
        return cls.read is not Device.read or cls.write is not Device.write

    def read(self, offset: int, size: int, /) -> int:
        """Answer a read with an int from 0 to all ones of `size` bytes. The default is all ones."""
        return (1 << (8 * size)) - 1

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        """Take a write. The default drops it. Return `Stop("why")` to stop the machine."""
        return None

    def reset(self) -> None:
        """Return to the power-on state. The default resets declared registers; a machine does that in any case, before."""
        if self._layout is not None:
            self._register_file.reset()

    def save(self) -> dict[str, Any]:
        """Return the state as a plain value that `load` takes: what every declared register holds, and `saved_attributes`.

        Override both for other state: `{**super().save(), "more": ...}`. A snapshot of a machine calls them only of a class
        that does. What they return and get is plain data: None, bool, int of 128 bits, float, str, bytes, bytearray, list,
        tuple, dict, set, frozenset and timers; it is copied.

        Raises:
            SnapshotError: it has no attribute of a name in `saved_attributes`.
            TypeError: an attribute is no plain data.

        Example:
            >>> import hyperpy
            >>> class Latch(hyperpy.Device):
            ...     value = hyperpy.Register(0x0)
            >>> latch = Latch()
            >>> latch.value = 7
            >>> latch.save()
            {'schema': 1, 'registers': {'value': 7}}
        """
        from hyperpy._register_state import save  # noqa: PLC0415 - few programs save

        return save(self)

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back that `save` returned. No method that is marked by `on_write` is called.

        Raises:
            SnapshotError: it is of another `schema`, or of other registers. Nothing is changed then.
        """
        from hyperpy._register_state import load  # noqa: PLC0415 - few programs load

        load(self, state)

    def clone(self) -> Self:
        """Return a new device like this one, for a copy of the machine: made with the same arguments, and given its state.

        The arguments are the same objects. Override it for a device that is to be made otherwise.

        Raises:
            DeviceError: its class could not be called with the arguments that this one was made with.

        Example:
            >>> import hyperpy
            >>> class Latch(hyperpy.Device):
            ...     value = hyperpy.Register(0x0)
            ...     saved_attributes = ("color",)
            ...
            ...     def __init__(self, color: str) -> None:
            ...         self.color = color
            >>> latch = Latch("red")
            >>> latch.value, latch.color = 7, "blue"
            >>> copy = latch.clone()
            >>> copy.value, copy.color
            (7, 'blue')
        """
        from hyperpy._cloning import again  # noqa: PLC0415 - few programs copy

        copy = again(self)
        if not self.stateless:
            copy.load(self.save())
        return copy

    def forked(self, parent: Self, identity: Identity, /) -> None:
        """Take an identity of one's own: called of each device of a copy of a machine, before that runs. The default does nothing.

        It is attached, and has the state and the time of the copy.

        Arguments:
            parent: the device that this one is a copy of.
            identity: who the copy is: its name and seed, and what is derived from it for this device, such as `identity.mac()`.
        """

    @classmethod
    def markdown(cls) -> str:
        """Return a reference of the declared registers, their fields, windows and lines, as Markdown."""
        from hyperpy._register_reference import markdown  # noqa: PLC0415 - few programs show it

        return markdown(cls)

    def explain(self, *, measure: bool = False) -> Explanation:
        """Tell who serves each register, how often guests have accessed it, and what calls to Python take: prints as a table.

        While it is attached, and afterwards; a reset of the machine changes nothing. See `hyperpy.explain`.

        Arguments:
            measure: also measure what a read takes here that Rust serves: some milliseconds, on registers of its own.

        Example:
            >>> import hyperpy
            >>> from hyperpy.testing import DeviceBench
            >>> class Dice(hyperpy.Device):
            ...     throws = hyperpy.Register(0x0, access="ro")
            ...     value = hyperpy.Register(0x4, access="ro")
            ...
            ...     @value.on_read
            ...     def _value(self) -> int:
            ...         self.throws += 1
            ...         return 4
            >>> dice = Dice()
            >>> _ = DeviceBench(dice).batch([(0x4, 4), (0x4, 4), (0x0, 4)])
            >>> print(dice.explain())  # doctest: +ELLIPSIS
            Dice: 3 accesses, 2 calls to Python
            register  offset  bytes  rung      reads  writes  calls  mean ns  worst ns
            throws       0x0      4  register      1       0      0
            value        0x4      4  python        2       0      2  ...
        """
        from hyperpy.explain import explained  # noqa: PLC0415 - few programs ask

        return explained(self, measure)

    def __repr__(self) -> str:
        if self._layout is None:
            return super().__repr__()
        from hyperpy._register_text import one_line  # noqa: PLC0415

        return one_line(self)

    def _repr_html_(self) -> str | None:
        if self._layout is None:
            return None
        from hyperpy._register_text import html  # noqa: PLC0415

        return html(self)


class _Stock:
    """A device written in Rust."""

    def __init__(self, native: _hyperpy.StockDevice) -> None:
        self._native = native

    @property
    def size(self) -> int:
        """Length of its range in bytes."""
        return self._native.size

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class DebugExit(_Stock):
    """The debug-exit port of test kernels, usually at 0xf4, 4 ports wide.

    A write stops the machine: `Exit.Stopped` with `status` = `value << 1 | 1`, as QEMU's isa-debug-exit does.
    """

    def __init__(self) -> None:
        super().__init__(_hyperpy.StockDevice.debug_exit())

    def clone(self) -> DebugExit:
        """Return another one, for a copy of the machine."""
        return DebugExit()


class DebugConsole(_Stock):
    """The debug console port, usually 0xe9: every byte written to it goes to the given console."""

    def __init__(self, console: object) -> None:
        native = getattr(console, "_native", None)
        if not isinstance(native, _hyperpy.Console):
            raise TypeError(f"not a console: {console!r}\n\nhint: give m.console")
        super().__init__(_hyperpy.StockDevice.debug_console(native))
        self._console = console

    def clone(self) -> DebugConsole:
        """Return another one of the same console; `Machine.fork` gives the copy of a machine's own the console of the copy."""
        return DebugConsole(self._console)
