"""ACPI ids that a class declares: what is refused, when, and what the tables get of an attached device."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import DeclarationError, Device, Register
from hyperpy._acpi import Listed
from hyperpy.testing import ScriptedMachine

UART = 0x2F8


def declare(**ids: Any) -> type[Device]:
    return type("Card", (Device,), {"size": 8, **ids})


@pytest.mark.parametrize("hid", ["PNP0501", "PNP0B00", "ACPI000F", "QEMU0002", "LNRO0005", "80860F0A", None])
def test_class_with_a_hardware_id_of_acpi_is_made(hid: str | None) -> None:
    assert declare(acpi_hid=hid, acpi_cid=hid).acpi_hid == hid


@pytest.mark.parametrize(
    "hid",
    ["", "PNP501", "pnp0501", "PNP050g", "PNP0b00", "*PNP0501", "QEMU002", "QEMUX0002", "PNP0501\n", "ÄNP0501", b"PNP0501", 7],
)  # fmt: skip
@pytest.mark.parametrize("name", ["acpi_hid", "acpi_cid"])
def test_class_with_another_hardware_id_is_a_declaration_error_with_a_hint(name: str, hid: object) -> None:
    with pytest.raises(DeclarationError, match=rf"Card: not an ACPI hardware id: {name} = ") as caught:
        declare(**{name: hid})
    assert "PNP0501" in caught.value.hint


@pytest.mark.parametrize("ids", [("PNP0501", "no"), ["PNP0501", None], ("PNP0501",) * 17])
def test_class_with_several_compatible_ids_has_each_checked(ids: Any) -> None:
    assert declare(acpi_hid="ACPI0001", acpi_cid=("PNP0501",) * 16)
    with pytest.raises(DeclarationError, match="acpi_cid"):
        declare(acpi_hid="ACPI0001", acpi_cid=ids)


@pytest.mark.parametrize("uid", [0, 1, (1 << 64) - 1, "left one", "x" * 63])
def test_class_with_a_unique_id_is_made(uid: Any) -> None:
    assert declare(acpi_hid="PNP0501", acpi_uid=uid).acpi_uid == uid


@pytest.mark.parametrize("uid", [-1, 1 << 64, "", "x" * 64, "a\0b", "ä", 1.0, b"1"])
def test_class_with_another_unique_id_is_a_declaration_error(uid: Any) -> None:
    with pytest.raises(DeclarationError, match="not an ACPI unique id: acpi_uid = "):
        declare(acpi_hid="PNP0501", acpi_uid=uid)


def test_class_whose_ids_are_properties_leaves_them_to_each_instance() -> None:
    class Card(Device):
        size = 8

        def __init__(self, number: int) -> None:
            self.number = number

        @property
        def acpi_hid(self) -> str:
            return f"CARD{self.number:04X}"

        acpi_uid = property(lambda self: self.number)
        acpi_cid = property(lambda self: ("PNP0501",))

    with ScriptedMachine([]) as m:
        m.attach(Card(10), pio=UART)
        assert m._listed() == [Listed("CARD000A", ["PNP0501"], 10, [], [(UART, 8)], [])]


def test_device_at_several_places_is_listed_once_with_all_of_them_and_one_interrupt() -> None:
    class Card(Device):
        acpi_hid = "CARD0001"
        acpi_cid = "PNP0501"
        irq_level = True
        data = Register(0x0, width=8)

    with ScriptedMachine([], irqchip=True) as m:
        card = m.attach(Card(), mmio=0xFE00_0000, irq=5)
        m.attach(card, mmio=1 << 40, irq=5)
        m.attach(card, pio=UART)
        m.attach(declare()(), pio=0x80)
        places = [(0xFE00_0000, 8), (1 << 40, 8)]
        assert m._listed() == [Listed("CARD0001", ["PNP0501"], None, places, [(UART, 8)], [(5, True)])]
        m.detach(card)
        assert m._listed() == []
