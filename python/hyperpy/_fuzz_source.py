"""How a script names what a fuzzer was given: the function that makes the device, and invariants.

A name in a module where there is one; the text of a `lambda`, which is evaluated in its module; of a device that a nested function
makes, its class and the arguments that it was made with.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from hyperpy._fuzz_findings import FuzzError

__all__ = ["Source", "factory_source", "loading", "source_of"]

_WHY = "a script cannot name"
_HINT = "define the device's class and its invariants in a module, outside of functions; crash.save() keeps the input in any case"


class Source(NamedTuple):
    """Where something is defined, and the expression that gives it there."""

    module: str
    file: str
    expression: str


def source_of(thing: Any) -> Source:
    """Return how a script names a function or a class.

    Raises:
        FuzzError: it cannot.
    """
    name = getattr(thing, "__qualname__", "")
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        raise FuzzError(f"{_WHY} {name or thing!r}: it is in no file", hint=_HINT)
    place = module.__name__, str(Path(file).resolve())
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if name and found is thing:
        return Source(*place, name)
    if isinstance(thing, FunctionType) and thing.__name__ == "<lambda>" and not thing.__code__.co_freevars:
        return Source(*place, _text_of(thing))
    raise FuzzError(f"{_WHY} {name or thing!r}: it is not found by its name in its module", hint=_HINT)


def _text_of(function: FunctionType) -> str:
    """The text of a lambda."""
    code = function.__code__
    try:
        lines, first = inspect.findsource(function)
        source = "".join(lines)
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError) as error:  # somebody is at work on it
        raise FuzzError(
            f"{_WHY} a lambda of line {code.co_firstlineno}: its file has changed", hint=_HINT
        ) from error
    # The place of the lambda's body is known to the column.
    bodies = [place for place in code.co_positions() if place[0] is not None and place[2] is not None]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Lambda) or node.lineno != code.co_firstlineno:
            continue
        inside = [
            (node.body.lineno, node.body.col_offset)
            <= (line, column)
            <= (node.end_lineno, node.end_col_offset)
            for line, _, column, _ in bodies
            if line is not None and line >= node.body.lineno and (line, column) != (first + 1, 0)
        ]
        if inside and all(inside):
            text = ast.get_source_segment(source, node)
            if text is not None:
                return f"({text})"
    raise FuzzError(f"{_WHY} a lambda of line {code.co_firstlineno}: its text is not found", hint=_HINT)


def factory_source(factory: Any, device: Any) -> tuple[Source, str]:
    """Return how a script makes the device: what it calls, and the arguments.

    Raises:
        FuzzError: it cannot.
    """
    try:
        return source_of(factory), "()"
    except FuzzError:
        arguments, named = getattr(device, "_made_with", None) or ((), {})
        shown = ", ".join(
            [*map(_literal, arguments), *(f"{name}={_literal(value)}" for name, value in named.items())]
        )
        return source_of(type(device)), f"({shown})"


def _literal(value: object) -> str:
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise FuzzError(f"{_WHY} an argument that the device was made with: {text:.60}", hint=_HINT)


def loading(sources: list[Source]) -> tuple[str, dict[str, str]]:
    """Return the lines of a script that import modules, and by module the name that it has there."""
    lines, names = ["import sys"], dict[str, str]()
    by_file = False
    for module, file in dict.fromkeys((source.module, source.file) for source in sources):
        path = Path(file)
        stem = path.parent.name if path.stem == "__init__" else path.stem
        dotted = stem if module == "__main__" else module
        depth = dotted.count(".") + (path.stem == "__init__")
        parts = list(path.with_suffix("").parts)
        if path.stem == "__init__":
            parts.pop()
        names[module] = name = f"module_{len(names)}" if names else "target"
        if module.partition(".")[0] == "hyperpy":
            lines.append(f"import {dotted} as {name}")
        elif parts[-dotted.count(".") - 1 :] == dotted.split("."):
            lines += [f"sys.path.insert(0, {str(path.parents[depth])!r})", f"import {dotted} as {name}"]
        else:
            by_file = True
            lines += [
                f"spec = importlib.util.spec_from_file_location({stem!r}, {file!r})",
                f"{name} = sys.modules[{stem!r}] = importlib.util.module_from_spec(spec)",
                f"spec.loader.exec_module({name})",
            ]
    return "\n".join(["import importlib.util", *lines] if by_file else lines), names
