"""Snapshot files whose state was edited, put into a machine: what does not fit is told before anything of the machine has changed.

What each device makes of each damage is tested beside the devices, in Rust; what files can be damaged in is in
`tests/unit/test_snapshot_file.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kvm.conftest import Boot

from hyperpy import Exit, Machine, Snapshot
from hyperpy._hyperpy import SnapshotFile, save_snapshot
from hyperpy.errors import SnapshotError

RUN = 10.0
COUNTS = "again: inc word ptr [0x8000]\n mov al, [0x8000]\n out 0x80, al\n jmp again"


def edited(path: Path, edit: Callable[[Any], object]) -> Snapshot:
    """What is in a file, after an edit of its state."""
    file = SnapshotFile(path)
    state = file.state()
    edit(state)
    regions = [
        (name, gpa, file.memory(number), about) for number, (name, gpa, _, about) in enumerate(file.regions())
    ]
    other = path.with_suffix(".edited")
    save_snapshot(other, state, regions, made_by="x", created_ns=0, schema=1, compress=False)
    return Snapshot.open(other)


def count(machine: Machine) -> int:
    """How far the guest has counted, by one step of it."""
    stop = machine.run(timeout=RUN)
    assert isinstance(stop, Exit.Pio)
    return int.from_bytes(machine.memory.read(0x8000, 2), "little")


def stock(boot: Boot) -> Machine:
    m = boot(COUNTS, vcpus=1)
    m.attach_pc()
    assert count(m) == 1
    return m


def test_restore_of_a_file_whose_stock_devices_are_damaged_is_refused_before_a_change(
    boot: Boot, tmp_path: Path
) -> None:
    m, other = stock(boot), stock(boot)
    path = tmp_path / "base.hps"
    m.snapshot().save(path)
    state = SnapshotFile(path).state()
    devices = [(number, device["name"], device["state"]) for number, device in enumerate(state["devices"])]
    fields = [(n, name, field) for n, name, kept in devices if kept for field in kept]
    assert len({name for _, name, _ in fields}) >= 6
    before = count(other)
    for number, name, field in fields:
        snapshot = edited(
            path, lambda state, n=number, f=field: state["devices"][n]["state"].update({f: -(1 << 70)})
        )
        with pytest.raises(SnapshotError, match=f"{name} at port .*: {field} cannot have its value"):
            other.restore(snapshot)
        assert other.state == "paused"
        before += 1
        assert count(other) == before


def test_restore_of_a_file_whose_console_or_lines_are_damaged_is_refused_before_a_change(
    boot: Boot, tmp_path: Path
) -> None:
    m, other = stock(boot), stock(boot)
    path = tmp_path / "base.hps"
    m.snapshot().save(path)
    before = count(other)
    for damage, told in [
        (lambda state: state["console"].update(unread=9), "console: .*unread is behind the end"),
        (
            lambda state: state["lines"]["lines"].append({"gsi": 7, "high": True}),
            "a line that was high is not there",
        ),
    ]:
        with pytest.raises(SnapshotError, match=told):
            other.restore(edited(path, damage))
        assert other.state == "paused"
        before += 1
        assert count(other) == before
    other.restore(edited(path, lambda state: None))
    assert count(other) == 2
