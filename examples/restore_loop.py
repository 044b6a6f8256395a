"""Finds the word that a guest wants to hear, by trying: a loop of write, run, look and restore. Prints restores per second.

The guest compares its input with a word that the script does not look at, and counts in a page how far it comes. That page
is spared when the guest is put back, so it tells which letter brought it further. Runs on any KVM: python examples/restore_loop.py
"""

import sys
import time

from hyperpy import Exit, Flat, Machine

INPUT, COVERAGE, WORD = 0x8000, 0x9000, 0x2000
PAGE = 0x1000
GUEST = bytes.fromhex(
    "be0080"  #       mov si, 0x8000      ; the input
    "bf0090"  #       mov di, 0x9000      ; how far it comes
    "bb0020"  #       mov bx, 0x2000      ; the word
    "8a07"  #   next: mov al, [bx]
    "84c0"  #         test al, al
    "740b"  #         jz found
    "3a04"  #         cmp al, [si]
    "7509"  #         jne end
    "fe05"  #         inc byte ptr [di]
    "46 47 43"  #     inc si; inc di; inc bx
    "ebef"  #         jmp next
    "e610"  #  found: out 0x10, al        ; nobody is there: an exit
    "f4"  #      end: hlt
)
LETTERS = b"abcdefghijklmnopqrstuvwxyz "


def find(machine: Machine) -> tuple[bytes, int]:
    """Return what the guest wants to hear, and how many runs that took."""
    base, known, runs = machine.snapshot(), b"", 0
    while True:
        for letter in LETTERS:
            runs += 1
            tried = known + bytes([letter])
            machine.memory.write(INPUT, tried)
            ended = machine.run(timeout=1.0)
            came_to = machine.memory.read(COVERAGE + len(known), 1) != b"\0"
            machine.restore(base, spare=[(COVERAGE, PAGE)])
            if isinstance(ended, Exit.Pio):
                return tried, runs
            if came_to:
                known = tried
                break
        else:
            raise LookupError(f"nothing comes after {known!r}")


def main(word: str) -> None:
    with Machine(memory="64M") as machine:
        machine.load(Flat(GUEST, at=0x1000, mode="real"))
        machine.memory.write(WORD, word.encode() + b"\0")
        began = time.perf_counter()
        found, runs = find(machine)
        took = time.perf_counter() - began
        print(f"found {found.decode()!r} by {runs} runs and restores, {runs / took:,.0f} a second")
        print(f"the last restore: {machine.stats.restore}")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["open sesame"])
