"""Exits as values: closed, immutable, comparable, shown as they are written in a match."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest

from hyperpy import AnyExit, Exit

SAMPLES: dict[AnyExit, str] = {
    Exit.Halt(0): "Exit.Halt(vcpu=0)",
    Exit.Mmio(1, 0xFE000000, 4, True, 0x2A): (
        "Exit.Mmio(vcpu=1, address=0xfe000000, size=4, is_write=True, value=0x2a)"
    ),
    Exit.Pio(0, 0x3F8, 1, False, 0): "Exit.Pio(vcpu=0, address=0x3f8, size=1, is_write=False, value=0x0)",
    Exit.Hypercall(0, 5, (1, 2, 3, 4, 5, 6)): (
        "Exit.Hypercall(vcpu=0, number=0x5, arguments=(1, 2, 3, 4, 5, 6))"
    ),
    Exit.Msr(0, 0xC0000080, True, 1): "Exit.Msr(vcpu=0, index=0xc0000080, is_write=True, value=0x1)",
    Exit.Debug(0, 0x1000, 0x4000): "Exit.Debug(vcpu=0, pc=0x1000, dr6=0x4000)",
    Exit.Shutdown(2): "Exit.Shutdown(vcpu=2)",
    Exit.SystemEvent(0, "power-off", 1): "Exit.SystemEvent(vcpu=0, kind='power-off')",
    Exit.Stopped(None, "stop"): "Exit.Stopped(vcpu=None, reason='stop', status=None)",
    Exit.Timeout(): "Exit.Timeout()",
    Exit.FailEntry(0, 0x80000021): "Exit.FailEntry(vcpu=0, reason=0x80000021)",
    Exit.InternalError(0, 1, 0, b"\xd9\xe8"): (
        "Exit.InternalError(vcpu=0, suberror=1, number=0x0, bytes=b'\\xd9\\xe8', error='emulation', instruction='fld1')"
    ),
}
EXITS = pytest.mark.parametrize("exit_", SAMPLES, ids=lambda exit_: type(exit_).__name__)


def test_exits_union_is_every_class_of_the_namespace() -> None:
    classes = {value for name, value in vars(Exit).items() if not name.startswith("_")}
    assert classes == set(typing.get_args(AnyExit)) == {type(exit_) for exit_ in SAMPLES}


@EXITS
def test_exit_in_repr_is_as_in_a_match(exit_: AnyExit) -> None:
    assert repr(exit_) == SAMPLES[exit_]


@EXITS
def test_exit_that_is_changed_raises(exit_: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        exit_.vcpu = 5
    with pytest.raises((AttributeError, TypeError)):
        exit_.anything = 5


@EXITS
def test_exit_that_is_pickled_or_copied_is_equal(exit_: AnyExit) -> None:
    assert pickle.loads(pickle.dumps(exit_)) == exit_ == copy.deepcopy(exit_)


@EXITS
def test_exit_class_is_final_and_small(exit_: AnyExit) -> None:
    assert not hasattr(exit_, "__dict__")
    assert getattr(type(exit_), "__final__", False)
    assert type(exit_).__qualname__ == f"Exit.{type(exit_).__name__}"


def test_exit_with_another_ticket_is_equal() -> None:
    """Which access it was is the machine's affair; scripts and tests compare what happened."""
    assert Exit.Pio(0, 0x80, 1, False, 0, 1) == Exit.Pio(0, 0x80, 1, False, 0, 2)
    assert hash(Exit.Pio(0, 0x80, 1, False, 0, 1)) == hash(Exit.Pio(0, 0x80, 1, False, 0, 2))


def test_exits_of_different_kinds_with_equal_fields_differ() -> None:
    port: AnyExit = Exit.Pio(0, 0x80, 1, False, 0)
    gpa: AnyExit = Exit.Mmio(0, 0x80, 1, False, 0)
    assert port != gpa


def test_exit_is_matched_by_position_too() -> None:
    match Exit.Mmio(0, 0x1000, 4, False, 0):
        case Exit.Mmio(vcpu, address, size, False):
            assert (vcpu, address, size) == (0, 0x1000, 4)
        case _:
            pytest.fail("not matched")


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x8000_0021, "invalid guest state: "),
        (0xFFFF_FFFF_FFFF_FFFF, "invalid guest state in the VMCB"),
        (7, "invalid control fields"),
        (0x1234, "a reason that the processor's manual does not name"),
    ],
)
def test_fail_entry_says_its_reason_in_words(reason: int, words: str) -> None:
    assert Exit.FailEntry(0, reason).meaning.startswith(words)


def test_system_event_keeps_its_data_and_shows_what_was_asked_for() -> None:
    crash = Exit.SystemEvent(0, "crash", 3, (1, 2))
    assert repr(crash) == "Exit.SystemEvent(vcpu=0, kind='crash')"
    assert crash.data == (1, 2)
    assert Exit.SystemEvent(0, "reset", 2) == Exit.SystemEvent(0, "reset", 2, ())


def test_ticket_of_an_exit_is_no_part_of_it() -> None:
    assert Exit.Msr(0, 0x10, False, 0, 5) == Exit.Msr(0, 0x10, False, 0, 6)
    assert Exit.Hypercall(0, 12, (0,) * 6, 5) == Exit.Hypercall(0, 12, (0,) * 6)


def test_exit_made_by_position_by_name_or_by_both_is_the_same() -> None:
    whole = Exit.Mmio(1, 0x1000, 4, True, 7)
    assert whole == Exit.Mmio(vcpu=1, address=0x1000, size=4, is_write=True, value=7)
    assert whole == Exit.Mmio(1, 0x1000, 4, value=7, is_write=True)
    assert [exit_._ticket for exit_ in (whole, Exit.Mmio(1, 0x1000, 4, True, 7, 9))] == [0, 9]


@pytest.mark.parametrize(
    ("values", "message"), [((0, 0x80, 1, False), "lacks a field: value"), ((0,) * 7, "takes no such field")]
)
def test_exit_of_too_few_or_too_many_values_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Exit.Pio(*values)


def test_value_of_a_class_without_postponed_annotations_has_its_fields() -> None:
    """As a script writes it, without `from __future__ import annotations`."""
    namespace: dict[str, Any] = {}
    code = "import typing\nfrom hyperpy import Stop\nclass Why(Stop):\n    code: int = 0\n    known: typing.ClassVar[int] = 7\n"
    exec(compile(code, "script.py", "exec", dont_inherit=True), namespace)
    assert repr(namespace["Why"]("full", code=3)) == "Why(reason='full', code=3)"
