"""The exceptions: one family, with a hint, and the fields that a program acts on."""

from __future__ import annotations

import copy
import pickle

import pytest

import hyperpy
from hyperpy import errors

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
def test_error_of_every_kind_is_of_one_family_and_exported(kind: type[errors.HyperpyError]) -> None:
    assert issubclass(kind, Warning if kind.__name__.endswith("Warning") else errors.HyperpyError)
    assert getattr(hyperpy, kind.__name__) is kind


@pytest.mark.parametrize("kind", ALL)
def test_error_with_a_hint_shows_it_below_a_blank_line(kind: type[errors.HyperpyError]) -> None:
    error = kind("no such thing: 0x10", hint="look at m.map")
    assert str(error) == "no such thing: 0x10\n\nhint: look at m.map"
    assert (error.message, error.hint) == ("no such thing: 0x10", "look at m.map")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("hint", [None, ""])
def test_error_without_a_hint_shows_its_message_alone(
    kind: type[errors.HyperpyError], hint: str | None
) -> None:
    assert str(kind("why", hint=hint)) == "why"
    assert kind("why", hint=hint).hint is None


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.KvmError, OSError),
        (errors.KvmUnavailable, OSError),
        (errors.MemoryAccessError, LookupError),
        (errors.StateError, RuntimeError),
        (errors.BootError, ValueError),
    ],
)
def test_error_is_also_of_the_builtin_kind_that_fits(
    kind: type[errors.HyperpyError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="why"):
        raise kind("why")


def test_error_fields_are_those_given() -> None:
    kvm = errors.KvmError("m", errno=22, ioctl="KVM_RUN")
    assert (kvm.errno, kvm.ioctl) == (22, "KVM_RUN")
    assert errors.KvmUnavailable("m", errno=2).errno == 2
    memory = errors.MemoryAccessError("m", address=0x1000, size=8)
    assert (memory.address, memory.size) == (0x1000, 8)
    assert errors.GuestFault("m", exit=hyperpy.Exit.Shutdown(0)).exit == hyperpy.Exit.Shutdown(0)


@pytest.mark.parametrize("through", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize(
    "error",
    [
        errors.StateError("m", hint="h"),
        errors.KvmError("m", errno=22, ioctl="KVM_RUN", hint="h"),
        errors.MemoryAccessError("m", address=1, size=2, hint="h"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_that_is_pickled_or_copied_keeps_all(error: errors.HyperpyError, through: object) -> None:
    """Exceptions cross processes in pools of workers."""
    assert callable(through)
    same = through(error)
    assert type(same) is type(error)
    assert (str(same), vars(same)) == (str(error), vars(error))
