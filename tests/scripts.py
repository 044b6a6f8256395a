"""Scripts in processes of their own: what they all begin with, and how they are run, signalled and waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 30

PRELUDE = """
import hyperpy, os, signal, sys, threading, time
from hyperpy import Exit, Flat, Machine, StateError
LOOP = bytes([0xE6, 0x80, 0xEB, 0xFE])            # out 0x80, al; again: jmp again
STORM = bytes([0xE6, 0x80, 0xE4, 0x99, 0xEB, 0xFC])  # out 0x80, al; again: in al, 0x99; jmp again
class Ready(hyperpy.Device):
    size = 1
    def write(self, offset, size, value):
        print("ready", flush=True)
def machine(code, **options):
    m = Machine(memory="1M", unclaimed="ones", **options)
    m.load(Flat(code, mode="real"))
    m.attach(Ready(), pio=0x80)
    return m
"""


def process(script: str, *flags: str) -> subprocess.Popen[str]:
    code = PRELUDE + textwrap.dedent(script)
    command = [sys.executable, *flags, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def run(script: str, *flags: str) -> tuple[int, str, str]:
    child = process(script, *flags)
    try:
        out, errors = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()
        out, errors = child.communicate()
        pytest.fail(f"the process hangs; it said:\n{out}\n{errors}")
    return child.returncode, out, errors


def signalled(script: str, number: signal.Signals) -> tuple[int, str, str, float]:
    """Runs a script, sends it a signal once its guest is there, and tells how long it took to end."""
    child = process(script)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        begin = time.monotonic()
        child.send_signal(number)
        out, errors = child.communicate(timeout=LIMIT)
        return child.returncode, out, errors, time.monotonic() - begin
    finally:
        child.kill()
        child.communicate()
