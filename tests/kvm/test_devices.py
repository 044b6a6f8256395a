"""Devices in Python on KVM: every bus, width and offset, string I/O, pages, attaching and detaching, answers."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

import hyperpy
from hyperpy import BootError, Device, DeviceError, Exit, Firmware, GuestFault, Machine, StateError, Stop

pytestmark = pytest.mark.core

MMIO = 0xFE00_0000
RUN = 10.0


class Recorder(Device):
    """Keeps every access; reads give the bytes 0x11, 0x22, ... of its size."""

    size = 16
    pattern = 0x8877665544332211

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return self.pattern & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


class Plain:
    """No base class: read and write are all that is wanted."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def read(self, offset: int, size: int) -> int:
        return 0x5A

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append(value)


def test_device_without_base_class_on_ports_answers(boot: Any) -> None:
    m = boot("in al, 0x80\n out 0x80, al\n hlt")
    plain = m.attach(Plain(), pio=0x80, size=1)
    assert m.run(RUN) == Exit.Halt(0)
    assert plain.written == [0x5A]


def test_attach_any_device_returns_it(boot: Any) -> None:
    device = Recorder()
    assert boot().attach(device, pio=0x80) is device


WIDTHS = {1: "al", 2: "ax", 4: "eax", 8: "rax"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_read_of_every_size_gets_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov dx, 0x510\n in {WIDTHS[size]}, dx\n hlt")
    device = m.attach(Recorder(), pio=0x510)
    m.run(RUN)
    assert device.reads == [(0, size)]
    assert m.vcpus[0].regs.rax == Recorder.pattern & ((1 << 8 * size) - 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_write_of_every_size_gives_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov eax, 0x44332211\n mov dx, 0x513\n out dx, {WIDTHS[size]}\n hlt")
    device = m.attach(Recorder(), pio=0x510)
    m.run(RUN)
    assert device.writes == [(3, size, 0x44332211 & ((1 << 8 * size) - 1))]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_read_of_every_size_gets_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov rbx, {MMIO}\n xor eax, eax\n mov {WIDTHS[size]}, [rbx]\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO)
    m.run(RUN)
    assert device.reads == [(0, size)]
    assert m.vcpus[0].regs.rax == Recorder.pattern & ((1 << 8 * size) - 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_write_of_every_size_gives_its_bytes(boot: Any, size: int) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, 0x8877665544332211\n mov [rbx + 5], {WIDTHS[size]}\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO)
    m.run(RUN)
    assert device.writes == [(5, size, Recorder.pattern & ((1 << 8 * size) - 1))]


@pytest.mark.fault(13)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_access_at_every_offset_inside_is_claimed_and_over_the_end_is_not(boot: Any, size: int) -> None:
    """An access that leaves its region belongs to nobody."""
    m = boot(
        f"""
        mov rbx, {MMIO}
        mov ecx, 24
    again:
        mov [rbx], {WIDTHS[size]}
        mov rdx, [rbx + 0x100000]
        inc rbx
        dec ecx
        jnz again
        hlt""",
        "long",
        unclaimed="ones",
    )
    device = m.attach(Recorder(), mmio=MMIO)
    assert m.run(RUN) == Exit.Halt(0)
    assert [offset for offset, _, _ in device.writes] == list(range(16 - size + 1))


@pytest.mark.fault(13)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_pio_access_at_every_offset_inside_is_claimed_and_over_the_end_is_not(boot: Any, size: int) -> None:
    m = boot(
        f"mov dx, 0x500\n mov cx, 24\n again: in {WIDTHS[size]}, dx\n inc dx\n dec cx\n jnz again\n hlt",
        unclaimed="ones",
    )
    device = m.attach(Recorder(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert device.reads == [(offset, size) for offset in range(16 - size + 1)]


@pytest.mark.fault(13)
def test_mmio_access_across_two_devices_reaches_neither(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov eax, [rbx + 14]\n hlt", "long", unclaimed="ones")
    first, second = m.attach(Recorder(), mmio=MMIO), m.attach(Recorder(), mmio=MMIO + 16)
    m.run(RUN)
    assert (first.reads, second.reads, m.vcpus[0].regs.rax) == ([], [], 0xFFFFFFFF)


@pytest.mark.fault(13)
def test_mmio_access_across_a_page_comes_in_two_parts(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, 0x8877665544332211\n mov [rbx + 0xffd], rax\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO, size=0x2000)
    m.run(RUN)
    assert device.writes == [(0xFFD, 3, 0x332211), (0x1000, 5, 0x8877665544)]


def test_mmio_read_across_a_page_is_put_together(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, [rbx + 0xffd]\n hlt", "long")
    device = m.attach(Recorder(), mmio=MMIO, size=0x2000)
    m.run(RUN)
    assert device.reads == [(0xFFD, 3), (0x1000, 5)]
    assert m.vcpus[0].regs.rax == 0x5544332211332211


def test_string_output_of_words_gives_each_in_order(boot: Any) -> None:
    m = boot("mov si, 0x2000\n mov cx, 1500\n mov dx, 0x500\n cld\n rep outsw\n hlt")
    data = b"".join(i.to_bytes(2, "little") for i in range(1500))
    m.memory.write(0x2000, data)
    device = m.attach(Recorder(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert device.writes == [(0, 2, i) for i in range(1500)]


def test_string_input_of_bytes_fills_memory(boot: Any) -> None:
    class Counter(Device):
        size = 1
        count = 0

        def read(self, offset: int, size: int) -> int:
            self.count += 1
            return self.count & 0xFF

    m = boot("mov di, 0x2000\n mov cx, 600\n mov dx, 0x500\n cld\n rep insb\n hlt")
    m.attach(Counter(), pio=0x500)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.memory.read(0x2000, 600) == bytes((i + 1) & 0xFF for i in range(600))


def test_device_on_both_buses_gets_both_and_detaches_from_both(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n out 0x80, al\n mov [rbx], al\n hlt", "long")
    device = m.attach(m.attach(Recorder(), pio=0x80), mmio=MMIO)
    m.run(RUN)
    assert len(device.writes) == 2
    m.detach(device)
    assert [row for row in m.map.rows if row.space != "memory"] == []


@pytest.mark.fault(40)
def test_device_where_the_kernel_answers_is_refused_by_name(boot: Any) -> None:
    for place, size, told in (
        ({"pio": 0x20}, 1, "lies over 8259 (in the kernel) at 0x20: 0x20 + 0x1"),
        ({"mmio": 0xFEC0_0010}, 4, "lies over I/O APIC (in the kernel) at 0xfec00000"),
        ({"mmio": 0xFEFF_F000}, 1, "lies over pages that KVM keeps for itself at 0xfeffc000"),
    ):
        with Machine(memory="1M", irqchip=True) as m, pytest.raises(DeviceError, match=re.escape(told)):
            m.attach(Recorder(), size=size, **place)
    m = boot("hlt")
    with pytest.raises(ValueError, match="lies over pages that KVM keeps for itself"):
        m.memory.add(0xFEFF_C000, "4K")
    m.attach(Recorder(), pio=0x43)
    for wants in (lambda: m.attach(Recorder(), pio=0x80, irq=5), m.attach_pc):
        with pytest.raises(DeviceError, match="Recorder at 0x43 lies over pit"):
            wants()


@pytest.mark.fault(40)
def test_firmware_over_a_device_is_refused(boot: Any) -> None:
    m = boot("hlt")
    m.attach(Recorder(), mmio=0xFFFD_0000)
    with pytest.raises(BootError, match="lies over device Recorder at 0xfffd0000"):
        m.load(Firmware(bytes(0x3FFF0) + b"\xf4" * 16))


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ({}, TypeError, "one bus"),
        ({"pio": 0x80, "mmio": MMIO}, TypeError, "one bus"),
        ({"pio": "0x80"}, TypeError, "str"),
        ({"pio": 0x80, "size": 0}, DeviceError, "empty: 0x80"),
        ({"pio": 0x80, "size": -1}, DeviceError, "leaves the bus"),
        ({"pio": -1}, DeviceError, "leaves the bus: -0x1"),
        ({"pio": 0x10000}, DeviceError, "leaves the bus: 0x10000"),
        ({"pio": 0xFFF1}, DeviceError, "leaves the bus: 0xfff1"),
        ({"mmio": 2**64 - 8}, DeviceError, "leaves the bus"),
        ({"mmio": 2**64}, DeviceError, "leaves the bus"),
        ({"pio": 0x4F1}, DeviceError, "overlaps Recorder at 0x500: 0x4f1"),
        ({"pio": 0x50F}, DeviceError, "overlaps Recorder at 0x500: 0x50f"),
        ({"mmio": 0x1FFFFC}, DeviceError, "over memory ram"),
        ({"pio": 0x80, "irq": 24}, DeviceError, "no such interrupt line: 24"),
        ({"pio": 0x80, "irq": -1}, DeviceError, "no such interrupt line: -1"),
        ({"pio": 0x80, "irq": "5"}, TypeError, "str"),
    ],
)
def test_attach_at_a_wrong_place_is_refused(boot: Any, place: Any, error: type[Exception], says: str) -> None:
    m = boot()
    m.attach(Recorder(), pio=0x500)
    before = m.map
    device = Recorder()
    with pytest.raises(error, match=says):
        m.attach(device, **place)
    assert m.map == before
    assert device.irq is None


@pytest.mark.parametrize("thing", [object(), Recorder, 5, None, lambda offset, size: 0])
def test_attach_of_what_is_no_device_is_refused(boot: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match="hint:"):
        boot().attach(thing, pio=0x80, size=1)


def test_attach_without_a_size_says_how_to_give_one(boot: Any) -> None:
    with pytest.raises(TypeError, match="give size=BYTES"):
        boot().attach(Plain(), pio=0x80)


def test_attach_with_a_size_in_words_takes_it(boot: Any) -> None:
    m = boot()
    m.attach(Plain(), mmio=MMIO, size="4K")
    assert m.map.rows[-1].size == 4096


def test_attach_of_many_regions_keeps_all(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov [rbx + 16 * 4095 + 1], al\n hlt", "long")
    devices = [m.attach(Recorder(), mmio=MMIO + 16 * i) for i in range(4096)]
    m.run(RUN)
    assert devices[-1].writes == [(1, 1, 0)]


def test_detach_of_a_stranger_is_refused(boot: Any) -> None:
    with pytest.raises(DeviceError, match="not attached"):
        boot().detach(Recorder())


def test_detach_before_a_run_leaves_the_access_to_nobody(boot: Any) -> None:
    m = boot("in al, 0x80\n hlt")
    device = m.attach(Recorder(), pio=0x80)
    m.detach(device)
    assert m.run(RUN) == Exit.Pio(0, 0x80, 1, False, 0)
    m.attach(device, pio=0x80)


@pytest.mark.fault(17)
def test_detach_while_another_thread_runs_waits_until_the_device_is_left(boot: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Device):
        size = 1
        left = False

        def write(self, offset: int, size: int, value: int) -> None:
            inside.set()
            assert go_on.wait(RUN)
            self.left = True

    m = boot("out 0x80, al\n again: in al, 0x90\n jmp again", unclaimed="ones")
    slow = m.attach(Slow(), pio=0x80)
    m.start()
    assert inside.wait(RUN)
    detached = threading.Event()

    def detach() -> None:
        m.detach(slow)
        assert slow.left
        detached.set()

    thread = threading.Thread(target=detach)
    thread.start()
    assert not detached.is_set()
    go_on.set()
    assert detached.wait(RUN)
    thread.join()
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")


@pytest.mark.fault(17, 35)
def test_detach_of_one_device_by_two_threads_is_done_by_one(boot: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            inside.set()
            assert go_on.wait(RUN)

    m = boot("out 0x80, al\n hlt")
    slow = m.attach(Slow(), pio=0x80)
    m.start()
    assert inside.wait(RUN)
    refused: list[Exception] = []
    one_is_refused = threading.Event()

    def detach() -> None:
        try:
            m.detach(slow)  # the first one waits for the guest to leave it
        except Exception as error:
            refused.append(error)
            one_is_refused.set()

    threads = [threading.Thread(target=detach) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert one_is_refused.wait(RUN)
    go_on.set()
    for thread in threads:
        thread.join(RUN)
    assert [type(error) for error in refused] == [DeviceError]
    assert "hint: " in str(refused[0])
    assert m.wait(RUN) == Exit.Halt(0)
    m.attach(slow, pio=0x80)


@pytest.mark.fault(35)
@pytest.mark.parametrize("look", [lambda m: m.map, lambda m: m._listed()], ids=["map", "tables"])
def test_device_attached_while_another_thread_looks_disturbs_nobody(boot: Any, look: Any) -> None:
    """Here on the same thread: by a device that is asked for a fact while the list is gone through."""

    class Asked(Device):
        size = 1
        acpi_hid = "PNP0501"

        @property
        def irq_level(self) -> bool:
            m.attach(Recorder(), mmio=MMIO + 16 * len(m._attached))
            return False

    m = boot()
    m.attach(Asked(), pio=0x80, irq=5)
    m.attach(Recorder(), pio=0x90)
    look(m)
    assert len(m._attached) == 3


@pytest.mark.fault(17)
def test_detach_inside_its_own_callback_is_done_at_once(boot: Any) -> None:
    m = boot("out 0x80, al\n out 0x80, al\n hlt")

    class Once(Device):
        size = 1
        calls = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.calls += 1
            m.detach(self)

    once = m.attach(Once(), pio=0x80)
    assert m.run(RUN) == Exit.Pio(0, 0x80, 1, True, 0)
    assert once.calls == 1


@pytest.mark.fault(17)
def test_attach_inside_a_callback_takes_effect_at_the_next_access(boot: Any) -> None:
    m = boot("out 0x80, al\n out 0x90, al\n hlt")
    late = Recorder()

    class Opens(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            m.attach(late, pio=0x90)

    m.attach(Opens(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert late.writes == [(0, 1, 0)]


@pytest.mark.fault(17)
def test_device_that_moves_itself_in_its_own_callback_is_found_where_it_went(boot: Any) -> None:
    m = boot("mov al, 1\n out 0x80, al\n out 0x80, al\n mov al, 2\n out 0x90, al\n hlt", unclaimed="ones")

    class Moves(Device):
        size = 1

        def __init__(self) -> None:
            self.writes: list[int] = []

        def write(self, offset: int, size: int, value: int) -> None:
            self.writes.append(value)
            m.detach(self)
            m.attach(self, pio=0x90)

    moves = m.attach(Moves(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert moves.writes == [1, 2]
    assert [row.base for row in m.map.rows if row.space == "pio"] == [0x90]


def test_detach_of_the_last_reference_frees_the_device(boot: Any) -> None:
    import gc
    import weakref

    m = boot("out 0x80, al\n hlt")
    device = m.attach(Recorder(), pio=0x80)
    m.run(RUN)
    m.detach(device)
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None


def test_stop_from_a_write_ends_the_run_after_the_instruction(boot: Any) -> None:
    class Power(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Stop:
            return Stop(f"off {value:#x}")

    m = boot("mov al, 7\n out 0x80, al\n mov bl, 9\n hlt")
    m.attach(Power(), pio=0x80)
    assert m.run(RUN) == Exit.Stopped(0, "off 0x7")
    assert m.vcpus[0].regs.rip == 0x1004


def test_stop_with_a_reason_that_is_no_string_is_an_error(boot: Any) -> None:
    class Odd(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Stop:
            return Stop(5)  # type: ignore[arg-type]

    m = boot("out 0x80, al\n hlt")
    m.attach(Odd(), pio=0x80)
    with pytest.raises(TypeError, match="not a reason: 5"):
        m.run(RUN)


class _Index:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize("answer", [True, False, 0, 0xFF, _Index(0x42)])
def test_read_that_returns_a_number_that_fits_is_taken(boot: Any, answer: Any) -> None:
    m = boot("in al, 0x80\n hlt")
    m.attach(_Answers(answer), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == answer.__index__()


class _Answers(Device):
    size = 4

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read(self, offset: int, size: int) -> Any:
        return self.answer


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, DeviceError),
        ("7", DeviceError),
        (b"\x07", DeviceError),
        (-1, DeviceError),
        (0x100, DeviceError),
        (2**64, DeviceError),
        (2**4000, DeviceError),
        (1.0, DeviceError),
        ([], DeviceError),
        (_Index(ZeroDivisionError("in index")), ZeroDivisionError),
        (_Index(0x100), DeviceError),
        (_Index(-1), DeviceError),
        (_Index("7"), DeviceError),
    ],
    ids=repr,
)
def test_read_that_returns_something_unusable_is_an_error_and_the_guest_reads_ones(
    boot: Any, answer: Any, error: type[Exception]
) -> None:
    m = boot("xor eax, eax\n in al, 0x80\n hlt")
    m.attach(_Answers(answer), pio=0x80)
    with pytest.raises(error) as caught:
        m.run(RUN)
    assert any("_Answers: read of port 0x80, 1 bytes, vcpu 0" in note for note in caught.value.__notes__)
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFF


@pytest.mark.fault(31)
@pytest.mark.parametrize("answer", [0, True, "stop", Stop, StopIteration()], ids=repr)
def test_write_that_returns_something_else_is_an_error(boot: Any, answer: Any) -> None:
    class Odd(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> Any:
            return answer

    m = boot("out 0x80, al\n hlt")
    m.attach(Odd(), pio=0x80)
    with pytest.raises(DeviceError, match="write returned"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


VERBS = {
    "run": lambda m: m.run(1.0),
    "start": lambda m: m.start(),
    "wait": lambda m: m.wait(1.0),
    "pause": lambda m: m.pause(),
    "resume": lambda m: m.resume(),
    "reset": lambda m: m.reset(),
    "close": lambda m: m.close(),
    "answer": lambda m: m.answer(Exit.Pio(0, 0x99, 1, False, 0), 1),
    "load": lambda m: m.load(hyperpy.Flat(b"\xf4", mode="real")),
    "regs": lambda m: m.vcpus[0].regs.rax,
    "set regs": lambda m: m.vcpus[0].regs.update(rax=1),
    "sregs": lambda m: m.vcpus[0].sregs.cr0,
    "expect": lambda m: m.console.expect("x"),
    "interact": lambda m: m.console.interact(),
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("whose", ["its own", "another"])
def test_verb_that_waits_inside_a_callback_is_refused(boot: Any, verb: str, whose: str) -> None:
    m, other = boot("out 0x80, al\n hlt"), boot()
    target: Machine = m if whose == "its own" else other
    raised: list[Exception] = []

    class Calls(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            with pytest.raises(StateError) as caught:
                VERBS[verb](target)
            raised.append(caught.value)

    m.attach(Calls(), pio=0x80)
    assert m.run(RUN) == Exit.Halt(0)
    assert "inside a device callback" in str(raised[0])


@pytest.mark.fault(32)
def test_expect_of_a_console_of_no_machine_inside_a_callback_is_refused(boot: Any) -> None:
    console = hyperpy.Console()

    class Waits(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            console.expect("x")

    m = boot("out 0x80, al\n hlt")
    m.attach(hyperpy.DebugConsole(console), pio=0xE9)
    m.attach(Waits(), pio=0x80)
    with pytest.raises(StateError, match="cannot expect inside a device callback"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


def test_stop_inside_a_callback_is_a_request(boot: Any) -> None:
    m = boot("again: out 0x80, al\n jmp again")

    class Stops(Device):
        size = 1
        calls = 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.calls += 1
            m.stop("enough")

    device = m.attach(Stops(), pio=0x80)
    assert m.run(RUN) == Exit.Stopped(None, "enough")
    assert device.calls == 1


@pytest.mark.fault(32)
def test_device_that_recurses_for_ever_is_an_error(boot: Any) -> None:

    class Deep(Device):
        size = 1

        def read(self, offset: int, size: int) -> int:
            return self.read(offset, size)

    m = boot("in al, 0x80\n hlt")
    m.attach(Deep(), pio=0x80)
    with pytest.raises(RecursionError) as caught:
        m.run(RUN)
    assert "device Deep" in caught.value.__notes__[0]
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(14)
def test_unclaimed_policy_ones_reads_ones_and_drops_writes(boot: Any) -> None:
    m = boot("xor eax, eax\n out 0x99, al\n in ax, 0x99\n hlt", unclaimed="ones")
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFFFF
    assert m.stats.hits["unclaimed"] == 2


@pytest.mark.fault(14)
def test_unclaimed_policy_raise_raises_a_guest_fault_with_the_exit(boot: Any) -> None:
    m = boot("in al, 0x99\n hlt", unclaimed="raise")
    with pytest.raises(GuestFault) as caught:
        m.run(RUN)
    assert caught.value.exit == Exit.Pio(0, 0x99, 1, False, 0)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(14)
def test_unclaimed_policy_callable_is_asked(boot: Any) -> None:
    seen: list[object] = []

    def policy(exit_: Any) -> int | None:
        seen.append(exit_)
        return 0x42 if exit_.address == 0x99 else None

    m = boot("mov al, 3\n out 0x98, al\n in al, 0x99\n mov bl, al\n in al, 0x9a\n hlt", unclaimed=policy)
    assert m.unclaimed is policy
    assert m.run(RUN) == Exit.Halt(0)
    assert seen == [
        Exit.Pio(0, 0x98, 1, True, 3),
        Exit.Pio(0, 0x99, 1, False, 0),
        Exit.Pio(0, 0x9A, 1, False, 0),
    ]
    assert (m.vcpus[0].regs.rbx, m.vcpus[0].regs.rax) == (0x42, 0xFF)


def test_unclaimed_policy_callable_stops_the_machine_at_a_write(boot: Any) -> None:
    """As a device does. What else it returns for a write is for reads."""

    def policy(exit_: Any) -> Any:
        return Stop("enough") if exit_.address == 0x98 else 5

    m = boot("out 0x97, al\n out 0x98, al\n hlt", unclaimed=policy)
    assert m.run(RUN) == Exit.Stopped(0, "enough")
    assert m.state == "paused"
    assert m.run(RUN) == Exit.Halt(0)


def test_unclaimed_policy_callable_that_returns_stop_for_a_read_is_an_error(boot: Any) -> None:
    m = boot("in al, 0x98\n hlt", unclaimed=lambda exit_: Stop("enough"))
    with pytest.raises(DeviceError, match="read returned Stop"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(14)
def test_unclaimed_policy_callable_that_raises_pauses(boot: Any) -> None:
    def policy(exit_: object) -> int:
        raise LookupError("not mine")

    m = boot("in al, 0x99\n hlt", unclaimed=policy)
    with pytest.raises(LookupError, match="not mine"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize("policy", ["one", "", None, 5, []])
def test_unclaimed_policy_that_is_unknown_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        Machine(memory="1M", unclaimed=policy)


def test_answer_to_a_read_reaches_the_guest(boot: Any) -> None:
    m = boot(f"mov rbx, {MMIO}\n mov rax, [rbx]\n hlt", "long")
    exit_ = m.run(RUN)
    assert exit_ == Exit.Mmio(0, MMIO, 8, False, 0)
    m.answer(exit_, 2**64 - 2)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 2**64 - 2


def test_answer_given_twice_the_last_one_counts(boot: Any) -> None:
    m = boot("in al, 0x99\n hlt")
    exit_ = m.run(RUN)
    m.answer(exit_, 1)
    m.answer(exit_, 2)
    m.run(RUN)
    assert m.vcpus[0].regs.rax == 2


@pytest.mark.fault(14)
def test_answer_left_out_reads_ones(boot: Any) -> None:
    m = boot("xor eax, eax\n in al, 0x99\n hlt")
    m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0xFF


@pytest.mark.parametrize("value", [-1, 0x100, 2**64])
def test_answer_that_is_too_wide_is_refused(boot: Any, value: int) -> None:
    m = boot("in al, 0x99\n hlt")
    exit_ = m.run(RUN)
    with pytest.raises(ValueError, match="too wide for a read of 1 bytes"):
        m.answer(exit_, value)
    m.answer(exit_, 5)


def test_answer_to_a_write_is_refused(boot: Any) -> None:
    m = boot("out 0x99, al\n hlt")
    with pytest.raises(ValueError, match="is a write"):
        m.answer(m.run(RUN), 1)


def test_answer_after_the_vcpu_moved_on_is_refused(boot: Any) -> None:
    m = boot("in al, 0x99\n in al, 0x99\n hlt")
    first = m.run(RUN)
    second = m.run(RUN)
    with pytest.raises(StateError, match="moved on"):
        m.answer(first, 1)
    m.answer(second, 2)


@pytest.mark.parametrize("thing", [Exit.Halt(0), None, 5])
def test_answer_to_what_is_no_access_is_refused(boot: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match="not an access"):
        boot().answer(thing, 1)


def test_registers_written_at_a_pending_read_complete_it_first(boot: Any) -> None:
    """Rule 7: setting rip during a pending read would be lost."""
    m = boot("in al, 0x99\n mov bl, 1\n hlt\n elsewhere: mov bl, 2\n hlt")
    m.answer(m.run(RUN), 0x42)
    assert m.vcpus[0].regs.rip == 0x1000
    m.vcpus[0].regs.rip = 0x1005
    assert m.run(RUN) == Exit.Halt(0)
    assert (m.vcpus[0].regs.rax, m.vcpus[0].regs.rbx) == (0x42, 2)


def test_stats_of_each_rung_count_its_accesses(boot: Any) -> None:
    m = boot("out 0xe9, al\n out 0x80, al\n out 0x80, al\n out 0x99, al\n hlt", unclaimed="ones")
    m.attach(hyperpy.DebugConsole(m.console), pio=0xE9)
    m.attach(Recorder(), pio=0x80)
    m.run(RUN)
    stats = m.stats
    assert stats.hits == {"kernel": 0, "rust": 1, "register": 0, "python": 2, "unclaimed": 1}
    assert stats.exits == 5
    assert stats.memory_bytes > 0


def test_debug_exit_port_gives_the_status_of_qemu(boot: Any) -> None:
    m = boot("mov al, 0x21\n out 0xf4, al\n hlt")
    m.attach(hyperpy.DebugExit(), pio=0xF4)
    assert m.run(RUN) == Exit.Stopped(0, "debug exit", 0x43)
