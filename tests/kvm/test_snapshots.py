"""Snapshots and restores of bare guests: what is put back, in which order of snapshots, and what is refused without a change."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.guests import interruptible
from tests.kvm.conftest import Boot
from tests.programs import hyperpy

from hyperpy import Exit, Flat, Machine, Snapshot, StateError
from hyperpy.errors import SnapshotError

pytestmark = pytest.mark.core

RUN = 20.0
# Counts in memory and halts, again and again.
COUNTS = """
again:
    inc word ptr [0x8000]
    hlt
    jmp again
"""


def count(machine: Machine) -> int:
    return int.from_bytes(machine.memory.read(0x8000, 2), "little")


def step(machine: Machine, times: int = 1) -> None:
    for _ in range(times):
        assert machine.run(timeout=RUN) == Exit.Halt(vcpu=0)


def test_restore_puts_registers_and_memory_back(boot: Boot) -> None:
    m = boot(COUNTS)
    step(m, 2)
    base, regs = m.snapshot(), repr(m.vcpus[0].regs)
    step(m, 5)
    m.vcpus[0].regs.rbx = 7
    done = m.restore(base)
    assert (count(m), repr(m.vcpus[0].regs), done.pages) == (2, regs, 1)
    step(m)
    assert count(m) == 3


def test_restore_to_any_snapshot_of_a_tree_gives_its_state(boot: Boot) -> None:
    m = boot(COUNTS)
    snapshots = {}
    for number in (1, 2, 3):
        step(m)
        m.memory.write(0x10000 * number, bytes([number]))
        snapshots[number] = m.snapshot()
    m.restore(snapshots[1])
    step(m, 4)  # a branch: 1 and then 5
    snapshots[5] = m.snapshot()
    hashes = {number: snapshot.hash() for number, snapshot in snapshots.items()}
    assert len(set(hashes.values())) == len(hashes)
    for number in (3, 5, 1, 2, 5, 3, 2, 1, 3, 3):
        m.restore(snapshots[number])
        assert count(m) == number
        assert m.snapshot().hash() == hashes[number]
        assert m.memory.read(0x20000, 1) == bytes([2 if number in (2, 3) else 0])
        step(m)
        assert count(m) == number + 1


def test_restore_puts_back_what_the_host_and_its_views_wrote(boot: Boot) -> None:
    m = boot()
    view = m.memory.view(0x4000, 4, writable=True)
    view[:] = b"base"
    base = m.snapshot()
    view[:] = b"late"
    m.memory.write(0x9000, b"x")
    m.restore(base)
    assert (bytes(view), m.memory.read(0x9000, 1)) == (b"base", b"\0")
    view[:] = b"more"
    m.restore(base)
    assert bytes(view) == b"base"


def test_restore_spares_a_window_and_nothing_beside_it(boot: Boot) -> None:
    m = boot(COUNTS)
    base = m.snapshot()
    step(m)
    m.memory.write(0x5000, b"cover")
    m.restore(base, spare=[(0x5000, 0x1000)])
    assert (count(m), m.memory.read(0x5000, 5)) == (0, b"cover")
    # What was spared once is not forgotten.
    m.restore(base)
    assert m.memory.read(0x5000, 5) == bytes(5)


def test_pages_that_a_restore_changed_are_dirty(boot: Boot) -> None:
    m = boot(COUNTS)
    base = m.snapshot()
    step(m)
    with m.memory.track_dirty():
        m.memory.dirty()
        m.restore(base)
        assert 0x8000 in {gpa for gpa, _ in m.memory.dirty()}


def test_snapshot_completes_a_read_that_nobody_has_answered(boot: Boot) -> None:
    m = boot("in al, 0x99\nout 0x98, al\nhlt")
    ended = m.run(timeout=RUN)
    assert isinstance(ended, Exit.Pio)
    base = m.snapshot()
    with pytest.raises(StateError, match="moved on"):
        m.answer(ended, 0x42)
    for _ in range(2):
        # It is behind the read, which was all ones.
        assert m.vcpus[0].regs.rip == 0x1002
        ended = m.run(timeout=RUN)
        assert isinstance(ended, Exit.Pio)
        assert (ended.is_write, ended.value) == (True, 0xFF)
        m.restore(base)


def test_restore_forgets_a_pending_read(boot: Boot) -> None:
    m = boot("mov al, 1\nin al, 0x99\nout 0x98, al\nhlt")
    base = m.snapshot()
    for _ in range(3):
        ended = m.run(timeout=RUN)
        assert isinstance(ended, Exit.Pio)
        assert not ended.is_write
        m.restore(base)
        assert (m.vcpus[0].regs.rip, m.state) == (0x1000, "created")
        with pytest.raises(StateError):
            m.answer(ended, 1)


def test_restore_brings_a_guest_back_that_has_ended(boot: Boot) -> None:
    m = boot("inc word ptr [0x8000]\nlidt [0x7000]\nint3", mode="real")
    base = m.snapshot()
    m.stop("enough")
    assert m.state == "stopped"
    m.restore(base)
    assert (m.state, m.vcpus[0].regs.rip) == ("created", 0x1000)


def test_snapshot_of_a_started_machine_lets_it_go_on(boot: Boot) -> None:
    m = boot(f"{interruptible()}\nagain: inc word ptr [0x8000]\njmp again")
    m.start()
    woken = threading.Event()

    def wait() -> None:
        m.wait()
        woken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    snapshots = [m.snapshot() for _ in range(20)]
    assert (m.state, woken.is_set()) == ("running", False)
    m.stop()
    waiter.join(RUN)
    assert woken.is_set()
    for snapshot in snapshots:
        m.restore(snapshot)
        assert m.state == "paused"
        assert 0x1000 <= m.vcpus[0].regs.rip < 0x1008


@pytest.mark.parametrize("verb", ["snapshot", "restore", "fork"])
def test_verb_on_a_machine_that_is_closed_is_refused(boot: Boot, verb: str) -> None:
    m = boot()
    base = m.snapshot()
    m.close()
    with pytest.raises(StateError, match="closed"):
        getattr(m, verb)(*([base] if verb == "restore" else []))


@pytest.mark.fault(29)
def test_restore_while_it_runs_is_refused(boot: Boot) -> None:
    m = boot(f"{interruptible()}\nagain: jmp again")
    base = m.snapshot()
    m.start()
    with pytest.raises(StateError, match="cannot restore: the machine is running"):
        m.restore(base)
    m.pause()
    m.restore(base)
    m.restore(base)
    assert m.state == "created"


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"vcpus": 2}, r"vcpus: 1, here 2; without interrupt controllers, here with"),
        ({"irqchip": True}, r"without interrupt controllers, here with"),
        ({"memory": "3M"}, r"memory"),
    ],
)
def test_restore_onto_another_shape_is_refused_and_tells_what_differs(
    boot: Boot, options: dict[str, Any], differs: str
) -> None:
    base = boot(COUNTS).snapshot()
    other = boot(COUNTS, **options)
    other.memory.write(0x8000, b"mine")
    regs = repr(other.vcpus[0].regs)
    with pytest.raises(SnapshotError, match=differs):
        other.restore(base)
    assert (other.memory.read(0x8000, 4), repr(other.vcpus[0].regs)) == (b"mine", regs)
    assert other.state == "created"


def test_restore_onto_another_machine_of_the_same_shape_takes_its_state(boot: Boot) -> None:
    one, other = boot(COUNTS), boot(f"{interruptible()}\nagain: jmp again")
    step(one, 3)
    base = one.snapshot()
    one.close()
    other.restore(base)
    assert count(other) == 3
    step(other)
    assert count(other) == 4


def test_restore_of_what_is_no_snapshot_says_what_is(boot: Boot) -> None:
    with pytest.raises(TypeError, match="hint: m.snapshot"):
        boot().restore("base")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hint: m.snapshot"):
        Snapshot()


def test_restore_a_thousand_times_gives_the_same_exits_and_the_same_end(boot: Boot) -> None:
    source = """
        mov cx, 5
    again:
        mov ax, cx
        out 0x80, ax
        in al, 0x81
        add byte ptr [0x8000], al
        push ax
        loop again
        hlt
    """
    m = boot(source, trace=64)
    base = m.snapshot()

    def once() -> tuple[list[Any], int]:
        exits: list[Any] = []
        while not isinstance(ended := m.run(timeout=RUN), Exit.Halt):
            exits.append(ended)
            if isinstance(ended, Exit.Pio) and not ended.is_write:
                m.answer(ended, len(exits))
        return exits, m.snapshot().hash()

    first = once()
    assert len(first[0]) == 10
    for _ in range(999):
        m.restore(base)
        assert once() == first


@pytest.mark.fault(34)
def test_snapshots_in_the_child_of_a_fork_are_refused(boot: Boot) -> None:
    m = boot(COUNTS)
    base = m.snapshot()
    pid = os.fork()
    if pid == 0:
        refused = 0
        for verb in (m.snapshot, lambda: m.restore(base), m.fork):
            try:
                verb()
            except StateError:
                refused += 1
        os._exit(0 if refused == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    step(m)
    m.restore(base)
    assert count(m) == 0


def test_reset_after_a_snapshot_gives_zeros_and_a_restore_the_snapshot(boot: Boot) -> None:
    m = boot(COUNTS)
    step(m, 3)
    base = m.snapshot()
    step(m)
    m.reset()
    assert (count(m), m.state) == (0, "created")
    step(m)
    m.restore(base)
    assert count(m) == 3


def test_hash_with_clocks_is_of_one_snapshot_and_the_same_from_a_file(boot: Boot, tmp_path: Path) -> None:
    m = boot(f"{interruptible()}\nagain: jmp again", "protected", vcpus=2)
    m.attach_pc()
    m.clock.after(10**12, print)  # of which a file has nothing
    m.run(timeout=0.02)
    snapshots = [m.snapshot() for _ in range(2)]
    m.clock.step(1000)
    snapshots.append(m.snapshot())
    assert len({it.hash() for it in snapshots}) == 1
    assert len({it.hash(clocks=True) for it in snapshots}) == 3
    for compress in ("zstd", None):
        snapshots[0].save(tmp_path / "one.hps", compress=compress)  # type: ignore[arg-type]
        again = Snapshot.open(tmp_path / "one.hps")
        assert again.hash(clocks=True) == snapshots[0].hash(clocks=True) != again.hash()


def test_hash_and_difference_have_the_state_and_what_the_guest_may_write(boot: Boot, tmp_path: Path) -> None:
    m = boot(COUNTS)
    m.memory.add(0x40_0000, "4K", name="shared")
    base = m.snapshot()
    m.memory.protect(0x40_0000, writable=False)
    protected = m.snapshot()
    (change,) = (it for it in base.diff(protected).state if it.path.startswith("memory"))
    assert (change.path, change.old, change.new) == ("memory[shared].writable", True, False)
    assert base.hash() != protected.hash()
    base.save(tmp_path / "base.hps")
    protected.save(tmp_path / "protected.hps")
    said = hyperpy("snapshot", "diff", str(tmp_path / "base.hps"), str(tmp_path / "protected.hps")).stdout
    assert b"memory[shared].writable" in said
    m.restore(base)
    assert m.snapshot() == base
    m.start()
    m.pause()
    paused = m.snapshot()
    m.restore(base)
    assert (m.state, paused.state["state"], m.snapshot() == base) == ("created", "paused", True)
    assert paused != base


def test_load_after_a_snapshot_is_undone_by_a_restore(boot: Boot) -> None:
    m = boot(COUNTS)
    base = m.snapshot()
    m.load(Flat(b"\xf4", at=0x2000, mode="real"))
    assert m.vcpus[0].regs.rip == 0x2000
    m.restore(base)
    assert (m.vcpus[0].regs.rip, m.memory.read(0x2000, 1)) == (0x1000, b"\0")
