"""Fields that are called as arguments of `Register` are: how they are declared, used and meant by `when=`."""

from __future__ import annotations

import pytest
from tests.declared import play

from hyperpy import Device, Field, Register

NAMES = [
    "width",
    "reset",
    "access",
    "mask",
    "count",
    "stride",
    "order",
    "when",
    "posted",
    "stream",
    "doorbell",
    "match",
    "doc",
]


class Bank(Device):
    """Banks chosen by fields that are called so."""

    control = Register(0x0, width=1, fields={"reset": Field(0), "mask": Field(4, 2), "fields": Field(6)})
    usual = Register(0x1, width=1, reset=1)
    while_reset = Register(0x1, width=1, reset=2, when=control["reset"])
    second = Register(0x2, width=1, reset=3, when=control["mask"] == 2)


def test_field_called_as_an_argument_is_meant_by_when_and_set_by_its_name() -> None:
    bank = Bank()
    accesses = ("w", 0, 1, 1), ("r", 1, 1), ("r", 2, 1), ("w", 0, 1, 0x20), ("r", 1, 1), ("r", 2, 1)
    assert play(bank, *accesses) == [2, 0, 1, 3]
    assert (bank.control.mask, bank.control.reset, bank.control.fields) == (2, 0, 0)
    bank.control.reset = 1
    assert bank.control == 0x21


@pytest.mark.parametrize("name", [*NAMES, "offset", "name", "on_write"])
def test_field_of_each_name_is_had_by_it(name: str) -> None:
    register = Register(0x0, fields={name: Field(3)})
    assert (register[name].field.low, register[name].equals) == (3, 1)


def test_field_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="register has no field 'bank': control") as caught:
        Bank.control["bank"]
    assert "its fields: reset, mask, fields" in str(caught.value)
