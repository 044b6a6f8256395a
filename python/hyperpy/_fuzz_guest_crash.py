"""What a guest fuzzer has found; public as `hyperpy.fuzz.GuestCrash`. How it is kept in a folder is `_fuzz_crash`'s."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy._fuzz_checks import check_time
from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_findings import FuzzError, Key, Kind
from hyperpy._fuzz_guest_script import BASE, script
from hyperpy.errors import GuestFault
from hyperpy.snapshot import Snapshot, SnapshotDiff
from hyperpy.stats import table

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer
    from hyperpy._fuzz_report import Report
    from hyperpy.trace import Trace

__all__ = ["Found", "GuestCrash", "KilledCrash"]

# Executions that a crash is made small with, at most, and seconds: what hangs takes long each time.
_BUDGET, _SECONDS = 5000, 10.0
# So often a crash is tried again before it is said that it does not come again.
TRIES = 5
_ROW = 16
_PAGE_FAULT = 14
# What time alone moves: it is other each time, whatever the input does (crates/hyperpy-core/src/snapshot/hash.rs).
_TIMED = re.compile(r"^clock\b|^vm\.clock_ns$|\.IA32_TSC$|\.time_ns$|\.lapic\.current_count$")


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
    vcpu: int

    @property
    def kind(self) -> Kind:
        """Its kind."""
        match self.what:
            case "exception" | "address" | "hang" | "killed":
                return self.what
            case _:
                return "exit"

    @property
    def key(self) -> Key:
        """What tells it from others. Where in its loop a guest is found that does not end is chance."""
        where = (hex(self.rip),) if self.kind != "hang" else ()
        what = self.text_of_vectors() if self.kind == "exception" else self.what
        return Key(self.kind, what, (*where, *map(hex, self.callers)))

    def text_of_vectors(self) -> str:
        """The exceptions that it may be."""
        return "exception " + " or ".join(map(str, self.vectors))

    def to_json(self) -> str:
        """All of it as text, so that another process knows it too."""
        return json.dumps({**self._asdict(), "vectors": list(self.vectors)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Found:
        """What `to_json` has written.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(text)
            return cls(**{**fields, "vectors": bytes(fields["vectors"])})
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"no finding of a guest: {error}\n\nhint: finding.json of a crash's folder"
            ) from error

    def text(self, vcpus: int = 1) -> str:
        """It in words, of a machine with so many vcpus."""
        match self.kind:
            case "exception":
                what = self.text_of_vectors()
                if self.error_code is not None:
                    what += f", error code {self.error_code:#x}"
                if _PAGE_FAULT in self.vectors:
                    what += f", cr2 {self.cr2:#x}"
            case "exit":
                told = f" {self.detail:#x}" if self.what in {"Mmio", "Pio", "Msr", "Hypercall"} else ""
                what = f"Exit.{self.what}{told}"
            case other:
                what = other
        where = f" at {self.rip:#x}" + (f" on vcpu {self.vcpu}" if vcpus > 1 else "")
        return what + where + (f", called from {', '.join(map(hex, self.callers))}" if self.callers else "")


class _Ended(NamedTuple):
    """What was there when the input had been executed."""

    after: Snapshot
    difference: SnapshotDiff
    trace: tuple[str, ...]


class GuestCrash(Crash):
    """An input that breaks a guest, and where it does.

    Two are one if they end in the same way, at the same instruction, called from the same places. `error` is a `GuestFault` that tells it in
    words; `input` are the bytes, which `GuestFuzzer.replay` and any corpus take.
    """

    def __init__(self, fuzzer: GuestFuzzer, data: bytes, found: Found, *, is_here: bool = False) -> None:
        """`is_here`: the machine stands where it crashed, so that its state need not come again."""
        self._guest, self.input, self._found, self.key = fuzzer, data, found, found.key
        self._seen = self._look() if is_here else None
        self._short: GuestCrash = self
        hint = "minimize() makes the input small, write_script(path) reproduces it"
        self._text = found.text(len(fuzzer.machine.vcpus))
        self.error = GuestFault(f"the guest ends by {self._text}", hint=hint)

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
    def vcpu(self) -> int:
        """The vcpu that it happened on; of a hang the first that does not wait behind an HLT."""
        return self._found.vcpu

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

    def _look(self) -> _Ended:
        """Keep how the machine stands."""
        guest, machine = self._guest, self._guest.machine
        after = machine.snapshot()
        traced = _told(machine.trace()) if machine._traced else []
        return _Ended(after, guest.base.diff(after), tuple(traced))

    @cached_property
    def _comes_again(self) -> bool:
        try:
            for _ in range(TRIES):
                found = self._guest._replayed(self.input)
                if found is not None and found.key == self.key:
                    self._seen = self._seen or self._look()
                    return True
        except KeyboardInterrupt:
            # Nobody knows, and what is saved now is saved at once.
            self._comes_again = True
            raise
        return False

    @property
    def _ended(self) -> _Ended | None:
        """None: nobody has seen it, and it does not come again."""
        if self._seen is None and not self.reproduces:
            return None
        return self._seen

    @property
    def state(self) -> Snapshot:
        """The machine as it has crashed, without a trace of breakpoints.

        Raises:
            FuzzError: it was found by another process, and the input does not crash it again.
        """
        if (ended := self._ended) is None:
            hint = "what else decides it: time, a device, another machine?"
            raise FuzzError("crash does not come again", hint=hint)
        return ended.after

    @property
    def trace(self) -> tuple[str, ...]:
        """The machine's last exits, if it is made with `trace=`, without their times; the last ones of them are this input's."""
        return () if (ended := self._ended) is None else ended.trace

    @property
    def state_difference(self) -> dict[str, tuple[str | None, str | None]]:
        """Values of the state that differ from the base, as text: before, and after; but for what time alone moves, such as a counter of it."""

        def shown(value: Any) -> str | None:
            return None if value is None else hex(value) if type(value) is int else f"{value!r:.80}"

        if (ended := self._ended) is None:
            return {}
        changes = [change for change in ended.difference.state if not _TIMED.search(change.path)]
        return {change.path: (shown(change.old), shown(change.new)) for change in changes}

    @property
    def shortest(self) -> GuestCrash:
        """The same finding as short as it was made so far."""
        return self._short

    def minimize(
        self, *, seconds: float = _SECONDS, progress: Callable[[Report], object] | None = None
    ) -> GuestCrash:
        """Return the same finding with as few bytes as possible, of which as many as possible are 0.

        It takes 5,000 executions at most, and ends where the time is up. One that does not come again is returned as it is.

        Arguments:
            seconds: how long it may take; 0: what was reached before is returned.
            progress: is told the fuzzer's report when it is done.

        Raises:
            ValueError: no time.
            KeyboardInterrupt: Ctrl-C.
        """
        check_time(seconds)
        if seconds and self.reproduces:
            small = self._guest._native.minimize(self._short.input, _BUDGET, seconds)
            fewer = GuestCrash(self._guest, small, self._found)
            if small != self._short.input and fewer.reproduces:
                self._short = fewer
            if progress is not None:
                progress(self._guest.report)
        return self._short

    def script(self) -> str:
        """Return the text of a script that reproduces it: it raises `error`.

        It makes the fuzzer as `GuestFuzzer.of` was told; or a machine by its spec, with the snapshot that lies beside it as `base.hps`.

        Raises:
            FuzzError: there is neither a function that makes the fuzzer, nor a spec of the machine.
        """
        return script(self._guest, self.input, self._text, BASE)

    def write_script(self, path: str | Path) -> None:
        """Write `script` to a file, and the snapshot that it needs beside it, by the same name with ".hps" at its end.

        Raises:
            FuzzError: as for `script`.
            OSError: a file cannot be written.
        """
        base = Path(path).with_suffix(".hps")
        Path(path).write_text(script(self._guest, self.input, self._text, base.name), encoding="utf-8")
        if self._guest.factory is None:
            self._guest.base.save(base)

    def _files(self) -> dict[str, bytes]:
        files = super()._files()
        if (ended := self._ended) is not None:
            pages = [f"{part.region} {part.gpa:#x}: {part.pages} pages" for part in ended.difference.pages]
            files["state.txt"] += "".join(f"{line}\n" for line in pages).encode()
        files["finding.json"] = self._found.to_json().encode()
        return files

    @property
    def _once(self) -> str:
        return f"it did not come again in {TRIES} tries"

    def _fill(self, folder: Path) -> None:
        """Put what is no text beside the files: the snapshot, one file for all crashes."""
        if self._guest.factory is not None:
            return
        try:
            os.link(self._guest.kept_base or "", folder / BASE)
        except OSError:  # there is none yet, or it is on another file system
            self._guest.base.save(folder / BASE)

    def save(self, folder: str | Path) -> Path:
        """Write all that is known of it into a folder of its own, as `Crash.save` does, with the snapshot that it begins with.

        Raises:
            OSError: it cannot be written, as on a full disk. The crash is as it was, and can be saved elsewhere.
        """
        target = super().save(folder)
        if self._guest.factory is None:
            self._guest.kept_base = target / BASE
        return target

    def __repr__(self) -> str:
        again = "" if self._is_known_to_reproduce else ", which does not come again"
        return f"<crash: {self._text}{again}>"


class KilledCrash(GuestCrash):
    """An input that a worker has died of: it is never executed in this process, so nothing is known of the guest."""

    def __init__(self, fuzzer: GuestFuzzer, data: bytes, how: str, reproduces: bool) -> None:
        super().__init__(fuzzer, data, Found("killed", b"", 0, 0, None, 0, 0, [], 0))
        self.key = Key("killed", how, (hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12],))
        self._text, self._comes_again = f"the end of its worker: {how}", reproduces
        self.error = GuestFault(f"the guest ends by {self._text}", hint="its folder has the input")

    @property
    def _ended(self) -> None:
        return None

    def minimize(
        self, *, seconds: float = _SECONDS, progress: Callable[[Report], object] | None = None
    ) -> KilledCrash:
        """Return it as it is."""
        del seconds, progress
        return self


def _told(trace: Trace) -> list[str]:
    rows = [
        [
            str(it.vcpu),
            it.what,
            f"{it.address:#x}",
            it.where,
            str(it.size or ""),
            f"{it.value:#x}",
            f"{it.rip:#x}",
        ]
        for it in trace
    ]
    return table(["vcpu", "exit", "address", "device", "size", "value", "rip"], rows).splitlines()


def _dump(data: bytes, at: int) -> list[str]:
    """Bytes in rows, with their addresses and as text."""
    rows = []
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"  {at + start:08x}  {row.hex(' '):<{_ROW * 3}} {text}")
    return rows
