"""What a fuzzer keeps: the folder of its corpus, that of its crashes, and what is not in them yet.

Both fuzzers have one. Files are `hyperpy._fuzz_folder`'s, and what a crash's folder holds is the crash's; which inputs are in the corpus is the core's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_folder import Folder

__all__ = ["Kept"]

_C = TypeVar("_C", bound=Crash)
# Inputs of a folder that are given at once.
_BATCH = 256


class Kept(Generic[_C]):
    """The folders, None where nothing is kept; and what failed, told once each."""

    def __init__(self, corpus: str | Path | None, crashes: str | Path | None) -> None:
        self.corpus = None if corpus is None else Folder(corpus)
        self.crashes = None if crashes is None else Path(crashes)
        self.problems: dict[str, None] = {}
        self.unsaved: dict[Hashable, _C] = {}
        self._saved = 0  # inputs of the corpus that are in the folder, and stay as they are
        self._open: bytes | None = None  # the one that was put there as it was, and may be made shorter
        self._given: Iterator[bytes] = iter(()) if self.corpus is None else self.corpus.look()

    def sync(self) -> None:
        """Take up inputs that others have put into the folder since."""
        if self.corpus is not None:
            self._given = chain(self._given, self.corpus.look())

    def given(self, most: int) -> list[bytes]:
        """Return inputs of the folder that were not tried yet, as many as are given at once."""
        return list(islice(self._given, min(most, _BATCH)))

    def save(self, inputs: Callable[[int], list[bytes]], settled: int, *, is_last: bool = False) -> None:
        """Put into the folders what is not there; what fails is told, and tried again.

        `inputs` gives the corpus from a number on, of which `settled` stay as they are. One that may still be made shorter is put there
        only at the end of a run (`is_last`), and taken out by the next if it was: so what is in the folder depends on what was executed, and
        not on when.
        """
        # Ctrl-C comes after it: no file is left half written.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            if self.corpus is not None:
                self._save_inputs(self.corpus, inputs(self._saved), settled, is_last)
            if self.crashes is not None:
                for key, crash in list(self.unsaved.items()):
                    crash.save(self.crashes)
                    del self.unsaved[key]
        except OSError as error:
            self.problems[f"not saved: {error.strerror or error}: {error.filename}"] = None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _save_inputs(self, corpus: Folder, new: list[bytes], settled: int, is_last: bool) -> None:
        if self._open is not None and self._open not in new[:1]:
            corpus.drop(self._open)
        for data in new:
            if not (is_settled := self._saved < settled) and not is_last:
                break
            is_new = corpus.put(data)
            self._saved += is_settled
            if not is_settled:
                self._open = data if is_new or data == self._open else None
                return
        self._open = None

    def keep_only(self, inputs: list[bytes]) -> None:
        """Have these in the folder of the corpus, which is these now."""
        self._saved, self._open = len(inputs), None
        if self.corpus is not None:
            self.corpus.keep_only(inputs)
