"""Operations a second of the device fuzzer with coverage on: a device of declared registers with one Python method, and one in Rust.

A round is a campaign of its own from nothing; seeds go on from round to round. Prints one JSON object for each device, for `benches/run.py`.

Usage: fuzz_device.py [ROUNDS [SECONDS]]
"""

from __future__ import annotations

import json
import sys
from typing import Any

from hyperpy import DebugExit, Device, Field, Register
from hyperpy.fuzz import DeviceFuzzer


class Timer(Device):
    """Registers as a driver knows them, one of which has a method."""

    control = Register(0x0, enable=Field(0), mode=Field(1, 2), source=Field(4, 3))
    start = Register(0x4)
    value = Register(0x8, access="ro")
    status = Register(0xC, access="w1c", expired=Field(0), missed=Field(1))
    mask = Register(0x10, mask=0xFF)
    scale = Register(0x14, width=2)
    command = Register(0x18, access="wo", mask=0xFF)
    scratch = Register(0x1C, count=4)

    @command.on_write
    def _command(self, value: int) -> None:
        if value == 1:
            self.value = self.start
        elif value == 2 and self.control & 1:
            self.status = 1


def main() -> None:
    """Measure, and print."""
    rounds, seconds = int((sys.argv[1:] or ["7"])[0]), float((sys.argv[2:] or ["2"])[0])
    factories: dict[str, Any] = {"of declared registers, one Python method": Timer, "in Rust": DebugExit}
    for device, factory in factories.items():
        reports = [DeviceFuzzer(factory, seed=seed).run(seconds=seconds) for seed in range(rounds)]
        print(json.dumps({"device": device, "operations_per_s": [each.operations_per_s for each in reports]}))


if __name__ == "__main__":
    main()
