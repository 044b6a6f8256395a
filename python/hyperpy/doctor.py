"""What this host can do for hyperpy, found by looking and by trying: which KVM, how it runs kernels, what is missing.

`examine` collects the facts once, `Report` prints them or goes to JSON. Whether kernel-mode code runs natively is found
by experiment: a guest executes one instruction that every x86-64 processor has and that KVM's interpreter lacks.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Report", "examine", "kernel_code_is_native"]

# fwait; hlt. The interpreter of a page-table KVM has no x87 (KVM_INTERNAL_ERROR_EMULATION).
_PROBE = bytes([0x9B, 0xF4])
# mov ecx, 4000; again: out 0xe9, al; loop again; hlt
_EXITS = bytes([0xB9, 0xA0, 0x0F, 0x00, 0x00, 0xE6, 0xE9, 0xE2, 0xFC, 0xF4])
_EXIT_COUNT = 4000
_EXIT_ROUNDS = 7
_LAB_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "vng": "virtme-ng (pip)",
    "kmod": "kmod",
    "busybox": "busybox-static",
}


@dataclass(frozen=True)
class Report:
    """The facts. `missing` has pairs of what is missing and the command or step that mends it."""

    kvm: str
    usable: bool
    native: bool
    exit_microseconds: float | None = None
    capabilities: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    lab: bool = False
    missing: tuple[tuple[str, str], ...] = ()
    host: str = ""

    @property
    def can_run_kernels(self) -> bool:
        """Whether kernels run here, directly or in the lab."""
        return self.native or self.lab

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**dataclasses.asdict(self), "can_run_kernels": self.can_run_kernels}

    def __str__(self) -> str:
        if self.native:
            verdict = "kernels run directly on this host's KVM"
        elif self.lab:
            verdict = "kernels run in the lab: `hyperpy lab -- COMMAND`"
        else:
            verdict = "kernels do not run here yet: see what is missing"
        cost = "not measured" if self.exit_microseconds is None else f"{self.exit_microseconds:.1f} us"
        modes = {True: "native", False: "interpreted"}
        rows = [
            ("host", self.host),
            ("kvm", self.kvm),
            ("kernel-mode code", modes[self.native] if self.usable else "cannot be tried"),
            ("cost of an exit", cost),
            ("lab", "ready" if self.lab else "not ready"),
            *((name, str(value)) for name, value in self.limits.items()),
            *((name, str(value) if value else "absent") for name, value in self.capabilities.items()),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [verdict, "", *(f"{name:<{width}}  {value}" for name, value in rows)]
        for what, fix in self.missing:
            lines += ["", f"missing: {what}", f"hint: {fix}"]
        return "\n".join(lines)


def examine() -> Report:
    """Look at the host and try its KVM; takes well under a second.

    Example:
        >>> report = examine()
        >>> report.can_run_kernels in (True, False)
        True
    """
    missing: list[tuple[str, str]] = []
    capabilities: dict[str, int] = {}
    limits: dict[str, int] = {}
    usable, native, cost = False, False, None
    try:
        from hyperpy import _hyperpy

        facts = _hyperpy.capabilities()
        capabilities = facts.pop("capabilities")
        limits = facts
        usable = True
        native = kernel_code_is_native()
        cost = _exit_cost()
    except ImportError as error:
        missing.append((f"the native module: {error}", "build it: `make build`, or `pip install .`"))
    except OSError as error:
        usable = False
        missing.append(
            (str(getattr(error, "message", error)), getattr(error, "hint", None) or "load a kvm module")
        )
    lab_missing = [package for program, package in _LAB_PROGRAMS.items() if _which(program) is None]
    if lab_missing:
        fix = f"`apt-get install {' '.join(p for p in lab_missing if '(' not in p)}`; virtme-ng: `pip install virtme-ng`"
        missing.append((f"programs for the lab: {', '.join(lab_missing)}", fix))
    if usable and not native:
        fix = "run kernels in the lab: `hyperpy lab -- COMMAND`"
        missing.append(("hardware virtualization: this KVM interprets kernel-mode code", fix))
    return Report(
        kvm=_flavour(usable, native),
        usable=usable,
        native=native,
        exit_microseconds=cost,
        capabilities=capabilities,
        limits=limits,
        lab=not lab_missing,
        missing=tuple(missing),
        host=f"Linux {platform.release()}, {os.cpu_count()} cpus",
    )


def _which(program: str) -> str | None:
    here = str(Path(sys.executable).parent)
    return shutil.which(
        program, path=":".join([here, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    )


def _flavour(usable: bool, native: bool) -> str:
    if not usable:
        return "none that can be used"
    for module in ("kvm_intel", "kvm_amd"):
        if native and Path("/sys/module", module).exists():
            return module.replace("_", "-")
    return "of unknown make" if native else "a page-table KVM: kernel-mode code is interpreted"


@functools.cache
def kernel_code_is_native() -> bool:
    """Whether this host's KVM runs kernel-mode code on the processor; False where there is no usable KVM.

    Example:
        >>> kernel_code_is_native() in (True, False)
        True
    """
    try:
        from hyperpy import Exit, Flat, Machine

        with Machine(memory="1M") as machine:
            machine.load(Flat(_PROBE, at=0x1_0000, mode="long"))
            return isinstance(machine.run(timeout=5), Exit.Halt)
    except (ImportError, OSError):
        return False


def _exit_cost() -> float | None:
    """Microseconds for a port write that a Rust device answers: the median of several rounds."""
    from hyperpy import DebugConsole, Exit, Flat, Machine

    rounds = []
    for _ in range(_EXIT_ROUNDS):
        with Machine(memory="1M") as machine:
            machine.attach(DebugConsole(machine.console), pio=0xE9)
            machine.load(Flat(_EXITS, at=0x1_0000, mode="long"))
            began = time.perf_counter()
            if not isinstance(machine.run(timeout=5), Exit.Halt):
                return None
            rounds.append((time.perf_counter() - began) * 1e6 / _EXIT_COUNT)
    return sorted(rounds)[len(rounds) // 2]
