"""Images in specs: one class for each `kind`, with the paths of its files in place of their contents.

A kind more is a class more in `IMAGES`: fields with rules, `files` for the keys that are paths, `has_pc` for whether
loading gives the machine a PC's stock devices, and `make`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from hyperpy import _spec_form as form
from hyperpy._spec_form import Form, rule
from hyperpy.errors import SpecError

if TYPE_CHECKING:
    from hyperpy.boot import Image

__all__ = [
    "IMAGES",
    "FirmwareSpec",
    "FlatSpec",
    "ImageSpec",
    "KernelSpec",
    "LinuxSpec",
    "ModuleSpec",
    "MultibootSpec",
    "PvhSpec",
    "bytes_of",
    "within",
]

_PORT = form.number(0, 0xFFFF, "a port, 1 to 0xffff, or 0 for none")


@dataclass(frozen=True, kw_only=True)
class LinuxSpec(Form):
    """A `Linux` in files."""

    kernel: str = field(metadata=rule(form.path))
    initrd: str | None = field(default=None, metadata=rule(form.optional(form.path)))
    cmdline: str = field(default="console=ttyS0", metadata=rule(form.text))
    unpack: bool = field(default=True, metadata=rule(form.flag))
    # Keys that are paths of files to read; whether loading attaches a PC's stock devices.
    files: ClassVar[tuple[str, ...]] = ("kernel", "initrd")
    has_pc: ClassVar[bool] = True

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import Linux  # noqa: PLC0415 - only machines that are made need it

        initrd = None if self.initrd is None else within(folder, self.initrd)
        return Linux(within(folder, self.kernel), initrd, self.cmdline, self.unpack)


@dataclass(frozen=True, kw_only=True)
class FlatSpec(Form):
    """A `Flat`: its code in a file, or here in base 16, where spaces and lines do not count."""

    file: str | None = field(default=None, metadata=rule(form.optional(form.path)))
    code: str | None = field(default=None, metadata=rule(form.optional(form.text)))
    at: int = field(default=0x1000, metadata=rule(form.address, shown=form.as_hex))
    mode: Literal["real", "protected", "long"] = field(
        default="long", metadata=rule(form.one_of("real", "protected", "long"))
    )
    files: ClassVar[tuple[str, ...]] = ("file",)
    has_pc: ClassVar[bool] = False

    def _together(self) -> None:
        if (self.file is None) == (self.code is None):
            raise SpecError("code comes from one place", hint="give file = PATH or code = HEX")
        try:
            bytes.fromhex(self.code or "")
        except ValueError as error:
            raise SpecError(
                f"not bytes in base 16: {error}", path="code", hint='write "b0 41 e6 e9"'
            ) from None

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import Flat  # noqa: PLC0415

        code = bytes.fromhex(self.code or "")
        if self.file is not None:
            code = bytes_of(within(folder, self.file), "image.file")
        return Flat(code, self.at, self.mode)


@dataclass(frozen=True, kw_only=True)
class ModuleSpec(Form):
    """A module of a kernel: its file, and a line of text for it."""

    file: str = field(metadata=rule(form.path))
    line: str = field(default="", metadata=rule(form.text))


def _modules(modules: tuple[ModuleSpec, ...], folder: str) -> list[tuple[str, str]]:
    return [(within(folder, module.file), module.line) for module in modules]


@dataclass(frozen=True, kw_only=True)
class KernelSpec(Form):
    """A kernel in files whose kind is recognised, as `hyperpy run --kernel` does; see `hyperpy.boot.recognise`."""

    kernel: str = field(metadata=rule(form.path))
    initrd: str | None = field(default=None, metadata=rule(form.optional(form.path)))
    cmdline: str | None = field(default=None, metadata=rule(form.optional(form.text)))
    modules: tuple[ModuleSpec, ...] = field(default=(), metadata=rule(form.many(ModuleSpec), of=ModuleSpec))
    files: ClassVar[tuple[str, ...]] = ("kernel", "initrd")
    has_pc: ClassVar[bool] = True

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import recognise  # noqa: PLC0415

        initrd = None if self.initrd is None else within(folder, self.initrd)
        modules = _modules(self.modules, folder)
        return recognise(within(folder, self.kernel), initrd=initrd, cmdline=self.cmdline, modules=modules)


@dataclass(frozen=True, kw_only=True)
class PvhSpec(Form):
    """A `Pvh` in files."""

    kernel: str = field(metadata=rule(form.path))
    initrd: str | None = field(default=None, metadata=rule(form.optional(form.path)))
    cmdline: str = field(default="console=ttyS0", metadata=rule(form.text))
    modules: tuple[ModuleSpec, ...] = field(default=(), metadata=rule(form.many(ModuleSpec), of=ModuleSpec))
    files: ClassVar[tuple[str, ...]] = ("kernel", "initrd")
    has_pc: ClassVar[bool] = True

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import Pvh  # noqa: PLC0415

        initrd = None if self.initrd is None else within(folder, self.initrd)
        return Pvh(within(folder, self.kernel), initrd, self.cmdline, _modules(self.modules, folder))


@dataclass(frozen=True, kw_only=True)
class MultibootSpec(Form):
    """A `Multiboot` in files."""

    kernel: str = field(metadata=rule(form.path))
    cmdline: str = field(default="", metadata=rule(form.text))
    modules: tuple[ModuleSpec, ...] = field(default=(), metadata=rule(form.many(ModuleSpec), of=ModuleSpec))
    files: ClassVar[tuple[str, ...]] = ("kernel",)
    has_pc: ClassVar[bool] = True

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import Multiboot  # noqa: PLC0415

        return Multiboot(within(folder, self.kernel), self.cmdline, _modules(self.modules, folder))


@dataclass(frozen=True, kw_only=True)
class FirmwareSpec(Form):
    """A `Firmware` in a file; `debug_port` 0 is none."""

    file: str = field(metadata=rule(form.path))
    debug_port: int = field(default=0x402, metadata=rule(_PORT, shown=form.as_hex))
    files: ClassVar[tuple[str, ...]] = ("file",)
    has_pc: ClassVar[bool] = True

    def make(self, folder: str = ".") -> Image:
        """The image; paths are relative to `folder`."""
        from hyperpy.boot import Firmware  # noqa: PLC0415

        return Firmware(within(folder, self.file), debug_port=self.debug_port or None)


ImageSpec: TypeAlias = KernelSpec | LinuxSpec | FlatSpec | PvhSpec | MultibootSpec | FirmwareSpec
# What `kind` of an image can say.
IMAGES: Mapping[str, type[Form]] = {
    "kernel": KernelSpec,
    "linux": LinuxSpec,
    "flat": FlatSpec,
    "pvh": PvhSpec,
    "multiboot": MultibootSpec,
    "firmware": FirmwareSpec,
}


def within(folder: str, path: str) -> str:
    """A path that is relative to a folder; as it is, where that is the current one."""
    return path if folder == "." else os.path.join(folder, path)


def bytes_of(path: str, key: str) -> bytes:
    """Contents of a file that the spec names at `key`."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SpecError(
            f"file cannot be read: {error}", path=key, hint="paths are relative to the spec's file"
        ) from None
