"""Operations of an input as text, as Python code, and done one by one on a bench: a trace, and what became of the device's state.

Each is a tuple as the core has it: what, two numbers, a value, bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hyperpy import _hyperpy
from hyperpy._fuzz_findings import Hang
from hyperpy._legal import Reach
from hyperpy._register_state import own_attributes

if TYPE_CHECKING:
    from hyperpy._fuzz_host import Host

__all__ = ["Names", "Played", "code_of", "play"]

Plain: TypeAlias = tuple[str, int, int, int, bytes]
_SHOWN = 32
_TEXT = 80


class Names:
    """How operations on devices of a class are called."""

    def __init__(self, host: Host) -> None:
        self._reach = Reach(host.cls, host.bench_of.size)
        self._events = host.events

    def text(self, op: Plain) -> str:
        """An operation in words."""
        match op:
            case "read", offset, size, _, _:
                return f"read {self._at(offset, size)}"
            case "write", offset, size, value, _:
                return f"write {self._at(offset, size)}: {value:#x}"
            case "step", ns, _, _, _:
                return f"step {ns} ns"
            case "event", number, _, _, data:
                return f"event {self._events[number].name}" + (f": {_bytes(data)}" if data else "")
            case "feed", _, _, _, data:
                return f"memory: {_bytes(data)}"
            case what, *_:
                return what

    def _at(self, offset: int, size: int) -> str:
        name = self._reach.names(offset, size)
        place = f"{offset:#x}, {size} {'byte' if size == 1 else 'bytes'}"
        return f"{name} ({place})" if name else place

    def register(self, offset: int, size: int) -> str:
        """The register that an access is of, or ""."""
        return self._reach.names(offset, size)


def _bytes(data: bytes) -> str:
    shown = data[:_SHOWN].hex()
    return f"{len(data)} bytes, {shown}{'...' if len(data) > _SHOWN else ''}"


def code_of(op: Plain, host: Host, names: Names) -> str:
    """The line of a script that does it to `bench` and its `device`; "" for what memory holds."""
    match op:
        case "read", offset, size, _, _:
            name = names.register(offset, size)
            return f"bench.read({offset:#x}, {size})" + (f"  # {name}" if name else "")
        case "write", offset, size, value, _:
            name = names.register(offset, size)
            return f"bench.write({offset:#x}, {size}, {value:#x})" + (f"  # {name}" if name else "")
        case "step", ns, _, _, _:
            return f"bench.clock.step({ns})"
        case "reset", *_:
            return "bench.reset()"
        case "event", number, _, _, data:
            event = host.events[number]
            return f"device.{event.name}({f'bytes.fromhex({data.hex()!r})' if event.most else ''})"
        case _:
            return ""


class Played(NamedTuple):
    """What operations did, one by one: as text; the state before and after; what was raised; where memory was read."""

    lines: list[str]
    before: dict[str, str]
    after: dict[str, str]
    error: BaseException | None
    given: list[tuple[int, int]]


def play(host: Host, operations: list[Plain], names: Names) -> Played:
    """Do operations to a device that was put back, as the core does them."""
    if host.memory is not None:
        host.memory.clear()
    host.begin()
    before, lines, error = _state(host.device), [], None
    for op in operations:
        changes = {name: len(line.history) for name, line in host.bench_of.lines.items()}
        shown = names.text(op)
        host.trail.mark()
        try:
            shown += _do(host, op)
        except (Exception, Hang) as raised:
            error = raised
            shown += f" -> {_raised(raised)}"
        for name, line in host.bench_of.lines.items():
            for change in line.history[changes.get(name, 0) :]:
                shown += f"; {name} {'high' if change.level else 'low'}"
        lines.append(shown)
        if error is not None:
            break
    else:
        try:
            host.end()
        except (Exception, Hang) as raised:
            error = raised
            lines.append(f"at the end -> {_raised(raised)}")
    given = [] if host.memory is None else host.memory.given()
    return Played(lines, before, _state(host.device), error, given)


def _do(host: Host, op: Plain) -> str:
    bench, shown = host.bench_of, ""
    match op:
        case "read", offset, size, _, _:
            shown = f" = {bench.read(offset, size):#x}"
        case "write", offset, size, value, _:
            stop = bench.write(offset, size, value)
            shown = f" -> {stop!r}" if stop is not None else ""
        case "step", ns, _, _, _:
            bench.clock.step(ns)
        case "reset", *_:
            bench.reset()
        case "event", number, _, _, data:
            host.event(number, data)
        case "feed", _, _, _, data if host.memory is not None:
            host.memory.leave(data)
        case _:
            pass
    if op[0] != "feed" and host.checks_each:
        host.check()
    return shown


def _raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _state(device: Any) -> dict[str, str]:
    """What a device holds: its registers and its own attributes, as text."""
    found: dict[str, str] = {}
    file = getattr(device, "_register_file", None) if getattr(device, "_layout", None) is not None else None
    if isinstance(file, _hyperpy.RegisterFile):
        registers = file.save()
        found |= {
            name: f"{held:#x}" if isinstance(held, int) else f"{held!r:.{_TEXT}}"
            for name, held in registers.items()
        }
    attributes = getattr(device, "__dict__", {})
    for name in own_attributes(device, attributes):
        try:
            found[name] = f"{attributes[name]!r:.{_TEXT}}"
        except Exception as error:
            found[name] = f"<{type(error).__name__} in its repr>"
    return found
