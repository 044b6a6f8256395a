"""A block device that is given its buffers by chains of descriptors in guest memory, as virtio's are.

The class of CVE-2015-8345 and CVE-2021-20257: a list that the guest links is followed to its end, and has none.

Rule: a chain has at most as many links as there are descriptors.
"""

import struct

from hyperpy import Device, MemoryAccessError, Register

from .table import Planted, w32, w64

DESCRIPTORS, HAS_NEXT = 8, 1


class Chain(Device):
    """Adds up what a request asks for. A descriptor is: address, length, flags, next."""

    dma = True
    access_rule = "exact"
    saved_attributes = ()
    table = Register(0x0, width=8)
    ready = Register(0x8, mask=1)
    kick = Register(0xC, access="wo")
    total = Register(0x10, access="ro", width=8)
    failed = Register(0x18, access="ro")

    @kick.on_write
    def _kick(self, head: int) -> None:
        if not self.ready or self.table == 0:
            return
        try:
            self.total = self.follow(head % DESCRIPTORS)
        except MemoryAccessError:
            self.failed = 1

    def follow(self, index: int) -> int:
        total, seen = 0, 0
        while seen < self.most():
            _, length, flags, following = struct.unpack(
                "<QIHH", self.memory.read(self.table + 16 * index, 16)
            )
            total, seen = total + length, seen + 1
            if not flags & HAS_NEXT:
                break
            index = following % DESCRIPTORS
        return total % (1 << 64)

    def most(self) -> float:
        return float("inf")  # the bug: the guest decides when it ends


class FixedChain(Chain):
    """Each descriptor once, at most."""

    def most(self) -> float:
        return DESCRIPTORS


PLANTED = Planted(
    Chain,
    FixedChain,
    kind="loop in a chain",
    shows="hang",
    proof=(w64(0x0, 0x1000), w32(0x8, 1), w32(0xC, 0)),
    memory={0x1000: struct.pack("<QIHH", 0x8000, 512, HAS_NEXT, 0)},
)
