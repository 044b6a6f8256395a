"""The machine: what a script makes, gives devices and images to, runs, and asks.

The verbs are those of docs/design.md. Everything here is thin: states, threads and dispatch are in Rust. Here is a machine's
life, from its arguments to `close()`; the rest of the class is mixed in: devices from `_attach` and `_places`, what answers for want of
one from `_answers`, registers and hypercalls that are trapped from `_traps`, debugging from `_debug`, snapshots and copies from `_snapshots`, what a machine
tells of itself from `_looking`, and how a round ended from `_outcomes`. The interpreter's end is in `_ending`.
"""

from __future__ import annotations

import itertools
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from hyperpy import _hyperpy
from hyperpy._answers import Answering, Unclaimed, check_policy
from hyperpy._attach import Attaching
from hyperpy._debug import Debugging
from hyperpy._ending import live
from hyperpy._looking import Looking
from hyperpy._outcomes import Outcomes
from hyperpy._snapshots import Snapshotting
from hyperpy._traps import Trapping
from hyperpy.clock import Clock
from hyperpy.console import PATIENCE, Console
from hyperpy.device import check_reason
from hyperpy.errors import StateError
from hyperpy.exits import AnyExit
from hyperpy.memory import HugePages, Memory, parse_size
from hyperpy.resources import Share, affinity, processors
from hyperpy.vcpu import Vcpu

if TYPE_CHECKING:
    from types import TracebackType

    from hyperpy.boot import Image
    from hyperpy.spec import MachineSpec

__all__ = ["Machine", "Unclaimed"]

_MOST_TRACED = 1 << 20


class Machine(Attaching, Answering, Trapping, Debugging, Looking, Snapshotting, Outcomes):
    """A virtual machine.

    Arguments:
        memory: RAM in bytes, or "64M", "2G". It lies from gpa 0 up to 3 GiB and goes on at 4 GiB; no page is
            committed before it is touched.
        vcpus: number of vcpus, from 1. More than one asks for interrupt controllers.
        irqchip: whether the kernel's interrupt controllers and PIT are there. Devices with `irq=` ask for them too.
        unclaimed: what becomes of an access that nobody claims. "exit": `run` returns it; "ones": reads are all
            ones, writes are dropped, as on a PC; "raise": `run` raises `GuestFault`; or a callable that gets the exit
            and returns the value of a read (None: all ones), or at a write `Stop("why")` to stop the machine.
        name: shown in messages and tables.
        huge_pages: back the memory by huge pages: "2M" or "1G" from the host's pool, which must have enough;
            "transparent" where the host happens to have them; None for pages of 4 KiB.
        cpus: numbers of the host's processors that the vcpus may run on; None for all that the process may use.
        cpu_limit: how many processors' time all vcpus may use together, over periods of 100 ms: 0.5 is half of one,
            1.5 one and a half; None for no limit. It can be set at any time.
        trace: how many of the last exits of each vcpu are recorded for `trace()` and for faults, from 0 (none) to 2**20.

    Attributes:
        clock: the time since its start, which goes by while it runs, and timers on it.
        errors: what devices and callable sinks have raised since the machine was made or reset: the last 64.
        errors_dropped: how many more there were.

    Raises:
        BudgetError: it asks for more than `hyperpy.budget` has left.
        HostMemoryError: the host has no memory to map, or too few huge pages.
        KvmUnavailable: /dev/kvm cannot be used; `hint` says what to do.
        ValueError: an argument is out of range.

    Example:
        >>> import hyperpy
        >>> from hyperpy import Exit
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     m.load(hyperpy.Flat(bytes([0xE4, 0x99, 0xF4]), at=0x1000, mode="real"))  # in al, 0x99; hlt
        ...     match m.run(timeout=1.0):
        ...         case Exit.Pio(address=0x99, is_write=False) as e:
        ...             m.answer(e, 0x42)
        ...     print(m.run(timeout=1.0), hex(m.vcpus[0].regs.rax & 0xFF))
        Exit.Halt(vcpu=0) 0x42
    """

    def __init__(
        self,
        *,
        memory: int | str = "64M",
        vcpus: int = 1,
        irqchip: bool = False,
        unclaimed: Unclaimed = "exit",
        name: str | None = None,
        huge_pages: HugePages | None = None,
        cpus: Iterable[int] | None = None,
        cpu_limit: float | None = None,
        trace: int = 0,
    ) -> None:
        self._closed = True  # until there is something to close
        if not 0 < operator.index(vcpus) < 1 << 32:
            raise ValueError(
                f"number of vcpus is out of range: {vcpus}\n\nhint: from 1; `hyperpy doctor` shows how many KVM takes"
            )
        if not 0 <= operator.index(trace) <= _MOST_TRACED:
            raise ValueError(f"number of exits to record is out of range: {trace}\n\nhint: from 0 to 2**20")
        check_policy(unclaimed)
        size = parse_size(memory)
        chosen = None if cpus is None else affinity(cpus)
        limit = None if cpu_limit is None else processors(cpu_limit, "cpu_limit")
        self._begin(Share(size, vcpus if limit is None else limit))
        try:
            native = self._make_native(size, vcpus, irqchip, self.console._native, huge_pages, chosen, trace)
        except BaseException:
            self._share.give_back()
            raise
        if limit is not None:
            native.set_cpu_limit(limit)
        self._become(native, name, limit, trace, (size, huge_pages, chosen))
        self.unclaimed = unclaimed
        self._closed = False
        live.add(self)

    def _begin(self, share: Share) -> None:
        """What must be there before the native half: what it asks for, and its console."""
        self._share = share
        reference = weakref.ref(self)
        self.console = Console(
            standing=lambda: "gone" if (m := reference()) is None else m._standing(),
            failed=lambda error: None if (m := reference()) is None else m._keep([error]),
        )

    def _become(
        self,
        native: _hyperpy.Machine,
        name: str | None,
        limit: float | None,
        trace: int,
        asked: tuple[int, HugePages | None, list[int] | None],
    ) -> None:
        """What comes after it."""
        reference = weakref.ref(self)
        self._native = native
        self._cpu_limit = limit
        self.clock = Clock(native.clock())
        self._owner = os.getpid()
        self.name = name or f"machine {native.id}"
        self._traced = trace
        self.memory = Memory(native.memory, self._share, native)
        self.vcpus = tuple(Vcpu(native, index, reference) for index in range(native.vcpus))
        self.errors: list[BaseException] = []
        self.errors_dropped = 0
        self._attached = {}
        self._places_lock = threading.RLock()
        self._images: dict[tuple[type, object], Image] = {}
        # For `spec`: what was asked for, what was loaded and brought regions and devices of its own, and the spec that
        # the machine is made from with the image and the devices made of it.
        self._asked = asked
        self._image: Image | None = None
        self._brought: set[object] = set()
        self._made_from: tuple[MachineSpec, Image | None, list[object]] | None = None
        self._numbers = itertools.count(1)  # of its copies

    def __setattr__(self, name: str, value: object) -> None:
        # A class of ours that is made has all of its attributes; a script's own class may have others.
        is_new = name[0] != "_" and name not in self.__dict__ and not hasattr(type(self), name)
        if is_new and "_unclaimed" in self.__dict__ and type(self).__module__.startswith("hyperpy."):
            from hyperpy._words import nearest  # noqa: PLC0415 - for an error only

            hint = nearest(name, dir(self)) or "a class of your own, derived from Machine, can have it"
            raise AttributeError(f"a machine has no attribute {name!r}\n\nhint: {hint}")
        super().__setattr__(name, value)

    @classmethod
    def from_spec(cls, spec: MachineSpec) -> Machine:
        """A machine of this spec, with its devices and its image: `spec.make()`."""
        if isinstance(spec, str | os.PathLike):
            hint = f"MachineSpec.from_file({os.fspath(spec)!r}) reads one"
            raise TypeError(f"not a spec: {spec!r}\n\nhint: {hint}")
        return spec.make()

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """One of created, running, paused, stopped and closed."""
        return self._native.state

    @property
    def cpu_limit(self) -> float | None:
        """How many processors' time all vcpus may use together; None for no limit. Setting it takes effect at once.

        Raises:
            BudgetError: it is more than `hyperpy.budget` has left.
            StateError: the machine is closed.
            ValueError: it is not a number above 0.
        """
        return self._cpu_limit

    @cpu_limit.setter
    def cpu_limit(self, limit: float | None) -> None:
        checked = None if limit is None else processors(limit, "cpu_limit")
        if self._closed:
            raise StateError("cannot set cpu_limit: the machine is closed", hint="make a new machine")
        self._share.ask(cpu=(len(self.vcpus) if checked is None else checked) - self._share.cpu)
        self._native.set_cpu_limit(checked)
        self._cpu_limit = checked

    def load(self, image: Image) -> None:
        """Put an image into memory and set vcpu 0 to its entry. Runs nothing. What is refused changes nothing.

        Raises:
            BootError: the image cannot be loaded.
            DeviceError: a device has some of the ports of one that the image brings; one that has all stands in its place.
            StateError: the machine runs, has ended, or is closed.
            TypeError: it is no image.
        """
        if not hasattr(image, "load_into"):
            hint = "give Flat(code, at=0x1000, mode='real') or Linux(kernel)"
            raise TypeError(f"not an image: {image!r}\n\nhint: {hint}")
        self._native.require_load()
        before = self._places()
        try:
            with self._attached_or_nothing():
                image.load_into(self)
        finally:
            self._brought |= self._places() - before
        # For reset(). One of its kind at one place: loads in a loop do not add up.
        place = (type(image), getattr(image, "at", None))
        self._images.pop(place, None)  # the order is that of the last loads: vcpu 0 enters the last one
        self._images[place] = image
        self._image = image

    def run(self, timeout: float | None = None) -> AnyExit:
        """Run until something happens that the script must know, or for `timeout` seconds.

        vcpu 0 runs on the calling thread. What a device raises is raised here, with notes that name the access; the
        machine can run on after it. Ctrl-C works.

        Raises:
            StateError: the machine runs already, has ended, or is closed; or this is inside a device.
            KvmError: KVM refused.
        """
        return self._exit(self._native.run(timeout))

    def start(self) -> None:
        """Run every vcpu on a thread of its own, and return.

        Raises:
            StateError: as for `run`.
        """
        self._native.start()

    def wait(self, timeout: float | None = None) -> AnyExit:
        """Wait until a started machine stops, and return why; after `timeout` seconds `Exit.Timeout`: it runs on.

        Once it has stopped, the last exit is returned again.

        Raises:
            StateError: the machine has not run, or is closed; or this is inside a device. Also what `run` raises for what
                the guest did.
        """
        return self._exit(self._native.wait(timeout))

    def pause(self) -> None:
        """Stop every vcpu where it is, and return when all stand still. Ctrl-C works while it waits.

        Whoever is in `run` or `wait` gets `Exit.Stopped(vcpu=None, reason="pause")`; if nobody is, nothing is queued. On a
        paused machine it does nothing.

        Raises:
            StateError: the machine has not run, has ended, also meanwhile, or is closed; or this is inside a device.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(bytes([0xEB, 0xFE]), mode="real"))  # again: jmp again
            ...     m.start()
            ...     m.pause()
            ...     print(m.state, hex(m.vcpus[0].regs.rip))
            ...     m.resume()
            ...     print(m.state)
            paused 0x1000
            running
        """
        self._native.pause()

    def resume(self) -> None:
        """Run a paused machine on, every vcpu on a thread of its own, as `start` does.

        Raises:
            StateError: the machine is not paused; or this is inside a device.
        """
        self._native.resume()

    def reset(self) -> None:
        """Press the machine's reset button: restore the power-on state, from which it can run again.

        It is what a snapshot had before the first run, by `Snapshot.hash`; what else stays is in the concept page on snapshots.
        The vcpus are made anew. RAM is zeros, given back to the host; views of it stay valid. ROM keeps its contents.
        Every attached device's `reset()` is called, a disabled one's too. `clock` is 0, and no timer is left but those that they
        set. Interrupt lines are low, nothing is queued, `errors` begins anew, and no earlier exit can be answered. What `load`
        has put in is loaded again: of several images of one kind at one place, the last one.
        Statistics go on counting. While it works, the machine counts as running.

        Raises:
            StateError: the machine runs (`pause()` it first) or is closed; or this is inside a device.
            BootError: an image cannot be loaded again. The machine is reset.
            Exception: what a device's `reset()` raised, once all others were reset; later ones are in notes and `errors`.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(bytes([0xF4]), mode="real"))  # hlt
            ...     m.memory.write(0x8000, b"scratch")
            ...     m.run(timeout=1.0)
            ...     m.reset()
            ...     print(m.state, any(m.memory.read(0x8000, 7)), m.run(timeout=1.0))
            Exit.Halt(vcpu=0)
            created False Exit.Halt(vcpu=0)
        """
        undelivered, raised = self._native.reset(self._reload)
        self.errors.clear()
        self.errors_dropped = 0
        self._keep(undelivered)
        if raised:
            self._raise(raised)

    def _reload(self) -> None:
        for image in list(self._images.values()):
            image.load_into(self)

    def stop(self, reason: str = "stop") -> None:
        """Ask every vcpu to stop for good; `run` and `wait` return `Exit.Stopped`. Does not wait. Safe anywhere.

        Raises:
            StateError: the machine is closed.
        """
        check_reason(reason)
        self._native.stop(reason)

    def close(self) -> None:
        """Stop every vcpu and give memory and descriptors back. Twice is fine.

        Ctrl-C works while it waits for a device; the machine then closes when the device has returned.

        Raises:
            StateError: this is inside a device.
        """
        if self._closed:
            return
        self._native.close()
        self._let_go()

    def _let_go(self, patience: float = PATIENCE) -> None:
        """The rest of `close`; `patience` is for a callable sink, in seconds."""
        self._last_devices = self._device_stats()
        self._closed = True
        self._share.give_back()
        if self._owner == os.getpid():  # in the child of a fork the console is the parent's
            self.console._set_sink(None, patience)
        self._attached.clear()
        self._images.clear()
        self._image = self._made_from = None
        live.discard(self)

    def __enter__(self) -> Self:
        self._native.enter()
        if self._closed:
            raise StateError("cannot enter: the machine is closed", hint="make a new machine")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owner == os.getpid():
            warnings.warn(
                f"unclosed {self!r}: use `with Machine(...)`, or close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<Machine {self.name!r}, {self.state}, {len(self.vcpus)} vcpus>"

    # -- inside ------------------------------------------------------------------------------------------------------

    def _places(self) -> set[object]:
        """Where regions of memory begin, and where devices are."""
        return {region[0] for region in self._native.memory.regions()} | set(self._attached)

    def _make_native(self, *arguments: Any) -> _hyperpy.Machine:
        return _hyperpy.Machine(*arguments)
