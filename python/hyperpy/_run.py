"""`hyperpy run --kernel` and `--firmware`: a machine from the command line's options, and its end as an exit status.

Here are the machine's making, what each `Exit` means to the shell, and the terminal while it is the guest's console.
The arguments are read in `hyperpy.cli`. Standard output carries the guest's console and nothing else; whatever
happens, the terminal is left as it was found. The status of the debug-exit port is that of QEMU's isa-debug-exit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import select
import shlex
import signal
import sys
import termios
import threading
import traceback
import tty
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from hyperpy import DebugExit, Exit, Firmware, Machine
from hyperpy.boot import recognise
from hyperpy.cli import KEYS, STATUS_ERROR, DeviceSpec, UsageError, complain
from hyperpy.doctor import kernel_code_is_native
from hyperpy.errors import HyperpyError, KvmUnavailable

if TYPE_CHECKING:
    from hyperpy.exits import AnyExit

__all__ = ["Keys", "run_kernel"]

STATUS_TIMEOUT = 124
_LEFT = "left with Ctrl-A x"
_OUTPUT_CLOSED = "output closed"
_CTRL_A = 0x01
_CHUNK = 4096
_POWER_ON_RIP = 0xFFF0
# The console's input queue does not tell when it has room again: it is asked at this pace while it is full.
_FULL_MS = 10


class _RaisedError(Exception):
    """Carries what the user's device raised past the handlers of our own errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def run_kernel(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Boot what the options of `hyperpy run` say; return the exit status. `argv` is what they were read from."""
    in_lab = f"`{shlex.join(['hyperpy', 'lab', '--', 'hyperpy', 'run', *argv])}`"
    try:
        devices = _made(options.device)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_signals_unwind())
            name = os.path.basename(options.kernel or options.firmware)
            machine = stack.enter_context(Machine(memory=options.memory, vcpus=options.cpus, name=name))
            _prepare(machine, options, devices)
            _warn_of_interpreter(in_lab)
            stack.enter_context(_serial_line(machine, options.serial))
            return _status(machine, _exit_of(machine, options.timeout), options, in_lab)
    except _RaisedError as raised:
        return _show_raised(raised.error)
    except KvmUnavailable as error:
        return complain("run", f"{error}\nhint: or run it in the lab: {in_lab}")
    except (HyperpyError, OSError, ValueError, TypeError, MemoryError) as error:
        return complain("run", error)


def _made(specs: Sequence[DeviceSpec]) -> list[tuple[DeviceSpec, object]]:
    try:
        return [(spec, spec.make()) for spec in specs]
    except UsageError:
        raise
    except Exception as error:
        raise _RaisedError(error) from error


def _prepare(
    machine: Machine, options: argparse.Namespace, devices: Sequence[tuple[DeviceSpec, object]]
) -> None:
    # Before the kernel is loaded: its ACPI tables list them.
    for spec, device in devices:
        machine.attach(device, pio=spec.pio, mmio=spec.mmio, size=spec.size, irq=spec.irq)
    if options.debug_exit is not None:
        machine.attach(DebugExit(), pio=options.debug_exit)
    if options.firmware is not None:
        machine.load(Firmware(options.firmware))
        return
    modules = [(file, " ".join(arguments)) for file, *arguments in options.module]
    machine.load(recognise(options.kernel, initrd=options.initrd, cmdline=options.append, modules=modules))


def _warn_of_interpreter(in_lab: str) -> None:
    if not kernel_code_is_native():
        text = "this host's KVM interprets kernel code: an operating system will not get far on it"
        complain("run", f"warning: {text}\n\nhint: {in_lab}")


def _exit_of(machine: Machine, timeout: float | None) -> AnyExit:
    try:
        return machine.run(timeout)
    except Exception as error:
        if any(error is raised for raised in machine.errors):
            raise _RaisedError(error) from error
        raise


def _show_raised(error: Exception) -> int:
    """Print the traceback of the user's code, without our own frames above it."""
    trace = error.__traceback__
    ours = (os.path.dirname(__file__) + os.sep, importlib.__file__, "<frozen importlib")
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    error.__suppress_context__ = True
    traceback.print_exception(type(error), error, trace)
    return STATUS_ERROR


def _status(machine: Machine, exit_: AnyExit, options: argparse.Namespace, in_lab: str) -> int:
    match exit_:
        case Exit.SystemEvent(kind="power-off" | "reset"):
            return 0
        case Exit.Stopped(status=int(status)):
            return status & 0xFF
        case Exit.Stopped(reason=reason, vcpu=None) if reason == _OUTPUT_CLOSED:
            return 128 + signal.SIGPIPE
        case Exit.Stopped(reason=reason):
            complain("run", f"stopped: {reason}")
            return 0
        case Exit.Timeout():
            hint = "give it a longer --timeout"
            complain("run", f"guest did not end in time: {options.timeout:g} s\n\nhint: {hint}")
            return STATUS_TIMEOUT
        case _:
            return complain("run", _account(machine, exit_, in_lab))


def _account(machine: Machine, exit_: AnyExit, in_lab: str) -> str:
    """What happened to a guest that did not end by itself, where, and what to do."""
    hint = "the guest's last output tells more; with --append, `earlyprintk=serial` gives more of it"
    match exit_:
        case Exit.InternalError(suberror=1, bytes=code):
            what = f"KVM cannot interpret the instruction {code.hex(' ') or 'there'}"
            hint = "`hyperpy doctor` tells about this host's KVM"
            if not kernel_code_is_native():
                hint = f"this host's KVM interprets kernel code; the lab's runs it: {in_lab}"
        case Exit.Shutdown():
            what = "triple fault: an exception, and nothing to handle it"
        case Exit.Halt():
            what = "every vcpu has halted with interrupts off"
            hint = "a guest ends by power-off, reset, or a write to --debug-exit"
        case Exit.FailEntry(reason=reason):
            what = f"the processor refuses the guest's state: {reason:#x}"
            hint = "Intel SDM vol. 3, 28.3 lists what it checks"
        case _:
            what = f"guest ended with {exit_!r}"
    vcpu = getattr(exit_, "vcpu", None) or 0
    rip = machine.vcpus[vcpu].regs.rip
    # On AMD, KVM puts a vcpu that shuts down into its power-on state (svm.c, shutdown_interception).
    is_lost = isinstance(exit_, Exit.Shutdown) and rip == _POWER_ON_RIP
    where = "rip is lost, KVM has reset the vcpu" if is_lost else f"rip {rip:#x}"
    return f"{what}; vcpu {vcpu}, {where}\n\nhint: {hint}"


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave by the same way as everything else, so that the terminal is restored."""

    def leave(number: int, _frame: object) -> NoReturn:
        for ending in before:
            signal.signal(ending, signal.SIG_IGN)  # once is enough: the way out is not to be interrupted
        raise SystemExit(128 + number)

    # What is ignored, as SIGHUP is under nohup, stays so.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the serial line -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serial_line(machine: Machine, where: str) -> Iterator[None]:
    """Connect COM1 for as long as the context lasts."""
    if where.startswith("file:"):
        with open(where.removeprefix("file:"), "wb", buffering=0) as file:
            machine.console.sink(file)
            yield
    elif where == "none":
        yield
    else:
        with contextlib.ExitStack() as stack:
            # A stream that was closed is None, and its descriptor's number may be another file's by now.
            source = None if sys.stdin is None else sys.stdin.fileno()
            target = None if sys.stdout is None else sys.stdout.fileno()
            if source is not None and os.isatty(source):
                if _is_background_job(source):
                    source = None
                else:
                    stack.enter_context(_raw_terminal(source))
            machine.console.sink(target)
            stack.enter_context(_Input(machine, source, target))
            yield


def _is_background_job(terminal: int) -> bool:
    """Whether touching the terminal would suspend this process."""
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # not our controlling terminal: it controls no jobs of ours
        return False


@contextlib.contextmanager
def _raw_terminal(descriptor: int) -> Iterator[None]:
    """Hand every key to the guest, Ctrl-C too; newlines on the way out are still the terminal's affair."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        raw = termios.tcgetattr(descriptor)
        raw[1] = before[1]  # output modes
        termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Input:
    """Standard input on its way to the guest, on a thread of its own; and a look at whether output is still read."""

    def __init__(self, machine: Machine, source: int | None, target: int | None) -> None:
        self._machine = machine
        self._source = source
        self._target = target
        self._keys = Keys() if source is not None and os.isatty(source) else None
        self._thread = threading.Thread(target=self._serve, name="hyperpy-input", daemon=True)

    def __enter__(self) -> None:
        self._over, self._end = os.pipe()
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._over)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        if self._source is not None:
            poll.register(self._source, select.POLLIN)
        if self._target is not None:
            poll.register(self._target, 0)  # errors and hang-ups are told without being asked for
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._over in ready:
                return
            if self._target in ready:
                self._machine.stop(_OUTPUT_CLOSED)
                return
            assert self._source is not None
            try:
                data = os.read(self._source, _CHUNK)
            except OSError:  # a terminal that is gone
                data = b""
            if not data:
                poll.unregister(self._source)
            elif not self._hand_on(data):
                return

    def _hand_on(self, data: bytes) -> bool:
        """Send what was typed or piped in; False when the run is over."""
        leave = False
        if self._keys is not None:
            data, leave, wants_help = self._keys.feed(data)
            if wants_help:
                sys.stderr.write(f"\n{KEYS}\n")
                sys.stderr.flush()
        if leave:
            self._machine.stop(_LEFT)
            return False
        over = select.poll()
        over.register(self._over, select.POLLIN)
        while data := data[self._machine.console.send(data) :]:
            if over.poll(_FULL_MS):
                return False
        return True


class Keys:
    """Finds the commands that begin with Ctrl-A in what is typed."""

    def __init__(self) -> None:
        self._begun = False

    def feed(self, data: bytes) -> tuple[bytes, bool, bool]:
        """The bytes that are the guest's, whether to leave, and whether to show the keys."""
        kept, wants_help = bytearray(), False
        for byte in data:
            if not self._begun and byte == _CTRL_A:
                self._begun = True
                continue
            if not self._begun or byte == _CTRL_A:
                kept.append(byte)
            elif byte in b"xX":
                return bytes(kept), True, wants_help
            else:
                wants_help = True
            self._begun = False
        return bytes(kept), False, wants_help
