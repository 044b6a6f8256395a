"""What a trace says of each exit beside its numbers, as a list, an iterator and an array. On scripted machines."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.declared import BASE, Dma, Link

from hyperpy import DebugExit, Device, Exit, GuestFault, Register
from hyperpy.testing import Read, ScriptedMachine, Write
from hyperpy.trace import Trace, TraceEntry

RUN = 10.0


def where(trace: Trace) -> list[str]:
    """Names in a trace, but for its end."""
    return [entry.where for entry in trace if entry.kind != "halt"]


class Plain(Device):
    """No registers."""

    size = 8


# -- names -----------------------------------------------------------------------------------------------------------


def test_trace_names_devices_and_the_registers_that_they_declare() -> None:
    script = [
        Read(mmio=BASE + 0x3, size=1),
        Write(1, mmio=BASE + 0x0, size=1),
        Read(mmio=BASE + 0x2, size=1),
        Read(mmio=BASE + 0x0, size=4),
        Read(mmio=BASE + 0x4, size=1),
        Read(mmio=BASE + 0x14, size=8),
        Read(mmio=BASE + 0xF, size=1),
        Read(mmio=BASE + 0x1000 + 0x148, size=4),
        Read(pio=0x84, size=1),
        Read(pio=0x99, size=1),
    ]
    with ScriptedMachine(script, trace=16, unclaimed="ones") as m:
        m.attach(Link(), mmio=BASE, name="link")
        m.attach(Dma(), mmio=BASE + 0x1000)
        m.attach(Plain(), pio=0x80)
        m.run(RUN)
        trace = m.trace()
    assert where(trace) == [
        "link.index",
        "link.sent",
        "link.low|divisor",
        "link.received+control+low|divisor+index",
        "link.data",
        "link.buffer",
        "link.ticks",
        "Dma.channels[2].control",
        "Plain",
        "",
    ]
    assert (trace[0].device, trace[0].register) == ("link", "index")
    assert (trace[-1].kind, trace[-1].where) == ("halt", "")


def test_trace_names_who_was_there_when_the_exit_was_made_though_another_is_there_now() -> None:
    class First(Device):
        status = Register(0x0)

    class Second(Device):
        control = Register(0x0)

    with ScriptedMachine([Read(mmio=BASE), Read(mmio=0x1000), Read(mmio=BASE)], trace=16) as m:
        first = m.attach(First(), mmio=BASE)
        assert isinstance(m.run(RUN), Exit.Mmio)
        m.detach(first)
        m.attach(Second(), mmio=BASE, name="second")
        m.run(RUN)
        assert where(m.trace()) == ["First.status", "", "second.control"]
    assert where(m.trace()) == ["First.status", "", "second.control"]


def test_trace_of_a_device_that_went_long_ago_has_no_name() -> None:
    with ScriptedMachine([Read(mmio=BASE), Read(mmio=0x1000)], trace=16) as m:
        first = m.attach(Plain(), mmio=BASE)
        m.run(RUN)
        m.detach(first)
        for _ in range(63):
            m.detach(m.attach(Plain(), mmio=BASE))
        assert where(m.trace()) == ["Plain", ""]
        m.detach(m.attach(Plain(), mmio=BASE))
        assert where(m.trace()) == ["", ""]


def test_trace_names_the_registers_of_stock_devices() -> None:
    reads = [0x3F8, 0x3FA, 0x3FD, 0x70, 0x71, 0x60, 0x64, 0x600, 0x602, 0x501]
    writes = [0x3F8, 0x3FA, 0x64]
    script: list[Read | Write] = [Read(pio=port, size=1) for port in reads]
    script += [Write(0, pio=port, size=1) for port in writes]
    with ScriptedMachine(script, trace=32, unclaimed="ones") as m:
        m.attach_pc()
        m.attach(DebugExit(), pio=0x500, name="exit")
        m.run(RUN)
        names = where(m.trace())
    assert names[:7] == [
        "uart com1.receiver_buffer|divisor_low",
        "uart com1.interrupt_identification",
        "uart com1.line_status",
        "rtc.index",
        "rtc.data",
        "i8042 data",
        "i8042 command.status",
    ]
    assert names[9:] == [
        "exit",
        "uart com1.transmitter_holding|divisor_low",
        "uart com1.fifo_control",
        "i8042 command.command",
    ]


def test_fault_shows_the_names_of_the_last_exits() -> None:
    with ScriptedMachine([Read(mmio=BASE), Read(mmio=0x10)], trace=16, unclaimed="raise") as m:
        m.attach(Link(), mmio=BASE, name="link")
        with pytest.raises(GuestFault) as caught:
            m.run(RUN)
    assert "link.received+control+low|divisor+index" in str(caught.value)


# -- a list, an iterator -----------------------------------------------------------------------------------------------


def _entries(count: int) -> Trace:
    return Trace(
        TraceEntry(1000 + n, n % 2, "mmio", n, 2**64 - 1 - n, 4, 1, bool(n % 2), n, "uart", "data")
        for n in range(count)
    )


def test_trace_is_a_list_and_an_iterator_and_its_slices_are_traces() -> None:
    trace = _entries(3)
    assert [entry.address for entry in trace] == [entry.address for entry in trace] == [0, 1, 2]
    assert [next(trace).address, next(trace).address, next(trace).address] == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(trace)
    assert isinstance(trace, Iterator)
    assert isinstance(trace[1:], Trace)
    assert (trace[1:], trace[-1].address) == (list(trace)[1:], 2)


class Gate(Device):
    """Holds the guest until it is let go."""

    size = 4

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def read(self, offset: int, size: int, /) -> int:
        self.reached.set()
        assert self.go_on.wait(RUN)
        return 7


def test_trace_that_is_followed_gives_each_exit_once_with_its_answer_until_the_machine_stands() -> None:
    gate = Gate()
    script = [
        Read(mmio=0x1000, size=1),
        Write(1, mmio=0x1008, size=1),
        Read(mmio=BASE),
        Write(2, mmio=0x1010),
    ]
    with ScriptedMachine(script, trace=64, unclaimed="ones") as m:
        m.attach(gate, mmio=BASE, name="gate")
        m.start()
        assert gate.reached.wait(RUN)
        following = m.trace(follow=True)
        first, second = next(following), next(following)
        assert [(e.address, e.value) for e in (first, second)] == [(0x1000, 0xFF), (0x1008, 1)]
        # The read that waits is not told before it is answered.
        threading.Timer(0.1, gate.go_on.set).start()
        rest = list(following)
        assert [(e.kind, e.address, e.value, e.where) for e in rest] == [
            ("mmio", BASE, 7, "gate"),
            ("mmio", 0x1010, 2, ""),
            ("halt", 0, 0, ""),
        ]
        assert m.wait(RUN) == Exit.Halt(0)


def test_trace_that_is_followed_on_a_machine_that_stands_gives_what_there_is() -> None:
    with ScriptedMachine([Read(mmio=0x1000)], trace=64, unclaimed="ones") as m:
        assert list(m.trace(follow=True)) == []
        m.run(RUN)
        assert list(m.trace(follow=True)) == m.trace()
        assert len(m.trace()) == 2
    assert list(m.trace(follow=True)) == m.trace()


def test_trace_that_is_followed_leaves_out_what_was_overwritten_and_goes_on() -> None:
    gate = Gate()
    script = [*(Write(n, mmio=0x1000 + n, size=1) for n in range(100)), Read(mmio=BASE)]
    with ScriptedMachine(script, trace=8, unclaimed="ones") as m:
        m.attach(gate, mmio=BASE)
        m.start()
        assert gate.reached.wait(RUN)
        following = m.trace(follow=True)
        assert next(following).value == 93
        gate.go_on.set()
        assert [e.value for e in following] == [94, 95, 96, 97, 98, 99, 7, 0]


# -- an array ----------------------------------------------------------------------------------------------------------


def test_trace_as_an_array_has_a_field_for_each_of_an_entry() -> None:
    numpy = pytest.importorskip("numpy")
    trace = _entries(1000)
    for array in (trace.array(), numpy.asarray(trace), numpy.array(trace)):
        assert array.shape == (1000,)
        assert array.dtype.names == tuple(TraceEntry.__dataclass_fields__)
        assert [TraceEntry(*row) for row in array.tolist()] == trace
    array = trace.array()
    assert array["value"][array["is_write"]].tolist()[:2] == [2**64 - 2, 2**64 - 4]
    assert (array["device"] == "uart").all()
    assert trace[:0].array().shape == (0,)
    assert trace[:0].array().dtype.names == array.dtype.names


def test_trace_without_numpy_has_no_array_and_says_so() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from hyperpy.trace import Trace\n"
        "try: Trace().array()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "an array of a trace wants numpy"
    assert "hint: pip install" in done.stdout
