"""A folder of inputs: plain files, one input each, as cargo-fuzz and AFL++ have them, named by their hash.

Whatever else is there is left alone: folders, pipes, files that cannot be read. Names are bytes here, and need be no text. And how a folder of
something that was found is written: whole, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

__all__ = ["Folder", "put_whole"]

# Most bytes of an input: what is beyond them nobody reads (crates/hyperpy-core/src/fuzz/mod.rs).
_LONGEST = 1 << 16
_HASH = re.compile(b"[0-9a-f]{40}")


def put_whole(target: Path, files: Mapping[str, bytes], fill: Callable[[Path], object] | None = None) -> None:
    """Write a folder of these files, which appears whole or not at all; one that somebody else has written meanwhile stays.

    Arguments:
        target: the folder.
        files: what is in them, by name.
        fill: puts more into the folder, before it has its name.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for name, content in files.items():
            (begun / name).write_bytes(content)
        if fill is not None:
            fill(begun)
        os.chmod(begun, 0o755)  # as any folder; mkdtemp's are for their maker alone
        os.rename(begun, target)
    except BaseException:
        shutil.rmtree(begun, ignore_errors=True)
        if not target.exists():  # else another worker was first
            raise


class Folder:
    """The files of a corpus: those that were seen, and those that are still to be read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._root = os.fsencode(self.path)
        self._seen: set[bytes] = set()

    def look(self) -> Iterator[bytes]:
        """Yield the inputs that were not there at the last look, by the order of their names."""
        try:
            with os.scandir(self._root) as entries:
                names = sorted(entry.name for entry in entries if entry.name not in self._seen)
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith(b"."):
                continue  # one that is being written
            self._seen.add(name)
            content = self._read(name)
            if content is not None:
                yield content

    def _read(self, name: bytes) -> bytes | None:
        """What a file has, as far as an input goes; None: it is no file, or cannot be read."""
        try:
            # A pipe would be waited for.
            file = os.open(os.path.join(self._root, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            is_file = stat.S_ISREG(os.fstat(file).st_mode)
            return os.pread(file, _LONGEST, 0) if is_file else None
        except OSError:
            return None
        finally:
            os.close(file)

    def put(self, data: bytes) -> bool:
        """Keep an input, unless it is there; say whether it was not.

        Raises:
            OSError: it cannot be written.
        """
        name = _name(data)
        if name in self._seen:
            return False
        os.makedirs(self._root, exist_ok=True)
        target = os.path.join(self._root, name)
        begun = os.path.join(self._root, b".%d-%s" % (os.getpid(), name))
        try:
            Path(os.fsdecode(begun)).write_bytes(data)
            os.rename(begun, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(begun)
            raise
        self._seen.add(name)
        return True

    def drop(self, data: bytes) -> None:
        """Take an input out that was put here."""
        self._seen.discard(name := _name(data))
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._root, name))

    def keep_only(self, inputs: list[bytes]) -> None:
        """Keep these, and take out all others that are named by their hash: files of other names are somebody's own."""
        for data in inputs:
            self.put(data)
        wanted = {_name(data) for data in inputs}
        for name in self._seen - wanted:
            if _HASH.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._root, name))
                self._seen.discard(name)


def _name(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
