"""Initramfs images: unpacked again by cpio(1) and by a reader of this file, against the newc format."""

import gzip
import lzma
import os
import stat
import subprocess
from pathlib import Path

import pytest

from hyperpy.guest import (
    Content,
    Device,
    Directory,
    File,
    InitramfsError,
    Symlink,
    busybox_initramfs,
    initramfs,
    kernel_modules,
)


def members(archive: bytes) -> list[tuple[str, list[int], bytes]]:
    """Read every member up to the trailer: name, the 13 header fields, content."""
    found: list[tuple[str, list[int], bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(archive[i : i + 8], 16) for i in range(at + 6, at + 110, 8)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) & ~3
        assert not any(archive[at + 110 + name_size : start]), "padding is zero"
        if name == b"TRAILER!!!\0":
            assert not any(archive[start:])
            return found
        found.append((name[:-1].decode(), fields, archive[start : start + size]))
        at = (start + size + 3) & ~3


def test_initramfs_mapping_unpacked_by_cpio_gives_the_files(tmp_path: Path) -> None:
    host = tmp_path / "tool"
    host.write_bytes(b"\0" * 5)
    host.chmod(0o750)
    archive = initramfs(
        {
            "/init": "#!/bin/sh\n",
            "etc/deep/er/text": "grün\n",
            "bin/tool": host,
            "bin/link": Symlink("tool"),
            "empty": Directory(0o700),
            "odd": File(b"x", mode=0o4711),
        }
    )
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=out, check=True)
    assert (out / "init").read_text() == "#!/bin/sh\n"
    assert (out / "etc/deep/er/text").read_bytes() == "grün\n".encode()
    assert (out / "bin/tool").read_bytes() == b"\0" * 5
    assert (out / "bin/link").readlink() == Path("tool")
    modes = {name: stat.S_IMODE((out / name).stat().st_mode) for name in ("init", "bin/tool", "empty", "odd")}
    assert modes == {"init": 0o755, "bin/tool": 0o750, "empty": 0o700, "odd": 0o4711}
    assert stat.S_IMODE((out / "etc/deep/er/text").stat().st_mode) == 0o644


def test_initramfs_listed_by_cpio_has_the_devices() -> None:
    archive = initramfs({"dev/console": Device("c", 5, 1), "dev/vda": Device("b", 254, 0, mode=0o660)})
    listing = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=archive, capture_output=True, check=True
    ).stdout
    lines = {line.split()[-1]: line.split() for line in listing.decode().splitlines()}
    assert (lines["dev/console"][0], lines["dev/console"][4:6]) == ("crw-------", ["5,", "1"])
    assert (lines["dev/vda"][0], lines["dev/vda"][4:6]) == ("brw-rw----", ["254,", "0"])


def test_initramfs_members_are_sorted_aligned_and_without_host_traces() -> None:
    found = members(initramfs({"b/c/d": b"123", "a": b"", "b-": b"1", "init": b"\x7fELF"}))
    assert [name for name, _, _ in found] == ["a", "b", "b/c", "b/c/d", "b-", "init"]
    assert [fields[0] for _, fields, _ in found] == [1, 2, 3, 4, 5, 6]
    assert all(fields[2] == fields[3] == fields[5] == 0 for _, fields, _ in found), "owner 0:0, time 0"
    assert {name: content for name, _, content in found}["b/c/d"] == b"123"


def test_initramfs_same_source_in_another_order_gives_same_bytes() -> None:
    source: dict[str, Content] = {"x": b"1", "y/z": b"2", "w": Symlink("x")}
    assert initramfs(source) == initramfs(dict(reversed(source.items())))


def test_initramfs_folder_gives_what_the_mapping_gives(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir(mode=0o755)
    (tmp_path / "sub/file").write_bytes(b"abc")
    (tmp_path / "sub/file").chmod(0o644)
    (tmp_path / "sub").chmod(0o755)
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "init").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "init").chmod(0o755)
    mapping: dict[str, Content] = {"sub/file": b"abc", "link": Symlink("sub"), "init": b"#!/bin/sh\n"}
    assert initramfs(tmp_path) == initramfs(mapping)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5])
def test_initramfs_every_alignment_is_read_back(size: int) -> None:
    found = members(initramfs({"n" * (size + 1): b"x" * size, "z": b"end"}))
    assert [content for _, _, content in found] == [b"x" * size, b"end"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a\0b": b""}, "name has a NUL"),
        ({"a/../../etc": b""}, r"goes through '\.\.'"),
        ({"": b""}, "name is empty"),
        ({"/": b""}, "name is empty"),
        ({"n" * 5000: b""}, "cannot be stored"),
        ({"TRAILER!!!": b""}, "cannot be stored"),
        ({"a": b"", "/a": b""}, "given twice"),
        ({"a": b"", "a/b": b""}, "parent of a/b is not a directory: a"),
        ({"a": Symlink("b"), "a/b": b""}, "parent of a/b is not a directory: a"),
        ({"a": 5}, "content of a is a int"),
        ({"a": Symlink("")}, "link target of a"),
        ({"a": Device("x", 1, 1)}, "device kind of a: x"),  # type: ignore[arg-type]
        ({"a": Device("c", -1, 1)}, "major of a does not fit"),
        ({"a": Device("c", 1, 1 << 32)}, "minor of a does not fit"),
        ({"a": File(b"", mode=0o10000)}, "mode of a does not fit"),
    ],
)
def test_initramfs_bad_source_raises_with_hint(source: dict[str, bytes], message: str) -> None:
    with pytest.raises(InitramfsError, match=message) as caught:
        initramfs(source)
    assert caught.value.hint
    assert isinstance(caught.value, ValueError)


def test_initramfs_file_above_4_gib_raises_before_it_is_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 32)  # a hole: takes no space
    with pytest.raises(InitramfsError, match="size of disk does not fit the archive: 0x100000000"):
        initramfs({"disk": huge})


def test_initramfs_folder_with_a_pipe_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InitramfsError, match="neither file, folder, link nor device"):
        initramfs(tmp_path)


def test_busybox_initramfs_has_what_init_needs() -> None:
    found = {name: (fields[1], content) for name, fields, content in members(busybox_initramfs("echo hi"))}
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\necho hi")
    assert stat.S_ISCHR(found["dev/console"][0])
    assert found["bin/sh"][1] == b"busybox"
    assert found["bin/busybox"][1].startswith(b"\x7fELF")
    assert {"proc", "sys", "dev", "tmp"} <= found.keys()


def test_busybox_initramfs_extra_replaces_its_own() -> None:
    found = {
        n: c for n, _, c in members(busybox_initramfs("#!/bin/ash\n", extra={"/bin/sh": b"mine", "x": b""}))
    }
    assert found["bin/sh"] == b"mine"
    assert found["init"] == b"#!/bin/ash\n"
    assert found["x"] == b""


@pytest.mark.parametrize("content", [None, b"\x7fELF /lib64/ld-linux-x86-64.so.2"])
def test_busybox_initramfs_without_static_busybox_raises(tmp_path: Path, content: bytes | None) -> None:
    busybox = tmp_path / "busybox"
    if content is not None:
        busybox.write_bytes(content)
    with pytest.raises(InitramfsError, match="busybox") as caught:
        busybox_initramfs("", busybox=busybox)
    assert "busybox-static" in (caught.value.hint or "")


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "6.1.0-1-amd64"
    (folder / "kernel/misc").mkdir(parents=True)
    (folder / "modules.dep").write_text(
        "kernel/misc/card-io.ko: kernel/misc/card.ko.xz kernel/bus.ko.gz\n"
        "kernel/misc/card.ko.xz: kernel/bus.ko.gz\n"
        "kernel/bus.ko.gz:\n"
        "kernel/other.ko:\n"
        "kernel/odd.ko.zst:\n"
    )
    (folder / "modules.builtin").write_text("kernel/in_it.ko\n")
    (folder / "kernel/misc/card-io.ko").write_bytes(b"io")
    (folder / "kernel/misc/card.ko.xz").write_bytes(lzma.compress(b"card"))
    (folder / "kernel/bus.ko.gz").write_bytes(gzip.compress(b"bus"))
    (folder / "kernel/odd.ko.zst").write_bytes(b"odd")
    return folder


def test_kernel_modules_are_those_asked_for_and_what_they_need_unpacked(modules: Path) -> None:
    chosen = kernel_modules(modules, "card_io", "in-it")
    archive = {name: content for name, _, content in members(initramfs(chosen))}
    below = "lib/modules/6.1.0-1-amd64"
    assert {name: content for name, content in archive.items() if content} == {
        f"{below}/kernel/misc/card-io.ko": b"io",
        f"{below}/kernel/misc/card.ko": b"card",
        f"{below}/kernel/bus.ko": b"bus",
        f"{below}/modules.dep": (
            b"kernel/bus.ko:\n"
            b"kernel/misc/card-io.ko: kernel/misc/card.ko kernel/bus.ko\n"
            b"kernel/misc/card.ko: kernel/bus.ko\n"
        ),
    }


@pytest.mark.parametrize(
    ("name", "message"), [("none", "no such kernel module: none"), ("odd", "packed in an unknown way")]
)
def test_kernel_modules_that_cannot_be_had_are_an_error(modules: Path, name: str, message: str) -> None:
    with pytest.raises(InitramfsError, match=message) as caught:
        kernel_modules(modules, name)
    assert caught.value.hint
