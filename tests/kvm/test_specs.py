"""Machines of specs: made, run, asked for their spec again; `hyperpy run machine.toml`."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.programs import ECHO, POWER_OFF, elf, hyperpy, out8, say

import hyperpy as package
from hyperpy import (
    DebugExit,
    Device,
    DeviceSpec,
    Exit,
    FirmwareSpec,
    Flat,
    FlatSpec,
    Linux,
    LinuxSpec,
    Machine,
    MachineSpec,
    RegionSpec,
    Register,
    SpecError,
    StateError,
    Window,
)

RUN = 10.0
CARDS = """
    from hyperpy import Device

    class Letter(Device):
        size = 8

        def __init__(self, first="A"):
            self.first = first

        def read(self, offset, size):
            return ord(self.first) + offset

    class Broken(Device):
        size = 1

        def __init__(self):
            raise LookupError("not today")
    """
# mov ebx, 0xfe000000; mov eax, [rbx + 2]; mov dx, COM1; out dx, al
READ = bytes.fromhex("bb000000fe 8b4302 66baf803 ee")
TOML = """
    memory = "64M"
    image = { kind = "linux", kernel = "kernel.elf", cmdline = "quiet" }

    [[devices]]
    model = "letters_of_spec:Letter"
    mmio = 0xfe000000
    irq = 10
    args = { first = "a" }
    """


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "specs"
    made.mkdir()
    (made / "letters_of_spec.py").write_text(textwrap.dedent(CARDS))
    (made / "machine.toml").write_text(textwrap.dedent(TOML))
    (made / "kernel.elf").write_bytes(elf(READ + POWER_OFF))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "letters_of_spec", raising=False)
    return made


def test_spec_makes_a_machine_that_runs_and_gives_it_back(folder: Path) -> None:
    spec = MachineSpec.from_file(folder / "machine.toml")
    with spec.make() as m:
        assert m.run(RUN) == Exit.SystemEvent(0, "power-off", 1)
        assert m.console.output == "c"
        assert m.map.interrupts[-1].devices == ("Letter",)
        assert m.spec == spec
        assert m.spec.folder == str(folder)
    with Machine.from_spec(spec) as m:
        assert m.unclaimed == "ones"
    with pytest.raises(StateError, match="the machine is closed"):
        _ = m.spec


def test_spec_of_memory_and_stock_devices_is_what_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "rom").write_bytes(b"firmware")
    spec = MachineSpec(
        name="one",
        memory="2M",
        irqchip=True,
        unclaimed="raise",
        pc=True,
        image=FlatSpec(code=(say("hi") + out8(0xF4, 3)).hex(), at=0x1_0000),
        devices=(DeviceSpec(model="debug-exit", pio=0xF4), DeviceSpec(model="debug-console", pio=0xEA)),
        regions=(
            RegionSpec(gpa=0xD000_0000, size="8K", kind="rom", file="rom", name="bios"),
            RegionSpec(gpa=0xE000_0000, size="4K"),
            RegionSpec(gpa=0xE100_0000, size="4K", kind="alias", of=0xD000_0000),
        ),
        cpus=(0,),
        cpu_limit=1,
        trace=4,
        folder=str(tmp_path),
    )
    assert spec.check() == []
    with spec.make() as m:
        assert m.run(RUN) == Exit.Stopped(0, "debug exit", 7)
        assert (m.name, m.unclaimed, m.console.output) == ("one", "raise", "hi")
        assert m.memory[0xD000_0000:0xD000_0008] == b"firmware"
        assert {(row.base, row.name) for row in m.map.rows if row.space == "memory"} == {
            (0, "ram"),
            (0xD000_0000, "bios"),
            (0xE000_0000, "ram"),
            (0xE100_0000, "alias"),
        }
        assert m.memory[0xE100_0000:0xE100_0008] == b"firmware"
        assert m.cpu_limit == 1
        assert len(m.trace()) == 3
        assert m.spec == spec
        m.detach(next(device for device, _ in m._attached.values() if isinstance(device, DebugExit)))
        assert m.spec.devices == spec.devices[1:]


def test_spec_with_a_device_that_stands_for_a_stock_one_makes_that_machine() -> None:
    mine = DeviceSpec(model="debug-console", pio=0xE9, name="mine")
    spec = MachineSpec(pc=True, memory="1M", devices=(mine,))
    with spec.make() as m:
        assert [row.name for row in m.map.rows if row.base == 0xE9] == ["mine"]
        assert m.spec.devices == (mine,)


def test_spec_of_a_machine_made_by_hand_makes_the_same_again(folder: Path) -> None:
    code = out8(0xF4, 3)
    with Machine(memory="2M", vcpus=2, name="by hand", unclaimed="ones") as m:
        m.attach(DebugExit(), pio=0xF4)
        m.attach(Device(), pio=0x300, size=4, irq=5, name="card")
        m.memory.add(0xD000_0000, "4K", kind="mmio", name="hole")
        m.memory.alias(0xE000_0000, of=0, size="8K")
        m.load(Flat(code, at=0x1_0000))
        spec = m.spec
    assert spec == MachineSpec(
        name="by hand",
        memory="2M",
        vcpus=2,
        unclaimed="ones",
        image=FlatSpec(code=code.hex(), at=0x1_0000),
        devices=(
            DeviceSpec(model="debug-exit", pio=0xF4),
            DeviceSpec(model="hyperpy.device:Device", pio=0x300, size=4, irq=5, name="card"),
        ),
        regions=(
            RegionSpec(gpa=0xD000_0000, size="4K", kind="mmio", name="hole"),
            RegionSpec(gpa=0xE000_0000, size="8K", kind="alias", of=0),
        ),
    )
    with MachineSpec.from_toml(spec.to_toml()).make() as again:
        assert again.run(RUN) == Exit.Stopped(0, "debug exit", 7)
    with Machine(memory="64M", name="linux") as m:
        m.load(Linux(folder / "kernel.elf", cmdline="x"))
        image = LinuxSpec(kernel=str(folder / "kernel.elf"), cmdline="x")
        assert m.spec == MachineSpec(name="linux", memory="64M", image=image)


def test_spec_of_firmware_leaves_out_what_the_image_brings(tmp_path: Path) -> None:
    (tmp_path / "bios").write_bytes(
        b"\xfa\xf4".ljust(0x10, b"\0").rjust(0x1_0000, b"\0")
    )  # at the reset vector
    spec = MachineSpec(
        image=FirmwareSpec(file="bios"),
        devices=(DeviceSpec(model="debug-exit", pio=0xF4),),
        folder=str(tmp_path),
    )
    assert spec.check() == []
    with spec.make() as m:
        assert m.run(RUN) == Exit.Halt(0)
        assert "fw_cfg" in str(m.map)
        assert m.spec == spec


def test_spec_of_a_device_that_was_moved_has_its_new_place() -> None:
    with MachineSpec(devices=(DeviceSpec(model="debug-exit", pio=0xF4),)).make() as m:
        ((device, _),) = m._attached.values()
        m.detach(device)
        m.attach(device, pio=0x500)
        assert m.spec.devices == (DeviceSpec(model="debug-exit", pio=0x500),)


class Wide(Device):
    regs, ports = Window(0x100), Window(8)
    count = Register(regs[0x0], reset=7)

    def __init__(self, first: int = 0) -> None:
        self.first = first


class Narrow(Device):
    regs = Window(0x10)


def test_spec_of_devices_with_windows_makes_them_again_where_they_are() -> None:
    toml = f"""
        [[devices]]
        model = "{__name__}:Wide"
        mmio = {{ regs = 0xfe000000 }}
        pio = {{ ports = 0x300 }}
        args = {{ first = 5 }}

        [[devices]]
        model = "{__name__}:Narrow"
        mmio = 0xfe001000
        """
    spec = MachineSpec.from_toml(textwrap.dedent(toml))
    assert spec.check() == []
    assert MachineSpec.from_toml(spec.to_toml()) == MachineSpec.from_json(spec.to_json()) == spec
    with spec.make() as m:
        assert m.spec == spec
        wide = next(device for device, _ in m._attached.values() if isinstance(device, Wide))
        assert (wide.first, len(m._attached)) == (5, 3)
        m.move(wide, mmio={"regs": 0xFE00_2000})
        assert str(spec.diff(m.spec)) == "devices[0].mmio.regs: 0xfe000000 -> 0xfe002000"
    with Machine(name="by hand") as m:
        m.attach(Narrow(), mmio=0xFE00_0000)
        (device,) = m.spec.devices
        assert device == DeviceSpec(model=f"{__name__}:Narrow", mmio={"regs": 0xFE00_0000})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mmio": {}}, "no window is named"),
        ({"mmio": {"regs": -1}}, "regs: out of range"),
        ({"mmio": {"regs": 1}, "pio": 2}, "sits on one bus"),
        ({"pio": {"ports": 1 << 16}}, "ports: out of range"),
        ({"pio": {"ports": 1}, "size": 4}, "size: a window has a size by its class"),
    ],
)
def test_spec_of_windows_that_cannot_be_names_the_key(values: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        DeviceSpec(model="a:B", **values)


class Local(Device):
    size = 1

    def __init__(self, pitch: int = 0) -> None:
        self.pitch = pitch


def no_class() -> Device:
    class Inner(Device):
        size = 1

    return Inner()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.attach(Local(5), pio=0x300), r"devices\[0\]: its arguments are not known: .*:Local"),
        (lambda m: m.attach(no_class(), pio=0x300), r"devices\[0\]: its class cannot be imported: .*Inner"),
        (lambda m: m.load(Linux(elf(POWER_OFF))), "image: bytes have no spec"),
        (lambda m: setattr(m, "unclaimed", lambda access: 0), "unclaimed: a callable has no spec"),
    ],
)
def test_spec_of_what_has_none_names_the_part(change: Any, message: str) -> None:
    with Machine(memory="64M") as m:
        change(m)
        with pytest.raises(SpecError, match="^" + message):
            _ = m.spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": LinuxSpec(kernel="none.elf")}, "kernel cannot be read"),
        ({"image": FlatSpec(file="none.bin")}, r"image\.file: file cannot be read"),
        (
            {"regions": (RegionSpec(gpa=0xD000_0000, size="4K", file="none"),)},
            r"regions\[0\]\.file: file cannot be read",
        ),
        ({"devices": (DeviceSpec(model="nowhere_at_all:A", pio=1),)}, r"devices\[0\]\.model: no such module"),
        (
            {"devices": (DeviceSpec(model="letters_of_spec:Letter", pio=1, args={"last": 1}),)},
            r"devices\[0\]\.args: letters_of_spec:Letter does not take these arguments",
        ),
        ({"devices": (DeviceSpec(model="debug-exit", pio=1, args={"x": 1}),)}, r"devices\[0\]\.args"),
        (
            {"devices": (DeviceSpec(model="debug-exit", mmio=0x1000),)},
            r"devices\[0\]: device region lies over memory",
        ),
        (
            {"devices": (DeviceSpec(model="debug-exit", pio=0x80, irq=30),)},
            r"devices\[0\]: no such interrupt line: 30",
        ),
        (
            {"regions": (RegionSpec(gpa=0xD000_0800, size="4K"),)},
            r"regions\[0\]: memory region is not of whole",
        ),
        ({"regions": (RegionSpec(gpa=0x1000, size="4K"),)}, r"regions\[0\]: memory region overlaps"),
    ],
)
def test_spec_that_cannot_be_made_says_why_and_leaves_nothing(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(package.HyperpyError, match=message):
        MachineSpec(folder=str(folder), **values).make()


# -- hyperpy run -----------------------------------------------------------------------------------------------------


def test_run_of_a_spec_finds_its_files_from_any_folder(folder: Path, tmp_path: Path) -> None:
    done = hyperpy("run", "specs/machine.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"c"), done.stderr.decode()
    json = folder / "machine.json"
    json.write_text(MachineSpec.from_file(folder / "machine.toml").to_json())
    assert hyperpy("run", str(json)).stdout == b"c"


def test_run_of_a_spec_gives_way_to_options(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.elf").write_bytes(elf(READ + out8(0xF4, 3)))
    arguments = (
        "specs/machine.toml",
        "--kernel",
        "other.elf",
        "--debug-exit",
        "0xf4",
        "--serial",
        "file:log",
    )
    done = hyperpy("run", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, b""), done.stderr.decode()
    assert (tmp_path / "log").read_bytes() == b"c"
    # mov ebx, [rsi + 0x228] (cmd_line_ptr); mov al, [rbx + 1]; mov dx, COM1; out dx, al
    (folder / "kernel.elf").write_bytes(elf(bytes.fromhex("8b9e28020000 8a4301 66baf803 ee") + POWER_OFF))
    assert hyperpy("run", str(folder / "machine.toml")).stdout == b"u"
    assert hyperpy("run", str(folder / "machine.toml"), "--append", "xYz").stdout == b"Y"


def test_run_of_a_flat_spec_has_its_status_and_no_warning(tmp_path: Path) -> None:
    spec = MachineSpec(
        pc=True,
        serial="file:log",
        image=FlatSpec(code=(say("flat") + out8(0xF4, 2)).hex()),
        devices=(DeviceSpec(model="debug-exit", pio=0xF4),),
    )
    (tmp_path / "flat.toml").write_text(spec.to_toml())
    done = hyperpy("run", str(tmp_path / "flat.toml"))
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"")
    assert (tmp_path / "log").read_bytes() == b"flat"


def test_run_of_a_spec_takes_input(folder: Path) -> None:
    (folder / "kernel.elf").write_bytes(elf(ECHO + POWER_OFF))
    assert hyperpy("run", str(folder / "machine.toml"), stdin=b"hello q").stdout == b"hello "


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("memroy = 1", [], r"machine\.toml: memroy: unknown key\n\nhint: did you mean memory\?"),
        ("", [], r"nothing to run\n\nhint: give the spec an \[image\]"),
        (
            'image = { kind = "flat", code = "f4" }',
            ["--append", "x"],
            r"the spec's image takes no --append\n\nhint: ",
        ),
        (
            'image = { kind = "flat", file = "none" }',
            [],
            r"image\.file: file cannot be read: .*none.*\n\nhint: ",
        ),
        (
            'image = { kind = "flat", code = "f4" }\n[[devices]]\nmodel = "letters_of_spec:Broken"\npio = 1',
            [],
            r"Traceback(?s:.*)letters_of_spec\.py(?s:.*)LookupError: not today",
        ),
    ],
)
def test_run_of_a_wrong_spec_is_a_message_and_a_hint(
    folder: Path, text: str, arguments: list[str], message: str
) -> None:
    (folder / "machine.toml").write_text(text)
    done = hyperpy("run", str(folder / "machine.toml"), *arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.search(message, done.stderr.decode()), done.stderr.decode()
