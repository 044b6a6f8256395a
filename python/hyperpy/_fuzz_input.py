"""The device that answers a guest from a fuzzer's input; public as `hyperpy.fuzz.InputDevice`."""

from __future__ import annotations

from typing import Any, TypeVar

from hyperpy import _hyperpy
from hyperpy._declaration import Register
from hyperpy._layout import Hooks, hooks_for
from hyperpy.device import Device, _Stock
from hyperpy.errors import DeclarationError
from hyperpy.memory import parse_size

__all__ = ["InputDevice"]

_D = TypeVar("_D", bound=Device)


class InputDevice(_Stock):
    """A device whose reads are answered from the input of a `GuestFuzzer`, each with as many bytes as it has; writes are dropped.

    It stands in for whatever a driver talks to: a driver that believes all that its device says is fuzzed by it. Until
    `GuestFuzzer.input_device` is told of it there is no input, and each read is past its end. `of` makes a device of one that lies in some registers alone.

    Arguments:
        size: length of its range, in bytes or "4K".
        after: what a byte past the input's end is, 0 to 255: all ones, as where nobody answers, or 0.

    Example:
        >>> from hyperpy import Exit, Flat, Machine, fuzz
        >>> with Machine(memory="1M") as m:
        ...     _ = m.attach(fuzz.InputDevice(size=4), pio=0x60)
        ...     m.load(Flat(bytes([0xE4, 0x60, 0xF4]), at=0x1000, mode="real"))  # in al, 0x60; hlt
        ...     print(m.run(timeout=1.0), hex(m.vcpus[0].regs.rax & 0xFF))
        Exit.Halt(vcpu=0) 0xff
    """

    def __init__(self, *, size: int | str, after: int = 0xFF) -> None:
        if not 0 <= after <= 0xFF:
            raise ValueError(f"byte after the input's end is out of range: {after}\n\nhint: 0 to 255")
        self._after = after
        self.fuzz_input = _hyperpy.FuzzInput()
        super().__init__(self.fuzz_input.device(parse_size(size), after))

    def clone(self) -> InputDevice:
        """Return another one, for a copy of the machine, which has no input."""
        return InputDevice(size=self.size, after=self._after)

    @staticmethod
    def of(device: type[_D], *registers: str) -> type[_D]:
        """Return a hostile class of a device: what a guest reads in some of its registers is the next bytes of the input.

        All else is as in the device: other registers, writes, timers, its DMA. Where the input has not enough bytes left, and before
        `GuestFuzzer.input_device` is told of a device of it, these registers tell the truth too.

        Arguments:
            device: a class with declared registers.
            registers: names of registers whose reads lie; none: all that guests can read.

        Raises:
            TypeError: not a class of devices.
            DeclarationError: it has no such register, or none.

        Example:
            >>> from hyperpy import Device, Register, fuzz
            >>> class Card(Device):
            ...     status = Register(0x0, access="ro", reset=1)
            ...     length = Register(0x4, access="ro")
            >>> hostile = fuzz.InputDevice.of(Card, "length")()
            >>> hostile.status, isinstance(hostile, Card)
            (1, True)
        """
        given: object = device
        if not (isinstance(given, type) and issubclass(given, Device)):
            raise TypeError(
                f"not a class of devices: {device!r:.60}\n\nhint: InputDevice.of(MyNic, 'length')"
            )
        names = registers or tuple(name for name in dir(device) if _is_readable(getattr(device, name, None)))
        if not names:
            raise DeclarationError(
                f"device has no register that a guest can read: {device.__name__}",
                hint="declare some, or give it a `read` that asks self.fuzz_input",
            )
        body: dict[str, Any] = {
            "__doc__": device.__doc__,
            "__module__": device.__module__,
            "fuzz_input": None,
        }
        for name in names:
            register = getattr(device, name, None)
            if not isinstance(register, Register):
                raise DeclarationError(
                    f"{device.__name__} has no such register: {name:.40}", hint="the name of a Register"
                )
            body[f"_fuzzed_{name}"] = _lie(device, register, f"_fuzzed_{name}")
        made: type[_D] = type(f"Hostile{device.__name__}", (device,), body)
        return made


def _is_readable(declared: object) -> bool:
    return isinstance(declared, Register) and declared.access != "wo"


def _lie(device: type[Device], register: Register, name: str) -> Any:
    """The method that is asked for what a register holds; of an array it is told which. The device's own one tells the truth."""
    hooks: Hooks = device._told
    # Some of an array may have methods of their own.
    places: Any = (None, *(index for declared, index in hooks if declared is register and index is not None))

    def read(self: Any, index: int | None) -> Any:
        given = b"" if self.fuzz_input is None else self.fuzz_input.read(register.width)
        if len(given) == register.width:
            return int.from_bytes(given, "little")
        own = hooks_for(hooks, register, index)[0]
        if own is None:
            return None
        return getattr(self, own.method)(*((index,) if own.takes_index else ()))

    def one(self: Any) -> Any:
        return read(self, None)

    def of_many(self: Any, index: int) -> Any:
        return read(self, index)

    method = one if register.count is None else of_many
    method.__name__ = method.__qualname__ = name
    return register._hook(method, "read", 0, None if register.count is None else places)
