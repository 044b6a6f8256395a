"""What this host can do for hyperpy: which KVM it has, whether that runs kernels, what an exit costs, what is missing.

`examine` gathers facts and measures; the judgement (`diagnose`) is a pure function of them. Whether kernel-mode code
runs natively is found by executing some, not by a module's name: a page-table KVM takes every ioctl and interprets
CPL0 code with KVM's instruction emulator (arch/x86/kvm/emulate.c), which lacks instructions that every x86-64
processor has. Nothing is changed on the host. What is found is a value of `_findings`; the lab itself is `hyperpy.lab`.
"""

from __future__ import annotations

import functools
import getpass
import grp
import os
import shutil
import stat
import sys
from pathlib import Path

from hyperpy._findings import (
    FLAGS,
    LAB_PROGRAMS,
    MODULES,
    Facts,
    Flavour,
    Missing,
    Probe,
    Report,
    flavour_of,
    packages,
)

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

KVM_DEVICE = Path("/dev/kvm")
# hyperpy cannot run without the first ones, and the others decide how well.
REQUIRED = ("KVM_CAP_USER_MEMORY", "KVM_CAP_IMMEDIATE_EXIT", "KVM_CAP_SYNC_REGS")
NEEDED_FOR_KERNELS = ("KVM_CAP_IRQCHIP", "KVM_CAP_PIT2")
LAB_MEMORY = 4 << 30


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
    return flavour_of(facts, _kernel_code() if facts.device == "usable" else "unknown")


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
            fix = f"run `sudo apt-get install {packages(absent)}`"
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
