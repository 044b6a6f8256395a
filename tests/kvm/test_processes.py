"""Machines and the process around them: signals, the interpreter's end, forks, limits. Each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from tests.scripts import LIMIT, ROOT, run, signalled

# Bound of the run loop's rule 5, and what a loaded machine may add to it.
BOUND, MARGIN = 0.1, 0.4


@pytest.mark.fault(33)
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_ctrl_c_during_a_run_raises_keyboard_interrupt_soon(guest: str, vcpus: int) -> None:
    """The process measures from the signal's arrival, so that its own end does not count."""
    status, out, errors, _ = signalled(
        f"""
        arrived = []
        def on_sigint(number, frame):
            arrived.append(time.monotonic())
            raise KeyboardInterrupt
        m = machine({guest}, vcpus={vcpus})
        sent = time.monotonic()
        signal.signal(signal.SIGINT, on_sigint)
        try:
            m.run()
        except KeyboardInterrupt as error:
            print("took", time.monotonic() - arrived[0], m.state, hasattr(error, "__notes__"))
        print(m.run(0.01))
        m.close()
        """,
        signal.SIGINT,
    )
    assert (status, errors) == (0, "")
    word, took, state, notes = out.splitlines()[0].split()
    assert (word, state, notes) == ("took", "paused", "False")
    assert float(took) < BOUND + MARGIN
    assert out.splitlines()[1] == "Exit.Timeout()"


@pytest.mark.fault(33)
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
def test_ctrl_c_reaches_the_handler_within_the_bound(guest: str) -> None:
    status, out, _, took = signalled(
        f"""
        with machine({guest}) as m:
            try:
                m.run()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        os._exit(3)
        """,
        signal.SIGINT,
    )
    assert (status, out) == (3, "interrupted\n")
    assert took < BOUND + MARGIN


@pytest.mark.fault(33)
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
def test_ctrl_c_beside_a_busy_python_thread_raises_keyboard_interrupt_soon(guest: str) -> None:
    """Its handler waits for that thread to let go of the interpreter."""
    status, out, errors, took = signalled(
        f"""
        def compute():
            while True:
                sum(range(1000))
        threading.Thread(target=compute, daemon=True).start()
        m = machine({guest})
        try:
            m.run()
        except KeyboardInterrupt:
            print(m.state, flush=True)
        os._exit(3)
        """,
        signal.SIGINT,
    )
    assert (status, out, errors) == (3, "paused\n", "")
    assert took < BOUND + 2 * MARGIN


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "verb", ["wait()", "wait(60)", 'console.expect("x")', 'console.expect("x", timeout=60)']
)
def test_ctrl_c_during_a_wait_raises_keyboard_interrupt_and_the_guest_runs_on(verb: str) -> None:
    status, out, errors, took = signalled(
        f"""
        with machine(LOOP) as m:
            try:
                m.start()
                m.{verb}
            except KeyboardInterrupt:
                print(m.state)
        """,
        signal.SIGINT,
    )
    assert (status, out, errors) == (0, "running\n", "")
    assert took < 2 * (BOUND + MARGIN)  # to the end of the process


@pytest.mark.fault(33)
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
@pytest.mark.parametrize("how", ["run()", "start(); m.wait()"])
def test_sigterm_during_a_run_ends_the_process(guest: str, how: str) -> None:
    status, _, errors, took = signalled(f"m = machine({guest}); m.{how}", signal.SIGTERM)
    assert (status, errors) == (-signal.SIGTERM, "")
    assert took < 1.0


@pytest.mark.fault(33)
@pytest.mark.parametrize("end", ["", "sys.exit(5)", "raise ZeroDivisionError", "m.stop()", "os._exit(0)"])
@pytest.mark.parametrize("guest", ["LOOP", "STORM"])
def test_interpreter_that_ends_with_vcpu_threads_alive_ends(guest: str, end: str) -> None:
    status, out, errors = run(
        f"""
        m = machine({guest}, vcpus=2)
        calls = []
        class Busy(hyperpy.Device):
            size = 1
            def read(self, offset, size):
                calls.append(1)
                return 0
        m.attach(Busy(), pio=0x99)
        reached = threading.Event()
        Ready.write = lambda *access: reached.set()
        m.start()
        assert reached.wait(10)
        {end}
        """
    )
    assert status == {"sys.exit(5)": 5, "raise ZeroDivisionError": 1}.get(end, 0)
    assert out == ""
    assert errors == "" or end == "raise ZeroDivisionError"


@pytest.mark.fault(33)
def test_interpreter_that_ends_inside_a_block_closes_the_machine() -> None:
    status, _out, errors = run(
        """
        with machine(LOOP) as m:
            m.start()
            sys.exit(7)
        """,
        "-X", "dev",
    )  # fmt: skip
    assert (status, errors) == (7, "")


@pytest.mark.fault(33)
def test_interpreter_that_ends_while_a_daemon_thread_runs_a_machine_ends() -> None:
    status, _, errors = run(
        """
        m = machine(STORM)
        reached = threading.Event()
        Ready.write = lambda *access: reached.set()
        def go():
            try:
                m.run()
            except StateError:
                pass
        threading.Thread(target=go, daemon=True).start()
        assert reached.wait(10)
        """
    )
    assert (status, errors) == (0, "")


@pytest.mark.fault(32, 33)
@pytest.mark.parametrize("machines", [1, 3])
@pytest.mark.parametrize(
    "held",
    [
        "never.acquire()",
        "while True: time.sleep(0.01)",
        "while True: pass",
    ],
)
def test_interpreter_that_ends_while_a_device_does_not_return_ends(machines: int, held: str) -> None:
    begin = time.monotonic()
    status, out, errors = run(
        f"""
        import atexit
        never = threading.Lock()
        never.acquire()
        reached = [threading.Event() for _ in range({machines})]
        class Stuck(hyperpy.Device):
            size = 1
            def __init__(self, reached):
                self.reached = reached
            def read(self, offset, size):
                self.reached.set()
                {held}
                return 0
        machines = []
        for event in reached:
            m = machine(STORM)
            machines.append(m)
            m.attach(Stuck(event), pio=0x99)
            Ready.write = lambda *access: None
            m.start()
        assert all(event.wait(10) for event in reached)
        atexit.register(print, "others are called too")
        sys.exit(3)
        """
    )
    assert (status, out, errors) == (3, "others are called too\n", "")
    assert time.monotonic() - begin < 5


@pytest.mark.fault(34)
def test_fork_with_a_live_machine_child_gets_state_errors_and_parent_goes_on() -> None:
    status, out, errors = run(
        """
        m = machine(STORM, vcpus=2)
        m.memory.write(0x4000, b"inherited")
        view = m.memory.view(0x4000, 9)
        line_holder = m.attach(hyperpy.Device(), pio=0x300, size=1, irq=5)
        engine = m.attach(type("Engine", (hyperpy.Device,), {"dma": True})(), pio=0x310, size=1)
        reached = threading.Event()
        Ready.write = lambda *access: reached.set()
        m.start()
        assert reached.wait(10)
        verbs = {
            "run": lambda: m.run(1), "start": m.start, "wait": lambda: m.wait(1), "stop": m.stop,
            "pause": m.pause, "resume": m.resume, "reset": m.reset,
            "regs": lambda: m.vcpus[0].regs.rax, "stats": lambda: m.stats, "map": lambda: m.map,
            "attach": lambda: m.attach(Ready(), pio=0x90), "detach": lambda: m.detach(line_holder),
            "pc": m.attach_pc, "unclaimed": lambda: setattr(m, "unclaimed", "ones"),
            "load": lambda: m.load(Flat(b"1")), "console": lambda: m.console.output,
            "send": lambda: m.console.send("x"), "expect": lambda: m.console.expect("x"),
            "read": lambda: m.memory.read(0x4000, 1), "write": lambda: m.memory.write(0x4000, b"lost"),
            "read into": lambda: m.memory.read_into(0x4000, bytearray(1)), "with": m.__enter__,
            "view": lambda: m.memory.view(0x4000, 1), "item": lambda: m.memory[0x4000:0x4001],
            "dma read": lambda: engine.memory.read(0x4000, 1), "dma write": lambda: engine.memory.write(0, b"lost"),
            "dma list": lambda: engine.memory.scatter([(0, 1)], b"x"), "dma int": lambda: engine.memory.read_int(0, 4),
            "move": lambda: m.move(engine, pio=0x320), "disable": lambda: m.disable(engine),
            "irq": lambda: line_holder.irq.pulse(), "answer": lambda: m.answer(Exit.Pio(0, 1, 1, False, 0), 1),
        }
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            for name, verb in verbs.items():
                try:
                    verb()
                except StateError as error:
                    assert "forked" in str(error), (name, error)
                else:
                    print("child may", name, flush=True)
            assert bytes(view) == b"inherited"
            assert m.state == "closed", m.state
            repr(m)
            m.close()
            del m
            print("child done", flush=True)
            sys.exit(6)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), m.state)
        assert m.memory.read(0x4000, 9) == b"inherited"
        m.stop("parent")
        print(m.wait(10))
        m.close()
        """
    )
    assert errors == ""
    assert out.splitlines() == [
        "child done",
        "6 running",
        "Exit.Stopped(vcpu=None, reason='parent', status=None)",
    ]
    assert status == 0


@pytest.mark.fault(34)
def test_fork_child_that_makes_its_own_machine_can_run_it() -> None:
    status, out, _ = run(
        """
        m = machine(LOOP)
        m.start()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with Machine(memory="1M") as own:
                own.load(Flat(b"\\xf4", mode="real"))
                print(own.run(5), flush=True)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        m.close()
        """
    )
    assert status == 0
    assert "Exit.Halt(vcpu=0)" in out


@pytest.mark.fault(38)
def test_address_space_exhausted_is_an_error_that_leaks_nothing() -> None:
    status, out, errors = run(
        """
        import resource
        Machine(memory="1M").close()
        before = sorted(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        for size in ["4G", "64G", "1T", "64T"]:
            try:
                Machine(memory=size)
            except MemoryError as error:
                print("hint: " in str(error))
        assert sorted(os.listdir("/proc/self/fd")) == before
        with Machine(memory="1M") as m:
            m.load(Flat(b"\\xf4", mode="real"))
            print(m.run(5))
        """
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["True"] * 4 + ["Exit.Halt(vcpu=0)"]


def test_threads_exhausted_at_start_is_an_error_and_the_machine_can_be_closed() -> None:
    status, out, errors = run(
        """
        def refuse(self):
            raise RuntimeError("can't start new thread")
        m = machine(LOOP, vcpus=2)
        start, threading.Thread.start = threading.Thread.start, refuse
        try:
            m.start()
        except RuntimeError as error:
            print(error, m.state)
        threading.Thread.start = start
        print(m.run(0.01))
        m.close()
        """
    )
    assert (status, errors) == (0, "")
    assert out.splitlines()[0] == "can't start new thread created"
    assert out.splitlines()[-1] == "Exit.Timeout()"


@pytest.mark.fault(32)
def test_last_reference_dropped_inside_a_callback_does_not_hang() -> None:
    status, out, errors = run(
        """
        import gc, warnings
        warnings.simplefilter("ignore")
        box = {}
        class Drops(hyperpy.Device):
            size = 1
            def write(self, offset, size, value):
                box.clear()
                gc.collect()
                print("dropped", flush=True)
                done.set()
        done = threading.Event()
        m = Machine(memory="1M", unclaimed="ones")
        m.load(Flat(LOOP, mode="real"))
        m.attach(Drops(), pio=0x80)
        box["machine"] = m
        m.start()
        del m
        assert done.wait(10)
        for thread in threading.enumerate():
            if thread.name.startswith("hyperpy"):
                thread.join(10)
        print([t.name for t in threading.enumerate() if t.name.startswith("hyperpy")])
        """
    )
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["dropped", "[]"]


@pytest.mark.fault(42)
def test_sink_that_nobody_reads_holds_up_neither_guest_nor_close() -> None:
    """A pipe that is full."""
    status, out, errors = run(
        """
        reader, writer = os.pipe()
        code = bytes([0xE6, 0xE9, 0xEB, 0xFC])  # again: out 0xe9, al; jmp again
        with Machine(memory="1M") as m:
            m.load(Flat(code, mode="real"))
            m.attach(hyperpy.DebugConsole(m.console), pio=0xE9)
            m.console.sink(writer)
            m.start()
            for _ in range(200):
                m.wait(0.1)
                if len(m.console.output_bytes) > 100_000:
                    break
            print(len(m.console.output_bytes) > 100_000)
        """
    )
    assert (status, out, errors) == (0, "True\n", "")


def test_import_starts_no_thread_sets_no_signal_and_prints_nothing() -> None:
    code = """
import signal, sys, threading
before = {number: signal.getsignal(number) for number in signal.valid_signals()}
masks = open("/proc/self/status").read()
import hyperpy
after = {number: signal.getsignal(number) for number in signal.valid_signals()}
caught = [line for line in open("/proc/self/status") if line.startswith("SigCgt")]
assert before == after
assert caught == [line + chr(10) for line in masks.splitlines() if line.startswith("SigCgt")]
assert threading.active_count() == 1
assert len(__import__("os").listdir("/proc/self/task")) == 1
heavy = {"numpy", "asyncio", "subprocess", "urllib.request", "http.client", "ssl", "multiprocessing", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
