"""What is fuzzed around devices: declarations of registers, recordings of what was done to one, and the search in a console's output."""

from __future__ import annotations

import codecs
import functools
import io
import json
import re
from typing import Any

from choices import Input, edited, unsaid, word

from hyperpy import Device, Messages, Register
from hyperpy._recording_file import lines, read
from hyperpy.console import _in_bytes, _in_text
from hyperpy.declare import Fifo, FifoLevel, Ram
from hyperpy.errors import DeclarationError, DeviceError, HyperpyError
from hyperpy.testing import DeviceBench, RecordingError, record

__all__ = ["console_search", "declaration", "recording"]


class Keeper(Device):
    """What recordings are of."""

    dma = True
    msi = Messages()
    value = Register(0x0)
    slots = Ram(0x8, 8)

    @value.on_write
    def _value(self, value: int) -> None:
        self.irq.set(bool(value & 1))
        self.clock.after(5, self.irq.pulse)
        self.msi.send(0xFEE0_0000, 0x41)
        self.memory.write(0x1000, self.memory.read(0x2000, 3))


@functools.cache
def _recorded() -> bytes:
    bench = DeviceBench(Keeper())
    with record(bench) as kept:
        bench.write(0x0, 4, 1)
        bench.write(0x8, 8, 0x1234)
        bench.clock.step(10)
        bench.read(0x0, 4)
        bench.reset()
    return "".join(f"{line}\n" for line in lines(kept)).encode()


def recording(data: bytes) -> str:
    """A file of anything is refused by its line, or is a recording that is written as itself."""
    take = Input(data)
    rows = [json.loads(row) for row in _recorded().splitlines()]
    for _ in range(take.below(5)):
        at = take.below(len(rows))
        match take.below(10):
            case 0:
                del rows[at:]
            case 1:
                rows.insert(at, rows[take.below(len(rows))])
            case _:
                rows[at] = edited(rows[at], take)
        rows = rows or [{}]
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if not take.below(8):
        at = take.below(len(text))
        text = text[:at] + take.bytes(8) + text[at + take.below(8) :]
    try:
        found = read(io.BytesIO(text), "fuzzed")
    except RecordingError as error:
        return word(error) if error.line else unsaid(error)
    text = "".join(f"{line}\n" for line in lines(found)).encode()
    again = read(io.BytesIO(text), "again")
    assert "".join(f"{line}\n" for line in lines(again)).encode() == text
    assert again.events == found.events
    return f"recording of {sorted({event.kind for event in found.events})}"


def console_search(data: bytes) -> str:
    """What is found in output that comes piece by piece is found in the text of all of it, and takes no more than that."""
    take = Input(data)
    raw_pattern = take.bytes(1 + take.below(4))
    is_text = bool(take.below(2))
    output = take.bytes(200)
    cuts = sorted(take.below(len(output) + 1) for _ in range(3))
    try:
        words = raw_pattern.decode() if is_text else ""
    except UnicodeDecodeError:
        words = "\ufffd"
    in_bytes, in_text = _in_bytes(re.compile(re.escape(raw_pattern))), _in_text(re.compile(re.escape(words)))
    search = in_text if is_text else in_bytes
    for cut in [*cuts, len(output)]:
        seen = output[:cut]
        found = search(seen)
        if is_text:
            # What is cut at the end may become another character.
            text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(seen)
            shown = "".join("\ufffd" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text)
            assert (found is None) == (words not in shown)
            if found:
                match, reach = found
                assert match.span() == (shown.index(words), shown.index(words) + len(words))
                assert seen[:reach] == text[: match.end()].encode("utf-8", "surrogateescape")
        else:
            assert (found is None) == (raw_pattern not in seen)
            assert not found or found[1] == seen.index(raw_pattern) + len(raw_pattern)
        if found:
            return "found"
    return "not found"


def declaration(data: bytes) -> str:
    """A class of any registers is refused, or is a device that takes any access."""
    take = Input(data)
    body: dict[str, Any] = {"__doc__": "Fuzzed."}
    try:
        for index in range(1 + take.below(5)):
            offset, access = take.number(), take.one("rw", "ro", "wo", "w1c", "x")
            match take.below(5):
                case 0:
                    made: Any = Ram(offset, take.number())
                case 1:
                    made = Fifo(
                        offset,
                        depth=take.number(),
                        access=take.one("ro", "wo", "rw"),
                        width=take.one(1, 2, 4, 8),
                    )
                case 2 if index:
                    made = FifoLevel(offset, body["r0"])
                case _:
                    made = Register(offset, width=take.one(1, 2, 4, 8, 3), access=access, reset=take.number())
            body[f"r{index}"] = made
        made_class = type("Fuzzed", (Device,), body)
        device = made_class()
        bench = DeviceBench(device)
    except (DeclarationError, ValueError, TypeError, DeviceError) as error:
        return (
            f"{type(error).__name__}: {word(error)}"
            if isinstance(error, HyperpyError | ValueError)
            else "type"
        )
    for _ in range(take.below(20)):
        offset, size = take.below(64), take.one(1, 2, 4, 8)
        try:
            if take.below(2):
                bench.write(offset, size, take.number() % (1 << 8 * size))
            else:
                assert 0 <= bench.read(offset, size) < 1 << 8 * size
        except (DeviceError, ValueError):
            pass
    return f"device of {sorted(type(value).__name__ for value in body.values())}"
