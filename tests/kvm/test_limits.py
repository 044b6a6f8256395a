"""What a machine may use of the host's processors: which, and how much of their time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.kvm.conftest import Boot

import hyperpy
from hyperpy import BudgetError, Exit, Machine

SPIN = "again: jmp again"


def queued() -> float:
    """Seconds that this thread has stood in the queue for a processor which others had."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def test_cpu_limit_holds_a_spinning_guest_to_its_share(boot: Boot) -> None:
    m = boot(SPIN, cpu_limit=0.2)
    began, before = time.monotonic(), queued()
    assert m.run(timeout=2.0) == Exit.Timeout()
    took, lost = time.monotonic() - began, queued() - before
    assert took < 2.2
    used, rested = m.stats.cpu_seconds, m.stats.capped_seconds
    # One period's quota may be used at once at the end: 0.02 s, and what a late timer adds is owed.
    assert used < 0.25 * took
    # It spins: what it neither used nor lost to other programs was withheld, and no more than its share leaves over.
    assert 0.9 * (took - used - lost) - 0.05 < rested < 0.8 * took + 0.1
    assert rested == m.stats.vcpus[0].capped_seconds


def test_two_guests_on_one_processor_get_their_shares(boot: Boot) -> None:
    cpu = max(os.sched_getaffinity(0))
    machines = {limit: boot(SPIN, cpus={cpu}, cpu_limit=limit) for limit in (0.25, 0.5)}
    began = time.monotonic()
    for m in machines.values():
        m.start()
    assert machines[0.5].wait(timeout=3.0) == Exit.Timeout()
    used = {limit: m.stats for limit, m in machines.items()}
    took = time.monotonic() - began
    for limit, stats in used.items():
        assert stats.cpu_seconds / took < limit + 0.05, used
        # One that never rests gets less because others want the processor, too.
        assert stats.cpu_seconds / took > limit - 0.05 or stats.capped_seconds < 0.1 * took, used


def test_cpu_limit_is_shared_by_the_vcpus(boot: Boot) -> None:
    two = """
        mov esi, 0xfee00300
        mov dword ptr [esi], 0xc4500
        mov dword ptr [esi], 0xc4601
    again: jmp again
    """
    m = boot(two, "protected", vcpus=2, cpu_limit=0.4)
    assert m.run(timeout=2.0) == Exit.Timeout()
    assert m.stats.cpu_seconds < 0.5 * 2.0


def test_cpu_limit_short_runs_in_a_row_are_held_too(boot: Boot) -> None:
    m = boot(SPIN, cpu_limit=0.1)
    began = time.monotonic()
    while (took := time.monotonic() - began) < 1.5:
        assert m.run(timeout=0.01) == Exit.Timeout()
    assert m.stats.cpu_seconds < 0.15 * took


def test_cpu_limit_can_be_changed_while_it_runs(boot: Boot) -> None:
    m = boot(SPIN, cpu_limit=0.01)
    assert m.cpu_limit == 0.01
    m.start()
    assert m.wait(timeout=0.5) == Exit.Timeout()
    slow = m.stats.cpu_seconds
    m.cpu_limit = None
    assert m.wait(timeout=0.5) == Exit.Timeout()
    assert slow < 0.1 < m.stats.cpu_seconds - slow
    m.stop()
    assert isinstance(m.wait(timeout=5), Exit.Stopped)


@pytest.mark.parametrize("how", ["stop", "close", "timeout"])
def test_vcpu_that_rests_is_reached_within_100_ms(boot: Boot, how: str) -> None:
    m = boot(SPIN, cpu_limit=0.001)  # rests nearly all the time, for seconds at a stretch
    assert m.run(timeout=0.2) == Exit.Timeout()
    m.start()
    assert m.wait(timeout=0.2) == Exit.Timeout()
    began = time.monotonic()
    if how == "stop":
        m.stop("now")
        assert m.wait(timeout=5) == Exit.Stopped(vcpu=None, reason="now")
    elif how == "close":
        m.close()
    else:
        assert m.wait(timeout=0.01) == Exit.Timeout()
    assert time.monotonic() - began < 0.1


def test_ctrl_c_reaches_a_run_that_rests(boot: Boot) -> None:
    import _thread

    m = boot(SPIN, cpu_limit=0.001)
    assert m.run(timeout=0.1) == Exit.Timeout()
    at: list[float] = []

    def interrupt() -> None:
        at.append(time.monotonic())
        _thread.interrupt_main()

    timer = threading.Timer(0.2, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        m.run(timeout=10)
    assert time.monotonic() - at[0] < 0.15
    timer.join()


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_cpu_limit_that_is_none_is_refused(boot: Boot, limit: float) -> None:
    with pytest.raises(ValueError, match="cpu_limit is out of range"):
        Machine(memory="1M", cpu_limit=limit)
    m = boot()
    with pytest.raises(ValueError, match="cpu_limit is out of range"):
        m.cpu_limit = limit
    assert m.cpu_limit is None


def test_cpus_pin_the_vcpus_and_the_caller_gets_its_mask_back(boot: Boot) -> None:
    mine = os.sched_getaffinity(0)
    one = max(mine)
    seen: list[set[int]] = []

    class Look(hyperpy.Device):
        size = 1

        def write(self, offset: int, size: int, value: int, /) -> None:
            seen.append(os.sched_getaffinity(0))

    for start in (False, True):
        m = boot("out 0x10, al\nhlt", cpus={one})
        m.attach(Look(), pio=0x10)
        if start:
            m.start()
        assert (m.wait if start else m.run)(timeout=5) == Exit.Halt(0)
        assert os.sched_getaffinity(0) == mine
    assert seen == [{one}, {one}]


@pytest.mark.parametrize("cpus", [set(), {-1}, {1023}, {5000}, {1 << 40}])
def test_cpus_that_are_none_are_refused(cpus: set[int]) -> None:
    mine = os.sched_getaffinity(0)
    with pytest.raises(ValueError, match="hint: "):
        Machine(memory="1M", cpus=cpus)
    assert os.sched_getaffinity(0) == mine


def test_cpus_of_a_wrong_type_are_refused() -> None:
    wrong: Any = {"0"}
    with pytest.raises(TypeError):
        Machine(memory="1M", cpus=wrong)


def test_budget_refuses_a_machine_and_more_of_one() -> None:
    with hyperpy.budget(memory="8M", cpu=2), Machine(memory="4M", cpu_limit=0.5) as m:
        assert hyperpy.budget().memory_used == 4 << 20
        assert hyperpy.budget().cpu_used == 0.5
        with pytest.raises(BudgetError, match="memory budget"):
            Machine(memory="5M")
        with pytest.raises(BudgetError, match="cpu budget"):
            Machine(memory="1M", vcpus=2)
        m.memory.add(1 << 32, "4M")
        with pytest.raises(BudgetError, match="memory budget"):
            m.memory.add(1 << 33, 4096)
        m.memory.add(1 << 33, 4096, kind="mmio")
        m.memory.alias(1 << 34, of=0, size="2M")
        with pytest.raises(BudgetError, match="cpu budget"):
            m.cpu_limit = 2.5
        assert m.cpu_limit == 0.5
        m.memory.remove(1 << 32)
        m.memory.remove(1 << 33)
        with pytest.raises(ValueError, match="overlaps"):
            m.memory.add(0, "4M")
        assert hyperpy.budget().memory_used == 4 << 20
        with Machine(memory="4M"):
            pass
    assert hyperpy.budget().memory_used == 0


def test_machine_that_cannot_be_made_counts_nothing() -> None:
    with pytest.raises(ValueError, match="whole pages"):
        Machine(memory=4097)
    assert hyperpy.budget().memory_used == 0
