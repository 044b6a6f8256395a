"""The device fuzzer: what it finds, how it puts devices back, and that a seed decides all of it."""

from __future__ import annotations

from hyperpy import Device, Register
from hyperpy.fuzz import DeviceFuzzer


class Mailbox(Device):
    """Trusts its guest with an index."""

    slot = Register(0x0)
    letter = Register(0x4, access="wo")

    def __init__(self) -> None:
        self.slots = [0] * 8

    @letter.on_write
    def _letter(self, value: int) -> None:
        self.slots[self.slot] = value


def test_bug_behind_an_index_is_found_and_minimised_to_its_two_operations() -> None:
    crash = DeviceFuzzer(Mailbox, seed=1).run(executions=500).crashes[0].minimize()
    assert (crash.kind, type(crash.error)) == ("exception", IndexError)
    assert len(crash.operations) == 2
