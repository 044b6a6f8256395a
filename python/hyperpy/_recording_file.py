"""Recordings as text: a JSON object per line, first what it is of and the state at its beginning, then the events, then their number.

A file comes from anywhere: whatever it holds, reading it gives a recording or a RecordingError that names the line. What it
allocates is in proportion to the file. One of version 1 knows of the line `irq` alone; what devices do is in `_deed_file`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from hyperpy._deed import Deed
from hyperpy._deed_file import DAMAGED, U64, deed_of, fields_of, hex_of, level_of, number_of, only, text_of
from hyperpy._recording import Event, Recording, RecordingError

__all__ = ["lines", "read"]

_VERSION = 2
_MAGIC = "hyperpy recording"
_U32 = 1 << 32
_WIDEST = 8


def lines(recording: Recording) -> Iterator[str]:
    """What a file of it has."""
    head = {
        _MAGIC: _VERSION,
        "device": recording.device,
        "size": hex(recording.size),
        "schema": recording.schema,
        "begin": recording.begin,
        "lines": {name: "high" if level else "low" for name, level in recording.lines.items()},
        "messages": None
        if recording.messages is None
        else {name: sent and list(map(hex, sent)) for name, sent in recording.messages.items()},
        "memory": recording.memory,
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
        case "read" | "write" | "told":
            fields |= {event.kind: hex(event.offset), "size": event.size, "value": hex(event.value)}
        case "timer":
            fields["timer"] = event.value
        case "reset":
            fields["reset"] = True
    fields |= {"vcpu": event.vcpu} if event.vcpu else {}
    fields |= {"later": True} if event.later else {}
    fields |= {"did": [fields_of(deed) for deed in event.did]} if event.did else {}
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
        head = _object(file.readline())
        recording, is_old = _head(head), head.get(_MAGIC) == 1
        events: list[Event] = []
        while True:
            number += 1
            line = _object(file.readline())
            if "end" in line:
                break
            events.append(_event(line, recording, events, is_old))
        only(line, "end", "dropped")
        if number_of(line, "end", U64) != len(events):
            raise RecordingError(f"not as many events as it says: {len(events)}", hint=DAMAGED)
        recording._events, recording._dropped = tuple(events), number_of(line, "dropped", U64)
        number += 1
        if file.read(1):
            raise RecordingError("something comes after the end", hint=DAMAGED)
    except RecordingError as wrong:
        raise RecordingError(wrong.message, file=name, line=number, hint=wrong.hint) from None
    except RecursionError:  # to show what is wrong
        raise RecordingError("not a line of a recording", file=name, line=number, hint=DAMAGED) from None
    return recording


def _object(line: bytes) -> dict[str, Any]:
    if not line:
        raise RecordingError("the file ends too early", hint=DAMAGED)
    try:
        found = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RecordingError("not a line of a recording", hint=DAMAGED)
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _head(line: dict[str, Any]) -> Recording:
    if _MAGIC not in line:
        raise RecordingError("not a recording", hint="give a file that `Recording.save` has written")
    version = line[_MAGIC]
    if type(version) is not int or not 1 <= version <= _VERSION:
        hint = f"this hyperpy reads versions 1 to {_VERSION}"
        raise RecordingError(f"recording is of another version: {version!r:.60}", hint=hint)
    is_old = version == 1
    only(
        line,
        *(_MAGIC, "device", "size", "schema", "begin", "state"),
        *(["line"] if is_old else ["lines", "messages", "memory"]),
    )
    try:
        state = _rich(line.get("state"))
    except (TypeError, ValueError, RecursionError):
        raise RecordingError("state is not what `save` can have given", hint=DAMAGED) from None
    memory = line.get("memory", False)
    if not isinstance(memory, bool):
        raise RecordingError(f"memory is true or false, not {memory!r:.60}", hint=DAMAGED)
    levels = {"irq": line.get("line")} if is_old else _table(line, "lines")
    messages = None if line.get("messages") is None else _table(line, "messages")
    return Recording(
        device=text_of(line, "device") or "",
        size=hex_of(line, "size", U64),
        schema=None if line.get("schema") is None else number_of(line, "schema", U64, -U64),
        begin=number_of(line, "begin", U64),
        lines={name: level_of(level) for name, level in levels.items() if not is_old or level is not None},
        messages=messages and {name: sent and _message(sent) for name, sent in messages.items()},
        memory=memory,
        state=state,
    )


def _table(line: dict[str, Any], name: str) -> dict[str, Any]:
    table = line.get(name)
    if not isinstance(table, dict):
        raise RecordingError(f"{name} is no table: {table!r:.60}", hint=DAMAGED)
    return table


def _message(sent: Any) -> tuple[int, int]:
    if not isinstance(sent, list) or len(sent) != 2:
        raise RecordingError(f"not a message: {sent!r:.60}", hint=DAMAGED)
    found = dict(zip(("address", "data"), sent, strict=True))
    return hex_of(found, "address", U64), hex_of(found, "data", _U32)


def _event(line: dict[str, Any], recording: Recording, before: list[Event], is_old: bool) -> Event:
    kinds = [
        kind
        for kind in ("read", "write", "told", "timer", "reset", *(["line"] if is_old else []))
        if kind in line
    ]
    did = _did(line, recording, is_old)
    if not kinds and len(did) == 1 and not is_old:
        kind: Any = did[0].kind if did[0].kind in ("line", "message") else "memory"
        only(line, "ns", "did")
    elif len(kinds) == 1:
        (kind,) = kinds
        is_access = kind in ("read", "write", "told")
        only(
            line,
            *("ns", kind, "irq" if is_old else "did", "stop", "raised"),
            *(["size", "value", "vcpu"] if is_access else []),
            *(["later"] if kind == "write" and not is_old else []),
        )
    else:
        raise RecordingError("not one event", hint=DAMAGED)
    time = number_of(line, "ns", U64)
    if kind != "reset" and time < (before[-1].time if before else recording.begin):
        raise RecordingError(f"time goes back: {time} ns", hint=DAMAGED)
    common: dict[str, Any] = {"did": did, "stop": text_of(line, "stop"), "raised": text_of(line, "raised")}
    match kind:
        case "read" | "write" | "told":
            offset, size = hex_of(line, kind, U64), number_of(line, "size", _WIDEST + 1, 1)
            if offset + size > recording.size:
                raise RecordingError(f"access leaves the device: {offset:#x}, {size} bytes", hint=DAMAGED)
            # A method is told of its register's value, which may be wider than the access.
            value = hex_of(line, "value", U64 if kind == "told" else 1 << 8 * size)
            vcpu = number_of(line, "vcpu", _U32) if "vcpu" in line else 0
            later = line.get("later", False)
            if not isinstance(later, bool):
                raise RecordingError(f"later is true or false, not {later!r:.60}", hint=DAMAGED)
            return Event(time, kind, offset, size, value, vcpu, later=later, **common)
        case "timer":
            return Event(time, kind, value=number_of(line, kind, U64), **common)
        case "line" if is_old:
            return Event(time, kind, did=(Deed("line", "irq", int(level_of(line[kind]))),))
        case "reset" if line[kind] is not True or time != 0:
            raise RecordingError("a reset is at 0 ns", hint=DAMAGED)
    return Event(time, kind, **common)


def _did(line: dict[str, Any], recording: Recording, is_old: bool) -> tuple[Deed, ...]:
    if is_old:
        levels = line.get("irq", [])
        if not isinstance(levels, list):
            raise RecordingError(f"irq is no list: {levels!r:.60}", hint=DAMAGED)
        return tuple(Deed("line", "irq", int(level_of(level))) for level in levels)
    deeds = line.get("did", [])
    if not isinstance(deeds, list):
        raise RecordingError(f"did is no list: {deeds!r:.60}", hint=DAMAGED)
    return tuple(deed_of(deed, recording) for deed in deeds)


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
