"""What a restore makes of the processor's own matters: an INIT, SIPI or NMI that is under way, page-directory pointers that are no longer
those in memory, another frequency of the time-stamp counter, and memory of huge pages.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

import pytest
from tests.guests import assemble
from tests.kvm.conftest import Boot
from tests.kvm.test_snapshots_edited import edited

from hyperpy import Device, Exit, Flat, Machine, Msi
from hyperpy.doctor import flavour
from hyperpy.errors import SnapshotError

pytestmark = pytest.mark.core

RUN = 20.0


def out(machine: Machine) -> tuple[int, int]:
    """The next port write of vcpu 0: (port, value)."""
    stop = machine.run(timeout=RUN)
    assert isinstance(stop, Exit.Pio), stop
    assert stop.value is not None
    return stop.address, stop.value


class Sender(Device):
    """Has a line."""

    size = 1
    stateless = True


@pytest.mark.parametrize("vcpus", [1, 2])
def test_nmi_that_a_device_sends_beside_a_restore_comes_if_it_is_sent_after_it(
    boot: Boot, vcpus: int
) -> None:
    m = boot("again: out 0x80, al\n jmp again", vcpus=vcpus, irqchip=True)
    m.memory.write(4 * 2, bytes([0, 0x20, 0, 0]))  # the vector of an NMI: 0x2000
    m.memory.write(0x2000, bytes.fromhex("fe060070 cf"))  # inc byte ptr [0x7000]; iret
    m.route(24, Msi(0xFEE00000, 0x402))  # an NMI for APIC id 0 (SDM vol. 3, 11.11)
    sender = m.attach(Sender(), mmio=0xFE000000, irq=24)
    for _ in range(2):
        assert out(m)[0] == 0x80
    base = m.snapshot()

    def taken() -> int:
        for _ in range(2):
            assert out(m)[0] == 0x80
        return m.memory.read(0x7000, 1)[0]

    for _ in range(2):
        m.restore(base)
        sender.irq.pulse()
        sent = m.snapshot()
        assert taken() == 1
        m.restore(base)
        assert taken() == 0
        m.restore(sent)
        assert taken() == 1
        sender.irq.pulse()
        m.restore(base)
        assert taken() == 0


def test_sipi_that_is_under_way_at_a_restore_starts_nobody_after_it(boot: Boot) -> None:
    """The first vcpu sends what [0x7000] says, and leaves at once; the other one marks [0x7001] when it is started."""
    m = boot(
        """
        again:
            out 0x80, al
            test byte ptr [0x7000], 1
            jz sipi
            mov dword ptr [0xfee00300], 0x000c4500
        sipi:
            test byte ptr [0x7000], 2
            jz again
            mov dword ptr [0xfee00300], 0x000c4608
            jmp again
        """,
        "protected",
        vcpus=2,
        irqchip=True,
    )
    # mov byte ptr [0x7001], 1; again: hlt; jmp again
    m.memory.write(0x8000, bytes.fromhex("c606017001 f4 ebfd"))

    def tell(what: int) -> None:
        m.memory.write(0x7000, bytes([what]))
        assert out(m)[0] == 0x80

    assert out(m)[0] == 0x80
    fresh = m.snapshot()
    tell(1)
    m.memory.write(0x7000, b"\0")
    waiting = m.snapshot()
    for base, what in [(fresh, 3), (waiting, 2)] * 100:
        m.restore(base)
        tell(what)
        m.restore(base)
        tell(0)
        tell(0)
        assert m.memory.read(0x7001, 1) == b"\0"
    # One that is sent after a restore does start it.
    m.restore(waiting)
    tell(2)
    for _ in range(1000):
        if m.memory.read(0x7001, 1) == b"\1":
            break
        tell(0)
    assert m.memory.read(0x7001, 1) == b"\1"


# Paging with PAE: 0 to 0x1fffff is where it is; what 0x40000000 shows says the table of page-directory pointers at 0x3000.
PAE = """
    mov eax, 0x3000
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
again:
    invlpg [0x40000000]
    mov al, [0x40000000]
    out 0x80, al
    test byte ptr [0x7000], 1
    jz again
    mov eax, cr3
    mov cr3, eax
    jmp again
"""


def test_page_directory_pointers_of_the_processor_are_put_back_where_memory_has_others(
    boot: Boot, tmp_path: Path
) -> None:
    """The processor loads the four pointers with CR3 and need not look at memory again (SDM vol. 3, 4.4.1).

    An AMD processor with nested paging may look at any time (APM vol. 2, 15.25.10): what a KVM does is the same with snapshots
    and without.
    """
    m = boot(PAE, "protected", memory="4M")

    def entry(at: int, value: int) -> None:
        m.memory.write(at, value.to_bytes(8, "little"))

    entry(0x3000, 0x4001)
    entry(0x4000, 0x83)
    entry(0x3008, 0x5001)
    for directory, table, page in ((0x5000, 0xB000, 0xA000), (0x6000, 0xC000, 0xD000)):
        entry(directory, table | 3)
        entry(table, page | 3)
        m.memory.write(page, bytes([page >> 12]))
    if flavour() == "page-table":
        assert m.run(timeout=RUN) == Exit.Shutdown(vcpu=0)  # it knows no paging of 32 bits
        return
    assert out(m) == (0x80, 0xA)
    before = m.snapshot()
    entry(0x3008, 0x6001)
    seen = out(m)[1]
    stale = m.snapshot()
    assert out(m)[1] == seen
    m.memory.write(0x7000, b"\1")
    assert [out(m)[1], out(m)[1], out(m)[1]] == [0xD, 0xD, 0xD]
    late = m.snapshot()
    for snapshot, value in [
        (stale, seen),
        (before, 0xA),
        (stale, seen),
        (late, 0xD),
        (before, 0xA),
        (late, 0xD),
    ]:
        m.restore(snapshot)
        assert out(m)[1] == value
    m.restore(stale)
    with m.fork() as child:
        assert [out(child)[1], out(m)[1]] == [seen, seen]
    stale.save(tmp_path / "stale.hps")
    other = boot(PAE, "protected", memory="4M")
    other.restore(edited(tmp_path / "stale.hps", lambda state: None))
    assert out(other)[1] == seen


def can_scale() -> bool:
    """KVM_CHECK_EXTENSION of KVM_CAP_TSC_CONTROL."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(kvm, 0xAE03, 60) > 0
    finally:
        os.close(kvm)


@pytest.mark.fault(26)
def test_snapshot_of_another_counter_frequency_is_refused_or_has_the_counter_run_by_it(
    boot: Boot, tmp_path: Path
) -> None:
    source = "again: inc word ptr [0x8000]\n out 0x80, al\n jmp again"
    m, other = boot(source), boot(source)
    out(m)
    m.snapshot().save(tmp_path / "base.hps")
    khz = 0

    def slower(state: dict[str, list[dict[str, dict[str, int]]]]) -> None:
        nonlocal khz
        vcpu = state["vcpus"][0]["state"]
        khz = vcpu["tsc_khz"] = vcpu["tsc_khz"] * 3 // 4

    snapshot = edited(tmp_path / "base.hps", slower)
    out(other)
    out(other)
    if can_scale():
        other.restore(snapshot)
        taken: list[int] = []
        other.snapshot().save(tmp_path / "again.hps")
        edited(tmp_path / "again.hps", lambda state: taken.append(state["vcpus"][0]["state"]["tsc_khz"]))
        assert taken == [khz]
    else:
        with pytest.raises(
            SnapshotError, match=rf"vcpu 0: tsc: {khz} kHz in the snapshot, \d+ kHz here, .* cannot scale it"
        ):
            other.restore(snapshot)
        assert (other.state, other.memory.read(0x8000, 1)) == ("paused", b"\2")
    out(other)


def test_memory_of_transparent_huge_pages_is_snapshotted_restored_saved_and_forked(tmp_path: Path) -> None:
    check_huge_pages("transparent", tmp_path)


def check_huge_pages(pages: Literal["transparent", "2M"], folder: Path) -> None:
    """Snapshots of memory of such pages are as of any; memory of a pool's is another one than that of others."""
    code = Flat(assemble("again: inc word ptr [0x8000]\n hlt\n jmp again"), at=0x1000, mode="real")

    def counted(machine: Machine) -> int:
        assert machine.run(timeout=RUN) == Exit.Halt(vcpu=0)
        return int.from_bytes(machine.memory.read(0x8000, 2), "little")

    with Machine(memory="8M", huge_pages=pages) as m, Machine(memory="8M") as other:
        m.load(code)
        assert counted(m) == 1
        m.memory.write(5 << 20, b"base")
        base = m.snapshot()
        for _ in range(3):
            m.memory.write(5 << 20, b"late")
            m.memory.write(3 << 20, b"more")
            assert [counted(m), counted(m)] == [2, 3]
            m.restore(base)
            assert m.memory.read(5 << 20, 4) + m.memory.read(3 << 20, 4) == b"base\0\0\0\0"
        assert m.snapshot().hash() == base.hash()
        with m.fork() as child:
            child.memory.write(5 << 20, b"mine")
            assert [counted(child), counted(child), counted(m)] == [2, 3, 2]
            assert m.memory.read(5 << 20, 4) == b"base"
            child.restore(base)
            assert counted(child) == 2
        base.save(folder / "base.hps")
        m.restore(edited(folder / "base.hps", lambda state: None))
        assert (m.memory.read(5 << 20, 4), counted(m)) == (b"base", 2)
        if pages == "2M":
            with pytest.raises(SnapshotError, match="in pages of 2 MiB, here ram at 0x0"):
                other.restore(base)
        else:
            other.restore(base)
            assert counted(other) == 2
