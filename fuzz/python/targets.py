"""The fuzz targets of what is written in Python: each takes bytes, says what came of them, and raises where a property does not hold.

A target returns a word for the outcome, without what varies in it: by new words `run` knows what is worth keeping. Whatever
is refused is so by the error that is documented for it; any other exception is a find.
"""

from __future__ import annotations

import codecs
import functools
import io
import json
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hyperpy import Device, MachineSpec, Messages, Register, SpecError
from hyperpy._apt_sources import host_stanzas, is_debian
from hyperpy._recording_file import lines, read
from hyperpy._toml import Hex, dumps
from hyperpy.console import _in_bytes, _in_text
from hyperpy.declare import Fifo, FifoLevel, Ram
from hyperpy.errors import DeclarationError, DeviceError, HyperpyError
from hyperpy.guest import Device as Node
from hyperpy.guest import Directory, File, InitramfsError, Symlink, initramfs
from hyperpy.testing import DeviceBench, RecordingError, record

__all__ = ["SEEDS", "TARGETS", "Input"]


class Input:
    """Choices that bytes make; without any left the first one."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 up to this."""
        taken = self.bytes((max(limit - 1, 1).bit_length() + 7) // 8)
        return int.from_bytes(taken, "little") % limit

    def bytes(self, count: int) -> bytes:
        """So many bytes, or those that are left."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self) -> str:
        """Words, most of them short."""
        return self.bytes(self.below(12)).decode("utf-8", "replace")

    def one(self, *choices: Any) -> Any:
        """One of these."""
        return choices[self.below(len(choices))]

    def number(self) -> int:
        """A number, near a power of two as often as not."""
        if self.below(2):
            return self.below(256)
        return int(self.one(0, 1 << 12, 1 << 16, 1 << 32, 1 << 63, 1 << 64)) + self.below(5) - 2


def _word(error: HyperpyError | ValueError) -> str:
    """What a refusal says, without place and values."""
    text = re.sub(r"^\w+, line \d+: ", "", str(error).partition("\n")[0])
    return " ".join(re.findall(r"\b[a-z]{2,}\b", text)[:4])


def _unsaid(error: Exception) -> NoReturn:
    raise AssertionError("a refusal that does not say all it should") from error


# Keys of what is edited, so that one stands where another should.
_KEYS = (
    "irq",
    "later",
    "vcpu",
    "did",
    "line",
    "$bytes",
    "args",
    "mmio",
    "file",
    "kind",
    "at",
    "of",
    "cpus",
    "trace",
)


def _edited(value: Any, take: Input) -> Any:
    """The same with one thing of it another one, taken away, or twice."""
    if isinstance(value, dict) and value and take.below(6):
        key = take.one(*value)
        match take.below(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return value | {take.one(*_KEYS, take.text()): value[key]}
        return value | {key: _edited(value[key], take)}
    if isinstance(value, list) and value and take.below(4):
        at = take.below(len(value))
        return [*value[:at], _edited(value[at], take), *value[at + take.below(2) :]]
    scalars: tuple[Any, ...] = (
        take.number(),
        hex(take.number()),
        take.text(),
        None,
        True,
        False,
        -1,
        1.5,
        [],
        {},
        "high",
        "0x",
    )
    return take.one(
        *scalars, {"$tuple": [1, {"$bytes": "00"}]}, [hex(take.number()), take.number()], {"$dict": [[1, 2]]}
    )


# -- cpio ----------------------------------------------------------------------------------------------------------------


def _members(archive: bytes) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    """Read a newc archive as the kernel's document describes it: name, mode, content, device."""
    at = 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name[-1:] == b"\0"
        assert name.count(b"\0") == 1
        at += (110 + name_size + 3) & ~3
        body = archive[at : at + size]
        assert len(body) == size
        at += (size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not archive[at:].strip(b"\0")
            return
        yield name[:-1].decode(), mode, body, (fields[9], fields[10])


def cpio(data: bytes) -> str:
    """Any tree is refused, or is in the archive whole: each path once, its parents before it."""
    take = Input(data)
    source: dict[str, Any] = {}
    for _ in range(take.below(8)):
        path = "/".join(
            take.one("a", "b", "init", "..", ".", "", take.text()) for _ in range(1 + take.below(3))
        )
        source[path] = take.one(
            take.text(),
            take.bytes(take.below(40)),
            Directory(take.number()),
            Symlink(take.text()),
            Node(take.one("c", "b", "x"), take.number(), take.number(), take.number()),
            File(take.bytes(take.below(9)), take.one(None, take.number())),
        )
    try:
        archive = initramfs(source)
    except InitramfsError as error:
        return _word(error)
    assert len(archive) % 512 == 0
    assert initramfs(dict(reversed(source.items()))) == archive
    found = list(_members(archive))
    names = [name for name, *_ in found]
    assert len(set(names)) == len(names)
    for name, mode, body, device in found:
        parent = name.rpartition("/")[0]
        if parent:
            assert names.index(parent) < names.index(name)
            assert found[names.index(parent)][1] >> 12 == 4  # S_IFDIR
        given = next((it for path, it in source.items() if _path(path) == name), Directory())
        match given:
            case str() | bytes():
                assert body == (given.encode() if isinstance(given, str) else given)
            case File(data=bytes() as content, mode=wanted):
                assert body == content
                assert wanted is None or mode & 0o7777 == wanted
            case Symlink(target=target):
                assert body == target.encode()
            case Node(major=major, minor=minor):
                assert device == (major, minor)
    return f"{len(found)} members"


def _path(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


# -- specs ---------------------------------------------------------------------------------------------------------------


def _spec(loads: Callable[[str], MachineSpec], text: str) -> str:
    try:
        spec = loads(text)
    except SpecError as error:
        return _word(error) if error.hint else _unsaid(error)
    assert MachineSpec.from_toml(spec.to_toml() + "\n") == spec
    assert MachineSpec.from_json(spec.to_json()) == spec
    assert not spec.diff(spec)
    for finding in spec.check() if not spec.devices else []:
        assert str(finding)
    return f"spec of {sorted(json.loads(spec.to_json()))}"


def spec_toml(data: bytes) -> str:
    """Text of any kind is no spec, or one that is written as itself, in both languages."""
    return _spec(lambda text: MachineSpec.from_toml(text + "\n"), data.decode("utf-8", "replace"))


def spec_json(data: bytes) -> str:
    """The same of JSON: a spec with things changed, or text."""
    take = Input(data)
    if not take.below(4):
        return _spec(MachineSpec.from_json, "{" + take.bytes(200).decode("utf-8", "replace"))
    table = json.loads(MachineSpec.from_toml(_SPEC).to_json())
    for _ in range(take.below(6)):
        table = _edited(table, take)
    return _spec(MachineSpec.from_json, json.dumps(table if isinstance(table, dict) else {"memory": table}))


def _value(take: Input, depth: int) -> Any:
    match take.below(8 if depth else 6):
        case 0:
            return take.number()
        case 1:
            return take.text()
        case 2:
            return take.one(True, False)
        case 3:
            return Hex(max(take.number(), 0))
        case 4:
            return -take.number()
        case 5:
            return take.number() / 7
        case 6:
            return [_value(take, depth - 1) for _ in range(take.below(4))]
    return {take.text(): _value(take, depth - 1) for _ in range(take.below(4))}


def toml(data: bytes) -> str:
    """Tables are written as what the standard library reads as the same."""
    take = Input(data)
    table = {take.text(): _value(take, 3) for _ in range(take.below(6))}

    def plain(value: Any) -> Any:
        match value:
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list():
                return [plain(item) for item in value]
            case Hex() if value >= 1 << 63:
                return hex(value)
            case bool() | str() | float():
                return value
        return int(value)

    if any(abs(number) >> 63 for number in _whole(table)):
        return "a number that TOML has not"
    assert tomllib.loads(dumps(table)) == plain(table)
    return f"{len(table)} keys"


def _whole(value: Any) -> Iterator[int]:
    match value:
        case dict():
            for item in value.values():
                yield from _whole(item)
        case list():
            for item in value:
                yield from _whole(item)
        case int() if not isinstance(value, Hex):
            yield value


# -- recordings ----------------------------------------------------------------------------------------------------------


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
                rows[at] = _edited(rows[at], take)
        rows = rows or [{}]
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if not take.below(8):
        at = take.below(len(text))
        text = text[:at] + take.bytes(8) + text[at + take.below(8) :]
    try:
        found = read(io.BytesIO(text), "fuzzed")
    except RecordingError as error:
        return _word(error) if error.line else _unsaid(error)
    text = "".join(f"{line}\n" for line in lines(found)).encode()
    again = read(io.BytesIO(text), "again")
    assert "".join(f"{line}\n" for line in lines(again)).encode() == text
    assert again.events == found.events
    return f"recording of {sorted({event.kind for event in found.events})}"


# -- the console ---------------------------------------------------------------------------------------------------------


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


# -- declarations --------------------------------------------------------------------------------------------------------


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
            f"{type(error).__name__}: {_word(error)}"
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


# -- sources of packages -------------------------------------------------------------------------------------------------


def apt_sources(data: bytes) -> str:
    """Sources of any text give whole stanzas or nothing."""
    text = data.decode("utf-8", "replace")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "sources.list.d").mkdir()
        (where / "sources.list").write_text(text)
        (where / "sources.list.d" / "a.list").write_text(text)
        (where / "sources.list.d" / "b.sources").write_text(text)
        found = list(host_stanzas(where))
    for stanza in found:
        assert {"Types", "URIs", "Suites", "Components"} <= stanza.keys()
        is_debian(stanza)
    return f"{len(found)} stanzas"


TARGETS: dict[str, Callable[[bytes], str]] = {
    "apt_sources": apt_sources,
    "console_search": console_search,
    "cpio": cpio,
    "declaration": declaration,
    "recording": recording,
    "spec_json": spec_json,
    "spec_toml": spec_toml,
    "toml": toml,
}

_SPEC = """
memory = "64M"
vcpus = 2
name = "one"
unclaimed = "ones"

[image]
kind = "flat"
file = "code.bin"
at = 0x1000
mode = "real"

[[devices]]
model = "debug-exit"
pio = 0xf4

[[regions]]
gpa = 0x1000_0000
size = "1M"
kind = "rom"
"""

SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "apt_sources": lambda: [
        b"deb [signed-by=/a.gpg arch=amd64] http://deb.debian.org/debian bookworm main contrib # x\n",
        b"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n a\n .\n b\n",
    ],
    "spec_toml": lambda: [_SPEC.encode()],
}
"""Inputs that a target begins with, of those whose language is not met by chance."""
