"""The part of `Machine` that tells what it has done, what is where, and what it is made of: readings that change nothing.

Each gives a value that stands for itself afterwards: `Stats` and `Map` of `stats`, and `MachineSpec` of `spec`. The last
exits, `trace()`, are in `_debug`. A mixin, as `_attach` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hyperpy import _hyperpy
from hyperpy.device import Device
from hyperpy.errors import StateError
from hyperpy.irq import Routing
from hyperpy.stats import RUNGS, DeviceStats, Map, MapRow, Stats, VcpuStats

if TYPE_CHECKING:
    from hyperpy.machine import Machine
    from hyperpy.memory import Memory
    from hyperpy.snapshot import Forked, RestoreStats
    from hyperpy.spec import MachineSpec

_KERNEL = 1  # its rung
_DISABLED = "disabled"


class Looking(Routing):
    """What `Machine` has of readings."""

    memory: Memory
    _attached: dict[tuple[bool, int], tuple[object, dict[str, Any]]]
    _closed: bool
    _restored: RestoreStats | None
    _forked: Forked | None
    _last_devices: tuple[DeviceStats, ...] = ()

    @property
    def stats(self) -> Stats:
        """Counters up to this moment; also while the machine runs. They go on counting over a reset.

        Example:
            >>> import hyperpy
            >>> class Doorbell(hyperpy.Device):
            ...     rings = hyperpy.Register(0x0, width=1)
            >>> code = bytes([0xE6, 0x80, 0xE4, 0x80, 0xF4])  # out 0x80, al; in al, 0x80; hlt
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     bell = m.attach(Doorbell(), pio=0x80)
            ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
            ...     _ = m.run(timeout=1.0)
            ...     print(m.stats.devices[0])
            DeviceStats(name='Doorbell', hits={'kernel': 0, 'register': 2, 'python': 0, 'unclaimed': 0})
        """
        vcpus, wall = self._native.readings()
        rows = tuple(
            VcpuStats(exits, ns / 1e9, {word: hits[rung] for rung, word in RUNGS.items()}, capped / 1e9)
            for hits, exits, ns, capped in vcpus
        )
        devices = self._last_devices if self._closed else self._device_stats()
        return Stats(rows, wall, self.memory.committed, devices, self._restored, self._forked)

    def _device_stats(self) -> tuple[DeviceStats, ...]:
        found: dict[int, DeviceStats] = {}
        for device, facts in list(self._attached.values()):
            if facts["calls"] is not None and id(device) not in found:
                found[id(device)] = DeviceStats(facts["name"], _hits(device, facts["calls"]))
        return tuple(found.values())

    @property
    def map(self) -> Map:
        """What is where: memory, ports, mmio and interrupts; prints as tables.

        What the kernel's interrupt controllers and PIT answer is in it as soon as they are asked for. What `disable` took off its
        bus is there as "disabled", at the place where `enable` puts it, which others may have meanwhile.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M", irqchip=True) as m:
            ...     port = m.attach(hyperpy.DebugExit(), pio=0xF4)
            ...     print(m.map)
            space   first       last        size      answered by  name
            memory         0x0     0xfffff  0x100000  ram          ram
            pio           0x20        0x21       0x2  kernel       8259 (in the kernel)
            pio           0x40        0x43       0x4  kernel       pit (in the kernel)
            pio           0x61        0x61       0x1  kernel       pit speaker (in the kernel)
            pio           0xa0        0xa1       0x2  kernel       8259 (in the kernel)
            pio           0xf4        0xf7       0x4  rust         DebugExit
            pio          0x4d0       0x4d1       0x2  kernel       8259 elcr (in the kernel)
            mmio    0xfec00000  0xfec00fff    0x1000  kernel       I/O APIC (in the kernel)
            mmio    0xfee00000  0xfee00fff    0x1000  kernel       local APIC (in the kernel)
            <BLANKLINE>
            gsi  trigger  leads to                      device
              0  edge     I/O APIC pin 0, 8259 input 0  pit (in the kernel)
        """
        on_buses = [
            MapRow(bus, base, size, name, RUNGS[rung])
            for bus, base, size, name, rung in self._native.regions()
        ]
        if self._native.irqchip:
            on_buses += [
                MapRow(bus, base, size, name, RUNGS[_KERNEL])
                for bus, base, size, name, with_irqchip in _hyperpy.kernel_ranges()
                if with_irqchip
            ]
        on_buses += [
            MapRow("pio" if is_pio else "mmio", facts["base"], facts["size"], facts["label"], _DISABLED)
            for (is_pio, _), (_, facts) in list(self._attached.items())
            if not facts["enabled"]
        ]
        rows = [MapRow("memory", *row) for row in self.memory._rows()]
        rows += sorted(on_buses, key=lambda row: (row.space == "mmio", row.base))
        return Map(tuple(rows), self._interrupts())

    @property
    def spec(self) -> MachineSpec:
        """What the machine is made of now, as a spec that makes another of the kind.

        Memory's contents, registers and routes are not in it.

        Raises:
            SpecError: a part has no spec, and which: a device whose class cannot be imported or whose arguments are
                not known, an image made of bytes, a callable as policy. What a spec has made has one.
            StateError: the machine is closed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M", name="small") as m:
            ...     port = m.attach(hyperpy.DebugExit(), pio=0xF4)
            ...     print(m.spec.to_toml(), end="")
            name = "small"
            memory = "1M"
            <BLANKLINE>
            [[devices]]
            model = "debug-exit"
            pio = 0xf4
        """
        if self._closed:
            raise StateError("cannot tell the spec: the machine is closed", hint="ask before close()")
        from hyperpy._spec_of import spec_of  # noqa: PLC0415 - few scripts ask

        return spec_of(cast("Machine", self))


def _hits(device: object, calls: _hyperpy.Calls) -> dict[str, int]:
    """Accesses to a device by who answered them: the kernel, its registers, its methods, nobody."""
    read, write = calls.plain()
    rings, by_rust, by_python, by_nobody = 0, 0, read[0] + write[0], 0
    if isinstance(device, Device) and device._layout is not None:
        reads, writes, told, rings = device._register_file.total_hits()
        by_rust, by_python = reads + writes - told - rings, by_python + told
        by_nobody = sum(map(sum, device._register_file.strays()))
    return {RUNGS[1]: rings, RUNGS[3]: by_rust, RUNGS[4]: by_python, RUNGS[5]: by_nobody}
