"""`hyperpy snapshot`: what it says of files, of two of them, and of what is no snapshot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpy import cli
from hyperpy._hyperpy import save_snapshot
from hyperpy._snapshot_text import size_text, value_text

PAGE = 4096


def save(path: Path, *, rip: int = 0x1000, fill: bytes = b"", ram: int = 16, **others: Any) -> str:
    """A machine of two vCPUs and two devices."""
    fpu = bytearray(512)
    fpu[100 : 100 + len(fill)] = fill
    state = {
        "shape": {"vcpus": 2, "irqchip": True},
        "vcpus": [{"rip": rip}, {"rip": 7, "fpu": fpu}],
        "devices": {"com1": {"ier": 1}, "rtc": {}},
        **others,
    }
    memory = bytearray(ram * PAGE)
    for page in (3, 5):
        memory[page * PAGE : (page + 1) * PAGE] = b"same" * 1024
    memory[7 * PAGE : 7 * PAGE + len(fill)] = fill
    regions = [("ram", 0, memory, {"kind": "ram"}), ("rom", 1 << 20, bytes(PAGE), {"kind": "rom"})]
    save_snapshot(
        path,
        state,
        regions,
        made_by="hyperpy 0.1.0",
        created_ns=1_700_000_000 * 10**9,
        schema=1,
        compress=True,
    )
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["snapshot", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


# -- info ------------------------------------------------------------------------------------------------------------


def test_info_says_machine_memory_and_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.hps")
    status, out, err = said(capsys, "info", path)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:5] == [
        path,
        "format   version 1, schema 1, by hyperpy 0.1.0",
        "taken    2023-11-14 22:13:20 UTC",
        "machine  2 vcpus; with interrupt controllers; devices: com1, rtc",
        "pages    17: 1 stored, 1 identical, 15 zero",
    ]
    assert lines[5].startswith("file     ")
    assert [line.split() for line in lines[7:]] == [
        ["region", "first", "last", "size"],
        ["ram", "0x0", "0xffff", "64", "KiB", "ram"],
        ["rom", "0x100000", "0x100fff", "4", "KiB", "rom"],
    ]


def test_info_of_several_as_json_is_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [save(tmp_path / "a.hps"), save(tmp_path / "b.hps", fill=b"b")]
    status, out, _ = said(capsys, "info", "--json", *paths)
    first, second = json.loads(out)
    assert status == 0
    assert (first["file"], second["file"]) == tuple(paths)
    assert (first["stored"], second["stored"], first["compress"]) == (1, 2, "zstd")
    assert first["machine"] == {"vcpus": 2, "irqchip": True, "devices": ["com1", "rtc"]}
    assert first["regions"][0] == {"name": "ram", "gpa": 0, "size": 16 * PAGE, "about": {"kind": "ram"}}
    assert first["file_bytes"] == Path(paths[0]).stat().st_size


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"shape": 1, "vcpus": "x", "devices": 5},
        {"shape": {"vcpus": "many", "irqchip": None}, "devices": [1, {"name": 2}, None]},
        {"devices": ["\x1b[2J", {"name": "x\r\n" * 50}]},
    ],
)
def test_info_of_a_state_that_is_anything_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: Any
) -> None:
    regions = [("\x1b]0;x\x07\n", 0, bytes(PAGE), {"kind": "\x1b[31m", "x": [state], "\n": 1.5})]
    path = str(tmp_path / "a.hps")
    save_snapshot(
        path, state, regions, made_by="\x00" * 99, created_ns=(1 << 64) - 1, schema=0, compress=False
    )
    status, out, err = said(capsys, "info", path)
    assert (status, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert "ns since 1970" in out or "2554-07-21" in out
    assert said(capsys, "info", "--json", path)[0] == 0
    assert said(capsys, "diff", path, path) == (0, "", "")


# -- diff ------------------------------------------------------------------------------------------------------------


def test_diff_of_equal_snapshots_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [save(tmp_path / name) for name in ("a", "b")]
    assert said(capsys, "diff", *paths) == (0, "", "")
    status, out, _ = said(capsys, "diff", "--json", *paths)
    assert status == 0
    assert json.loads(out) == {"pages": [], "regions": {"old": [], "new": []}, "state": []}


def test_diff_says_pages_by_range_and_values_by_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = save(tmp_path / "a", gone=1), save(tmp_path / "b", rip=0x1008, fill=b"\x01\x02", come="hi")
    status, out, err = said(capsys, "diff", old, new)
    assert (status, err) == (1, "")
    memory, state = out.rstrip().split("\n\n")
    assert memory.splitlines()[0] == "memory: 1 page differs"
    assert memory.splitlines()[2].split() == ["ram", "0x7000", "0x7fff", "1"]
    head, _, *rows = state.splitlines()
    assert head == "state: 4 values differ"
    assert [row.split(maxsplit=1) for row in rows[:1]] == [["vcpus[0].rip", rows[0].split(maxsplit=1)[1]]]
    assert rows[0].split() == ["vcpus[0].rip", "0x1000", "0x1008"]
    assert rows[1].split(maxsplit=1)[0] == "vcpus[1].fpu"
    assert "00 00 00 00 00 00 00 00 ... at 0x64" in rows[1]
    assert rows[1].endswith("01 02 00 00 00 00 00 00 ...: 2 of 512 bytes differ")
    assert rows[2].split(maxsplit=2) == ["gone", "1", "not there"]
    assert rows[3].split() == ["come", "not", "there", "hi"]


def test_diff_as_json_has_both_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = save(tmp_path / "a", gone=1), save(tmp_path / "b", rip=2, come=b"\x00\xff", ram=32)
    status, out, _ = said(capsys, "diff", "--json", old, new)
    found = json.loads(out)
    assert status == 1
    assert found["state"] == [
        {"path": "vcpus[0].rip", "old": 0x1000, "new": 2},
        {"path": "gone", "old": 1},
        {"path": "come", "new": {"$bytes": "00ff"}},
    ]
    assert found["regions"] == {
        "old": [{"name": "ram", "gpa": 0, "size": 16 * PAGE}],
        "new": [{"name": "ram", "gpa": 0, "size": 32 * PAGE}],
    }


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_diff_that_nobody_reads_ends_quietly(tmp_path: Path, form: list[str]) -> None:
    paths = [save(tmp_path / "a", **{f"gone{n}": n for n in range(9000)}), save(tmp_path / "b")]
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hyperpy", "snapshot", "diff", *paths, *form]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_diff_of_much_says_how_much_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for fill in (1, 2):
        memory = bytearray(300 * PAGE)
        memory[:: 2 * PAGE] = bytes([fill]) * 150
        path = str(tmp_path / f"{fill}")
        regions = [("ram", 0, memory, None)]
        state = {f"r{number}": number * fill for number in range(1, 121)}
        save_snapshot(path, state, regions, made_by="x", created_ns=0, schema=0, compress=False)
        paths.append(path)
    _, out, _ = said(capsys, "diff", *paths)
    assert "memory: 150 pages differ\n" in out
    assert "\n100 more ranges: --json has all\n" in out
    assert out.endswith("\n20 more values: --json has all\n")
    assert len(json.loads(said(capsys, "diff", "--json", *paths)[1])["pages"]) == 150


# -- verify ----------------------------------------------------------------------------------------------------------


def test_verify_goes_on_after_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = tmp_path / "bad.hps", tmp_path / "good.hps"
    save(bad)
    save(good)
    data = bytearray(bad.read_bytes())
    data[PAGE] ^= 1
    bad.write_bytes(data)
    status, out, err = said(capsys, "verify", str(bad), str(good))
    assert status == 1
    assert out.startswith(f"{good}: whole: 1 stored page and")
    assert err == (
        f"hyperpy snapshot: {bad}: snapshot is damaged: checksum of its block 0 of the pages is wrong\n\n"
        "hint: find a good copy, or take the snapshot again\n"
    )
    status, out, err = said(capsys, "verify", "--json", str(bad), str(good))
    assert (status, err) == (1, "")
    first, second = json.loads(out)
    assert (first["whole"], second) == (False, {"file": str(good), "whole": True, "error": None})
    assert "checksum" in first["error"]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "no command given", "one of info, diff, verify"),
        (["inf"], "unknown command: inf", "did you mean info?"),
        (["a.hps"], "unknown command: a.hps", "one of info, diff, verify"),
        (["info"], "the following arguments are required: FILE", "`hyperpy snapshot info --help`"),
        (["diff", "a"], "the following arguments are required: NEW", "`hyperpy snapshot diff --help`"),
        (["diff", "a", "b", "c"], "unknown argument: c", "hyperpy snapshot diff --help"),
        (["verify", "--jsn", "x"], "unknown argument: --jsn", "did you mean --json?"),
        (["info", "no.hps"], "no.hps: snapshot cannot be read: No such file or directory", "check the path"),
        (["diff", "no.hps", "no.hps"], "no.hps: snapshot cannot be read: No such file", "check the path"),
        (["verify", "."], ".: not a file", "`Snapshot.save`"),
        (["info", "spec.toml"], "spec.toml: not a snapshot", "`Snapshot.save`"),
        (["info", "empty"], "empty: not a snapshot", "`Snapshot.save`"),
        (["info", "half"], "half: snapshot is cut off: 100 bytes of 4096", "copy it again"),
    ],
)
def test_mistake_is_told_with_a_hint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text('name = "x"\n')
    Path("empty").touch()
    save(tmp_path / "whole")
    Path("half").write_bytes(Path("whole").read_bytes()[:100])
    status, out, err = said(capsys, *arguments)
    assert (status, out) == (1, "")
    told, _, what = err.partition("\n\nhint: ")
    assert told.startswith(f"hyperpy snapshot: {message}")
    assert hint in what


def test_help_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "--help")
    assert status == 0
    assert "hyperpy snapshot [--help] COMMAND FILE ..." in out
    assert all(f"  {command} " in out for command in ("info", "diff", "verify"))


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 << 20, "512 MiB"),
        (1 << 63, "8 EiB"),
    ],
)
def test_size_is_said_in_its_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (255, "255"),
        (-256, "-0x100"),
        (0.5, "0.5"),
        ("", "''"),
        ("a\x1b", r"'a\x1b'"),
        (b"", "no bytes"),
        (b"123456789", "31 32 33 34 35 36 37 38 ... (9 bytes)"),
        ([1, 2], "[1, 2]"),
        ({}, "{}"),
        ({"id": 3, "due": [0x1000, None]}, "{id: 3, due: [0x1000, none]}"),
        (list(range(40)), "a list of 40"),
        ({"state": "x" * 60}, "a map of 1"),
        ([[[["x" * 20] * 3]]], "a list of 1"),
    ],
)
def test_value_is_said_on_a_line(value: Any, text: str) -> None:
    assert value_text(value) == text
