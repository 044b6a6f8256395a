"""`hyperpy fuzz`: its arguments, and what it shows while a campaign runs: a page on a terminal, lines elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from hyperpy._fuzz_campaign import Campaign, CampaignReport, Finding
from hyperpy._fuzz_findings import FuzzError, printable
from hyperpy._usage import STATUS_ERROR, Parser, checked, complain, number, parse

__all__ = ["main", "page"]

_EPILOG = """\
TARGET.py defines, at its top level, what is fuzzed:

  import hyperpy
  fuzzer = hyperpy.fuzz.DeviceFuzzer(MyNic)
  fuzzer.invariant(lambda nic: nic.level <= 64)

or a function `target()` that returns it; TARGET.py:NAME takes another name. Ctrl-C ends it, and all is kept.

exit status: 0 when nothing was found; 1 when something was, and on errors; 130 after Ctrl-C"""
# Lines are printed so often, where no terminal shows a page.
_EVERY = 5.0
_PAGE = 0.2
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """A time: 90, 60s, 5m, 2h, 1d.

    Raises:
        ValueError: it is none.

    Example:
        >>> duration("5m")
        300.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"not a time: {text!r}\n\nhint: 60s, 5m, 2h")
    return seconds


def _workers(text: str) -> int:
    if (value := number(text)) == 0:
        raise ValueError("a campaign has at least one worker: 0\n\nhint: give 1 or more")
    return value


def main(argv: Sequence[str]) -> int:
    """Run the command, and return its status."""
    parser = Parser(
        prog="hyperpy fuzz",
        description="Look for inputs that break a device, with several processes.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET.py", help="the file that defines what is fuzzed")
    parser.add_argument("--workers", metavar="N", type=checked(_workers), default=1, help="processes (1)")
    parser.add_argument(
        "--time", metavar="TIME", type=checked(duration), help="such as 60s, 5m, 2h; until Ctrl-C"
    )
    parser.add_argument("--corpus", metavar="DIR", help="inputs to begin with, and where new ones are kept")
    parser.add_argument(
        "--crashes", metavar="DIR", default="crashes", help="where crashes are kept (crashes)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=checked(number), default=0, help="of all that is random (0)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON at the end, and nothing else"
    )
    options = parse(parser, argv)
    campaign = Campaign(
        target=options.target,
        workers=options.workers,
        seed=options.seed,
        corpus=options.corpus,
        crashes=options.crashes,
        seconds=options.time,
    )
    shown = _Shown(options.json)
    status = 0
    try:
        campaign.run(shown.progress)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except FuzzError as error:
        # What it had found before is found.
        if shown.has_begun:
            shown.end()
        return complain("fuzz", error)
    report = shown.end()
    return status or (STATUS_ERROR if report is not None and report.crashes else 0)


class _Shown:
    """What was shown of a campaign."""

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._out: TextIO = sys.stdout
        self._is_page = not is_json and self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._report: CampaignReport | None = None
        self._lines = 0
        self._next = 0.0
        self._told: set[object] = set()

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to show."""
        report = self._report
        return report is not None and bool(report.executions or report.crashes or report.problems)

    def progress(self, report: CampaignReport) -> None:
        """Show how far it is."""
        self._report = report
        if self._is_json or not self.has_begun:
            return
        now = time.monotonic()
        news = [*map(_crash, report.crashes), *map(printable, report.problems)]
        fresh = [line for line in news if line not in self._told]
        if self._is_page:
            if now >= self._next or fresh:
                self._next = now + _PAGE
                self._told.update(fresh)
                self._draw(page(report))
            return
        for line in fresh:
            self._told.add(line)
            print(line, file=self._out, flush=True)
        if now >= self._next:
            self._next = now + _EVERY
            print(_line(report), file=self._out, flush=True)

    def _draw(self, lines: list[str]) -> None:
        """Put lines in the place of those before."""
        width, rows = _size()
        width = max(20, width)
        # What has scrolled away cannot be drawn over.
        if len(lines) > (most := max(10, rows - 1)):
            lines = [*lines[: most - 1], f"  and {len(lines) - most + 1} more"]
        up = f"\x1b[{self._lines}F" if self._lines else ""
        self._out.write(up + "\x1b[J" + "".join(f"{line[: width - 1]}\n" for line in lines))
        self._out.flush()
        self._lines = len(lines)

    def end(self) -> CampaignReport | None:
        """Show how it ended."""
        report = self._report
        if report is None:
            return None
        if self._is_json:
            print(json.dumps({**asdict(report), "executions_per_s": report.executions_per_s}, indent=2))
        elif self._is_page:
            self._draw(page(report))
        else:
            print(_line(report), file=self._out, flush=True)
        return report


def _size() -> tuple[int, int]:
    """Columns and rows of the terminal."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24  # 0: it does not say


def page(report: CampaignReport) -> list[str]:
    r"""The page that a terminal shows.

    Example:
        >>> print(*page(CampaignReport(1000, 20000, 150, 12, (), 2.0, 1, ())), sep="\n")
        time         2 s, 1 worker
        executions   1,000 (500/s)
        operations   20,000 (10,000/s)
        coverage     150
        corpus       12
        crashes      0
    """
    minutes, seconds = divmod(int(report.seconds), 60)
    spent = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    plural = "worker" if report.workers == 1 else "workers"
    running = f", {report.workers} {plural}" if report.workers else ""  # none: it is over
    rows = {
        "time": f"{spent}{running}",
        "executions": f"{report.executions:,} ({report.executions_per_s:,.0f}/s)",
        "operations": f"{report.operations:,} ({report.operations_per_s:,.0f}/s)",
        "coverage": f"{report.coverage:,}",
        "corpus": f"{report.corpus:,}",
        "crashes": f"{len(report.crashes)}",
    }
    if report.reset_us is not None:
        rows["reset"] = f"{report.reset_us:.1f} us"
    if report.minimizing:
        rows["minimizing"] = "; ".join(report.minimizing)
    lines = [f"{name:<12} {value}" for name, value in rows.items()]
    return [
        *lines,
        *(f"  {_crash(crash)}" for crash in report.crashes),
        *(f"  {printable(it)}" for it in report.problems),
    ]


def _line(report: CampaignReport) -> str:
    return (
        f"{report.seconds:.0f} s: {report.executions} executions ({report.executions_per_s:.0f}/s), coverage {report.coverage}, "
        f"corpus {report.corpus}, crashes {len(report.crashes)}"
    )


def _crash(crash: Finding) -> str:
    return printable(_told(crash))


def _told(crash: Finding) -> str:
    where = ", ".join(crash.where)
    kept = f" in {crash.folder}" if crash.folder else ""
    if crash.kind == "killed":
        named = f" at {where}" if ":" in where else ""  # else the input is all that tells it
        return f"crash: killed its worker, {crash.raised}{named}{kept}" + (
            "" if crash.reproduces else ", does not come again"
        )
    plural = "operation" if crash.operations == 1 else "operations"
    return (
        f"crash: {crash.kind}, {crash.raised or 'found'} at {where or '?'}, {crash.operations} {plural}{kept}"
        + ("" if crash.reproduces else ", does not come again")
    )
