"""The guest fuzzer on real guests: where inputs go, where executions end, and what they cover."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.parsers import DRIVER, INPUT, PARSER, guest, labels, parser_fuzzer

from hyperpy import Device, Exit
from hyperpy.fuzz import GuestCrash, GuestFuzzer, InputDevice


def test_parser_covered_by_breakpoints_is_broken() -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine)
        for _ in range(100):
            if fuzzer.run(executions=500).crashes:
                break
        (crash,) = fuzzer.crashes
        assert (crash.kind, crash.exit, crash.rip) == ("exit", "Mmio", labels(PARSER)["broken"])
        assert crash.input[:3] == b"FUZ"
        assert crash.input[3] > 16
        small = crash.minimize()
        assert len(small.input) == 4
        assert fuzzer.replay(small.input) is not None
        assert fuzzer.replay(b"FUZ\x10") is None


def test_same_seed_gives_the_same_executions_corpus_and_crashes() -> None:
    def run(seed: int) -> tuple[object, ...]:
        with guest(PARSER) as machine:
            fuzzer = parser_fuzzer(machine, seed=seed)
            report = fuzzer.run(executions=3000)
            found = [(crash.input, crash.key) for crash in fuzzer.crashes]
            return report.executions, report.coverage, fuzzer.inputs, found

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_corpus_of_one_fuzzer_is_learned_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"FUZ\x01")
    with guest(PARSER) as machine:
        assert parser_fuzzer(machine, corpus=tmp_path).run(executions=1).coverage == 3
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine, corpus=tmp_path)
        assert fuzzer.run(executions=1).coverage == 3
        assert fuzzer.inputs == [b"FUZ\x01"]


def test_guest_is_put_back_and_its_own_halt_is_no_breakpoint() -> None:
    # Halts where a block begins, and then once more.
    source = "inc byte ptr [0x18000]\nblock: hlt\nlater: hlt"
    with guest(source) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=8)
        fuzzer.cover(breakpoints=[labels(source)["block"]], comparisons=False)
        assert fuzzer.run(executions=3).coverage == 1
        assert machine.memory.read(0x18000, 1) == b"\x01"
        assert machine.vcpus[0].regs.rip == labels(source)["later"]


def test_input_in_registers_and_memory_is_shared_out_in_order() -> None:
    source = "mov [0x18000], rdi\nmov [0x18008], rax\nmov [0x18010], rdx\nhlt"
    with guest(source) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_register("rdi")
        fuzzer.input_at(gva=0x19FFE, max_len=4, length_register="rax")
        fuzzer.input_register("rdx")
        fuzzer.replay(b"ABCDEFGHijklmn")
        assert machine.memory.read(0x18000, 8) == b"ABCDEFGH"
        assert machine.memory.read(0x19FFE, 4) == b"ijkl"
        assert machine.memory.read(0x18008, 16) == (4).to_bytes(8, "little") + b"mn" + bytes(6)
        fuzzer.replay(b"")
        assert machine.memory.read(0x18000, 24) == bytes(24)


def test_driver_is_fuzzed_by_an_input_device() -> None:
    with guest(DRIVER) as machine:
        device = machine.attach(InputDevice(size=4), pio=0x60)
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=3)
        fuzzer.input_device(device)
        fuzzer.crash_on(Exit.Mmio)
        fuzzer.replay(b"abcdef")
        assert machine.memory.read(0x18000, 8) == b"a\0\0\0bcde"
        fuzzer.replay(b"a")
        assert machine.memory.read(0x18000, 8) == b"a\0\0\0\xff\xff\xff\xff"
        for _ in range(40):
            if fuzzer.run(executions=200).crashes:
                break
        assert fuzzer.crashes[0].input[1] == ord("X")
        assert fuzzer.crashes[0].operations[0].startswith("devices: ")


class Hostile(Device):
    """Answers from the input."""

    size = 4
    saved_attributes = ()

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.fuzz_input.read(size), "little")  # type: ignore[attr-defined] # the fuzzer's

    def write(self, offset: int, size: int, value: int) -> None:
        pass


def test_driver_is_fuzzed_by_a_device_in_python() -> None:
    with guest(DRIVER) as machine:
        device = machine.attach(Hostile(), pio=0x60)
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_device(device)
        fuzzer.crash_on(Exit.Mmio)
        assert fuzzer.replay(b"aXbcd") is not None
        assert fuzzer.replay(b"a") is None


def test_exception_of_a_device_in_python_ends_the_run() -> None:
    class Broken(Hostile):
        def read(self, offset: int, size: int) -> int:
            raise ZeroDivisionError("in the device")

    with guest(DRIVER) as machine:
        device = machine.attach(Broken(), pio=0x60)
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_device(device)
        with pytest.raises(ZeroDivisionError, match="in the device"):
            fuzzer.run(executions=10)


# Real mode: handlers of divide errors and invalid opcodes; the input's first byte says which it shall be.
VECTORS = """
    mov word ptr [0], offset divided
    mov word ptr [2], 0
    mov word ptr [24], offset invalid
    mov word ptr [26], 0
ready:
    call handle
over:
    hlt
handle:
    mov al, [0x8000]
    cmp al, 1
    je divide
    cmp al, 2
    je undefined
    ret
divide:
    xor cx, cx
    div cx
undefined:
    ud2
divided:
    iret
invalid:
    iret
"""


@contextmanager
def vectors_fuzzer() -> Iterator[GuestFuzzer]:
    at = labels(VECTORS, "real")
    with guest(VECTORS, "real") as machine:
        machine.vcpus[0].run_until(at["ready"], timeout=10.0)
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.stop_at(at["over"])
        fuzzer.crash_on(vectors=[0, 6, 13])
        yield fuzzer


def test_exceptions_are_found_where_they_were_raised() -> None:
    at = labels(VECTORS, "real")
    with vectors_fuzzer() as fuzzer:
        crash = fuzzer.replay(b"\x01")
        assert crash is not None
        assert (crash.kind, crash.vectors) == ("exception", (0,))
        assert crash.rip == at["divide"] + 2
        assert crash.callers == (at["over"],)
        crash = fuzzer.replay(b"\x02")
        assert crash is not None
        assert (crash.vectors, crash.rip) == ((6,), at["undefined"])
        assert fuzzer.replay(b"\x03") is None


# A breakpoint may lie on the call that led to where the base is.
CALLED = """
    call broken
after:
    hlt
broken:
    mov ebx, 0x8000
    cmp byte ptr [rbx], 0x41
    jne done
    mov eax, [0x7000000]
done:
    ret
"""


@pytest.mark.parametrize("are_covered", [False, True])
def test_breakpoints_are_no_part_of_what_is_told_nor_left_in_memory(are_covered: bool) -> None:
    at = labels(CALLED, "long")
    with guest(CALLED, "long") as machine:
        code = machine.memory.read(0x1000, 64)
        machine.vcpus[0].run_until(at["broken"], timeout=10.0)
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1, dictionary=[b"A"])
        fuzzer.input_at(gpa=0x8000, max_len=4)
        fuzzer.crash_on(Exit.Mmio)
        fuzzer.stop_at(at["after"])
        if are_covered:
            fuzzer.cover(breakpoints=[0x1000, at["broken"]])
        (crash,) = fuzzer.run(executions=2000).crashes
        assert isinstance(crash, GuestCrash)
        assert crash.callers == (at["after"],)
        assert machine.memory.read(0x1000, 64) == code
        crash.minimize()
        assert machine.memory.read(0x1000, 64) == code


def test_vectors_that_share_a_handler_are_told_together() -> None:
    source = VECTORS.replace("offset invalid", "offset divided")
    at = labels(source, "real")
    with guest(source, "real") as machine:
        machine.vcpus[0].run_until(at["ready"], timeout=10.0)
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.crash_on(vectors=[0, 6])
        crash = fuzzer.replay(b"\x02")
        assert crash is not None
        assert crash.vectors == (0, 6)
        assert "exception 0 or 6" in str(crash.error)


def test_exception_of_a_guest_without_a_table_is_a_shutdown() -> None:
    with guest("mov eax, [0x8000]\nudiv: xor ecx, ecx\ncmp al, 1\njne done\ndiv ecx\ndone: hlt") as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.crash_on(vectors=[0])
        crash = fuzzer.replay(b"\x01")
        assert crash is not None
        assert (crash.kind, crash.exit) == ("exit", "Shutdown")
        assert fuzzer.replay(b"\x02") is None


def test_address_that_is_a_crash_is_found() -> None:
    with guest(PARSER) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=64, length_register="rsi")
        fuzzer.crash_on(addresses=[labels(PARSER)["broken"]])
        crash = fuzzer.replay(b"FUZ\x20")
        assert crash is not None
        assert (crash.kind, crash.rip) == ("address", labels(PARSER)["broken"])
        assert fuzzer.machine.vcpus[0].regs.rip == labels(PARSER)["broken"]


SPIN = "cmp byte ptr [0x8000], 1\njne done\nagain: inc eax\ninc ebx\njmp again\ndone: hlt"


def test_execution_that_does_not_end_hangs_by_time() -> None:
    with guest(SPIN) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.limit(ms=20)
        crash = fuzzer.replay(b"\x01")
        assert crash is not None
        assert crash.kind == "hang"
        assert fuzzer.replay(b"\x00") is None


def test_execution_that_does_not_end_hangs_by_instructions_at_the_same_place_each_time() -> None:
    with guest(SPIN) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.limit(ms=5, instructions=100)
        found = [fuzzer.replay(b"\x01") for _ in range(3)]
        assert {crash.rip for crash in found if crash is not None and crash.kind == "hang"} == {found[0].rip}  # type: ignore[union-attr]


def test_execution_by_steps_that_does_not_end_hangs_by_time() -> None:
    with guest(SPIN) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1)
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.cover(steps=True)
        fuzzer.limit(ms=10)
        began = time.process_time()
        crash = fuzzer.replay(b"\x01")
        assert time.process_time() - began < 2.0
        assert crash is not None
        assert crash.kind == "hang"
        assert fuzzer.replay(b"\x00") is None
        assert fuzzer.run(executions=100).executions == 100


def test_hang_is_no_crash_where_it_need_not_be() -> None:
    with guest(SPIN) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.limit(ms=5, hangs=False)
        assert fuzzer.replay(b"\x01") is None


def test_steps_cover_and_end_at_a_halt_of_the_guest() -> None:
    with guest(PARSER) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1)
        fuzzer.input_at(gpa=INPUT, max_len=8, length_register="rsi")
        fuzzer.cover(steps=True)
        fuzzer.limit(instructions=200)
        fuzzer.crash_on(Exit.Mmio)
        assert fuzzer.replay(b"FUZ\x01") is None
        for _ in range(100):
            if fuzzer.run(executions=100).crashes:
                break
        assert fuzzer.crashes[0].exit == "Mmio"


def test_comparisons_find_a_number_that_no_chance_does() -> None:
    source = "cmp dword ptr [0x8000], 0x5ca1ab1e\njne done\nfound: mov eax, [0x7000000]\ndone: hlt"
    with guest(source) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1)
        fuzzer.input_at(gpa=INPUT, max_len=4)
        fuzzer.cover(breakpoints=[labels(source)["done"], labels(source)["found"]])
        fuzzer.crash_on(Exit.Mmio)
        for _ in range(50):
            if fuzzer.run(executions=200).crashes:
                break
        assert fuzzer.crashes[0].input == bytes.fromhex("1eaba15c")


COUNTING = """
    movzx eax, byte ptr [0x8000]
    and eax, 7
    inc byte ptr [0x10000 + rax]
    hlt
"""


def test_window_of_counters_is_coverage_and_restores_spare_it() -> None:
    with guest(COUNTING) as machine:
        machine.memory.write(0x10000, b"\xee" * 16)
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1)
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.cover(window=(0x10000, 0x1000))
        report = fuzzer.run(executions=400)
        assert (report.coverage, report.corpus) == (8, 8)
        assert {data[0] & 7 for data in fuzzer.inputs if data} | {0} == set(range(8))
        assert sum(machine.memory.read(0x10000, 16)) == 1


def test_window_of_kcov_is_coverage() -> None:
    source = """
        movzx eax, byte ptr [0x8000]
        and eax, 3
        lea rcx, [rax * 8 + 0x400000]
        mov [0x10008], rcx
        mov qword ptr [0x10000], 1
        hlt
    """
    with guest(source) as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=1)
        fuzzer.input_at(gpa=INPUT, max_len=1)
        fuzzer.cover(window=(0x10000, 0x1000), layout="kcov")
        assert fuzzer.run(executions=300).coverage == 4
