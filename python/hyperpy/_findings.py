"""What the doctor finds, as values, and how its report reads: `doctor` looks and judges, and gives these out as its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "FLAGS",
    "LAB_PROGRAMS",
    "MODULES",
    "Facts",
    "Flavour",
    "Missing",
    "Probe",
    "Report",
    "flavour_of",
    "packages",
]

Flavour: TypeAlias = Literal["page-table", "amd", "intel", "unknown", "none"]
"""The kind of a KVM. It decides what guests can do and how an end looks: docs/concepts/flavours.md."""

# Modules that are a KVM of some kind. The page-table one interprets kernel-mode code.
MODULES = {
    "kvm_intel": "Intel VMX",
    "kvm_amd": "AMD SVM",
    "kvm_pvm": "page tables, no hardware virtualization",
}
# Flags of /proc/cpuinfo that say that the processor can virtualize, and the module that uses them.
FLAGS = {"vmx": "kvm_intel", "svm": "kvm_amd"}
# What the lab needs besides virtme-ng: program, Debian package (those of hyperpy.lab, and apt for its kernels).
LAB_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "file": "file",
    "apt-get": "apt",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look at the host says, without running a guest.

    Attributes:
        modules: loaded modules that are a KVM.
        device: "usable", "absent" or "forbidden": /dev/kvm.
        group: the group that may use /dev/kvm, or "".
        user: who asks.
        is_root: whether that is root.
        cpu_flags: the virtualization flags of the processor ("vmx", "svm").
        absent_programs: those of `LAB_PROGRAMS` and "vng" that were not found.
        memory_bytes: memory that is available.
    """

    modules: tuple[str, ...] = ()
    device: str = "absent"
    group: str = ""
    user: str = "root"
    is_root: bool = False
    cpu_flags: tuple[str, ...] = ()
    absent_programs: tuple[str, ...] = ()
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """What KVM says and what small guests showed.

    Attributes:
        capabilities: as KVM_CHECK_EXTENSION answers, by name; empty when KVM could not be asked.
        limits: api_version, max_vcpus, memory_slots, recommended_vcpus.
        kernel_code: "native", "interpreted", or "unknown".
        mips: million instructions a second of a counted loop in kernel mode, median.
        exit_us: microseconds of a port read that a device in Rust answers, median.
        problem: why something of this is not known, or "".
        fix: what to do about the problem.
    """

    capabilities: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    kernel_code: str = "unknown"
    mips: float | None = None
    exit_us: float | None = None
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that is not there: `what`, what it is `needed_for` ("kvm" or "lab"), and the `fix`."""

    what: str
    needed_for: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """The doctor's findings.

    Attributes:
        kernels: where operating systems can run: "here", "lab" or "nowhere".
        verdict: the same in a sentence.
        lab_ready: whether the lab has what it needs, or can get it by itself.
        facts: the host.
        probe: its KVM.
        missing: what is not there, most important first.
    """

    kernels: str
    verdict: str
    lab_ready: bool
    facts: Facts
    probe: Probe
    missing: tuple[Missing, ...]

    @property
    def flavour(self) -> Flavour:
        """The kind of this host's KVM, as `flavour()` gives it."""
        return flavour_of(self.facts, self.probe.kernel_code)

    @property
    def can_run_kernels(self) -> bool:
        """Whether operating systems run, here or in the lab."""
        return self.kernels != "nowhere"

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values, for JSON."""
        return {**asdict(self), "flavour": self.flavour, "can_run_kernels": self.can_run_kernels}

    def __str__(self) -> str:
        return self.text()

    def text(self, *, colour: bool = False) -> str:
        """The report for people: the verdict, a table, and the fixes; `colour` adds ANSI colours."""
        rank = {"here": "32", "lab": "33", "nowhere": "31"}[self.kernels]
        bold = (lambda text, code: f"\033[{code}m{text}\033[0m") if colour else (lambda text, _: text)
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        lines = [bold(self.verdict, f"1;{rank}"), ""]
        lines += [f"{name.ljust(width)}  {value}" for name, value in rows]
        for missing in self.missing:
            lines += [
                "",
                f"missing for the {missing.needed_for}: {missing.what}",
                bold(f"  fix: {missing.fix}", "1"),
            ]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str]]:
        facts, probe = self.facts, self.probe
        kinds = [f"{name} ({MODULES[name]})" for name in facts.modules]
        rows = [
            ("kvm", f"{', '.join(kinds) or 'kind unknown'}; /dev/kvm {facts.device}"),
            ("flavour", self.flavour),
            ("kernel code", probe.kernel_code + (f"; {probe.problem}" if probe.problem else "")),
        ]
        if probe.mips is not None:
            rows.append(("speed", f"{probe.mips:.3g} million instructions/s in kernel mode"))
        if probe.exit_us is not None:
            rows.append(("exit cost", f"{probe.exit_us:.1f} µs for a port read that a Rust device answers"))
        if probe.capabilities:
            have = [_short(name) for name, value in probe.capabilities.items() if value]
            lack = [_short(name) for name, value in probe.capabilities.items() if not value]
            rows += [("has", ", ".join(have)), ("has not", ", ".join(lack) or "-")]
            rows.append(("limits", ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in probe.limits.items())))
        lab = "ready" if self.lab_ready else "not ready"
        if self.lab_ready and facts.absent_programs:
            lab = f"ready; installs what is missing itself: {packages(facts.absent_programs)}"
        rows += [
            ("lab", lab),
            ("processor", ", ".join(facts.cpu_flags) or "no virtualization flag (vmx, svm)"),
        ]
        rows.append(("memory", f"{facts.memory_bytes / (1 << 30):.1f} GiB available"))
        return rows


def _short(capability: str) -> str:
    return capability.removeprefix("KVM_CAP_").lower()


def flavour_of(facts: Facts, kernel_code: str) -> Flavour:
    """The kind of a KVM, by what it is and how it runs kernel-mode code."""
    if facts.device != "usable":
        return "none"
    # A virtual machine whose KVM works by page tables can have the other modules loaded too, without use.
    if kernel_code == "interpreted":
        return "page-table"
    by_module: dict[str, Flavour] = {"kvm_amd": "amd", "kvm_intel": "intel"}
    return next((by_module[name] for name in facts.modules if name in by_module), "unknown")


def packages(programs: Sequence[str]) -> str:
    """The Debian packages of these programs."""
    return " ".join(LAB_PROGRAMS[program] for program in programs if program in LAB_PROGRAMS)
