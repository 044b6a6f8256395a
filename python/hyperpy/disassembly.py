"""Machine code as text, for people who look at a guest that stopped.

The work is done by iced-x86 in the native module; syntax is Intel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hyperpy import _hyperpy

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Instruction", "disassemble"]


class Instruction(NamedTuple):
    """One instruction: its linear address, its bytes, and its text; "(bad)" is a byte that begins none."""

    address: int
    bytes: bytes
    text: str

    def __str__(self) -> str:
        return f"{self.address:#x}  {self.bytes.hex(' '):<30} {self.text}"


def disassemble(code: Buffer, *, address: int = 0, bits: int = 64) -> list[Instruction]:
    """Take machine code apart.

    Arguments:
        code: bytes, of which every one is in the result. An instruction whose end is missing is "(cut off)".
        address: where the first one would be executed.
        bits: 16, 32 or 64: the width of the code segment.

    Raises:
        ValueError: `bits` or `address` is out of range.

    Example:
        >>> for instruction in disassemble(bytes.fromhex("b8 0d f0 ad ab 0f 0b"), address=0x1000, bits=32):
        ...     print(instruction)
        0x1000  b8 0d f0 ad ab                 mov eax, 0xabadf00d
        0x1005  0f 0b                          ud2
    """
    if bits not in (16, 32, 64):
        raise ValueError(f"code is of 16, 32 or 64 bits: {bits}\n\nhint: bits=64 for long mode")
    if not 0 <= address < 1 << 64:
        raise ValueError(f"address does not fit into 64 bits: {address:#x}\n\nhint: from 0 to 2**64 - 1")
    copy = bytes(memoryview(code))  # guest memory may change while it is looked at
    made, at = [], 0
    for where, length, text in _hyperpy.disassemble(copy, address, bits):
        made.append(Instruction(where, copy[at : at + length], text))
        at += length
    return made
