"""The command `hyperpy`: `run` a kernel or a script, `lab` and `doctor`.

Here are the arguments, and devices as they are named there; `hyperpy._run` makes the machine, and the lab and the
doctor are modules of their own. Nothing native is imported before a machine is made, so that `--version` and `lab`
work without it. Messages go to standard error: lower case, then a hint.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from hyperpy._terminal import KEYS

__all__ = ["DeviceSpec", "UsageError", "complain", "main"]

_T = TypeVar("_T")

STATUS_ERROR = 1

_MAIN_EPILOG = """\
commands:
  run     boot a kernel or firmware, or run a script that uses hyperpy
  lab     run a command where a KVM exists that runs kernels
  doctor  say what this host can do, and what is missing

examples:
  hyperpy run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0"
  hyperpy lab -- hyperpy run --kernel vmlinuz
  hyperpy doctor

`hyperpy COMMAND --help` tells more."""

_RUN_EPILOG = f"""\
keys, while a terminal is the guest's console:
  {KEYS}

exit status:
  0 after power-off or reset; value * 2 + 1, cut to 8 bits, after a write to the debug-exit port; 124 on timeout;
  130 after Ctrl-C; 1 on any other end and on errors. A script's status is its own.

examples:
  hyperpy run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2 --append "console=ttyS0 panic=-1"
  hyperpy run --kernel vmlinuz --device mydevices:Doorbell@mmio=0xfe000000,size=0x100,irq=10
  hyperpy run --kernel xen.gz --append "com1=115200,8n1 console=com1" --module vmlinuz console=hvc0
  hyperpy run --kernel test.elf --debug-exit 0xf4 --serial file:log.txt --timeout 60
  hyperpy run script.py --its-own-option"""


class UsageError(ValueError):
    """The command line asks for something that cannot be; the message has its hint."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = "" if "\nhint: " in message else f"\n\nhint: `{self.prog} --help` shows what there is"
        raise UsageError(message + hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status.

    Arguments:
        argv: the arguments without the program's name; None takes this process's.

    Example:
        >>> main(["--version"])
        hyperpy 0.1.0
        0
    """
    command, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    try:
        match command:
            case "run":
                return _run(rest)
            case "doctor":
                return _doctor(rest)
            case "lab":
                from hyperpy import lab

                return lab.main(rest)
            case "--version" | "-V":
                from hyperpy import __version__

                print(f"hyperpy {__version__}")
                return 0
            case "--help" | "-h":
                print(_main_help())
                return 0
            case "":
                print(_main_help(), file=sys.stderr)
                return STATUS_ERROR
            case _:
                known = _close_match(command, ["run", "lab", "doctor", "--version", "--help"])
                raise UsageError(f"unknown command: {command}\n\nhint: {known or 'one of run, lab, doctor'}")
    except UsageError as error:
        return complain(command if command in {"run", "lab", "doctor"} else "", error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _main_help() -> str:
    parser = argparse.ArgumentParser(
        prog="hyperpy",
        usage="hyperpy [--version] [--help] COMMAND ...",
        description="A hypervisor that a Python program owns.",
        epilog=_MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    return parser.format_help().rstrip()


def complain(command: str, error: object) -> int:
    """Say on standard error what is wrong; return the status for it."""
    print(f"hyperpy {command}".rstrip() + f": {error}", file=sys.stderr, flush=True)
    return STATUS_ERROR


def _close_match(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"did you mean {found[0]}?" if found else ""


# -- run: arguments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device as the command line names it: `module:Class@mmio=ADDRESS,size=BYTES,irq=GSI`, or `pio=` for `mmio=`."""

    module: str
    name: str
    pio: int | None = None
    mmio: int | None = None
    size: int | None = None
    irq: int | None = None

    @classmethod
    def parse(cls, text: str) -> DeviceSpec:
        """Read one from text; numbers as in Python (0x10, 16).

        Raises:
            ValueError: it is not one; the message has a hint.

        Example:
            >>> DeviceSpec.parse("bells:Doorbell@mmio=0xfe000000,irq=10").irq
            10
        """
        example = "write it as module:Class@mmio=0xfe000000,irq=10"
        path, at, places = text.partition("@")
        match = re.fullmatch(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)", path)
        if match is None or match[1].endswith(".py"):
            if ".py:" in path:
                example = "name the module without .py; it is also found in the current folder"
            raise ValueError(f"not a module and class: {path!r}\n\nhint: {example}")
        if not at:
            raise ValueError(f"device has no address: {text}\n\nhint: {example}")
        values: dict[str, int] = {}
        for place in places.split(","):
            key, _, number = place.partition("=")
            if key not in {"pio", "mmio", "size", "irq"}:
                known = (
                    _close_match(key, ["pio", "mmio", "size", "irq"]) or "pio, mmio, size and irq are known"
                )
                raise ValueError(f"unknown key of a device: {key!r}\n\nhint: {known}")
            if key in values:
                raise ValueError(
                    f"key is given twice: {key}\n\nhint: give each once, and --device once per device"
                )
            values[key] = _number(number)
        if ("pio" in values) == ("mmio" in values):
            raise ValueError(f"a device sits on one bus: {text}\n\nhint: give pio=PORT or mmio=ADDRESS")
        return cls(match[1], match[2], **values)

    def make(self) -> object:
        """Import the module, from the current folder too, and make the device.

        Raises:
            ValueError: there is no such module or class, or it wants arguments. What its own code raises, goes on.
        """
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise  # something that the user's module wants
            hint = f"it is looked for in {os.getcwd()} and in Python's path"
            raise UsageError(f"no such module: {error.name}\n\nhint: {hint}") from None
        kind = getattr(module, self.name, None)
        if not isinstance(kind, type):
            # Those that could be devices: what a module imports is among its names too.
            classes = [
                name
                for name, value in vars(module).items()
                if hasattr(value, "write") and isinstance(value, type)
            ]
            hint = _close_match(self.name, classes) or f"its devices: {', '.join(classes) or 'none'}"
            raise UsageError(f"no such class in {self.module}: {self.name}\n\nhint: {hint}")
        try:
            inspect.signature(kind).bind()
        except ValueError:
            pass  # it has no signature to be had: then it is tried
        except TypeError as error:
            hint = "a device on the command line is made without any; give them defaults, or write a script"
            text = f"{self.module}:{self.name} wants arguments: {error}"
            raise UsageError(f"{text}\n\nhint: {hint}") from None
        return kind()


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"not a number: {text!r}\n\nhint: write 16 or 0x10")
    return value


def _checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A converter for argparse that keeps the message of a ValueError."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _size(text: str) -> int:
    from hyperpy.memory import parse_size

    return parse_size(text)


def _count(text: str) -> int:
    if (value := _number(text)) == 0:
        raise ValueError("a machine has at least one cpu: 0\n\nhint: give 1 or more")
    return value


def _port(text: str) -> int:
    if (value := _number(text)) > 0xFFFF:
        raise ValueError(f"not a port: {value:#x}\n\nhint: from 0 to 0xffff")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"not a time: {text!r}\n\nhint: give seconds, more than 0, such as 90 or 0.5")
    return value


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"not a number of processors: {text!r}\n\nhint: 0.5 is half of one, 2 is two")
    return value


def _processors(text: str) -> set[int]:
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(_number(first), min(_number(last or first), 1 << 16) + 1))
    if not numbers:
        raise ValueError(f"no processors: {text!r}\n\nhint: 0,1 or 0-3")
    return numbers


def _serial(text: str) -> str:
    if text in {"stdio", "none"} or (text.startswith("file:") and text != "file:"):
        return text
    raise ValueError(f"unknown serial line: {text!r}\n\nhint: stdio, file:PATH or none")


def _run_parser() -> _Parser:
    parser = _Parser(
        prog="hyperpy run",
        usage="hyperpy run --kernel K [options]\n       hyperpy run --firmware F [options]\n       hyperpy run SCRIPT [ARGUMENT ...]",
        description="Boot a kernel or firmware in a machine, or run a Python script as `python SCRIPT` does.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--kernel",
        metavar="K",
        help="bzImage, ELF file or Multiboot kernel: its kind is recognised; gzip is unpacked",
    )
    add("--firmware", metavar="F", help="in place of a kernel: raw firmware such as SeaBIOS's bios.bin")
    add("--initrd", metavar="I", help="initial RAM disk")
    text = "module for a Multiboot or PVH kernel, and its arguments; can be repeated"
    add("--module", nargs="+", action="append", default=[], metavar=("FILE", "ARGS"), help=text)
    text = "kernel command line (default: console=ttyS0, and nothing for Multiboot)"
    add("--append", metavar="S", help=text)
    add("--memory", type=_checked(_size), default="512M", metavar="SIZE", help="RAM (default: %(default)s)")
    add("--cpus", type=_checked(_count), default=1, metavar="N", help="vcpus (default: %(default)s)")
    add(
        "--cpu-limit",
        type=_checked(_limit),
        metavar="X",
        help="processors whose time all vcpus may use together, such as 0.5 or 2",
    )
    add(
        "--pin",
        type=_checked(_processors),
        metavar="LIST",
        help="the host's processors to run on: 0,1 or 0-3",
    )
    spec = "module:Class@mmio=ADDRESS[,size=BYTES][,irq=GSI]"
    text = "attach a device written in Python, made without arguments; pio=PORT in place of mmio; can be repeated"
    add("--device", type=_checked(DeviceSpec.parse), action="append", default=[], metavar=spec, help=text)
    add(
        "--debug-exit",
        type=_checked(_port),
        metavar="PORT",
        help="end when the guest writes to this port, often 0xf4",
    )
    add(
        "--serial",
        type=_checked(_serial),
        default="stdio",
        metavar="stdio|file:PATH|none",
        help="COM1 (default: %(default)s)",
    )
    add("--timeout", type=_checked(_seconds), metavar="S", help="end after so many seconds, with status 124")
    return parser


def _parse(parser: _Parser, argv: Sequence[str], stray: str = "") -> argparse.Namespace:
    """Read the arguments; `stray` is the hint for one that is no option."""
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        hint = _close_match(unknown[0], known) or ("" if unknown[0].startswith("-") else stray)
        parser.error(f"unknown argument: {unknown[0]}" + (f"\n\nhint: {hint}" if hint else ""))
    return options


def _run(argv: Sequence[str]) -> int:
    if argv and not argv[0].startswith("-"):
        return _run_script(argv)
    parser = _run_parser()
    options = _parse(
        parser, argv, "a script comes first: `hyperpy run SCRIPT`; a kernel's arguments go into --append"
    )
    if options.kernel is None and options.firmware is None:
        parser.error("nothing to run\n\nhint: give --kernel K, or a script: `hyperpy run SCRIPT`")
    kernels = {"kernel": "--kernel", "initrd": "--initrd", "module": "--module", "append": "--append"}
    given = [option for name, option in kernels.items() if getattr(options, name)]
    if options.firmware is not None and given:
        parser.error(
            f"not an option of firmware: {given[0]}\n\nhint: it is for --kernel; give one of the two"
        )
    try:
        from hyperpy._run import run_kernel
    except ImportError as error:
        hint = "run `pip install .` in hyperpy's repository"
        return complain("run", f"native module cannot be imported: {error}\n\nhint: {hint}")
    return run_kernel(options, argv)


def _run_script(argv: Sequence[str]) -> NoReturn:
    """Become `python SCRIPT ...`: its arguments, `__main__`, traceback and status are then exactly Python's."""
    try:
        with open(argv[0], "rb") as script:
            beginning = script.read(4)
    except IsADirectoryError:  # Python runs the __main__.py in it
        beginning = b""
    except OSError as error:
        hint = "check the path; to boot a kernel write `hyperpy run --kernel K`"
        raise UsageError(f"script cannot be read: {error}\n\nhint: {hint}") from None
    if beginning == b"\x7fELF" or beginning[:2] == b"MZ":
        raise UsageError(
            f"not a script but a program: {argv[0]}\n\nhint: boot it with `hyperpy run --kernel {argv[0]}`"
        )
    os.execv(sys.executable, [sys.executable, *argv])


# -- doctor ----------------------------------------------------------------------------------------------------------


def _doctor(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="hyperpy doctor",
        description="Say which KVM this host has, whether it runs kernels, what an exit costs, and what is missing.",
        epilog="exit status: 0 when operating systems can run, here or in the lab; 1 otherwise",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = _parse(parser, argv)
    from hyperpy.doctor import examine

    report = examine()
    has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(json.dumps(report.to_dict(), indent=2) if options.json else report.text(colour=has_colour))
    return 0 if report.can_run_kernels else STATUS_ERROR
