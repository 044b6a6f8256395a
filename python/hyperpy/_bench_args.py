"""The command `hyperpy bench`: its arguments, its progress on standard error, its tables on standard output."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hyperpy import bench
from hyperpy._usage import Parser, UsageError, checked, number, parse

__all__ = ["main"]

_EPILOG = """\
Names are those of --list, or their beginnings: `hyperpy bench pio mmio-read`. Times are microseconds; "of C" is the median
beside that of the least that a C program does, in the same run. The verdict is empty where the ranges of the rounds
overlap, and a target is met where all rounds keep to it. The C side is compiled by the system's C compiler, once; it needs
`cc`, or what CC names. --html writes a page with plots: one file, without scripts, that loads nothing.

exit status: 0 when it was measured, also where this KVM lacks something; 1 otherwise"""


def main(argv: Sequence[str]) -> int:
    """Measure, or compare two files; return the exit status."""
    parser = _parser()
    options = parse(parser, argv, "names come first: `hyperpy bench pio-in-rust --rounds 9`")
    if options.compare:
        if options.names or options.json:
            parser.error(
                "--compare measures nothing\n\nhint: give two files of --json, and --html if you like"
            )
        comparison = bench.compare(*map(_loaded, options.compare))
        print(comparison)
        _write(options.html, comparison.html)
        return 0
    if options.list:
        width = max(map(len, bench.names()))
        print("\n".join(f"{name.ljust(width)}  {title}" for name, title in bench.names().items()))
        return 0
    for file in filter(None, (options.json, options.html)):
        _must_be_writable(Path(file))
    try:
        report = _measured(options.names, options.rounds, options.count)
    except (bench.BenchError, ValueError) as error:
        raise UsageError(str(error)) from None
    print(report)
    if options.json:
        report.save(options.json)
    _write(options.html, report.html)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="hyperpy bench",
        description="Measure what every kind of exit costs on this machine, beside a C program that does the same.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole = checked(number)
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to measure; everything if left out")
    parser.add_argument("--list", action="store_true", help="list what can be measured, and measure nothing")
    parser.add_argument(
        "--rounds",
        type=whole,
        default=bench.ROUNDS,
        metavar="N",
        help=f"turns of each side (default {bench.ROUNDS}); fewer than {bench.MIN_ROUNDS} give no verdict",
    )
    parser.add_argument(
        "--count", type=whole, metavar="N", help="operations in a round (default: about 20 ms)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all samples to FILE")
    parser.add_argument("--html", metavar="FILE", help="also write a page with plots to FILE")
    parser.add_argument(
        "--compare", metavar=("A", "B"), nargs=2, help="hold two files of --json against each other"
    )
    return parser


def _measured(names: Sequence[str], rounds: int, count: int | None) -> bench.Report:
    progress = _Progress()
    try:
        return bench.run(*names, rounds=rounds, count=count, progress=progress)
    finally:
        progress.end()


class _Progress:
    """Says on standard error what is measured: one line that changes on a terminal, else a line for each row."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._width = 0

    def __call__(self, name: str, index: int, total: int) -> None:
        text = f"measuring {index + 1} of {total}: {name}"
        if self._is_terminal:
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the changing line away."""
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)


def _loaded(file: str) -> bench.Report:
    try:
        return bench.Report.load(file)
    except OSError as error:
        raise UsageError(
            f"report cannot be read: {error}\n\nhint: make one with `hyperpy bench --json FILE`"
        ) from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def _write(file: str | None, page: Callable[[], str]) -> None:
    if file is None:
        return
    try:
        Path(file).write_text(page(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"page cannot be written: {error}\n\nhint: name another file") from None


def _must_be_writable(file: Path) -> None:
    """Now, not after some minutes."""
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(
            f"file cannot be written: {file}\n\nhint: name a file in a folder that is there and yours"
        )
