"""How `hyperpy run` ends: status and message for each exit and error, without a KVM."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any, Self

import pytest

from hyperpy import AnyExit, Exit, GuestFault, KvmUnavailable, _run, cli, fault


class FakeMachine:
    """Stands for `Machine`: its run ends as the test says, and everything else is recorded."""

    end: AnyExit | BaseException
    rip = 0x1234

    def __init__(self, **options: object) -> None:
        self.options, self.attached, self.errors = options, list[Any](), list[BaseException]()
        self._attached, self._image = dict[Any, Any](), None
        self.vcpus = [SimpleNamespace(regs=SimpleNamespace(all=lambda: {"rip": self.rip}))] * 2
        self.console = SimpleNamespace(sink=lambda target: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def attach(self, device: object, **where: object) -> None:
        self.attached.append((device, where))

    def load(self, image: object) -> None:
        self.image = image

    def fault(self, exit_: AnyExit) -> GuestFault:
        return fault.make(self, exit_)

    def run(self, timeout: float | None) -> AnyExit:
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


def ended(monkeypatch: pytest.MonkeyPatch, end: AnyExit | BaseException, *, native: bool = True) -> int:
    monkeypatch.setattr(FakeMachine, "end", end, raising=False)
    monkeypatch.setattr("hyperpy.machine.Machine", FakeMachine)
    monkeypatch.setattr("hyperpy.boot.recognise", lambda kernel, **more: kernel)
    monkeypatch.setattr(_run, "kernel_code_is_native", lambda: native)
    return cli.main(["run", "--kernel", "K", "--serial", "none", "--timeout", "2.5"])


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (Exit.SystemEvent(0, "power-off"), 0, ""),
        (Exit.SystemEvent(0, "reset"), 0, ""),
        (
            Exit.SystemEvent(1, "crash"),
            1,
            "guest ended with Exit.SystemEvent(vcpu=1, kind='crash'); vcpu 1, rip 0x1234",
        ),
        (Exit.Stopped(0, "debug exit", 0x1FF), 0xFF, ""),
        (Exit.Stopped(0, "debug exit", 1), 1, ""),
        (Exit.Stopped(0, "enough"), 0, "stopped: enough"),
        (Exit.Stopped(None, "output closed"), 128 + signal.SIGPIPE, ""),
        (Exit.Timeout(), 124, "guest did not end in time: 2.5 s"),
        (Exit.Halt(1), 1, "every vcpu has halted with interrupts off; vcpu 1, rip 0x1234"),
        (Exit.Shutdown(0), 1, "triple fault"),
        (Exit.FailEntry(0, 0x80000021), 1, "refuses the guest's state: 0x80000021; vcpu 0, rip 0x1234"),
        (
            Exit.InternalError(0, 1, 0, b"\x0f\xae"),
            1,
            "cannot interpret the instruction 0f ae; vcpu 0, rip 0x1234",
        ),
        (Exit.InternalError(0, 3, 0, b""), 1, "guest ended with Exit.InternalError"),
        (KeyboardInterrupt(), 130, ""),
        (
            KvmUnavailable("no /dev/kvm", hint="get one"),
            1,
            "no /dev/kvm\n\nhint: get one\nhint: or run it in the lab",
        ),
        (MemoryError("too much"), 1, "too much"),
    ],
)
def test_run_ends_with_status_and_message(
    end: AnyExit | BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, end) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err.startswith(f"hyperpy run: {message}" if "guest ended" in message else "hyperpy run: ")
        or not message
    )
    assert message in err
    assert bool(err) == bool(message)


def test_run_where_kernel_code_is_interpreted_warns_before_and_explains_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, Exit.InternalError(0, 1, 0, b"\x9b"), native=False) == 1
    command = "`hyperpy lab -- hyperpy run --kernel K --serial none --timeout 2.5`"
    warning, error = capsys.readouterr().err.split("hyperpy run: ")[1:]
    assert warning == (
        f"warning: this host's KVM interprets kernel code: an operating system will not get far on it\n\nhint: {command}\n"
    )
    assert error.endswith(f"hint: this host's KVM interprets kernel code; the lab's runs it: {command}\n")


@pytest.mark.parametrize(("rip", "shown"), [(0x100001, "rip 0x100001"), (0xFFF0, "rip is lost")])
def test_run_triple_fault_on_a_kvm_that_resets_the_vcpu_shows_no_false_rip(
    rip: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeMachine, "rip", rip)
    assert ended(monkeypatch, Exit.Shutdown(0)) == 1
    assert f"; vcpu 0, {shown}" in capsys.readouterr().err


def test_run_signals_are_as_they_were_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    ended(monkeypatch, Exit.Halt(0))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before
