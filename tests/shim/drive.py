"""Drives machines while the shim (LD_PRELOAD) makes each of their calls fail in turn. Run by tests/kvm/test_failing_host.py.

A scenario uses a machine from beginning to end. It is run once to count the calls that it makes, then once for each
call and error. What raised is tried again: the host is well by then, so that the scenario must come to the same end.
Prints the names of the calls that failed and how each was told, as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy import (
    Device,
    Exit,
    Flat,
    HyperpyError,
    IoApicPin,
    KvmError,
    KvmUnavailable,
    Machine,
    Messages,
    Msi,
    Register,
    Stop,
)

if TYPE_CHECKING:
    from hyperpy.vcpu import Vcpu

_T = TypeVar("_T")
RUN = 10.0
ERRORS = (errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.EINVAL, errno.EFAULT)
# in al,0x99; out 0x80,al; out 0x98,al; hlt
GUEST = bytes([0xE4, 0x99, 0xE6, 0x80, 0xE6, 0x98, 0xF4])
# again: in al,0x70; jmp again
LOOP = bytes([0xE4, 0x70, 0xEB, 0xFC])
# mov [0x2000],al; out 0x80,al; mov ax,0xa000; mov ds,ax; mov [0],al; mov ax,0x9000; mov ds,ax; mov [0],al;
# mov ecx,0x40540000; rdmsr; hlt
WRITER = bytes.fromhex("a20020 e680 b800a0 8ed8 a20000 b80090 8ed8 a20000 66b900005440 0f32 f4")
WRITE_FAR, MSR, ROM = 0x1012, 0x4054_0000, 0xF000_0000
KVM_CAP_XSAVE = 55  # of linux/kvm.h
# kvm-ioctls makes a VM and asks for the size of its vcpus' pages in one, and a vcpu with a mapping of its page.
TOLD_AS = {"KVM_GET_VCPU_MMAP_SIZE": "KVM_CREATE_VM"}
POSTING = ("KVM_REGISTER_COALESCED_MMIO", "KVM_UNREGISTER_COALESCED_MMIO")
SENDING = ("KVM_IRQFD", "KVM_SIGNAL_MSI")
# A line or a message that KVM does not take is the guest's to miss, and a line is driven by KVM_IRQ_LINE where it has no
# eventfd; a vcpu whose state cannot be read counts as running; writes that cannot wait in a ring, or ring, are exits.
UNTOLD = {"KVM_IRQ_LINE", "KVM_GET_MP_STATE", "KVM_IOEVENTFD", *SENDING, *POSTING}

NOTHING = "nothing"

shim = ctypes.CDLL(None)
shim.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int]
shim.shim_without.argtypes = [ctypes.c_long]
shim.shim_calls.restype = ctypes.c_long
shim.shim_failed.restype = ctypes.c_char_p


def arm(nth: int, error: int = 0, *, only: str = "", argument: int = -1, result: int = 0) -> None:
    """Make the nth call from now on fail; 0: none."""
    shim.shim_arm(only.encode(), argument, nth, error, result)


class Ends(Device):
    """Stops the machine."""

    size = 1

    def write(self, offset: int, size: int, value: int, /) -> Stop:
        return Stop(f"end {value}")


class Takes(Device):
    """Takes what is written."""

    size = 1

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


class Sends(Takes):
    """Has messages of its own."""

    msi = Messages()


class Rung(Device):
    """A doorbell."""

    bell = Register(0x0, width=1, access="wo", doorbell=True)
    rings = 0

    @bell.on_write
    def _rung(self, value: None) -> None:
        self.rings += 1


class Attempts:
    """Does each step, once more if it raises, and keeps what was raised."""

    def __init__(self) -> None:
        self.raised: list[Exception] = []

    def __call__(self, step: Callable[[], _T], again: Callable[[], _T] | None = None) -> _T:
        try:
            return step()
        except (HyperpyError, MemoryError) as error:
            self.raised.append(error)
            return (again or step)()


def scenario(attempt: Attempts, vcpus: int, irqchip: bool) -> list[object]:
    """Everything that makes calls, from creation to close; returns what was seen."""
    with attempt(lambda: Machine(memory="1M", vcpus=vcpus, irqchip=irqchip)) as m:
        if irqchip and vcpus == 1:  # before there are interrupt controllers, and below when there are
            attempt(lambda: m.route(24, Msi(0xFEE0_0000, 0x40)))
        vcpu = m.vcpus[0]
        assert attempt(vcpu.regs.all)["rip"] == 0xFFF0  # SDM vol. 3, table 9-1
        attempt(lambda: m.load(Flat(GUEST, mode="real")))
        device = attempt(lambda: m.attach(Ends(), pio=0x80, irq=5 if irqchip else None))
        attempt(lambda: vcpu.regs.update(rbx=7))
        seen: list[object] = [attempt(vcpu.regs.all)["rbx"]]
        attempt(lambda: vcpu.sregs.update(cr2=0x1234))
        seen.append(attempt(vcpu.sregs.all)["cr2"])
        if irqchip:
            attempt(lambda: device.irq.set(True))
            attempt(lambda: device.irq.set(False))
            attempt(lambda: m.route(24, IoApicPin(5)))
            seen.append(m.routes[24])
        access = attempt(lambda: m.run(RUN))
        assert isinstance(access, Exit.Pio), access
        attempt(lambda: m.answer(access, 9))
        attempt(lambda: vcpu.regs.update(rcx=8))
        seen += [access, attempt(vcpu.regs.all)["rcx"]]
        seen.append(attempt(lambda: m.run(RUN)))

        def start_and_wait() -> object:
            m.start()
            return m.wait(RUN)

        seen.append(attempt(start_and_wait))
        attempt(lambda: [m.wait(0)], list)  # what the other vcpu ended with after that, if anything
        if not irqchip:  # the look for a halt takes its time: `halt` below
            seen.append(attempt(lambda: m.run(RUN)))
        return seen


def verbs(attempt: Attempts) -> list[object]:
    """What `scenario` leaves out: the rest of a vcpu's state, memory that changes, debugging, traps."""
    with attempt(lambda: Machine(memory="640K")) as m:
        vcpu = m.vcpus[0]
        m.load(Flat(WRITER, mode="real"))
        m.attach(Takes(), pio=0x80)
        m.attach(Takes(), mmio=0xA_0000)
        seen: list[object] = [len(attempt(lambda: list(vcpu.msrs)))]
        attempt(lambda: vcpu.cpuid.features.discard("hypervisor"))  # kept, until there is a vcpu
        seen.append(attempt(lambda: vector(vcpu)))
        attempt(lambda: vcpu.cpuid.features.discard("sse2"))
        seen.append(attempt(lambda: {"hypervisor", "sse2"} & set(vcpu.cpuid.features)))
        attempt(lambda: vcpu.msrs.update(IA32_LSTAR=0x1000))
        seen.append(attempt(lambda: vcpu.msrs["IA32_LSTAR"]))
        attempt(lambda: m.trap_msr(MSR))
        attempt(lambda: m.memory.add(ROM, "64K", kind="ram"))
        attempt(m.memory.track_dirty)
        attempt(lambda: m.memory.protect(ROM, writable=False))
        attempt(lambda: vcpu.regs.update(rbx=7))
        seen += [
            attempt(vcpu.step) for _ in range(5)
        ]  # two of them make an access, and end where that is complete
        with m.breakpoint(WRITE_FAR):
            seen += [attempt(lambda: m.run(RUN)), attempt(lambda: m.run(RUN))]
        access = seen[-1]
        assert isinstance(access, Exit.Msr), access
        attempt(lambda: m.answer(access, 9))
        seen += [attempt(m.memory.dirty), attempt(m.memory.dirty)]
        attempt(lambda: m.memory.remove(ROM))
        seen += [attempt(vcpu.regs.all), attempt(lambda: m.run(RUN))]
        return seen


def vector(vcpu: Vcpu) -> int:
    """Set and read a vector register."""
    vcpu.fpu.update(xmm0=7)
    return vcpu.fpu.xmm0


def old(attempt: Attempts) -> list[object]:
    """On a KVM that gives vector registers by its older calls alone."""
    shim.shim_without(KVM_CAP_XSAVE)
    try:
        with attempt(lambda: Machine(memory="1M")) as m:
            return [attempt(lambda: vector(m.vcpus[0]))]
    finally:
        shim.shim_without(-1)


def halt(attempt: Attempts) -> list[object]:
    """A halt that only the tick finds."""
    with Machine(memory="1M", irqchip=True) as m:
        m.load(Flat(bytes([0xFA, 0xF4]), mode="real"))  # cli; hlt
        return [attempt(lambda: m.run(RUN))]


def posts(attempt: Attempts) -> list[object]:
    """A guest that writes to COM1 while it polls, and then by the transmitter's interrupt."""
    # mov dx,0x3f8; mov al,"a"; out dx,al; inc dx; mov al,2; out dx,al; dec dx; mov al,"b"; out dx,al; out 0x80,al
    code = bytes.fromhex("baf803 b061 ee 42 b002 ee 4a b062 ee e680")
    with Machine(memory="1M") as m:
        m.attach_pc()
        m.attach(Ends(), pio=0x80)
        m.load(Flat(code, mode="real"))
        return [attempt(lambda: m.run(RUN)), m.console.output]


def messages(attempt: Attempts) -> list[object]:
    """A line that leads to a message, and messages of a device's own."""
    address, vector = 0xFEE0_0000, 0x40
    with Machine(memory="1M", irqchip=True) as m:
        m.route(24, Msi(address, vector))
        device = m.attach(Sends(), pio=0x80, irq=24)
        m.load(Flat(GUEST, mode="real"))
        before = attempt(lambda: m.run(RUN))
        attempt(device.irq.pulse)
        attempt(lambda: device.msi.send(address, vector))
        return [before, attempt(device.irq.pulse)]


def doorbells(attempt: Attempts) -> list[object]:
    """A guest that rings, before it is known to KVM and after, and a device that goes."""
    with Machine(memory="1M") as m:
        m.load(Flat(GUEST, mode="real"))
        before, after = m.attach(Rung(), pio=0x80), Rung()
        seen = [attempt(lambda: m.run(RUN))]
        attempt(lambda: m.attach(after, pio=0x98))
        seen.append(attempt(lambda: m.run(RUN)))
        attempt(lambda: m.detach(before))
        return [*seen, before.rings, after.rings]


def descriptors() -> list[str]:
    """All that are open."""
    return sorted(os.listdir("/proc/self/fd"), key=int)


def check(failed: str, error: int, attempt: Attempts) -> str:
    """How the failed call was told: the name of an exception's class, or "" for a call that was made again."""
    if failed == NOTHING:  # how often two vcpus enter is a matter of time: this time there were fewer calls
        assert not attempt.raised, attempt.raised
        return ""
    if not attempt.raised:
        assert error in {errno.EINTR, errno.EAGAIN} or failed in UNTOLD, "not told"
        return ""
    (raised,) = attempt.raised
    assert "hint: " in str(raised), str(raised)
    assert os.strerror(error) in str(raised), str(raised)
    if isinstance(raised, KvmError):
        assert raised.errno == error, raised.errno
        if failed.startswith("KVM_"):
            assert raised.ioctl == TOLD_AS.get(failed, failed), raised.ioctl
    elif isinstance(raised, KvmUnavailable):
        assert raised.errno == error, raised.errno
    else:
        assert isinstance(raised, MemoryError), repr(raised)
    return type(raised).__name__


def sweep(play: Callable[[Attempts], list[object]], only: str = "") -> dict[str, Any]:
    """Run a scenario for each of its calls and each error."""
    told: dict[str, set[str]] = {}
    wrong: list[str] = []
    play(Attempts())  # what is asked once in a process
    arm(0, only=only)
    reference, calls = play(Attempts()), shim.shim_calls()
    with Machine(memory="1M") as other:
        other.load(Flat(LOOP, mode="real"))
        other.run(RUN)
        before = descriptors()
        for error in ERRORS:
            for nth in range(1, calls + 1):
                attempt = Attempts()
                arm(nth, error, only=only)
                problem = None
                with contextlib.ExitStack() as stack:
                    stack.callback(arm, 0)
                    try:
                        seen = play(attempt)
                        failed = (shim.shim_failed() or NOTHING.encode()).decode()
                        told.setdefault(failed, set()).add(check(failed, error, attempt))
                        assert seen == reference, seen
                    except Exception as raised:
                        problem = f"{type(raised).__name__}: {raised}"
                        failed = (shim.shim_failed() or NOTHING.encode()).decode()
                if descriptors() != before:
                    problem = f"{problem or ''}; descriptors {before} became {descriptors()}"
                    before = descriptors()
                if not isinstance(other.run(RUN), Exit.Pio):
                    problem = f"{problem or ''}; the other machine is affected"
                if problem is not None:
                    wrong.append(f"call {nth} ({failed}), {errno.errorcode[error]}: {problem}")
    return {"calls": calls, "told": {name: sorted(how) for name, how in told.items()}, "wrong": wrong}


SWEEPS: dict[str, Callable[[], dict[str, Any]]] = {
    "without irqchip": lambda: sweep(lambda attempt: scenario(attempt, 1, False)),
    "with irqchip": lambda: sweep(lambda attempt: scenario(attempt, 1, True)),
    "two vcpus": lambda: sweep(lambda attempt: scenario(attempt, 2, True)),
    "halt": lambda: sweep(halt, "KVM_GET_MP_STATE"),
    "posts": lambda: sweep(posts, POSTING[0]),
    "posts no longer": lambda: sweep(posts, POSTING[1]),
    "messages": lambda: sweep(messages, SENDING[0]),
    "messages of a device": lambda: sweep(messages, SENDING[1]),
    "doorbells": lambda: sweep(doorbells, "KVM_IOEVENTFD"),
    "verbs": lambda: sweep(verbs),
    "old": lambda: sweep(old),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(SWEEPS[sys.argv[1]]()))
