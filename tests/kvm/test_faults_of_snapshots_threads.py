"""Faults around snapshot, restore and fork by threads: that run, copy, close or call everything at once."""

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
from tests.snapshotted import RUN, VERBS, Takes, count

from hyperpy import Device, Exit, Flat, Machine, StateError


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


def descriptors() -> list[str]:
    names = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(name) for name in names if os.path.lexists(name))
