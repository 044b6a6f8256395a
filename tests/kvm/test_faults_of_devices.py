"""What a Python device raises (docs/design.md, run loop, rule 6): who gets it, what it tells, what the guest sees."""

from __future__ import annotations

import re
import threading
import traceback
from typing import Any

import pytest

from hyperpy import Device, Exit

pytestmark = pytest.mark.core

RUN = 10.0
MMIO = 0xFE00_0000


class Broken(Device):
    """Raises what it is given at each access."""

    size = 8

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def read(self, offset: int, size: int) -> int:
        raise self.errors.pop(0)

    def write(self, offset: int, size: int, value: int) -> None:
        raise self.errors.pop(0)  # the line of the write


class Odd(Exception):
    """An exception of the test's own."""


@pytest.mark.fault(31)
def test_exception_of_a_read_is_raised_itself_and_reads_ones(boot: Any) -> None:
    error = Odd("read")
    m = boot("xor eax, eax\n in ax, 0x80\n hlt")
    m.attach(Broken(error), pio=0x80)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    assert caught.value is error
    assert m.errors == [error]
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFFFF


@pytest.mark.fault(31)
def test_exception_of_a_write_shows_the_line_of_the_device(boot: Any) -> None:
    m = boot("out 0x80, al\n hlt")
    m.attach(Broken(Odd("write")), pio=0x80)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].line == "raise self.errors.pop(0)  # the line of the write"
    assert frames[0].name == "test_exception_of_a_write_shows_the_line_of_the_device"
    assert m.run(RUN) == Exit.Halt(0)


def test_note_of_a_read_names_device_access_vcpu_and_rip_at_the_access(boot: Any) -> None:
    m = boot("nop\n in ax, 0x83\n hlt")
    m.attach(Broken(Odd()), pio=0x80, name="my ports")
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    assert caught.value.__notes__ == [
        "device my ports: read of port 0x83, 2 bytes, vcpu 0, rip 0x1001 (at the access)"
    ]


def test_note_of_a_write_names_the_value_and_rip_after_the_access(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov eax, 0x1234\n mov [rbx + 4], eax\n hlt", "long")
    m.attach(Broken(Odd()), mmio=MMIO)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    rip = m.vcpus[0].regs.rip
    where = re.escape(
        f"write of 0x1234 to mmio {MMIO + 4:#x}, 4 bytes, vcpu 0, rip {rip:#x} (after the access)"
    )
    assert re.fullmatch(f"device Broken: {where}", caught.value.__notes__[0])
    assert m.memory.read(rip, 1) == b"\xf4"


@pytest.mark.fault(31)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exception_that_ends_programs_passes_without_notes(boot: Any, kind: type[BaseException]) -> None:
    m = boot("xor eax, eax\n in al, 0x80\n hlt")
    m.attach(Broken(kind("now")), pio=0x80)
    with pytest.raises(kind) as caught:
        m.run(RUN)
    assert not hasattr(caught.value, "__notes__")
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFF


def test_exception_in_each_part_of_an_access_across_a_page_keeps_both(boot: Any) -> None:
    first, second = Odd("first"), Odd("second")
    m = boot(f"mov rbx, {MMIO}\n mov rax, [rbx + 0xffd]\n hlt", "long")
    m.attach(Broken(first, second), mmio=MMIO, size=0x2000)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    assert caught.value is first
    assert m.errors == [first, second]
    assert "then Odd: second" in first.__notes__
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 2**64 - 1


def test_exceptions_kept_in_errors_are_the_last_ones_until_a_reset(boot: Any) -> None:
    class Raises(Device):
        size = 1
        count = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.count += 1
            raise ValueError(self.count)

    m = boot("again: out 0x80, al\n jmp again")
    m.attach(Raises(), pio=0x80)
    for _ in range(70):
        with pytest.raises(ValueError, match="[0-9]+"):
            m.run(10.0)
    assert [error.args[0] for error in m.errors] == list(range(7, 71))
    assert m.errors_dropped == 6
    m.reset()
    assert (m.errors, m.errors_dropped) == ([], 0)


def test_exception_in_a_started_machine_is_raised_by_wait(boot: Any) -> None:
    error = Odd("started")
    m = boot("in al, 0x80\n hlt")
    m.attach(Broken(error), pio=0x80)
    m.start()
    with pytest.raises(Odd) as caught:
        m.wait(RUN)
    assert caught.value is error
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)


# Two vcpus: the first one starts the second by INIT and SIPI (SDM vol. 3, 9.4.4), and both read port 0x80.
SMP = """
    mov eax, 0xfee00300
    mov ebx, 0x000c4500
    mov [eax], ebx
    mov ebx, 0x000c4608
    mov [eax], ebx
    in al, 0x80
    cli
    hlt
"""
AP = "in al, 0x80\n cli\n hlt"


def test_exceptions_of_several_vcpus_first_is_raised_and_later_ones_are_told(boot: Any) -> None:
    from tests.guests import assemble

    both = threading.Barrier(2)

    class Both(Device):
        size = 1

        def __init__(self) -> None:
            self.raised: list[Odd] = []

        def read(self, offset: int, size: int) -> int:
            both.wait(RUN)
            error = Odd(threading.current_thread().name)
            self.raised.append(error)
            raise error

    m = boot(SMP, "protected", vcpus=2)
    m.memory.write(0x8000, assemble(AP, "real", 0x8000))
    device = m.attach(Both(), pio=0x80)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    assert len(device.raised) == 2
    assert set(m.errors) == set(device.raised)
    assert caught.value is m.errors[0]
    other = m.errors[1]
    assert f"then Odd: {other}" in caught.value.__notes__
    assert {note.split("vcpu ")[1][0] for error in m.errors for note in error.__notes__[:1]} == {"0", "1"}
    assert isinstance(m.run(RUN), Exit.Halt)
