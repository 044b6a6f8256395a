"""Devices that a script's class lists: in the tables that a loaded kernel finds, as ACPI's own compiler reads them."""

from __future__ import annotations

import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.programs import elf

from hyperpy import BootError, Device, DeviceError, Linux, Machine, NotListedWarning, Register

TABLES = 0xE_0000
KERNEL = Linux(elf(b"\xfa\xf4"))  # cli; hlt


class Port(Device):
    """Something on ports or in memory."""

    acpi_hid = "QEMU0002"
    kept = Register(0x0, width=8)


class Card(Port):
    """Level-triggered, with more ids."""

    acpi_hid = "CARD0001"
    acpi_cid = ("PNP0C02", "ACPI0001")
    acpi_uid = "left one"
    irq_level = True


class Clock(Device):
    """Stands for the stock RTC."""

    acpi_hid = "PNP0B00"
    size = 2


def table(m: Machine, signature: bytes) -> bytes:
    """A table by its signature, found by the way from the RSDP."""
    xsdt = int.from_bytes(m.memory.read(TABLES + 24, 8), "little")
    size = int.from_bytes(m.memory.read(xsdt + 4, 4), "little")
    entries = m.memory.read(xsdt + 36, size - 36)
    found = [int.from_bytes(entries[at : at + 8], "little") for at in range(0, len(entries), 8)]
    found.append(int.from_bytes(m.memory.read(found[0] + 140, 8), "little"))  # X_DSDT of the FADT
    (gpa,) = [gpa for gpa in found if m.memory.read(gpa, 4) == signature]
    return m.memory.read(gpa, int.from_bytes(m.memory.read(gpa + 4, 4), "little"))


def devices(m: Machine, folder: Path) -> dict[str, str]:
    """The source of each device of the DSDT, its spaces and comments left out, by its hardware id."""
    (folder / "dsdt.dat").write_bytes(table(m, b"DSDT"))
    subprocess.run(["iasl", "-d", "dsdt.dat"], cwd=folder, capture_output=True, check=True)
    source = (folder / "dsdt.dsl").read_text()
    parts = [re.sub(r"//.*|/\*.*?\*/|\s", "", part) for part in source.split("Device (")[1:]]
    found = {re.search(r'_HID,(?:EisaId\()?"(\w+)"', part)[1]: part for part in parts}  # type: ignore[index]
    for own in (
        "HYPR0001",
        "ACPI0013",
    ):  # the identifier of the machine's generation, in each, and its events
        del found[own]
    return found


# Nothing is wrong with what is done before the tables are written, or with a device that is not to be in them.
def test_device_that_the_tables_do_not_list_is_warned_of_where_it_is_attached_and_enabled() -> None:
    with Machine(memory="4M") as m:
        late, off = Port(), m.attach(Port(), pio=0x520)
        m.disable(off)
        m.load(KERNEL)
        m.attach(Device(), pio=0x530, size=8)
        with pytest.warns(NotListedWarning, match="do not list late") as caught:
            m.attach(late, pio=0x510, name="late")
        assert (caught[0].filename, "before load()" in str(caught[0].message)) == (__file__, True)
        with pytest.warns(NotListedWarning, match="do not list Port") as caught:
            m.enable(off)
        assert caught[0].filename == __file__
        m.reset()  # loads again, and lists both
        m.disable(off)
        m.enable(off)
        with pytest.warns(NotListedWarning, match="tell another place of Port") as caught:
            m.move(off, pio=0x540)
        assert caught[0].filename == __file__
        m.move(off, pio=0x520)


def test_device_that_the_tables_would_not_list_is_not_attached_if_that_is_an_error() -> None:
    with Machine(memory="4M") as m, warnings.catch_warnings():
        m.load(KERNEL)
        warnings.simplefilter("error", NotListedWarning)
        with pytest.raises(NotListedWarning) as caught:
            m.attach(Port(), pio=0x510)
        assert (caught.value.message, caught.value.hint is None) == (str(caught.value).split("\n")[0], False)
        assert 0x510 not in {row.base for row in m.map.rows}


def test_device_on_ports_with_an_edge_is_in_the_dsdt_as_declared(tmp_path: Path) -> None:
    with Machine(memory="4M") as m:
        m.attach(Port(), pio=0x510, irq=3)
        m.load(KERNEL)
        found = devices(m, tmp_path)
    assert set(found) == {"PNP0501", "PNP0B00", "QEMU0002"}
    assert "Name(_UID,Zero)Name(_STA,0x0F)" in found["QEMU0002"]
    assert "_CID" not in found["QEMU0002"]
    assert "IO(Decode16,0x0510,0x0510,0x01,0x08,)" in found["QEMU0002"]
    assert "Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x00000003,}" in found["QEMU0002"]


def test_device_in_memory_below_and_above_4_gib_with_a_level_is_in_the_dsdt_as_declared(
    tmp_path: Path,
) -> None:
    with Machine(memory="4M") as m:
        card = m.attach(Card(), mmio=0xFE00_0000, irq=11)
        m.attach(card, mmio=0x12_3456_7000)
        m.load(KERNEL)
        found = devices(m, tmp_path)["CARD0001"]
    assert 'Name(_UID,"leftone")' in found
    assert 'Name(_CID,Package(0x02){EisaId("PNP0C02"),"ACPI0001"})' in found
    assert "Memory32Fixed(ReadWrite,0xFE000000,0x00000008,)" in found
    assert "QWordMemory(ResourceConsumer" in found
    assert "0x0000001234567000,0x0000001234567007,0x0000000000000000,0x0000000000000008," in found
    assert "Interrupt(ResourceConsumer,Level,ActiveHigh,Shared,,,){0x0000000B,}" in found


def test_devices_of_one_hardware_id_are_numbered_after_com1(tmp_path: Path) -> None:
    class Second(Port):
        acpi_hid = "PNP0501"

    with Machine(memory="4M") as m:
        m.attach(Second(), pio=0x2F8, irq=3)
        m.attach(Second(), pio=0x3E8)
        m.load(KERNEL)
        devices(m, tmp_path)
        source = (tmp_path / "dsdt.dsl").read_text()
    assert re.findall(r"_UID, (\w+)", source) == [
        "Zero",
        "Zero",
        "Zero",
        "One",
        "0x02",
    ]  # COM1, RTC, events, ours


def test_device_that_takes_all_ports_of_a_stock_one_stands_in_its_place(tmp_path: Path) -> None:
    with Machine(memory="4M") as m:
        m.attach(Clock(), pio=0x70, irq=8)
        m.attach(Port(), pio=0x3F8, irq=4)
        m.load(KERNEL)
        found = devices(m, tmp_path)
        fadt = table(m, b"FACP")
        ports = {row.base: row.name for row in m.map.rows if row.space == "pio"}
        interrupts = {row.gsi: row.devices for row in m.map.interrupts}
    assert set(found) == {"PNP0B00", "QEMU0002"}  # neither the stock COM1 nor the stock RTC
    assert "IO(Decode16,0x0070,0x0070,0x01,0x02,)" in found["PNP0B00"]
    assert (ports[0x70], ports[0x3F8], ports[0x64]) == ("Clock", "Port", "i8042 command")
    assert (interrupts[8], interrupts[4]) == (("Clock",), ("Port",))
    assert fadt[109] & 1 << 5 == 0  # IAPC_BOOT_ARCH: there is a CMOS RTC


def test_device_at_the_rtc_that_no_rtc_driver_knows_makes_the_tables_say_that_there_is_none() -> None:
    class Other(Clock):
        acpi_hid = None  # type: ignore[assignment]

    with Machine(memory="4M") as m:
        m.attach(Other(), pio=0x70)
        m.load(KERNEL)
        assert table(m, b"FACP")[109] & 1 << 5


@pytest.mark.parametrize("place", [{"pio": 0x71, "size": 1}, {"pio": 0x3F0, "size": 9}])
def test_device_that_takes_some_ports_of_a_stock_one_is_refused_by_the_load(place: Any) -> None:
    with Machine(memory="4M") as m:
        m.attach(Clock(), **place)
        with pytest.raises(DeviceError, match="overlaps Clock at"):
            m.load(KERNEL)


def test_ids_that_an_object_of_no_class_of_ours_gives_are_refused_by_the_load() -> None:
    class Strange:
        acpi_hid, acpi_cid, acpi_uid, size = "PNP0501", "PNP0C02", 0, 1

        def read(self, offset: int, size: int) -> int:
            return 0

        def write(self, offset: int, size: int, value: int) -> None:
            pass

    strange = Strange()
    with Machine(memory="4M") as m:
        m.attach(strange, pio=0x80)
        with pytest.raises(BootError, match="two ACPI devices PNP0501 have one unique id: 0"):
            m.load(KERNEL)  # COM1's
        strange.acpi_uid = "\0"  # type: ignore[assignment]
        with pytest.raises(BootError, match="not a unique id for ACPI device PNP0501"):
            m.load(KERNEL)
        strange.acpi_uid, strange.acpi_cid = 1, "pnp0501"
        with pytest.raises(BootError, match='not an ACPI hardware id: "pnp0501"'):
            m.load(KERNEL)
        strange.acpi_cid = ["PNP0C02"] * 17  # type: ignore[assignment]
        with pytest.raises(BootError, match="too many compatible ids: 17"):
            m.load(KERNEL)
        strange.acpi_cid = "PNP0C02"
        m.load(KERNEL)
