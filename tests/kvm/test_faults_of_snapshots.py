"""Faults around snapshot, restore and fork that scripts and guests make: accesses that are half done, verbs at the wrong time, and
threads that close or call everything. What the host does: test_faults_of_snapshots_host.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.kvm.conftest import Boot

from hyperpy import Device, Exit, Flat, Machine, Snapshot, StateError, Stop
from hyperpy.errors import SnapshotError

RUN = 20.0
MMIO = 0xE000_0000
COUNTS = """
again:
    inc word ptr [0x8000]
    hlt
    jmp again
"""


class Takes(Device):
    """Keeps what it is given, and stops the machine at the `stops_at`-th value; answers reads with their number."""

    size = 4
    saved_attributes = ("taken", "reads")

    def __init__(self, stops_at: int = 0) -> None:
        self.stops_at = stops_at
        self.taken: list[int] = []
        self.reads = 0

    def read(self, offset: int, size: int, /) -> int:
        self.reads += 1
        return self.reads

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        self.taken.append(value)
        return Stop("half") if len(self.taken) == self.stops_at else None


def count(machine: Machine) -> int:
    return int.from_bytes(machine.memory.read(0x8000, 2), "little")


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


@pytest.mark.fault(29)
def test_restore_while_another_thread_is_in_run_is_refused_and_the_run_goes_on(boot: Boot) -> None:
    m = boot("out 0x80, al\n again: inc word ptr [0x8000]\n jmp again")
    base = m.snapshot()

    class Bell(Device):
        size = 1
        stateless = True
        rung = threading.Event()

        def write(self, offset: int, size: int, value: int, /) -> None:
            self.rung.set()

    bell = m.attach(Bell(), pio=0x80)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(m.run(RUN)))
    thread.start()
    assert bell.rung.wait(RUN)
    for verb in (lambda: m.restore(base), m.snapshot, m.fork):
        with pytest.raises(StateError, match="running"):
            verb()
    m.stop("enough")
    thread.join(RUN)
    assert got == [Exit.Stopped(vcpu=None, reason="enough")]


class Slow(Device):
    """Is being saved for as long as the test wants."""

    size = 1

    def __init__(self) -> None:
        self.saving, self.go_on = threading.Event(), threading.Event()

    def save(self) -> dict[str, Any]:
        self.saving.set()
        assert self.go_on.wait(RUN)
        return {}

    def load(self, state: dict[str, Any], /) -> None:
        pass


def test_restore_and_reset_beside_another_threads_snapshot_wait_for_their_turn(boot: Boot) -> None:
    m = boot()
    slow = m.attach(Slow(), pio=0x80)
    slow.go_on.set()
    base = m.snapshot()
    for verb in (lambda: m.restore(base), m.reset):
        slow.saving.clear()
        slow.go_on.clear()
        done: list[str] = []
        snapshot = threading.Thread(target=lambda done=done: (m.snapshot(), done.append("snapshot")))
        snapshot.start()
        assert slow.saving.wait(RUN)
        # It comes in while the other one's device is being saved, and lets that go on after the first look at the machine.
        waits = threading.Thread(target=lambda done=done, verb=verb: (verb(), done.append("other")))
        waits.start()
        assert m.state == "running"
        slow.go_on.set()
        for thread in (snapshot, waits):
            thread.join(RUN)
            assert not thread.is_alive()
        assert sorted(done) == ["other", "snapshot"]
        assert m.state == "created"


@pytest.mark.parametrize("vcpus", [1, 2])
def test_restores_and_snapshots_on_two_threads_come_one_after_the_other(boot: Boot, vcpus: int) -> None:
    m = boot("again: inc word ptr [0x8000]\n jmp again", vcpus=vcpus)
    base, raised = m.snapshot(), []

    def often(verb: Callable[[], Any]) -> None:
        try:
            for _ in range(200):
                verb()
        except StateError as error:
            raised.append(error)

    threads = [
        threading.Thread(target=often, args=(verb,))
        for verb in (lambda: m.restore(base), m.snapshot, m.reset)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RUN)
        assert not thread.is_alive()
    assert (raised, m.state, m.snapshot() == base) == ([], "created", True)
    # One that runs is not put back, however it stands still.
    m.start()
    threads = [threading.Thread(target=often, args=(m.snapshot,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        with pytest.raises(StateError, match="running"):
            m.restore(base)
    for thread in threads:
        thread.join(RUN)
        assert not thread.is_alive()
    assert (raised, m.state) == ([], "running")


VERBS: dict[str, Callable[[Machine, Snapshot], Any]] = {
    "snapshot": lambda m, base: m.snapshot().hash(),
    "restore": lambda m, base: m.restore(base),
    "fork": lambda m, base: m.fork().close(),
}


@pytest.mark.fault(35)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("runs", [False, True], ids=["standing", "started"])
def test_close_while_another_thread_copies_gives_that_thread_a_state_error(
    boot: Boot, verb: str, runs: bool
) -> None:
    m = boot("again: inc word ptr [0x8000]\n jmp again")
    m.attach(Takes(), pio=0x80)
    base, begun, got = m.snapshot(), threading.Event(), []

    def call() -> None:
        while True:
            try:
                VERBS[verb](m, base)
            except StateError as error:
                if m.state == "closed":
                    got.append(str(error))
                    return
            begun.set()

    if runs:
        m.start()
    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(RUN)
    time.sleep(0.01)  # somewhere in the middle of it
    m.close()
    thread.join(RUN)
    assert not thread.is_alive()
    assert len(got) == 1
    assert "\n\nhint: " in got[0]


@pytest.mark.fault(35)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_machine_that_is_dropped_while_threads_copy_it_gives_back_all_and_copies_live_on(boot: Boot) -> None:
    boot().snapshot()
    gc.collect()
    before = descriptors()
    machines = [Machine(memory="1M")]
    machines[0].load(Flat(bytes.fromhex("ff060080 f4 ebf9"), at=0x1000, mode="real"))  # COUNTS
    children: list[Machine] = []

    def copy(machine: Machine) -> None:
        base = machine.snapshot()
        for _ in range(20):
            with contextlib.suppress(StateError):  # the other thread's verb has it running
                machine.restore(base)
            children.append(machine.fork())

    threads = [threading.Thread(target=copy, args=(machines[0],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    machines.clear()
    for thread in threads:
        thread.join(RUN)
    del threads, thread
    gc.collect()
    assert len(children) == 40
    for child in children:
        assert (child.run(RUN), count(child)) == (Exit.Halt(0), 1)
        child.close()
    children.clear()
    del child
    gc.collect()
    assert descriptors() == before


@pytest.mark.fault(35)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a copy of a copy
@pytest.mark.parametrize("ends_by", ["close", "stop"])
def test_eight_threads_that_copy_beside_every_other_verb_see_only_documented_errors(
    boot: Boot, ends_by: str
) -> None:
    m = boot("again: in al, 0x80\n inc word ptr [0x8000]\n jmp again", vcpus=2)
    m.attach(Takes(), pio=0x80)
    base, end, unexpected = m.snapshot(), time.monotonic() + 2.0, []
    verbs: list[Callable[[], Any]] = [
        m.snapshot,
        lambda: m.restore(base),
        lambda: m.fork().close(),
        m.start,
        lambda: m.restore(m.snapshot()),
        lambda: m.run(0.001),
        m.pause,
        lambda: m.fork().fork().close(),
        m.resume,
        lambda: m.snapshot().hash(),
        m.reset,
        lambda: m.memory.write(0x9000, b"x"),
        m.memory.dirty,
        lambda: m.vcpus[0].regs.update(rbx=1),
        lambda: m.memory.view(0x3000, 4, writable=True),
        lambda: m.wait(0.001),
        m.memory.track_dirty,
        lambda: m.vcpus[1].step(timeout=0.001),
    ]

    def call(at: int) -> None:
        while time.monotonic() < end:
            at += 1
            try:
                verbs[at % len(verbs)]()
            except StateError:
                pass
            except BaseException as error:
                unexpected.append(error)

    threads = [threading.Thread(target=call, args=(number * 3,)) for number in range(8)]
    for thread in threads:
        thread.start()
    threads[0].join(1.5)
    getattr(m, ends_by)()
    for thread in threads:
        thread.join(RUN)
    assert not any(thread.is_alive() for thread in threads)
    assert {f"{type(error).__name__}: {error}" for error in unexpected} == set()
    gc.collect()  # copies of copies that nobody closed


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


def descriptors() -> list[str]:
    names = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(name) for name in names if os.path.lexists(name))
