"""Has the lines of a device's own code told to the fuzzer: by `sys.monitoring` from Python 3.12 on, by `sys.settrace` before.

Both call native code (crates/hyperpy-python/src/fuzz/trail.rs), which looks at no other file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    events = monitoring.events

    def line(code: Any, number: int) -> Any:
        return None if trail.line(code, number) else monitoring.DISABLE

    try:
        monitoring.register_callback(tool, events.LINE, line)
        monitoring.set_events(tool, events.LINE)
        yield
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, events.LINE, None)
        monitoring.free_tool_id(tool)
        monitoring.restart_events()


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
