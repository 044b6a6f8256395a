"""Keys and input of a terminal, without one. With one: tests/kvm/test_terminal.py."""

from __future__ import annotations

import os

import pytest

from hyperpy._terminal import Input, Keys


@pytest.mark.parametrize(
    ("typed", "kept", "leave", "help_"),
    [
        (b"abc\x03\x04\x1b", b"abc\x03\x04\x1b", False, False),
        (b"a\x01xb", b"a", True, False),
        (b"\x01\x01x", b"\x01x", False, False),
        (b"\x01hx", b"x", False, True),
        (b"\x01?\x01X", b"", True, True),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_keys_are_found_however_they_arrive(
    typed: bytes, kept: bytes, leave: bool, help_: bool, size: int
) -> None:
    keys = Keys()
    results = []
    for at in range(0, len(typed), size):
        results.append(keys.feed(typed[at : at + size]))
        if results[-1][1]:
            break
    assert b"".join(data for data, _, _ in results) == kept
    assert any(left for _, left, _ in results) == leave
    assert any(wanted for _, _, wanted in results) == help_


class SlowConsole:
    """Takes at most three bytes at a time, and none every second time."""

    def __init__(self) -> None:
        self.taken, self.turn = bytearray(), 0

    def send(self, data: bytes) -> int:
        self.turn += 1
        size = min(3, len(data)) if self.turn % 2 else 0
        self.taken += data[:size]
        return size


def test_piped_input_waits_for_a_full_queue_and_loses_nothing() -> None:
    source, writer = os.pipe()
    console = SlowConsole()
    with os.fdopen(source, "rb") as reader:
        given = Input(console.send, lambda reason: None, reader.fileno(), None)
        os.write(writer, b"all of this, in order")
        os.close(writer)
        given._over, given._end = os.pipe()
        given._thread.start()
        while len(console.taken) < 21:
            given._thread.join(0.01)
            assert given._thread.is_alive()
        given.__exit__()
    assert console.taken == b"all of this, in order"


def test_input_ends_at_once_when_the_queue_stays_full() -> None:
    source, writer = os.pipe()
    with os.fdopen(source, "rb") as reader, os.fdopen(writer, "wb") as end:
        end.write(b"never taken")
        end.flush()
        given = Input(lambda data: 0, lambda reason: None, reader.fileno(), None)
        with given:
            pass
    assert not given._thread.is_alive()
