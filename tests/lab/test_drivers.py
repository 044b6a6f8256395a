"""The kernel's own drivers, unmodified, bind to devices written in Python: each of the examples, and what its guest saw."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hyperpy import packages

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    """What an example prints: how the machine ended, and the guest's console."""
    command = [sys.executable, EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout


def test_8250_driver_uses_a_python_uart_as_ttys1_with_interrupts() -> None:
    said = run("python_uart")
    assert "kind='power-off'" in said
    assert re.findall("ttyS1 answers: (.*)", said) == ["HELLO", "ARE YOU PYTHON?"]
    interrupts = re.search(r"3: +(\d+) +IO-APIC +3-edge +ttyS1", said)
    assert interrupts, said
    assert int(interrupts[1]) >= 4  # at least one for what is sent and what is received, for each line


def test_rtc_cmos_driver_reads_the_time_of_a_python_rtc_and_hears_its_alarm() -> None:
    said = run("python_rtc")
    assert "kind='power-off'" in said
    read = re.search(r"rtc_cmos \S+ says 2042-01-02 03:0(\d):(\d\d)", said)
    rang = re.search(r"alarm heard at 03:0(\d):(\d\d)", said)
    assert read, said
    assert rang, said
    seconds = [int(match[1]) * 60 + int(match[2]) for match in (read, rang)]
    assert seconds[1] - seconds[0] >= 3
    assert re.search(r"8: +1 +IO-APIC +8-edge +rtc0", said), said


def test_pvpanic_driver_tells_a_python_pvpanic_of_a_panic_and_the_machine_stops_with_that_reason() -> None:
    said = run("python_pvpanic")
    assert "Exit.Stopped(vcpu=0, reason='the guest panicked', status=None)" in said
    assert "the driver knows of events: 3" in said
    assert "Kernel panic - not syncing: sysrq triggered crash" in said


def test_qemu_fw_cfg_driver_shows_files_of_a_python_fw_cfg_and_writes_one_by_dma() -> None:
    said = run("python_fw_cfg")
    assert "kind='power-off'" in said
    assert "revision 3, files: opt/org.hyperpy/motto etc/vmcoreinfo" in said
    assert "motto: real drivers, Python devices" in said
    release = packages.kernel().release
    assert re.search(rf"the kernel at 0x[0-9a-f]+: OSRELEASE={re.escape(release)}\n", said), said
