"""A worker of a campaign as its campaign has it: the process, what it says, what it is told, and the input that it executes.

What is said and told is the campaign's (`_fuzz_campaign`); what a worker does is in `_fuzz_worker`. The input lies in a file without a name
that both have mapped (crates/hyperpy-core/src/fuzz/slot.rs), where it is found when the worker is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any

__all__ = ["Worker"]

_TAIL = 4096
_READ = 1 << 16
# Of the file: a length, one more than it is, and bytes.
_HEAD, _LONGEST = 8, 1 << 16
# What a worker has not read yet of what it is told; one that hangs reads nothing.
_UNREAD = 1 << 24
# A worker that is ended has so many seconds to say where it is.
_LAST_WORDS = 2.0


class Worker:
    """A process that fuzzes."""

    def __init__(self, number: int, task: dict[str, Any], suspect: bytes | None) -> None:
        """`suspect`: the input that it tries before anything else, since another worker has died of it."""
        self.number, self.suspect, self.began = number, suspect, time.monotonic()
        self.told: dict[str, Any] = {}
        # How long it may say nothing, once it has said so, and when it said something last.
        self.patience: float | None = None
        self._heard, self._is_stuck = time.monotonic(), False
        self._rest = self._stderr = self._unsent = b""
        self._slot = os.memfd_create("hyperpy-fuzz-input", os.MFD_CLOEXEC)
        os.truncate(self._slot, _HEAD + _LONGEST)
        first = None if suspect is None else suspect.hex()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "hyperpy._fuzz_worker",
            ],  # -P: its own modules, whatever files lie here
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._slot],
            start_new_session=True,  # Ctrl-C of a terminal is this process's alone
        )
        for stream in (self._stdin, self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
        self.tell({**task, "slot": self._slot, "first": first})

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where it says how far it is."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """Where it says why it ends."""
        assert self.process.stderr is not None
        return self.process.stderr

    def tell(self, line: dict[str, Any]) -> None:
        """Tell it something, now or when it reads again; one that reads no more is told nothing more."""
        if len(self._unsent) < _UNREAD:
            self._unsent += json.dumps(line).encode() + b"\n"
        self.send()

    def send(self) -> None:
        """Send what it was not sent yet, as far as it takes it."""
        # It may have ended: that is seen later.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ValueError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent) :]

    def hear(self, stream: IO[bytes]) -> tuple[list[dict[str, Any]], bool]:
        """Return the lines that have come, and whether there is anything more to come."""
        lines: list[dict[str, Any]] = []
        while True:
            try:
                data = os.read(stream.fileno(), _READ)
            except BlockingIOError:
                return lines, True
            if not data:
                return lines, False
            if stream is self.stderr:
                self._stderr = (self._stderr + data)[-_TAIL:]
                continue
            self._heard = time.monotonic()
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                with contextlib.suppress(ValueError):
                    self.told = json.loads(line)
                    lines.append(self.told)

    @property
    def input(self) -> bytes | None:
        """What it executes, or has died of; None: nothing."""
        length = int.from_bytes(os.pread(self._slot, _HEAD, 0), "little")
        return os.pread(self._slot, min(length - 1, _LONGEST), _HEAD) if length else None

    @property
    def how(self) -> str:
        """How it has ended: a signal, or a status; or what it was ended for."""
        if self._is_stuck:
            return "does not return"
        status: int = self.process.returncode
        if status >= 0:
            return f"status {status}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
        return f"signal {-status}"

    def end_if_stuck(self) -> None:
        """Kill it if one input takes longer than it may: an operation does not return, and cannot be interrupted. It says where, if it can."""
        if self.patience is None or self.input is None or time.monotonic() - self._heard < self.patience:
            return
        self._is_stuck = True
        self.process.send_signal(signal.SIGABRT)
        try:
            self.process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        """The last that it has said on standard error."""
        return self._stderr.decode(errors="replace").strip()

    def end(self) -> None:
        """Have it end."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def close(self) -> None:
        """Free what is left of it, which has ended."""
        for pipe in (self._stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        os.close(self._slot)
