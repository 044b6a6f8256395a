"""How a register's method gets to know of writes, as a class body says it: `posted`, `stream`, `doorbell` and `match`.

What each means is in `Register` and in docs/guides/interrupts-and-fast-writes.md; the core does it (regfile/delivery.rs).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperpy.errors import DeclarationError

if TYPE_CHECKING:
    from hyperpy._declaration import Field, Register
    from hyperpy.declare import Fifo

__all__ = ["Delivery", "delivery_of"]

Delivery: TypeAlias = tuple[str, tuple[int, ...]]
NOW: Delivery = ("now", ())
# Each takes a descriptor of the process.
_MOST_BELLS = 256


def delivery_of(
    register: Register | Fifo,
    *,
    posted: bool = False,
    stream: bool,
    doorbell: bool = False,
    match: int | Iterable[int] | None = None,
) -> Delivery:
    """Check what a register, or a queue, asks for; the name of it, and the values that ring a doorbell.

    Raises:
        DeclarationError: it cannot be.
    """
    asked = [
        name
        for name, is_asked in (("posted", posted), ("stream", stream), ("doorbell", doorbell))
        if is_asked
    ]
    if len(asked) > 1:
        raise DeclarationError(
            f"writes are told of in several ways: {', '.join(asked)}",
            hint=f"give one of them: {asked[0]}=True",
        )
    if match is not None and not doorbell:
        raise DeclarationError(f"match without a doorbell: {match!r}", hint="give doorbell=True too")
    if not asked:
        return NOW
    (name,) = asked
    if name == "posted":
        return name, ()
    fields: dict[str, Field] = getattr(register, "fields", {})
    kinds = {register.access, *(field.access or register.access for field in fields.values())}
    if kinds != {"wo"}:
        raise DeclarationError(
            f"register with {name}=True is not write-only: {', '.join(sorted(kinds))}",
            hint='give access="wo"; one that guests read too can be posted=True',
        )
    values = _values(register, match)
    if name == "doorbell" and (register.count or 1) * max(1, len(values)) > _MOST_BELLS:
        raise DeclarationError(
            f"too many doorbells: {register.count or 1} registers, {len(values)} values",
            hint=f"up to {_MOST_BELLS} of a declaration",
        )
    return name, values


def _values(register: Register | Fifo, match: Any) -> tuple[int, ...]:
    if match is None:
        return ()
    try:
        given = itertools.islice(match, _MOST_BELLS + 1) if isinstance(match, Iterable) else (match,)
        values = tuple(map(operator.index, given))
    except TypeError:
        raise DeclarationError(
            f"not a value to match: {match!r}", hint="a number, or several: match=range(8)"
        ) from None
    if not values or len(set(values)) != len(values):
        raise DeclarationError(f"values to match are none, or not apart: {match!r}", hint="each of them once")
    for value in values:
        if not 0 <= value < 1 << 8 * register.width:
            raise DeclarationError(
                f"value to match is wider than the register: {value:#x}",
                hint=f"it has {register.width} bytes",
            )
    return values
