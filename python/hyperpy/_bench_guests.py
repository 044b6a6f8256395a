"""The guests of `hyperpy bench`: flat code in long mode that does one thing again and again and times each by its TSC.

The same bytes run under hyperpy and under the C floor. A guest is set up once; then each batch begins when it is run
and ends with a write to `END`. In between it does the operation `count` times and leaves how many ticks each took:

    <prologue>
    again:  out END, al
            mov r9d, [COUNT] ; mov r10d, TICKS
    next:   rdtsc ; mov r8d, eax ; mov r11d, edx
            <operation>                       ; may change all registers but r8 to r11 and rbx
            rdtsc ; sub eax, r8d ; sbb edx, r11d ; mov [r10], eax ; mov [r10 + 4], edx
            add r10, 8 ; dec r9d ; jnz next
            jmp again
"""

from __future__ import annotations

import functools
import struct
import time
from array import array
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from hyperpy._bench_floor import BenchError, Floor, start_of
from hyperpy.boot import Flat
from hyperpy.device import Device, Stop
from hyperpy.exits import Exit
from hyperpy.machine import Machine

__all__ = [
    "CODE",
    "COUNT",
    "END",
    "HANDLER",
    "INTERRUPTS",
    "INTERRUPTS_ON",
    "MEMORY",
    "MOST",
    "STRING",
    "VECTOR",
    "FloorGuest",
    "Guest",
    "Loop",
    "Side",
    "code_of",
    "ns_per_tick",
]

MEMORY = 2 << 20
CODE, HANDLER, COUNT, IDTR, IDT, STRING, TICKS = 0x1000, 0x2000, 0x3000, 0x3010, 0x4000, 0x2_0000, 0x10_0000
END = 0x98
MOST = (MEMORY - TICKS) // 8
VECTOR = 0x40
_BATCH = "batch"
_PATIENCE_S = 10.0
_CALIBRATE_S = 0.05

_AGAIN = (
    bytes.fromhex(f"e6{END:02x} 448b0c25") + struct.pack("<I", COUNT) + b"\x41\xba" + struct.pack("<I", TICKS)
)
_BEFORE = bytes.fromhex("0f31 4189c0 4189d3")
_AFTER = bytes.fromhex("0f31 4429c0 4419da 418902 41895204 4983c208 41ffc9")

# For guests that take interrupts. The prologue: lidt [IDTR]; mov eax, 0xfee000f0 (the spurious-interrupt vector register);
# mov dword ptr [rax], 0x1ff; sti. The handler counts in r12: inc r12d; push rax; mov eax, 0xfee000b0 (end of interrupt);
# mov dword ptr [rax], 0; pop rax; iretq.
INTERRUPTS_ON = b"\x0f\x01\x1c\x25" + struct.pack("<I", IDTR) + bytes.fromhex("b8f000e0fe c700ff010000 fb")
_SERVE = bytes.fromhex("41ffc4 50 b8b000e0fe c70000000000 58 48cf")
_GATE = struct.pack("<HHHHII", HANDLER, 0x10, 0x8E00, 0, 0, 0)
INTERRUPTS: Mapping[int, bytes] = {
    HANDLER: _SERVE,
    IDTR: struct.pack("<HQ", (VECTOR + 1) * 16 - 1, IDT),
    IDT + VECTOR * 16: _GATE,
}


def code_of(operation: bytes, prologue: bytes = b"") -> bytes:
    """The whole guest around an operation."""
    body = _BEFORE + operation + _AFTER
    again = len(body) + 6
    next_ = b"\x0f\x85" + struct.pack("<i", -again)  # jnz
    whole = len(_AGAIN) + again + 5
    return prologue + _AGAIN + body + next_ + b"\xe9" + struct.pack("<i", -whole)  # jmp


class Loop:
    """What a guest does, and what it needs: shared by both sides."""

    def __init__(
        self,
        operation: bytes,
        *,
        prologue: bytes = b"",
        data: Mapping[int, bytes] | None = None,
        irqchip: bool = False,
        whole: bytes | None = None,
    ) -> None:
        self.code = code_of(operation, prologue) if whole is None else whole
        self.data = dict(data or {})
        self.irqchip = irqchip

    def machine(self, attach: Callable[[Machine], object] | None = None) -> Machine:
        """A machine with the guest, its end port, and what `attach` gives it."""
        machine = Machine(memory=MEMORY, irqchip=self.irqchip, name="bench")
        try:
            machine.attach(_End(), pio=END, name="end of a batch")
            machine.load(Flat(self.code, at=CODE, mode="long"))
            for gpa, data in self.data.items():
                machine.memory.write(gpa, data)
            if attach is not None:
                attach(machine)
        except BaseException:
            machine.close()
            raise
        return machine

    def floor(self, prepare: Callable[[Floor], object] | None = None) -> Floor:
        """The same guest for C, after `prepare` has told KVM what it needs."""
        with self.machine() as machine:
            floor = Floor(*start_of(machine, MEMORY), irqchip=self.irqchip, end_port=END)
        try:
            if prepare is not None:
                prepare(floor)
        except BaseException:
            floor.close()
            raise
        return floor


class _End(Device):
    """Ends a batch."""

    size = 1

    def write(self, offset: int, size: int, value: int, /) -> Stop:
        return Stop(_BATCH)


class Side:
    """One side of a measurement; a context manager."""

    def batch(self, count: int) -> list[float]:
        """Do it `count` times, at most `MOST`; nanoseconds of each."""
        raise NotImplementedError

    def per_operation(self) -> dict[str, float]:
        """How many exits each operation took so far, and how many accesses each rung of the ladder has answered."""
        return {}

    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Guest(Side):
    """A guest under hyperpy."""

    def __init__(self, loop: Loop, attach: Callable[[Machine], object] | None = None) -> None:
        self.machine = loop.machine(attach)
        try:
            self._drive()
        except BaseException:
            self.machine.close()
            raise
        self._before = self.machine.stats
        self._batches = self._operations = 0

    def batch(self, count: int) -> list[float]:
        """See the base."""
        self.machine.memory.write(COUNT, struct.pack("<I", count))
        self._drive()
        self._batches += 1
        self._operations += count
        return _ns(self.machine.memory.read(TICKS, 8 * count))

    def per_operation(self) -> dict[str, float]:
        """See the base."""
        stats = self.machine.stats
        counts = {"exits": stats.exits - self._before.exits - self._batches}
        counts |= {rung: hits - self._before.hits[rung] for rung, hits in stats.hits.items()}
        counts["python"] -= self._batches  # the end of a batch is a Python device
        return {name: number / max(1, self._operations) for name, number in counts.items()}

    def close(self) -> None:
        """See the base."""
        self.machine.close()

    def _drive(self) -> None:
        machine = self.machine
        while True:
            match machine.run(_PATIENCE_S):
                case Exit.Stopped(reason=reason) if reason == _BATCH:
                    return
                case (
                    Exit.Pio(is_write=False) | Exit.Mmio(is_write=False) | Exit.Msr(is_write=False)
                ) as read:
                    machine.answer(read, 0)
                case Exit.Hypercall() as call:
                    machine.answer(call, 0)
                case Exit.Pio() | Exit.Mmio() | Exit.Msr() | Exit.Halt():
                    pass
                case other:
                    raise BenchError(
                        f"guest ended before its batch did: {other!r}", hint="see `hyperpy doctor`"
                    )


class FloorGuest(Side):
    """The same guest under the C floor."""

    def __init__(self, loop: Loop, prepare: Callable[[Floor], object] | None = None) -> None:
        self.floor = loop.floor(prepare)
        try:
            self.floor.drive()
        except BaseException:
            self.floor.close()
            raise
        self._before = self.floor.exits
        self._batches = self._operations = 0

    def batch(self, count: int) -> list[float]:
        """See the base."""
        self.floor.write(COUNT, struct.pack("<I", count))
        self.floor.drive()
        self._batches += 1
        self._operations += count
        return _ns(self.floor.read(TICKS, 8 * count))

    def per_operation(self) -> dict[str, float]:
        """See the base."""
        exits = self.floor.exits - self._before - self._batches
        return {"exits": exits / max(1, self._operations)}

    def close(self) -> None:
        """See the base."""
        self.floor.close()


def _ns(ticks: bytes) -> list[float]:
    scale = ns_per_tick()
    return [round(number * scale, 1) for number in array("Q", ticks)]


@functools.cache
def ns_per_tick() -> float:
    """How long a tick of a guest's TSC is, in nanoseconds: seen beside this process's clock, over 50 ms."""
    # again: rdtsc; mov [TICKS], eax; mov [TICKS + 4], edx; out END, al; jmp again
    code = b"\x0f\x31\x89\x04\x25" + struct.pack("<I", TICKS)
    code += b"\x89\x14\x25" + struct.pack("<I", TICKS + 4) + bytes.fromhex(f"e6{END:02x} ebec")

    def look() -> tuple[int, int]:
        """Both clocks; of several looks the one whose way out of the guest was shortest."""
        looks = []
        for _ in range(5):
            began = time.perf_counter_ns()
            machine.run(_PATIENCE_S)
            ended = time.perf_counter_ns()
            (ticks,) = struct.unpack("<Q", machine.memory.read(TICKS, 8))
            looks.append((ended - began, ticks, began + (ended - began) // 2))
        return min(looks)[1:]

    with Loop(b"", whole=code).machine() as machine:
        look()
        ticks, ns = look()
        time.sleep(_CALIBRATE_S)
        later_ticks, later_ns = look()
    if later_ticks <= ticks:
        raise BenchError("guest's time-stamp counter stands still", hint="see `hyperpy doctor`")
    return (later_ns - ns) / (later_ticks - ticks)
