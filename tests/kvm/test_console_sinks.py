"""Sinks of the console: callables, and files that are slow, full or closed (docs/faults.md, row 42)."""

from __future__ import annotations

import fcntl
import gc
import io
import logging
import os
import pty
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Console, DebugConsole, Exit, Machine

RUN = 30.0
# How long a vcpu waits for a file that is full.
PATIENCE = 0.05
# Writes to the debug console, 0xff00 bytes per `rep`: more than a small console and any pipe or terminal holds.
TIMES = 3
TOTAL = TIMES * 0xFF00
SMALL = 64 << 10
FLOOD = f"""
    cld
    mov bx, {TIMES}
    mov dx, 0xe9
again:
    mov cx, 0xff00
    xor si, si
    rep outsb
    dec bx
    jnz again
    hlt
"""


def talking(boot: Any, text: bytes) -> Machine:
    """A machine that says a text and halts."""
    m: Machine = boot("mov si, 0x3000\n mov cx, [0x2ffe]\n mov dx, 0xe9\n rep outsb\n hlt")
    m.memory.write(0x2FFE, len(text).to_bytes(2, "little") + text)
    m.attach(DebugConsole(m.console), pio=0xE9)
    return m


def flooding(boot: Any) -> Machine:
    m: Machine = boot(FLOOD)
    m.attach(DebugConsole(m.console), pio=0xE9)
    return m


class Collect:
    """A sink that keeps what it gets; it waits in its first call until it may go on."""

    def __init__(self, *, waits: bool = False) -> None:
        self.data = bytearray()
        self.threads: set[str] = set()
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        if not waits:
            self.may_go_on.set()

    def __call__(self, data: bytes) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.may_go_on.wait(RUN)
        self.data += data


def test_sink_callable_gets_all_output_in_order_on_its_own_thread(boot: Any) -> None:
    text = bytes(range(256)) * 20
    m, sink = talking(boot, text), Collect()
    m.console.sink(sink)
    assert m.run(RUN) == Exit.Halt(0)
    m.close()
    assert bytes(sink.data) == text
    assert sink.threads == {"hyperpy-sink"}
    assert m.console.sink_dropped == 0


def test_sink_callable_gets_output_while_the_guest_runs_and_may_use_its_verbs(boot: Any) -> None:
    m = boot("mov al, 'x'\n out 0xe9, al\n again: jmp again")
    m.attach(DebugConsole(m.console), pio=0xE9)
    m.console.sink(lambda data: m.stop(f"said {data!r}"))
    assert m.run(RUN) == Exit.Stopped(None, "said b'x'")


@pytest.mark.fault(42)
def test_sink_callable_that_is_slow_neither_stalls_the_guest_nor_grows(boot: Any) -> None:
    m, small, sink = boot(FLOOD), Console(SMALL), Collect(waits=True)
    m.attach(DebugConsole(small), pio=0xE9)
    small.sink(sink)
    m.start()
    assert sink.entered.wait(RUN)
    assert m.wait(RUN) == Exit.Halt(0)  # while the sink is still in its first call
    assert not sink.data
    sink.may_go_on.set()
    small.sink(None)
    assert small.sink_dropped > 0
    assert len(sink.data) + small.sink_dropped == TOTAL
    assert small.dropped == TOTAL - SMALL


@pytest.mark.fault(42)
@pytest.mark.parametrize("error", [LookupError("no"), SystemExit(3)], ids=repr)
@pytest.mark.fault(42)
def test_sink_callable_that_raises_is_reported_once_and_is_no_more(
    boot: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[bytes] = []

    def sink(data: bytes) -> None:
        calls.append(data)
        raise error

    m = flooding(boot)
    m.console.sink(sink)
    with caplog.at_level(logging.ERROR, "hyperpy.console"):
        assert m.run(RUN) == Exit.Halt(0)
        m.close()
    assert m.errors == [error]
    assert [record.getMessage() for record in caplog.records] == [
        "sink of the console raised, and is no more"
    ]
    assert len(calls) == 1


@pytest.mark.fault(42)
def test_sink_callable_that_never_returns_holds_close_up_for_a_second_at_most(boot: Any) -> None:
    m, sink = talking(boot, b"one"), Collect(waits=True)
    m.console.sink(sink)
    m.start()
    assert sink.entered.wait(RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    begin = time.monotonic()
    m.close()
    assert 0.9 < time.monotonic() - begin < 5
    sink.may_go_on.set()


def test_sink_callable_may_close_its_machine_and_take_itself_off(boot: Any) -> None:
    m = talking(boot, b"bye")
    done = threading.Event()

    def sink(data: bytes) -> None:
        m.console.sink(None)
        m.close()
        done.set()

    m.console.sink(sink)
    m.start()
    assert done.wait(RUN)
    assert (m.state, m.errors) == ("closed", [])


def test_sink_that_is_replaced_is_first_given_what_was_said(boot: Any) -> None:
    m, first, second = talking(boot, b"before after"), Collect(), Collect()
    m.console.sink(first)
    assert m.run(RUN) == Exit.Halt(0)
    m.console.sink(second)
    m.close()
    assert (bytes(first.data), bytes(second.data)) == (b"before after", b"")


def sinks() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hyperpy-sink"]


def test_sink_callable_of_a_forgotten_machine_ends_with_it() -> None:
    machine = Machine(memory="1M")
    machine.console.sink(print)
    (thread,) = sinks()
    with pytest.warns(ResourceWarning):
        del machine
        gc.collect()
    thread.join(RUN)
    assert not sinks()


@pytest.mark.fault(42)
def test_sink_that_is_full_or_closed_loses_output_that_is_counted(boot: Any) -> None:
    """Nobody reads the pipe; then nobody can."""
    m = flooding(boot)
    reader, writer = os.pipe()
    m.console.sink(writer)
    assert m.run(RUN) == Exit.Halt(0)
    in_pipe = len(os.read(reader, 1 << 20))
    assert m.console.sink_dropped == TOTAL - in_pipe
    os.close(reader)
    before = m.console.sink_dropped
    m.vcpus[0].regs.rip = 0x1000
    assert m.run(RUN) == Exit.Halt(0)
    assert m.console.sink_dropped - before == TOTAL
    os.close(writer)


@pytest.mark.fault(42)
def test_sink_on_a_terminal_that_nobody_reads_does_not_hold_the_guest_up(boot: Any) -> None:
    """A terminal says that it has room, and then blocks who writes more than that."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    m = flooding(boot)
    m.console.sink(slave)
    assert not fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_NONBLOCK  # others have the terminal too
    m.start()
    begin = time.monotonic()
    assert m.wait(RUN) == Exit.Halt(0)
    assert time.monotonic() - begin < RUN
    assert 0 < m.console.sink_dropped < TOTAL
    m.console.sink(None)
    assert termios.tcgetattr(slave) == attributes
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("kind", [io.BytesIO, io.StringIO])
def test_sink_stream_without_a_descriptor_is_written(boot: Any, kind: Any) -> None:
    """As a notebook's standard output is; its text is UTF-8, also where a call of write ends inside a character."""
    stream, text = kind(), "caf\u00e9 " * 2000
    with talking(boot, text.encode() + b"\xff") as m:
        m.console.sink(stream)
        assert m.run(RUN) == Exit.Halt(0)
        assert m.console.sink_dropped == 0
    assert stream.getvalue() == (text.encode() + b"\xff" if kind is io.BytesIO else text + "\ufffd")


def test_sink_that_cannot_be_written_is_refused(boot: Any) -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="descriptor"):
        boot().console.sink(reader)
    os.close(reader)
    os.close(writer)


@pytest.mark.fault(42)
def test_sink_that_is_full_is_waited_for_though_signals_come(boot: Any) -> None:
    """The vcpu's thread waits in poll(2), which no flag of a handler restarts; a change of the limit signals it there."""
    m = boot("mov al, 0x41\n out 0xe9, al\n hlt")
    m.attach(DebugConsole(m.console), pio=0xE9)
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    rounds = 0
    while rounds < 5:
        os.write(writer, bytes(size))
        m.console.sink(writer)
        before = m.console.sink_dropped
        m.vcpus[0].regs.rip = 0x1000
        begin = time.monotonic()
        m.start()
        until_in_poll()
        m.cpu_limit = 1.0
        data = os.read(reader, size)
        was_in_time = time.monotonic() - begin < PATIENCE  # else the vcpu may rightly have given up
        assert m.wait(RUN) == Exit.Halt(0)
        lost = m.console.sink_dropped - before
        if not lost:
            data += os.read(reader, size)
        if was_in_time:
            assert (lost, data) == (0, bytes(size) + b"A")
            rounds += 1
    os.close(reader)
    os.close(writer)


def until_in_poll() -> None:
    """Until the thread of vcpu 0 waits in poll(2) (proc(5): the first word is the number of the call)."""
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("hyperpy-vcpu0"))
    deadline = time.monotonic() + RUN
    while not Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().startswith("7 "):
        assert time.monotonic() < deadline
