"""Checks a built wheel: its tags, auditwheel's verdict, no dependencies, and that it works in a fresh environment."""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_TRY = "import hyperpy, hyperpy._hyperpy; print('imported', hyperpy.__file__)"


def main() -> int:
    """Run all checks on the wheel named on the command line; a failing one raises."""
    (wheel,) = (Path(name).resolve() for name in sys.argv[1:])
    tags = wheel.stem.split("-")[2:]
    if tags[:2] != ["cp311", "abi3"] or "manylinux_2_28_x86_64" not in tags[2].split("."):
        raise SystemExit(f"wheel has other tags than cp311-abi3-manylinux_2_28_x86_64: {wheel.name}")
    report = _output(sys.executable, "-m", "auditwheel", "show", str(wheel))
    print(report.strip())
    _check_platform(report)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    needed = [x for x in metadata.splitlines() if x.startswith("Requires-Dist:") and "extra ==" not in x]
    if needed:
        raise SystemExit(f"wheel has run-time dependencies: {needed}")
    with tempfile.TemporaryDirectory() as folder:
        _output(sys.executable, "-m", "venv", folder)
        _output(f"{folder}/bin/pip", "install", "--quiet", "--no-index", str(wheel))
        # Started elsewhere and isolated, so that the source tree cannot stand in for the wheel.
        print(_output(f"{folder}/bin/python", "-I", "-c", _TRY, cwd=folder).strip())
        _output(f"{folder}/bin/hyperpy", "--help", cwd=folder)
    return 0


def _check_platform(report: str) -> None:
    """Require that what auditwheel finds in the file is no newer than what its name promises."""
    versions = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_x86_64", report)]
    if not versions or min(versions) > (2, 28):
        raise SystemExit(f"auditwheel finds no manylinux_2_28: {report}")


def _output(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        shown = f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        raise SystemExit(f"failed with status {done.returncode}: {shown}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
