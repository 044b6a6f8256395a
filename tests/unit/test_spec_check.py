"""The static check of specs: what it finds, where, and what it lets pass. No KVM."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from hyperpy import DeviceSpec, FlatSpec, LinuxSpec, MachineSpec, RegionSpec, _hyperpy, cli

# As the core has them.
KVMS_PAGES = next(base for _, base, _, name, _ in _hyperpy.kernel_ranges() if "KVM keeps" in name)

CARDS = """
    from hyperpy import Device, Window

    class Card(Device):
        size = 0x100

    class Wide(Device):
        regs, ports = Window(0x100), Window(8)

    class Level(Device):
        size = 4
        irq_level = True

    class Pitched(Device):
        size = 4
        def __init__(self, pitch):
            self.pitch = pitch

    class Sizeless(Device):
        pass
    """


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cards_for_check.py").write_text(textwrap.dedent(CARDS))
    (tmp_path / "broken_for_check.py").write_text("1 / 0\n")
    (tmp_path / "small").write_bytes(b"x" * 0x1000)
    (tmp_path / "large").write_bytes(b"x" * 0x3000)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("cards_for_check", "broken_for_check"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return str(tmp_path)


def card(kind: str = "Card", **more: Any) -> DeviceSpec:
    return DeviceSpec(model=f"cards_for_check:{kind}", **more)


def region(gpa: int, size: int | str = 0x1000, **more: Any) -> RegionSpec:
    return RegionSpec(gpa=gpa, size=size, **more)


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "device over ram": (
        {"devices": (card(mmio=0x3F_FFF0),), "memory": "4M"},
        "devices[0].mmio",
        "lies over memory: 0x3ffff0 to 0x4000ef over ram at 0x0",
    ),
    "device over high ram": (
        {"devices": (card(mmio=0x1_0000_0000),), "memory": "4G"},
        "devices[0].mmio",
        "lies over memory: 0x100000000 to 0x1000000ff over ram at 0x100000000",
    ),
    "device over a region": (
        {"devices": (card(mmio=0xD000_0800),), "regions": (region(0xD000_0000, kind="rom"),)},
        "devices[0].mmio",
        "lies over memory: 0xd0000800 to 0xd00008ff over rom at 0xd0000000",
    ),
    "window over ram": (
        {"devices": (card("Wide", mmio={"regs": 0x3F_FFF0}, pio={"ports": 0x300}),), "memory": "4M"},
        "devices[0].mmio.regs",
        "lies over memory: 0x3ffff0 to 0x4000ef over ram at 0x0",
    ),
    "window beyond the ports": (
        {"devices": (card("Wide", pio={"ports": 0xFFFC}),)},
        "devices[0].pio.ports",
        "leaves the ports: 0xfffc + 0x8",
    ),
    "windows in each other's place": (
        {"devices": (card("Wide", mmio={"regs": 0xFE00_0000, "ports": 0xFE00_00F8}, name="w"),)},
        "devices[0].mmio.ports",
        "overlaps w.regs (devices[0].mmio.regs): 0xfe0000f8 to 0xfe0000ff and 0xfe000000 to 0xfe0000ff",
    ),
    "window that is not there": (
        {"devices": (card("Wide", mmio={"reg": 0xFE00_0000}),)},
        "devices[0].mmio.reg",
        "cards_for_check:Wide has no such window",
    ),
    "windows without names": (
        {"devices": (card("Wide", mmio=0xFE00_0000),)},
        "devices[0].mmio",
        "cards_for_check:Wide has several windows",
    ),
    "names for a device without windows": (
        {"devices": (card(mmio={"regs": 0xFE00_0000}),)},
        "devices[0].mmio.regs",
        "cards_for_check:Card has no such window",
    ),
    "devices in each other's place": (
        {"devices": (card(mmio=0xFE00_0000), card("Level", mmio=0xFE00_00FC, name="second"))},
        "devices[1].mmio",
        "overlaps cards_for_check:Card (devices[0].mmio): 0xfe0000fc to 0xfe0000ff and 0xfe000000 to 0xfe0000ff",
    ),
    "device over the I/O APIC": (
        {"devices": (card(mmio=0xFEC0_0000),), "vcpus": 2},
        "devices[0].mmio",
        "overlaps I/O APIC (in the kernel): 0xfec00000 to 0xfec000ff and 0xfec00000 to 0xfec00fff",
    ),
    "device over KVM's pages": (
        {"devices": (card(mmio=KVMS_PAGES),)},
        "devices[0].mmio",
        "overlaps pages that KVM keeps",
    ),
    "device beyond addresses": (
        {"devices": (card(mmio=1 << 52),)},
        "devices[0].mmio",
        "beyond what a guest can address",
    ),
    "ports over COM1": (
        {"devices": (card("Level", pio=0x3FA),), "pc": True},
        "devices[0].pio",
        "overlaps uart com1: 0x3fa to 0x3fd and 0x3f8 to 0x3ff",
    ),
    "ports over COM1 of a kernel": (
        {"devices": (card("Level", pio=0x3FA),), "image": LinuxSpec(kernel="small")},
        "devices[0].pio",
        "overlaps uart com1",
    ),
    "ports of the kernel": (
        {"devices": (card("Level", pio=0x20),), "irqchip": True},
        "devices[0].pio",
        "overlaps 8259",
    ),
    "ports beyond the last": (
        {"devices": (card(pio=0xFF80),)},
        "devices[0].pio",
        "leaves the ports: 0xff80 + 0x100",
    ),
    "ports of two": (
        {"devices": (DeviceSpec(model="debug-exit", pio=0xF4), DeviceSpec(model="debug-exit", pio=0xF7))},
        "devices[1].pio",
        "overlaps debug-exit (devices[0].pio): 0xf7 to 0xfa and 0xf4 to 0xf7",
    ),
    "edge and level": (
        {"devices": (card(pio=0x300, irq=5), card("Level", pio=0x500, irq=5))},
        "devices[1].irq",
        "gsi 5 is shared with cards_for_check:Card (devices[0].irq): one is level-triggered and one edge-triggered",
    ),
    "edge and edge with COM1": (
        {"devices": (card(pio=0x500, irq=4),), "pc": True},
        "devices[0].irq",
        "gsi 4 is shared with uart com1: both are edge-triggered",
    ),
    "gsi of the pit": ({"devices": (card(pio=0x300, irq=0),)}, "devices[0].irq", "gsi 0 is shared with pit"),
    "gsi that leads nowhere": (
        {"devices": (card(pio=0x300, irq=24),)},
        "devices[0].irq",
        "leads nowhere: gsi 24",
    ),
    "no such module": (
        {"devices": (DeviceSpec(model="nowhere_at_all:A", pio=1, size=1),)},
        "devices[0].model",
        "no such module: nowhere_at_all",
    ),
    "no such class": (
        {"devices": (card("Crad", pio=1, size=1),)},
        "devices[0].model",
        "no such class in cards_for_check: Crad",
    ),
    "module that raises": (
        {"devices": (DeviceSpec(model="broken_for_check:A", pio=1, size=1),)},
        "devices[0].model",
        "its module cannot be imported: ZeroDivisionError",
    ),
    "missing argument": (
        {"devices": (card("Pitched", pio=1),)},
        "devices[0].args",
        "does not take these: missing a required",
    ),
    "argument too many": (
        {"devices": (card(pio=1, args={"x": 1}),)},
        "devices[0].args",
        "does not take these",
    ),
    "no size": ({"devices": (card("Sizeless", pio=1),)}, "devices[0].size", "does not know its own"),
    "region over ram": (
        {"regions": (region(0x1000),)},
        "regions[0].gpa",
        "overlaps ram: 0x1000 to 0x1fff and 0x0 to 0x3ffffff",
    ),
    "regions over each other": (
        {"regions": (region(0xD000_0000, 0x2000, name="one"), region(0xD000_1000, kind="mmio"))},
        "regions[1].gpa",
        "overlaps one (regions[0].gpa): 0xd0001000 to 0xd0001fff and 0xd0000000 to 0xd0001fff",
    ),
    "alias of nothing": (
        {"regions": (region(0xD000_0000, kind="alias", of=0x3FF_F001),)},
        "regions[0].of",
        "no such memory: 0x3fff001 + 0x1000",
    ),
    "region of a part of a page": (
        {"regions": (region(0xD000_0800),)},
        "regions[0]",
        "not of whole pages of 4K: 0xd0000800 + 0x1000",
    ),
    "region beyond addresses": (
        {"regions": (region(2**64 - 0x1000),)},
        "regions[0].gpa",
        "beyond what a guest can address",
    ),
    "memory of a part of a page": ({"memory": 5000}, "memory", "not of whole pages of 4K: 0x0 + 0x1388"),
    "memory of a part of a huge page": (
        {"memory": "3M", "huge_pages": "2M"},
        "memory",
        "not of whole pages of 2M: 0x0 + 0x300000",
    ),
    "file that is not there": (
        {"image": LinuxSpec(kernel="none")},
        "image.kernel",
        "cannot be read: [Errno 2]",
    ),
    "file that is a folder": ({"image": LinuxSpec(kernel=".")}, "image.kernel", "cannot be read: not a file"),
    "image larger than memory": (
        {"image": LinuxSpec(kernel="large"), "memory": "4K"},
        "memory",
        "files of the image are larger",
    ),
    "file larger than its region": (
        {"regions": (region(0xD000_0000, file="large"),)},
        "regions[0].file",
        "is larger than its region",
    ),
    "no code": ({"image": FlatSpec(code="")}, "image", "there is no code"),
    "code outside memory": (
        {"image": FlatSpec(code="f4", at=0x400_0000)},
        "image.at",
        "code does not fit there",
    ),
    "code at the end of memory": (
        {"image": FlatSpec(code="90 f4", at=0x3FF_FFFF)},
        "image.at",
        "code does not fit there",
    ),
    "real mode above 1 MiB": (
        {"image": FlatSpec(code="f4", at=0x10_0000, mode="real")},
        "image.at",
        "code does not fit there",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_finds_what_cannot_be(folder: str, case: str) -> None:
    values, path, message = CASES[case]
    (found,) = MachineSpec(folder=folder, **values).check()
    assert (found.path, message in found.message) == (path, True), found


def test_check_lets_pass_what_can_be(folder: str) -> None:
    spec = MachineSpec(
        memory="5G",
        vcpus=2,
        pc=True,
        image=FlatSpec(file="small", at=0x1_0000),
        devices=(
            card(mmio=0xC000_0000),
            card(mmio=0xC000_0100, irq=5),
            card("Level", pio=0x300, irq=9),  # with the ACPI interrupt, which is level-triggered too
            card("Level", pio=0x304, irq=9),
            card("Pitched", pio=0x308, args={"pitch": 440}),
            card("Sizeless", pio=0x310, size=1),
            DeviceSpec(model="debug-exit", pio=0xF4),
        ),
        regions=(region(0xD000_0000, file="small", kind="rom"), region(0xD000_1000, kind="mmio")),
        folder=folder,
    )
    assert spec.check() == []
    # A device in an mmio region is where it should be.
    assert (
        MachineSpec(
            devices=(card(mmio=0xD000_0000),), regions=(region(0xD000_0000, kind="mmio"),), folder=folder
        ).check()
        == []
    )


def test_check_command_prints_findings_and_ends_with_1(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.json"
    good.write_text('[[devices]]\nmodel = "cards_for_check:Card"\nmmio = 0xfe000000\n')
    bad.write_text('{"devices": [{"model": "cards_for_check:Card", "mmio": "0x1000"}]}')
    assert cli.main(["check", str(good)]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["check", str(good), str(bad)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        f"{bad}: devices[0].mmio: lies over memory: 0x1000 to 0x10ff over ram at 0x0\n\nhint: "
    )


def test_diff_command_prints_a_line_for_each_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "a.toml", tmp_path / "b.json"
    one.write_text('memory = "1G"\n')
    other.write_text('{"memory": 1073741824}')
    assert cli.main(["diff", str(one), str(other)]) == 0
    assert capsys.readouterr() == ("", "")
    other.write_text('{"memory": "2G", "vcpus": 2}')
    assert cli.main(["diff", str(one), str(other)]) == 1
    assert capsys.readouterr() == ("memory: 1G -> 2G\nvcpus: 1 -> 2\n", "")


def test_specs_are_imported_when_they_are_wanted() -> None:
    import subprocess

    code = "import sys, hyperpy; assert 'hyperpy.spec' not in sys.modules and 'tomllib' not in sys.modules; hyperpy.MachineSpec"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_of_thousands_of_parts_takes_no_long_time() -> None:
    """It is no more than sorting them: four times as many take less than eight times as long, at any speed."""

    def seconds(count: int) -> float:
        regions = [RegionSpec(gpa=(1 << 40) + at * 0x4000, size="4K") for at in range(count)]
        regions += [RegionSpec(gpa=(1 << 44) + r.gpa, size="4K", kind="alias", of=r.gpa) for r in regions]
        devices = [
            DeviceSpec(model="debug-exit", mmio=(1 << 41) + at * 8, name=str(at)) for at in range(count)
        ]
        spec = MachineSpec(regions=tuple(regions), devices=tuple(devices))
        begin = time.process_time()
        assert spec.check() == []
        return time.process_time() - begin

    small = min(seconds(500) for _ in range(3))
    assert min(seconds(2000) for _ in range(3)) < 8 * small


@pytest.mark.parametrize("more", [{"pc": True}, {"image": LinuxSpec(kernel="small")}])
def test_check_lets_a_device_stand_for_a_stock_one(folder: str, more: dict[str, Any]) -> None:
    com1 = card("Sizeless", pio=0x3F8, size=8, irq=4)
    assert MachineSpec(devices=(com1,), folder=folder, **more).check() == []
