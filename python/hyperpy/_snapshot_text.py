"""Snapshot files as people and programs read them: what is in one, and in what two differ.

A file comes from anywhere: what it names is shown without control characters, and nothing is expected of its state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hyperpy._hyperpy import SnapshotFile
from hyperpy.stats import table

__all__ = ["difference", "difference_text", "facts", "facts_text", "plain", "shown", "verified"]

_PAGE = 4096
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
# What of a value fits on a line, and from which number on it is one of bits rather than a count.
_LONGEST, _BITS = 60, 0x100
_PATH = 4096
_RANGES, _VALUES = 50, 100


# -- one file --------------------------------------------------------------------------------------------------------


def facts(path: str, file: SnapshotFile) -> dict[str, Any]:
    """What is in a file, as JSON has it."""
    info = file.info()
    return {
        "file": path,
        **info,
        "created": _time(info["created_ns"]),
        "machine": _machine(file.state()),
        "regions": [
            {"name": name, "gpa": gpa, "size": size, "about": plain(about)}
            for name, gpa, size, about in file.regions()
        ],
    }


def facts_text(known: Mapping[str, Any]) -> str:
    """The same for people."""
    pages = "as they are" if known["compress"] is None else f"by {known['compress']}"
    share = [f"{known[kind]:,} {kind}" for kind in ("stored", "identical", "zero")]
    lines = [
        ["format", f"version {known['version']}, schema {known['schema']}, by {shown(known['made_by'])}"],
        ["taken", known["created"]],
        ["machine", _machine_text(known["machine"])],
        ["pages", f"{known['pages']:,}: {', '.join(share)}"],
        [
            "file",
            f"{size_text(known['file_bytes'])}: pages {size_text(known['page_bytes'])} ({pages}), "
            f"the rest {size_text(known['file_bytes'] - known['page_bytes'])}",
        ],
    ]
    rows = [
        [
            shown(r["name"]),
            f"{r['gpa']:#x}",
            f"{r['gpa'] + r['size'] - 1:#x}",
            size_text(r["size"]),
            _about(r["about"]),
        ]
        for r in known["regions"]
    ]
    told = "\n".join(f"{name:<8} {text}" for name, text in lines if text)
    places = table(["region", "first", "last", "size", ""], rows) if rows else "no memory"
    return f"{shown(known['file'], _PATH)}\n{told}\n\n{places}"


def _machine(state: object) -> dict[str, Any]:
    """The machine's shape, as far as the state tells it."""
    state = state if isinstance(state, dict) else {}
    shape = state.get("shape")
    shape = shape if isinstance(shape, dict) else {}
    found: dict[str, Any] = {}
    vcpus, listed = shape.get("vcpus"), state.get("vcpus")
    if isinstance(vcpus, int):
        found["vcpus"] = vcpus
    elif isinstance(listed, list):
        found["vcpus"] = len(listed)
    if isinstance(shape.get("irqchip"), bool):
        found["irqchip"] = shape["irqchip"]
    devices = state.get("devices")
    names = devices.keys() if isinstance(devices, dict) else devices if isinstance(devices, list) else ()
    names = [one.get("name") if isinstance(one, dict) else one for one in names]
    found["devices"] = [name for name in names if isinstance(name, str)]
    return found


def _machine_text(machine: Mapping[str, Any]) -> str:
    parts = []
    if "vcpus" in machine:
        parts.append(f"{machine['vcpus']:,} vcpu{'s' * (machine['vcpus'] != 1)}")
    if "irqchip" in machine:
        parts.append(f"{'with' if machine['irqchip'] else 'without'} interrupt controllers")
    if machine["devices"]:
        parts.append(f"devices: {', '.join(map(shown, machine['devices']))}")
    return "; ".join(parts)


def _about(about: object) -> str:
    if not isinstance(about, dict):
        return ""
    return ", ".join(
        shown(value) if name == "kind" and isinstance(value, str) else f"{shown(name)} {value_text(value)}"
        for name, value in about.items()
        if value is not None
    )


def _time(ns: int) -> str:
    try:
        return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns since 1970"


# -- two files -------------------------------------------------------------------------------------------------------


def difference(old: SnapshotFile, new: SnapshotFile) -> dict[str, Any]:
    """In what two files differ, as JSON has it."""
    pages, only_old, only_new, changes = old.diff(new)
    return {
        "pages": [{"region": region, "gpa": gpa, "pages": count} for region, gpa, count in pages],
        "regions": {
            side: [{"name": name, "gpa": gpa, "size": size} for name, gpa, size in regions]
            for side, regions in (("old", only_old), ("new", only_new))
        },
        "state": [
            {"path": path} | ({"old": plain(before)} if was else {}) | ({"new": plain(after)} if is_ else {})
            for path, was, before, is_, after in changes
        ],
    }


def difference_text(old: SnapshotFile, new: SnapshotFile) -> str:
    """The same for people; "" where there is none."""
    return found_text(*old.diff(new))


def found_text(
    pages: Sequence[tuple[str, int, int]],
    only_old: Sequence[tuple[str, int, int]],
    only_new: Sequence[tuple[str, int, int]],
    changes: Sequence[tuple[str, bool, Any, bool, Any]],
) -> str:
    """The same of what was found."""
    parts = []
    for which, regions in (("first", only_old), ("second", only_new)):
        if regions:
            rows = [
                [shown(n), f"{gpa:#x}", f"{gpa + size - 1:#x}", size_text(size)] for n, gpa, size in regions
            ]
            parts.append(f"only in the {which}:\n" + table(["region", "first", "last", "size"], rows))
    if pages:
        total = sum(count for _, _, count in pages)
        rows = [
            [shown(region), f"{gpa:#x}", f"{gpa + count * _PAGE - 1:#x}", str(count)]
            for region, gpa, count in pages[:_RANGES]
        ]
        parts.append(
            f"memory: {total:,} page{'s' * (total != 1)} differ{'s' * (total == 1)}\n"
            + table(["region", "first", "last", "pages"], rows)
            + _rest(len(pages) - _RANGES, "ranges")
        )
    if changes:
        rows = [
            [shown(path or "(all)", 200), *_pair(was, before, is_, after)]
            for path, was, before, is_, after in changes[:_VALUES]
        ]
        parts.append(
            f"state: {len(changes):,} value{'s' * (len(changes) != 1)} differ{'s' * (len(changes) == 1)}\n"
            + table(["path", "old", "new"], rows)
            + _rest(len(changes) - _VALUES, "values")
        )
    return "\n\n".join(parts)


def _rest(count: int, what: str) -> str:
    return f"\n{count:,} more {what}: --json has all" if count > 0 else ""


def _pair(was: bool, old: object, is_: bool, new: object) -> tuple[str, str]:
    if isinstance(old, bytes) and isinstance(new, bytes) and len(old) == len(new):
        first = next(at for at, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        count = sum(a != b for a, b in zip(old, new, strict=True))
        return (
            f"{_some(old, first)} at {first:#x}",
            f"{_some(new, first)}: {count} of {len(old):,} bytes differ",
        )
    in_hex = any(isinstance(value, int) and abs(value) >= _BITS for value in (old, new))
    return (
        value_text(old, in_hex=in_hex) if was else "not there",
        value_text(new, in_hex=in_hex) if is_ else "not there",
    )


def _some(data: bytes, at: int) -> str:
    return data[at : at + 8].hex(" ") + (" ..." if at + 8 < len(data) else "")


# -- values ----------------------------------------------------------------------------------------------------------


def shown(text: str, longest: int = _LONGEST) -> str:
    """Text of a file for a terminal: without what controls one, and not long."""
    safe = text if text.isprintable() else ascii(text)[1:-1]
    return safe if len(safe) <= longest else f"{safe[: longest - 3]}..."


def value_text(value: object, *, in_hex: bool = False) -> str:
    """A value on a line."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return hex(value) if in_hex or abs(value) >= _BITS else str(value)
        case float():
            return repr(value)
        case str():
            return shown(value) if value and value.isprintable() else ascii(value)
        case bytes():
            return f"{_some(value, 0)} ({len(value):,} bytes)" if value else "no bytes"
        case list() | dict():
            kind = "list" if isinstance(value, list) else "map"
            return _brief(value, _LONGEST) or f"a {kind} of {len(value):,}"
    return ascii(value)


def _brief(value: object, longest: int) -> str | None:
    """A value with all that is in it, if that is not long: a file may nest anything."""
    if not isinstance(value, list | dict):
        text = value_text(value)
        return text if len(text) <= longest else None
    if len(value) > longest:
        return None
    names = [shown(name) + ": " for name in value] if isinstance(value, dict) else [""] * len(value)
    text = ""
    for name, one in zip(names, value.values() if isinstance(value, dict) else value, strict=True):
        part = _brief(one, longest - len(text) - len(name))
        if part is None:
            return None
        text += (", " if text else "") + name + part
        if len(text) > longest:
            return None
    return f"[{text}]" if isinstance(value, list) else f"{{{text}}}"


def size_text(size: int) -> str:
    """Bytes as people say it: "512 MiB", "3.2 KiB"."""
    unit = min((size.bit_length() - 1) // 10, len(_UNITS) - 1) if size else 0
    amount = size / (1 << 10 * unit)
    return f"{size if unit == 0 else f'{amount:.1f}'.removesuffix('.0')} {_UNITS[unit]}"


def plain(value: object) -> Any:
    """A value as JSON has it: bytes as `{"$bytes": "00ff"}`, numbers that are none as text."""
    match value:
        case bytes():
            return {"$bytes": value.hex()}
        case float() if not math.isfinite(value):
            return repr(value)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {name: plain(one) for name, one in value.items()}
    return value


def verified(path: str, info: Mapping[str, Any]) -> str:
    """What is said of a file that is whole."""
    stored, state = info["stored"], size_text(info["state_bytes"])
    return f"{shown(path, _PATH)}: whole: {stored:,} stored page{'s' * (stored != 1)} and {state} of state"
