"""The guest fuzzer on real guests: where inputs go, where executions end, what they cover, and what is found."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.guests import Mode, assemble

from hyperpy import Device, Exit, Flat, Machine, StateError
from hyperpy.fuzz import GuestFuzzer, InputDevice

CODE, INPUT = 0x1000, 0x8000

# A parser: "FUZ" and then a length of more than 16 is copied over what comes after a buffer. `rsi` is the input's length.
PARSER = """
    mov ebx, 0x8000
    cmp esi, 4
    jb done
    cmp byte ptr [rbx], 'F'
    jne done
first:
    cmp byte ptr [rbx + 1], 'U'
    jne done
second:
    cmp byte ptr [rbx + 2], 'Z'
    jne done
third:
    movzx ecx, byte ptr [rbx + 3]
    cmp ecx, 16
    jbe done
broken:
    mov eax, [0x7000000]        # memory ends at 1 MiB
done:
    hlt
"""


def labels(source: str, mode: Mode = "long") -> dict[str, int]:
    """Addresses of a guest's labels."""
    code = assemble(source + "\n" + _table(source), mode)
    names = re.findall(r"^(\w+):", source, re.MULTILINE)
    size = 4 * len(names)
    words = [int.from_bytes(code[at : at + 4], "little") for at in range(len(code) - size, len(code), 4)]
    return dict(zip(names, words, strict=True))


def _table(source: str) -> str:
    return "\n".join(f".long {name}" for name in re.findall(r"^(\w+):", source, re.MULTILINE))


@contextmanager
def guest(source: str, mode: Mode = "long", *, trace: int = 0) -> Iterator[Machine]:
    """A machine in which it is about to begin."""
    with Machine(memory="1M", trace=trace) as machine:
        machine.load(Flat(assemble(source, mode), at=CODE, mode=mode))
        yield machine


def parser_fuzzer(machine: Machine, *, seed: int = 1, corpus: Path | None = None) -> GuestFuzzer:
    fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=seed, corpus=corpus)
    fuzzer.input_at(gpa=INPUT, max_len=64, length_register="rsi")
    at = labels(PARSER)
    fuzzer.stop_at(at["done"])
    fuzzer.cover(breakpoints=[at[name] for name in ("first", "second", "third", "broken")])
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer


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


DRIVER = """
    in al, 0x60
    mov [0x18000], al
    in eax, 0x60
    mov [0x18004], eax
    cmp al, 'X'
    jne done
wrong:
    mov eax, [0x7000000]
done:
    hlt
"""


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


def test_crash_state_has_no_trace_of_breakpoints() -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine)
        with_patches = fuzzer.replay(b"FUZ\x20")
        assert with_patches is not None
        state = with_patches.state
        code = assemble(PARSER, "long")
        assert state.read(CODE, len(code)) == code
    with guest(PARSER) as machine:
        plain = GuestFuzzer(machine, machine.snapshot())
        plain.input_at(gpa=INPUT, max_len=64, length_register="rsi")
        plain.crash_on(Exit.Mmio)
        without = plain.replay(b"FUZ\x20")
        assert without is not None
        assert without.state.hash() == state.hash()


def test_fuzzer_that_has_begun_cannot_be_told_more() -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine)
        fuzzer.run(executions=1)
        with pytest.raises(StateError, match="has begun"):
            fuzzer.stop_at(0x1000)


def test_plan_that_does_not_fit_is_refused() -> None:
    with guest(PARSER) as machine:
        base = machine.snapshot()

        def refused(tell: str) -> str:
            fuzzer = GuestFuzzer(machine, base)
            with pytest.raises(ValueError, match=r"hint: ") as caught:
                exec(tell, {"f": fuzzer})
                fuzzer.run(executions=1)
            return str(caught.value).partition("\n")[0]

        assert refused("f.input_at(gpa=0, max_len=0)") == "length of an input is out of range: 0"
        assert refused("f.input_at(gpa=0xFFFFC, max_len=8)") == "no memory for an input of 8 bytes at 0xffffc"
        assert refused("f.input_register('eip')").startswith("no such general register: 'eip'")
        assert refused("f.stop_at(0x7000000)") == "no memory behind the code at 0x7000000"
        assert refused("f.cover(window=(0x10001, 0x1000))").startswith(
            "window of counters at 0x10001 does not fit"
        )
        assert refused("f.limit(ms=0)") == "limit in milliseconds is out of range: 0"
        assert refused("f.crash_on(vectors=[32])") == "no such exception: 32"


def test_crash_folder_has_all_that_is_known_and_its_script_reproduces(tmp_path: Path) -> None:
    with guest(PARSER, trace=64) as machine:
        fuzzer = parser_fuzzer(machine)
        crash = fuzzer.replay(b"FUZ\x20")
        assert crash is not None
        folder = crash.save(tmp_path)
        names = {"base.hps", "error.txt", "input", "operations.txt", "reproduce.py", "state.txt", "trace.txt"}
        assert {file.name for file in folder.iterdir()} == names
        assert (folder / "input").read_bytes() == b"FUZ\x20"
        assert "gpa 0x8000: 4 bytes, rsi = 4" in (folder / "operations.txt").read_text()
        assert "mmio read  0x7000000" in (folder / "trace.txt").read_text()
        assert "regs.rip" in (folder / "state.txt").read_text()
        assert crash.save(tmp_path) == folder
    done = _python(folder / "reproduce.py")
    assert done.returncode == 1
    assert "the guest ends by Exit.Mmio 0x7000000" in done.stderr


def _python(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )


TARGET = """
from hyperpy import Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer, InputDevice

def target() -> GuestFuzzer:
    machine = Machine(memory="1M")
    device = machine.attach(InputDevice(size=4), pio=0x60)
    machine.load(Flat(bytes.fromhex("{code}"), at=0x1000, mode="long"))
    fuzzer = GuestFuzzer(machine, machine.snapshot())
    fuzzer.input_device(device)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer
"""


def test_fuzzer_of_a_function_has_a_script_that_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hostile_target.py"
    file.write_text(TARGET.format(code=assemble(DRIVER, "long").hex()))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("hostile_target")
    fuzzer = GuestFuzzer.of(module.target, seed=1)
    with fuzzer.machine:
        crash = fuzzer.replay(b"aXbcd")
        assert crash is not None
        crash.write_script(tmp_path / "again.py")
    done = _python(tmp_path / "again.py")
    assert done.returncode == 1
    assert "GuestFault: the guest ends by Exit.Mmio" in done.stderr


def test_several_workers_find_what_one_does(tmp_path: Path) -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine, corpus=tmp_path / "corpus")
        fuzzer.workers = 2
        report = fuzzer.run(executions=20_000)
        assert [crash.exit for crash in fuzzer.crashes] == ["Mmio"]
        assert report.executions >= 20_000
        assert not report.problems
        assert any((tmp_path / "corpus").iterdir())
