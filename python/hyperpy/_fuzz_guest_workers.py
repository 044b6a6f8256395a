"""Several processes that fuzz one guest, seen from the one that began them.

A worker is a fresh interpreter that makes the machine and the fuzzer anew (`_fuzz_guest_script`), and tells by lines of JSON on a pipe of its
own how far it is (`_fuzz_guest_worker`). Inputs go from one to the others by the folder of the corpus. One that dies is replaced and told of.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hyperpy._fuzz_folder import Folder
from hyperpy._fuzz_guest_crash import Found
from hyperpy._fuzz_guest_script import BASE, making

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer

__all__ = ["Workers"]

# How often one may die without having executed anything, until no other one is begun in its place.
_TRIES = 3
_LOOK = 0.05
# So long a worker has to end by itself.
_PATIENCE = 5.0


class _Worker:
    """One of them."""

    def __init__(self, number: int, code: str, executions: int | None) -> None:
        self.number, self.executions, self.wanted = number, 0, executions
        self.is_done = False
        self.rest = b""
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, str(write)], pass_fds=[write], stdin=subprocess.DEVNULL
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.pipe: IO[bytes] = open(read, "rb", buffering=0)

    def lines(self) -> list[dict[str, Any]] | None:
        """What it tells; None at its end."""
        chunk = self.pipe.read(1 << 16)
        if not chunk:
            return None
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]


class Workers:
    """The workers of a fuzzer."""

    def __init__(self, fuzzer: GuestFuzzer) -> None:
        self._fuzzer = fuzzer
        self._scratch = tempfile.TemporaryDirectory(prefix="hyperpy-fuzz-")
        base = Path(self._scratch.name, BASE)
        self._code = making(fuzzer, repr(str(base)))
        if fuzzer.factory is None:
            fuzzer.base.save(base, compress=None)
        if fuzzer._folder is None:
            fuzzer._folder = Folder(Path(self._scratch.name, "corpus"))
        self._corpus = fuzzer._folder.path
        self._executions = self._coverage = self._inputs = 0
        self._running: dict[int, tuple[int, int]] = {}
        self._begun = 0

    def statistics(self) -> tuple[int, int, int]:
        """Executions of all, and coverage and corpus of the one that has most."""
        return self._executions, self._coverage, self._inputs

    def run(self, until: float, executions: int | None) -> None:
        """Have them execute so many inputs, until the time is up."""
        count = self._fuzzer.workers
        shares = [None] * count if executions is None else _shares(executions, count)
        with selectors.DefaultSelector() as selector:
            alive = {number: self._begin(selector, number, share, until) for number, share in enumerate(shares)}
            tries = dict.fromkeys(alive, _TRIES)
            try:
                while alive:
                    for key, _ in selector.select(_LOOK):
                        worker: _Worker = key.data
                        lines = worker.lines()
                        for line in lines or ():
                            self._told(worker, line)
                        if lines is None:
                            selector.unregister(worker.pipe)
                            worker.pipe.close()
                            del alive[worker.number]
                            again = self._ended(worker, until, tries)
                            if again is not None:
                                alive[worker.number] = self._begin(selector, worker.number, again, until)
            finally:
                for worker in alive.values():
                    worker.process.send_signal(signal.SIGINT)
                self._drain(alive)

    def _begin(self, selector: selectors.BaseSelector, number: int, share: int | None, until: float) -> _Worker:
        seed = (self._fuzzer.seed + self._begun) % (1 << 64)
        self._begun += 1
        # Its clock is not this one's.
        seconds = max(until - time.monotonic(), 0.0)
        work = f"work(fuzzer, {seed}, {str(self._corpus)!r}, {seconds!r}, {share!r})"
        worker = _Worker(number, f"{self._code}\nfrom hyperpy._fuzz_guest_worker import work\n{work}\n", share)
        selector.register(worker.pipe, selectors.EVENT_READ, worker)
        return worker

    def _told(self, worker: _Worker, line: dict[str, Any]) -> None:
        if "crash" in line:
            found = line["found"]
            found[1] = bytes(found[1])
            if self._fuzzer._add(bytes.fromhex(line["crash"]), Found(*found)):
                self._fuzzer._save()
            return
        worker.is_done = line["is_done"]
        self._executions += line["executions"] - worker.executions
        worker.executions = line["executions"]
        self._coverage = max(self._coverage, line["coverage"])
        self._inputs = max(self._inputs, line["corpus"])
        self._fuzzer._problems |= dict.fromkeys(line["problems"])

    def _ended(self, worker: _Worker, until: float, tries: dict[int, int]) -> int | None:
        """A worker has ended: how many executions another one is to do in its place, or None; an endless share is the largest number."""
        code = worker.process.wait()
        if worker.is_done:
            return None
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._fuzzer._problems[f"worker {worker.number} has died, by {how}, after {worker.executions} executions"] = None
        if worker.executions == 0:
            tries[worker.number] -= 1
        if tries[worker.number] == 0 or time.monotonic() >= until:
            return None
        return (1 << 62) if worker.wanted is None else worker.wanted - worker.executions

    def _drain(self, alive: dict[int, _Worker]) -> None:
        """Hear what those have to say that were told to end."""
        deadline = time.monotonic() + _PATIENCE
        for worker in alive.values():
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            while (lines := worker.lines()) is not None:
                for line in lines:
                    self._told(worker, line)
            worker.pipe.close()


def _shares(executions: int, count: int) -> list[int | None]:
    """A number in parts that are as equal as can be."""
    each, more = divmod(executions, count)
    return [each + (number < more) for number in range(count)]
