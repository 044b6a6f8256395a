"""What a machine can boot: flat code, and Linux kernels with everything else that speaks their boot protocol.

An image is a value that says what to load; `Machine.load` puts it into memory and sets vcpu 0 to its entry. The loaders
are in Rust; the cache of unpacked kernels is in `_unpacked`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from hyperpy import _hyperpy
from hyperpy._value import Value
from hyperpy.errors import BootError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy.machine import Machine

__all__ = ["Flat", "Image", "Linux"]

Source: TypeAlias = str | os.PathLike[str] | bytes
# A bzImage's setup header lies in its first two sectors (Documentation/arch/x86/boot.rst).
_SETUP_BYTES = 1024


class Image(Protocol):
    """Something that `Machine.load` takes."""

    def load_into(self, machine: Machine) -> None:
        """Put the image into the machine's memory and set vcpu 0 to its entry; run nothing."""


class Flat(Value):
    """Code as it is, entered at its first byte.

    Arguments:
        code: the bytes.
        at: gpa to load them at; in real mode below 1 MiB.
        mode: real (16-bit), protected (32-bit, flat, no paging) or long (64-bit, the first 4 GiB mapped one to one).

    rsp is 0x8ff0, interrupts are off. In protected and long mode the descriptor tables are made for it; exceptions
    shut the machine down until the code has an interrupt table.
    """

    code: Buffer
    at: int = 0x1000
    mode: Literal["real", "protected", "long"] = "long"

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        if not 0 <= self.at < 1 << 64:
            raise ValueError(f"not a guest-physical address: {self.at:#x}\n\nhint: from 0 to 2**64 - 1")
        _hyperpy.load_flat(machine._native, self.code, self.at, self.mode)


class Linux(Value):
    """A Linux kernel: bzImage (vmlinuz) or ELF vmlinux; also other programs of its boot protocol, such as memtest86+.

    Arguments:
        kernel: path, or the bytes.
        initrd: path or bytes of the initial RAM disk, or None.
        cmdline: kernel command line.
        unpack: unpack a bzImage's payload on the host, once, into the cache.

    Loading gives the machine a PC's stock devices with COM1 as its console, ACPI tables, interrupt controllers, and
    `unclaimed = "ones"`.
    """

    kernel: Source
    initrd: Source | None = None
    cmdline: str = "console=ttyS0"
    unpack: bool = True

    def load_into(self, machine: Machine) -> None:
        """Load it; see `Machine.load`."""
        kernel = _read(self.kernel, "kernel")
        initrd = None if self.initrd is None else _read(self.initrd, "initrd")
        payload = None
        if self.unpack:
            from hyperpy._unpacked import unpacked_kernel  # noqa: PLC0415 - see there

            payload = unpacked_kernel(kernel)
        machine.attach_pc()
        listed = machine._listed()
        setup = None if payload is None else kernel[:_SETUP_BYTES]
        cmdline = self.cmdline.encode()
        _hyperpy.load_linux(machine._native, payload or kernel, setup, initrd, cmdline, listed)
        machine.unclaimed = "ones"


def _read(source: Source, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        hint = "check the path; `ls -l` shows whether you may read it"
        raise BootError(f"{what} cannot be read: {error}", hint=hint) from error
