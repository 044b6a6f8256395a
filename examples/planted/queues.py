"""A transport with several queues, as virtio's: one register says which of them the others are about.

Rule: a selector is checked by each register that uses it, since it is not refused when it is written.
"""

from hyperpy import Device, Field, Register

from .table import Planted, w32

QUEUES, LONGEST = 4, 256


class Queues(Device):
    """Four queues. A driver says that it is there, selects, sets up, and makes ready."""

    access_rule = "exact"
    saved_attributes = ("lengths", "is_ready")
    status = Register(0x0, acknowledged=Field(0), driver=Field(1), running=Field(2))
    select = Register(0x4)
    most = Register(0x8, access="ro", reset=LONGEST)
    length = Register(0xC, access="wo")
    ready = Register(0x10, mask=1)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lengths, self.is_ready = [0] * QUEUES, [0] * QUEUES

    def is_there(self) -> bool:
        return self.select < QUEUES

    @length.on_write
    def _length(self, value: int) -> None:
        if self.is_there() and value <= LONGEST:
            self.lengths[self.select] = value

    @ready.on_write
    def _ready(self, value: int) -> None:
        if self.status.driver and self.may_be_ready():
            self.is_ready[self.select] = value

    @ready.on_read
    def _is_ready(self) -> int:
        return self.is_ready[self.select] if self.is_there() else 0

    def may_be_ready(self) -> bool:
        return True  # the bug: its neighbours look at the selector, this one does not


class FixedQueues(Queues):
    """A queue that is not there does not become ready."""

    def may_be_ready(self) -> bool:
        return self.is_there()


PLANTED = Planted(
    Queues,
    FixedQueues,
    kind="unchecked queue select",
    shows="IndexError",
    proof=(w32(0x0, 0b11), w32(0x4, QUEUES), w32(0x10, 1)),
)
