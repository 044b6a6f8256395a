"""What a machine has done and where its devices are, as values that print as tables.

`Stats` is a reading of counters that the core keeps; `Map` is the two buses and the memory. Neither changes after it
was taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hyperpy._value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperpy.machine import Machine
    from hyperpy.snapshot import Forked, RestoreStats

__all__ = ["DeviceStats", "IrqRow", "Map", "MapRow", "Stats", "VcpuStats", "overview"]

_NUMBER = re.compile(r"(-?(0x[0-9a-f]+|\d+(\.\d+)?))?")
RUNGS = {1: "kernel", 2: "rust", 3: "register", 4: "python", 5: "unclaimed"}


class VcpuStats(Value):
    """What one vcpu has done.

    `exits` counts exits to this process, one for each KVM_RUN, `cpu_seconds` processor time of the thread that
    drove it, and `hits` the accesses answered by each rung of the dispatch ladder: kernel (writes that waited in a ring of
    the kernel's and cost no exit; rings of doorbells are not among them, since the kernel does not tell who rang: see `DeviceStats`), rust (a device written in Rust), register (a declared register), python (a Python method), unclaimed (nobody). `capped_seconds` is the time that it
    rested because the machine had used up its `cpu_limit`.
    """

    exits: int
    cpu_seconds: float
    hits: dict[str, int]
    capped_seconds: float = 0.0


class DeviceStats(Value):
    """Accesses to one device in Python, by who answered.

    `hits["kernel"]` are rings of its doorbells, as the kernel counted them until they were heard: several can be one call of the method.
    `hits["register"]` are of registers that Rust serves, `hits["python"]` called a method, and `hits["unclaimed"]` are in its
    range and no register takes them. A posted write, or one of a stream, is among those that called a method when it has been
    called: in `Stats.hits` it is counted by what the guest waited for. They are the device's: of a device that was attached to another machine before, its hits there are among them. An access
    to several registers counts for each. `Device.explain` tells more.
    """

    name: str
    hits: dict[str, int]


class Stats(Value):
    """A machine's counters at one moment: per vcpu, and in sum; and those of each device in Python that is attached.

    `restore` is what the last restore did, if there was one, and `fork`, of a copy of another machine, how it was made; `wall_seconds` is the time that the machine has been running, `memory_bytes` the host memory that it uses. Accesses to
    devices in Rust are counted together, since a counter for each would be a good part of what they cost; a trace names them.
    """

    vcpus: tuple[VcpuStats, ...]
    wall_seconds: float
    memory_bytes: int
    devices: tuple[DeviceStats, ...] = ()
    restore: RestoreStats | None = None
    fork: Forked | None = None

    @property
    def exits(self) -> int:
        """Exits of all vcpus."""
        return sum(vcpu.exits for vcpu in self.vcpus)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all vcpus."""
        return sum(vcpu.cpu_seconds for vcpu in self.vcpus)

    @property
    def capped_seconds(self) -> float:
        """Time that vcpus rested because of `cpu_limit`, of all of them."""
        return sum(vcpu.capped_seconds for vcpu in self.vcpus)

    @property
    def hits(self) -> dict[str, int]:
        """Accesses answered, by rung, of all vcpus."""
        return {name: sum(vcpu.hits.get(name, 0) for vcpu in self.vcpus) for name in RUNGS.values()}

    def __str__(self) -> str:
        head = ["vcpu", "cpu s", "exits", *RUNGS.values()]
        rows = [
            [
                str(i),
                f"{v.cpu_seconds:.3f}",
                str(v.exits),
                *(str(v.hits.get(name, 0)) for name in RUNGS.values()),
            ]
            for i, v in enumerate(self.vcpus)
        ]
        total = f"{self.wall_seconds:.3f} s running, {self.memory_bytes >> 10} KiB of memory in use"
        if self.capped_seconds:
            total += f", {self.capped_seconds:.3f} s resting by cpu_limit"
        if self.restore is not None:
            total += f"\nlast restore: {self.restore}"
        if self.fork is not None:
            total += f"\na copy: {self.fork.pages} pages were copied for it"
        parts = [table(head, rows) + "\n" + total]
        if self.devices:
            words = list(self.devices[0].hits)
            rows = [[device.name, *(str(device.hits[word]) for word in words)] for device in self.devices]
            parts.append(table(["device", *words], rows))
        return "\n\n".join(parts)


def overview(booted: Mapping[Machine, float]) -> str:
    """A table of machines side by side: state, time to boot and time running, vcpu time, memory, exits by rung.

    Arguments:
        booted: the machines, with the seconds that each took to boot, as the script saw it.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M", name="one") as m:
        ...     print(overview({m: 0.0}))
        machine  state    boot s  wall s  vcpu s  MiB  exits  kernel  rust  register  python  unclaimed
        one      created     0.0     0.0     0.0    0      0       0     0         0       0          0
    """
    rows = []
    for machine, boot in booted.items():
        stats = machine.stats
        times = [f"{seconds:.1f}" for seconds in (boot, stats.wall_seconds, stats.cpu_seconds)]
        counts = [str(stats.memory_bytes >> 20), str(stats.exits), *map(str, stats.hits.values())]
        rows.append([machine.name, machine.state, *times, *counts])
    head = ["machine", "state", "boot s", "wall s", "vcpu s", "MiB", "exits", *RUNGS.values()]
    return table(head, rows)


class MapRow(Value):
    """One range: `space` is memory, pio or mmio; `rung` says who answers, or "disabled": it is off its bus until `Machine.enable`."""

    space: str
    base: int
    size: int
    name: str
    rung: str

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.base + self.size


class IrqRow(Value):
    """One gsi: how it is triggered ("edge", "level", both if its devices disagree), where it leads, who drives it."""

    gsi: int
    triggers: tuple[str, ...]
    targets: tuple[str, ...]
    devices: tuple[str, ...]


class Map(Value):
    """What is where: memory, then the port bus, then the mmio bus, each by ascending address; and the interrupts.

    Example:
        >>> print(
        ...     Map(
        ...         (MapRow("pio", 0x3F8, 8, "uart com1", "rust"),),
        ...         (IrqRow(4, ("edge",), (), ("uart com1",)),),
        ...     )
        ... )
        space  first  last   size  answered by  name
        pio    0x3f8  0x3ff   0x8  rust         uart com1
        <BLANKLINE>
        gsi  trigger  leads to  device
          4  edge     -         uart com1
    """

    rows: tuple[MapRow, ...]
    interrupts: tuple[IrqRow, ...] = ()

    def __str__(self) -> str:
        cells = [
            [r.space, f"{r.base:#x}", f"{r.end - 1:#x}", f"{r.size:#x}", r.rung, r.name] for r in self.rows
        ]
        places = table(["space", "first", "last", "size", "answered by", "name"], cells)
        if not self.interrupts:
            return places
        lines = [
            [str(row.gsi), *(", ".join(words) or "-" for words in (row.triggers, row.targets, row.devices))]
            for row in self.interrupts
        ]
        return f"{places}\n\n{table(['gsi', 'trigger', 'leads to', 'device'], lines)}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns of text; those of numbers alone are to the right."""
    columns = list(zip(*rows, strict=True)) or [() for _ in head]
    widths = [max(map(len, (name, *column))) for name, column in zip(head, columns, strict=True)]
    to_right = [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in columns]

    def line(cells: list[str], to_right: list[bool]) -> str:
        places = zip(cells, widths, to_right, strict=True)
        return "  ".join(cell.rjust(w) if right else cell.ljust(w) for cell, w, right in places).rstrip()

    return "\n".join([line(head, [False] * len(head)), *(line(row, to_right) for row in rows)])
