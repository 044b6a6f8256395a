"""What the device fuzzer keeps in files: crashes with their scripts, corpora of any make, full disks."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzzed
from fuzzed import Copier, Loop, Mailbox, Queue, is_bounded
from hyperpy import Device
from hyperpy.fuzz import DeviceFuzzer, FuzzError


def crash_of(factory: Any, executions: int = 5000, kind: str = "", **options: Any) -> Any:
    fuzzer = DeviceFuzzer(factory, seed=1, **options)
    if factory is Queue:
        fuzzer.invariant(is_bounded)
        fuzzer.invariant(lambda queue: queue.level >= 0)
    crashes = fuzzer.run(executions=executions).crashes
    return next(crash for crash in crashes if crash.kind == kind or not kind).minimize()


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        (Mailbox, {}, "IndexError: list assignment index out of range"),
        (lambda: Mailbox(), {}, "IndexError: list assignment index out of range"),  # noqa: PLW0108 - the test is about its text
        (Copier, {}, "IndexError: bytearray index out of range"),
        (Copier, {"double_fetch": True}, "IndexError: bytearray index out of range"),
        (Queue, {"executions": 20_000, "kind": "invariant"}, "AssertionError"),
        (fuzzed.Hungry, {"executions": 200}, "MemoryError"),
    ],
    ids=["class", "lambda", "dma", "double fetch", "invariant", "memory"],
)
def test_script_of_a_crash_fails_the_same_way(
    tmp_path: Path, factory: Any, options: dict[str, Any], said: str
) -> None:
    script = tmp_path / "repro.py"
    crash_of(factory, **options).write_script(script)
    assert "hyperpy.fuzz import" not in script.read_text()
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, said in ran.stderr) == (1, True)


def test_script_of_a_hang_ends_and_says_where_it_is(tmp_path: Path) -> None:
    crash = crash_of(Loop, executions=400, dictionary=[0x77])
    text = crash.script().replace("dump_traceback_later(20", "dump_traceback_later(1")
    (tmp_path / "repro.py").write_text(text)
    ran = subprocess.run(
        [sys.executable, tmp_path / "repro.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1
    assert "in write" in ran.stderr


def test_class_without_a_name_has_no_script_and_its_crash_is_kept_all_the_same(tmp_path: Path) -> None:
    class Local(Device):
        size = 4

        def write(self, offset: int, size: int, value: int) -> None:
            raise RuntimeError("never")

    crash = DeviceFuzzer(Local, seed=1).run(executions=20).crashes[0]
    with pytest.raises(FuzzError, match="a script cannot name .*Local"):
        crash.script()
    kept = crash.save(tmp_path)
    assert "a script cannot name" in (kept / "reproduce.txt").read_text()
    assert (kept / "input").read_bytes() == crash.input


def test_folder_of_a_crash_has_all_of_it_and_twice_is_once(tmp_path: Path) -> None:
    crash = crash_of(Mailbox)
    kept = crash.save(tmp_path)
    assert kept == crash.save(tmp_path)
    assert sorted(os.listdir(kept)) == [
        "error.txt", "input", "operations.txt", "reproduce.py", "state.txt", "trace.txt",
    ]  # fmt: skip
    assert (
        (kept / "trace.txt")
        .read_text()
        .splitlines()[-1]
        .endswith("-> IndexError: list assignment index out of range")
    )
    assert (kept / "state.txt").read_text() == "slot: 0x0 -> 0x8\n"
    assert "in _letter" in (kept / "error.txt").read_text()


@pytest.mark.fault(49)
def test_disk_that_is_full_when_a_crash_is_saved_is_told_and_loses_nothing(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(Mailbox, seed=1, crashes=tmp_path / "crashes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        report = fuzzer.run(executions=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(report.crashes) == 1
    assert [problem.partition(":")[0] for problem in report.problems] == ["not saved"]
    assert list((tmp_path / "crashes").iterdir()) == []
    fuzzer.run(executions=1)
    assert len(list((tmp_path / "crashes").iterdir())) == 1


@pytest.mark.fault(48)
def test_corpus_with_anything_in_it_is_read_and_left_alone(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "folder").mkdir(parents=True)
    os.mkfifo(corpus / "pipe")
    (corpus / "empty").write_bytes(b"")
    (corpus / "long").write_bytes(bytes(1 << 20))
    Path(os.fsdecode(os.fsencode(corpus) + b"/\xff\xfe")).write_bytes(b"\x01\x02\x03")
    (corpus / "gone").symlink_to(corpus / "nowhere")
    (corpus / "known").write_bytes(crash_of(Mailbox).input)
    names = set(os.listdir(os.fsencode(corpus)))
    fuzzer = DeviceFuzzer(Mailbox, seed=1, corpus=corpus)
    report = fuzzer.run(executions=4)
    assert len(report.crashes) == 1
    assert report.executions == 4
    assert names <= set(os.listdir(os.fsencode(corpus)))


@pytest.mark.fault(48)
def test_corpus_of_a_hundred_thousand_files_is_read(tmp_path: Path) -> None:
    for number in range(100_000):
        os.close(os.open(tmp_path / str(number), os.O_CREAT | os.O_WRONLY))
    last = tmp_path / "z"
    last.write_bytes(crash_of(Mailbox).input)
    fuzzer = DeviceFuzzer(Mailbox, seed=1, corpus=tmp_path)
    report = fuzzer.run(executions=100_001)
    assert len(report.crashes) == 1


def test_corpus_goes_from_one_run_to_the_next_and_is_minimised(tmp_path: Path) -> None:
    first = DeviceFuzzer(Queue, seed=1, corpus=tmp_path)
    grown = first.run(executions=3000)
    (tmp_path / "mine").write_bytes(b"\0")
    files = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == grown.corpus + 1
    second = DeviceFuzzer(Queue, seed=2, corpus=tmp_path)
    assert second.run(executions=len(files)).coverage >= grown.coverage
    left = second.minimize_corpus()
    assert left < grown.corpus
    assert len(list(tmp_path.iterdir())) == left + 1
    third = DeviceFuzzer(Queue, seed=3, corpus=tmp_path)
    assert third.run(executions=left + 1).coverage >= grown.coverage
