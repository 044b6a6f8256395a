"""Checks a built wheel: its tags, auditwheel's verdict, no dependencies, and that it works in a fresh environment.

There it answers a script, runs a guest, and measures beside the C floor that it has the source of, with a compiler and without.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_TRY_SCRIPT = """
import hyperpy
from hyperpy.testing import Read, ScriptedMachine, Write

class Adder(hyperpy.Device):
    size, total = 8, 0

    def read(self, offset, size):
        return self.total

    def write(self, offset, size, value):
        self.total += value

with ScriptedMachine([Write(40, mmio=0xFE00_0000), Write(2, mmio=0xFE00_0000), Read(mmio=0xFE00_0000)]) as m:
    m.attach(Adder(), mmio=0xFE00_0000)
    assert (m.run(1.0), m.reads) == (hyperpy.Exit.Halt(0), [42]), m.reads
print("a device answered a script, from", hyperpy.__file__)
"""
_TRY_GUEST = """
import hyperpy

with hyperpy.Machine(memory="1M") as m:
    m.attach(hyperpy.DebugExit(), pio=0xF4)
    m.load(hyperpy.Flat(bytes.fromhex("b003 e6f4"), mode="real"))  # mov al, 3; out 0xf4, al
    ended = m.run(1.0)
    assert ended == hyperpy.Exit.Stopped(0, "debug exit", 7), ended
print("a guest ran under KVM")
"""


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
        has_kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
        for program in (_TRY_SCRIPT, *([_TRY_GUEST] if has_kvm else ())):
            print(_output(f"{folder}/bin/python", "-I", "-c", program, cwd=folder).strip())
        if has_kvm:
            _check_bench(folder)
        else:
            print("no guest was tried: /dev/kvm cannot be opened")
        _output(f"{folder}/bin/hyperpy", "--help", cwd=folder)
    return 0


def _check_bench(folder: str) -> None:
    """Require that `hyperpy bench` compiles its floor from the wheel and writes its page, and says what is missing without `cc`."""
    command = [f"{folder}/bin/hyperpy", "bench", "pio-in-register", "--rounds", "2", "--count", "20"]
    page = Path(folder, "page.html")
    # A cache of its own: what an earlier run has compiled must not stand in for the source.
    told = _output(*command, "--html", str(page), cwd=folder, env={"HYPERPY_CACHE": f"{folder}/cache"})
    if "no C:" in told or "</html>" not in page.read_text(encoding="utf-8"):
        raise SystemExit(f"hyperpy bench from the wheel has no C side, or no page: {told}")
    print(told.splitlines()[-1])
    without = _output(*command, cwd=folder, env={"CC": "no-such-compiler"})
    if "no C: no C compiler for the floor: no-such-compiler (install one" not in without:
        raise SystemExit(f"hyperpy bench says nothing of a missing compiler: {without}")


def _check_platform(report: str) -> None:
    """Require that what auditwheel finds in the file is no newer than what its name promises.

    It quotes the tag that it has found; the wheel's name, which is in the report too, has no quotes around one.
    """
    versions = [(int(a), int(b)) for a, b in re.findall(r'tag:\s+"manylinux_(\d+)_(\d+)_x86_64"', report)]
    if len(versions) != 1 or versions[0] > (2, 28):
        raise SystemExit(f"auditwheel finds no manylinux_2_28: {report}")


def _output(*command: str, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    environment = os.environ | (env or {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode != 0:
        shown = f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        raise SystemExit(f"failed with status {done.returncode}: {shown}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
