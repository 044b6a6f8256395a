"""An unmodified Debian kernel with four devices in Python, and without them, in turn: what they cost beside their exits.

To be run where a real KVM is: `hyperpy lab -- python benches/python/devices_boot.py`, with nothing else running. The devices
are those of the examples: UART, RTC, fw_cfg, pvpanic. Both boots have the same kernel, initrd, which loads the drivers of
the last two, and command line, with one vcpu; the time is from the first entry to power-off. How many exits the devices
answer is counted in a traced boot before: a string of accesses is one exit. What an exit costs is measured in every round, by a
guest that makes nothing else: reads of the UART's line status, which Rust answers by its declaration, and of the RTC's
seconds, which a Python method does. Prints one JSON object a line.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from hyperpy import Exit, Flat, Linux, Machine, packages
from hyperpy.guest import busybox_initramfs, kernel_modules

ROUNDS = 15
COST_EXITS = 2_000
TIMEOUT_S = 300
EXAMPLES = Path(__file__).parents[2] / "examples"
INIT = """/bin/busybox modprobe qemu_fw_cfg; /bin/busybox modprobe pvpanic-mmio
echo bench: up; /bin/busybox poweroff -f
"""
CMDLINE = "console=ttyS0 quiet panic=-1"


def _devices() -> list[tuple[Any, int, int | None]]:
    """The devices, each with its first port and its interrupt."""
    return [
        (_example("python_uart").Uart(), 0x2F8, 3),
        (_example("python_rtc").Rtc(), 0x70, 8),
        (_example("python_fw_cfg").FwCfg({"opt/org.hyperpy/bench": b"up"}), 0x510, None),
        (_example("python_pvpanic").PvPanic(), 0x505, None),
    ]


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _boot(image: Linux, *, with_devices: bool, trace: int = 0) -> tuple[float, int, int]:
    """Boot once: seconds to power-off, and if it is traced how many exits of the devices Rust and Python answered."""
    with Machine(memory="256M", trace=trace) as m:
        devices = _devices() if with_devices else []
        for device, port, irq in devices:
            m.attach(device, pio=port, irq=irq)
        m.load(image)
        began = time.monotonic()
        ended = m.run(timeout=TIMEOUT_S)
        took = time.monotonic() - began
        if not isinstance(ended, Exit.SystemEvent) or "bench: up" not in m.console.output:
            raise RuntimeError(f"not booted: {ended}, {m.console.output[-4000:]}")
        ports = {port + offset for device, port, _ in devices for offset in range(device.size)}
        exits = sum(entry.kind == "pio" and entry.address in ports for entry in m.trace()) if trace else 0
        python = (
            m.stats.hits["python"] if trace else 0
        )  # none of them a string: data of fw_cfg calls no method
        return took, exits - python, python


def _cost(port: int) -> float:
    """Seconds of an exit: a read of that port."""
    code = bytes(
        [0xBA, *port.to_bytes(2, "little"), 0xB9, *COST_EXITS.to_bytes(2, "little")]
    )  # mov dx; mov cx
    code += bytes([0xEC, 0xE2, 0xFD, 0xF4])  # again: in al, dx; loop again; hlt
    with Machine(memory="1M") as m:
        for device, first, irq in _devices():
            m.attach(device, pio=first, irq=irq)
        m.load(Flat(b"\xfa" + code, mode="real"))  # cli
        began = time.monotonic()
        ended = m.run(timeout=TIMEOUT_S)
        took = time.monotonic() - began
        if ended != Exit.Halt(0):
            raise RuntimeError(f"not measured: {ended}")
        return took / COST_EXITS


def main() -> None:
    """Boot in turn, the first round to warm up, and print each."""
    debian = packages.kernel()
    modules = kernel_modules(debian.modules, "qemu_fw_cfg", "pvpanic-mmio")
    image = Linux(debian.vmlinuz, busybox_initramfs(INIT, extra=modules), CMDLINE)
    _, declared, python = _boot(image, with_devices=True, trace=1 << 16)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    for number in range(rounds + 1):
        # What comes second in one round comes first in the next: a drift of the host is nobody's.
        took = {has: _boot(image, with_devices=has)[0] for has in (number % 2 == 0, number % 2 == 1)}
        declared_s, python_s = _cost(0x2FD), _cost(0x71)
        bound = took[False] + declared * declared_s + python * python_s
        line = {
            "round": number,
            "warm_up": number == 0,
            "without_s": took[False],
            "with_s": took[True],
            "exits": {"register": declared, "python": python},
            "exit_us": {"register": declared_s * 1e6, "python": python_s * 1e6},
            "ratio": took[True] / bound,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
