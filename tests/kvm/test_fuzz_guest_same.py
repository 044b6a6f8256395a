"""The same seed gives the same executions, corpus and crashes, in files too, whenever the fuzzer has looked at the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.guests import assemble
from tests.parsers import CODE, INPUT, PARSER, parser_fuzzer

from hyperpy import Exit, Flat, Machine, Snapshot, _fuzz_guest
from hyperpy.fuzz import GuestFuzzer

# Counts by two bytes of the input, so that inputs are made shorter; and breaks by a third.
COUNTING = """
    mov ebx, 0x8000
    movzx eax, byte ptr [rbx]
    and al, 63
    inc byte ptr [rax + 0x10000]
    movzx eax, byte ptr [rbx + 1]
    and al, 63
    inc byte ptr [rax + 0x10040]
    cmp byte ptr [rbx + 2], 0x41
    jne done
    mov eax, [0x7000000]
done:
    hlt
"""


def files(folder: Path) -> dict[str, bytes | int]:
    """All that is kept; snapshots, which tell when they were written, by what is in them."""
    return {
        str(file.relative_to(folder)): (
            Snapshot.open(file).hash() if file.suffix == ".hps" else file.read_bytes()
        )
        for file in folder.rglob("*")
        if file.is_file()
    }


def counting(machine: Machine, folder: Path, seed: int) -> GuestFuzzer:
    fuzzer = GuestFuzzer(
        machine, machine.snapshot(), seed=seed, corpus=folder / "corpus", crashes=folder / "crashes"
    )
    fuzzer.input_at(gpa=INPUT, max_len=32)
    fuzzer.cover(window=(0x10000, 0x1000), comparisons=False)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer


def parsing(machine: Machine, folder: Path, seed: int) -> GuestFuzzer:
    return parser_fuzzer(machine, seed=seed, corpus=folder / "corpus", crashes=folder / "crashes")


@pytest.mark.parametrize(("source", "make"), [(COUNTING, counting), (PARSER, parsing)])
def test_folders_are_the_same_byte_for_byte_however_a_run_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, make: object
) -> None:
    assert callable(make)

    def run(name: str, seed: int, parts: list[int], slice_: float) -> dict[str, bytes | int]:
        monkeypatch.setattr(_fuzz_guest, "_SLICE", slice_)
        # A script tells the machine's name, which is a number elsewhere.
        with Machine(memory="1M", trace=16, name="same") as machine:
            machine.load(Flat(assemble(source, "long"), at=CODE, mode="long"))
            fuzzer = make(machine, tmp_path / name, seed)
            for executions in parts:
                fuzzer.run(executions=executions)
            assert sorted((tmp_path / name / "corpus").iterdir())
            assert len(fuzzer.inputs) == len(list((tmp_path / name / "corpus").iterdir()))
        return files(tmp_path / name)

    whole = run("whole", 1, [3000], 1000.0)
    assert [name for name in whole if name.startswith("crashes/") and name.endswith("/input")]
    assert run("again", 1, [3000], 1000.0) == whole
    assert run("slices", 1, [3000], 0.001) == whole
    assert run("parts", 1, [1, 2, *[7] * 20, 2857], 0.25) == whole
    assert run("other", 2, [3000], 1000.0) != whole
