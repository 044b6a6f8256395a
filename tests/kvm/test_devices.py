"""Accesses of a guest to Python devices on KVM: every bus, width and offset, string I/O, pages; and the statistics of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.devices import Plain, Recorder

import hyperpy
from hyperpy import Device, Exit

pytestmark = pytest.mark.core

MMIO = 0xFE00_0000
RUN = 10.0


def test_device_without_base_class_on_ports_answers(boot: Any) -> None:
    m = boot("in al, 0x80\n out 0x80, al\n hlt")
    plain = m.attach(Plain(), pio=0x80, size=1)
    assert m.run(RUN) == Exit.Halt(0)
    assert plain.written == [0x5A]


WIDTHS = {1: "al", 2: "ax", 4: "eax", 8: "rax"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_read_of_every_size_gets_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov dx, 0x510\n in {WIDTHS[size]}, dx\n hlt")
    device = m.attach(Recorder(), pio=0x510)
    m.run(RUN)
    assert device.reads == [(0, size)]
    assert m.vcpus[0].regs.rax == Recorder.pattern & ((1 << 8 * size) - 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_write_of_every_size_gives_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov eax, 0x44332211\n mov dx, 0x513\n out dx, {WIDTHS[size]}\n hlt")
    device = m.attach(Recorder(), pio=0x510)
    m.run(RUN)
    assert device.writes == [(3, size, 0x44332211 & ((1 << 8 * size) - 1))]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_read_of_every_size_gets_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov rbx, {MMIO}\n xor eax, eax\n mov {WIDTHS[size]}, [rbx]\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO)
    m.run(RUN)
    assert device.reads == [(0, size)]
    assert m.vcpus[0].regs.rax == Recorder.pattern & ((1 << 8 * size) - 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_write_of_every_size_gives_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, 0x8877665544332211\n mov [rbx + 5], {WIDTHS[size]}\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO)
    m.run(RUN)
    assert device.writes == [(5, size, Recorder.pattern & ((1 << 8 * size) - 1))]


@pytest.mark.fault(13)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_access_at_every_offset_inside_is_claimed_and_over_the_end_is_not(boot: Any, size: int) -> None:
    """An access that leaves its region belongs to nobody."""
    m = boot(
        f"""
        mov rbx, {MMIO}
        mov ecx, 24
    again:
        mov [rbx], {WIDTHS[size]}
        mov rdx, [rbx + 0x100000]
        inc rbx
        dec ecx
        jnz again
        hlt""",
        "long",
        unclaimed="ones",
    )
    device = m.attach(Recorder(), mmio=MMIO)
    assert m.run(RUN) == Exit.Halt(0)
    assert [offset for offset, _, _ in device.writes] == list(range(16 - size + 1))


@pytest.mark.fault(13)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_access_at_every_offset_inside_is_claimed_and_over_the_end_is_not(boot: Any, size: int) -> None:
    m = boot(
        f"mov dx, 0x500\n mov cx, 24\n again: in {WIDTHS[size]}, dx\n inc dx\n dec cx\n jnz again\n hlt",
        unclaimed="ones",
    )
    device = m.attach(Recorder(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert device.reads == [(offset, size) for offset in range(16 - size + 1)]


@pytest.mark.fault(13)
def test_mmio_access_across_two_devices_reaches_neither(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov eax, [rbx + 14]\n hlt", "long", unclaimed="ones")
    first, second = m.attach(Recorder(), mmio=MMIO), m.attach(Recorder(), mmio=MMIO + 16)
    m.run(RUN)
    assert (first.reads, second.reads, m.vcpus[0].regs.rax) == ([], [], 0xFFFFFFFF)


@pytest.mark.fault(13)
def test_mmio_access_across_a_page_comes_in_two_parts(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, 0x8877665544332211\n mov [rbx + 0xffd], rax\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO, size=0x2000)
    m.run(RUN)
    assert device.writes == [(0xFFD, 3, 0x332211), (0x1000, 5, 0x8877665544)]


def test_mmio_read_across_a_page_is_put_together(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, [rbx + 0xffd]\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO, size=0x2000)
    m.run(RUN)
    assert device.reads == [(0xFFD, 3), (0x1000, 5)]
    assert m.vcpus[0].regs.rax == 0x5544332211332211


def test_string_output_of_words_gives_each_in_order(boot: Any) -> None:
    m = boot("mov si, 0x2000\n mov cx, 1500\n mov dx, 0x500\n cld\n rep outsw\n hlt")
    data = b"".join(i.to_bytes(2, "little") for i in range(1500))
    m.memory.write(0x2000, data)
    device = m.attach(Recorder(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert device.writes == [(0, 2, i) for i in range(1500)]


def test_string_input_of_bytes_fills_memory(boot: Any) -> None:
    class Counter(Device):
        size = 1
        count = 0

        def read(self, offset: int, size: int) -> int:
            self.count += 1
            return self.count & 0xFF

    m = boot("mov di, 0x2000\n mov cx, 600\n mov dx, 0x500\n cld\n rep insb\n hlt")
    m.attach(Counter(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.memory.read(0x2000, 600) == bytes((i + 1) & 0xFF for i in range(600))


def test_stats_of_each_rung_count_its_accesses(boot: Any) -> None:
    m = boot("out 0xe9, al\n out 0x80, al\n out 0x80, al\n out 0x99, al\n hlt", unclaimed="ones")
    m.attach(hyperpy.DebugConsole(m.console), pio=0xE9)
    m.attach(Recorder(), pio=0x80)
    m.run(RUN)
    stats = m.stats
    assert stats.hits == {"kernel": 0, "rust": 1, "register": 0, "python": 2, "unclaimed": 1}
    assert stats.exits == 5
    assert stats.memory_bytes > 0


def test_debug_exit_port_gives_the_status_of_qemu(boot: Any) -> None:
    m = boot("mov al, 0x21\n out 0xf4, al\n hlt")
    m.attach(hyperpy.DebugExit(), pio=0xF4)
    assert m.run(RUN) == Exit.Stopped(0, "debug exit", 0x43)
