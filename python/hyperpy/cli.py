"""The command `hyperpy`: run, lab, doctor.

Standard output is the guest's; what hyperpy says goes to standard error. Errors are a message and a hint, not a
traceback, unless the user's own code raised. What a command does is in the module of its name; here are arguments,
the terminal and the exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import runpy
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperpy.errors import HyperpyError

if TYPE_CHECKING:
    from hyperpy import AnyExit, Console, Machine

__all__ = ["main"]

TIMED_OUT = 124
INTERRUPTED = 128 + signal.SIGINT
_ESCAPE = 0x01  # Ctrl-A
_RUN_EXAMPLES = """\
examples:
  hyperpy run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0' --memory 512M --cpus 2
  hyperpy run --kernel test.elf --debug-exit 0xf4 --timeout 10
  hyperpy run --kernel vmlinuz --device mydevices:Doorbell@mmio=0xfe000000,irq=5
  hyperpy run script.py
"""


class UsageError(HyperpyError, ValueError):
    """Arguments that do not make sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["lab"]:
        from hyperpy import lab

        return lab.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (HyperpyError, OSError, ValueError, TypeError) as error:
        if _raised_by_user(error):
            raise
        print(f"hyperpy: {error}", file=sys.stderr)
        return 1


def _raised_by_user(error: BaseException) -> bool:
    """Whether the innermost frame is not hyperpy's: a script's or a device's own exception keeps its traceback."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    own = os.path.dirname(__file__)
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(own) is False


def _parser() -> argparse.ArgumentParser:
    from hyperpy import __version__

    parser = argparse.ArgumentParser(prog="hyperpy", description="A hypervisor that a Python program owns.")
    parser.add_argument("--version", action="version", version=f"hyperpy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    raw = argparse.RawDescriptionHelpFormatter
    run = commands.add_parser(
        "run", help="boot a kernel, or run a script", epilog=_RUN_EXAMPLES, formatter_class=raw
    )
    run.add_argument("script", nargs="?", help="a Python script to run instead of a kernel")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's arguments")
    run.add_argument("--kernel", metavar="K", help="bzImage or ELF kernel")
    run.add_argument("--initrd", metavar="I", help="initial RAM disk")
    run.add_argument("--append", metavar="S", default="console=ttyS0", help="kernel command line")
    run.add_argument("--memory", default="512M", help="RAM (default: 512M)")
    run.add_argument("--cpus", type=int, default=1, metavar="N", help="vcpus (default: 1)")
    run.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="module:Class@mmio=0x...,irq=N",
        help="a device written in Python; also pio=, size=; can be given several times",
    )
    run.add_argument(
        "--debug-exit", type=_number, metavar="PORT", help="port of a debug-exit device, such as 0xf4"
    )
    run.add_argument("--serial", default="stdio", metavar="stdio|file:PATH|none", help="where COM1 goes")
    run.add_argument("--timeout", type=float, metavar="S", help="stop after S seconds with status 124")
    run.set_defaults(command=_run)

    commands.add_parser(
        "lab", help="run a command where a real KVM exists: hyperpy lab -- COMMAND", add_help=False
    )
    doctor = commands.add_parser("doctor", help="what this host can do, and how to mend what it cannot")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(command=_doctor)
    return parser


def _number(text: str) -> int:
    return int(text, 0)


def _doctor(options: argparse.Namespace) -> int:
    from hyperpy.doctor import examine

    report = examine()
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    return 0 if report.can_run_kernels else 1


def _run(options: argparse.Namespace) -> int:
    if (options.kernel is None) == (options.script is None):
        raise UsageError(
            "give a kernel or a script", hint="hyperpy run --kernel vmlinuz, or hyperpy run script.py"
        )
    if options.script is not None:
        return _run_script(options.script, options.arguments)
    from hyperpy import DebugExit, Linux, Machine
    from hyperpy.doctor import kernel_code_is_native

    if not kernel_code_is_native():
        print(
            "hyperpy: this host's KVM interprets kernel-mode code: most kernels stop at once\n\n"
            "hint: hyperpy lab -- hyperpy run ...",
            file=sys.stderr,
        )
    with Machine(memory=options.memory, vcpus=options.cpus, name=os.path.basename(options.kernel)) as machine:
        for text in options.device:
            _attach(machine, text)
        if options.debug_exit is not None:
            machine.attach(DebugExit(), pio=options.debug_exit)
        machine.load(Linux(options.kernel, initrd=options.initrd, cmdline=options.append))
        with _serial(machine, options.serial):
            machine.start()
            return _status(machine, machine.wait(options.timeout))


def _run_script(script: str, arguments: list[str]) -> int:
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


_DEVICE = re.compile(r"(?P<module>[\w.]+):(?P<name>\w+)@(?P<options>[^@]+)")
_DEVICE_HINT = "module:Class@mmio=0xfe000000,irq=5 or module:Class@pio=0x510,size=4"


def _attach(machine: Machine, text: str) -> None:
    """Import the class of a `--device` and attach an instance of it."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise UsageError(f"not a device: {text}", hint=_DEVICE_HINT)
    where: dict[str, int] = {}
    for pair in match["options"].split(","):
        key, _, value = pair.partition("=")
        try:
            where[{"mmio": "mmio", "pio": "pio", "irq": "irq", "size": "size"}[key]] = int(value, 0)
        except (KeyError, ValueError):
            raise UsageError(f"not an option of a device: {pair}", hint=_DEVICE_HINT) from None
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(match["module"]), match["name"])
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"no such device: {error}", hint="the module is looked for here and in sys.path"
        ) from error
    machine.attach(factory(), **where)  # type: ignore[arg-type]


def _status(machine: Machine, exit_: AnyExit) -> int:
    from hyperpy import Exit

    match exit_:
        case Exit.SystemEvent(kind="power-off" | "reset"):
            return 0
        case Exit.Stopped(status=int(status)):
            return status & 0xFF
        case Exit.Timeout():
            return TIMED_OUT
        case Exit.Stopped(vcpu=None):
            return 0  # Ctrl-A x
    hint = "look at the kernel's last output"
    if isinstance(exit_, Exit.InternalError) and exit_.suberror == 1:
        hint = "this host's KVM cannot run the instruction: hyperpy lab -- hyperpy run ..."
    rip = machine.vcpus[getattr(exit_, "vcpu", None) or 0].regs.rip
    raise HyperpyError(f"the guest stopped: {exit_!r}, rip {rip:#x}", hint=hint)


@contextlib.contextmanager
def _serial(machine: Machine, where: str) -> Iterator[None]:
    """Connect COM1 for as long as the block runs."""
    if where == "none":
        yield
    elif where.startswith("file:"):
        with open(where.removeprefix("file:"), "wb", buffering=0) as file:
            machine.console.sink(file)
            yield
            machine.console.sink(None)
    elif where == "stdio":
        sys.stdout.flush()
        machine.console.sink(1)
        with _input(machine):
            yield
        machine.console.sink(None)
    else:
        raise UsageError(f"unknown serial line: {where}", hint="stdio, file:PATH or none")


@contextlib.contextmanager
def _input(machine: Machine) -> Iterator[None]:
    """Forward standard input to the guest on a thread; a terminal is raw meanwhile, and restored whatever happens."""
    descriptor = 0
    terminal: list[Any] | None = None
    if os.isatty(descriptor):
        terminal = termios.tcgetattr(descriptor)
        print("hyperpy: Ctrl-A x leaves", file=sys.stderr)
        tty.setraw(descriptor)
    wake, waker = os.pipe()
    thread = threading.Thread(
        target=_forward, args=(machine, descriptor, wake, terminal is not None), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        os.write(waker, b"x")
        thread.join()
        os.close(wake)
        os.close(waker)
        if terminal is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, terminal)


def _forward(machine: Machine, descriptor: int, wake: int, is_terminal: bool) -> None:
    escaped = False
    while True:
        ready, _, _ = select.select([descriptor, wake], [], [])
        if wake in ready:
            return
        data = os.read(descriptor, 4096)
        if not data:
            return  # the end of a file or pipe: the guest runs on
        keys = bytearray()
        for byte in data:
            if is_terminal and escaped:
                escaped = False
                if byte in b"xX":
                    machine.stop("left by Ctrl-A x")
                    return
                if byte == _ESCAPE:
                    keys.append(byte)
            elif is_terminal and byte == _ESCAPE:
                escaped = True
            else:
                keys.append(byte)
        _send_all(machine.console, bytes(keys))


def _send_all(console: Console, data: bytes) -> None:
    """The queue is bounded: what a full one does not take is lost, as on a real line."""
    console.send(data)
