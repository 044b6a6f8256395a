"""What the targets share: choices that bytes make, things with one thing of them changed, and the word for a refusal."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from hyperpy.errors import HyperpyError

__all__ = ["Input", "edited", "unsaid", "word"]


class Input:
    """Choices that bytes make; without any left the first one."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 up to this."""
        taken = self.bytes((max(limit - 1, 1).bit_length() + 7) // 8)
        return int.from_bytes(taken, "little") % limit

    def bytes(self, count: int) -> bytes:
        """So many bytes, or those that are left."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self) -> str:
        """Words, most of them short."""
        return self.bytes(self.below(12)).decode("utf-8", "replace")

    def one(self, *choices: Any) -> Any:
        """One of these."""
        return choices[self.below(len(choices))]

    def number(self) -> int:
        """A number, near a power of two as often as not."""
        if self.below(2):
            return self.below(256)
        return int(self.one(0, 1 << 12, 1 << 16, 1 << 32, 1 << 63, 1 << 64)) + self.below(5) - 2


def word(error: HyperpyError | ValueError) -> str:
    """What a refusal says, without place and values."""
    text = re.sub(r"^\w+, line \d+: ", "", str(error).partition("\n")[0])
    return " ".join(re.findall(r"\b[a-z]{2,}\b", text)[:4])


def unsaid(error: Exception) -> NoReturn:
    """A refusal has no place, or no hint."""
    raise AssertionError("a refusal that does not say all it should") from error


# Keys of what is edited, so that one stands where another should.
_KEYS = (
    "irq",
    "later",
    "vcpu",
    "did",
    "line",
    "$bytes",
    "args",
    "mmio",
    "file",
    "kind",
    "at",
    "of",
    "cpus",
    "trace",
)


def edited(value: Any, take: Input) -> Any:
    """The same with one thing of it another one, taken away, or twice."""
    if isinstance(value, dict) and value and take.below(6):
        key = take.one(*value)
        match take.below(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return value | {take.one(*_KEYS, take.text()): value[key]}
        return value | {key: edited(value[key], take)}
    if isinstance(value, list) and value and take.below(4):
        at = take.below(len(value))
        return [*value[:at], edited(value[at], take), *value[at + take.below(2) :]]
    scalars: tuple[Any, ...] = (
        take.number(),
        hex(take.number()),
        take.text(),
        None,
        True,
        False,
        -1,
        1.5,
        [],
        {},
        "high",
        "0x",
    )
    return take.one(
        *scalars, {"$tuple": [1, {"$bytes": "00"}]}, [hex(take.number()), take.number()], {"$dict": [[1, 2]]}
    )
