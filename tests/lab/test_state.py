"""The core's own tests of states, on kvm-amd: what a page-table KVM takes may be another matter for real hardware."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2] / "build/core-tests"  # by `make build/core-tests`
LIMIT_S = 25  # they take 5
ATTEMPTS = 4
# Those whose guests sleep until the PIT ticks.
WAITERS = {
    f"test kvm::snapshot::tests::{name} ... "
    for name in (
        "interrupts::test_timer_of_the_pit_ticks_on_after_each_load",
        "interrupts::test_pit_does_not_tick_while_vcpus_are_put_back_and_does_after_that",
        "refused::test_call_that_fails_once_is_told_by_name_and_a_second_try_puts_everything_right",
    )
}


def test_states_of_vcpus_and_vms_are_taken_and_put_back_on_real_hardware() -> None:
    """In the lab a guest that sleeps until the PIT ticks waits for good now and then (docs/concepts/flavours.md): then once more."""
    assert TESTS.exists(), f"{TESTS} is missing: `make build/core-tests` builds it"
    command = [TESTS, "--test-threads", "1", "kvm::snapshot"]
    waited = []
    for _ in range(ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            break
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
            waited += (said.decode() if isinstance(said, bytes) else said).splitlines()[-1:]
    else:
        pytest.fail(f"guest waits for good: {waited}")
    assert set(waited) <= WAITERS, waited
    assert done.returncode == 0, done.stdout
    assert "test result: ok. 2" in done.stdout, done.stdout  # twenty and more
