"""What a guest fuzzer has found; public as `hyperpy.fuzz.GuestCrash`. How it is kept in a folder is `_fuzz_crash`'s."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_findings import FuzzError, Key, Kind
from hyperpy._fuzz_guest_script import BASE, script
from hyperpy.errors import GuestFault
from hyperpy.snapshot import Snapshot, SnapshotDiff

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer
    from hyperpy._fuzz_report import Report

__all__ = ["Found", "GuestCrash"]

# Executions that a crash is made small with, at most, and seconds: what hangs takes long each time.
_BUDGET, _SECONDS = 5000, 10.0
_ROW = 16
_PAGE_FAULT = 14


class Found(NamedTuple):
    """A finding as the core tells of it."""

    what: str
    vectors: bytes
    detail: int
    rip: int
    error_code: int | None
    cr2: int
    stack_hash: int
    callers: list[int]

    @property
    def kind(self) -> Kind:
        """Its kind."""
        match self.what:
            case "exception" | "address" | "hang":
                return self.what
            case _:
                return "exit"

    def text(self) -> str:
        """It in words."""
        match self.kind:
            case "exception":
                what = "exception " + " or ".join(map(str, self.vectors))
                if self.error_code is not None:
                    what += f", error code {self.error_code:#x}"
                if _PAGE_FAULT in self.vectors:
                    what += f", cr2 {self.cr2:#x}"
            case "exit":
                told = f" {self.detail:#x}" if self.what in {"Mmio", "Pio", "Msr", "Hypercall"} else ""
                what = f"Exit.{self.what}{told}"
            case other:
                what = other
        where = f" at {self.rip:#x}"
        return what + where + (f", called from {', '.join(map(hex, self.callers))}" if self.callers else "")


class _Ended(NamedTuple):
    """What was there when the input had been executed again."""

    after: Snapshot
    difference: SnapshotDiff
    trace: tuple[str, ...]


class GuestCrash(Crash):
    """An input that breaks a guest, and where it does.

    Two are one if they end in the same way, at the same instruction, called from the same places. `error` is a `GuestFault` that tells it in
    words; `input` are the bytes, which `GuestFuzzer.replay` and any corpus take.
    """

    def __init__(self, fuzzer: GuestFuzzer, data: bytes, found: Found) -> None:
        self._guest, self.input, self._found = fuzzer, data, found
        self._shortest = data
        # Where in its loop a guest is found that does not end is chance.
        where = (hex(found.rip),) if found.kind != "hang" else ()
        self.key = Key(found.kind, found.what, (*where, *map(hex, found.callers)))
        hint = "minimize() makes the input small, write_script(path) reproduces it"
        self.error = GuestFault(f"the guest ends by {found.text()}", hint=hint)

    @property
    def kind(self) -> Kind:
        """What was found: "exception", "address", "hang", or "exit" where KVM returned."""
        return self._found.kind

    @property
    def exit(self) -> str | None:
        """The class of `Exit` that it is, such as "Shutdown"; None for other kinds."""
        return self._found.what if self.kind == "exit" else None

    @property
    def vectors(self) -> tuple[int, ...]:
        """The exceptions of which it is one: several, if they share a handler."""
        return tuple(self._found.vectors)

    @property
    def rip(self) -> int:
        """Linear address of the instruction: of an exception the one that raised it."""
        return self._found.rip

    @property
    def error_code(self) -> int | None:
        """Of an exception that has one."""
        return self._found.error_code

    @property
    def cr2(self) -> int:
        """Linear address of the guest's last page fault."""
        return self._found.cr2

    @property
    def callers(self) -> tuple[int, ...]:
        """Where the functions that were under way were called, the innermost first, as far as the stack tells."""
        return tuple(self._found.callers)

    @property
    def stack_hash(self) -> int:
        """A number of these."""
        return self._found.stack_hash

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """The input as text: which bytes go where."""
        left, lines = self.input, []
        for kind, at, most, register in self._guest._plan.all_places:
            match kind:
                case "register":
                    mine, left = left[:8], left[8:]
                    lines.append(f"{register} = {int.from_bytes(mine, 'little'):#x}")
                case "devices":
                    lines += [f"devices: {len(left)} bytes", *_dump(left, 0)]
                    left = b""
                case _:
                    mine, left = left[:most], left[most:]
                    length = f", {register} = {len(mine)}" if register else ""
                    lines += [f"{kind} {at:#x}: {len(mine)} bytes{length}", *_dump(mine, at)]
        return tuple(lines)

    @cached_property
    def _ended(self) -> _Ended:
        guest, machine = self._guest, self._guest.machine
        if guest.replay(self.input) is None:
            raise FuzzError(
                "crash does not come again", hint="what else decides it: time, a device, another machine?"
            )
        after = machine.snapshot()
        traced = str(machine.trace()).splitlines() if machine._traced else []
        return _Ended(after, guest.base.diff(after), tuple(traced))

    @property
    def state(self) -> Snapshot:
        """The machine as it has crashed, without a trace of breakpoints.

        Raises:
            FuzzError: the input does not crash it again.
        """
        return self._ended.after

    @property
    def trace(self) -> tuple[str, ...]:
        """The machine's last exits, if it is made with `trace=`; the last ones of them are this input's."""
        return self._ended.trace

    @property
    def state_difference(self) -> dict[str, tuple[str | None, str | None]]:
        """Values of the state that differ from the base, as text: before, and after."""

        def shown(value: Any) -> str | None:
            return None if value is None else hex(value) if type(value) is int else f"{value!r:.80}"

        return {
            change.path: (shown(change.old), shown(change.new)) for change in self._ended.difference.state
        }

    @property
    def shortest(self) -> GuestCrash:
        """The same finding as short as it was made so far."""
        return GuestCrash(self._guest, self._shortest, self._found)

    def minimize(
        self, *, seconds: float = _SECONDS, progress: Callable[[Report], object] | None = None
    ) -> GuestCrash:
        """Return the same finding with as few bytes as possible, of which as many as possible are 0.

        It takes 5,000 executions at most, and ends where the time is up.

        Arguments:
            seconds: how long it may take; 0: what was reached before is returned.
            progress: is told the fuzzer's report when it is done.
        """
        if seconds:
            self._shortest = self._guest._native.minimize(self._shortest, _BUDGET, seconds)
            if progress is not None:
                progress(self._guest.report)
        return self.shortest

    def script(self) -> str:
        """Return the text of a script that reproduces it: it raises `error`.

        It makes the fuzzer as `GuestFuzzer.of` was told; or a machine by its spec, with the snapshot that lies beside it as `base.hps`.

        Raises:
            FuzzError: there is neither a function that makes the fuzzer, nor a spec of the machine.
        """
        return script(self._guest, self.input, self._found.text())

    def write_script(self, path: str | Path) -> None:
        """Write `script` to a file, and the snapshot that it needs beside it.

        Raises:
            FuzzError: as for `script`.
            OSError: a file cannot be written.
        """
        super().write_script(path)
        if self._guest.factory is None:
            self._guest.base.save(Path(path).with_name(BASE))

    def _files(self) -> dict[str, bytes]:
        files = super()._files()
        pages = [f"{part.region} {part.gpa:#x}: {part.pages} pages" for part in self._ended.difference.pages]
        files["state.txt"] += "".join(f"{line}\n" for line in pages).encode()
        return files

    def _fill(self, folder: Path) -> None:
        """Put what is no text beside the files."""
        if self._guest.factory is None:
            self._guest.base.save(folder / BASE)

    def __repr__(self) -> str:
        return f"<crash: {self._found.text()}>"


def _dump(data: bytes, at: int) -> list[str]:
    """Bytes in rows, with their addresses and as text."""
    rows = []
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"  {at + start:08x}  {row.hex(' '):<{_ROW * 3}} {text}")
    return rows
