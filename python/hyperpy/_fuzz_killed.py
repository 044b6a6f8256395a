"""Inputs that their workers have died of: which these are, and how they are kept. Others are `_fuzz_guest_crash`'s and `_fuzz_crash`'s.

What a worker was executing when it died need not be why: somebody else may have killed it. So it is tried once more, by the worker that
replaces it, before anything else.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from hyperpy._fuzz_checks import file_and_name
from hyperpy._fuzz_folder import put_whole
from hyperpy._fuzz_process import Worker

__all__ = ["Killed", "save"]

# By these somebody ends a process that has done nothing: what lives the second time has not done it.
_ANYBODYS = frozenset({"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"})
# A line of what `faulthandler` writes, and how many of them tell findings apart.
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_LINES = 3


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.parent == Path(__file__).parent or path.name.startswith("<frozen")


class Killed(NamedTuple):
    """An input that a worker has died of."""

    input: bytes
    how: str
    said: str
    reproduces: bool

    @property
    def name(self) -> str:
        """What tells it from others."""
        return hashlib.sha1(self.input, usedforsecurity=False).hexdigest()[:12]

    @property
    def where(self) -> tuple[str, ...]:
        """What tells the finding from others: the last functions and lines outside of hyperpy that the interpreter has told, or the input.

        It tells them of a signal such as SIGSEGV; of one that comes from outside, or an end by a status, it says nothing.
        """
        frames = [
            f"{function}:{line}" for file, line, function in _FRAME.findall(self.said) if not _is_ours(file)
        ]
        return tuple(reversed(frames[:_LINES])) or (self.name,)

    @property
    def is_its_own(self) -> bool:
        """Whether it is a finding: nobody else has killed the worker."""
        return self.reproduces or self.how not in _ANYBODYS

    @classmethod
    def of(cls, worker: Worker) -> Killed | None:
        """What a worker that is dead has died of, if it was executing anything."""
        data = worker.input
        return None if data is None else cls(data, worker.how, worker.said, data == worker.suspect)


def save(killed: Killed, folder: str, target: str) -> str:
    """Write what is known of it into a folder of its own, and return that.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(folder, f"killed-{killed.name}")
    if path.exists():
        return str(path)
    again = "" if killed.reproduces else "\nit did not come again"
    files = {
        "input": killed.input,
        "error.txt": f"the worker was killed: {killed.how}{again}\n{killed.said}\n".encode(errors="replace"),
        "reproduce.py": _script(killed, target).encode(),
    }
    put_whole(path, files)
    return str(path)


def _script(killed: Killed, target: str) -> str:
    file, name = file_and_name(target)
    where = os.path.abspath(file) + (f":{name}" if name else "")
    return "\n".join(
        [
            f'"""Reproduces a finding of hyperpy.fuzz: the process that executes it is killed, {killed.how}."""',
            "",
            "from hyperpy._fuzz_worker import fuzzer_of",
            "",
            f"fuzzer = fuzzer_of({where!r})",
            f"print(fuzzer.replay(bytes.fromhex({killed.input.hex()!r})))",
            "",
        ]
    )
