"""Bare guests with one bug each: code without a system, that reads an input and halts, or writes to a port where nothing is.

The input lies at 0x20000, and rsi is how long it is. What each does, and does wrong, is told in its source beside this; it is made into
code by GNU as and ld. Those of one vcpu are 64-bit code and have no interrupt table: an exception ends in `Exit.Shutdown`.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyperpy import AnyExit, Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer

__all__ = ["GUESTS", "INPUT", "LONGEST", "PlantedGuest", "fuzzer_of", "machine_with", "run"]

INPUT, LONGEST = 0x20000, 512
_AT = 0x1000
_END_PORT = 0x99


@dataclass(frozen=True)
class PlantedGuest:
    """A guest with a bug.

    Arguments:
        name: of its source.
        kind: the class of bugs that it stands for.
        proof: an input that shows it: the guest ends in another way than it should.
        mode: that it begins in.
        vcpus: how many it has. Several end by a write to port 0x99, since one that halts waits for another one.
        counters: a page in which it counts how often each place was passed, if it has one.
    """

    name: str
    kind: str
    proof: bytes
    mode: Literal["real", "long"] = "long"
    vcpus: int = 1
    counters: int | None = None

    def code(self, *, fixed: bool = False) -> bytes:
        """Its bytes, with the bug or without."""
        return _assembled(self.name, self.mode, fixed)[0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Where blocks of its code begin: its labels."""
        return _assembled(self.name, self.mode, False)[1]

    def is_end(self, exit_: AnyExit) -> bool:
        """Whether it has ended as it should."""
        if self.vcpus == 1:
            return isinstance(exit_, Exit.Halt)
        return isinstance(exit_, Exit.Pio) and exit_.address == _END_PORT


@functools.cache
def _assembled(name: str, mode: str, fixed: bool) -> tuple[bytes, tuple[int, ...]]:
    """Code, and where its labels are."""
    bits, code, emulation = (
        ("--64", ".code64", "elf_x86_64") if mode == "long" else ("--32", ".code16", "elf_i386")
    )
    source = Path(__file__).with_name(f"{name}.S").read_text()
    with tempfile.TemporaryDirectory(prefix="hyperpy-planted-") as folder:
        object_file, flat = Path(folder, "guest.o"), Path(folder, "guest.bin")
        text = f".intel_syntax noprefix\n{code}\n.globl _start\n_start:\n{source}\n"
        assemble = ["as", bits, "--defsym", f"FIXED={int(fixed)}", "-o", str(object_file), "-"]
        subprocess.run(assemble, input=text, text=True, check=True)
        link = [
            "ld",
            "-m",
            emulation,
            f"-Ttext={_AT:#x}",
            "--oformat=binary",
            "-o",
            str(flat),
            str(object_file),
        ]
        subprocess.run(link, check=True)
        names = subprocess.run(["nm", str(object_file)], capture_output=True, text=True, check=True).stdout
        labels = (line.split() for line in names.splitlines())
        return flat.read_bytes(), tuple(_AT + int(at, 16) for at, kind, _ in labels if kind in "tT")


def machine_with(guest: PlantedGuest, *, fixed: bool = False) -> Machine:
    """A machine where the guest is about to read its input."""
    machine = Machine(memory="1M", vcpus=guest.vcpus)
    machine.load(Flat(guest.code(fixed=fixed), at=_AT, mode=guest.mode))
    if guest.vcpus > 1 and not guest.is_end(exit_ := machine.run(timeout=5.0)):
        machine.close()
        raise RuntimeError(f"the vcpus do not begin: {exit_}")
    return machine


def run(machine: Machine, data: bytes) -> AnyExit:
    """Give the guest an input, and run it."""
    machine.memory.write(INPUT, data)
    machine.vcpus[0].regs.rsi = len(data)
    return machine.run(timeout=5.0)


def fuzzer_of(guest: PlantedGuest, machine: Machine, *, seed: int) -> GuestFuzzer:
    """What looks for its bug, from where the machine stands."""
    fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=seed)
    fuzzer.input_at(gpa=INPUT, max_len=LONGEST, length_register="rsi")
    if guest.counters is None:
        fuzzer.cover(breakpoints=guest.blocks)
    else:
        fuzzer.cover(window=(guest.counters, 0x1000))
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer


GUESTS = (
    PlantedGuest("records", "parser overrun", bytes([1, 24]) + b"a" * 24),
    PlantedGuest("calls", "unchecked call table", bytes([4])),
    PlantedGuest("average", "divide error", b"\xff\xff"),
    PlantedGuest("brackets", "stack overflow by recursion", b"[" * 128),
    PlantedGuest("monitor", "missing bounds in a command loop", b"a\x00\x00\x00\x01p\x00\x00\x00\x00\x00"),
    PlantedGuest("jobs", "race of two vcpus", b"p1p2p3psp4s", mode="real", vcpus=2, counters=0xA000),
)
