"""A walk through a guest's page tables, as a value that prints as a table.

`Memory.walk` makes one from the tables that guest memory holds at that moment. What entries mean is told by the Intel
SDM, volume 3, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy import _hyperpy
from hyperpy.errors import MemoryAccessError
from hyperpy.stats import table

__all__ = ["Page", "PageLevel", "PageWalk"]

_FLAGS = {0: "P", 1: "RW", 2: "US", 3: "PWT", 4: "PCD", 5: "A", 6: "D", 7: "PS", 8: "G", 63: "NX"}
_SIZES = {1 << 12: "4 KiB", 1 << 21: "2 MiB", 1 << 22: "4 MiB", 1 << 30: "1 GiB", 1 << 32: "4 GiB"}


@dataclass(frozen=True, slots=True)
class PageLevel:
    """One entry that the walk has read: entry `index` of the table at gpa `table`, which is a PML5, PML4, PDPT, PD or PT."""

    name: str
    table: int
    index: int
    entry_gpa: int
    entry: int

    @property
    def flags(self) -> str:
        """Its flags by their names in the SDM; bit 7 of a PT's entry is PAT."""
        named = _FLAGS | {7: "PAT"} if self.name == "PT" else _FLAGS
        return " ".join(word for bit, word in named.items() if self.entry >> bit & 1)


@dataclass(frozen=True, slots=True)
class Page:
    """Where an address leads: its gpa, the page's size in bytes, and the rights that every level gives."""

    gpa: int
    size: int
    is_writable: bool
    is_user: bool
    is_executable: bool

    def __str__(self) -> str:
        rights = {"writable": self.is_writable, "user": self.is_user, "executable": self.is_executable}
        given = (
            ", ".join(right for right, is_given in rights.items() if is_given) or "read by the kernel only"
        )
        return f"page of {_SIZES.get(self.size, f'{self.size:#x} bytes')}, {given}"


@dataclass(frozen=True, slots=True)
class PageWalk:
    """The way from linear address `gva` to a page.

    `mode` is "no paging", "32-bit paging", "PAE paging", "4-level paging" or "5-level paging", `levels` what was read
    from the root on, and `page` what was found. Where it is None, `reason` says at which level and with which entry
    the walk ended; `reserved` are the bits of that entry that must be zero and are not.
    """

    gva: int
    mode: str
    levels: tuple[PageLevel, ...]
    page: Page | None
    reserved: int | None
    reason: str

    @property
    def gpa(self) -> int | None:
        """The guest-physical address, or None."""
        return self.page.gpa if self.page else None

    def require(self) -> int:
        """The guest-physical address.

        Raises:
            MemoryAccessError: there is none; the message is `reason`, and `address` the gva.
        """
        if self.page is None:
            hint = "`m.memory.walk(gva)` shows every level; an address that is none of the kernel's belongs to one process"
            raise MemoryAccessError(self.reason, address=self.gva, size=1, hint=hint)
        return self.page.gpa

    def __str__(self) -> str:
        head = f"{self.reason} ({self.mode}, {self.page})" if self.page else self.reason
        if not self.levels:
            return head
        rows = [
            [level.name, f"{level.table:#x}", f"{level.index:#x}", f"{level.entry:#x}", level.flags]
            for level in self.levels
        ]
        return head + "\n" + table(["level", "table", "index", "entry", "flags"], rows)


def walk(machine: _hyperpy.Machine, vcpu: int, gva: int) -> PageWalk:
    """The walk of a linear address through the page tables of a vcpu."""
    gva, mode, levels, page, reserved, reason = _hyperpy.walk(machine, vcpu, gva)
    made = tuple(PageLevel(*level) for level in levels)
    return PageWalk(gva, mode, made, Page(*page) if page else None, reserved, reason)
