"""Fuzzing devices: a search for the operations that break one, without KVM and without a guest.

A `DeviceFuzzer` gets a function that makes a device, and does to it what guests and hosts can do: accesses to its registers, time that
goes by, a reset, DMA from memory that the guest has filled, and what the device's class marks as an `event`. Most of that is what a driver would do, by the
declaration of its registers; now and then a rule is broken. Inputs that cover something new are kept and changed further: lines of the
device's code, registers one after the other, values of fields.

What it finds is a `Crash`: a method raises, an invariant does not hold, an operation does not end, memory grows, a device in Rust panics. A
crash can be made small (`minimize`), kept (`save`), and written as a script that reproduces it without the fuzzer (`write_script`).

    >>> from hyperpy import Device, Register, fuzz
    >>> class Mailbox(Device):
    ...     slot = Register(0x0)
    ...     letter = Register(0x4, access="wo")
    ...
    ...     def __init__(self) -> None:
    ...         self.slots = [0] * 8
    ...
    ...     @letter.on_write
    ...     def _letter(self, value: int) -> None:
    ...         self.slots[self.slot] = value  # the guest chooses `slot`
    >>> report = fuzz.DeviceFuzzer(Mailbox, seed=1).run(executions=500)
    >>> crash = report.crashes[0].minimize()
    >>> crash.kind, type(crash.error).__name__, len(crash.operations)
    ('exception', 'IndexError', 2)

`hyperpy fuzz TARGET.py` runs a `Campaign` of several processes. The same seed gives the same executions, corpus and crashes, byte for byte. State machines of Hypothesis, made of the same declaration, are
in `hyperpy.testing`: they compare a device with its twins, and need no long runs.
"""

from __future__ import annotations

from hyperpy._fuzz_campaign import Campaign, CampaignReport, Finding
from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_device import DeviceFuzzer
from hyperpy._fuzz_findings import FuzzError, Hang, InvariantError, Kind
from hyperpy._fuzz_guest import GuestFuzzer
from hyperpy._fuzz_guest_crash import GuestCrash
from hyperpy._fuzz_input import InputDevice
from hyperpy._fuzz_report import Report
from hyperpy._fuzz_shape import event
from hyperpy._fuzz_stock import STOCK, stock

__all__ = [
    "STOCK",
    "Campaign",
    "CampaignReport",
    "Crash",
    "DeviceFuzzer",
    "Finding",
    "FuzzError",
    "GuestCrash",
    "GuestFuzzer",
    "Hang",
    "InputDevice",
    "InvariantError",
    "Kind",
    "Report",
    "event",
    "stock",
]
