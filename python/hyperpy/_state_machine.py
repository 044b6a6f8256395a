"""A Hypothesis state machine for a device, made from its declaration; public as `hyperpy.testing.state_machine`.

It has no model of what a device should answer. What it knows is that a device survives what guests do, that one that was
loaded goes on as the one that was saved, and one that was reset as a new one: twins, to which everything is done as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hyperpy._device_bench import Access, DeviceBench, Step
from hyperpy._drawing import WIDEST, breakable, broken, legal, weighted
from hyperpy._legal import Reach
from hyperpy._strategies import LONGEST_STEP, clock_steps, hostile, reach_of, selected
from hyperpy.device import Stop
from hyperpy.errors import DeviceError

__all__ = ["DeviceMachine", "state_machine"]

_D = TypeVar("_D")
# Accesses of a rule.
_SOME = 6
# Registers that are read of a twin when it is made.
_SWEPT = 64


class _Outcome(NamedTuple):
    """What something did to a device, as far as a guest can tell."""

    reads: list[int]
    stop: Stop | None
    lines: dict[str, list[bool]]
    messages: list[tuple[int, int]]
    raised: type[Exception] | None

    def __str__(self) -> str:
        shown = [f"reads {', '.join(map(hex, self.reads))}"] if self.reads else []
        shown += [f"asks for {self.stop!r}"] if self.stop else []
        for name, levels in self.lines.items():
            shown += [f"drives {name} {', '.join('high' if level else 'low' for level in levels)}"]
        shown += [f"sends {data:#x} to {address:#x}" for address, data in self.messages]
        shown += [f"raises {self.raised.__name__}"] if self.raised else []
        return ", ".join(shown) or "gives nothing"


class DeviceMachine(RuleBasedStateMachine, Generic[_D]):
    """What `state_machine` makes; subclasses can add rules of their own.

    `bench` is the `DeviceBench`, `device` what is on it. `benches` are it and those of the twins: what a rule does to the
    device from outside, such as `push` of a queue, it does on each of them.
    """

    _make: Callable[[], Any]
    _options: dict[str, Any]
    _allowed: tuple[type[Exception], ...]
    _invariants: tuple[Callable[[DeviceBench[Any]], object], ...]
    _sweep: list[Access]

    def __init__(self) -> None:
        super().__init__()
        self.bench: DeviceBench[_D] = self._new()
        self._twins: dict[str, DeviceBench[_D]] = {}
        self._power_on = self._saved(self.bench)

    @property
    def device(self) -> _D:
        """The device under test."""
        return self.bench.device

    @property
    def benches(self) -> list[DeviceBench[_D]]:
        """The bench, and those of the twins."""
        return [self.bench, *self._twins.values()]

    def _new(self) -> DeviceBench[_D]:
        return DeviceBench(type(self)._make(), **self._options)

    @staticmethod
    def _saved(bench: DeviceBench[Any]) -> Any:
        save = getattr(bench.device, "save", None)
        return None if save is None else save()

    def play(self, sequence: Iterable[Access | Step]) -> list[int]:
        """Make accesses and steps of the clock on the bench and on those of the twins, and return what the reads gave.

        Raises:
            AssertionError: a twin gives something else.
            Exception: what the device raises, unless it is allowed.
        """
        steps = list(sequence)
        mine = self._outcome(self.bench, steps, self._allowed)
        for why, twin in self._twins.items():
            its = self._outcome(twin, steps, (Exception,))
            _require(mine == its, f"{steps}: the device {mine}; {why}: {its}")
        return mine.reads

    @staticmethod
    def _outcome(
        bench: DeviceBench[_D], steps: list[Access | Step], allowed: tuple[type[Exception], ...]
    ) -> _Outcome:
        changes = {name: len(line.history) for name, line in bench.lines.items()}
        sent, raised, reads = len(bench.messages), None, list[int]()
        bench.stopped = None
        for step in steps:
            try:
                reads += bench.play([step])
            except Exception as error:
                if not (isinstance(error, allowed) or _is_refused(error)):
                    raise
                raised = type(error)
        lines = {
            name: [change.level for change in line.history[changes[name] :]]
            for name, line in bench.lines.items()
            if len(line.history) > changes[name]
        }
        messages = [(message.address, message.data) for message in bench.messages[sent:]]
        return _Outcome(reads, bench.stopped, lines, messages, raised)

    def _add_twin(self, why: str, twin: DeviceBench[_D]) -> None:
        """From here on it goes the same way: time, memory and lines are those of the bench."""
        if self.bench._memory is not None:
            twin.memory.write(0, self.bench.memory.read(0, self.bench._memory_size))
        for name, line in self.bench.lines.items():
            twin.lines[name].level = line.level
        self._twins[why] = twin
        self.play(self._sweep)

    def _save_and_load(self) -> None:
        """What a device saves, a new one takes, and saves again."""
        state, twin = self._saved(self.bench), self._new()
        twin.clock.step(self.bench.clock.now)
        twin.device.load(state)  # type: ignore[attr-defined] # it has `save`
        again = self._saved(twin)
        _require(again == state, f"saved, loaded and saved again: {_difference(state, again)}")
        self._add_twin("one that was loaded with its state", twin)

    def _reset(self) -> None:
        """The reset button gives the power-on state."""
        self._twins.clear()
        self.bench.reset()
        state = self._saved(self.bench)
        _require(state == self._power_on, f"after a reset: {_difference(self._power_on, state)}")
        twin = self._new()
        twin.reset()
        self._add_twin("a new one", twin)

    def _hold(self) -> None:
        """What the test says that always holds."""
        for number, holds in enumerate(self._invariants):
            name = getattr(holds, "__name__", repr(holds))
            _require(
                holds(self.bench) is not False, f"invariant {number}, {name}, does not hold: {self.device!r}"
            )


def _require(holds: bool, otherwise: str) -> None:
    """As `assert`, which `python -O` leaves out."""
    if not holds:
        raise AssertionError(otherwise)


def _is_refused(error: Exception) -> bool:
    """Whether a device did what its `access_rule = "refuse"` says."""
    return isinstance(error, DeviceError) and ": no register takes this " in error.message


def _difference(before: Any, after: Any) -> str:
    """Where two saved states differ: the first place."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            if before.get(key) != after.get(key):
                inner = _difference(before.get(key), after.get(key))
                return f"{key}: {inner}" if key != "registers" else inner
    shown = [f"{value:#x}" if isinstance(value, int) else f"{value!r:.60}" for value in (before, after)]
    return f"{shown[1]}, not {shown[0]}"


def state_machine(
    device: Callable[[], _D],
    *,
    invariants: Iterable[Callable[[DeviceBench[_D]], object]] = (),
    allowed: tuple[type[Exception], ...] = (),
    saves: bool = True,
    resets: bool = True,
    size: int | str | None = None,
    memory: int | str = "1M",
    max_step: int = LONGEST_STEP,
) -> type[DeviceMachine[_D]]:
    """A Hypothesis state machine that looks for a way to break a device; its `TestCase` is a test.

    Its rules read and write registers as a driver does, a few at once, break one rule of the declaration, do anything at all, let time go by,
    save and load, and reset. It fails where the device raises; where a new device that loads the saved state saves another,
    or then answers otherwise than the one that was saved; where a reset leaves another state than a new device has, or one
    that then answers otherwise; and where an invariant does not hold.

    Arguments:
        device: a class that is made without arguments, or what makes a device, fresh each time.
        invariants: called with the `DeviceBench` after each step; one that returns False or raises does not hold.
        allowed: exceptions that the device may raise.
        saves: whether there is the rule of `save` and `load`.
        resets: whether there is the rule of the reset button.
        size: length of its range, if it does not know its own.
        memory: size of the guest memory for its DMA.
        max_step: nanoseconds that go by at once, at most.

    Raises:
        TypeError: it is no device, or its size is not known.
        ModuleNotFoundError: Hypothesis is not installed: `pip install hypothesis`.

    Example:
        >>> from hypothesis.stateful import run_state_machine_as_test
        >>> from hyperpy import Device, Field, Register
        >>> from hyperpy.testing import state_machine
        >>> class Dimmer(Device):
        ...     level = Register(0x0, percent=Field(0, 7))
        ...
        ...     @level.on_write
        ...     def _level(self, value: int) -> None:
        ...         self.level = min(value, 100)
        >>> TestDimmer = state_machine(Dimmer, invariants=[lambda bench: bench.device.level <= 100]).TestCase
        >>> run_state_machine_as_test(state_machine(Dimmer))
    """
    given: object = device
    if not callable(given):
        what = type(device).__name__
        raise TypeError(
            f"device is made already: {what}\n\nhint: give its class, {what}, or a function that makes one"
        )
    cls = device if isinstance(device, type) else type(device())
    reach = reach_of(cls, "hostile", size)
    rules = {name: _playing(name, strategy) for name, strategy in _strategies(reach, max_step).items()}
    if saves and hasattr(cls, "save") and hasattr(cls, "load"):
        rules["save_and_load"] = rule()(_named("save_and_load", "_save_and_load"))
    if resets:
        rules["reset"] = rule()(_named("reset", "_reset"))
    if own_invariants := tuple(invariants):
        rules["invariants"] = invariant()(_named("invariants", "_hold"))
    own = {
        "_make": staticmethod(device),
        "_options": {"size": size, "memory": memory},
        "_allowed": allowed,
        "_invariants": own_invariants,
        "_sweep": [
            Access(target.offset, target.length)
            for target in reach.on("read")
            if not target.needs and target.length <= WIDEST
        ][:_SWEPT],
        "__doc__": f"Looks for a way to break {cls.__name__}.",
        "__module__": cls.__module__,
    }
    return type(f"{cls.__name__}Machine", (DeviceMachine,), own | rules)


def _strategies(reach: Reach, max_step: int) -> dict[str, st.SearchStrategy[list[Any]]]:
    """What each rule plays: several accesses at once, so that a run of fifty rules comes far."""
    drawn = {side: _some(legal(reach, side)) for side in ("read", "write") if reach.on(side)}
    pause = [clock_steps(max_step)] if max_step else []
    if reach.targets:
        drawn["drive"] = _some(weighted((4, legal(reach)), *((1, wait) for wait in pause)), 2 * _SOME)
    rules = breakable(reach, False)
    if rules:
        drawn["nearly"] = _some(broken(reach, rules), 1)
    drawn["hostile"] = _some(hostile(reach))
    if max_step:
        drawn["step"] = _some(pause[0])
    # Whatever a machine has done before: what a register needs is selected.
    return {
        name: steps.map(lambda them: selected(reach, them, is_new=False)) for name, steps in drawn.items()
    }


def _some(drawn: st.SearchStrategy[Any], most: int = _SOME) -> st.SearchStrategy[list[Any]]:
    return st.lists(drawn, min_size=1, max_size=most)


def _playing(name: str, strategy: st.SearchStrategy[list[Any]]) -> Any:
    def play(self: DeviceMachine[Any], sequence: list[Any]) -> None:
        self.play(sequence)

    play.__name__ = name
    return rule(sequence=strategy)(play)


def _named(name: str, method: str) -> Any:
    """A function of this name, by which Hypothesis shows it, that calls a method."""

    def do(self: DeviceMachine[Any]) -> None:
        getattr(self, method)()

    do.__name__ = name
    return do
