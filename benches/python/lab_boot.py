"""An unmodified Debian kernel from process start to power-off, under hyperpy and under QEMU q35 with KVM, in turn.

To be run where a real KVM is: `hyperpy lab -- python benches/python/lab_boot.py`, with nothing else running. Both get
the same kernel, initrd and command line, 2 vcpus and 512 MiB. From each time the bare start of the same program is
taken off (`python -c pass`, `qemu-system-x86_64 --version`): over 9p it costs seconds, which are the lab's own.
Cold is an empty cache of unpacked kernels, warm one that a boot has filled. Byte code is kept, as `pip install` leaves
it, whatever the environment says. Prints one JSON object a line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperpy import guest, packages

ROUNDS = 3
TIMEOUT_S = 300
LINE = "bench: init is up"
CMDLINE = "console=ttyS0 panic=-1"

_BOOT = """
import sys, hyperpy

kernel, initrd, cmdline, line, timeout = sys.argv[1:]
with hyperpy.Machine(memory="512M", vcpus=2) as m:
    m.load(hyperpy.Linux(kernel=kernel, initrd=initrd, cmdline=cmdline))
    m.start()
    m.console.expect(line, timeout=float(timeout))
    print(line, m.wait(timeout=float(timeout)))
"""


def main() -> None:
    """Boot everything once to warm files up, then in turn, and print each time."""
    kernel = packages.kernel("linux-image-amd64").vmlinuz
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        initrd = folder / "initrd"
        initrd.write_bytes(guest.busybox_initramfs(f"busybox echo {LINE}; busybox poweroff -f"))
        commands = _commands(kernel, initrd)
        kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "code")}
        warm = kept | {"HYPERPY_CACHE": str(folder / "warm")}
        for number in range(ROUNDS + 1):
            cold = kept | {"HYPERPY_CACHE": str(folder / f"cold{number}")}
            took = {
                "qemu bare": _seconds(commands["qemu bare"]),
                "hyperpy bare": _seconds(commands["hyperpy bare"], kept),
                "qemu": _seconds(commands["qemu"], line=LINE),
                "hyperpy cold": _seconds(commands["hyperpy"], cold, line=LINE),
                "hyperpy warm": _seconds(commands["hyperpy"], warm, line=LINE),
            }
            print(json.dumps({"round": number, "warm_up": number == 0, "seconds": took}), flush=True)


def _commands(kernel: Path, initrd: Path) -> dict[str, list[str]]:
    qemu = "qemu-system-x86_64"
    machine = [
        "-M",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-smp",
        "2",
        "-m",
        "512",
        "-nodefaults",
        "-no-reboot",
    ]
    serial = ["-display", "none", "-serial", "stdio"]
    image = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", CMDLINE]
    boot = [sys.executable, "-c", _BOOT, str(kernel), str(initrd), CMDLINE, LINE, str(TIMEOUT_S)]
    return {
        "qemu bare": [qemu, "--version"],
        "qemu": [qemu, *machine, *serial, *image],
        "hyperpy bare": [sys.executable, "-c", "pass"],
        "hyperpy": boot,
    }


def _seconds(command: Sequence[str], extra: Mapping[str, str] | None = None, *, line: str = "") -> float:
    """Return the wall time of `command`; it must succeed and print `line`."""
    environment = {**os.environ, **(extra or {})}
    began = time.monotonic()
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    took = time.monotonic() - began
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0 or line not in output:
        sys.exit(f"{command[0]} ended with status {done.returncode} and printed:\n{output[-4000:]}")
    return took


if __name__ == "__main__":
    main()
