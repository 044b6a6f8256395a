"""What the device fuzzer knows of a device from its class: targets, events of the host, words, and files with its code.

The core reads inputs by it (`fuzz/shape.rs`). What drivers do is in `hyperpy._legal`, as for `hyperpy.testing.sequences`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar, overload

from hyperpy._declaration import Register
from hyperpy._legal import Need, Reach, Target, as_written, writable
from hyperpy.declare import Indexed, Ram
from hyperpy.errors import DeclarationError

__all__ = ["Event", "constants_of", "dictionary_of", "event", "events_of", "files_of", "targets_of"]

_F = TypeVar("_F", bound=Callable[..., Any])
# Most bytes of an event's data: what the core keeps of one.
_MOST_DATA = 4096
_DATA = 256
# An array with more registers is fuzzed at its first ones, by what is declared; the others are reached as any offset is.
_MOST_TARGETS = 1 << 14
# Constants of code that are taken as words.
_MOST_WORDS = 1 << 10
_LONGEST_WORD = 64


class Event(NamedTuple):
    """Something that the host does to a device: a method, and the most bytes that it takes, 0 for none."""

    name: str
    most: int


@overload
def event(method: _F, /) -> _F: ...
@overload
def event(*, max_bytes: int = _DATA) -> Callable[[_F], _F]: ...
def event(method: Any = None, /, *, max_bytes: int = _DATA) -> Any:
    """Mark a method of a device as something that the host does to it: the fuzzer calls it among a guest's accesses.

    A packet that arrives, a key that is pressed, a disk that is taken out. The method takes `self`, and `data`, bytes that the input
    chooses, if it has such an argument. What it raises is a finding.

    Arguments:
        method: what is marked.
        max_bytes: most bytes of `data`, 1 to 4096.

    Example:
        >>> from hyperpy import Device, Register, fuzz
        >>> class Nic(Device):
        ...     received = Register(0x0, access="ro")
        ...
        ...     @fuzz.event(max_bytes=1514)
        ...     def receive(self, data: bytes) -> None:
        ...         self.received += len(data)
        ...
        ...     @fuzz.event
        ...     def unplug(self) -> None:
        ...         self.received = 0
    """
    if method is None:
        if not 1 <= max_bytes <= _MOST_DATA:
            raise DeclarationError(
                f"event takes no such number of bytes: {max_bytes}", hint=f"1 to {_MOST_DATA}"
            )
        return lambda marked: _mark(marked, max_bytes)
    return _mark(method, max_bytes)


def _mark(method: Any, max_bytes: int) -> Any:
    if not isinstance(method, FunctionType):
        raise DeclarationError(
            f"not a method: {method!r}", hint="@hyperpy.fuzz.event above a `def` of a device"
        )
    given = len(inspect.signature(method).parameters) - 1
    if given not in (0, 1):
        raise DeclarationError(
            f"event takes other arguments than self and data: {method.__qualname__}",
            hint="def name(self, data)",
        )
    method.__dict__["_fuzz_event"] = max_bytes if given else 0
    return method


def events_of(cls: type) -> list[Event]:
    """Return the methods of a class that are marked as events, by name."""
    found = []
    for name in sorted({name for base in cls.__mro__ for name in vars(base)}):
        most = getattr(inspect.getattr_static(cls, name), "__dict__", {}).get("_fuzz_event")
        if most is not None:
            found.append(Event(name, most))
    return found


def targets_of(cls: type, size: int) -> list[dict[str, Any]]:
    """Return what a class declares as the core takes it; nothing of a class that declares nothing."""
    return [_described(target) for target in Reach(cls, size).targets[:_MOST_TARGETS]]


def _described(target: Target) -> dict[str, Any]:
    declared = target.declared
    register = declared.behind if isinstance(declared, Indexed) else declared
    bits = (1 << 8 * min(target.length, 8)) - 1
    reset, fields, enums = 0, list[int](), list[tuple[int, list[int]]]()
    if isinstance(register, Register):
        bits, reset = as_written(declared, writable(register)), as_written(declared, register.reset)
        # The bytes of a big-endian field need not lie together.
        if register.order == "little" or register.width == 1:
            fields = [field.mask for field in register.fields.values()]
            enums = [
                (field.mask, sorted(int(member) << field.low & field.mask for member in field.enum))
                for field in register.fields.values()
                if field.enum
            ]
    return {
        "offset": target.offset,
        "length": target.length,
        "is_window": isinstance(declared, Ram),
        "reads": target.reads,
        "writes": target.writes,
        "bits": bits,
        "reset": reset,
        "fields": fields,
        "enums": enums,
        "needs": [_need(need) for need in target.needs],
    }


def _need(need: Need) -> tuple[int, int, int, int]:
    declared = need.place.declared
    mask, value = as_written(declared, need.mask), as_written(declared, need.value)
    return need.place.offset or 0, declared.width, mask, value


def _codes(cls: type) -> Iterator[CodeType]:
    """The code of a class and of its bases, but for hyperpy's own."""
    for base in cls.__mro__:
        if base is object or base.__module__.partition(".")[0] == "hyperpy":
            continue
        for value in vars(base).values():
            for function in (value, *(getattr(value, name, None) for name in ("fget", "fset", "__func__"))):
                if isinstance(function, FunctionType):
                    yield inspect.unwrap(function).__code__


def files_of(cls: type) -> set[str]:
    """Return the files in which the code of a class is."""
    return {code.co_filename for code in _codes(cls)}


def constants_of(cls: type) -> tuple[list[bytes], list[int]]:
    """Return the texts and numbers that stand in the code of a class: what it compares with is among them."""
    texts, numbers = set[bytes](), set[int]()
    for outer in _codes(cls):
        waiting: list[Any] = [outer]
        while waiting and len(texts) + len(numbers) < _MOST_WORDS:
            match waiting.pop():
                case CodeType() as code:
                    # The first one is what the function says of itself.
                    waiting += code.co_consts
                case tuple() | frozenset() as several:
                    waiting += several
                case bytes() as text if 0 < len(text) <= _LONGEST_WORD:
                    texts.add(text)
                case bool():
                    pass
                case int() as number if 1 < number < 1 << 64:
                    numbers.add(number)
                case _:
                    pass
    return sorted(texts), sorted(numbers)


def dictionary_of(words: Iterable[bytes | str | int]) -> tuple[list[bytes], list[int]]:
    """Return the texts and the numbers of a dictionary."""
    texts, numbers = [], []
    for word in words:
        if isinstance(word, int):
            numbers.append(word % (1 << 64))
        else:
            texts.append(word.encode() if isinstance(word, str) else bytes(word))
    return texts, numbers
