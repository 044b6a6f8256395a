"""Has the lines of a device's own code told to the fuzzer: by `sys.monitoring` from Python 3.12 on, by `sys.settrace` before.

The first of them is told of jumps and branches too: it tells nothing of a loop that is on one line.

Both call native code (crates/hyperpy-python/src/fuzz/trail.rs), which looks at no other file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hyperpy import _hyperpy

__all__ = ["again", "told"]

_NAME = "hyperpy fuzz"
# Tool numbers that Python reserves for nobody (sys.monitoring).
_FREE = (3, 4)


@contextmanager
def told(trail: _hyperpy.Trail) -> Iterator[None]:
    """Have lines told while this lasts, on this thread."""
    monitoring: Any = getattr(sys, "monitoring", None)
    tool = None if monitoring is None else _free(monitoring)
    if tool is None:
        with _traced(trail):
            yield
        return
    monitoring.use_tool_id(tool, _NAME)
    told = _calls(monitoring.events, trail)
    try:
        for event, call in told.items():
            monitoring.register_callback(tool, event, call)
        monitoring.set_events(tool, sum(told))
        yield
    finally:
        monitoring.set_events(tool, 0)
        for event in told:
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
        monitoring.restart_events()


def _calls(events: Any, trail: _hyperpy.Trail) -> dict[int, Callable[..., Any]]:
    """What is called for each event."""
    calls: dict[int, Callable[..., Any]] = {events.LINE: trail.line, events.JUMP: trail.jump}
    # From 3.14 on there is one event for each way.
    ways = ("BRANCH_LEFT", "BRANCH_RIGHT") if hasattr(events, "BRANCH_LEFT") else ("BRANCH",)
    return calls | {getattr(events, way): trail.branch for way in ways}


def again(trail: _hyperpy.Trail) -> None:
    """Begin anew after something was raised by who is told: that ends `sys.settrace`."""
    if sys.gettrace() is None and _free(getattr(sys, "monitoring", None), mine=True) is None:
        sys.settrace(trail.frame)


def _free(monitoring: Any, *, mine: bool = False) -> int | None:
    """A tool number that nobody has, or ours."""
    wanted = _NAME if mine else None
    return next((tool for tool in _FREE if monitoring and monitoring.get_tool(tool) == wanted), None)


@contextmanager
def _traced(trail: _hyperpy.Trail) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trail.frame)
    try:
        yield
    finally:
        sys.settrace(before)
