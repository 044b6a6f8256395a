"""The terminal as a guest's console, under a pseudo-terminal: `hyperpy run`, and `Console.interact` in a script."""

import os
import re
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.programs import (
    ECHO,
    LIMIT_S,
    SHELL,
    SPIN,
    Terminal,
    command,
    elf,
    out8,
    process,
    read_until,
    say,
)

HALT = b"\xfa\xf4"  # cli; hlt
# mov dx, 0xe9; mov ecx, 0x8000; some: out dx, al; dec ecx; jnz some: 32 KiB to the debug console, more than a terminal holds;
# mov dx, 0x300; out dx, al; mov dx, 0xe9; again: out dx, al; jmp again
FLOOD = bytes.fromhex("66bae900 b900800000 ee ffc9 75fb 66ba0003 ee 66bae900 ee ebfd")
BELL = """
    import os

    class Bell:
        size = 1

        def read(self, offset, size):
            return 0

        def write(self, offset, size, value):
            with open("rung", "w") as file:
                file.write("rung")
    """
DEVICE = """
    import hyperpy

    class Raises(hyperpy.Device):
        size = 1

        def write(self, offset, size, value):
            raise LookupError("no")
    """
SCRIPT = """
    import signal, sys
    from hyperpy import Flat, Machine

    def own(number, frame):
        print("own handler", flush=True)
        if number == signal.SIGUSR1:
            raise LookupError("by a signal")

    with Machine(memory="2M") as m:
        m.attach_pc()
        m.load(Flat(bytes.fromhex(sys.argv[1]), at=0x10000, mode="long"))
        for name in sys.argv[2:]:
            signal.signal(getattr(signal, name), own)
        m.start()
        print("before")
        left = m.console.interact()
        print(f"left: {left}, {m.state}", flush=True)
    """


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.master)
    os.close(made.slave)


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """The command that runs a script with a guest and `interact`."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return [sys.executable, str(path)]


@pytest.fixture
def run(tmp_path: Path) -> list[str]:
    """The command `hyperpy run` with a kernel, whose code is written by `kernel`."""
    return command("run", "--kernel", str(tmp_path / "kernel.elf"))


def kernel(tmp_path: Path, code: bytes) -> None:
    (tmp_path / "kernel.elf").write_bytes(elf(code))


# -- hyperpy run -----------------------------------------------------------------------------------------------------


def test_run_on_a_terminal_is_raw_and_leaves_with_ctrl_a_x(
    run: list[str], tmp_path: Path, terminal: Terminal
) -> None:
    kernel(tmp_path, say("ready\n") + ECHO)
    with terminal.started(*run) as running:
        assert read_until(terminal.master, b"\n") == b"ready\r\n"
        _, oflag, _, lflag, *_ = termios.tcgetattr(terminal.slave)
        assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        assert oflag & termios.OPOST
        # Ctrl-C is the guest's; one Ctrl-A of two; h shows help
        os.write(terminal.master, b"a\x03b\x01\x01\x01hc")
        assert read_until(terminal.master, b"c").endswith(b"a\x03b\x01c")
        os.write(terminal.master, b"\x01x")
        assert running.wait(LIMIT_S) == 0
        assert running.stderr
        assert "Ctrl-A x: leave" in running.stderr.read().decode()
    assert terminal.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_run_on_a_terminal_restores_it_after_a_signal(
    run: list[str], tmp_path: Path, terminal: Terminal, number: signal.Signals
) -> None:
    kernel(tmp_path, say("ready") + SPIN)
    with terminal.started(*run) as running:
        read_until(terminal.master, b"ready")
        assert not terminal.is_restored()
        running.send_signal(number)
        assert running.wait(LIMIT_S) == 128 + number
    assert terminal.is_restored()


def test_run_on_a_terminal_restores_it_after_a_device_raised(
    run: list[str], tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raising.py").write_text(textwrap.dedent(DEVICE))
    monkeypatch.chdir(tmp_path)
    kernel(tmp_path, say("ready") + out8(0x300, 0x42))
    with terminal.started(*run, "--device", "raising:Raises@pio=0x300") as running:
        read_until(terminal.master, b"ready")
        assert running.wait(LIMIT_S) == 1
    assert terminal.is_restored()


@pytest.mark.fault(42)
def test_run_on_a_terminal_that_nobody_reads_goes_on_and_ends_in_time(
    run: list[str], tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal is full after a few KiB, and stays so."""
    kernel(tmp_path, FLOOD)
    (tmp_path / "bells.py").write_text(textwrap.dedent(BELL))
    monkeypatch.chdir(tmp_path)
    os.mkfifo("rung")
    rung = os.open("rung", os.O_RDWR)
    with terminal.started(*run, "--device", "bells:Bell@pio=0x300") as running:
        read_until(rung, b"rung")
        os.close(rung)
        running.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert running.wait(LIMIT_S) == 128 + signal.SIGTERM
        assert time.monotonic() - begin < LIMIT_S / 3
    assert terminal.is_restored()


@pytest.mark.fault(42)
def test_run_that_ends_while_its_terminal_is_full_ends(
    run: list[str], tmp_path: Path, terminal: Terminal
) -> None:
    kernel(tmp_path, FLOOD)
    with terminal.started(*run, "--timeout", "2") as running:
        assert running.wait(LIMIT_S) == 124
    assert terminal.is_restored()


# -- interact --------------------------------------------------------------------------------------------------------


def test_interact_on_a_terminal_is_raw_and_leaves_with_ctrl_a_x(
    script: list[str], terminal: Terminal
) -> None:
    with terminal.started(*script, (say("ready\n") + ECHO).hex()) as running:
        assert read_until(terminal.master, b"ready\r\n") == b"before\r\nready\r\n"
        os.write(terminal.master, b"a\x03b")
        assert read_until(terminal.master, b"b") == b"a\x03b"
        assert not termios.tcgetattr(terminal.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        os.write(terminal.master, b"\x01x")
        assert read_until(terminal.master, b"running\r\n") == b"left: True, running\r\n"
        assert running.wait(LIMIT_S) == 0
    assert terminal.is_restored()


def test_interact_with_a_guest_that_halts_shows_its_last_words_and_returns(
    script: list[str], terminal: Terminal
) -> None:
    with terminal.started(*script, (say("last words\n") + HALT).hex()) as running:
        said = read_until(terminal.master, b"paused\r\n")
        assert said == b"before\r\nlast words\r\nleft: False, paused\r\n"
        assert running.wait(LIMIT_S) == 0
    assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGINT, -signal.SIGINT),
    ],  # as Python ends by Ctrl-C
)
def test_interact_restores_the_terminal_after_a_signal(
    script: list[str], terminal: Terminal, number: signal.Signals, status: int
) -> None:
    with terminal.started(*script, (say("ready") + SPIN).hex()) as running:
        read_until(terminal.master, b"ready")
        assert not terminal.is_restored()
        running.send_signal(number)
        assert running.wait(LIMIT_S) == status
    assert terminal.is_restored()


def test_interact_leaves_the_scripts_own_handlers_alone_and_survives_what_they_raise(
    script: list[str], terminal: Terminal
) -> None:
    with terminal.started(*script, (say("ready") + ECHO).hex(), "SIGTERM", "SIGUSR1") as running:
        read_until(terminal.master, b"ready")
        running.send_signal(signal.SIGTERM)
        read_until(terminal.master, b"own handler")
        os.write(terminal.master, b"still here")
        read_until(terminal.master, b"still here")
        running.send_signal(signal.SIGUSR1)
        assert running.wait(LIMIT_S) == 1
        assert running.stderr
        assert b"LookupError: by a signal" in running.stderr.read()
    assert terminal.is_restored()


def test_interact_with_piped_input_sends_it_and_goes_on_after_its_end(script: list[str]) -> None:
    guest = (ECHO + HALT).hex()
    done = subprocess.run(
        [*script, guest], input=b"hello q", capture_output=True, timeout=LIMIT_S, check=False
    )
    assert done.stdout == b"before\nhello left: False, paused\n", done.stderr.decode()


def test_interact_whose_output_nobody_reads_raises_broken_pipe(script: list[str]) -> None:
    with process(
        *script,
        (say("ready") + SPIN).hex(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout
        assert running.stderr
        read_until(running.stdout.fileno(), b"ready")
        running.stdout.close()
        assert running.wait(LIMIT_S) == 1
        assert b"BrokenPipeError: nobody reads the output" in running.stderr.read()


# -- suspended ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["run", "script"])
def job(
    request: pytest.FixtureRequest, run: list[str], script: list[str], tmp_path: Path
) -> Callable[[bytes], list[str]]:
    """The command line of a shell whose job is `hyperpy run` or a script with `interact`, with this guest."""

    def made(code: bytes) -> list[str]:
        kernel(tmp_path, code)
        inner = run if request.param == "run" else [*script, code.hex()]
        return [sys.executable, "-c", SHELL, *inner]

    return made


def pid_of_job(terminal: Terminal, until: bytes) -> int:
    found = re.search(rb"job (\d+)", read_until(terminal.master, until))
    assert found
    return int(found[1])


def suspend(terminal: Terminal, pid: int, number: signal.Signals = signal.SIGTSTP) -> None:
    """Suspend the job, and return when its shell has heard of it."""
    os.kill(pid, number)
    read_until(terminal.master, b"stopped %d" % number)


def leave(terminal: Terminal, shell: subprocess.Popen[bytes]) -> None:
    """Leave the guest with Ctrl-A x, and wait until the job and its shell have ended well."""
    os.write(terminal.master, b"\x01x")
    read_until(terminal.master, b"status 0")
    assert shell.wait(LIMIT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_terminal_of_a_suspended_job_is_restored_and_raw_again_when_it_goes_on(
    job: Callable[[bytes], list[str]], terminal: Terminal, number: signal.Signals
) -> None:
    with terminal.started(*job(say("ready") + ECHO)) as shell:
        pid = pid_of_job(terminal, b"ready")
        for _ in range(2):
            assert not terminal.is_restored()
            suspend(terminal, pid, number)
            if number == signal.SIGSTOP:  # which nobody can handle: shells restore it then
                termios.tcsetattr(terminal.slave, termios.TCSANOW, terminal.before)
            assert terminal.is_restored()
            os.write(terminal.master, b"fg\n")
            terminal.until_raw()
            os.write(terminal.master, b"a\x03\x1ab")  # Ctrl-C and Ctrl-Z are the guest's
            read_until(terminal.master, b"a\x03\x1ab")
        leave(terminal, shell)
    assert terminal.is_restored()


def test_terminal_of_a_suspended_job_that_was_set_meanwhile_is_left_as_it_was_set(
    job: Callable[[bytes], list[str]], terminal: Terminal
) -> None:
    with terminal.started(*job(say("ready") + ECHO)) as shell:
        suspend(terminal, pid_of_job(terminal, b"ready"))
        changed = termios.tcgetattr(terminal.slave)
        changed[3] &= ~termios.ECHOE
        termios.tcsetattr(terminal.slave, termios.TCSANOW, changed)
        os.write(terminal.master, b"fg\n")
        terminal.until_raw()
        leave(terminal, shell)
    assert termios.tcgetattr(terminal.slave) == changed


def test_suspended_job_that_goes_on_in_the_background_leaves_the_terminal_to_the_shell(
    job: Callable[[bytes], list[str]], terminal: Terminal
) -> None:
    with terminal.started(*job(say("ready") + ECHO)) as shell:
        suspend(terminal, pid_of_job(terminal, b"ready"))
        os.write(
            terminal.master, b"bg\nfg\n"
        )  # the second line lies there unread: a job that reads is stopped
        read_until(terminal.master, b"background: runs")
        terminal.until_raw()
        os.write(terminal.master, b"<>")
        assert b"fg" not in read_until(terminal.master, b"<>")  # the guest sends back what it gets
        leave(terminal, shell)
    assert terminal.is_restored()


# -- a background job ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["run", "script"])
def test_background_job_shows_output_and_leaves_the_terminal_alone(
    which: str, run: list[str], script: list[str], tmp_path: Path, terminal: Terminal
) -> None:
    code = say("ready") + SPIN
    kernel(tmp_path, code)
    job = run if which == "run" else [*script, code.hex()]
    # A shell with job control, whose foreground is itself; it reads what is typed.
    line = '"$@" & read typed; echo "typed: $typed"; kill $!; wait $!; echo "status: $?"'
    with terminal.started("bash", "-mc", line, "bash", *job) as running:
        read_until(terminal.master, b"ready")
        assert terminal.is_restored()
        os.write(terminal.master, b"x\n")
        assert b"typed: x" in read_until(terminal.master, b"status: 143")
        assert running.wait(LIMIT_S) == 0
    assert terminal.is_restored()
