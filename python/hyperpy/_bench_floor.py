"""The C floor of `hyperpy bench`: compiled once, by the system's compiler, and loaded into this process.

In this process, so that both sides take turns of milliseconds on one thread and one processor: a second process would
meet other processors, other caches and another share of a busy host. The wheel has the source only; what is compiled
lies in hyperpy's cache folder, under a name made of the source and the compiler. The calls give the GIL up.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpy.cache import cache_dir
from hyperpy.errors import HyperpyError

if TYPE_CHECKING:
    from hyperpy.machine import Machine

__all__ = ["BenchError", "Floor", "Start", "calls", "library", "lives", "start_of"]

SOURCES = ("_floor.c", "_floor_more.c", "_floor_python.c")
HEADERS = ("_floor.h",)
FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-pthread")
LIBRARIES = ("-lrt",)  # timers, in a libc before 2.34
COMPILERS = ("cc", "gcc", "clang")
IRQCHIP = 1  # FLOOR_IRQCHIP
_COMPILE_S = 120
# Of linux/kvm.h: exits that a guest of ours makes only by mistake, in words.
_REASONS = {8: "shutdown", 9: "failed entry", 17: "internal error: KVM cannot emulate an instruction"}


class BenchError(HyperpyError):
    """Something cannot be measured here: what, and why."""


class Start(ctypes.Structure):
    """`struct start` of _floor.h."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("rip", "rsp", "cr0", "cr3", "cr4", "efer", "gdt_base")),
        *((name, ctypes.c_uint16) for name in ("gdt_limit", "code", "data")),
    ]


class _Python(ctypes.Structure):
    """`struct python` of _floor_python.c: functions of this interpreter."""

    _functions = (
        *("PyEval_SaveThread", "PyEval_RestoreThread", "PyGILState_Ensure", "PyGILState_Release"),
        *("PyObject_Vectorcall", "PyLong_FromUnsignedLongLong", "PyLong_AsUnsignedLongLong", "Py_DecRef"),
    )
    _fields_ = [(name, ctypes.c_void_p) for name in _functions]

    @classmethod
    def here(cls) -> _Python:
        """Those of the interpreter that this runs in."""
        found = (getattr(ctypes.pythonapi, name) for name in cls._functions)
        return cls(*(ctypes.cast(function, ctypes.c_void_p) for function in found))


def start_of(machine: Machine, size: int) -> tuple[bytes, Start]:
    """Memory, of `size` bytes, and registers from which a loaded machine begins: where the floor's guest begins too."""
    regs, sregs = machine.vcpus[0].regs, machine.vcpus[0].sregs
    start = Start(regs.rip, regs.rsp, sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer)
    start.gdt_base, start.gdt_limit = sregs.gdt.base, sregs.gdt.limit
    start.code, start.data = sregs.cs.selector, sregs.ds.selector
    return machine.memory.read(0, size), start


# -- compiling -------------------------------------------------------------------------------------------------------


@functools.cache
def library() -> ctypes.CDLL:
    """The floor, compiled if the cache does not have it.

    Raises:
        BenchError: there is no compiler, or it refuses the source.
    """
    folder = Path(__file__).parent
    compiler = _compiler()
    digest = hashlib.sha256(" ".join([compiler, *FLAGS]).encode())
    for name in (*HEADERS, *SOURCES):
        digest.update((folder / name).read_bytes())
    kept = cache_dir() / "floor" / f"{digest.hexdigest()[:32]}.so"
    if not kept.exists():
        _compile(compiler, [folder / name for name in SOURCES], kept)
    return _typed(ctypes.CDLL(str(kept), use_errno=True))


def _compiler() -> str:
    named = os.environ.get("CC")
    for name in [named] if named else COMPILERS:
        if found := shutil.which(name):
            return found
    raise BenchError(
        f"no C compiler for the floor: {named or ', '.join(COMPILERS)}",
        hint="install one, on Debian `sudo apt-get install gcc libc6-dev`, or name it in CC",
    )


def _compile(compiler: str, sources: Sequence[Path], kept: Path) -> None:
    kept.parent.mkdir(
        mode=0o700, parents=True, exist_ok=True
    )  # code that is loaded from here runs as the user
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder, "floor.so")
        command = [compiler, *FLAGS, *map(str, sources), *LIBRARIES, "-o", str(made)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_COMPILE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(
                f"C floor cannot be compiled: {error}", hint=f"try `{compiler} --version`"
            ) from None
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise BenchError(
                f"C floor cannot be compiled: {first}",
                hint="it wants a C compiler and the kernel's headers: on Debian gcc, libc6-dev and linux-libc-dev",
            )
        made.replace(kept)


def _typed(loaded: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, whole = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
    numbers = ctypes.POINTER(ctypes.c_uint64)
    start = ctypes.POINTER(Start)
    signatures: dict[str, tuple[Any, ...]] = {
        "open_with": (pointer, ctypes.c_char_p, ctypes.c_size_t, start, ctypes.c_uint),
        "close": (None, pointer),
        "ram": (pointer, pointer),
        "exits": (number, pointer),
        "end_at": (None, pointer, ctypes.c_uint16),
        "drive": (whole, pointer),
        "trap_msr": (whole, pointer, ctypes.c_uint32),
        "trap_hypercalls": (whole, pointer),
        "ring": (whole, pointer, whole, number, ctypes.c_uint32),
        "ioeventfd": (whole, pointer, whole, number, ctypes.c_uint32),
        "message": (whole, pointer, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32),
        "raise_at_access": (None, pointer, ctypes.c_uint32),
        "irqfd": (whole, pointer, ctypes.c_uint32),
        "lives": (
            whole,
            ctypes.c_char_p,
            ctypes.c_size_t,
            start,
            ctypes.c_uint,
            ctypes.c_uint16,
            number,
            numbers,
        ),
        "maps": (whole, pointer, number, number, number, numbers),
        "start": (whole, pointer),
        "await_access": (whole, pointer),
        "stop": (None, pointer),
        "kicks": (whole, pointer, number, number, numbers),
        "wakes": (whole, pointer, ctypes.c_uint32, number, numbers),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(loaded, f"floor_{name}")
        function.restype, function.argtypes = result, arguments
    return loaded


# -- using -----------------------------------------------------------------------------------------------------------


class Floor:
    """A guest that C runs. Close it."""

    def __init__(self, image: bytes, start: Start, *, irqchip: bool = False, end_port: int = 0) -> None:
        self._handle: int | None = None
        self._library = library()
        features = IRQCHIP if irqchip else 0
        self._handle = self._library.floor_open_with(image, len(image), ctypes.byref(start), features)
        if not self._handle:
            raise _refused("open", ctypes.get_errno())
        self._library.floor_end_at(self._handle, end_port)

    def close(self) -> None:
        """Give everything back. Twice is fine."""
        if self._handle:
            self._library.floor_stop(self._handle)
            self._library.floor_close(self._handle)
        self._handle = None

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of the guest's memory."""
        return ctypes.string_at(self._library.floor_ram(self._handle) + gpa, size)

    def write(self, gpa: int, data: bytes) -> None:
        """Put bytes into the guest's memory."""
        ctypes.memmove(self._library.floor_ram(self._handle) + gpa, data, len(data))

    @property
    def exits(self) -> int:
        """Returns of KVM_RUN so far."""
        return int(self._library.floor_exits(self._handle))

    def tell(self, name: str, *arguments: int) -> None:
        """Call one of the functions of _floor_more.c that set something up, or run.

        Raises:
            BenchError: KVM refuses, or the guest made an exit that it should not.
        """
        _check(name, getattr(self._library, f"floor_{name}")(self._handle, *arguments))

    def drive(self) -> None:
        """Run until the guest writes to the end port. Ctrl-C ends it: between two calls Python looks for signals.

        Raises:
            BenchError: the guest makes no exit within five seconds, or one that it should not; or KVM refuses.
        """
        while (result := self._library.floor_drive(self._handle)) < 0 and ctypes.get_errno() == errno.EINTR:
            pass
        if result < 0 and ctypes.get_errno() == errno.ETIMEDOUT:
            raise BenchError("floor's guest does not end its batch", hint="see `hyperpy doctor`")
        _check("drive", result)

    def times(self, name: str, *arguments: int, count: int) -> list[float]:
        """Call one that measures `count` times; nanoseconds each."""
        samples = (ctypes.c_uint64 * count)()
        _check(name, getattr(self._library, f"floor_{name}")(self._handle, *arguments, count, samples))
        return list(array("Q", bytes(samples)))


def lives(image: bytes, start: Start, end_port: int, count: int, *, irqchip: bool = False) -> list[float]:
    """Nanoseconds of guests that are made, run to their first write to `end_port`, and closed."""
    samples = (ctypes.c_uint64 * count)()
    features = IRQCHIP if irqchip else 0
    result = library().floor_lives(image, len(image), ctypes.byref(start), features, end_port, count, samples)
    _check("lives", result)
    return list(array("Q", bytes(samples)))


def calls(
    method: Callable[..., object], arguments: int, *, has_answer: bool, calls: int, count: int
) -> list[float]:
    """Nanoseconds of `calls` calls of a method with so many small numbers, from a thread that attaches for each; `count` times."""
    samples = (ctypes.c_uint64 * count)()
    # It is called attached, so that what Python raises meanwhile, such as for Ctrl-C, is raised here.
    measure = ctypes.PyDLL(library()._name).floor_calls
    measure.restype = ctypes.c_int
    measure(
        ctypes.byref(_Python.here()),
        ctypes.py_object(method),
        *(ctypes.c_uint32(arguments), ctypes.c_int(has_answer)),
        *(ctypes.c_uint64(calls), ctypes.c_uint64(count), samples),
    )
    return list(array("Q", bytes(samples)))


def _check(name: str, result: int | None) -> None:
    if result is None or result == 0:
        return
    if result > 0:
        reason = _REASONS.get(result, f"KVM's number {result}")
        raise BenchError(
            f"floor's guest made an exit that it should not: {reason}", hint="see `hyperpy doctor`"
        )
    raise _refused(name, ctypes.get_errno())


def _refused(name: str, number: int) -> BenchError:
    return BenchError(
        f"KVM refuses what the floor asks for: {name}: {os.strerror(number)}",
        hint="`hyperpy doctor` shows what this KVM has",
    )
