"""The doctor on this host: what its guests show agrees with what a guest of the test's own shows, and it is quick."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from hyperpy import Exit, Flat, Machine
from hyperpy.doctor import examine, kernel_code_is_native

LIMIT_S = 30


def test_doctor_verdict_on_kernel_code_agrees_with_another_instruction() -> None:
    # popcnt eax, eax: not the one that the doctor tries.
    with Machine(memory="1M") as machine:
        machine.load(Flat(bytes.fromhex("f30fb8c0 f4"), mode="long"))
        exit_ = machine.run(timeout=5)
    if kernel_code_is_native():
        assert isinstance(exit_, Exit.Halt)
    else:
        assert isinstance(exit_, Exit.InternalError)
        assert exit_.suberror == 1
    assert examine().probe.kernel_code == ("native" if kernel_code_is_native() else "interpreted")


def test_doctor_measures_exits_and_speed_that_can_be() -> None:
    probe = examine().probe
    assert probe.problem == ""
    assert probe.capabilities["KVM_CAP_USER_MEMORY"]
    assert probe.limits["api_version"] == 12
    assert probe.exit_us is not None
    assert probe.mips is not None
    # From an exit on the fastest processor to one under an emulator; an instruction is cheaper than an exit everywhere.
    assert 0.1 < probe.exit_us < 5000
    assert 1 / probe.mips < probe.exit_us


def test_doctor_as_a_command_is_json_in_two_seconds() -> None:
    begun = time.monotonic()
    command = [sys.executable, "-m", "hyperpy", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    assert time.monotonic() - begun < 2
    report = json.loads(done.stdout)
    assert report["facts"]["device"] == "usable"
    assert done.returncode == (0 if report["can_run_kernels"] else 1)
    assert done.stderr == b""


def test_doctor_does_not_import_the_lab() -> None:
    code = "import sys, hyperpy.doctor as d; d.examine(); sys.exit('hyperpy.lab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_S, check=False).returncode == 0
