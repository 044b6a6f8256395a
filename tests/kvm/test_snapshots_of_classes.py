"""Snapshots that meet devices of other classes than they were taken of, and what a copy of a machine tells of its devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.kvm.conftest import Boot

from hyperpy import ClockSetting, DebugConsole, DebugExit, Device, Exit, Machine, Register, Snapshot
from hyperpy.errors import DeviceError, SnapshotError

RUN = 20.0


class Lamp(Device):
    """As it was when the snapshot was taken."""

    size = 4
    saved_attributes = ("color",)

    def __init__(self) -> None:
        self.color = "red"


class OtherSchema(Lamp):
    schema = 2


class OtherAttributes(Lamp):
    saved_attributes = ("color", "more")
    more = 1


class NoState(Lamp):
    stateless = True


class OwnLoad(Lamp):
    def load(self, state: dict[str, Any]) -> None:
        self.got = state


class WithRegister(Device):
    value = Register(0x0)
    saved_attributes = ("color",)
    color = "white"


CHANGED = [
    (OtherSchema, "it is of schema 1, not 2"),
    (OtherAttributes, "it is without the attribute more"),
    (NoState, "the device has nothing to be saved, and it is something"),
    (WithRegister, "registers"),
]


@pytest.fixture(params=["in memory", "from a file"])
def base(request: pytest.FixtureRequest, boot: Boot, tmp_path: Path) -> Snapshot:
    m = boot()
    m.attach(Lamp(), pio=0x80, name="lamp").color = "blue"
    base = m.snapshot()
    if request.param == "in memory":
        return base
    base.save(tmp_path / "base.hps")
    return Snapshot.open(tmp_path / "base.hps")


@pytest.mark.fault(29)
@pytest.mark.parametrize(("kind", "why"), CHANGED)
def test_restore_onto_a_device_of_a_changed_class_is_refused_and_changes_nothing(
    boot: Boot, base: Snapshot, kind: type[Device], why: str
) -> None:
    m = boot("mov al, 1\nhlt")
    device: Any = m.attach(kind(), pio=0x80, name="lamp")
    assert m.run(timeout=RUN) == Exit.Halt(vcpu=0)
    m.memory.write(0x8000, b"mine")
    before = device.color
    with pytest.raises(SnapshotError, match=f"lamp at port 0x80: its state does not fit: .*{why}") as caught:
        m.restore(base)
    assert "override `load`" in str(caught.value)
    assert (m.state, m.vcpus[0].regs.rax, m.memory.read(0x8000, 4)) == ("paused", 1, b"mine")
    assert device.color == before


def test_restore_onto_a_device_with_a_load_of_its_own_calls_it(boot: Boot, base: Snapshot) -> None:
    m = boot()
    device = m.attach(OwnLoad(), pio=0x80, name="lamp")
    m.restore(base)
    assert device.got == {"schema": 1, "registers": {}, "attributes": {"color": "blue"}}
    assert device.color == "red"


def test_restore_of_a_state_that_had_nothing_onto_a_device_that_has_is_refused(
    boot: Boot, tmp_path: Path
) -> None:
    m = boot()
    m.attach(NoState(), pio=0x80, name="lamp")
    m.snapshot().save(tmp_path / "base.hps")
    other = boot()
    other.attach(Lamp(), pio=0x80, name="lamp")
    with pytest.raises(SnapshotError, match="lamp at port 0x80"):
        other.restore(Snapshot.open(tmp_path / "base.hps"))
    assert other.state == "created"


def test_restore_after_another_class_took_the_place_is_refused(boot: Boot) -> None:
    m = boot()
    lamp = m.attach(Lamp(), pio=0x80, name="lamp")
    base = m.snapshot()
    m.detach(lamp)
    other = m.attach(OtherAttributes(), pio=0x80, name="lamp")
    with pytest.raises(SnapshotError, match="lamp at port 0x80 does not take the state"):
        m.restore(base)
    assert other.color == "red"


def test_snapshot_of_a_pc_read_from_a_file_is_equal_and_time_alone_makes_no_difference(
    boot: Boot, tmp_path: Path
) -> None:
    m = boot()
    m.attach_pc()
    m.attach(DebugExit(), pio=0xF4)
    base, later = m.snapshot(), m.snapshot()
    base.save(tmp_path / "pc.hps")
    assert base == later == Snapshot.open(tmp_path / "pc.hps")
    assert 'devices["acpi pm timer"].state.time_ns' in {change.path for change in base.diff(later).state}


def test_fork_has_stock_devices_of_its_own(boot: Boot) -> None:
    m = boot("mov al, 'x'\nout 0xe9, al\nmov al, 3\nout 0xf4, al\nhlt")
    m.attach(DebugConsole(m.console), pio=0xE9)
    port = m.attach(DebugExit(), pio=0xF4)
    with m.fork() as child:
        assert child.copy_of(port) is not port
        ended = child.run(timeout=RUN)
        assert isinstance(ended, Exit.Stopped)
        assert (ended.status, child.console.output, m.console.output) == (7, "x", "")


def test_copy_of_finds_a_copy_in_each_machine_and_nothing_else(boot: Boot) -> None:
    m = boot()
    lamp, other = m.attach(Lamp(), pio=0x80), m.attach(Lamp(), pio=0x90)
    with m.fork() as child, child.fork() as grandchild:
        copies = [child.copy_of(lamp), child.copy_of(other)]
        assert len({id(device) for device in (lamp, other, *copies)}) == 4
        copies[1].color = "green"
        assert (lamp.color, other.color, copies[0].color) == ("red", "red", "red")
        assert isinstance(grandchild.copy_of(copies[0]), Lamp)
        for machine, device in ((m, lamp), (child, Lamp()), (grandchild, lamp)):
            with pytest.raises(DeviceError, match="no copy of this device") as caught:
                machine.copy_of(device)
            assert "fork" in str(caught.value)


def test_fork_of_a_device_whose_clone_is_itself_is_refused(boot: Boot) -> None:
    class Same(Lamp):
        def clone(self) -> Same:
            return self

    m = boot()
    device = m.attach(Same(), pio=0x80)
    clock = device.clock
    with pytest.raises(DeviceError, match="Same: its clone returned itself"):
        m.fork()
    assert device.clock is clock


def test_copies_are_numbered_by_machine(boot: Boot) -> None:
    one, two = boot(name="one"), boot(name="two")
    names = []
    for m in (one, two, one):
        with m.fork() as child, child.fork() as grandchild:
            names += [child.name, grandchild.name]
    assert names == ["one.1", "one.1.1", "two.1", "two.1.1", "one.2", "one.2.1"]


@pytest.mark.parametrize(
    "spare", [(0x5000, 0x1000), [(0x5000, 0x1000, 1)], [0x5000], None, ["ab"], [(0.5, 1)]]
)
def test_spared_ranges_that_are_none_are_a_type_error_with_a_hint(boot: Boot, spare: Any) -> None:
    m = boot()
    with pytest.raises(TypeError, match=r"not ranges of memory: .*\n\nhint: spare=\[\(gpa, bytes\)"):
        m.restore(m.snapshot(), spare=spare)


@pytest.mark.parametrize("spare", [(-0x1000, 0x1000), (0x1000, -0x1000), (0x1000, 1)])
def test_spared_range_that_cannot_be_is_a_value_error(boot: Boot, spare: tuple[int, int]) -> None:
    m = boot()
    with pytest.raises(ValueError, match="hint: "):
        m.restore(m.snapshot(), spare=[spare])


def test_hostile_attribute_that_python_cannot_have_is_refused_before_anything_changes(
    boot: Boot, tmp_path: Path
) -> None:
    from hyperpy._hyperpy import SnapshotFile, save_snapshot

    m = boot()
    lamp = m.attach(Lamp(), pio=0x80, name="lamp")
    path = str(tmp_path / "base.hps")
    m.snapshot().save(path)
    file = SnapshotFile(path)
    state = file.state()
    state["devices"][0]["state"]["attributes"]["color"] = {"set": [[1]]}
    regions = [
        (name, gpa, file.memory(number), about) for number, (name, gpa, _, about) in enumerate(file.regions())
    ]
    save_snapshot(path, state, regions, made_by="x", created_ns=0, schema=1, compress=False)
    with pytest.raises(SnapshotError, match="it has what Python cannot: unhashable"):
        m.restore(Snapshot.open(path))
    assert (m.state, lamp.color) == ("created", "red")


def test_subclass_gives_its_attributes_to_copies_in_a_fork_of_its_own() -> None:
    class Lit(Machine):
        def __init__(self) -> None:
            super().__init__(memory="1M")
            self.lamp = self.attach(Lamp(), pio=0x80)

        def fork(
            self, *, name: str | None = None, seed: int | None = None, clock: ClockSetting | None = None
        ) -> Lit:
            child = super().fork(name=name, seed=seed, clock=clock)
            child.lamp = child.copy_of(self.lamp)
            return child

    with Lit() as m, m.fork() as child:
        assert type(child) is Lit
        child.lamp.color = "green"
        assert m.lamp.color == "red"
