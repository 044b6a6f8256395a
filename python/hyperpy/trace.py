"""The last exits of a machine, as values that print as a table.

They are recorded by the native module on machines that are made with `Machine(trace=...)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy.stats import table

__all__ = ["Trace", "TraceEntry"]


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One exit.

    `ns` is when the guest was left, on the clock of `time.monotonic_ns()`. `reason` names the exit: pio, mmio, halt,
    hypercall, msr, debug, shutdown, system-event, fail-entry, internal-error or unknown. `address` is a gpa, a port, a
    register's index, a hypercall's number or a linear address; `value` what was written or what the read was answered.
    `size` is in bytes. A string instruction moves `count` values, of which `value` is the first. `rip` is on the
    instruction for a read and after it for a write.
    """

    ns: int
    vcpu: int
    reason: str
    address: int
    value: int
    size: int
    count: int
    is_write: bool
    rip: int

    @property
    def what(self) -> str:
        """The exit in words."""
        if self.reason not in ("pio", "mmio", "msr"):
            return self.reason
        return f"{self.reason} {'write' if self.is_write else 'read'}" + (
            f" x{self.count}" if self.count != 1 else ""
        )


class Trace(list[TraceEntry]):
    """Exits by ascending time; the table shows how long each was before the last one."""

    def __str__(self) -> str:
        if not self:
            return "no exits"
        last = self[-1].ns
        rows = [
            [
                str(e.vcpu),
                f"{(e.ns - last) / 1000:.1f}",
                e.what,
                f"{e.address:#x}",
                str(e.size) if e.size else "",
                f"{e.value:#x}",
                f"{e.rip:#x}",
            ]
            for e in self
        ]
        return table(["vcpu", "us", "exit", "address", "size", "value", "rip"], rows)


def from_fields(entries: list[tuple[int, int, str, int, int, int, int, bool, int]]) -> Trace:
    """A trace from what the native module gives, of all vcpus by time."""
    return Trace(sorted((TraceEntry(*entry) for entry in entries), key=lambda entry: entry.ns))
