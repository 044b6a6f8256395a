"""What can be done with a snapshot as a value of Python's, and mistakes around it, without KVM."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Device, Snapshot
from hyperpy.errors import DeclarationError, SnapshotError
from hyperpy.testing import DeviceBench, ScriptedMachine

MIB = 1 << 20


@pytest.fixture
def snapshot() -> Snapshot:
    with ScriptedMachine((), memory="1M") as m:
        return m.snapshot()


def test_snapshot_is_its_own_copy_and_is_not_pickled(snapshot: Snapshot) -> None:
    assert copy.copy(snapshot) is snapshot
    assert copy.deepcopy([snapshot])[0] is snapshot
    with pytest.raises(TypeError, match=r"cannot be pickled\n\nhint: save\(path\)"):
        pickle.dumps(snapshot)
    assert "1 MiB of memory" in repr(snapshot)


def test_file_is_named_by_text_bytes_or_a_path(snapshot: Snapshot, tmp_path: Path) -> None:
    path = tmp_path / "base.hps"
    for name in (path, str(path), os.fsencode(path)):
        snapshot.save(name)  # type: ignore[arg-type] # bytes are no promise
        assert Snapshot.open(name) == snapshot  # type: ignore[arg-type]
        path.unlink()
    for verb in (snapshot.save, Snapshot.open):
        with pytest.raises(ValueError, match=r"not the name of a file: .*\n\nhint"):
            verb("a\0b")


def test_ctrl_c_ends_a_save_and_an_open_and_leaves_no_file(tmp_path: Path) -> None:
    with ScriptedMachine((), memory="256M") as m:
        block = os.urandom(MIB)
        for number in range(200):
            m.memory.write(number * MIB, block[number:] + block[:number])
        snapshot = m.snapshot()
    path = tmp_path / "base.hps"

    def soon(work: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        work()

    def interrupted(work: Any) -> None:
        def soon() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            work()

        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                soon()
        finally:
            signal.signal(signal.SIGALRM, before)

    interrupted(lambda: snapshot.save(path))
    assert list(tmp_path.iterdir()) == []
    snapshot.save(path, compress=None)
    interrupted(lambda: Snapshot.open(path))
    assert Snapshot.open(path) == snapshot


def test_saved_attributes_that_are_text_are_refused_where_the_class_is_made() -> None:
    with pytest.raises(DeclarationError, match=r'Lamp: saved_attributes is text: .*\n\nhint: .*\("color",\)'):

        class Lamp(Device):
            saved_attributes = "color"


def test_attribute_that_is_named_and_missing_is_a_snapshot_error_of_save() -> None:
    class Lamp(Device):
        size = 4
        saved_attributes = ("color",)

    with pytest.raises(SnapshotError, match="device Lamp cannot be saved: it has no attribute color"):
        Lamp().save()


@pytest.mark.parametrize("what", [None, "base.hps", {}])
def test_bench_restores_its_snapshots_alone(what: Any) -> None:
    class Lamp(Device):
        size = 4
        stateless = True

    with pytest.raises(TypeError, match=r"not a snapshot of a bench: .*\n\nhint: bench.snapshot\(\)"):
        DeviceBench(Lamp()).restore(what)


@pytest.mark.parametrize("state", [None, {}, {"": {}}, {"": {"": None}}, {"": 1, "a": 2}, [], 0, False, ""])
def test_what_a_device_saves_is_the_same_from_a_file(state: Any, tmp_path: Path) -> None:
    loaded = []

    class Keeps(Device):
        size = 4

        def save(self) -> Any:
            return state

        def load(self, state: Any) -> None:
            loaded.append(state)

    with ScriptedMachine((), memory="1M") as m:
        m.attach(Keeps(), mmio=0xD000_0000)
        base = m.snapshot()
        m.restore(base)
        base.save(tmp_path / "base.hps")
        opened = Snapshot.open(tmp_path / "base.hps")
        m.restore(opened)
        assert opened.hash() == base.hash()
        assert not opened.diff(base)
    assert repr(loaded) == repr([state, state])
