"""The lab: a place with a real /dev/kvm, wherever hyperpy is.

This module decides where a command runs: on this host when its own KVM will do, else inside a Linux whose CPU is
emulated, so that unmodified operating systems run under KVM there. It owns the decision, what is installed for it, the
boots that stall, and the command line. What is booted is in `hyperpy.lab_amd` (QEMU: SVM with nested paging) and
`hyperpy.lab_intel` (Bochs: VMX with EPT); the process and its channels are in `hyperpy.lab_session`. It knows nothing
about machines.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hyperpy import lab_amd, lab_intel, packages
from hyperpy._usage import Parser, UsageError, checked, complain, count, parse, seconds
from hyperpy._writer import Writer
from hyperpy.errors import HyperpyError
from hyperpy.lab_session import Emulator, LabError, Session, Task, search_path

__all__ = ["LabError", "is_inside", "main", "native_kvm", "run"]

_log = logging.getLogger(__name__)

_CPUS = ("amd", "intel")
_INSIDE = "HYPERPY_LAB"
_BOOTS = 3  # one that takes longer than its emulator's boot_s is given up and made again


def is_inside() -> bool:
    """Return whether this process runs in the lab."""
    return os.environ.get(_INSIDE) == "1"


def native_kvm(cpu: str | None = None) -> bool:
    """Return whether the host's own /dev/kvm runs kernel-mode code natively, so that no lab is needed.

    Args:
        cpu: "amd" or "intel" asks for that processor's KVM; None takes either.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    # Imported late: the probe needs the native module, and the lab works also before that is built.
    from hyperpy.doctor import flavour, kernel_code_is_native

    return kernel_code_is_native() and cpu in {None, flavour()}


def run(
    command: Sequence[str],
    *,
    cpus: int | None = None,
    memory: str | None = None,
    cpu: str | None = None,
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    files: Sequence[str | os.PathLike[str]] = (),
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
    direct: bool | None = None,
) -> int:
    """Run `command` where a real KVM exists, and return its exit status (128 + n when signal n killed it).

    Args:
        command: program and arguments; paths are the host's.
        cpus: the lab's CPUs, 1 or more; None is 2 for "amd" and 1 for "intel", whose emulator has no more.
        memory: the lab's memory, such as "4G", the default for "amd"; for "intel" 256M to 2G, by default "512M".
        cpu: the processor whose virtualization is wanted, `"amd"` or `"intel"`; None takes any that is real, and
            the lab's is then "amd", which is much faster.
        timeout: seconds for boot and command together; None waits.
        cwd: the command's working directory; None takes this process's.
        env: its whole environment; None takes this process's. `HYPERPY_LAB=1` is added in the lab.
        files: for "intel", which sees no file of the host: files, folders and programs (a name on PATH) that the
            command needs besides this Python, its working directory and the paths among its arguments.
        stdout: binary stream with a descriptor that receives its output as it comes; None takes this
            process's.
        stderr: the same for its messages.
        direct: run on the host; None decides by `is_inside()` and `native_kvm(cpu)`.

    The command's input is empty. Below /tmp only what the command needs is the host's (the folders of `cwd`,
    of the cache, of this Python and of the paths among the arguments); the rest is empty and forgotten. With "intel"
    everything is a copy, and forgotten.

    Raises:
        LabError: something is missing on the host, or the lab ended without the command's status.
        packages.PackageError: a package cannot be fetched.
        TimeoutError: the command did not end in time; it was ended.
        ValueError: no command, an unknown cpu, or a size or number of CPUs that the lab cannot have.

    Example:
        >>> run(["ls", "-l", "/dev/kvm"])  # doctest: +SKIP
        0
    """
    if not command:
        raise ValueError("no command for the lab: []\n\nhint: give the program and its arguments")
    if cpu not in {None, *_CPUS}:
        raise ValueError(f"unknown cpu for the lab: {cpu}\n\nhint: one of {', '.join(_CPUS)}")
    try:
        place = Path(cwd or ".").absolute()
    except FileNotFoundError:
        raise LabError("current folder is gone", hint="cd to one that is there") from None
    environment = dict(os.environ if env is None else env)
    if direct is None:
        direct = (cpu is None and is_inside()) or native_kvm(cpu)
        if cpu is None:
            way = (
                "runs kernels: running directly" if direct else "does not run kernels: going through the lab"
            )
        else:
            way = f"is {cpu}: running directly" if direct else f"is not {cpu}: going through the lab"
        _log.info("this machine's own KVM %s", way)
    if direct:
        return _run_here(command, place, environment, (stdout, stderr), timeout)
    environment[_INSIDE] = "1"
    emulator = _intel(cpus, memory, files) if cpu == "intel" else _amd(cpus, memory)
    sinks = {"stdout": stdout or _bytes_to(sys.stdout), "stderr": stderr or _bytes_to(sys.stderr)}
    return _boot(emulator, Task(command, place, environment), sinks, timeout)


def _bytes_to(stream: Any) -> Any:
    """A stream of this process as one that takes bytes: in a notebook it is one of text alone."""
    return getattr(stream, "buffer", None) or (stream and Writer(stream))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="hyperpy lab",
        usage="hyperpy lab [options] -- COMMAND [ARGUMENT ...]",
        description="Run COMMAND where a real KVM exists.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cpus", type=checked(count), metavar="N", help="CPUs of the lab (default: 2; intel has 1)"
    )
    parser.add_argument("--memory", metavar="SIZE", help="memory of the lab (default: 4G; intel: 512M)")
    parser.add_argument(
        "--cpu", choices=_CPUS, help="whose virtualization it must be (default: any; the lab's is amd)"
    )
    parser.add_argument(
        "--timeout", type=checked(seconds), metavar="S", help="seconds for boot and command together"
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        help="intel: a file, folder or program that the command needs besides Python and the working directory",
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="the command, after --")
    options = parse(parser, argv, stray_option="the command's own options come after --")
    if not options.command:
        parser.error("no command\n\nhint: `hyperpy lab -- COMMAND`")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hyperpy lab [options] -- COMMAND...`; return the command's status, 124 on timeout, 1 on error."""
    try:
        options = _arguments(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        return complain("lab", error)
    logging.basicConfig(format="hyperpy lab: %(message)s", level=logging.INFO, stream=sys.stderr)
    # An ordinary `kill` must unwind too, so that the temporary folder and the emulator go.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return run(
            options.command,
            cpus=options.cpus,
            memory=options.memory,
            cpu=options.cpu,
            timeout=options.timeout,
            files=options.file,
        )
    except TimeoutError as error:
        _log.error("%s", error)
        return 124
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (HyperpyError, ValueError) as error:
        _log.error("%s", error)
        return 1


def _run_here(
    command: Sequence[str],
    place: Path,
    environment: dict[str, str],
    streams: tuple[IO[bytes] | None, IO[bytes] | None],
    timeout: float | None,
) -> int:
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _timeout_error(timeout) from None
    except OSError as error:
        raise LabError(f"cannot start: {command[0]}: {error.strerror}", hint="check its path") from error
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _timeout_error(timeout: float | None, progress: str = "") -> TimeoutError:
    hint = "give it a longer timeout"
    return TimeoutError(f"command did not end in time: {timeout} s{progress}\n\nhint: {hint}")


def _boot(emulator: Emulator, task: Task, sinks: Mapping[str, IO[bytes]], timeout: float | None) -> int:
    """Boot until the command has run, and return its status."""
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    progress = ""
    for _ in range(_BOOTS):
        # Below /tmp whatever TMPDIR says: a socket's path has 107 bytes at most.
        with tempfile.TemporaryDirectory(prefix="hyperpy-lab-", dir="/tmp") as folder:
            words = emulator.prepare(Path(folder), task)
            _log.info("booting the lab: %s", emulator.name)
            with Session(Path(folder), sinks, emulator) as session:
                session.start(words)
                status = session.pump(deadline)
                if status is not None:
                    return status
                progress = session.progress()
        if time.monotonic() >= deadline:
            raise _timeout_error(timeout, progress)
        _log.warning("the lab's boot stalls")
    raise LabError(f"the lab does not boot{progress}", hint="see whether the machine is overloaded")


def _amd(cpus: int | None, memory: str | None) -> Emulator:
    if cpus is not None and cpus < 1:
        raise ValueError(f"number of the lab's CPUs: {cpus}\n\nhint: 1 or more")
    mib = _mib(memory or "4G")
    if mib < 512:
        raise ValueError(f"size of the lab's memory: {memory}\n\nhint: Linux and a guest want 512M or more")
    _need(lab_amd.PROGRAMS)
    if shutil.which("vng", path=search_path()) is None:
        raise LabError("virtme-ng is missing: vng", hint=f"run `{sys.executable} -m pip install virtme-ng`")
    return lab_amd.emulator(packages.kernel(), cpus=cpus or 2, memory=f"{mib}M")


def _intel(cpus: int | None, memory: str | None, files: Sequence[str | os.PathLike[str]]) -> Emulator:
    if cpus not in {None, 1}:
        raise ValueError(f"number of the lab's CPUs: {cpus}\n\nhint: the emulated Intel has 1; leave it out")
    mib = _mib(memory or "512M")
    if not 256 <= mib <= 2048:
        raise ValueError(f"size of the lab's memory: {memory}\n\nhint: the emulated Intel takes 256M to 2G")
    _need(lab_intel.PROGRAMS)
    kernel = packages.kernel("linux-image-cloud-amd64", suite=packages.BACKPORTS)
    return lab_intel.emulator(kernel, files, memory_mib=mib)


def _mib(size: str) -> int:
    from hyperpy.memory import parse_size

    return parse_size(size) >> 20


def _need(programs: Mapping[str, str]) -> None:
    """Make sure that the emulator's programs are there: install them as root, else name them."""
    path = search_path()
    missing = [
        package
        for name, package in programs.items()
        if not (Path(name).exists() if name.startswith("/") else shutil.which(name, path=path))
    ]
    if missing:
        if os.geteuid() == 0:
            _log.info("installing what is missing: %s", " ".join(missing))
        packages.install(missing, backports=True)
