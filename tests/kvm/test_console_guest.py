"""The console with a guest at its other end: COM1 of `attach_pc`, written by tests/guests/uart.S."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.guests import guest

from hyperpy import Exit, Flat, Machine, StateError

RUN = 10.0


@pytest.fixture
def talk(boot: Any) -> Any:
    def make(text: bytes) -> Machine:
        m: Machine = boot()
        m.load(Flat(guest("uart"), mode="real"))
        m.memory.write(0x3000, text + b"\0")
        m.attach_pc()
        return m

    return make


def test_expect_of_text_consumes_through_the_match(talk: Any) -> None:
    m = talk(b"boot ok\r\nlogin: login: ")
    m.start()
    assert m.console.expect("login:", timeout=RUN)[0] == "login:"
    assert m.console.expect("login: ", timeout=RUN)[0] == "login: "
    assert m.console.read() == ""
    assert m.console.output == "boot ok\r\nlogin: login: "


def test_output_of_a_guest_that_polls_costs_no_exit_for_what_it_writes(talk: Any) -> None:
    text = b"a line of the log\r\n" * 20
    m = talk(text)
    m.start()
    assert m.console.expect("log\r\n" + "a line of the log\r\n" * 19, timeout=RUN)
    hits = m.stats.hits
    assert hits["kernel"] == len(text)
    m.pause()
    m.reset()
    m.memory.write(0x3000, text + b"\0")
    m.start()
    assert m.console.expect("log\r\n" + "a line of the log\r\n" * 19, timeout=RUN)
    assert m.stats.hits["kernel"] == 2 * len(text)


def test_expect_of_text_in_bytes_that_are_no_utf8_gives_text_that_can_be_written(talk: Any) -> None:
    m = talk(b"\xff\xe2\x82\xac caf\xc3\xa9 \xe2\x82;rest")
    m.start()
    match = m.console.expect(re.compile(".*;"), timeout=RUN)
    assert match[0] == "\ufffd\u20ac caf\u00e9 \ufffd\ufffd;"
    assert m.console.expect("rest", timeout=RUN)
    assert m.console.read() == ""


def test_expect_of_a_pattern_gives_its_groups(talk: Any) -> None:
    m = talk(b"value=0x2a\n")
    m.start()
    assert m.console.expect(re.compile(r"value=(0x[0-9a-f]+)\n"), timeout=RUN)[1] == "0x2a"


def test_expect_of_text_takes_it_as_it_is(talk: Any) -> None:
    m = talk(b"axb a.b")
    m.start()
    assert m.console.expect("a.b", timeout=RUN).start() == 4


def test_expect_of_bytes_sees_what_is_not_text(talk: Any) -> None:
    m = talk(b"\xff\xfeok")
    m.start()
    assert m.console.expect(b"\xfe", timeout=RUN)[0] == b"\xfe"
    assert m.console.expect(re.compile(rb"(o)k"), timeout=RUN)[1] == b"o"


def test_expect_of_text_after_bytes_that_are_not_text_keeps_its_place(talk: Any) -> None:
    m = talk(b"\xff\xfe\xe2\x82one two")
    m.start()
    m.console.expect("one", timeout=RUN)
    m.console.expect(" two", timeout=RUN)


def test_expect_with_the_guest_halted_raises_at_once_with_the_tail(talk: Any) -> None:
    m = talk(b"panic: no init")
    m.console.send("q")
    m.start()
    begin = time.monotonic()
    with pytest.raises(
        StateError, match=r"(?s)stands still, paused: Exit.Halt\(vcpu=0\);.*'login:'.*panic: no init"
    ):
        m.console.expect("login:")
    assert time.monotonic() - begin < RUN
    assert m.console.expect("panic", timeout=0)[0] == "panic"
    assert isinstance(m.wait(RUN), Exit.Halt)


def test_expect_of_what_was_said_before_the_halt_is_found(talk: Any) -> None:
    m = talk(b"done")
    m.console.send("q")
    m.start()
    assert m.console.expect("done")[0] == "done"


def test_expect_that_takes_too_long_raises_timeout_error_with_the_tail(talk: Any) -> None:
    m = talk(b"still booting")
    m.start()
    m.console.expect("still", timeout=RUN)
    with pytest.raises(TimeoutError, match=r"(?s)no 'login:' on the console in 0.2 s.*booting"):
        m.console.expect("login:", timeout=0.2)
    assert m.state == "running"


def test_expect_on_a_machine_that_was_never_started_says_so(talk: Any) -> None:
    with pytest.raises(StateError, match=r"(?s)has said nothing.*start\(\) it first"):
        talk(b"").console.expect("x")


@pytest.mark.parametrize("pattern", [5, None, ["x"]])
def test_expect_of_what_is_no_pattern_is_refused(talk: Any, pattern: Any) -> None:
    with pytest.raises(TypeError, match="not a pattern"):
        talk(b"").console.expect(pattern)


def test_expect_when_the_machine_is_closed_by_another_thread_ends(talk: Any) -> None:
    import threading

    m = talk(b"hello")
    m.start()
    m.console.expect("hello", timeout=RUN)
    closer = threading.Timer(0.05, m.close)
    closer.start()
    with pytest.raises(StateError, match="stands still"):
        m.console.expect("never")
    closer.join()


def test_send_reaches_the_guest_and_comes_back(talk: Any) -> None:
    m = talk(b"> ")
    m.start()
    m.console.expect("> ", timeout=RUN)
    assert m.console.send("grün") == 5
    m.console.expect("grün", timeout=RUN)
    m.console.send(b"q")
    assert isinstance(m.wait(RUN), Exit.Halt)


def test_send_of_more_than_the_queue_holds_tells_how_much_was_taken(talk: Any) -> None:
    assert talk(b"").console.send(b"x" * 100_000) == 64 << 10


def test_sink_gets_what_the_console_gets(talk: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    m = talk(b"to the file")
    with path.open("w") as file:
        file.write("head: ")
        m.console.sink(file)
        m.console.send("q")
        assert isinstance(m.run(RUN), Exit.Halt)
        m.console.sink(None)
    assert path.read_bytes() == b"head: to the file"
    assert m.console.output == "to the file"


def test_sink_that_is_closed_loses_nothing_but_itself(talk: Any) -> None:
    reader, writer = os.pipe()
    m = talk(b"on and on")
    m.console.sink(writer)
    os.close(writer)
    os.close(reader)
    m.console.send("q")
    assert isinstance(m.run(RUN), Exit.Halt)
    assert m.console.output == "on and on"


def test_sink_of_a_bad_descriptor_is_an_os_error(talk: Any) -> None:
    with pytest.raises(OSError, match="descriptor"):
        talk(b"").console.sink(10_000)


@pytest.mark.fault(42)
def test_output_beyond_the_buffer_drops_the_oldest_and_counts(boot: Any) -> None:
    m = boot(
        "mov cx, 40000\n mov dx, 0xe9\n mov si, 0x3000\n again: outsb\n dec si\n loop again\n mov al, 'z'\n out dx, al\n hlt"
    )
    from hyperpy import Console, DebugConsole

    small = Console(1000)
    m.memory.write(0x3000, b"a")
    m.attach(DebugConsole(small), pio=0xE9)
    assert m.run(30.0) == Exit.Halt(0)
    assert small.output == "a" * 999 + "z"
    assert small.dropped == 40001 - 1000
    assert small.expect("az", timeout=0)[0] == "az"
