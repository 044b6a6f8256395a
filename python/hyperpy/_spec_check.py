"""The static check of a spec: what cannot be together, found without KVM and without a machine.

It knows the platform as the core has it: where RAM lies, what the in-kernel interrupt controllers answer, the stock
devices. Modules of devices are imported, for the size and the trigger that their classes state; nothing is made.
"""

from __future__ import annotations

import bisect
import errno
import inspect
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy import _spec_form as form
from hyperpy.errors import SpecError
from hyperpy.line import Line, declared

if TYPE_CHECKING:
    from hyperpy.spec import DeviceSpec, MachineSpec

__all__ = ["Finding", "check", "ram_of"]

_PAGE = 0x1000
# Where RAM stops for devices and goes on (core: layout.rs).
_HOLE, _HIGH = 0xC000_0000, 0x1_0000_0000
_END = 1 << 64
# Most physical address bits of the architecture (SDM vol. 3, 4.1.4).
_PHYSICAL = 1 << 52
_PORTS = 0x10000
# Pins of the I/O APIC: a gsi above leads nowhere until the script says where.
_PINS = 24
_REAL_MODE_END = 1 << 20


@dataclass(frozen=True)
class Finding:
    """Something that cannot be: the path of its key, what is wrong, and what to do."""

    path: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}\n\nhint: {self.hint}"


@dataclass(frozen=True)
class _Range:
    """A range that somebody has; `path` is empty for what the platform has by itself."""

    path: str
    base: int
    size: int
    name: str

    @property
    def end(self) -> int:
        return self.base + self.size

    def __str__(self) -> str:
        return f"{self.base:#x} to {self.end - 1:#x}"


@dataclass(frozen=True)
class _Device:
    index: int
    spec: DeviceSpec
    size: int | None
    levels: dict[str, bool]
    windows: dict[str, int]

    def lines(self) -> Iterable[tuple[str, int]]:
        """Its lines by name, and the gsis that they are."""
        irq = self.spec.irq
        return (irq if isinstance(irq, Mapping) else {} if irq is None else {"irq": irq}).items()

    def ranges(self, bus: str) -> Iterator[_Range]:
        """Where it is on a bus, as far as sizes are known. What is disabled is not."""
        where, name = getattr(self.spec, bus), self.spec.name or self.spec.model
        path, disabled = f"devices[{self.index}].{bus}", self.spec.disabled
        if disabled is True:
            return
        if isinstance(where, Mapping):
            for window, base in where.items():
                if window in self.windows and window not in (disabled or ()):
                    yield _Range(f"{path}.{window}", base, self.windows[window], f"{name}.{window}")
        elif where is not None and self.size is not None and len(self.windows) <= 1:
            yield _Range(path, where, self.size, name)


def ram_of(size: int) -> list[tuple[int, int]]:
    """Where RAM of this size lies: first gpa and bytes of each part."""
    return [(0, min(size, _HOLE))] + ([(_HIGH, size - _HOLE)] if size > _HOLE else [])


def _of_kernel(bus: str, has_irqchip: bool) -> list[_Range]:
    """What the kernel has for itself on a bus."""
    return [
        _Range("", base, size, name)
        for where, base, size, name, with_irqchip in _hyperpy.kernel_ranges()
        if where == bus and (has_irqchip or not with_irqchip)
    ]


def check(spec: MachineSpec) -> list[Finding]:
    """See `MachineSpec.check`."""
    findings: list[Finding] = []
    devices = [
        _Device(index, device, *_facts(index, device, spec.folder, findings))
        for index, device in enumerate(spec.devices)
    ]
    has_pc = spec.pc or (spec.image is not None and spec.image.has_pc)
    has_irqchip = (
        spec.irqchip or spec.vcpus > 1 or has_pc or any(device.irq is not None for device in spec.devices)
    )
    findings += _memory(spec, has_irqchip)
    findings += _mmio(spec, devices, has_irqchip)
    findings += _pio(devices, has_pc, has_irqchip)
    findings += _interrupts(devices, has_pc)
    findings += _files(spec)
    return findings


def _facts(
    index: int, device: DeviceSpec, folder: str, findings: list[Finding]
) -> tuple[int | None, dict[str, bool], dict[str, int]]:
    """The device's size, if it is known, which of its lines are level-triggered, and the sizes of its windows."""
    path, size = f"devices[{index}]", None if device.size is None else int(device.size)
    try:
        kind: Any = device.kind(folder)
    except SpecError as error:
        findings.append(Finding(f"{path}.{error.path}", error.what, error.hint or "look at the module"))
        return size, {}, {}
    except Exception as error:
        told = f"its module cannot be imported: {type(error).__name__}: {error}"
        findings.append(Finding(f"{path}.model", told, "`python -c 'import MODULE'` shows where"))
        return size, {}, {}
    findings += [Finding(f"{path}.args", *told) for told in _arguments(device, kind)]
    known = _hyperpy.stock_sizes().get(device.model, getattr(kind, "size", None))
    if size is None and known is None:
        findings.append(Finding(f"{path}.size", f"{device.model} does not know its own", "give size = BYTES"))
    if size is None and isinstance(known, int):  # not a property, which only an instance has
        size = known
    windows = {part.name: part.size for part in getattr(kind, "_windows", ())}
    findings += [Finding(f"{path}.{key}", *told) for key, *told in _unnamed(device, windows)]
    lines = declared(kind, Line)
    for name in device.irq if isinstance(device.irq, Mapping) else ():
        if name not in lines and not hasattr(kind, name):
            hint = f"its lines: {', '.join(lines) or 'none'}"
            findings.append(Finding(f"{path}.irq.{name}", f"{device.model} has no such line", hint))
    levels = {name: line.level for name, line in lines.items()}
    return size, levels | {"irq": bool(getattr(kind, "irq_level", False))}, windows


def _unnamed(device: DeviceSpec, windows: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the names of windows: key, text, hint."""
    names = ", ".join(windows) or "none"
    for bus in ("mmio", "pio"):
        where = getattr(device, bus)
        if isinstance(where, Mapping):
            for name in where.keys() - windows.keys():
                yield f"{bus}.{name}", f"{device.model} has no such window", f"its windows: {names}"
        elif where is not None and len(windows) > 1:
            yield bus, f"{device.model} has several windows", f"name them: {names}"


def _arguments(device: DeviceSpec, kind: Any) -> Iterator[tuple[str, str]]:
    try:
        if device.model not in _hyperpy.stock_sizes() or device.args:
            inspect.signature(kind).bind(**device.args)
    except ValueError:
        pass  # it has no signature to be had
    except TypeError as error:
        yield f"{device.model} does not take these: {error}", f"it takes {inspect.signature(kind)}"


def _overlaps(ranges: list[_Range], said: str) -> Iterator[Finding]:
    """What lies over something else: told at the later one that has a key."""
    for first, second in _pairs(ranges):
        one, other = ranges[first], ranges[second]
        if one.path or other.path:
            later, earlier = (other, one) if other.path else (one, other)
            where = f" ({earlier.path})" if earlier.path else ""
            yield Finding(later.path, f"overlaps {earlier.name}{where}: {later} and {earlier}", said)


def _pairs(ranges: list[_Range]) -> list[tuple[int, int]]:
    """Indices of the ranges that overlap, two by two, in order."""
    found, reaching = [], list[int]()
    for index in sorted(range(len(ranges)), key=lambda index: ranges[index].base):
        if ranges[index].size:
            reaching = [before for before in reaching if ranges[before].end > ranges[index].base]
            found += [(min(before, index), max(before, index)) for before in reaching]
            reaching.append(index)
    return sorted(found)


def _pages(path: str, gpa: int, size: int, huge_pages: str | None) -> Iterator[Finding]:
    page = {"2M": 2 << 20, "1G": 1 << 30}.get(huge_pages or "", _PAGE)
    if gpa % page or size % page:
        shown = form.as_size(page)
        yield Finding(path, f"not of whole pages of {shown}: {gpa:#x} + {size:#x}", f"multiples of {shown}")


def _memory(spec: MachineSpec, has_irqchip: bool) -> Iterator[Finding]:
    yield from _pages("memory", 0, int(spec.memory), spec.huge_pages)
    ranges = [_Range("", gpa, size, "ram") for gpa, size in ram_of(int(spec.memory))]
    ranges += _of_kernel("mmio", has_irqchip)
    for index, region in enumerate(spec.regions):
        size, path = int(region.size), f"regions[{index}]"
        ranges.append(_Range(f"{path}.gpa", region.gpa, size, region.name or region.kind))
        yield from _pages(path, region.gpa, size, region.huge_pages)
        if region.gpa + size > _PHYSICAL:
            yield Finding(
                f"{path}.gpa",
                f"beyond what a guest can address: {region.gpa:#x} + {size:#x}",
                "52 bits at most",
            )
    yield from _overlaps(ranges, "regions may not overlap; RAM goes from 0 to 3 GiB and on at 4 GiB")
    parts = ram_of(int(spec.memory))
    parts += [(other.gpa, int(other.size)) for other in spec.regions if other.kind in {"ram", "rom"}]
    parts.sort()
    for index, region in enumerate(spec.regions):
        of, size = region.of, int(region.size)
        if of is None:
            continue
        gpa, length = parts[max(0, bisect.bisect_right(parts, (of, _END)) - 1)]
        if not (gpa <= of and of + size <= gpa + length):
            yield Finding(
                f"regions[{index}].of",
                f"no such memory: {of:#x} + {size:#x}",
                "within one region of ram or rom",
            )


def _mmio(spec: MachineSpec, devices: list[_Device], has_irqchip: bool) -> Iterator[Finding]:
    memory = [_Range("", gpa, size, "ram") for gpa, size in ram_of(int(spec.memory))]
    memory += [
        _Range(f"regions[{index}].gpa", region.gpa, int(region.size), region.name or region.kind)
        for index, region in enumerate(spec.regions)
        if region.kind != "mmio"
    ]
    ranges = _of_kernel("mmio", has_irqchip)
    mmio = []
    for mine in (mine for device in devices for mine in device.ranges("mmio")):
        if mine.end > _PHYSICAL:
            yield Finding(
                mine.path,
                f"beyond what a guest can address: {mine.base:#x} + {mine.size:#x}",
                "52 bits at most",
            )
        ranges.append(mine)
        mmio.append(mine)
    gpa, size = ram_of(int(spec.memory))[-1]
    for first, second in _pairs([*memory, *mmio]):
        if first < len(memory) <= second:
            region, mine = memory[first], mmio[second - len(memory)]
            yield Finding(
                mine.path,
                f"lies over memory: {mine} over {region.name} at {region.base:#x}",
                f"the guest would never reach the device; RAM ends at {gpa + size:#x}",
            )
    yield from _overlaps(ranges, "move one of them")


def _pio(devices: list[_Device], has_pc: bool, has_irqchip: bool) -> Iterator[Finding]:
    ranges = _of_kernel("pio", has_irqchip)
    ranges += _stock(devices) if has_pc else []
    for mine in (mine for device in devices for mine in device.ranges("pio")):
        if mine.end > _PORTS:
            yield Finding(
                mine.path, f"leaves the ports: {mine.base:#x} + {mine.size:#x}", "ports go from 0 to 0xffff"
            )
        ranges.append(mine)
    yield from _overlaps(ranges, "move one of them")


def _stock(devices: list[_Device]) -> list[_Range]:
    """The stock devices of a PC that no device of the spec stands for."""

    def is_left_out(own: _Range) -> bool:
        ranges = (mine for device in devices for mine in device.ranges("pio"))
        return any(mine.base <= own.base and mine.end >= own.end for mine in ranges)

    return [own for own in (_Range("", *place) for place in _hyperpy.stock_ports()) if not is_left_out(own)]


def _interrupts(devices: list[_Device], has_pc: bool) -> Iterator[Finding]:
    users: dict[int, list[tuple[str, str, bool]]] = {}
    if has_pc or any(device.spec.irq is not None for device in devices):
        users[0] = [("", "pit (in the kernel)", False)]
    stock = {own.name for own in _stock(devices)} if has_pc else set()
    for line, is_level, name in _hyperpy.stock_lines(None):
        if name not in stock:
            continue
        users.setdefault(line, []).append(("", name, is_level))
    wanted = [(device, label, gsi) for device in devices for label, gsi in device.lines()]
    for mine, label, gsi in wanted:
        path = f"devices[{mine.index}].irq{'' if label == 'irq' else '.' + label}"
        level = mine.levels.get(label, False)
        if gsi >= _PINS:
            yield Finding(
                path,
                f"leads nowhere: gsi {gsi}",
                "gsi 0 to 23 lead somewhere; m.route() leads others, in a script",
            )
        for other, name, is_level in users.get(gsi, ()):
            where = f" ({other})" if other else ""
            kinds = "both are edge-triggered"
            if is_level != level:
                kinds = "one is level-triggered and one edge-triggered"
            elif level:
                continue  # level-triggered devices share a line
            yield Finding(
                path,
                f"gsi {gsi} is shared with {name}{where}: {kinds}",
                "only level-triggered devices share one",
            )
        users.setdefault(gsi, []).append((path, mine.spec.name or mine.spec.model, level))


def _files(spec: MachineSpec) -> Iterator[Finding]:
    image = spec.image
    sizes: dict[str, int] = {}
    wanted: list[tuple[str, str | None]] = (
        [(f"image.{key}", getattr(image, key)) for key in image.files] if image is not None else []
    )
    for index, module in enumerate(getattr(image, "modules", ())):
        wanted.append((f"image.modules[{index}].file", module.file))
    wanted += [(f"regions[{index}].file", region.file) for index, region in enumerate(spec.regions)]
    for path, name in wanted:
        if name is None:
            continue
        full = os.path.join(spec.folder, name)
        try:
            status = os.stat(full)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"not a file: {full!r}")
            if not os.access(full, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), full)
            sizes[path] = status.st_size
        except OSError as error:
            yield Finding(path, f"cannot be read: {error}", "paths are relative to the spec's file")
    for index, region in enumerate(spec.regions):
        if (size := sizes.get(f"regions[{index}].file", 0)) > int(region.size):
            yield Finding(
                f"regions[{index}].file",
                f"is larger than its region: {size:#x} bytes in {int(region.size):#x}",
                "give the region a larger size",
            )
    yield from _image(spec, sizes)


def _image(spec: MachineSpec, sizes: dict[str, int]) -> Iterator[Finding]:
    from hyperpy.spec import FlatSpec  # noqa: PLC0415 - that module is about to import this one

    image = spec.image
    if image is None:
        return
    if not isinstance(image, FlatSpec):
        total = sum(size for key, size in sizes.items() if key.startswith("image."))
        if total > int(spec.memory):
            yield Finding(
                "memory",
                f"files of the image are larger: {total:#x} bytes in {int(spec.memory):#x}",
                "give more",
            )
        return
    size = sizes.get("image.file", 0) if image.file is not None else len(bytes.fromhex(image.code or ""))
    if not size and (image.file is None or "image.file" in sizes):
        yield Finding("image", "there is no code", "an image has at least one byte")
    limit = min(_REAL_MODE_END, int(spec.memory)) if image.mode == "real" else _END
    parts = [(0, limit)] if image.mode == "real" else ram_of(int(spec.memory))
    parts += [
        (region.gpa, int(region.size))
        for region in spec.regions
        if region.kind == "ram" and image.mode != "real"
    ]
    if not any(gpa <= image.at and image.at + size <= gpa + length for gpa, length in parts):
        where = "below 1 MiB, in real mode" if image.mode == "real" else "in one region of RAM"
        yield Finding("image.at", f"code does not fit there: {image.at:#x} + {size:#x}", where)
