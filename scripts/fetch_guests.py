"""Fetches guests' packages, each given as NAME/SUITE, into hyperpy's cache, and prints where they are."""

import sys

import _bare  # noqa: F401

from hyperpy import packages


def main() -> int:
    """Fetch all and return 0, or say what is wrong and return 1."""
    for wanted in sys.argv[1:]:
        name, _, suite = wanted.partition("/")
        try:
            if name.startswith("linux-image-"):
                package = packages.kernel(name, suite=suite).package
            else:
                package = packages.fetch(name, suite=suite)
        except packages.PackageError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{package.name} {package.version}: {package.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
