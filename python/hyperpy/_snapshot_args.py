"""The command `hyperpy snapshot`: `info`, `diff` and `verify` of snapshot files. What they print is `hyperpy._snapshot_text`'s."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from hyperpy import _snapshot_text as text
from hyperpy._hyperpy import SnapshotFile
from hyperpy._usage import STATUS_ERROR, Parser, UsageError, complain, parse
from hyperpy._words import nearest
from hyperpy.errors import SnapshotError

__all__ = ["main"]

_COMMANDS = ("info", "diff", "verify")
_EPILOG = """\
commands:
  info FILE...    say what is in snapshots: machine, memory, pages
  diff OLD NEW    say in what two snapshots differ: pages of memory, values of the state
  verify FILE...  read snapshots whole, and check all checksums

examples:
  hyperpy snapshot info base.hps
  hyperpy snapshot diff base.hps crash.hps --json

`hyperpy snapshot COMMAND --help` tells more."""


def main(argv: Sequence[str]) -> int:
    """Run `hyperpy snapshot` with these arguments, and return the exit status."""
    command, *rest = argv or [""]
    match command:
        case "info":
            return _info(rest)
        case "diff":
            return _diff(rest)
        case "verify":
            return _verify(rest)
        case "--help" | "-h":
            print(_help())
            return 0
        case "":
            raise UsageError(
                f"no command given\n\nhint: one of {', '.join(_COMMANDS)}, such as `hyperpy snapshot info FILE`"
            )
        case _:
            hint = nearest(command, [*_COMMANDS, "--help"]) or f"one of {', '.join(_COMMANDS)}"
            raise UsageError(f"unknown command: {command}\n\nhint: {hint}")


def _help() -> str:
    parser = argparse.ArgumentParser(
        prog="hyperpy snapshot",
        usage="hyperpy snapshot [--help] COMMAND FILE ...",
        description="Look into snapshot files, and hold them against each other.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    return parser.format_help().rstrip()


def _parser(command: str, description: str, epilog: str) -> Parser:
    return Parser(
        prog=f"hyperpy snapshot {command}", description=description, epilog=epilog, allow_abbrev=False
    )


def _open(path: str) -> SnapshotFile:
    try:
        return SnapshotFile(path)
    except OSError as error:
        raise _refused(error, path) from None


def _refused(error: OSError, path: str) -> UsageError:
    hints = [note.removeprefix("hint: ") for note in getattr(error, "__notes__", ())]
    hint = hints[0] if hints else "check the path and whether it may be read"
    return UsageError(f"{text.shown(path, 4096)}: snapshot cannot be read: {error.strerror}\n\nhint: {hint}")


def _info(argv: Sequence[str]) -> int:
    parser = _parser(
        "info",
        "Say what is in snapshots: version, when they were taken, the machine, its memory and pages.",
        "exit status: 0; 1 when a file cannot be read. Pages are not read: that is for `verify`.",
    )
    parser.add_argument("file", metavar="FILE", nargs="+", help="a snapshot: base.hps")
    parser.add_argument("--json", action="store_true", help="print a JSON list with an object for each file")
    options = parse(parser, argv)
    status, known = 0, []
    for path in options.file:
        try:
            known.append(text.facts(path, _open(path)))
        except (SnapshotError, UsageError) as error:
            status = complain("snapshot", error)
    if options.json:
        print(json.dumps(known, indent=2))
    elif known:
        print("\n\n".join(map(text.facts_text, known)))
    return status


def _diff(argv: Sequence[str]) -> int:
    parser = _parser(
        "diff",
        "Say in what two snapshots differ: pages of memory by range, values of the state by path.",
        "exit status: 0 when they are equal; 1 otherwise",
    )
    parser.add_argument("old", metavar="OLD", help="a snapshot: base.hps")
    parser.add_argument("new", metavar="NEW", help="another")
    parser.add_argument("--json", action="store_true", help="print a JSON object: pages, regions, state")
    options = parse(parser, argv)
    old, new = _open(options.old), _open(options.new)
    try:
        if options.json:
            found = text.difference(old, new)
            differs = bool(found["pages"] or found["state"] or any(found["regions"].values()))
            told = json.dumps(found, indent=2)
        else:
            told = text.difference_text(old, new)
            differs = bool(told)
    except OSError as error:
        raise _refused(error, str(error.filename)) from None
    if told:
        print(told)
    return STATUS_ERROR if differs else 0


def _verify(argv: Sequence[str]) -> int:
    parser = _parser(
        "verify",
        "Read snapshots whole, and check all checksums.",
        "exit status: 0 when all are whole; 1 otherwise",
    )
    parser.add_argument("file", metavar="FILE", nargs="+", help="a snapshot: base.hps")
    parser.add_argument("--json", action="store_true", help="print a JSON list with an object for each file")
    options = parse(parser, argv)
    status, found = 0, []
    for path in options.file:
        message = None
        try:
            whole = _whole(path)
            if not options.json:
                print(whole, flush=True)
        except (SnapshotError, UsageError) as error:
            status = STATUS_ERROR if options.json else complain("snapshot", error)
            message = str(error).partition("\n")[0]
        found.append({"file": path, "whole": message is None, "error": message})
    if options.json:
        print(json.dumps(found, indent=2))
    return status


def _whole(path: str) -> str:
    file = _open(path)
    try:
        file.verify()
    except OSError as error:
        raise _refused(error, path) from None
    return text.verified(path, file.info())
