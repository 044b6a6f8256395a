"""Installs the Debian packages that building and testing need, as root; otherwise names them with the command."""

import shutil
import sys
from pathlib import Path

import _bare  # noqa: F401

from hyperpy import packages

# Program, and the Debian package that brings it.
_NEEDED = {
    "cc": "gcc",
    "cpio": "cpio",
    "depmod": "kmod",
    "busybox": "busybox-static",
    "file": "file",
    "iasl": "acpica-tools",
    "ld": "binutils",
    "strace": "strace",
    "valgrind": "valgrind",
    "qemu-system-x86_64": "qemu-system-x86",
}
# The same for headers: the C floor of the benches has the checksum of snapshot files from one.
_HEADERS = {"/usr/include/xxhash.h": "libxxhash-dev"}


def main() -> int:
    """Install what is missing and return 0, or say what to do and return 1."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    missing = [package for program, package in _NEEDED.items() if shutil.which(program, path=path) is None]
    missing += [package for header, package in _HEADERS.items() if not Path(header).exists()]
    if not missing:
        return 0
    print(f"installing what is missing: {' '.join(missing)}", file=sys.stderr)
    try:
        packages.install(missing, backports=True)
    except packages.PackageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
