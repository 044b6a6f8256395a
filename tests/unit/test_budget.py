"""The budget of a process, without machines: shares, limits and messages."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from hyperpy import BudgetError, budget
from hyperpy.resources import Share

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _unlimited() -> Iterator[None]:
    with budget():
        yield


def test_budget_without_limits_only_counts() -> None:
    before = budget()
    share = Share(64 * MIB, 2)
    now = budget()
    assert (now.memory, now.cpu) == (None, None)
    assert now.memory_used - before.memory_used == 64 * MIB
    assert now.cpu_used - before.cpu_used == 2
    share.give_back()
    assert budget() == before


def test_budget_without_limits_looks_at_no_other_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine, and each change of its memory, would cost as much as there are machines."""
    monkeypatch.setattr(Share, "_used", lambda: pytest.fail("asked"))
    share = Share(MIB, 1)
    share.ask(memory=MIB)
    share.ask(memory=-MIB, cpu=0.5)
    assert (share.memory, share.cpu) == (MIB, 1.5)
    share.give_back()


def test_budget_share_that_is_collected_counts_no_more() -> None:
    before = budget().memory_used
    share = Share(MIB, 1)
    del share
    gc.collect()
    assert budget().memory_used == before


@pytest.mark.parametrize(
    ("limits", "memory", "cpu", "resource", "message"),
    [
        (
            {"memory": "64M"},
            65 * MIB,
            0.5,
            "memory",
            "memory budget is exceeded: 68157440 bytes asked, 0 of 67108864 used",
        ),
        ({"cpu": 2.0}, 1, 2.5, "cpu", "cpu budget is exceeded: 2.5 processors asked, 0 of 2 used"),
    ],
)
def test_budget_beyond_is_refused_with_numbers(
    limits: dict[str, Any], memory: int, cpu: float, resource: str, message: str
) -> None:
    used = budget()
    if used.memory_used or used.cpu_used:
        pytest.fail(f"machines of other tests live: {used}")
    with budget(**limits), pytest.raises(BudgetError) as caught:
        Share(memory, cpu)
    error = caught.value
    assert error.message == message
    assert error.hint is not None
    assert f"hyperpy.budget({resource}=...)" in error.hint
    assert (error.resource, error.used, error.asked) == (resource, 0, memory if resource == "memory" else cpu)
    assert budget() == used


def test_budget_is_filled_exactly_and_by_tenths() -> None:
    with budget(cpu=1, memory=10):
        shares = [Share(1, 0.1) for _ in range(10)]
        with pytest.raises(BudgetError):
            Share(0, 0.01)
        with pytest.raises(BudgetError):
            shares[0].ask(memory=1)
        shares[0].ask(memory=-1, cpu=-0.1)
        Share(1, 0.1)


def test_budget_argument_left_out_stays_and_none_lifts() -> None:
    with budget(memory="1G", cpu=3):
        assert (budget(cpu=4).memory, budget().cpu) == (1 << 30, 4)
        assert budget(memory=None).memory is None
        assert budget().cpu == 4
    assert (budget().memory, budget().cpu) == (None, None)


@pytest.mark.parametrize(
    "wrong", [{"cpu": 0}, {"cpu": -1.0}, {"cpu": math.nan}, {"cpu": math.inf}, {"memory": "x"}]
)
def test_budget_of_a_wrong_size_is_a_value_error_and_changes_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hint: "):
        budget(**wrong)
    assert (budget().memory, budget().cpu) == (None, None)


@pytest.mark.parametrize(
    "wrong", [{"memory": 1.5}, {"memory": b"64M"}, {"memory": [1]}, {"cpu": "2"}, {"cpu": [1]}, {"cpu": 2j}]
)
def test_budget_of_a_wrong_type_is_a_type_error_and_changes_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="hint: "):
        budget(**wrong)
    assert (budget().memory, budget().cpu) == (None, None)


def test_budget_of_what_counts_as_a_number_is_taken() -> None:
    class Number:
        def __index__(self) -> int:
            return MIB

        def __float__(self) -> float:
            return 2.0

    with budget(memory=Number(), cpu=Number()):  # type: ignore[arg-type]
        assert (budget().memory, budget().cpu) == (MIB, 2.0)
        assert (type(budget().memory), type(budget().cpu)) == (int, float)


def test_budget_in_the_child_of_a_fork_begins_anew() -> None:
    share = Share(MIB, 1)
    if (child := os.fork()) == 0:
        os._exit(0 if (budget().memory_used, budget().cpu_used) == (0, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    share.give_back()


def test_budget_counts_while_the_collector_gives_shares_back() -> None:
    class Owner:
        """As a machine in a cycle, which is closed when it is collected."""

        def __init__(self) -> None:
            self.share, self.me = Share(MIB, 1), self

        def __del__(self) -> None:
            self.share.give_back()

    before, asks, other = budget().memory_used, Share(MIB, 1), Share(MIB, 1)
    gc.disable()
    try:
        for line in range(60):
            Owner()
            _collecting_at(line, asks.ask)
    finally:
        gc.enable()
    del asks, other
    gc.collect()
    assert budget().memory_used == before


def _collecting_at(line: int, do: Callable[[], None]) -> None:
    """Call it, and have the collector run at its so many-th line."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += 1
        if lines == line:
            gc.collect()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
