"""`hyperpy run`: a machine from its spec, and its end as an exit status.

Here are the machine's making, what each `Exit` means to the shell, and where COM1 goes. Arguments are read in
`hyperpy._run_args`, the terminal is in `hyperpy._terminal`. Standard output carries the guest's console and nothing else; whatever
happens, the terminal is left as it was found. The status of the debug-exit port is that of QEMU's isa-debug-exit.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperpy import Exit
from hyperpy._spec_image import within
from hyperpy._terminal import OUTPUT_CLOSED, Input, of_guest, signals_unwind, streams
from hyperpy._usage import STATUS_ERROR, complain
from hyperpy.doctor import kernel_code_is_native
from hyperpy.errors import HyperpyError, KvmUnavailable, SpecError

if TYPE_CHECKING:
    from types import TracebackType

    from hyperpy.errors import GuestFault
    from hyperpy.exits import AnyExit
    from hyperpy.machine import Machine
    from hyperpy.spec import MachineSpec

__all__ = ["run_spec"]

STATUS_TIMEOUT = 124


class _RaisedError(Exception):
    """Carries what the user's device raised past the handlers of our own errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def run_spec(spec: MachineSpec, timeout: float | None, argv: Sequence[str]) -> int:
    """Run what a spec says, for `timeout` seconds at most; return the exit status. `argv` is what `run` was given."""
    in_lab = f"`{shlex.join(['hyperpy', 'lab', '--', 'hyperpy', 'run', *argv])}`"
    try:
        devices = _made(spec)
        with contextlib.ExitStack() as stack:
            stack.enter_context(signals_unwind())
            machine = stack.enter_context(spec.assemble(devices))
            if spec.image is not None and spec.image.has_pc:
                _warn_of_interpreter(in_lab)
            stack.enter_context(_serial_line(machine, spec))
            return _status(machine, _exit_of(machine, timeout), timeout, in_lab)
    except _RaisedError as raised:
        return _show_raised(raised.error)
    except KvmUnavailable as error:
        return complain("run", f"{error}\nhint: or run it in the lab: {in_lab}")
    except (HyperpyError, OSError, ValueError, TypeError, MemoryError) as error:
        return complain("run", error)


def _made(spec: MachineSpec) -> list[Any]:
    try:
        return spec.make_devices()
    except SpecError:
        raise
    except Exception as error:
        raise _RaisedError(error) from error


def _warn_of_interpreter(in_lab: str) -> None:
    if not kernel_code_is_native():
        text = "this host's KVM interprets kernel code: an operating system will not get far on it"
        complain("run", f"warning: {text}\n\nhint: {in_lab}")


def _exit_of(machine: Machine, timeout: float | None) -> AnyExit:
    try:
        return machine.run(timeout)
    except Exception as error:
        is_raised = any(error is raised for raised in machine.errors)
        # What we say of a device, such as that it returned None, is no error of its code.
        if is_raised and (not isinstance(error, HyperpyError) or _users_part(error.__traceback__)):
            raise _RaisedError(error) from error
        raise


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is not ours."""
    ours = (os.path.dirname(__file__) + os.sep, importlib.__file__, "<frozen importlib")
    while trace and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return trace


def _show_raised(error: Exception) -> int:
    """Print the traceback of the user's code, without our own frames above it."""
    error.__suppress_context__ = True
    traceback.print_exception(type(error), error, _users_part(error.__traceback__))
    return STATUS_ERROR


def _status(machine: Machine, exit_: AnyExit, timeout: float | None, in_lab: str) -> int:
    match exit_:
        case Exit.SystemEvent(kind="power-off" | "reset"):
            return 0
        case Exit.Stopped(status=int(status)):
            return status & 0xFF
        case Exit.Stopped(reason=reason, vcpu=None) if reason == OUTPUT_CLOSED:
            return 128 + signal.SIGPIPE
        case Exit.Stopped(reason=reason):
            complain("run", f"stopped: {reason}")
            return 0
        case Exit.Timeout():
            hint = "give it a longer --timeout"
            complain("run", f"guest did not end in time: {timeout:g} s\n\nhint: {hint}")
            return STATUS_TIMEOUT
        case _:
            return complain("run", _account(machine, exit_, in_lab))


def _account(machine: Machine, exit_: AnyExit, in_lab: str) -> GuestFault:
    """What happened to a guest that did not end by itself, where, and what to do."""
    fault = machine.fault(exit_)
    match exit_:
        case Exit.InternalError(suberror=1):
            if not kernel_code_is_native():
                fault.hint = f"this host's KVM interprets kernel code; the lab's runs it: {in_lab}"
        case Exit.Halt():
            fault.hint = "a guest ends by power-off, reset, or a write to --debug-exit"
        case Exit.FailEntry():
            pass
        case _:
            fault.hint = (
                "the guest's last output tells more; with --append, `earlyprintk=serial` gives more of it"
            )
    return fault


# -- the serial line -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serial_line(machine: Machine, spec: MachineSpec) -> Iterator[None]:
    """Connect COM1 for as long as the context lasts."""
    where = spec.serial
    if where.startswith("file:"):
        path = within(spec.folder, where.removeprefix("file:"))
        with open(path, "wb", buffering=0) as file:
            machine.console.sink(file)
            yield
    elif where == "none":
        yield
    else:
        source, target = streams()
        with of_guest(source) as source:
            machine.console.sink(target)
            with Input(machine.console.send, machine.stop, source, target):
                yield
