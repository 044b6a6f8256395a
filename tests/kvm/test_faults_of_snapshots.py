"""Faults around snapshot, restore and fork that scripts and guests make: accesses that are half done, verbs at the wrong time and in the
wrong place. Threads: test_faults_of_snapshots_threads; what the host does: test_faults_of_snapshots_host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.kvm.conftest import Boot
from tests.snapshotted import RUN, VERBS, Takes, count

from hyperpy import Device, Exit, Machine, Snapshot, StateError
from hyperpy.errors import SnapshotError

MMIO = 0xE000_0000
COUNTS = """
again:
    inc word ptr [0x8000]
    hlt
    jmp again
"""


def goes_on_alike(m: Machine, base: Snapshot, then: Callable[[], Any]) -> Any:
    """What comes of a snapshot, which is the same each of three times."""
    outcomes = []
    for _ in range(3):
        m.restore(base)
        assert m.snapshot().hash() == base.hash()
        outcomes.append(then())
    assert outcomes[1:] == outcomes[:-1]
    return outcomes[0]


@pytest.mark.fault(30)
def test_snapshot_between_the_halves_of_a_read_across_a_page_has_both(boot: Boot) -> None:
    """The first half is nobody's and was returned as an exit, the second is a device's: it is asked once, by the completion."""
    m = boot(f"mov eax, [{MMIO + 0xFFE:#x}]\n out 0x98, eax\n hlt", "protected")
    device = m.attach(Takes(), mmio=MMIO + 0x1000)
    half = m.run(RUN)
    assert half == Exit.Mmio(0, MMIO + 0xFFE, 2, False, 0)
    assert device.reads == 0
    base = m.snapshot()
    assert device.reads == 1
    with pytest.raises(StateError, match="moved on"):
        m.answer(half, 7)
    outcome = goes_on_alike(m, base, lambda: (m.run(RUN), device.reads))
    assert outcome == (Exit.Pio(0, 0x98, 4, True, 0x1_FFFF), 1)


@pytest.mark.fault(30)
def test_snapshot_between_the_halves_of_a_write_across_a_page_has_both_once(boot: Boot) -> None:
    m = boot(f"mov dword ptr [{MMIO + 0xFFE:#x}], 0x44332211\n hlt", "protected")
    device = m.attach(Takes(), mmio=MMIO + 0x1000)
    assert m.run(RUN) == Exit.Mmio(0, MMIO + 0xFFE, 2, True, 0x2211)
    base = m.snapshot()
    assert device.taken == [0x4433]
    outcome = goes_on_alike(m, base, lambda: (m.run(RUN), list(device.taken)))
    assert outcome == (Exit.Halt(0), [0x4433])


@pytest.mark.fault(30)
def test_snapshot_of_a_string_that_was_stopped_half_way_has_each_value_once(boot: Boot) -> None:
    m = boot("mov si, 0x7000\n mov cx, 8\n mov dx, 0x80\n cld\n rep outsb\n hlt")
    m.memory.write(0x7000, bytes(range(1, 9)))
    device = m.attach(Takes(stops_at=3), pio=0x80)
    assert m.run(RUN) == Exit.Stopped(vcpu=0, reason="half")
    base = m.snapshot()
    outcome = goes_on_alike(m, base, lambda: (m.run(RUN), list(device.taken)))
    assert outcome == (Exit.Halt(0), list(range(1, 9)))


@pytest.mark.fault(30)
def test_snapshot_of_a_string_that_is_read_and_not_answered_goes_on_behind_it(boot: Boot) -> None:
    m = boot("mov di, 0x7000\n mov cx, 4\n mov dx, 0x99\n cld\n rep insb\n hlt")
    first = m.run(RUN)
    assert isinstance(first, Exit.Pio)
    assert not first.is_write
    base = m.snapshot()

    def to_the_end() -> bytes:
        while isinstance(left := m.run(RUN), Exit.Pio):
            m.answer(left, 7)
        assert left == Exit.Halt(0)
        return m.memory.read(0x7000, 5)

    filled = goes_on_alike(m, base, to_the_end)
    assert (filled[0], filled[4]) == (0xFF, 0)
    assert set(filled[:4]) <= {0xFF, 7}


@pytest.mark.fault(30)
@pytest.mark.parametrize("verb", ["snapshot", "fork"])
def test_snapshot_while_a_device_answers_waits_for_the_answer_and_has_it(boot: Boot, verb: str) -> None:
    class Slow(Device):
        size = 1
        stateless = True
        entered, release = threading.Event(), threading.Event()

        def read(self, offset: int, size: int, /) -> int:
            self.entered.set()
            assert self.release.wait(RUN)
            return 0x42

    m = boot("in al, 0x80\n again: jmp again")
    device = m.attach(Slow(), pio=0x80)
    m.start()
    assert device.entered.wait(RUN)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(getattr(m, verb)()))
    thread.start()
    thread.join(0.2)
    assert not taken
    device.release.set()
    thread.join(RUN)
    m.pause()
    if verb == "fork":
        with taken[0] as child:
            child.pause()
            assert (child.vcpus[0].regs.rax, child.vcpus[0].regs.rip) == (0x42, 0x1002)
    else:
        m.restore(taken[0])
        assert (m.vcpus[0].regs.rax, m.vcpus[0].regs.rip) == (0x42, 0x1002)


@pytest.mark.fault(29)
def test_restore_in_the_wrong_states_and_shapes_is_refused_and_changes_nothing(boot: Boot) -> None:
    m, other = boot(COUNTS), boot(COUNTS)
    base = m.snapshot()
    other.attach(Takes(), pio=0x80)
    assert other.run(RUN) == Exit.Halt(0)
    before = other.snapshot().hash()
    for _ in range(2):
        with pytest.raises(SnapshotError, match=r"Takes at port 0x80, 0x4 bytes, only here"):
            other.restore(base)
        assert (other.snapshot().hash(), other.state) == (before, "paused")
    m.vcpus[0].regs.rip = 0x3000
    m.memory.write(0x3000, b"\xeb\xfe")  # again: jmp again
    m.start()
    with pytest.raises(StateError, match="running"):
        m.restore(base)
    m.stop()
    m.wait(RUN)
    for _ in range(2):
        m.restore(base)
        assert (m.state, count(m)) == ("created", 0)
    m.close()
    with pytest.raises(StateError, match="closed"):
        m.restore(base)
    assert base.hash() == base.hash()  # it does not need its machine


class Recursive(Device):
    """Tries every verb in each of the methods that snapshots and copies call."""

    size = 1
    calls: Callable[[], None] = staticmethod(lambda: None)

    def write(self, offset: int, size: int, value: int, /) -> None:
        type(self).calls()

    def save(self) -> dict[str, Any]:
        type(self).calls()
        return {}

    def load(self, state: dict[str, Any], /) -> None:
        type(self).calls()

    def clone(self) -> Recursive:
        type(self).calls()
        return Recursive()


@pytest.mark.fault(32)
@pytest.mark.parametrize(("outer", "methods"), [("run", 1), ("snapshot", 1), ("restore", 1), ("fork", 3)])
def test_verbs_inside_the_methods_that_copy_a_device_are_refused(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, outer: str, methods: int
) -> None:
    m = boot("out 0x80, al\n hlt")
    m.attach(Recursive(), pio=0x80)
    base, refused = m.snapshot(), []

    def calls() -> None:
        for verb in VERBS.values():
            with pytest.raises(StateError) as caught:
                verb(m, base)
            refused.append(caught.value.message)

    monkeypatch.setattr(Recursive, "calls", calls)
    _ = m.run(RUN) if outer == "run" else VERBS[outer](m, base)
    where = " inside a device callback" if outer == "run" else ": this thread is running the machine"
    assert refused == [f"cannot {verb}{where}" for verb in VERBS] * methods
