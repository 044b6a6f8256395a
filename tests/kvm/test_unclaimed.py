"""Accesses that nobody claims: the policies, and answers to the exits that `run` returns."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import DeviceError, Exit, GuestFault, Machine, StateError, Stop

pytestmark = pytest.mark.core

MMIO = 0xFE00_0000
RUN = 10.0


@pytest.mark.fault(14)
def test_unclaimed_policy_ones_reads_ones_and_drops_writes(boot: Any) -> None:
    m = boot("xor eax, eax\n out 0x99, al\n in ax, 0x99\n hlt", unclaimed="ones")
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFFFF
    assert m.stats.hits["unclaimed"] == 2


@pytest.mark.fault(14)
def test_unclaimed_policy_raise_raises_a_guest_fault_with_the_exit(boot: Any) -> None:
    m = boot("in al, 0x99\n hlt", unclaimed="raise")
    with pytest.raises(GuestFault) as caught:
        m.run(RUN)
    assert caught.value.exit == Exit.Pio(0, 0x99, 1, False, 0)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(14)
def test_unclaimed_policy_callable_is_asked(boot: Any) -> None:
    seen: list[object] = []

    def policy(exit_: Any) -> int | None:
        seen.append(exit_)
        return 0x42 if exit_.address == 0x99 else None

    m = boot("mov al, 3\n out 0x98, al\n in al, 0x99\n mov bl, al\n in al, 0x9a\n hlt", unclaimed=policy)
    assert m.unclaimed is policy
    assert m.run(RUN) == Exit.Halt(0)
    assert seen == [
        Exit.Pio(0, 0x98, 1, True, 3),
        Exit.Pio(0, 0x99, 1, False, 0),
        Exit.Pio(0, 0x9A, 1, False, 0),
    ]
    assert (m.vcpus[0].regs.rbx, m.vcpus[0].regs.rax) == (0x42, 0xFF)


def test_unclaimed_policy_callable_stops_the_machine_at_a_write(boot: Any) -> None:
    """As a device does. What else it returns for a write is for reads."""

    def policy(exit_: Any) -> Any:
        return Stop("enough") if exit_.address == 0x98 else 5

    m = boot("out 0x97, al\n out 0x98, al\n hlt", unclaimed=policy)
    assert m.run(RUN) == Exit.Stopped(0, "enough")
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)


def test_unclaimed_policy_callable_that_returns_stop_for_a_read_is_an_error(boot: Any) -> None:
    m = boot("in al, 0x98\n hlt", unclaimed=lambda exit_: Stop("enough"))
    with pytest.raises(DeviceError, match="read returned Stop"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(14)
def test_unclaimed_policy_callable_that_raises_pauses(boot: Any) -> None:
    def policy(exit_: object) -> int:
        raise LookupError("not mine")

    m = boot("in al, 0x99\n hlt", unclaimed=policy)
    with pytest.raises(LookupError, match="not mine"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize("policy", ["one", "", None, 5, []])
def test_unclaimed_policy_that_is_unknown_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        Machine(memory="1M", unclaimed=policy)


def test_answer_to_a_read_reaches_the_guest(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, [rbx]\n hlt", "long")
    exit_ = m.run(RUN)
    assert exit_ == Exit.Mmio(0, MMIO, 8, False, 0)
    m.answer(exit_, 2**64 - 2)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 2**64 - 2


def test_answer_given_twice_the_last_one_counts(boot: Any) -> None:
    m = boot("in al, 0x99\n hlt")
    exit_ = m.run(RUN)
    m.answer(exit_, 1)
    m.answer(exit_, 2)
    m.run(RUN)
    assert m.vcpus[0].regs.rax == 2


@pytest.mark.fault(14)
def test_answer_left_out_reads_ones(boot: Any) -> None:
    m = boot("xor eax, eax\n in al, 0x99\n hlt")
    m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFF


@pytest.mark.parametrize("value", [-1, 0x100, 2**64])
def test_answer_that_is_too_wide_is_refused(boot: Any, value: int) -> None:
    m = boot("in al, 0x99\n hlt")
    exit_ = m.run(RUN)
    with pytest.raises(ValueError, match="too wide for a read of 1 bytes"):
        m.answer(exit_, value)
    m.answer(exit_, 5)


def test_answer_to_a_write_is_refused(boot: Any) -> None:
    m = boot("out 0x99, al\n hlt")
    with pytest.raises(ValueError, match="is a write"):
        m.answer(m.run(RUN), 1)


def test_answer_after_the_vcpu_moved_on_is_refused(boot: Any) -> None:
    m = boot("in al, 0x99\n in al, 0x99\n hlt")
    first = m.run(RUN)
    second = m.run(RUN)
    with pytest.raises(StateError, match="moved on"):
        m.answer(first, 1)
    m.answer(second, 2)


@pytest.mark.parametrize("thing", [Exit.Halt(0), None, 5])
def test_answer_to_what_is_no_access_is_refused(boot: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match="not an access"):
        boot().answer(thing, 1)


def test_registers_written_at_a_pending_read_complete_it_first(boot: Any) -> None:
    """Rule 7: setting rip during a pending read would be lost."""
    m = boot("in al, 0x99\n mov bl, 1\n hlt\n elsewhere: mov bl, 2\n hlt")
    m.answer(m.run(RUN), 0x42)
    assert m.vcpus[0].regs.rip == 0x1000
    m.vcpus[0].regs.rip = 0x1005
    assert m.run(RUN) == Exit.Halt(0)
    assert (m.vcpus[0].regs.rax, m.vcpus[0].regs.rbx) == (0x42, 2)
