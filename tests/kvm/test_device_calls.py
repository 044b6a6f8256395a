"""What a Python device's read and write may return, raise and call."""

from __future__ import annotations

from typing import Any

import pytest

import hyperpy
from hyperpy import Device, DeviceError, Exit, Machine, StateError, Stop

pytestmark = pytest.mark.core
RUN = 10.0


def test_stop_from_a_write_ends_the_run_after_the_instruction(boot: Any) -> None:
    class Power(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Stop:
            return Stop(f"off {value:#x}")

    m = boot("mov al, 7\n out 0x80, al\n mov bl, 9\n hlt")
    m.attach(Power(), pio=0x80)
    assert m.run(RUN) == Exit.Stopped(0, "off 0x7")
    assert m.vcpus[0].regs.rip == 0x1004


def test_stop_with_a_reason_that_is_no_string_is_an_error(boot: Any) -> None:
    class Odd(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Stop:
            return Stop(5)  # type: ignore[arg-type]

    m = boot("out 0x80, al\n hlt")
    m.attach(Odd(), pio=0x80)
    with pytest.raises(TypeError, match="not a reason: 5"):
        m.run(RUN)


class _Index:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize("answer", [True, False, 0, 0xFF, _Index(0x42)])
def test_read_that_returns_a_number_that_fits_is_taken(boot: Any, answer: Any) -> None:
    m = boot("in al, 0x80\n hlt")
    m.attach(_Answers(answer), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == answer.__index__()


class _Answers(Device):
    size = 4

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read(self, offset: int, size: int) -> Any:
        return self.answer


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, DeviceError),
        ("7", DeviceError),
        (b"\x07", DeviceError),
        (-1, DeviceError),
        (0x100, DeviceError),
        (2**64, DeviceError),
        (2**4000, DeviceError),
        (1.0, DeviceError),
        ([], DeviceError),
        (_Index(ZeroDivisionError("in index")), ZeroDivisionError),
        (_Index(0x100), DeviceError),
        (_Index(-1), DeviceError),
        (_Index("7"), DeviceError),
    ],
    ids=repr,
)
def test_read_that_returns_something_unusable_is_an_error_and_the_guest_reads_ones(
    boot: Any, answer: Any, error: type[Exception]
) -> None:
    m = boot("xor eax, eax\n in al, 0x80\n hlt")
    m.attach(_Answers(answer), pio=0x80)
    with pytest.raises(error) as caught:
        m.run(RUN)
    assert any("_Answers: read of port 0x80, 1 bytes, vcpu 0" in note for note in caught.value.__notes__)
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFF


@pytest.mark.fault(31)
@pytest.mark.parametrize("answer", [0, True, "stop", Stop, StopIteration()], ids=repr)
def test_write_that_returns_something_else_is_an_error(boot: Any, answer: Any) -> None:
    class Odd(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Any:
            return answer

    m = boot("out 0x80, al\n hlt")
    m.attach(Odd(), pio=0x80)
    with pytest.raises(DeviceError, match="write returned"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


VERBS = {
    "run": lambda m: m.run(1.0),
    "start": lambda m: m.start(),
    "wait": lambda m: m.wait(1.0),
    "pause": lambda m: m.pause(),
    "resume": lambda m: m.resume(),
    "reset": lambda m: m.reset(),
    "close": lambda m: m.close(),
    "answer": lambda m: m.answer(Exit.Pio(0, 0x99, 1, False, 0), 1),
    "load": lambda m: m.load(hyperpy.Flat(b"\xf4", mode="real")),
    "regs": lambda m: m.vcpus[0].regs.rax,
    "set regs": lambda m: m.vcpus[0].regs.update(rax=1),
    "sregs": lambda m: m.vcpus[0].sregs.cr0,
    "expect": lambda m: m.console.expect("x"),
    "interact": lambda m: m.console.interact(),
    "snapshot": lambda m: m.snapshot(),
    "fork": lambda m: m.fork(),
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("whose", ["its own", "another"])
def test_verb_that_waits_inside_a_callback_is_refused(boot: Any, verb: str, whose: str) -> None:
    m, other = boot("out 0x80, al\n hlt"), boot()
    target: Machine = m if whose == "its own" else other
    raised: list[Exception] = []

    class Calls(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            with pytest.raises(StateError) as caught:
                VERBS[verb](target)
            raised.append(caught.value)

    m.attach(Calls(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert "inside a device callback" in str(raised[0])


@pytest.mark.fault(32)
def test_expect_of_a_console_of_no_machine_inside_a_callback_is_refused(boot: Any) -> None:
    console = hyperpy.Console()

    class Waits(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            console.expect("x")

    m = boot("out 0x80, al\n hlt")
    m.attach(hyperpy.DebugConsole(console), pio=0xE9)
    m.attach(Waits(), pio=0x80)
    with pytest.raises(StateError, match="cannot expect inside a device callback"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


def test_stop_inside_a_callback_is_a_request(boot: Any) -> None:
    m = boot("again: out 0x80, al\n jmp again")

    class Stops(Device):
        size = 1
        calls = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.calls += 1
            m.stop("enough")

    device = m.attach(Stops(), pio=0x80)
    assert m.run(RUN) == Exit.Stopped(None, "enough")
    assert device.calls == 1


@pytest.mark.fault(32)
def test_device_that_recurses_for_ever_is_an_error(boot: Any) -> None:

    class Deep(Device):
        size = 1

        def read(self, offset: int, size: int) -> int:
            return self.read(offset, size)

    m = boot("in al, 0x80\n hlt")
    m.attach(Deep(), pio=0x80)
    with pytest.raises(RecursionError) as caught:
        m.run(RUN)
    assert "device Deep" in caught.value.__notes__[0]
    assert m.run(RUN) == Exit.Halt(0)
