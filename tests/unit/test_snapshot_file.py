"""Snapshot files from Python: a reader that knows only the reference page, files of earlier versions, values, damage."""

from __future__ import annotations

import errno
import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
from tests import snapshot_reader

from hyperpy import SnapshotError
from hyperpy._hyperpy import SnapshotFile, save_snapshot

ROOT = Path(__file__).parents[2]
PAGE = 4096


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("golden_snapshots", ROOT / "scripts/golden_snapshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = _script()


def save(path: Path, state: Any = None, regions: Any = (), *, compress: bool = False, **others: Any) -> Path:
    parts = {"made_by": "a test", "created_ns": 0, "schema": 0} | others
    save_snapshot(path, state, list(regions), compress=compress, **parts)
    return path


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_file_read_by_the_reference_page_alone_has_what_was_saved(tmp_path: Path, compress: bool) -> None:
    noise = random.Random(6)
    low = bytearray(500 * PAGE)
    for page in range(300):
        start = page * PAGE
        low[start : start + PAGE] = noise.randbytes(PAGE) if page % 3 else bytes([page % 7]) * PAGE
    high = bytes(low[PAGE : 40 * PAGE])
    state = golden.contents()["state"]
    regions = [("low", 0, low, {"kind": "ram"}), ("high", 1 << 40, high, None)]
    save(tmp_path / "a.hps", state, regions, compress=compress, made_by="x 1", created_ns=17, schema=9)

    read = snapshot_reader.read((tmp_path / "a.hps").read_bytes())
    assert (read.made_by, read.created_ns, read.schema, read.state) == ("x 1", 17, 9, state)
    assert [region[:3] for region in read.regions] == [("low", 0, {"kind": "ram"}), ("high", 1 << 40, None)]
    for (*_, pages), expected in zip(read.regions, (low, high), strict=True):
        found = b"".join(pages.get(number, bytes(PAGE)) for number in range(len(expected) // PAGE))
        assert found == expected
        assert all(any(page) for page in pages.values())
    # 200 pages of noise, and six of one byte: each is there once.
    assert read.stored == 206
    assert (1 in read.blocks) == compress


@pytest.mark.parametrize("compress", [False, True])
def test_file_of_version_1_is_read(compress: bool) -> None:
    path, expected = golden.FOLDER / golden.name(1, compress), golden.contents()
    file = SnapshotFile(path)
    file.verify()
    info = file.info()
    assert info["version"] == 1
    assert {name: info[name] for name in ("made_by", "created_ns", "schema")} == {
        name: expected[name] for name in ("made_by", "created_ns", "schema")
    }
    assert file.state() == expected["state"]
    for number, (name, gpa, data, about) in enumerate(expected["regions"]):
        assert file.regions()[number] == (name, gpa, len(data), about)
        assert file.memory(number) == data
    assert (info["stored"], info["identical"], info["zero"]) == (3, 1, 254)
    assert snapshot_reader.read(path.read_bytes()).state == expected["state"]


def test_file_written_today_is_that_of_its_version_byte_by_byte(tmp_path: Path) -> None:
    save_snapshot(tmp_path / "a.hps", **golden.contents(), compress=False)
    assert (tmp_path / "a.hps").read_bytes() == (
        golden.FOLDER / golden.name(golden.VERSION, False)
    ).read_bytes()


# -- values ----------------------------------------------------------------------------------------------------------


def test_value_saved_comes_back_as_what_it_was(tmp_path: Path) -> None:
    state = {"tuple": (1, 2), "array": bytearray(b"x"), "bool": True, "int": 1, "deep": [[[[{"a": [{}]}]]]]}
    found = SnapshotFile(save(tmp_path / "a", state)).state()
    assert found == state | {"tuple": [1, 2], "array": b"x"}
    assert type(found["bool"]) is bool
    assert type(found["int"]) is int


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (object(), TypeError, "state has a value that cannot be saved: object"),
        ({1: 2}, TypeError, "state has a value that cannot be saved: int"),
        ({"a": [{3.5}]}, TypeError, "state has a value that cannot be saved: set"),
        (1 << 127, ValueError, "state has a number of more than 128 bits"),
        (-(1 << 127) - 1, ValueError, "state has a number of more than 128 bits"),
        (_nested(64), ValueError, "state is nested too deeply: more than 63 levels"),
        (_nested(5000), ValueError, "state is nested too deeply: more than 63 levels"),
        ("\ud800", UnicodeEncodeError, "surrogates not allowed"),
    ],
)
def test_value_that_cannot_be_saved_is_told_and_leaves_no_file(
    tmp_path: Path, state: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        save(tmp_path / "a", state)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "a", _nested(63))


def test_value_that_holds_itself_is_told(tmp_path: Path) -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(ValueError, match="nested too deeply"):
        save(tmp_path / "a", state)


def test_regions_that_overlap_or_are_not_of_pages_are_told(tmp_path: Path) -> None:
    page = bytes(PAGE)
    for regions in (
        [("a", 0, b"x", None)],
        [("a", 1, page, None)],
        [("a", 0, page, None), ("b", 0, page, None)],
    ):
        with pytest.raises(SnapshotError, match="memory region cannot be saved"):
            save(tmp_path / "a", None, regions)
    assert list(tmp_path.iterdir()) == []


# -- errors ----------------------------------------------------------------------------------------------------------


def test_file_that_cannot_be_opened_is_an_os_error_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "no.hps"
    with pytest.raises(FileNotFoundError) as caught:
        SnapshotFile(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))
    assert caught.value.__notes__ == ["hint: check the path and whether it may be read"]
    with pytest.raises(FileNotFoundError) as caught:
        save(tmp_path / "no" / "a.hps")
    assert caught.value.__notes__ == ["hint: make the folder first"]
    with pytest.raises(SnapshotError, match="not a file that can be replaced"):
        save(tmp_path)
    with pytest.raises(SnapshotError, match="not a file"):
        SnapshotFile(tmp_path)


def test_file_that_is_damaged_says_where_and_what_to_do(tmp_path: Path) -> None:
    path = save(tmp_path / "a.hps", None, [("ram", 0, b"x" * PAGE, None)])
    data = bytearray(path.read_bytes())
    data[PAGE + 5] ^= 1
    path.write_bytes(data)
    file = SnapshotFile(path)  # its pages are not read yet
    for read in (file.verify, lambda: file.memory(0), lambda: file.diff(SnapshotFile(path))):
        with pytest.raises(SnapshotError, match="checksum of its block 0 of the pages is wrong") as caught:
            read()
        assert str(caught.value).startswith(f"{path}: snapshot is damaged")
        assert caught.value.hint == "find a good copy, or take the snapshot again"


def test_file_shortened_while_it_is_open_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.hps", None, [("ram", 0, b"x" * PAGE, None)])
    file, length = SnapshotFile(path), path.stat().st_size
    with path.open("r+b") as other:
        other.truncate(PAGE + 10)
    with pytest.raises(SnapshotError, match=rf"snapshot is cut off: {PAGE + 10} bytes of {length}"):
        file.verify()


def test_region_that_no_host_has_memory_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="no such region"):
        SnapshotFile(save(tmp_path / "a.hps")).memory(0)
