"""`hyperpy run` as a process: statuses, streams, devices and the terminal, with kernels of a few bytes.

The kernels are ELF files of 64-bit code that a page-table KVM can interpret too, so that the whole path runs on any
KVM: kernel file, loader, stock devices, console, exit status.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from hyperpy.doctor import kernel_code_is_native

Kernel: TypeAlias = Callable[[bytes], str]
LIMIT_S = 30
COM1, DEBUG_EXIT, PM1A_CONTROL, RESET = 0x3F8, 0xF4, 0x604, 0xCF9


def out8(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al."""
    return b"\x66\xba" + struct.pack("<H", port) + bytes([0xB0, value, 0xEE])


def out16(port: int, value: int) -> bytes:
    """mov dx, port; mov ax, value; out dx, ax."""
    return b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


def say(text: str) -> bytes:
    return b"".join(out8(COM1, byte) for byte in text.encode())


POWER_OFF = out16(PM1A_CONTROL, 0x3400)  # SLP_TYP 5, SLP_EN
SPIN = b"\xeb\xfe"
# again: read COM1's line status until a byte is there; read it; leave at "q"; send it back; again.
ECHO = bytes.fromhex("66bafd03 ec a801 74f7 66baf803 ec 3c71 7403 ee ebeb")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """Write an ELF kernel that is these instructions."""

    def write(code: bytes) -> str:
        at, headers = 0x100000, 64 + 56
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack("<IIQQQQQQ", 1, 5, headers, at, at, len(code), len(code), 0x1000)
        path = tmp_path / "kernel.elf"
        path.write_bytes(header + segment + code)
        return str(path)

    return write


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hyperpy", *arguments]


def hyperpy(
    *arguments: str, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, timeout=LIMIT_S, cwd=cwd, check=False
    )


@contextlib.contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command(*arguments), **options) as process:
        try:
            yield process
        finally:
            process.kill()


def messages(stderr: bytes) -> str:
    """What was said besides the warning that kernels are better run elsewhere, which ends with the lab's command."""
    return re.sub(r"^hyperpy run: warning: .*\n\nhint: .*\n", "", stderr.decode()).removeprefix(
        "hyperpy run: "
    )


def read_until(descriptor: int, wanted: bytes) -> bytes:
    data, deadline = b"", time.monotonic() + LIMIT_S
    while wanted not in data:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come, only {data!r}"
        data += os.read(descriptor, 4096)
    return data


# -- the end of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments", "status", "message"),
    [
        (POWER_OFF, [], 0, ""),
        (out8(RESET, 6), [], 0, ""),
        (out8(DEBUG_EXIT, 3), ["--debug-exit", "0xf4"], 7, ""),
        (out8(DEBUG_EXIT, 0xFF), ["--debug-exit", "0xf4"], 0xFF, ""),  # 0x1ff cut to 8 bits
        (out8(DEBUG_EXIT, 3) + POWER_OFF, [], 0, ""),  # the port is nobody's unless it is asked for
        (SPIN, ["--timeout", "0.3"], 124, "guest did not end in time: 0.3 s"),
        (b"\xf4", [], 1, "every vcpu has halted with interrupts off; vcpu 0, rip 0x100001"),
        (b"\x0f\x0b", [], 1, "triple fault: an exception, and nothing to handle it; vcpu 0, rip "),
    ],
)
def test_run_ends_with_the_status_of_the_guests_end(
    kernel: Kernel, code: bytes, arguments: list[str], status: int, message: str
) -> None:
    done = hyperpy(
        "run", "--kernel", kernel(say("hi\n") + b"\xeb\x00" + code if not message else code), *arguments
    )
    assert done.returncode == status, done.stderr.decode()
    assert done.stdout == (b"" if message else b"hi\n")
    said = messages(done.stderr)
    assert message in said
    assert bool(said) == bool(message)
    assert not message or "\n\nhint: " in said


def test_run_on_an_interpreting_kvm_warns_and_names_the_lab(kernel: Kernel) -> None:
    done = hyperpy("run", "--kernel", kernel(b"\x9b" + POWER_OFF))  # fwait
    if kernel_code_is_native():
        assert (done.returncode, done.stderr) == (0, b"")
        return
    warning, error = done.stderr.decode().split("hyperpy run: ")[1:]
    assert warning.startswith("warning: this host's KVM interprets kernel code")
    assert "hyperpy lab -- hyperpy run --kernel" in warning
    assert done.returncode == 1
    assert error.startswith("KVM cannot interpret the instruction 9b 66 ba")
    assert "rip 0x100000" in error
    assert "hyperpy lab -- hyperpy run --kernel" in error.partition("hint:")[2]


def test_run_memory_is_the_guests(kernel: Kernel) -> None:
    # mov al, [rsi + 0x1e8] (e820_entries); dec al; movzx eax, al; imul eax, eax, 20; mov rbx, [rsi + rax + 0x2d8] (size
    # of the last one); shr rbx, 20 (from 1 MiB, so 63 of 64 MiB); mov al, bl; out 0xf4, al
    code = bytes.fromhex("8a86e8010000 fec8 0fb6c0 6bc014 488b9c06d8020000 48c1eb14 88d8 e6f4")
    done = hyperpy("run", "--kernel", kernel(code), "--debug-exit", "0xf4", "--memory", "64M", "--cpus", "2")
    assert done.returncode == 63 * 2 + 1, done.stderr.decode()


def test_run_append_reaches_the_guest(kernel: Kernel) -> None:
    # mov ebx, [rsi + 0x228] (cmd_line_ptr); mov al, [rbx + 1]; mov dx, COM1; out dx, al
    code = bytes.fromhex("8b9e28020000 8a4301 66baf803 ee")
    assert hyperpy("run", "--kernel", kernel(code + POWER_OFF), "--append", "xYz").stdout == b"Y"


# -- streams ---------------------------------------------------------------------------------------------------------


def test_run_echoes_piped_input_and_goes_on_after_its_end(kernel: Kernel) -> None:
    assert hyperpy("run", "--kernel", kernel(ECHO + POWER_OFF), stdin=b"hello q").stdout == b"hello "
    done = hyperpy("run", "--kernel", kernel(ECHO + POWER_OFF), "--timeout", "0.5", stdin=b"no end")
    assert (done.returncode, done.stdout) == (124, b"no end")


def test_run_serial_file_takes_the_output(kernel: Kernel, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = hyperpy("run", "--kernel", kernel(say("to the file") + POWER_OFF), "--serial", f"file:{log}")
    assert (done.returncode, done.stdout, log.read_bytes()) == (0, b"", b"to the file")


def test_run_serial_none_drops_the_output(kernel: Kernel) -> None:
    done = hyperpy("run", "--kernel", kernel(say("to nobody") + POWER_OFF), "--serial", "none")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_signal_ends_it(kernel: Kernel, number: signal.Signals, status: int) -> None:
    arguments = ("run", "--kernel", kernel(say("ready") + SPIN))
    with started(
        *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        read_until(process.stdout.fileno(), b"ready")
        process.send_signal(number)
        assert process.wait(LIMIT_S) == status
        assert "Traceback" not in process.stderr.read().decode()


def test_run_ends_when_nobody_reads_the_output(kernel: Kernel) -> None:
    with started(
        "run", "--kernel", kernel(say("ready") + SPIN), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready")
        process.stdout.close()
        assert process.wait(LIMIT_S) == 128 + signal.SIGPIPE


def test_run_with_closed_streams_runs(kernel: Kernel) -> None:
    line = f'exec "{sys.executable}" -m hyperpy run --kernel "$1" <&- >&-'
    done = subprocess.run(
        ["sh", "-c", line, "sh", kernel(say("x") + POWER_OFF)], timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0


# -- devices ---------------------------------------------------------------------------------------------------------

DEVICES = """
    import hyperpy

    class Letter(hyperpy.Device):
        size = 8

        def read(self, offset, size):
            return ord("A") + offset

        def write(self, offset, size, value):
            if value == 0x42:
                raise LookupError(f"no such letter: {value:#x}")
            return hyperpy.Stop("enough")
    """
# mov ebx, 0xfe000000; mov eax, [rbx + 2]; mov dx, COM1; out dx, al
READ = bytes.fromhex("bb000000fe 8b4302 66baf803 ee")
WRITE = bytes.fromhex("8903")  # mov [rbx], eax


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    (tmp_path / "letters.py").write_text(textwrap.dedent(DEVICES))
    return tmp_path


def test_run_device_from_a_module_answers(kernel: Kernel, devices: Path) -> None:
    arguments = (
        "run",
        "--kernel",
        kernel(READ + POWER_OFF),
        "--device",
        "letters:Letter@mmio=0xfe000000,irq=10",
    )
    done = hyperpy(*arguments, cwd=devices)
    assert (done.returncode, done.stdout) == (0, b"C"), done.stderr.decode()


def test_run_device_that_stops_ends_it_in_order(kernel: Kernel, devices: Path) -> None:
    arguments = (
        "run",
        "--kernel",
        kernel(READ + WRITE),
        "--device",
        "letters:Letter@mmio=0xfe000000,size=0x10",
    )
    done = hyperpy(*arguments, cwd=devices)
    assert (done.returncode, messages(done.stderr)) == (0, "stopped: enough\n")


def test_run_device_on_a_port_that_raises_shows_its_traceback(kernel: Kernel, devices: Path) -> None:
    code = out8(0x300, 0x42)
    done = hyperpy("run", "--kernel", kernel(code), "--device", "letters:Letter@pio=0x300", cwd=devices)
    said = messages(done.stderr)
    assert done.returncode == 1
    assert "LookupError: no such letter: 0x42" in said
    assert 'letters.py", line' in said
    assert "_run.py" not in said


def test_run_device_module_that_raises_shows_its_traceback(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    done = hyperpy("run", "--kernel", kernel(SPIN), "--device", "broken:It@pio=1", cwd=tmp_path)
    said = done.stderr.decode()
    assert (done.returncode, said.count("File ")) == (1, 1)
    assert 'broken.py", line 1' in said
    assert "ZeroDivisionError" in said


def test_run_devices_in_each_others_place_are_refused_with_a_hint(kernel: Kernel, devices: Path) -> None:
    device = ("--device", "letters:Letter@mmio=0xfe000000")
    done = hyperpy("run", "--kernel", kernel(SPIN), *device, *device, cwd=devices)
    assert done.returncode == 1
    assert "\n\nhint: " in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


# -- the terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal whose other side is the controlling terminal of `hyperpy run`."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)

    def started(self, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        options = {
            "stdin": self.slave,
            "stdout": self.slave,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
        }
        return started("run", *arguments, **options, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.master)
    os.close(made.slave)


def test_run_on_a_terminal_is_raw_and_leaves_with_ctrl_a_x(kernel: Kernel, terminal: Terminal) -> None:
    with terminal.started("--kernel", kernel(say("ready\n") + ECHO)) as process:
        assert read_until(terminal.master, b"\n") == b"ready\r\n"
        _, oflag, _, lflag, *_ = termios.tcgetattr(terminal.slave)
        assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        assert oflag & termios.OPOST
        os.write(
            terminal.master, b"a\x03b\x01\x01\x01hc"
        )  # Ctrl-C is the guest's; one Ctrl-A of two; h shows help
        assert read_until(terminal.master, b"c").endswith(b"a\x03b\x01c")
        os.write(terminal.master, b"\x01x")
        assert process.wait(LIMIT_S) == 0
        assert process.stderr
        assert "Ctrl-A x: leave" in process.stderr.read().decode()
    assert terminal.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_run_on_a_terminal_restores_it_after_a_signal(
    kernel: Kernel, terminal: Terminal, number: signal.Signals
) -> None:
    with terminal.started("--kernel", kernel(say("ready") + SPIN)) as process:
        read_until(terminal.master, b"ready")
        assert not terminal.is_restored()
        process.send_signal(number)
        assert process.wait(LIMIT_S) == 128 + number
    assert terminal.is_restored()


def test_run_on_a_terminal_restores_it_after_a_device_raised(
    kernel: Kernel, terminal: Terminal, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(devices)
    code = say("ready") + out8(0x300, 0x42)
    with terminal.started("--kernel", kernel(code), "--device", "letters:Letter@pio=0x300") as process:
        read_until(terminal.master, b"ready")
        assert process.wait(LIMIT_S) == 1
    assert terminal.is_restored()


# -- scripts ---------------------------------------------------------------------------------------------------------


def test_run_script_is_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("word = 'found'\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, beside\nprint(__name__, __file__, sys.argv, beside.word)\nsys.exit(7)\n")
    ours = hyperpy("run", str(script), "--kernel", "x", "-h")
    pythons = subprocess.run(
        [sys.executable, str(script), "--kernel", "x", "-h"], capture_output=True, check=False
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (7, pythons.stdout, pythons.stderr)
    assert b"found" in ours.stdout


def test_run_script_that_raises_shows_pythons_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def f():\n    raise KeyError('k')\nf()\n")
    ours = hyperpy("run", str(script))
    pythons = subprocess.run([sys.executable, str(script)], capture_output=True, check=False)
    assert (ours.returncode, ours.stderr) == (1, pythons.stderr)
