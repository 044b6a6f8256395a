"""Hypothesis strategies of accesses to a device, from its declaration; public as `hyperpy.testing.accesses` and `sequences`.

Where a register must be selected before (`when=`, `Indexed`) a sequence selects it: of a nearly legal access that rule is
broken that was chosen, and no other. Everything is drawn so that it shrinks to few, early, small accesses, and what is drawn can be
pasted into a test. How single accesses are drawn is in `hyperpy._drawing`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from hyperpy._device_bench import Access, Step
from hyperpy._drawing import WIDEST, Do, breakable, broken, legal, weighted
from hyperpy._legal import Need, Reach, as_written
from hyperpy.memory import parse_size

__all__ = ["LONGEST_STEP", "Kind", "accesses", "clock_steps", "hostile", "reach_of", "selected", "sequences"]

Kind: TypeAlias = Literal["legal", "nearly", "hostile"]

# A step of the clock is at most so long: what fires every microsecond fires ten thousand times.
LONGEST_STEP = 10_000_000


def accesses(device: Any, kind: Kind = "legal") -> st.SearchStrategy[Access]:
    """Single accesses to a device, as a Hypothesis strategy.

    Arguments:
        device: a device, or its class.
        kind: "legal": registers as they are declared: their offset and width, bits that exist and can be written, values of
            an `enum`. "nearly": each breaks one of these rules. "hostile": any offset in the device and 8 bytes around it,
            1 to 8 bytes, any value.

    Raises:
        TypeError: it declares no registers (for "hostile" its size is enough), or is no device.
        ModuleNotFoundError: Hypothesis is not installed: `pip install hypothesis`.

    Example:
        >>> from hypothesis import given
        >>> from hyperpy import Device, Field, Register
        >>> from hyperpy.testing import DeviceBench, accesses
        >>> class Lamp(Device):
        ...     on = Register(0x0, lit=Field(0))
        >>> @given(access=accesses(Lamp, "hostile"))
        ... def test_lamp_survives(access):
        ...     DeviceBench(Lamp()).play([access])
        >>> test_lamp_survives()
    """
    return _steps(reach_of(device, kind), kind, is_single=True).map(lambda step: step.accesses[-1])


def sequences(
    device: Any, kind: Kind = "legal", *, max_size: int = 30, max_step: int = LONGEST_STEP
) -> st.SearchStrategy[list[Access | Step]]:
    """Sequences of accesses to a device and steps of its clock, for `DeviceBench.play`, as a Hypothesis strategy.

    Arguments:
        device: a device, or its class.
        kind: "legal": as for `accesses`; a register that is behind a port or in a bank is selected before. "nearly": a legal
            one with one or two accesses in it that each break a rule: a wrong offset or size, reserved bits, a write
            of what is only read or a read of what is only written, a value that an `enum` lacks, a number that no register
            behind a port has, one item too many for a queue. "hostile": anything, with legal ones among it.
        max_size: how many of them, not counting those that select.
        max_step: nanoseconds of a step of the clock at most; 0: none.

    Raises:
        TypeError: as for `accesses`.
        ModuleNotFoundError: Hypothesis is not installed: `pip install hypothesis`.

    Example:
        >>> from hypothesis import given
        >>> from hyperpy import Device, Fifo, Register
        >>> from hyperpy.testing import DeviceBench, sequences
        >>> class Link(Device):
        ...     sent = Fifo(0x0, depth=4, access="wo")
        ...     level = Register(0x4, access="ro")
        ...
        ...     @level.on_read
        ...     def _level(self) -> int:
        ...         return len(self.sent)
        >>> @given(sequence=sequences(Link, "nearly"))
        ... def test_level_never_passes_the_depth(sequence):
        ...     bench = DeviceBench(Link())
        ...     bench.play(sequence)
        ...     assert bench.read32(0x4) <= 4
        >>> test_level_never_passes_the_depth()
    """
    reach = reach_of(device, kind)
    choices: list[tuple[int, st.SearchStrategy[Any]]] = []
    if reach.targets:
        choices.append((3, _steps(reach, "legal")))
    if kind == "hostile":
        # With what a driver does among it: a device that is asleep shows few of its mistakes.
        choices.append((6, _steps(reach, kind)))
    if max_step:
        choices.append((1, clock_steps(max_step)))
    drawn = st.lists(weighted(*choices), max_size=max_size)
    if kind == "nearly":
        drawn = _spiced(drawn, _steps(reach, kind))
    return drawn.map(lambda steps: selected(reach, steps))


@st.composite
def clock_steps(draw: st.DrawFn, max_step: int = LONGEST_STEP) -> Step:
    """Steps of the clock: short ones, which end before anything is due, and the longest."""
    span = draw(st.sampled_from(sorted({min(span, max_step) for span in (1000, 1_000_000, max_step)})))
    return Step(draw(st.integers(1, span) | st.just(span)))


def reach_of(device: Any, kind: Kind, size: int | str | None = None) -> Reach:
    """What is reached of a device or a class, checked for a kind of accesses."""
    if kind not in ("legal", "nearly", "hostile"):
        raise ValueError(f'no such kind of accesses: {kind!r}\n\nhint: "legal", "nearly" or "hostile"')
    cls = device if isinstance(device, type) else type(device)
    size = getattr(device, "size", None) if size is None else size
    if not isinstance(size, int | str):
        raise TypeError(f"size of {cls.__name__} is not known\n\nhint: give its class a `size`")
    reach = Reach(cls, parse_size(size))
    if not reach.targets and kind != "hostile":
        raise TypeError(f'{cls.__name__} declares no registers\n\nhint: "hostile" needs only its size')
    return reach


def _steps(reach: Reach, kind: Kind, *, is_single: bool = False) -> st.SearchStrategy[Do]:
    if kind == "legal":
        return legal(reach)
    rules = breakable(reach, is_single) if kind == "nearly" else {}
    return broken(reach, rules) if rules else hostile(reach)


@st.composite
def _spiced(draw: st.DrawFn, legal: Any, broken: Any) -> list[Any]:
    """A legal sequence with one or two accesses that are not."""
    steps: list[Any] = draw(legal)
    for _ in range(draw(st.integers(1, 2))):
        steps.insert(draw(st.integers(0, len(steps))), draw(broken))
    return steps


# -- hostile -------------------------------------------------------------------------------------------------------------


@st.composite
def hostile(draw: st.DrawFn, reach: Reach) -> Do:
    """Anything at all."""
    anywhere = st.integers(-WIDEST, reach.size + WIDEST - 1)
    inside = st.integers(0, max(0, reach.size - 1))
    last = len(reach.targets) - 1
    declared = [st.integers(0, last).map(lambda at: reach.targets[at].offset)] if reach.targets else []
    size = draw(st.integers(1, WIDEST))
    value = draw(st.none() | st.integers(0, (1 << 8 * size) - 1))
    return Do((Access(draw(st.one_of(*declared, inside, anywhere)), size, value),))


# -- sequences -----------------------------------------------------------------------------------------------------------


def selected(reach: Reach, steps: list[Any], *, is_new: bool = True) -> list[Access | Step]:
    """Lay steps out as accesses, with what selects a register before each that needs it and has it not by what was written.

    `is_new`: the device is as at power-on; else nothing is known of it.
    """
    laid = _Laid(reach, is_new)
    for step in steps:
        if isinstance(step, Step):
            laid.made.append(step)
            continue
        for need in step.needs:
            laid.select(need)
        for access in step.accesses:
            laid.add(access)
    return laid.made


class _Laid:
    """A sequence as far as it is laid out, and what is known of the registers that select others."""

    def __init__(self, reach: Reach, is_new: bool) -> None:
        self.made: list[Access | Step] = []
        self._selectors = reach.selectors()
        self._held: dict[int, int | None] = {
            place.cell: getattr(place.declared, "reset", 0) if is_new else None for place in self._selectors
        }
        self._moving = reach.moving()

    def select(self, need: Need) -> None:
        known = self._held[need.place.cell]
        if known is None or known & need.mask != need.value:
            value = (known or 0) & ~need.mask | need.value
            declared = need.place.declared
            self.add(Access(need.place.offset or 0, declared.width, as_written(declared, value)))

    def add(self, access: Access) -> None:
        self.made.append(access)
        if access.offset in self._moving:
            self._held[self._moving[access.offset]] = None
        if access.value is None:
            return
        for place in self._selectors:
            start, width = place.offset or 0, place.declared.width
            if access.offset < start + width and start < access.offset + access.size:
                is_whole = (access.offset, access.size) == (start, width)
                bits = getattr(place.declared, "mask", 0)
                self._held[place.cell] = as_written(place.declared, access.value) & bits if is_whole else None
