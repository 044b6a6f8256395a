"""One process of a campaign: `python -m hyperpy._fuzz_worker`, with a task as a line of JSON on standard input.

It tells how far it is by lines of JSON on what was its standard output; the target's own output goes to standard error. It ends when its
input does. A fuzzer is anything that has `configure`, `sync`, `run` and `report`, as `DeviceFuzzer` does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from hyperpy import _hyperpy
from hyperpy._fuzz_checks import file_and_name
from hyperpy._fuzz_findings import FuzzError

if TYPE_CHECKING:
    from hyperpy._fuzz_crash import Crash
    from hyperpy._fuzz_report import Report

__all__ = ["Fuzzer", "fuzzer_of"]

# So often it tells how far it is, and looks for what others have found.
_SLICE = 0.25
# And so often if others want to know soon which blocks are covered: until then they are stopped there, too.
_SHARED = 0.05
# A crash is made small for so many seconds: there is more to be found.
_SMALL = 10.0
# One input takes no longer than so many seconds, of a fuzzer that does not say otherwise.
_PATIENCE = 60.0
# Of a worker in which something else was raised than what a device may: not its target alone, so that another one may live.
_FAILED = 3
_NAMES = ("fuzzer", "target")


class Fuzzer(Protocol):
    """What a campaign wants of a fuzzer."""

    def configure(self, *, seed: int, corpus: str | None, crashes: str | None) -> None:
        """Begin anew, with these."""

    def sync(self) -> None:
        """Take up what others have put into the corpus."""

    def run(self, *, seconds: float | None = None, executions: int | None = None) -> Report:
        """Go on."""


def fuzzer_of(target: str) -> Fuzzer:
    """Load a target: "FILE.py", or "FILE.py:NAME".

    Raises:
        FuzzError: there is none.
    """
    file, name = file_and_name(target)
    module = _loaded(file)
    for wanted in (name,) if name else _NAMES:
        found = getattr(module, wanted, None)
        if found is not None:
            made = found() if callable(found) and not hasattr(found, "run") else found
            if not all(callable(getattr(made, verb, None)) for verb in ("configure", "sync", "run")):
                raise FuzzError(
                    f"not a fuzzer: {wanted} in {file}", hint="fuzzer = hyperpy.fuzz.DeviceFuzzer(MyDevice)"
                )
            fuzzer: Fuzzer = made
            return fuzzer
    if name:
        raise FuzzError(
            f"file does not define {name}: {file}",
            hint=f"at its top level: {name} = hyperpy.fuzz.DeviceFuzzer(MyDevice)",
        )
    raise FuzzError(
        f"file defines no fuzzer: {file}",
        hint="at its top level: fuzzer = hyperpy.fuzz.DeviceFuzzer(MyDevice), or a function target() that returns one",
    )


def _loaded(file: str) -> ModuleType:
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FuzzError(f"target cannot be read: {file}", hint="a Python file")
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _main() -> int:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.append(os.getcwd())  # the last one: a device's file may be called as one of Python's own modules
    faulthandler.enable(all_threads=False)  # where it was when it is killed
    task = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not task:
        return 0
    try:
        fuzzer = fuzzer_of(task["target"])
        fuzzer.configure(seed=task["seed"], corpus=task["corpus"], crashes=task["crashes"])
    except FuzzError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its parent reads it
        return 1
    except Exception:
        print(f"target cannot be loaded: {task['target']}\n", file=sys.stderr)  # noqa: T201
        traceback.print_exc()
        return 1
    if (slot := task.get("slot")) is not None:
        _hyperpy.note_inputs(f"/proc/self/fd/{slot}")
    out.write(json.dumps({"patience": getattr(fuzzer, "_patience", _PATIENCE)}) + "\n")
    others = _Others(fuzzer, task.get("shares", False))
    told = _Told(out, task["crashes"], others)
    left = task["executions"]
    try:
        threading.Thread(target=_listen, args=(others,), daemon=True).start()
        if (first := task.get("first")) is not None:
            fuzzer.replay(bytes.fromhex(first))  # type: ignore[attr-defined] # as of all fuzzers
        while left is None or left > 0:
            before = told.executions
            told.tell(fuzzer.run(seconds=others.slice, executions=left))
            if left is not None:
                left -= told.executions - before
            fuzzer.sync()
            others.learn()
    except KeyboardInterrupt:
        told.tell(fuzzer.report, is_last=True)  # type: ignore[attr-defined] # as of all fuzzers
    return 0


class _Others:
    """What the other workers have covered, and are told of this one: of fuzzers that can take it over without executing it."""

    def __init__(self, fuzzer: Any, shares: bool) -> None:
        self._fuzzer = fuzzer if shares and hasattr(fuzzer, "learn") else None
        self._heard: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._of = fuzzer
        self.news()  # from now on there are some

    @property
    def slice(self) -> float:
        """How long it runs until they are told."""
        return _SLICE if self._fuzzer is None else _SHARED

    @property
    def stops(self) -> int:
        """How often a breakpoint has stopped a guest."""
        return getattr(self._of, "stops", 0)

    def hear(self, news: list[Any]) -> None:
        """Take what others tell, on any thread."""
        self._heard.put(news)

    def learn(self) -> None:
        """Have the fuzzer know it: all at once."""
        news: list[tuple[bytes, list[int]]] = []
        while not self._heard.empty():
            news += [(bytes.fromhex(data), blocks) for data, blocks in self._heard.get()]
        if news and self._fuzzer is not None:
            self._fuzzer.learn(news)

    def news(self) -> list[Any]:
        """What is new here since it was asked last."""
        return [] if self._fuzzer is None else [(data.hex(), blocks) for data, blocks in self._fuzzer.news()]


def _listen(others: _Others) -> None:
    """Hear what others tell; have the main thread end when nobody is there any more who wants this process."""
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError, KeyError):  # half a line, of a parent that was killed
            others.hear(json.loads(line)["news"])
    # A signal, so that a device that waits is waked too.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class _Told:
    """What was told of a fuzzer."""

    def __init__(self, out: Any, crashes: str | None, others: _Others) -> None:
        self._out, self._crashes, self._others = out, crashes, others
        self.executions = 0
        self._small: dict[Any, dict[str, Any]] = {}
        self._minimized: set[Any] = set()

    def tell(self, report: Report, *, is_last: bool = False) -> None:
        self.executions = report.executions
        self._write(report, [self._told(crash, 0 if is_last else _SMALL) for crash in report.crashes])

    def _tell_small(self, report: Report) -> None:
        """A crash is being made small."""
        self._write(report, list(self._small.values()))

    def _write(self, report: Report, crashes: list[dict[str, Any]]) -> None:
        line = {
            "executions": report.executions,
            "operations": report.operations,
            "coverage": report.coverage,
            "corpus": report.corpus,
            "crashes": crashes,
            "problems": list(report.problems),
            "reset_us": report.reset_us,
            "minimizing": report.minimizing,
            "stops": self._others.stops,
            "news": self._others.news(),
        }
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def _told(self, crash: Crash, seconds: float) -> dict[str, Any]:
        """What is known of a crash, which is made small once."""
        if crash.key not in self._small:
            folder, is_saved = None, True
            # One that could not be saved is as small as it will be.
            most = 0 if crash.key in self._minimized else seconds
            small = crash.minimize(seconds=most, progress=self._tell_small)
            self._minimized.add(crash.key)
            if self._crashes is not None:
                try:
                    folder = str(small.save(self._crashes))
                    first = str(crash.save(self._crashes))
                    if folder != first:
                        shutil.rmtree(first, ignore_errors=True)
                except OSError:
                    is_saved = False  # the report tells it; it is tried again
            told = {
                "kind": crash.kind,
                "raised": crash.key.raised,
                "where": list(crash.key.where),
                "operations": len(small.operations),
                "folder": folder,
                "reproduces": small.reproduces,
            }
            if not is_saved:
                return told
            self._small[crash.key] = told
        return self._small[crash.key]


if __name__ == "__main__":
    try:
        status = _main()
    except BaseException:  # also SystemExit, which the device's code may raise: whoever reads this is told
        traceback.print_exc()
        status = _FAILED
    sys.stderr.flush()
    # Without what an interpreter does at its end: a thread may still be reading.
    os._exit(status)
