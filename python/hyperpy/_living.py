"""A set of objects as long as they live, that can be gone through while others come and go."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Living"]

_T = TypeVar("_T")


class Living(Generic[_T]):
    """Those that were added, are alive and were not taken out.

    Going through a `WeakSet` raises where it changes meanwhile: and a finalizer that takes something out may run at any line.
    """

    def __init__(self) -> None:
        self._by_id: weakref.WeakValueDictionary[int, _T] = weakref.WeakValueDictionary()

    def add(self, it: _T) -> None:
        """Put one in."""
        self._by_id[id(it)] = it

    def discard(self, it: _T) -> None:
        """Take one out, if it is there."""
        self._by_id.pop(id(it), None)

    def __iter__(self) -> Iterator[_T]:
        """Those that are there now: of references the dictionary makes a copy at once."""
        found = [reference() for reference in self._by_id.valuerefs()]
        return iter([it for it in found if it is not None])
