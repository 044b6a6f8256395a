"""A guest that parses, with one bug, and what the tests of the guest fuzzer do with it and with others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guests import Mode, assemble

from hyperpy import Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer

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


def parser_fuzzer(
    machine: Machine, *, seed: int = 1, corpus: Path | None = None, crashes: Path | None = None
) -> GuestFuzzer:
    fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=seed, corpus=corpus, crashes=crashes)
    fuzzer.input_at(gpa=INPUT, max_len=64, length_register="rsi")
    at = labels(PARSER)
    fuzzer.stop_at(at["done"])
    fuzzer.cover(breakpoints=[at[name] for name in ("first", "second", "third", "broken")])
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer


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
