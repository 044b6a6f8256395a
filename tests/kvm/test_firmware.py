"""Firmware: from the reset vector on, by code of a few bytes, and by SeaBIOS, which the page-table KVM can interpret."""

from __future__ import annotations

import re

import pytest

from hyperpy import BootError, DebugConsole, DeviceError, Exit, Firmware, Machine, packages

BIOS = "usr/share/seabios/bios.bin"


def image(code: bytes, size: int = 0x1000) -> bytes:
    """Firmware whose reset vector jumps to `code`, 0x100 bytes before it, through the copy below 1 MiB."""
    vector = b"\xea" + (0xFEF0).to_bytes(2, "little") + b"\x00\xf0"
    body = bytes(size - 0x110) + code.ljust(0x100, b"\xf4") + vector
    return body.ljust(size, b"\x00")


def test_firmware_is_entered_at_its_vector_and_runs_below_1_mib() -> None:
    code = bytes.fromhex("b8 34 12 0e 5b fa f4")  # mov ax, 0x1234; push cs; pop bx; cli; hlt
    with Machine(memory="2M") as machine:
        machine.load(Firmware(image(code)))
        assert isinstance(machine.run(timeout=5), Exit.Halt)
        regs = machine.vcpus[0].regs
        assert (regs.rax & 0xFFFF, regs.rbx & 0xFFFF) == (0x1234, 0xF000)


def test_firmware_is_read_only_at_the_top_and_writable_in_its_copy() -> None:
    code = bytes.fromhex(
        "2e c6 06 00 f0 42"  # mov byte cs:[0xf000], 0x42
        "2e a0 00 f0"  # mov al, cs:[0xf000]
        "fa f4"
    )
    data = image(code)
    with Machine(memory="2M") as machine:
        machine.load(Firmware(data))
        assert isinstance(machine.run(timeout=5), Exit.Halt)
        assert machine.vcpus[0].regs.rax & 0xFF == 0x42
        assert machine.memory.read((1 << 32) - 0x1000, 0x1000) == data
        assert [row.rung for row in machine.map.rows if row.name == "firmware"] == ["rom"]


def test_firmware_reads_files_by_fw_cfg() -> None:
    code = bytes.fromhex(
        "ba 10 05 b8 20 00 ef"  # mov dx, 0x510; mov ax, 0x20; out dx, ax
        "42 ec 88 c3 ec fa f4"  # inc dx; in al, dx; mov bl, al; in al, dx; cli; hlt
    )
    with Machine(memory="2M") as machine:
        machine.load(Firmware(image(code), files={"bootorder": b"HI"}))
        assert isinstance(machine.run(timeout=5), Exit.Halt)
        regs = machine.vcpus[0].regs
        assert (regs.rbx & 0xFF, regs.rax & 0xFF) == (ord("H"), ord("I"))


def test_firmware_takes_no_device_of_the_scripts_away() -> None:
    """Only what an earlier load has put there."""
    code = bytes.fromhex("fa f4")
    with Machine(memory="2M") as machine:
        mine = machine.attach(DebugConsole(machine.console), pio=0x402, name="mine")
        machine.attach(mine, pio=0x500, name="mine too")
        with pytest.raises(DeviceError, match="overlaps mine at 0x402"):
            machine.load(Firmware(image(code)))
        for _ in range(2):
            machine.load(Firmware(image(code), debug_port=0x400))
            rows = [(row.base, row.name) for row in machine.map.rows if row.space == "pio"]
            assert rows.count((0x400, "firmware log")) == rows.count((0x510, "fw_cfg")) == 1
            assert {(0x402, "mine"), (0x500, "mine too")} <= set(rows)


def test_firmware_that_is_none_is_refused_and_the_machine_can_load_another() -> None:
    with Machine(memory="2M") as machine:
        for wrong, message in ((b"\xf4" * 100, "unusable length: 0x64"), (bytes(0x1000), "reset vector")):
            with pytest.raises(BootError, match=message):
                machine.load(Firmware(wrong))
        with pytest.raises(ValueError, match='given twice: "etc/e820"'):
            machine.load(Firmware(image(b"\xf4"), files={"etc/e820": b""}))
        machine.load(Firmware(image(b"\xfa\xf4")))
        machine.load(Firmware(image(b"\xfa\xf4"), debug_port=None))  # again, in place of the first
        assert isinstance(machine.run(timeout=5), Exit.Halt)


def test_firmware_seabios_finds_cpus_and_memory_and_no_boot_device() -> None:
    with Machine(memory="64M", vcpus=2) as machine:
        machine.load(Firmware(packages.fetch("seabios").file(BIOS)))
        machine.start()
        machine.console.expect("Found QEMU fw_cfg", timeout=30)
        machine.console.expect(re.compile(r"e820: addr 0x0+ len 0x0*4000000 \[RAM\]"), timeout=10)
        machine.console.expect("Found 2 cpu(s) max supported 2 cpu(s)", timeout=30)
        machine.console.expect("No bootable device.", timeout=30)


def test_firmware_seabios_speaks_on_com1_when_told_to() -> None:
    files = {"etc/sercon-port": (0x3F8).to_bytes(2, "little")}
    with Machine(memory="64M") as machine:
        machine.load(Firmware(packages.fetch("seabios").file(BIOS), files=files, debug_port=None))
        machine.start()
        machine.console.expect(re.compile("Booting from Hard Disk"), timeout=30)
        machine.console.expect(re.compile("No bootable device"), timeout=30)
