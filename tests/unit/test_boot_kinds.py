"""Which image a kernel's file becomes, and what its kind does not take."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest

from hyperpy import BootError, Linux, Multiboot, Pvh
from hyperpy.boot import _named, recognise

BZIMAGE = bytes(0x202) + b"HdrS"
MULTIBOOT = struct.pack("<III", 0x1BADB002, 3, -(0x1BADB002 + 3) & 0xFFFF_FFFF)


def elf(note: bytes = b"") -> bytes:
    """An ELF file of the 64-bit class for x86-64 with one segment of notes."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4) + note


PVH = elf(struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x100_0000))


@pytest.mark.parametrize(
    ("kernel", "image"),
    [
        (BZIMAGE, Linux(BZIMAGE)),
        (elf(), Linux(elf())),
        (MULTIBOOT, Multiboot(MULTIBOOT)),
        (PVH, Pvh(PVH)),
        (gzip.compress(PVH), Pvh(gzip.compress(PVH))),
    ],
)
def test_kernel_becomes_the_image_that_it_is_for(kernel: bytes, image: Any, tmp_path: Path) -> None:
    if not kernel.startswith(b"\x1f\x8b"):  # gzip writes the time
        assert recognise(kernel) == image
    path = tmp_path / "kernel"
    path.write_bytes(kernel)
    found = recognise(path, cmdline="quiet")
    assert (type(found), found.kernel, found.cmdline) == (type(image), path, "quiet")


def test_options_go_to_the_kinds_that_take_them() -> None:
    assert recognise(PVH, initrd=b"i", modules=[b"m"]) == Pvh(PVH, b"i", modules=[b"m"])
    assert recognise(MULTIBOOT, modules=["m"]).modules == ["m"]  # type: ignore[union-attr]
    with pytest.raises(BootError, match="(?s)takes no initrd.*hint: .*module"):
        recognise(MULTIBOOT, initrd=b"i")
    with pytest.raises(BootError, match="(?s)takes no modules.*hint: .*initrd"):
        recognise(BZIMAGE, modules=[b"m"])


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "kernel", [b"", b"MZ\0\0", bytes(9000), b"\x7fELF", elf()[:100], gzip.compress(b"no")]
)
def test_kernel_that_is_none_is_a_boot_error(kernel: bytes) -> None:
    with pytest.raises(BootError):
        recognise(kernel)


@pytest.mark.fault(41)
def test_kernel_in_damaged_gzip_is_a_boot_error() -> None:
    packed = gzip.compress(PVH)
    with pytest.raises(BootError, match="gzip"):
        recognise(packed[:-10])


def test_multiboot_lines_begin_with_the_files_name() -> None:
    assert _named("/boot/xen.gz", "kernel", "console=com1") == b"xen.gz console=com1"
    assert _named(Path("a/b"), "module", "") == b"b"
    assert _named(b"", "module", "x") == b"module x"
