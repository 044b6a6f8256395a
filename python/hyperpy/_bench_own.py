"""What users measure of their own: a device's accesses, by a guest and alone; and a guest's exits.

A device's rows are like those of `hyperpy bench`: the same guest code makes the same access under hyperpy and under the C
floor. Without a guest the accesses come from a `DeviceBench`: what is left is what the device itself costs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from hyperpy._bench_case import Case, guest
from hyperpy._bench_floor import BenchError
from hyperpy._bench_guests import Loop, Side
from hyperpy._bench_steps import Access, fields
from hyperpy._bench_values import Row, Samples
from hyperpy._declaration import Register
from hyperpy._device_bench import DeviceBench
from hyperpy.exits import Exit
from hyperpy.machine import Machine

__all__ = ["Accesses", "cases_of_device", "rows_of_guest"]

Accesses: TypeAlias = (
    Mapping[str, Access | tuple[int, ...]] | Iterable[Access | tuple[int, int] | tuple[int, int, int]]
)
Bus: TypeAlias = Literal["mmio", "pio"]

BY_GUEST, ALONE, GUEST = "by a guest, under KVM", "the device alone, without an exit", "guest"
_BASES = {"mmio": 0xC000_0000, "pio": 0x1000}
_SIZES = {"mmio": (1, 2, 4, 8), "pio": (1, 2, 4)}
_IRQ = 5
# mov [rbx], r12 and mov r13, [rbx]; out dx, eax and in eax, dx: by size.
_STORES = {1: "448823", 2: "66448923", 4: "448923", 8: "4c8923"}
_LOADS = {1: "448a2b", 2: "66448b2b", 4: "448b2b", 8: "4c8b2b"}
_OUTS, _INS = {1: "ee", 2: "66ef", 4: "ef"}, {1: "ec", 2: "66ed", 4: "ed"}
_WRITABLE = {"rw", "wo", "w1c", "w0c", "w1s"}
# A sample of a device alone is the mean of so many accesses at most, and takes about so long.
_CALLS, _SAMPLE_NS = 1000, 200e3
_WARM_UP = 16


# -- a device --------------------------------------------------------------------------------------------------------


def cases_of_device(
    device: object, accesses: Accesses | None, bus: Bus, size: int | str | None, irq: bool
) -> list[Case]:
    """Two rows for each access: by a guest, and alone."""
    if bus not in _BASES:
        raise ValueError(f'no such bus: {bus!r}\n\nhint: "mmio" or "pio"')
    with DeviceBench(device, size=size) as bench:
        length, named = bench.size, _named(device, bench.size, accesses)
        for access in named.values():
            _check(access, bus)
            bench.compile([access])  # it lies in the device, and its value fits
    by_guest = [_by_guest(name, access, device, bus, length, irq) for name, access in named.items()]
    return by_guest + [_alone(name, access, device, length) for name, access in named.items()]


def _check(access: Access, bus: Bus) -> None:
    if access.size not in _SIZES[bus]:
        sizes = ", ".join(map(str, _SIZES[bus]))
        raise ValueError(f"no guest makes such an access: {access!r}\n\nhint: on {bus} of {sizes} bytes")


def _by_guest(name: str, access: Access, device: object, bus: Bus, length: int, irq: bool) -> Case:
    def attach(machine: Machine) -> None:
        place: dict[str, Any] = {bus: _BASES[bus]}
        machine.attach(device, size=length, irq=_IRQ if irq else None, **place)

    return guest(BY_GUEST, name, f"{_what(access)}, on {bus}", _loop(access, bus, irq), attach)


def _alone(name: str, access: Access, device: object, length: int) -> Case:
    title = f"{_what(access)}, on a DeviceBench: mean of up to {_CALLS:,}"
    return Case(ALONE, f"{name}-alone", title, lambda: _Alone(device, length, access), "")


def _what(access: Access) -> str:
    what = "read" if access.value is None else f"write of {access.value:#x}"
    return f"{what}, offset {access.offset:#x}, {access.size} byte{'s' * (access.size > 1)}"


def _loop(access: Access, bus: Bus, irqchip: bool) -> Loop:
    place = (_BASES[bus] + access.offset).to_bytes(4, "little")
    value = b"\x49\xbc" + (access.value or 0).to_bytes(8, "little")  # mov r12, value
    if bus == "mmio":
        code = (_LOADS if access.value is None else _STORES)[access.size]
        return Loop(bytes.fromhex(code), prologue=b"\xbb" + place + value, irqchip=irqchip)  # mov ebx, place
    code = _INS[access.size] if access.value is None else f"4489e0{_OUTS[access.size]}"  # mov eax, r12d
    return Loop(b"\xba" + place + bytes.fromhex(code), prologue=value, irqchip=irqchip)  # mov edx, place


def _named(device: object, length: int, accesses: Accesses | None) -> dict[str, Access]:
    """The accesses by name: as they are given, else by their registers, which are all of them if none are given."""
    registers = _registers(device)
    if isinstance(accesses, Mapping):
        return {name: Access(*fields(access)) for name, access in accesses.items()}
    if accesses is None:
        found = list(_all(device)) or [Access(0, s := _widest(length)), Access(0, s, 0)]
    else:
        found = [Access(*fields(access)) for access in accesses]
    named: dict[str, Access] = {}
    for access in found:
        name = f"{registers.get(access.offset, hex(access.offset))}-{'read' if access.value is None else 'write'}"
        tries = (name if number == 1 else f"{name}-{number}" for number in range(1, len(found) + 1))
        named[next(each for each in tries if each not in named)] = access
    return named


def _widest(length: int) -> int:
    return next(size for size in (4, 2, 1) if size <= max(length, 1))


def _registers(device: object) -> dict[int, str]:
    places = reversed(getattr(device, "_places", ()))
    return {place.offset: place.name for place in places if place.offset is not None}


def _all(device: Any) -> Iterator[Access]:
    """What a guest can do to each declared register, to the first one of an array, and leaves it as it is where that can be."""
    for place in getattr(device, "_places", ()):
        declared = place.declared
        if place.offset is None or declared.when is not None or place.index not in (None, 0):
            continue
        kinds = {getattr(declared, "access", "rw")}
        kinds |= {field.access for field in getattr(declared, "fields", {}).values() if field.access}
        if kinds != {"wo"}:
            yield Access(place.offset, declared.width)
        if kinds & _WRITABLE:
            is_kept = isinstance(declared, Register) and kinds == {"rw"}
            kept = device._register_file.get(place.cell) if is_kept else 0
            yield Access(place.offset, declared.width, kept)


class _Alone(Side):
    """Accesses from a `DeviceBench`: each sample is the mean of some."""

    def __init__(self, device: object, length: int, access: Access) -> None:
        self._bench = DeviceBench(device, size=length)
        try:
            one = self._bench.compile([access])
            took = min(self._time(one) for _ in range(_WARM_UP))
            self._calls = max(1, min(int(_SAMPLE_NS / max(took, 1.0)), _CALLS))
            self._batch = self._bench.compile([access] * self._calls)
        except BaseException:
            self.close()
            raise

    def batch(self, count: int) -> list[float]:
        """See the base."""
        return [self._time(self._batch) / self._calls for _ in range(count)]

    def _time(self, batch: Any) -> float:
        began = time.perf_counter_ns()
        batch.run()
        took = time.perf_counter_ns() - began
        self._bench.irq.history.clear()  # of millions of accesses
        return took

    def close(self) -> None:
        """See the base."""
        self._bench.__exit__(None, None, None)


# -- a guest ---------------------------------------------------------------------------------------------------------


def rows_of_guest(
    guest: Machine | Callable[[], Machine], name: str, rounds: int, seconds: float
) -> list[Row]:
    """Time and processor time of an exit, one figure a round."""
    walls, cpus, hits = [], [], dict[str, float]()
    exits, why = 0, ""
    with contextlib.ExitStack() as stack:
        machine = None if callable(guest) else _checked(guest)
        for _ in range(rounds):
            if machine is None:
                assert callable(guest)  # else it is one
                machine = stack.enter_context(_checked(guest()))
            _ = machine.vcpus[0].regs.rip  # makes KVM's objects, which is no part of a round
            before, began = machine.stats, time.perf_counter_ns()
            ended = _drive(machine, seconds)
            took, after = time.perf_counter_ns() - began, machine.stats
            gained = {rung: count - before.hits[rung] for rung, count in after.hits.items()}
            # One that is asked to leave when the time is over makes an exit for that too.
            made = after.exits - before.exits - (ended is None)
            if made > 0 and (ended is not None or any(gained.values())):
                exits += made
                walls.append((took / made,))
                cpus.append(((after.cpu_seconds - before.cpu_seconds) * 1e9 / made,))
                hits = {rung: hits.get(rung, 0) + count for rung, count in gained.items()}
            if ended is not None:
                why = f"guest ended before the first round did: {ended!r}"
                if isinstance(guest, Machine):
                    break
                machine.close()
                machine = None
    if not walls:
        why = why or f"guest made no exit in {seconds:g} s"
        raise BenchError(why, hint="give a guest that is accessed, or more seconds")
    per_exit = {"exits": 1.0} | {rung: count / exits for rung, count in hits.items()}
    title = "an exit, and what the guest did before it"
    return [
        Row(name, title, Samples(tuple(walls)), per_operation=per_exit, group=GUEST),
        Row(f"{name}-cpu", f"processor time of {title}", Samples(tuple(cpus)), group=GUEST),
    ]


def _checked(machine: object) -> Machine:
    if not isinstance(machine, Machine):
        raise TypeError(f"not a machine: {machine!r}\n\nhint: give a machine, or a function that makes one")
    return machine


def _drive(machine: Machine, seconds: float) -> object:
    """Run for so long, on from what nobody answers; what the guest has ended with, or None."""
    until = time.monotonic() + seconds
    while True:
        match machine.run(max(until - time.monotonic(), 0)):
            case Exit.Timeout():
                return None
            case Exit.Pio() | Exit.Mmio() | Exit.Msr() | Exit.Hypercall():
                pass
            case other:
                return other
