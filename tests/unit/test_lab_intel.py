"""What the Intel lab puts on its disc, how it is told to boot it, and what it refuses; the boot is `make test-intel`."""

import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hyperpy import guest, lab, lab_intel, packages
from hyperpy.lab_session import Emulator, LabError, Session, Task

STAND_IN = Emulator("a stand-in", lambda folder, task: [], has_pipes=True, wants_terminal=True)
DRAWS = replace(STAND_IN, screen=re.compile(rb'connected to screen "(/dev/pts/\d+)"'))


@pytest.fixture
def kernel(tmp_path: Path) -> packages.Kernel:
    modules = tmp_path / "modules"
    for name in lab_intel._MODULES:
        (modules / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / "kernel" / f"{name}.ko").write_bytes(name.encode())
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    package = packages.Package("k", "1", "s", "0", tmp_path, tmp_path)
    return packages.Kernel(package, "1", tmp_path / "vmlinuz", modules)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a file, a link to it, and what stays out."""
    folder = tmp_path / "place"
    for name in ("sub/file", ".hidden/file", "target/file"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    (folder / "link").symlink_to("sub/file")
    return folder


def test_entries_have_python_its_library_and_the_working_directory(place: Path) -> None:
    entries = lab_intel._entries(Task([sys.executable], place, {}), ["ls"])
    assert entries[str(place)] == guest.Directory(), "also when nothing is in it"
    assert entries[f"{place}/sub/file"] == place / "sub/file"
    assert entries[f"{place}/link"] == guest.Symlink("sub/file")
    assert not any("/.hidden/" in name or f"{place}/target" in name for name in entries)
    names = {Path(name).name for name in entries}
    assert {"python", "os.py", "pyvenv.cfg", "_hyperpy.abi3.so", "ld-linux-x86-64.so.2", "ls"} <= names
    assert "ziglang" not in " ".join(entries), "compilers stay out"
    # Each shared library of what goes in goes in too, where the loader finds it.
    needed = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    for word in needed.split():
        assert not word.startswith("/") or str(Path(word).parent.resolve() / Path(word).name) in entries


def test_entries_make_an_archive_that_a_kernel_can_unpack(place: Path) -> None:
    image = guest.initramfs(lab_intel._entries(Task([sys.executable], place, {}), []))
    assert image.startswith(b"070701")


def test_entries_of_a_file_that_is_not_there_are_refused(place: Path) -> None:
    with pytest.raises(LabError, match="no such file or program: no-such-thing"):
        lab_intel._entries(Task(["sh"], place, {}), ["no-such-thing"])


def test_compiled_file_is_right_for_a_source_of_time_0_and_a_stale_one_stays_out(tmp_path: Path) -> None:
    source = tmp_path / "it.py"
    source.write_text("x = 5\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", tmp_path], check=True)
    (compiled,) = (tmp_path / "__pycache__").iterdir()
    data = lab_intel._compiled(compiled)
    assert data is not None
    os.utime(source, (0, 0))
    compiled.write_bytes(data)
    before = compiled.stat().st_mtime_ns
    spec = importlib.util.spec_from_file_location("it", source)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert compiled.stat().st_mtime_ns == before, "Python took it as it is"
    os.utime(source, (1000, 1000))
    assert lab_intel._compiled(compiled) is None


def test_prepare_writes_disc_settings_and_the_command(
    place: Path, kernel: packages.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_intel, "_make_iso", lambda tree, iso: iso.write_bytes(b""))
    folder = tmp_path / "boot"
    folder.mkdir()
    task = Task(["sh", "-c", "echo it's"], place, {"A": "b c"})
    words = lab_intel.emulator(kernel, memory_mib=300).prepare(folder, task)
    assert words[:4] == ["bochs", "-q", "-f", str(folder / "settings")]
    settings = (folder / "settings").read_text()
    assert "megs: 300" in settings
    assert f"com2: enabled=1, mode=file, dev={folder}/control" in settings
    assert (folder / "disc/linux").read_bytes() == b"kernel"
    image = (folder / "disc/initrd").read_bytes()
    assert b"export A='b c'\ncd " + str(place).encode() in image
    assert b"virt/lib/irqbypass" in image


def test_prepare_of_too_much_is_refused(
    place: Path, kernel: packages.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_intel, "_IMAGE_MAX", 1 << 20)
    with pytest.raises(LabError, match=r"too much for the lab's image: \d+ of 1 MiB") as caught:
        lab_intel.emulator(kernel).prepare(tmp_path, Task(["sh"], place, {}))
    assert str(place) in (caught.value.hint or "")


def test_init_is_a_shell_script(tmp_path: Path) -> None:
    (tmp_path / "init").write_text(lab_intel._INIT)
    assert subprocess.run(["sh", "-n", tmp_path / "init"], check=False).returncode == 0


def test_session_of_pipes_and_a_terminal_hands_on_streams_and_status(tmp_path: Path) -> None:
    program = """
        import os, sys
        assert sys.stdin.isatty() and sys.stdout.isatty()
        ports = {name: open(name, "wb", buffering=0) for name in ("control", "stdout", "stderr")}
        print("drawn" * 100_000)
        ports["control"].write(b"ready\\n")
        ports["stdout"].write(b"x" * 300_000)
        ports["stderr"].write(b"oops")
        ports["control"].write(b"exit 3\\n")
        """
    out, messages = io.BytesIO(), io.BytesIO()
    with Session(tmp_path, {"stdout": out, "stderr": messages}, STAND_IN) as session:
        session.start([sys.executable, "-I", "-c", textwrap.dedent(program)])
        status = session.pump(time.monotonic() + 30)
    assert (status, len(out.getvalue()), messages.getvalue()) == (3, 300_000, b"oops")


def test_session_reads_the_screen_that_the_emulator_makes_for_itself(tmp_path: Path) -> None:
    # A terminal that nobody has opened holds some KiB, and then stops the emulator for ever.
    program = """
        import fcntl, os, struct
        ours = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(ours, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
        (number,) = struct.unpack("i", fcntl.ioctl(ours, 0x80045430, bytes(4)))  # TIOCGPTN: its name
        print(f'connected to screen "/dev/pts/{number}"', flush=True)
        drawn = 0
        while drawn < 1_000_000:
            drawn += os.write(ours, b"drawn" * 200)
        with open("control", "wb", buffering=0) as control:
            control.write(b"ready\\nexit 0\\n")
        """
    with Session(tmp_path, {}, DRAWS) as session:
        session.start([sys.executable, "-I", "-c", textwrap.dedent(program)])
        assert session.pump(time.monotonic() + 30) == 0


def test_session_of_pipes_that_nobody_opens_raises_with_the_emulators_message(tmp_path: Path) -> None:
    with Session(tmp_path, {}, STAND_IN) as session:
        session.start(["sh", "-c", "echo no plugin > emulator.log; exit 1"])
        with pytest.raises(LabError, match="no plugin"):
            session.pump(time.monotonic() + 30)


def test_session_of_pipes_at_the_deadline_returns_none(tmp_path: Path) -> None:
    start = time.monotonic()
    with Session(tmp_path, {}, STAND_IN) as session:
        session.start(["sh", "-c", "trap '' TERM; while :; do echo drawing; done"])
        assert session.pump(time.monotonic() + 0.5) is None
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cpus": 2}, "number of the lab's CPUs: 2"),
        ({"memory": "64M"}, "size of the lab's memory: 64M"),
        ({"memory": "4G"}, "size of the lab's memory: 4G"),
    ],
)
def test_run_of_what_the_emulator_cannot_be_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        lab.run(["true"], cpu="intel", direct=False, **options)  # type: ignore[arg-type]


def test_run_with_programs_missing_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "search_path", lambda: "/nonexistent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(packages.PackageError, match=r"missing on this host: bochs .*grub-common") as caught:
        lab.run(["true"], cpu="intel", direct=False)
    assert "apt-get install bochs" in (caught.value.hint or "")


def test_run_for_another_processor_goes_through_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    stalls = Emulator("it", lambda *_: ["sh", "-c", "exit 1"])
    monkeypatch.setattr(lab, "native_kvm", lambda cpu: cpu != "intel")
    monkeypatch.setattr(lab, "_intel", lambda *_: stalls)
    assert lab.run(["true"], cpu="amd") == 0
    monkeypatch.setenv("HYPERPY_LAB", "1")
    assert lab.run(["true"]) == 0
    with pytest.raises(LabError, match="ended before the command did"):
        lab.run(["true"], cpu="intel")


def test_entries_of_a_command_at_the_root_do_not_take_the_whole_host() -> None:
    entries = lab_intel._entries(Task([sys.executable], Path("/"), {}), [])
    assert not any(name.startswith(("/proc", "/sys", "/var")) for name in entries)
