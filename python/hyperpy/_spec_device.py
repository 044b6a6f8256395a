"""Devices in specs: the class by its name, its place, its arguments; found, imported and made."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperpy import _spec_form as form
from hyperpy._spec_form import Form, rule
from hyperpy._toml import Hex
from hyperpy._words import nearest
from hyperpy.errors import SpecError

__all__ = ["DeviceSpec"]

_PORT = form.number(0, 0xFFFF, "a port, 0 to 0xffff")
_GSI = form.number(0, 4095, "a gsi, 0 to 4095")
_MODEL = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")
# Devices of hyperpy itself: the name of their class.
STOCK = {"debug-exit": "DebugExit", "debug-console": "DebugConsole"}


def _by_name(each: form.Rule, nothing: str) -> form.Rule:
    """A number, or several by the names of windows or lines."""

    def check(value: object) -> int | dict[str, int]:
        if not isinstance(value, Mapping):
            number: int = each(value)
            return number
        if not value:
            raise ValueError(nothing)
        found = {}
        for name, number in value.items():
            try:
                found[form.text(name)] = each(number)
            except ValueError as error:
                message, _, hint = str(error).partition("\n\nhint: ")
                raise SpecError(message, path=str(name), hint=hint) from None
        return found

    return check


def _places(each: form.Rule) -> form.Rule:
    return _by_name(each, "no window is named\n\nhint: { regs = 0xfe000000 }, or leave it out")


def _as_hex(value: int | Mapping[str, int]) -> Hex | dict[str, Hex]:
    if isinstance(value, Mapping):
        return {name: form.as_hex(place) for name, place in value.items()}
    return form.as_hex(value)


def _disabled(value: object) -> bool | tuple[str, ...]:
    """True, or the names of windows; none of them for False."""
    if not isinstance(value, list | tuple):
        return form.flag(value) or ()
    return tuple(sorted({form.text(name) for name in value}))


def _as_list(value: bool | tuple[str, ...]) -> bool | list[str]:
    return value if isinstance(value, bool) else list(value)


_LINES = _by_name(_GSI, "no line is named\n\nhint: { rx = 5 }, or leave it out")


def _model(value: object) -> str:
    model = form.text(value)
    match = _MODEL.fullmatch(model)
    if model not in STOCK and (match is None or match[1].endswith(".py")):
        hint = f"write module:Class, without .py, or one of {', '.join(STOCK)}"
        raise ValueError(f"not a module and class: {model!r}\n\nhint: {hint}")
    return model


@dataclass(frozen=True, kw_only=True)
class DeviceSpec(Form):
    """A device and where it sits.

    Arguments:
        model: its class as "module:Class", found in the spec's folder too; or "debug-exit" or "debug-console".
        mmio: first gpa. Exactly one of `mmio` and `pio` is given, but for a device with windows: `{ regs = 0xfe000000 }`.
        pio: first port, or `{ ports = 0x300 }`.
        size: length of its range, in bytes or as "4K"; None: the class knows.
        irq: gsi of its interrupt line; of a device with several, by name: `{ rx = 5, tx = 6 }`.
        disabled: True if it is off its buses, as `Machine.disable` leaves it; or the names of the windows that are.
        name: shown in maps; None: the class's name.
        args: keyword arguments of its class: values that TOML can hold.
    """

    model: str = field(metadata=rule(_model))
    mmio: int | Mapping[str, int] | None = field(
        default=None, hash=False, metadata=rule(form.optional(_places(form.address)), shown=_as_hex)
    )
    pio: int | Mapping[str, int] | None = field(
        default=None, hash=False, metadata=rule(form.optional(_places(_PORT)), shown=_as_hex)
    )
    size: int | str | None = field(default=None, metadata=rule(form.optional(form.size), shown=form.as_size))
    irq: int | Mapping[str, int] | None = field(
        default=None, hash=False, metadata=rule(form.optional(_LINES))
    )
    disabled: bool | tuple[str, ...] = field(default=(), metadata=rule(_disabled, shown=_as_list))
    name: str | None = field(default=None, metadata=rule(form.optional(form.text)))
    args: Mapping[str, Any] = field(default_factory=dict, hash=False, metadata=rule(form.values))

    def _together(self) -> None:
        by_window = [isinstance(where, Mapping) for where in (self.mmio, self.pio) if where is not None]
        if len(by_window) != 1 and not (by_window and all(by_window)):
            raise SpecError("a device sits on one bus", hint="give pio = PORT or mmio = ADDRESS")
        if self.size is not None and any(by_window):
            raise SpecError("a window has a size by its class", path="size", hint="leave it out")
        if not isinstance(self.disabled, bool):
            places = (where for where in (self.mmio, self.pio) if isinstance(where, Mapping))
            named = [name for where in places for name in where]
            for name in self.disabled:
                if name not in named:
                    hint = f"windows that have a place: {', '.join(named) or 'none; write disabled = true'}"
                    raise SpecError(f"no such window: {name!r}", path="disabled", hint=hint)
            if 0 < len(self.disabled) == len(named):  # the same, in its one form
                object.__setattr__(self, "disabled", True)

    def kind(self, folder: str = ".") -> type:
        """Its class, imported; the module is looked for in `folder` too.

        Raises:
            SpecError: there is no such module or class. What its own code raises, goes on.
        """
        if self.model in STOCK:
            from hyperpy import device  # noqa: PLC0415 - only machines that are made need it

            stock: type = getattr(device, STOCK[self.model])
            return stock
        module_name, _, name = self.model.partition(":")
        try:
            place = os.path.abspath(folder)
            if place not in map(os.path.abspath, sys.path):
                sys.path.insert(0, place)
        except FileNotFoundError:
            hint = "cd to one that is there"
            raise SpecError("current folder is gone", path="model", hint=hint) from None
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # something that the user's module wants
            hint = f"it is looked for in {place} and in Python's path"
            raise SpecError(f"no such module: {error.name}", path="model", hint=hint) from None
        found = getattr(module, name, None)
        if not isinstance(found, type):
            # Those that could be devices: what a module imports is among its names too.
            known = [
                key
                for key, value in vars(module).items()
                if isinstance(value, type) and hasattr(value, "write")
            ]
            hint = nearest(name, known)
            hint = hint or f"its devices: {', '.join(known) or 'none'}"
            raise SpecError(f"no such class in {module_name}: {name}", path="model", hint=hint)
        return found

    def make(self, folder: str = ".", console: object = None) -> object:
        """The device.

        Raises:
            SpecError: as for `kind`; or its class does not take these arguments. What its own code raises, goes on.
        """
        kind = self.kind(folder)
        if self.model == "debug-console":
            return kind(console)
        try:
            inspect.signature(kind).bind(**self.args)
        except ValueError:
            pass  # it has no signature to be had: then it is tried
        except TypeError as error:
            hint = f"it takes {inspect.signature(kind)}; give them as args = {{ name = value }}"
            raise SpecError(
                f"{self.model} does not take these arguments: {error}", path="args", hint=hint
            ) from None
        return kind(**self.args)
