"""The cache of unpacked kernels: where it is, what is kept, and that damage to it or a full disk costs only time."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest

import hyperpy
from hyperpy import BootError, Linux, _unpacked
from hyperpy._unpacked import unpacked_kernel
from hyperpy.cache import cache_dir

ELF = b"\x7fELF" + bytes(60)


def bzimage(payload: bytes) -> bytes:
    """A bzImage with as much of the setup header as says where its payload lies (Documentation/arch/x86/_unpacked.rst)."""
    header = bytearray(0x400)
    header[0x1F1] = 1  # one sector of setup after the first one
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x200:0x202] = b"\xeb\x66"
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, 0x020F)
    header[0x211] = 1  # LOADED_HIGH
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    return bytes(header) + payload


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HYPERPY_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def packed(data: bytes) -> bytes:
    # The size of what is packed follows it, as the kernel's build appends it.
    return gzip.compress(data) + struct.pack("<I", len(data))


def test_cache_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERPY_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("HYPERPY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "hyperpy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "hyperpy"


def test_payload_unpacked_once_is_kept_under_the_digest_of_the_image(cache: Path) -> None:
    kernel = bzimage(packed(ELF))
    assert unpacked_kernel(kernel) == ELF
    assert [path.name for path in cache.iterdir()] == [f"{hashlib.sha256(kernel).hexdigest()}.vmlinux"]


def test_payload_that_is_kept_is_not_unpacked_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = bzimage(packed(ELF))
    unpacked_kernel(kernel)

    def refuse(*arguments: object) -> bytes:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(hyperpy._hyperpy, "kernel_payload", refuse)
    assert unpacked_kernel(kernel) == ELF


def test_payload_cache_file_that_is_no_elf_file_is_made_anew(cache: Path) -> None:
    kernel = bzimage(packed(ELF))
    unpacked_kernel(kernel)
    (file,) = cache.iterdir()
    for damage in (b"", b"\x7fE", bytes(len(ELF))):
        file.write_bytes(damage)
        assert unpacked_kernel(kernel) == ELF


@pytest.mark.parametrize("kernel", [b"", b"\x7fELF", bytes(2000), bzimage(b""), bzimage(b"not packed" * 9)])
def test_payload_of_an_image_that_has_none_is_left_to_the_guest(cache: Path, kernel: bytes) -> None:
    assert unpacked_kernel(kernel) is None
    assert not cache.exists()


def test_payload_above_the_limit_is_left_to_the_guest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpacked, "PAYLOAD_LIMIT", len(ELF) - 1)
    assert unpacked_kernel(bzimage(packed(ELF))) is None
    assert not cache.exists()


def test_cache_that_cannot_be_written_costs_nothing_but_time(cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_bytes(b"a file where the folder should be")
    assert unpacked_kernel(bzimage(packed(ELF))) == ELF


def test_cache_after_a_full_disk_has_no_half_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert unpacked_kernel(bzimage(packed(ELF))) == ELF
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["kernel", "initrd"])
@pytest.mark.parametrize("path", ["/nonexistent/file", "/"])
def test_image_that_cannot_be_read_is_a_boot_error_that_names_it(cache: Path, name: str, path: str) -> None:
    sources: Any = {"kernel": ELF, name: path}
    with pytest.raises(BootError, match=f"(?s){name} cannot be read: .*{path}.*hint: "):
        Linux(**sources).load_into(None)  # type: ignore[arg-type]
