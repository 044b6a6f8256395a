"""The command `hyperpy` with tiny ELF kernels, which run on any KVM: statuses, consoles, devices, errors."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

AT = 0x20_0000
HLT = b"\xfa\xf4"
POWER_OFF = b"\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef"  # mov dx, 0x604; mov ax, 0x3400; out dx, ax
RESET = b"\x66\xba\xf9\x0c\xb0\x06\xee"  # mov dx, 0xcf9; mov al, 6; out dx, al
SPIN = b"\xeb\xfe"


def say(text: bytes) -> bytes:
    """Code that writes to COM1: mov dx, 0x3f8; then mov al, c; out dx, al for each."""
    return b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([byte]) + b"\xee" for byte in text)


def kernel(folder: Path, code: bytes) -> str:
    """An ELF64 file of one segment that is entered at its first byte."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, AT, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, AT, AT, len(code), len(code), 0x1000)
    path = folder / "kernel.elf"
    path.write_bytes(header + segment + code)
    return str(path)


def hyperpy(*arguments: str, given: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyperpy", *arguments]
    return subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=60, cwd=cwd, check=False
    )


@pytest.mark.parametrize(
    ("code", "options", "status"),
    [
        (POWER_OFF, [], 0),
        (RESET, [], 0),
        (b"\xb0\x15\xe6\xf4", ["--debug-exit", "0xf4"], 0x15 << 1 | 1),
        (SPIN, ["--timeout", "0.3"], 124),
    ],
    ids=["power-off", "reset", "debug-exit", "timeout"],
)
def test_run_kernel_ends_with_the_status_of_its_end(
    tmp_path: Path, code: bytes, options: list[str], status: int
) -> None:
    done = hyperpy("run", "--kernel", kernel(tmp_path, say(b"hi") + code), *options)
    assert (done.returncode, done.stdout) == (status, "hi"), done.stderr


def test_run_kernel_serial_goes_to_a_file(tmp_path: Path) -> None:
    image = kernel(tmp_path, say(b"to the file") + POWER_OFF)
    done = hyperpy("run", "--kernel", image, "--serial", f"file:{tmp_path / 'log'}")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "log").read_bytes() == b"to the file"


def test_run_kernel_gives_it_the_input_of_a_pipe(tmp_path: Path) -> None:
    # wait: mov dx, 0x3fd; in al, dx; test al, 1; jz wait; mov dx, 0x3f8; in al, dx; out dx, al
    echo = b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x66\xba\xf8\x03\xec\xee"
    done = hyperpy("run", "--kernel", kernel(tmp_path, echo + echo + POWER_OFF), given="ok", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok"), done.stderr


def test_run_kernel_finds_a_device_of_a_module_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from hyperpy import Device\n"
        "class Answer(Device):\n"
        "    size = 4\n"
        "    def read(self, offset, size):\n"
        "        return 0x2a\n"
    )
    # mov ebx, 0xfe000000; mov al, [rbx]; out 0xf4, al
    code = b"\xbb\x00\x00\x00\xfe\x8a\x03\xe6\xf4"
    options = ["--device", "mine:Answer@mmio=0xfe000000", "--debug-exit", "0xf4"]
    done = hyperpy("run", "--kernel", kernel(tmp_path, code), *options, cwd=tmp_path)
    assert done.returncode == 0x2A << 1 | 1, done.stderr


def test_run_kernel_triple_fault_is_an_error_with_a_hint(tmp_path: Path) -> None:
    done = hyperpy("run", "--kernel", kernel(tmp_path, b"\x0f\x0b"))
    assert done.returncode == 1
    assert "Exit.Shutdown" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "give a kernel or a script"),
        (["run", "--kernel", "/nonexistent"], "kernel cannot be read"),
        (["run", "--kernel", __file__], "neither a bzImage nor an ELF"),
        (["run", "--kernel", __file__, "--memory", "lots"], "not a size"),
        (["run", "--kernel", __file__, "--device", "nonsense"], "not a device: nonsense"),
        (["run", "--kernel", __file__, "--device", "os:nope@mmio=0"], "no such device"),
        (["run", "--kernel", __file__, "--device", "os:nope@color=1"], "not an option of a device: color=1"),
    ],
)
def test_run_wrong_arguments_are_a_message_and_a_hint(arguments: list[str], message: str) -> None:
    done = hyperpy(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "\n\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_run_script_is_run_as_python_would(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(7)\n")
    done = hyperpy("run", str(tmp_path / "script.py"), "a", "--b")
    assert (done.returncode, done.stdout) == (7, "__main__ ['a', '--b']\n")


def test_run_script_that_raises_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import hyperpy\nraise hyperpy.StateError('mine')\n")
    done = hyperpy("run", str(tmp_path / "script.py"))
    assert done.returncode == 1
    assert 'script.py", line 2' in done.stderr


def test_run_kernel_on_a_terminal_is_raw_and_ctrl_a_x_leaves_and_restores_it(tmp_path: Path) -> None:
    image = kernel(tmp_path, say(b"here") + SPIN)
    terminal, other = pty.openpty()
    before = termios.tcgetattr(other)
    command = [sys.executable, "-m", "hyperpy", "run", "--kernel", image, "--timeout", "30"]
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=subprocess.DEVNULL)
    seen = b""
    while b"here" not in seen:
        seen += os.read(terminal, 100)
    assert termios.tcgetattr(other) != before
    os.write(terminal, b"\x01x")
    assert process.wait(timeout=30) == 0
    assert termios.tcgetattr(other) == before
    os.close(other)
    os.close(terminal)


def test_version_and_doctor_print_what_they_know() -> None:
    assert hyperpy("--version").stdout.startswith("hyperpy 0.")
    done = hyperpy("doctor", "--json")
    assert '"usable": true' in done.stdout
    assert done.returncode == 0, done.stdout
