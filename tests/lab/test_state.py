"""The core's own tests of states, on kvm-amd: what a page-table KVM takes may be another matter for real hardware."""

from __future__ import annotations

import subprocess
from pathlib import Path

TESTS = Path(__file__).parents[2] / "build/core-tests"  # by `make build/core-tests`
LIMIT_S = 100  # they take 5: beyond it a guest waits for good


def test_states_of_vcpus_and_vms_are_taken_and_put_back_on_real_hardware() -> None:
    assert TESTS.exists(), f"{TESTS} is missing: `make build/core-tests` builds it"
    command = [TESTS, "--test-threads", "1", "kvm::snapshot"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout
    assert "test result: ok. 2" in done.stdout, done.stdout  # twenty and more
