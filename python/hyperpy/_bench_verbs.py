"""The sides of `hyperpy bench` that are timed from outside: a machine's life, its memory, its threads, calls of Python.

Each has its counterpart in _floor_more.c, unless nothing in C is like it. Times are of this process's monotonic clock.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from functools import partial

from hyperpy._bench_floor import BenchError, Floor, calls, library, lives, start_of
from hyperpy._bench_guests import (
    CODE,
    COUNT,
    END,
    HANDLER,
    INTERRUPTS,
    INTERRUPTS_ON,
    MEMORY,
    VECTOR,
    Loop,
    Side,
)
from hyperpy.boot import Flat
from hyperpy.device import Device
from hyperpy.exits import Exit
from hyperpy.irq import Msi
from hyperpy.machine import Machine
from hyperpy.testing import Read, ScriptedMachine, Write

__all__ = [
    "GSI",
    "MESSAGE",
    "Attach",
    "Call",
    "FloorCall",
    "FloorLife",
    "FloorMaps",
    "FloorThread",
    "Kick",
    "Life",
    "Maps",
    "Timed",
    "Wake",
    "kicked",
    "woken",
]

GSI, MESSAGE = 24, 0xFEE0_0000
_SERVED = 0x80
_REGION, _REGION_SIZE = 0x4000_0000, 2 << 20
_PATIENCE_S = 10.0
_GAP_S = 0.0005  # GAP_NS of the floor
_SMALL = 0x1_0000  # of a machine that lives for one exit: the floor copies all of it

_WRITE_END = bytes.fromhex(f"e6{END:02x}")
# sti (for emulators in which no interrupt ends code that has them off); again: inc qword ptr [COUNT]; jmp again
_COUNTING = b"\xfb\x48\xff\x04\x25" + struct.pack("<I", COUNT) + b"\xeb\xf6"
# out 0x80, al (it takes interrupts from here on: one that came before would be lost); again: hlt; jmp again. The handler:
# push rax; out 0x80, al; mov eax, 0xfee000b0 (end of interrupt); mov dword ptr [rax], 0; pop rax; iretq.
_SLEEPING = INTERRUPTS_ON + bytes.fromhex(f"e6{_SERVED:02x} f4 ebfd")
_SERVE = bytes.fromhex("50 e680 b8b000e0fe c70000000000 58 48cf")

kicked = Loop(b"", whole=_COUNTING)
woken = Loop(b"", whole=_SLEEPING, data={**INTERRUPTS, HANDLER: _SERVE}, irqchip=True)


class Timed(Side):
    """A function, timed at each call."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def batch(self, count: int) -> list[float]:
        """See the base."""
        samples, function, clock = [0.0] * count, self._function, time.perf_counter_ns
        for index in range(count):
            began = clock()
            function()
            samples[index] = clock() - began
        return samples


class Life(Timed):
    """A machine is made, loaded, run to its first exit, and closed."""

    def __init__(self, *, irqchip: bool) -> None:
        image = Flat(_WRITE_END, at=CODE, mode="long")

        def live() -> None:
            with Machine(memory=_SMALL, irqchip=irqchip) as machine:
                machine.load(image)
                if machine.run(_PATIENCE_S) != Exit.Pio(0, END, 1, True, 0):
                    raise BenchError("guest did not make its one exit", hint="see `hyperpy doctor`")

        super().__init__(live)


class FloorLife(Side):
    """The same in C."""

    def __init__(self, *, irqchip: bool) -> None:
        self._irqchip = irqchip
        with Machine(memory=_SMALL) as machine:
            machine.load(Flat(_WRITE_END, at=CODE, mode="long"))
            self._image, self._start = start_of(machine, _SMALL)

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return lives(self._image, self._start, END, count, irqchip=self._irqchip)


class Maps(Timed):
    """Memory is added to a machine whose vcpu exists, and removed."""

    def __init__(self) -> None:
        self._machine = _halted()
        memory = self._machine.memory

        def change() -> None:
            memory.add(_REGION, _REGION_SIZE)
            memory.remove(_REGION)

        super().__init__(change)

    def close(self) -> None:
        """See the base."""
        self._machine.close()


class FloorMaps(Side):
    """The same in C."""

    def __init__(self) -> None:
        with _halted() as machine:
            self._floor = Floor(*start_of(machine, MEMORY), end_port=END)

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return self._floor.times("maps", _REGION, _REGION_SIZE, count=count)

    def close(self) -> None:
        """See the base."""
        self._floor.close()


class Attach(Timed):
    """A Python device is attached to a machine whose vcpu exists, and detached."""

    def __init__(self) -> None:
        self._machine = machine = _halted()
        device = Device()

        def change() -> None:
            machine.attach(device, pio=_SERVED, size=1)
            machine.detach(device)

        super().__init__(change)

    def close(self) -> None:
        """See the base."""
        self._machine.close()


class Call(Side):
    """A Python device is accessed from a run loop without KVM, as often as `access` says: each sample is the mean."""

    def __init__(self, device: object, access: Read | Write) -> None:
        self._device, self._access = device, access

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return [self._mean() for _ in range(count)]

    def _mean(self) -> float:
        with ScriptedMachine([self._access], keep_reads=False) as machine:
            machine.attach(self._device, pio=self._access.pio)
            machine.vcpus[0].regs.all()  # makes the vcpu
            began = time.perf_counter_ns()
            machine.run()
            return (time.perf_counter_ns() - began) / self._access.times


class FloorCall(Side):
    """A method is called by C, from a thread that attaches to the interpreter for each call: each sample is the mean of `times`."""

    def __init__(
        self, method: Callable[..., object], arguments: int, *, has_answer: bool, times: int
    ) -> None:
        self._call = partial(calls, method, arguments, has_answer=has_answer, calls=times)
        self._times = times
        library()  # a missing compiler is told now

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return [ns / self._times for ns in self._call(count=count)]


class Kick(Timed):
    """A machine that computes is paused, from another thread; it runs on in between."""

    def __init__(self) -> None:
        self._machine = kicked.machine()
        try:
            self._machine.start()
        except BaseException:
            self._machine.close()
            raise
        super().__init__(self._machine.pause)

    def batch(self, count: int) -> list[float]:
        """See the base."""
        samples = []
        for _ in range(count):
            self._wait_for_a_turn()
            samples += super().batch(1)
            self._machine.resume()
        return samples

    def close(self) -> None:
        """See the base."""
        self._machine.close()

    def _wait_for_a_turn(self) -> None:
        memory, until = self._machine.memory, time.monotonic() + _PATIENCE_S
        before = memory.read(COUNT, 8)
        while memory.read(COUNT, 8) == before:
            if time.monotonic() > until:
                raise BenchError("guest does not run on after a pause", hint="see `hyperpy doctor`")
            time.sleep(0)


class Wake(Side):
    """A line is raised while the guest sleeps in HLT; until its handler's access has reached a Python device."""

    def __init__(self, *, by_pulse: bool) -> None:
        self._machine = woken.machine()
        self._by_pulse = by_pulse
        try:
            self._machine.route(GSI, Msi(MESSAGE, VECTOR))
            self._device = self._machine.attach(_Served(), pio=_SERVED, irq=GSI)
            self._machine.start()
            self._wait()
        except BaseException:
            self._machine.close()
            raise

    def batch(self, count: int) -> list[float]:
        """See the base."""
        line, device, samples = self._device.irq, self._device, []
        for _ in range(count):
            time.sleep(_GAP_S)  # until it sleeps again
            began = time.perf_counter_ns()
            if self._by_pulse:  # by an irqfd, since the line leads to a message
                line.pulse()
            else:
                line.raise_()
                line.lower()
            self._wait()
            samples.append(float(device.at_ns - began))
        return samples

    def _wait(self) -> None:
        if not self._device.served.acquire(timeout=_PATIENCE_S):
            raise BenchError("guest does not take its interrupt", hint="see `hyperpy doctor`")

    def close(self) -> None:
        """See the base."""
        self._machine.close()


class _Served(Device):
    """Notes when it was written."""

    size = 1

    def __init__(self) -> None:
        self.served = threading.Semaphore(0)
        self.at_ns = 0

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.at_ns = time.perf_counter_ns()
        self.served.release()


class FloorThread(Side):
    """A guest that C runs on a thread of its own, and what is measured of it: "kicks" or "wakes".

    `is_told` says that the guest makes an access once it is ready.
    """

    def __init__(
        self,
        loop: Loop,
        measured: str,
        argument: int,
        prepare: Callable[[Floor], object] | None = None,
        *,
        is_told: bool = False,
    ) -> None:
        self._measured, self._argument = measured, argument
        self._floor = loop.floor(prepare)
        try:
            self._floor.tell("start")
            if is_told:
                self._floor.tell("await_access")
        except BaseException:
            self._floor.close()
            raise

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return self._floor.times(self._measured, self._argument, count=count)

    def close(self) -> None:
        """See the base."""
        self._floor.close()


def _halted() -> Machine:
    """A machine whose vcpu exists and has run."""
    machine = Machine(memory=MEMORY)
    try:
        machine.load(Flat(b"\xf4", at=CODE, mode="long"))
        machine.run(_PATIENCE_S)
    except BaseException:
        machine.close()
        raise
    return machine
