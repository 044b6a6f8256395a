"""The cache of unpacked kernels.

A bzImage's payload is unpacked once on the host, under the digest of the image, so that later boots skip the guest's
own decompression. `boot` imports this when it loads such a kernel, and not before: what is imported here takes longer
than all of `boot`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from hyperpy import _hyperpy
from hyperpy.cache import cache_dir
from hyperpy.errors import BootError

__all__ = ["unpacked_kernel"]

PAYLOAD_LIMIT = 1 << 30


def unpacked_kernel(kernel: bytes) -> bytes | None:
    """The ELF file in a bzImage, from the cache or unpacked now; None where there is none to be had."""
    if kernel[:4] == b"\x7fELF":
        return None
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
        # Not tempfile: its imports cost more than this.
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
