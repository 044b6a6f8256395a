"""The script that checks a built wheel: what it makes of auditwheel's report."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/check_wheel.py"))["_check_platform"]
REPORT = """
hyperpy-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl is consistent with
the following platform tag: "{tag}".

This constrains the platform tag to "{tag}". In order to achieve a more compatible tag, compile again.
"""


@pytest.mark.parametrize("tag", ["manylinux_2_17_x86_64", "manylinux_2_28_x86_64"])
def test_wheel_for_systems_as_old_as_it_says_passes(tag: str) -> None:
    CHECK(REPORT.format(tag=tag))


@pytest.mark.parametrize("tag", ["manylinux_2_29_x86_64", "manylinux_2_36_x86_64", "linux_x86_64"])
def test_wheel_that_wants_a_newer_system_than_its_name_says_is_refused(tag: str) -> None:
    with pytest.raises(SystemExit, match="auditwheel finds no manylinux_2_28"):
        CHECK(REPORT.format(tag=tag))
