"""Where hyperpy keeps what it fetched or unpacked once. What is kept there is told by `boot` and `packages`."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """Return the cache folder: `$HYPERPY_CACHE`, else `$XDG_CACHE_HOME/hyperpy`, else `~/.cache/hyperpy`."""
    if given := os.environ.get("HYPERPY_CACHE"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperpy"
