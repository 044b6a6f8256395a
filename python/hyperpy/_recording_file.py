"""Recordings as text: a JSON object per line, first what it is of and the state at its beginning, then the events, then their number.

A file comes from anywhere: whatever it holds, reading it gives a recording or a RecordingError that names the line. What it
allocates is in proportion to the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from hyperpy._recording import Event, Recording, RecordingError

__all__ = ["lines", "read"]

_VERSION = 1
_MAGIC = "hyperpy recording"
_U32, _U64 = 1 << 32, 1 << 64
_WIDEST = 8
# What to do about a line that cannot be.
_DAMAGED = "it is damaged: record again, or find a copy"
_HEX = re.compile("0x[0-9a-f]{1,16}")
_LEVELS = {"low": False, "high": True}


def lines(recording: Recording) -> Iterator[str]:
    """What a file of it has."""
    head = {
        _MAGIC: _VERSION,
        "device": recording.device,
        "size": hex(recording.size),
        "schema": recording.schema,
        "begin": recording.begin,
        "line": None if recording.level is None else "high" if recording.level else "low",
        "state": _plain(recording.state, recording.device),
    }
    events = recording.events
    yield json.dumps(head)
    for event in events:
        yield json.dumps(_fields(event))
    yield json.dumps({"end": len(events), "dropped": recording.dropped})


def _fields(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {"ns": event.time}
    match event.kind:
        case "read" | "write":
            fields |= {event.kind: hex(event.offset), "size": event.size, "value": hex(event.value)}
        case "timer":
            fields["timer"] = event.value
        case "line":
            fields["line"] = "high" if event.value else "low"
        case _:
            fields["reset"] = True
    fields |= {"vcpu": event.vcpu} if event.vcpu else {}
    fields |= {"irq": ["high" if level else "low" for level in event.irq]} if event.irq else {}
    return fields | {
        name: text for name, text in (("stop", event.stop), ("raised", event.raised)) if text is not None
    }


def _plain(value: Any, device: str) -> Any:
    """A saved state as JSON has it: bytes, tuples and other keys than text are told by a key that begins with `$`."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray():
            return {"$bytes": bytes(value).hex()}
        case list():
            return [_plain(item, device) for item in value]
        case tuple():
            return {"$tuple": [_plain(item, device) for item in value]}
        case dict() if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _plain(item, device) for key, item in value.items()}
        case dict():
            return {"$dict": [[_plain(key, device), _plain(item, device)] for key, item in value.items()]}
    raise RecordingError(
        f"state of {device} has a value that cannot be written: {value!r:.60}",
        hint="`save` returns numbers, text, bytes, lists, tuples and dicts of them",
    )


# -- reading -------------------------------------------------------------------------------------------------------------


def read(file: BinaryIO, name: str) -> Recording:
    """Read a recording from an open file of this name."""
    number = 1
    try:
        recording = _head(_object(file.readline()))
        events: list[Event] = []
        while True:
            number += 1
            line = _object(file.readline())
            if "end" in line:
                break
            events.append(_event(line, recording, events))
        _only(line, "end", "dropped")
        if _number(line, "end", _U64) != len(events):
            raise RecordingError(f"not as many events as it says: {len(events)}", hint=_DAMAGED)
        recording._events, recording._dropped = tuple(events), _number(line, "dropped", _U64)
        number += 1
        if file.read(1):
            raise RecordingError("something comes after the end", hint=_DAMAGED)
    except RecordingError as wrong:
        raise RecordingError(wrong.message, file=name, line=number, hint=wrong.hint) from None
    return recording


def _object(line: bytes) -> dict[str, Any]:
    if not line:
        raise RecordingError("the file ends too early", hint=_DAMAGED)
    try:
        found = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RecordingError("not a line of a recording", hint=_DAMAGED)
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _only(line: dict[str, Any], *names: str) -> None:
    odd = sorted(line.keys() - set(names))
    if odd:
        raise RecordingError(f"what is that: {odd[0]!r:.60}", hint=_DAMAGED)


def _number(line: dict[str, Any], name: str, limit: int, least: int = 0) -> int:
    value = line.get(name)
    if type(value) is not int or not least <= value < limit:
        raise RecordingError(f"{name} is out of range: {value!r:.60}", hint=_DAMAGED)
    return value


def _hex(line: dict[str, Any], name: str, limit: int) -> int:
    text = line.get(name)
    if not isinstance(text, str) or not _HEX.fullmatch(text) or int(text, 16) >= limit:
        raise RecordingError(f"{name} is out of range: {text!r:.60}", hint=_DAMAGED)
    return int(text, 16)


def _text(line: dict[str, Any], name: str) -> str | None:
    text = line.get(name)
    if not isinstance(text, str | None):
        raise RecordingError(f"{name} is no text: {text!r:.60}", hint=_DAMAGED)
    return text


def _level(level: Any) -> bool:
    if not isinstance(level, str) or level not in _LEVELS:
        raise RecordingError(f"a line is high or low, not {level!r:.60}", hint=_DAMAGED)
    return _LEVELS[level]


def _head(line: dict[str, Any]) -> Recording:
    if _MAGIC not in line:
        raise RecordingError("not a recording", hint="give a file that `Recording.save` has written")
    if line[_MAGIC] != _VERSION or type(line[_MAGIC]) is not int:
        hint = f"this hyperpy reads version {_VERSION}"
        raise RecordingError(f"recording is of another version: {line[_MAGIC]!r:.60}", hint=hint)
    _only(line, _MAGIC, "device", "size", "schema", "begin", "line", "state")
    try:
        state = _rich(line.get("state"))
    except (TypeError, ValueError, RecursionError):
        raise RecordingError("state is not what `save` can have given", hint=_DAMAGED) from None
    return Recording(
        device=_text(line, "device") or "",
        size=_hex(line, "size", _U64),
        schema=None if line.get("schema") is None else _number(line, "schema", _U64, -_U64),
        begin=_number(line, "begin", _U64),
        level=None if line.get("line") is None else _level(line["line"]),
        state=state,
    )


def _event(line: dict[str, Any], recording: Recording, before: list[Event]) -> Event:
    kinds = [kind for kind in ("read", "write", "timer", "line", "reset") if kind in line]
    if len(kinds) != 1:
        raise RecordingError("not one event", hint=_DAMAGED)
    (kind,) = kinds
    _only(
        line,
        "ns",
        kind,
        *(("size", "value", "vcpu") if kind in {"read", "write"} else ()),
        "irq",
        "stop",
        "raised",
    )
    time = _number(line, "ns", _U64)
    if kind != "reset" and time < (before[-1].time if before else recording.begin):
        raise RecordingError(f"time goes back: {time} ns", hint=_DAMAGED)
    irq = line.get("irq", [])
    if not isinstance(irq, list):
        raise RecordingError(f"irq is no list: {irq!r:.60}", hint=_DAMAGED)
    common: dict[str, Any] = {
        "irq": tuple(map(_level, irq)),
        "stop": _text(line, "stop"),
        "raised": _text(line, "raised"),
    }
    match kind:
        case "read" | "write":
            offset, size = _hex(line, kind, _U64), _number(line, "size", _WIDEST + 1, 1)
            if offset + size > recording.size:
                raise RecordingError(f"access leaves the device: {offset:#x}, {size} bytes", hint=_DAMAGED)
            vcpu = _number(line, "vcpu", _U32) if "vcpu" in line else 0
            return Event(time, kind, offset, size, _hex(line, "value", 1 << 8 * size), vcpu, **common)
        case "timer":
            return Event(time, kind, value=_number(line, kind, _U64), **common)
        case "line":
            return Event(time, kind, value=int(_level(line[kind])), **common)
    if line[kind] is not True or time != 0:
        raise RecordingError("a reset is at 0 ns", hint=_DAMAGED)
    return Event(time, "reset", **common)


def _rich(value: Any) -> Any:
    """The other way of `_plain`."""
    if isinstance(value, list):
        return [_rich(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "") if len(value) == 1 else ""
    match tag:
        case "$bytes":
            return bytes.fromhex(value[tag])
        case "$tuple":
            return tuple(_rich(list(value[tag])))
        case "$dict":
            return {_rich(key): _rich(item) for key, item in value[tag]}
    if any(key.startswith("$") for key in value):
        raise ValueError
    return {key: _rich(item) for key, item in value.items()}
