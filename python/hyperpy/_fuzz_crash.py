"""What a fuzzer has found; public as `hyperpy.fuzz.Crash`."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpy import _fuzz_lines
from hyperpy._fuzz_checks import check_time
from hyperpy._fuzz_findings import FuzzError, Key, Kind, key_of
from hyperpy._fuzz_folder import put_whole
from hyperpy._fuzz_operations import Names, Played, play
from hyperpy._fuzz_script import script

if TYPE_CHECKING:
    from hyperpy._fuzz_device import DeviceFuzzer
    from hyperpy._fuzz_report import Report

__all__ = ["Crash"]

# Executions that a crash is made small with, at most, and seconds: one that hangs takes long each time.
_BUDGET, _SECONDS = 5000, 60.0


class Crash:
    """What a fuzzer has found: an input, and what it does to the device.

    `error` is what was raised, with its traceback; `input` are the bytes, which `DeviceFuzzer.replay` and any corpus take.
    """

    def __init__(self, fuzzer: DeviceFuzzer, data: bytes, key: Key, error: BaseException) -> None:
        self._fuzzer, self.input, self.key, self.error = fuzzer, data, key, error
        self._shortest = data

    @property
    def reproduces(self) -> bool:
        """Whether the input does it again: if not, something else decides too, such as a clock, or what a device's class keeps.

        It is tried as soon as it is found: on a device once, and what hangs, or grows, is taken to; on a guest a few times.
        """
        return self._comes_again

    @cached_property
    def _comes_again(self) -> bool:
        if self.kind in {"hang", "memory"}:
            return True
        try:
            error = self._fuzzer.replay(self.input)
        except KeyboardInterrupt:
            # Nobody knows, and what is saved now is saved at once.
            self._comes_again = True
            raise
        return error is not None and key_of(error, self._fuzzer._host.files).same == self.key.same

    @property
    def kind(self) -> Kind:
        """What was found: "invariant", "exception", "hang", "memory" or "panic"."""
        return self.key.kind

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """The input as text, an operation each."""
        names = Names(self._fuzzer._host)
        return tuple(names.text(op) for op in self._fuzzer._native.decode(self.input))

    @cached_property
    def _played(self) -> Played:
        fuzzer = self._fuzzer
        with fuzzer._told():
            return play(fuzzer._host, fuzzer._native.decode(self.input), Names(fuzzer._host))

    @property
    def trace(self) -> tuple[str, ...]:
        """What each operation did: the value that was read, lines that were driven, and what was raised in the end."""
        return tuple(self._played.lines)

    @property
    def state_difference(self) -> dict[str, tuple[str | None, str | None]]:
        """Registers and attributes that the operations have changed, as text: before, and after."""
        before, after = self._played.before, self._played.after
        return {
            name: (before.get(name), after.get(name))
            for name in dict.fromkeys([*before, *after])
            if before.get(name) != after.get(name)
        }

    @property
    def shortest(self) -> Crash:
        """The same finding as short as it was made so far: by a `minimize` that is done, or was interrupted."""
        if self._shortest == self.input:
            return self
        return Crash(self._fuzzer, self._shortest, self.key, self.error)

    def minimize(
        self, *, seconds: float = _SECONDS, progress: Callable[[Report], object] | None = None
    ) -> Crash:
        """Return the same finding with as few operations as possible, each as simple as possible.

        It is the same if its kind is, and what is raised, and where. It takes 5,000 executions at most, and ends where the time is up; called again it goes
        on from there. Ctrl-C ends it too: what was reached is `shortest`. One that does not come again is returned as it is.

        Arguments:
            seconds: how long it may take; 0: what was reached before is returned. One execution is not cut short.
            progress: is told the fuzzer's report several times a second, whose `minimizing` says how far it is.

        Raises:
            ValueError: no time.
            KeyboardInterrupt: Ctrl-C.

        Example:
            >>> from hyperpy import Device, Register, fuzz
            >>> class Shelf(Device):
            ...     place = Register(0x0)
            ...
            ...     @place.on_write
            ...     def _place(self, value: int) -> None:
            ...         [0, 1, 2][value]
            >>> crash = fuzz.DeviceFuzzer(Shelf, seed=1).run(executions=100).crashes[0]
            >>> print(*crash.minimize(seconds=5).operations)
            write place (0x0, 4 bytes): 0x3
        """
        check_time(seconds)
        if seconds and self.reproduces:
            self._minimize(seconds, progress)
        return self.shortest

    def _minimize(self, seconds: float, progress: Callable[[Report], object] | None) -> None:
        fuzzer = self._fuzzer
        first = len(fuzzer._native.decode(self.input))

        def tell(executions: int, operations: int) -> None:
            fuzzer._minimizing = f"{self.kind}, {first} operations to {operations}, {executions} executions"
            if progress is not None:
                progress(fuzzer.report)

        def is_same(error: BaseException) -> bool:
            _fuzz_lines.again(fuzzer._host.trail)
            return key_of(error, fuzzer._host.files).same == self.key.same

        try:
            tell(0, first)
            with fuzzer._told():
                self._shortest, ended = fuzzer._native.minimize(
                    fuzzer._host, self._shortest, is_same, _BUDGET, seconds, tell
                )
            if ended is not None:
                raise ended
        finally:
            fuzzer._minimizing = ""

    def script(self) -> str:
        """Return the text of a script that reproduces it: a `DeviceBench` and the operations, without the fuzzer.

        Raises:
            FuzzError: the device's class, or an invariant, has no name by which a script could import it.
        """
        fuzzer = self._fuzzer
        operations, given = fuzzer._native.decode(self.input), self._played.given
        return script(
            fuzzer._host,
            fuzzer.factory,
            operations,
            self.key,
            given,
            memory=fuzzer._memory,
            double_fetch=fuzzer._double_fetch,
        )

    def write_script(self, path: str | Path) -> None:
        """Write `script` to a file.

        It imports the file that defines the device: what runs the fuzzer there belongs below `if __name__ == "__main__":`.

        Raises:
            FuzzError: as for `script`.
            OSError: the file cannot be written.
        """
        Path(path).write_text(self.script(), encoding="utf-8")

    def save(self, folder: str | Path) -> Path:
        """Write all that is known of it into a folder of its own in `folder`, and return that.

        `input`, `operations.txt`, `trace.txt`, `state.txt`, `error.txt`, and `reproduce.py`, or `reproduce.txt` that says why there
        is none. It appears whole or not at all, and twice is once.

        Raises:
            OSError: it cannot be written, as on a full disk. The crash is as it was, and can be saved elsewhere.
        """
        parent = Path(folder)
        target = (
            parent / f"{self.kind}-{hashlib.sha1(self._identity, usedforsecurity=False).hexdigest()[:12]}"
        )
        if not target.exists():
            put_whole(target, self._files(), self._fill)
        return target

    @property
    def _is_known_to_reproduce(self) -> bool:
        """Or nobody has asked yet: what is saved at Ctrl-C is saved at once."""
        known: bool = self.__dict__.get("_comes_again", True)
        return known

    @property
    def _once(self) -> str:
        """What is told of one that does not come again."""
        return "it did not come again"

    @property
    def _identity(self) -> bytes:
        """What names its folder: what does not come again may come to something else the next time."""
        return self.input if self._is_known_to_reproduce else self.input + repr(self.key).encode()

    def _fill(self, folder: Path) -> None:
        """Put more into the folder: what is too large to be kept in memory."""

    def _files(self) -> dict[str, bytes]:
        """What is kept, by name of file."""
        state = [f"{name}: {before} -> {after}" for name, (before, after) in self.state_difference.items()]
        texts = {
            "operations.txt": self.operations,
            "trace.txt": self.trace,
            "state.txt": state,
            "error.txt": "".join(traceback.format_exception(self.error)).splitlines(),
        }
        if not self._is_known_to_reproduce:
            texts["error.txt"] = (*texts["error.txt"], self._once)
        files = {
            name: "".join(f"{line}\n" for line in lines).encode(errors="replace")
            for name, lines in texts.items()
        }
        try:
            files["reproduce.py"] = self.script().encode()
        except FuzzError as error:
            files["reproduce.txt"] = f"{error}\n".encode(errors="replace")
        return {"input": self.input, **files}

    def __repr__(self) -> str:
        return f"<crash: {self.kind}, {self.key.raised or 'found'} at {', '.join(self.key.where) or '?'}>"
