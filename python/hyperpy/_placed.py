"""Where the devices of a machine are, as one would attach them: for a copy of the machine (`_copying`) and for its spec (`_spec_of`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Placed", "placed"]


class Placed(NamedTuple):
    """One attaching of a device: a device without windows has one for each of its places, one with windows has one for all."""

    device: object
    facts: dict[str, Any]
    #: By bus: the address, or the addresses of the windows by their names.
    where: dict[str, Any]
    #: The windows that are disabled; None is that of a device without windows.
    disabled: list[str | None]


def placed(attached: Iterable[tuple[tuple[bool, int], tuple[object, dict[str, Any]]]]) -> list[Placed]:
    """Put together what of `Machine._attached` was attached together."""
    found: list[Placed] = []
    by_device: dict[int, Placed] = {}
    for (is_pio, _), (device, facts) in attached:
        bus, window, base = "pio" if is_pio else "mmio", facts["window"], facts["base"]
        off = [] if facts["enabled"] else [window]
        if window is None:
            found.append(Placed(device, facts, {bus: base}, off))
            continue
        if id(device) not in by_device:
            by_device[id(device)] = Placed(device, facts, {}, [])
            found.append(by_device[id(device)])
        by_device[id(device)].where.setdefault(bus, {})[window] = base
        by_device[id(device)].disabled.extend(off)
    return found
