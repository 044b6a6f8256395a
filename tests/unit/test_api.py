"""The public face: names, documentation, and promises that hold for all of it."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import hyperpy
from hyperpy import console, device, errors, exits, machine, memory, stats, vcpu

ROOT = Path(__file__).parents[2]
PUBLIC = [getattr(hyperpy, name) for name in hyperpy.__all__]
CLASSES = [value for value in PUBLIC if inspect.isclass(value)]


def test_names_of_the_package_are_sorted_and_there() -> None:
    assert hyperpy.__all__ == sorted(hyperpy.__all__)
    assert len(PUBLIC) == len(set(hyperpy.__all__))


@pytest.mark.parametrize("module", [console, device, errors, exits, machine, memory, stats, vcpu])
def test_names_of_a_module_are_there(module: Any) -> None:
    for name in module.__all__:
        assert hasattr(module, name)


def test_version_is_that_of_the_workspace() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert hyperpy.__version__ == cargo["workspace"]["package"]["version"]


@pytest.mark.parametrize("thing", CLASSES, ids=lambda thing: thing.__name__)
def test_class_that_is_public_is_documented_with_its_methods(thing: type) -> None:
    assert thing.__doc__
    own = [kind for kind in thing.__mro__ if kind.__module__.startswith("hyperpy.")]  # mixins too
    for name, member in [item for kind in own for item in vars(kind).items()]:
        if name.startswith("_") or not isinstance(member, FunctionType | property):
            continue
        assert inspect.getdoc(member), f"{thing.__name__}.{name}"


@pytest.mark.parametrize("thing", [hyperpy.Machine, hyperpy.Machine.attach], ids=lambda t: t.__name__)
def test_options_are_given_by_keyword(thing: Any) -> None:
    options = [p for p in inspect.signature(thing).parameters.values() if p.default is not p.empty]
    assert options
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_device_defaults_read_ones_and_drop_writes() -> None:
    plain = hyperpy.Device()
    assert [plain.read(0, size) for size in (1, 2, 4, 8)] == [0xFF, 0xFFFF, 0xFFFFFFFF, 2**64 - 1]
    assert plain.write(0, 1, 5) is None
    assert plain.reset() is None  # type: ignore[func-returns-value]
    assert (plain.size, plain.acpi_hid, plain.irq_level, bool(plain.irq)) == (None, None, False, False)


def test_debug_console_on_what_is_no_console_is_refused() -> None:
    with pytest.raises(TypeError, match="not a console"):
        hyperpy.DebugConsole(object())


@pytest.mark.parametrize(
    "native",
    ["Machine", "Memory", "IrqLine", "StockDevice", "View", "VcpuThread", "Console", "Clock", "Timer"],
)
def test_native_class_cannot_be_subclassed(native: str) -> None:
    kind = getattr(hyperpy._hyperpy, native)
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})


@pytest.mark.parametrize(
    "native",
    ["BellThread", "Clock", "Memory", "IrqLine", "StockDevice", "Timer", "TimerThread", "View", "VcpuThread"],
)
def test_native_class_that_is_made_inside_cannot_be_made_by_hand(native: str) -> None:
    with pytest.raises(TypeError):
        getattr(hyperpy._hyperpy, native)()
