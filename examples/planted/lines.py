"""Interrupts of eight pins: an edge is kept until the guest clears it, and interrupts if it is enabled.

Rule: the line follows the state. One method works it out, and each change of what it depends on calls that.
"""

from hyperpy import Device, Register

from .table import Event, Planted, event, w32


class Lines(Device):
    """A line that stays high without a cause interrupts for ever: its handler finds nothing to clear."""

    irq_level = True
    access_rule = "exact"
    saved_attributes = ()
    enable = Register(0x0, mask=0xFF)
    pending = Register(0x4, mask=0xFF, access="w1c")

    @event
    def edge(self, data: bytes) -> None:
        """A pin rises."""
        self.pending |= 1 << (data[0] % 8 if data else 0)
        self.look()

    @pending.on_write
    def _cleared(self, value: int) -> None:
        self.look()

    @enable.on_write
    def _enabled(self, value: int) -> None:
        if self.pending & value:  # the bug: what was enabled and is not any more holds the line
            self.irq.raise_()

    def look(self) -> None:
        self.irq.set(bool(self.pending & self.enable))


class FixedLines(Lines):
    """Looks anew when the guest enables or disables."""

    @Lines.enable.on_write
    def _enabled(self, value: int) -> None:
        self.look()


PLANTED = Planted(
    Lines,
    FixedLines,
    kind="interrupt storm",
    shows="invariant",
    proof=(w32(0x0, 1), Event("edge", b"\0"), w32(0x0, 0)),
    invariants=(lambda lines: lines.irq.level == bool(lines.pending & lines.enable),),
)
