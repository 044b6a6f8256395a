"""Recordings as files: what is written is read again, and whatever else is read is an error that names the line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import drove

from hyperpy import Device, Line, Messages, Ram, Register
from hyperpy.testing import (
    Access,
    BenchLine,
    Deed,
    DeviceBench,
    Event,
    Recording,
    RecordingError,
    Step,
    replay,
)


class Keeper(Device):
    value = Register(0x0)
    slots = Ram(0x8, 8)

    def __init__(self) -> None:
        self.extra: Any = None

    @value.on_write
    def _value(self, value: int) -> None:
        self.irq.set(bool(value & 1))
        self.clock.after(5, self.irq.pulse)  # type: ignore[union-attr]

    def save(self) -> dict[str, Any]:
        return {**super().save(), "extra": self.extra}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.extra = state["extra"]


MEMORY = (
    Deed("read", ranges=((0x1000, 0), (0, 2)), data=b"ab"),
    Deed("read", ranges=((5, 2**64 - 1),), refused=("dma reaches no memory", 5, 2**64 - 1)),
    Deed("write", ranges=((5, 1),), data=b"x", refused=("dma writes to read-only memory", 5, 1)),
)
EVENTS = (
    Event(7, "read", 0x8, 8, 0x1234),
    Event(8, "write", 0x0, 4, 1, vcpu=3, did=drove(True, False), stop='"why"\n', raised="KeyError"),
    Event(8, "write", 0x4, 2, 1, later=True),
    Event(
        9,
        "told",
        0x4,
        2,
        0x12345678,
        vcpu=3,
        did=(Deed("message", "msi", 2**64 - 1, 2**64 - 1, is_taken=False),),
    ),
    Event(9, "timer", value=8, raised=""),
    Event(9, "line", did=drove(True)),
    Event(0, "reset", did=(*drove(True, name="sent"), Deed("message", "vector", 0x41, 0xFEE0_0000))),
    Event(0, "memory", did=(Deed("write", ranges=((0x1000, 3), (2**64 - 1, 4)), data=b"\0\xff123"),)),
    Event(0, "message", did=(Deed("message", "msi", 1, 2),)),
    Event(0, "read", 0x0, 4, 0, did=MEMORY),
    Event(2**64 - 1, "read", 0xF, 1, 0xFF, vcpu=2**32 - 1),
)
STATE = {
    "registers": {"value": 1, "slots": b"\0\xff" * 4},
    "extra": [
        None,
        True,
        -1.5,
        "ü",
        (1, (2,)),
        {1: b""},
        {"$bytes": "00"},
        {},
        [],
        {"$x": {"a": []}},
        {(1, 2): 3},
    ],
}
WHOLE = Recording(
    device="mine.Keeper",
    size=16,
    begin=7,
    lines={"irq": True, "sent": False, "vector": False},
    messages={"vector": (0xFEE0_0000, 0x41), "msi": None},
    memory=True,
    state=STATE,
    schema=1,
    events=EVENTS,
    dropped=5,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traffic.jsonl"


def test_recording_that_is_saved_is_loaded_as_it_was(path: Path) -> None:
    WHOLE.save(path)
    again = Recording.load(str(path))
    assert again == WHOLE
    assert (again.events, again.state, again.dropped) == (EVENTS, STATE, 5)
    assert (again.lines, again.messages, again.memory) == (WHOLE.lines, WHOLE.messages, True)
    again.save(path)
    assert Recording.load(path) == WHOLE
    assert again != Recording(device="mine.Keeper", size=16)
    assert repr(again) == "<recording of mine.Keeper: 11 events, 5 dropped>"


def test_recording_of_a_device_is_replayed_from_its_file(path: Path) -> None:
    bench = DeviceBench(Keeper())
    bench.device.extra = {"a": (1, b"2")}
    with bench.record() as recording:
        bench.play([Access(0x0, 4, 3), Step(20), Access(0x8, 8, 0x55), Access(0x0, 4), Access(0x0, 4, 2)])
    recording.save(path)
    assert Recording.load(path) == recording
    device = Keeper()
    assert replay(Recording.load(path), device) is None
    assert device.extra == {"a": (1, b"2")}


def test_file_is_text_that_can_be_read_and_compared(path: Path) -> None:
    WHOLE.save(path)
    lines = path.read_text().splitlines()
    assert len(lines) == 13
    assert lines[1] == '{"ns": 7, "read": "0x8", "size": 8, "value": "0x1234"}'
    assert json.loads(lines[2]) == {
        "ns": 8, "write": "0x0", "size": 4, "value": "0x1", "vcpu": 3, "did": [{"line": "irq", "to": "high"}, {"line": "irq", "to": "low"}], "stop": '"why"\n',
        "raised": "KeyError",
    }  # fmt: skip
    assert json.loads(lines[3]) == {"ns": 8, "write": "0x4", "size": 2, "value": "0x1", "later": True}
    assert json.loads(lines[8]) == {
        "ns": 0, "did": [{"write": [["0x1000", 3], ["0xffffffffffffffff", 4]], "bytes": "00ff313233"}],
    }  # fmt: skip
    assert json.loads(lines[10])["did"][1] == {
        "read": [["0x5", 2**64 - 1]], "bytes": "", "refused": "dma reaches no memory", "at": ["0x5", 2**64 - 1],
    }  # fmt: skip
    assert lines[-1] == '{"end": 11, "dropped": 5}'


@pytest.mark.parametrize("value", [{1, 2}, object(), 1j, [lambda: None]])
def test_state_that_no_text_stands_for_is_refused_and_writes_nothing(path: Path, value: Any) -> None:
    recording = Recording(device="mine.Odd", size=4, state={"extra": value})
    with pytest.raises(
        RecordingError, match="state of mine.Odd has a value that cannot be written: .*\n\nhint: "
    ):
        recording.save(path)
    assert not path.exists()


def test_file_that_is_cut_off_anywhere_is_an_error(path: Path) -> None:
    WHOLE.save(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordingError) as caught:
            Recording.load(path)
        assert caught.value.line - whole[:length].count(b"\n") in (1, 2)
        assert str(caught.value).startswith(f"{path}, line {caught.value.line}: ")
        assert "\n\nhint: " in str(caught.value)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_file_with_any_byte_damaged_is_an_error_or_another_recording(path: Path, flip: int) -> None:
    WHOLE.save(path)
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= flip
        path.write_bytes(damaged)
        try:
            found = Recording.load(path)
        except RecordingError:
            refused += 1
            continue
        assert isinstance(found, Recording)
        # Nothing that a player could not play.
        assert all(event.offset + event.size <= found.size for event in found.events)
        with contextlib.suppress(Exception):
            replay(found, Keeper())
    assert refused > len(whole) // 3


def head(**change: Any) -> str:
    fields = {
        "hyperpy recording": 1, "device": "a.B", "size": "0x10", "schema": 1, "begin": 0, "line": None, "state": None,
    }  # fmt: skip
    return json.dumps({**fields, **change})


END = '{"end": 1, "dropped": 0}'
READ = '{"ns": 1, "read": "0x0", "size": 1, "value": "0x0"}'


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([], 1, "the file ends too early"),
        (["\x7fELF"], 1, "not a line of a recording"),
        (["[]"], 1, "not a line of a recording"),
        (["{}"], 1, "not a recording"),
        (["[" * 100_000], 1, "not a line of a recording"),
        ([f'{{"hyperpy recording": {"9" * 5000}}}'], 1, "not a line of a recording"),
        ([head(**{"hyperpy recording": 3})], 1, "recording is of another version: 3"),
        ([head(**{"hyperpy recording": 0})], 1, "recording is of another version: 0"),
        ([head(**{"hyperpy recording": True})], 1, "recording is of another version: True"),
        ([head(extra=1)], 1, "what is that: 'extra'"),
        ([head(device=7)], 1, "device is no text: 7"),
        ([head(size=16)], 1, "size is out of range: 16"),
        ([head(size="16")], 1, "size is out of range"),
        ([head(size="0x1_0")], 1, "size is out of range"),
        ([head(size=hex(1 << 64))], 1, "size is out of range"),
        ([head(begin=-1)], 1, "begin is out of range: -1"),
        ([head(begin=1.0)], 1, "begin is out of range: 1.0"),
        ([head(schema="1")], 1, "schema is out of range: '1'"),
        ([head(line="up")], 1, "a line is high or low, not 'up'"),
        ([head(line=["high"])], 1, "a line is high or low"),
        ([head(state={"$bytes": "0g"})], 1, "state is not what `save` can have given"),
        ([head(state={"$bytes": 5})], 1, "state is not what `save` can have given"),
        ([head(state={"$dict": [[[], 1]]})], 1, "state is not what `save` can have given"),
        ([head(state={"$dict": [[1, 2, 3]]})], 1, "state is not what `save` can have given"),
        ([head(state={"$what": 1})], 1, "state is not what `save` can have given"),
        ([head(state=1).replace('"state": 1', '"state": NaN')], 1, "not a line of a recording"),
        ([head(begin=5), READ, END], 2, "time goes back: 1 ns"),
        ([head(), READ, READ.replace("1,", "0,", 1), END], 3, "time goes back: 0 ns"),
        ([head(), '{"ns": 0}', END], 2, "not one event"),
        ([head(), '{"ns": 0, "read": "0x0", "write": "0x0"}', END], 2, "not one event"),
        ([head(), READ.replace('"0x0", "size": 1', '"0x0", "size": 9'), END], 2, "size is out of range: 9"),
        ([head(), READ.replace('"0x0", "size": 1', '"0x0", "size": 0'), END], 2, "size is out of range: 0"),
        ([head(), READ.replace('"0x0", "size": 1', '"0x0", "size": true'), END], 2, "size is out of range: True"),
        ([head(), READ.replace('"0x0", "size": 1', '"0xd", "size": 4'), END], 2, "access leaves the device: 0xd"),
        ([head(), READ.replace('"value": "0x0"', '"value": "0x100"'), END], 2, "value is out of range"),
        ([head(), READ.replace('"value": "0x0"', '"value": 0'), END], 2, "value is out of range: 0"),
        ([head(), READ.replace("}", ', "vcpu": 4294967296}'), END], 2, "vcpu is out of range"),
        ([head(), READ.replace("}", ', "irq": "high"}'), END], 2, "irq is no list"),
        ([head(), READ.replace("}", ', "irq": [1]}'), END], 2, "a line is high or low, not 1"),
        ([head(), READ.replace("}", ', "stop": 1}'), END], 2, "stop is no text: 1"),
        ([head(), READ.replace("}", ', "why": 1}'), END], 2, "what is that: 'why'"),
        ([head(), '{"ns": 1, "timer": 2, "size": 1}', END], 2, "what is that: 'size'"),
        ([head(), '{"ns": 1, "timer": -2}', END], 2, "timer is out of range: -2"),
        ([head(), '{"ns": 1, "reset": true}', END], 2, "a reset is at 0 ns"),
        ([head(), '{"ns": 0, "reset": 1}', END], 2, "a reset is at 0 ns"),
        ([head(), READ], 3, "the file ends too early"),
        ([head(), READ, READ, END], 4, "not as many events as it says: 2"),
        ([head(), READ, '{"end": 1}'], 3, "dropped is out of range: None"),
        ([head(), READ, '{"end": 1, "dropped": 0, "more": 1}'], 3, "what is that: 'more'"),
        ([head(), READ, END, READ], 4, "something comes after the end"),
    ],
)  # fmt: skip
def test_line_that_cannot_be_is_named(path: Path, lines: list[str], line: int, message: str) -> None:
    path.write_text("".join(f"{text}\n" for text in lines))
    with pytest.raises(RecordingError) as caught:
        Recording.load(path)
    assert caught.value.message.startswith(f"{path}, line {line}: {message}")
    assert (caught.value.line, caught.value.file) == (line, str(path))
    assert caught.value.hint


def newer(**change: Any) -> str:
    fields = {
        "hyperpy recording": 2, "device": "a.B", "size": "0x10", "schema": 1, "begin": 0, "state": None,
        "lines": {"irq": "low", "vector": "low"}, "messages": {"vector": ["0xfee00000", "0x41"], "msi": None}, "memory": True,
    }  # fmt: skip
    return json.dumps({**fields, **change})


def reading(*did: Any, **change: Any) -> str:
    return json.dumps({"ns": 1, "read": "0x0", "size": 1, "value": "0x0", "did": did, **change})


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([newer(line="low")], 1, "what is that: 'line'"),
        ([newer(lines=None)], 1, "lines is no table: None"),
        ([newer(lines={"irq": 1})], 1, "a line is high or low, not 1"),
        ([newer(messages=[])], 1, "messages is no table: []"),
        ([newer(messages={"msi": ["0x0"]})], 1, "not a message: ['0x0']"),
        ([newer(messages={"msi": "ab"})], 1, "not a message: 'ab'"),
        ([newer(messages={"msi": ["0x0", "0x100000000"]})], 1, "data is out of range: '0x100000000'"),
        ([newer(memory=1)], 1, "memory is true or false, not 1"),
        ([newer(), '{"ns": 1, "line": "high"}'], 2, "not one event"),
        ([newer(), READ.replace("}", ', "irq": []}')], 2, "what is that: 'irq'"),
        ([newer(), READ.replace("}", ', "later": true}')], 2, "what is that: 'later'"),
        ([newer(), reading(later=True)], 2, "what is that: 'later'"),
        ([newer(), READ.replace("read", "write").replace("}", ', "later": 1}')], 2, "later is true or false, not 1"),
        ([newer(), '{"ns": 1, "did": []}'], 2, "not one event"),
        ([newer(), json.dumps({"ns": 1, "did": [{"line": "irq", "to": "low"}] * 2})], 2, "not one event"),
        ([newer(), json.dumps({"ns": 1, "did": [{"line": "irq", "to": "low"}], "vcpu": 1})], 2, "what is that: 'vcpu'"),
        ([newer(), json.dumps({"ns": 1, "told": "0x0", "size": 1, "value": hex(1 << 64)})], 2, "value is out of range"),
        ([newer(), json.dumps({"ns": 1, "told": "0x10", "size": 1, "value": "0x0"})], 2, "access leaves the device"),
        ([newer(), READ.replace("}", ', "did": {}}')], 2, "did is no list: {}"),
        ([newer(), reading(1)], 2, "not one thing that a device does: 1"),
        ([newer(), reading({})], 2, "not one thing that a device does: {}"),
        ([newer(), reading({"line": "irq", "read": []})], 2, "not one thing that a device does"),
        ([newer(), reading({"line": "other", "to": "low"})], 2, "device has no such line: 'other'"),
        ([newer(), reading({"line": ["irq"], "to": "low"})], 2, "device has no such line: ['irq']"),
        ([newer(), reading({"line": "irq", "to": "up"})], 2, "a line is high or low, not 'up'"),
        ([newer(), reading({"line": "irq"})], 2, "a line is high or low, not None"),
        ([newer(), reading({"message": "irq", "address": "0x0", "data": "0x0"})], 2, "device has no such message: 'irq'"),
        ([newer(messages=None), reading({"message": "msi"})], 2, "device has no such message: 'msi'"),
        ([newer(), reading({"message": "msi", "address": 0, "data": "0x0"})], 2, "address is out of range: 0"),
        ([newer(), reading({"message": "msi", "address": "0x0"})], 2, "data is out of range: None"),
        ([newer(), reading({"message": "msi", "address": "0x0", "data": "0x0", "taken": 0})], 2, "taken is true or false"),
        ([newer(memory=False), reading({"read": [], "bytes": ""})], 2, "guest memory in a recording that has none"),
        ([newer(), reading({"read": {}, "bytes": ""})], 2, "not ranges of memory: {}"),
        ([newer(), reading({"read": [["0x0", 0]] * 65_537, "bytes": ""})], 2, "not ranges of memory"),
        ([newer(), reading({"read": [["0x0"]], "bytes": ""})], 2, "not a range of memory: ['0x0']"),
        ([newer(), reading({"read": ["0x"], "bytes": ""})], 2, "not a range of memory: '0x'"),
        ([newer(), reading({"read": [["0x0", -1]], "bytes": ""})], 2, "length is out of range: -1"),
        ([newer(), reading({"read": [["0x0", 1]]})], 2, "not bytes: None"),
        ([newer(), reading({"read": [["0x0", 1]], "bytes": "0"})], 2, "not bytes: '0'"),
        ([newer(), reading({"read": [["0x0", 1]], "bytes": " 00"})], 2, "not bytes: ' 00'"),
        ([newer(), reading({"read": [["0x0", 2]], "bytes": "00"})], 2, "read of 2 bytes has 1"),
        ([newer(), reading({"write": [["0x0", 1]], "bytes": "0000"})], 2, "write of 1 bytes has 2"),
        ([newer(), reading({"read": [], "bytes": "", "refused": "no"})], 2, "what is refused is so somewhere"),
        ([newer(), reading({"read": [], "bytes": "", "at": ["0x0", 0]})], 2, "what is refused is so somewhere"),
        ([newer(), reading({"read": [], "bytes": "", "refused": 1, "at": []})], 2, "refused is no text: 1"),
        ([newer(), reading({"read": [], "bytes": "", "refused": "no", "at": 1})], 2, "not a range of memory: 1"),
        ([newer(), reading({"read": [], "bytes": "", "why": 1})], 2, "what is that: 'why'"),
    ],
)  # fmt: skip
def test_line_of_what_a_device_did_that_cannot_be_is_named(
    path: Path, lines: list[str], line: int, message: str
) -> None:
    test_line_that_cannot_be_is_named(path, lines, line, message)


OLD = """\
{"hyperpy recording": 1, "device": "mine.Keeper", "size": "0x10", "schema": 1, "begin": 0, "line": "low", "state": null}
{"ns": 0, "write": "0x0", "size": 4, "value": "0x1", "irq": ["high"]}
{"ns": 3, "line": "low"}
{"ns": 5, "timer": 5, "irq": ["high", "low"]}
{"end": 3, "dropped": 0}
"""


def test_file_of_the_first_version_is_loaded_and_replayed_and_saved_anew(path: Path) -> None:
    path.write_text(OLD)
    old = Recording.load(path)
    assert (old.lines, old.messages, old.memory) == ({"irq": False}, None, False)
    assert [event.irq for event in old.events] == [(True,), (False,), (True, False)]
    assert [event.kind for event in old.events] == ["write", "line", "timer"]

    class Chatty(Keeper):
        """Does what that version knew nothing of."""

        dma = True
        sent, msi = Line(), Messages()

        @Keeper.value.on_write
        def _value(self, value: int) -> None:
            self.sent.pulse()
            self.memory.write(0x1000, self.memory.read(0, 4))  # type: ignore[union-attr]
            self.msi.send(0xFEE0_0000, 0x41)
            super()._value(value)

    assert replay(old, Keeper()) is None
    assert replay(old, Chatty()) is None
    old.save(path)
    assert path.read_text().startswith('{"hyperpy recording": 2, ')
    assert Recording.load(path) == old
    assert replay(Recording.load(path), Chatty()) is None
    path.write_text(OLD.replace(', "irq": ["high"]', ""))
    found = replay(Recording.load(path), Chatty())
    assert found is not None
    assert (found.index, found.what, found.expected, found.got) == (0, "did", None, drove(True)[0])
    assert found.where.endswith(", in _value")


def test_file_that_is_not_there_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recording.load(path)


def test_deeply_nested_state_is_an_error_and_no_crash(path: Path) -> None:
    deep: Any = None
    for _ in range(900):
        deep = [deep]
    text = head(state=0).replace('"state": 0', f'"state": {json.dumps(deep)}')
    path.write_text(f'{text}\n{{"end": 0, "dropped": 0}}\n')
    with contextlib.suppress(RecordingError):
        assert Recording.load(path).state == deep


def test_lines_of_any_name_in_a_file_take_the_place_of_nothing_else(path: Path) -> None:
    names = ["__class__", "__dict__", "read", "load", "value", "clock", "memory", "size", "", "a b", "extra"]
    path.write_text(f'{newer(lines=dict.fromkeys(names, "high"), state=None)}\n{{"end": 0, "dropped": 0}}\n')
    device = Keeper()
    assert replay(Recording.load(path), device) is None
    assert (type(device), device.size, bool(device.clock), device.value) == (Keeper, 16, False, 0)
    assert not any(isinstance(held, BenchLine) for held in vars(device).values())
    assert callable(device.load)
