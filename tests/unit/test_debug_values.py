"""What debugging gives as values: disassembly, page walks, traces, and exits that say what they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hyperpy
from hyperpy import Exit, GuestFault, MemoryAccessError
from hyperpy.disassembly import Instruction, disassemble
from hyperpy.paging import Page, PageLevel, PageWalk
from hyperpy.trace import Trace, TraceEntry


def test_disassemble_takes_any_buffer_and_gives_every_byte() -> None:
    code = b"\x06\x90\xb8\x01"
    for given in (code, bytearray(code), memoryview(code)):
        assert disassemble(given, address=0x10) == [
            Instruction(0x10, b"\x06", "(bad)"),
            Instruction(0x11, b"\x90", "nop"),
            Instruction(0x12, b"\xb8\x01", "(cut off)"),
        ]
    assert disassemble(b"") == []
    assert str(disassemble(b"\x0f\x0b", address=0x1000)[0]).split() == ["0x1000", "0f", "0b", "ud2"]


def test_disassemble_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="16, 32 or 64 bits: 8"):
        disassemble(b"\x90", bits=8)
    for address in (-1, 1 << 64):
        with pytest.raises(ValueError, match="64 bits"):
            disassemble(b"\x90", address=address)
    with pytest.raises(TypeError):
        disassemble("nop")  # type: ignore[arg-type]


def test_disassemble_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, hyperpy\nassert 'hyperpy.disassembly' not in sys.modules\nhyperpy.disassemble(b'')"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hyperpy.nothing  # noqa: B018


def test_walk_prints_flags_by_name_and_requires_a_page() -> None:
    levels = (
        PageLevel("PD", 0x1000, 1, 0x1004, 0x2067),
        PageLevel("PT", 0x2000, 1, 0x2004, 1 << 63 | 0x3181),
    )
    walk = PageWalk(0x401ABC, "PAE paging", levels, Page(0x3ABC, 0x1000, False, False, False), None, "it is")
    assert [level.flags for level in levels] == ["P RW US A D", "P PAT G NX"]
    assert str(walk).splitlines()[0] == "it is (PAE paging, page of 4 KiB, read by the kernel only)"
    assert walk.require() == walk.gpa == 0x3ABC
    missing = PageWalk(5, "PAE paging", (), None, None, "it is not")
    assert str(missing) == "it is not"
    with pytest.raises(MemoryAccessError, match="it is not") as caught:
        missing.require()
    assert (caught.value.address, caught.value.size) == (5, 1)
    assert str(Page(0, 12345, True, True, True)) == "page of 0x3039 bytes, writable, user, executable"


def test_trace_prints_times_before_the_last_exit() -> None:
    trace = Trace(
        [
            TraceEntry(1_000_000, 0, "pio", 0x80, 5, 1, 3, True, 0x1002),
            TraceEntry(1_002_500, 1, "msr", 0x10, 0, 0, 1, False, 0x2000),
            TraceEntry(1_003_000, 0, "halt", 0, 0, 0, 1, False, 0x1003),
        ]
    )
    assert [line.split() for line in str(trace).splitlines()[1:]] == [
        ["0", "-3.0", "pio", "write", "x3", "0x80", "1", "0x5", "0x1002"],
        ["1", "-0.5", "msr", "read", "0x10", "0x0", "0x2000"],
        ["0", "0.0", "halt", "0x0", "0x0", "0x1003"],
    ]


def test_exit_debug_says_what_was_hit() -> None:
    assert (Exit.Debug(0, 0, 0xFFFF4FF0).is_step, Exit.Debug(0, 0, 0xFFFF4FF0).hits) == (True, ())
    assert (Exit.Debug(0, 0, 0xFFFF0FFA).is_step, Exit.Debug(0, 0, 0xFFFF0FFA).hits) == (False, (1, 3))


@pytest.mark.parametrize(
    ("exit_", "error", "instruction"),
    [
        (Exit.InternalError(0, 1, 0, b"\x0f\x0b"), "emulation", "ud2"),
        (Exit.InternalError(0, 1, 0, b"\x40\xb8\x01\x02", 16), "emulation", "inc ax"),
        (Exit.InternalError(0, 2, 0, b""), "simultaneous exceptions", None),
        (Exit.InternalError(0, 99, 0, b""), "unknown error", None),
        (Exit.InternalError(0, 0, 77, b""), "unknown exit", None),
        (Exit.InternalError(0, 1, 0, b"\xff", 5), "emulation", "(cut off)"),
    ],
)
def test_exit_internal_error_says_it_in_words(
    exit_: Exit.InternalError, error: str, instruction: str | None
) -> None:
    assert (exit_.error, exit_.instruction) == (error, instruction)
    assert f"error={error!r}" in repr(exit_)


def test_fault_without_anything_seen_is_its_message() -> None:
    fault = GuestFault("it broke", exit=Exit.Halt(3), hint="mend it")
    assert str(fault) == "it broke; vcpu 3\n\nhint: mend it"
    fault.regs = {"rip": 0x10, "rax": 1}
    assert str(fault).startswith("it broke; vcpu 3, rip 0x10\n\nregisters:\n   rax 0000000000000001")
