"""What both fuzzers check of what they are given, before anything runs. What one of them alone takes is checked where it is taken."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_end", "check_time", "checked_seed", "file_and_name", "words_of"]


def checked_seed(seed: object) -> int:
    """Return a seed.

    Raises:
        TypeError: it is no number.
    """
    if not isinstance(seed, int):
        raise TypeError(f"not a seed: {seed!r:.60}\n\nhint: an int, such as seed=7")
    return seed


def file_and_name(target: str) -> tuple[str, str]:
    """Return what "FILE.py:NAME" has; "FILE.py" has no name."""
    file, colon, name = target.rpartition(":")
    return (file, name) if colon and "/" not in name else (target, "")


def check_time(seconds: object) -> None:
    """Raise a `ValueError` unless something can take so long."""
    if not _is_time(seconds):
        raise ValueError(f"not a time: {seconds!r:.60}\n\nhint: seconds, 0 or more")


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, int | float) and seconds >= 0  # what is no number at all is not


def check_end(seconds: object, executions: object) -> None:
    """Raise a `ValueError` unless a run of so many seconds and executions has an end."""
    if seconds is None and executions is None:
        raise ValueError("run has no end\n\nhint: run(seconds=60), or run(executions=10_000)")
    if seconds is not None and not _is_time(seconds):
        raise ValueError(f"run cannot end: seconds={seconds!r:.60}\n\nhint: 0 or more")
    if executions is not None and not (isinstance(executions, int) and executions >= 0):
        raise ValueError(f"run cannot end: executions={executions!r:.60}\n\nhint: 0 or more")


def words_of(dictionary: Iterable[bytes | str | int]) -> tuple[bytes | str | int, ...]:
    """Return the words of a dictionary.

    Raises:
        TypeError: it is one word itself, or has something else.
    """
    if isinstance(dictionary, str | bytes):
        raise TypeError(
            f"dictionary is one word: {dictionary!r:.60}\n\nhint: dictionary=[{dictionary!r:.60}]"
        )
    words = tuple(dictionary)
    for word in words:
        if not isinstance(word, bytes | bytearray | str | int):
            raise TypeError(f"not a word of a dictionary: {word!r:.60}\n\nhint: bytes, a text, or a number")
    return words
