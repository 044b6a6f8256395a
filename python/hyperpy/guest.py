"""Files for a guest's first file system: initramfs images, written without root.

This module owns the newc cpio writer, the busybox initramfs built on it, and the choice of a kernel's modules for it. It does not compress (a kernel
reads a plain archive, and the copy costs less than unpacking), does not read archives, and knows nothing
about machines. Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the Linux kernel,
magic 070701.

The same source always gives the same bytes: entries are sorted, owners are 0:0, times are 0, and inode
numbers count from 1.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from hyperpy.errors import HyperpyError

__all__ = [
    "Content",
    "Device",
    "Directory",
    "Entry",
    "File",
    "InitramfsError",
    "Symlink",
    "busybox_initramfs",
    "initramfs",
    "kernel_modules",
]

_MAGIC = "070701"
_FIELD_MAX = 0xFFFF_FFFF  # every header field is eight hexadecimal digits
_NAME_MAX = 4095  # the kernel's unpacker skips entries whose name, NUL included, exceeds PATH_MAX
_DEVICE_TYPES = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}


class InitramfsError(HyperpyError, ValueError):
    """A source that no initramfs can be made of; `hint` says what to change."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    Args:
        data: the content, or the path of a host file that is copied when the archive is written.
        mode: permission bits, 0 to 0o7777. None takes them from the host file; for bytes it is
            0o755 for `init` at the root and for what begins like a program (`#!` or ELF), else 0o644.
    """

    data: bytes | os.PathLike[str]
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory: needed for an empty one or an unusual mode only, since parents are made by themselves."""

    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link to `target`, which is not resolved or checked."""

    target: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device node: kind `"c"` (character) or `"b"` (block), its numbers, and permission bits.

    Example: `Device("c", 5, 1)` is `/dev/console`, without which init has no standard streams.
    """

    kind: Literal["c", "b"]
    major: int
    minor: int
    mode: int = 0o600


Entry: TypeAlias = File | Directory | Symlink | Device
Content: TypeAlias = bytes | str | os.PathLike[str] | Entry


@dataclass(frozen=True, slots=True)
class _Record:
    """One archive member as the header wants it."""

    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def initramfs(source: Mapping[str, Content] | os.PathLike[str]) -> bytes:
    r"""Return a newc cpio archive of `source`, for a kernel to unpack as its first root.

    Args:
        source: a folder of the host, or a mapping from the path in the guest (`/` separated; a leading one is
            ignored) to its content: bytes or text for a file, a `pathlib.Path` for a copy of that host file,
            or a `File`, `Directory`, `Symlink` or `Device`. Missing parent directories are made.

    Raises:
        InitramfsError: a name has a NUL, is empty or goes through `..`, two names are the same path, a file
            stands where a directory must, or a value does not fit a header field (a file above 4 GiB).
        OSError: a host file cannot be read.

    Follows the newc format of the kernel's early user space documentation.

    Example:
        >>> image = initramfs({"init": "#!/bin/sh\necho hello\n", "dev/console": Device("c", 5, 1)})
        >>> image[:6], len(image) % 512
        (b'070701', 0)
    """
    entries = (
        _entries_from_mapping(source) if isinstance(source, Mapping) else _entries_from_folder(Path(source))
    )
    out = bytearray()
    for number, (path, entry) in enumerate(sorted(entries.items()), start=1):
        name = "/".join(path)
        _append(out, name, _record_from_entry(name, entry), inode=number)
    _append(out, "TRAILER!!!", _Record(mode=0), inode=0)
    out.extend(bytes(-len(out) % 512))  # the block size of cpio(1), so that its tools do not complain
    return bytes(out)


def busybox_initramfs(
    init: str, *, extra: Mapping[str, Content] | None = None, busybox: os.PathLike[str] | None = None
) -> bytes:
    """Return an initramfs around the host's static busybox, with `init` as its `/init`.

    The script starts with nothing mounted; `/proc`, `/sys`, `/dev`, `/tmp` and `/dev/console` exist,
    `/bin/sh` is busybox. Other applets are run as `busybox NAME`, or by name after `busybox --install -s
    /bin`.

    Args:
        init: a shell script; a `#!/bin/sh` line is put before it unless it has one.
        extra: more entries, as for `initramfs`; they replace those made here.
        busybox: a statically linked busybox; None looks for `busybox` on the host.

    Raises:
        InitramfsError: no busybox, or it is not statically linked; or as for `initramfs`.

    Example:
        >>> image = busybox_initramfs("echo hello; busybox poweroff -f")  # doctest: +SKIP
    """
    script = init if init.startswith("#!") else f"#!/bin/sh\n{init}"
    entries: dict[str, Content] = {
        "bin/busybox": File(_static_busybox(busybox), mode=0o755),
        "bin/sh": Symlink("busybox"),
        "dev/console": Device("c", 5, 1),
        "dev/null": Device("c", 1, 3, mode=0o666),
        "init": File(script.encode(), mode=0o755),
        "proc": Directory(),
        "sys": Directory(),
        "tmp": Directory(mode=0o1777),
    }
    return initramfs(entries | {name.strip("/"): content for name, content in (extra or {}).items()})


def kernel_modules(folder: os.PathLike[str], *names: str) -> dict[str, Content]:
    """Return the files of kernel modules and of what they depend on, for `extra=`: then `busybox modprobe NAME` loads them.

    What is built into the kernel needs no file. Modules packed by xz or gzip are unpacked.

    Args:
        folder: a kernel's folder of modules, named as its release: `packages.kernel().modules`.
        names: as `modprobe` takes them, such as `qemu_fw_cfg`; `-` and `_` are the same.

    Raises:
        InitramfsError: there is no such module, or it is packed in another way.
        OSError: the folder or a file in it cannot be read.

    Follows modules.dep(5).

    Example:
        >>> from hyperpy import packages
        >>> modules = kernel_modules(packages.kernel().modules, "pvpanic-mmio")  # doctest: +SKIP
        >>> image = busybox_initramfs("busybox modprobe pvpanic-mmio", extra=modules)  # doctest: +SKIP
    """
    folder = Path(folder)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {_module_name(path): path for path in needs}
    built_in = folder / "modules.builtin"
    here = {_module_name(path) for path in built_in.read_text().split()} if built_in.exists() else set[str]()
    chosen: dict[str, str] = {}
    entries: dict[str, Content] = {}
    for name in names:
        path = by_name.get(_module_name(name), "")
        if not path and _module_name(name) not in here:
            raise InitramfsError(f"no such kernel module: {name}", hint=f"see {folder / 'modules.dep'}")
        for each in (path, *needs[path]) if path else ():
            entries[f"lib/modules/{folder.name}/{_unpacked_name(each)}"] = _unpacked_module(folder / each)
            chosen[_unpacked_name(each)] = " ".join(map(_unpacked_name, needs[each]))
    lines = "".join(f"{path}: {others}".rstrip() + "\n" for path, others in sorted(chosen.items()))
    return entries | {f"lib/modules/{folder.name}/modules.dep": lines}


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _unpacked_name(path: str) -> str:
    return path.removesuffix(".xz").removesuffix(".gz")


def _unpacked_module(file: Path) -> Content:
    match file.suffix:
        case ".ko":
            return file
        case ".xz":
            return lzma.decompress(file.read_bytes())
        case ".gz":
            return gzip.decompress(file.read_bytes())
    raise InitramfsError(f"kernel module is packed in an unknown way: {file}", hint="unpack it to a .ko file")


def _static_busybox(given: os.PathLike[str] | None) -> Path:
    found = (
        os.fspath(given)
        if given is not None
        else shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    )
    hint = "install the package busybox-static, or name a static one with `busybox=`"
    if found is None or not os.path.exists(found):
        raise InitramfsError(f"no busybox on this host: {found or '/bin/busybox'}", hint=hint)
    path = Path(found)
    if b"/ld-linux" in path.read_bytes()[:4096] or b"/ld-musl" in path.read_bytes()[:4096]:
        raise InitramfsError(f"busybox is not statically linked: {path}", hint=hint)
    return path


def _entries_from_mapping(source: Mapping[str, Content]) -> dict[tuple[str, ...], Entry]:
    entries: dict[tuple[str, ...], Entry] = {}
    for name, content in source.items():
        path = _path_from_name(name)
        if path in entries:
            raise InitramfsError(f"path given twice: {name}", hint="keep one of the two")
        entries[path] = _entry_from_content(path, content)
    for path in list(entries):
        for depth in range(1, len(path)):
            parent = entries.setdefault(path[:depth], Directory())
            if not isinstance(parent, Directory):
                below, above = "/".join(path), "/".join(path[:depth])
                raise InitramfsError(
                    f"parent of {below} is not a directory: {above}", hint="rename one of the two"
                )
    return entries


def _path_from_name(name: str) -> tuple[str, ...]:
    if "\0" in name:
        raise InitramfsError(
            f"name has a NUL: {name!r}", hint="take it out: a NUL ends a name in the archive"
        )
    parts = PurePosixPath(name.lstrip("/")).parts
    if ".." in parts:
        raise InitramfsError(f"name goes through '..': {name}", hint="give the path from the guest's root")
    if not parts:
        raise InitramfsError(
            f"name is empty: {name!r}", hint="give the path from the guest's root, such as 'init'"
        )
    if len("/".join(parts).encode()) + 1 > _NAME_MAX or "/".join(parts) == "TRAILER!!!":
        raise InitramfsError(
            f"name cannot be stored: {name[:64]}",
            hint="a name has at most 4094 bytes and does not end the archive",
        )
    return parts


def _entry_from_content(path: tuple[str, ...], content: Content) -> Entry:
    match content:
        case Directory() | Symlink() | Device():
            return content
        case File(data=data, mode=None):
            return File(data, _default_mode(path, data))
        case File():
            return content
        case str():
            return _entry_from_content(path, content.encode())
        case bytes() | os.PathLike():
            return File(content, _default_mode(path, content))
    raise InitramfsError(
        f"content of {'/'.join(path)} is a {type(content).__name__}",
        hint="give bytes, text, a pathlib.Path, File, Directory, Symlink or Device",
    )


def _default_mode(path: tuple[str, ...], data: bytes | os.PathLike[str]) -> int:
    if path == ("init",):
        return 0o755
    if isinstance(data, bytes):
        return 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644
    return stat.S_IMODE(os.stat(data).st_mode)


def _entries_from_folder(folder: Path) -> dict[tuple[str, ...], Entry]:
    if not folder.is_dir():
        raise InitramfsError(f"not a folder: {folder}", hint="give a folder of the host, or a mapping")
    entries: dict[tuple[str, ...], Entry] = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            host = Path(parent, name)
            path = host.relative_to(folder).parts
            entries[path] = _entry_from_host(host)
    return entries


def _entry_from_host(host: Path) -> Entry:
    info = host.lstat()
    mode = stat.S_IMODE(info.st_mode)
    match stat.S_IFMT(info.st_mode):
        case stat.S_IFREG:
            return File(host, mode)
        case stat.S_IFDIR:
            return Directory(mode)
        case stat.S_IFLNK:
            return Symlink(os.readlink(host))
        case stat.S_IFCHR:
            return Device("c", os.major(info.st_rdev), os.minor(info.st_rdev), mode)
        case stat.S_IFBLK:
            return Device("b", os.major(info.st_rdev), os.minor(info.st_rdev), mode)
    raise InitramfsError(
        f"neither file, folder, link nor device: {host}", hint="leave sockets and pipes out of the folder"
    )


def _record_from_entry(name: str, entry: Entry) -> _Record:
    match entry:
        case Directory(mode=mode):
            return _Record(stat.S_IFDIR | _checked(name, "mode", mode, 0o7777))
        case Symlink(target=target):
            if not target or "\0" in target:
                raise InitramfsError(
                    f"link target of {name} is empty or has a NUL: {target!r}", hint="name a path"
                )
            return _Record(stat.S_IFLNK | 0o777, target.encode())
        case Device(kind=kind, major=major, minor=minor, mode=mode):
            if kind not in _DEVICE_TYPES:
                raise InitramfsError(f"device kind of {name}: {kind}", hint="it is 'c' or 'b'")
            numbers = _checked(name, "major", major, _FIELD_MAX), _checked(name, "minor", minor, _FIELD_MAX)
            return _Record(_DEVICE_TYPES[kind] | _checked(name, "mode", mode, 0o7777), rdev=numbers)
        case File(data=data, mode=mode):
            # The size of a host file is checked before it is read, so that a huge one costs no memory.
            size = len(data) if isinstance(data, bytes) else os.stat(data).st_size
            _checked(name, "size", size, _FIELD_MAX)
            body = data if isinstance(data, bytes) else Path(data).read_bytes()
            return _Record(stat.S_IFREG | _checked(name, "mode", mode or 0, 0o7777), body)


def _checked(name: str, what: str, value: int, limit: int) -> int:
    if not 0 <= value <= limit:
        hint = "put it on a disk instead" if what == "size" else f"it is 0 to {limit:#x}"
        raise InitramfsError(f"{what} of {name} does not fit the archive: {value:#x}", hint=hint)
    return value


def _append(out: bytearray, name: str, record: _Record, *, inode: int) -> None:
    encoded = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(record.mode) else 1
    size = _checked(name, "size", len(record.data), _FIELD_MAX)
    fields = (inode, record.mode, 0, 0, links, 0, size, 0, 0, *record.rdev, len(encoded), 0)
    out.extend((_MAGIC + "".join(f"{field:08x}" for field in fields)).encode())
    for part in (encoded, record.data):  # the name is aligned together with its header
        out.extend(part)
        out.extend(bytes(-len(out) % 4))
