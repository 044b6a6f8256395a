"""What of a device goes into the ACPI tables: the ids that its class declares, and where it is attached.

Ids are checked when a class is made (ACPI specification 6.5: 6.1.5 `_HID`, 6.1.2 `_CID`, 6.1.12 `_UID`). The core checks them
again, since any object can be attached, and writes the tables (`boot/dsdt.rs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hyperpy._connect import gsis_of
from hyperpy.errors import DeclarationError

__all__ = ["Listed", "check", "compatible", "listed"]

# An EISA id, or an ACPI id.
_HARDWARE_ID = re.compile(r"([A-Z]{3}|[A-Z0-9]{4})[0-9A-F]{4}")
_UNIQUE_TEXT = re.compile(r"[ -~]{1,63}")
_MOST_CIDS = 16


class Listed(NamedTuple):
    """A device as the tables describe it."""

    hid: str
    cids: list[str]
    uid: int | str | None
    mmio: list[tuple[int, int]]
    pio: list[tuple[int, int]]
    irqs: list[tuple[int, bool]]


def check(cls: type) -> None:
    """Check the ids that a class body gives; what is computed for each instance, the core checks alone.

    Raises:
        DeclarationError: an id has a form that ACPI does not know.
    """
    hid, cid, uid = (cls.__dict__.get(name) for name in ("acpi_hid", "acpi_cid", "acpi_uid"))
    if not (hid is None or hasattr(hid, "__get__")):
        _check_id(cls, "acpi_hid", hid)
    if not (cid is None or hasattr(cid, "__get__")):
        ids = compatible(cid)
        for one in ids:
            _check_id(cls, "acpi_cid", one)
        if len(ids) > _MOST_CIDS:
            raise DeclarationError(f"{cls.__name__}: too many ids: acpi_cid", hint=f"at most {_MOST_CIDS}")
    if not (uid is None or hasattr(uid, "__get__")):
        fits = (
            _UNIQUE_TEXT.fullmatch(uid)
            if isinstance(uid, str)
            else isinstance(uid, int) and 0 <= uid < 1 << 64
        )
        if not fits:
            raise DeclarationError(
                f"{cls.__name__}: not an ACPI unique id: acpi_uid = {uid!r}",
                hint="a number from 0, or 1 to 63 printable ASCII characters; left out, devices of one hid are numbered",
            )


def _check_id(cls: type, name: str, value: object) -> None:
    if not isinstance(value, str) or not _HARDWARE_ID.fullmatch(value):
        raise DeclarationError(
            f"{cls.__name__}: not an ACPI hardware id: {name} = {value!r}",
            hint='three or four capitals of a vendor and four hex digits in capitals: "PNP0501", "QEMU0002"',
        )


def compatible(cids: Any) -> list[Any]:
    """Return `acpi_cid` as a list."""
    if cids is None or isinstance(cids, str) or not isinstance(cids, Iterable):
        return [] if cids is None else [cids]
    return list(cids)


def listed(attached: Mapping[tuple[bool, int], tuple[object, dict[str, Any]]]) -> list[Listed]:
    """Return the devices that have a hardware id, each once with all of its places."""
    found: dict[int, Listed] = {}
    for (is_pio, _), (device, facts) in list(attached.items()):  # others attach and detach meanwhile
        hid = getattr(device, "acpi_hid", None)
        if hid is None or not facts["enabled"]:
            continue
        if id(device) not in found:
            cids, uid = compatible(getattr(device, "acpi_cid", None)), getattr(device, "acpi_uid", None)
            found[id(device)] = Listed(hid, cids, uid, [], [], [])
        mine = found[id(device)]
        (mine.pio if is_pio else mine.mmio).append((facts["base"], facts["size"]))
        # One line, though at several places.
        mine.irqs.extend(line for line in gsis_of(device, facts["irq"]) if line not in mine.irqs)
    return list(found.values())
