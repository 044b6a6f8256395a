"""The device that answers a guest from a fuzzer's input; public as `hyperpy.fuzz.InputDevice`."""

from __future__ import annotations

from hyperpy import _hyperpy
from hyperpy.device import _Stock
from hyperpy.memory import parse_size

__all__ = ["InputDevice"]


class InputDevice(_Stock):
    """A device whose reads are answered from the input of a `GuestFuzzer`, each with as many bytes as it has; writes are dropped.

    It stands in for whatever a driver talks to: a driver that believes all that its device says is fuzzed by it. Until
    `GuestFuzzer.input_device` is told of it there is no input, and each read is past its end.

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
