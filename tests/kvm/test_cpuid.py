"""CPUID as a guest and a script see it: leaves, and features by name."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import (
    Exit,
    Machine,
    StateError,
)
from hyperpy.cpuid import CpuidLeaf

RUN = 10.0


def test_cpuid_is_a_mapping_that_follows_the_machine() -> None:
    with Machine(memory="1M", vcpus=2) as m:
        first, second = (vcpu.cpuid for vcpu in m.vcpus)
        assert isinstance(first[1], CpuidLeaf)
        assert first[1] == first[1, 0]
        assert (first[1].ebx >> 24, second[1].ebx >> 24) == (0, 1)
        assert (1, 0) in first
        assert len(first) == len(list(first))
        planned = dict(second)
        m.vcpus[0].regs.all()  # now there are vcpus
        made = dict(second)
        assert made.keys() == planned.keys()
        assert made[1, 0].ebx == planned[1, 0].ebx
        assert made[0, 0] == planned[0, 0]
        assert "     1  0 " in repr(first)


@pytest.mark.parametrize("made", [False, True])
def test_cpuid_features_are_a_set_until_the_vcpu_runs(boot: Any, made: bool) -> None:
    m = boot()
    if made:
        m.vcpus[0].regs.all()
    features = m.vcpus[0].cpuid.features
    # Of those that a page-table KVM does not take from the host whatever it was told.
    assert {"fpu", "nx", "hypervisor"} <= set(features)
    features.discard("nx")
    features.discard("nx")
    assert "nx" not in features
    assert "nx" not in set(features)
    features.add("nx")
    features.discard("hypervisor")
    assert m.vcpus[0].cpuid[1].ecx >> 31 == 0
    m.vcpus[0].regs.all()
    assert "nx" in features
    assert "hypervisor" not in features
    assert len(features) == len(list(features))
    assert m.run(RUN) == Exit.Halt(0)
    with pytest.raises(StateError, match="cannot change cpuid: vcpu 0 has run") as caught:
        features.add("hypervisor")
    assert caught.value.hint == "change it before the first run"


def test_cpuid_edited_before_interrupt_controllers_were_asked_for_follows_them() -> None:
    with Machine(memory="1M") as m:
        assert "x2apic" not in m.vcpus[0].cpuid.features
        m.vcpus[0].cpuid.features.discard("hypervisor")
        m.attach_pc()
        with Machine(memory="1M", irqchip=True) as other:
            wanted = other.vcpus[0].cpuid[1]
        assert m.vcpus[0].cpuid[1] == wanted._replace(ecx=wanted.ecx & ~(1 << 31))


def test_cpuid_leaves_are_set_and_deleted() -> None:
    with Machine(memory="1M") as m:
        cpuid = m.vcpus[0].cpuid
        cpuid[0x4000_0100] = (1, 2, 3, 0xFFFF_FFFF)
        cpuid[0x17, 1] = CpuidLeaf(eax=0x10)
        del cpuid[0x8000_0000]
        m.vcpus[0].regs.all()
        assert cpuid[0x4000_0100] == (1, 2, 3, 0xFFFF_FFFF)
        assert cpuid[0x17, 1] == CpuidLeaf(eax=0x10)
        assert 0x8000_0000 not in cpuid
        with pytest.raises(KeyError, match="no such cpuid leaf: 0x80000000, 0x0"):
            cpuid[0x8000_0000]
        with pytest.raises(KeyError):
            del cpuid[0x8000_0000]


@pytest.mark.parametrize(
    ("key", "leaf", "error"),
    [
        (1, (1, 2, 3), TypeError),
        (1, (1 << 32, 0, 0, 0), ValueError),
        (1, (-1, 0, 0, 0), ValueError),
        (1 << 32, (0, 0, 0, 0), ValueError),
        ((1, -1), (0, 0, 0, 0), ValueError),
    ],
)
def test_cpuid_leaf_of_wrong_shape_or_value_is_refused(key: Any, leaf: Any, error: type[Exception]) -> None:
    with Machine(memory="1M") as m:
        before = dict(m.vcpus[0].cpuid)
        with pytest.raises(error):
            m.vcpus[0].cpuid[key] = leaf
        assert dict(m.vcpus[0].cpuid) == before


def test_cpuid_feature_that_is_not_known_is_an_error_with_the_nearest_name() -> None:
    with Machine(memory="1M") as m:
        features = m.vcpus[0].cpuid.features
        for use in (features.add, features.discard, features.__contains__):
            with pytest.raises(
                ValueError, match="no cpu feature is known by that name: sse42\n\nhint: .*sse4_2"
            ):
                use("sse42")


def test_cpuid_of_a_running_or_closed_machine_is_refused(boot: Any) -> None:
    m = boot("jmp .")
    cpuid = m.vcpus[0].cpuid
    m.start()
    with pytest.raises(StateError, match="running"):
        cpuid[1]
    with pytest.raises(StateError, match="running"):
        cpuid.features.add("sse2")
    m.close()
    with pytest.raises(StateError, match="closed"):
        len(cpuid)
