"""Stopping (docs/design.md, run loop, rules 5 and 10): interrupts by the thousand, a device that never returns, halts."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from tests.guests import START_OTHERS, assemble
from tests.scripts import process, run

from hyperpy import Exit

RUN = 10.0
BOUND = 0.1
INTERRUPTS = 2_000

# A helper process sends the signals: it waits for a byte, then for a random moment, notes the time, and signals. So
# they fall before, into and between entries of the guest.
INTERRUPTED = """
import random, struct, traceback
go, ready = os.pipe()
times, noted = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.seed(1)
    os.close(ready)
    while os.read(go, 1):
        time.sleep({first} + random.random() * {spread})
        os.write(noted, struct.pack("q", time.monotonic_ns()))
        os.kill(parent, signal.SIGINT)
    os._exit(0)
os.close(go)
m = Machine(memory="1M", unclaimed="ones")
m.load(Flat({guest}[2:], mode="real"))
m.run(0)
over = False
def compute():
    while not over:
        pass
computing = threading.Thread(target=compute)
if {busy}:
    computing.start()
worst, inside = 0, 0
for _ in range({interrupts}):
    try:
        os.write(ready, b"x")
        m.run(10)
        raise SystemExit("lost")
    except KeyboardInterrupt as error:
        now = time.monotonic_ns()
        inside += traceback.extract_tb(error.__traceback__)[-1].name == "run"
    sent, = struct.unpack("q", os.read(times, 8))
    worst = max(worst, now - sent)
    assert m.state in {{"paused"}}, m.state
over = True
m.close()
print(inside, worst / 1e9)
"""


@pytest.mark.fault(23)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
def test_two_thousand_interrupts_are_each_answered_within_the_bound(
    guest: str, busy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # When the signal comes, in seconds: the run begins only when the other thread has let go of the interpreter.
    first, spread = (0.008, 0.008) if busy else (0, 0.001)
    # Beside a busy thread each takes as long as a tick and the interpreter's switch interval together.
    interrupts = INTERRUPTS // 10 if busy else INTERRUPTS
    script = INTERRUPTED.format(guest=guest, interrupts=interrupts, busy=busy, first=first, spread=spread)
    with process(script) as child:
        try:
            out, errors = child.communicate(timeout=300)
        finally:
            child.kill()  # when this test's time is over, too: it would take the next one's
    assert (child.returncode, errors) == (0, "")
    inside, worst = out.split()
    beside = " beside a busy thread" if busy else ""
    told = f"{guest}{beside}: {inside} of {interrupts} SIGINTs raised out of run(), worst latency {1000 * float(worst):.1f} ms"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")
    # The others fell between the go-ahead and the run.
    assert int(inside) > interrupts * 0.9
    assert float(worst) < BOUND


STUCK = """
m = machine(LOOP)
release, entered = threading.Event(), threading.Event()
class Stuck(hyperpy.Device):
    size = 1
    def write(self, offset, size, value):
        entered.set()
        release.wait()
m.detach(next(device for device, _ in m._attached.values()))
m.attach(Stuck(), pio=0x80)
m.start()
entered.wait()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
begin = time.monotonic()
"""


@pytest.mark.fault(32)
def test_close_while_a_device_never_returns_hears_ctrl_c_and_closes_when_it_does() -> None:
    status, out, errors = run(
        STUCK
        + """
try:
    m.close()
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 5, m.state, len(m.map.rows) > 1)
release.set()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)  # the vcpu's: it closes the machine when it leaves the device
print(m.map.rows[0].space)
m.close()
print(m.state)
"""
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["interrupted True closed True", "pio", "closed"]


@pytest.mark.fault(32)
def test_pause_while_a_device_never_returns_hears_ctrl_c_and_comes_when_it_does() -> None:
    status, out, errors = run(
        STUCK
        + """
try:
    m.pause()
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 5, m.state)
release.set()
print(m.wait(10), m.state)
m.close()
"""
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        "interrupted True running",
        "Exit.Stopped(vcpu=None, reason='pause', status=None) paused",
    ]


REGISTERS = [
    "m.vcpus[0].regs.rbx",
    "m.vcpus[0].regs.rbx = 1",
    "m.vcpus[0].sregs.cr0",
    "m.vcpus[0].fpu.all()",
    "m.vcpus[0].msrs[0x10]",
    "list(m.vcpus[0].cpuid)",
    "m.memory.walk(0x1000)",
    "m.answer(first, 1)",
]


@pytest.mark.fault(32)
def test_registers_of_a_vcpu_whose_access_another_thread_completes_hear_ctrl_c() -> None:
    # mov di, 0x3000; mov dx, 0x99; mov cx, 5; cld; rep insb; hlt
    status, out, errors = run(
        f"""
m = Machine(memory="1M")
m.load(Flat(bytes.fromhex("bf0030ba9900b90500fcf36cf4"), mode="real"))
first = m.run(10)
release, entered = threading.Event(), threading.Event()
class Stuck(hyperpy.Device):
    size = 1
    def read(self, offset, size):
        entered.set()
        release.wait()
        return 0x41
m.attach(Stuck(), pio=0x99)
def write():
    m.vcpus[0].regs.rax = 7
other = threading.Thread(target=write)
other.start()
entered.wait()
for verb in {REGISTERS}:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    code = compile(verb, "verb", "exec")  # exec of a text that is interrupted makes Python end with 130, caught or not
    try:
        exec(code)
    except KeyboardInterrupt:
        print(verb, time.monotonic() - begin < 5)
release.set()
other.join()
print(m.vcpus[0].regs.rax, m.memory.read(0x3000, 6))
m.close()
"""
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == [*(f"{verb} True" for verb in REGISTERS), r"7 b'\xffAAAA\x00'"]


@pytest.mark.fault(32)
def test_detach_of_a_device_that_never_returns_hears_ctrl_c_and_is_done() -> None:
    status, out, errors = run(
        STUCK
        + """
stuck = next(device for device, _ in m._attached.values())
try:
    m.detach(stuck)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 5, m.state, len(m._attached))
release.set()
m.pause()
m.close()
"""
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["interrupted True running 0"]


@pytest.mark.fault(32)
def test_run_while_another_vcpus_device_never_returns_gives_the_thread_back_on_ctrl_c() -> None:
    """By then `run` has left that vcpu to finish alone."""
    status, out, errors = run(
        """
        from tests.guests import START_OTHERS, assemble
        release, entered = threading.Event(), threading.Event()
        class Stuck(hyperpy.Device):
            size = 1
            def write(self, offset, size, value):
                entered.set()
                release.wait()
        m = Machine(memory="1M", vcpus=2)
        m.load(Flat(assemble(START_OTHERS + "again: jmp again", "protected"), mode="protected"))
        m.memory.write(0x8000, assemble("out 0x80, al\\n again: jmp again", "real", 0x8000))
        m.attach(Stuck(), pio=0x80)
        def interrupt():
            entered.wait()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            m.run()
        except KeyboardInterrupt:
            print("interrupted", m.state)
        release.set()
        m.close()
        print(m.state)
        """
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["interrupted running", "closed"]


def _soon(m: Any) -> Any:
    begin = time.monotonic()
    exit_ = m.run(RUN)
    assert time.monotonic() - begin < RUN / 2
    return exit_


@pytest.mark.core
@pytest.mark.parametrize("irqchip", [False, True])
def test_halt_of_one_vcpu_with_interrupts_off_is_an_exit(boot: Any, irqchip: bool) -> None:
    m = boot("cli\n hlt\n cli\n hlt", irqchip=irqchip)
    assert _soon(m) == Exit.Halt(0)
    assert m.state == "paused"
    assert _soon(m) == Exit.Halt(0)


@pytest.mark.core
@pytest.mark.fault(23)
@pytest.mark.parametrize("started", [False, True])
def test_halt_of_four_vcpus_with_interrupts_off_is_an_exit(boot: Any, started: bool) -> None:
    """Those that nobody started do not count. Without interrupt controllers there is one vcpu only."""
    m = boot((START_OTHERS if started else "") + "cli\n hlt", "protected", vcpus=4)
    m.memory.write(0x8000, assemble("lock inc dword ptr [0x2000]\n cli\n hlt", "real", 0x8000))
    assert isinstance(_soon(m), Exit.Halt)
    assert m.memory.read(0x2000, 1) == bytes([3 if started else 0])
    m.reset()
    m.memory.write(0x8000, assemble("lock inc dword ptr [0x2000]\n cli\n hlt", "real", 0x8000))
    m.start()
    assert isinstance(m.wait(RUN), Exit.Halt)


@pytest.mark.core
@pytest.mark.parametrize("idle", ["first", "last"])
def test_halt_of_four_vcpus_of_which_one_can_be_woken_is_idle(boot: Any, idle: str) -> None:
    halt, sleep = "cli\n hlt", "sti\n again: hlt\n jmp again"
    m = boot(START_OTHERS + (sleep if idle == "first" else halt), "protected", vcpus=4)
    # The last of the three to come sleeps.
    others = f"""
        mov ax, 1
        lock xadd word ptr [0x2000], ax
        cmp ax, {2 if idle == "last" else 9}
        je sleeper
        cli
        hlt
        sleeper: {sleep}
    """
    m.memory.write(0x8000, assemble(others, "real", 0x8000))
    assert m.run(0.4) == Exit.Timeout()
    assert m.memory.read(0x2000, 1) == b"\x03"
