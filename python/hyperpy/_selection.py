"""Some registers of an array in a class body, whose accesses have methods of their own: `@data[0x0C].on_read`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, TypeVar

from hyperpy.errors import DeclarationError

if TYPE_CHECKING:
    from hyperpy._declaration import Hooked

__all__ = ["Key", "Selection", "Where"]

Key: TypeAlias = "int | slice | Iterable[int]"
Where: TypeAlias = "int | tuple[int, ...] | None"
"""Which registers of an array a method is marked for: one, several, or None: all."""

_F = TypeVar("_F", bound=Callable[..., Any])


class Selection:
    """One register of an array, or several, in a class body: marks methods for them alone; the others call no Python.

    One is like a register that is no array: `method(self)` and `method(self, value)`. The methods of several get the number of the
    register first. A method that is marked for a register goes before one that is marked for all of the array.
    """

    def __init__(self, array: Hooked[Any], key: Key) -> None:
        self._array, self._where = array, _where(array, key)

    def on_read(self, method: _F) -> _F:
        """Mark the method that is asked when a guest reads one of them; see `Register.on_read`."""
        return self._array._hook(method, "read", 0, self._where)

    def on_write(self, method: _F) -> _F:
        """Mark the method that is told of writes to one of them; see `Register.on_write`."""
        return self._array._hook(method, "write", 0, self._where)

    def on_write_if(self, mask: int) -> Callable[[_F], _F]:
        """Mark the method that is told of writes which have one of these bits as 1; see `Register.on_write_if`."""
        checked = self._array._checked_mask(mask)
        return lambda method: self._array._hook(method, "write", checked, self._where)


def _where(array: Hooked[Any], key: Key) -> int | tuple[int, ...]:
    count = array.count
    if count is None:
        raise DeclarationError(
            f"not an array of registers: {array.name or '?'}",
            hint="`count=` makes one; else mark the register itself",
        )

    def checked(number: object) -> int:
        if not isinstance(number, SupportsIndex) or not 0 <= operator.index(number) < count:
            raise DeclarationError(
                f"the array has no such register: {number!r}", hint=f"from 0 to {count - 1}"
            )
        return operator.index(number)

    if isinstance(key, slice):
        found = tuple(range(*key.indices(count)))
    elif isinstance(key, Iterable):
        found = tuple(map(checked, key))
    else:
        return checked(key)
    if not found:
        raise DeclarationError(f"no register of the array: {key!r}", hint=f"it has {count}, from 0")
    return found
