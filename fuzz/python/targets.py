"""The fuzz targets of what is written in Python, by name: each takes bytes, says what came of them, and raises where a property does not hold.

A target returns a word for the outcome, without what varies in it: by new words `run` knows what is worth keeping. Whatever
is refused is so by the error that is documented for it; any other exception is a find. They are in files by what they fuzz.
"""

from __future__ import annotations

from collections.abc import Callable

from of_devices import console_search, declaration, recording
from of_files import apt_sources, cpio
from of_specs import SPEC, spec_json, spec_toml, toml

__all__ = ["SEEDS", "TARGETS"]

TARGETS: dict[str, Callable[[bytes], str]] = {
    "apt_sources": apt_sources,
    "console_search": console_search,
    "cpio": cpio,
    "declaration": declaration,
    "recording": recording,
    "spec_json": spec_json,
    "spec_toml": spec_toml,
    "toml": toml,
}


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "apt_sources": lambda: [
        b"deb [signed-by=/a.gpg arch=amd64] http://deb.debian.org/debian bookworm main contrib # x\n",
        b"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n a\n .\n b\n",
    ],
    "spec_toml": lambda: [SPEC.encode()],
}
"""Inputs that a target begins with, of those whose language is not met by chance."""
