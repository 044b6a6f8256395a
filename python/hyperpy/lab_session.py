"""One boot of the lab: its process, the channels that come out of it, and an end without anything left behind.

This module owns the emulator's process group, the three channels (control, and the command's two streams) and
the deadlines. It knows neither emulator: `hyperpy.lab_amd` and `hyperpy.lab_intel` describe themselves as an
`Emulator`.

On the control channel the guest writes `ready` when the command starts and `exit N` when it has ended.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pty
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from hyperpy.errors import HyperpyError

__all__ = ["CHANNELS", "Emulator", "LabError", "Session", "Task", "search_path"]

CHANNELS = ("control", "stdout", "stderr")

_CHUNK = 1 << 16
_END_S = 5.0


class LabError(HyperpyError):
    """The lab cannot start, or ended without the command's status; `hint` says what to do."""


def search_path() -> str:
    """Where the lab looks for programs: this Python's folder, PATH, and root's folders."""
    return ":".join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    )


@dataclass(frozen=True, slots=True)
class Task:
    """What runs in the lab: a command, its working directory and its whole environment."""

    command: Sequence[str]
    place: Path
    environment: Mapping[str, str]

    def script(self) -> bytes:
        """The task for a shell. Names that a shell's variables cannot have are left out of the environment."""
        exports = [
            f"export {name}={shlex.quote(value)}"
            for name, value in self.environment.items()
            if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
        ]
        enter = f"cd {shlex.quote(str(self.place))} || exit 126"
        return os.fsencode("\n".join([*exports, enter, f"exec {shlex.join(self.command)}"]) + "\n")


@dataclass(frozen=True, slots=True)
class Emulator:
    """One way to boot the lab.

    Attributes:
        name: what is booted, for people.
        prepare: writes what a boot for a task needs into an empty folder, and returns the command.
        boot_s: seconds after which a boot that has not come to the task is given up.
        has_pipes: whether the channels are pipes that it opens by name, not sockets that it connects to.
        wants_terminal: whether it draws on a terminal; the guest's console is then the file `console`.
        screen: how it tells on that terminal the name of another one that it draws on: the pattern's first group.
    """

    name: str
    prepare: Callable[[Path, Task], Sequence[str]]
    boot_s: float = 75.0
    has_pipes: bool = False
    wants_terminal: bool = False
    screen: re.Pattern[bytes] | None = None


class Session:
    """One boot of the lab: its process and its channels, files in `folder`. Leaving the context ends it.

    Args:
        folder: where the channels and the guest's console are.
        sinks: what receives `stdout` and `stderr`.
        emulator: what will be started.
    """

    def __init__(self, folder: Path, sinks: Mapping[str, IO[bytes]], emulator: Emulator) -> None:
        self._folder = folder
        self._sinks = sinks
        self._emulator = emulator
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._control = b""
        self._said = bytearray()  # the end of what was written to its terminals
        self._has_screen = False
        self._open: set[str] = set()  # what is still to end: the process and the connected channels
        self._resources = contextlib.ExitStack()
        # Each registration's data is the function that handles its event.
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        for name in CHANNELS:
            (self._make_pipe if emulator.has_pipes else self._listen)(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._sinks = {}  # what still comes is drained: the caller may no longer take it
        # The emulator is in the group of what was started. It is gone when its ends of the channels are closed.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process is not None and self._open:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                limit = time.monotonic() + _END_S  # whatever it still says or draws
                while self._open and (left := limit - time.monotonic()) > 0:
                    for key, _ in self._selector.select(left):
                        key.data()
        self._resources.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # an emulator that had not come to its channels yet
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def start(self, command: Sequence[str]) -> None:
        """Start the emulator. Its output is the guest's console, unless it draws: nobody looks at that."""
        environment = os.environ | {"PATH": search_path(), "TMPDIR": str(self._folder), "TERM": "linux"}
        with contextlib.ExitStack() as ours:
            if self._emulator.wants_terminal:
                terminal, output = pty.openpty()
                self._drain(terminal)
                ours.callback(os.close, output)
            else:
                output = ours.enter_context((self._folder / "console").open("ab")).fileno()
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=output if self._emulator.wants_terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        descriptor = os.pidfd_open(self._process.pid)
        self._resources.callback(os.close, descriptor)
        self._open.add("process")
        self._selector.register(descriptor, selectors.EVENT_READ, functools.partial(self._ended, descriptor))

    def pump(self, deadline: float = math.inf) -> int | None:
        """Hand on output until the lab has ended; return the command's status.

        None tells that the deadline came, or that the boot took longer than it may.
        """
        boot_deadline = time.monotonic() + self._emulator.boot_s
        while self._open:
            left = (deadline if self._ready() else min(deadline, boot_deadline)) - time.monotonic()
            events = self._selector.select(None if left == math.inf else left) if left > 0 else []
            if not events:
                return self._status
            for key, _ in events:
                key.data()
        if self._status is None:
            hint = "the last lines of its console are above; `--memory` and `--cpus` change the lab"
            raise LabError(f"the lab ended before the command did: {self._console_tail()}", hint=hint)
        return self._status

    def progress(self) -> str:
        """Return where the boot stands, for a message: nothing once the command has started."""
        return "" if self._ready() else f": the lab is still booting: {self._console_tail()}"

    def _listen(self, name: str) -> None:
        listener = self._resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(self._folder / name))
        listener.listen(1)
        self._selector.register(
            listener, selectors.EVENT_READ, functools.partial(self._accept, listener, name)
        )

    def _accept(self, listener: socket.socket, name: str) -> None:
        connection = self._resources.enter_context(listener.accept()[0])
        self._open.add(name)
        self._register(connection.fileno(), name)

    def _make_pipe(self, name: str) -> None:
        os.mkfifo(self._folder / name)
        # Opened first and without waiting, so that the emulator finds a reader. No event comes before it.
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK)
        self._resources.callback(os.close, descriptor)
        self._register(descriptor, name)

    def _register(self, descriptor: int, name: str) -> None:
        self._selector.register(
            descriptor, selectors.EVENT_READ, functools.partial(self._receive, descriptor, name)
        )

    def _ended(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        self._open.discard("process")

    def _receive(self, descriptor: int, name: str) -> None:
        data = os.read(descriptor, _CHUNK)
        if not data:
            self._selector.unregister(descriptor)
            self._open.discard(name)
            return
        self._open.add(name)  # a pipe counts from its first data on: one that was never opened reports no end
        if name == "control":
            self._control += data
            if found := re.search(rb"^exit (\d+)\n", self._control, re.MULTILINE):
                self._status = int(found[1])
        elif (sink := self._sinks.get(name)) is not None:
            sink.write(data)
            sink.flush()

    def _drain(self, terminal: int) -> None:
        self._resources.callback(os.close, terminal)
        self._selector.register(terminal, selectors.EVENT_READ, functools.partial(self._drawn, terminal))

    def _drawn(self, terminal: int) -> None:
        """Drop what was drawn: the emulator would wait for ever when nobody reads it."""
        data = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            data = os.read(terminal, _CHUNK)
        if not data:
            self._selector.unregister(terminal)
            return
        self._said += data
        if (
            self._emulator.screen
            and not self._has_screen
            and (found := self._emulator.screen.search(self._said))
        ):
            self._has_screen = True
            screen = os.open(found[1], os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
            # At once: a flush, which is the default, can leave the writer asleep that filled the queue before.
            tty.setraw(screen, termios.TCSANOW)
            self._drain(screen)
        del self._said[:-1024]

    def _ready(self) -> bool:
        return b"ready\n" in self._control

    def _console_tail(self) -> str:
        """The last lines of the guest's kernel, or of the emulator when that came to nothing."""
        files = [self._folder / name for name in ("console", "emulator.log")]
        text = next((data for file in files if file.exists() and (data := file.read_bytes()[-_CHUNK:])), b"")
        lines = text.decode(errors="replace").splitlines()
        return "".join(f"\n    {line.rstrip()}" for line in lines[-12:])
