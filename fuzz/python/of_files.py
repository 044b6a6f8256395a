"""What is fuzzed of files: initramfs archives that are written, and lists of package sources that are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from choices import Input, word

from hyperpy._apt_sources import host_stanzas, is_debian
from hyperpy.guest import Device as Node
from hyperpy.guest import Directory, File, InitramfsError, Symlink, initramfs

__all__ = ["apt_sources", "cpio"]


def _members(archive: bytes) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    """Read a newc archive as the kernel's document describes it: name, mode, content, device."""
    at = 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name[-1:] == b"\0"
        assert name.count(b"\0") == 1
        at += (110 + name_size + 3) & ~3
        body = archive[at : at + size]
        assert len(body) == size
        at += (size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not archive[at:].strip(b"\0")
            return
        yield name[:-1].decode(), mode, body, (fields[9], fields[10])


def cpio(data: bytes) -> str:
    """Any tree is refused, or is in the archive whole: each path once, its parents before it."""
    take = Input(data)
    source: dict[str, Any] = {}
    for _ in range(take.below(8)):
        path = "/".join(
            take.one("a", "b", "init", "..", ".", "", take.text()) for _ in range(1 + take.below(3))
        )
        source[path] = take.one(
            take.text(),
            take.bytes(take.below(40)),
            Directory(take.number()),
            Symlink(take.text()),
            Node(take.one("c", "b", "x"), take.number(), take.number(), take.number()),
            File(take.bytes(take.below(9)), take.one(None, take.number())),
        )
    try:
        archive = initramfs(source)
    except InitramfsError as error:
        return word(error)
    assert len(archive) % 512 == 0
    assert initramfs(dict(reversed(source.items()))) == archive
    found = list(_members(archive))
    names = [name for name, *_ in found]
    assert len(set(names)) == len(names)
    for name, mode, body, device in found:
        parent = name.rpartition("/")[0]
        if parent:
            assert names.index(parent) < names.index(name)
            assert found[names.index(parent)][1] >> 12 == 4  # S_IFDIR
        given = next((it for path, it in source.items() if _path(path) == name), Directory())
        match given:
            case str() | bytes():
                assert body == (given.encode() if isinstance(given, str) else given)
            case File(data=bytes() as content, mode=wanted):
                assert body == content
                assert wanted is None or mode & 0o7777 == wanted
            case Symlink(target=target):
                assert body == target.encode()
            case Node(major=major, minor=minor):
                assert device == (major, minor)
    return f"{len(found)} members"


def _path(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def apt_sources(data: bytes) -> str:
    """Sources of any text give whole stanzas or nothing."""
    text = data.decode("utf-8", "replace")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "sources.list.d").mkdir()
        (where / "sources.list").write_text(text)
        (where / "sources.list.d" / "a.list").write_text(text)
        (where / "sources.list.d" / "b.sources").write_text(text)
        found = list(host_stanzas(where))
    for stanza in found:
        assert {"Types", "URIs", "Suites", "Components"} <= stanza.keys()
        is_debian(stanza)
    return f"{len(found)} stanzas"
