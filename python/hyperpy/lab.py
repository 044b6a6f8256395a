"""The lab: a place with a real /dev/kvm, wherever hyperpy is.

This module runs a command inside a Linux whose CPU is emulated by QEMU with AMD SVM and nested paging, so
that unmodified operating systems run under KVM there. It owns the boot (virtme-ng starts QEMU with a Debian
kernel and the host's files), and the way out: output, exit status, and an end without anything left behind.
It knows nothing about machines. Where the host's own KVM runs kernels, the command runs directly.

Inside, the host's files are seen through 9p, mounted a second time with `cache=loose` (starting Python falls
from 3 s to 0.3 s: the host must not change a file while the lab reads it, which a test run does not);
virtme-ng's own root is read-only, since its init runs systemd-tmpfiles on it. Each stream of the command has
its own virtio-serial port, so the kernel's log cannot mix into it. The guest holds the control port open and
powers off when the host's end goes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import math
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from hyperpy import packages
from hyperpy.errors import HyperpyError

__all__ = ["LabError", "is_inside", "main", "native_kvm", "run"]

_log = logging.getLogger(__name__)

_CPUS = {"amd": "EPYC,+svm,+npt"}
_MODULES = {"amd": "kvm-amd"}
_PORTS = ("control", "stdout", "stderr")
_INSIDE = "HYPERPY_LAB"
_CHUNK = 1 << 16
_END_S = 5.0
# About one boot in fifty loses the timer of its first CPU early on, under QEMU 10.0 on a busy machine, and never
# comes to the command. An ordinary boot takes 8 to 30 s, so a longer one is given up and made again.
_BOOT_S = 75.0
_BOOTS = 3

# The host's programs that the lab needs: program, Debian package.
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "file": "file",  # virtme-ng reads the kernel's release with it
}


class LabError(HyperpyError):
    """The lab cannot start, or ended without the command's status; `hint` says what to do."""


def is_inside() -> bool:
    """Return whether this process runs in the lab."""
    return os.environ.get(_INSIDE) == "1"


def native_kvm() -> bool:
    """Return whether the host's own /dev/kvm runs kernel-mode code natively, so that no lab is needed."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    # Imported late: the probe needs the native module, and the lab works also before that is built.
    from hyperpy.doctor import kernel_code_is_native

    return kernel_code_is_native()


def run(
    command: Sequence[str],
    *,
    cpus: int = 2,
    memory: str = "4G",
    cpu: str = "amd",
    timeout: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
    direct: bool | None = None,
) -> int:
    """Run `command` where a real KVM exists, and return its exit status (128 + n when signal n killed it).

    Args:
        command: program and arguments; paths are the host's.
        cpus: the lab's CPUs, 1 or more.
        memory: the lab's memory, as QEMU takes it.
        cpu: the virtualization extension that the lab emulates: `"amd"`.
        timeout: seconds for boot and command together; None waits.
        cwd: the command's working directory; None takes this process's.
        env: its whole environment; None takes this process's. `HYPERPY_LAB=1` is added in the lab.
        stdout: binary stream with a descriptor that receives its output as it comes; None takes this
            process's.
        stderr: the same for its messages.
        direct: run on the host; None decides by `is_inside()` and `native_kvm()`.

    The command's input is empty. Below /tmp only what the command needs is the host's (the folders of `cwd`,
    of the cache, of this Python and of the paths among the arguments); the rest is empty and forgotten.

    Raises:
        LabError: something is missing on the host, or the lab ended without the command's status.
        packages.PackageError: a package cannot be fetched.
        TimeoutError: the command did not end in time; it was ended.

    Example:
        >>> run(["ls", "-l", "/dev/kvm"])  # doctest: +SKIP
        0
    """
    if not command:
        raise ValueError("no command for the lab: []\n\nhint: give the program and its arguments")
    if cpu not in _CPUS:
        raise ValueError(f"unknown cpu for the lab: {cpu}\n\nhint: one of {', '.join(_CPUS)}")
    place = Path(cwd or ".").absolute()
    environment = dict(os.environ if env is None else env)
    if direct is None:
        direct = is_inside() or native_kvm()
        way = "runs kernels: running directly" if direct else "does not run kernels: going through the lab"
        _log.info("this machine's own KVM %s", way)
    if direct:
        return _run_here(command, place, environment, (stdout, stderr), timeout)
    sinks = {"stdout": stdout or sys.stdout.buffer, "stderr": stderr or sys.stderr.buffer}
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    kernel = _prepare()
    progress = ""
    for _ in range(_BOOTS):
        # Below /tmp whatever TMPDIR says: a socket's path has 107 bytes at most.
        with tempfile.TemporaryDirectory(prefix="hyperpy-lab-", dir="/tmp") as folder:
            _write_scripts(Path(folder), command, place, environment, _MODULES[cpu])
            _log.info("booting the lab: Linux %s, %d CPUs, %s", kernel.release, cpus, memory)
            with _Session(Path(folder), sinks) as session:
                session.start(_vng_command(kernel, Path(folder), cpus=cpus, memory=memory, cpu=cpu))
                status = session.pump(deadline)
                if status is not None:
                    return status
                progress = session.progress()
        if time.monotonic() >= deadline:
            raise _timeout_error(timeout, progress)
        _log.warning("the lab's boot stalls")
    raise LabError(f"the lab does not boot{progress}", hint="see whether the machine is overloaded")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hyperpy lab [options] -- COMMAND...`; return the command's status, 124 on timeout, 1 on error."""
    parser = argparse.ArgumentParser(prog="hyperpy lab", description="Run COMMAND where a real KVM exists.")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of the lab (default: 2)")
    parser.add_argument("--memory", default="4G", help="memory of the lab (default: 4G)")
    parser.add_argument(
        "--cpu", choices=sorted(_CPUS), default="amd", help="whose virtualization it emulates"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for boot and command together")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command, after --")
    options = parser.parse_args(argv)
    logging.basicConfig(format="hyperpy lab: %(message)s", level=logging.INFO, stream=sys.stderr)
    # An ordinary `kill` must unwind too, so that the temporary folder and QEMU go.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return run(
            options.command,
            cpus=options.cpus,
            memory=options.memory,
            cpu=options.cpu,
            timeout=options.timeout,
        )
    except TimeoutError as error:
        _log.error("%s", error)
        return 124
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except HyperpyError as error:
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


def _prepare() -> packages.Kernel:
    """Return the lab's kernel, after making sure that everything else is there too."""
    path = _search_path()
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program, path=path) is None]
    if missing:
        if os.geteuid() == 0:
            _log.info("installing what is missing: %s", " ".join(missing))
        packages.install(missing, backports=True)
    if shutil.which("vng", path=path) is None:
        raise LabError("virtme-ng is missing: vng", hint=f"run `{sys.executable} -m pip install virtme-ng`")
    return packages.kernel()


def _search_path() -> str:
    return ":".join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    )


def _vng_command(kernel: packages.Kernel, folder: Path, *, cpus: int, memory: str, cpu: str) -> list[str]:
    qemu = [
        *("-cpu", _CPUS[cpu], "-accel", "tcg,thread=multi,tb-size=1024"),
        *("-fsdev", "local,id=hyperpy,path=/,security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=hyperpy,mount_tag=hyperpy"),
        *("-device", "virtio-serial-pci,id=hyperpy"),
    ]
    for number, name in enumerate(_PORTS, start=1):
        qemu += ["-chardev", f"socket,id=hyperpy.{name},path={folder / name}"]
        device = f"virtserialport,bus=hyperpy.0,nr={number},chardev=hyperpy.{name},name=hyperpy.{name}"
        qemu += ["-device", device]
    options = {
        "--user": "root",
        "--cpus": str(cpus),
        "--memory": memory,
        "--append": "loglevel=4 mitigations=off",
        "--qemu-opts": shlex.join(qemu),
        "--exec": f"busybox sh {folder}/boot",
    }
    start = ["vng", "-v", "-r", str(kernel.vmlinuz), "--disable-kvm", "--force-9p", "--disable-microvm"]
    return [*start, *(f"{name}={value}" for name, value in options.items())]


def _write_scripts(
    folder: Path, command: Sequence[str], place: Path, environment: Mapping[str, str], module: str
) -> None:
    """Write what the guest runs: `boot` makes the tree and reports, `command` runs in that tree."""
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in ({**environment, _INSIDE: "1"}).items()
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)
    ]
    lines = [*exports, f"cd {shlex.quote(str(place))} || exit 126", f"exec {shlex.join(command)}"]
    (folder / "command").write_bytes(os.fsencode("\n".join(lines) + "\n"))
    pythons = [Path(sys.prefix), Path(sys.base_prefix)]
    wanted = [place, packages.cache_dir(), *pythons, folder, *map(Path, command)]
    tops = {Path(*path.parts[:3]) for path in wanted if path.parts[:2] == ("/", "tmp") and path.parts[2:]}
    shared = "\n".join(sorted(str(top) for top in tops if top.exists()))
    settings = {"folder": str(folder), "module": module, "shared": shared}
    text = "\n".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    (folder / "boot").write_bytes(os.fsencode(f"{text}\n{_BOOT}"))


# Runs in virtme-ng's read-only root, by a copy of busybox in memory: each read of that root is a 9p request.
_BOOT = r"""
run=/run/hyperpy
root=$run/root
mkdir -p $root $run/tmp
cp /bin/busybox $run/busybox
b=$run/busybox
port() {
    for p in /sys/class/virtio-ports/*; do
        [ "$($b cat $p/name)" = "hyperpy.$1" ] && echo /dev/${p##*/}
    done
}
exec 3<>"$(port control)"
# Reading ends when the host's end of the port is closed: then nobody waits for this guest any more.
(while read -r _ <&3; do :; done; $b poweroff -f) &
modprobe $module

$b mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=512000,cache=loose hyperpy $root
$b mount -t proc proc $root/proc
$b mount -t sysfs sys $root/sys
$b mount -o rbind /dev $root/dev
$b mount -o bind $root/tmp $run/tmp
$b mount -t tmpfs -o mode=1777 tmp $root/tmp
$b mount -t tmpfs run $root/run
IFS='
'
for path in $shared; do
    if [ -d $run$path ]; then $b mkdir -p $root$path; else : > $root$path; fi
    $b mount -o bind $run$path $root$path
done
unset IFS

# Pipes stand between the command and the ports: a port opens only once, and /dev/stderr opens it again.
for stream in stdout stderr; do
    $b mkfifo $run/$stream
    $b cat < $run/$stream > "$(port $stream)" &
    eval $stream=$!
done
echo ready >&3
$b env -i $b chroot $root /bin/sh $folder/command </dev/null >$run/stdout 2>$run/stderr 3>&-
status=$?
# What the command left behind may hold a pipe open: it is not waited for longer than this.
($b sleep 5; kill $stdout $stderr) 2>/dev/null &
wait $stdout $stderr
$b sync
echo "exit $status" >&3
$b poweroff -f
"""


class _Session:
    """One boot of the lab: its process and the sockets behind its ports. Leaving the context ends it."""

    def __init__(self, folder: Path, sinks: Mapping[str, IO[bytes]]) -> None:
        self._folder = folder
        self._sinks = sinks
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._control = b""
        self._open: set[str] = set()  # what is still to end: the process and the connected ports
        self._resources = contextlib.ExitStack()
        # Each registration's data is the function that handles its event.
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        for port in _PORTS:
            listener = self._resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(folder / port))
            listener.listen(1)
            self._selector.register(
                listener, selectors.EVENT_READ, functools.partial(self._accept, listener, port)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._sinks = {}  # what still comes is drained: the caller may no longer take it
        # QEMU is in the process group of vng. It is gone when its ends of the ports are closed.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process is not None and self._open:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                while self._open and (events := self._selector.select(_END_S)):
                    for key, _ in events:
                        key.data()
        self._resources.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # a QEMU that had not come to its ports yet
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def start(self, command: Sequence[str]) -> None:
        """Start virtme-ng; its output, which is the kernel's log, goes to a file."""
        environment = os.environ | {"PATH": _search_path(), "TMPDIR": str(self._folder)}
        with (self._folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        descriptor = os.pidfd_open(self._process.pid)
        self._resources.callback(os.close, descriptor)
        self._open.add("process")
        self._selector.register(descriptor, selectors.EVENT_READ, functools.partial(self._ended, descriptor))

    def pump(self, deadline: float = math.inf) -> int | None:
        """Hand on output until the lab has ended; return the command's status.

        None tells that the deadline came, or that the boot took longer than it may.
        """
        boot_deadline = time.monotonic() + _BOOT_S
        while self._open:
            limit = deadline if self._ready() else min(deadline, boot_deadline)
            events = self._selector.select(None if limit == math.inf else max(0, limit - time.monotonic()))
            if not events:
                return self._status
            for key, _ in events:
                key.data()
        if self._status is None:
            hint = "the last lines of its console are above; `--memory` and `--cpus` change the lab"
            raise LabError(f"the lab ended before the command did: {self._console_tail()}", hint=hint)
        return self._status

    def _accept(self, listener: socket.socket, port: str) -> None:
        connection = self._resources.enter_context(listener.accept()[0])
        self._open.add(port)
        self._selector.register(
            connection, selectors.EVENT_READ, functools.partial(self._receive, connection, port)
        )

    def _ended(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        self._open.discard("process")

    def _receive(self, connection: socket.socket, port: str) -> None:
        data = connection.recv(_CHUNK)
        if not data:
            self._selector.unregister(connection)
            self._open.discard(port)
        elif port == "control":
            self._control += data
            if found := re.search(rb"^exit (\d+)\n", self._control, re.MULTILINE):
                self._status = int(found[1])
        elif (sink := self._sinks.get(port)) is not None:
            sink.write(data)
            sink.flush()

    def progress(self) -> str:
        """Return where the boot stands, for a message: nothing once the command has started."""
        return "" if self._ready() else f": the lab is still booting: {self._console_tail()}"

    def _ready(self) -> bool:
        return b"ready\n" in self._control

    def _console_tail(self) -> str:
        text = (self._folder / "console").read_bytes()[-_CHUNK:].decode(errors="replace")
        return "".join(f"\n    {line.rstrip()}" for line in text.splitlines()[-12:])
