"""Where a host's apt gets its packages from: its sources, read as deb822 stanzas. `packages` adds its own suites to them.

Formats: sources.list(5), in both of its styles. Only what `packages` hands on is kept of a stanza.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["RELEASES", "host_stanzas", "is_debian"]

# What makes a source a Debian one: its suite, so that every mirror counts.
RELEASES = {"bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"}
_LIST_OPTIONS = {"signed-by": "Signed-By", "trusted": "Trusted", "arch": "Architectures"}
_STANZA_FIELDS = ("Signed-By", "Trusted", "Architectures")


def is_debian(stanza: dict[str, str]) -> bool:
    """Whether a source is of a Debian release."""
    return any(suite.split("-")[0].split("/")[0] in RELEASES for suite in stanza["Suites"].split())


def host_stanzas(folder: Path) -> Iterator[dict[str, str]]:
    """The sources of a folder of apt's, such as /etc/apt."""
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        if path.suffix == ".list":
            yield from filter(None, map(_stanza_from_line, path.read_text().splitlines()))
        elif path.suffix == ".sources":
            text = re.sub(r"^#.*\n?", "", path.read_text(), flags=re.MULTILINE)
            yield from filter(None, map(_stanza_from_text, re.split(r"\n\s*\n", text)))


def _stanza_from_line(line: str) -> dict[str, str] | None:
    """Convert `deb [options] uri suite components...` to deb822 fields."""
    found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
    if found is None:
        return None
    options = dict(option.split("=", 1) for option in (found[1] or "").split() if "=" in option)
    stanza = {"Types": "deb", "URIs": found[2], "Suites": found[3], "Components": found[4].strip()}
    return stanza | {_LIST_OPTIONS[key]: value for key, value in options.items() if key in _LIST_OPTIONS}


def _stanza_from_text(text: str) -> dict[str, str] | None:
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", text, re.MULTILINE))
    if (
        fields.get("Enabled", "yes").strip() == "no"
        or not {"Types", "URIs", "Suites", "Components"} <= fields.keys()
    ):
        return None
    wanted = {key: fields[key] for key in _STANZA_FIELDS if key in fields}
    return {key: fields[key].strip() for key in ("Types", "URIs", "Suites", "Components")} | wanted
