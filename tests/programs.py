"""What the tests of the command line and the terminal share: kernels of a few bytes, processes, a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT_S = 30
COM1, DEBUG_EXIT, PM1A_CONTROL, RESET = 0x3F8, 0xF4, 0x604, 0xCF9


def out8(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al."""
    return b"\x66\xba" + struct.pack("<H", port) + bytes([0xB0, value, 0xEE])


def out16(port: int, value: int) -> bytes:
    """mov dx, port; mov ax, value; out dx, ax."""
    return b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


def say(text: str) -> bytes:
    return b"".join(out8(COM1, byte) for byte in text.encode())


POWER_OFF = out16(PM1A_CONTROL, 0x3400)  # SLP_TYP 5, SLP_EN
SPIN = b"\xeb\xfe"
# again: read COM1's line status until a byte is there; read it; leave at "q"; send it back; again.
ECHO = bytes.fromhex("66bafd03 ec a801 74f7 66baf803 ec 3c71 7403 ee ebeb")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hyperpy", *arguments]


def hyperpy(
    *arguments: str, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, timeout=LIMIT_S, cwd=cwd, check=False
    )


@contextlib.contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed at the end, at the latest."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            started.kill()


def started(*arguments: str, **options: Any) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """The command `hyperpy` with these arguments."""
    return process(*command(*arguments), **options)


def messages(stderr: bytes) -> str:
    """What was said besides the warning that kernels are better run elsewhere, which ends with the lab's command."""
    return re.sub(r"^hyperpy run: warning: .*\n\nhint: .*\n", "", stderr.decode()).removeprefix(
        "hyperpy run: "
    )


def read_until(descriptor: int, wanted: bytes) -> bytes:
    data, deadline = b"", time.monotonic() + LIMIT_S
    while wanted not in data:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come, only {data!r}"
        data += os.read(descriptor, 4096)
    return data


def elf(code: bytes) -> bytes:
    """An ELF kernel that is these instructions, loaded at 1 MiB and entered in long mode."""
    at, headers = 0x100000, 64 + 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, headers, at, at, len(code), len(code), 0x1000)
    return header + segment + code


class Terminal:
    """A pseudo-terminal whose other side is the controlling terminal of a program."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)

    def started(self, *command: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Start a program whose controlling terminal, input and output it is."""
        options = {
            "stdin": self.slave,
            "stdout": self.slave,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
        }
        return process(*command, **options, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def until_raw(self) -> None:
        """Until a program has made it raw: nothing else tells."""
        deadline = time.monotonic() + LIMIT_S
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            assert time.monotonic() < deadline, "it does not become raw"
            time.sleep(0.01)


# A shell with job control and a single job, in whose foreground it is: says "job PID", "stopped SIGNAL" and "status N",
# and does what is typed while the job is stopped or in the background: fg or bg, after which it looks for half a second
# whether the job stops.
SHELL = """
import os, signal, sys, time

def foreground(group):
    os.tcsetpgrp(0, group)

signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    foreground(os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    print("job", os.getpid(), flush=True)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    foreground(os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    print("stopped", os.WSTOPSIG(status), flush=True)
    verb = ""
    while verb != "fg":
        verb = sys.stdin.readline().strip()
        if verb == "fg":
            foreground(job)
        os.killpg(job, signal.SIGCONT)
        if verb == "bg":
            time.sleep(0.5)
            stopped, _ = os.waitpid(job, os.WUNTRACED | os.WNOHANG)
            print("background:", "stopped" if stopped else "runs", flush=True)
print("status", os.waitstatus_to_exitcode(status), flush=True)
"""
