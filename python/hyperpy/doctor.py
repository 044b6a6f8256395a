"""What this host can do for hyperpy: which KVM it has, whether that runs kernels, what an exit costs, what is missing.

`examine` gathers facts and measures; the judgement (`diagnose`) is a pure function of them. Whether kernel-mode code
runs natively is found by executing some, not by a module's name: a page-table KVM takes every ioctl and interprets
CPL0 code with KVM's instruction emulator (arch/x86/kvm/emulate.c), which lacks instructions that every x86-64
processor has. Nothing is changed on the host. The lab itself is `hyperpy.lab`.
"""

from __future__ import annotations

import functools
import getpass
import grp
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = [
    "Facts",
    "Flavour",
    "Missing",
    "Probe",
    "Report",
    "diagnose",
    "examine",
    "flavour",
    "kernel_code_is_native",
]

Flavour: TypeAlias = Literal["page-table", "amd", "intel", "unknown", "none"]
"""The kind of a KVM. It decides what guests can do and how an end looks: docs/concepts/flavours.md."""

KVM_DEVICE = Path("/dev/kvm")
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
# hyperpy cannot run without the first ones, and the others decide how well.
REQUIRED = ("KVM_CAP_USER_MEMORY", "KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_SYNC_REGS")
NEEDED_FOR_KERNELS = ("KVM_CAP_IRQCHIP", "KVM_CAP_PIT2")
LAB_MEMORY = 4 << 30


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
        return _flavour(self.facts, self.probe.kernel_code)

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
            lab = f"ready; installs what is missing itself: {_packages(facts.absent_programs)}"
        rows += [
            ("lab", lab),
            ("processor", ", ".join(facts.cpu_flags) or "no virtualization flag (vmx, svm)"),
        ]
        rows.append(("memory", f"{facts.memory_bytes / (1 << 30):.1f} GiB available"))
        return rows


def _short(capability: str) -> str:
    return capability.removeprefix("KVM_CAP_").lower()


def examine() -> Report:
    """Look at the host, run three tiny guests on its KVM, and judge. Takes about half a second; changes nothing.

    Example:
        >>> report = examine()
        >>> report.kernels in {"here", "lab", "nowhere"}
        True
    """
    facts = _facts()
    return diagnose(facts, _probe() if facts.device == "usable" else Probe())


@functools.cache
def kernel_code_is_native() -> bool:
    """Whether this host's /dev/kvm runs kernel-mode code natively, found by running some (about 3 ms, once).

    False also where there is no usable KVM.
    """
    return _kernel_code() == "native"


def _kernel_code() -> str:
    """How kernel-mode code runs here: native or interpreted; unknown where that cannot be seen."""
    try:
        from hyperpy import _measure

        return _measure.kernel_code()
    except (OSError, ImportError, RuntimeError):
        return "unknown"


@functools.cache
def flavour() -> Flavour:
    """The kind of this host's /dev/kvm, found once.

    "page-table" interprets kernel-mode code, "amd" and "intel" run it by SVM and VMX; "unknown" runs it in a way that
    no loaded module tells; "none": there is no usable KVM.

    Example:
        >>> flavour() in {"page-table", "amd", "intel", "unknown", "none"}
        True
    """
    facts = _facts()
    return _flavour(facts, _kernel_code() if facts.device == "usable" else "unknown")


# -- judging: pure ---------------------------------------------------------------------------------------------------


def diagnose(facts: Facts, probe: Probe) -> Report:
    """Judge: where kernels can run, and what is missing."""
    missing = [*_missing_kvm(facts, probe), *_missing_lab(facts)]
    lab_ready = not any(entry.needed_for == "lab" for entry in missing)
    runs_here = probe.kernel_code == "native" and all(probe.capabilities.get(n) for n in NEEDED_FOR_KERNELS)
    kernels = "here" if runs_here else "lab" if lab_ready else "nowhere"
    reason = {
        "native": "this host's KVM lacks interrupt controllers",
        "interpreted": "this host's KVM interprets kernel-mode code: only small guests of our own run on it",
        "unknown": "this host has no KVM that runs kernel-mode code",
    }[probe.kernel_code]
    verdict = {
        "here": "operating systems run on this host's KVM",
        "lab": f"operating systems run in the lab (`hyperpy lab -- COMMAND`); {reason}",
        "nowhere": f"operating systems cannot run; {reason}, and the lab lacks something",
    }[kernels]
    if kernels == "here":  # then nobody needs the lab
        missing = [entry for entry in missing if entry.needed_for == "kvm"]
    elif kernels == "nowhere":  # the lab can be had anywhere, so that is said first
        missing.sort(key=lambda entry: entry.needed_for != "lab")
    return Report(kernels, verdict, lab_ready, facts, probe, tuple(missing))


def _flavour(facts: Facts, kernel_code: str) -> Flavour:
    if facts.device != "usable":
        return "none"
    # A virtual machine whose KVM works by page tables can have the other modules loaded too, without use.
    if kernel_code == "interpreted":
        return "page-table"
    by_module: dict[str, Flavour] = {"kvm_amd": "amd", "kvm_intel": "intel"}
    return next((by_module[name] for name in facts.modules if name in by_module), "unknown")


def _missing_kvm(facts: Facts, probe: Probe) -> list[Missing]:
    if facts.device == "absent":
        return [_missing_device(facts)]
    if facts.device == "forbidden":
        join = f"sudo usermod -aG {facts.group or 'kvm'} {facts.user}"
        if not facts.group:
            join = f"sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && {join}"
        return [
            Missing(f"permission of {facts.user} to use /dev/kvm", "kvm", f"run `{join}`, and log in again")
        ]
    if not probe.capabilities:
        return [Missing(probe.problem or "an answer of /dev/kvm", "kvm", probe.fix)] if probe.problem else []
    lacking = [name for name in (*REQUIRED, *NEEDED_FOR_KERNELS) if not probe.capabilities.get(name)]
    if lacking:
        return [Missing(", ".join(lacking), "kvm", "run a newer kernel on this host (Linux 5.10 or later)")]
    return []


def _missing_device(facts: Facts) -> Missing:
    modules = [FLAGS[flag] for flag in facts.cpu_flags]
    if facts.modules:
        return Missing(
            "/dev/kvm (its module is loaded)",
            "kvm",
            "run `sudo mknod /dev/kvm c 10 232`; in a container, add `--device /dev/kvm`",
        )
    if modules:
        return Missing(
            "/dev/kvm", "kvm", f"run `sudo modprobe {modules[0]}`; in a container, add `--device /dev/kvm`"
        )
    return Missing(
        "/dev/kvm, and a processor that offers virtualization",
        "kvm",
        "switch it on in the firmware, or for this virtual machine on its host (nested virtualization); "
        "or use `hyperpy lab -- COMMAND`",
    )


def _missing_lab(facts: Facts) -> list[Missing]:
    missing = []
    absent = [program for program in facts.absent_programs if program != "vng"]
    # As root the lab installs packages by itself, as long as there is apt.
    if absent and ("apt-get" in absent or not facts.is_root):
        if "apt-get" in absent:
            fix = "use a Debian or Ubuntu host, or a container of one: the lab's kernels are its packages"
        else:
            fix = f"run `sudo apt-get install {_packages(absent)}`"
        missing.append(Missing(f"programs: {', '.join(absent)}", "lab", fix))
    if "vng" in facts.absent_programs:
        missing.append(Missing("virtme-ng", "lab", f"run `{sys.executable} -m pip install virtme-ng`"))
    if facts.memory_bytes < LAB_MEMORY:
        have = f"{facts.memory_bytes >> 20} MiB"
        missing.append(
            Missing(
                f"memory: {have} of 4 GiB are available",
                "lab",
                "end other programs, or run it with `hyperpy lab --memory 2G`",
            )
        )
    return missing


def _packages(programs: Sequence[str]) -> str:
    return " ".join(LAB_PROGRAMS[program] for program in programs if program in LAB_PROGRAMS)


# -- looking ---------------------------------------------------------------------------------------------------------


def _facts() -> Facts:
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    )
    cpuinfo = _words("/proc/cpuinfo", "flags")
    available = _words("/proc/meminfo", "MemAvailable")
    return Facts(
        modules=tuple(name for name in MODULES if Path("/sys/module", name).exists()),
        device=_device_state(),
        group=_device_group(),
        user=_user(),
        is_root=os.geteuid() == 0,
        cpu_flags=tuple(flag for flag in FLAGS if flag in cpuinfo),
        absent_programs=tuple(
            name for name in [*LAB_PROGRAMS, "vng"] if shutil.which(name, path=path) is None
        ),
        memory_bytes=int(available[0]) << 10 if available else 0,
    )


def _words(file: str, name: str) -> list[str]:
    """The words after `name:` on the first such line of a file of /proc."""
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].split() for line in lines if line.startswith(name)), [])
    except OSError:
        return []


def _device_state() -> str:
    if not KVM_DEVICE.exists():
        return "absent"
    return "usable" if os.access(KVM_DEVICE, os.R_OK | os.W_OK) else "forbidden"


def _device_group() -> str:
    """The group that may read and write /dev/kvm; "" when that is root's or none."""
    try:
        status = KVM_DEVICE.stat()
        is_open_to_group = status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP
        return grp.getgrgid(status.st_gid).gr_name if is_open_to_group and status.st_gid else ""
    except (OSError, KeyError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return str(os.getuid())


def _probe() -> Probe:
    from hyperpy.errors import HyperpyError

    try:
        from hyperpy import _hyperpy, _measure
    except ImportError as error:
        return Probe(
            problem=f"native module cannot be imported: {error}",
            fix="build it: `pip install .` in the repository",
        )
    try:
        limits = _hyperpy.capabilities()
        capabilities = limits.pop("capabilities")
    except HyperpyError as error:
        return Probe(problem=error.message, fix=error.hint or "look at `dmesg`")
    try:
        return Probe(capabilities, limits, _measure.kernel_code(), _measure.mips(), _measure.exit_us())
    except (HyperpyError, RuntimeError) as error:
        return Probe(capabilities, limits, problem=str(error).partition("\n")[0], fix="look at `dmesg`")
