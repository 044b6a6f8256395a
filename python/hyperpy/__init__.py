"""hyperpy: a hypervisor that a Python program owns.

A script defines machines, runs operating systems in them on KVM, answers their devices and asks why they stopped:

    >>> import hyperpy
    >>> with hyperpy.Machine(memory="1M") as m:
    ...     m.load(hyperpy.Flat(bytes([0xF4]), at=0x1000, mode="real"))  # hlt
    ...     m.run(timeout=1.0)
    Exit.Halt(vcpu=0)

This module only gathers the public names; each lives in the module that its own documentation names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hyperpy.boot import Firmware, Flat, Image, Linux, Multiboot, Pvh
from hyperpy.clock import Clock, ClockSetting, Timer
from hyperpy.console import Console
from hyperpy.device import DebugConsole, DebugExit, Device, Stop
from hyperpy.dma import DmaMemory
from hyperpy.errors import (
    BootError,
    BudgetError,
    DeclarationError,
    DeviceError,
    GuestFault,
    HostMemoryError,
    HyperpyError,
    KvmError,
    KvmUnavailable,
    MemoryAccessError,
    NotListedWarning,
    RegisterError,
    SnapshotError,
    SpecError,
    StateError,
)
from hyperpy.exits import AnyExit, Exit
from hyperpy.identity import Identity
from hyperpy.irq import IoApicPin, Msi, PicInput
from hyperpy.line import IrqLine, Line, Messages
from hyperpy.machine import Machine
from hyperpy.memory import Memory
from hyperpy.resources import Budget, budget
from hyperpy.snapshot import Snapshot
from hyperpy.stats import Map, Stats
from hyperpy.vcpu import DescriptorTable, Registers, Segment, SpecialRegisters, Vcpu
from hyperpy.window import Window

if TYPE_CHECKING:
    from hyperpy import fuzz as fuzz
    from hyperpy.declare import Block, Counter, Field, Fifo, FifoLevel, Indexed, Ram, Register
    from hyperpy.disassembly import disassemble
    from hyperpy.spec import (
        DeviceSpec,
        FirmwareSpec,
        FlatSpec,
        KernelSpec,
        LinuxSpec,
        MachineSpec,
        ModuleSpec,
        MultibootSpec,
        PvhSpec,
        RegionSpec,
    )

__all__ = [
    "AnyExit",
    "Block",
    "BootError",
    "Budget",
    "BudgetError",
    "Clock",
    "ClockSetting",
    "Console",
    "Counter",
    "DebugConsole",
    "DebugExit",
    "DeclarationError",
    "DescriptorTable",
    "Device",
    "DeviceError",
    "DeviceSpec",
    "DmaMemory",
    "Exit",
    "Field",
    "Fifo",
    "FifoLevel",
    "Firmware",
    "FirmwareSpec",
    "Flat",
    "FlatSpec",
    "GuestFault",
    "HostMemoryError",
    "HyperpyError",
    "Identity",
    "Image",
    "Indexed",
    "IoApicPin",
    "IrqLine",
    "KernelSpec",
    "KvmError",
    "KvmUnavailable",
    "Line",
    "Linux",
    "LinuxSpec",
    "Machine",
    "MachineSpec",
    "Map",
    "Memory",
    "MemoryAccessError",
    "Messages",
    "ModuleSpec",
    "Msi",
    "Multiboot",
    "MultibootSpec",
    "NotListedWarning",
    "PicInput",
    "Pvh",
    "PvhSpec",
    "Ram",
    "RegionSpec",
    "Register",
    "RegisterError",
    "Registers",
    "Segment",
    "Snapshot",
    "SnapshotError",
    "SpecError",
    "SpecialRegisters",
    "StateError",
    "Stats",
    "Stop",
    "Timer",
    "Vcpu",
    "Window",
    "budget",
    "disassemble",
]
__version__ = "0.1.0"
_DECLARATIONS = ("Block", "Counter", "Field", "Fifo", "FifoLevel", "Indexed", "Ram", "Register")


def __getattr__(name: str) -> object:
    """Import what few scripts use when it is first wanted: most make their machines themselves."""
    if name == "disassemble":
        from hyperpy.disassembly import disassemble  # noqa: PLC0415

        return disassemble
    if name == "fuzz":
        return importlib.import_module("hyperpy.fuzz")
    if name in _DECLARATIONS:
        from hyperpy import declare  # noqa: PLC0415

        return getattr(declare, name)
    if not name.endswith("Spec") or name not in __all__:
        from hyperpy._words import nearest  # noqa: PLC0415

        hint = nearest(name, __all__) or "`hyperpy.__all__` lists what there is"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}\n\nhint: {hint}")
    from hyperpy import spec  # noqa: PLC0415

    return getattr(spec, name)
