"""Posted and streamed writes of guests: all of them arrive, in order, and most without an exit. Doorbells: test_doorbells."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.guests import START_OTHERS, Mode, assemble, interruptible
from tests.logging_devices import BOUND, GPA, PORT, RUN, Logger, wait_for

from hyperpy import Device, Exit, Fifo, FifoLevel, Machine, Register, Window

# Where a device moves to: another bit of its address.
OTHER = GPA + 0x1_0000


class Windowed(Logger):
    """The same in a second window."""

    control, lane = Window(0x1000), Window(0x10)
    switch = Register(control[0x0])
    data = Register(lane[0x0], access="wo", stream=True)
    tail = Register(lane[0x4], posted=True)
    sync = Register(lane[0x8])

    _data = data.on_write(Logger._data)
    _tail = tail.on_write(Logger._tail)
    _sync = sync.on_write(Logger._sync)


# Writes 1, 2, 3 ... to the register at ebx + {offset}, for ever.
COUNTING = "xor eax, eax\nagain:\n inc eax\n mov [ebx + {offset}], eax\n jmp again"


def attached(boot: Any, source: str, mode: Mode = "protected", **options: Any) -> tuple[Machine, Logger]:
    m = boot(f"mov ebx, {GPA:#x}\n{interruptible()}\n{source}", mode, **options)
    return m, m.attach(Logger(), mmio=GPA)


def exits(m: Machine) -> int:
    return m.stats.exits


@pytest.mark.core
@pytest.mark.parametrize("bus", ["pio", "mmio"])
def test_streamed_writes_arrive_in_order_before_the_next_exit_and_cost_few(boot: Any, bus: str) -> None:
    write, sync = (
        ("mov dx, 0x300; out dx, eax", "mov dx, 0x308; out dx, eax")
        if bus == "pio"
        else (f"mov [{GPA:#x}], eax", f"mov [{GPA + 8:#x}], eax")
    )
    m = boot(
        f"xor eax, eax; again: inc eax; {write}; cmp eax, 500; jb again; {sync}; {write}; hlt", "protected"
    )
    logger = m.attach(Logger(), **{bus: PORT if bus == "pio" else GPA})
    assert m.run(RUN) == Exit.Halt(0)
    assert logger.log == [*(("data", n) for n in range(1, 501)), ("sync", 500), ("data", 500)]
    assert m.stats.hits["kernel"] + m.stats.hits["python"] == 502
    assert exits(m) < 15


@pytest.mark.core
def test_posted_writes_are_exits_that_call_no_method_until_one_is_called(boot: Any) -> None:
    m, logger = attached(
        boot,
        "mov eax, 1; mov [ebx + 4], eax; inc eax; mov [ebx + 4], eax; mov ecx, [ebx + 4]; mov [ebx + 8], eax; hlt",
    )
    assert m.run(RUN) == Exit.Halt(0)
    assert logger.log == [("tail", 1), ("tail", 2), ("sync", 2)]
    assert m.vcpus[0].regs.rcx == 2
    assert (m.stats.hits["register"], m.stats.hits["python"]) == (3, 1)


@pytest.mark.parametrize("offset", [0, 4], ids=["stream", "posted"])
def test_write_is_told_at_the_tick_of_a_guest_that_makes_no_exit(boot: Any, offset: int) -> None:
    m, logger = attached(boot, f"mov dword ptr [ebx + {offset}], 7; again: jmp again")
    m.start()
    wait_for(logger, 1)
    m.stop()
    assert logger.values == [7]


@pytest.mark.parametrize("offset", [0, 4], ids=["stream", "posted"])
def test_pauses_lose_no_write_and_leave_none_to_come(boot: Any, offset: int) -> None:
    m, logger = attached(boot, COUNTING.format(offset=offset))
    for _ in range(20):
        m.start()
        wait_for(logger, len(logger.log) + 100)
        m.pause()
        told = m.vcpus[0].regs.rax
        assert logger.values in (list(range(1, told)), list(range(1, told + 1)))  # rax is one ahead, or not


@pytest.mark.parametrize("offset", [0, 4], ids=["stream", "posted"])
def test_detach_while_the_guest_writes_loses_none_and_what_comes_after_is_nobodys(
    boot: Any, offset: int
) -> None:
    rest: list[int] = []
    m, logger = attached(
        boot, COUNTING.format(offset=offset), unclaimed=lambda access: rest.append(access.value)
    )
    m.start()
    wait_for(logger, 1000)
    m.detach(logger)
    count = len(logger.log)
    until = time.monotonic() + RUN
    while not rest:
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.001)
    m.pause()
    assert logger.values == list(range(1, count + 1))
    assert rest == list(range(count + 1, count + len(rest) + 1))


def test_stream_in_a_second_window_is_in_the_ring_and_told_with_the_others(boot: Any) -> None:
    m = boot(
        f"xor eax, eax; again: inc eax; mov [{GPA:#x}], eax; cmp eax, 500; jb again; mov [{GPA + 4:#x}], eax;"
        f"mov [{GPA + 8:#x}], eax; hlt",
        "protected",
    )
    logger = m.attach(Windowed(), mmio={"control": OTHER, "lane": GPA})
    assert m.run(RUN) == Exit.Halt(0)
    assert logger.log == [*(("data", n) for n in range(1, 501)), ("tail", 500), ("sync", 500)]
    assert m.stats.hits["kernel"] + m.stats.hits["python"] == 501
    assert exits(m) < 15


@pytest.mark.parametrize("how", ["move", "disable"])
@pytest.mark.parametrize("windows", [False, True], ids=["whole", "window"])
@pytest.mark.parametrize("offset", [0, 4], ids=["stream", "posted"])
def test_device_that_changes_its_place_while_the_guest_writes_gets_each_write_there_once(
    boot: Any, offset: int, windows: bool, how: str
) -> None:
    # Fifty writes to one place, fifty to the other; what the device is not there for is somebody else's.
    source = f"""
        xor eax, eax
    again:
        mov ecx, 50
    burst:
        inc eax
        mov [ebx + {offset}], eax
        dec ecx
        jnz burst
        xor ebx, {GPA ^ OTHER:#x}
        jmp again
    """
    rest: list[int] = []
    m = boot(
        f"mov ebx, {GPA:#x}\n{interruptible()}\n{source}",
        "protected",
        unclaimed=lambda access: rest.append(access.value),
    )
    logger: Logger = Windowed() if windows else Logger()
    m.attach(logger, mmio={"lane": GPA} if windows else GPA)
    m.start()
    for turn in range(20):
        wait_for(logger, len(logger.log) + 100)
        if how == "disable":
            m.disable(logger)
            count = len(logger.log)
            until = time.monotonic() + RUN
            while len(rest) < 200 * (turn + 1):
                assert time.monotonic() < until, "nothing came"
                time.sleep(0.001)
            assert len(logger.log) == count, "none is told after it has gone"
            m.enable(logger)
        else:
            base = GPA if turn % 2 else OTHER
            m.move(logger, mmio={"lane": base} if windows else base)
    m.pause()
    written = m.vcpus[0].regs.rax
    assert logger.values == sorted(logger.values)
    everything = sorted(logger.values + rest)
    # The vcpu may stand between the addition and the write.
    assert everything in (list(range(1, written)), list(range(1, written + 1)))


@pytest.mark.parametrize("how", ["stop", "close", "reset"])
@pytest.mark.parametrize("offset", [0, 4], ids=["stream", "posted"])
def test_end_of_a_run_loses_no_write_and_leaves_none_to_come(boot: Any, how: str, offset: int) -> None:
    m, logger = attached(
        boot, f"xor eax, eax; again: inc eax; mov [ebx + {offset}], eax; mov [0x3000], eax; jmp again"
    )
    view = m.memory.view(0x3000, 4)  # outlives the machine
    m.start()
    wait_for(logger, 1000)
    if how == "close":
        m.close()
    else:
        m.stop()
        m.wait(RUN)
    written, count = int.from_bytes(view, "little"), len(logger.log)
    if how == "reset":
        m.reset()
    assert count - written in (0, 1)
    assert logger.values == list(range(1, count + 1))


def test_flood_of_streamed_writes_by_four_vcpus_is_stopped_in_time_and_each_ones_are_in_order(
    boot: Any,
) -> None:
    # Each takes a number for the upper byte of what it writes.
    write = (
        "mov eax, 0x1000000; lock xadd [0x3000], eax; again: inc eax; mov dx, 0x300; out dx, eax; jmp again"
    )
    m = boot(f"{START_OTHERS}; {interruptible()}; {write}", "protected", vcpus=4)
    other = f"xor ax, ax; mov ds, ax; {interruptible()}; {write}"
    m.memory.write(0x8000, assemble(other, "real", at=0x8000))
    logger = m.attach(Logger(), pio=PORT)
    m.start()
    wait_for(logger, 5000)
    began = time.monotonic()
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")
    assert time.monotonic() - began < BOUND
    seen: dict[int, list[int]] = {}
    for value in logger.values:
        seen.setdefault(value >> 24, []).append(value & 0xFF_FFFF)
    assert len(seen) == 4
    for values in seen.values():
        assert values == list(range(1, len(values) + 1))


# Of the second vcpu, in real mode: it writes to the stream, and says in memory how often.
STREAMING = """
    xor ax, ax
    mov ds, ax
    xor eax, eax
    mov dx, 0x300
again:
    inc eax
    out dx, eax
    mov [0x3000], eax
    jmp again
"""


class Remover(Device):
    """Waits in a callback until the other vcpu has written more to the stream, and then does something about it."""

    size = 4

    def __init__(self, machine: Machine, logger: Logger, how: str) -> None:
        self.machine, self.logger, self.how = machine, logger, how
        self.told: list[int] | None = None
        self.written = 0

    def _written(self) -> int:
        return int.from_bytes(self.machine.memory.read(0x3000, 4), "little")

    def write(self, offset: int, size: int, value: int, /) -> None:
        until, first = time.monotonic() + RUN, self._written()
        while self._written() < first + 20:
            assert time.monotonic() < until
        self.written = self._written()
        if self.how == "move":
            self.machine.move(self.logger, pio=PORT + 0x20)
        else:
            getattr(self.machine, self.how)(self.logger)
        self.told = list(self.logger.values)


@pytest.mark.fault(17)
@pytest.mark.parametrize("how", ["detach", "disable", "move"])
def test_stream_that_a_callback_takes_off_the_bus_is_told_of_all_that_was_written(
    boot: Any, how: str
) -> None:
    m = boot(
        f"{START_OTHERS}; {interruptible()}; mov dx, 0x310; out dx, eax; again: jmp again",
        "protected",
        vcpus=2,
        unclaimed="ones",
    )
    m.memory.write(0x8000, assemble(f"{interruptible()}\n{STREAMING}", "real", at=0x8000))
    logger = m.attach(Logger(), pio=PORT)
    remover = m.attach(Remover(m, logger, how), pio=0x310)
    m.start()
    until = time.monotonic() + RUN
    while remover.told is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    m.stop()
    assert remover.told[: remover.written] == list(range(1, remover.written + 1))
    assert logger.values == list(range(1, len(logger.values) + 1))
    if how != "move":
        # A callback does not wait: the other vcpu may have been about to make one more, as an exit.
        assert len(logger.values) - len(remover.told) in (0, 1)


class Typewriter(Device):
    """A queue whose items cost no exit, its level, and what is told when it is nearly full."""

    text = Fifo(0x0, depth=256, access="wo", stream=True, threshold=200)
    waiting = FifoLevel(0x4, text)
    loud = Fifo(0x8, depth=4, access="wo", width=4, stream=True)

    def __init__(self) -> None:
        self.log: list[int] = []

    @text.on_write
    def _text(self, item: int) -> None:
        while (item := self.text.pop()) is not None:  # type: ignore[assignment]
            self.log.append(item)

    @loud.on_write
    def _loud(self, item: int) -> None:
        assert self.loud.pop() == item
        self.log.append(item)


@pytest.mark.parametrize("count", [150, 1000])
def test_items_of_a_streamed_queue_cost_no_exit_and_are_in_it_before_the_guest_reads_how_many(
    boot: Any, count: int
) -> None:
    m = boot(
        f"mov ebx, {GPA:#x}; xor eax, eax; again: inc eax; mov [ebx], al; cmp eax, {count}; jb again; mov ecx, [ebx + 4]; hlt",
        "protected",
    )
    typed = m.attach(Typewriter(), mmio=GPA)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rcx == len(typed.text)
    assert [*typed.log, *typed.text] == [n & 0xFF for n in range(1, count + 1)]
    assert (typed.text.lost, len(typed.log) > 0) == (0, count > 200)
    assert exits(m) < 15 + count // 50


def test_streamed_queue_whose_method_is_told_of_all_gives_each_its_turn(boot: Any) -> None:
    m = boot(
        f"xor eax, eax; again: inc eax; mov [{GPA + 8:#x}], eax; cmp eax, 600; jb again; hlt", "protected"
    )
    typed = m.attach(Typewriter(), mmio=GPA)
    assert m.run(RUN) == Exit.Halt(0)
    assert (typed.log, typed.loud.lost) == ([*range(1, 601)], 0)
    assert typed.explain()["loud"].rung == "kernel"
