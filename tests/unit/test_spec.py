"""Specs: reading, writing, errors that name the key, differences. Making machines of them: tests/kvm/test_specs.py."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpy import (
    DeviceSpec,
    Firmware,
    FirmwareSpec,
    Flat,
    FlatSpec,
    Image,
    KernelSpec,
    Linux,
    LinuxSpec,
    MachineSpec,
    ModuleSpec,
    Multiboot,
    MultibootSpec,
    Pvh,
    PvhSpec,
    RegionSpec,
    SpecError,
)
from hyperpy._run_args import run_parser, spec_from
from hyperpy._spec_of import _image as image_spec
from hyperpy._toml import Hex, dumps

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(LETTERS, max_size=20)
KEY = st.text(LETTERS, min_size=0, max_size=8)
ADDRESS = st.integers(0, 2**64 - 1)
SIZE = st.integers(1, 2**46)
SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3), max_leaves=8
)
NAME = st.none() | TEXT
PLACE = st.one_of(st.builds(dict, mmio=ADDRESS), st.builds(dict, pio=st.integers(0, 0xFFFF)))
DEVICE = st.builds(
    lambda place, **more: DeviceSpec(**place, **more),
    PLACE,
    model=st.sampled_from(["cards:Card", "some.where:Bell_2", "debug-exit", "grün:Gerät"]),
    size=st.none() | SIZE,
    irq=st.none() | st.integers(0, 4095),
    name=NAME,
    args=st.dictionaries(KEY, VALUES, max_size=3),
)
REGION = st.builds(
    RegionSpec,
    gpa=ADDRESS,
    size=SIZE,
    kind=st.sampled_from(["ram", "rom"]),
    name=NAME,
    file=NAME,
    huge_pages=st.sampled_from([None, "2M", "1G", "transparent"]),
)
REGION |= st.builds(RegionSpec, gpa=ADDRESS, size=SIZE, kind=st.just("mmio"))
REGION |= st.builds(RegionSpec, gpa=ADDRESS, size=SIZE, kind=st.just("alias"), of=ADDRESS)
MODULES = st.lists(st.builds(ModuleSpec, file=TEXT, line=TEXT), max_size=2).map(tuple)
IMAGE = (
    st.none()
    | st.builds(LinuxSpec, kernel=TEXT, initrd=NAME, cmdline=TEXT, unpack=st.booleans())
    | st.builds(
        FlatSpec,
        code=st.binary(max_size=20).map(bytes.hex),
        at=ADDRESS,
        mode=st.sampled_from(["real", "protected", "long"]),
    )
    | st.builds(FlatSpec, file=TEXT)
    | st.builds(KernelSpec, kernel=TEXT, initrd=NAME, cmdline=NAME, modules=MODULES)
    | st.builds(PvhSpec, kernel=TEXT, initrd=NAME, cmdline=TEXT, modules=MODULES)
    | st.builds(MultibootSpec, kernel=TEXT, cmdline=TEXT, modules=MODULES)
    | st.builds(FirmwareSpec, file=TEXT, debug_port=st.integers(0, 0xFFFF))
)
SPEC = st.builds(
    MachineSpec,
    name=NAME,
    memory=SIZE,
    vcpus=st.integers(1, 2**32 - 1),
    irqchip=st.booleans(),
    unclaimed=st.sampled_from([None, "exit", "ones", "raise"]),
    huge_pages=st.sampled_from([None, "2M", "1G", "transparent"]),
    cpus=st.none() | st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    cpu_limit=st.none() | st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 99),
    trace=st.integers(0, 2**20),
    pc=st.booleans(),
    serial=st.sampled_from(["stdio", "none", "file:a b", "file:\n"]),
    image=IMAGE,
    devices=st.lists(DEVICE, max_size=3).map(tuple),
    regions=st.lists(REGION, max_size=3).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(SPEC)
def test_spec_written_and_read_is_equal(spec: MachineSpec) -> None:
    assert MachineSpec.from_toml(spec.to_toml()) == spec
    assert MachineSpec.from_json(spec.to_json()) == spec
    assert not spec.diff(MachineSpec.from_toml(spec.to_toml()))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEY, VALUES, max_size=5))
def test_toml_written_and_read_by_the_standard_library_is_equal(table: dict[str, Any]) -> None:
    assert tomllib.loads(dumps(table)) == table


@settings(max_examples=100, deadline=None)
@given(SPEC, SPEC)
def test_difference_names_what_differs_and_nothing_else(one: MachineSpec, other: MachineSpec) -> None:
    difference = one.diff(other)
    assert bool(difference) == (one != other)
    assert all(change.old != change.new for change in difference.changes)
    back = sorted(map(repr, ((change.path, change.new, change.old) for change in other.diff(one).changes)))
    assert back == sorted(map(repr, ((change.path, change.old, change.new) for change in difference.changes)))


def test_toml_of_a_large_number_is_text_where_others_could_not_read_it() -> None:
    assert (
        dumps({"a": Hex(2**63 - 1), "b": Hex(2**63)}) == 'a = 0x7fffffffffffffff\nb = "0x8000000000000000"\n'
    )


def test_spec_is_one_value_however_it_is_written() -> None:
    text = """
    memory = 67108864
    [image]
    kind = "flat"
    code = '''
      b8 2a 00  # not a comment of TOML: so not part of it
    '''
    """
    with pytest.raises(SpecError, match=r"^image\.code: not bytes in base 16"):
        MachineSpec.from_toml(text)
    one = MachineSpec.from_toml(text.replace("# not a comment of TOML: so not part of it", ""))
    assert one == MachineSpec(memory="64M", image=FlatSpec(code=one.image.code))  # type: ignore[union-attr]
    assert one.memory == 64 << 20
    assert hash(one) == hash(MachineSpec(memory=64 << 20, image=one.image))
    spec = MachineSpec(devices=(DeviceSpec(model="a:B", mmio=0xFE00_0000, size="4K"),))
    assert json.loads(spec.to_json())["devices"] == [{"model": "a:B", "mmio": "0xfe000000", "size": "4K"}]
    assert "mmio = 0xfe000000\n" in spec.to_toml()


@pytest.mark.parametrize(
    ("text", "path", "what", "hint"),
    [
        ("memori = 1", "memori", "unknown key", "did you mean memory?"),
        ("zzz = 1", "zzz", "unknown key", "known are name, memory"),
        ("memory = true", "memory", "not a size: True", "write bytes"),
        ("memory = 1.5", "memory", "not a size: 1.5", "write bytes"),
        ('memory = "64X"', "memory", "not a size: '64X'", "write bytes"),
        ("memory = 0", "memory", "size is out of range: 0", "at most 64T"),
        ('memory = "100T"', "memory", "size is out of range", "at most 64T"),
        ("vcpus = 0", "vcpus", "out of range: 0", "from 1"),
        ('vcpus = "two"', "vcpus", "not a number: 'two'", "write a number of vcpus"),
        ("vcpus = true", "vcpus", "not a number: True", "write"),
        ("irqchip = 1", "irqchip", "not true or false: 1", "without quotes"),
        ('unclaimed = "one"', "unclaimed", "not one of exit, ones, raise: 'one'", "did you mean ones?"),
        ("cpus = 1", "cpus", "not a list of numbers: 1", "write [0, 1]"),
        ("cpus = []", "cpus", "not a list of numbers: []", "write [0, 1]"),
        ("cpus = [-1]", "cpus", "out of range", "a processor's number"),
        ("cpu_limit = 0", "cpu_limit", "out of range: 0", "above 0"),
        ("cpu_limit = nan", "cpu_limit", "out of range: nan", "above 0"),
        ("trace = 1048577", "trace", "out of range: 0x100001", "0 to 2**20"),
        ('cpu_limit = "half"', "cpu_limit", "not a number: 'half'", "0.5 is half"),
        ('huge_pages = "4M"', "huge_pages", "not one of 2M, 1G, transparent: '4M'", ""),
        (
            "[[regions]]\ngpa = 0\nsize = 1\nkind = 'alias'",
            "regions[0].of",
            "an alias, and only that",
            "of = GPA",
        ),
        ("[[regions]]\ngpa = 0\nsize = 1\nof = 1", "regions[0].of", "an alias, and only that", "of = GPA"),
        ("name = 5", "name", "not text: 5", "in quotes"),
        ('name = "a\\u0000b"', "name", "text has what cannot be written", "no NUL"),
        ('serial = "usb"', "serial", "unknown serial line: 'usb'", "stdio, file:PATH or none"),
        ("image = 5", "image", "not a table: 5", "kind"),
        ("image = {}", "image.kind", "key is missing", "linux"),
        ('image = { kind = "linus" }', "image.kind", "unknown kind of image: 'linus'", "did you mean linux?"),
        ('image = { kind = "linux" }', "image.kernel", "key is missing", ""),
        ('image = { kind = "linux", kernel = 1 }', "image.kernel", "not text: 1", "quotes"),
        ('image = { kind = "flat" }', "image", "code comes from one place", "file = PATH or code = HEX"),
        ('image = { kind = "flat", code = "xy" }', "image.code", "not bytes in base 16", "write"),
        (
            'image = { kind = "flat", code = "f4", mode = "lang" }',
            "image.mode",
            "not one of",
            "did you mean long?",
        ),
        ("devices = 5", "devices", "not a list of tables: 5", "[[devices]]"),
        ("devices = [5]", "devices[0]", "not a table: 5", ""),
        ("[devices]\nmodel = 'a:B'", "devices", "not a list of tables", "[[devices]]"),
        ("[[devices]]\npio = 1", "devices[0].model", "key is missing", ""),
        (
            "[[devices]]\nmodel = 'a'\npio = 1",
            "devices[0].model",
            "not a module and class: 'a'",
            "module:Class",
        ),
        (
            "[[devices]]\nmodel = 'a.py:B'\npio = 1",
            "devices[0].model",
            "not a module and class",
            "without .py",
        ),
        ("[[devices]]\nmodel = 'a:B'", "devices[0]", "a device sits on one bus", "pio = PORT"),
        (
            "[[devices]]\nmodel = 'a:B'\npio = 1\nmmio = 1",
            "devices[0]",
            "a device sits on one bus",
            "pio = PORT",
        ),
        ("[[devices]]\nmodel = 'a:B'\npio = 65536", "devices[0].pio", "out of range: 0x10000", "a port"),
        (
            "[[devices]]\nmodel = 'a:B'\npio = 1\n[[devices]]\nmodel = 'a:B'\nmmoi = 1",
            "devices[1].mmoi",
            "unknown key",
            "did you mean mmio?",
        ),
        ("[[devices]]\nmodel = 'a:B'\nmmio = 'x'", "devices[0].mmio", "not a number: 'x'", "16 or 0x10"),
        ("[[devices]]\nmodel = 'a:B'\nmmio = -1", "devices[0].mmio", "out of range: -0x1", "an address"),
        ("[[devices]]\nmodel = 'a:B'\npio = 1\nirq = 4096", "devices[0].irq", "out of range", "a gsi"),
        ("[[devices]]\nmodel = 'a:B'\npio = 1\nargs = 5", "devices[0].args", "not a table: 5", "args = {"),
        (
            "[[devices]]\nmodel = 'a:B'\npio = 1\nargs = { when = 2026-01-01 }",
            "devices[0].args.when",
            "not a value that a file can hold",
            "text, finite numbers",
        ),
        ("[[regions]]\ngpa = 1", "regions[0].size", "key is missing", ""),
        (
            "[[regions]]\ngpa = 1\nsize = 1\nkind = 'mmio'\nfile = 'x'",
            "regions[0].file",
            "mmio has no contents",
            "rom",
        ),
    ],
)
def test_spec_that_is_wrong_names_the_path_of_the_key(
    text: str, path: str, what: str, hint: str, tmp_path: Path
) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        MachineSpec.from_file(file)
    error = caught.value
    assert (error.path, error.file) == (path, str(file))
    assert what in error.what
    assert hint in (error.hint or "")
    assert str(error).startswith(f"{file}: {path}: {error.what}")


def test_spec_made_by_hand_is_held_to_the_same_rules() -> None:
    wrong: Any = "64 potatoes"
    with pytest.raises(SpecError, match=r"^memory: not a size"):
        MachineSpec(memory=wrong)
    with pytest.raises(SpecError, match=r"^devices\[0\]: not a DeviceSpec: 5"):
        MachineSpec(devices=(5,))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"^image: not an image"):
        MachineSpec(image=5)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"^args\.x\.y: not a value"):
        DeviceSpec(model="a:B", pio=1, args={"x": {"y": object()}})
    with pytest.raises(SpecError, match=r"^args\.x: not a value"):
        DeviceSpec(model="a:B", pio=1, args={"x": float("nan")})


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.toml", "memory = ", "spec is not in its language"),
        ("a.toml", "memory = 1\nmemory = 2", "spec is not in its language"),
        ("a.json", '{"memory": 1, "memory": 2}', "key is there twice: memory"),
        ("a.json", "[1]", "not a table: [1]"),
        ("a.json", "{", "spec is not in its language"),
        ("a.json", '{"devices": ' + "[" * 100_000, "spec is not in its language"),
        ("a.toml", "a = " + "[" * 100_000, "spec is not in its language"),
        ("a.yaml", "", "not a spec by its name"),
    ],
)
def test_file_that_is_no_spec_is_a_spec_error(tmp_path: Path, name: str, text: str, what: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        MachineSpec.from_file(file)
    assert what in str(caught.value)
    assert str(file) in str(caught.value)


def test_file_that_cannot_be_read_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="spec cannot be read: No such file"):
        MachineSpec.from_toml(str(tmp_path / "none.toml"))
    with pytest.raises(SpecError, match="spec cannot be read: Is a directory"):
        MachineSpec.from_json(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(SpecError, match="spec is not in its language"):
        MachineSpec.from_file(tmp_path / "latin.toml")


def test_difference_prints_one_line_for_each_key() -> None:
    bell = DeviceSpec(model="cards:Bell", mmio=0xFE00_0000, args={"pitch": 440})
    one = MachineSpec(memory="64M", devices=(bell,), image=LinuxSpec(kernel="vmlinuz"))
    other = MachineSpec(
        memory="64M",
        vcpus=2,
        devices=(DeviceSpec(model="cards:Bell", mmio=0xFE00_1000, irq=5),),
        image=FlatSpec(code="f4"),
    )
    assert str(one.diff(other)).splitlines() == [
        "vcpus: 1 -> 2",
        "image.kind: linux -> flat",
        "image.kernel: vmlinuz -> (not there)",
        "image.cmdline: console=ttyS0 -> (not there)",
        "image.unpack: true -> (not there)",
        "devices[0].mmio: 0xfe000000 -> 0xfe001000",
        "devices[0].args.pitch: 440 -> (not there)",
        "image.code: (not there) -> f4",
        "image.at: (not there) -> 0x1000",
        "image.mode: (not there) -> long",
        "devices[0].irq: (not there) -> 5",
    ]
    assert not one.diff(one)
    assert str(one.diff(one)) == ""


def test_image_of_every_kind_has_a_spec_that_makes_it_again(tmp_path: Path) -> None:
    kernel, module = str(tmp_path / "kernel"), str(tmp_path / "module")
    images: list[Image] = [
        Flat(b"\xf4", at=0x2000, mode="real"),
        Linux(kernel, module, "quiet", False),
        Pvh(kernel, None, "quiet", [(module, "a b")]),
        Multiboot(kernel, "quiet", [(module, "")]),
        Firmware(kernel, debug_port=None),
        Firmware(kernel),
    ]
    for image in images:
        spec = image_spec(image)
        assert spec is not None
        assert spec.make("elsewhere") == image
        whole = MachineSpec(image=spec)
        assert MachineSpec.from_toml(whole.to_toml()) == whole
    assert image_spec(Pvh(kernel, modules=[module])).modules == (ModuleSpec(file=module),)  # type: ignore[union-attr]


def test_options_change_the_image_of_a_spec_as_far_as_it_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    def image(base: MachineSpec | None, *options: str) -> Any:
        return spec_from(run_parser().parse_args(options), base).image

    linux = MachineSpec(image=LinuxSpec(kernel="k"), folder="/specs")
    assert image(None, "--kernel", "k") == KernelSpec(kernel="k")
    assert image(linux, "--initrd", "i", "--append", "") == LinuxSpec(kernel="k", initrd="/i", cmdline="")
    xen = image(linux, "--kernel", "x", "--module", "m", "a", "b", "--module", "n")
    assert xen == KernelSpec(kernel="/x", modules=(ModuleSpec(file="/m", line="a b"), ModuleSpec(file="/n")))
    assert image(linux, "--firmware", "bios.bin") == FirmwareSpec(file="/bios.bin")
    for base, options, message in (
        (linux, ("--module", "m"), "the spec's image takes no --module"),
        (MachineSpec(image=FirmwareSpec(file="f")), ("--append", "x"), "the spec's image takes no --append"),
        (linux, ("--firmware", "f", "--kernel", "k"), "not an option of firmware: --kernel"),
        (None, ("--firmware", "f", "--initrd", "i"), "not an option of firmware: --initrd"),
        (None, (), "nothing to run"),
        (MachineSpec(), (), "nothing to run"),
    ):
        with pytest.raises(ValueError, match=message):
            image(base, *options)
