"""What hooks of declared registers and timers do wrong under KVM: `run` raises and names it, the guest sees ones, the machine goes on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hooks import CASES, HELD, HOOKS, PORTS, STOPS, Case, Hook, Hooked, Odd
from tests.kvm.test_device_calls import VERBS
from tests.scripts import run

from hyperpy import Exit, StateError, Stop

RUN = 10.0
HELD_VALUE = 7
SOME = {name: HOOKS[name] for name in ("on_read", "on_write", "timer")}


def guest(hook: Hook) -> str:
    """Reaches a hook once, and halts; where a timer is to fire it waits."""
    register = "al" if hook.size == 1 else "eax"
    access = f"in {register}, dx" if hook.is_read else f"out dx, {register}"
    end = "again: jmp again" if hook.kind == "timer" else "cli\n hlt"
    return f"mov eax, {0 if hook.is_read else 1}\n mov dx, {PORTS + hook.offset}\n {access}\n {end}"


def ended(m: Any, device: Hooked, hook: Hook) -> None:
    """The machine runs on to the guest's end; of a timer, until it has fired."""
    if hook.kind == "timer":
        look = m.clock.every(20_000, lambda: Stop("over") if device.calls else None)
        assert m.run(RUN) == Exit.Stopped(vcpu=None, reason="over")
        look.cancel()
    else:
        assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(31)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_what_a_hook_does_is_taken_or_raised_named_and_survived(boot: Any, hook: Hook, case: Case) -> None:
    m = boot(guest(hook))
    device = m.attach(Hooked(case.act), pio=PORTS, name="it")
    expected = case.expected(hook)
    if isinstance(expected, type):
        with pytest.raises(expected) as caught:
            m.run(RUN)
        note = caught.value.__notes__[0]
        port = f"port {PORTS + hook.offset:#x}, {hook.size} bytes, vcpu 0, rip 0x10"
        begin = {
            "read": f"read of {port}",
            "write": f"write of 0x1 to {port}",
            "timer": "timer Hooked.tick, due at ",
        }
        assert note.startswith(f"device it: {begin[hook.kind]}")
        assert (m.state, m.errors) == ("paused", [caught.value])
        device.act = lambda: None
        ended(m, device, hook)
        if hook.is_read:
            assert m.vcpus[0].regs.rax == (1 << 8 * hook.size) - 1
        return
    if expected == STOPS:
        assert m.run(RUN) == Exit.Stopped(vcpu=None if hook.kind == "timer" else 0, reason="now")
        device.act = lambda: None
    ended(m, device, hook)
    assert device.calls >= 1
    if hook.is_read:
        assert m.vcpus[0].regs.rax == (HELD_VALUE if expected == HELD else expected)


@pytest.mark.fault(31)
def test_write_that_a_hook_fails_at_is_kept_by_its_register(boot: Any) -> None:
    def fails() -> None:
        raise Odd

    for name in ("on_write", "on_write of an array", "on_write of a queue"):
        m = boot(guest(HOOKS[name]))
        device = m.attach(Hooked(fails), pio=PORTS)
        with pytest.raises(Odd):
            m.run(RUN)
        assert (device.told, device.array[1], list(device.queue)) in ((1, 7, []), (0, 1, []), (0, 7, [1]))


@pytest.mark.fault(31)
def test_hooks_of_two_registers_of_one_access_that_both_raise_are_both_told(boot: Any) -> None:
    m = boot(
        f"mov rbx, 0xfe000000\n mov rax, [rbx + {HOOKS['on_read of an array'].offset - 4}]\n hlt", "long"
    )
    errors = [Odd("first"), Odd("second")]
    left = list(errors)

    def fails() -> None:
        raise left.pop(0)

    m.attach(Hooked(fails), mmio=0xFE00_0000)
    with pytest.raises(Odd) as caught:
        m.run(RUN)
    assert caught.value is errors[0]
    assert m.errors == errors
    assert "then Odd: second" in errors[0].__notes__
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 2**64 - 1


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hook_that_recurses_for_ever_is_an_error_and_the_machine_goes_on(boot: Any, hook: Hook) -> None:
    def deep() -> None:
        deep()

    m = boot(guest(hook))
    device = m.attach(Hooked(deep), pio=PORTS)
    with pytest.raises(RecursionError) as caught:
        m.run(RUN)
    assert caught.value.__notes__[0].startswith("device Hooked: ")
    device.act = lambda: None
    ended(m, device, hook)


@pytest.mark.fault(32)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("hook", SOME.values(), ids=SOME)
def test_verb_that_waits_inside_a_hook_is_refused(boot: Any, verb: str, hook: Hook) -> None:
    m, other = boot(guest(hook)), boot()
    raised: list[str] = []

    def calls() -> None:
        for target in (m, other):
            with pytest.raises(StateError) as caught:
                VERBS[verb](target)
            raised.append(str(caught.value))

    device = m.attach(Hooked(calls), pio=PORTS)
    ended(m, device, hook)
    assert len(raised) == 2
    assert all("inside a device callback" in text for text in raised)


# What is stuck, and how the guest gets there: by a write of port 0x80, or a read.
STUCK = """
release, entered = threading.Event(), threading.Event()
class Stuck(hyperpy.Device):
    value = hyperpy.Register(0x0, width=1)
    def stuck(self):
        entered.set()
        release.wait()
HOOK
m = Machine(memory="1M")
m.load(Flat(bytes.fromhex("e480 e680 ebfe"), mode="real"))  # in al, 0x80; out 0x80, al; again: jmp again
device = m.attach(Stuck(), pio=0x80)
m.start()
assert entered.wait(10)
def interrupted(verb):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    try:
        verb()
    except KeyboardInterrupt:
        print("interrupted", time.monotonic() - begin < 5)
"""
STUCK_HOOKS = {
    "on_read": "    @value.on_read\n    def _value(self):\n        self.stuck()",
    "on_write": "    @value.on_write\n    def _value(self, value):\n        self.stuck()",
    "timer": "    @value.on_write\n    def _value(self, value):\n        self.clock.after(0, self.stuck)",
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("verb", ["m.close", "m.pause", "lambda: m.detach(device)", "lambda: m.wait()"])
@pytest.mark.parametrize("hook", STUCK_HOOKS)
def test_hook_that_never_returns_leaves_ctrl_c_to_the_script_and_the_machine_ends_when_it_does(
    hook: str, verb: str
) -> None:
    status, out, errors = run(
        STUCK.replace("HOOK", STUCK_HOOKS[hook])
        + f"""
interrupted({verb})
release.set()
m.close()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
print(m.state)
"""
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["interrupted True", "closed"]


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", STUCK_HOOKS)
def test_interpreter_that_ends_while_a_hook_does_not_return_ends(hook: str) -> None:
    status, out, errors = run(STUCK.replace("HOOK", STUCK_HOOKS[hook]) + "print('end')")
    assert (status, out, errors) == (0, "end\n", "")


@pytest.mark.fault(32)
@pytest.mark.parametrize("hook", STUCK_HOOKS)
def test_last_reference_dropped_inside_a_hook_does_not_hang(hook: str) -> None:
    status, out, errors = run(
        """
import gc, warnings
warnings.simplefilter("ignore")
box, done = {}, threading.Event()
class Drops(hyperpy.Device):
    value = hyperpy.Register(0x0, width=1)
    def stuck(self):
        box.clear()
        gc.collect()
        print("dropped", flush=True)
        done.set()
HOOK
m = box["machine"] = Machine(memory="1M", unclaimed="ones")
m.load(Flat(bytes.fromhex("e480 e680 ebfe"), mode="real"))
m.attach(Drops(), pio=0x80)
m.start()
del m
assert done.wait(10)
for thread in threading.enumerate():
    if thread.name.startswith("hyperpy"):
        thread.join(10)
print([t.name for t in threading.enumerate() if t.name.startswith("hyperpy")])
""".replace("HOOK", STUCK_HOOKS[hook])
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["dropped", "[]"]
