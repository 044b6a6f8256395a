"""What every command shares: how arguments are read, and how it is said that one is wrong.

Messages go to standard error: lower case, then a hint; the status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from hyperpy._words import nearest

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = [
    "STATUS_ERROR",
    "Parser",
    "UsageError",
    "checked",
    "complain",
    "count",
    "number",
    "parse",
    "seconds",
    "until_unread",
]

_T = TypeVar("_T")

STATUS_ERROR = 1


class UsageError(ValueError):
    """The command line asks for something that cannot be; the message has its hint."""


class Parser(argparse.ArgumentParser):
    """Arguments whose errors are `UsageError`s."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, with a hint."""
        hint = "" if "\nhint: " in message else f"\n\nhint: `{self.prog} --help` shows what there is"
        raise UsageError(message + hint)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help. argparse's own hides that nobody reads it."""
        print(self.format_help(), end="", file=file)


def until_unread(command: Callable[[], int]) -> int:
    """Run a command and return its status; once nobody reads what it says, end quietly, as a program that SIGPIPE ends.

    So it is with `hyperpy doctor | head -1`. The status is 128 + SIGPIPE.
    """
    try:
        try:
            return command()
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    except BrokenPipeError:
        # What is still to be written goes nowhere: the interpreter flushes once more at its end (Python's note on SIGPIPE).
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except BrokenPipeError:
                with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())
        return 128 + signal.SIGPIPE


def complain(command: str, error: object) -> int:
    """Say on standard error what is wrong; return the status for it."""
    print(f"hyperpy {command}".rstrip() + f": {error}", file=sys.stderr, flush=True)
    return STATUS_ERROR


def checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A converter for argparse that keeps the message of a ValueError."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def parse(parser: Parser, argv: Sequence[str], stray: str = "", stray_option: str = "") -> argparse.Namespace:
    """Read the arguments; `stray` is the hint for one that is no option, `stray_option` for an option of another."""
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        hint = nearest(unknown[0].partition("=")[0], known) or (
            stray_option if unknown[0].startswith("-") else stray
        )
        parser.error(f"unknown argument: {unknown[0]}" + (f"\n\nhint: {hint}" if hint else ""))
    return options


def number(text: str) -> int:
    """A number as Python writes it: 16, 0x10."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"not a number: {text!r}\n\nhint: write 16 or 0x10")
    return value


def count(text: str) -> int:
    """A number of cpus."""
    if (value := number(text)) == 0:
        raise ValueError("a machine has at least one cpu: 0\n\nhint: give 1 or more")
    return value


def seconds(text: str) -> float:
    """A time in seconds, more than none."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"not a time: {text!r}\n\nhint: give seconds, more than 0, such as 90 or 0.5")
    return value
