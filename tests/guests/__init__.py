"""Tiny guests: assembly in Intel syntax, made into flat code by GNU as and ld when a test wants it.

A guest that is more than a few lines lies in a `.S` file beside this one; the others are written in their tests. Linked
at the address where they are loaded, so that labels are guest-physical addresses. What they do is told in them.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import pytest

from hyperpy.doctor import flavour
from hyperpy.lab import is_inside

Mode = Literal["real", "protected", "long"]

# For protected mode: starts every other vcpu at 0x8000, by INIT and SIPI to all but itself (SDM vol. 3, 9.4.4).
START_OTHERS = """
    mov dword ptr [0xfee00300], 0x000c4500
    mov dword ptr [0xfee00300], 0x000c4608
"""

_BITS = {"real": (".code16", "--32", "elf_i386"), "protected": (".code32", "--32", "elf_i386")}
_LONG = (".code64", "--64", "elf_x86_64")


@functools.cache
def assemble(source: str, mode: Mode = "real", at: int = 0x1000) -> bytes:
    """The bytes of a guest that is loaded at gpa `at` and entered at its first instruction in `mode`."""
    code, bits, emulation = _BITS.get(mode, _LONG)
    text = f".intel_syntax noprefix\n{code}\n.globl _start\n_start:\n{source}\n"
    with tempfile.TemporaryDirectory(prefix="hyperpy-guest-") as folder:
        object_file, flat = Path(folder, "guest.o"), Path(folder, "guest.bin")
        _run("as", bits, "-o", object_file, "-", given=text)
        _run("ld", "-m", emulation, f"-Ttext={at:#x}", "--oformat=binary", "-o", flat, object_file)
        return flat.read_bytes()


def guest(name: str, mode: Mode = "real", at: int = 0x1000) -> bytes:
    """The bytes of the guest in `name`.S."""
    return assemble(Path(__file__).with_name(f"{name}.S").read_text(), mode, at)


def interruptible() -> str:
    """What a guest that computes for long begins with: nothing, but in the Intel lab.

    In Bochs 2.7 no interrupt ends guest code that runs with interrupts off, as one does on an Intel processor: nothing
    could stop it, and the emulator has one CPU. There they are switched on; none comes.
    """
    return "sti" if flavour() == "intel" and is_inside() else ""


def skip_where_steps_repeat() -> None:
    """Skip a test whose guest is stepped over accesses where that is told twice.

    Bochs 2.7 keeps the trap of a step that left the guest before it was done (an access, the first touch of a page), and
    delivers it at the next entry, before an instruction: the same place is told again. So it is in the Intel lab alone.
    """
    if flavour() == "intel" and is_inside():
        pytest.skip("in Bochs a step over an access is told twice")


def spin() -> str:
    """The source of a guest that computes for ever."""
    return f"{interruptible()}\n again: jmp again"


def _run(*command: str | Path, given: str | None = None) -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{command[0]} refuses the guest:\n{done.stderr}\n{given or ''}")
