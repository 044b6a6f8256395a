"""Bare guests with one bug each: 64-bit code without a system, that reads an input and halts.

The input lies at 0x20000, and rsi is how long it is. What each does, and does wrong, is told in its source beside this; it is made into
code by GNU as and ld. None has an interrupt table: an exception ends in `Exit.Shutdown`.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hyperpy import AnyExit, Flat, Machine

__all__ = ["GUESTS", "INPUT", "LONGEST", "PlantedGuest", "machine_with", "run"]

INPUT, LONGEST = 0x20000, 512
_AT = 0x1000


@dataclass(frozen=True)
class PlantedGuest:
    """A guest with a bug.

    Arguments:
        name: of its source.
        kind: the class of bugs that it stands for.
        proof: an input that shows it: the guest ends in another way than by its halt.
    """

    name: str
    kind: str
    proof: bytes

    def code(self, *, fixed: bool = False) -> bytes:
        """Its bytes, with the bug or without."""
        return _assembled(self.name, fixed)


@functools.cache
def _assembled(name: str, fixed: bool) -> bytes:
    source = Path(__file__).with_name(f"{name}.S").read_text()
    with tempfile.TemporaryDirectory(prefix="hyperpy-planted-") as folder:
        object_file, flat = Path(folder, "guest.o"), Path(folder, "guest.bin")
        text = f".intel_syntax noprefix\n.code64\n.globl _start\n_start:\n{source}\n"
        assemble = ["as", "--64", "--defsym", f"FIXED={int(fixed)}", "-o", str(object_file), "-"]
        subprocess.run(assemble, input=text, text=True, check=True)
        link = [
            "ld",
            "-m",
            "elf_x86_64",
            f"-Ttext={_AT:#x}",
            "--oformat=binary",
            "-o",
            str(flat),
            str(object_file),
        ]
        subprocess.run(link, check=True)
        return flat.read_bytes()


def machine_with(guest: PlantedGuest, *, fixed: bool = False) -> Machine:
    """A machine where the guest is about to read its input."""
    machine = Machine(memory="1M")
    machine.load(Flat(guest.code(fixed=fixed), at=_AT, mode="long"))
    return machine


def run(machine: Machine, data: bytes) -> AnyExit:
    """Give the guest an input, and run it."""
    machine.memory.write(INPUT, data)
    machine.vcpus[0].regs.rsi = len(data)
    return machine.run(timeout=5.0)


GUESTS = (
    PlantedGuest("records", "parser overrun", bytes([1, 24]) + b"a" * 24),
    PlantedGuest("calls", "unchecked call table", bytes([4])),
    PlantedGuest("average", "divide error", b"\xff"),
    PlantedGuest("brackets", "stack overflow by recursion", b"[" * 128),
    PlantedGuest("monitor", "missing bounds in a command loop", b"a\x00\x00\x00\x01p\x00\x00\x00\x00\x00"),
)
