"""What a machine can boot: flat code, and Linux kernels with everything else that speaks their boot protocol.

An image is a value that says what to load; `Machine.load` puts it into memory and sets vcpu 0 to its entry. The loaders
are in Rust. Here is also the cache of unpacked kernels: a bzImage's payload is unpacked once on the host, under the
digest of the image, so that later boots skip the guest's own decompression.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from hyperpy import _hyperpy
from hyperpy.cache import cache_dir
from hyperpy.errors import BootError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy.machine import Machine

__all__ = ["Flat", "Image", "Linux", "cache_dir"]

Source: TypeAlias = str | os.PathLike[str] | bytes
PAYLOAD_LIMIT = 1 << 30
# A bzImage's setup header lies in its first two sectors (Documentation/arch/x86/boot.rst).
_SETUP_BYTES = 1024


class Image(Protocol):
    """Something that `Machine.load` takes."""

    def load_into(self, machine: Machine) -> None:
        """Put the image into the machine's memory and set vcpu 0 to its entry; run nothing."""


@dataclass(frozen=True)
class Flat:
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


@dataclass(frozen=True)
class Linux:
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
        payload = _cached_payload(kernel) if self.unpack else None
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
        return Path(source).read_bytes()
    except OSError as error:
        hint = "check the path; `ls -l` shows whether you may read it"
        raise BootError(f"{what} cannot be read: {error}", hint=hint) from error


def _cached_payload(kernel: bytes) -> bytes | None:
    """The ELF file in a bzImage, from the cache or unpacked now; None where there is none to be had."""
    if kernel[:4] == b"\x7fELF":
        return None
    import hashlib  # noqa: PLC0415 - here, because it loads OpenSSL: 5 ms that `import hyperpy` need not cost

    cached = cache_dir() / "kernels" / f"{hashlib.sha256(kernel).hexdigest()}.vmlinux"
    with contextlib.suppress(OSError):
        kept = cached.read_bytes()
        if kept[:4] == b"\x7fELF":
            return kept
    try:
        payload = _hyperpy.kernel_payload(kernel, PAYLOAD_LIMIT)
    except BootError:
        return None  # the guest can still unpack what we cannot
    if payload is None or payload[:4] != b"\x7fELF":
        return None
    _keep(cached, payload)
    return payload


def _keep(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: others may read it at the same moment. A cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its imports are a fifth of the time that `import hyperpy` takes.
        partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(
                    file.fileno()
                )  # so that a host that loses power leaves no half kernel under this name
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
    except OSError:
        return
