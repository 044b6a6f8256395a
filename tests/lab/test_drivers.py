"""The kernel's own drivers, unmodified, bind to devices written in Python: each of the examples, and what its guest saw."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from hyperpy import Exit, Linux, Machine, packages
from hyperpy.guest import busybox_initramfs, kernel_modules
from hyperpy.testing import Recording, record, replay

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


def test_python_fw_cfg_recorded_under_linux_is_replayed_alone_with_its_dma(tmp_path: Path) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "python_fw_cfg.py"))
    kind, files = example["FwCfg"], {"opt/org.hyperpy/motto": b"real drivers, Python devices"}
    debian = packages.kernel()
    with Machine(memory="256M") as m:
        fw_cfg = m.attach(kind(files), pio=0x510)
        initrd = busybox_initramfs(example["INIT"], extra=kernel_modules(debian.modules, "qemu_fw_cfg"))
        m.load(Linux(debian.vmlinuz, initrd, "console=ttyS0 quiet panic=-1"))
        with record(fw_cfg) as recording:
            ended = m.run(timeout=300)
        assert isinstance(ended, Exit.SystemEvent), m.console.output
        note = fw_cfg.items[0x20]
    assert recording.dropped == 0
    # The driver asks for its file to be written: the device reads the request and the note, and tells that it is done.
    (index, written), *more = [(at, event) for at, event in enumerate(recording.events) if event.did]
    request, data, result = written.did
    assert (more, request.kind, request.ranges[0][1]) == ([], "read", 16)
    assert (data.kind, data.data, result.kind, result.data) == ("read", note, "write", bytes(4))
    assert result.ranges == ((request.ranges[0][0], 4),)
    bytes_read = bytes(
        event.value for event in recording.events if event.kind == "read" and event.offset == 1
    )
    assert files["opt/org.hyperpy/motto"] in bytes_read
    recording.save(tmp_path / "fw_cfg.jsonl")
    alone = kind(files)
    assert replay(Recording.load(tmp_path / "fw_cfg.jsonl"), alone) is None
    assert alone.items[0x20] == note

    class Planted(kind):  # type: ignore[misc, valid-type]
        """Tells the guest that it failed."""

        def _done(self, control: int, length: int, address: int) -> int:
            return int(super()._done(control, length, address)) | 1

    found = replay(recording, Planted(files))
    assert found is not None
    assert (found.index, found.what) == (index, "did")
    assert "request_low" in found.register
    assert (found.expected, found.got.data) == (result, b"\0\0\0\1")
    assert "in _request" in found.where

    other = replay(recording, kind({"opt/org.hyperpy/motto": b"real drivers, Python Devices"}))
    assert other is not None
    assert "rest" in other.register
    assert (other.what, other.expected, other.got) == ("value", ord("d"), ord("D"))
