"""The part of `Machine` that keeps what it is and puts it back: snapshot, restore, fork.

What a snapshot holds is the core's, and shown by `snapshot`. Here is what of a copy is Python's: its console, its devices, which
are copies too, and what the script has told the machine. A mixin, as `_attach` is.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVar, cast

from hyperpy import _hyperpy
from hyperpy._copying import copy_into, devices_of, individual, name_for
from hyperpy._ending import live
from hyperpy.clock import ClockSetting
from hyperpy.errors import DeviceError
from hyperpy.identity import Identity
from hyperpy.resources import Share
from hyperpy.snapshot import Forked, RestoreStats, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperpy.machine import Machine

_D = TypeVar("_D")
_MICRO = 1e6


def _random() -> int:
    return int.from_bytes(os.urandom(16), "little")


class Snapshotting:
    """What `Machine` has of snapshots."""

    _native: _hyperpy.Machine
    _forked: Forked | None = None
    _generation: int = 0  # the VM generation id that it was given last; 0 for none
    _identity: Identity | None = None
    _restored: RestoreStats | None = None
    _share: Share
    # By the id of the other machine's device.
    _copies: Mapping[int, tuple[Callable[[], object], object]] = MappingProxyType({})
    name: str

    def snapshot(self) -> Snapshot:
        r"""Keep what the machine is now: memory, vcpus, interrupt controllers, clock and timers, and every device.

        It is taken while every vcpu stands still, with no access pending: one that `run` has returned and nobody has answered reads as all ones. A
        machine that was started goes on afterwards, and who waits for it notices nothing. The first snapshot copies no page: from then
        on the guest's writes go to copies of its own. Later ones keep the pages that were written since the one before.

        Raises:
            SnapshotError: a device cannot be saved, and which. Nothing has changed.
            StateError: the machine is in `run` on another thread, or closed; or this is inside a device.

        Example:
            >>> import hyperpy
            >>> code = bytes(
            ...     [0xFE, 0x06, 0x00, 0x80, 0xF4, 0xEB, 0xF9]
            ... )  # again: inc byte [0x8000]; hlt; jmp again
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
            ...     base = m.snapshot()
            ...     for _ in range(3):
            ...         _ = m.run(timeout=1.0)
            ...     print(m.memory.read(0x8000, 1), m.restore(base).pages, m.memory.read(0x8000, 1))
            b'\x03' 1 b'\x00'
        """
        return Snapshot._of(_hyperpy.take_snapshot(self._native))

    def restore(
        self, snapshot: Snapshot, *, spare: Iterable[tuple[int, int]] = (), renew: bool = False
    ) -> RestoreStats:
        """Put the machine back to where it was when the snapshot was taken, and tell what that took.

        The snapshot is one of this machine, whichever, or of another that is made alike: as many vcpus, the same memory, the same devices at the same places. Only what differs is put back. Exits that were queued are forgotten, no
        earlier one can be answered, and the state is the one of then: created, paused or stopped; paused for a snapshot that was
        taken while it ran. The console has said what it had said then; its sinks get each byte once. Statistics, traces, breakpoints and `errors` stay.

        Arguments:
            snapshot: of this machine or of one that is made alike.
            spare: ranges of memory that stay as they are, as (gpa, bytes) of whole pages: a window in which a guest counts what it
                covers.
            renew: tell its operating system, as `fork` does, that it is not the only one that goes on from here, by a new VM generation
                id: Linux makes new random numbers. Else all are as they were.

        Beside another thread's `snapshot` it waits for its turn: so a device whose `save` waits for this thread would wait for good.

        Raises:
            MemoryAccessError: there is no memory in a spared range.
            KvmError: KVM refuses a value, such as a register's in a file; the machine is stopped then, too.
            SnapshotError: the machine is not made alike; the message tells what differs, and nothing has changed. Or a device refuses its
                state: the machine is stopped then, and can be restored again.
            StateError: the machine runs (`pause()` it first) or is closed; or this is inside a device. Beside a snapshot on another thread it
                waits for its turn.
            ValueError: a spared range is not of whole pages of 4 KiB.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(
                f"not a snapshot: {snapshot!r}\n\nhint: m.snapshot() gives one, Snapshot.open(file) another"
            )
        spared = [] if isinstance(spare, tuple) and not spare else _ranges(spare)
        pages, vm, vcpus, memory, devices, undelivered = _hyperpy.restore(
            self._native, snapshot._native, spared
        )
        if undelivered:
            cast("Machine", self)._keep(undelivered)
        if renew:
            self.__dict__["_generation"] = _random()
            self._native.renew_generation(self._generation)
        done = RestoreStats(pages, vm * _MICRO, vcpus * _MICRO, memory * _MICRO, devices * _MICRO)
        self.__dict__["_restored"] = done  # past what looks for names that a machine has not
        return done

    def fork(
        self, *, name: str | None = None, seed: int | None = None, clock: ClockSetting | None = None
    ) -> Self:
        """Make a running copy of the machine, in this process: its memory is shared until one of both writes to it.

        The copy has devices of its own, made by `Device.clone`, at the same places, and a console of its own, which has said what this one has. It runs if this machine
        does, and is else as this one is: paused, created, stopped. Each lives on its own: either can be closed first. `copy_of` finds a device's copy.

        Who it is, is its `identity`, made of its name and seed. Each device is told it by `Device.forked`, and the operating system by a new VM
        generation id, which is derived from the seed.

        Attributes that a class of your own keeps in its instances are not in the copy, whose `__init__` is not called: give them in a
        `fork` of that class.

        Arguments:
            name: of the copy; this machine's with a number if it is left out.
            seed: what its identity is derived from, the same each time: from 0 to 2**128 - 1. A random number if it is left out,
                so that each copy is somebody else.
            clock: how its clock goes on; from this machine's time and at its pace if it is left out.

        Raises:
            SnapshotError: a device cannot be copied, and which. Nothing has changed.
            BudgetError: the copy asks for more than `hyperpy.budget` has left.
            StateError: as for `snapshot`.
            ValueError: the seed is out of range.
            Exception: what a device's `forked` raises. There is no copy then.

        Example:
            >>> import hyperpy
            >>> class Bell(hyperpy.Device):
            ...     rings = hyperpy.Register(0x0, width=1)
            >>> code = bytes([0xE6, 0x80, 0xF4])  # out 0x80, al; hlt
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     bell = m.attach(Bell(), pio=0x80)
            ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
            ...     m.vcpus[0].regs.rax = 7
            ...     with m.fork() as child:
            ...         print(child.run(timeout=1.0), int(child.copy_of(bell).rings), int(bell.rings))
            Exit.Halt(vcpu=0) 7 0
        """
        machine: Machine = cast("Machine", self)
        if not isinstance(clock, ClockSetting | None):
            raise TypeError(f"not a setting of a clock: {clock!r}\n\nhint: clock=ClockSetting(scale=2.0)")
        identity = Identity(name or "", _random() if seed is None else operator.index(seed))
        identity = Identity(name_for(machine, name), identity.seed)
        child = cast("Machine", object.__new__(type(self)))
        child._closed = True
        child._begin(Share(self._share.memory, self._share.cpu))

        parents, copies = devices_of(machine), []

        def build(native: _hyperpy.Machine) -> list[object]:
            copies.extend(copy_into(child, native, machine, identity.name))
            return copies

        try:
            is_running, pages, left = _hyperpy.fork(self._native, child.console._native, parents, build)
            child._generation = identity._generation(self._generation)
            individual(child, list(zip(parents, copies, strict=True)), identity, clock)
        except BaseException:
            if hasattr(child, "_native"):
                child._native.close()
            child._share.give_back()
            raise
        child._forked = Forked(pages, tuple(left))
        child._identity = identity
        child._copies = {
            id(parent): (_reference(parent), copy) for parent, copy in zip(parents, copies, strict=True)
        }
        child._closed = False
        live.add(child)
        if is_running:
            child.start()
        return cast("Self", child)

    @property
    def identity(self) -> Identity | None:
        """Who a copy is, made of the name and the seed that `fork` gave it; None for a machine that is no copy.

        `fork(seed=child.identity.seed)` makes another that is the same.
        """
        return self._identity

    def copy_of(self, device: _D) -> _D:
        """Return the device that stands here for one of the machine that this one was copied from.

        Raises:
            DeviceError: there is none.
        """
        reference, copy = self._copies.get(id(device), (None, None))
        if reference is None or reference() is not device:
            raise DeviceError(
                f"no copy of this device: {device!r:.60}",
                hint="m.fork() copies the devices that m has then; of those child.copy_of(device) tells the copies",
            )
        return cast("_D", copy)


def _reference(device: object) -> Callable[[], object]:
    """A device without being what keeps it, if its class allows that."""
    try:
        return weakref.ref(device)
    except TypeError:
        return lambda: device


def _ranges(spare: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    try:
        ranges = [(operator.index(gpa), operator.index(size)) for gpa, size in spare]
    except (TypeError, ValueError):
        raise TypeError(f"not ranges of memory: {spare!r:.60}\n\nhint: spare=[(gpa, bytes), ...]") from None
    for gpa, size in ranges:
        if gpa < 0 or size < 0:
            raise ValueError(f"range of memory is below 0: ({gpa:#x}, {size:#x})\n\nhint: (gpa, bytes)")
    return ranges
