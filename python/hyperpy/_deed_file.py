"""What devices did as JSON, and the checks that all fields of a recording's file go through; see `hyperpy._recording_file`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from hyperpy._deed import Deed, DeedKind
from hyperpy._recording import RecordingError

if TYPE_CHECKING:
    from hyperpy._recording import Recording

__all__ = ["DAMAGED", "U64", "deed_of", "fields_of", "hex_of", "level_of", "number_of", "only", "text_of"]

U64 = 1 << 64
# What to do about a line that cannot be.
DAMAGED = "it is damaged: record again, or find a copy"
_HEX = re.compile("0x[0-9a-f]{1,16}")
_BYTES = re.compile("(?:[0-9a-f]{2})*")
_LEVELS = {"low": False, "high": True}
# As many as a device can ask for at once.
_MOST_RANGES = 1 << 16


def fields_of(deed: Deed) -> dict[str, Any]:
    """What stands for a deed."""
    match deed.kind:
        case "line":
            return {"line": deed.name, "to": "high" if deed.value else "low"}
        case "message":
            sent = {"message": deed.name, "address": hex(deed.address), "data": hex(deed.value)}
            return sent if deed.is_taken else sent | {"taken": False}
    moved = {deed.kind: [[hex(gpa), size] for gpa, size in deed.ranges], "bytes": deed.data.hex()}
    if deed.refused is None:
        return moved
    why, address, size = deed.refused
    return moved | {"refused": why, "at": [hex(address), size]}


def deed_of(fields: Any, recording: Recording) -> Deed:
    """The deed that JSON stands for, if a recording can have it."""
    kinds = (
        [kind for kind in ("line", "message", "read", "write") if kind in fields] if _is_dict(fields) else []
    )
    if len(kinds) != 1:
        raise RecordingError(f"not one thing that a device does: {fields!r:.60}", hint=DAMAGED)
    kind = cast("DeedKind", kinds[0])
    match kind:
        case "line":
            only(fields, "line", "to")
            return Deed(kind, _name(fields, kind, recording.lines), int(level_of(fields.get("to"))))
        case "message":
            only(fields, "message", "address", "data", "taken")
            name, taken = _name(fields, kind, recording.messages or {}), fields.get("taken", True)
            if not isinstance(taken, bool):
                raise RecordingError(f"taken is true or false, not {taken!r:.60}", hint=DAMAGED)
            return Deed(kind, name, hex_of(fields, "data", U64), hex_of(fields, "address", U64), taken)
    return _moved(kind, fields, recording)


def _moved(kind: DeedKind, fields: dict[str, Any], recording: Recording) -> Deed:
    only(fields, kind, "bytes", "refused", "at")
    listed, held, refused = fields[kind], fields.get("bytes"), text_of(fields, "refused")
    if not recording.memory:
        raise RecordingError("guest memory in a recording that has none", hint=DAMAGED)
    if not isinstance(listed, list) or len(listed) > _MOST_RANGES:
        raise RecordingError(f"not ranges of memory: {listed!r:.60}", hint=DAMAGED)
    if not isinstance(held, str) or not _BYTES.fullmatch(held):
        raise RecordingError(f"not bytes: {held!r:.60}", hint=DAMAGED)
    ranges, data = tuple(map(_range, listed)), bytes.fromhex(held)
    room = sum(size for _, size in ranges)
    if refused is None and (len(data) > room or (kind == "read" and len(data) != room)):
        raise RecordingError(f"{kind} of {room} bytes has {len(data)}", hint=DAMAGED)
    if (refused is None) != ("at" not in fields):
        raise RecordingError("what is refused is so somewhere", hint=DAMAGED)
    why = None if refused is None else (refused, *_range(fields["at"]))
    return Deed(kind, ranges=ranges, data=data, refused=why)


def _range(pair: Any) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise RecordingError(f"not a range of memory: {pair!r:.60}", hint=DAMAGED)
    found = dict(zip(("address", "length"), pair, strict=True))
    return hex_of(found, "address", U64), number_of(found, "length", U64)


def _name(fields: dict[str, Any], kind: str, known: Any) -> str:
    name = fields[kind]
    if not isinstance(name, str) or name not in known:
        raise RecordingError(f"device has no such {kind}: {name!r:.60}", hint=DAMAGED)
    return name


def _is_dict(fields: Any) -> bool:
    return isinstance(fields, dict)


def only(line: dict[str, Any], *names: str) -> None:
    """Refuse fields of other names."""
    odd = sorted(line.keys() - set(names))
    if odd:
        raise RecordingError(f"what is that: {odd[0]!r:.60}", hint=DAMAGED)


def number_of(line: dict[str, Any], name: str, limit: int, least: int = 0) -> int:
    """A number from `least` to below `limit`."""
    value = line.get(name)
    if type(value) is not int or not least <= value < limit:
        raise RecordingError(f"{name} is out of range: {value!r:.60}", hint=DAMAGED)
    return value


def hex_of(line: dict[str, Any], name: str, limit: int) -> int:
    """A number below `limit` that is written in hex."""
    text = line.get(name)
    if not isinstance(text, str) or not _HEX.fullmatch(text) or int(text, 16) >= limit:
        raise RecordingError(f"{name} is out of range: {text!r:.60}", hint=DAMAGED)
    return int(text, 16)


def text_of(line: dict[str, Any], name: str) -> str | None:
    """A text, if there is one."""
    text = line.get(name)
    if not isinstance(text, str | None):
        raise RecordingError(f"{name} is no text: {text!r:.60}", hint=DAMAGED)
    return text


def level_of(level: Any) -> bool:
    """Where a line is."""
    if not isinstance(level, str) or level not in _LEVELS:
        raise RecordingError(f"a line is high or low, not {level!r:.60}", hint=DAMAGED)
    return _LEVELS[level]
