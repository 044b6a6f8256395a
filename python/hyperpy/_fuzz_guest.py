"""The guest fuzzer; public as `hyperpy.fuzz.GuestFuzzer`. The loop itself is in the core (crates/hyperpy-core/src/fuzz/guest.rs).

What a fuzzer is told is in `_fuzz_plan`, what it finds in `_fuzz_guest_crash`, how several processes do it in `_fuzz_guest_workers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperpy import _hyperpy
from hyperpy._fuzz_checks import check_end, checked_seed, words_of
from hyperpy._fuzz_guest_crash import Found, GuestCrash
from hyperpy._fuzz_guest_workers import Workers
from hyperpy._fuzz_kept import Kept
from hyperpy._fuzz_plan import Plan
from hyperpy._fuzz_report import Report
from hyperpy._fuzz_shape import dictionary_of
from hyperpy.errors import StateError
from hyperpy.snapshot import Snapshot

if TYPE_CHECKING:
    from hyperpy.machine import Machine

__all__ = ["GuestFuzzer"]

# So long the core runs before it is seen what is to be saved.
_SLICE = 0.25
_ANY_NUMBER = 1 << 62
_SEEDS = 1 << 64
_MOST_WORKERS = 1024


class GuestFuzzer:
    """Looks for inputs that break a guest: puts one in, runs the guest, looks what it did, and puts all back.

    Arguments:
        machine: the machine that the guest runs in. Nobody else uses it meanwhile.
        base: what every execution begins with: a snapshot of the machine where the guest is about to read its input.
        workers: how many processes execute inputs, each with a machine of its own, which is made by the machine's spec and the base.
            They learn from each other by the corpus. With one, it is this process.
        seed: a number; the same one gives the same executions, corpus and crashes, with one worker and a number of executions, if
            the guest does the same each time.
        corpus: a folder with inputs, one a file, that are tried first, and in which those are kept that cover something new. Files of
            cargo-fuzz and AFL++ will do.
        crashes: a folder in which each crash is saved when it is found: see `GuestCrash.save`.
        dictionary: bytes and numbers that the guest knows.

    Raises:
        TypeError: it is no machine, or the base is no snapshot; or something is of another type.
        ValueError: there are no workers, or too many.

    Example:
        >>> from hyperpy import Exit, Flat, Machine, fuzz
        >>> # mov si, 0x8000; cmp byte [si], 'F'; jne end; cmp byte [si+1], 'U'; jne end; out 0x99, al; end: hlt
        >>> code = bytes.fromhex("be0080 803c46 7508 807c0155 7502 e699 f4")
        >>> with Machine(memory="1M") as m:
        ...     m.load(Flat(code, at=0x1000, mode="real"))
        ...     f = fuzz.GuestFuzzer(m, m.snapshot(), seed=1)
        ...     f.input_at(gpa=0x8000, max_len=2)
        ...     f.cover(breakpoints=[0x1008, 0x100E])
        ...     f.crash_on(Exit.Pio)
        ...     report = f.run(executions=5000)
        >>> [(crash.kind, crash.exit, crash.input) for crash in report.crashes]
        [('exit', 'Pio', b'FU')]
    """

    def __init__(
        self,
        machine: Machine,
        base: Snapshot,
        *,
        workers: int = 1,
        seed: int = 0,
        corpus: str | Path | None = None,
        crashes: str | Path | None = None,
        dictionary: Iterable[bytes | str | int] = (),
    ) -> None:
        if not hasattr(machine, "snapshot"):
            raise TypeError(f"not a machine: {machine!r:.60}\n\nhint: GuestFuzzer(m, m.snapshot())")
        if not isinstance(base, Snapshot):
            raise TypeError(f"not a snapshot: {base!r:.60}\n\nhint: GuestFuzzer(m, m.snapshot())")
        self.machine, self.base = machine, base
        self.factory: Callable[[], GuestFuzzer] | None = None
        self.kept_base: Path | None = None  # where it was written with a crash
        self._dictionary = words_of(dictionary)
        self._plan = Plan()
        self._made: _hyperpy.GuestFuzzer | None = None
        self._found: dict[object, GuestCrash] = {}
        self._seconds = 0.0
        self._set(workers, seed, corpus, crashes)

    def configure(self, *, seed: int, corpus: str | Path | None, crashes: str | Path | None) -> None:
        """Begin anew, in this process, with another seed and other folders: what a `Campaign` does in each of its workers."""
        self._made, self._found, self._seconds = None, {}, 0.0
        self._set(1, seed, corpus, crashes)

    def _set(self, workers: int, seed: int, corpus: str | Path | None, crashes: str | Path | None) -> None:
        if not 1 <= workers <= _MOST_WORKERS:
            raise ValueError(f"number of workers is out of range: {workers}\n\nhint: 1 to {_MOST_WORKERS}")
        self.workers, self.seed = workers, checked_seed(seed)
        self._kept: Kept[GuestCrash] = Kept(corpus, crashes)
        self._workers: Workers | None = None

    @classmethod
    def of(
        cls,
        make: Callable[[], GuestFuzzer],
        *,
        workers: int = 1,
        seed: int = 0,
        corpus: str | Path | None = None,
        crashes: str | Path | None = None,
    ) -> GuestFuzzer:
        """Return the fuzzer that a function makes, with its machine, so that workers and scripts can make it too.

        Arguments:
            make: defined in a file, and not inside of another function. It makes the machine, the base and the fuzzer, and tells that what
                is to be fuzzed.
            workers: as for the class; those that the function has given do not count.
            seed: as for the class.
            corpus: as for the class.
            crashes: as for the class.

        Raises:
            TypeError: it makes no `GuestFuzzer`.
        """
        made = make()
        if not isinstance(made, GuestFuzzer):
            raise TypeError(
                f"not a guest fuzzer: {made!r:.60}\n\nhint: the function returns GuestFuzzer(m, base)"
            )
        made.factory = make
        made._set(workers, seed, corpus, crashes)
        return made

    # -- what it is told -----------------------------------------------------------------------------------------------

    def input_at(
        self,
        *,
        gpa: int | None = None,
        gva: int | None = None,
        max_len: int,
        length_register: str | None = None,
    ) -> None:
        """Have inputs put into memory.

        Of several places each takes of an input what it needs, in the order in which they were named.

        Arguments:
            gpa: the guest-physical address, or
            gva: the linear one, by the page tables of the base.
            max_len: bytes that are there for an input, 1 to 65536. A shorter one leaves the rest as it is in the base.
            length_register: the register that tells how many bytes it is, such as "rsi".

        Raises:
            TypeError: not one address is given.
            ValueError: a number is out of range, or there is no such register.
        """
        self._changes().input_at(gpa, gva, max_len, length_register)

    def input_register(self, name: str) -> None:
        """Have 8 bytes of an input put into a general register, such as "rdi"; those that it lacks are 0.

        Raises:
            ValueError: there is no such register.
        """
        self._changes().input_register(name)

    def input_device(self, device: Any) -> None:
        """Have a device answer the guest from the input: an `InputDevice`, or one of your own.

        One of your own finds it as `self.fuzz_input`, from here on, whose `read(n)` gives the next bytes, fewer at the
        input's end, and `left` how many there are. It is a hostile device to the driver that is fuzzed; and where it raises, that
        ends `run`. What other places take of the input they take before all devices.

        Raises:
            TypeError: nobody can set its `fuzz_input`; or it is a class.
        """
        self._changes().input_device(device)

    def stop_at(self, *gvas: int) -> None:
        """Say where an input is done with: linear addresses of instructions. Else a guest ends by itself, or by its limit."""
        self._changes().stops += [_address(gva) for gva in gvas]

    def crash_on(self, *exits: Any, vectors: Iterable[int] = (), addresses: Iterable[int] = ()) -> None:
        """Say what is a crash, besides `Exit.Shutdown`, `Exit.FailEntry` and `Exit.InternalError`, which always are.

        Arguments:
            exits: classes of `Exit`, such as `Exit.Mmio`: an access where nothing is. All others end an execution as `stop_at` does.
            vectors: exceptions, 0 to 31, whose handler the guest comes to. Several that share a handler are one finding. Where the guest has
                no handler, the exception ends in `Exit.Shutdown`.
            addresses: linear addresses of instructions: a panic function, an assertion that fails.

        Raises:
            TypeError: it is no class of `Exit`.
            ValueError: there is no such exception; or it is `Exit.Timeout`, which is a hang: see `limit`.
        """
        self._changes().crash_on(exits, vectors, [_address(gva) for gva in addresses])

    def limit(
        self, *, ms: float | None = None, instructions: int | None = None, hangs: bool | None = None
    ) -> None:
        """Say how long an execution may take.

        A guest has no clock that counts instructions. So an execution that is still not over after `ms` is done once more, instruction by
        instruction, up to `instructions`: whether it ends is the same on any host then, and where it stands. Each costs some microseconds.

        Arguments:
            ms: milliseconds. At first it is 1000.
            instructions: how many of them count, if that takes too long. At first none do: what takes too long hangs.
            hangs: whether what takes too long is a crash. At first it is.

        Raises:
            ValueError: a number is not above 0.
        """
        self._changes().limit(ms, instructions, hangs)

    def cover(
        self,
        *,
        breakpoints: Iterable[int] = (),
        window: tuple[int, int] | None = None,
        layout: Literal["counters", "kcov"] = "counters",
        steps: bool | None = None,
        comparisons: bool | None = None,
        by: Literal["hlt", "int3"] | None = None,
    ) -> None:
        """Say how it is seen what an input covers. All of these can be had together.

        Arguments:
            breakpoints: linear addresses at which blocks of code begin. Each stops the guest once, the first time that any input gets there, and
                costs nothing from then on. The guest must not change this code, nor read it as data.
            window: (gpa, bytes) of whole pages in which the guest itself counts. It is cleared before each execution, and no
                restore touches it.
            layout: what is there: "counters" of a byte each, as compilers' `inline-8bit-counters`, or "kcov": how many, and so many
                addresses of 8 bytes, as Linux's kcov.
            steps: execute instruction by instruction; which comes after which is coverage. For short executions.
            comparisons: see what each input that covers something new compares, by a run that steps through up to 2000 instructions, and put
                that into others. At first it is so.
            by: the instruction that breakpoints are made of. By itself it is "hlt", which needs no help from KVM, in kernel-mode code
                of machines without interrupt controllers, and "int3" elsewhere, which not every KVM hands over.
        """
        self._changes().cover([_address(gva) for gva in breakpoints], window, layout, steps, comparisons, by)

    def _changes(self) -> Plan:
        if self._made is not None:
            raise StateError("cannot change what is fuzzed: it has begun", hint="make another fuzzer")
        return self._plan

    # -- what it does --------------------------------------------------------------------------------------------------

    @property
    def _patience(self) -> float:
        """Seconds that a campaign waits for one input; see `limit`."""
        return 20 * self._plan.ms / 1000 + 11

    @property
    def _native(self) -> _hyperpy.GuestFuzzer:
        if self._made is None:
            self._plan.check()
            texts, numbers = dictionary_of(self._dictionary)
            self._made = self._plan.native(
                self.machine._native, self.base._native, self.seed % _SEEDS, texts, numbers
            )
        return self._made

    def run(self, *, seconds: float | None = None, executions: int | None = None) -> Report:
        """Execute inputs for so long, or so many; with both, what comes first. It goes on where the last run ended.

        Ctrl-C ends it; what was found is kept then too: see `report`.

        Raises:
            FuzzError: nobody was told where inputs go.
            ValueError: neither is given, or one is below 0; or the plan does not fit the guest, such as an address of a breakpoint where no memory is.
            KvmUnavailable: this KVM does not hand breakpoints over in such a guest.
            KeyboardInterrupt: Ctrl-C.
            Exception: what a device raised.
        """
        check_end(seconds, executions)
        self._plan.check()
        began = time.monotonic()
        until = began + (_ANY_NUMBER if seconds is None else seconds)
        left = _ANY_NUMBER if executions is None else executions
        try:
            if self.workers > 1:
                self._workers = self._workers or Workers(self)
                self._workers.run(seconds, executions)
            while self.workers == 1 and left > 0 and (now := time.monotonic()) < until:
                left -= self._slice(left, min(_SLICE, until - now))
        finally:
            self._seconds += time.monotonic() - began
            self._save(is_last=True)
        return self.report

    def _slice(self, most: int, seconds: float) -> int:
        """Run until the time is up, or something is found, and return how many inputs were executed."""
        native = self._native
        # What is given is tried before anything is made of it, however long the slices are.
        given = self._kept.given(most)
        native.give(given)
        done, until = 0, time.monotonic() + (_ANY_NUMBER if given else seconds)
        wanted = len(given) or most
        while done < wanted and (now := time.monotonic()) < until:
            before = native.statistics()[0]
            found = native.run(wanted - done, until - now)
            done += native.statistics()[0] - before
            if found is not None:
                self._add(found[0], Found(*found[1]))
        self._save()
        return done

    def sync(self) -> None:
        """Take up what others have put into the folder of the corpus since it was looked at."""
        self._kept.sync()

    def news(self) -> list[tuple[bytes, list[int]]]:
        """Return inputs that were the first to come to a breakpoint since it was asked last, with these: what other fuzzers of the guest can `learn`."""
        return self._native.news()

    def learn(self, news: list[tuple[bytes, list[int]]]) -> None:
        """Take over what another fuzzer of the same guest tells by `news`: these breakpoints stop the guest no more, and the inputs are kept."""
        self._native.learn(news)

    @property
    def stops(self) -> int:
        """How often a breakpoint that covers has stopped the guest: each does once, unless somebody else has told of it before."""
        return 0 if self._made is None else self._made.stops()

    def _add(self, data: bytes, found: Found) -> None:
        if found.key not in self._found:
            crash = GuestCrash(self, data, found, is_here=True)
            self._found[crash.key] = self._kept.unsaved[crash.key] = crash
            # Asked now, and not by Ctrl-C's last save, which would wait for a hang.
            _ = crash.reproduces

    def _take(self, crash: GuestCrash) -> None:
        """Know of a crash that a worker has saved."""
        self._found.setdefault(crash.key, crash)

    def _save(self, *, is_last: bool = False) -> None:
        made = self._made
        if made is None:
            self._kept.save(lambda start: [], 0)
        else:
            self._kept.save(made.corpus, made.settled(), is_last=is_last)

    def replay(self, input: bytes) -> GuestCrash | None:  # noqa: A002 - what `Crash.input` is
        """Execute one input, and return the crash that it is, if it is one. The machine stands where it ended."""
        found = self._replayed(input)
        return None if found is None else GuestCrash(self, bytes(input), found)

    def _replayed(self, data: bytes) -> Found | None:
        found = self._native.replay(data)
        return None if found is None else Found(*found)

    @property
    def crashes(self) -> tuple[GuestCrash, ...]:
        """What was found, each once."""
        return tuple(self._found.values())

    @property
    def report(self) -> Report:
        """How far it has come. With several workers coverage and corpus are those of the one that knows most."""
        executions, coverage, corpus, reset_us = 0, 0, 0, None
        if self._made is not None:
            executions, coverage, corpus, _, _, reset_us = self._made.statistics()
        if (workers := self._workers) is not None:
            executions, coverage, corpus = workers.executions, workers.coverage, workers.corpus
        problems = tuple(self._kept.problems)
        return Report(
            executions, executions, self.crashes, coverage, corpus, self._seconds, problems, reset_us
        )

    @property
    def inputs(self) -> list[bytes]:
        """The inputs that cover something, in the order in which they were found; of one worker."""
        return self._native.corpus(0)

    def minimize_corpus(self) -> int:
        """Keep only the inputs that are needed to cover what all cover, in the folder too; return how many these are.

        What only breakpoints cover is seen once, so each input that has found a block stays.
        """
        self._native.minimize_corpus()
        inputs = self._native.corpus(0)
        self._kept.keep_only(inputs)
        return len(inputs)


def _address(gva: int) -> int:
    given: object = gva
    if not isinstance(given, int):
        raise TypeError(f"not an address of code: {given!r:.60}\n\nhint: a linear address, such as 0x1100")
    if not 0 <= gva < 1 << 64:
        raise ValueError(f"address of code is out of range: {gva:#x}\n\nhint: a linear address of 64 bits")
    return gva
