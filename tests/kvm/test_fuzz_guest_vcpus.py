"""Findings of guests with several vcpus: each is told with the registers of the vcpu that it happened on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.guests import assemble

from hyperpy import Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer

SECOND, INPUT = 0x8000, 0x9000
# Starts the second vcpu (INIT, SIPI), and waits.
FIRST = """
    mov dword ptr [0xfee000f0], 0x1ff
    mov dword ptr [0xfee00310], 0x1000000
    mov dword ptr [0xfee00300], 0x4500
    mov dword ptr [0xfee00310], 0x1000000
    mov dword ptr [0xfee00300], 0x4608
    cli
    hlt
"""
# Does what the input says.
OTHER = """
    mov al, [0x9000]
    cmp al, 1
    je broken
again:
    cmp al, 2
    je again
    cli
    hlt
broken:
    in al, 0x99
    cli
    hlt
"""


@contextmanager
def two_vcpus() -> Iterator[GuestFuzzer]:
    with Machine(memory="1M", vcpus=2) as machine:
        machine.load(Flat(assemble(FIRST, "protected"), at=0x1000, mode="protected"))
        machine.memory.write(SECOND, assemble(OTHER, "real", SECOND))
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.crash_on(Exit.Pio)
        fuzzer.limit(ms=50)
        yield fuzzer


def test_exit_of_the_second_vcpu_is_told_with_its_registers() -> None:
    with two_vcpus() as fuzzer:
        crash = fuzzer.replay(b"\x01")
        assert crash is not None
        assert (crash.exit, crash.vcpu) == ("Pio", 1)
        assert SECOND <= crash.rip < SECOND + 0x40
        assert crash.rip == fuzzer.machine.vcpus[1].regs.rip + fuzzer.machine.vcpus[1].sregs.cs.base
        assert str(crash.error).startswith(f"the guest ends by Exit.Pio 0x99 at {crash.rip:#x} on vcpu 1")


def test_hang_is_told_of_the_vcpu_that_does_not_wait() -> None:
    with two_vcpus() as fuzzer:
        crash = fuzzer.replay(b"\x02")
        assert crash is not None
        assert (crash.kind, crash.vcpu) == ("hang", 1)
        assert SECOND <= crash.rip < SECOND + 0x40


@pytest.mark.parametrize("data", [b"", b"\x03"])
def test_guest_whose_vcpus_halt_is_no_finding(data: bytes) -> None:
    with two_vcpus() as fuzzer:
        assert fuzzer.replay(data) is None
