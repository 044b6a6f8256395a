"""The command line without a KVM: arguments and their errors, devices, output that nobody reads, and quick imports."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import DeviceSpec, SpecError, cli
from hyperpy._run_args import device, run_parser

LIMIT_S = 30


# -- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a:B@mmio=0xfe000000", DeviceSpec(model="a:B", mmio=0xFE000000)),
        ("a.b_c:D@pio=16,size=0x10,irq=5", DeviceSpec(model="a.b_c:D", pio=16, size=16, irq=5)),
        ("a:B@pio=16,irq.rx=5,irq.tx=0x6", DeviceSpec(model="a:B", pio=16, irq={"rx": 5, "tx": 6})),
    ],
)
def test_device_spec_is_read(text: str, spec: DeviceSpec) -> None:
    assert device(text) == spec


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "not a module and class: ''", "module:Class@mmio="),
        ("a@mmio=1", "not a module and class: 'a'", "module:Class@mmio="),
        ("a.py:B@mmio=1", "not a module and class: 'a.py:B'", "without .py"),
        ("a..b:C@mmio=1", "not a module and class", "module:Class"),
        ("a:B", "device has no address: a:B", "module:Class@mmio="),
        ("a:B@", "unknown key of a device: ''", "pio, mmio, size and irq"),
        ("a:B@mmoi=1", "unknown key of a device: 'mmoi'", "did you mean mmio?"),
        ("a:B@mmio=1,mmio=2", "key is given twice: mmio", "once per device"),
        ("a:B@mmio=1,irq.rx=2,irq.rx=3", "key is given twice: irq.rx", "once per device"),
        ("a:B@mmio=1,irq=2,irq.rx=3", "key is given twice: irq.rx", "once per device"),
        ("a:B@mmio=1,irq.rx=2,irq=3", "key is given twice: irq", "once per device"),
        ("a:B@mmio=1,irq.rx=5000", "irq.rx of a device is out of range", "a gsi"),
        ("a:B@mmio=1,pio=2", "a device sits on one bus", "give pio=PORT or mmio=ADDRESS"),
        ("a:B@irq=1", "a device sits on one bus", "give pio=PORT or mmio=ADDRESS"),
        ("a:B@mmio", "not a number: ''", "16 or 0x10"),
        ("a:B@mmio=x", "not a number: 'x'", "16 or 0x10"),
        ("a:B@mmio=-1", "not a number: '-1'", "16 or 0x10"),
        ("a:B@pio=0x10000", "pio of a device is out of range: 0x10000", "a port, 0 to 0xffff"),
        ("a:B@pio=1,irq=5000", "irq of a device is out of range", "a gsi"),
    ],
)
def test_device_spec_that_is_none_says_why(text: str, message: str, hint: str) -> None:
    with pytest.raises(ValueError, match="hint: ") as caught:
        device(text)
    said, _, told = str(caught.value).partition("\n\nhint: ")
    assert message in said
    assert hint in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--firmware", "f", "--kernel", "k"], "not an option of firmware: --kernel"),
        (["--firmware", "f", "--append", "x"], "not an option of firmware: --append"),
        (["--firmware", "f", "--module", "m"], "not an option of firmware: --module"),
        (["--memory", "1M"], "nothing to run"),
    ],
)
def test_run_arguments_that_contradict_each_other_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_run_modules_are_files_with_arguments() -> None:
    options = run_parser().parse_args(["--kernel", "k", "--module", "a", "b=1", "c", "--module", "d"])
    assert (options.module, options.append) == ([["a", "b=1", "c"], ["d"]], None)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("rnu", "hyperpy: unknown command: rnu", "did you mean run?"),
        ("zzz", "hyperpy: unknown command: zzz", "one of run, check, diff, snapshot, lab, doctor"),
        ("machine.toml", "hyperpy: unknown command: machine.toml", "`hyperpy run machine.toml`"),
        ("run", "hyperpy run: nothing to run", "--kernel K"),
        ("run --kernal K", "hyperpy run: unknown argument: --kernal", "did you mean --kernel?"),
        ("run --kernel K --timeuot=3", "unknown argument: --timeuot=3", "did you mean --timeout?"),
        ("run --kernel K s.py", "unknown argument: s.py", "a script or spec comes first"),
        ("run --kernel m.toml", "not a kernel but a spec: m.toml", "`hyperpy run m.toml`"),
        ("run --kernel", "argument --kernel: expected one argument", "hyperpy run --help"),
        ("run --kernel K --memory 3Q", "not a size: '3Q'", '"512M"'),
        ("run --kernel K --cpus 0", "at least one cpu: 0", "1 or more"),
        ("run --kernel K --cpus two", "not a number: 'two'", "16 or 0x10"),
        ("run --kernel K --cpu-limit 0", "not a number of processors: '0'", "half of one"),
        ("run --kernel K --cpu-limit all", "not a number of processors: 'all'", "half of one"),
        ("run --kernel K --trace -1", "not a number: '-1'", "16 or 0x10"),
        ("run --kernel K --trace 1048577", "out of range: 1048577", "0 to 2**20"),
        ("run --kernel K --pin 3-1", "no processors: '3-1'", "0-3"),
        ("run --kernel K --pin 0-99999999999", "no such processor on this host: 99999999999", "from 0 to "),
        ("run --kernel K --pin 0,x", "not a number: 'x'", "16 or 0x10"),
        ("run --kernel K --debug-exit 0x10000", "not a port: 0x10000", "0 to 0xffff"),
        ("run --kernel K --timeout nan", "not a time: 'nan'", "seconds"),
        ("run --kernel K --timeout 0", "not a time: '0'", "seconds"),
        ("run --kernel K --serial file:", "unknown serial line: 'file:'", "stdio, file:PATH or none"),
        ("run --kernel K --device a:B", "device has no address", "module:Class@"),
        ("run /nonexistent/s.py", "script cannot be read", "check the path"),
        (f"run {sys.executable}", "not a script but a program", f"--kernel {sys.executable}"),
        (
            "run /nonexistent/m.toml",
            "hyperpy run: /nonexistent/m.toml: spec cannot be read",
            "check the path",
        ),
        (
            "run /nonexistent/m.json",
            "hyperpy run: /nonexistent/m.json: spec cannot be read",
            "check the path",
        ),
        ("check", "the following arguments are required: FILE", "hyperpy check --help"),
        ("check m.yaml", "hyperpy check: not a spec by its name: m.yaml", "it ends with .toml or .json"),
        ("check --jsn", "hyperpy check: the following arguments are required: FILE", "hyperpy check --help"),
        ("diff a.toml", "hyperpy diff: the following arguments are required: NEW", "hyperpy diff --help"),
        ("diff a.toml b.toml c.toml", "hyperpy diff: unknown argument: c.toml", "hyperpy diff --help"),
        ("lab", "hyperpy lab: no command", "hyperpy lab -- COMMAND"),
        ("lab --", "hyperpy lab: no command", "hyperpy lab -- COMMAND"),
        ("lab --cpu mad -- ls", "argument --cpu: invalid choice: 'mad'", "hyperpy lab --help"),
        ("lab --cpus two -- ls", "not a number: 'two'", "16 or 0x10"),
        ("lab --timeout -1 -- ls", "not a time: '-1'", "seconds"),
        ("lab --timoeut 3 -- ls", "hyperpy lab: unknown argument: --timoeut", "did you mean --timeout?"),
        ("lab ls --all", "hyperpy lab: unknown argument: --all", "come after --"),
        ("doctor --jsn", "hyperpy doctor: unknown argument: --jsn", "did you mean --json?"),
    ],
)
def test_wrong_arguments_are_a_message_and_a_hint(
    arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 1
    out, err = capsys.readouterr()
    said, _, told = err.partition("\n\nhint: ")
    assert out == ""
    assert message in said
    assert hint in told
    assert err.startswith("hyperpy")


@pytest.mark.parametrize(
    "arguments", [[command, "--help"] for command in ("run", "check", "diff", "lab", "doctor")]
)
def test_help_of_commands_goes_to_standard_output(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert f"usage: hyperpy {arguments[0]}" in capsys.readouterr().out


def test_help_names_every_command_and_no_arguments_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in ("run", "check", "diff", "lab", "doctor"))
    assert cli.main([]) == 1
    assert capsys.readouterr() == ("", shown)


def test_lab_gets_its_arguments_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 42

    monkeypatch.setattr("hyperpy.lab.main", main)
    assert cli.main(["lab", "--cpus", "1", "--", "ls", "--all"]) == 42
    assert seen == [["--cpus", "1", "--", "ls", "--all"]]


# -- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("nowhere_at_all:A@pio=1", "no such module: nowhere_at_all", "it is looked for in"),
        ("os.nope:A@pio=1", "no such module: os.nope", "it is looked for in"),
        ("mine_for_cli:Hungri@pio=1", "no such class in mine_for_cli: Hungri", "did you mean Hungry?"),
        ("mine_for_cli:number@pio=1", "no such class in mine_for_cli: number", "its devices: Hungry"),
        ("mine_for_cli:Hungry@pio=1", "mine_for_cli:Hungry does not take these arguments", "it takes (food)"),
    ],
)
def test_device_that_cannot_be_made_is_a_message_and_a_hint(
    text: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "number = 3\nclass Hungry:\n    def __init__(self, food):\n        self.food = food\n"
    module += "    def write(self, offset, size, value):\n        pass\n"
    (tmp_path / "mine_for_cli.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    importlib.invalidate_caches()
    try:
        with pytest.raises(SpecError) as caught:
            device(text).make()
    finally:
        sys.modules.pop("mine_for_cli", None)
    said, _, told = str(caught.value).partition("\n\nhint: ")
    assert message in said
    assert hint in told


# -- output that nobody reads ----------------------------------------------------------------------------------------


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe that nobody reads, as `head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "doctor",
        "doctor --json",
        "run --help",
        "lab --help",
        "check b.toml",
        "diff a.toml b.toml",
    ],
)
def test_command_whose_output_nobody_reads_ends_quietly(
    arguments: str, unbuffered: str, unread: int, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text('memory = "1M"\n')
    (tmp_path / "b.toml").write_text('memory = "2M"\nimage = { kind = "linux", kernel = "none" }\n')
    done = subprocess.run(
        [sys.executable, "-m", "hyperpy", *arguments.split()],
        stdout=unread,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_command_whose_messages_nobody_reads_ends_quietly(unread: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hyperpy", "nonsense"],
        stdout=subprocess.PIPE,
        stderr=unread,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGPIPE, b"")


# -- imports ---------------------------------------------------------------------------------------------------------

WITHOUT_NATIVE = """
    import sys, types
    package = types.ModuleType("hyperpy")
    package.__path__, package.__version__ = [{folder!r}], "1.2.3"
    sys.modules["hyperpy"] = package
    sys.modules["hyperpy._hyperpy"] = None
    from hyperpy import cli
    sys.exit(cli.main({arguments!r}))
    """


def without_native(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_NATIVE.format(folder=str(Path(cli.__file__).parent), arguments=list(arguments))
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_without_the_native_module_the_rest_works() -> None:
    version = without_native("--version")
    assert (version.returncode, version.stdout) == (0, "hyperpy 1.2.3\n"), version.stderr
    assert "usage: hyperpy lab" in without_native("lab", "--help").stdout
    assert "usage: hyperpy run" in without_native("run", "--help").stdout
    run = without_native("run", "--kernel", "K")
    assert run.returncode == 1
    assert "native module cannot be imported" in run.stderr
    assert "\n\nhint: run `pip install .`" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "run --kernel K --device a:B@pio=1",
        "run {spec}",
        "run {spec} --initrd relative",
        "lab -- true",
    ],
)
def test_command_in_a_folder_that_is_gone_says_so(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('image = { kind = "kernel", kernel = "k" }\n')
    command = [sys.executable, "-m", "hyperpy", *arguments.format(spec=tmp_path / "m.toml").split()]
    script = f'mkdir "$0"; cd "$0"; rmdir "$0"; exec {shlex.join(command)}'
    done = subprocess.run(
        ["sh", "-c", script, str(tmp_path / "gone")], capture_output=True, timeout=LIMIT_S, check=False
    )
    said = done.stderr.decode()
    if arguments == "run {spec}":  # which needs no current folder: the kernel is beside the spec
        assert (done.returncode, "kernel cannot be read" in said) == (1, True), said
        return
    assert (done.returncode, "current folder is gone\n\nhint: cd " in said) == (1, True), said
    assert "Traceback" not in said


def test_check_of_several_files_tells_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, broken = tmp_path / "wrong.toml", tmp_path / "broken.toml"
    wrong.write_text('memory = "1M"\nregions = [{ gpa = 0, size = "4K" }]\n')
    broken.write_text("memory = \n")
    assert cli.main(["check", str(wrong), str(broken), str(wrong)]) == 1
    said = capsys.readouterr()
    assert said.out.count("regions[0].gpa: overlaps ram") == 2
    assert "broken.toml: spec is not in its language" in said.err
    assert cli.main(["check", str(broken)]) == 1
