"""Machines as values: what a machine is made of, to and from TOML and JSON, checked, compared, and made.

A spec is a frozen dataclass that says everything that `Machine(...)`, `attach`, `memory.add` and `load` would be told.
Here are the classes but those of images (`_spec_image`) and devices (`_spec_device`); the form of their values is in
`_spec_form`, the static check in `_spec_check`. `hyperpy run`, `hyperpy check` and `hyperpy diff` are the same on the
command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from hyperpy import _spec_form as form
from hyperpy._spec_device import DeviceSpec
from hyperpy._spec_diff import Change, Difference, difference
from hyperpy._spec_form import Form, rule
from hyperpy._spec_image import (
    IMAGES,
    FirmwareSpec,
    FlatSpec,
    ImageSpec,
    KernelSpec,
    LinuxSpec,
    ModuleSpec,
    MultibootSpec,
    PvhSpec,
    bytes_of,
    within,
)
from hyperpy._toml import dumps
from hyperpy.errors import DeviceError, SpecError

if TYPE_CHECKING:
    from hyperpy._spec_check import Finding
    from hyperpy.machine import Machine
    from hyperpy.memory import HugePages

__all__ = [
    "IMAGES",
    "Change",
    "DeviceSpec",
    "Difference",
    "FirmwareSpec",
    "FlatSpec",
    "KernelSpec",
    "LinuxSpec",
    "MachineSpec",
    "ModuleSpec",
    "MultibootSpec",
    "PvhSpec",
    "RegionSpec",
    "SpecError",
]

_PROCESSOR = form.number(0, (1 << 32) - 1, "a processor's number, from 0")
_HUGE = form.optional(form.one_of("2M", "1G", "transparent"))
_TRACED = form.number(0, 1 << 20, "how many exits of each vcpu are recorded, 0 to 2**20")
_VCPUS = form.number(1, (1 << 32) - 1, "a number of vcpus, from 1")


@dataclass(frozen=True, kw_only=True)
class RegionSpec(Form):
    """A region of memory besides RAM at 0; see `Memory.add` and `Memory.alias`.

    `file` is what lies at its start; `of` is for an alias: the gpa of what appears there.
    """

    gpa: int = field(metadata=rule(form.address, shown=form.as_hex))
    size: int | str = field(metadata=rule(form.size, shown=form.as_size))
    kind: Literal["ram", "rom", "mmio", "alias"] = field(
        default="ram", metadata=rule(form.one_of("ram", "rom", "mmio", "alias"))
    )
    name: str | None = field(default=None, metadata=rule(form.optional(form.text)))
    file: str | None = field(default=None, metadata=rule(form.optional(form.path)))
    of: int | None = field(default=None, metadata=rule(form.optional(form.address), shown=form.as_hex))
    huge_pages: HugePages | None = field(default=None, metadata=rule(_HUGE))

    def _together(self) -> None:
        if self.file is not None and self.kind not in {"ram", "rom"}:
            raise SpecError(
                f"{self.kind} has no contents of its own", path="file", hint='kind = "rom" or "ram" has'
            )
        if self.huge_pages is not None and self.kind not in {"ram", "rom"}:
            raise SpecError(
                f"{self.kind} has no pages of its own", path="huge_pages", hint='kind = "ram" or "rom" has'
            )
        if (self.kind == "alias") != (self.of is not None):
            raise SpecError(
                "an alias, and only that, is of something", path="of", hint='kind = "alias", of = GPA'
            )


@dataclass(frozen=True, kw_only=True)
class MachineSpec(Form):
    """A machine.

    Sizes are given in bytes or as "64M" and kept in bytes. Paths are relative to `folder`, which is that of the file
    that was read. Values that cannot be are a `SpecError`; what cannot be together is found by `check`.

    Arguments:
        name, memory, vcpus, irqchip: as of `Machine`.
        unclaimed: the same; None: as the image has it.
        huge_pages, cpus, cpu_limit, trace: as of `Machine`; `cpus` is a list of numbers. `hyperpy run` records some exits
            by itself.
        pc: a PC's stock devices, as `Machine.attach_pc`; an operating system's image has them anyway.
        serial: what `hyperpy run` connects COM1 with: "stdio", "file:PATH" or "none".
        image: what is loaded, or None.
        devices, regions: what is attached, and memory besides RAM.
        folder: what paths are relative to; no part of the spec's value.

    Example:
        >>> spec = MachineSpec.from_toml('''
        ... memory = "1M"
        ... image = { kind = "flat", code = "b0 03 e6 f4", mode = "real" }  # mov al, 3; out 0xf4, al
        ...
        ... [[devices]]
        ... model = "debug-exit"
        ... pio = 0xf4
        ... ''')
        >>> with spec.make() as m:
        ...     print(m.run(timeout=1.0))
        Exit.Stopped(vcpu=0, reason='debug exit', status=7)
        >>> print(spec.diff(MachineSpec(memory="2M", image=spec.image)))
        memory: 1M -> 2M
        devices[0].model: debug-exit -> (not there)
        devices[0].pio: 0xf4 -> (not there)
    """

    name: str | None = field(default=None, metadata=rule(form.optional(form.text)))
    memory: int | str = field(default="64M", metadata=rule(form.size, shown=form.as_size))
    vcpus: int = field(default=1, metadata=rule(_VCPUS))
    irqchip: bool = field(default=False, metadata=rule(form.flag))
    unclaimed: Literal["exit", "ones", "raise"] | None = field(
        default=None, metadata=rule(form.optional(form.one_of("exit", "ones", "raise")))
    )
    huge_pages: HugePages | None = field(default=None, metadata=rule(_HUGE))
    cpus: tuple[int, ...] | None = field(
        default=None, metadata=rule(form.optional(form.numbers(_PROCESSOR)), shown=list)
    )
    cpu_limit: float | None = field(default=None, metadata=rule(form.optional(form.positive)))
    trace: int = field(default=0, metadata=rule(_TRACED))
    pc: bool = field(default=False, metadata=rule(form.flag))
    serial: str = field(default="stdio", metadata=rule(form.text))
    image: ImageSpec | None = field(default=None, metadata=rule(form.kinds(IMAGES), of=IMAGES))
    devices: tuple[DeviceSpec, ...] = field(default=(), metadata=rule(form.many(DeviceSpec), of=DeviceSpec))
    regions: tuple[RegionSpec, ...] = field(default=(), metadata=rule(form.many(RegionSpec), of=RegionSpec))
    folder: str = field(default=".", compare=False, repr=False)

    def _together(self) -> None:
        if self.serial not in {"stdio", "none"} and not re.fullmatch("(?s)file:.+", self.serial):
            raise SpecError(
                f"unknown serial line: {self.serial!r}", path="serial", hint="stdio, file:PATH or none"
            )

    # -- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_toml(cls, source: str | os.PathLike[str]) -> Self:
        """Read a spec. A str with a newline, "=" or "[" in it is the text itself, every other one a path.

        Raises:
            SpecError: it cannot be read, or is no spec; names file and key.
        """
        is_text = isinstance(source, str) and (not source or bool(set("\n=[") & set(source)))
        return cls._read(source, tomllib.loads, is_text)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a spec. A str that begins with "{" is the text itself, every other one a path.

        Raises:
            SpecError: as for `from_toml`.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        return cls._read(source, _json, is_text)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a spec from a file whose name ends with .toml or .json.

        Raises:
            SpecError: as for `from_toml`.
        """
        suffix = Path(_text_or_path(path)).suffix.lower()
        if suffix not in {".toml", ".json"}:
            raise SpecError(f"not a spec by its name: {os.fspath(path)}", hint="it ends with .toml or .json")
        return cls._read(path, _json if suffix == ".json" else tomllib.loads, False)

    @classmethod
    def _read(cls, source: str | os.PathLike[str], loads: Any, is_text: bool) -> Self:
        file = None if is_text else os.fspath(_text_or_path(source))
        try:
            content = source if file is None else Path(file).read_text(encoding="utf-8")
            table = loads(content)
        except OSError as error:
            raise SpecError(
                f"spec cannot be read: {error.strerror}", file=file, hint="check the path"
            ) from None
        except (ValueError, RecursionError) as error:
            what, _, hint = str(error).partition("\n\nhint: ")
            hint = hint or "the message tells line and column; text goes in quotes, tables in [brackets]"
            raise SpecError(f"spec is not in its language: {what}", file=file, hint=hint) from None
        try:
            spec = form.read(cls, table)
        except SpecError as error:
            raise error.under("", file) from None
        return spec if file is None else replace(spec, folder=os.path.dirname(file) or ".")

    def to_toml(self) -> str:
        """The spec as TOML; what has its default is left out. `from_toml` gives an equal spec.

        Example:
            >>> print(MachineSpec(memory="64M", vcpus=2).to_toml(), end="")
            vcpus = 2
        """
        return dumps(form.plain(self))

    def to_json(self) -> str:
        """The spec as JSON; addresses are text such as "0x1000". `from_json` gives an equal spec."""
        return json.dumps(form.unread(form.plain(self)), indent=2, ensure_ascii=False)

    # -- machines ----------------------------------------------------------------------------------------------------

    def make(self) -> Machine:
        """A machine of this spec: memory, devices, image.

        Raises:
            SpecError: a device or file cannot be had, or cannot be where it should; names the key. Also what `Machine`
                and `load` raise, and a device's own code.
        """
        return self.assemble(self.make_devices())

    def make_devices(self) -> list[Any]:
        """The devices alone, in order; None for those that need the machine. The user's code runs here."""
        made = []
        for index, spec in enumerate(self.devices):
            try:
                made.append(None if spec.model == "debug-console" else spec.make(self.folder))
            except SpecError as error:
                raise error.under(f"devices[{index}]") from None
        return made

    def assemble(self, devices: list[Any]) -> Machine:
        """The rest of `make`."""
        from hyperpy import machine  # noqa: PLC0415 - specs are read and compared without it

        made = machine.Machine(
            memory=self.memory,
            vcpus=self.vcpus,
            irqchip=self.irqchip,
            name=self.name,
            unclaimed=self.unclaimed or "exit",
            huge_pages=self.huge_pages,
            cpus=self.cpus,
            cpu_limit=self.cpu_limit,
            trace=self.trace,
        )
        things: list[Any] = []
        try:
            for index, region in enumerate(self.regions):
                with _named(f"regions[{index}]"):
                    self._add(made, region)
            # Before the image, since a kernel's tables list them, and before the stock devices that they stand for.
            for index, (spec, device) in enumerate(zip(self.devices, devices, strict=True)):
                with _named(f"devices[{index}]"):
                    things.append(spec.make(console=made.console) if device is None else device)
                    made._attach(
                        things[-1], spec.pio, spec.mmio, spec.size, spec.irq, spec.name, spec.disabled
                    )
            if self.pc:
                made.attach_pc()
            if self.image is not None:
                made.load(self.image.make(self.folder))
            if self.unclaimed is not None:
                made.unclaimed = self.unclaimed
        except BaseException:
            made.close()
            raise
        made._made_from = (self, made._image, things)
        return made

    def _add(self, made: Machine, region: RegionSpec) -> None:
        if region.kind == "alias":
            made.memory.alias(
                region.gpa, of=region.of or 0, size=region.size, name=region.name or region.kind
            )
            return
        name = region.name or region.kind
        made.memory.add(region.gpa, region.size, kind=region.kind, name=name, huge_pages=region.huge_pages)
        if region.file is not None:
            made.memory.write(region.gpa, bytes_of(within(self.folder, region.file), "file"))

    def check(self) -> list[Finding]:
        """What of this spec cannot be together, or be had; found without KVM. Devices' modules are imported.

        Example:
            >>> for finding in MachineSpec(devices=(DeviceSpec(model="debug-exit", mmio=0x1000),)).check():
            ...     print(finding)
            devices[0].mmio: lies over memory: 0x1000 to 0x1003 over ram at 0x0
            <BLANKLINE>
            hint: the guest would never reach the device; RAM ends at 0x4000000
        """
        from hyperpy._spec_check import check  # noqa: PLC0415 - it imports the stock devices

        return check(self)

    def diff(self, other: MachineSpec) -> Difference:
        """What `other` has otherwise, by key path."""
        if not isinstance(other, MachineSpec):
            raise TypeError(f"not a spec: {other!r}\n\nhint: another MachineSpec; `m.spec` is a machine's")
        return difference(form.plain(self, defaults=True), form.plain(other, defaults=True))


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Let what is wrong with a part name its key."""
    try:
        yield
    except SpecError as error:
        raise error.under(key) from None
    except (DeviceError, ValueError, TypeError) as error:
        what, _, hint = str(error).partition("\n\nhint: ")
        raise SpecError(what, path=key, hint=hint) from error


def _text_or_path(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"not text and not a path: {source!r}\n\nhint: decode() makes text of bytes")
    return source


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
            raise ValueError(f"key is there twice: {twice}\n\nhint: leave one out")
        return table

    return json.loads(text, object_pairs_hook=once)
