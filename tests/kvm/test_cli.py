"""`hyperpy run` as a process: statuses, streams, devices and the terminal, with kernels of a few bytes.

The kernels are ELF files of 64-bit code that a page-table KVM can interpret too, so that the whole path runs on any
KVM: kernel file, loader, stock devices, console, exit status.
"""

import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.programs import (
    DEBUG_EXIT,
    ECHO,
    LIMIT_S,
    POWER_OFF,
    RESET,
    SPIN,
    elf,
    hyperpy,
    messages,
    out8,
    read_until,
    say,
    started,
)

from hyperpy.doctor import kernel_code_is_native

Kernel: TypeAlias = Callable[[bytes], str]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """Write an ELF kernel that is these instructions."""

    def write(code: bytes) -> str:
        path = tmp_path / "kernel.elf"
        path.write_bytes(elf(code))
        return str(path)

    return write


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


def test_run_cpu_limit_and_pin_reach_the_machine(kernel: Kernel) -> None:
    spin = bytes.fromhex("ebfe")
    began = os.times()
    options = ("--cpu-limit", "0.1", "--pin", str(max(os.sched_getaffinity(0))), "--timeout", "2")
    assert hyperpy("run", "--kernel", kernel(spin), *options).returncode == 124
    ended = os.times()
    # The start of the interpreter is in it: half a second at the most, against two of a guest without a limit.
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 1.5


@pytest.mark.parametrize(("options", "shown"), [([], 12), (["--trace", "2"], 2), (["--trace", "0"], 0)])
def test_run_error_shows_the_last_exits(kernel: Kernel, options: list[str], shown: int) -> None:
    done = hyperpy("run", "--kernel", kernel(out8(0x80, 0x42) * 20 + b"\x0f\x0b"), *options)
    last = messages(done.stderr).partition("last exits:\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(last) == shown
    assert not last or " shutdown " in last[-1]
    assert len([line for line in last if "pio write" in line and " 0x42 " in line]) == max(0, shown - 1)


def test_run_spec_that_says_how_many_exits_are_recorded_is_kept(tmp_path: Path) -> None:
    spec = tmp_path / "machine.toml"
    spec.write_text(
        'memory = "1M"\ntrace = 3\nunclaimed = "ones"\n'
        'image = { kind = "flat", code = "e680 e680 e680 e680 f4", mode = "real" }\n'
    )
    said = hyperpy("run", str(spec)).stderr.decode()
    assert said.count("pio write") == 2
    assert said.count("\n   0 ") == 3


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


@pytest.mark.parametrize(
    ("address", "size", "message"),
    [(0xFE000001, 1, "read returned None"), (0xFE000000, 4, "nobody claims Exit.Mmio")],
)
def test_run_error_that_is_ours_shows_no_traceback(
    tmp_path: Path, address: int, size: int, message: str
) -> None:
    """A device that returns no number, and an access that nobody claims in a spec that says raise."""
    (tmp_path / "none.py").write_text(
        "class Nothing:\n    size = 4\n    read = write = lambda self, *access: None\n"
    )
    read = "a1" + struct.pack("<I", address).hex()  # mov eax, [address]
    spec = tmp_path / "machine.toml"
    spec.write_text(
        f'memory = "1M"\nunclaimed = "raise"\nimage = {{ kind = "flat", code = "{read} f4", mode = "protected" }}\n'
        f"[[devices]]\nmodel = 'none:Nothing'\nmmio = {address + (size > 1) * 0x1000}\n"
    )
    done = hyperpy("run", str(spec))
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.startswith("hyperpy run: ")
    assert message in said
    assert "\n\nhint: " in said
    assert "Traceback" not in said


def test_run_device_that_uses_hyperpy_wrongly_shows_its_line(kernel: Kernel, tmp_path: Path) -> None:
    text = "import hyperpy\nclass It:\n    size = 4\n    def read(self, offset, size):\n        return 0\n"
    text += '    def write(self, offset, size, value):\n        raise hyperpy.DeviceError("mine")\n'
    (tmp_path / "wrong.py").write_text(text)
    done = hyperpy("run", "--kernel", kernel(out8(0x300, 1)), "--device", "wrong:It@pio=0x300", cwd=tmp_path)
    assert 'wrong.py", line 7, in write' in done.stderr.decode()


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
