"""Words that were probably meant: for hints."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: object, known: Iterable[str]) -> str:
    """A hint that names the known word that was probably meant, or nothing.

    Example:
        >>> nearest("unclaimd", ["unclaimed", "name"])
        'did you mean unclaimed?'
    """
    import difflib  # noqa: PLC0415 - it costs more than all that is right

    folded = {one.lower(): one for one in known}
    sought = str(word).lower()
    found = [one for one in folded if sought and one.endswith(f"_{sought}")]  # LSTAR is IA32_LSTAR
    found = found or difflib.get_close_matches(sought, folded, n=1)
    return f"did you mean {folded[found[0]]}?" if found else ""
