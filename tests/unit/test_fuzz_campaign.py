"""Campaigns of several processes, and `hyperpy fuzz`."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fuzzed import Mailbox

from hyperpy import _fuzz_args
from hyperpy._fuzz_args import duration, main, page
from hyperpy._fuzz_worker import _Others, _Told
from hyperpy.fuzz import Campaign, CampaignReport, DeviceFuzzer, Finding, FuzzError

TARGET = Path(__file__).parents[1] / "fuzzed.py"
COMMAND = [sys.executable, "-m", "hyperpy", "fuzz"]


def test_campaign_of_two_workers_finds_keeps_and_exchanges(tmp_path: Path) -> None:
    campaign = Campaign(
        target=f"{TARGET}:target",
        workers=2,
        corpus=tmp_path / "corpus",
        crashes=str(tmp_path / "crashes"),
        executions=15_000,
    )
    assert pickle.loads(pickle.dumps(campaign)) == campaign
    seen: list[CampaignReport] = []
    report = campaign.run(seen.append)
    assert report.executions == 30_000
    assert max(each.workers for each in seen) == 2
    assert {crash.kind for crash in report.crashes} >= {"invariant"}
    for crash in report.crashes:
        assert crash.folder is not None
        assert (Path(crash.folder) / "reproduce.py").exists()
    assert len(list((tmp_path / "corpus").iterdir())) >= report.corpus
    assert report.problems == ()


@pytest.mark.fault(49)
def test_worker_that_is_killed_is_replaced_and_told_and_the_campaign_goes_on(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(report: CampaignReport) -> None:
        if not killed and report.executions:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            workers = [
                int(pid) for pid in children if b"_fuzz_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(workers[0], signal.SIGKILL)
            killed.append(report.executions)

    report = Campaign(target=str(TARGET), executions=3000, crashes=str(tmp_path)).run(kill)
    assert report.executions >= killed[0] + 3000
    assert [problem for problem in report.problems if "was killed and replaced: SIGKILL" in problem]
    assert len(report.crashes) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing = 1", "file defines no fuzzer"),
        ("fuzzer = 1", "not a fuzzer: fuzzer"),
        ("raise RuntimeError('why')", "RuntimeError: why"),
    ],
)
def test_target_that_cannot_be_used_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "target.py").write_text(text)
    (tmp_path / "empty.py").touch()
    with pytest.raises(FuzzError, match=said):
        Campaign(target=str(tmp_path / "target.py"), seconds=60).run()
    with pytest.raises(FuzzError, match="file does not define other: "):
        Campaign(target=f"{tmp_path / 'empty.py'}:other", seconds=60).run()
    with pytest.raises(FuzzError, match="target cannot be read"):
        Campaign(target=str(tmp_path / "none.py"), seconds=60).run()


def test_target_beside_a_file_that_is_called_as_one_of_pythons_modules_is_fuzzed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("")
    (tmp_path / "beside.py").write_text("from hyperpy import Device\nclass Beside(Device):\n    size = 4\n")
    (tmp_path / "targets").mkdir()
    text = "from beside import Beside\nfrom hyperpy import fuzz\nfuzzer = fuzz.DeviceFuzzer(Beside)\n"
    (tmp_path / "targets" / "target.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    report = Campaign(target="targets/target.py", executions=10).run()
    assert (report.executions, report.problems) == (10, ())


def test_target_that_fails_while_it_is_fuzzed_is_told_with_what_it_raised(tmp_path: Path) -> None:
    text = "from hyperpy import Device, fuzz\nclass Odd(Device):\n    size = 4\n    def write(self, *_): raise SystemExit('enough')\n"
    (tmp_path / "target.py").write_text(text + "fuzzer = fuzz.DeviceFuzzer(Odd)\n")
    with pytest.raises(FuzzError, match="workers do not live: status 3: SystemExit: enough"):
        Campaign(target=str(tmp_path / "target.py"), seconds=60).run()


def test_command_prints_plain_lines_and_its_status_says_that_something_was_found(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, TARGET, "--time", "3s", "--crashes", "kept"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert re.search(
        r"^crash: exception, IndexError at Mailbox\._letter:\d+, 2 operations in kept/",
        ran.stdout,
        re.MULTILINE,
    )
    assert "\x1b" not in ran.stdout
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_command_gives_its_report_as_json(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, TARGET, "--time", "2s", "--json", "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["crashes"][0]["raised"]) == (1, "IndexError")
    assert report["executions"] > 0
    assert report["reset_us"] > 0


NUMBERS = """
from hyperpy import Device, Register
from hyperpy.fuzz import DeviceFuzzer

class Value(Device):
    value = Register(0x0)

known = {}
fuzzer = DeviceFuzzer(Value)
fuzzer.invariant(lambda device: device.value < 2 or known[int(device.value)])
"""
SLOW = """
import time
from hyperpy import Device, Register
from hyperpy.fuzz import DeviceFuzzer

class Slow(Device):
    value = Register(0x0)

    @value.on_write
    def _value(self, value):
        time.sleep(0.05)
        raise ValueError(value)

fuzzer = DeviceFuzzer(Slow)
"""


def test_texts_of_workers_that_differ_by_numbers_are_one_finding(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(NUMBERS)
    report = Campaign(target=str(tmp_path / "target.py"), workers=2, executions=200).run()
    assert [(crash.kind, crash.raised) for crash in report.crashes] == [("invariant", "InvariantError")]
    assert re.fullmatch(r"invariant 0 raises KeyError: \d+", report.crashes[0].where[0])


def test_worker_that_makes_a_crash_small_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(SLOW)
    told: list[str] = []
    report = Campaign(target=str(tmp_path / "target.py"), executions=20).run(
        lambda report: told.extend(report.minimizing)
    )
    assert re.fullmatch(r"exception, \d+ operations to \d+, \d+ executions", told[0])
    assert report.crashes[0].operations == 1
    assert report.minimizing == ()
    shown = page(replace(report, minimizing=("exception",), reset_us=2.5))
    assert "reset        2.5 us" in shown
    assert "minimizing   exception" in shown
    assert "worker" not in shown[0]  # none is running any more


def test_page_that_is_longer_than_the_terminal_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_fuzz_args, "_size", lambda: (80, 12))
    shown = _fuzz_args._Shown(is_json=False)
    shown._draw([f"line {number}" for number in range(40)])
    lines = capsys.readouterr().out.removeprefix("\x1b[J").splitlines()
    assert lines == [*(f"line {number}" for number in range(10)), "  and 30 more"]
    shown._draw(["one"])
    assert capsys.readouterr().out == "\x1b[11F\x1b[Jone\n"


def test_command_on_a_terminal_draws_a_page_and_ctrl_c_ends_it_with_all_saved(tmp_path: Path) -> None:
    """Within a tenth of a second, with what the interpreter does at its end; a busy host may take longer, but not each time."""
    took: list[float] = []
    while not took or took[-1] > 0.1:
        assert len(took) < 6, took
        folder = tmp_path / str(len(took))
        folder.mkdir()
        took.append(_interrupted(folder))
        assert took[-1] < 2, took


def _interrupted(tmp_path: Path) -> float:
    controller, terminal = os.openpty()
    with subprocess.Popen(
        [*COMMAND, TARGET, "--corpus", "corpus"],
        cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        while b"crash: exception" not in shown:
            shown += os.read(controller, 4096)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        while True:
            try:
                data = os.read(controller, 4096)
            except OSError:  # nobody has the terminal any more
                break
            if not data:
                break
            shown += data
        assert process.wait(timeout=30) == 130
        took = time.monotonic() - began
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(controller)
    assert b"\x1b[J" in shown
    assert b"executions" in shown
    assert list((tmp_path / "crashes").iterdir())
    assert list((tmp_path / "corpus").iterdir())
    return took


def test_command_whose_campaign_fails_shows_what_was_found_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("exception", "IndexError", ("f:1",), 2, None)
    report = CampaignReport(100, 200, 3, 4, (finding,), 1.0, 0, ())

    def run(self: Campaign, progress: Callable[[CampaignReport], object]) -> CampaignReport:
        progress(report)
        raise FuzzError("workers do not live: SIGSEGV", hint=None)

    monkeypatch.setattr(Campaign, "run", run)
    assert main(["x.py", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["crashes"][0]["raised"] == "IndexError"
    assert "workers do not live" in said.err
    assert main(["x.py"]) == 1
    assert "crash: exception, IndexError at f:1" in capsys.readouterr().out


def test_crash_that_a_worker_could_not_save_is_saved_later(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(Mailbox, seed=1)
    report = fuzzer.run(executions=500)
    crashes = tmp_path / "crashes"
    crashes.write_text("in the way")
    out = io.StringIO()
    told = _Told(out, str(crashes), _Others(fuzzer, shares=False))
    told.tell(report)
    crashes.unlink()
    told.tell(report)
    told.tell(report)
    lines = [json.loads(line)["crashes"] for line in out.getvalue().splitlines()]
    first, *others = [crashes[0] for crashes in lines if crashes]
    assert first["folder"] is None
    assert len(list(crashes.iterdir())) == 1
    assert {crash["folder"] for crash in others} == {str(next(crashes.iterdir()))}


def test_command_line_that_cannot_be_is_told(tmp_path: Path) -> None:
    for arguments, said in [
        (["none.py"], "target cannot be read: none.py"),
        (["x.py", "--time", "soon"], "not a time: 'soon'"),
        (["x.py", "--workers", "0"], "at least one worker"),
    ]:
        ran = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, said in ran.stderr, ran.stdout) == (1, True, "")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("1d", 86400)]
)
def test_time_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(("code", "line"), [("import nothing_such", 1), ("\n\nx = (", 3)])
def test_target_that_cannot_be_loaded_is_told_with_its_line(tmp_path: Path, code: str, line: int) -> None:
    target = tmp_path / "fuzz_it.py"
    target.write_text(code)
    with pytest.raises(
        FuzzError, match=rf'(?s)^target cannot be loaded: {target}\n.*fuzz_it.py", line {line}'
    ):
        Campaign(target=str(target), seconds=60.0).run()
