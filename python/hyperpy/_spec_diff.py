"""The difference of two specs, by key path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hyperpy import _spec_form as form

__all__ = ["Change", "Difference", "difference"]


class Change(NamedTuple):
    """One key that two specs have otherwise; None: it is not there."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True)
class Difference:
    """The difference of two specs; prints as one line for each key, and is false when there is none."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """Of two specs as tables with their defaults."""
    before, after = _flat(old), _flat(new)
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    # What was empty and has something now, or the other way, is told by what is in it.
    told = [
        path for path in paths if not (_is_filled(path, before, after) or _is_filled(path, after, before))
    ]
    return Difference(tuple(Change(path, before.get(path), after.get(path)) for path in told))


def _is_filled(path: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.get(path) in ([], {}) and any(at.startswith((f"{path}.", f"{path}[")) for at in other)


def _shown(value: object) -> str:
    shown = form.unread(value)
    return "(not there)" if value is None else shown if isinstance(shown, str) else json.dumps(shown)


def _flat(table: Any, path: str = "") -> dict[str, Any]:
    match table:
        case Mapping() if table:
            pairs = [(f"{path}.{key}" if path else str(key), value) for key, value in table.items()]
        case list() if table and isinstance(table[0], Mapping):
            pairs = [(f"{path}[{index}]", value) for index, value in enumerate(table)]
        case _:
            return {path: table}
    return {key: value for at, item in pairs for key, value in _flat(item, at).items()}
