"""The spec of a machine that is there: what it was made of, as far as a spec can say it."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hyperpy._placed import placed
from hyperpy._spec_check import ram_of
from hyperpy.boot import Firmware, Flat, Linux, Multiboot, Pvh
from hyperpy.device import DebugConsole, DebugExit
from hyperpy.errors import SpecError
from hyperpy.spec import (
    DeviceSpec,
    FirmwareSpec,
    FlatSpec,
    LinuxSpec,
    MachineSpec,
    ModuleSpec,
    MultibootSpec,
    PvhSpec,
    RegionSpec,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperpy._spec_image import ImageSpec
    from hyperpy.machine import Machine

__all__ = ["spec_of"]

_HINT = "a machine made by MachineSpec.make() has a spec of all that it was made of"


def spec_of(machine: Machine, *, has_image: bool = True) -> MachineSpec:
    """See `Machine.spec`. Without its image it is the spec of a machine for a snapshot, in which all is that the image has brought."""
    base, base_image, base_devices = machine._made_from or (MachineSpec(), None, [])
    image = None
    if has_image:
        image = base.image if machine._image is base_image else _image(machine._image)
    has_pc = machine._native.has_pc
    unclaimed: Any = machine.unclaimed
    if callable(unclaimed):
        raise SpecError(f"a callable has no spec: {unclaimed!r}", path="unclaimed", hint=_HINT)
    usual = "ones" if image is not None and image.has_pc else "exit"
    if unclaimed == usual:  # said only where it is not clear by itself, or was said before
        unclaimed = base.unclaimed if base.unclaimed == usual else None
    mine = [(place, of) for place, of in list(machine._attached.items()) if place not in machine._brought]
    known = {id(device): spec for device, spec in zip(base_devices, base.devices, strict=True)}
    devices = [
        _put(known.get(id(device)) or _device(index, device, facts, where), where, disabled)
        for index, (device, facts, where, disabled) in enumerate(placed(mine))
    ]
    return MachineSpec(
        name=base.name if machine._made_from else machine.name,
        memory=machine._asked[0],
        huge_pages=machine._asked[1],
        cpus=None if machine._asked[2] is None else tuple(machine._asked[2]),
        cpu_limit=machine.cpu_limit,
        trace=machine._traced,
        vcpus=len(machine.vcpus),
        # More vcpus, a line and a PC's devices ask for it by themselves.
        irqchip=base.irqchip
        or (
            machine._native.irqchip
            and len(machine.vcpus) == 1
            and not has_pc
            and not any(d.irq is not None for d in devices)
        ),
        unclaimed=unclaimed,
        pc=base.pc or (has_pc and not (image is not None and image.has_pc)),
        serial=base.serial,
        image=image,
        devices=tuple(devices),
        regions=_regions(machine, base),
        folder=base.folder,
    )


def _image(image: object) -> ImageSpec | None:
    def path(source: object) -> str | None:
        if isinstance(source, bytes):
            raise SpecError(
                "bytes have no spec: they came from a script", path="image", hint="load it from a file"
            )
        return None if source is None else os.path.abspath(os.fspath(source))  # type: ignore[call-overload]

    def given(modules: Iterable[Any]) -> tuple[ModuleSpec, ...]:
        pairs = [module if isinstance(module, tuple) else (module, "") for module in modules]
        return tuple(ModuleSpec(file=path(file) or "", line=line) for file, line in pairs)

    match image:
        case None:
            return None
        case Flat(code=code, at=at, mode=mode):
            return FlatSpec(code=bytes(memoryview(code)).hex(), at=at, mode=mode)
        case Linux(kernel=kernel, initrd=initrd, cmdline=cmdline, unpack=unpack):
            return LinuxSpec(kernel=path(kernel) or "", initrd=path(initrd), cmdline=cmdline, unpack=unpack)
        case Pvh(kernel=kernel, initrd=initrd, cmdline=cmdline, modules=modules):
            return PvhSpec(
                kernel=path(kernel) or "", initrd=path(initrd), cmdline=cmdline, modules=given(modules)
            )
        case Multiboot(kernel=kernel, cmdline=cmdline, modules=modules):
            return MultibootSpec(kernel=path(kernel) or "", cmdline=cmdline, modules=given(modules))
        case Firmware(image=file, files=files, debug_port=port) if not files:
            return FirmwareSpec(file=path(file) or "", debug_port=port or 0)
        case _:
            raise SpecError(f"an image without a spec: {type(image).__name__}", path="image", hint=_HINT)


def _put(spec: DeviceSpec, where: dict[str, Any], off: list[str | None]) -> DeviceSpec:
    """A device's spec with the place where it is by now, and what of it is disabled."""
    count = sum(len(at) if isinstance(at, dict) else 1 for at in where.values())
    names = tuple(sorted(filter(None, off)))
    disabled = True if len(off) == count else names
    if isinstance(spec.mmio, int) or isinstance(spec.pio, int):
        # One window needs no name.
        where = {
            bus: next(iter(at.values())) if isinstance(at, dict) and len(at) == 1 else at
            for bus, at in where.items()
        }
    mmio, pio = where.get("mmio"), where.get("pio")
    if (spec.mmio, spec.pio, spec.disabled) == (mmio, pio, disabled):
        return spec
    return replace(spec, mmio=mmio, pio=pio, disabled=disabled)


def _device(index: int, device: object, facts: dict[str, Any], where: dict[str, Any]) -> DeviceSpec:
    kind = type(device)
    match device:
        case DebugExit():
            model = "debug-exit"
        case DebugConsole():
            model = "debug-console"
        case _:
            model = f"{kind.__module__}:{kind.__qualname__}"
            if (
                getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind
                or kind.__module__ == "__main__"
            ):
                raise SpecError(
                    f"its class cannot be imported: {model}", path=f"devices[{index}]", hint=_HINT
                )
            if inspect.signature(kind).parameters:
                raise SpecError(f"its arguments are not known: {model}", path=f"devices[{index}]", hint=_HINT)
    is_usual = facts["window"] is not None or facts["size"] == getattr(device, "size", None)
    size = None if is_usual else facts["size"]
    name = None if facts["name"] == kind.__name__ else facts["name"]
    lines = facts["irq"].values() if isinstance(facts["irq"], Mapping) else (facts["irq"],)
    if not all(isinstance(gsi, int | None) for gsi in lines):
        raise SpecError(f"its lines have no spec: {facts['irq']}", path=f"devices[{index}].irq", hint=_HINT)
    return DeviceSpec(model=model, size=size, irq=facts["irq"], name=name, **where)


def _regions(machine: Machine, base: MachineSpec) -> tuple[RegionSpec, ...]:
    known = {region.gpa: region for region in base.regions}
    mine = {gpa for gpa, _ in ram_of(machine._asked[0])} | machine._brought
    return tuple(
        known.get(gpa)
        or RegionSpec(
            gpa=gpa,
            size=size,
            kind=kind if of is None else "alias",  # type: ignore[arg-type]
            name=None if name == (kind if of is None else "alias") else name,
            of=of,
            huge_pages=huge if of is None else None,  # type: ignore[arg-type]
        )
        for gpa, size, kind, name, _, huge, of in machine._native.memory.regions()
        if gpa not in mine
    )
