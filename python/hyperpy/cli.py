"""The command `hyperpy`: `run` a kernel, a spec or a script; `check`, `diff`, `snapshot`, `lab`, `doctor`, `bench`, `fuzz`.

Here is what each command does first; `hyperpy._run_args` reads the arguments of `run`, `hyperpy._run` makes the machine,
and the lab and the doctor are modules of their own. Nothing native is imported before it is needed, so that
`--version` and `lab` work without it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from hyperpy._usage import STATUS_ERROR, Parser, UsageError, complain, parse, until_unread
from hyperpy._words import nearest

if TYPE_CHECKING:
    from hyperpy.spec import MachineSpec

__all__ = ["main"]

_COMMANDS = ("run", "check", "diff", "snapshot", "lab", "doctor", "bench", "fuzz")
_SPECS = (".toml", ".json")

_MAIN_EPILOG = """\
commands:
  run       boot a kernel or firmware, run a machine's spec, or a script that uses hyperpy
  check     say what of a machine's spec cannot be together
  diff      say in what two specs differ
  snapshot  look into snapshot files, compare them, check them
  lab       run a command where a KVM exists that runs kernels
  doctor    say what this host can do, and what is missing
  bench     measure what every kind of exit costs, beside a C program
  fuzz      look for inputs that break a device

examples:
  hyperpy run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0"
  hyperpy run machine.toml --memory 1G
  hyperpy lab -- hyperpy run --kernel vmlinuz
  hyperpy doctor

`hyperpy COMMAND --help` tells more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status.

    Arguments:
        argv: the arguments without the program's name; None takes this process's.

    Example:
        >>> main(["--version"])
        hyperpy 0.1.0
        0
    """
    given = sys.argv[1:] if argv is None else [*argv]
    return until_unread(lambda: _command(given))


def _command(argv: Sequence[str]) -> int:
    command, *rest = argv or [""]
    try:
        match command:
            case "run":
                return _run(rest)
            case "check":
                return _check(rest)
            case "diff":
                return _diff(rest)
            case "snapshot":
                return _snapshot(rest)
            case "doctor":
                return _doctor(rest)
            case "lab":
                from hyperpy import lab

                return lab.main(rest)
            case "bench":
                return _bench(rest)
            case "fuzz":
                return _fuzz(rest)
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
                known = nearest(command, [*_COMMANDS, "--version", "--help"])
                raise UsageError(f"unknown command: {command}\n\nhint: {known or _hint_for(command)}")
    except UsageError as error:
        return complain(command if command in _COMMANDS else "", error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _hint_for(command: str) -> str:
    if command.lower().endswith((*_SPECS, ".py")):
        return f"`hyperpy run {command}`"
    return f"one of {', '.join(_COMMANDS)}"


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


def _run(argv: Sequence[str]) -> int:
    from hyperpy._run_args import run_parser, spec_from

    base = None
    given = argv
    if argv and not argv[0].startswith("-"):
        if not argv[0].lower().endswith(_SPECS):
            return _run_script(argv)
        base, argv = _spec(argv[0]), argv[1:]
    parser = run_parser()
    hint = "a script or spec comes first: `hyperpy run SCRIPT`; a kernel's arguments go into --append"
    options = parse(parser, argv, hint)
    try:
        spec = spec_from(options, base)
    except ValueError as error:
        parser.error(str(error))
    except FileNotFoundError:
        parser.error("current folder is gone\n\nhint: cd to one that is there")
    try:
        from hyperpy._run import run_spec
    except ImportError as error:
        return complain("run", _no_native(error))
    return run_spec(spec, options.timeout, given)


def _no_native(error: ImportError) -> str:
    return f"native module cannot be imported: {error}\n\nhint: run `pip install .` in hyperpy's repository"


def _spec(path: str) -> MachineSpec:
    from hyperpy.spec import MachineSpec, SpecError

    try:
        return MachineSpec.from_file(path)
    except SpecError as error:
        raise UsageError(str(error)) from None


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


# -- specs -----------------------------------------------------------------------------------------------------------


def _check(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="hyperpy check",
        description="Say what of a machine's spec cannot be together, without KVM: memory, mmio, ports, interrupts, files.",
        epilog="exit status: 0 when nothing is found; 1 otherwise. Modules of devices are imported.",
        allow_abbrev=False,
    )
    parser.add_argument("spec", metavar="FILE", nargs="+", help="a spec: machine.toml or machine.json")
    options = parse(parser, argv)
    status, found = 0, []
    for file in options.spec:
        try:
            found += [f"{file}: {finding}" for finding in _spec(file).check()]
        except UsageError as error:
            status = complain("check", error)
        except ImportError as error:
            return complain("check", _no_native(error))
    if found:
        print("\n\n".join(found))
    return STATUS_ERROR if found else status


def _diff(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="hyperpy diff",
        description="Say in what two specs differ: a line for each key, old -> new.",
        epilog="exit status: 0 when they are equal; 1 otherwise",
        allow_abbrev=False,
    )
    parser.add_argument("old", metavar="OLD", help="a spec: a.toml or a.json")
    parser.add_argument("new", metavar="NEW", help="another")
    options = parse(parser, argv)
    difference = _spec(options.old).diff(_spec(options.new))
    if difference:
        print(difference)
    return STATUS_ERROR if difference else 0


def _snapshot(argv: Sequence[str]) -> int:
    try:
        from hyperpy import _snapshot_args
    except ImportError as error:
        return complain("snapshot", _no_native(error))
    from hyperpy.errors import HyperpyError

    try:
        return _snapshot_args.main(argv)
    except HyperpyError as error:
        return complain("snapshot", error)


# -- doctor ----------------------------------------------------------------------------------------------------------


def _doctor(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="hyperpy doctor",
        description="Say which KVM this host has, whether it runs kernels, what an exit costs, and what is missing.",
        epilog="exit status: 0 when operating systems can run, here or in the lab; 1 otherwise",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = parse(parser, argv)
    from hyperpy.doctor import examine

    report = examine()
    has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(json.dumps(report.to_dict(), indent=2) if options.json else report.text(colour=has_colour))
    return 0 if report.can_run_kernels else STATUS_ERROR


# -- bench -----------------------------------------------------------------------------------------------------------


def _bench(argv: Sequence[str]) -> int:
    try:
        from hyperpy import _bench_args
    except ImportError as error:
        return complain("bench", _no_native(error))
    from hyperpy.errors import HyperpyError

    try:
        return _bench_args.main(argv)
    except HyperpyError as error:
        return complain("bench", error)


# -- fuzz ------------------------------------------------------------------------------------------------------------


def _fuzz(argv: Sequence[str]) -> int:
    try:
        from hyperpy import _fuzz_args
    except ImportError as error:
        return complain("fuzz", _no_native(error))
    return _fuzz_args.main(argv)
