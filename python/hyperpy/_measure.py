"""The guests by which the doctor measures a KVM: what kernel-mode code does on it, how fast that is, what an exit costs.

They run on the host's KVM for some milliseconds each; what is found is judged in `hyperpy.doctor`.
"""

from __future__ import annotations

import statistics
import time

from hyperpy import DebugExit, Exit, Flat, Machine

__all__ = ["exit_us", "kernel_code", "mips"]

# fwait; hlt. x87 is in every x86-64 processor and needs no set-up; KVM's emulator has no entry for opcode 0x9b.
_FWAIT = bytes.fromhex("9bf4")
# again: mov rcx, rbx; 1: dec ecx; jnz 1b; out 0x99, al; jmp again. The write to a port that nobody has ends a round.
_COUNT = bytes.fromhex("4889d9 ffc9 75fc e699 ebf5")
# The same with an `in al, 0xf4` before the dec: a device in Rust answers it.
_IN = bytes.fromhex("4889d9 e4f4 ffc9 75fa e699 ebf3")
_ROUNDS = 7
_ROUND_S = 0.02
_LIMIT_S = 0.5
_TURNS_MAX = 10**9  # it counts in ecx


def kernel_code() -> str:
    """Tell "native" or "interpreted": how an instruction that KVM's emulator lacks ends in kernel mode; else "unknown"."""
    with Machine(memory="1M") as machine:
        machine.load(Flat(_FWAIT, mode="long"))
        match machine.run(timeout=1.0):
            case Exit.Halt():
                return "native"
            case Exit.InternalError(suberror=1):  # KVM_INTERNAL_ERROR_EMULATION
                return "interpreted"
            case _:
                return "unknown"


def mips() -> float:
    """Million instructions a second of a counted loop in kernel mode."""
    with Machine(memory="1M") as machine:
        machine.load(Flat(_COUNT, mode="long"))
        return 2 / 1e6 / _seconds_per_turn(machine)


def exit_us() -> float:
    """Microseconds of a port read that a device in Rust answers."""
    with Machine(memory="1M") as machine:
        machine.attach(DebugExit(), pio=0xF4)  # its reads are answered with 0, in Rust
        machine.load(Flat(_IN, mode="long"))
        return _seconds_per_turn(machine) * 1e6


def _seconds_per_turn(machine: Machine) -> float:
    """Time of one turn of the guest's loop: the median of rounds long enough to be measured, less a round's own cost."""
    _round(machine, 1)  # the first one makes KVM's objects
    base = statistics.median(_round(machine, 1) for _ in range(_ROUNDS))
    turns = 100
    while (elapsed := _round(machine, turns) - base) < _ROUND_S / 10 and turns < _TURNS_MAX:
        turns *= 10
    turns = max(2, min(int(turns * _ROUND_S / max(elapsed, 1e-6)), _TURNS_MAX))
    whole = statistics.median(_round(machine, turns) for _ in range(_ROUNDS))
    return max(whole - base, 1e-9) / (turns - 1)


def _round(machine: Machine, turns: int) -> float:
    machine.vcpus[0].regs.rbx = turns
    start = time.perf_counter()
    exit_ = machine.run(timeout=_LIMIT_S)
    elapsed = time.perf_counter() - start
    if not isinstance(exit_, Exit.Pio):
        hint = "give it an idle host; `hyperpy doctor` tells about its KVM"
        raise RuntimeError(f"guest for the measurement ended with {exit_!r}\n\nhint: {hint}")
    return elapsed
