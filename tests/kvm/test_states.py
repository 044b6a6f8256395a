"""States and verbs: each cell of the table in docs/concepts/states.md, on the thread that made the machine and on another.

`TABLE` holds what each cell says, in the words of the page, and the page is held to it. What the words mean is in `MEANING`.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import tty
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hyperpy
from hyperpy import Device, DeviceError, Exit, Machine, StateError

RUN = 10.0
PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "states.md"
READ = Exit.Pio(0, 0x99, 1, False, 0)
SPARE = 0x6000_0000  # a region that nobody needs
STOPPED = Exit.Stopped(None, "why")


class Bell(Device):
    """Says when the guest has reached it."""

    size = 1
    stateless = True

    def __init__(self) -> None:
        self.rung = threading.Event()

    def write(self, offset: int, size: int, value: int) -> None:
        self.rung.set()


@dataclass
class Case:
    """A machine in a state, a device that is attached to it, and the last exit that it returned."""

    m: Machine
    bell: Bell
    exit: Exit.Pio = READ


def _created(boot: Any, source: str = "in al, 0x99\n hlt") -> Case:
    m = boot(source, trace=4)
    m.memory.add(SPARE, 0x1000)
    m.memory.track_dirty()
    return Case(m, m.attach(Bell(), pio=0x80))


def _running(boot: Any) -> Case:
    case = _created(boot, "out 0x80, al\n again: jmp again")
    case.m.start()
    assert case.bell.rung.wait(RUN)
    return case


def _paused(boot: Any) -> Case:
    case = _created(boot)
    exit_ = case.m.run(RUN)
    assert exit_ == READ
    case.exit = exit_
    return case


def _stopped(boot: Any) -> Case:
    case = _paused(boot)
    case.m.stop("why")
    return case


def _closed(boot: Any) -> Case:
    case = _paused(boot)
    case.m.close()
    return case


STATES: dict[str, Callable[[Any], Case]] = {
    "created": _created,
    "running": _running,
    "paused": _paused,
    "stopped": _stopped,
    "closed": _closed,
}


def _removed_at_once(m: Machine) -> None:
    """A breakpoint as a block: set, and taken away."""
    with m.breakpoint(0x5000):
        pass


def _watched(m: Machine) -> None:
    with m.watchpoint(0x5000):
        pass


def _interacted(case: Case) -> bool:
    """`interact` at a terminal of its own, where Ctrl-A x is typed if the machine runs: nothing else would end it."""
    keys, terminal = os.openpty()
    with (
        open(keys, "wb", buffering=0) as typed,
        open(terminal) as stdin,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", stdin)
        if case.m.state == "running":
            tty.setraw(terminal)  # so that a key is read without a line's end
            typed.write(b"\x01x")
        return case.m.console.interact()


def _base() -> hyperpy.Snapshot:
    """A snapshot of a machine that is made alike, and has not run."""
    with Machine(memory="2M") as m:
        m.memory.add(SPARE, 0x1000)
        m.attach(Bell(), pio=0x80)
        return m.snapshot()


def _forked(case: Case) -> Machine:
    """A copy, which is in the state that this machine is in."""
    with case.m.fork() as child:
        assert child.state == case.m.state
    return child


# What a row is about; where it is about several verbs, each is called in a machine of its own.
VERBS: dict[str, Callable[[Case], Any] | tuple[Callable[[Case], Any], ...]] = {
    "with": lambda case: case.m.__enter__(),
    "load": lambda case: case.m.load(hyperpy.Flat(b"\xf4", mode="real")),
    "attach": lambda case: case.m.attach(Bell(), pio=0x70),
    "detach": lambda case: case.m.detach(case.bell),
    "move, disable, enable": (
        lambda case: case.m.move(case.bell, pio=0x70),
        lambda case: case.m.disable(case.bell),
        lambda case: case.m.enable(case.bell),
    ),
    "run": lambda case: case.m.run(RUN),
    "vcpu.step, run_until": (
        lambda case: case.m.vcpus[0].step(timeout=RUN),
        lambda case: case.m.vcpus[0].run_until(0x5000, timeout=RUN),
    ),
    "start": lambda case: case.m.start(),
    "wait": lambda case: case.m.wait(0),
    "pause": lambda case: case.m.pause(),
    "resume": lambda case: case.m.resume(),
    "reset": lambda case: case.m.reset(),
    "stop": lambda case: case.m.stop("why"),
    "close": lambda case: case.m.close(),
    "snapshot": lambda case: case.m.snapshot(),
    "restore": lambda case: case.m.restore(_base()),
    "fork": _forked,
    "answer": lambda case: case.m.answer(case.exit, 1),
    "regs, sregs read": (
        lambda case: case.m.vcpus[0].regs.rbx,
        lambda case: case.m.vcpus[0].sregs.cr2,
    ),
    "regs, sregs written": (
        lambda case: case.m.vcpus[0].regs.update(rbx=7),
        lambda case: case.m.vcpus[0].sregs.update(cr2=7),
    ),
    "fpu, msrs read": (
        lambda case: case.m.vcpus[0].fpu.mxcsr,
        lambda case: case.m.vcpus[0].msrs["IA32_EFER"],
    ),
    "fpu, msrs written": (
        lambda case: case.m.vcpus[0].fpu.update(mxcsr=0x1F80),
        lambda case: case.m.vcpus[0].msrs.update(IA32_TSC_AUX=0),
    ),
    "cpuid read": lambda case: case.m.vcpus[0].cpuid[0, 0],
    "cpuid written": lambda case: case.m.vcpus[0].cpuid.update({(0, 0): hyperpy.cpuid.CpuidLeaf(eax=13)}),
    "trap_msr, msr, trap_hypercalls": (
        lambda case: case.m.trap_msr(0x4B564D00),
        lambda case: case.m.msr(0x4B564D00)(lambda access: None) and None,
        lambda case: case.m.trap_hypercalls(),
    ),
    "attach_pc": lambda case: case.m.attach_pc(),
    "route": lambda case: case.m.route(5, hyperpy.IoApicPin(11)),
    "routes": lambda case: case.m.routes,
    "cpu_limit set": lambda case: setattr(case.m, "cpu_limit", 0.5),
    "clock.after, every, at": (
        lambda case: case.m.clock.after(1 << 60, print),
        lambda case: case.m.clock.every(1 << 60, print),
        lambda case: case.m.clock.at(1 << 60, print),
    ),
    "clock.step, scale set": (
        lambda case: case.m.clock.step(1),
        lambda case: setattr(case.m.clock, "scale", 2),
    ),
    "clock.now": lambda case: case.m.clock.now,
    "breakpoint, watchpoint": (lambda case: _removed_at_once(case.m), lambda case: _watched(case.m)),
    "memory.walk, translate": (
        lambda case: case.m.memory.walk(0x1000),
        lambda case: case.m.memory.translate(0x1000),
    ),
    "memory.read": lambda case: case.m.memory.read(0x3000, 1),
    "memory.write": lambda case: case.m.memory.write(0x3000, b"x"),
    "memory.view": lambda case: case.m.memory.view(0x3000, 1),
    "memory.add, alias, remove": (
        lambda case: case.m.memory.add(0x4000_0000, 0x1000),
        lambda case: case.m.memory.alias(0x5000_0000, of=SPARE, size=0x1000),
        lambda case: case.m.memory.remove(SPARE),
    ),
    "memory.protect": lambda case: case.m.memory.protect(0, writable=True),
    "memory.track_dirty": lambda case: case.m.memory.track_dirty(),
    "memory.dirty": lambda case: case.m.memory.dirty(),
    "console.expect": lambda case: case.m.console.expect("never", timeout=0.01),
    "console.sink": lambda case: case.m.console.sink(None),
    "console.read": lambda case: case.m.console.read(),
    "console.send": lambda case: case.m.console.send("x"),
    "console.interact": _interacted,
    "stats, map": (lambda case: case.m.stats, lambda case: case.m.map),
    "fault, trace": (lambda case: case.m.fault(Exit.Halt(0)), lambda case: case.m.trace()),
    "spec": lambda case: case.m.spec,
    "unclaimed set": lambda case: setattr(case.m, "unclaimed", "ones"),
}

# What a word of the table means: the error that is raised, or a check of what is returned.
MEANING: dict[str, type[Exception] | Callable[[Any], bool]] = {
    "StateError": StateError,
    "DeviceError": DeviceError,
    "TimeoutError": TimeoutError,
    "nothing": lambda value: value is None,
    "True": lambda value: value is True,
    "False": lambda value: value is False,
    "loads": lambda value: value is None,
    "detaches": lambda value: value is None,
    "answers": lambda value: value is None,
    "enters": lambda value: isinstance(value, Machine),
    "attaches": lambda value: isinstance(value, Bell),
    "an exit": lambda value: value in {READ, Exit.Halt(0)} or isinstance(value, Exit.Debug),
    "waits": lambda value: value == Exit.Timeout(),
    "the last exit": lambda value: value in {READ, STOPPED},
    "a snapshot": lambda value: isinstance(value, hyperpy.Snapshot),
    "restores": lambda value: value.pages >= 0,
    "a copy": lambda value: isinstance(value, Machine),
    "tracks": lambda value: hasattr(value, "__exit__"),
    "a timer": lambda value: isinstance(value, hyperpy.Timer) and value.active,
    "a value": lambda value: value is not None,
    "bytes": lambda value: value == b"\0",
    "a view": lambda value: isinstance(value, memoryview) and value.tobytes() == b"\0",
}


def row(created: str, running: str, paused: str, stopped: str, closed: str) -> dict[str, str]:
    return dict(zip(STATES, (created, running, paused, stopped, closed), strict=True))


REFUSED = "StateError"
TABLE = {
    "with": row(*["enters"] * 4, REFUSED),
    "load": row("loads", REFUSED, "loads", REFUSED, REFUSED),
    "attach": row(*["attaches"] * 4, REFUSED),
    "detach": row(*["detaches"] * 4, "DeviceError"),
    "move, disable, enable": row(*["nothing"] * 4, "DeviceError"),
    "run": row("an exit; paused", REFUSED, "an exit; paused", REFUSED, REFUSED),
    "vcpu.step, run_until": row("an exit; paused", REFUSED, "an exit; paused", REFUSED, REFUSED),
    "start": row("nothing; running", REFUSED, "nothing; running", REFUSED, REFUSED),
    "wait": row(REFUSED, "waits", "the last exit", "the last exit", REFUSED),
    "pause": row(REFUSED, "nothing; paused", "nothing", REFUSED, REFUSED),
    "resume": row(REFUSED, REFUSED, "nothing; running", REFUSED, REFUSED),
    "reset": row("nothing", REFUSED, "nothing; created", "nothing; created", REFUSED),
    "stop": row("nothing; stopped", "nothing; stopped", "nothing; stopped", "nothing", REFUSED),
    "close": row(*["nothing; closed"] * 4, "nothing"),
    "snapshot": row(*["a snapshot"] * 4, REFUSED),
    "restore": row("restores", REFUSED, *["restores; created"] * 2, REFUSED),
    "fork": row(*["a copy"] * 4, REFUSED),
    "answer": row(REFUSED, REFUSED, "answers", "answers", REFUSED),
    "regs, sregs read": row("a value", REFUSED, "a value", "a value", REFUSED),
    "regs, sregs written": row("nothing", REFUSED, "nothing", "nothing", REFUSED),
    "fpu, msrs read": row("a value", REFUSED, "a value", "a value", REFUSED),
    "fpu, msrs written": row("nothing", REFUSED, "nothing", "nothing", REFUSED),
    "cpuid read": row("a value", REFUSED, "a value", "a value", REFUSED),
    "cpuid written": row("nothing", REFUSED, REFUSED, REFUSED, REFUSED),
    "trap_msr, msr, trap_hypercalls": row("nothing", REFUSED, "nothing", REFUSED, REFUSED),
    "attach_pc": row("nothing", REFUSED, REFUSED, REFUSED, REFUSED),  # as route
    "route": row("nothing", REFUSED, REFUSED, REFUSED, REFUSED),  # without interrupt controllers
    "routes": row(*["a value"] * 5),
    "cpu_limit set": row(*["nothing"] * 4, REFUSED),
    "clock.after, every, at": row(*["a timer"] * 4, REFUSED),
    "clock.step, scale set": row(*["nothing"] * 5),
    "clock.now": row(*["a value"] * 5),
    "breakpoint, watchpoint": row("nothing", REFUSED, "nothing", "nothing", REFUSED),
    "memory.walk, translate": row("a value", REFUSED, "a value", "a value", REFUSED),
    "memory.read": row(*["bytes"] * 4, REFUSED),
    "memory.write": row(*["nothing"] * 4, REFUSED),
    "memory.view": row(*["a view"] * 4, REFUSED),
    "memory.add, alias, remove": row(*["nothing"] * 4, REFUSED),
    "memory.protect": row(*["nothing"] * 4, REFUSED),
    "memory.track_dirty": row(*["tracks"] * 4, REFUSED),
    "memory.dirty": row(*["a value"] * 4, REFUSED),
    "console.expect": row(REFUSED, "TimeoutError", *[REFUSED] * 3),
    "console.sink": row(*["nothing"] * 5),
    "console.read": row(*["a value"] * 5),
    "console.send": row(*["a value"] * 4, REFUSED),
    "console.interact": row(REFUSED, "True", *["False"] * 3),
    "stats, map": row(*["a value"] * 5),
    "fault, trace": row(*["a value"] * 5),
    "spec": row(*["a value"] * 4, REFUSED),
    "unclaimed set": row(*["nothing"] * 5),
}
CELLS = [
    pytest.param(verb, state, call, id=f"{verb} {number}-{state}")
    for verb, calls in VERBS.items()
    for number, call in enumerate(calls if isinstance(calls, tuple) else (calls,))
    for state in TABLE[verb]
]
# The exit that a machine which was set going ends with, and what ends one that another thread stops or pauses.
THEN = {
    ("start", "created"): READ,
    ("start", "paused"): Exit.Halt(0),
    ("resume", "paused"): Exit.Halt(0),
    ("stop", "running"): STOPPED,
    ("pause", "running"): Exit.Stopped(None, "pause"),
}


def _call(verb: Callable[[Case], Any], case: Case, on_another_thread: bool) -> Any:
    """What a verb returns or raises."""
    got: list[Any] = []

    def call() -> None:
        try:
            got.append(verb(case))
        except Exception as error:
            got.append(error)

    if on_another_thread:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(RUN)
        assert not thread.is_alive(), "the verb hangs"
    else:
        call()
    return got[0]


@pytest.mark.parametrize("on_another_thread", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize(("verb", "state", "call"), CELLS)
def test_verb_in_each_state_does_what_the_table_says(
    boot: Any, verb: str, state: str, call: Callable[[Case], Any], on_another_thread: bool
) -> None:
    case = STATES[state](boot)
    assert case.m.state == state
    word, _, after = TABLE[verb][state].partition("; ")
    got = _call(call, case, on_another_thread)
    meaning = MEANING[word]
    if isinstance(meaning, type):
        assert isinstance(got, meaning), got
        assert "\n\nhint: " in str(got) or meaning is TimeoutError
    else:
        assert meaning(got), got
    if (verb, state) in THEN:
        assert case.m.wait(RUN) == THEN[verb, state]
    # What was set going has come to its exit: it ran.
    assert case.m.state == {"running": "paused"}.get(after, after or state)


def test_page_has_the_same_rows_columns_and_outcomes() -> None:
    text = PAGE.read_text().split("## What each verb does in each state")[1].split("\n\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[_words(cell) for cell in line.strip("| ").split(" | ")] for line in (lines[0], *lines[2:])]
    header, *rows = cells
    assert header == ["verb", *STATES]
    assert {name: dict(zip(header[1:], outcomes, strict=True)) for name, *outcomes in rows} == TABLE


def _words(cell: str) -> str:
    """A cell without marks and notes."""
    return re.sub(r"[`¹²³⁴-⁹⁰]", "", cell).strip()


@pytest.mark.parametrize("state", STATES)
def test_state_error_names_the_verb_and_the_state(boot: Any, state: str) -> None:
    case = STATES[state](boot)
    for verb in (
        "run",
        "start",
        "wait",
        "pause",
        "resume",
        "reset",
        "stop",
        "load",
        "attach",
        "snapshot",
        "restore",
        "fork",
    ):
        if TABLE[verb][state] == REFUSED:
            call = VERBS[verb]
            assert not isinstance(call, tuple)
            error = _call(call, case, on_another_thread=False)
            assert re.match(f"cannot {verb}: the machine is {state}\n\nhint: ", str(error)), error


def test_reset_of_a_running_machine_hints_at_pause(boot: Any) -> None:
    case = _running(boot)
    with pytest.raises(StateError, match=r"hint: pause\(\) it first"):
        case.m.reset()
    case.m.pause()
    case.m.reset()
    assert case.m.state == "created"
