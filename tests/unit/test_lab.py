"""The lab's way out (streams, status, deadline, nothing left behind) against a stand-in for virtme-ng, and one boot."""

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from hyperpy import lab, lab_amd, packages
from hyperpy.lab_session import Emulator, Session, Task

# What a stand-in does first: connect to the three ports as QEMU does.
_CONNECT = """
import os, signal, socket, sys, time
ports = {}
for name in ("control", "stdout", "stderr"):
    ports[name] = socket.socket(socket.AF_UNIX)
    ports[name].connect(os.path.join(sys.argv[1], name))
"""


STAND_IN = Emulator("a stand-in", lambda folder, task: [])


def session_of(folder: Path, program: str, timeout: float = 30) -> tuple[int | None, bytes, bytes]:
    """Run a stand-in through a session: status, output, messages."""
    out, messages = io.BytesIO(), io.BytesIO()
    with Session(folder, {"stdout": out, "stderr": messages}, STAND_IN) as session:
        session.start([sys.executable, "-I", "-c", _CONNECT + textwrap.dedent(program), str(folder)])
        status = session.pump(time.monotonic() + timeout)
    return status, out.getvalue(), messages.getvalue()


def test_session_hands_on_streams_and_status(tmp_path: Path) -> None:
    status, out, messages = session_of(
        tmp_path,
        """
        print("kernel log")
        ports["control"].sendall(b"ready\\nex")
        ports["stdout"].sendall(b"x" * 1_000_000)
        ports["stderr"].sendall(b"oops")
        ports["control"].sendall(b"it 3\\n")
        """,
    )
    assert (status, len(out), set(out), messages) == (3, 1_000_000, {ord("x")}, b"oops")


def test_session_without_status_raises_with_the_console(tmp_path: Path) -> None:
    with pytest.raises(lab.LabError, match="ended before the command did") as caught:
        session_of(tmp_path, 'print("Kernel panic: no init"); ports["control"].sendall(b"ready\\n")')
    assert "Kernel panic: no init" in str(caught.value)
    assert caught.value.hint


def test_session_program_that_never_connects_raises_with_its_message(tmp_path: Path) -> None:
    with Session(tmp_path, {}, STAND_IN) as session:
        session.start(["sh", "-c", "echo no such machine >&2; exit 1"])
        with pytest.raises(lab.LabError, match="no such machine"):
            session.pump(time.monotonic() + 30)


def test_session_at_the_deadline_returns_none_and_ends_the_whole_group(tmp_path: Path) -> None:
    # The stand-in forks as vng does, and both ignore SIGTERM: only force and the closed ports end the wait.
    program = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork()
        ports["stdout"].sendall(b"%d\\n" % os.getpid())
        time.sleep(600)
        """
    start = time.monotonic()
    status, out, _ = session_of(tmp_path, program, timeout=1)
    assert status is None
    assert time.monotonic() - start < 10
    pids = [int(line) for line in out.split()]
    assert len(pids) == 2
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # gone, and reaped
            descriptor = os.pidfd_open(pid)
            # A descriptor of a process is readable once it has ended: a killed one may take a moment to die.
            ended, _, _ = select.select([descriptor], [], [], 10)
            os.close(descriptor)
            assert ended


def test_run_boot_that_stalls_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = """
        first = not os.path.exists(sys.argv[2])
        open(sys.argv[2], "w").close()
        if first:
            time.sleep(600)
        ports["control"].sendall(b"ready\\n")
        ports["stdout"].sendall(b"second")
        ports["control"].sendall(b"exit 0\\n")
        """
    stand_in = [sys.executable, "-I", "-c", _CONNECT + textwrap.dedent(program)]
    emulator = Emulator(
        "it", lambda folder, _: [*stand_in, str(folder), str(tmp_path / "booted")], boot_s=0.5
    )
    monkeypatch.setattr(lab, "_amd", lambda *_: emulator)
    with (tmp_path / "out").open("w+b") as out:
        assert lab.run(["true"], stdout=out, timeout=60, direct=False) == 0
    assert (tmp_path / "out").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("memory", "message"),
    [("lots", "not a size: 'lots'"), ("4Q", "not a size"), ("64M", "size of the lab's memory: 64M")],
)
def test_run_in_a_lab_of_impossible_memory_says_what_it_takes(memory: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}(?s:.*)\n\nhint: "):
        lab.run(["true"], memory=memory, direct=False)


def test_run_in_a_notebook_writes_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where standard output takes text alone."""
    program = """
        ports["control"].sendall(b"ready\\n")
        ports["stdout"].sendall("caf\\u00e9".encode())
        ports["control"].sendall(b"exit 0\\n")
        """
    stand_in = [sys.executable, "-I", "-c", _CONNECT + textwrap.dedent(program)]
    emulator = Emulator("it", lambda folder, _: [*stand_in, str(folder)], boot_s=60)
    monkeypatch.setattr(lab, "_amd", lambda *_: emulator)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert lab.run(["true"], timeout=60, direct=False) == 0
    assert out.getvalue() == "caf\u00e9"


def test_run_boot_that_always_stalls_raises_with_the_console(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stalls = ["sh", "-c", "echo rcu stalls; exec sleep 600"]
    monkeypatch.setattr(lab, "_amd", lambda *_: Emulator("it", lambda *_: stalls, boot_s=0.2))
    with pytest.raises(lab.LabError, match=r"(?s)does not boot.*rcu stalls"):
        lab.run(["true"], direct=False)


def test_scripts_quote_command_place_and_environment(tmp_path: Path) -> None:
    place = tmp_path / "it's here"
    place.mkdir()
    environment = {
        "A": "x 'y'\n$z",
        "HYPERPY_LAB": "1",
        "BASH_FUNC_f%%": "() { :; }",
        "PATH": os.environ["PATH"],
    }
    command = ["sh", "-c", 'pwd; printf "%s" "$A$HYPERPY_LAB"; printf "%s" "$1"', "-", "a  *"]
    lab_amd._write_scripts(tmp_path, Task(command, place, environment))
    done = subprocess.run(["sh", tmp_path / "command"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{place}\nx 'y'\n$z1a  *"
    assert subprocess.run(["sh", "-n", tmp_path / "boot"], check=False).returncode == 0


def test_scripts_share_what_the_command_needs_below_tmp(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        argument = Path(folder, "data")
        argument.touch()
        lab_amd._write_scripts(tmp_path, Task(["cat", str(argument), "/tmp/not-there"], Path("/"), {}))
        settings = (tmp_path / "boot").read_text().split("\n\n", 1)[0]
        assert folder in settings
        assert str(argument) not in settings, "its folder is shared as a whole"
        assert "not-there" not in settings


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", 'test "$HYPERPY_LAB" = 1'], 0),
    ],
)
def test_run_inside_the_lab_runs_directly(
    monkeypatch: pytest.MonkeyPatch, command: list[str], status: int
) -> None:
    monkeypatch.setenv("HYPERPY_LAB", "1")
    assert lab.is_inside()
    assert lab.run(command) == status


def test_run_directly_uses_place_environment_and_streams(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "A": "b"}
    with (tmp_path / "out").open("w+b") as out:
        command = ["sh", "-c", "pwd; echo $A; cat; echo no >&2"]
        assert lab.run(command, cwd=tmp_path, env=environment, stdout=out, stderr=out, direct=True) == 0
        out.seek(0)
        assert out.read().decode() == f"{tmp_path}\nb\nno\n"


def test_run_directly_too_long_raises_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"did not end in time: 0\.1 s"):
        lab.run(["sleep", "60"], timeout=0.1, direct=True)


def test_run_directly_without_the_program_raises() -> None:
    with pytest.raises(lab.LabError, match="cannot start: /no/such: No such file"):
        lab.run(["/no/such"], direct=True)


def test_run_without_command_raises() -> None:
    with pytest.raises(ValueError, match="no command"):
        lab.run([])


def test_run_with_programs_missing_names_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "search_path", lambda: "/nonexistent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(packages.PackageError, match="qemu-system-x86 kmod busybox-static file") as caught:
        lab.run(["true"], direct=False)
    assert "apt-get install qemu-system-x86 kmod" in (caught.value.hint or "")


def test_main_without_native_kvm_module_reports_errors_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> int:
        raise lab.LabError("virtme-ng is missing: vng", hint="run pip")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(lab, "run", missing)
    try:
        assert lab.main(["--cpus", "1", "--", "ls", "-l"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.timeout(300)
@pytest.mark.skipif(lab.is_inside(), reason="boots a lab, and this is one")
def test_run_boots_with_kvm_streams_status_and_files_that_reach_the_host(tmp_path: Path) -> None:
    script = """
        test -c /dev/kvm && test "$HYPERPY_LAB" = 1 && test "$A" = "b c" || exit 9
        uname -r
        echo apart >/dev/stderr
        echo data > result
        grep -q ' /tmp tmpfs' /proc/mounts && ls /usr/bin/env
        pwd
        exit 3
        """
    with (tmp_path / "out").open("w+b") as out, (tmp_path / "err").open("w+b") as err:
        environment = {"PATH": os.environ["PATH"], "A": "b c"}
        command = ["sh", "-c", script]
        status = lab.run(
            command, cwd=tmp_path, env=environment, stdout=out, stderr=err, timeout=100, direct=False
        )
        assert status == 3
    assert (tmp_path / "err").read_text() == "apart\n"
    assert (tmp_path / "out").read_text() == f"{packages.kernel().release}\n/usr/bin/env\n{tmp_path}\n"
    assert (tmp_path / "result").read_text() == "data\n"
