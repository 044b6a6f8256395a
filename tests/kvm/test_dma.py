"""DMA beside guests that run: what a guest sees of it, what a hostile one gets, and the pages that count as written."""

from __future__ import annotations

from typing import Any

import pytest
from tests.guests import assemble

from hyperpy import Device, Exit, MemoryAccessError, Register

MMIO = 0xFE00_0000
RUN = 30.0


class Copier(Device):
    """Copies 8 bytes; says by `status` how it went: 1 is well, 2 is the guest's mistake."""

    dma = True
    source = Register(0x0, width=8)
    target = Register(0x8, width=8)
    start = Register(0x10, access="wo")
    status = Register(0x14, access="ro")

    @start.on_write
    def _start(self, value: int) -> None:
        try:
            self.memory.write(self.target, self.memory.read(self.source, 8))  # type: ignore[union-attr]
            self.status = 1
        except MemoryAccessError:
            self.status = 2


COPY = f"""
    mov rbx, {MMIO}
    mov rax, {{source}}
    mov [rbx], rax
    mov rax, {{target}}
    mov [rbx + 8], rax
    mov dword ptr [rbx + 16], 1
    mov ecx, [rbx + 20]
"""


def test_guest_sees_what_a_device_has_copied_and_its_pages_are_dirty(boot: Any) -> None:
    m = boot(COPY.format(source=0x3000, target=0x5FFC) + "mov rax, [0x5ffc]\n hlt", "long")
    m.attach(Copier(), mmio=MMIO)
    m.memory.write(0x3000, b"eight by")
    with m.memory.track_dirty():
        assert m.run(RUN) == Exit.Halt(0)
        written = m.memory.dirty()
    regs = m.vcpus[0].regs
    assert (regs.rcx, regs.rax.to_bytes(8, "little")) == (1, b"eight by")
    pages = {page for gpa, size in written for page in range(gpa, gpa + size, 4096)}
    assert {0x5000, 0x6000} <= pages
    assert 0x3000 not in pages


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (0x3000, MMIO),  # its own registers
        (MMIO + 0x10, 0x3000),
        (0x3000, MMIO + 0x1000),  # another's
        (0x3000, 0x8000_0000),
        (0xFFFF_FFFF_FFFF_FFFC, 0x3000),
        (0x3000, 0xFFFF_FFFF_FFFF_FFF8),
    ],
)
def test_guest_that_aims_dma_at_devices_gets_an_error_and_runs_on(
    boot: Any, source: int, target: int
) -> None:
    m = boot(COPY.format(source=source, target=target) + "mov eax, 77\n hlt", "long")
    copier, other = m.attach(Copier(), mmio=MMIO), m.attach(Copier(), mmio=MMIO + 0x1000)
    m.memory.write(0x3000, b"unhappy!")
    assert m.run(RUN) == Exit.Halt(0)
    assert (m.vcpus[0].regs.rcx, m.vcpus[0].regs.rax) == (2, 77)
    assert (copier.source, copier.target, other.source, other.status) == (source, target, 0, 0)
    assert m.memory.read(0x3000, 8) == b"unhappy!"


@pytest.mark.fault(16)
def test_header_that_another_vcpu_flips_is_taken_as_it_was_read(boot: Any) -> None:
    class Taker(Device):
        dma = True
        size = 4

        def __init__(self) -> None:
            self.count, self.taken = 0, set[int]()

        def write(self, offset: int, size: int, value: int, /) -> None:
            length = self.memory.read_int(0x6000, 8)  # type: ignore[union-attr]
            if length <= 64:
                assert len(self.memory.read(0x6008, length)) == 64  # type: ignore[union-attr]
            self.count += 1
            self.taken.add(length)

    m = boot(
        f"""
        mov dword ptr [0xfee000f0], 0x1ff
        mov dword ptr [0xfee00310], 0x01000000
        mov dword ptr [0xfee00300], 0x4500
        mov dword ptr [0xfee00300], 0x4608
    waits:
        cmp byte ptr [0x7000], 0
        je waits
        mov ebx, {MMIO}
        mov ecx, 1000
    again:
        mov [ebx], ecx
        dec ecx
        jnz again
        mov byte ptr [0x7001], 1
        cli
        hlt
        """,
        "protected",
        vcpus=2,
    )
    flips = """
    again:
        mov byte ptr [0x6000], 64
        mov byte ptr [0x7000], 1
        mov byte ptr [0x6000], 0xf0
        cmp byte ptr [0x7001], 0
        je again
        cli
        hlt
    """
    m.memory.write(0x8000, assemble(flips, "real", 0x8000))
    taker = m.attach(Taker(), mmio=MMIO)
    assert isinstance(m.run(RUN), Exit.Halt)
    assert taker.count == 1000
    assert taker.taken <= {64, 0xF0}
