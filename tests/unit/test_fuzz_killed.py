"""Inputs that kill the worker that executes them: kept and told as findings, and told apart from what somebody else has killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyperpy import _fuzz_campaign
from hyperpy._fuzz_args import page
from hyperpy.fuzz import Campaign, CampaignReport, FuzzError

TARGET = """
import os, signal
from hyperpy import Device, Register
from hyperpy.fuzz import DeviceFuzzer

class Deadly(Device):
    key = Register(0x0)

    @key.on_write
    def _key(self, value: int) -> None:
        if value == 0xDEAD:
            {does}

fuzzer = DeviceFuzzer(Deadly)
"""


def campaign(folder: Path, does: str, seconds: float = 60.0) -> Campaign:
    (folder / "target.py").write_text(TARGET.format(does=does))
    return Campaign(target=str(folder / "target.py"), seconds=seconds, crashes=str(folder / "crashes"))


def until_found(of: Campaign) -> CampaignReport:
    """Run it until something is found, as Ctrl-C would end it."""
    last: list[CampaignReport] = []

    def told(report: CampaignReport) -> None:
        last[:] = [report]
        if report.crashes and report.workers:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.run(told)
    return last[0]


@pytest.mark.parametrize(
    ("does", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(7)", "status 7"),
        ("os._exit(0)", "status 0"),  # as a worker that is done
        ("os._exit(1)", "status 1"),  # as one whose target cannot be used
        ("os._exit(3)", "status 3"),  # as one in which something else was raised
    ],
)
def test_input_that_kills_its_worker_is_kept_and_told_and_does_it_again(
    tmp_path: Path, does: str, how: str
) -> None:
    report = until_found(campaign(tmp_path, does))
    (finding,) = report.crashes
    assert (finding.kind, finding.raised, finding.reproduces) == ("killed", how, True)
    assert finding.folder is not None
    folder = Path(finding.folder)
    assert {file.name for file in folder.iterdir()} == {"input", "error.txt", "reproduce.py"}
    assert how in (folder / "error.txt").read_text()
    assert f"worker 0 was killed and replaced: {how}" in " ".join(report.problems)
    assert [line for line in page(report) if f"killed its worker, {how}" in line and f" in {folder}" in line]
    ran = subprocess.run(
        [sys.executable, folder / "reproduce.py"], capture_output=True, check=False, timeout=60
    )
    assert ran.returncode == {"SIGSEGV": -11, "SIGKILL": -9}.get(
        how, int(how.rsplit(maxsplit=1)[-1]) if " " in how else 7
    )


def test_input_that_kills_its_worker_once_is_kept_and_said_to_be_so(tmp_path: Path) -> None:
    mark = tmp_path / "once"
    does = f"os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w').close(), os.kill(os.getpid(), signal.SIGBUS))"
    report = until_found(campaign(tmp_path, does))
    (finding,) = report.crashes
    assert (finding.kind, finding.raised, finding.reproduces) == ("killed", "SIGBUS", False)
    assert "does not come again" in " ".join(page(report))


def test_inputs_that_kill_at_one_line_are_one_finding_that_tells_it(tmp_path: Path) -> None:
    of = campaign(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    target = tmp_path / "target.py"
    target.write_text(target.read_text().replace("value == 0xDEAD", "value > 1"))
    last: list[CampaignReport] = []

    def told(report: CampaignReport) -> None:
        last[:] = [report]
        if len([it for it in report.problems if "was killed and replaced: SIGSEGV" in it]) >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.run(told)
    (finding,) = last[0].crashes
    line = target.read_text().splitlines().index("            os.kill(os.getpid(), signal.SIGSEGV)") + 1
    assert finding.where == (f"_key:{line}",)
    assert len(list((tmp_path / "crashes").iterdir())) == 1
    assert finding.folder is not None
    assert f"line {line} in _key" in (Path(finding.folder) / "error.txt").read_text()


def test_input_that_never_returns_is_kept_when_the_campaign_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fuzz_campaign, "_ENDING", 0.1)
    began = tmp_path / "began"
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])"
    does = f"{blocked}, open({str(began)!r}, 'w').close(), ctypes.PyDLL(None).sleep(1000)"
    of = campaign(tmp_path, does)
    target = tmp_path / "target.py"
    target.write_text("import ctypes\n" + target.read_text())
    last: list[CampaignReport] = []

    def told(report: CampaignReport) -> None:
        last[:] = [report]
        if began.exists() and report.workers:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.run(told)
    (finding,) = last[0].crashes
    assert (finding.kind, finding.raised) == ("killed", "does not return")
    assert finding.folder is not None
    assert (Path(finding.folder) / "input").read_bytes()
    assert "did not end, and was killed" in " ".join(last[0].problems)


def test_input_that_never_returns_is_found_while_the_campaign_goes_on(tmp_path: Path) -> None:
    """The device waits where Python hears no signal and no exception, so that its time limit cannot end it."""
    of = campaign(tmp_path, "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]), libc.sleep(1000)")
    target = tmp_path / "target.py"
    line = "import ctypes; libc = ctypes.PyDLL(None)\n"
    target.write_text(line + target.read_text() + "fuzzer._patience = 1.0\n")
    report = until_found(of)
    (finding,) = report.crashes
    assert (finding.kind, finding.raised, finding.reproduces) == ("killed", "does not return", True)
    assert finding.folder is not None
    assert "in _key" in (Path(finding.folder) / "error.txt").read_text()


def test_worker_that_dies_each_time_ends_the_campaign_and_its_inputs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fuzz_campaign, "_INPUTS", 6)
    target = campaign(tmp_path, "os._exit(7)")
    text = (tmp_path / "target.py").read_text().replace("value == 0xDEAD", "True")
    (tmp_path / "target.py").write_text(text)
    with pytest.raises(FuzzError, match="workers do not live: status 7"):
        target.run()
    assert list((tmp_path / "crashes").glob("killed-*/input"))
