"""The console without a guest: search, position, limits. With one: tests/kvm/test_console_guest.py."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import pytest
from typing_extensions import Buffer

from hyperpy import Console, StateError


def test_console_of_a_standing_machine_raises_at_once() -> None:
    console = Console(standing=lambda: "stopped")
    with pytest.raises(
        StateError, match="stands still, stopped; its console has no 'x'; it has said nothing"
    ):
        console.expect("x")


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_console_that_says_nothing_in_time_raises_timeout_error(timeout: float) -> None:
    with pytest.raises(TimeoutError, match=f"no 'x' on the console in {timeout} s; it has said nothing"):
        Console().expect("x", timeout=timeout)


@pytest.mark.parametrize("timeout", [float("nan"), -1.0, -math.inf])
def test_expect_for_what_is_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is not a number of seconds from 0 up"):
        Console().expect("never", timeout=timeout)


@pytest.mark.parametrize("pattern", ["a.b (c)", b"a.b (c)", re.compile(r"a\.b")])
def test_expect_in_vain_shows_the_pattern_as_it_was_given(pattern: Any) -> None:
    shown = repr(getattr(pattern, "pattern", pattern))
    with pytest.raises(TimeoutError, match=re.escape(f"no {shown} on the console")):
        Console().expect(pattern, timeout=0)


def test_expect_of_nothing_is_found_at_once() -> None:
    assert Console().expect("")[0] == ""
    assert Console().expect(re.compile(b"$"))[0] == b""


def test_console_that_is_empty_reads_as_nothing() -> None:
    console = Console()
    assert (console.read(), console.output, console.output_bytes, console.dropped) == ("", "", b"", 0)
    assert repr(console) == "Console(0 bytes of output, 0 dropped)"


@pytest.mark.parametrize("pattern", [5, None, ["x"], object()])
def test_expect_of_what_is_no_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(TypeError, match="(?s)not a pattern.*hint: "):
        Console().expect(pattern)


@pytest.mark.parametrize("thing", [5, None, ["x"]])
def test_send_of_what_is_no_text_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError):
        Console().send(thing)


def test_send_of_any_bytes_is_taken() -> None:
    console = Console()
    things: tuple[str | Buffer, ...] = (b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc")
    for thing in things:
        assert console.send(thing) == 3


def test_sink_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="not a sink"):
        Console().sink("name")  # type: ignore[arg-type]


def test_sink_that_is_replaced_is_closed() -> None:
    console = Console()
    before = len(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    console.sink(writer)
    console.sink(writer)
    console.sink(None)
    os.close(reader)
    os.close(writer)
    assert len(os.listdir("/proc/self/fd")) == before
