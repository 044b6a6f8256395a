"""Counts unsafe blocks and impls against their `// SAFETY:` reasons, file by file, and holds them to their places.

It fails where the two differ, and where one is in a place that docs/unsafe.md does not name.

Clippy's undocumented_unsafe_blocks wants a reason before each block; this wants exactly one each, so that no
reason outlives its block, and prints the table that docs/unsafe.md refers to. `unsafe fn` is not counted: its
contract is the `# Safety` section of its documentation, which missing_safety_doc wants.
"""

import re
import sys
from pathlib import Path

# Comments and literals, so that the word is counted in code only. Raw strings come before plain ones; a
# lifetime is no character literal, hence the closing quote in the last branch.
_NOT_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(\#*)".*?"\1 | b?"(?:\\.|[^"\\])*" | b?'(?:\\.[^']*|[^'\\])'""",
    re.VERBOSE | re.DOTALL,
)
_UNSAFE = re.compile(r"\bunsafe\s*(?:\{|impl\b|extern\b)")
_REASON = re.compile(r"^\s*// SAFETY:", re.MULTILINE)

ROOT = Path(__file__).resolve().parent.parent
# Where it may live: the first column of docs/unsafe.md. A folder ends in a slash.
PLACES = (
    "crates/hyperpy-core/src/kvm/",
    "crates/hyperpy-core/src/memory/",
    "crates/hyperpy-python/src/buffer.rs",
    "benches/src/",
)


def main(root: Path = ROOT) -> int:
    """Print the table and return 1 where a file's counts differ, or where it may have none."""
    different = 0
    strangers: list[str] = []
    folders = [place for place in PLACES if place.endswith("/")]
    for path in sorted(p for top in ("crates", "benches", "fuzz") for p in (root / top).rglob("*.rs")):
        text = path.read_text()
        blocks = len(_UNSAFE.findall(_NOT_CODE.sub(" ", text)))
        reasons = len(_REASON.findall(text))
        if blocks or reasons:
            mark = "" if blocks == reasons else "  <- differ"
            print(f"{blocks:4} unsafe {reasons:4} SAFETY  {path.relative_to(root)}{mark}")
        different += blocks != reasons
        name = str(path.relative_to(root))
        if blocks and name not in PLACES and not any(map(name.startswith, folders)):
            strangers.append(name)
    if different:
        print(
            f"unsafe blocks and SAFETY reasons differ: {different} files\n"
            "hint: each block has its own `// SAFETY:` line saying why it holds",
            file=sys.stderr,
        )
    if strangers:
        print(
            f"unsafe code where none may be: {', '.join(strangers)}\n"
            "hint: docs/unsafe.md says where it may live; call what is there",
            file=sys.stderr,
        )
    return 1 if different or strangers else 0


if __name__ == "__main__":
    sys.exit(main())
