"""What the doctor says of hosts that this one is not."""

from __future__ import annotations

import pytest

from hyperpy.doctor import Report


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report(kvm="kvm-amd", usable=True, native=True), "directly"),
        (Report(kvm="page tables", usable=True, native=False, lab=True), "in the lab"),
        (Report(kvm="none", usable=False, native=False), "do not run here yet"),
    ],
    ids=["native", "interpreted", "none"],
)
def test_report_verdict_comes_first(report: Report, verdict: str) -> None:
    assert verdict in str(report).splitlines()[0]
    assert report.to_dict()["can_run_kernels"] == (verdict != "do not run here yet")


def test_report_missing_things_name_the_fix() -> None:
    report = Report(kvm="none", usable=False, native=False, missing=(("no /dev/kvm", "load kvm-intel"),))
    assert str(report).endswith("missing: no /dev/kvm\nhint: load kvm-intel")
