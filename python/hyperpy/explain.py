"""What serves a device's accesses, and what that costs, register by register: what `Device.explain` returns.

All figures are counted where accesses are served, in Rust. They are the device's, wherever it is attached, and never begin
again, as all statistics: `Machine.reset` leaves them. A call to Python is timed from its access to its answer, with the wait
for the interpreter and without the exit, which every access costs besides. The first 32 calls of a method are timed, and then
one in 32: that adds little to a call, and shows a method that is seldom called too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, TypeAlias

from hyperpy import window as windows
from hyperpy._declaration import Hooked
from hyperpy._delivery import NOW
from hyperpy._layout import _describe, hooks_for
from hyperpy._value import Value
from hyperpy._words import nearest
from hyperpy.declare import Indexed, Ram
from hyperpy.stats import RUNGS, table

if TYPE_CHECKING:
    from hyperpy._layout import Placed
    from hyperpy.device import Device

__all__ = ["Explanation", "RegisterUse"]

_KERNEL, _REGISTER, _PYTHON, _UNCLAIMED = (RUNGS[rung] for rung in (1, 3, 4, 5))
# Whom a guest waits for that writes to what a method wants to know of.
_WAITED_FOR = {"stream": _KERNEL, "doorbell": _KERNEL, "posted": _REGISTER}
_HEAD = ["register", "offset", "bytes", "rung", "reads", "writes", "calls", "mean ns", "worst ns"]
_MANY = 1000  # calls that are worth a hint
_FEW = 10  # writes for each read of the device: most are followed by another write
# All that a method which tells the time asks for.
_TIME = {"clock", "now"}

_Meter: TypeAlias = tuple[int, int, int, int]  # calls, those timed, their nanoseconds, the longest


class RegisterUse(Value):
    """How guests have used one register, or those of an array that have no method of their own, and who served that.

    `register` is its name. In brackets is what is no register: `(read, write)` are the device's own methods, `(no register)`
    accesses that no register takes, `(refused)` those that `access_rule` refuses. `offset` and `width` are in bytes, None
    where there is none. `rung` says whom the guest waits for: register (Rust alone), python, unclaimed (nobody), kernel (it waits
    for nobody: a stream, or a doorbell, whose `writes` are rings as the kernel counted them, of which several can be one call); "register/python" if reads are served by the one and writes by the other. A posted register's writes are
    served by Rust, and its method is called later. `reads` and `writes` count accesses, `calls` those for which Python was
    called. `timed` of these calls were timed: `mean_ns` and `worst_ns` are theirs, None if there are none. `hint` says what
    would make it cheaper, where that is known. `place` is the offset as it is written, `ports[0x4]` in a window.
    """

    register: str
    offset: int | None
    width: int | None
    rung: str
    reads: int = 0
    writes: int = 0
    calls: int = 0
    timed: int = 0
    mean_ns: float | None = None
    worst_ns: int | None = None
    hint: str = ""
    place: str = ""


class Explanation(Value):
    """What serves the accesses to a device: a `RegisterUse` for each of its registers, by ascending offset.

    It prints as a table, in a notebook too: what no guest has accessed is left out of that. `explanation["name"]` is the row of
    a register, or of an array. `register_ns` is how long a read takes here that Rust serves, None unless `explain(measure=True)` has measured it.

    Example:
        >>> from hyperpy import Device, Register
        >>> from hyperpy.testing import DeviceBench
        >>> class Lamp(Device):
        ...     state = Register(0x0, access="ro")
        ...     switch = Register(0x4, access="wo")
        ...
        ...     @switch.on_write
        ...     def _switch(self, value: int) -> None:
        ...         self.state = value
        >>> bench = DeviceBench(Lamp())
        >>> _ = bench.batch([(0x4, 4, 1), (0x0, 4), (0x0, 4)])
        >>> for use in bench.device.explain():
        ...     print(use.register, use.rung, use.reads, use.writes, use.calls)
        state register 2 0 0
        switch python 0 1 1
        (no register) unclaimed 0 0 0
    """

    device: str
    rows: tuple[RegisterUse, ...]
    register_ns: float | None = None

    def __iter__(self) -> Iterator[RegisterUse]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, register: str) -> RegisterUse:
        for row in self.rows:
            # An array is a row, called "data[0…7]".
            if row.register == register or row.register.startswith(f"{register}[0…"):
                return row
        names = [row.register.partition("[0…")[0] for row in self.rows]
        hint = nearest(register, names) or f"there is {', '.join(names)}"
        raise KeyError(f"{self.device} has no such register: {register}; hint: {hint}")

    def _lines(self) -> tuple[str, list[list[str]], list[str]]:
        """What it says: first, in a table, and last."""
        accesses = sum(row.reads + row.writes for row in self)
        calls = sum(row.calls for row in self)
        first = f"{self.device}: {_count(accesses, 'access', 'accesses')}, {_count(calls, 'call', 'calls')} to Python"
        used = [row for row in self if row.reads or row.writes]
        cells = [
            [
                row.register,
                row.place or ("" if row.offset is None else f"{row.offset:#x}"),
                "" if row.width is None else str(row.width),
                row.rung,
                *map(str, (row.reads, row.writes, row.calls)),
                "" if row.mean_ns is None else f"{row.mean_ns:.0f}",
                "" if row.worst_ns is None else str(row.worst_ns),
            ]
            for row in used
        ]
        last = []
        unused = sum(row.register[0] != "(" for row in self if row not in used)
        if unused:
            last.append(f"not accessed: {_count(unused, 'register', 'registers')}")
        if self.register_ns is not None:
            last.append(f"a read that Rust serves takes {self.register_ns:.0f} ns here, beside the exit")
        last += [f"hint: {row.register}: {row.hint}" for row in used if row.hint]
        return first, cells, last

    def __str__(self) -> str:
        first, cells, last = self._lines()
        return "\n".join([first, *([table(_HEAD, cells)] if cells else []), *last])

    def _repr_html_(self) -> str:
        first, cells, last = self._lines()
        head = "".join(f"<th>{word}</th>" for word in _HEAD)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells
        )
        below = "".join(f"<p>{escape(line)}</p>" for line in last)
        return (
            f"<table><caption>{escape(first)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            + below
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def explained(device: Device, measure: bool) -> Explanation:
    """What `Device.explain` returns."""
    ns = device._layout.measure() if measure and device._layout is not None else None
    return Explanation(type(device).__name__, tuple(_rows(device)), ns)


def _rows(device: Device) -> Iterator[RegisterUse]:
    groups = _groups(device)
    all_reads = sum(device._register_file.hits(place.cell)[0] for group in groups for place in group)
    for group in sorted(groups, key=lambda group: (group[0].offset is None, group[0].offset or 0)):
        yield _use(device, group, all_reads)
    if device._has_own_accesses() or not groups:
        read, write = device._calls.plain()
        offset, width = (None, None) if groups else (0, device.size)
        hint = "every access calls Python: what only holds a value can be a Register, which Rust serves"
        hint = hint if read[0] + write[0] >= _MANY else ""
        yield RegisterUse(
            "(read, write)", offset, width, _PYTHON, read[0], write[0], *_cost((read, write)), hint
        )
    else:
        (reads, writes), (refused_reads, refused_writes) = device._register_file.strays()
        yield RegisterUse("(no register)", None, None, _UNCLAIMED, reads, writes)
        if device.access_rule == "refuse":
            yield RegisterUse("(refused)", None, None, _UNCLAIMED, refused_reads, refused_writes)


def _groups(device: Device) -> list[list[Placed]]:
    """Registers that are told as one: those of an array, but for the ones with a method of their own."""
    groups: dict[object, list[Placed]] = {}
    for place in device._places:
        if not isinstance(place.declared, Indexed):  # what is behind a port is told
            one = place.cell if _is_told_alone(place) else (id(place.declared), place.name.rpartition("[")[0])
            groups.setdefault(one, []).append(place)
    return list(groups.values())


def _use(device: Device, group: list[Placed], all_reads: int) -> RegisterUse:
    place, declared = group[0], group[0].declared
    name = (
        place.name
        if _is_told_alone(place)
        else f"{place.name.rpartition('[')[0]}[0…{(declared.count or 0) - 1}]"
    )
    hits = [device._register_file.hits(one.cell) for one in group]
    meters = [device._calls.of(one.cell) for one in group]
    reads, writes = sum(hit[0] for hit in hits), sum(hit[1] for hit in hits)
    cost = _cost(meter for pair in meters if pair is not None for meter in pair)
    told_reads = sum(pair[0][0] for pair in meters if pair is not None)
    told_writes = sum(pair[1][0] for pair in meters if pair is not None)
    hint = _hint(place, told_reads, told_writes, all_reads)
    width = declared.size if isinstance(declared, Ram) else declared.width
    shown = "" if place.offset is None else windows.shown(place.offset, device._windows)
    return RegisterUse(name, place.offset, width, _rung(place), reads, writes, *cost, hint, shown)


def _cost(meters: Iterable[_Meter]) -> tuple[int, int, float | None, int | None]:
    """Calls, how many of them were timed, and the mean and the longest of those."""
    calls = timed = ns = worst = 0
    for meter in meters:
        calls, timed, ns, worst = calls + meter[0], timed + meter[1], ns + meter[2], max(worst, meter[3])
    return (calls, timed, ns / timed, worst) if timed else (calls, 0, None, None)


def _is_told_alone(place: Placed) -> bool:
    """Whether it is of no array, or has a method of its own in one."""
    return place.index is None or (place.declared, place.index) in place.owner._told  # type: ignore[attr-defined]


def _hooks(place: Placed) -> tuple[str | None, str | None]:
    """Names of the methods for reads and for writes."""
    declared = place.declared
    if not isinstance(declared, Hooked):
        return None, None
    read, write = hooks_for(place.owner._told, declared, place.index)  # type: ignore[attr-defined]
    return read and read.method, write and write.method


def _rung(place: Placed) -> str:
    read, write = (_PYTHON if hook else _REGISTER for hook in _hooks(place))
    kind, _ = getattr(place.declared, "delivery", NOW)
    write = _WAITED_FOR.get(kind, write)
    # What is behind a port has no place, and both sides.
    can_read, can_write = (True, True) if place.offset is None else _describe(place)["sides"]
    return read if read == write or not can_write else write if not can_read else f"{read}/{write}"


def _hint(place: Placed, told_reads: int, told_writes: int, all_reads: int) -> str:
    """What would make a register cheaper: only what is true of it."""
    read, _ = _hooks(place)
    if read is not None and told_reads:
        names = getattr(getattr(place.owner, read, None), "__code__", None)
        if names is not None and set(names.co_names) == _TIME:
            return "on_read tells the time and nothing else: a Counter does that without Python"
    delivery = getattr(place.declared, "delivery", None)
    if delivery == NOW and told_writes >= _MANY and all_reads * _FEW <= told_writes:
        return "most writes are followed by no read: with posted=True the guest would not wait for the method"
    return ""
