"""Debugging real guests: steps, breakpoints and watchpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.guests import skip_where_steps_repeat

from hyperpy import Device, Exit, Machine, StateError, Stop
from hyperpy.doctor import flavour

RUN = 10.0
# Offsets from 0x1000 in protected mode: mov 0, inc eax 5, store 6, inc ebx b, out c, in e, load 10, jmp 16.
LOOP = """
 mov eax, 1
 inc eax
again:
 mov [0x4000], eax
 inc ebx
 out 0x80, al
 in al, 0x81
 mov ecx, [0xfe000000]
 jmp again
"""
AGAIN, AFTER_STORE = 0x1006, 0x100B


# -- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_step_goes_from_instruction_to_instruction_accesses_too(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot(LOOP, "protected", unclaimed="ones")
    exits = [m.vcpus[0].step() for _ in range(9)]
    assert [e.pc for e in exits] == [0x1005, 0x1006, 0x100B, 0x100C, 0x100E, 0x1010, 0x1016, 0x1006, 0x100B]
    assert all(e.is_step and e.hits == () for e in exits)
    assert m.vcpus[0].regs.rbx == 1
    assert m.state == "paused"
    assert m.vcpus[0].step(6).pc == AFTER_STORE
    assert m.vcpus[0].regs.rbx == 2


@pytest.mark.core
def test_step_moves_that_vcpu_alone(boot: Any) -> None:
    m = boot("again: inc ebx\n jmp again", "protected", vcpus=2)
    assert m.vcpus[0].run_until(0x1001, timeout=RUN).pc == 0x1001
    before = m.stats.vcpus[1].exits
    assert m.vcpus[0].step(4).pc == 0x1001
    assert m.vcpus[0].regs.rbx == 3
    assert m.stats.vcpus[1].exits == before


@pytest.mark.core
def test_step_that_reads_what_nobody_claims_is_completed_by_the_next(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot("in al, 0x99\n nop\n hlt")
    exit_ = m.vcpus[0].step()
    assert exit_ == Exit.Pio(0, 0x99, 1, False, 0)
    m.answer(exit_, 0x42)
    assert (m.vcpus[0].step().pc, m.vcpus[0].regs.rax & 0xFF) == (0x1002, 0x42)


def test_step_whose_device_stops_or_raises_says_so(boot: Any) -> None:
    class Picky(Device):
        size = 2

        def write(self, offset: int, size: int, value: int) -> Stop:
            if offset:
                raise RuntimeError("no")
            return Stop("enough")

    m = boot("out 0x80, al\n out 0x81, al\n hlt")
    m.attach(Picky(), pio=0x80)
    assert m.vcpus[0].step() == Exit.Stopped(0, "enough")
    with pytest.raises(RuntimeError, match="no"):
        m.vcpus[0].step()
    assert m.vcpus[0].step() == Exit.Halt(0) or flavour() == "page-table"


def test_step_out_of_range_in_a_wrong_state_or_of_a_gone_machine_is_refused(boot: Any) -> None:
    m = boot("again: jmp again")
    for count in (0, -1, 1 << 64):
        with pytest.raises(ValueError, match="number of steps"):
            m.vcpus[0].step(count)
    with pytest.raises(ValueError, match="64 bits"):
        m.vcpus[0].run_until(-1)
    m.start()
    for act in (m.vcpus[0].step, lambda: m.vcpus[0].run_until(0x1000), lambda: m.breakpoint(0x1000)):
        with pytest.raises(StateError, match="machine is running"):
            act()
    m.close()
    with pytest.raises(StateError, match="machine is closed"):
        m.vcpus[0].step()
    with Machine(memory="1M") as gone:
        vcpu = gone.vcpus[0]
    del gone
    with pytest.raises(StateError, match="machine is gone"):
        vcpu.step()


def test_step_that_never_ends_is_stopped_by_time_and_from_another_thread(boot: Any) -> None:
    class Bell(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            rung.set()

    rung = threading.Event()
    m = boot("sti\n out 0x80, al\n hlt", irqchip=True)
    m.attach(Bell(), pio=0x80)
    m.vcpus[0].step(timeout=RUN)

    def stop() -> None:
        assert rung.wait(RUN)  # the step is under way
        m.stop("enough")

    thread = threading.Thread(target=stop)
    thread.start()
    assert m.vcpus[0].step(1 << 40, timeout=RUN) == Exit.Stopped(None, "enough")
    thread.join()


# -- breakpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_breakpoint_is_hit_each_time_round_and_not_after_its_removal(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot(LOOP, "protected", unclaimed="ones")
    with m.breakpoint(AGAIN) as b:
        for rounds in range(3):
            exit_ = m.run(RUN)
            assert (exit_.pc, exit_.hits, exit_.is_step) == (AGAIN, (b.number,), False)
            assert m.vcpus[0].regs.rbx == rounds
    assert m.run(0.05) == Exit.Timeout()
    b.remove()


@pytest.mark.core
def test_breakpoints_on_instructions_one_after_the_other_are_hit_in_turn(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot(LOOP, "protected", unclaimed="ones")
    places = [0x1005, AGAIN, AFTER_STORE, 0x100C]
    numbers = [m.breakpoint(place).number for place in places]
    exits = [m.run(RUN) for _ in range(6)]
    assert [e.pc for e in exits] == [*places, AGAIN, AFTER_STORE]
    assert [e.hits for e in exits[:4]] == [(number,) for number in numbers]


@pytest.mark.core
def test_step_onto_a_breakpoint_says_both(boot: Any) -> None:
    m = boot(LOOP, "protected", unclaimed="ones")
    b = m.breakpoint(AFTER_STORE)
    exit_ = m.vcpus[0].step(100)
    assert (exit_.pc, exit_.hits, exit_.is_step) == (AFTER_STORE, (b.number,), True)
    assert m.run(RUN).pc == AFTER_STORE
    assert m.vcpus[0].regs.rbx == 1


def test_breakpoints_are_four_and_a_fifth_is_refused(boot: Any) -> None:
    m = boot()
    held = [m.breakpoint(n) for n in range(3)] + [m.watchpoint(0x4000)]
    assert [b.number for b in held] == [0, 1, 2, 3]
    with pytest.raises(StateError, match=r"all four debug registers are in use: no place for one at 0x9"):
        m.breakpoint(9)
    held[1].remove()
    assert repr(m.watchpoint(0x5000, size=8, access="readwrite")) == (
        "<Breakpoint 1: readwrite 0x5000, 8 bytes>"
    )
    held[1].remove()  # its register is another's by now
    with pytest.raises(StateError):
        m.breakpoint(9)


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        (0x4001, {}, "not aligned to its size: 0x4001"),
        (0x4004, {"size": 8}, "not aligned"),
        (0x4000, {"size": 3}, "1, 2, 4 or 8 bytes: 3"),
        (0x4000, {"size": 300}, "1, 2, 4 or 8 bytes: 300"),
        (0x4000, {"access": "read"}, "unknown access: 'read'"),
        (1 << 64, {}, "64 bits"),
        (-1, {}, "64 bits"),
    ],
)
def test_watchpoint_that_cannot_be_is_refused(boot: Any, address: int, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boot().watchpoint(address, **options)


@pytest.mark.core
def test_watchpoint_stops_after_the_access_where_code_is_not_interpreted(boot: Any) -> None:
    """A KVM that interprets kernel code does not look at data addresses there."""
    m = boot("mov eax, 5\n mov ebx, [0x4000]\n mov [0x4000], eax\n nop\n hlt", "protected")
    write = m.watchpoint(0x4000)
    if flavour() == "page-table":
        assert m.run(RUN) == Exit.Halt(0)
        return
    exit_ = m.run(RUN)
    assert (type(exit_), exit_.hits) == (Exit.Debug, (write.number,))
    assert m.memory.read(0x4000, 4) == (5).to_bytes(4, "little")
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.core
def test_run_until_comes_to_an_address_and_to_the_same_again(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot(LOOP, "protected", unclaimed="ones")
    vcpu = m.vcpus[0]
    for rounds in range(3):
        assert (vcpu.run_until(0x1010, timeout=RUN).pc, vcpu.regs.rbx) == (0x1010, rounds + 1)
    assert vcpu.run_until(0x5555, timeout=0.05) == Exit.Timeout()
    # Its register is free again.
    assert [m.breakpoint(n).number for n in range(4)] == [0, 1, 2, 3]
    with pytest.raises(StateError, match="all four"):
        vcpu.run_until(0x5555)


@pytest.mark.core
def test_breakpoint_stops_a_started_machine(boot: Any) -> None:
    skip_where_steps_repeat()
    m = boot(LOOP, "protected", unclaimed="ones")
    m.breakpoint(AGAIN)
    for rounds in range(2):
        m.start()
        assert (m.wait(RUN).pc, m.vcpus[0].regs.rbx) == (AGAIN, rounds)


def test_breakpoint_block_that_raises_while_the_machine_runs_raises_just_that(boot: Any) -> None:
    m = boot("again: jmp again")

    def in_block(act: Callable[[], object], error: Exception | None = None) -> None:
        with m.breakpoint(0x5000):
            act()
            if error:
                raise error

    mine = LookupError("mine")
    with pytest.raises(LookupError, match="mine"):
        in_block(m.start, mine)
    told = "<Breakpoint 0: execute 0x5000, 1 bytes> is still set: cannot remove a breakpoint: the machine is running"
    assert mine.__notes__ == [told]
    m.pause()
    with pytest.raises(StateError, match="cannot remove a breakpoint: the machine is running"):
        in_block(m.resume)
