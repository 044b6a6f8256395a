"""Operations a second of the device fuzzer with coverage on: a device of declared registers with one Python method, and one in Rust.

A round is a campaign of its own from nothing; seeds go on from round to round. The figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from hyperpy import DebugExit, Device, Field, Register
from hyperpy.fuzz import DeviceFuzzer

TARGETS = {"declared registers, one Python method": 100_000, "a device in Rust": 2_000_000}


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


def round_of(factory: Callable[[], Any], seed: int, seconds: float) -> tuple[float, str]:
    """Return operations a second of one campaign, and how it ended."""
    report = DeviceFuzzer(factory, seed=seed).run(seconds=seconds)
    return report.operations_per_s, str(report)


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    options = parser.parse_args()
    factories: dict[str, Callable[[], Any]] = dict(zip(TARGETS, (Timer, DebugExit), strict=True))
    for name, factory in factories.items():
        rounds = [round_of(factory, seed, options.seconds) for seed in range(options.rounds)]
        figures = [figure for figure, _ in rounds]
        print(
            f"{name}: {statistics.median(figures):,.0f} operations/s "
            f"({min(figures):,.0f} to {max(figures):,.0f}; target {TARGETS[name]:,})"
        )
        print(f"  the last round: {rounds[-1][1]}")


if __name__ == "__main__":
    main()
