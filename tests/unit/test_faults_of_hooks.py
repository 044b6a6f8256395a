"""What hooks of declared registers and timers do wrong on a bench: it is raised by the access, named, and the bench goes on."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from tests.hooks import CASES, HELD, HOOKS, STOPS, Case, Hook, Hooked

from hyperpy import Block, DeclarationError, Device, Register, Stop
from hyperpy._made import OWN
from hyperpy.testing import DeviceBench

HELD_VALUE = 7


def reach(bench: DeviceBench[Hooked], hook: Hook) -> Any:
    """Have a hook called; what the read gave, or the stop that was asked for."""
    if hook.is_read:
        return bench.read(hook.offset, hook.size)
    asked = bench.write(hook.offset, hook.size, 1)
    if hook.kind == "timer":
        bench.clock.step(1000)
    return asked


@pytest.mark.fault(31)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_what_a_hook_does_is_taken_or_raised_and_named(hook: Hook, case: Case) -> None:
    device = Hooked(case.act)
    bench = DeviceBench(device, name="it")
    expected = case.expected(hook)
    if isinstance(expected, type):
        with pytest.raises(expected) as caught:
            reach(bench, hook)
        notes = caught.value.__notes__
        assert notes[0].startswith("device it: " if hook.kind != "timer" else "timer Hooked.tick, due at ")
        if hook.kind != "timer":
            what = f"{'read of' if hook.is_read else 'write of 0x1 to'} offset {hook.offset:#x}, {hook.size} bytes"
            assert notes == [f"device it: {what}"]
    elif hook.kind == "timer":
        assert reach(bench, hook) is None  # nobody is there to be stopped
    else:
        given = {HELD: HELD_VALUE, STOPS: Stop("now")}.get(expected, expected)
        assert reach(bench, hook) == given
    # The next one is as if nothing had been.
    device.act = lambda: None
    assert reach(bench, hook) == (HELD_VALUE if hook.is_read else None)


@pytest.mark.parametrize("name", sorted(OWN))
@pytest.mark.parametrize("base", [Device, Block])
def test_method_whose_name_hyperpy_needs_is_refused(name: str, base: type) -> None:
    value = Register(0x0)

    def hook(self: Any, value: int) -> None: ...

    with pytest.raises(DeclarationError, match=f"Mine.{name} is what hyperpy keeps there itself\n\nhint: "):
        type("Mine", (base,), {"value": value, name: value.on_write(hook)})


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hook_that_recurses_for_ever_is_an_error_and_the_bench_goes_on(hook: Hook) -> None:
    def deep() -> None:
        deep()

    bench = DeviceBench(Hooked(deep))
    with pytest.raises(RecursionError):
        reach(bench, hook)
    bench.device.act = lambda: None
    assert reach(bench, hook) == (HELD_VALUE if hook.is_read else None)


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hook_that_is_called_by_itself_for_ever_is_an_error_and_the_bench_goes_on(hook: Hook) -> None:
    """By way of its own bench, as a device that reads its own registers as guests do."""
    bench = DeviceBench(Hooked(lambda: None))
    bench.device.act = lambda: reach(bench, hook)
    with pytest.raises(RecursionError):
        reach(bench, hook)
    bench.device.act = lambda: None
    assert reach(bench, hook) == (HELD_VALUE if hook.is_read else None)


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hook_may_drop_the_last_reference_to_its_bench(hook: Hook) -> None:
    box = {"bench": DeviceBench(Hooked(lambda: None))}

    def drop() -> None:
        box.clear()
        gc.collect()

    box["bench"].device.act = drop
    gone = weakref.ref(box["bench"].device)
    read, write, step = box["bench"].read, box["bench"].write, box["bench"].clock.step
    if hook.is_read:
        read(hook.offset, hook.size)
    else:
        write(hook.offset, hook.size, 1)
        step(1000)
    assert box == {}
    del read, write, step
    gc.collect()
    assert gone() is None
